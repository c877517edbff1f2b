package bus_test

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"

	wm "github.com/ThreeDotsLabs/watermill/message"

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

// mover is a shop of alpha and beta, on PostgreSQL: on SQLite a handler that hangs holds all of its module. Beta goes away, to nobody, and
// comes home. Its handler hangs at the first message of the key "slow" until release.
type mover struct {
	*bustest.Stage
	host     *testinfra.Broker
	owners   *ownership.Owners
	registry *ownership.Store
	release  func()
}

func newMover(t *testing.T) *mover {
	t.Helper()
	e := databasetest.Postgres(t, database.Control, "alpha", "beta")
	free := make(chan struct{})
	m := &mover{host: testinfra.Rabbit(t), registry: ownership.NewStore(e.Store(t, database.Control)), release: sync.OnceFunc(func() { close(free) })}
	beta := bustest.Listener("beta", module.Subscription{Handler: "count", Events: []string{"alpha.counted.v1"}}, func(_ context.Context, u *unit.Work, m message.Message) error {
		if m.Key == "slow" && bustest.Number(m) == 1 {
			<-free
		}
		return bustest.Keep(u, "count", m.Key, bustest.Number(m))
	})
	var err error
	if m.Stage, err = bustest.SetStage(t, e, bustest.StageOptions{Real: true, Broker: m.host.URL()}, bustest.Alpha(), beta); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.release)
	m.owners = follow(t, m.Bus, m.registry, ownership.Options{Self: ownership.Process{ID: "home"}, Modules: []string{"alpha", "beta"}, Shared: true})
	m.Run()
	return m
}

// move makes a side the owner of beta.
func (m *mover) move(side ownership.Side, placement ownership.Placement) {
	m.T.Helper()
	from := m.owners.Record("beta")
	to := from
	to.Owner, to.Placement, to.Epoch, to.Version = side, placement, from.Epoch+1, from.Version+1
	if err := m.registry.Move(m.T.Context(), from, to, ownership.Cause{Caller: "a test"}); err != nil {
		m.T.Fatal(err)
	}
	m.owners.Nudge()
}

func (m *mover) route() bus.Route {
	for _, r := range m.Bus.Routes() {
		if r.Publisher == "alpha" && r.Subscriber == "beta" {
			return r
		}
	}
	return bus.Route{}
}

// leave brings beta away, and waits until the broker has some messages to it.
func (m *mover) leave() {
	m.T.Helper()
	m.move(ownership.Away, ownership.Remote)
	m.Eventually("messages go by the broker", func() bool { return m.route().Transport == "rabbit" })
	m.Announce("alpha", bustest.Counted{ID: "slow", N: 1}, bustest.Counted{ID: "slow", N: 2}, bustest.Counted{ID: "quick", N: 1})
	m.Eventually("the broker has them", func() bool { return m.Count("alpha", "SELECT count(*) FROM delivery") == 0 })
}

func (m *mover) home() {
	m.T.Helper()
	m.Eventually("messages go within the process", func() bool { return m.route().Transport == "local" && m.route().Waits == "" })
}

// On the way home messages go on by the broker as long as its queue holds what was sent before: no key waits for another one's backlog.
func TestARouteHomeIsHeldLate(t *testing.T) {
	t.Parallel()
	m := newMover(t)
	m.leave()
	m.move(ownership.Home, ownership.Local)
	m.Eventually("the queue is consumed here", func() bool { return len(m.Seen("beta", "count", "quick")) == 1 })
	m.Announce("alpha", bustest.Counted{ID: "quick", N: 2})
	m.Eventually("what is new is not held", func() bool { return len(m.Seen("beta", "count", "quick")) == 2 })
	if r := m.route(); r.Transport != "rabbit" || r.Waits == "" {
		t.Errorf("the route is %+v while the queue holds a message", r)
	}
	m.release()
	m.home()
	m.Announce("alpha", bustest.Counted{ID: "slow", N: 3}, bustest.Counted{ID: "quick", N: 3})
	m.Eventually("all is handled", func() bool { return len(m.Seen("beta", "count", "")) == 6 })
	want(t, "slow", m.Seen("beta", "count", "slow"), []int{1, 2, 3})
	want(t, "quick", m.Seen("beta", "count", "quick"), []int{1, 2, 3})
}

