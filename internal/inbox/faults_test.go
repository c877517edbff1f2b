package inbox_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"gorm.io/gorm"

	"github.com/banyan-go/banyan/internal/bus"
	"github.com/banyan-go/banyan/internal/bustest"
	"github.com/banyan-go/banyan/internal/databasetest"
	"github.com/banyan-go/banyan/internal/errs"
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
	databasetest.Each(t, bustest.Modules, fn)
}

// A retry can fail in more ways than by the error of its handler: a panic, a refusal when the messages are written, a
// refusal at the commit. Each is a failure of this message; no other key may wait for it.
func TestRetryThatBreaksStopsNoOtherKey(t *testing.T) {
	for _, c := range []struct {
		name string
		how  func(u *unit.Work) error
	}{
		{"a panic", func(*unit.Work) error { panic("a bug") }},
		{"an event of another module", func(u *unit.Work) error {
			u.Publish(bustest.Counted{ID: "a", N: 1})
			return nil
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			each(t, func(t *testing.T, e databasetest.Engine) {
				var stage *bustest.Stage
				var state atomic.Int32 // 0 transient for all, 1 "bad" breaks, others are well
				stage = bustest.OpenStage(t, e, bustest.StageOptions{}, bustest.Alpha(),
					bustest.Listener("beta", module.Subscription{Handler: "count", Events: []string{"alpha.*"}}, func(_ context.Context, u *unit.Work, m message.Message) error {
						switch {
						case state.Load() == 0:
							return errors.New("down")
						case m.Key == "bad":
							return c.how(u)
						}
						return bustest.Keep(u, "count", m.Key, bustest.Number(m))
					}))
				stage.Announce("alpha", bustest.Counted{ID: "bad", N: 1})
				stage.Settle()
				stage.Clock.Advance(time.Millisecond) // the other key is due after the bad one
				stage.Announce("alpha", bustest.Counted{ID: "good", N: 1})
				stage.Settle()
				state.Store(1)
				stage.Clock.Advance(time.Minute)
				stage.Eventually("the other key is retried", func() bool { return len(stage.Seen("beta", "count", "good")) == 1 })
				for range 300 {
					stage.Clock.Advance(10 * time.Minute)
					stage.Settle()
				}
				want(t, "dead letters in the end", stage.Count("beta", "SELECT count(*) FROM dead_letters"), 1)
			})
		})
	}
}

// A handler that outlives its time has failed: it is parked and tried again like any other, and gives its place back.
func TestHandlerTimeoutParks(t *testing.T) {
	each(t, func(t *testing.T, e databasetest.Engine) {
		stage := bustest.OpenStage(t, e, bustest.StageOptions{Config: func(c *bus.Config) {
			c.HandlerTimeout, c.Workers, c.Window = time.Second, 2, 8
		}}, bustest.Alpha(),
			bustest.Listener("beta", module.Subscription{Handler: "count", Events: []string{"alpha.*"}}, func(ctx context.Context, u *unit.Work, m message.Message) error {
				if m.Key != "good" {
					<-ctx.Done()
					return ctx.Err()
				}
				return bustest.Keep(u, "count", m.Key, bustest.Number(m))
			}))
		for _, k := range []string{"bad1", "bad2", "good"} {
			stage.Announce("alpha", bustest.Counted{ID: k, N: 1})
		}
		stage.Eventually("the other key is handled", func() bool { return len(stage.Seen("beta", "count", "good")) == 1 })
		stage.Eventually("the slow ones are parked", func() bool {
			return stage.Count("beta", "SELECT count(*) FROM parked_key") == 2
		})
	})
}

