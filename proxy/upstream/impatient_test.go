package upstream_test

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/banyan-go/banyan/proxy/upstream"
)

// late is a context whose time is up, which its end does not say yet: the timers of a busy process are late.
type late struct{ context.Context }

func (late) Deadline() (time.Time, bool) { return time.Now().Add(-time.Second), true }

// What comes of a request whose client's time is up says nothing of the upstream, also if it comes before the request's end does.
func TestImpatient(t *testing.T) {
	t.Parallel()
	for name, fail := range map[string]http.HandlerFunc{
		"answers 504": func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusGatewayTimeout) },
		"breaks off": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "10")
			_, _ = io.WriteString(w, "half")
		},
		"gives no answer": func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
	} {
		for _, impatient := range []bool{true, false} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				g := open(t, upstream.H2C, options{cfg: func(c *upstream.Config) { c.Breaker.Ratio, c.Breaker.Requests = 50, 5 }}, backend(t, func(w http.ResponseWriter, r *http.Request) {
					if r.URL.Path == "/well" {
						return
					}
					fail(w, r)
				}))
				g.get("/well") // there is a connection
				for range 6 {
					cause := context.DeadlineExceeded
					if impatient {
						cause = upstream.ErrImpatient
					}
					ctx, cancel := context.WithTimeoutCause(t.Context(), 50*time.Millisecond, cause)
					defer cancel()
					g.Serve(httptest.NewRecorder(), httptest.NewRequest("GET", "/x", nil).WithContext(late{ctx}), upstream.Call{})
				}
				status, want := g.Status(), "open"
				if impatient {
					want = "closed"
				}
				if left := !status.Endpoints[0].OutUntil.IsZero(); status.Breaker != want || left && impatient {
					t.Errorf("the breaker is %s, want %s; left out: %t", status.Breaker, want, left)
				}
			})
		}
	}
}
