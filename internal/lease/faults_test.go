package lease_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/banyan-go/banyan/internal/bus"
	"github.com/banyan-go/banyan/internal/bustest"
	"github.com/banyan-go/banyan/internal/databasetest"
	"github.com/banyan-go/banyan/internal/errs"
	"github.com/banyan-go/banyan/internal/unit"
)

func want[T any](t testing.TB, what string, got, want T) {
	t.Helper()
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("%s (-want +got):\n%s", what, d)
	}
}

// steal gives a module's lease to somebody else, for long or for a moment.
func steal(t testing.TB, s *unit.Store, holder string, seconds float64) {
	t.Helper()
	if err := s.Do(context.Background(), func(_ context.Context, u *unit.Work) error {
		return u.DB.Exec("UPDATE lease SET holder = ?, expires_at = clock_timestamp() + make_interval(secs => ?), epoch = epoch + 1", holder, seconds).Error
	}); err != nil {
		t.Fatal(err)
	}
}

func owner(w *bustest.World, module string) bool {
	m, _ := w.Bus.Status(context.Background())
	return m[module].Owner
}

// Who has lost a lease does not refuse requests because of what it saw while it was the owner.
func TestOldestEndsWithTheLease(t *testing.T) {
	t.Parallel()
	e := databasetest.Postgres(t, bustest.Modules...)
	w := bustest.Prepare(t, e, bustest.Options{Config: func(c *bus.Config) { c.HighWaterRows = 3 }})
	release := make(chan struct{})
	var once sync.Once
	open := func() { once.Do(func() { close(release) }) }
	t.Cleanup(open)
	w.Fail("count", func(int) error { <-release; return nil })
	for i := range 10 {
		w.Publish(bustest.Key(i), 1)
	}
	w.Run()
	bustest.Eventually(t, "the lease is held and requests are refused", 20*time.Second, func() bool { return owner(w, "alpha") && w.Alpha.Overloaded() != "" })
	steal(t, w.Alpha, "somebody else", 3600)
	open()
	bustest.Eventually(t, "the lease is lost", 20*time.Second, func() bool { return !owner(w, "alpha") })
	m, _ := w.Bus.Status(t.Context())
	if m["alpha"].Oldest != nil {
		t.Error("who does not relay still says how old its oldest message is")
	}
}

// The lease changes hands again and again while handlers run: each effect once, every key in order.
func TestLeaseLostWhileHandlersRun(t *testing.T) {
	t.Parallel()
	e := databasetest.Postgres(t, bustest.Modules...)
	a := bustest.Prepare(t, e, bustest.Options{Replica: "a"})
	b := bustest.Prepare(t, e, bustest.Options{Replica: "b"})
	a.Run()
	b.Run()
	var all sync.WaitGroup
	for k := range 6 {
		all.Go(func() {
			for n := 1; n <= 60; n++ {
				[]*bustest.World{a, b}[(n+k)%2].Publish(bustest.Key(k), n)
			}
		})
	}
	done := make(chan struct{})
	go func() { all.Wait(); close(done) }()
	for i := 0; ; i++ {
		select {
		case <-done:
		default:
			// Each module's lease goes to the other one at once; the holder learns of it at its next renewal.
			steal(t, []*unit.Store{a.Alpha, a.Beta, a.Gamma}[i%3], []string{"a", "b"}[i/3%2], 0.6)
			from := len(a.Seen(a.Beta, "count", ""))
			for deadline := time.Now().Add(300 * time.Millisecond); time.Now().Before(deadline) && len(a.Seen(a.Beta, "count", "")) < from+20; {
				<-time.After(5 * time.Millisecond)
			}
			continue
		}
		break
	}
	bustest.Eventually(t, "everything is handled", 30*time.Second, func() bool {
		return len(a.Seen(a.Beta, "count", "")) >= 360 && len(a.Seen(a.Gamma, "watch", "")) >= 360
	})
	for k := range 6 {
		want(t, "beta "+bustest.Key(k), a.Seen(a.Beta, "count", bustest.Key(k)), bustest.Range(1, 60))
		want(t, "gamma "+bustest.Key(k), a.Seen(a.Gamma, "watch", bustest.Key(k)), bustest.Range(1, 60))
	}
}

// A process that ends gives its leases back: the next one need not wait for them to run out.
func TestLeaseIsGivenBack(t *testing.T) {
	t.Parallel()
	e := databasetest.Postgres(t, bustest.Modules...)
	long := func(c *bus.Config) { c.LeaseTTL = time.Hour }
	a := bustest.Open(t, e, bustest.Options{Replica: "a", Config: long})
	bustest.Eventually(t, "the first one is the owner", 5*time.Second, func() bool { return owner(a, "alpha") })
	a.Close()
	b := bustest.Open(t, e, bustest.Options{Replica: "b", Config: long})
	bustest.Eventually(t, "the second one is the owner", 5*time.Second, func() bool { return owner(b, "alpha") && owner(b, "beta") })
}

// One at a time: the second one waits, and takes over when the first one is gone without a word.
func TestOneHolder(t *testing.T) {
	t.Parallel()
	e := databasetest.Postgres(t, bustest.Modules...)
	a := bustest.Open(t, e, bustest.Options{Replica: "a"})
	bustest.Eventually(t, "the first one is the owner", 5*time.Second, func() bool { return owner(a, "alpha") })
	b := bustest.Open(t, e, bustest.Options{Replica: "b"})
	steal(t, b.Alpha, "dead", 1)
	bustest.Eventually(t, "somebody takes over from the dead one", 5*time.Second, func() bool { return owner(a, "alpha") != owner(b, "alpha") })
	for range 50 {
		if owner(a, "beta") && owner(b, "beta") {
			t.Fatal("two owners")
		}
	}
	if err := b.Beta.Do(t.Context(), func(context.Context, *unit.Work) error { return errs.New(errs.Conflict, "x") }); !errs.Is(err, errs.Conflict) {
		t.Errorf("who holds no lease cannot write: %v", err)
	}
}