// A retry has the same time as a first attempt, or one handler that hangs stops all retries and timers of its module.
func TestRetryHasATimeout(t *testing.T) {
	t.Parallel()
	e := databasetest.Postgres(t, bustest.Modules...)
	var first atomic.Bool
	stage := bustest.OpenStage(t, e, bustest.StageOptions{Config: func(c *bus.Config) { c.HandlerTimeout = 200 * time.Millisecond }}, bustest.Alpha(),
		bustest.Listener("beta", module.Subscription{Handler: "count", Events: []string{"alpha.*"}}, func(ctx context.Context, u *unit.Work, m message.Message) error {
			if !first.Load() {
				return errors.New("down")
			}
			if m.Key == "slow" {
				<-ctx.Done()
				return ctx.Err()
			}
			return bustest.Keep(u, "count", m.Key, bustest.Number(m))
		}))
	stage.Announce("alpha", bustest.Counted{ID: "slow", N: 1})
	stage.Settle()
	stage.Clock.Advance(time.Millisecond)
	stage.Announce("alpha", bustest.Counted{ID: "good", N: 1})
	stage.Settle()
	first.Store(true)
	stage.Clock.Advance(time.Minute)
	stage.Eventually("the other key is retried", func() bool { return len(stage.Seen("beta", "count", "good")) == 1 })
}

// A retry whose handler hangs keeps no other key waiting, whether that is due at the same time or later.
func TestRetryThatHangs(t *testing.T) {
	t.Parallel()
	e := databasetest.Postgres(t, bustest.Modules...) // on SQLite a handler that hangs has the one place to write
	var up atomic.Bool
	hangs, free := make(chan struct{}), make(chan struct{})
	stage := bustest.OpenStage(t, e, bustest.StageOptions{}, bustest.Alpha(),
		bustest.Listener("beta", module.Subscription{Handler: "count", Events: []string{"alpha.*"}}, func(ctx context.Context, u *unit.Work, m message.Message) error {
			switch {
			case !up.Load():
				return errors.New("down")
			case m.Key == "slow":
				close(hangs)
				<-free
			}
			return bustest.Keep(u, "count", m.Key, bustest.Number(m))
		}))
	fail := func(key string) {
		stage.Announce("alpha", bustest.Counted{ID: key, N: 1})
		stage.Eventually(key+" is parked", func() bool {
			return stage.Count("beta", "SELECT count(*) FROM parked_key WHERE key = ?", "alpha/"+key) == 1
		})
		stage.Clock.Advance(time.Millisecond)
	}
	fail("slow")
	fail("good")
	up.Store(true)
	stage.Clock.Advance(time.Minute)
	<-hangs
	stage.Eventually("what was due with it is retried", func() bool { return len(stage.Seen("beta", "count", "good")) == 1 })
	up.Store(false)
	fail("later")
	up.Store(true)
	stage.Clock.Advance(time.Minute)
	stage.Eventually("what is due later is retried", func() bool { return len(stage.Seen("beta", "count", "later")) == 1 })
	close(free)
	stage.Eventually("it is handled", func() bool { return len(stage.Seen("beta", "count", "slow")) == 1 })
}

// PostgreSQL keeps neither NUL nor broken UTF-8 in a text. A reason that has them is still a reason.
func TestReasonThatNoTextCanHold(t *testing.T) {
	each(t, func(t *testing.T, e databasetest.Engine) {
		w := bustest.Open(t, e, bustest.Options{})
		for _, kind := range []errs.Kind{errs.Unavailable, errs.Invalid} {
			w.Fail("count", func(int) error { return errs.New(kind, "card \x00\xff is not accepted") })
			w.Publish(string(kind), 1)
			bustest.Eventually(t, "the message is parked or dead", 5*time.Second, func() bool {
				return bustest.Count(t, w.Beta, "SELECT count(*) FROM parked_key WHERE key = ?", "alpha/"+string(kind)) == 1
			})
		}
	})
}

// blocked says how many sessions of the engine's database wait for a lock.
func blocked(t testing.TB, s *unit.Store) int {
	return bustest.Count(t, s, "SELECT count(*) FROM pg_locks WHERE NOT granted AND pid IN (SELECT pid FROM pg_stat_activity WHERE datname = current_database())")
}

