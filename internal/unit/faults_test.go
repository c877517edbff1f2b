package unit_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
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

// What a unit of work says last of a timer counts.
func TestLastWordOnATimerCounts(t *testing.T) {
	each(t, func(t *testing.T, e databasetest.Engine) {
		w := bustest.Open(t, e, bustest.Options{})
		if err := w.Beta.Do(t.Context(), func(_ context.Context, u *unit.Work) error {
			u.Schedule("later", "set then cancelled", u.Now().Add(time.Minute), 1)
			u.Cancel("later", "set then cancelled")
			u.Cancel("later", "cancelled then set")
			u.Schedule("later", "cancelled then set", u.Now().Add(time.Minute), 2)
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		w.Advance(time.Hour)
		want(t, "fired", w.Seen(w.Beta, "later", ""), []int{2})
	})
}

// A message that is being buried while its user is erased leaves nothing behind.
func TestErasureRacesBurial(t *testing.T) {
	t.Parallel()
	w := bustest.Open(t, databasetest.Postgres(t, bustest.Modules...), bustest.Options{})
	w.Fail("count", func(int) error { return errors.New("down") })
	m := message.Message{ID: message.NewID(), Name: "alpha.counted.v1", Source: "alpha", Key: "a", Sequence: 1, Subject: "ann", Time: w.Clock.Now(), Payload: []byte(`{"id":"ann@example.com","n":1}`)}
	if err := w.Bus.Deliver(t.Context(), "beta", m); err != nil {
		t.Fatal(err)
	}
	// The burial is stopped before it commits, by an uncommitted letter of the same message.
	ready, hold := make(chan struct{}), make(chan struct{})
	var all sync.WaitGroup
	all.Go(func() {
		_ = w.Beta.DB().Write(context.Background(), func(tx *gorm.DB) error {
			if err := tx.Exec("INSERT INTO dead_letters (id, position, handler, key, message_id, name, subject, message, reason, attempts, first_at, died_at) VALUES ('x', 0, 'count', 'elsewhere', ?, '', '', '', '', 0, now(), now())", m.ID).Error; err != nil {
				t.Error(err)
			}
			close(ready)
			<-hold
			return errors.New("roll back")
		})
	})
	<-ready
	blocked := func() int {
		return bustest.Count(t, w.Beta, "SELECT count(*) FROM pg_locks WHERE NOT granted AND pid IN (SELECT pid FROM pg_stat_activity WHERE datname = current_database())")
	}
	w.Fail("count", func(int) error { return errs.New(errs.Invalid, "no") })
	w.Clock.Advance(time.Minute)
	bustest.Eventually(t, "the burial waits", 5*time.Second, func() bool { return blocked() == 1 })
	var erased atomic.Bool
	all.Go(func() {
		if err := w.Beta.Do(context.Background(), func(_ context.Context, u *unit.Work) error { return u.Erase("ann") }); err != nil {
			t.Error(err)
		}
		erased.Store(true)
	})
	bustest.Eventually(t, "the erasure is over, or waits", 5*time.Second, func() bool { return erased.Load() || blocked() == 2 })
	close(hold)
	all.Wait()
	w.Settle()
	want(t, "letters with personal data", bustest.Count(t, w.Beta, "SELECT count(*) FROM dead_letters WHERE position('ann@'::bytea in message) > 0"), 0)
}

// A message on its way to a user's module after the user was erased there leaves nothing behind when it fails.
func TestErasureBeforeArrival(t *testing.T) {
	each(t, func(t *testing.T, e databasetest.Engine) {
		w := bustest.Open(t, e, bustest.Options{})
		if err := w.Beta.Do(t.Context(), func(_ context.Context, u *unit.Work) error { return u.Erase("ann") }); err != nil {
			t.Fatal(err)
		}
		w.Fail("count", func(int) error { return errs.New(errs.Invalid, "no") })
		m := message.Message{ID: message.NewID(), Name: "alpha.counted.v1", Source: "alpha", Key: "a", Sequence: 1, Subject: "ann", Time: w.Clock.Now(), Payload: []byte(`{"id":"ann@example.com","n":1}`)}
		if err := w.Bus.Deliver(t.Context(), "beta", m); err != nil {
			t.Fatal(err)
		}
		in, err := w.Bus.Inbox("beta")
		if err != nil {
			t.Fatal(err)
		}
		letter, err := in.DeadLetter(t.Context(), w.Letters()[0])
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(letter.Message, []byte("ann@")) {
			t.Errorf("the letter keeps %s", letter.Message)
		}
	})
}

// Erasing one user leaves the messages and answers of others as they are.
func TestErasureKeepsToItsUser(t *testing.T) {
	each(t, func(t *testing.T, e databasetest.Engine) {
		w := bustest.Prepare(t, e, bustest.Options{})
		for _, s := range []string{"ann", "bob"} {
			if err := w.Alpha.Do(t.Context(), func(_ context.Context, u *unit.Work) error {
				u.Publish(bustest.Counted{ID: s, N: 1})
				return nil
			}); err != nil {
				t.Fatal(err)
			}
			if err := w.Alpha.Do(t.Context(), func(_ context.Context, u *unit.Work) error {
				return u.DB.Exec("UPDATE outbox SET subject = ? WHERE key = ?", s, s).Error
			}); err != nil {
				t.Fatal(err)
			}
			if _, _, err := w.Alpha.Once(t.Context(), unit.RequestKey{Subject: s, Route: "POST /x", Key: "1", Hash: []byte{1}}, func(context.Context, *unit.Work) (*unit.StoredAnswer, error) {
				return &unit.StoredAnswer{Body: []byte(`"of ` + s + `"`), Personal: s}, nil
			}); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.Alpha.Do(t.Context(), func(_ context.Context, u *unit.Work) error { return u.Erase("ann") }); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Alpha.Answered(t.Context(), unit.RequestKey{Subject: "ann", Route: "POST /x", Key: "1", Hash: []byte{1}}); !errs.Is(err, errs.Gone) {
			t.Errorf("the erased answer: %v, want gone", err)
		}
		a, err := w.Alpha.Answered(t.Context(), unit.RequestKey{Subject: "bob", Route: "POST /x", Key: "1", Hash: []byte{1}})
		if err != nil || string(a.Body) != `"of bob"` {
			t.Errorf("the other answer: %v, %v", a, err)
		}
		var payloads []string
		if err := w.Alpha.Read(t.Context()).Raw("SELECT payload FROM outbox ORDER BY id").Scan(&payloads).Error; err != nil {
			t.Fatal(err)
		}
		want(t, "outbox", payloads, []string{"{}", `{"id":"bob","n":1}`})
	})
}

// Many units of work with the same keys in different orders come through, and each key's sequence has no gap.
func TestSequencesOfManyKeys(t *testing.T) {
	each(t, func(t *testing.T, e databasetest.Engine) {
		w := bustest.Prepare(t, e, bustest.Options{})
		var all sync.WaitGroup
		for worker := range 16 {
			all.Go(func() {
				for i := range 5 {
					if err := w.Alpha.Do(context.Background(), func(_ context.Context, u *unit.Work) error {
						for k := range 6 {
							u.Publish(bustest.Counted{ID: bustest.Key((k*(worker+1) + i) % 6), N: 1})
						}
						return nil
					}); err != nil {
						t.Error(err)
					}
				}
			})
		}
		all.Wait()
		want(t, "keys with a gap, or numbered against the order of their rows", bustest.Count(t, w.Alpha, `SELECT count(*) FROM (
			SELECT sequence, row_number() OVER (PARTITION BY key ORDER BY id) AS n FROM outbox) AS o WHERE sequence <> n`), 0)
		want(t, "messages", bustest.Count(t, w.Alpha, "SELECT count(*) FROM outbox"), 16*5*6)
	})
}

// One unit of work may send very much; all of it arrives, in its order, or none.
func TestVeryLargeUnitOfWork(t *testing.T) {
	each(t, func(t *testing.T, e databasetest.Engine) {
		w := bustest.Open(t, e, bustest.Options{})
		const many = 1500
		for _, fail := range []error{errs.New(errs.Conflict, "no"), nil} {
			err := w.Alpha.Do(t.Context(), func(_ context.Context, u *unit.Work) error {
				for n := range many {
					u.Publish(bustest.Counted{ID: bustest.Key(n % 3), N: n})
				}
				return fail
			})
			if (err == nil) != (fail == nil) {
				t.Fatal(err)
			}
		}
		w.Settle()
		want(t, "handled", len(w.Seen(w.Beta, "count", "")), many)
		for k := range 3 {
			ns := w.Seen(w.Beta, "count", bustest.Key(k))
			for i, n := range ns {
				if n != 3*i+k {
					t.Fatalf("%s: place %d is %d", bustest.Key(k), i, n)
				}
			}
		}
	})
}

// Of requests with one key that come together one runs, and all get its answer.
func TestOnceUnderConcurrency(t *testing.T) {
	each(t, func(t *testing.T, e databasetest.Engine) {
		w := bustest.Prepare(t, e, bustest.Options{})
		var runs atomic.Int32
		key := unit.RequestKey{Subject: "ann", Route: "POST /x", Key: "1", Hash: []byte{1}}
		once := func() (*unit.StoredAnswer, bool, error) {
			return w.Alpha.Once(context.Background(), key, func(_ context.Context, u *unit.Work) (*unit.StoredAnswer, error) {
				u.Publish(bustest.Counted{ID: "a", N: int(runs.Add(1))})
				return &unit.StoredAnswer{Body: []byte(`"one"`), Location: "/x/1"}, nil
			})
		}
		var fresh atomic.Int32
		var all sync.WaitGroup
		for range 16 {
			all.Go(func() {
				a, repeated, err := once()
				if err != nil || string(a.Body) != `"one"` || a.Location != "/x/1" {
					t.Errorf("answer %v, error %v", a, err)
				}
				if !repeated {
					fresh.Add(1)
				}
			})
		}
		all.Wait()
		want(t, "fresh answers", fresh.Load(), int32(1))
		want(t, "effects", bustest.Count(t, w.Alpha, "SELECT count(*) FROM outbox"), 1)
		failed := errs.New(errs.Conflict, "no")
		refuse := func(context.Context, *unit.Work) (*unit.StoredAnswer, error) { return nil, failed }
		if a, repeated, err := w.Alpha.Once(context.Background(), key, refuse); err != nil || !repeated || string(a.Body) != `"one"` {
			t.Errorf("asked again, when it would be refused: answer %v, repeated %v, error %v", a, repeated, err)
		}
		key.Hash = []byte{2}
		if _, _, err := once(); !errs.Is(err, errs.Invalid) {
			t.Errorf("another request under the key: %v, want invalid", err)
		}
		key.Key = "2"
		if _, _, err := w.Alpha.Once(context.Background(), key, refuse); !errs.Is(err, errs.Conflict) {
			t.Errorf("error %v, want the conflict", err)
		}
		if _, repeated, err := once(); err != nil || repeated {
			t.Errorf("the key of a failed request cannot be used again: repeated %v, error %v", repeated, err)
		}
	})
}

// A cancelled caller in the middle of its unit of work takes nobody with it.
func TestCancelledInTheMiddle(t *testing.T) {
	each(t, func(t *testing.T, e databasetest.Engine) {
		if e.Dialect == "postgres" {
		}
		w := bustest.Prepare(t, e, bustest.Options{})
		var all sync.WaitGroup
		var stored atomic.Int32
		for i := range 60 {
			all.Go(func() {
				ctx, cancel := context.WithCancel(context.Background())
				defer cancel()
				err := w.Alpha.Do(ctx, func(_ context.Context, u *unit.Work) error {
					if err := u.DB.Exec("INSERT INTO seen (handler, key, n, message_id) VALUES ('x', ?, ?, '')", fmt.Sprint(i), i).Error; err != nil {
						return err
					}
					if i%3 == 0 {
						cancel()
					}
					var n int
					if err := u.DB.Raw("SELECT count(*) FROM seen").Row().Scan(&n); err != nil {
						return err
					}
					u.Publish(bustest.Counted{ID: fmt.Sprint(i), N: i})
					return nil
				})
				switch {
				case err == nil:
					stored.Add(1)
				case i%3 != 0:
					t.Errorf("neighbour %d: %v", i, err)
				}
			})
		}
		all.Wait()
		want(t, "stored", stored.Load(), int32(40))
		want(t, "rows", bustest.Count(t, w.Alpha, "SELECT count(*) FROM seen"), 40)
		want(t, "messages", bustest.Count(t, w.Alpha, "SELECT count(*) FROM outbox"), 40)
	})
}

// A panic in what runs after a commit is a bug of a hint: the message stays handled and the process alive.
func TestPanicAfterTheCommit(t *testing.T) {
	each(t, func(t *testing.T, e databasetest.Engine) {
		w := bustest.Open(t, e, bustest.Options{})
		w.Committed("later", func() { panic("a bug") })
		if err := w.Beta.Do(t.Context(), func(_ context.Context, u *unit.Work) error {
			u.Schedule("later", "a", u.Now().Add(time.Minute), 1)
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		w.Advance(time.Hour)
		want(t, "fired", w.Seen(w.Beta, "later", "a"), []int{1})
	})
}

// A subscription whose handler changes its copy of a payload changes nobody else's, nor that of its own next attempt.
func TestPayloadIsTheHandlersOwn(t *testing.T) {
	each(t, func(t *testing.T, e databasetest.Engine) {
		var mu sync.Mutex
		var got []string
		spoil := func(handler string) module.MessageHandler {
			return func(_ context.Context, _ *unit.Work, m message.Message) error {
				mu.Lock()
				got = append(got, string(m.Payload))
				mu.Unlock()
				for i := range m.Payload {
					m.Payload[i] = 'x'
				}
				return nil
			}
		}
		s := bustest.OpenStage(t, e, bustest.StageOptions{}, bustest.Alpha(),
			bustest.Listener("beta", module.Subscription{Handler: "count", Events: []string{"alpha.*"}}, spoil("count")),
			bustest.Listener("gamma", module.Subscription{Handler: "watch", Events: []string{"alpha.*"}}, spoil("watch")))
		s.Announce("alpha", bustest.Counted{ID: "warm", N: 0}) // from here on messages may come from memory
		s.Settle()
		for i := range 20 {
			s.Announce("alpha", bustest.Counted{ID: bustest.Key(i), N: i})
		}
		s.Settle()
		mu.Lock()
		defer mu.Unlock()
		want(t, "deliveries", len(got), 42)
		for _, p := range got {
			if p[0] != '{' {
				t.Errorf("a handler was given %q", p)
				break
			}
		}
	})
}

// A message that is just being parked while its user is erased is either seen by the erasure or sees it.
func TestErasureRacesParking(t *testing.T) {
	t.Parallel()
	w := bustest.Open(t, databasetest.Postgres(t, bustest.Modules...), bustest.Options{})
	w.Fail("count", func(int) error { return errors.New("down") })
	m := message.Message{ID: message.NewID(), Name: "alpha.counted.v1", Source: "alpha", Key: "a", Sequence: 1, Subject: "ann", Time: w.Clock.Now(), Payload: []byte(`{"id":"ann@example.com","n":1}`)}
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
	blocked := func() int {
		return bustest.Count(t, w.Beta, "SELECT count(*) FROM pg_locks WHERE NOT granted AND pid IN (SELECT pid FROM pg_stat_activity WHERE datname = current_database())")
	}
	bustest.Eventually(t, "the parking waits", 5*time.Second, func() bool { return blocked() == 1 })
	var erased atomic.Bool
	all.Go(func() {
		if err := w.Beta.Do(context.Background(), func(_ context.Context, u *unit.Work) error { return u.Erase("ann") }); err != nil {
			t.Error(err)
		}
		erased.Store(true)
	})
	bustest.Eventually(t, "the erasure is over, or waits", 5*time.Second, func() bool { return erased.Load() || blocked() == 2 })
	close(hold)
	all.Wait()
	want(t, "parked with personal data", bustest.Count(t, w.Beta, "SELECT count(*) FROM parked WHERE position('ann@'::bytea in message) > 0"), 0)
}
