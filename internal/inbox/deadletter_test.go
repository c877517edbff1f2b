package inbox_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"gorm.io/gorm"

	"github.com/banyan-go/banyan/internal/bustest"
	"github.com/banyan-go/banyan/internal/databasetest"
	"github.com/banyan-go/banyan/internal/errs"
	"github.com/banyan-go/banyan/internal/inbox"
	"github.com/banyan-go/banyan/internal/message"
	"github.com/banyan-go/banyan/internal/unit"
)

// personal is a message of a user, with an address in it.
func personal(w *bustest.World, key, subject string) message.Message {
	return message.Message{ID: message.NewID(), Name: "alpha.counted.v1", Source: "alpha", Key: key, Sequence: 1, Subject: subject,
		Time: w.Clock.Now(), Payload: []byte(`{"id":"` + subject + `@example.com","n":1}`)}
}

func deliver(t *testing.T, w *bustest.World, m message.Message) {
	t.Helper()
	if err := w.Bus.Deliver(context.Background(), "beta", m); err != nil {
		t.Fatal(err)
	}
}

func letters(t *testing.T, w *bustest.World) *inbox.Inbox {
	t.Helper()
	in, err := w.Bus.Inbox("beta")
	if err != nil {
		t.Fatal(err)
	}
	return in
}

// holding counts the parked messages and dead letters in which an address stands.
func holding(t *testing.T, w *bustest.World) int {
	t.Helper()
	var rows []struct {
		Message []byte
		Reason  string
	}
	if err := w.Beta.Read(t.Context()).Raw("SELECT message, error AS reason FROM parked UNION ALL SELECT message, reason FROM dead_letters").Scan(&rows).Error; err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, r := range rows {
		if strings.Contains(string(r.Message)+r.Reason, "ann@") {
			n++
		}
	}
	return n
}

// A letter that is replayed while its user is being erased is either found by the erasure or finds it.
func TestErasureRacesReplay(t *testing.T) {
	t.Parallel()
	w := bustest.Open(t, databasetest.Postgres(t, bustest.Modules...), bustest.Options{})
	w.Fail("count", func(int) error { return errs.New(errs.Invalid, "ann@example.com is unknown") })
	deliver(t, w, personal(w, "letter", "ann"))
	w.Fail("count", func(int) error { return errors.New("down") })
	deliver(t, w, personal(w, "parked", "ann"))
	// The erasure is stopped between the parked messages and the dead letters, by somebody who has one of the former.
	ready, hold := make(chan struct{}), make(chan struct{})
	var all sync.WaitGroup
	all.Go(func() {
		_ = w.Beta.DB().Write(context.Background(), func(tx *gorm.DB) error {
			var id string
			if err := tx.Raw("SELECT message_id FROM parked FOR UPDATE").Row().Scan(&id); err != nil {
				t.Error(err)
			}
			close(ready)
			<-hold
			return errors.New("roll back")
		})
	})
	<-ready
	all.Go(func() {
		if err := w.Beta.Do(context.Background(), func(_ context.Context, u *unit.Work) error { return u.Erase("ann") }); err != nil {
			t.Error(err)
		}
	})
	bustest.Eventually(t, "the erasure waits", 5*time.Second, func() bool { return blocked(t, w.Beta) == 1 })
	var replayed atomic.Bool
	all.Go(func() {
		if err := letters(t, w).Replay(context.Background(), w.Letters()[0]); err != nil {
			t.Error(err)
		}
		replayed.Store(true)
	})
	bustest.Eventually(t, "the replay is over, or waits", 5*time.Second, func() bool { return replayed.Load() || blocked(t, w.Beta) == 2 })
	close(hold)
	all.Wait()
	w.Settle()
	want(t, "messages with personal data", holding(t, w), 0)
	want(t, "parked messages", bustest.Count(t, w.Beta, "SELECT count(*) FROM parked"), 2)
}

