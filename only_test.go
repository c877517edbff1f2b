package main

import (
	"bufio"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/banyan-go/banyan/config"
	"github.com/banyan-go/banyan/internal/assertion"
	"github.com/banyan-go/banyan/internal/rest"
	"github.com/banyan-go/banyan/internal/token"
)

// Whoever has no assertion gets 401 at the port of a module, nothing else, and is counted, whatever the request looks like.
func TestStrangersAtAModulesPort(t *testing.T) {
	t.Parallel()
	key, err := token.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	keys, err := token.NewKeyring(key)
	if err != nil {
		t.Fatal(err)
	}
	registry := prometheus.NewRegistry()
	verifier, err := assertion.NewVerifier(assertion.Options{
		Module: "orders", Keys: keys, Registry: registry, Route: func(string, string) (rest.Request, bool) { return rest.Request{}, false },
	})
	if err != nil {
		t.Fatal(err)
	}
	module := http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("a stranger is served") })
	p := &only{log: slog.New(slog.DiscardHandler)}
	p.draining.Store(true) // so that the probe asks no store
	server := httptest.NewUnstartedServer(nil)
	if server.Config, err = p.newServer(config.Config{}, "orders", verifier.Middleware(module), nil, registry); err != nil {
		t.Fatal(err)
	}
	server.Start()
	t.Cleanup(server.Close)
	strangers := []string{
		"GET /api/orders", "GET //api/orders", "GET /api/../api/orders", "GET /api/./orders", "GET /", "GET http://other/api/orders", "OPTIONS *", "CONNECT other:443",
		"POST /readyz", "GET /./readyz", "GET /readyz/",
	}
	for _, line := range strangers {
		if status, header, body := raw(t, server, line); status != 401 || body != "" || header.Get("Location") != "" {
			t.Errorf("%s: %d %s %q, want 401 and nothing else", line, status, header.Get("Location"), body)
		}
	}
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	refused := 0.0
	for _, f := range families {
		if f.GetName() == "banyan_assertions_refused_total" {
			refused += f.GetMetric()[0].GetCounter().GetValue()
		}
	}
	if refused != float64(len(strangers)) {
		t.Errorf("%v of %d strangers are counted", refused, len(strangers))
	}
	for _, line := range []string{"GET /readyz", "HEAD /readyz"} {
		if status, _, _ := raw(t, server, line); status != 503 {
			t.Errorf("%s: %d, want 503", line, status)
		}
	}
}

// raw sends a request line as it is.
func raw(t *testing.T, server *httptest.Server, line string) (int, http.Header, string) {
	t.Helper()
	c, err := net.Dial("tcp", server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	if _, err := fmt.Fprintf(c, "%s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", line); err != nil {
		t.Fatal(err)
	}
	method, _, _ := strings.Cut(line, " ")
	a, err := http.ReadResponse(bufio.NewReader(c), &http.Request{Method: method})
	if err != nil {
		t.Fatalf("%s: %v", line, err)
	}
	defer func() { _ = a.Body.Close() }()
	body, err := io.ReadAll(a.Body)
	if err != nil {
		t.Fatalf("%s: %v", line, err)
	}
	return a.StatusCode, a.Header, string(body)
}
