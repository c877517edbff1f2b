package testinfra

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestWebServersServeAndLog(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, log string
		start     func(tb testing.TB, addr string, config func(dir string) string) *WebServer
		config    string
	}{
		{"nginx", "access.log", StartNginx, `pid %[1]s/pid; events {} http { access_log %[1]s/access.log; server { listen %[2]s; return 200 "hello"; } }`},
		{"haproxy", "stdout", StartHAProxy, `
defaults
  mode http
  timeout client 5s
  timeout http-keep-alive 5s
frontend f
  bind %[2]s
  log stdout format raw local0
  log-format "%%HM %%HU"
  http-request return status 200 content-type text/plain string hello
# %[1]s
`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			addr := FreeAddr(t)
			s := test.start(t, addr, func(dir string) string { return fmt.Sprintf(test.config, dir, addr) })
			client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
			resp, err := client.Get("http://" + addr + "/some/path")
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = resp.Body.Close() }()
			if body, err := io.ReadAll(resp.Body); err != nil || strings.TrimSpace(string(body)) != "hello" {
				t.Errorf("got %q, %v", body, err)
			}
			s.Stop()
			s.Stop() // the second changes nothing
			if got := s.File(test.log); !strings.Contains(got, "GET /some/path") {
				t.Errorf("logged %q", got)
			}
			if _, err := client.Get("http://" + addr); err == nil {
				t.Error("a stopped server answers")
			}
		})
	}
}

func TestFindWebServer(t *testing.T) {
	empty, dir := t.TempDir(), t.TempDir()
	t.Setenv("PATH", empty)
	if _, err := findWebServer("nginx", empty); !errors.Is(err, ErrNoWebServer) || !strings.HasPrefix(err.Error(), "nginx is not in PATH") {
		t.Errorf("got %v without a binary, want ErrNoWebServer", err)
	}
	want := filepath.Join(dir, "nginx")
	if err := os.WriteFile(want, nil, 0o755); err != nil {
		t.Fatal(err)
	}
	if got, err := findWebServer("nginx", empty, dir); err != nil || got != want {
		t.Errorf("got %q (%v), want %q", got, err, want)
	}
	t.Setenv("PATH", dir)
	if got, err := findWebServer("nginx"); err != nil || got != want {
		t.Errorf("got %q (%v), want %q", got, err, want)
	}
}

func TestNeedWebServer(t *testing.T) {
	missing := fmt.Errorf("nginx %w", ErrNoWebServer)
	for _, c := range []struct {
		name, require string
		err           error
		want          string
	}{
		{"there", "", nil, ""}, {"missing", "", missing, "skipped"}, {"missing but required", "1", missing, "failed"}, {"broken", "", errors.New("exit 1"), "failed"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Setenv(EnvRequire, c.require)
			tb := &fakeTB{TB: t}
			needWebServer(tb, c.err)
			if tb.ended != c.want {
				t.Errorf("got %q, want %q", tb.ended, c.want)
			}
		})
	}
}
