// Package relay moves a module's committed messages to their subscribers.
//
// Guarantees. A delivery row is deleted only after the subscriber has durably taken the message, so a message is
// never lost after its commit; after a crash it may be sent again, and the subscriber's inbox drops it. There is no
// cursor: what is left is found by its row, also a row that committed late. Messages of one key go one after another to
// a subscriber; the next one leaves when the one before is taken. Subscribers do not wait for each other: each has a
// window of its own. The relay ends only with its context; errors make it try again.
//
// A relay that was cut off does no harm. What it reads and what it marks names the fence of its lease: after another process has taken
// that, it neither sees newer messages nor removes what the other one has to send. What it had read before it sends in order, and the
// other one sends the same again.
//
// The way to a subscriber can be closed, for a change of its transport: then nothing is on its way, and everything that was not taken
// is in the outbox.
//
// Where commits are announced in their order (SQLite), a subscriber that is not behind gets its messages from memory; a
// read of the outbox costs as much as handling a message. Whoever is behind reads, and everybody does after a start.
package relay

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
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

type mark struct {
	leg *leg
	id  int64
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

// Sent says what was committed in this process. If inOrder the calls come in the order of the commits.
func (r *Relay) Sent(deliveries []unit.Delivery, inOrder bool) {
	legs := r.running()
	for _, d := range deliveries {
		if l := legs[d.Subscriber]; l != nil {
			l.offer(d, inOrder)
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

// leg is the way to one subscriber.
type leg struct {
	relay      *Relay
	ctx        context.Context // ends when nothing new is to be sent
	work       context.Context // of what is on its way
	subscriber string
	wake       chan struct{}

	mu      sync.Mutex
	limits  Limits            // while the way is open
	ended   bool              // nothing new is sent, for good
	closed  bool              // nothing is sent for now
	ways    int               // how often the way was closed
	from    int64             // behind what was read, see begin
	floors  []floor           // PostgreSQL: how far reading had come
	settled int64             // the latest below which nothing is committed any more
	low     int64             // the latest below which everything is read, too
	caught  bool              // everything announced so far was read: the next delivery may come from memory
	missed  int               // announcements that came while it was not
	open    map[int64]bool    // read and not yet marked; true once taken
	reading bool              // a read is on its way, which may still see what is marked meanwhile
	marked  []int64           // meanwhile
	pending int               // of them, not yet taken
	bytes   int               // of their payloads
	queues  map[string]*queue // by key
	ready   []string          // keys that wait for a worker
	busy    int               // workers
	sending sync.WaitGroup
}

// queue is the messages of a key, of which one at a time is on its way.
type queue struct {
	rows  []row
	delay time.Duration // after the first one was not taken
}

type row struct {
	ID            int64
	MessageID     string
	Name          string
	Key           string
	Sequence      int64
	CorrelationID string
	CausationID   string
	Traceparent   string
	Subject       string
	CreatedAt     time.Time
	Payload       []byte
}

// floor is how far a leg had read at a time, on PostgreSQL.
type floor struct {
	at   time.Time
	id   int64
	next int64 // the transaction that had not begun yet
}

// settleTime is how long a transaction may take from taking the number of its message to its commit: it ends with the
// unit of work, and sessions that stand still are ended by the server long before.
const (
	settleTime = 2 * time.Minute
	floorEvery = time.Second
)

// begin is where to read from, under the lock. On SQLite rows appear in the order of their ids, and reading goes on where
// it ended. On PostgreSQL a row with a lower id may be committed later, and read after one of the same key that was
// committed later still: going on after the highest id would send that one first. One statement sees commits of a key in
// their order, so each reading begins below whatever may still be committed, or be committed and not yet read.
func (l *leg) begin() int64 {
	if l.relay.inOrder() {
		return l.from
	}
	return l.low
}

// settle finds out below what nothing more is committed: a transaction has its own number before it takes that of a message, so what had
// been read is such a floor as soon as all transactions have ended that had begun then. An unrelated one that goes on and on does not hold
// it up for longer than settleTime.
func (l *leg) settle() error {
	l.mu.Lock()
	id, ways, n := l.from, l.ways, len(l.floors)
	due := !l.relay.inOrder() && (n == 0 || time.Since(l.floors[n-1].at) >= floorEvery)
	l.mu.Unlock()
	if !due {
		return nil
	}
	var oldest, next int64
	if err := database.Statements(l.relay.store.Read(l.ctx)).Row(`SELECT CAST(CAST(pg_snapshot_xmin(s) AS TEXT) AS BIGINT), CAST(CAST(pg_snapshot_xmax(s) AS TEXT) AS BIGINT)
		FROM pg_current_snapshot() AS s`).Scan(&oldest, &next); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ways != ways {
		return nil
	}
	now := time.Now()
	for len(l.floors) > 0 && (l.floors[0].next <= oldest || now.Sub(l.floors[0].at) >= settleTime) {
		l.settled = l.floors[0].id
		l.floors = l.floors[1:]
	}
	l.floors = append(l.floors, floor{at: now, id: id, next: next})
	return nil
}

// inOrder says whether rows appear in the order of their ids.
func (r *Relay) inOrder() bool { return r.store.DB().Dialect() == database.SQLite }

// start opens the way.
func (l *leg) start(limits Limits) {
	l.mu.Lock()
	if l.closed && !l.ended {
		l.closed = false
		l.limits = limits
	}
	l.mu.Unlock()
	l.nudge()
}

// stop closes the way. What was read and not taken is forgotten here, and read again when the way opens.
func (l *leg) stop() {
	l.mu.Lock()
	l.closed = true
	l.mu.Unlock()
	l.sending.Wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	for id, taken := range l.open {
		if !taken {
			delete(l.open, id)
		}
	}
	l.queues, l.ready = map[string]*queue{}, nil
	l.pending, l.bytes, l.from, l.caught = 0, 0, 0, false
	l.floors, l.settled, l.low = nil, 0, 0
	l.missed++
	l.ways++
}

func (l *leg) rewind(to int64) {
	l.mu.Lock()
	switch {
	case l.relay.inOrder():
		l.from = min(l.from, to)
	case to > 0 && to <= max(l.low, l.settled):
		l.floors, l.settled, l.low = nil, 0, 0 // somebody took longer than anybody may: read from the beginning
	}
	l.caught = false
	l.missed++
	l.mu.Unlock()
	l.nudge()
}

// offer takes a delivery from memory if nothing is unread before it, or else has it read.
func (l *leg) offer(d unit.Delivery, inOrder bool) {
	l.mu.Lock()
	if !inOrder || !l.caught || d.ID < l.from || l.full() || l.ended || l.closed {
		l.mu.Unlock()
		l.rewind(d.ID)
		return
	}
	defer l.mu.Unlock()
	l.from = d.ID + 1
	m := d.Message
	l.take(row{ID: d.ID, MessageID: m.ID, Name: m.Name, Key: m.Key, Sequence: m.Sequence, CorrelationID: m.CorrelationID, CausationID: m.CausationID,
		Traceparent: m.Traceparent, Subject: m.Subject, CreatedAt: m.Time, Payload: m.Payload})
}

// maxBytes bounds the payloads of a subscriber in memory; one more read may be added to it.
const maxBytes = 8 << 20

// full says that nothing more is taken into memory now, under the lock.
func (l *leg) full() bool {
	return l.pending >= l.limits.Window || l.bytes > maxBytes || len(l.open) > 8*l.limits.Window
}

// take puts a row on its way, under the lock.
func (l *leg) take(r row) {
	l.open[r.ID] = false
	l.pending++
	l.bytes += len(r.Payload)
	if q := l.queues[r.Key]; q != nil {
		q.rows = append(q.rows, r)
		return
	}
	l.queues[r.Key] = &queue{rows: []row{r}}
	l.hire(r.Key)
}

// hire has a key's messages sent, under the lock.
func (l *leg) hire(key string) {
	l.ready = append(l.ready, key)
	if l.busy < l.limits.Workers {
		l.busy++
		l.sending.Go(l.deliver)
	}
}

func (l *leg) nudge() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

func (l *leg) run() {
	for {
		select {
		case <-l.ctx.Done():
			l.mu.Lock()
			l.ended = true
			l.mu.Unlock()
			l.sending.Wait()
			return
		case <-l.wake:
		}
		for l.ctx.Err() == nil {
			more, err := l.read()
			if err != nil && l.ctx.Err() == nil {
				l.relay.log.Warn("relay cannot read its outbox", "module", l.relay.store.Module(), "subscriber", l.subscriber, "error", err)
				pause(l.ctx, 200*time.Millisecond)
			} else if !more {
				break
			}
		}
	}
}

// read takes the next rows into the window; more says that there may be others.
func (l *leg) read() (more bool, err error) {
	if err := l.settle(); err != nil {
		return true, err
	}
	l.mu.Lock()
	free := l.limits.Window - l.pending
	if l.closed || l.full() {
		l.mu.Unlock()
		return false, nil // opening the way, and taking a message, nudges
	}
	from, settled, missed, ways := l.begin(), l.settled, l.missed, l.ways
	known := slices.AppendSeq(make([]int64, 0, len(l.open)), maps.Keys(l.open))
	l.reading = true
	l.mu.Unlock()
	rows, all, err := l.query(from, known, free)
	l.mu.Lock()
	defer l.mu.Unlock()
	defer l.forget()
	if err != nil {
		return true, err
	}
	if l.closed || l.ways != ways {
		return false, nil // it was closed meanwhile
	}
	taken := 0
	for _, r := range rows {
		if _, known := l.open[r.ID]; !known {
			if taken == free {
				return !l.full(), nil
			}
			l.take(r)
			taken++
		}
		switch {
		case !l.relay.inOrder():
			l.from = max(l.from, r.ID)
		case l.from == from:
			from, l.from = r.ID+1, r.ID+1
		}
	}
	if settled == l.settled && (all || len(rows) > 0 && rows[len(rows)-1].ID >= settled) {
		l.low = settled
	}
	// With a full answer there may be more; with a short one everything is read that was committed before it, and
	// nothing is left to read unless something was announced meanwhile.
	if !all {
		return !l.full() && (l.relay.inOrder() || taken > 0), nil
	}
	l.caught = l.missed == missed
	return !l.caught, nil
}

// forget ends a read, under the lock: what was marked during it is not in the next one.
func (l *leg) forget() {
	for _, id := range l.marked {
		delete(l.open, id)
	}
	l.reading, l.marked = false, l.marked[:0]
}

// readNext reads the next rows of a subscriber. On PostgreSQL the ids come as an array, so that the rows are looked up one by
// one whatever the statistics say; on a table that was never analyzed a join reads all of it. What is in memory is left out there: reading
// begins below it.
var readNext = map[database.Dialect]string{
	database.SQLite:   "SELECT " + rowColumns + " FROM outbox WHERE id IN (SELECT outbox_id FROM delivery WHERE subscriber = ? AND outbox_id >= ? ORDER BY outbox_id LIMIT ?) ORDER BY id",
	database.Postgres: fmt.Sprintf(readUnknown, ""),
}

// readFenced sees nothing for a relay that was cut off. Fence and rows are of one snapshot.
var readFenced = fmt.Sprintf(readUnknown, " AND ? = (SELECT epoch FROM lease WHERE name = 'owner')")

const readUnknown = "SELECT " + rowColumns + " FROM outbox WHERE id = ANY (ARRAY (SELECT outbox_id FROM delivery WHERE subscriber = ? AND outbox_id >= ?" +
	" AND outbox_id NOT IN (SELECT unnest(CAST(? AS BIGINT[])))%s ORDER BY outbox_id LIMIT ?)) ORDER BY id"

const rowColumns = "id, message_id, name, key, sequence, correlation_id, causation_id, traceparent, subject, created_at, payload"

// query reads up to free rows that are not in memory; all says that there are no others.
func (l *leg) query(from int64, known []int64, free int) (rows []row, all bool, err error) {
	dialect := l.relay.store.DB().Dialect()
	statement, args := readNext[dialect], []any{l.subscriber, from}
	limit := free
	if dialect == database.SQLite {
		limit += len(known) // from which most of them are
	} else {
		args = append(args, known)
	}
	if fence := l.relay.fence(); fence != 0 {
		statement, args = readFenced, append(args, fence)
	}
	args = append(args, limit)
	found, err := database.Statements(l.relay.store.Read(l.ctx)).Rows(statement, args...)
	if err != nil {
		return nil, false, err
	}
	defer func() { _ = found.Close() }()
	size := 0
	for found.Next() {
		if size > maxBytes {
			return rows, false, nil
		}
		var r row
		if err := found.Scan(&r.ID, &r.MessageID, &r.Name, &r.Key, &r.Sequence, &r.CorrelationID, &r.CausationID, &r.Traceparent, &r.Subject, &r.CreatedAt, &r.Payload); err != nil {
			return nil, false, err
		}
		rows = append(rows, r)
		size += len(r.Payload)
	}
	return rows, len(rows) < limit, found.Err()
}

// deliver sends the messages of the keys that are ready.
func (l *leg) deliver() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for len(l.ready) > 0 {
		key := l.ready[0]
		l.ready = l.ready[1:]
		l.sendKey(key)
	}
	l.busy--
}

// sendKey sends the messages of a key, one after another, under the lock, which it gives up meanwhile.
func (l *leg) sendKey(key string) {
	q := l.queues[key]
	for len(q.rows) > 0 && !l.closed && l.ctx.Err() == nil {
		r := q.rows[0]
		l.mu.Unlock()
		taken := l.sendOne(r)
		l.mu.Lock()
		if !taken { // it holds up its key, and takes nobody's place
			q.delay = min(max(2*q.delay, 20*time.Millisecond), 5*time.Second)
			time.AfterFunc(q.delay+rand.N(q.delay), func() {
				l.mu.Lock()
				defer l.mu.Unlock()
				if l.queues[key] == q && !l.closed && !l.ended {
					l.hire(key)
				}
			})
			return
		}
		q.rows, q.delay = q.rows[1:], 0
	}
	delete(l.queues, key) // what is left stays in the outbox
}

func (l *leg) sendOne(r row) (taken bool) {
	m := message.Message{
		ID: r.MessageID, Name: r.Name, Source: l.relay.store.Module(), Key: r.Key, Sequence: r.Sequence, CorrelationID: r.CorrelationID,
		CausationID: r.CausationID, Traceparent: r.Traceparent, Subject: r.Subject, Time: r.CreatedAt, Payload: r.Payload,
	}
	if err := l.relay.send(l.work, l.subscriber, m); err != nil {
		l.relay.log.Warn("message not taken, will send it again", "module", m.Source, "subscriber", l.subscriber, "message", m.Name, "id", m.ID, "error", err)
		return false
	}
	l.relay.metrics.Published.WithLabelValues(m.Source, m.Name).Inc()
	l.relay.metrics.Lag.WithLabelValues(m.Source, l.subscriber).Observe(l.relay.store.Clock().Now().Sub(m.Time).Seconds())
	l.mu.Lock()
	l.open[r.ID] = true
	l.pending--
	l.bytes -= len(r.Payload)
	behind := !l.caught && l.pending <= l.limits.Window/2
	l.mu.Unlock()
	l.relay.marks <- mark{leg: l, id: r.ID}
	if behind {
		l.nudge()
	}
	return true
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

// markSizes are the lengths of the lists in the statements that mark, so that few statements serve all.
var markSizes = []int{1, 8, 64, 512}

// Marks are collected for a while, and for longer when there are many: a few large transactions cost less than many small ones.
const (
	markDelay     = 5 * time.Millisecond
	markDelayMany = 20 * time.Millisecond
	manyMarks     = 16 // within the first delay
)

// mark deletes taken deliveries in batches. Losing a mark in a crash does no harm: the inbox drops the repeat.
func (r *Relay) mark(work context.Context, stop <-chan struct{}) {
	batch := make([]mark, 0, 512)
	for {
		batch = batch[:0]
		select {
		case m := <-r.marks:
			batch = append(batch, m)
		case <-stop:
			for {
				select {
				case m := <-r.marks:
					batch = append(batch, m)
					continue
				default:
				}
				break
			}
			if len(batch) == 0 {
				return
			}
		}
		// A mark is in no hurry: a few milliseconds make one transaction of many.
		full := time.NewTimer(markDelay)
		for more, many := true, false; more && len(batch) < cap(batch); {
			select {
			case m := <-r.marks:
				batch = append(batch, m)
			case <-full.C:
				if more = !many && len(batch) >= manyMarks; more {
					many = true
					full.Reset(markDelayMany)
				}
			case <-stop:
				more = false
			}
		}
		full.Stop()
		delay := 50 * time.Millisecond
		for {
			err := r.store.DB().Write(work, func(tx *gorm.DB) error { return deleteTaken(tx, batch, r.fence()) }, database.Lazy)
			if err == nil {
				break
			}
			r.log.Warn("relay cannot mark what was taken, will try again", "module", r.store.Module(), "error", err)
			select {
			case <-stop:
				return
			case <-time.After(delay):
			}
			delay = min(2*delay, 5*time.Second)
		}
		for _, m := range batch {
			m.leg.mu.Lock()
			if m.leg.reading {
				m.leg.marked = append(m.leg.marked, m.id)
			} else {
				delete(m.leg.open, m.id)
			}
			nudge := len(m.leg.open) == 4*m.leg.limits.Window || !m.leg.caught && m.leg.pending == 0
			m.leg.mu.Unlock()
			if nudge {
				m.leg.nudge()
			}
		}
	}
}

// deleteTaken deletes nothing for a relay that was cut off. The lock makes who takes the lease wait for the commit.
func deleteTaken(tx *gorm.DB, batch []mark, fence int64) error {
	db := database.Statements(tx)
	rightful, token := "", []any(nil)
	if fence != 0 {
		rightful, token = " AND EXISTS (SELECT 1 FROM lease WHERE name = 'owner' AND epoch = ? FOR SHARE)", []any{fence}
	}
	bySubscriber := map[string][]int64{}
	var all []int64
	for _, m := range batch {
		bySubscriber[m.leg.subscriber] = append(bySubscriber[m.leg.subscriber], m.id)
		all = append(all, m.id)
	}
	for s, ids := range bySubscriber {
		for chunk := range slices.Chunk(ids, markSizes[len(markSizes)-1]) {
			list, args := idList(db, chunk)
			if err := db.Later(nil, "DELETE FROM delivery WHERE subscriber = ? AND outbox_id "+list+rightful, append(append([]any{s}, args...), token...)...); err != nil {
				return err
			}
		}
	}
	for chunk := range slices.Chunk(all, markSizes[len(markSizes)-1]) {
		list, args := idList(db, chunk)
		if err := db.Later(nil, "DELETE FROM outbox WHERE id "+list+" AND NOT EXISTS (SELECT 1 FROM delivery WHERE outbox_id = id)", args...); err != nil {
			return err
		}
	}
	return nil
}

// idList is a condition on ids: an array on PostgreSQL, and on SQLite a list padded to one of few sizes by repeating the
// last one.
func idList(db database.SQL, ids []int64) (string, []any) {
	if db.Dialect() == database.Postgres {
		return "= ANY (?)", []any{ids}
	}
	size := markSizes[len(markSizes)-1]
	for _, s := range markSizes {
		if len(ids) <= s {
			size = s
			break
		}
	}
	args := make([]any, size)
	for i := range args {
		args[i] = ids[min(i, len(ids)-1)]
	}
	return "IN (" + strings.TrimSuffix(strings.Repeat("?,", size), ",") + ")", args
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

// Pending counts the deliveries not yet taken, up to a limit, and says since when the oldest one waits.
func (r *Relay) Pending(ctx context.Context, limit int64) (n int64, oldest time.Time, err error) {
	if err = r.store.Read(ctx).Raw("SELECT count(*) FROM (SELECT 1 FROM delivery LIMIT ?) AS pending", limit).Row().Scan(&n); err != nil || n == 0 {
		return n, oldest, err
	}
	err = r.store.Read(ctx).Raw("SELECT created_at FROM outbox WHERE id = (SELECT min(outbox_id) FROM delivery)").Row().Scan(&oldest)
	if errors.Is(err, sql.ErrNoRows) { // taken meanwhile
		oldest, err = r.store.Clock().Now(), nil
	}
	return n, oldest, err
}

// Clean removes messages nobody subscribes to that were made before a time, and what a crash between two marks left.
func (r *Relay) Clean(ctx context.Context, before time.Time) error {
	return errors.Join(
		r.clean(ctx, "unsubscribed AND created_at < ?", before),
		r.clean(ctx, "NOT unsubscribed AND created_at < ? AND NOT EXISTS (SELECT 1 FROM delivery WHERE outbox_id = outbox.id)", before))
}

// clean removes what is old in small steps, and looks for it outside of them: on SQLite everybody else waits for the one writer.
func (r *Relay) clean(ctx context.Context, old string, before time.Time) error {
	most := markSizes[len(markSizes)-1]
	for {
		var ids []int64
		if err := r.store.Read(ctx).Raw("SELECT id FROM outbox WHERE "+old+" LIMIT ?", before, most).Scan(&ids).Error; err != nil || len(ids) == 0 {
			return err
		}
		err := r.store.DB().Write(ctx, func(tx *gorm.DB) error {
			db := database.Statements(tx)
			list, args := idList(db, ids)
			_, err := db.Exec("DELETE FROM outbox WHERE id "+list, args...)
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