// A letter that an erasure has missed comes back without what was to be erased.
func TestReplayOfAnErasedUser(t *testing.T) {
	each(t, func(t *testing.T, e databasetest.Engine) {
		w := bustest.Open(t, e, bustest.Options{})
		w.Fail("count", func(int) error { return errs.New(errs.Invalid, "ann@example.com is unknown") })
		deliver(t, w, personal(w, "a", "ann"))
		if err := w.Beta.Do(t.Context(), func(_ context.Context, u *unit.Work) error {
			return u.DB.Exec("INSERT INTO erased (subject, erased_at) VALUES ('ann', ?)", u.Now()).Error
		}); err != nil {
			t.Fatal(err)
		}
		want(t, "letters with personal data", holding(t, w), 1)
		w.Fail("count", func(int) error { return errors.New("down") })
		if err := letters(t, w).Replay(t.Context(), w.Letters()[0]); err != nil {
			t.Fatal(err)
		}
		want(t, "messages with personal data", holding(t, w), 0)
		want(t, "parked messages", bustest.Count(t, w.Beta, "SELECT count(*) FROM parked"), 1)
	})
}

// Of two replays at a time one has the letter.
func TestReplayedTwice(t *testing.T) {
	each(t, func(t *testing.T, e databasetest.Engine) {
		w := bustest.Open(t, e, bustest.Options{})
		w.Fail("count", func(int) error { return errs.New(errs.Invalid, "no") })
		w.Publish("a", 1)
		w.Settle()
		w.Fail("count", nil)
		id := w.Letters()[0]
		var done, gone atomic.Int32
		var all sync.WaitGroup
		for range 8 {
			all.Go(func() {
				switch err := letters(t, w).Replay(context.Background(), id); {
				case err == nil:
					done.Add(1)
				case errs.Is(err, errs.NotFound):
					gone.Add(1)
				default:
					t.Error(err)
				}
			})
		}
		all.Wait()
		want(t, "replays", []int32{done.Load(), gone.Load()}, []int32{1, 7})
		w.Settle()
		want(t, "handled", w.Seen(w.Beta, "count", "a"), []int{1})
	})
}

// The letter of a timer or an effect that was set anew since is not dropped: its replay is refused, and it can be replayed
// when the newer one is done, or discarded.
func TestReplayMeetsANewerTimer(t *testing.T) {
	for _, c := range []struct {
		name string
		set  func(u *unit.Work, n int)
	}{
		{"later", func(u *unit.Work, n int) { u.Schedule("later", "a", u.Now().Add(time.Minute), n) }},
		{"call", func(u *unit.Work, n int) { u.Effect("call", "a", n) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			each(t, func(t *testing.T, e databasetest.Engine) {
				w := bustest.Open(t, e, bustest.Options{})
				set := func(n int) {
					t.Helper()
					if err := w.Beta.Do(t.Context(), func(_ context.Context, u *unit.Work) error { c.set(u, n); return nil }); err != nil {
						t.Fatal(err)
					}
				}
				bury := func(n int) {
					t.Helper()
					w.Fail(c.name, func(int) error { return errs.New(errs.Invalid, "no") })
					set(n)
					bustest.Eventually(t, "the letter is there", 5*time.Second, func() bool { w.Advance(time.Minute); return len(w.Letters()) == 1 })
				}
				bury(1)
				w.Fail(c.name, func(int) error { return errors.New("down") })
				set(2)
				id := w.Letters()[0]
				err := letters(t, w).Replay(t.Context(), id)
				if !errs.Is(err, errs.Conflict) || !strings.Contains(err.Error(), "discard") {
					t.Errorf("replayed beside a newer one: %v, want a conflict that names the way out", err)
				}
				want(t, "letters", w.Letters(), []string{id})
				w.Fail(c.name, nil)
				w.Advance(time.Hour)
				want(t, "the newer one alone", w.Seen(w.Beta, c.name, "a"), []int{2})
				if err := letters(t, w).Replay(t.Context(), id); err != nil {
					t.Fatal(err)
				}
				w.Advance(time.Hour)
				want(t, "the newer one, then the letter", w.Seen(w.Beta, c.name, "a"), []int{2, 1})
				want(t, "letters in the end", len(w.Letters()), 0)
			})
		})
	}
}
