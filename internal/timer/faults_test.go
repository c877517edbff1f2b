package timer_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/banyan-go/banyan/internal/bustest"
	"github.com/banyan-go/banyan/internal/databasetest"
	"github.com/banyan-go/banyan/internal/message"
	"github.com/banyan-go/banyan/internal/module"
	"github.com/banyan-go/banyan/internal/unit"
)

func want[T any](t testing.TB, what string, got, want T) {
	t.Helper()
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("%s (-want +got):\n%s", what, d)
	}
}

func each(t *testing.T, fn func(t *testing.T, e databasetest.Engine)) {
	t.Helper()
	t.Parallel()
	databasetest.Each(t, []string{"beta"}, fn)
}

// clockwork is a module with timers "later" and "other", an effect "call" and a schedule "daily".
func clockwork(bind func(m *module.Module, s *unit.Store)) bustest.Part {
	return bustest.Part{Descriptor: module.Descriptor{Name: "beta", Timers: []string{"later", "other"}, Effects: []string{"call"},
		Schedules: []module.Schedule{{Name: "daily", Every: 24 * time.Hour}}, Contract: message.Contract{Module: "beta"}},
		Bind: func(m *module.Module, s *unit.Store) {
			module.OnTimer(m, "later", func(_ context.Context, u *unit.Work, key string, n int) error {
				return bustest.Keep(u, "later", key, n)
			})
			module.OnTimer(m, "other", func(_ context.Context, u *unit.Work, key string, n int) error {
				return bustest.Keep(u, "other", key, n)
			})
			module.OnEffect(m, "call", func(context.Context, string, int) error { return nil })
			module.OnSchedule(m, "daily", func(_ context.Context, u *unit.Work, due time.Time) error {
				return bustest.Keep(u, "daily", due.Format("01-02 15:04:05"), 1)
			})
			if bind != nil {
				bind(m, s)
			}
		}}
}

// A timer that was moved while its handler was failing fires at its new time, with its new payload.
func TestMovedWhileFailing(t *testing.T) {
	for _, c := range []struct {
		name string
		err  error
	}{{"transient", errors.New("down")}, {"permanent", nil}} {
		t.Run(c.name, func(t *testing.T) {
			each(t, func(t *testing.T, e databasetest.Engine) {
				failing, moved := make(chan struct{}), make(chan struct{})
				var runs atomic.Int32
				s := bustest.OpenStage(t, e, bustest.StageOptions{}, clockwork(func(m *module.Module, s *unit.Store) {
					module.OnTimer(m, "later", func(_ context.Context, u *unit.Work, key string, n int) error {
						if runs.Add(1) > 1 {
							return bustest.Keep(u, "later", key, n)
						}
						if e.Dialect == "postgres" {
							close(failing)
							<-moved // the mover waits in the database for this unit of work
						}
						if c.err != nil {
							return c.err
						}
						panic("a bug")
					})
				}))
				set := func(after time.Duration, n int) {
					s.Do("beta", func(u *unit.Work) error { u.Schedule("later", "a", u.Now().Add(after), n); return nil })
				}
				if e.Dialect == "sqlite" {
					t.Skip("the one writer leaves no moment between the two that a test could choose")
				}
				set(time.Minute, 1)
				s.Clock.Advance(time.Minute)
				<-failing
				var mover sync.WaitGroup
				mover.Go(func() { set(time.Hour, 2) })
				s.Eventually("the mover waits", func() bool {
					return s.Count("beta", "SELECT count(*) FROM pg_locks WHERE NOT granted AND pid IN (SELECT pid FROM pg_stat_activity WHERE datname = current_database())") > 0
				})
				close(moved)
				mover.Wait()
				s.Advance(10 * time.Minute)
				want(t, "before its new time", s.Seen("beta", "later", "a"), []int{})
				s.Advance(time.Hour)
				want(t, "at its new time", s.Seen("beta", "later", "a"), []int{2})
			})
		})
	}
}

