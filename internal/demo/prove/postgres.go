package prove

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/banyan-go/banyan/internal/database"
	"github.com/banyan-go/banyan/internal/sandbox"
	"github.com/banyan-go/banyan/internal/secret"
)

// onPostgres is a shop on a fresh PostgreSQL database and RabbitMQ virtual host.
type onPostgres struct {
	o      Options
	only   string // the module that leaves
	dir    string
	guard  *guardian
	server *sandbox.Postgres
	broker broker
	name   string // of the database
	main   *process
	beside *process
	admin  *pgx.Conn
}

func newPostgres(o Options, module, dir string) *onPostgres {
	return &onPostgres{o: o, only: module, dir: dir}
}

func (t *onPostgres) describe() string {
	return "PostgreSQL and RabbitMQ (" + t.broker.describe() + "); the shop, and " + t.only + " in a second process of the same binary"
}
func (t *onPostgres) shop() *process   { return t.main }
func (t *onPostgres) module() *process { return t.beside }
func (t *onPostgres) data() string     { return filepath.Join(t.dir, "data") }

func (t *onPostgres) start(ctx context.Context) (err error) {
	if t.server, err = t.postgres(ctx); err != nil {
		return err
	}
	random := make([]byte, 5)
	_, _ = rand.Read(random) // never fails: see crypto/rand
	t.name = "prove" + hex.EncodeToString(random)
	if err := t.server.CreateDatabase(ctx, t.name); err != nil {
		return fmt.Errorf("postgres: %w", err)
	}
	if t.broker, err = openBroker(ctx, t.o, t.name); err != nil {
		return fmt.Errorf("rabbitmq: %w", err)
	}
	dsn := t.server.DSN(t.name)
	bare, err := url.Parse(dsn)
	if err != nil {
		return err
	}
	bare.User = nil
	cfg := database.DefaultConfig()
	cfg.Driver = string(database.Postgres)
	cfg.Postgres.DSN, cfg.Postgres.AdminDSN, cfg.Postgres.Secret = bare.String(), secret.Text(dsn), secret.Text(rand.Text())
	if err := database.Migrate(ctx, cfg.Postgres, t.o.names(), slog.New(slog.DiscardHandler)); err != nil {
		return err
	}
	if t.admin, err = pgx.Connect(ctx, dsn); err != nil {
		return err
	}
	if err := t.plantWitness(ctx); err != nil {
		return fmt.Errorf("witness: %w", err)
	}
	if t.guard, err = newGuardian(); err != nil {
		return err
	}
	if err := os.MkdirAll(t.data(), 0o700); err != nil {
		return err
	}
	env := slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "BANYAN_") })
	env = append(env,
		"BANYAN_ADMIN_PASSWORD="+t.o.password, "BANYAN_DATABASE_DRIVER=postgres", "BANYAN_DATABASE_POSTGRES_DSN="+bare.String(),
		"BANYAN_DATABASE_POSTGRES_SECRET="+cfg.Postgres.Secret.Reveal(), "BANYAN_BUS_RABBITMQ_URL="+t.broker.url(), "BANYAN_GATEWAY_ACCESS_LOG=false",
		// All clients come from one address and are few: limits made for many would only show themselves.
		"BANYAN_GATEWAY_RATE_CUSTOMER_PER_SECOND=0", "BANYAN_GATEWAY_RATE_ANONYMOUS_PER_SECOND=0", "BANYAN_GATEWAY_RATE_LOGIN_PER_SECOND=0")
	if t.main, err = t.process("shop", env); err != nil {
		return err
	}
	if t.beside, err = t.process(t.only, env, "--only", t.only); err != nil {
		return err
	}
	for _, p := range []*process{t.beside, t.main} { // whoever comes first waits for the other
		if err := p.start(); err != nil {
			return err
		}
	}
	return errors.Join(t.main.ready(ctx), t.beside.ready(ctx))
}

