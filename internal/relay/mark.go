package relay

import (
	"context"
	"slices"
	"strings"
	"time"

	"gorm.io/gorm"

	"github.com/banyan-go/banyan/internal/database"
)

// mark is a delivery that was taken.
type mark struct {
	leg *leg
	id  int64
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
	own := " AND subscriber = ?"
	if db.Dialect() == database.Postgres {
		own = " AND subscriber || '' = ?" // no index has that: where its statistics are old, the server would read all rows of a subscriber by one
	}
	db.ByIndex()
	bySubscriber := map[string][]int64{}
	var all []int64
	for _, m := range batch {
		bySubscriber[m.leg.subscriber] = append(bySubscriber[m.leg.subscriber], m.id)
		all = append(all, m.id)
	}
	for s, ids := range bySubscriber {
		for chunk := range slices.Chunk(ids, markSizes[len(markSizes)-1]) {
			list, args := idList(db, chunk)
			if err := db.Later(nil, "DELETE FROM delivery WHERE outbox_id "+list+own+rightful, append(append(args, s), token...)...); err != nil {
				return err
			}
		}
	}
	for chunk := range slices.Chunk(all, markSizes[len(markSizes)-1]) {
		list, args := idList(db, chunk)
		// What no module subscribes to stays, also after others were told of it.
		if err := db.Later(nil, "DELETE FROM outbox WHERE id "+list+" AND NOT unsubscribed AND NOT EXISTS (SELECT 1 FROM delivery WHERE outbox_id = id)", args...); err != nil {
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
