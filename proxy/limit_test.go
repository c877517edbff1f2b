package proxy

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/banyan-go/banyan/internal/clock"
	"github.com/banyan-go/banyan/internal/control"
	"github.com/banyan-go/banyan/internal/database"
	"github.com/banyan-go/banyan/internal/databasetest"
	"github.com/banyan-go/banyan/internal/errs"
)

// fakeBudgets keeps budgets as the real ones do, on the clock of the test.
type fakeBudgets struct {
	mu      sync.Mutex
	tat     map[string]time.Time
	calls   int
	keys    int
	failure error
	hang    bool          // until the caller gives up
	hold    chan struct{} // until it is closed
}

func (f *fakeBudgets) Charge(ctx context.Context, limit control.Budget, charges []control.Charge) ([]control.Balance, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls++
	f.keys += len(charges)
	if f.hang {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	if f.hold != nil {
		<-f.hold
	}
	if f.failure != nil {
		return nil, f.failure
	}
	step := time.Duration(float64(time.Second) / limit.PerSecond)
	now := time.Now()
	balances := make([]control.Balance, len(charges))
	seen := map[string]bool{}
	for i, c := range charges {
		if seen[c.Key] {
			return nil, errors.New("a client comes twice")
		}
		seen[c.Key] = true
		key := limit.Name + " " + c.Key
		if f.tat == nil {
			f.tat = map[string]time.Time{}
		}
		tat := f.tat[key]
		if tat.Before(now) {
			tat = now
		}
		tat = tat.Add(time.Duration(c.Pay) * step)
		granted := max(0, min(c.Want, limit.Burst-int((tat.Sub(now)+step-1)/step)))
		f.tat[key] = tat.Add(time.Duration(granted) * step)
		balances[i] = control.Balance{Granted: granted, Full: f.tat[key].Sub(now)}
	}
	return balances, nil
}

func (f *fakeBudgets) set(failure error, hang bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.failure, f.hang = failure, hang
}

func (f *fakeBudgets) count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.calls
}

// replica is a process with one limit of its own or shared.
func replica(t testing.TB, b Budgets, name string, r Rate) (*limiter, *sharing) {
	t.Helper()
	s, err := newSharing(b, clock.System{}, slog.New(slog.DiscardHandler), prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	if _, fake := b.(*fakeBudgets); !fake {
		s.timeout, s.wait = time.Minute, time.Minute // a slow machine is no outage
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	for !s.reachable() {
		time.Sleep(time.Millisecond)
	}
	return newSharedLimiter(name, r, 1000, s), s
}

// allowed asks n times.
func allowed(l *limiter, key string, n int) (yes int) {
	for range n {
		if _, wait := l.take(key, time.Now()); wait == 0 {
			yes++
		}
	}
	return yes
}

// slowBudgets take a while, so that much is given out meanwhile.
type slowBudgets struct{ Budgets }

func (b slowBudgets) Charge(ctx context.Context, limit control.Budget, charges []control.Charge) ([]control.Balance, error) {
	time.Sleep(15 * time.Millisecond)
	defer time.Sleep(15 * time.Millisecond)
	return b.Budgets.Charge(ctx, limit, charges)
}

// TestReplicasShareABudget: replicas on one PostgreSQL let a client have what the limit says, and no more than two lots
// each beyond that; nor do they keep from it what it may have.
func TestReplicasShareABudget(t *testing.T) {
	t.Parallel()
	e := databasetest.Postgres(t)
	limit := Rate{PerSecond: 100, Burst: 60}
	const replicas = 3
	var got, refused atomic.Int64
	var wg sync.WaitGroup
	limiters := make([]*limiter, replicas)
	for i := range limiters {
		b, ok := control.OpenBudgets(e.Store(t, database.Control), nil, nil)
		if !ok {
			t.Fatal("there are no budgets")
		}
		limiters[i], _ = replica(t, slowBudgets{b}, "customer", limit)
	}
	lot := limiters[0].lot
	if lot != 3 {
		t.Fatalf("a lot of %d", lot)
	}
	// Not for a time: a machine that is busy does not ask as often, and then fewer are let through.
	const enough = 260
	started := time.Now()
	for _, l := range limiters {
		for range 2 {
			wg.Go(func() {
				for got.Load() < enough && time.Since(started) < 30*time.Second {
					if _, wait := l.take("ann", time.Now()); wait == 0 {
						got.Add(1)
						continue
					}
					refused.Add(1)
					time.Sleep(500 * time.Microsecond)
				}
			})
		}
	}
	wg.Wait()
	took := time.Since(started)
	most := float64(limit.Burst) + limit.PerSecond*took.Seconds()
	if n := got.Load(); n < enough || float64(n) > most+float64(replicas*2*lot) {
		t.Errorf("%d were let through in %v, want at least %d; the limit says %.0f and %d more", n, took, enough, most, replicas*2*lot)
	}
	t.Logf("%d were let through and %d refused in %v; the limit says %.0f", got.Load(), refused.Load(), took, most)
}

// TestSmallLimitsAreExact: where passwords can be tried, replicas do not add to the limit.
func TestSmallLimitsAreExact(t *testing.T) {
	t.Parallel()
	e := databasetest.Postgres(t)
	var got atomic.Int64
	var wg sync.WaitGroup
	for range 3 {
		b, ok := control.OpenBudgets(e.Store(t, database.Control), nil, nil)
		if !ok {
			t.Fatal("there are no budgets")
		}
		l, _ := replica(t, b, "login", Rate{PerSecond: 0.001, Burst: 10})
		for range 4 {
			wg.Go(func() { got.Add(int64(allowed(l, "203.0.113.9", 10))) })
		}
	}
	wg.Wait()
	if got.Load() != 10 {
		t.Errorf("%d were let through, want 10", got.Load())
	}
}

// TestMostRequestsNeedNoSQL: and what they take is charged all the same.
func TestMostRequestsNeedNoSQL(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := &fakeBudgets{}
		limit := Rate{PerSecond: 1000, Burst: 1000}
		one, _ := replica(t, f, "customer", limit)
		two, _ := replica(t, f, "customer", limit)
		if n := allowed(one, "ann", 1000); n != 1000 {
			t.Fatalf("%d of 1000", n)
		}
		synctest.Wait()
		if calls := f.count(); calls > 25 {
			t.Errorf("%d statements for 1000 requests", calls)
		}
		// The other one finds out when it has given out two lots.
		if n := allowed(two, "ann", 1000); n > 2*two.lot {
			t.Errorf("%d of a budget that is used up", n)
		}
		calls := f.count()
		if n := allowed(two, "ann", 1000); n != 0 || f.count() != calls {
			t.Errorf("%d of a budget that is known to be used up, %d statements", n, f.count()-calls)
		}
		// A debt is paid: what was let through beyond the limit is missing later.
		time.Sleep(time.Second + time.Duration(2*two.lot)*time.Millisecond)
		if n := allowed(two, "ann", 3000); n < 900 || n > 1000+2*two.lot {
			t.Errorf("%d after the budget was full again", n)
		}
	})
}