// A timer that was set anew between being read and being fired, for the same moment, fires with what it was set to.
func TestSetAnewBeforeFiring(t *testing.T) {
	each(t, func(t *testing.T, e databasetest.Engine) {
		var once sync.Once
		changed := make(chan struct{})
		var s *bustest.Stage
		ready := make(chan struct{})
		s = bustest.OpenStage(t, e, bustest.StageOptions{}, clockwork(func(m *module.Module, store *unit.Store) {
			module.OnTimer(m, "later", func(_ context.Context, u *unit.Work, key string, n int) error {
				u.AfterCommit(func() {
					<-ready
					once.Do(func() { // after the first commit, and before any place is free for the last timer
						s.Do("beta", func(u *unit.Work) error {
							u.Schedule("later", "last", time.Date(2026, 3, 1, 9, 2, 0, 0, time.UTC), 99)
							return nil
						})
						close(changed)
					})
					<-changed
				})
				return bustest.Keep(u, "later", key, n)
			})
		}))
		close(ready)
		s.Do("beta", func(u *unit.Work) error {
			for i := range 20 {
				u.Schedule("later", bustest.Key(i), time.Date(2026, 3, 1, 9, 1, 0, 0, time.UTC), 1)
			}
			u.Schedule("later", "last", time.Date(2026, 3, 1, 9, 2, 0, 0, time.UTC), 1)
			return nil
		})
		s.Clock.Advance(10 * time.Minute)
		s.Settle()
		want(t, "the last timer", s.Seen("beta", "later", "last"), []int{99})
	})
}

// Effects that take longer than their rows' grace are still running: their rows must not fill the head of the batch.
func TestSlowEffectsStarveNoTimer(t *testing.T) {
	each(t, func(t *testing.T, e databasetest.Engine) {
		release := make(chan struct{})
		var once sync.Once
		s := bustest.OpenStage(t, e, bustest.StageOptions{}, clockwork(func(m *module.Module, _ *unit.Store) {
			module.OnEffect(m, "call", func(context.Context, string, int) error { <-release; return nil })
		}))
		defer once.Do(func() { close(release) })
		t.Cleanup(func() { once.Do(func() { close(release) }) })
		s.Do("beta", func(u *unit.Work) error {
			for i := range 100 {
				u.Effect("call", bustest.Key(i), i)
			}
			u.Schedule("later", "a", u.Now().Add(2*time.Minute), 1)
			return nil
		})
		s.Clock.Advance(5 * time.Minute)
		s.Eventually("the timer fires", func() bool { return len(s.Seen("beta", "later", "a")) == 1 })
		once.Do(func() { close(release) })
		s.Settle()
	})
}

// A timer whose handler hangs keeps no other one waiting that is due later.
func TestTimerThatHangs(t *testing.T) {
	t.Parallel()
	hangs, free := make(chan struct{}), make(chan struct{})
	// On SQLite a handler that hangs has the one place to write.
	s := bustest.OpenStage(t, databasetest.Postgres(t, "beta"), bustest.StageOptions{}, clockwork(func(m *module.Module, _ *unit.Store) {
		module.OnTimer(m, "other", func(_ context.Context, u *unit.Work, key string, n int) error {
			close(hangs)
			<-free
			return bustest.Keep(u, "other", key, n)
		})
	}))
	s.Do("beta", func(u *unit.Work) error { u.Schedule("other", "a", u.Now().Add(time.Second), 1); return nil })
	s.Clock.Advance(time.Minute)
	<-hangs
	s.Do("beta", func(u *unit.Work) error { u.Schedule("later", "a", u.Now().Add(time.Second), 1); return nil })
	s.Clock.Advance(24 * time.Hour)
	s.Eventually("another timer fires", func() bool { return len(s.Seen("beta", "later", "a")) == 1 })
	s.Eventually("a schedule is kept", func() bool { return s.Count("beta", "SELECT count(*) FROM seen WHERE handler = 'daily'") == 1 })
	close(free)
	s.Eventually("it fires", func() bool { return len(s.Seen("beta", "other", "a")) == 1 })
}

