package proxy_test

import (
	"context"
	"encoding/pem"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/banyan-go/banyan/proxy"
	"github.com/banyan-go/banyan/proxy/upstream"
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

// An application that is being replaced is found by name, over TLS if it has another one to prove.
func TestForeignFound(t *testing.T) {
	t.Parallel()
	page := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "old") })
	plain, secure, shy := httptest.NewServer(page), httptest.NewTLSServer(page), httptest.NewUnstartedServer(page)
	shy.EnableHTTP2 = true
	shy.StartTLS()
	for _, s := range []*httptest.Server{plain, secure, shy} {
		s.Config.ErrorLog = log.New(io.Discard, "", 0)
		t.Cleanup(s.Close)
	}
	roots := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(roots, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: secure.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	atName := proxy.ForeignTLS{Name: "example.com", Roots: roots} // the certificate is for that
	for name, c := range map[string]struct {
		server    *httptest.Server
		protocol  string
		tls       proxy.ForeignTLS
		addressed bool
		want      int
	}{
		"plain":               {plain, "h1", proxy.ForeignTLS{}, false, 200},
		"over TLS":            {secure, "h1", atName, false, 200},
		"over h2":             {shy, "h2", atName, false, 200},
		"by address":          {secure, "h1", proxy.ForeignTLS{Roots: roots}, true, 200},
		"named":               {secure, "h1", atName, true, 200},
		"another name":        {secure, "h1", proxy.ForeignTLS{Name: "other.example", Roots: roots}, false, 503},
		"named otherwise":     {secure, "h1", proxy.ForeignTLS{Name: "other.example", Roots: roots}, true, 503},
		"a root nobody knows": {secure, "h1", proxy.ForeignTLS{Name: "example.com"}, false, 503},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, port, err := net.SplitHostPort(c.server.Listener.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			endpoint := "dns://localhost:" + port
			if c.addressed {
				endpoint = c.server.URL
			}
			f := foreign(endpoint, proxy.ForeignRoute{Match: "/old", Class: "read"})
			f.Balance, f.Protocol, f.TLS = "round_robin", c.protocol, c.tls
			f.Pool.Connect = 10 * time.Second
			found(t, f, c.want)
		})
	}
}

// found is a gateway that answers /old for an upstream, with a status.
func found(t *testing.T, f proxy.Foreign, status int) {
	t.Helper()
	s := open(t, func(c *proxy.Config, _ *proxy.Options) { c.Upstreams = []proxy.Foreign{f} })
	ctx, end := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.gate.Run(ctx) }()
	t.Cleanup(func() {
		end()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	var a reply
	// Before anything is found the answer is 503 too.
	eventually(t, func() bool {
		return slices.ContainsFunc(s.gate.Upstreams(), func(u upstream.Status) bool { return len(u.Endpoints) > 0 })
	})
	if a = s.do("GET", "/old", ""); a.status != status || status == 200 && a.body != "old" {
		t.Errorf("answered %d %q, want %d", a.status, a.body, status)
	}
}

// An application that says that it takes no two paths for the same gets both.
func TestForeignExact(t *testing.T) {
	t.Parallel()
	s := replaced(t, func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, r.URL.Path) }, func(c *proxy.Config) { c.Upstreams[0].Exact = true },
		proxy.ForeignRoute{Match: "GET /files/Secret", Class: "read", Auth: "staff"}, proxy.ForeignRoute{Match: "/{rest...}", Class: "write"})
	for path, want := range map[string]int{"/files/Secret": 401, "/files/secret": 200, "/files/Secret/": 200, "/Files/Secret": 200, "/api/orders/": 200} {
		if a := s.do("GET", path, ""); a.status != want || want == 200 && a.body != path {
			t.Errorf("%s: %d %s, want %d", path, a.status, a.body, want)
		}
		if e, err := s.gate.Explain("GET", path, "", "", ""); err != nil || (e.Auth != "") != (want == 401) {
			t.Errorf("%s is explained as %+v, %v", path, e, err)
		}
	}
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
		proxy.ForeignRoute{Match: "/wiki", Class: "write", Auth: "customer", Scope: "wiki"},
		proxy.ForeignRoute{Match: "/wiki/{rest...}", Class: "write", Auth: "staff", Scope: "wiki"},
		proxy.ForeignRoute{Match: "/blog", Class: "write", Auth: "staff"},
		proxy.ForeignRoute{Match: "/blog/{rest...}", Class: "write", Auth: "customer"},
		proxy.ForeignRoute{Match: "/news", Class: "write", Auth: "customer", Scope: "news"},
		proxy.ForeignRoute{Match: "/news/{rest...}", Class: "write", Auth: "staff"},
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
		{"GET", "/pages/home", 200}, {"GET", "/pages/Home", 200}, {"GET", "/pages/drafts", 401}, {"GET", "/pages/home/", 400}, {"GET", "/pages/Drafts", 400}, {"GET", "/pages/drafts/", 400},
		{"GET", "/wiki", 401}, {"GET", "/wiki/", 401}, {"GET", "/Wiki/", 400}, {"GET", "/wiki/a", 401},
		{"GET", "/blog", 401}, {"GET", "/blog/", 400}, {"GET", "/blog/a/", 401}, {"GET", "/news/", 400},
		{"POST", "/api/orders", 401}, {"POST", "/api/orders/", 400}, {"GET", "/api/orders/", 400}, {"GET", "/API/orders/1", 400}, {"GET", "/api/old", 200},
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

