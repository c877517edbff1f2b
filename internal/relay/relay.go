// Package relay moves a module's committed messages to their subscribers.
//
// Guarantees. A delivery row is deleted only after the subscriber has durably taken the message, so a message is
// never lost after its commit; after a crash it may be sent again, and the subscriber's inbox drops it. There is no
// cursor: what is left is found by its row, also a row that committed late. Messages of one key go one after another to
// a subscriber; the next one leaves when the one before is taken. Subscribers do not wait for each other: each has a
// window of its own. The relay ends only with its context; errors make it try again.
//
// A relay that was cut off does no harm. What it reads and what it marks names the fence of its lease: after another process has taken
// that, it neither sees newer messages nor removes what the other one has to send. What it had read before, and what its own process
// commits until it finds out, it sends in order, and the other one sends the same again.
//
// The way to a subscriber can be closed, for a change of its transport: then nothing is on its way, and everything that was not taken
// is in the outbox.
//
// A subscriber that is not behind gets from memory what this process commits: a read of the outbox costs as much as handling a message.
// On SQLite commits are announced in their order. On PostgreSQL they are not, and other processes commit too; there a message is taken
// from memory only if its number says that it is the next one of its key after what this way has taken or need not take (chain). All
// others are read, and everything is that this process did not announce. Whoever is behind reads, and everybody does after a start.
package relay

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"gorm.io/gorm"

	"github.com/banyan-go/banyan/internal/database"
	"github.com/banyan-go/banyan/internal/message"
	"github.com/banyan-go/banyan/internal/telemetry"
	"github.com/banyan-go/banyan/internal/unit"
)

// Config is how a relay works.
type Config struct {
	Limits               // of a way without a guard
	Sweep  time.Duration // how often rows are looked for that nobody has announced
	Fence  func() int64  // of the lease by which the relay runs, on PostgreSQL; nil for none
	// Guard opens and closes the way to a subscriber, which is closed at first, until ctx ends; nil leaves all ways open.
	Guard func(ctx context.Context, subscriber string, way *Way)
}

// Limits bound the way to a subscriber.
type Limits struct {
	Workers int // messages on their way at a time
	Window  int // messages in memory, at least as many
}

// Way is the way to a subscriber.
type Way struct{ leg *leg }

// Open lets messages go.
func (w *Way) Open(l Limits) { w.leg.start(l) }

// Close lets no more go, and returns when none is on its way.
func (w *Way) Close() { w.leg.stop() }

// Relay is the sending end of one module.
type Relay struct {
	store   *unit.Store
	cfg     Config
	send    func(ctx context.Context, subscriber string, m message.Message) error
	metrics *telemetry.Messages
	log     *slog.Logger

	legs   atomic.Pointer[map[string]*leg] // nil while the relay does not run
	marks  chan mark
	oldest atomic.Int64 // unix microseconds of the oldest pending message, 0 for none
}

// New is the relay of a module. send returns nil once the subscriber has durably taken the message.
func New(store *unit.Store, cfg Config, send func(ctx context.Context, subscriber string, m message.Message) error, metrics *telemetry.Messages, log *slog.Logger) *Relay {
	return &Relay{store: store, cfg: cfg, send: send, metrics: metrics, log: log, marks: make(chan mark, 1024)}
}

// Wake says that something was committed, perhaps with an outbox id as low as first (0: unknown).
func (r *Relay) Wake(first int64) {
	for _, l := range r.running() {
		l.rewind(first)
	}
}

// Sent says what was committed in this process. On SQLite the calls come in the order of the commits.
func (r *Relay) Sent(messages []*unit.Sent) {
	legs := r.running()
	for _, m := range messages {
		for name, l := range legs {
			if slices.Contains(m.Subscribers, name) {
				l.offer(m)
			} else {
				l.pass(m)
			}
		}
	}
}

func (r *Relay) running() map[string]*leg {
	if legs := r.legs.Load(); legs != nil {
		return *legs
	}
	return nil
}

// fence is that of the lease; 0 for none.
func (r *Relay) fence() int64 {
	if r.cfg.Fence == nil || r.inOrder() {
		return 0
	}
	return r.cfg.Fence()
}

// inOrder says whether rows appear in the order of their ids.
func (r *Relay) inOrder() bool { return r.store.DB().Dialect() == database.SQLite }

// Oldest is when the oldest message was committed that a subscriber has not taken; false if there is none.
func (r *Relay) Oldest() (time.Time, bool) {
	at := r.oldest.Load()
	return time.UnixMicro(at).UTC(), at != 0
}

// Run relays to the subscribers until ctx ends; then it finishes what is on its way and marks it.
func (r *Relay) Run(ctx context.Context, subscribers []string) error {
	// What is on its way is finished when ctx ends.
	work := context.WithoutCancel(ctx)
	stop := make(chan struct{})
	var legs, marker sync.WaitGroup
	list := map[string]*leg{}
	for _, name := range subscribers {
		l := &leg{relay: r, ctx: ctx, work: work, subscriber: name, wake: make(chan struct{}, 1), open: map[int64]bool{}, queues: map[string]*queue{}}
		l.closed = true
		list[name] = l
	}
	r.legs.Store(&list)
	for name, l := range list {
		legs.Go(l.run)
		if r.cfg.Guard == nil {
			l.start(r.cfg.Limits)
			continue
		}
		legs.Go(func() { r.cfg.Guard(ctx, name, &Way{l}) })
	}
	marker.Go(func() { r.mark(work, stop) })
	legs.Go(func() { r.sweep(ctx, subscribers) })
	legs.Wait()
	r.legs.Store(nil)
	r.oldest.Store(0)
	close(stop)
	marker.Wait()
	return nil
}