// Who leaves again while the queue is drained is sent everything by the broker, and nothing waits.
func TestAwayAgainOnTheWayHome(t *testing.T) {
	t.Parallel()
	m := newMover(t)
	m.leave()
	m.move(ownership.Home, ownership.Local)
	m.Eventually("the route waits for the queue", func() bool { return m.route().Waits != "" })
	m.move(ownership.Away, ownership.Remote)
	m.Eventually("the route waits for nothing", func() bool { return m.route().Waits == "" })
	m.Announce("alpha", bustest.Counted{ID: "slow", N: 3})
	m.Eventually("the broker has it", func() bool { return m.Count("alpha", "SELECT count(*) FROM delivery") == 0 })
	m.release()
	m.move(ownership.Home, ownership.Local)
	m.home()
	m.Announce("alpha", bustest.Counted{ID: "slow", N: 4})
	m.Eventually("all is handled", func() bool { return len(m.Seen("beta", "count", "slow")) == 4 })
	want(t, "slow", m.Seen("beta", "count", "slow"), []int{1, 2, 3, 4})
}

// A route comes home although somebody has deleted the queue, with the marker in it.
func TestALostMarker(t *testing.T) {
	t.Parallel()
	m := newMover(t)
	m.leave()
	m.move(ownership.Home, ownership.Local)
	m.Eventually("the route waits for the queue", func() bool { return m.route().Waits != "" })
	m.host.DeleteQueue("banyan.beta")
	m.release()
	m.home()
	m.Announce("alpha", bustest.Counted{ID: "slow", N: 3})
	m.Eventually("what is new is handled", func() bool { return slices.Contains(m.Seen("beta", "count", "slow"), 3) })
}

// Another replica had the lease while this one stood still, and has put messages into the queue: this one takes the way that the other
// one has left.
func TestStoodStillWhileARouteChanged(t *testing.T) {
	t.Parallel()
	m := newMover(t)
	m.home()
	first := wm.NewMessage(message.NewID(), []byte(`{"id":"slow","n":1}`))
	first.Metadata = wm.Metadata{
		"ce_id": first.UUID, "ce_type": bustest.Counted{}.MessageName(), "ce_source": "/alpha", "ce_time": "2026-03-01T09:00:00Z", "ce_partitionkey": "slow", "ce_sequence": "1",
	}
	first.SetContext(t.Context())
	if err := stranger(t, m.host.URL()).Publisher().Publish("beta", first); err != nil {
		t.Fatal(err)
	}
	m.Do("alpha", func(u *unit.Work) error {
		return errors.Join(
			u.DB.Exec("UPDATE lease SET holder = 'another replica', epoch = epoch + 1, expires_at = clock_timestamp()").Error,
			u.DB.Exec("INSERT INTO route (subscriber, transport, barrier) VALUES ('beta', 'rabbit', '') ON CONFLICT (subscriber) DO UPDATE SET transport = excluded.transport").Error)
	})
	m.Eventually("the lease is here again", func() bool {
		return m.Count("alpha", "SELECT count(*) FROM lease WHERE holder = 'another replica'") == 0
	})
	m.Announce("alpha", bustest.Counted{ID: "slow", N: 2})
	m.Eventually("what is new waits for the queue", func() bool {
		return m.route().Waits != "" || len(m.Seen("beta", "count", "slow")) > 0
	})
	m.release()
	m.Eventually("all is handled", func() bool { return len(m.Seen("beta", "count", "slow")) == 2 })
	want(t, "slow", m.Seen("beta", "count", "slow"), []int{1, 2})
	m.home()
}