// An effect asked for again while its call runs is called again: what came later is not done yet.
func TestAskedAgainWhileRunning(t *testing.T) {
	for _, finishes := range []bool{false, true} {
		t.Run(fmt.Sprintf("finishes=%v", finishes), func(t *testing.T) {
			each(t, func(t *testing.T, e databasetest.Engine) {
				running, release := make(chan struct{}), make(chan struct{})
				var mu sync.Mutex
				var called []int
				s := bustest.OpenStage(t, e, bustest.StageOptions{}, clockwork(func(m *module.Module, s *unit.Store) {
					module.OnEffect(m, "call", func(ctx context.Context, key string, n int) error {
						mu.Lock()
						called = append(called, n)
						first := len(called) == 1
						mu.Unlock()
						if first {
							close(running)
							<-release
						}
						if !finishes {
							return nil
						}
						return s.Do(ctx, func(_ context.Context, u *unit.Work) error { u.FinishEffect("call", key); return nil })
					})
				}))
				s.Do("beta", func(u *unit.Work) error { u.Effect("call", "a", 1); return nil })
				<-running
				s.Clock.Advance(time.Second)
				s.Do("beta", func(u *unit.Work) error { u.Effect("call", "a", 2); return nil })
				close(release)
				for range 5 {
					s.Advance(time.Minute)
				}
				mu.Lock()
				defer mu.Unlock()
				want(t, "calls", called, []int{1, 2})
			})
		})
	}
}

// A schedule keeps its step when it fails, and its handler hears of the due time it is for.
func TestScheduleKeepsStep(t *testing.T) {
	each(t, func(t *testing.T, e databasetest.Engine) {
		var runs atomic.Int32
		s := bustest.OpenStage(t, e, bustest.StageOptions{}, clockwork(func(m *module.Module, _ *unit.Store) {
			module.OnSchedule(m, "daily", func(_ context.Context, u *unit.Work, due time.Time) error {
				if runs.Add(1) <= 3 {
					return errors.New("down")
				}
				return bustest.Keep(u, "daily", due.Format("01-02 15:04:05.000"), 1)
			})
		}))
		s.Advance(24 * time.Hour)
		s.Advance(time.Hour)
		s.Advance(time.Hour)
		s.Advance(time.Hour)
		s.Advance(24 * time.Hour)
		var dues []string
		if err := s.Stores["beta"].Read(t.Context()).Raw("SELECT key FROM seen ORDER BY position").Scan(&dues).Error; err != nil {
			t.Fatal(err)
		}
		want(t, "due times", dues, []string{"03-02 09:00:00.000", "03-03 09:00:00.000"})
	})
}

// Downtime over several periods is caught up once, and the step is kept.
func TestScheduleCatchesUpOnce(t *testing.T) {
	each(t, func(t *testing.T, e databasetest.Engine) {
		s := bustest.OpenStage(t, e, bustest.StageOptions{}, clockwork(nil))
		s.Advance(24 * time.Hour)
		s.Stop()
		s.Clock.Advance(5*24*time.Hour + time.Hour)
		s.Run()
		s.Settle()
		s.Advance(23 * time.Hour)
		var dues []string
		if err := s.Stores["beta"].Read(t.Context()).Raw("SELECT key FROM seen ORDER BY position").Scan(&dues).Error; err != nil {
			t.Fatal(err)
		}
		want(t, "due times", dues, []string{"03-02 09:00:00", "03-03 09:00:00", "03-08 09:00:00"})
	})
}

