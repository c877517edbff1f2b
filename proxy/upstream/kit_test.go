package upstream_test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"log"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/banyan-go/banyan/internal/module"
	"github.com/banyan-go/banyan/proxy/upstream"
)

// gate is a gateway as small as it can be: it says in headers what Serve returned, and cuts what has to be cut.
type gate struct {
	*upstream.Upstream
	t      *testing.T
	url    string
	call   func(r *http.Request) upstream.Call
	header func(h http.Header) // what the gateway has set already

	mu      sync.Mutex
	results []upstream.Result
}

func (g *gate) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if g.header != nil {
		g.header(w.Header())
	}
	result := g.Serve(w, r, g.call(r))
	g.mu.Lock()
	g.results = append(g.results, result)
	g.mu.Unlock()
	switch {
	case !result.Started:
		h := w.Header()
		maps.DeleteFunc(h, func(name string, _ []string) bool { return name != "Connection" })
		h["Failure"] = []string{string(result.Failure)}
		if result.Err != nil {
			h["Error"] = []string{result.Err.Error()}
		}
		w.WriteHeader(http.StatusBadGateway)
	case result.Failure == upstream.Aborted, result.Failure == upstream.ClientAbort:
		panic(http.ErrAbortHandler)
	}
}

// last waits for the result of the n-th request, counted from 1.
func (g *gate) result(n int) upstream.Result {
	g.t.Helper()
	var r upstream.Result
	eventually(g.t, "a result", func() bool {
		g.mu.Lock()
		defer g.mu.Unlock()
		if len(g.results) < n {
			return false
		}
		r = g.results[n-1]
		return true
	})
	return r
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); {
		if time.Now().After(end) {
			t.Fatalf("%s did not come", what)
		}
		time.Sleep(time.Millisecond)
	}
}

type options struct {
	cfg  func(*upstream.Config)
	opts upstream.Options
	call upstream.Call
	// callOf takes the place of call.
	callOf func(r *http.Request) upstream.Call
	h2     bool // the gateway itself speaks h2c
	header func(h http.Header)
}

// open starts a gateway in front of the endpoints.
func open(t *testing.T, protocol string, o options, endpoints ...string) *gate {
	t.Helper()
	cfg := upstream.DefaultConfig()
	cfg.Protocol, cfg.Endpoints = protocol, endpoints
	cfg.Health.Active.Path = ""
	cfg.Pool.Connect = 5 * time.Second // the machine may be busy
	if o.cfg != nil {
		o.cfg(&cfg)
	}
	if o.opts.Name == "" {
		o.opts.Name = "orders"
	}
	u, err := upstream.New(cfg, o.opts)
	if err != nil {
		t.Fatal(err)
	}
	g := &gate{Upstream: u, t: t, call: o.callOf, header: o.header}
	if g.call == nil {
		g.call = func(*http.Request) upstream.Call { return o.call }
	}
	g.url = serve(t, &http.Server{Handler: g, Protocols: protocols(true, o.h2)})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- u.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
		if err := u.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return g
}

// serve runs a server until the test ends.
func serve(t testing.TB, s *http.Server) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.ErrorLog = log.New(io.Discard, "", 0)
	done := make(chan struct{})
	go func() {
		defer close(done)
		if s.TLSConfig != nil {
			err = s.ServeTLS(l, "", "")
		} else {
			err = s.Serve(l)
		}
		if !errors.Is(err, http.ErrServerClosed) {
			t.Errorf("serve: %v", err)
		}
	}()
	t.Cleanup(func() {
		_ = s.Close()
		<-done
	})
	return "http://" + l.Addr().String()
}

// backend is an upstream's process that speaks what it has to.
func backend(t testing.TB, h http.HandlerFunc) string {
	t.Helper()
	return serve(t, &http.Server{Handler: h, Protocols: protocols(true, true)})
}

// raw is an upstream that says what the test wants: h is called for each connection, and the connection closed after it.
func raw(t *testing.T, h func(c net.Conn, in *bufio.Reader)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	var mu sync.Mutex
	var conns []net.Conn
	all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			conns = append(conns, c)
			mu.Unlock()
			all.Go(func() {
				defer func() { _ = c.Close() }()
				h(c, bufio.NewReader(c))
			})
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		mu.Lock()
		for _, c := range conns {
			_ = c.Close()
		}
		mu.Unlock()
		all.Wait()
	})
	return "http://" + l.Addr().String()
}

// readRequest reads one request with its body, as HTTP/1.1.
func readRequest(in *bufio.Reader) (*http.Request, string, error) {
	r, err := http.ReadRequest(in)
	if err != nil {
		return nil, "", err
	}
	b, err := io.ReadAll(r.Body)
	return r, string(b), err
}

// dead is an address where nobody listens: no test gets a port as low as this.
const dead = "http://127.0.0.1:1"

// client is an HTTP client of its own, so that no test shares connections with another one.
func client(t testing.TB, h2 bool) *http.Client {
	tr := &http.Transport{Protocols: protocols(!h2, h2), DisableCompression: true, MaxIdleConnsPerHost: 64}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: 30 * time.Second, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

type reply struct {
	status  int
	header  http.Header
	trailer http.Header
	body    string
	err     error // of reading the body
}

func (g *gate) do(r *http.Request) reply {
	g.t.Helper()
	return do(g.t, client(g.t, false), r)
}

func do(t *testing.T, c *http.Client, r *http.Request) reply {
	t.Helper()
	resp, err := c.Do(r)
	if err != nil {
		return reply{err: err}
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	return reply{status: resp.StatusCode, header: resp.Header, trailer: resp.Trailer, body: string(b), err: err}
}

func (g *gate) request(method, path, body string, headers ...string) *http.Request {
	g.t.Helper()
	var in io.Reader
	if body != "" {
		in = strings.NewReader(body)
	}
	r, err := http.NewRequestWithContext(g.t.Context(), method, g.url+path, in)
	if err != nil {
		g.t.Fatal(err)
	}
	for pair := range slices.Chunk(headers, 2) {
		r.Header.Add(pair[0], pair[1])
	}
	return r
}

func (g *gate) get(path string, headers ...string) reply {
	g.t.Helper()
	return g.do(g.request(http.MethodGet, path, "", headers...))
}

func (g *gate) post(path, body string, headers ...string) reply {
	g.t.Helper()
	return g.do(g.request(http.MethodPost, path, body, headers...))
}

func protocols(h1, h2c bool) *http.Protocols {
	p := new(http.Protocols)
	p.SetHTTP1(h1)
	p.SetUnencryptedHTTP2(h2c)
	return p
}

// list is what many goroutines have seen.
type list struct {
	mu    sync.Mutex
	items []string
}

func (l *list) add(s string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.items = append(l.items, s)
}

func (l *list) all() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.items)
}

var stream = upstream.Call{Class: module.Stream}
