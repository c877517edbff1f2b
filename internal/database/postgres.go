package database

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"database/sql"
	"database/sql/driver"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"runtime/debug"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"
	"gorm.io/driver/postgres"
	"gorm.io/gorm"

	"github.com/banyan-go/banyan/internal/errs"
)

const maxAttempts = 6

type postgresEngine struct {
	db   *sql.DB
	base *gorm.DB
	cfg  *pgx.ConnConfig
	log  *slog.Logger
}

// Role is the name of the role that a module serves with; role names belong to the whole server, so the database
// is part of them.
func Role(database, module string) string { return database + "_" + module }

// Password of a role, derived so that replicas need to share one secret only.
func Password(secret, role string) string {
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write([]byte("banyan role " + role))
	return hex.EncodeToString(mac.Sum(nil))
}

func moduleConfig(cfg PostgresConfig, module string) (*pgx.ConnConfig, error) {
	c, err := pgx.ParseConfig(cfg.DSN)
	if err != nil {
		return nil, errors.New("database.postgres.dsn: cannot be read; give it as in postgres://127.0.0.1:5432/banyan")
	}
	c.User = Role(c.Database, module)
	c.Password = Password(cfg.Secret.Reveal(), c.User)
	c.RuntimeParams["search_path"] = module
	c.RuntimeParams["application_name"] = "banyan " + module
	c.RuntimeParams["timezone"] = "UTC"
	// A process that stands still must not keep a transaction open: it holds locks, and the relay counts on an end.
	c.RuntimeParams["idle_in_transaction_session_timeout"] = "20s"
	c.RuntimeParams["statement_timeout"] = "60s"
	if c.ConnectTimeout == 0 {
		c.ConnectTimeout = 5 * time.Second
	}
	return c, nil
}

func openPostgres(ctx context.Context, cfg PostgresConfig, module string, modules int, log *slog.Logger) (*DB, error) {
	c, err := moduleConfig(cfg, module)
	if err != nil {
		return nil, err
	}
	pool := sql.OpenDB(pipeliningConnector{stdlib.GetConnector(*c)})
	share := max(2, cfg.MaxConnections/max(1, modules))
	pool.SetMaxOpenConns(share)
	pool.SetMaxIdleConns(share)
	pool.SetConnMaxIdleTime(time.Minute)
	base, err := gorm.Open(postgres.New(postgres.Config{Conn: pool}), gormConfig(log))
	if err != nil {
		_ = pool.Close()
		return nil, err
	}
	reader, err := gorm.Open(postgres.New(postgres.Config{Conn: readPool{pool}}), gormConfig(log))
	if err != nil {
		_ = pool.Close()
		return nil, err
	}
	e := &postgresEngine{db: pool, base: base, cfg: c, log: log}
	if err := checkMigrated(ctx, pool, module); err != nil {
		_ = pool.Close()
		return nil, err
	}
	return &DB{name: module, dialect: Postgres, reader: reader, engine: e}, nil
}

func (e *postgresEngine) write(ctx context.Context, opts options, fn func(tx *gorm.DB) error) error {
	for attempt := 1; ; attempt++ {
		err, again := e.attempt(ctx, opts, fn)
		if err == nil || !again || attempt == maxAttempts {
			return err
		}
		if transientConnection(err) {
			renew(e.db)
		}
		pause := time.Duration(1+rand.IntN(4<<attempt)) * time.Millisecond
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return err
		}
	}
}

