package guard

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/banyan-go/banyan/internal/database"
	"github.com/banyan-go/banyan/internal/databasetest"
	"github.com/banyan-go/banyan/internal/meter"
	"github.com/banyan-go/banyan/internal/module"
	"github.com/banyan-go/banyan/internal/ownership"
	"github.com/banyan-go/banyan/internal/telemetry"
	"github.com/banyan-go/banyan/internal/unit"
)

// registry keeps records in memory.
type registry struct {
	mu      sync.Mutex
	records map[string]ownership.Record
	moves   []ownership.Cause
}

func (r *registry) Read(context.Context) (ownership.Snapshot, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := ownership.Snapshot{Records: map[string]ownership.Record{}}
	for m, one := range r.records {
		s.Records[m] = one
	}
	return s, nil
}

func (r *registry) Move(_ context.Context, from, to ownership.Record, cause ownership.Cause) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.records[from.Module].Version != from.Version {
		return ownership.ErrMoved
	}
	to.Version++
	r.records[to.Module] = to
	r.moves = append(r.moves, cause)
	return nil
}

func (r *registry) Register(context.Context, ownership.Process) error               { return nil }
func (r *registry) Leave(context.Context, string) error                             { return nil }
func (r *registry) Watch(ctx context.Context, _ func()) error                       { <-ctx.Done(); return nil }
func (r *registry) Journal(context.Context, string, int) ([]ownership.Entry, error) { return nil, nil }

var names = []string{"orders", "payments", "users"}

func descriptors() []module.Descriptor {
	return []module.Descriptor{{Name: "orders", Sends: []string{"payments.charge.v1"}, Timers: []string{"checkout"}}, {Name: "payments", Timers: []string{"later"}}, {Name: "users", Timers: []string{"purge"}}}
}

type world struct {
	t        *testing.T
	g        *Guard
	stores   map[string]*unit.Store
	messages *telemetry.Messages
	now      time.Time
	changed  time.Time
	record   ownership.Record
	watch    *watch
}

func open(t *testing.T, e databasetest.Engine, cfg Config, o Options) *world {
	t.Helper()
	reg := prometheus.NewRegistry()
	w := &world{t: t, stores: map[string]*unit.Store{}, messages: telemetry.NewMessages(reg), changed: time.Now().UTC().Truncate(time.Millisecond)}
	for _, n := range names {
		w.stores[n] = unit.New(e.Store(t, n), unit.Options{Module: n})
	}
	o.Modules, o.Stores, o.Shared, o.Meter, o.Registry = descriptors(), w.stores, e.Dialect == database.Postgres, meter.New(reg, Metrics()...), reg
	w.g = New(cfg, o)
	w.now = w.changed.Add(time.Minute)
	w.g.now = func() time.Time { return w.now }
	w.record = ownership.Record{Module: "payments", Wish: ownership.Wish{Placement: ownership.Canary, Reads: 100}, Owner: ownership.Home, Epoch: 1, ChangedAt: w.changed}
	w.watch = w.g.watch(w.record)
	return w
}

func (w *world) exec(store, sql string, args ...any) {
	w.t.Helper()
	if err := w.stores[store].Do(w.t.Context(), func(_ context.Context, u *unit.Work) error { return u.DB.Exec(sql, args...).Error }); err != nil {
		w.t.Fatal(err)
	}
}

// sends puts a message on its way.
func (w *world) sends(from, to string, id int, at time.Time) {
	w.t.Helper()
	w.exec(from, "INSERT INTO outbox (id, message_id, name, key, sequence, correlation_id, causation_id, traceparent, subject, created_at, unsubscribed, payload) VALUES (?, ?, 'n', 'k', ?, '', '', '', '', ?, ?, ?)",
		id, fmt.Sprint("m", id), id, at, false, []byte("{}"))
	w.exec(from, "INSERT INTO delivery (subscriber, outbox_id) VALUES (?, ?)", to, id)
}

func (w *world) dies(store, key string, id int, at time.Time) {
	w.t.Helper()
	w.exec(store, "INSERT INTO dead_letters (id, position, handler, key, message_id, name, subject, message, reason, attempts, first_at, died_at) VALUES (?, 0, 'h', ?, ?, 'n', '', ?, '', 1, ?, ?)",
		fmt.Sprint(id), key, fmt.Sprint(id), []byte("{}"), at, at)
}

func (m Measures) told() string {
	var all []string
	for _, w := range m.Waiting {
		all = append(all, fmt.Sprintf("%s for %s", w.What, w.For.Round(time.Second)))
	}
	return strings.Join(all, "; ")
}