// TestKnownRefusalsNeedNoSQL: whoever tries passwords beyond the limit does not make the database work.
func TestKnownRefusalsNeedNoSQL(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := &fakeBudgets{}
		l, _ := replica(t, f, "login", Rate{PerSecond: 0.1, Burst: 10})
		if n := allowed(l, "ann", 30); n != 10 || f.count() > 11 {
			t.Errorf("%d of 10 with %d statements", n, f.count())
		}
		time.Sleep(10 * time.Second)
		if n := allowed(l, "ann", 3); n != 1 {
			t.Errorf("%d after the wait, want 1", n)
		}
	})
}

// TestLimitsAreApart: what one limit lets through is not charged to another one.
func TestLimitsAreApart(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := &fakeBudgets{}
		r := Rate{PerSecond: 0.01, Burst: 20}
		one, s := replica(t, f, "customer", r)
		two := newSharedLimiter("anonymous", r, 100, s)
		f.set(errors.New("down"), false) // so that both wait in the queue
		allowed(one, "ann", 1)
		synctest.Wait()
		allowed(one, "ann", 6)
		allowed(two, "bob", 9)
		f.set(nil, false)
		time.Sleep(3 * time.Second)
		synctest.Wait()
		for key, want := range map[string]time.Duration{"customer ann": 700 * time.Second, "anonymous bob": 900 * time.Second} {
			if got := time.Until(f.tat[key]); got > want || got < want-10*time.Second {
				t.Errorf("%s: full in %s, want %s", key, got, want)
			}
		}
		if len(f.tat) != 2 {
			t.Errorf("budgets: %v", f.tat)
		}
	})
}

// TestClientsShareStatements: many clients that are due are charged at once, and none comes twice.
func TestClientsShareStatements(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := &fakeBudgets{}
		l, s := replica(t, f, "customer", Rate{PerSecond: 20, Burst: 20})
		f.set(errors.New("down"), false)
		for i := range 600 {
			l.take(strconv.Itoa(i%300), time.Now())
			if i == 299 {
				for j := range l.shards { // everybody is forgotten, and comes back
					l.shards[j].clients = map[string]*bucket{}
				}
			}
		}
		f.set(nil, false)
		time.Sleep(5 * time.Second)
		synctest.Wait()
		if s.mu.Lock(); len(s.queue) > 0 {
			t.Errorf("%d are left", len(s.queue))
		}
		s.mu.Unlock()
		if calls := f.count(); calls > 10 || f.keys < 600 {
			t.Errorf("%d statements for %d charges", calls, f.keys)
		}
	})
}