func (t *onPostgres) postgres(ctx context.Context) (*sandbox.Postgres, error) {
	if t.o.PostgresDSN != "" {
		s, err := sandbox.ConnectPostgres(ctx, t.o.PostgresDSN)
		if err != nil {
			return nil, fmt.Errorf("--postgres: %w", err)
		}
		return s, nil
	}
	s, err := sandbox.StartPostgres(sandbox.PostgresOptions{})
	if errors.Is(err, sandbox.ErrNoPostgres) {
		err = fmt.Errorf("%w, or name a running server with --postgres postgres://superuser:password@host:5432/postgres", err)
	}
	return s, err
}

func (t *onPostgres) process(name string, env []string, more ...string) (*process, error) {
	var addrs [2]string
	for i := range addrs {
		port, err := sandbox.FreePort()
		if err != nil {
			return nil, err
		}
		addrs[i] = net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	}
	return &process{
		name: name, binary: t.o.Binary, env: env, addr: addrs[0], admin: addrs[1], guard: t.guard, logPath: filepath.Join(t.dir, name+".log"),
		args: append([]string{"serve", "--data", t.data(), "--addr", addrs[0], "--admin-addr", addrs[1]}, more...),
	}, nil
}

func (t *onPostgres) close() error {
	var all []error
	for _, p := range []*process{t.main, t.beside} {
		if p != nil {
			all = append(all, p.kill())
		}
	}
	if t.guard != nil {
		all = append(all, t.guard.close())
	}
	ctx, cancel := context.WithTimeout(context.Background(), readyWithin)
	defer cancel()
	if t.admin != nil {
		_ = t.admin.Close(ctx)
	}
	if t.broker != nil {
		all = append(all, t.broker.close())
	}
	if t.server != nil {
		if t.o.PostgresDSN != "" && t.name != "" {
			all = append(all, t.server.DropDatabase(ctx, t.name))
		}
		all = append(all, t.server.Close())
	}
	return errors.Join(all...)
}

