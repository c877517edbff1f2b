package bus_test

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/banyan-go/banyan/internal/bus"
	"github.com/banyan-go/banyan/internal/bustest"
	"github.com/banyan-go/banyan/internal/database"
	"github.com/banyan-go/banyan/internal/databasetest"
	"github.com/banyan-go/banyan/internal/message"
	"github.com/banyan-go/banyan/internal/module"
	"github.com/banyan-go/banyan/internal/ownership"
	"github.com/banyan-go/banyan/internal/unit"
)

// traveller is a shop of alpha and beta on SQLite, from which beta goes away with its file and comes home.
type traveller struct {
	*bustest.Stage
	engine   databasetest.Engine
	owners   *ownership.Owners
	registry *ownership.Store
	calls    atomic.Int32 // of beta's effect
}

func newTraveller(t *testing.T) *traveller {
	t.Helper()
	e := databasetest.SQLite(t)
	w := &traveller{engine: e, registry: ownership.NewStore(e.Store(t, database.Control))}
	beta := bustest.Listener("beta", module.Subscription{Handler: "count", Events: []string{"alpha.*"}}, func(_ context.Context, u *unit.Work, m message.Message) error {
		return bustest.Keep(u, "count", m.Key, bustest.Number(m))
	})
	bind := beta.Bind
	beta.Descriptor.Effects, beta.Descriptor.Schedules = []string{"call"}, []module.Schedule{{Name: "daily", Every: 24 * time.Hour}}
	beta.Bind = func(m *module.Module, s *unit.Store) {
		bind(m, s)
		module.OnEffect(m, "call", func(context.Context, string, int) error { w.calls.Add(1); return nil })
		module.OnSchedule(m, "daily", func(context.Context, *unit.Work, time.Time) error { return nil })
	}
	var err error
	if w.Stage, err = bustest.SetStage(t, e, bustest.StageOptions{Real: true}, bustest.Alpha(), beta); err != nil {
		t.Fatal(err)
	}
	w.owners = follow(t, w.Bus, w.registry, ownership.Options{Self: ownership.Process{ID: "home"}, Modules: []string{"alpha", "beta"}, TTL: time.Hour})
	w.Run()
	return w
}

func (w *traveller) move(change func(*ownership.Record)) {
	w.T.Helper()
	from := w.owners.Record("beta")
	to := from
	to.Version++
	change(&to)
	if err := w.registry.Move(w.T.Context(), from, to, ownership.Cause{Caller: "a test"}); err != nil {
		w.T.Fatal(err)
	}
	w.owners.Nudge()
}

// leave has the shop give the file up, for a process that does not come.
func (w *traveller) leave() {
	w.T.Helper()
	w.move(func(r *ownership.Record) { r.Placement, r.Step = ownership.Remote, ownership.Closing })
	w.Eventually("the file is given up", func() bool {
		return w.owners.Record("beta").Step == ownership.Opening && !w.Stores["beta"].DB().Taken()
	})
}

type row struct {
	sql  string
	args []any
}