// While a new version is rolled out the older one may find timers and effects it does not know. It leaves them to the
// newer one.
func TestUnknownTimersWaitForTheirVersion(t *testing.T) {
	each(t, func(t *testing.T, e databasetest.Engine) {
		s := bustest.OpenStage(t, e, bustest.StageOptions{}, clockwork(nil))
		s.Do("beta", func(u *unit.Work) error {
			for _, kind := range []string{unit.KindTimer, unit.KindEffect, unit.KindSchedule} {
				if err := u.DB.Exec("INSERT INTO timers (kind, name, key, due_at, first_at, attempt, payload) VALUES (?, ?, '', ?, ?, 0, ?)", kind, "new "+kind, u.Now(), u.Now(), []byte("1")).Error; err != nil {
					return err
				}
			}
			return nil
		})
		s.Clock.Advance(time.Minute)
		s.Do("beta", func(u *unit.Work) error { u.Schedule("later", "a", u.Now(), 1); return nil })
		s.Eventually("a known timer fires", func() bool { return len(s.Seen("beta", "later", "a")) == 1 })
		want(t, "dead letters", s.Count("beta", "SELECT count(*) FROM dead_letters"), 0)
		want(t, "rows left", s.Count("beta", "SELECT count(*) FROM timers WHERE name LIKE 'new %'"), 3)
	})
}

// Effects work after the bus was stopped and started again in one process.
func TestEffectsAfterASecondRun(t *testing.T) {
	each(t, func(t *testing.T, e databasetest.Engine) {
		var called atomic.Int32
		s := bustest.OpenStage(t, e, bustest.StageOptions{}, clockwork(func(m *module.Module, _ *unit.Store) {
			module.OnEffect(m, "call", func(context.Context, string, int) error { called.Add(1); return nil })
		}))
		s.Stop()
		s.Run()
		s.Do("beta", func(u *unit.Work) error { u.Effect("call", "a", 1); return nil })
		s.Settle()
		s.Advance(time.Hour)
		want(t, "calls", called.Load(), int32(1))
	})
}

// A shutdown waits for the calls that run, not for those that wait for a place: their rows keep them.
func TestDrainWaitsForRunningCallsOnly(t *testing.T) {
	each(t, func(t *testing.T, e databasetest.Engine) {
		release := make(chan struct{})
		var began atomic.Int32
		s := bustest.OpenStage(t, e, bustest.StageOptions{}, clockwork(func(m *module.Module, _ *unit.Store) {
			module.OnEffect(m, "call", func(context.Context, string, int) error {
				began.Add(1)
				<-release
				return nil
			})
		}))
		s.Do("beta", func(u *unit.Work) error {
			for i := range 100 {
				u.Effect("call", bustest.Key(i), i)
			}
			return nil
		})
		s.Eventually("calls run", func() bool { return began.Load() == 32 })
		stopped := make(chan struct{})
		go func() { s.Stop(); close(stopped) }()
		// The owner-only work has ended once nobody is owner any more.
		s.Eventually("the bus stops", func() bool {
			m, _ := s.Bus.Status(context.Background())
			return !m["beta"].Owner
		})
		close(release)
		<-stopped
		if n := began.Load(); n > 40 {
			t.Errorf("%d calls were begun by the end of the shutdown, want the 32 that ran", n)
		}
	})
}