// What the pages of an application may do is its own to say. What we answer in its place is ours.
func TestForeignPagesAreNotOurs(t *testing.T) {
	t.Parallel()
	s := replaced(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/said":
			w.Header().Set("X-Frame-Options", "SAMEORIGIN")
		case "/kept":
			w.Header().Set("Cache-Control", "public, max-age=60")
		case "/broken":
			panic(http.ErrAbortHandler)
		}
		_, _ = io.WriteString(w, "<script>1</script>")
	}, func(c *proxy.Config) { c.TrustedProxies = []string{"127.0.0.1"} },
		proxy.ForeignRoute{Match: "POST /{rest...}", Class: "write"}, proxy.ForeignRoute{Match: "GET /{rest...}", Class: "read"}, proxy.ForeignRoute{Match: "GET /staff", Class: "read", Auth: "staff"})
	ours := map[string]string{
		"Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'", "X-Frame-Options": "DENY", "Referrer-Policy": "no-referrer", "Cache-Control": "no-store",
	}
	always := map[string]string{"X-Content-Type-Options": "nosniff", "Strict-Transport-Security": "max-age=31536000"}
	for _, c := range []struct {
		method, path string
		status       int
		want         map[string]string
	}{
		{"GET", "/page", 200, nil},
		{"POST", "/page", 200, nil},
		{"GET", "/said", 200, map[string]string{"X-Frame-Options": "SAMEORIGIN"}},
		{"GET", "/kept", 200, map[string]string{"Cache-Control": "public, max-age=60"}},
		{"GET", "/kept", 200, map[string]string{"Cache-Control": "public, max-age=60"}}, // from our cache
		{"GET", "/staff", 401, ours},
		{"PUT", "/page", 405, ours},
		{"POST", "/broken", 502, ours},
		{"GET", "/broken", 502, ours},
	} {
		got := s.do(c.method, c.path, "", "X-Forwarded-Proto", "https")
		if got.status != c.status {
			t.Errorf("%s %s: %d %s, want %d", c.method, c.path, got.status, got.body, c.status)
		}
		for name := range ours {
			if value := strings.Join(got.header[http.CanonicalHeaderKey(name)], " and "); value != c.want[name] {
				t.Errorf("%s %s: %s is %q, want %q", c.method, c.path, name, value, c.want[name])
			}
		}
		for name, want := range always {
			if value := got.header.Get(name); value != want {
				t.Errorf("%s %s: %s is %q, want %q", c.method, c.path, name, value, want)
			}
		}
	}
}

// Pages of other origins call an application as they call us: gateway.cors says which, and nobody else does.
func TestForeignCORS(t *testing.T) {
	t.Parallel()
	const page = "https://shop.example"
	var asked atomic.Int64
	origin := func(w http.ResponseWriter, _ *http.Request) {
		asked.Add(1)
		h := w.Header()
		h.Set("Access-Control-Allow-Origin", "*")
		h.Set("Access-Control-Allow-Credentials", "true")
		h.Set("access-control-allow-private-network", "true")
	}
	routes := []proxy.ForeignRoute{{Match: "/admin/{rest...}", Class: "write", Auth: "admin"}, {Match: "/{rest...}", Class: "write"}}
	s := replaced(t, origin, func(c *proxy.Config) { c.CORS.Origins, c.CORS.Credentials = []string{page}, true }, routes...)
	allowed := func(a reply) string {
		return strings.Join([]string{a.header.Get("Access-Control-Allow-Origin"), a.header.Get("Access-Control-Allow-Credentials"), a.header.Get("Access-Control-Allow-Private-Network")}, " ")
	}
	for _, path := range []string{"/admin/users", "/old"} {
		a := s.do("OPTIONS", path, "", "Origin", page, "Access-Control-Request-Method", "PUT")
		if a.status != http.StatusNoContent || allowed(a) != page+" true " || !strings.Contains(a.header.Get("Access-Control-Allow-Methods"), "PUT") {
			t.Errorf("the preflight to %s gets %d %v", path, a.status, a.header)
		}
	}
	if n := asked.Load(); n != 0 {
		t.Errorf("%d preflights have reached the application", n)
	}
	if a := s.do("GET", "/old", "", "Origin", page); a.status != 200 || allowed(a) != page+" true " {
		t.Errorf("the page may read %q", allowed(a))
	}
	for _, header := range [][]string{{"Origin", "https://evil.example"}, nil} {
		if a := s.do("GET", "/old", "", header...); a.status != 200 || allowed(a) != "  " {
			t.Errorf("%v may read %q", header, allowed(a))
		}
	}
	if a := s.do("OPTIONS", "/admin/users", "", "Origin", "https://evil.example", "Access-Control-Request-Method", "PUT"); a.status != 401 || allowed(a) != "  " {
		t.Errorf("the preflight of another page gets %d %v", a.status, a.header)
	}
	if a := s.do("OPTIONS", "/admin/users", "", "Origin", page); a.status != 401 {
		t.Errorf("an OPTIONS that is no preflight gets %d", a.status)
	}

	// Where we say nothing about origins the application does.
	s = replaced(t, origin, nil, routes...)
	if a := s.do("GET", "/old", "", "Origin", page); allowed(a) != "* true true" {
		t.Errorf("the application's own word is %q", allowed(a))
	}
}
