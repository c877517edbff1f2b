package relay

import (
	"context"
	"log/slog"
	"sync"
	"testing"
	"time"

	"gorm.io/gorm"

	"github.com/banyan-go/banyan/internal/databasetest"
	"github.com/banyan-go/banyan/internal/message"
	"github.com/banyan-go/banyan/internal/telemetry"
	"github.com/banyan-go/banyan/internal/unit"
)

// A row that appears below where reading begins took longer to commit than anybody expected, as behind a standby that
// did not answer. It is late, not lost.
func TestRowBelowTheFloorIsFound(t *testing.T) {
	t.Parallel()
	db := databasetest.Postgres(t, "alpha").Store(t, "alpha")
	store := unit.New(db, unit.Options{Module: "alpha"})
	sent := make(chan string, 8)
	r := New(store, Config{Limits: Limits{Workers: 4, Window: 8}, Sweep: 20 * time.Millisecond}, func(_ context.Context, _ string, m message.Message) error {
		sent <- m.Key
		return nil
	}, telemetry.NewMessages(nil), slog.New(slog.DiscardHandler))
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
		case key := <-sent:
			return key
		case <-time.After(5 * time.Second):
			return "nothing"
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- r.Run(ctx, []string{"beta"}) }()
	insert(1000, "first")
	if got := next(); got != "first" {
		t.Errorf("%s was sent, want the first one", got)
	}
	l := r.running()["beta"]
	l.mu.Lock()
	l.floors = []floor{{at: time.Now().Add(-2 * settleTime), id: 1000}}
	l.mu.Unlock()
	insert(5, "late")
	if got := next(); got != "late" {
		t.Errorf("%s was sent, want the late one", got)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
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