// TestBudgetsAreDown: nobody waits for what cannot answer, everybody still has a limit, and what was given out
// meanwhile is charged when the budgets are back.
func TestBudgetsAreDown(t *testing.T) {
	t.Parallel()
	for name, hang := range map[string]bool{"an error": false, "no answer": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				f := &fakeBudgets{}
				f.set(errors.New("connection refused"), hang)
				registry := prometheus.NewRegistry()
				s, err := newSharing(f, clock.System{}, nil, registry)
				if err != nil {
					t.Fatal(err)
				}
				l := newSharedLimiter("login", Rate{PerSecond: 0.01, Burst: 10}, 100, s)
				ctx, cancel := context.WithCancel(t.Context())
				done := make(chan error, 1)
				go func() { done <- s.Run(ctx) }()
				synctest.Wait()
				metric := func() float64 {
					t.Helper()
					all, err := registry.Gather()
					if err != nil || len(all) != 1 || all[0].GetName() != "banyan_rate_limits_alone" {
						t.Fatalf("%v, %v", all, err)
					}
					return all[0].GetMetric()[0].GetGauge().GetValue()
				}
				if metric() != 0 {
					t.Error("it is alone from the start")
				}
				started := time.Now()
				if n := allowed(l, "ann", 30); n != 10 {
					t.Errorf("alone %d are let through, want 10", n)
				}
				if took := time.Since(started); took > chargeTimeout {
					t.Errorf("requests waited for %s", took)
				}
				if metric() != 1 {
					t.Error("nothing tells that it is alone")
				}
				f.set(nil, false)
				time.Sleep(3 * time.Second)
				synctest.Wait()
				if metric() != 0 {
					t.Error("it is still alone")
				}
				other := newSharedLimiter("login", l.rate, 100, s)
				if n := allowed(other, "ann", 30); n != 0 {
					t.Errorf("what was given out alone was not charged: %d more", n)
				}
				cancel()
				if err := <-done; err != nil {
					t.Error(err)
				}
				if n := allowed(newSharedLimiter("login", l.rate, 100, s), "bob", 30); n != 10 {
					t.Errorf("after the end: %d", n)
				}
			})
		})
	}
}

// TestEndLetsNobodyWait: who asks when the process drains is answered.
func TestEndLetsNobodyWait(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := &fakeBudgets{hang: true}
		s, err := newSharing(f, clock.System{}, nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- s.Run(ctx) }()
		synctest.Wait()
		l := newSharedLimiter("login", Rate{PerSecond: 0.01, Burst: 10}, 100, s)
		var yes atomic.Int64
		var wg sync.WaitGroup
		for _, key := range []string{"a", "b"} { // the second one waits in the queue behind the first
			wg.Go(func() { yes.Add(int64(allowed(l, key, 1))) })
			synctest.Wait()
		}
		started := time.Now()
		cancel()
		wg.Wait()
		if yes.Load() != 2 || time.Since(started) > 0 {
			t.Errorf("%d were let through after %s", yes.Load(), time.Since(started))
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// TestNobodyWaitsBehindALostStatement: when the budgets are lost, those further back are told too.
func TestNobodyWaitsBehindALostStatement(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := &fakeBudgets{hang: true}
		l, s := replica(t, f, "login", Rate{PerSecond: 0.01, Burst: 10})
		started := time.Now()
		var wg sync.WaitGroup
		for _, key := range []string{"a", "b"} {
			wg.Go(func() { allowed(l, key, 1) })
			synctest.Wait()
		}
		wg.Wait()
		if took := time.Since(started); took != chargeTimeout {
			t.Errorf("answered after %s, want %s", took, chargeTimeout)
		}
		// Nor does who has seen them reachable a moment before.
		started = time.Now()
		if v := s.await(make(chan verdict)); !v.alone || time.Since(started) > 0 {
			t.Errorf("got %+v after %s", v, time.Since(started))
		}
	})
}

// TestTokensGivenOutMeanwhile: what is given out while a charge is on its way is not forgotten when its answer comes.
func TestTokensGivenOutMeanwhile(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := &fakeBudgets{hold: make(chan struct{})}
		l, _ := replica(t, f, "customer", Rate{PerSecond: 0.01, Burst: 100})
		allowed(l, "ann", 5)
		synctest.Wait() // the charge is on its way
		allowed(l, "ann", 3)
		close(f.hold)
		synctest.Wait()
		if left, _ := l.take("ann", time.Now()); left != 91 {
			t.Errorf("%d are left, want 91", left)
		}
	})
}