func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// sweep finds what nobody has announced: left from a crash, or committed by another process.
func (r *Relay) sweep(ctx context.Context, subscribers []string) {
	if len(subscribers) == 0 {
		<-ctx.Done()
		return
	}
	parts := make([]string, len(subscribers))
	args := make([]any, 0, 2*len(subscribers))
	for i, s := range subscribers {
		parts[i] = "SELECT CAST(? AS TEXT) AS subscriber, id, created_at FROM outbox WHERE id = (SELECT min(outbox_id) FROM delivery WHERE subscriber = ?)"
		args = append(args, s, s)
	}
	query := strings.Join(parts, " UNION ALL ")
	for pause(ctx, r.cfg.Sweep) {
		if err := r.sweepOnce(ctx, query, args, subscribers); err != nil && ctx.Err() == nil {
			r.log.Warn("relay cannot sweep its outbox", "module", r.store.Module(), "error", err)
		}
	}
}

func (r *Relay) sweepOnce(ctx context.Context, query string, args []any, subscribers []string) error {
	var found []struct {
		Subscriber string
		ID         int64
		CreatedAt  time.Time
	}
	if err := r.store.Read(ctx).Raw(query, args...).Scan(&found).Error; err != nil {
		return err
	}
	now := r.store.Clock().Now()
	oldest := int64(0)
	pending := map[string]bool{}
	for _, f := range found {
		pending[f.Subscriber] = true
		r.metrics.Oldest.WithLabelValues(r.store.Module(), f.Subscriber).Set(now.Sub(f.CreatedAt).Seconds())
		if at := f.CreatedAt.UnixMicro(); oldest == 0 || at < oldest {
			oldest = at
		}
		l := r.running()[f.Subscriber]
		if l == nil {
			continue
		}
		l.rewind(f.ID) // it may be on its way, and others behind it that were missed
	}
	for _, s := range subscribers {
		if !pending[s] {
			r.metrics.Oldest.WithLabelValues(r.store.Module(), s).Set(0)
		}
	}
	r.oldest.Store(oldest)
	return nil
}

// Pending counts the deliveries not yet taken, up to a limit and but for those of one subscriber ("" for none), and says since when the
// oldest one waits.
func (r *Relay) Pending(ctx context.Context, limit int64, but string) (n int64, oldest time.Time, err error) {
	if err = r.store.Read(ctx).Raw("SELECT count(*) FROM (SELECT 1 FROM delivery WHERE subscriber <> ? LIMIT ?) AS pending", but, limit).Row().Scan(&n); err != nil || n == 0 {
		return n, oldest, err
	}
	err = r.store.Read(ctx).Raw("SELECT created_at FROM outbox WHERE id = (SELECT min(outbox_id) FROM delivery WHERE subscriber <> ?)", but).Row().Scan(&oldest)
	if errors.Is(err, sql.ErrNoRows) { // taken meanwhile
		oldest, err = r.store.Clock().Now(), nil
	}
	return n, oldest, err
}

// Clean removes messages nobody subscribes to that were made before a time, and what a crash between two marks left.
func (r *Relay) Clean(ctx context.Context, before time.Time) error {
	return errors.Join(r.clean(ctx, "unsubscribed", before), r.clean(ctx, "NOT unsubscribed", before))
}

// clean removes what is old and waits for nobody in small steps, and looks for it outside of them: on SQLite everybody else waits for the
// one writer. What was replayed since it was looked for stays.
func (r *Relay) clean(ctx context.Context, which string, before time.Time) error {
	most := markSizes[len(markSizes)-1]
	old := which + " AND created_at < ? AND NOT EXISTS (SELECT 1 FROM delivery WHERE outbox_id = outbox.id)"
	for {
		var ids []int64
		if err := r.store.Read(ctx).Raw("SELECT id FROM outbox WHERE "+old+" LIMIT ?", before, most).Scan(&ids).Error; err != nil || len(ids) == 0 {
			return err
		}
		err := r.store.DB().Write(ctx, func(tx *gorm.DB) error {
			db := database.Statements(tx)
			list, args := idList(db, ids)
			_, err := db.Exec("DELETE FROM outbox WHERE id "+list+" AND "+old, append(args, before)...)
			return err
		})
		if err != nil || len(ids) < most {
			return err
		}
	}
}

// CheckSubscribers refuses deliveries that wait for a module that no longer subscribes.
func CheckSubscribers(ctx context.Context, store *unit.Store, known []string) error {
	var waiting []string
	if err := store.Read(ctx).Raw("SELECT DISTINCT subscriber FROM delivery").Scan(&waiting).Error; err != nil {
		return err
	}
	for _, s := range waiting {
		if !slices.Contains(known, s) {
			return fmt.Errorf("messages of %s wait for the subscriber %q, which does not exist any more; let the version before deliver them first", store.Module(), s)
		}
	}
	return nil
}
