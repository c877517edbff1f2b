package proxy

import (
	"context"
	"maps"
	"net/http"
	"strconv"
	"time"

	"github.com/banyan-go/banyan/internal/assertion"
)

// retained keeps an answer to itself that says that the request came too late: only the gateway gets to see it. Every other one
// passes.
type retained struct {
	http.ResponseWriter
	before http.Header // as it was when the answer came
	stale  bool
	epoch  uint64 // the least one that the second process believes
}

// Header is asked for when there is an answer, and not before.
func (t *retained) Header() http.Header {
	h := t.ResponseWriter.Header()
	if t.before == nil {
		t.before = maps.Clone(h)
	}
	return h
}

// WriteHeader looks whose answer it is: a module may answer 421 too, but not with an epoch.
func (t *retained) WriteHeader(status int) {
	if status == assertion.StatusStale {
		h := t.Header()
		if lines := h[assertion.EpochHeader]; len(lines) == 1 {
			if epoch, err := strconv.ParseUint(lines[0], 10, 64); err == nil {
				t.stale, t.epoch = true, epoch
				clear(h)
				maps.Copy(h, t.before)
				return
			}
		}
	}
	t.ResponseWriter.WriteHeader(status)
}

// Write drops what belongs to an answer that is kept back.
func (t *retained) Write(b []byte) (int, error) {
	if t.stale {
		return len(b), nil
	}
	return t.ResponseWriter.Write(b)
}

// FlushError sends what there is.
func (t *retained) FlushError() error {
	if t.stale {
		return nil
	}
	return http.NewResponseController(t.ResponseWriter).Flush()
}

// Unwrap lets http.ResponseController reach the connection.
func (t *retained) Unwrap() http.ResponseWriter { return t.ResponseWriter }

// catchUpWait is how long a request waits for the placement that another process knows already.
const catchUpWait = 2 * time.Second

// catchUp waits until the placement of a module here is of an epoch, or newer; false if it does not come.
func (g *Gateway) catchUp(ctx context.Context, module string, epoch uint64) bool {
	ctx, cancel := context.WithTimeout(ctx, catchUpWait)
	defer cancel()
	asked := false
	for {
		g.applying.Lock()
		changed := g.changed
		g.applying.Unlock()
		if g.table.Load().placements[module].Epoch >= epoch {
			return true
		}
		if r, ok := g.placements.(Refresher); ok && !asked {
			asked = true
			if err := r.Refresh(ctx); err != nil {
				g.log.WarnContext(ctx, "placements could not be read anew", "module", module, "error", err)
			}
			continue
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return false
		}
	}
}