// An arrival behind a dead letter and the letter's discard must exclude each other: an arrival appended to a key that
// is freed at the same moment would wait for ever.
func TestDiscardRacesArrival(t *testing.T) {
	t.Parallel()
	w := bustest.Open(t, databasetest.Postgres(t, bustest.Modules...), bustest.Options{})
	w.Fail("count", func(n int) error {
		if n == 1 {
			return errs.New(errs.Invalid, "no")
		}
		return nil
	})
	w.Publish("a", 1)
	w.Settle()
	id := w.Letters()[0]
	// The arrival is stopped in the middle of being appended by an uncommitted row with its id.
	m := message.Message{ID: message.NewID(), Name: "alpha.counted.v1", Source: "alpha", Key: "a", Sequence: 2, Time: w.Clock.Now(), Payload: []byte(`{"id":"a","n":2}`)}
	ready, hold := make(chan struct{}), make(chan struct{})
	var all sync.WaitGroup
	all.Go(func() {
		_ = w.Beta.DB().Write(context.Background(), func(tx *gorm.DB) error {
			if err := tx.Exec("INSERT INTO parked (handler, key, message_id, name, subject, message, error) VALUES ('count', 'elsewhere', ?, '', '', '', '')", m.ID).Error; err != nil {
				t.Error(err)
			}
			close(ready)
			<-hold
			return errors.New("roll back")
		})
	})
	<-ready
	all.Go(func() {
		if err := w.Bus.Deliver(context.Background(), "beta", m); err != nil {
			t.Error(err)
		}
	})
	bustest.Eventually(t, "the arrival waits", 5*time.Second, func() bool { return blocked(t, w.Beta) == 1 })
	in, err := w.Bus.Inbox("beta")
	if err != nil {
		t.Fatal(err)
	}
	all.Go(func() {
		if err := in.Discard(context.Background(), id, "test"); err != nil {
			t.Error(err)
		}
	})
	bustest.Eventually(t, "the discard waits", 5*time.Second, func() bool { return blocked(t, w.Beta) == 2 })
	close(hold)
	all.Wait()
	bustest.Eventually(t, "the arrival is handled", 5*time.Second, func() bool { return slices.Equal(w.Seen(w.Beta, "count", "a"), []int{2}) })
}

// The order between a failure and a retry of the same key: a message parked while the key's row is being removed
// must make a row of its own. It happens to a handler that skips, when its dead letter is replayed.
func TestFailureRacesTheEndOfARetry(t *testing.T) {
	t.Parallel()
	w := bustest.Open(t, databasetest.Postgres(t, bustest.Modules...), bustest.Options{Handler: func(s *module.Subscription) { s.Skip = true }})
	fail := errs.New(errs.Invalid, "no")
	w.Fail("count", func(int) error { return fail })
	w.Publish("a", 1)
	w.Settle()
	in, err := w.Bus.Inbox("beta")
	if err != nil {
		t.Fatal(err)
	}
	// Message 2 is being attempted, and will fail; message 1 is replayed meanwhile and handled at last.
	started, fails := make(chan struct{}), make(chan struct{})
	handling, handled := make(chan struct{}), make(chan struct{})
	var once sync.Once
	w.Fail("count", func(n int) error {
		if n == 1 {
			once.Do(func() { close(handling) })
			<-handled
			return nil
		}
		select {
		case <-started: // a retry
			return nil
		default:
		}
		close(started)
		<-fails
		return errors.New("down")
	})
	w.Publish("a", 2)
	<-started
	if err := in.Replay(t.Context(), w.Letters()[0]); err != nil {
		t.Fatal(err)
	}
	<-handling // the retry holds the key's row
	// The failure is stopped after it has looked for the key's row and before it commits.
	ready, hold := make(chan struct{}), make(chan struct{})
	var all sync.WaitGroup
	id := ""
	bustest.Eventually(t, "the second message is in the outbox", 5*time.Second, func() bool {
		return w.Alpha.Read(context.Background()).Raw("SELECT message_id FROM outbox ORDER BY id DESC LIMIT 1").Row().Scan(&id) == nil
	})
	all.Go(func() {
		_ = w.Beta.DB().Write(context.Background(), func(tx *gorm.DB) error {
			if err := tx.Exec("INSERT INTO parked (handler, key, message_id, name, subject, message, error) VALUES ('count', 'elsewhere', ?, '', '', '', '')", id).Error; err != nil {
				t.Error(err)
			}
			close(ready)
			<-hold
			return errors.New("roll back")
		})
	})
	<-ready
	close(fails)
	bustest.Eventually(t, "the failure waits", 5*time.Second, func() bool { return blocked(t, w.Beta) == 1 })
	close(handled)
	bustest.Eventually(t, "the retry is over, or waits", 5*time.Second, func() bool {
		return blocked(t, w.Beta) == 2 || len(w.Seen(w.Beta, "count", "a")) == 1
	})
	close(hold)
	all.Wait()
	w.Settle()
	w.Advance(time.Minute)
	want(t, "handled", w.Seen(w.Beta, "count", "a"), []int{1, 2})
}

