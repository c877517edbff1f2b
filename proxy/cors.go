package proxy

import (
	"net/http"
	"slices"
	"strconv"
	"strings"
)

const exposed = "Location, Retry-After, RateLimit-Limit, RateLimit-Remaining, RateLimit-Reset, X-Request-Id"

// allowOrigin adds the CORS headers for a page that may read the answer. The answer depends on the origin whoever
// asks, so caches are told always.
func (g *Gateway) allowOrigin(h, request http.Header) bool {
	if len(g.cfg.CORS.Origins) == 0 {
		return false
	}
	h.Add("Vary", "Origin")
	origin := request.Get("Origin")
	if origin == "" {
		return false
	}
	switch {
	case slices.Contains(g.cfg.CORS.Origins, origin):
		h.Set("Access-Control-Allow-Origin", origin)
		if g.cfg.CORS.Credentials {
			h.Set("Access-Control-Allow-Credentials", "true")
		}
	case slices.Contains(g.cfg.CORS.Origins, "*"):
		h.Set("Access-Control-Allow-Origin", "*")
	default:
		return false
	}
	h.Set("Access-Control-Expose-Headers", exposed)
	return true
}

// dropCORS takes off what an upstream says about origins: gateway.cors says who may read, and half of each would let somebody else in.
func dropCORS(h http.Header) {
	for name := range h {
		if strings.HasPrefix(name, "Access-Control-") {
			delete(h, name)
		}
	}
}

// options answers OPTIONS, a CORS preflight among them, for a path that exists.
func (g *Gateway) options(w http.ResponseWriter, r *http.Request, allow string, allowed bool) {
	h := w.Header()
	if allowed && r.Header.Get("Access-Control-Request-Method") != "" {
		h.Set("Access-Control-Allow-Methods", allow)
		h.Set("Access-Control-Allow-Headers", strings.Join(g.cfg.CORS.Headers, ", "))
		h.Set("Access-Control-Max-Age", strconv.Itoa(int(g.cfg.CORS.MaxAge.Seconds())))
		h.Add("Vary", "Access-Control-Request-Method, Access-Control-Request-Headers")
	}
	h.Set("Allow", allow)
	w.WriteHeader(http.StatusNoContent)
}
