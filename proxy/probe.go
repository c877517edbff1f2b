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

// probes remembers what was found a moment ago: anybody can ask, and finding out is work for the stores.
type probes struct {
	mu    sync.Mutex
	found map[string]readiness // by module
}

type readiness struct {
	at     time.Time
	status int
	body   any
}

const probeFor = 250 * time.Millisecond

func (g *Gateway) readiness(ctx context.Context, name string) (int, any) {
	g.probes.mu.Lock()
	defer g.probes.mu.Unlock()
	if r, ok := g.probes.found[name]; ok && time.Since(r.at) < probeFor {
		return r.status, r.body
	}
	// A probe that waits for a store that hangs says nothing; one that gives up says 503. What is found is for all who
	// ask, so it does not end with the one who asked first.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	ready, body := g.ready(ctx, name)
	r := readiness{at: time.Now(), status: http.StatusOK, body: body}
	text := "ready"
	if !ready {
		r.status, text = http.StatusServiceUnavailable, "unavailable"
	}
	if r.body == nil {
		r.body = map[string]string{"status": text}
	}
	g.probes.found[name] = r
	return r.status, r.body
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
