package proxy_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/banyan-go/banyan/proxy"
)

// unruly are placements that cannot be changed by gates while they are down, and that are told again.
type unruly struct {
	*proxy.Fixed
	down     atomic.Bool
	tried    atomic.Int64
	evidence atomic.Value // of the last move
	again    chan struct{}
}

func (u *unruly) Move(ctx context.Context, from, to proxy.Placement, evidence any) error {
	u.tried.Add(1)
	if u.down.Load() {
		return errors.New("the control store is away")
	}
	u.evidence.Store(evidence)
	return u.Fixed.Move(ctx, from, to, evidence)
}

func (u *unruly) Watch(ctx context.Context, changed func([]proxy.Placement)) error {
	var all sync.WaitGroup
	defer all.Wait()
	all.Go(func() {
		for {
			select {
			case <-ctx.Done():
				return
			case <-u.again:
				changed(u.Current())
			}
		}
	})
	return u.Fixed.Watch(ctx, changed)
}

// tell tells all placements again, as when another module has moved.
func (u *unruly) tell(t *testing.T, s *shop) {
	t.Helper()
	before := s.gate.Epoch()
	u.again <- struct{}{}
	eventually(t, func() bool { return s.gate.Epoch() > before })
}

// bad is a canary whose second process fails, while the control store is away.
func bad(t *testing.T, p proxy.Placement) (*shop, *unruly) {
	t.Helper()
	p.Module = "orders"
	u := &unruly{Fixed: proxy.NewFixed(p), again: make(chan struct{})}
	u.down.Store(true)
	s, remote, _ := movingWith(t, p, func(c *proxy.Config) {
		c.Remote.Breaker.Consecutive, c.Remote.Breaker.Ratio, c.Remote.Health.Passive.Consecutive = 0, 0, 0 // the gates alone
	}, func(o *proxy.Options) { o.Placements = u })
	remote.set(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) })
	for n := range 30 {
		ask(t, s, "GET", "/api/orders", fmt.Sprint("customer:u", n), "")
	}
	return s, u
}

func (s *shop) state() proxy.State { return s.gate.Placements()[0].State }

// What was bad stays home while its record cannot follow, whatever is told meanwhile; and the record follows as soon as it can.
func TestTheRecordFollowsARollback(t *testing.T) {
	t.Parallel()
	canary := proxy.Placement{State: proxy.Canary, Reads: 10_000, Epoch: 3}
	s, u := bad(t, canary)
	eventually(t, func() bool { return s.state() == proxy.Local && u.tried.Load() >= 1 })
	for range 3 {
		u.tell(t, s)
		if a, body := ask(t, s, "GET", "/api/orders", "customer:ada", ""); s.state() != proxy.Local || a.StatusCode != 200 || a.Header.Get("X-Side") != "local" {
			t.Fatalf("told again, the module is %s, and answers %d %s", s.state(), a.StatusCode, body)
		}
	}
	tried := u.tried.Load()
	eventually(t, func() bool { return u.tried.Load() > tried })
	if got := u.Current()[0].State; got != proxy.Canary {
		t.Fatalf("the record is %s while it cannot be changed", got)
	}
	u.down.Store(false)
	eventually(t, func() bool { return u.Current()[0] == proxy.Placement{Module: "orders", State: proxy.Local, Epoch: 3} })
	if u.evidence.Load() == nil {
		t.Error("the evidence is lost")
	}
	eventually(t, func() bool { return s.metricOf("banyan_gate_moves_total", "to", "local") == 1 })
	// From now on somebody may open it again.
	canary.Module = "orders"
	if err := u.Fixed.Move(t.Context(), u.Current()[0], canary, nil); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() bool { return s.state() == proxy.Canary })
}

// Whatever the record is moved to after that is in force at once, and stays.
func TestALaterRecordWinsOverARollback(t *testing.T) {
	t.Parallel()
	for name, to := range map[string]proxy.Placement{
		"another owner": {Module: "orders", State: proxy.Remote, Epoch: 4}, "another share": {Module: "orders", State: proxy.Canary, Reads: 1, Epoch: 3},
		"the same share of another owner": {Module: "orders", State: proxy.Canary, Reads: 10_000, Epoch: 5},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, u := bad(t, proxy.Placement{State: proxy.Canary, Reads: 10_000, Epoch: 3})
			eventually(t, func() bool { return s.state() == proxy.Local && u.tried.Load() >= 1 })
			if err := u.Fixed.Move(t.Context(), u.Current()[0], to, nil); err != nil {
				t.Fatal(err)
			}
			eventually(t, func() bool { return s.gate.Placements()[0] == to })
			u.down.Store(false)
			u.tell(t, s)
			if got := u.Current()[0]; got != to || s.gate.Placements()[0] != to {
				t.Errorf("the record is %+v, in force is %+v; want %+v", got, s.gate.Placements()[0], to)
			}
		})
	}
}

// What the gates find bad when they are asked, and not in a request, goes home as quickly.
func TestJudgedRollbackIsInForceAtOnce(t *testing.T) {
	t.Parallel()
	held := proxy.Placement{Module: "orders", State: proxy.Canary, Reads: 10_000, Epoch: 3, Held: true}
	s, u := bad(t, held)
	if got := s.state(); got != proxy.Canary {
		t.Fatalf("held, the module is %s", got)
	}
	free := held
	free.Held = false
	if err := u.Fixed.Move(t.Context(), held, free, nil); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() bool { return s.state() == proxy.Local && u.tried.Load() >= 1 })
	u.down.Store(false)
	eventually(t, func() bool { return u.Current()[0].State == proxy.Local })
}
