package admin_test

import (
	"bytes"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/banyan-go/banyan/internal/admin"
)

func TestTokenIsMadeOnceAndPrivate(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	first, err := admin.Token(dir)
	if err != nil || len(first) < 40 {
		t.Fatalf("token %q, error %v", first, err)
	}
	second, err := admin.Token(dir)
	if err != nil || second != first {
		t.Errorf("second reading %q, error %v, want the first one", second, err)
	}
	info, err := os.Stat(filepath.Join(dir, admin.TokenFile))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, error %v, want 0600", info.Mode(), err)
	}
}

// Processes that start at once on one data directory have one token, and none of them sees a part of it.
func TestTokenOfProcessesThatStartAtOnce(t *testing.T) {
	t.Parallel()
	for range 20 {
		dir := t.TempDir()
		var tokens [8]string
		var all sync.WaitGroup
		for i := range tokens {
			all.Go(func() {
				var err error
				if tokens[i], err = admin.Token(dir); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		if slices.ContainsFunc(tokens[:], func(s string) bool { return s != tokens[0] }) {
			t.Errorf("tokens %q", tokens)
		}
	}
}

func TestWhoMayAskWhat(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	ok := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("secret things")) })
	h := admin.Server(admin.Options{
		Token: "right", Registry: prometheus.NewRegistry(), Log: slog.New(slog.NewTextHandler(&log, nil)),
		Open: map[string]http.Handler{"GET /healthz": ok}, Guarded: map[string]http.Handler{"/admin/": ok},
	}).Handler
	for _, c := range []struct {
		name, method, path, host, token, origin string
		want                                    int
	}{
		{"probe without token", "GET", "/healthz", "127.0.0.1:9090", "", "", 200},
		{"metrics without token", "GET", "/metrics", "localhost:9090", "", "", 200},
		{"operator without token", "GET", "/admin/modules", "127.0.0.1:9090", "", "", 401},
		{"operator with a wrong token", "GET", "/admin/modules", "127.0.0.1:9090", "wrong", "", 401},
		{"operator with the token", "GET", "/admin/modules", "127.0.0.1:9090", "right", "", 200},
		{"profiles without token", "GET", "/debug/pprof/", "127.0.0.1:9090", "", "", 401},
		{"a rebound name", "GET", "/healthz", "evil.example:9090", "", "", 403},
		{"another site's form", "POST", "/admin/x", "127.0.0.1:9090", "right", "https://evil.example", 403},
		{"a change", "POST", "/admin/x", "127.0.0.1:9090", "right", "", 200},
	} {
		r := httptest.NewRequest(c.method, "http://"+c.host+c.path, nil)
		if c.token != "" {
			r.Header.Set("Authorization", "Bearer "+c.token)
		}
		if c.origin != "" {
			r.Header.Set("Origin", c.origin)
			r.Header.Set("Sec-Fetch-Site", "cross-site")
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code != c.want {
			t.Errorf("%s: status %d, want %d: %s", c.name, w.Code, c.want, w.Body)
		}
		if c.want != 200 && strings.Contains(w.Body.String(), "secret things") {
			t.Errorf("%s: the answer came through", c.name)
		}
	}
	if !strings.Contains(log.String(), "path=/admin/x") {
		t.Errorf("the change was not logged: %s", log.String())
	}
}

// A mistake in an answer is an error in the log, whatever level that shows, and an answer to the operator.
func TestPanicIsLogged(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	h := admin.Server(admin.Options{
		Token: "right", Log: slog.New(slog.NewJSONHandler(&log, &slog.HandlerOptions{Level: slog.LevelError})),
		Guarded: map[string]http.Handler{"/admin/": http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic("a nil store") })},
	}).Handler
	r := httptest.NewRequest("POST", "http://127.0.0.1:9090/admin/projections/orders/rebuild", nil)
	r.Header.Set("Authorization", "Bearer right")
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	if w.Code != 500 || !strings.Contains(log.String(), "a nil store") || !strings.Contains(log.String(), "/admin/projections/orders/rebuild") {
		t.Errorf("answered %d %s, logged %s", w.Code, w.Body, log.String())
	}
}

func TestOnlyLoopbackByDefault(t *testing.T) {
	t.Parallel()
	for addr, ok := range map[string]bool{"127.0.0.1:9090": true, "[::1]:9090": true, "localhost:1": true, ":9090": false, "0.0.0.0:9090": false, "10.0.0.1:9090": false, "nonsense": false} {
		if err := admin.CheckAddr(addr, false); (err == nil) != ok {
			t.Errorf("%s: %v", addr, err)
		}
	}
	if err := admin.CheckAddr(":9090", true); err != nil {
		t.Errorf("when it is wanted: %v", err)
	}
}
