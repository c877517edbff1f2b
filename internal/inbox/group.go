package inbox

import (
	"context"
	"errors"
	"sync"

	"github.com/banyan-go/banyan/internal/database"
	"github.com/banyan-go/banyan/internal/message"
	"github.com/banyan-go/banyan/internal/module"
	"github.com/banyan-go/banyan/internal/unit"
)

// group collects messages that wait for a busy handler into one transaction: a commit waits for the disk once for all of
// them. While one group runs the next one collects; a message that waits alone is handled alone. If anything goes
// wrong in a group it is rolled back whole, and each of its messages is handled by itself. SQLite's writer does the
// same for all units of work, so there it is left to it.
type group struct {
	mu      sync.Mutex
	waiting []*grouped
	leading bool
}

type grouped struct {
	fn   module.MessageHandler
	m    message.Message
	done chan bool // true once handled
}

// errAlone rolls a group back whose messages are to be handled one by one.
var errAlone = errors.New("handle alone")

// together tries to handle a message with others; false means that the caller has to handle it alone.
func (b *Inbox) together(h *Handler, fn module.MessageHandler, m message.Message) bool {
	if h.Group < 2 || h.Unordered || b.store.DB().Dialect() != database.Postgres {
		return false
	}
	g := &grouped{fn: fn, m: m, done: make(chan bool, 1)}
	h.group.mu.Lock()
	h.group.waiting = append(h.group.waiting, g)
	lead := !h.group.leading
	h.group.leading = true
	h.group.mu.Unlock()
	if lead {
		b.lead(h)
	}
	return <-g.done
}

// lead handles groups until nobody waits.
func (b *Inbox) lead(h *Handler) {
	for {
		h.group.mu.Lock()
		n := min(len(h.group.waiting), h.Group)
		batch := h.group.waiting[:n:n]
		h.group.waiting = h.group.waiting[n:]
		if n == 0 {
			h.group.leading = false
			h.group.waiting = nil
			h.group.mu.Unlock()
			return
		}
		h.group.mu.Unlock()
		handled := false
		if n > 1 {
			handled = b.handleGroup(h, batch) == nil
		}
		for _, g := range batch {
			g.done <- handled
		}
	}
}

func (b *Inbox) handleGroup(h *Handler, batch []*grouped) error {
	// Not the context of any one of them: it would end the others.
	ctx, cancel := context.WithTimeout(context.Background(), groupTimeout)
	defer cancel()
	causes := make([]*message.Message, len(batch))
	ids, keys := make([]string, len(batch)), make([]string, len(batch))
	for i, g := range batch {
		causes[i], ids[i], keys[i] = &g.m, g.m.ID, h.key(g.m)
	}
	return b.store.HandleGroup(ctx, causes, h.Name, func(ctx context.Context, i int, w *unit.Work) error {
		if i == 0 {
			claimed, err := database.Statements(w.DB).Exec(`INSERT INTO inbox (handler, message_id, handled_at)
				SELECT CAST(? AS TEXT), v.id, CAST(? AS TIMESTAMPTZ) FROM unnest(CAST(? AS TEXT[]), CAST(? AS TEXT[])) AS v (id, key)
				WHERE NOT EXISTS (SELECT 1 FROM parked_key p WHERE p.handler = ? AND p.key = v.key) ON CONFLICT (handler, message_id) DO NOTHING`,
				h.Name, w.Now(), ids, keys, h.Name)
			if err != nil {
				return err
			}
			if claimed != int64(len(batch)) {
				return errAlone
			}
		}
		return batch[i].fn(ctx, w, batch[i].m)
	})
}
