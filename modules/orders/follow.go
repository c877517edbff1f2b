package orders

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/danielgtaylor/huma/v2"
)

const (
	// followPoll finds what other replicas committed; what this one commits rings the bell.
	followPoll = time.Second
	// followHeartbeat keeps proxies from ending a silent connection.
	followHeartbeat = 15 * time.Second
	// followWrite is how long a client may take to read; a slower one is cut off and comes back.
	followWrite = 10 * time.Second
)

type followInput struct {
	ByID
	LastEventID int64 `header:"Last-Event-ID" minimum:"0" doc:"Version up to which the client knows the order"`
}

// follow streams what happens to an order: an event "change" for each version from the first that the client does not
// know, "end" when nothing more is expected. A client that reconnects says with Last-Event-ID where it was.
func (o *orders) follow(ctx context.Context, in *followInput) (*huma.StreamResponse, error) {
	// The bell is hung before the first look: what is committed in between rings it.
	ring, unhang := o.bell.hang(in.ID)
	rows, err := o.tell(ctx, in.ID)
	if err != nil {
		unhang()
		return nil, err
	}
	return &huma.StreamResponse{Body: func(hc huma.Context) {
		defer unhang()
		hc.SetHeader("Content-Type", "text/event-stream")
		hc.SetHeader("Cache-Control", "no-store")
		hc.SetHeader("X-Accel-Buffering", "no")
		hc.SetStatus(http.StatusOK)
		out := newEventWriter(hc.BodyWriter())
		if err := o.stream(hc.Context(), in, rows, ring, out); err != nil && hc.Context().Err() == nil {
			o.log.WarnContext(hc.Context(), "following an order ended", "order", in.ID, "error", err)
		}
	}}, nil
}

func (o *orders) stream(ctx context.Context, in *followInput, rows []eventRow, ring <-chan struct{}, out *eventWriter) error {
	seen := in.LastEventID
	if err := out.write(": following\n\n"); err != nil {
		return err
	}
	quiet := o.clock.Now()
	for {
		fresh, now, err := entries(in.ID, rows, seen)
		if err != nil {
			return err
		}
		for _, e := range fresh {
			if err := out.event(e.Version, "change", e); err != nil {
				return err
			}
			seen = e.Version
		}
		if now.Final() {
			return out.event(0, "end", map[string]any{"status": now.Status, "version": now.Version})
		}
		if len(fresh) > 0 {
			quiet = o.clock.Now()
		}
		for {
			select {
			case <-ctx.Done():
				return nil
			case <-ring:
			case <-o.clock.At(o.clock.Now().Add(followPoll)):
			}
			if o.clock.Now().Sub(quiet) >= followHeartbeat {
				if err := out.write(": still here\n\n"); err != nil {
					return err
				}
				quiet = o.clock.Now()
			}
			version, err := o.version(ctx, in.ID)
			if err != nil {
				return err
			}
			if version > now.Version {
				break
			}
		}
		if rows, err = o.tell(ctx, in.ID); err != nil {
			return err
		}
	}
}

func (o *orders) version(ctx context.Context, id string) (int64, error) {
	var version int64
	if err := o.store.Read(ctx).Raw("SELECT version FROM stream WHERE order_id = ?", id).Scan(&version).Error; err != nil {
		return 0, fmt.Errorf("read version of order %s: %w", id, err)
	}
	return version, nil
}

// eventWriter writes server-sent events, each at once.
type eventWriter struct {
	out     io.Writer
	control *http.ResponseController
}

func newEventWriter(out io.Writer) *eventWriter {
	w := &eventWriter{out: out}
	if rw, ok := out.(http.ResponseWriter); ok {
		w.control = http.NewResponseController(rw)
	}
	return w
}

func (w *eventWriter) event(id int64, name string, data any) error {
	body, err := json.Marshal(data)
	if err != nil {
		return fmt.Errorf("encode %s: %w", name, err)
	}
	head := ""
	if id > 0 {
		head = fmt.Sprintf("id: %d\n", id)
	}
	return w.write(fmt.Sprintf("%sevent: %s\ndata: %s\n\n", head, name, body))
}

func (w *eventWriter) write(text string) error {
	if w.control != nil {
		// Not every writer knows deadlines; then the server's own holds.
		_ = w.control.SetWriteDeadline(time.Now().Add(followWrite))
	}
	if _, err := io.WriteString(w.out, text); err != nil {
		return err
	}
	if w.control == nil {
		return nil
	}
	if err := w.control.Flush(); err != nil {
		return err
	}
	// Taken off again: HTTP/2 resets a stream whose time to write has passed, also while nobody writes.
	_ = w.control.SetWriteDeadline(time.Time{})
	return nil
}

// bell wakes those who follow an order when this process has committed something of it.
type bell struct {
	mu   sync.Mutex
	hung map[string]map[chan struct{}]bool
}

func newBell() *bell { return &bell{hung: map[string]map[chan struct{}]bool{}} }

func (b *bell) hang(id string) (ring <-chan struct{}, unhang func()) {
	ch := make(chan struct{}, 1)
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.hung[id] == nil {
		b.hung[id] = map[chan struct{}]bool{}
	}
	b.hung[id][ch] = true
	return ch, func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		delete(b.hung[id], ch)
		if len(b.hung[id]) == 0 {
			delete(b.hung, id)
		}
	}
}

func (b *bell) ring(id string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for ch := range b.hung[id] {
		select {
		case ch <- struct{}{}:
		default: // it is ringing already
		}
	}
}