func (t *onPostgres) faults() []fault {
	kill := func(name string, p func() *process) fault {
		return fault{name: name, kills: true, cause: func(ctx context.Context, pause func()) error {
			if err := p().kill(); err != nil {
				return err
			}
			pause()
			if err := p().start(); err != nil {
				return err
			}
			return p().ready(ctx)
		}}
	}
	return append([]fault{
		kill("kill -9 of the shop", t.shop), kill("kill -9 of "+t.only, t.module),
		{name: "PostgreSQL sessions terminated", cause: func(ctx context.Context, _ func()) error {
			_, err := t.admin.Exec(ctx, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()")
			return err
		}},
	}, t.broker.faults()...)
}

// The witness writes down, within the transactions of the modules, what they owe each other and what they take. It is the database's:
// the modules know nothing of it, and a transaction that is rolled back leaves no word.
const witness = `
CREATE SCHEMA witness;
CREATE TABLE witness.sent (publisher TEXT NOT NULL, outbox_id BIGINT NOT NULL, message_id TEXT NOT NULL, name TEXT NOT NULL, key TEXT NOT NULL, sequence BIGINT NOT NULL, at TIMESTAMPTZ NOT NULL);
CREATE TABLE witness.owed (publisher TEXT NOT NULL, outbox_id BIGINT NOT NULL, subscriber TEXT NOT NULL);
CREATE TABLE witness.taken (serial BIGINT GENERATED ALWAYS AS IDENTITY, module TEXT NOT NULL, handler TEXT NOT NULL, message_id TEXT NOT NULL, what TEXT NOT NULL, at TIMESTAMPTZ NOT NULL);
CREATE FUNCTION witness.saw_sent() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN
	INSERT INTO witness.sent SELECT TG_TABLE_SCHEMA, id, message_id, name, key, sequence, clock_timestamp() FROM fresh; RETURN NULL; END $$;
CREATE FUNCTION witness.saw_owed() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN
	INSERT INTO witness.owed SELECT TG_TABLE_SCHEMA, outbox_id, subscriber FROM fresh; RETURN NULL; END $$;
CREATE FUNCTION witness.saw_taken() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN
	INSERT INTO witness.taken (module, handler, message_id, what, at) SELECT TG_TABLE_SCHEMA, handler, message_id, TG_ARGV[0], clock_timestamp() FROM fresh; RETURN NULL; END $$;`

// watched are the tables of a module that the witness looks at.
const watched = `
CREATE TRIGGER witness AFTER INSERT ON %[1]s.outbox REFERENCING NEW TABLE AS fresh FOR EACH STATEMENT EXECUTE FUNCTION witness.saw_sent();
CREATE TRIGGER witness AFTER INSERT ON %[1]s.delivery REFERENCING NEW TABLE AS fresh FOR EACH STATEMENT EXECUTE FUNCTION witness.saw_owed();
CREATE TRIGGER witness AFTER INSERT ON %[1]s.inbox REFERENCING NEW TABLE AS fresh FOR EACH STATEMENT EXECUTE FUNCTION witness.saw_taken('taken');
CREATE TRIGGER witness AFTER INSERT ON %[1]s.parked REFERENCING NEW TABLE AS fresh FOR EACH STATEMENT EXECUTE FUNCTION witness.saw_taken('parked');
CREATE TRIGGER witness_unparked AFTER DELETE ON %[1]s.parked REFERENCING OLD TABLE AS fresh FOR EACH STATEMENT EXECUTE FUNCTION witness.saw_taken('unparked');`

func (t *onPostgres) plantWitness(ctx context.Context) error {
	sql := witness
	for _, m := range t.o.names() {
		sql += fmt.Sprintf(watched, pgx.Identifier{m}.Sanitize())
	}
	_, err := t.admin.Exec(ctx, sql)
	return err
}

func (t *onPostgres) testimony(ctx context.Context) (Testimony, error) {
	var s Testimony
	var err error
	if s.Owed, err = query[Owed](ctx, t.admin, `SELECT s.publisher, o.subscriber, s.message_id, s.name, s.key, s.sequence, s.at
		FROM witness.owed o JOIN witness.sent s USING (publisher, outbox_id)`); err != nil {
		return s, err
	}
	// A message that was parked counts from when its handler has taken it at last.
	if s.Taken, err = query[Taken](ctx, t.admin, `SELECT serial, module, handler, message_id, at FROM witness.taken t WHERE what = 'unparked' OR what = 'taken' AND NOT EXISTS (
		SELECT 1 FROM witness.taken p WHERE p.what = 'parked' AND (p.module, p.handler, p.message_id) = (t.module, t.handler, t.message_id))`); err != nil {
		return s, err
	}
	for _, m := range t.o.names() {
		dead, err := query[struct{ What string }](ctx, t.admin, fmt.Sprintf("SELECT '%s/' || handler || ' ' || name || ' ' || key || ': ' || reason FROM %s.dead_letters", m, m))
		if err != nil {
			return s, err
		}
		for _, d := range dead {
			s.Dead = append(s.Dead, d.What)
		}
	}
	return s, nil
}

func (t *onPostgres) busy(ctx context.Context) (string, error) {
	var all []string
	for _, m := range t.o.names() {
		var deliveries, parked, effects int64
		err := t.admin.QueryRow(ctx, fmt.Sprintf("SELECT (SELECT count(*) FROM %[1]s.delivery), (SELECT count(*) FROM %[1]s.parked), (SELECT count(*) FROM %[1]s.timers WHERE kind = 'effect')", m)).
			Scan(&deliveries, &parked, &effects)
		if err != nil {
			return "", err
		}
		for _, x := range []struct {
			n    int64
			what string
		}{{deliveries, "deliveries"}, {parked, "parked messages"}, {effects, "effects"}} {
			if x.n > 0 {
				all = append(all, fmt.Sprintf("%d %s of %s", x.n, x.what, m))
			}
		}
	}
	return strings.Join(all, ", "), nil
}

func query[T any](ctx context.Context, c *pgx.Conn, sql string) ([]T, error) {
	rows, err := c.Query(ctx, sql)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowToStructByPos[T])
}

// into reads rows into a list.
func into[T any](ctx context.Context, c *pgx.Conn, list *[]T, sql string) error {
	var err error
	if *list, err = query[T](ctx, c, sql); err != nil {
		return fmt.Errorf("%s: %w", strings.Join(strings.Fields(sql)[:min(12, len(strings.Fields(sql)))], " "), err)
	}
	return nil
}