// An operator replays many letters at once.
func TestReplaysAtOnce(t *testing.T) {
	each(t, func(t *testing.T, e databasetest.Engine) {
		w := bustest.Open(t, e, bustest.Options{})
		w.Fail("count", func(int) error { return errs.New(errs.Invalid, "no") })
		for i := range 24 {
			w.Publish(bustest.Key(i), 1)
		}
		w.Settle()
		w.Fail("count", nil)
		in, err := w.Bus.Inbox("beta")
		if err != nil {
			t.Fatal(err)
		}
		var all sync.WaitGroup
		for _, id := range w.Letters() {
			all.Go(func() {
				if err := in.Replay(context.Background(), id); err != nil {
					t.Errorf("replay: %v", err)
				}
			})
		}
		all.Wait()
		w.Settle()
		want(t, "handled", len(w.Seen(w.Beta, "count", "")), 24)
	})
}

// While a new version is rolled out the older one finds rows of handlers that it does not know. It leaves them alone.
func TestRowsOfUnknownHandlersStarveNobody(t *testing.T) {
	each(t, func(t *testing.T, e databasetest.Engine) {
		w := bustest.Open(t, e, bustest.Options{})
		early := w.Clock.Now().Add(-time.Hour)
		if err := w.Beta.Do(t.Context(), func(_ context.Context, u *unit.Work) error {
			for i := range 100 {
				if err := u.DB.Exec("INSERT INTO parked_key (handler, key, next_at, attempt, first_at, delay_ms) VALUES ('of another version', ?, ?, 1, ?, 0)", bustest.Key(i), early, early).Error; err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		w.Fail("count", func(int) error { return errors.New("down") })
		w.Publish("a", 1)
		bustest.Eventually(t, "the message is parked", 5*time.Second, func() bool {
			return bustest.Count(t, w.Beta, "SELECT count(*) FROM parked_key WHERE key = 'alpha/a'") == 1
		})
		w.Fail("count", nil)
		w.Clock.Advance(time.Minute)
		bustest.Eventually(t, "the key is retried", 5*time.Second, func() bool { return len(w.Seen(w.Beta, "count", "a")) == 1 })
	})
}

// Whoever leads a group handles others' messages on the way; the own one must not wait until nobody else does.
func TestLeaderOfAGroupIsNotKept(t *testing.T) {
	t.Parallel()
	var handled atomic.Int64
	first := make(chan struct{})
	stage := bustest.OpenStage(t, databasetest.Postgres(t, bustest.Modules...), bustest.StageOptions{Config: func(c *bus.Config) { c.Workers = 64 }}, bustest.Alpha(),
		bustest.Listener("beta", module.Subscription{Handler: "count", Events: []string{"alpha.*"}, Group: 4}, func(_ context.Context, u *unit.Work, m message.Message) error {
			handled.Add(1)
			return bustest.Keep(u, "count", m.Key, bustest.Number(m))
		}))
	deliver := func(key string, n int) {
		m := message.Message{ID: message.NewID(), Name: "alpha.counted.v1", Source: "alpha", Key: key, Sequence: int64(n), Time: stage.Clock.Now(), Payload: fmt.Appendf(nil, `{"id":%q,"n":%d}`, key, n)}
		if err := stage.Bus.Deliver(context.Background(), "beta", m); err != nil {
			t.Error(err)
		}
	}
	// Enough senders that somebody always waits; each of them stops once each has had one message taken.
	const senders = 24
	var once [senders]sync.Once
	var served atomic.Int64
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var all sync.WaitGroup
	for i := range senders {
		all.Go(func() {
			for n := 1; ctx.Err() == nil; n++ {
				deliver(bustest.Key(i), n)
				once[i].Do(func() {
					if served.Add(1) == senders {
						close(first)
					}
				})
			}
		})
	}
	select {
	case <-first:
	case <-time.After(3 * time.Second):
		t.Errorf("after %d messages one sender still waits for its first", handled.Load())
	}
	cancel()
	all.Wait()
}

// Handlers that lock the rows of their keys do not wait for each other in a circle, as each group takes its messages in the order of
// their keys.
func TestGroupsGoByKey(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	groups := map[string][]string{} // keys by transaction
	stage := bustest.OpenStage(t, databasetest.Postgres(t, bustest.Modules...), bustest.StageOptions{Config: func(c *bus.Config) { c.Workers = 64 }}, bustest.Alpha(),
		bustest.Listener("beta", module.Subscription{Handler: "count", Events: []string{"alpha.*"}, Group: 16}, func(_ context.Context, u *unit.Work, m message.Message) error {
			var transaction string
			if err := u.DB.Raw("SELECT CAST(pg_current_xact_id() AS TEXT)").Row().Scan(&transaction); err != nil {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			groups[transaction] = append(groups[transaction], m.Key)
			return nil
		}))
	var all sync.WaitGroup
	for _, n := range rand.Perm(60) {
		all.Go(func() {
			key := bustest.Key(n)
			m := message.Message{ID: message.NewID(), Name: "alpha.counted.v1", Source: "alpha", Key: key, Sequence: 1, Time: stage.Clock.Now(), Payload: fmt.Appendf(nil, `{"id":%q,"n":1}`, key)}
			if err := stage.Bus.Deliver(t.Context(), "beta", m); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	longest := 0
	for _, keys := range groups {
		longest = max(longest, len(keys))
		if !slices.IsSorted(keys) {
			t.Errorf("a group goes %v", keys)
		}
	}
	if longest < 2 {
		t.Error("no messages were grouped")
	}
}

// Rows of one user's dead letters are blanked by their own id; those of others stay as they are.
func TestErasureTouchesNoOtherDeadLetter(t *testing.T) {
	each(t, func(t *testing.T, e databasetest.Engine) {
		w := bustest.Open(t, e, bustest.Options{})
		w.Fail("count", func(int) error { return errs.New(errs.Invalid, "no") })
		for i, subject := range []string{"ann", "bob"} {
			m := message.Message{ID: message.NewID(), Name: "alpha.counted.v1", Source: "alpha", Key: subject, Sequence: 1, Subject: subject, Time: w.Clock.Now(), Payload: fmt.Appendf(nil, `{"id":%q,"n":%d}`, subject, i+1)}
			if err := w.Bus.Deliver(t.Context(), "beta", m); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.Beta.Do(t.Context(), func(_ context.Context, u *unit.Work) error { return u.Erase("ann") }); err != nil {
			t.Fatal(err)
		}
		in, err := w.Bus.Inbox("beta")
		if err != nil {
			t.Fatal(err)
		}
		w.Fail("count", nil)
		for _, id := range w.Letters() {
			if err := in.Replay(t.Context(), id); err != nil {
				t.Fatal(err)
			}
		}
		w.Settle()
		want(t, "bob's message", w.Seen(w.Beta, "count", "bob"), []int{2})
	})
}

// What a message's failure says may quote the message; it goes with it.
func TestErasureTakesTheReasonToo(t *testing.T) {
	each(t, func(t *testing.T, e databasetest.Engine) {
		w := bustest.Open(t, e, bustest.Options{})
		deliver := func(key string) {
			m := message.Message{ID: message.NewID(), Name: "alpha.counted.v1", Source: "alpha", Key: key, Sequence: 1, Subject: "ann", Time: w.Clock.Now(), Payload: []byte(`{"id":"a","n":1}`)}
			if err := w.Bus.Deliver(t.Context(), "beta", m); err != nil {
				t.Fatal(err)
			}
		}
		w.Fail("count", func(int) error { return errs.New(errs.Invalid, "ann@example.com is unknown") })
		deliver("dead")
		w.Fail("count", func(int) error { return errors.New("cannot reach ann@example.com") })
		deliver("parked")
		if err := w.Beta.Do(t.Context(), func(_ context.Context, u *unit.Work) error { return u.Erase("ann") }); err != nil {
			t.Fatal(err)
		}
		want(t, "reasons left", bustest.Count(t, w.Beta, "SELECT (SELECT count(*) FROM parked WHERE error LIKE '%ann@%') + (SELECT count(*) FROM dead_letters WHERE reason LIKE '%ann@%')"), 0)
	})
}

// A letter of a key that a later letter blocks does not unblock it.
func TestDiscardOfAnOldLetterKeepsTheKeyBlocked(t *testing.T) {
	each(t, func(t *testing.T, e databasetest.Engine) {
		w := bustest.Open(t, e, bustest.Options{Handler: func(s *module.Subscription) { s.Skip = true }})
		w.Fail("count", func(n int) error {
			if n < 3 {
				return errs.New(errs.Invalid, "no")
			}
			return nil
		})
		w.Publish("a", 1)
		w.Settle()
		w.Close()
		w = bustest.Open(t, e, bustest.Options{})
		w.Fail("count", func(n int) error {
			if n < 3 {
				return errs.New(errs.Invalid, "no")
			}
			return nil
		})
		w.Publish("a", 2, 3)
		w.Settle()
		in, err := w.Bus.Inbox("beta")
		if err != nil {
			t.Fatal(err)
		}
		letters := w.Letters()
		want(t, "letters", len(letters), 2)
		if err := in.Discard(t.Context(), letters[0], "test"); err != nil {
			t.Fatal(err)
		}
		w.Settle()
		want(t, "handled behind the second letter", len(w.Seen(w.Beta, "count", "a")), 0)
	})
}

// One key with much behind it is not handled at one go: others are due too.
func TestLongKeyLetsOthersIn(t *testing.T) {
	each(t, func(t *testing.T, e databasetest.Engine) {
		const long = 600
		var down atomic.Bool
		down.Store(true)
		var mu sync.Mutex
		var order []string
		stage := bustest.OpenStage(t, e, bustest.StageOptions{}, bustest.Alpha(),
			bustest.Listener("beta", module.Subscription{Handler: "count", Events: []string{"alpha.*"}}, func(_ context.Context, u *unit.Work, m message.Message) error {
				if down.Load() {
					return errors.New("down")
				}
				u.AfterCommit(func() { mu.Lock(); order = append(order, m.Key); mu.Unlock() })
				return nil
			}))
		stage.Do("alpha", func(u *unit.Work) error {
			for n := range long {
				u.Publish(bustest.Counted{ID: "long", N: n})
			}
			return nil
		})
		stage.Settle()
		stage.Clock.Advance(time.Millisecond)
		stage.Announce("alpha", bustest.Counted{ID: "short", N: 1})
		stage.Settle()
		down.Store(false)
		stage.Advance(time.Minute)
		// What is called after a commit may come a moment after the bus has nothing left to do.
		bustest.Eventually(t, "all are handled", 30*time.Second, func() bool { mu.Lock(); defer mu.Unlock(); return len(order) == long+1 })
		mu.Lock()
		defer mu.Unlock()
		if at := slices.Index(order, "short"); at < 0 || at == long {
			t.Errorf("the short key was handled after all %d messages of the long one", at)
		}
	})
}
