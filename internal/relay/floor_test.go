package relay

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"gorm.io/gorm"

	"github.com/banyan-go/banyan/internal/database"
	"github.com/banyan-go/banyan/internal/databasetest"
	"github.com/banyan-go/banyan/internal/message"
	"github.com/banyan-go/banyan/internal/telemetry"
	"github.com/banyan-go/banyan/internal/unit"
)

// alone is a relay on PostgreSQL to one subscriber, who takes everything, until the test ends.
func alone(t *testing.T) (db *database.DB, r *Relay, sent <-chan message.Message) {
	t.Helper()
	db = databasetest.Postgres(t, "alpha").Store(t, "alpha")
	taken := make(chan message.Message, 8)
	r = New(unit.New(db, unit.Options{Module: "alpha"}), Config{Limits: Limits{Workers: 4, Window: 8}, Sweep: 20 * time.Millisecond}, func(_ context.Context, _ string, m message.Message) error {
		taken <- m
		return nil
	}, telemetry.NewMessages(nil), slog.New(slog.DiscardHandler))
	runs(t, r)
	return db, r, taken
}

// runs has a relay send to beta until the test ends.
func runs(t *testing.T, r *Relay) {
	t.Helper()
	ended := make(chan error, 1)
	go func() { ended <- r.Run(t.Context(), []string{"beta"}) }()
	t.Cleanup(func() { // the test's context has ended
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// A row that appears below where reading begins took longer to commit than anybody expected, as behind a standby that
// did not answer. It is late, not lost.
func TestRowBelowTheFloorIsFound(t *testing.T) {
	t.Parallel()
	db, r, sent := alone(t)
	insert := func(id int64, key string) {
		t.Helper()
		if err := db.Write(t.Context(), func(tx *gorm.DB) error {
			if err := tx.Exec(`INSERT INTO outbox (id, message_id, name, key, sequence, correlation_id, causation_id, traceparent, subject, created_at, unsubscribed, payload)
				VALUES (?, ?, 'alpha.counted.v1', ?, 1, '', '', '', '', now(), false, '{}')`, id, message.NewID(), key).Error; err != nil {
				return err
			}
			return tx.Exec("INSERT INTO delivery (subscriber, outbox_id) VALUES ('beta', ?)", id).Error
		}); err != nil {
			t.Fatal(err)
		}
	}
	next := func() string {
		t.Helper()
		select {
		case m := <-sent:
			return m.Key
		case <-time.After(5 * time.Second):
			return "nothing"
		}
	}
	insert(1000, "first")
	if got := next(); got != "first" {
		t.Errorf("%s was sent, want the first one", got)
	}
	l := r.running()["beta"]
	l.mu.Lock()
	l.settled, l.low = 1000, 1000
	l.mu.Unlock()
	insert(5, "late")
	if got := next(); got != "late" {
		t.Errorf("%s was sent, want the late one", got)
	}
}

// Reading begins ever higher, but never above what may still be committed: a message whose transaction takes long goes before the next
// one of its key, however many others have gone meanwhile.
func TestFloorsWaitForTransactions(t *testing.T) {
	t.Parallel()
	db, r, sent := alone(t)
	insert := func(id, key string, before func(row int64)) {
		t.Helper()
		if err := db.Write(t.Context(), func(tx *gorm.DB) error {
			if err := tx.Exec("INSERT INTO outbox_key (key, sequence) VALUES (?, 1) ON CONFLICT (key) DO UPDATE SET sequence = outbox_key.sequence + 1", key).Error; err != nil {
				return err
			}
			var row int64
			if err := tx.Raw(`INSERT INTO outbox (message_id, name, key, sequence, correlation_id, causation_id, traceparent, subject, created_at, unsubscribed, payload)
				VALUES (?, 'alpha.counted.v1', ?, 1, '', '', '', '', now(), false, '{}') RETURNING id`, id, key).Row().Scan(&row); err != nil {
				return err
			}
			before(row)
			return tx.Exec("INSERT INTO delivery (subscriber, outbox_id) VALUES ('beta', ?)", row).Error
		}); err != nil {
			t.Error(err)
		}
	}
	at := func(int64) {}
	low := func() int64 {
		l := r.running()["beta"]
		if l == nil {
			return 0
		}
		l.mu.Lock()
		defer l.mu.Unlock()
		return l.low
	}
	others := 0
	passes := func(above int64, within time.Duration) bool {
		for until := time.Now().Add(within); time.Now().Before(until); {
			others++
			insert(fmt.Sprint("other ", others), fmt.Sprint("other ", others), at)
			<-sent
			if low() > above {
				return true
			}
		}
		return false
	}
	if !passes(0, time.Minute) {
		t.Error("reading begins at the first row for ever")
	}
	held, release, kept := make(chan int64, 1), make(chan struct{}), make(chan struct{})
	go func() {
		insert("long", "key", func(row int64) {
			held <- row
			<-release
		})
		insert("next", "key", at)
		close(kept)
	}()
	row := <-held
	if passes(row, 4*floorEvery) {
		t.Error("reading begins above a row that is not committed")
	}
	close(release)
	<-kept
	if first, second := <-sent, <-sent; first.ID != "long" || second.ID != "next" {
		t.Errorf("sent %q before %q", first.ID, second.ID)
	}
	if !passes(row, time.Minute) {
		t.Error("reading begins below a transaction that has ended")
	}
}

// A read may still see what was marked while it ran. Nothing is sent again for that.
func TestNothingIsSentTwice(t *testing.T) {
	t.Parallel()
	db := databasetest.Postgres(t, "alpha").Store(t, "alpha")
	store := unit.New(db, unit.Options{Module: "alpha"})
	const many = 3000
	if err := db.Write(t.Context(), func(tx *gorm.DB) error {
		if err := tx.Exec(`INSERT INTO outbox (message_id, name, key, sequence, correlation_id, causation_id, traceparent, subject, created_at, unsubscribed, payload)
			SELECT 'm' || n, 'alpha.counted.v1', 'k' || n, 1, '', '', '', '', now(), false, '{}' FROM generate_series(1, ?) AS n`, many).Error; err != nil {
			return err
		}
		return tx.Exec("INSERT INTO delivery (subscriber, outbox_id) SELECT 'beta', id FROM outbox").Error
	}); err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	sent, again := map[string]bool{}, 0
	all := make(chan struct{})
	r := New(store, Config{Limits: Limits{Workers: 16, Window: 64}, Sweep: 5 * time.Millisecond}, func(_ context.Context, _ string, m message.Message) error {
		mu.Lock()
		defer mu.Unlock()
		if sent[m.ID] {
			again++
		} else if sent[m.ID] = true; len(sent) == many {
			close(all)
		}
		return nil
	}, telemetry.NewMessages(nil), slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- r.Run(ctx, []string{"beta"}) }()
	select {
	case <-all:
	case <-time.After(time.Minute):
		t.Error("not everything was sent")
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if again > 0 {
		t.Errorf("%d of %d were sent again", again, many)
	}
}