// Two processes on one store, of which the first is declared dead while its effect runs: each outcome once, whoever is
// slower.
func TestEffectOfADeadProcess(t *testing.T) {
	t.Parallel()
	e := databasetest.Postgres(t, "beta")
	release := make(chan struct{})
	var calls atomic.Int32
	part := func(slow bool) bustest.Part {
		return clockwork(func(m *module.Module, s *unit.Store) {
			module.OnEffect(m, "call", func(ctx context.Context, key string, n int) error {
				calls.Add(1)
				if slow {
					<-release
				}
				return s.Do(ctx, func(_ context.Context, u *unit.Work) error {
					u.FinishEffect("call", key)
					// The outcome has a row of its own, as that of a payment.
					return u.DB.Exec("INSERT INTO seen (position, handler, key, n, message_id) VALUES (1, 'outcome', ?, ?, '') ON CONFLICT (position) DO NOTHING", key, n).Error
				})
			})
		})
	}
	a, err := bustest.SetStage(t, e, bustest.StageOptions{Replica: "a"}, part(true))
	if err != nil {
		t.Fatal(err)
	}
	b := bustest.OpenStage(t, e, bustest.StageOptions{Replica: "b", Clock: a.Clock}, part(false))
	a.Do("beta", func(u *unit.Work) error { u.Effect("call", "a", 7); return nil })
	a.Eventually("the first call runs", func() bool { return calls.Load() == 1 })
	a.Clock.Advance(unit.EffectGrace + time.Second)
	b.Eventually("the other process takes over", func() bool { return len(b.Seen("beta", "outcome", "a")) == 1 })
	close(release)
	a.Eventually("the first call ends", func() bool { return !a.Stores["beta"].Busy() })
	want(t, "outcome", b.Seen("beta", "outcome", "a"), []int{7})
	want(t, "rows left", b.Count("beta", "SELECT count(*) FROM timers WHERE kind = 'effect'"), 0)
	want(t, "dead letters", b.Count("beta", "SELECT count(*) FROM dead_letters"), 0)
}

// Two processes look for the same due timers and schedules: each fires once.
func TestOncePerDueTimeAcrossProcesses(t *testing.T) {
	t.Parallel()
	e := databasetest.Postgres(t, "beta")
	a, err := bustest.SetStage(t, e, bustest.StageOptions{Replica: "a"}, clockwork(nil))
	if err != nil {
		t.Fatal(err)
	}
	// The same name twice: both hold the lease all the time, which only a row per due time can make harmless.
	b := bustest.OpenStage(t, e, bustest.StageOptions{Replica: "a", Clock: a.Clock}, clockwork(nil))
	a.Run()
	a.Do("beta", func(u *unit.Work) error {
		for i := range 100 {
			u.Schedule("later", bustest.Key(i), u.Now().Add(time.Minute), i)
		}
		return nil
	})
	a.Advance(time.Minute)
	for range 3 {
		a.Advance(24 * time.Hour)
	}
	b.Settle()
	want(t, "timers", len(a.Seen("beta", "later", "")), 100)
	want(t, "schedule", len(a.Seen("beta", "daily", "")), 3)
}

// While a store takes no writes, what is due is tried now and then, and not as fast as the machine can.
func TestStoreThatTakesNoWrites(t *testing.T) {
	t.Parallel()
	var tries atomic.Int32
	s := bustest.OpenStage(t, databasetest.SQLite(t), bustest.StageOptions{}, clockwork(func(m *module.Module, _ *unit.Store) {
		module.OnTimer(m, "later", func(context.Context, *unit.Work, string, int) error { tries.Add(1); return errors.New("down") })
	}))
	const more = 100 // than are fired together
	s.Do("beta", func(u *unit.Work) error {
		for i := range more {
			u.Schedule("later", bustest.Key(i), u.Now().Add(time.Minute), i)
		}
		return u.DB.Exec("CREATE TRIGGER full BEFORE UPDATE ON timers BEGIN SELECT RAISE(ABORT, 'disk full'); END").Error
	})
	s.Clock.Advance(time.Minute)
	s.Eventually("they are tried", func() bool { return tries.Load() > 0 })
	for round := range 3 {
		s.Clock.Advance(time.Second)
		<-time.After(100 * time.Millisecond) // in which nothing shall happen but what is due
		if n := int(tries.Load()); n > (round+2)*more {
			t.Fatalf("%d tries in %d seconds, with %d timers due", n, round+1, more)
		}
	}
	s.Do("beta", func(u *unit.Work) error { return u.DB.Exec("DROP TRIGGER full").Error })
	s.Eventually("they are put off", func() bool {
		s.Clock.Advance(time.Second)
		return s.Count("beta", "SELECT count(*) FROM timers WHERE name = 'later' AND attempt > 0") == more
	})
}
