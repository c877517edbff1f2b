package proxy_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/banyan-go/banyan/proxy"
)

// Who asks what becomes of a request is told what the gateway does with it, also where it answers itself.
func TestExplainIsTrue(t *testing.T) {
	t.Parallel()
	origin := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("X-Legacy", "1") }))
	t.Cleanup(origin.Close)
	for name, routes := range map[string][]proxy.ForeignRoute{"alone": nil, "with an application": {{Match: "/{rest...}", Class: "write"}}} {
		s := open(t, func(c *proxy.Config, o *proxy.Options) {
			c.Rate.Anonymous.PerSecond = 0
			o.Keys = func() []byte { return []byte("{}") }
			o.Extra = map[string]http.Handler{"/docs": http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}), "/": http.NotFoundHandler()}
			if routes != nil {
				c.Upstreams = []proxy.Foreign{foreign(origin.URL, routes...)}
			}
		})
		for _, c := range []struct{ method, path, target string }{ // "" is refused
			{"GET", "/docs", "gateway"}, {"HEAD", "/docs/deep", "gateway"}, {"POST", "/docs", ""}, {"OPTIONS", "/docs", ""}, {"get", "/docs", ""},
			{"GET", "/healthz", "gateway"}, {"HEAD", "/readyz", "gateway"}, {"POST", "/healthz", ""}, {"get", "/readyz", ""},
			{"GET", "/.well-known/jwks.json", "gateway"},
			{"OPTIONS", "/api/orders", "gateway"}, {"GET", "/api/orders", "local"}, {"HEAD", "/api/orders", "local"}, {"get", "/api/orders", ""}, {"PUT", "/api/orders", ""},
			{"GET", "/nothing", "legacy"}, {"OPTIONS", "/nothing", "legacy"}, {"GET", "/docsx", "legacy"}, {"OPTIONS", "/api/nothing", "legacy"}, {"TRACE", "/nothing", ""},
		} {
			want := c.target
			if want == "legacy" && routes == nil {
				want = ""
			}
			e, err := s.gate.Explain(c.method, c.path, "", "", "")
			if e.Target != want || (err != nil) != (want == "") || want == "gateway" && (e.Route == "" || e.Reason == "") {
				t.Errorf("%s: %s %s is explained as %+v, %v, want %q", name, c.method, c.path, e, err, want)
			}
			a := s.do(c.method, c.path, "")
			if (a.status >= 400) != (want == "") || (a.header.Get("X-Legacy") != "") != (want == "legacy") {
				t.Errorf("%s: %s %s is answered with %d, and explained as %+v", name, c.method, c.path, a.status, e)
			}
		}
		if _, err := s.gate.Explain("NO METHOD", "/docs", "", "", ""); err == nil {
			t.Errorf("%s: what is no method is explained", name)
		}
	}
	for _, match := range []string{"/healthz", "GET /readyz"} {
		c := proxy.DefaultConfig()
		c.Upstreams = []proxy.Foreign{foreign("http://127.0.0.1:1", proxy.ForeignRoute{Match: match, Class: "read"})}
		if err := c.Validate(); err == nil || !strings.Contains(err.Error(), "gateway.upstreams[0].routes[0].match") {
			t.Errorf("%s is a route that nobody can reach: %v", match, err)
		}
	}
}
