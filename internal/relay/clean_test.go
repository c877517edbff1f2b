package relay_test

import (
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"gorm.io/gorm"

	"github.com/banyan-go/banyan/internal/bustest"
	"github.com/banyan-go/banyan/internal/databasetest"
	"github.com/banyan-go/banyan/internal/relay"
	"github.com/banyan-go/banyan/internal/telemetry"
	"github.com/banyan-go/banyan/internal/unit"
)

// Cleaning up goes in steps, so that nobody waits for all of it: one that cannot be done takes those before it with it no more.
func TestCleanGoesInSteps(t *testing.T) {
	for _, c := range []struct {
		name         string
		unsubscribed bool
	}{{"messages nobody subscribes to", true}, {"messages that a crash left", false}} {
		t.Run(c.name, func(t *testing.T) {
			each(t, func(t *testing.T, e databasetest.Engine) {
				w := bustest.Prepare(t, e, bustest.Options{})
				const many, step = 2500, 1000
				made := w.Clock.Now()
				insert(t, w.Alpha, many, c.unsubscribed, made)
				insert(t, w.Alpha, 7, c.unsubscribed, made.Add(2*time.Hour))
				// The last of the old rows cannot be deleted: another table refers to it.
				e.Table(t, w.Alpha.DB(), "keeper", "outbox_id INTEGER NOT NULL REFERENCES outbox (id)")
				if err := w.Alpha.DB().Write(t.Context(), func(tx *gorm.DB) error {
					return tx.Exec("INSERT INTO keeper (outbox_id) SELECT max(id) FROM outbox WHERE created_at = ?", made).Error
				}); err != nil {
					t.Fatal(err)
				}
				r := relay.New(w.Alpha, relay.Config{Limits: relay.Limits{Workers: 1, Window: 1}}, nil, telemetry.NewMessages(nil), slog.New(slog.DiscardHandler))
				if err := r.Clean(t.Context(), made.Add(time.Hour)); err == nil {
					t.Error("a row that another table refers to was removed")
				}
				if left := bustest.Count(t, w.Alpha, "SELECT count(*) FROM outbox WHERE created_at = ?", made); left < 1 || left > step {
					t.Errorf("%d of %d old messages are left, want those of one step at most", left, many)
				}
				if err := w.Alpha.DB().Write(t.Context(), func(tx *gorm.DB) error { return tx.Exec("DELETE FROM keeper").Error }); err != nil {
					t.Fatal(err)
				}
				if err := r.Clean(t.Context(), made.Add(time.Hour)); err != nil {
					t.Fatal(err)
				}
				want(t, "messages left", bustest.Count(t, w.Alpha, "SELECT count(*) FROM outbox"), 7)
			})
		})
	}
}

func insert(t *testing.T, s *unit.Store, many int, unsubscribed bool, at time.Time) {
	t.Helper()
	if err := s.DB().Write(t.Context(), func(tx *gorm.DB) error {
		for done := 0; done < many; {
			n := min(many-done, 500)
			var args []any
			for range n {
				args = append(args, at, unsubscribed, []byte("{}"))
			}
			rows := strings.TrimSuffix(strings.Repeat("('m', 'alpha.counted.v1', 'a', 1, '', '', '', '', ?, ?, ?), ", n), ", ")
			if err := tx.Exec("INSERT INTO outbox (message_id, name, key, sequence, correlation_id, causation_id, traceparent, subject, created_at, unsubscribed, payload) VALUES "+rows, args...).Error; err != nil {
				return err
			}
			done += n
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

// What is replayed while old messages are removed is given whole or is gone: no delivery is left without its message.
func TestCleanMeetsReplay(t *testing.T) {
	each(t, func(t *testing.T, e databasetest.Engine) {
		w := bustest.Prepare(t, e, bustest.Options{})
		r := relay.New(w.Alpha, relay.Config{Limits: relay.Limits{Workers: 1, Window: 1}}, nil, telemetry.NewMessages(nil), slog.New(slog.DiscardHandler))
		made := w.Clock.Now()
		given := int64(0)
		for range 50 {
			insert(t, w.Alpha, 20, true, made)
			var both sync.WaitGroup
			both.Go(func() {
				if err := r.Clean(t.Context(), made.Add(time.Hour)); err != nil {
					t.Error(err)
				}
			})
			both.Go(func() {
				n, err := r.Replay(t.Context(), "alpha.counted.v1", []string{"beta"})
				if err != nil {
					t.Error(err)
				}
				given += n
			})
			both.Wait()
		}
		want(t, "messages replayed and still there", int64(bustest.Count(t, w.Alpha, "SELECT count(*) FROM delivery JOIN outbox ON id = outbox_id")), given)
		want(t, "deliveries", int64(bustest.Count(t, w.Alpha, "SELECT count(*) FROM delivery")), given)
	})
}

// What nobody subscribes to is not removed while it waits to be told to services that are not ours.
func TestCleanLeavesWhatWaits(t *testing.T) {
	each(t, func(t *testing.T, e databasetest.Engine) {
		w := bustest.Prepare(t, e, bustest.Options{})
		made := w.Clock.Now()
		insert(t, w.Alpha, 2, true, made)
		if err := w.Alpha.DB().Write(t.Context(), func(tx *gorm.DB) error {
			return tx.Exec("INSERT INTO delivery (subscriber, outbox_id) SELECT ?, min(id) FROM outbox", unit.Others).Error
		}); err != nil {
			t.Fatal(err)
		}
		r := relay.New(w.Alpha, relay.Config{Limits: relay.Limits{Workers: 1, Window: 1}}, nil, telemetry.NewMessages(nil), slog.New(slog.DiscardHandler))
		if err := r.Clean(t.Context(), made.Add(time.Hour)); err != nil {
			t.Fatal(err)
		}
		want(t, "messages left", bustest.Count(t, w.Alpha, "SELECT count(*) FROM outbox"), 1)
		want(t, "of them to be told", bustest.Count(t, w.Alpha, "SELECT count(*) FROM outbox JOIN delivery ON id = outbox_id"), 1)
	})
}
