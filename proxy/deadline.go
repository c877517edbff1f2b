package proxy

import (
	"context"
	"net/http"
	"strconv"
	"time"

	"github.com/banyan-go/banyan/proxy/upstream"
)

// timeoutHeader says in milliseconds how long an answer is waited for: a client says it to the gateway, and the gateway to the
// process that answers.
const timeoutHeader = "X-Request-Timeout"

// patience is how long the client waits; 0 if it does not say so, or not in a way that can be read.
func patience(h http.Header) time.Duration {
	lines := h[timeoutHeader]
	if len(lines) != 1 {
		return 0
	}
	ms, err := strconv.ParseUint(lines[0], 10, 31)
	if err != nil {
		return 0
	}
	return time.Duration(ms) * time.Millisecond
}

// time is how long the request may take, as long as the client waits and no longer than we let it, and why it ends then.
func (x *exchange) time() (time.Duration, error) {
	most := x.g.cfg.Limits.Request
	if x.limit > 0 && (most == 0 || x.limit < most) {
		return x.limit, upstream.ErrImpatient
	}
	return most, context.DeadlineExceeded
}

// Deadline is for a process behind the gateway: a request ends when nobody waits for its answer any more. It has to stand behind what
// checks that the request is the gateway's.
func Deadline(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		limit := patience(r.Header)
		delete(r.Header, timeoutHeader)
		if limit > 0 {
			ctx, cancel := context.WithTimeout(r.Context(), limit)
			defer cancel()
			r = r.WithContext(ctx)
		}
		next.ServeHTTP(w, r)
	})
}