func TestQueueIsBounded(t *testing.T) {
	t.Parallel()
	s, err := newSharing(&fakeBudgets{}, nil, nil, nil) // nobody runs it
	if err != nil {
		t.Fatal(err)
	}
	l := newSharedLimiter("anonymous", Rate{PerSecond: 1, Burst: 10}, 160, s)
	for i := range chargeQueue + 1000 {
		l.take(strconv.Itoa(i), time.Now())
	}
	if len(s.queue) != chargeQueue {
		t.Errorf("%d wait to be charged", len(s.queue))
	}
}

func TestLimitHeaders(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	customers := newSharedLimiter("customer", Rate{PerSecond: 2, Burst: 5}, 100, nil)
	logins := newSharedLimiter("login", Rate{PerSecond: 0.1, Burst: 1}, 100, nil)
	h := http.Header{}
	for _, l := range []*limiter{customers, logins} {
		if err := l.check(h, "ann", now); err != nil {
			t.Fatal(err)
		}
	}
	want := http.Header{
		"Ratelimit-Limit": {"1"}, "Ratelimit-Remaining": {"0"}, "Ratelimit-Reset": {"10"},
		"Ratelimit-Policy": {`"customer";q=5;w=3`, `"login";q=1;w=10`}, "Ratelimit": {`"customer";r=4;t=1`, `"login";r=0;t=10`},
	}
	if diff := cmp.Diff(h, want); diff != "" {
		t.Errorf("header (-got +want):\n%s", diff)
	}
	// The policies are shared between answers, and one answer must not write into them.
	h = http.Header{}
	err := logins.check(h, "ann", now.Add(time.Second))
	var limited *errs.Error
	if !errors.As(err, &limited) || limited.Kind != errs.Throttled || limited.RetryAfter != 9*time.Second {
		t.Errorf("got %v", err)
	}
	want = http.Header{
		"Ratelimit-Limit": {"1"}, "Ratelimit-Remaining": {"0"}, "Ratelimit-Reset": {"9"},
		"Ratelimit-Policy": {`"login";q=1;w=10`}, "Ratelimit": {`"login";r=0;t=9`},
	}
	if diff := cmp.Diff(h, want); diff != "" {
		t.Errorf("header of a refusal (-got +want):\n%s", diff)
	}
}

// TestRatesOfAllSizes: whatever the configuration allows works as a limit.
func TestRatesOfAllSizes(t *testing.T) {
	t.Parallel()
	for _, r := range []Rate{
		{PerSecond: 1e-12, Burst: 1}, {PerSecond: 1e-12, Burst: 1 << 30}, {PerSecond: 1e12, Burst: 1 << 30}, {PerSecond: 3, Burst: 1}, {PerSecond: 1e6, Burst: 7},
	} {
		l := newLimiter(r, 100)
		now := time.Now()
		left, wait := l.take("a", now)
		if wait != 0 || left < 0 || left >= r.Burst || left == 0 && r.Burst > 1 {
			t.Errorf("%+v: left %d, wait %s", r, left, wait)
		}
		if r.Burst > 10 || r.PerSecond > 1e9 {
			continue
		}
		for range r.Burst - 1 {
			l.take("a", now)
		}
		if _, wait := l.take("a", now); wait <= 0 {
			t.Errorf("%+v: no limit", r)
		}
	}
}

func BenchmarkLimit(b *testing.B) {
	f := &fakeBudgets{}
	shared, _ := replica(b, f, "customer", Rate{PerSecond: 1e9, Burst: 1e6})
	for name, l := range map[string]*limiter{"memory": newLimiter(Rate{PerSecond: 1e9, Burst: 1e6}, 1000), "shared": shared} {
		b.Run(name+"/take", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				l.take("ann", time.Now())
			}
		})
	}
	l := newSharedLimiter("customer", Rate{PerSecond: 1e9, Burst: 100}, 1000, nil)
	b.Run("check", func(b *testing.B) {
		b.ReportAllocs()
		h := http.Header{}
		for b.Loop() {
			clear(h)
			if err := l.check(h, "ann", time.Now()); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkLimitOnPostgres is a client that takes all it gets, with the statements that this costs.
func BenchmarkLimitOnPostgres(b *testing.B) {
	budgets, ok := control.OpenBudgets(databasetest.Postgres(b).Store(b, database.Control), nil, nil)
	if !ok {
		b.Fatal("there are no budgets")
	}
	for _, r := range []Rate{{PerSecond: 1e9, Burst: 100}, {PerSecond: 1e9, Burst: 10}} {
		l, _ := replica(b, budgets, "limit"+strconv.Itoa(r.Burst), r)
		b.Run("burst"+strconv.Itoa(r.Burst), func(b *testing.B) {
			for b.Loop() {
				l.take("ann", time.Now())
			}
		})
	}
}
