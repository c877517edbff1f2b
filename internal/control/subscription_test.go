package control_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/banyan-go/banyan/internal/clock"
	"github.com/banyan-go/banyan/internal/control"
	"github.com/banyan-go/banyan/internal/database"
	"github.com/banyan-go/banyan/internal/databasetest"
	"github.com/banyan-go/banyan/internal/unit"
)

type subscriptions = map[string][]string

// Versions of the program: newer has more than older and less.
var (
	older = subscriptions{"alpha.counted.v1": {"beta", "gamma"}, "alpha.old.v1": {"beta"}}
	newer = subscriptions{"alpha.counted.v1": {"beta", "delta"}, "alpha.new.v1": {"beta"}}
)

type registry struct {
	t     *testing.T
	store *unit.Store
	clock *clock.Simulated
}

func openRegistry(t *testing.T, e databasetest.Engine) *registry {
	t.Helper()
	now := clock.NewSimulated(time.Date(2026, 3, 1, 9, 0, 0, 0, time.UTC))
	return &registry{t: t, store: unit.New(e.Store(t, database.Control), unit.Options{Module: database.Control, Clock: now}), clock: now}
}

// register lets a process register a second after whoever did before.
func (r *registry) register(own subscriptions, whole bool) subscriptions {
	r.t.Helper()
	r.clock.Advance(time.Second)
	inForce, err := control.Register(r.t.Context(), r.store, own, whole)
	if err != nil {
		r.t.Fatal(err)
	}
	return inForce
}

func wantList(t *testing.T, what string, got, want subscriptions) {
	t.Helper()
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("%s (-want +got):\n%s", what, d)
	}
}

func engines(t *testing.T, fn func(t *testing.T, e databasetest.Engine)) {
	t.Helper()
	t.Parallel()
	databasetest.Each(t, nil, fn)
}

// What the program subscribes to no more goes: a module, or a message of one that stays.
func TestRemovedSubscriptionsGo(t *testing.T) {
	engines(t, func(t *testing.T, e databasetest.Engine) {
		r := openRegistry(t, e)
		wantList(t, "the first version", r.register(older, true), older)
		wantList(t, "the first version, started again", r.register(older, true), older)
		wantList(t, "the next version", r.register(newer, true), newer)
		wantList(t, "the next version, started again", r.register(newer, true), newer)
	})
}

// While a version is rolled out processes of the one before start again, and change nothing. When the newer one is taken back,
// the older one is in force again.
func TestOlderVersionChangesNothing(t *testing.T) {
	t.Parallel()
	r := openRegistry(t, databasetest.Postgres(t))
	r.register(older, true)
	r.register(newer, true)
	wantList(t, "an older process that starts again", r.register(older, true), newer)
	for range 3 {
		r.clock.Advance(control.Alive / 2)
		wantList(t, "an older process beside newer ones", r.register(older, true), newer)
		wantList(t, "a newer process", r.register(newer, true), newer)
	}
	for range 2 {
		r.clock.Advance(control.Alive * 2 / 3)
		r.register(older, true)
	}
	wantList(t, "after the newer ones are gone", r.register(older, true), older)
	wantList(t, "the newer version, rolled out again", r.register(newer, true), newer)
}

// On SQLite there is one process: whatever was in force before, its version came last.
func TestRollbackOnSQLite(t *testing.T) {
	t.Parallel()
	r := openRegistry(t, databasetest.SQLite(t))
	r.register(older, true)
	r.register(newer, true)
	wantList(t, "the older version again", r.register(older, true), older)
}

// A process with a part of the program takes nothing from the others, and keeps its own as long as it runs.
func TestPartOfTheProgram(t *testing.T) {
	engines(t, func(t *testing.T, e databasetest.Engine) {
		r := openRegistry(t, e)
		r.register(older, true)
		all := subscriptions{"alpha.counted.v1": {"beta", "gamma"}, "alpha.old.v1": {"beta"}, "alpha.another.v1": {"delta"}}
		part := subscriptions{"alpha.another.v1": {"delta"}}
		wantList(t, "with its own", r.register(part, false), all)
		wantList(t, "after the whole", r.register(older, true), all)
		for range 3 {
			r.clock.Advance(control.Alive / 2)
			r.register(part, false)
			wantList(t, "while it runs", r.register(older, true), all)
		}
		r.clock.Advance(control.Alive * 2)
		wantList(t, "after it has gone", r.register(older, true), older)
	})
}

// Processes of many versions start at a time.
func TestRegisterAtOnce(t *testing.T) {
	engines(t, func(t *testing.T, e databasetest.Engine) {
		r := openRegistry(t, e)
		for round := range 5 {
			var all sync.WaitGroup
			for i := range 8 {
				all.Go(func() {
					own := subscriptions{fmt.Sprintf("alpha.all_%d.v1", round): {"beta", "gamma"}, fmt.Sprintf("alpha.of_%d.v1", i%4): {"beta"}}
					if _, err := control.Register(context.Background(), r.store, own, true); err != nil {
						t.Error(err)
					}
				})
			}
			all.Wait()
			r.clock.Advance(2 * control.Alive)
		}
		if n := len(r.register(newer, true)); n != len(newer) {
			t.Errorf("%d messages have subscribers, want %d", n, len(newer))
		}
	})
}
