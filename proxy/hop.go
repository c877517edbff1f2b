package proxy

import (
	"context"
	"net/http"

	"github.com/banyan-go/banyan/internal/errs"
	"github.com/banyan-go/banyan/internal/module"
	"github.com/banyan-go/banyan/internal/rest"
	"github.com/banyan-go/banyan/proxy/upstream"
)

// Hop is a way to a module of this process that may be longer than it is.
type Hop interface {
	// Hop returns when a request to the module would arrive. An error is a connection that broke before; only a request that is losable
	// gets one of kind errs.Unavailable.
	Hop(ctx context.Context, module string, losable bool) error
}

// reach goes the way to a module of this process, as a request to another process would: what may be sent again is, as often as
// gateway.remote.retry allows, and what may not is never lost. False means that the client was told that it did not arrive.
func (x *exchange) reach(w http.ResponseWriter, r *http.Request, q *rest.Request, t *target) bool {
	if t.placement.State != Local {
		return true
	}
	losable := x.route.Class != module.Stream && (r.Method == http.MethodGet || x.repeatable(q))
	for attempt := 1; ; attempt++ {
		err := x.g.hop.Hop(r.Context(), t.placement.Module, losable)
		switch {
		case err == nil:
			return true
		case errs.Is(err, errs.Unavailable) && attempt < x.g.cfg.Remote.Retry.Attempts:
			continue
		}
		x.refuse(w, r, upstream.Result{Attempts: attempt, Failure: upstream.MaybeSent, Err: err})
		return false
	}
}
