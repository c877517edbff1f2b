package proxy_test

import (
	"fmt"
	"net/http"
	"sync/atomic"
	"testing"

	"github.com/banyan-go/banyan/internal/module"
	"github.com/banyan-go/banyan/proxy"
)

// Whoever has seen the answer to a change sees the change, in all that its module answers; what others change is purged.
func TestChangesReachTheCache(t *testing.T) {
	t.Parallel()
	var version atomic.Int64
	s := open(t, func(c *proxy.Config, o *proxy.Options) {
		c.Rate.Anonymous.PerSecond = 0
		o.Modules = append(routes(), module.Descriptor{Name: "other", Routes: []module.Route{
			{ID: "other", Method: "GET", Path: "/api/other", Class: module.Read}, {ID: "change", Method: "POST", Path: "/api/other", Class: module.Write},
		}})
	})
	s.local = func(w http.ResponseWriter, r *http.Request) {
		if r.Method == "GET" {
			w.Header().Set("Cache-Control", "public, s-maxage=3600")
			_, _ = fmt.Fprint(w, version.Load())
			return
		}
		version.Add(1)
		switch r.URL.Path {
		case "/api/small":
			w.WriteHeader(http.StatusCreated)
		case "/api/login":
			w.Header().Set("Content-Type", "application/problem+json")
			w.WriteHeader(http.StatusConflict)
			_, _ = fmt.Fprint(w, `{"status":409,"kind":"conflict","request_id":"x"}`)
		}
	}
	get := func(path string) string { return s.do("GET", path, "").body }
	for _, path := range []string{"/api/orders", "/api/orders?x=1", "/api/other"} {
		get(path)
	}
	version.Add(1)
	if a, b := get("/api/orders"), get("/api/other"); a != "0" || b != "0" {
		t.Fatalf("nothing is kept: %s, %s", a, b)
	}
	s.do("POST", "/api/small", "{}")
	if a, b, c := get("/api/orders"), get("/api/orders?x=1"), get("/api/other"); a != "2" || b != "2" || c != "0" {
		t.Errorf("after a change the module answers %s and %s, and the other one %s", a, b, c)
	}
	s.do("POST", "/api/login", "{}")
	if a := get("/api/orders"); a != "2" {
		t.Errorf("a change that was refused is a change: %s", a)
	}
	s.gate.Purge("orders")
	if a, b := get("/api/orders"), get("/api/other"); a != "3" || b != "0" {
		t.Errorf("purged, the module answers %s, and the other one %s", a, b)
	}
}
