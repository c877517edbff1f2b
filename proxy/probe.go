package proxy

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"sync"
	"time"

	"github.com/banyan-go/banyan/internal/errs"
)

func isProbe(path string) bool { return path == "/healthz" || path == "/readyz" }

// probe answers /healthz, which says that the process lives, and /readyz, which says whether it should get requests.
func (x *exchange) probe(ctx context.Context, r *http.Request, path string) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		x.answer.Header().Set("Allow", readOnly)
		x.problem(newProblem(ctx, http.StatusMethodNotAllowed, errs.Malformed, "this path takes "+readOnly), 0)
		return
	}
	if path == "/healthz" {
		x.state(http.StatusOK, map[string]string{"status": "ok"})
		return
	}
	x.g.Readyz(ctx, &x.answer, r.URL.Query())
}

// Readyz answers whether the process, or the module that the query names, should get requests. The admin port uses
// it too.
func (g *Gateway) Readyz(ctx context.Context, w http.ResponseWriter, query url.Values) {
	name := query.Get("module")
	if name != "" && !g.modules[name] {
		(&exchange{answer: answer{ResponseWriter: w}, g: g}).fail(ctx, errs.New(errs.NotFound, "there is no such module here"))
		return
	}
	if g.draining.Load() {
		state(w, http.StatusServiceUnavailable, map[string]string{"status": "draining"})
		return
	}
	if g.ready == nil {
		state(w, http.StatusOK, map[string]string{"status": "ready"})
		return
	}
	status, body := g.readiness(ctx, name)
	state(w, status, body)
}

// probe is what was found a moment ago of a module, or of the process: anybody can ask, and finding out is work for the stores. Whoever asks
// while somebody finds out gets the same answer, and nobody waits for another module.
type probe struct {
	mu   sync.Mutex
	last *readiness // nil before the first
}

type readiness struct {
	done   chan struct{} // is closed when the rest is known
	at     time.Time
	status int
	body   any
}

// over says whether the answer is known, and for longer than it is given.
func (r *readiness) over() bool {
	select {
	case <-r.done:
		return time.Since(r.at) >= probeFor
	default:
		return false
	}
}

const probeFor = 250 * time.Millisecond

// readiness is that of a module that there is, or of the process for "".
func (g *Gateway) readiness(ctx context.Context, name string) (int, any) {
	p := g.probes[name]
	p.mu.Lock()
	r, first := p.last, false
	if r == nil || r.over() {
		r, first = &readiness{done: make(chan struct{}), status: http.StatusServiceUnavailable}, true
		p.last = r
	}
	p.mu.Unlock()
	if first {
		g.findOut(ctx, name, r)
	}
	<-r.done
	return r.status, r.body
}

func (g *Gateway) findOut(ctx context.Context, name string, r *readiness) {
	defer close(r.done)
	// A probe that waits for a store that hangs says nothing; one that gives up says 503. What is found is for all who
	// ask, so it does not end with the one who asked first.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	ready, body := g.ready(ctx, name)
	text := "unavailable"
	if ready {
		r.status, text = http.StatusOK, "ready"
	}
	if r.body = body; body == nil {
		r.body = map[string]string{"status": text}
	}
	r.at = time.Now()
}

func (x *exchange) state(status int, body any) { state(&x.answer, status, body) }

func state(w http.ResponseWriter, status int, body any) {
	encoded, err := json.Marshal(body)
	if err != nil {
		status, encoded = http.StatusInternalServerError, []byte(`{"status":"unknown"}`)
	}
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", "no-store")
	if status == http.StatusServiceUnavailable {
		h.Set("Retry-After", "1")
	}
	w.WriteHeader(status)
	_, _ = w.Write(append(encoded, '\n')) // the client is gone: there is nobody to tell
}
