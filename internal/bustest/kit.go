// Package bustest holds what the bus promises as one suite, which every engine and every transport must pass.
package bustest

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/banyan-go/banyan/internal/bus"
	"github.com/banyan-go/banyan/internal/bus/rabbit"
	"github.com/banyan-go/banyan/internal/clock"
	"github.com/banyan-go/banyan/internal/database"
	"github.com/banyan-go/banyan/internal/databasetest"
	"github.com/banyan-go/banyan/internal/message"
	"github.com/banyan-go/banyan/internal/module"
	"github.com/banyan-go/banyan/internal/secret"
	"github.com/banyan-go/banyan/internal/unit"
)

// Counted is an event of the test's publisher.
type Counted struct {
	ID string `json:"id"` // aggregate
	N  int    `json:"n"`
}

// Other is another event of the publisher, with the same keys.
type Other struct {
	ID string `json:"id"`
	N  int    `json:"n"`
}

// Add is a durable command.
type Add struct {
	ID string `json:"id"`
	N  int    `json:"n"`
}

// Sum is a query; Bump changes state and is answered at once.
type (
	Sum struct {
		ID string `json:"id"`
	}
	Bump struct {
		ID string `json:"id"`
	}
	Total struct {
		N    int      `json:"n"`
		Tags []string `json:"tags,omitempty"`
	}
)

func (Counted) MessageName() string { return "alpha.counted.v1" }
func (Other) MessageName() string   { return "alpha.other.v1" }
func (Add) MessageName() string     { return "beta.add.v1" }
func (Sum) MessageName() string     { return "beta.sum.v1" }
func (Bump) MessageName() string    { return "beta.bump.v1" }

func (c Counted) MessageKey() string { return c.ID }
func (c Other) MessageKey() string   { return c.ID }
func (c Add) MessageKey() string     { return c.ID }

// Seen is what a handler has noted, in the order in which it committed.
type Seen struct {
	Position  int64 `gorm:"primaryKey"`
	Handler   string
	Key       string
	N         int
	MessageID string
}

// TableName is the table of the kit's own migration.
func (Seen) TableName() string { return "seen" }

// World is a bus with three modules: alpha announces, beta and gamma listen and alpha commands beta.
type World struct {
	T     testing.TB
	Bus   *bus.Bus // of alpha and gamma, and of beta too unless it is apart
	Far   *bus.Bus // of beta
	Clock *clock.Simulated
	Alpha *unit.Store
	Beta  *unit.Store
	Gamma *unit.Store

	stores *database.Stores
	broker *rabbit.Broker // between Bus and Far; nil if they are one
	cancel context.CancelFunc
	done   chan error

	mu        sync.Mutex
	committed map[string]func()
	fail      map[string]func(n int) error // handler -> what to say to message n
}

// Modules of the kit; their migrations are made by the kit.
var Modules = []string{"alpha", "beta", "gamma"}

// Options change the world.
type Options struct {
	Config  func(*bus.Config)
	Handler func(*module.Subscription) // changes beta's subscription "count"
	Real    bool                       // the machine's clock
	Replica string
	Apart   string // URL of a RabbitMQ: beta has a bus of its own, as in another process; the engine must have the control store
}

// Open starts a world on an engine.
func Open(t testing.TB, e databasetest.Engine, o Options) *World {
	t.Helper()
	w := Prepare(t, e, o)
	w.Run()
	return w
}

