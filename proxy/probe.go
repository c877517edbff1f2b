package proxy

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"time"

	"github.com/banyan-go/banyan/internal/errs"
)

// probe answers /healthz, which says that the process lives, and /readyz, which says whether it should get requests.
func (x *exchange) probe(ctx context.Context, r *http.Request, path string) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		x.answer.Header().Set("Allow", "GET, HEAD")
		x.problem(newProblem(ctx, http.StatusMethodNotAllowed, errs.Malformed, "this path takes GET, HEAD"), 0)
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
	// A probe that waits for a store that hangs says nothing; one that gives up says 503.
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	ready, body := g.ready(ctx, name)
	status := http.StatusOK
	if !ready {
		status = http.StatusServiceUnavailable
	}
	if body == nil {
		body = map[string]string{"status": map[bool]string{true: "ready", false: "unavailable"}[ready]}
	}
	state(w, status, body)
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
	_, _ = w.Write(encoded) // the client is gone: there is nobody to tell
}