func TestMeasure(t *testing.T) {
	t.Parallel()
	databasetest.Each(t, names, func(t *testing.T, e databasetest.Engine) {
		w := open(t, e, DefaultConfig(), Options{})
		measure := func() Measures {
			t.Helper()
			m := w.g.measure(t.Context(), w.record, w.watch)
			if len(m.Unknown) > 0 {
				t.Errorf("not measured: %v", m.Unknown)
			}
			return m
		}
		before, after := w.changed.Add(-time.Second), w.changed.Add(20*time.Second)
		// Of others, or from before the change.
		w.sends("orders", "payments", 1, before)
		w.sends("orders", "users", 2, after)
		w.sends("users", "orders", 1, after)
		w.exec("users", "INSERT INTO parked_key (handler, key, next_at, attempt, first_at, delay_ms) VALUES ('h', 'orders/1', ?, 1, ?, 1)", w.now, after)
		w.exec("payments", "INSERT INTO parked_key (handler, key, next_at, attempt, first_at, delay_ms) VALUES ('h', 'orders/1', ?, 1, ?, 1)", w.now, before)
		w.exec("payments", "INSERT INTO parked_key (handler, key, next_at, attempt, first_at, delay_ms) VALUES ('h', 'orders/2', NULL, 1, ?, 1)", after)
		w.exec("payments", "INSERT INTO timers (kind, name, key, due_at, first_at, attempt, payload) VALUES ('effect', 'charge', '1', ?, ?, 0, ?)", w.now, after, []byte("{}"))
		w.exec("orders", "INSERT INTO timers (kind, name, key, due_at, first_at, attempt, payload) VALUES ('effect', 'charge', '1', ?, ?, 3, ?)", w.now, after, []byte("{}"))
		w.dies("payments", "orders/1", 1, before)
		w.dies("payments", "orders/2", 2, w.changed.Add(-time.Hour))
		w.dies("users", "orders/3", 3, after)
		if m := measure(); m.told() != "" || m.Dead != (Compared{0, 1}) {
			t.Errorf("what it has nothing to do with is counted: %s, %+v", m.told(), m.Dead)
		}
		w.sends("orders", "payments", 3, after)
		w.sends("orders", "payments", 4, after.Add(time.Second))
		w.sends("payments", "orders", 1, after.Add(2*time.Second))
		w.exec("payments", "INSERT INTO parked_key (handler, key, next_at, attempt, first_at, delay_ms) VALUES ('h', 'orders/3', ?, 1, ?, 1)", w.now, after.Add(3*time.Second))
		w.exec("users", "INSERT INTO parked_key (handler, key, next_at, attempt, first_at, delay_ms) VALUES ('h', 'payments/1', ?, 1, ?, 1)", w.now, after.Add(4*time.Second))
		w.exec("payments", "INSERT INTO timers (kind, name, key, due_at, first_at, attempt, payload) VALUES ('effect', 'charge', '2', ?, ?, 2, ?)", w.now, after.Add(5*time.Second), []byte("{}"))
		w.dies("payments", "orders/5", 5, after)
		w.dies("users", "payments/1", 6, after)
		m := measure()
		want := "message of orders to payments for 40s; message of payments to orders for 38s; retry in payments for 37s; retry in users for 36s; timer or effect of payments for 35s"
		if m.told() != want || m.Dead != (Compared{2, 1}) {
			t.Errorf("got %s, %+v\nwant %s", m.told(), m.Dead, want)
		}
		if e.Dialect == database.SQLite {
			// The other process has the file: what it holds is not to be had.
			w.record.Owner = ownership.Away
			if m := measure(); m.told() != "message of orders to payments for 40s; retry in users for 36s" {
				t.Errorf("without the store of the module: %s", m.told())
			}
		}
	})
}

func TestCounted(t *testing.T) {
	t.Parallel()
	w := open(t, databasetest.SQLite(t), DefaultConfig(), Options{})
	w.messages.Timers.WithLabelValues("orders", "checkout").Add(7)
	w.messages.Timers.WithLabelValues("orders", "other").Add(7)
	w.messages.Timers.WithLabelValues("users", "purge").Add(7)
	w.messages.Timers.WithLabelValues("payments", "later").Add(7)
	w.messages.Asked.WithLabelValues("payments", "payments.get.v1", "ok").Add(60)
	w.messages.Asked.WithLabelValues("payments", "payments.get.v1", "not_found").Add(20)
	w.messages.Asked.WithLabelValues("payments", "payments.get.v1", "timeout").Add(20)
	w.messages.Asked.WithLabelValues("orders", "orders.get.v1", "timeout").Add(20)
	m := w.g.measure(t.Context(), w.record, w.watch)
	if m.TimeOuts.Now != 7 || m.Asked != 100 || m.Failed != (Compared{.2, 0}) {
		t.Errorf("%+v", m)
	}
}

