package bus_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"gorm.io/gorm"

	"github.com/banyan-go/banyan/internal/bustest"
	"github.com/banyan-go/banyan/internal/databasetest"
	"github.com/banyan-go/banyan/internal/errs"
	"github.com/banyan-go/banyan/internal/message"
	"github.com/banyan-go/banyan/internal/module"
	"github.com/banyan-go/banyan/internal/unit"
)

// What other systems of this kind got wrong, as tests. Where a row is not here it is held elsewhere:
//
//	two processes start with 10,000 pending messages: each effect once    TestTwoProcessesStartWithABacklog
//	sent again while its handler runs: no duplicate                       TestSentAgainWhileItsHandlerRuns
//	a crash between the handler's commit and the acknowledgement          TestCrashBeforeTheAcknowledgement; with kill -9 in package e2e
//	a handled message never goes back                                     TestHandledNeverGoesBack
//	delay and backoff of keys in different states                         TestDelaysOfMixedStates
//	a poison message: other keys go on, nothing starves behind it         TestPoisonAtTheHead; retries and timers in packages inbox and timer
//	a renamed handler with messages under way                             TestRenamedHandler
//	a payload that is encoded differently each time                       TestPayloadWithoutAnOrder
//	nobody subscribes: kept, visible, no panic                            TestNobodySubscribes
//	commit order is delivery order per key under 64 writers               the bus's suite (one key); TestCommitOrderOfManyKeys
//	a million pending messages: bounded memory, a flat rate               TestBacklog
//	the same message after 30 days and more                               TestSameMessageMuchLater
//	the receiver changes its input                                        package unit, TestPayloadIsTheHandlersOwn; replies in the bus's suite
//	a module's role cannot read another schema                            package database, TestRolesAreSeparate
//	a timer fires once per due time across processes, also after downtime package timer, TestOncePerDueTimeAcrossProcesses and TestScheduleCatchesUpOnce
//	a ledger tells a recovered message from a lost one                    TestLedgerTellsRecoveryFromLoss
//	a session is cut in the middle                                        TestSessionsCutInTheMiddle

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