// Prepare makes a world whose bus does not run yet.
func Prepare(t testing.TB, e databasetest.Engine, o Options) *World {
	t.Helper()
	w := &World{T: t, Clock: clock.NewSimulated(time.Date(2026, 3, 1, 9, 0, 0, 0, time.UTC)), fail: map[string]func(int) error{}}
	var now clock.Clock = w.Clock
	if o.Real {
		now = clock.System{}
	}
	log := slog.New(slog.DiscardHandler)
	if testing.Verbose() {
		log = slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn}))
	}
	stores, err := database.Open(e.Config, e.Dir, len(Modules), log)
	if err != nil {
		t.Fatal(err)
	}
	w.stores = stores
	cfg := bus.DefaultConfig()
	cfg.LeaseTTL = 600 * time.Millisecond
	if o.Config != nil {
		o.Config(&cfg)
	}
	count := module.Subscription{Handler: "count", Events: []string{"alpha.*"}}
	if o.Handler != nil {
		o.Handler(&count)
	}
	all := []module.Descriptor{
		{Name: "alpha", Contract: message.Contract{Module: "alpha", Events: []message.Event{Counted{}, Other{}}}, Sends: []string{"beta.add.v1"}},
		{Name: "beta", Subscriptions: []module.Subscription{count}, Timers: []string{"later"}, Effects: []string{"call"}, Contract: message.Contract{
			Module: "beta", Commands: []message.Command{Add{}}, Queries: []message.Exchange{{Query: Sum{}, Reply: Total{}}, {Query: Bump{}, Reply: Total{}}}}},
		{Name: "gamma", Subscriptions: []module.Subscription{{Handler: "watch", Events: []string{"alpha.counted.v1"}}}, Contract: message.Contract{Module: "gamma"}},
	}
	w.buses(cfg, bus.Options{Log: log, Replica: o.Replica}, o.Apart, all)
	for _, d := range all {
		db, err := stores.Store(t.Context(), d.Name)
		if err != nil {
			t.Fatal(err)
		}
		e.Table(t, db, "seen", "position INTEGER PRIMARY KEY, handler TEXT NOT NULL, key TEXT NOT NULL, n INTEGER NOT NULL, message_id TEXT NOT NULL")
		so := d.StoreOptions()
		so.Clock, so.Log = now, log
		s := unit.New(db, so)
		m := module.New(d)
		switch d.Name {
		case "alpha":
			w.Alpha = s
		case "beta":
			w.Beta = s
			module.OnAny(m, count.Handler, w.note(count.Handler))
			module.OnCommand(m, func(ctx context.Context, u *unit.Work, c Add) error { return w.keep(u, "add", c.ID, c.N, "") })
			module.OnQuery(m, func(ctx context.Context, q Sum) (Total, error) {
				if err := w.answer("sum", 0); err != nil {
					return Total{}, err
				}
				var n int
				return Total{N: n, Tags: []string{"a"}}, s.Read(ctx).Raw("SELECT coalesce(sum(n), 0) FROM seen WHERE key = ?", q.ID).Row().Scan(&n)
			})
			module.OnRequest(m, func(ctx context.Context, u *unit.Work, q Bump) (Total, error) {
				if err := w.keep(u, "bump", q.ID, 1, ""); err != nil {
					return Total{}, err
				}
				var n int
				if err := u.DB.Raw("SELECT count(*) FROM seen WHERE handler = 'bump' AND key = ?", q.ID).Row().Scan(&n); err != nil {
					return Total{}, err
				}
				return Total{N: n}, nil
			})
			module.OnTimer(m, "later", func(ctx context.Context, u *unit.Work, key string, n int) error {
				return w.keep(u, "later", key, n, "")
			})
			module.OnEffect(m, "call", func(ctx context.Context, key string, n int) error {
				if err := w.answer("call", n); err != nil {
					return err
				}
				return s.Do(ctx, func(_ context.Context, u *unit.Work) error {
					u.FinishEffect("call", key)
					return w.keep(u, "call", key, n, "")
				})
			})
		case "gamma":
			w.Gamma = s
			module.OnAny(m, "watch", w.note("watch"))
		}
		side := w.Bus
		if d.Name == "beta" {
			side = w.Far
		}
		if err := side.Add(m, s); err != nil {
			t.Fatal(err)
		}
	}
	for _, b := range w.sides() {
		if err := b.Open(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(w.Close)
	return w
}

// buses makes the bus, or the two with a broker between them.
func (w *World) buses(cfg bus.Config, o bus.Options, broker string, all []module.Descriptor) {
	w.T.Helper()
	if broker == "" {
		w.Bus = bus.New(cfg, o)
		w.Far = w.Bus
		return
	}
	cfg.RabbitMQ.URL = secret.Text(broker)
	control, err := w.stores.Store(w.T.Context(), database.Control)
	if err != nil {
		w.T.Fatal(err)
	}
	side := func(only string, foreign []module.Descriptor) (*bus.Bus, *rabbit.Broker) {
		b := connect(w.T, cfg.RabbitMQ, o.Log)
		if err := b.Declare(w.T.Context(), "beta"); err != nil {
			w.T.Fatal(err)
		}
		o := o
		o.Only, o.Foreign, o.Broker, o.Control = only, foreign, b, control
		return bus.New(cfg, o), b
	}
	beta := func(d module.Descriptor) bool { return d.Name == "beta" }
	w.Bus, w.broker = side("", slices.DeleteFunc(slices.Clone(all), func(d module.Descriptor) bool { return !beta(d) }))
	w.Far, _ = side("beta", slices.DeleteFunc(slices.Clone(all), beta))
}

// connect is a connection to RabbitMQ that lasts as long as the test.
func connect(t testing.TB, cfg rabbit.Config, log *slog.Logger) *rabbit.Broker {
	t.Helper()
	b, err := rabbit.New(cfg, rabbit.Options{Log: log})
	if err != nil {
		t.Fatal(err)
	}
	ctx, end := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- b.Run(ctx) }()
	t.Cleanup(func() {
		end()
		if err := <-done; err != nil {
			t.Errorf("broker: %v", err)
		}
	})
	return b
}

func (w *World) sides() []*bus.Bus {
	if w.Far == w.Bus {
		return []*bus.Bus{w.Bus}
	}
	return []*bus.Bus{w.Bus, w.Far}
}

