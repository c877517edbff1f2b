package relay

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/banyan-go/banyan/internal/database"
	"github.com/banyan-go/banyan/internal/message"
	"github.com/banyan-go/banyan/internal/unit"
)

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
	caught  bool              // everything announced so far was read; on SQLite the next message may come from memory then
	missed  int               // announcements that came while it was not
	abreast bool              // PostgreSQL: the last read saw everything, so that the next message of a key may come from memory
	chain   chain             // PostgreSQL: which one that is
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
	floorEvery = 250 * time.Millisecond
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
	l.abreast, l.chain = false, chain{}
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

// offer takes a message from memory if nothing that goes before it is unread, or else has it read.
func (l *leg) offer(s *unit.Sent) {
	m := s.Message
	l.mu.Lock()
	next := l.chain.next(m.Key)
	follows := l.abreast && m.Sequence == next
	if l.relay.inOrder() {
		follows = l.caught && s.ID >= l.from
	} else if m.Sequence < next {
		l.mu.Unlock()
		return // it was read before this word of it came
	}
	if !follows || l.full() || l.ended || l.closed {
		l.mu.Unlock()
		l.rewind(s.ID)
		return
	}
	defer l.mu.Unlock()
	if l.relay.inOrder() {
		l.from = s.ID + 1
	} else {
		l.from = max(l.from, s.ID)
	}
	l.take(row{ID: s.ID, MessageID: m.ID, Name: m.Name, Key: m.Key, Sequence: m.Sequence, CorrelationID: m.CorrelationID, CausationID: m.CausationID,
		Traceparent: m.Traceparent, Subject: m.Subject, CreatedAt: m.Time, Payload: m.Payload})
}

// pass says that a message goes elsewhere.
func (l *leg) pass(s *unit.Sent) {
	if l.relay.inOrder() {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.chain.pass(s.Message.Key, s.Message.Sequence)
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
	if !l.relay.inOrder() {
		l.chain.take(r.Key, r.Sequence)
	}
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
		l.abreast = l.abreast && l.caught
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
	l.abreast = all
	free = min(free, l.limits.Window-l.pending) // others came from memory meanwhile
	taken := 0
	for _, r := range rows {
		if _, known := l.open[r.ID]; !known {
			if taken == free {
				l.abreast, l.caught = false, false
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

// readNext reads the next rows of a subscriber. On PostgreSQL the ids come as an array, so that the rows are looked up one by one: a join
// may read all of the outbox. What is in memory is left out there, as reading begins below it.
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
	size, more := 0, false
	err = l.relay.store.DB().Lookup(l.ctx, statement, args, func(found database.Row) error {
		if more = more || size > maxBytes; more {
			return nil
		}
		var r row
		if err := found.Scan(&r.ID, &r.MessageID, &r.Name, &r.Key, &r.Sequence, &r.CorrelationID, &r.CausationID, &r.Traceparent, &r.Subject, &r.CreatedAt, &r.Payload); err != nil {
			return err
		}
		rows = append(rows, r)
		size += len(r.Payload)
		return nil
	})
	return rows, !more && len(rows) < limit, err
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