// A marker that does not come through tells how long the way is closed, and is sent once more after a while; one that does makes room for
// the next.
func TestProbe(t *testing.T) {
	t.Parallel()
	var sent []string
	refuse := false
	probe := func(_ context.Context, module, by, id string) error {
		if refuse {
			return context.DeadlineExceeded
		}
		sent = append(sent, module+" "+by+" "+id)
		return nil
	}
	w := open(t, databasetest.Postgres(t, names...), DefaultConfig(), Options{Probe: probe})
	look := func(after time.Duration) Measures {
		w.now = w.now.Add(after)
		return w.g.measure(t.Context(), w.record, w.watch)
	}
	look(time.Second)
	if len(sent) > 0 {
		t.Errorf("markers while the module is at home: %v", sent)
	}
	w.record.Wish, w.record.Owner = ownership.Wish{Placement: ownership.Remote}, ownership.Away
	w.watch = w.g.watch(w.record)
	refuse = true
	if m := look(time.Second); len(m.Unknown) != 1 {
		t.Errorf("a broker that takes nothing: %+v", m)
	}
	refuse = false
	if m := look(time.Second); m.told() != "way through the broker to payments for 1s" || len(sent) != 1 || !strings.HasPrefix(sent[0], "payments ~guard ") {
		t.Errorf("%s after %v", m.told(), sent)
	}
	if m := look(9 * time.Second); m.told() != "way through the broker to payments for 10s" || len(sent) != 1 {
		t.Errorf("%s after %v", m.told(), sent)
	}
	if m := look(time.Second); m.told() != "way through the broker to payments for 11s" || len(sent) != 2 || sent[0] != sent[1] {
		t.Errorf("%s after %v", m.told(), sent)
	}
	w.exec("payments", "INSERT INTO barrier (publisher, id) VALUES (?, ?)", publisher, strings.Fields(sent[0])[2])
	if m := look(time.Second); m.told() != "" || len(sent) != 3 || sent[2] == sent[1] {
		t.Errorf("%s after %v", m.told(), sent)
	}
	if m := look(2 * time.Second); m.told() != "way through the broker to payments for 2s" {
		t.Errorf("the marker before counts for the next one: %s", m.told())
	}
}

func TestConsider(t *testing.T) {
	t.Parallel()
	e := databasetest.SQLite(t)
	r := &registry{records: map[string]ownership.Record{}}
	owners, err := ownership.Open(t.Context(), r, ownership.Options{Modules: names, Shared: true})
	if err != nil {
		t.Fatal(err)
	}
	held := false
	w := open(t, e, DefaultConfig(), Options{Owners: owners, Held: func(string) bool { return held }})
	place := func(p ownership.Placement) ownership.Record {
		one := w.record
		one.Wish, one.Version = ownership.Wish{Placement: p}, r.records["payments"].Version+1
		r.records["payments"] = one
		return one
	}
	w.sends("orders", "payments", 1, w.changed.Add(time.Second))
	held = true
	w.g.consider(t.Context(), place(ownership.Shadow))
	if v := w.g.Verdicts()["payments"]; v.Action != Alarm || len(r.moves) > 0 {
		t.Errorf("held: %+v, %v", v, r.moves)
	}
	held = false
	seen := place(ownership.Shadow)
	r.records["payments"] = ownership.Record{Module: "payments", Wish: ownership.Wish{Placement: ownership.Canary, Reads: 1}, Version: 9, Epoch: 1}
	w.g.consider(t.Context(), seen)
	if len(r.moves) > 0 {
		t.Errorf("a decision on what somebody has changed meanwhile: %v", r.moves)
	}
	w.g.consider(t.Context(), place(ownership.Retired))
	if len(r.moves) > 0 || len(w.g.Verdicts()) > 0 {
		t.Errorf("retired: %v, %v", r.moves, w.g.Verdicts())
	}
	w.g.consider(t.Context(), place(ownership.Shadow))
	if len(r.moves) != 1 || r.moves[0].Caller != "gate" || !strings.HasPrefix(r.moves[0].Reason, "lag: ") || r.records["payments"].Placement != ownership.Local {
		t.Fatalf("%+v", r.moves)
	}
	if v, ok := r.moves[0].Evidence.(Verdict); !ok || !slices.Contains(v.Breaches, v.Reason) || v.Measures.told() == "" {
		t.Errorf("the evidence is %+v", r.moves[0].Evidence)
	}
	w.g.consider(t.Context(), r.records["payments"])
	if len(w.g.Verdicts()) > 0 {
		t.Errorf("at home it is watched: %v", w.g.Verdicts())
	}
	old := place(ownership.Shadow)
	old.ChangedAt = w.now.Add(-w.g.cfg.Watch)
	w.g.consider(t.Context(), old)
	if len(w.g.Verdicts()) > 0 || len(r.moves) != 1 {
		t.Errorf("what was moved long ago is watched: %v, %v", w.g.Verdicts(), r.moves)
	}
}
