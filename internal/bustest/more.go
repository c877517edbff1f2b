package bustest

import (
	"context"
	"encoding/json"
	"log/slog"
	"testing"
	"time"

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

// Part is a module of a test's own; Bind gives it its handlers.
type Part struct {
	Descriptor module.Descriptor
	Bind       func(m *module.Module, s *unit.Store)
}

// StageOptions change a stage.
type StageOptions struct {
	Config  func(*bus.Config)
	Replica string
	Clock   *clock.Simulated // nil: one of its own
	Real    bool             // the machine's clock
	Control bool             // with the control store, which the engine must have
	Broker  string           // where RabbitMQ is; empty for none
	Log     *slog.Logger     // nil: the test's, when it is verbose
}

// Stage is a bus with modules of a test's own. Each store has the table seen.
type Stage struct {
	T      testing.TB
	Bus    *bus.Bus
	Clock  *clock.Simulated
	Stores map[string]*unit.Store

	stores *database.Stores
	cancel context.CancelFunc
	done   chan error
}

// SetStage makes a bus that does not run yet; Run starts it. An error is that of the bus being opened.
func SetStage(t testing.TB, e databasetest.Engine, o StageOptions, parts ...Part) (*Stage, error) {
	t.Helper()
	s := &Stage{T: t, Clock: o.Clock, Stores: map[string]*unit.Store{}}
	if s.Clock == nil {
		s.Clock = clock.NewSimulated(time.Date(2026, 3, 1, 9, 0, 0, 0, time.UTC))
	}
	var now clock.Clock = s.Clock
	if o.Real {
		now = clock.System{}
	}
	log := slog.New(slog.DiscardHandler)
	if testing.Verbose() {
		log = slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn}))
	}
	if o.Log != nil {
		log = o.Log
	}
	stores, err := database.Open(e.Config, e.Dir, len(parts), log)
	if err != nil {
		t.Fatal(err)
	}
	s.stores = stores
	cfg := bus.DefaultConfig()
	cfg.LeaseTTL = 600 * time.Millisecond
	if o.Config != nil {
		o.Config(&cfg)
	}
	var broker *rabbit.Broker
	if o.Broker != "" {
		cfg.RabbitMQ.URL = secret.Text(o.Broker)
		broker = connect(t, cfg.RabbitMQ, log)
	}
	t.Cleanup(s.Close) // before the broker goes
	var control *database.DB
	if o.Control {
		if control, err = stores.Store(t.Context(), database.Control); err != nil {
			t.Fatal(err)
		}
		s.Stores[database.Control] = unit.New(control, unit.Options{Module: database.Control})
	}
	s.Bus = bus.New(cfg, bus.Options{Log: log, Replica: o.Replica, Control: control, Broker: broker})
	var contracts []message.Contract
	for _, p := range parts {
		contracts = append(contracts, p.Descriptor.Contract)
	}
	for _, p := range parts {
		db, err := stores.Store(t.Context(), p.Descriptor.Name)
		if err != nil {
			t.Fatal(err)
		}
		e.Table(t, db, "seen", "position INTEGER PRIMARY KEY, handler TEXT NOT NULL, key TEXT NOT NULL, n INTEGER NOT NULL, message_id TEXT NOT NULL")
		so := p.Descriptor.StoreOptions()
		so.Clock, so.Log, so.Personal = now, log, message.NewRedactor(contracts...)
		store := unit.New(db, so)
		m := module.New(p.Descriptor)
		if p.Bind != nil {
			p.Bind(m, store)
		}
		if err := s.Bus.Add(m, store); err != nil {
			t.Fatal(err)
		}
		s.Stores[p.Descriptor.Name] = store
	}
	return s, s.Bus.Open(t.Context())
}

// OpenStage starts a bus.
func OpenStage(t testing.TB, e databasetest.Engine, o StageOptions, parts ...Part) *Stage {
	t.Helper()
	s, err := SetStage(t, e, o, parts...)
	if err != nil {
		t.Fatal(err)
	}
	s.Run()
	return s
}

// Run starts delivery and waits until it is ready.
func (s *Stage) Run() {
	s.T.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	s.cancel, s.done = cancel, make(chan error, 1)
	go func() { s.done <- s.Bus.Run(ctx) }()
	s.Eventually("the bus runs", func() bool { _, ready := s.Bus.Status(ctx); return ready })
}

