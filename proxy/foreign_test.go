package proxy_test

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/banyan-go/banyan/proxy"
)

// foreign is an upstream that is no process of ours.
func foreign(endpoint string, routes ...proxy.ForeignRoute) proxy.Foreign {
	f := proxy.Foreign{}.WithDefaults().(proxy.Foreign)
	f.Name, f.Endpoints, f.Routes = "legacy", []string{endpoint}, routes
	return f
}

// replaced is a gateway in front of an application that is being replaced.
func replaced(t *testing.T, origin http.HandlerFunc, change func(*proxy.Config), routes ...proxy.ForeignRoute) *shop {
	t.Helper()
	server := httptest.NewServer(origin)
	t.Cleanup(server.Close)
	return open(t, func(c *proxy.Config, _ *proxy.Options) {
		c.Upstreams = []proxy.Foreign{foreign(server.URL, routes...)}
		if change != nil {
			change(c)
		}
	})
}

// What asks for a role cannot be reached as something else that asks for none, whatever the application behind takes for the same. Who
// asks what becomes of such a request is told what becomes of it.
func TestForeignGuards(t *testing.T) {
	t.Parallel()
	s := replaced(t, func(http.ResponseWriter, *http.Request) {}, func(c *proxy.Config) { c.Rate.Anonymous.PerSecond = 0 },
		proxy.ForeignRoute{Match: "GET /reports/{id}", Class: "read", Auth: "staff"},
		proxy.ForeignRoute{Match: "/admin/{rest...}", Class: "write", Auth: "admin"},
		proxy.ForeignRoute{Match: "GET /files/{rest...}", Class: "read"},
		proxy.ForeignRoute{Match: "GET /files/Secret", Class: "read", Auth: "staff"},
		proxy.ForeignRoute{Match: "GET /pages/{name}", Class: "read"},
		proxy.ForeignRoute{Match: "GET /pages/drafts", Class: "read", Auth: "staff"},
		proxy.ForeignRoute{Match: "/{rest...}", Class: "write"},
	)
	for _, c := range []struct {
		method, path string
		want         int
	}{
		{"GET", "/", 200}, {"GET", "/about", 200}, {"GET", "/about/", 200}, {"GET", "/About/Us/", 200}, {"GET", "/reports", 200}, {"GET", "/reports/", 200},
		{"GET", "/reports/5", 401}, {"GET", "/reports/5/", 400}, {"GET", "/Reports/5", 400}, {"GET", "/REPORTS/5/", 400}, {"GET", "/reports/5/pages", 200},
		{"POST", "/reports/5", 405}, {"POST", "/reports/5/", 400},
		{"GET", "/admin", 401}, {"GET", "/admin/", 401}, {"GET", "/admin/users/", 401}, {"POST", "/admin", 401},
		{"GET", "/ADMIN", 400}, {"GET", "/Admin/", 400}, {"GET", "/admIn/users", 400}, {"GET", "/adm%C4%B1n/users", 400}, {"GET", "/administrators", 200},
		{"GET", "/files", 200}, {"GET", "/files/a/b/", 200}, {"GET", "/files/Secret", 401}, {"GET", "/files/Secret/", 400}, {"GET", "/files/secret", 400}, {"GET", "/files/secrets", 200},
		{"GET", "/pages/home", 200}, {"GET", "/pages/Home", 200}, {"GET", "/pages/drafts", 401}, {"GET", "/pages/Drafts", 400}, {"GET", "/pages/drafts/", 400},
		{"POST", "/api/orders", 401}, {"POST", "/api/orders/", 400}, {"GET", "/API/orders/1", 400}, {"GET", "/api/old", 200},
	} {
		if a := s.do(c.method, c.path, ""); a.status != c.want {
			t.Errorf("%s %s: %d %s, want %d", c.method, c.path, a.status, a.body, c.want)
		}
		e, err := s.gate.Explain(c.method, c.path, "", "", "")
		if refused := c.want == 400 || c.want == 405; refused != (err != nil) || !refused && (e.Auth != "") != (c.want == 401) {
			t.Errorf("%s %s is explained as %+v, %v, and answered %d", c.method, c.path, e, err, c.want)
		}
	}
	if a := s.do("GET", "/admin", "", "Authorization", "Bearer admin:root"); a.status != 200 {
		t.Errorf("an admin gets %d %s", a.status, a.body)
	}
}
