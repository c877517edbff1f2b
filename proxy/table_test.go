package proxy

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/banyan-go/banyan/internal/identity"
	"github.com/banyan-go/banyan/internal/module"
)

func decode(body string) (string, bool) {
	var s string
	err := json.Unmarshal([]byte(body), &s)
	return s, err == nil
}

func descriptor(name string, routes ...module.Route) module.Descriptor {
	return module.Descriptor{Name: name, Routes: routes}
}

func get(id, path string) module.Route {
	return module.Route{ID: id, Method: http.MethodGet, Path: path, Class: module.Read}
}

func build(modules ...module.Descriptor) (*table, error) {
	local := &target{placement: Placement{State: Local}}
	return buildTable(7, modules, func(string) *target { return local }, map[string]*limiter{"login": nil}, 1<<20)
}

func TestFind(t *testing.T) {
	t.Parallel()
	table, err := build(
		descriptor("orders", get("list", "/api/orders"), get("get", "/api/orders/{id}"), get("history", "/api/orders/{id}/history"),
			module.Route{ID: "place", Method: http.MethodPost, Path: "/api/orders", Class: module.Write},
			get("report", "/api/orders/reports/{name}"), get("mine", "/api/orders/mine")),
		descriptor("carts", get("cart", "/api/carts/{user}/lines/{sku}")),
	)
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct{ method, path, want string }{
		{"GET", "/api/orders", "list"},
		{"HEAD", "/api/orders", "list"},
		{"POST", "/api/orders", "place"},
		{"DELETE", "/api/orders", "405"},
		{"GET", "/api/orders/7", "get"},
		{"GET", "/api/orders/mine", "mine"},
		{"GET", "/api/orders/mine/history", "history"},
		{"GET", "/api/orders/reports", "get"},
		{"GET", "/api/orders/reports/day", "report"},
		{"GET", "/api/orders/reports/day/x", "404"},
		{"GET", "/api/orders/", "404"},
		{"GET", "/api/orders/7/", "404"},
		{"GET", "/api/orders/7/history/x", "404"},
		{"GET", "/api/carts/u/lines/s", "cart"},
		{"GET", "/api/carts/u/lines", "404"},
		{"GET", "/api", "404"},
		{"GET", "/", "404"},
		{"GET", "", "404"},
		{"GET", "/API/orders", "404"},
	}
	for _, test := range tests {
		got := "404"
		if place := table.root.find(test.path); place != nil {
			got = "405"
			if r := place.route(test.method); r != nil {
				got = r.ID
			}
		}
		if got != test.want {
			t.Errorf("%s %s is %s, want %s", test.method, test.path, got, test.want)
		}
	}
	if got, want := table.root.find("/api/orders").allow, "GET, HEAD, OPTIONS, POST"; got != want {
		t.Errorf("allow %q, want %q", got, want)
	}
}

func TestBuildTableRefuses(t *testing.T) {
	t.Parallel()
	change := func(f func(*module.Route)) module.Route {
		r := get("x", "/api/x")
		f(&r)
		return r
	}
	tests := []struct {
		name   string
		routes []module.Route
		want   string
	}{
		{"taken twice", []module.Route{get("a", "/api/x/{id}"), get("b", "/api/x/{other}")}, "is taken by route a of module m"},
		{"outside", []module.Route{get("a", "/x")}, "is not below /api/"},
		{"no id", []module.Route{get("", "/api/x")}, "has no id"},
		{"HEAD", []module.Route{change(func(r *module.Route) { r.Method = "HEAD" })}, "is not GET, POST"},
		{"small", []module.Route{change(func(r *module.Route) { r.Method = "get" })}, "is not GET, POST"},
		{"class", []module.Route{change(func(r *module.Route) { r.Class = "" })}, "is not read, write or stream"},
		{"writing GET", []module.Route{change(func(r *module.Route) { r.Class = module.Write })}, "a GET changes nothing"},
		{"auth", []module.Route{change(func(r *module.Route) { r.Auth = "root" })}, `auth "root" is not a role`},
		{"limit", []module.Route{change(func(r *module.Route) { r.Limit = "logn" })}, `no rate limit "logn"`},
		{"body", []module.Route{change(func(r *module.Route) { r.MaxBody = -1 })}, "negative"},
		{"trailing slash", []module.Route{get("a", "/api/x/")}, "is not a path"},
		{"empty name", []module.Route{get("a", "/api/{}")}, "is not a path"},
		{"half a name", []module.Route{get("a", "/api/x{id}")}, "is not a path"},
		{"the rest", []module.Route{get("a", "/api/*")}, "is not a path"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			_, err := build(descriptor("m", test.routes...))
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %s", err, test.want)
			}
		})
	}
	if _, err := build(descriptor("m", change(func(r *module.Route) { r.Auth, r.Limit = identity.Admin, "login" }))); err != nil {
		t.Error(err)
	}
}

func TestLimiter(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	l := newLimiter(Rate{PerSecond: 2, Burst: 3}, 100)
	for want := 2; want >= 0; want-- {
		if left, wait := l.take("a", now); left != want || wait != 0 {
			t.Fatalf("left %d, wait %s; want %d", left, wait, want)
		}
	}
	if _, wait := l.take("a", now); wait != 500*time.Millisecond {
		t.Errorf("wait %s, want 500ms", wait)
	}
	if _, wait := l.take("b", now); wait != 0 {
		t.Errorf("another client waits %s", wait)
	}
	if _, wait := l.take("a", now.Add(500*time.Millisecond)); wait != 0 {
		t.Errorf("after the wait: %s", wait)
	}
	if newLimiter(Rate{}, 100) != nil {
		t.Error("a rate of 0 limits")
	}
}

func TestLimiterIsBounded(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	l := newLimiter(Rate{PerSecond: 1, Burst: 10}, 160)
	count := func() (n int) {
		for i := range l.shards {
			n += len(l.shards[i].clients)
		}
		return n
	}
	for i := range 5000 {
		l.take(time.Duration(i).String(), now)
	}
	if n := count(); n > 160 {
		t.Errorf("%d clients are remembered, want at most 160", n)
	}
	// Full buckets go first: whoever waits goes on waiting.
	l = newLimiter(Rate{PerSecond: 1, Burst: 10}, 16)
	l.max = 2
	s := &l.shards[0]
	s.clients["old"] = &bucket{last: now.Add(-time.Minute)}
	s.clients["busy"] = &bucket{last: now}
	l.forget(s, now)
	if s.clients["old"] != nil || s.clients["busy"] == nil {
		t.Errorf("left: %v", s.clients)
	}
}

func BenchmarkRoute(b *testing.B) {
	var routes []module.Route
	for _, m := range []string{"orders", "payments", "carts", "products", "users", "shipments", "inventory", "notifications"} {
		for _, p := range []string{"", "/{id}", "/{id}/history", "/{id}/cancel", "/reports/{name}", "/{id}/events"} {
			routes = append(routes, get(m+p, "/api/"+m+p))
		}
	}
	table, err := build(descriptor("m", routes...))
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if table.root.find("/api/orders/0192f7c2-0000-7000-8000-000000000000/history").route("GET") == nil {
			b.Fatal("not found")
		}
	}
}
