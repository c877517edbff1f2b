package proxy_test

import (
	"net/http/httptest"
	"testing"

	"github.com/banyan-go/banyan/proxy"
)

func TestToTLS(t *testing.T) {
	t.Parallel()
	s := open(t, func(c *proxy.Config, _ *proxy.Options) { c.Hosts = []string{"shop.example"} })
	anywhere := open(t, nil)
	for _, tt := range []struct {
		method, target, host, port string
		status                     int
		location                   string
	}{
		{"GET", "/a%20b?c=d;e", "shop.example", "443", 308, "https://shop.example/a%20b?c=d;e"},
		{"HEAD", "/", "shop.example:80", "8443", 308, "https://shop.example:8443/"},
		{"GET", "/", "[::1]:80", "443", 308, "https://[::1]/"},
		{"GET", "/", "[::1]", "8443", 308, "https://[::1]:8443/"},
		{"GET", "//evil.example/x", "shop.example", "443", 308, "https://shop.example//evil.example/x"},
		{"GET", "/", "evil.example", "443", 421, ""},
		{"GET", "http://evil.example/", "evil.example", "443", 421, ""},
		{"POST", "/api/orders", "shop.example", "443", 403, ""},
	} {
		r := httptest.NewRequest(tt.method, tt.target, nil)
		r.Host = tt.host
		w := httptest.NewRecorder()
		by := s
		if tt.host[0] == '[' {
			by = anywhere
		}
		by.gate.ToTLS(tt.port).ServeHTTP(w, r)
		if got := w.Header().Get("Location"); w.Code != tt.status || got != tt.location {
			t.Errorf("%s %s at %s: %d %q, want %d %q", tt.method, tt.target, tt.host, w.Code, got, tt.status, tt.location)
		}
	}
}