func (t *onPostgres) rows(ctx context.Context, b *Books) error {
	c := t.admin
	var orders []struct {
		ID, Reference, Customer, Status, Personal                                  string
		Total, Refunded, Units, ReturnedUnits, OpenReturns, Version, StreamVersion int64
	}
	var events []struct {
		Order, Kind string
		Version     int64
		At          time.Time
	}
	err := errors.Join(
		into(ctx, c, &orders, `SELECT s.order_id, s.reference, s.customer_id, coalesce(v.status, ''), coalesce(v.personal, ''), coalesce(v.total, 0), coalesce(v.refunded, 0), coalesce(v.units, 0),
			coalesce(v.returned_units, 0), coalesce(v.open_returns, 0), coalesce(v.version, 0), s.version FROM orders.stream s LEFT JOIN orders.order_view v USING (order_id) ORDER BY order_id`),
		into(ctx, c, &events, `SELECT order_id, type, version, at FROM orders.event ORDER BY order_id, version`),
		into(ctx, c, &b.Returns, `SELECT return_id, order_id, refund, refunded, refund_refused, restocked FROM orders.return_view`),
		into(ctx, c, &b.Payments, `SELECT id, order_id, state, amount, captured, refunded, refunding FROM payments.payments`),
		into(ctx, c, &b.Entries, `SELECT transaction_id, min(payment_id), min(kind), sum(amount)::bigint, coalesce(sum(amount) FILTER (WHERE account = 'shop_clearing'), 0)::bigint FROM payments.entries GROUP BY 1`),
		into(ctx, c, &b.Reservations, `SELECT order_id, state FROM inventory.reservations`),
		into(ctx, c, &b.Stock, `SELECT sku, on_hand, reserved FROM inventory.stock`),
		into(ctx, c, &b.Movements, `SELECT sku, reason, ref, sum(delta)::bigint, count(*) FROM inventory.movements GROUP BY 1, 2, 3`),
		into(ctx, c, &b.Shipments, `SELECT order_id, state, street FROM shipping.shipments`),
		into(ctx, c, &b.Notifications, `SELECT id, user_id, kind, state, coalesce(data::jsonb ->> 'order', '') FROM notifications.notifications`),
		into(ctx, c, &b.Recipients, `SELECT id, name, email FROM notifications.recipients`),
		into(ctx, c, &b.Users, `SELECT id, name, email FROM users.users`),
		into(ctx, c, &b.Products, `SELECT sku, price_amount, version FROM catalog.products`),
		into(ctx, c, &b.Copies, `SELECT 'carts', sku, price_amount, version FROM carts.products UNION ALL SELECT 'orders', sku, amount, version FROM orders.price`),
		into(ctx, c, &b.Carts, `SELECT customer_id, sku, quantity FROM carts.cart_lines`),
	)
	if err != nil {
		return err
	}
	at := map[string]int{}
	for _, o := range orders {
		at[o.ID] = len(b.Orders)
		b.Orders = append(b.Orders, OrderBook{
			ID: o.ID, Reference: o.Reference, Customer: o.Customer, Status: o.Status, Personal: o.Personal, Total: o.Total, Refunded: o.Refunded, Units: o.Units,
			ReturnedUnits: o.ReturnedUnits, OpenReturns: o.OpenReturns, Version: o.Version, StreamVersion: o.StreamVersion,
		})
	}
	placed := map[string]time.Time{}
	for _, e := range events {
		i, ok := at[e.Order]
		if !ok {
			return fmt.Errorf("orders: event %d of %s has no stream", e.Version, e.Order)
		}
		o := &b.Orders[i]
		o.Events, o.Versions = append(o.Events, e.Kind), append(o.Versions, e.Version)
		switch e.Kind {
		case "placed":
			placed[e.Order] = e.At
		case "confirmed", "rejection_begun", "rejected", "cancellation_begun":
			if o.Waited == 0 {
				o.Waited = e.At.Sub(placed[e.Order])
			}
		}
	}
	return nil
}

// markOf is the reference that a client has put into the address of an order.
func markOf(personal string) string {
	var p struct {
		Address struct {
			Street string `json:"street"`
		} `json:"address"`
	}
	if json.Unmarshal([]byte(personal), &p) != nil {
		return ""
	}
	return p.Address.Street
}
