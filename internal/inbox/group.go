package inbox

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"

	"github.com/banyan-go/banyan/internal/database"
	"github.com/banyan-go/banyan/internal/message"
	"github.com/banyan-go/banyan/internal/module"
	"github.com/banyan-go/banyan/internal/unit"
)

// group collects messages that wait for a busy handler into one transaction: a commit waits for the disk once for all of
// them. While groups run the next one collects. If anything goes wrong in a group it is rolled back whole, and each of its
// messages is handled by itself. SQLite's writer does the same for all units of work, so there it is left to it.
type group struct {
	mu      sync.Mutex
	waiting []*grouped
	leading int // goroutines that handle groups; each ends when nobody waits
}

type grouped struct {
	ctx  context.Context
	fn   module.MessageHandler
	m    message.Message
	done chan bool // true once handled
}

// maxLeaders is how many groups of a handler run side by side, once a part of one waits: while one waits for the disk the other
// computes. Waiting for a whole one cost a third of the rate where no more keys than that have messages.
const (
	maxLeaders = 2
	partOf     = 4
)

// errAlone rolls a group back whose messages are to be handled one by one.
var errAlone = errors.New("handle alone")

// together tries to handle a message with others; false means that the caller has to handle it alone.
func (b *Inbox) together(ctx context.Context, h *Handler, fn module.MessageHandler, m message.Message) bool {
	if h.Group < 2 || h.Unordered || b.store.DB().Dialect() != database.Postgres {
		return false
	}
	g := &grouped{ctx: ctx, fn: fn, m: m, done: make(chan bool, 1)}
	h.group.mu.Lock()
	h.group.waiting = append(h.group.waiting, g)
	lead := h.group.leading == 0 || h.group.leading < maxLeaders && len(h.group.waiting) >= h.Group/partOf
	if lead {
		h.group.leading++
	}
	h.group.mu.Unlock()
	if lead {
		go b.lead(h) // not the caller: its own message is answered long before nobody waits any more
	}
	return <-g.done
}

// lead handles groups until nobody waits.
func (b *Inbox) lead(h *Handler) {
	for {
		h.group.mu.Lock()
		n := min(len(h.group.waiting), h.Group)
		batch := slices.Clone(h.group.waiting[:n])
		h.group.waiting = slices.Delete(h.group.waiting, 0, n)
		if n == 0 {
			h.group.leading--
		}
		h.group.mu.Unlock()
		if n == 0 {
			return
		}
		handled := b.handleGroup(h, batch) == nil
		for _, g := range batch {
			g.done <- handled
		}
	}
}

// handleGroup is the transaction of a group. Its messages are taken in the order of their keys, so that two processes that
// handle the same ones do not wait for each other in a circle.
func (b *Inbox) handleGroup(h *Handler, batch []*grouped) error {
	// Not the context of any one of them: it would end the others.
	ctx, cancel := context.WithTimeout(context.Background(), groupTimeout)
	defer cancel()
	slices.SortFunc(batch, func(a, b *grouped) int { return cmp.Compare(h.key(a.m), h.key(b.m)) })
	causes := make([]unit.Cause, len(batch))
	ids, keys := make([]string, len(batch)), make([]string, len(batch))
	for i, g := range batch {
		causes[i] = unit.Cause{Context: g.ctx, Message: &g.m}
		ids[i], keys[i] = g.m.ID, h.key(g.m)
	}
	return b.store.HandleGroup(ctx, causes, h.Name, func(ctx context.Context, i int, w *unit.Work) error {
		if i == 0 {
			if err := database.Statements(w.DB).Expect(int64(len(batch)), errAlone, `INSERT INTO inbox (handler, message_id, handled_at)
				SELECT CAST(? AS TEXT), v.id, CAST(? AS TIMESTAMPTZ) FROM unnest(CAST(? AS TEXT[]), CAST(? AS TEXT[])) AS v (id, key)
				WHERE NOT EXISTS (SELECT 1 FROM parked_key p WHERE p.handler IN (?, ?) AND p.key = v.key) ON CONFLICT (handler, message_id) DO NOTHING`,
				h.Name, w.Now(), ids, keys, h.Name, anotherVersion); err != nil {
				return err
			}
		}
		return batch[i].fn(ctx, w, batch[i].m)
	})
}