// backlog writes many messages in few units of work: message n has key n%keys.
func backlog(t testing.TB, s *unit.Store, many, keys int) {
	t.Helper()
	const batch = 1000
	for from := 0; from < many; from += batch {
		if err := s.Do(context.Background(), func(_ context.Context, u *unit.Work) error {
			for n := from; n < min(many, from+batch); n++ {
				u.Publish(bustest.Other{ID: bustest.Key(n % keys), N: n / keys})
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
}

func TestTwoProcessesStartWithABacklog(t *testing.T) {
	t.Parallel()
	e := databasetest.Postgres(t, bustest.Modules...)
	a := bustest.Prepare(t, e, bustest.Options{Replica: "a"})
	b := bustest.Prepare(t, e, bustest.Options{Replica: "b"})
	const many, keys = 10_000, 100
	backlog(t, a.Alpha, many, keys)
	var both sync.WaitGroup
	both.Go(a.Run)
	both.Go(b.Run)
	both.Wait()
	bustest.Eventually(t, "the backlog is handled", 50*time.Second, func() bool {
		return bustest.Count(t, a.Alpha, "SELECT count(*) FROM delivery") == 0
	})
	for k := range keys {
		want(t, bustest.Key(k), a.Seen(a.Beta, "count", bustest.Key(k)), bustest.Range(0, many/keys-1))
	}
}

func TestSentAgainWhileItsHandlerRuns(t *testing.T) {
	each(t, func(t *testing.T, e databasetest.Engine) {
		w := bustest.Open(t, e, bustest.Options{})
		running, release := make(chan struct{}), make(chan struct{})
		var once sync.Once
		w.Fail("count", func(int) error {
			once.Do(func() { close(running) })
			<-release
			return nil
		})
		m := message.Message{ID: message.NewID(), Name: "alpha.counted.v1", Source: "alpha", Key: "a", Sequence: 1, Time: w.Clock.Now(), Payload: []byte(`{"id":"a","n":1}`)}
		var all sync.WaitGroup
		deliver := func() {
			all.Go(func() {
				if err := w.Bus.Deliver(context.Background(), "beta", m); err != nil {
					t.Error(err)
				}
			})
		}
		deliver()
		<-running
		for range 5 {
			deliver()
		}
		close(release)
		all.Wait()
		want(t, "effects", w.Seen(w.Beta, "count", "a"), []int{1})
	})
}

func TestCrashBeforeTheAcknowledgement(t *testing.T) {
	each(t, func(t *testing.T, e databasetest.Engine) {
		w := bustest.Open(t, e, bustest.Options{})
		w.Publish("a", bustest.Range(1, 5)...)
		w.Settle()
		// As after a crash: the rows of messages that beta has handled are still there. Message 6 came later.
		w.Stop()
		if err := w.Alpha.Do(t.Context(), func(_ context.Context, u *unit.Work) error {
			for n := 1; n <= 5; n++ {
				var id string
				if err := w.Beta.Read(context.Background()).Raw("SELECT message_id FROM seen WHERE n = ?", n).Row().Scan(&id); err != nil {
					return err
				}
				if err := u.DB.Exec(`INSERT INTO outbox (id, message_id, name, key, sequence, correlation_id, causation_id, traceparent, subject, created_at, unsubscribed, payload)
					VALUES (?, ?, 'alpha.counted.v1', 'a', ?, '', '', '', '', ?, ?, ?)`, n, id, n, u.Now(), false, fmt.Appendf(nil, `{"id":"a","n":%d}`, n)).Error; err != nil {
					return err
				}
				if err := u.DB.Exec("INSERT INTO delivery (subscriber, outbox_id) VALUES ('beta', ?)", n).Error; err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		w.Publish("a", 6)
		w.Run()
		w.Settle()
		want(t, "effects", w.Seen(w.Beta, "count", "a"), bustest.Range(1, 6))
		want(t, "rows left", bustest.Count(t, w.Alpha, "SELECT (SELECT count(*) FROM delivery) + (SELECT count(*) FROM outbox)"), 0)
	})
}

// A late failure of another attempt cannot undo what was handled: neither parks it nor blocks its key.
func TestHandledNeverGoesBack(t *testing.T) {
	t.Parallel()
	w := bustest.Open(t, databasetest.Postgres(t, bustest.Modules...), bustest.Options{})
	m := message.Message{ID: message.NewID(), Name: "alpha.counted.v1", Source: "alpha", Key: "a", Sequence: 1, Time: w.Clock.Now(), Payload: []byte(`{"id":"a","n":1}`)}
	var attempts atomic.Int32
	first, release := make(chan struct{}), make(chan struct{})
	w.Fail("count", func(int) error {
		if attempts.Add(1) == 1 {
			close(first)
			<-release
			return errors.New("down")
		}
		return nil
	})
	var all sync.WaitGroup
	for range 2 {
		all.Go(func() {
			if err := w.Bus.Deliver(context.Background(), "beta", m); err != nil {
				t.Error(err)
			}
		})
	}
	<-first
	bustest.Eventually(t, "the other attempt waits for the first one", 5*time.Second, func() bool {
		return bustest.Count(t, w.Beta, "SELECT count(*) FROM pg_locks WHERE NOT granted AND pid IN (SELECT pid FROM pg_stat_activity WHERE datname = current_database())") == 1
	})
	close(release)
	all.Wait()
	for range 3 {
		w.Advance(10 * time.Minute)
		if err := w.Bus.Deliver(context.Background(), "beta", m); err != nil {
			t.Error(err)
		}
	}
	want(t, "effects", w.Seen(w.Beta, "count", "a"), []int{1})
	want(t, "parked and dead", bustest.Count(t, w.Beta, "SELECT (SELECT count(*) FROM parked) + (SELECT count(*) FROM parked_key) + (SELECT count(*) FROM dead_letters)"), 0)
}

func TestDelaysOfMixedStates(t *testing.T) {
	each(t, func(t *testing.T, e databasetest.Engine) {
		w := bustest.Open(t, e, bustest.Options{})
		type try struct {
			n  int
			at time.Time
		}
		var mu sync.Mutex
		var tries []try
		w.Fail("count", func(n int) error {
			mu.Lock()
			defer mu.Unlock()
			tries = append(tries, try{n, w.Clock.Now()})
			switch n {
			case 1:
				return errors.New("down") // for ever
			case 2:
				return errs.New(errs.Invalid, "no") // at once
			}
			return nil
		})
		w.Publish("parked", 1)
		w.Publish("dead", 2)
		w.Publish("free", 3)
		w.Settle()
		var at []time.Time
		for range 40 {
			w.Publish("parked", 4)
			w.Publish("free", 3)
			w.Settle()
			w.Clock.Advance(20 * time.Millisecond)
			w.Settle()
		}
		mu.Lock()
		defer mu.Unlock()
		count := map[int]int{}
		for _, x := range tries {
			count[x.n]++
			if x.n == 1 {
				at = append(at, x.at)
			}
		}
		for i := 1; i < len(at); i++ {
			if d := at[i].Sub(at[i-1]); d < 200*time.Millisecond {
				t.Errorf("tried again after %s, want no less than the base of 200 ms", d)
			}
		}
		if count[1] < 2 || count[1] > 5 {
			t.Errorf("%d tries within 800 ms, want 2 to 5", count[1])
		}
		want(t, "tries of what is dead", count[2], 1)
		want(t, "tries of what waits behind", count[4], 0)
		want(t, "what is free", count[3], 41)
	})
}

func TestPoisonAtTheHead(t *testing.T) {
	each(t, func(t *testing.T, e databasetest.Engine) {
		w := bustest.Prepare(t, e, bustest.Options{})
		// More poisoned keys than a pass of retries takes, in front of everything else.
		w.Fail("count", func(n int) error {
			if n == 0 {
				return errors.New("poison")
			}
			return nil
		})
		for k := range 150 {
			w.Publish(bustest.Key(k), 0, 1)
		}
		for k := range 20 {
			w.Publish("good-"+bustest.Key(k), 1, 2)
		}
		w.Run()
		w.Settle()
		for range 3 {
			w.Advance(time.Hour)
		}
		for k := range 20 {
			want(t, "good", w.Seen(w.Beta, "count", "good-"+bustest.Key(k)), []int{1, 2})
		}
		want(t, "behind the poison", bustest.Count(t, w.Beta, "SELECT count(*) FROM seen WHERE key NOT LIKE 'good%'"), 0)
		w.Fail("count", nil)
		w.Advance(time.Hour)
		for k := range 150 {
			want(t, bustest.Key(k), w.Seen(w.Beta, "count", bustest.Key(k)), []int{0, 1})
		}
	})
}

func TestRenamedHandler(t *testing.T) {
	each(t, func(t *testing.T, e databasetest.Engine) {
		sub := func(name string, aliases ...string) bustest.Part {
			return bustest.Listener("beta", module.Subscription{Handler: name, Aliases: aliases, Events: []string{"alpha.*"}}, func(_ context.Context, u *unit.Work, m message.Message) error {
				if name == "old" && m.Key == "bad" {
					return errors.New("down")
				}
				return bustest.Keep(u, "handler", m.Key, bustest.Number(m))
			})
		}
		s := bustest.OpenStage(t, e, bustest.StageOptions{}, bustest.Alpha(), sub("old"))
		s.Announce("alpha", bustest.Counted{ID: "bad", N: 1}, bustest.Counted{ID: "bad", N: 2}, bustest.Counted{ID: "good", N: 1})
		s.Settle()
		m := message.Message{ID: message.NewID(), Name: "alpha.counted.v1", Source: "alpha", Key: "again", Sequence: 1, Time: s.Clock.Now(), Payload: []byte(`{"id":"again","n":1}`)}
		if err := s.Bus.Deliver(t.Context(), "beta", m); err != nil {
			t.Fatal(err)
		}
		s.Close()

		if s, err := bustest.SetStage(t, e, bustest.StageOptions{}, bustest.Alpha(), sub("new")); err == nil || !strings.Contains(err.Error(), `"old"`) {
			t.Errorf("started without an alias, error %v", err)
		} else {
			s.Close()
		}
		s = bustest.OpenStage(t, e, bustest.StageOptions{}, bustest.Alpha(), sub("new", "old"))
		s.Advance(time.Hour)
		want(t, "what waited", s.Seen("beta", "handler", "bad"), []int{1, 2})
		if err := s.Bus.Deliver(t.Context(), "beta", m); err != nil {
			t.Fatal(err)
		}
		want(t, "what the old name handled", s.Seen("beta", "handler", "again"), []int{1})
	})
}

// Loose is an event whose encoding has no fixed order and says when it was made.
type Loose struct {
	ID   string         `json:"id"`
	Tags map[string]int `json:"tags"`
	At   time.Time      `json:"at"`
	Huge float64        `json:"huge"`
}

func (Loose) MessageName() string  { return "alpha.loose.v1" }
func (l Loose) MessageKey() string { return l.ID }

func TestPayloadWithoutAnOrder(t *testing.T) {
	each(t, func(t *testing.T, e databasetest.Engine) {
		fail := true
		alpha := bustest.Part{Descriptor: module.Descriptor{Name: "alpha", Contract: message.Contract{Module: "alpha", Events: []message.Event{Loose{}}}}}
		s := bustest.OpenStage(t, e, bustest.StageOptions{}, alpha, bustest.Listener("beta", module.Subscription{Handler: "count", Events: []string{"alpha.*"}}, func(_ context.Context, u *unit.Work, m message.Message) error {
			if fail {
				return errors.New("down")
			}
			return bustest.Keep(u, "count", m.Key, 1)
		}))
		for i := range 10 {
			tags := map[string]int{}
			for j := range 20 {
				tags[fmt.Sprint(i, "-", j)] = j
			}
			s.Announce("alpha", Loose{ID: bustest.Key(i % 3), Tags: tags, At: time.Now(), Huge: 1e300})
		}
		s.Settle()
		fail = false
		s.Advance(time.Hour)
		want(t, "handled", len(s.Seen("beta", "count", "")), 10)
		want(t, "rows left", s.Count("alpha", "SELECT (SELECT count(*) FROM delivery) + (SELECT count(*) FROM outbox)"), 0)
		want(t, "parked", s.Count("beta", "SELECT (SELECT count(*) FROM parked) + (SELECT count(*) FROM parked_key)"), 0)
	})
}

func TestNobodySubscribes(t *testing.T) {
	each(t, func(t *testing.T, e databasetest.Engine) {
		s := bustest.OpenStage(t, e, bustest.StageOptions{}, bustest.Alpha())
		s.Announce("alpha", bustest.Counted{ID: "a", N: 1}, bustest.Other{ID: "a", N: 2})
		s.Settle()
		want(t, "kept and visible", s.Count("alpha", "SELECT count(*) FROM outbox WHERE unsubscribed"), 2)
		s.Close()
		// Somebody who subscribes later begins with what is new.
		s = bustest.OpenStage(t, e, bustest.StageOptions{}, bustest.Alpha(), bustest.Listener("beta", module.Subscription{Handler: "count", Events: []string{"alpha.*"}},
			func(_ context.Context, u *unit.Work, m message.Message) error {
				return bustest.Keep(u, "count", m.Key, bustest.Number(m))
			}))
		s.Announce("alpha", bustest.Counted{ID: "a", N: 3})
		s.Settle()
		want(t, "handled", s.Seen("beta", "count", "a"), []int{3})
	})
}

func TestCommitOrderOfManyKeys(t *testing.T) {
	each(t, func(t *testing.T, e databasetest.Engine) {
		w := bustest.Open(t, e, bustest.Options{})
		const writers, keys, rounds = 64, 5, 6
		var all sync.WaitGroup
		for i := range writers {
			all.Go(func() {
				for range rounds {
					if err := w.Alpha.Do(context.Background(), func(_ context.Context, u *unit.Work) error {
						var n int
						if err := u.DB.Raw("INSERT INTO seen (position, handler, key, n, message_id) VALUES (?, 'counter', '', 1, '') ON CONFLICT (position) DO UPDATE SET n = seen.n + 1 RETURNING n", i%keys+1).Scan(&n).Error; err != nil {
							return err
						}
						u.Publish(bustest.Counted{ID: bustest.Key(i % keys), N: n})
						return nil
					}); err != nil {
						t.Error(err)
					}
				}
			})
		}
		all.Wait()
		w.Settle()
		for k := range keys {
			seen := w.Seen(w.Beta, "count", bustest.Key(k))
			want(t, bustest.Key(k), seen, bustest.Range(1, len(seen)))
		}
		want(t, "handled", len(w.Seen(w.Beta, "count", "")), writers*rounds)
	})
}

func TestSameMessageMuchLater(t *testing.T) {
	each(t, func(t *testing.T, e databasetest.Engine) {
		w := bustest.Open(t, e, bustest.Options{})
		m := message.Message{ID: message.NewID(), Name: "alpha.counted.v1", Source: "alpha", Key: "a", Sequence: 1, Time: w.Clock.Now(), Payload: []byte(`{"id":"a","n":1}`)}
		for _, later := range []time.Duration{0, 31 * 24 * time.Hour, 400 * 24 * time.Hour} {
			w.Advance(later)
			w.Stop() // what is removed at a start is removed
			w.Run()
			if err := w.Bus.Deliver(t.Context(), "beta", m); err != nil {
				t.Fatal(err)
			}
		}
		want(t, "effects", w.Seen(w.Beta, "count", "a"), []int{1})
	})
}

// A ledger has every id of both ends. After trouble three things can be told apart: on its way, lost, and repeated.
func TestLedgerTellsRecoveryFromLoss(t *testing.T) {
	each(t, func(t *testing.T, e databasetest.Engine) {
		w := bustest.Open(t, e, bustest.Options{})
		type ledger struct{ Lost, Twice, Waiting []int }
		check := func(sent []int) (l ledger) {
			t.Helper()
			seen := w.Seen(w.Beta, "count", "")
			waiting := bustest.Count(t, w.Beta, "SELECT count(*) FROM parked") + bustest.Count(t, w.Alpha, "SELECT count(*) FROM delivery WHERE subscriber = 'beta'")
			for _, n := range sent {
				switch times := len(slices.DeleteFunc(slices.Clone(seen), func(m int) bool { return m != n })); {
				case times > 1:
					l.Twice = append(l.Twice, n)
				case times == 0 && waiting > 0:
					l.Waiting = append(l.Waiting, n)
					waiting--
				case times == 0:
					l.Lost = append(l.Lost, n)
				}
			}
			return l
		}
		w.Fail("count", func(n int) error {
			if n%3 == 0 {
				return errors.New("down")
			}
			return nil
		})
		sent := bustest.Range(1, 12)
		for _, n := range sent {
			w.Publish(bustest.Key(n), n)
		}
		w.Settle()
		want(t, "in trouble", check(sent), ledger{Waiting: []int{3, 6, 9, 12}})
		w.Fail("count", nil)
		w.Advance(time.Hour)
		want(t, "recovered", check(sent), ledger{})
		// A ledger that cannot see a loss proves nothing.
		if err := w.Beta.Do(t.Context(), func(_ context.Context, u *unit.Work) error {
			return errors.Join(u.DB.Exec("DELETE FROM seen WHERE n = 5").Error, u.DB.Exec("INSERT INTO seen (handler, key, n, message_id) VALUES ('count', 'x', 7, '')").Error)
		}); err != nil {
			t.Fatal(err)
		}
		want(t, "with a loss and a repeat made by hand", check(sent), ledger{Lost: []int{5}, Twice: []int{7}})
	})
}

// A subscription that ends while messages wait for it is an error at the start, not a row that waits for ever.
func TestSubscriptionEndsWithMessagesUnderWay(t *testing.T) {
	each(t, func(t *testing.T, e databasetest.Engine) {
		handle := func(_ context.Context, u *unit.Work, m message.Message) error {
			return bustest.Keep(u, "count", m.Key, bustest.Number(m))
		}
		gamma := bustest.Part{Descriptor: module.Descriptor{Name: "gamma", Contract: message.Contract{Module: "gamma", Events: []message.Event{Fresh{}}}}}
		s, err := bustest.SetStage(t, e, bustest.StageOptions{}, bustest.Alpha(), gamma, bustest.Listener("beta", module.Subscription{Handler: "count", Events: []string{"alpha.*"}}, handle))
		if err != nil {
			t.Fatal(err)
		}
		s.Announce("alpha", bustest.Counted{ID: "a", N: 1})
		s.Close()
		s, err = bustest.SetStage(t, e, bustest.StageOptions{}, bustest.Alpha(), gamma, bustest.Listener("beta", module.Subscription{Handler: "count", Events: []string{"gamma.*"}}, handle))
		if err == nil {
			s.Run()
			s.Settle() // what was started must come to an end
		}
	})
}

// Fresh is an event of gamma.
type Fresh struct {
	ID string `json:"id"`
}

func (Fresh) MessageName() string  { return "gamma.fresh.v1" }
func (f Fresh) MessageKey() string { return f.ID }

// Sessions are cut again and again, also between a commit and its answer: each effect once, every key in order.
func TestSessionsCutInTheMiddle(t *testing.T) {
	t.Parallel()
	e := databasetest.Postgres(t, bustest.Modules...)
	w := bustest.Open(t, e, bustest.Options{})
	const keys, each = 6, 60
	var unknown atomic.Int32
	var all sync.WaitGroup
	for k := range keys {
		all.Go(func() {
			for n := 1; n <= each; n++ {
				// The aggregate's row tells a commit without an answer from one that did not happen.
				for done := false; !done; {
					err := w.Alpha.Do(context.Background(), func(_ context.Context, u *unit.Work) error {
						r := u.DB.Exec("INSERT INTO seen (position, handler, key, n, message_id) VALUES (?, 'sent', ?, ?, '') ON CONFLICT (position) DO NOTHING", k*1000+n, bustest.Key(k), n)
						if r.Error == nil && r.RowsAffected == 1 {
							u.Publish(bustest.Counted{ID: bustest.Key(k), N: n})
						}
						return r.Error
					})
					done = err == nil
					switch {
					case errs.Is(err, errs.OutcomeUnknown):
						unknown.Add(1)
					case err != nil && !errs.Transient(err):
						t.Errorf("unexpected: %v", err)
						return
					}
				}
			}
		})
	}
	finished := make(chan struct{})
	go func() { all.Wait(); close(finished) }()
	cut := func() {
		_ = w.Gamma.DB().Write(context.Background(), func(tx *gorm.DB) error { return nil })
		terminate(t, e)
	}
	for going := true; going; {
		select {
		case <-finished:
			going = false
		case <-time.After(15 * time.Millisecond):
			cut()
		}
	}
	bustest.Eventually(t, "everything is handled", 30*time.Second, func() bool {
		w.Clock.Advance(time.Minute)
		var n, m int
		if w.Beta.Read(context.Background()).Raw("SELECT count(*) FROM seen").Row().Scan(&n) != nil || w.Gamma.Read(context.Background()).Raw("SELECT count(*) FROM seen").Row().Scan(&m) != nil {
			return false
		}
		return n >= keys*each && m >= keys*each
	})
	for k := range keys {
		want(t, "beta "+bustest.Key(k), w.Seen(w.Beta, "count", bustest.Key(k)), bustest.Range(1, each))
		want(t, "gamma "+bustest.Key(k), w.Seen(w.Gamma, "watch", bustest.Key(k)), bustest.Range(1, each))
	}
	t.Logf("%d commits without an answer", unknown.Load())
}