// Run starts delivery and waits until it is ready.
func (w *World) Run() {
	w.T.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	g, gctx := errgroup.WithContext(ctx)
	for _, b := range w.sides() {
		g.Go(func() error { return b.Run(gctx) })
		w.Eventually("the bus runs", func() bool { _, ready := b.Status(ctx); return ready })
	}
	w.cancel, w.done = cancel, make(chan error, 1)
	go func() { w.done <- g.Wait() }()
}

// Close ends the world; it may be called again.
func (w *World) Close() {
	if w.cancel != nil {
		w.cancel()
		if err := <-w.done; err != nil {
			w.T.Errorf("bus: %v", err)
		}
		w.cancel = nil
	}
	if w.stores != nil {
		if err := w.stores.Close(); err != nil {
			w.T.Errorf("close: %v", err)
		}
		w.stores = nil
	}
}

// Fail makes a handler answer with what fn says; nil makes it well again.
func (w *World) Fail(handler string, fn func(n int) error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.fail[handler] = fn
}

func (w *World) answer(handler string, n int) error {
	w.mu.Lock()
	fn := w.fail[handler]
	w.mu.Unlock()
	if fn == nil {
		return nil
	}
	return fn(n)
}

func (w *World) note(handler string) module.MessageHandler {
	return func(_ context.Context, u *unit.Work, m message.Message) error {
		var c Counted
		if err := json.Unmarshal(m.Payload, &c); err != nil {
			return err
		}
		return w.keep(u, handler, m.Key, c.N, m.ID)
	}
}

func (w *World) keep(u *unit.Work, handler, key string, n int, id string) error {
	w.mu.Lock()
	fn, fails := w.committed[handler], w.fail[handler] != nil
	w.mu.Unlock()
	db := u.Later()
	if fails {
		db = u.DB // so that a failure has something to roll back
	}
	if err := db.Exec("INSERT INTO seen (handler, key, n, message_id) VALUES (?, ?, ?, ?)", handler, key, n, id).Error; err != nil {
		return err
	}
	if fn != nil {
		u.AfterCommit(fn)
	}
	return w.answer(handler, n)
}

// Committed calls fn after each commit of a handler.
func (w *World) Committed(handler string, fn func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.committed = map[string]func(){handler: fn}
}

// Publish announces Counted{key, n} for each n in one unit of work each.
func (w *World) Publish(key string, ns ...int) {
	w.T.Helper()
	for _, n := range ns {
		if err := w.Alpha.Do(context.Background(), func(_ context.Context, u *unit.Work) error {
			u.Publish(Counted{ID: key, N: n})
			return nil
		}); err != nil {
			w.T.Fatalf("publish: %v", err)
		}
	}
}

// Seen is what a handler of a store has committed for a key ("" for all), in order.
func (w *World) Seen(s *unit.Store, handler, key string) []int {
	w.T.Helper()
	var ns []int
	if err := s.Read(context.Background()).Raw("SELECT n FROM seen WHERE handler = ? AND (key = ? OR ? = '') ORDER BY position", handler, key, key).Scan(&ns).Error; err != nil {
		w.T.Fatal(err)
	}
	return ns
}

// Settle waits until nothing is on its way and nothing is due.
func (w *World) Settle() {
	w.T.Helper()
	idle := func() {
		w.Eventually("the bus settles", func() bool {
			for _, b := range w.sides() {
				if idle, err := b.Idle(context.Background()); err != nil || !idle {
					return false
				}
			}
			return true
		})
	}
	idle()
	if w.broker == nil {
		return
	}
	// What alpha has given to the broker has been handled when a marker behind it has come.
	id := message.NewID()
	if err := w.broker.Publisher().Barrier(context.Background(), "beta", "alpha", id); err != nil {
		w.T.Fatal(err)
	}
	w.Eventually("beta handles what the broker holds", func() bool {
		var came bool
		err := w.Beta.Read(context.Background()).Raw("SELECT EXISTS (SELECT 1 FROM barrier WHERE publisher = 'alpha' AND id = ?)", id).Row().Scan(&came)
		return err == nil && came
	})
	idle()
}

// Eventually waits for a condition.
func (w *World) Eventually(what string, ok func() bool) {
	w.T.Helper()
	for deadline := time.Now().Add(30 * time.Second); !ok(); {
		if time.Now().After(deadline) {
			w.T.Fatalf("%s: not within 30 s", what)
		}
		<-time.After(2 * time.Millisecond)
	}
}

// Range is from, from+1, … to.
func Range(from, to int) []int {
	var all []int
	for n := from; n <= to; n++ {
		all = append(all, n)
	}
	return all
}

// Key names the ith key.
func Key(i int) string { return fmt.Sprintf("key-%03d", i) }
