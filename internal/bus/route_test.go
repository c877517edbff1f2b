package bus_test

import (
	"context"
	"sync"
	"testing"

	"github.com/banyan-go/banyan/internal/bus"
	"github.com/banyan-go/banyan/internal/bustest"
	"github.com/banyan-go/banyan/internal/database"
	"github.com/banyan-go/banyan/internal/databasetest"
	"github.com/banyan-go/banyan/internal/message"
	"github.com/banyan-go/banyan/internal/module"
	"github.com/banyan-go/banyan/internal/ownership"
	"github.com/banyan-go/banyan/internal/testinfra"
	"github.com/banyan-go/banyan/internal/unit"
)

// On the way home messages go on by the broker as long as its queue holds what was sent before: no key waits for another one's backlog.
func TestARouteHomeIsHeldLate(t *testing.T) {
	t.Parallel()
	e := databasetest.Postgres(t, database.Control, "alpha", "beta") // on SQLite a handler that hangs holds all of its module
	free := make(chan struct{})
	beta := bustest.Listener("beta", module.Subscription{Handler: "count", Events: []string{"alpha.counted.v1"}}, func(_ context.Context, u *unit.Work, m message.Message) error {
		if m.Key == "slow" && bustest.Number(m) == 1 {
			<-free
		}
		return bustest.Keep(u, "count", m.Key, bustest.Number(m))
	})
	s, err := bustest.SetStage(t, e, bustest.StageOptions{Real: true, Broker: testinfra.Rabbit(t).URL()}, bustest.Alpha(), beta)
	if err != nil {
		t.Fatal(err)
	}
	registry := ownership.NewStore(e.Store(t, database.Control))
	owners, err := ownership.Open(t.Context(), registry, ownership.Options{Self: ownership.Process{ID: "home"}, Modules: []string{"alpha", "beta"}, Shared: true})
	if err != nil {
		t.Fatal(err)
	}
	release := sync.OnceFunc(func() { close(free) })
	t.Cleanup(release)
	s.Bus.Follow(owners)
	ctx, end := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- owners.Run(ctx) }()
	t.Cleanup(func() { end(); <-done })
	move := func(side ownership.Side, to ownership.Placement) {
		t.Helper()
		from := owners.Record("beta")
		r := from
		r.Owner, r.Placement, r.Step, r.Epoch, r.Version = side, to, ownership.Settled, from.Epoch+1, from.Version+1
		if err := registry.Move(t.Context(), from, r, ownership.Cause{Caller: "a test"}); err != nil {
			t.Fatal(err)
		}
		owners.Nudge()
	}
	route := func() bus.Route {
		for _, r := range s.Bus.Routes() {
			if r.Publisher == "alpha" && r.Subscriber == "beta" {
				return r
			}
		}
		return bus.Route{}
	}
	s.Run()
	move(ownership.Away, ownership.Remote)
	s.Eventually("messages go by the broker", func() bool { return route().Transport == "rabbit" })
	s.Announce("alpha", bustest.Counted{ID: "slow", N: 1}, bustest.Counted{ID: "slow", N: 2}, bustest.Counted{ID: "quick", N: 1})
	s.Eventually("the broker has them", func() bool { return s.Count("alpha", "SELECT count(*) FROM delivery") == 0 })
	move(ownership.Home, ownership.Local)
	s.Eventually("the queue is consumed here", func() bool { return len(s.Seen("beta", "count", "quick")) == 1 })
	s.Announce("alpha", bustest.Counted{ID: "quick", N: 2})
	s.Eventually("what is new is not held", func() bool { return len(s.Seen("beta", "count", "quick")) == 2 })
	if r := route(); r.Transport != "rabbit" || r.Waits == "" {
		t.Errorf("the route is %+v while the queue holds a message", r)
	}
	release()
	s.Eventually("messages go within the process", func() bool { return route().Transport == "local" && route().Waits == "" })
	s.Announce("alpha", bustest.Counted{ID: "slow", N: 3}, bustest.Counted{ID: "quick", N: 3})
	s.Eventually("all is handled", func() bool { return len(s.Seen("beta", "count", "")) == 6 })
	want(t, "slow", s.Seen("beta", "count", "slow"), []int{1, 2, 3})
	want(t, "quick", s.Seen("beta", "count", "quick"), []int{1, 2, 3})
}