// write is what another process does with the file, which has it for as long as that.
func (w *traveller) write(rows ...row) {
	w.T.Helper()
	var db *database.DB
	stores := w.engine.Open(w.T, 1)
	w.Eventually("another process has the file", func() (ok bool) {
		var err error
		db, err = stores.Store(w.T.Context(), "beta")
		return err == nil
	})
	if err := unit.New(db, unit.Options{Module: "beta"}).Do(w.T.Context(), func(_ context.Context, u *unit.Work) error {
		for _, r := range rows {
			if err := u.DB.Exec(r.sql, r.args...).Error; err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		w.T.Fatal(err)
	}
	if err := db.Release(); err != nil {
		w.T.Fatal(err)
	}
}

func (w *traveller) comeHome() {
	w.T.Helper()
	w.move(func(r *ownership.Record) {
		r.Placement, r.Owner, r.Epoch = ownership.Local, ownership.Home, r.Epoch+1
	})
}

// A newer version of the program has served a module, and what it has left is not known here: that waits for it, and the rest goes on.
func TestWhatANewerVersionLeft(t *testing.T) {
	t.Parallel()
	w := newTraveller(t)
	w.leave()
	now, later, payload := time.Now(), time.Now().Add(unit.EffectGrace), []byte("1")
	timer := func(kind, name string) row {
		return row{"INSERT INTO timers (kind, name, key, due_at, first_at, attempt, payload) VALUES (?, ?, 'a', ?, ?, 0, ?)", []any{kind, name, later, now, payload}}
	}
	w.write(
		timer(unit.KindTimer, "newer timer"), timer(unit.KindEffect, "newer effect"), timer(unit.KindEffect, "call"),
		row{"INSERT INTO parked_key (handler, key, next_at, attempt, first_at, delay_ms) VALUES ('newer handler', 'a', ?, 1, ?, 1)", []any{now, now}},
		row{`INSERT INTO outbox (message_id, name, key, sequence, correlation_id, causation_id, traceparent, subject, created_at, unsubscribed, payload)
			VALUES ('1', 'beta.newer.v1', 'a', 1, '', '', '', '', ?, FALSE, ?)`, []any{now, payload}},
		row{sql: "INSERT INTO delivery (subscriber, outbox_id) SELECT 'newer module', id FROM outbox"},
	)
	w.comeHome()
	w.Announce("alpha", bustest.Counted{ID: "a", N: 1})
	w.Eventually("messages are handled", func() bool { return len(w.Seen("beta", "count", "a")) == 1 })
	w.Eventually("an effect that was begun is taken up", func() bool { return w.calls.Load() == 1 })
	w.Eventually("the process follows", func() bool {
		list, _ := w.owners.Status()
		return len(list) == 2 && len(list[1].Waits) == 0
	})
	for table, left := range map[string]int{"timers WHERE name LIKE 'newer %'": 2, "parked_key": 1, "delivery": 1} {
		want(t, "rows left in "+table, w.Count("beta", "SELECT count(*) FROM "+table), left)
	}
}

// A store that cannot be taken into use does not stay with who tries: the file is free meanwhile, the status says why, and it goes on
// when the reason is gone.
func TestAStoreThatCannotBeOpened(t *testing.T) {
	t.Parallel()
	w := newTraveller(t)
	w.leave()
	w.write(row{sql: "CREATE TRIGGER full BEFORE INSERT ON timers BEGIN SELECT RAISE(ABORT, 'no room for timers'); END"})
	w.comeHome()
	w.Eventually("the status says why", func() bool {
		list, _ := w.owners.Status()
		return len(list) == 2 && strings.Contains(strings.Join(list[1].Waits, ";"), "no room for timers")
	})
	w.write(row{sql: "DROP TRIGGER full"})
	w.Announce("alpha", bustest.Counted{ID: "a", N: 1})
	w.Eventually("messages are handled", func() bool { return len(w.Seen("beta", "count", "a")) == 1 })
	w.Eventually("nothing is waited for", func() bool {
		list, _ := w.owners.Status()
		return len(list) == 2 && len(list[1].Waits) == 0
	})
}

// A process that begins with a module that is its own does not start when it has forgotten a name, also where another one has the file
// just now.
func TestAForgottenNameFailsTheStart(t *testing.T) {
	t.Parallel()
	w := newTraveller(t)
	w.leave()
	now := time.Now()
	w.write(row{"INSERT INTO parked_key (handler, key, next_at, attempt, first_at, delay_ms) VALUES ('forgotten', 'a', ?, 1, ?, 1)", []any{now, now}})
	stores := w.engine.Open(t, 2)
	standBy := func(name string) *database.DB {
		db, err := stores.StandBy(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		return db
	}
	owners, err := ownership.Open(t.Context(), ownership.NewStore(standBy(database.Control)), ownership.Options{
		Self: ownership.Process{ID: "away", Module: "beta"}, Modules: []string{"alpha", "beta"},
	})
	if err != nil {
		t.Fatal(err)
	}
	d := module.Descriptor{Name: "beta", Contract: message.Contract{Module: "beta"}}
	b := bus.New(bus.DefaultConfig(), bus.Options{Only: "beta"})
	b.Follow(owners)
	if err := b.Add(module.New(d), unit.New(standBy("beta"), d.StoreOptions())); err != nil {
		t.Fatal(err)
	}
	if err := b.Open(t.Context()); err == nil || !strings.Contains(err.Error(), `"forgotten"`) {
		t.Errorf("it starts, error %v", err)
	}
}

// A second handler of an event begins with what its version takes: what the version before has taken counts as handled. This says what
// is so, and docs/modules.md what to do where it matters.
func TestASecondHandlerBegins(t *testing.T) {
	each(t, func(t *testing.T, e databasetest.Engine) {
		version := func(handlers ...string) *bustest.Stage {
			beta := bustest.Part{Descriptor: module.Descriptor{Name: "beta", Contract: message.Contract{Module: "beta"}}}
			for _, h := range handlers {
				beta.Descriptor.Subscriptions = append(beta.Descriptor.Subscriptions, module.Subscription{Handler: h, Events: []string{"alpha.counted.v1"}})
			}
			beta.Bind = func(m *module.Module, _ *unit.Store) {
				for _, h := range handlers {
					module.OnAny(m, h, func(_ context.Context, u *unit.Work, m message.Message) error {
						return bustest.Keep(u, h, m.Key, bustest.Number(m))
					})
				}
			}
			return bustest.OpenStage(t, e, bustest.StageOptions{}, bustest.Alpha(), beta)
		}
		s := version("count")
		s.Announce("alpha", bustest.Counted{ID: "a", N: 1})
		s.Settle()
		s.Close()
		s = version("count", "watch")
		s.Announce("alpha", bustest.Counted{ID: "a", N: 2})
		s.Settle()
		want(t, "the old handler", s.Seen("beta", "count", "a"), []int{1, 2})
		want(t, "the new one", s.Seen("beta", "watch", "a"), []int{2})
	})
}