// Stop ends delivery; Run starts it again.
func (s *Stage) Stop() {
	s.T.Helper()
	if s.cancel == nil {
		return
	}
	s.cancel()
	if err := <-s.done; err != nil {
		s.T.Errorf("bus: %v", err)
	}
	s.cancel = nil
}

// Close ends the stage; it may be called again.
func (s *Stage) Close() {
	s.Stop()
	if s.stores != nil {
		if err := s.stores.Close(); err != nil {
			s.T.Errorf("close: %v", err)
		}
		s.stores = nil
	}
}

// Do is a unit of work of a module; an error fails the test.
func (s *Stage) Do(name string, fn func(u *unit.Work) error) {
	s.T.Helper()
	if err := s.Stores[name].Do(context.Background(), func(_ context.Context, u *unit.Work) error { return fn(u) }); err != nil {
		s.T.Fatal(err)
	}
}

// Announce publishes each event of a module in a unit of work of its own.
func (s *Stage) Announce(name string, events ...message.Event) {
	s.T.Helper()
	for _, e := range events {
		s.Do(name, func(u *unit.Work) error { u.Publish(e); return nil })
	}
}

// Keep notes what a handler has done in the same unit of work.
func Keep(u *unit.Work, handler, key string, n int) error {
	return u.DB.Exec("INSERT INTO seen (handler, key, n, message_id) VALUES (?, ?, ?, '')", handler, key, n).Error
}

// Seen is what a handler has kept for a key ("" for all), in order.
func (s *Stage) Seen(name, handler, key string) []int {
	s.T.Helper()
	ns := []int{}
	if err := s.Stores[name].Read(context.Background()).Raw("SELECT n FROM seen WHERE handler = ? AND (key = ? OR ? = '') ORDER BY position", handler, key, key).Scan(&ns).Error; err != nil {
		s.T.Fatal(err)
	}
	return ns
}

// Count is the one number that a query of a module's store gives.
func (s *Stage) Count(name, query string, args ...any) int {
	s.T.Helper()
	return Count(s.T, s.Stores[name], query, args...)
}

// Count is the one number that a query gives.
func Count(t testing.TB, s *unit.Store, query string, args ...any) int {
	t.Helper()
	var n int
	if err := s.Read(context.Background()).Raw(query, args...).Row().Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

// Settle waits until nothing is on its way and nothing is due.
func (s *Stage) Settle() {
	s.T.Helper()
	s.Eventually("the bus settles", func() bool {
		idle, err := s.Bus.Idle(context.Background())
		return err == nil && idle
	})
}

// Advance lets time pass.
func (s *Stage) Advance(d time.Duration) {
	s.T.Helper()
	s.Settle()
	s.Clock.Advance(d)
	s.Settle()
}

// Eventually waits for a condition.
func (s *Stage) Eventually(what string, ok func() bool) {
	s.T.Helper()
	Eventually(s.T, what, time.Minute, ok)
}

// Eventually waits for a condition, but not longer than within.
func Eventually(t testing.TB, what string, within time.Duration, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(within); !ok(); {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %s", what, within)
		}
		<-time.After(2 * time.Millisecond)
	}
}

// Alpha is the publisher of World, for stages.
func Alpha() Part {
	return Part{Descriptor: module.Descriptor{Name: "alpha", Contract: message.Contract{Module: "alpha", Events: []message.Event{Counted{}, Other{}}}}}
}

// Listener is a module with one subscription to alpha's Counted and Other events, handled by fn.
func Listener(name string, sub module.Subscription, fn module.MessageHandler) Part {
	return Part{
		Descriptor: module.Descriptor{Name: name, Subscriptions: []module.Subscription{sub}, Contract: message.Contract{Module: name}},
		Bind:       func(m *module.Module, _ *unit.Store) { module.OnAny(m, sub.Handler, fn) },
	}
}

// Stop ends delivery in a world; Run starts it again.
func (w *World) Stop() {
	w.T.Helper()
	if w.cancel == nil {
		return
	}
	w.cancel()
	if err := <-w.done; err != nil {
		w.T.Errorf("bus: %v", err)
	}
	w.cancel = nil
}

// Letters are the ids of beta's dead letters, oldest first.
func (w *World) Letters() []string { w.T.Helper(); return w.letters() }

// Number is the n in the payload of a message of alpha.
func Number(m message.Message) int {
	var c Counted
	if err := json.Unmarshal(m.Payload, &c); err != nil {
		return -1
	}
	return c.N
}