// attempt runs fn once. again says that nothing of it is in the database, or that it finds its own traces.
func (e *postgresEngine) attempt(ctx context.Context, opts options, fn func(tx *gorm.DB) error) (err error, again bool) {
	t, err := e.begin(ctx, opts.relaxed)
	if err != nil {
		return postgresError(ctx, err), transientConnection(err)
	}
	defer t.end()
	err = e.run(ctx, t, fn)
	if err != nil && t.expecting() {
		_, _ = t.send(ctx) // it may have failed because what it expects is not so
	}
	if t.failed != nil {
		err = t.failed // whatever was made of it
	}
	if err != nil {
		return postgresError(ctx, err), serialization(err) || (transientConnection(err) && ctx.Err() == nil)
	}
	if err := ctx.Err(); err != nil {
		return contextError(err), false
	}
	err = t.commit(ctx)
	switch {
	case err == nil:
		if opts.committed != nil {
			opts.committed()
		}
		return nil, false
	case t.failed != nil, refused(err):
		return postgresError(ctx, err), serialization(err)
	case errors.Is(err, pgx.ErrTxCommitRollback):
		return errs.New(errs.Internal, "the transaction was rolled back: %w", err), false
	case pgconn.SafeToRetry(err) || errors.Is(err, driver.ErrBadConn):
		return postgresError(ctx, err), true // it was never sent
	case opts.repeatable:
		return ErrOutcomeUnknown, true
	}
	e.log.WarnContext(ctx, "commit without an answer", "error", err)
	return ErrOutcomeUnknown, false
}

func (e *postgresEngine) run(ctx context.Context, t *transaction, fn func(tx *gorm.DB) error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			e.log.ErrorContext(ctx, "unit of work panicked", "panic", p, "stack", string(debug.Stack()))
			err = errs.New(errs.Internal, "internal error")
		}
	}()
	return fn(bind(e.base, ctx, t))
}

func (e *postgresEngine) ping(ctx context.Context) error { return e.db.PingContext(ctx) }

func (e *postgresEngine) close() error { return e.db.Close() }

// listen holds a connection of its own and dials again when it breaks; after each dial it wakes once, for what
// was said in between.
func (e *postgresEngine) listen(ctx context.Context, channel string, wake func(string)) error {
	for ctx.Err() == nil {
		err := e.listenOnce(ctx, channel, wake)
		if ctx.Err() != nil {
			return nil
		}
		e.log.Warn("notifications interrupted", "channel", channel, "error", err)
		select {
		case <-ctx.Done():
		case <-time.After(time.Second):
		}
	}
	return nil
}

func (e *postgresEngine) listenOnce(ctx context.Context, channel string, wake func(string)) error {
	c, err := pgx.ConnectConfig(ctx, e.cfg)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close(context.WithoutCancel(ctx)) }()
	if _, err := c.Exec(ctx, "LISTEN "+pgx.Identifier{channel}.Sanitize()); err != nil {
		return err
	}
	wake("")
	for {
		n, err := c.WaitForNotification(ctx)
		if err != nil {
			return err
		}
		wake(n.Payload)
	}
}

func serialization(err error) bool {
	var p *pgconn.PgError
	return errors.As(err, &p) && (p.Code == "40001" || p.Code == "40P01" || p.Code == "55P03")
}

// transientConnection: the connection or the server went away; it may be back in a moment.
func transientConnection(err error) bool {
	var p *pgconn.PgError
	if errors.As(err, &p) {
		return strings.HasPrefix(p.Code, "57P") || strings.HasPrefix(p.Code, "08") || p.Code == "53300"
	}
	var n net.Error
	var connect *pgconn.ConnectError
	return errors.As(err, &connect) || errors.As(err, &n) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) ||
		errors.Is(err, sql.ErrConnDone) || errors.Is(err, driver.ErrBadConn) || pgconn.SafeToRetry(err) || strings.Contains(err.Error(), "conn closed")
}

// Refused gives an error of a query outside of units of work the kind Unavailable, if the store only refuses it for now. A unit of
// work says so by itself.
func Refused(err error) error {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return postgresError(context.Background(), err)
}

// postgresError gives what the server refuses for now the kind Unavailable.
func postgresError(ctx context.Context, err error) error {
	var known *errs.Error
	if err == nil || errors.As(err, &known) {
		return err
	}
	if ctx.Err() != nil {
		return contextError(ctx.Err())
	}
	var p *pgconn.PgError
	if serialization(err) || transientConnection(err) || (errors.As(err, &p) && strings.HasPrefix(p.Code, "53")) {
		return errs.Wrap(errs.Unavailable, err, "the store is not available now").After(time.Second)
	}
	if errors.As(err, &p) && p.Code == "42501" {
		return fmt.Errorf("the database refuses: %w", err)
	}
	return err
}
