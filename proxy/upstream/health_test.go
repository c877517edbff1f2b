package upstream_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/banyan-go/banyan/internal/module"
	"github.com/banyan-go/banyan/proxy/upstream"
)

// process is an upstream's process that can be made ill.
type process struct {
	addr     string
	ready    atomic.Int64 // status of /readyz
	status   atomic.Int64 // of all else
	received atomic.Int64
}

func newProcess(t *testing.T) *process {
	p := &process{}
	p.ready.Store(200)
	p.status.Store(200)
	p.addr = strings.TrimPrefix(backend(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/readyz" {
			w.WriteHeader(int(p.ready.Load()))
			return
		}
		p.received.Add(1)
		w.WriteHeader(int(p.status.Load()))
	}), "http://")
	return p
}

func (g *gate) endpoint(addr string) upstream.EndpointStatus {
	for _, e := range g.Status().Endpoints {
		if e.Addr == addr {
			return e
		}
	}
	return upstream.EndpointStatus{}
}

// checked turns health checks on, as fast as a test wants them.
func checked(c *upstream.Config) {
	c.Health.Active = upstream.Active{Path: "/readyz", Interval: 10 * time.Millisecond, Timeout: 5 * time.Second, Fails: 2, Passes: 2}
	c.Balance = upstream.RoundRobin
}

func TestHealthChecks(t *testing.T) {
	t.Parallel()
	for _, protocol := range []string{upstream.H1, upstream.H2C} {
		t.Run(protocol, func(t *testing.T) {
			t.Parallel()
			a, b, c := newProcess(t), newProcess(t), newProcess(t)
			g := open(t, protocol, options{cfg: checked}, "http://"+a.addr, "http://"+b.addr, "http://"+c.addr)
			eventually(t, "readiness", func() bool { return g.Ready() == nil })
			eventually(t, "all checks", func() bool {
				return g.endpoint(a.addr).Checked && g.endpoint(b.addr).Checked && g.endpoint(c.addr).Checked
			})
			b.ready.Store(503)
			eventually(t, "the loss of b", func() bool { return !g.endpoint(b.addr).Well })
			if fault := g.endpoint(b.addr).Fault; fault != "/readyz answers 503" {
				t.Errorf("fault: %q", fault)
			}
			before := b.received.Load()
			for range 12 {
				if got := g.post("/", "x"); got.status != 200 {
					t.Errorf("got %+v", got)
				}
			}
			if b.received.Load() != before || a.received.Load() < 6 || c.received.Load() < 6 {
				t.Errorf("received %d, %d, %d", a.received.Load(), b.received.Load(), c.received.Load())
			}
			// Two of three are more than half: then the fault is ours, and all are used.
			a.ready.Store(500)
			eventually(t, "the loss of a", func() bool { return !g.endpoint(a.addr).Well })
			if !g.Status().All {
				t.Errorf("%+v", g.Status())
			}
			for range 9 {
				g.post("/", "x")
			}
			if b.received.Load() != before+3 {
				t.Errorf("b got %d of 9", b.received.Load()-before)
			}
			if err := g.Ready(); err != nil {
				t.Errorf("c is well: %v", err)
			}
			c.ready.Store(404)
			eventually(t, "the loss of all", func() bool { return errors.Is(g.Ready(), upstream.ErrNoEndpoint) })
			if got := g.post("/", "x"); got.status != 200 {
				t.Errorf("got %+v", got)
			}
			b.ready.Store(200)
			eventually(t, "b to be back", func() bool { return g.endpoint(b.addr).Well && g.Ready() == nil && g.endpoint(b.addr).Fault == "" })
		})
	}
}

// An endpoint that is down from the beginning is no error, and is not waited for.
func TestEndpointIsDownAtStart(t *testing.T) {
	t.Parallel()
	a := newProcess(t)
	g := open(t, upstream.H2C, options{cfg: func(c *upstream.Config) { checked(c); c.Health.Active.Interval = time.Hour }}, "http://"+a.addr, dead)
	eventually(t, "the checks", func() bool {
		return g.endpoint(a.addr).Checked && !g.endpoint(strings.TrimPrefix(dead, "http://")).Well
	})
	for i := range 4 {
		if got := g.post("/", "x"); got.status != 200 {
			t.Errorf("got %+v", got)
		}
		if r := g.result(i + 1); r.Attempts != 1 {
			t.Errorf("%+v", r)
		}
	}
}

// A full pool is no illness: checks do not wait for room.
func TestChecksNeedNoRoom(t *testing.T) {
	t.Parallel()
	begun, end := make(chan struct{}, 10), make(chan struct{})
	var checks atomic.Int64
	g := open(t, upstream.H1, options{cfg: func(c *upstream.Config) { checked(c); c.Pool.MaxConns = 1; c.Health.Active.Timeout = time.Second }},
		backend(t, func(_ http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/readyz" {
				checks.Add(1)
				return
			}
			begun <- struct{}{}
			<-end
		}))
	r := g.request("POST", "/", "x")
	answer := make(chan reply, 1)
	go func() { answer <- do(t, client(t, false), r) }()
	<-begun
	n := checks.Load()
	eventually(t, "more checks", func() bool { return checks.Load() > n+3 })
	if s := g.Status(); !s.Ready {
		t.Errorf("%+v", s)
	}
	close(end)
	if got := <-answer; got.status != 200 {
		t.Errorf("got %+v", got)
	}
}

// Whoever fails in a row is left out, unless that were too many.
func TestPassiveEjection(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, protocol string, cfg func(*upstream.Config)) {
		a, b, c := newProcess(t), newProcess(t), newProcess(t)
		registry := prometheus.NewRegistry()
		g := open(t, protocol, options{opts: upstream.Options{Registry: registry}, cfg: func(x *upstream.Config) {
			cfg(x)
			x.Balance, x.Breaker.Ratio, x.Retry.Attempts = upstream.RoundRobin, 0, 1
			x.Health.Passive = upstream.Passive{Consecutive: 5, Eject: time.Hour}
		}}, "http://"+a.addr, "http://"+b.addr, "http://"+c.addr)
		a.status.Store(500)
		for range 30 {
			g.post("/", "x")
		}
		if n := a.received.Load(); n != 5 {
			t.Errorf("a was sent %d", n)
		}
		if g.endpoint(a.addr).OutUntil.IsZero() || g.Status().All {
			t.Errorf("%+v", g.Status())
		}
		// The second of three is too many.
		b.status.Store(502)
		for range 30 {
			g.post("/", "x")
		}
		if s := g.Status(); !s.All {
			t.Errorf("%+v", s)
		}
		before := a.received.Load()
		for range 30 {
			g.post("/", "x")
		}
		if n := a.received.Load() - before; n != 10 {
			t.Errorf("a was sent %d of 30", n)
		}
		if n := metrics(t, registry)["banyan_upstream_ejections_total orders"]; n != 2 {
			t.Errorf("%v ejections", n)
		}
	})
}

// A single endpoint is never left out: there is nobody else.
func TestTheOnlyEndpointStays(t *testing.T) {
	t.Parallel()
	a := newProcess(t)
	g := open(t, upstream.H2C, options{cfg: func(x *upstream.Config) { x.Breaker.Ratio, x.Health.Passive.Eject = 0, time.Hour }}, "http://"+a.addr)
	a.status.Store(500)
	for range 20 {
		if got := g.post("/", "x"); got.status != 500 {
			t.Fatalf("got %+v", got)
		}
	}
	a.status.Store(200)
	if got := g.post("/", "x"); got.status != 200 {
		t.Errorf("got %+v", got)
	}
}

// An ejection ends by itself.
func TestEjectionEnds(t *testing.T) {
	t.Parallel()
	a, b := newProcess(t), newProcess(t)
	g := open(t, upstream.H2C, options{cfg: func(x *upstream.Config) {
		x.Balance, x.Breaker.Ratio, x.Retry.Attempts = upstream.RoundRobin, 0, 1
		x.Health.Passive = upstream.Passive{Consecutive: 1, Eject: 100 * time.Millisecond}
	}}, "http://"+a.addr, "http://"+b.addr)
	a.status.Store(500)
	for range 2 {
		g.post("/", "x")
	}
	if g.endpoint(a.addr).OutUntil.IsZero() {
		t.Fatalf("%+v", g.Status())
	}
	a.status.Store(200)
	eventually(t, "a to be used again", func() bool { g.post("/", "x"); return a.received.Load() > 1 })
}

// The breaker trips on requests that get no answer, and lets probes through later.
func TestBreakerTrips(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, protocol string, cfg func(*upstream.Config)) {
		registry := prometheus.NewRegistry()
		var up atomic.Bool
		g := open(t, protocol, options{opts: upstream.Options{Registry: registry, Dial: func(ctx context.Context, network, addr string) (net.Conn, error) {
			if !up.Load() {
				return nil, errors.New("nobody listens")
			}
			return new(net.Dialer).DialContext(ctx, network, addr)
		}}, cfg: func(x *upstream.Config) {
			cfg(x)
			x.Breaker.Open, x.Breaker.Probes = 300*time.Millisecond, 2
		}}, backend(t, func(http.ResponseWriter, *http.Request) {}))
		for i := range 8 {
			got := g.post("/", "x")
			want := "not_sent"
			if i >= 5 {
				want = "overload"
			}
			if got.header.Get("Failure") != want {
				t.Errorf("request %d: %+v", i+1, got)
			}
		}
		if s := g.Status(); s.Breaker != "open" || s.Ready || !errors.Is(g.Ready(), upstream.ErrOpen) {
			t.Errorf("%+v", s)
		}
		have := metrics(t, registry)
		for name, want := range map[string]float64{
			"banyan_upstream_breaker orders": 2, "banyan_upstream_requests_total not_sent orders": 5, "banyan_upstream_requests_total overload orders": 3,
			"banyan_upstream_requests_total none orders": 0, "banyan_upstream_in_flight orders": 0, "banyan_upstream_endpoints orders": 1,
			"banyan_upstream_endpoints_usable orders": 0,
		} {
			if got, ok := have[name]; !ok || got != want {
				t.Errorf("%s: %v, want %v", name, got, want)
			}
		}
		// Somebody listens there again.
		up.Store(true)
		eventually(t, "the breaker to close", func() bool { g.post("/", "x"); return g.Status().Breaker == "closed" })
		if got := g.post("/", "x"); got.status != 200 {
			t.Errorf("got %+v", got)
		}
	})
}

// A stream may last for hours; that it has begun is enough for a breaker that tries.
func TestStreamIsAProbe(t *testing.T) {
	t.Parallel()
	var up atomic.Bool
	g := open(t, upstream.H2C, options{call: stream, opts: upstream.Options{Dial: func(ctx context.Context, network, addr string) (net.Conn, error) {
		if !up.Load() {
			return nil, errors.New("nobody listens")
		}
		return new(net.Dialer).DialContext(ctx, network, addr)
	}}, cfg: func(c *upstream.Config) { c.Breaker.Open, c.Breaker.Probes = 10*time.Millisecond, 1 }}, backend(t, func(w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	}))
	for range 5 {
		g.post("/", "x")
	}
	up.Store(true)
	eventually(t, "time for a probe", func() bool { return g.Status().Breaker == "half_open" })
	resp, err := client(t, false).Do(g.request("GET", "/", ""))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	if s := g.Status(); s.Breaker != "closed" || s.Streams != 1 {
		t.Errorf("%+v", s)
	}
}

// hangUp is for a handler that breaks off at once. Over HTTP/1 net/http itself would wait for the body first.
func hangUp(w http.ResponseWriter, r *http.Request) {
	if r.ProtoMajor == 1 {
		conn, _, _ := http.NewResponseController(w).Hijack()
		_ = conn.Close()
	}
	panic(http.ErrAbortHandler)
}

// An upstream that goes while a client sends slowly is noticed at once, not when the client sends again.
func TestUpstreamGoesWhileClientIsSilent(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, protocol string, cfg func(*upstream.Config)) {
		for _, c := range []struct {
			path string
			want upstream.Result
		}{
			{"/silent", upstream.Result{Failure: upstream.MaybeSent, BodyGone: true}},
			{"/begun", upstream.Result{Failure: upstream.Aborted, BodyGone: true, Started: true, Status: 200}},
			{"/answered", upstream.Result{Failure: upstream.None, BodyGone: true, Started: true, Status: 413}},
		} {
			g := open(t, protocol, options{cfg: func(x *upstream.Config) { cfg(x); x.Pool.Header = 10 * time.Minute }},
				backend(t, func(w http.ResponseWriter, r *http.Request) {
					_, _ = io.ReadFull(r.Body, make([]byte, 1))
					switch r.URL.Path {
					case "/begun":
						w.Header().Set("Content-Length", "100")
						_ = http.NewResponseController(w).EnableFullDuplex()
						_, _ = io.WriteString(w, "begun")
						_ = http.NewResponseController(w).Flush()
					case "/answered":
						_ = http.NewResponseController(w).EnableFullDuplex()
						w.Header().Set("Connection", "close")
						w.WriteHeader(http.StatusRequestEntityTooLarge)
						_, _ = io.WriteString(w, "too long")
						return
					}
					hangUp(w, r)
				}))
			conn, err := net.Dial("tcp", strings.TrimPrefix(g.url, "http://"))
			if err != nil {
				t.Fatal(err)
			}
			begin := time.Now()
			_, _ = io.WriteString(conn, "POST "+c.path+" HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n")
			got := g.result(1)
			_ = conn.Close()
			if got.Failure != c.want.Failure || got.Started != c.want.Started || got.Status != c.want.Status || got.BodyGone != c.want.BodyGone {
				t.Errorf("%s: got %+v", c.path, got)
			}
			if took := time.Since(begin); took > 10*time.Second {
				t.Errorf("%s: noticed after %s", c.path, took)
			}
		}
	})
}

// A client's connection is used again only after a body that has come to a good end: what follows another one is no request.
func TestConnectionOfAClient(t *testing.T) {
	t.Parallel()
	const top = "POST %s HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
	long := strings.Repeat("x", 200<<10)
	each(t, func(t *testing.T, protocol string, cfg func(*upstream.Config)) {
		g := open(t, protocol, options{cfg: func(c *upstream.Config) {
			cfg(c)
			c.Health.Passive.Consecutive, c.Breaker.Consecutive, c.Breaker.Ratio = 0, 0, 0
		}, callOf: func(r *http.Request) upstream.Call {
			if r.URL.Path != "/refused" {
				return upstream.Call{}
			}
			return upstream.Call{Prepare: func(*http.Request, int) error { return errors.New("refused") }}
		}}, backend(t, func(w http.ResponseWriter, r *http.Request) {
			switch r.URL.Path {
			case "/early":
				_ = http.NewResponseController(w).EnableFullDuplex()
				_, _ = io.ReadFull(r.Body, make([]byte, 1))
				_, _ = io.WriteString(w, "early")
				_ = http.NewResponseController(w).Flush()
			case "/hang":
				_, _ = io.ReadFull(r.Body, make([]byte, 1))
				hangUp(w, r)
			case "/head":
				_ = http.NewResponseController(w).EnableFullDuplex()
				w.WriteHeader(http.StatusNoContent)
				_ = http.NewResponseController(w).Flush()
				return
			}
			_, _ = io.Copy(io.Discard, r.Body)
		}))
		for name, c := range map[string]struct {
			raw  string
			keep bool
		}{
			"chunks":                      {fmt.Sprintf(top, "/") + "1\r\nx\r\n0\r\n\r\n", true},
			"chunks with a trailer":       {fmt.Sprintf(top, "/") + "1\r\nx\r\n0\r\nX-Sum: 1\r\n\r\n", true},
			"no chunk":                    {fmt.Sprintf(top, "/") + "0\r\n\r\n", true},
			"length":                      {fmt.Sprintf("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n", len(long)) + long, true},
			"refused":                     {fmt.Sprintf(top, "/refused") + "1\r\nx\r\n0\r\n\r\n", true},
			"wrong chunk of a refused":    {fmt.Sprintf(top, "/refused") + "1\r\nx\r\nz\r\nno chunk\r\n0\r\n\r\n", false},
			"wrong chunk":                 {fmt.Sprintf(top, "/") + "1\r\nx\r\nz\r\nno chunk\r\n0\r\n\r\n", false},
			"wrong chunk after an answer": {fmt.Sprintf(top, "/early") + "1\r\nx\r\nz\r\nno chunk\r\n0\r\n\r\n", false},
			"no end after an answer":      {fmt.Sprintf(top, "/head") + "1\r\nx\r\n", false},
			"no end":                      {fmt.Sprintf(top, "/hang") + "1\r\nx\r\n", false},
		} {
			for range 5 {
				conn, err := net.Dial("tcp", strings.TrimPrefix(g.url, "http://"))
				if err != nil {
					t.Fatal(err)
				}
				_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
				_, _ = io.WriteString(conn, c.raw)
				in := bufio.NewReader(conn)
				resp, err := http.ReadResponse(in, nil)
				if err != nil {
					t.Fatalf("%s: %v", name, err)
				}
				_, _ = io.Copy(io.Discard, resp.Body)
				if resp.Close == c.keep {
					t.Errorf("%s: answered %d, kept %t", name, resp.StatusCode, !resp.Close)
				}
				if c.keep {
					_, _ = io.WriteString(conn, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
					if resp, err := http.ReadResponse(in, nil); err != nil || resp.StatusCode != 200 {
						t.Errorf("%s: the next request: %v, %+v", name, err, resp)
					}
				} else {
					_ = conn.(*net.TCPConn).CloseWrite()
					if rest, _ := io.ReadAll(in); len(rest) > 0 {
						t.Errorf("%s: one more answer: %q", name, rest)
					}
				}
				_ = conn.Close()
			}
		}
	})
}

// A client that is not done sending when the time of the request is up is slow itself.
func TestClientSendsTooSlowly(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, protocol string, cfg func(*upstream.Config)) {
		g := open(t, protocol, options{cfg: cfg}, backend(t, func(_ http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) }))
		u := g.Upstream
		at := serve(t, &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			ctx, cancel := context.WithTimeout(r.Context(), 50*time.Millisecond)
			defer cancel()
			if result := u.Serve(w, r.WithContext(ctx), upstream.Call{}); !errors.Is(result.Err, context.DeadlineExceeded) || !result.BodyGone {
				t.Errorf("%+v", result)
			}
			panic(http.ErrAbortHandler)
		})})
		for range 6 {
			c, err := net.Dial("tcp", strings.TrimPrefix(at, "http://"))
			if err != nil {
				t.Fatal(err)
			}
			_ = c.SetDeadline(time.Now().Add(20 * time.Second))
			_, _ = io.WriteString(c, "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n")
			if _, err := c.Read(make([]byte, 1)); err != io.EOF {
				t.Errorf("ends with %v", err)
			}
			_ = c.Close()
		}
		if s := g.Status(); s.Breaker != "closed" || !s.Endpoints[0].OutUntil.IsZero() {
			t.Errorf("%+v", s)
		}
	})
}

// Slow clients hold nothing: a body is read before a place is taken.
func TestSlowBodyTakesNoPlace(t *testing.T) {
	t.Parallel()
	g := open(t, upstream.H2C, options{cfg: func(c *upstream.Config) { c.Bulkhead.MaxInFlight, c.Bulkhead.MaxQueue = 1, 0 }},
		backend(t, func(http.ResponseWriter, *http.Request) {}))
	body, send := io.Pipe()
	r := g.request("POST", "/", "x")
	r.Body, r.ContentLength = body, 10
	answer := make(chan reply, 1)
	go func() { answer <- do(t, client(t, false), r) }()
	_, _ = send.Write([]byte("hello"))
	if got := g.post("/", "x"); got.status != 200 {
		t.Errorf("got %+v", got)
	}
	_, _ = send.Write([]byte("world"))
	_ = send.Close()
	if got := <-answer; got.status != 200 {
		t.Errorf("got %+v", got)
	}
}

// source is a discovery that the test leads.
type source struct {
	mu     sync.Mutex
	update func([]upstream.Endpoint)
	now    []upstream.Endpoint
	ended  chan error // a value ends Watch
}

func (s *source) Watch(ctx context.Context, update func([]upstream.Endpoint)) error {
	s.mu.Lock()
	s.update = update
	if s.now != nil {
		update(s.now)
	}
	s.mu.Unlock()
	select {
	case <-ctx.Done():
		return nil
	case err := <-s.ended:
		return err
	}
}

func (s *source) set(addrs ...string) {
	list := make([]upstream.Endpoint, len(addrs))
	for i, a := range addrs {
		list[i].Addr = a
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now = list
	if s.update != nil {
		s.update(list)
	}
}

func TestDiscovery(t *testing.T) {
	t.Parallel()
	s := &source{ended: make(chan error)}
	g := open(t, upstream.H2C, options{opts: upstream.Options{Source: s}})
	got := g.post("/", "x")
	if got.header.Get("Failure") != "not_sent" || !errors.Is(g.Ready(), upstream.ErrNoEndpoint) {
		t.Errorf("before the first answer: %+v, %v", got, g.Ready())
	}
	a, b := newProcess(t), newProcess(t)
	s.set(a.addr, "no address", a.addr)
	eventually(t, "readiness", func() bool { return g.Ready() == nil })
	if n := len(g.Status().Endpoints); n != 1 {
		t.Errorf("%d endpoints", n)
	}
	if got := g.post("/", "x"); got.status != 200 {
		t.Errorf("got %+v", got)
	}
	// A discovery that gives up is asked again, and what it has found stays.
	s.ended <- errors.New("consul is gone")
	if got := g.post("/", "x"); got.status != 200 {
		t.Errorf("got %+v", got)
	}
	s.set(b.addr)
	eventually(t, "b alone", func() bool {
		e := g.Status().Endpoints
		return len(e) == 1 && e[0].Addr == b.addr
	})
	n := a.received.Load()
	for range 4 {
		if got := g.post("/", "x"); got.status != 200 {
			t.Errorf("got %+v", got)
		}
	}
	if a.received.Load() != n || b.received.Load() != 4 {
		t.Errorf("received %d and %d", a.received.Load()-n, b.received.Load())
	}
	s.set()
	eventually(t, "nobody", func() bool { return errors.Is(g.Ready(), upstream.ErrNoEndpoint) })
	// What is found after the end is not for us any more.
	if err := g.Drain(t.Context()); err != nil {
		t.Errorf("drain: %v", err)
	}
	s.set(a.addr)
	if n := len(g.Status().Endpoints); n != 0 {
		t.Errorf("%d endpoints after the end", n)
	}
}

// An endpoint that goes ends what it has: requests run on, streams are told, and it is gone when both are.
func TestEndpointLeaves(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, protocol string, cfg func(*upstream.Config)) {
		begun, end := make(chan struct{}, 10), make(chan struct{})
		old := backend(t, func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/events" {
				w.Header().Set("Content-Type", "text/event-stream")
				_, _ = io.WriteString(w, "data: 1\n\n")
				_ = http.NewResponseController(w).Flush()
				<-r.Context().Done()
				return
			}
			begun <- struct{}{}
			<-end
		})
		fresh := newProcess(t)
		s := &source{}
		g := open(t, protocol, options{cfg: func(c *upstream.Config) { cfg(c); c.Drain.Jitter = time.Millisecond }, opts: upstream.Options{Source: s},
			callOf: func(r *http.Request) upstream.Call {
				if r.URL.Path == "/events" {
					return stream
				}
				return upstream.Call{Class: module.Write}
			}})
		addr := strings.TrimPrefix(old, "http://")
		s.set(addr)
		eventually(t, "readiness", func() bool { return g.Ready() == nil })
		events, err := client(t, false).Do(g.request("GET", "/events", ""))
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = events.Body.Close() }()
		if _, err := io.ReadFull(events.Body, make([]byte, len("data: 1\n\n"))); err != nil {
			t.Fatal(err)
		}
		r, answer := g.request("POST", "/", "x"), make(chan reply, 1)
		go func() { answer <- do(t, client(t, false), r) }()
		<-begun
		s.set(fresh.addr)
		if rest, err := io.ReadAll(events.Body); !strings.HasPrefix(string(rest), "retry: ") || !strings.HasSuffix(string(rest), "\n\n") || err != nil {
			t.Errorf("the stream ends with %q, %v", rest, err)
		}
		if got := g.post("/", "x"); got.status != 200 || fresh.received.Load() != 1 {
			t.Errorf("got %+v", got)
		}
		if e := g.endpoint(addr); !e.Leaving || e.InFlight != 1 {
			t.Errorf("%+v", e)
		}
		close(end)
		if got := <-answer; got.status != 200 {
			t.Errorf("got %+v", got)
		}
		eventually(t, "the end of the old one", func() bool { return g.endpoint(addr).Addr == "" })
	})
}

func TestDrain(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, protocol string, cfg func(*upstream.Config)) {
		begun, end := make(chan struct{}, 10), make(chan struct{})
		g := open(t, protocol, options{cfg: func(c *upstream.Config) {
			cfg(c)
			c.Bulkhead = upstream.Bulkhead{MaxInFlight: 1, MaxQueue: 1, QueueWait: time.Minute, MaxStreams: 10}
		}}, backend(t, func(http.ResponseWriter, *http.Request) {
			begun <- struct{}{}
			<-end
		}))
		answers := make(chan reply, 2)
		for range 2 {
			r := g.request("POST", "/", "x")
			go func() { answers <- do(t, client(t, false), r) }()
		}
		<-begun
		eventually(t, "one that waits", func() bool { return g.Status().Queued == 1 })
		drained := make(chan error, 1)
		go func() { drained <- g.Drain(t.Context()) }()
		// The one that waits is sent away at once, untouched.
		got := <-answers
		if got.header.Get("Failure") != "overload" || !strings.Contains(got.header.Get("Error"), upstream.ErrDraining.Error()) {
			t.Errorf("got %+v", got)
		}
		if got := g.post("/", "x"); got.header.Get("Failure") != "overload" {
			t.Errorf("got %+v", got)
		}
		if s := g.Status(); !s.Draining || s.InFlight != 1 || len(s.Endpoints) != 1 || !s.Endpoints[0].Leaving || !errors.Is(g.Ready(), upstream.ErrDraining) {
			t.Errorf("%+v", s)
		}
		select {
		case err := <-drained:
			t.Errorf("drained with a request in flight: %v", err)
		default:
		}
		close(end)
		if err := <-drained; err != nil {
			t.Errorf("drain: %v", err)
		}
		if got := <-answers; got.status != 200 {
			t.Errorf("got %+v", got)
		}
		eventually(t, "no connection", func() bool { return len(g.Status().Endpoints) == 0 })
	})
}

// Whatever does not end in time is cut, and looks so.
func TestDrainTakesTooLong(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, protocol string, cfg func(*upstream.Config)) {
		begun := make(chan struct{}, 10)
		g := open(t, protocol, options{cfg: func(c *upstream.Config) {
			cfg(c)
			c.Pool.Header = 10 * time.Minute
			c.Drain = upstream.Drain{Requests: 50 * time.Millisecond, Streams: 50 * time.Millisecond}
		}}, backend(t, func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/body" {
				_, _ = io.WriteString(w, "begun")
				_ = http.NewResponseController(w).Flush()
			}
			begun <- struct{}{}
			<-r.Context().Done()
		}))
		answers := map[string]chan reply{}
		for _, path := range []string{"/header", "/body"} {
			r, answer := g.request("POST", path, "x"), make(chan reply, 1)
			go func() { answer <- do(t, client(t, false), r) }()
			answers[path] = answer
			<-begun
		}
		begin := time.Now()
		if err := g.Drain(t.Context()); err == nil || !strings.Contains(err.Error(), "2 requests or streams") {
			t.Errorf("drain: %v", err)
		}
		if got := <-answers["/header"]; got.header.Get("Failure") != "maybe_sent" {
			t.Errorf("got %+v", got)
		}
		if got := <-answers["/body"]; got.err == nil {
			t.Errorf("got %+v", got)
		}
		if took := time.Since(begin); took > 10*time.Second {
			t.Errorf("it was not we who cut them: %s", took)
		}
	})
}

// A stream that is told in the middle of an event is cut, so that nobody takes half of one for whole.
func TestStreamIsToldInTheMiddleOfAnEvent(t *testing.T) {
	t.Parallel()
	const half = "data: 1\n\ndata: ha"
	g := open(t, upstream.H2C, options{call: stream, cfg: func(c *upstream.Config) { c.Drain.Jitter = 0 }}, backend(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		_, _ = io.WriteString(w, half)
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	}))
	resp, err := client(t, false).Do(g.request("GET", "/", ""))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	if _, err := io.ReadFull(resp.Body, make([]byte, len(half))); err != nil {
		t.Fatal(err)
	}
	if err := g.Drain(t.Context()); err != nil {
		t.Errorf("drain: %v", err)
	}
	if more, err := io.ReadAll(resp.Body); err == nil || len(more) > 0 {
		t.Errorf("got %q, %v", more, err)
	}
	if r := g.result(1); r.Failure != upstream.Aborted || !errors.Is(r.Err, upstream.ErrDraining) {
		t.Errorf("%+v", r)
	}
}

// The caller may end a stream in the same way, as a gateway does that ends itself.
func TestCallerEndsAStream(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, protocol string, cfg func(*upstream.Config)) {
		g := open(t, protocol, options{cfg: cfg}, backend(t, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "text/event-stream")
			_, _ = io.WriteString(w, "data: 1\n\n")
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
		}))
		u := g.Upstream
		begun := make(chan context.CancelCauseFunc, 1)
		results := make(chan upstream.Result, 1)
		at := serve(t, &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			ctx, cancel := context.WithCancelCause(r.Context())
			begun <- cancel
			results <- u.Serve(w, r.WithContext(ctx), stream)
		})})
		resp, err := client(t, false).Get(at)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = resp.Body.Close() }()
		if _, err := io.ReadFull(resp.Body, make([]byte, len("data: 1\n\n"))); err != nil {
			t.Fatal(err)
		}
		(<-begun)(upstream.ErrDraining)
		if rest, err := io.ReadAll(resp.Body); !strings.HasPrefix(string(rest), "retry: ") || err != nil {
			t.Errorf("ends with %q, %v", rest, err)
		}
		if r := <-results; r.Failure != upstream.None {
			t.Errorf("%+v", r)
		}
	})
}

// A client that takes nothing does not hold a stream for ever.
func TestStreamIsNotTaken(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, protocol string, cfg func(*upstream.Config)) {
		g := open(t, protocol, options{call: stream, cfg: func(c *upstream.Config) { cfg(c); c.StreamIdle = time.Second }},
			backend(t, func(w http.ResponseWriter, _ *http.Request) {
				for { // more than all buffers on the way hold
					if _, err := w.Write(make([]byte, 1<<20)); err != nil {
						return
					}
				}
			}))
		resp, err := client(t, false).Do(g.request("GET", "/", ""))
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = resp.Body.Close() }()
		if r := g.result(1); r.Failure != upstream.ClientAbort || !r.Started {
			t.Errorf("%+v", r)
		}
		if s := g.Status(); s.Streams != 0 || s.Breaker != "closed" {
			t.Errorf("%+v", s)
		}
	})
}

// The time that a stream's client has is not left behind on its connection.
func TestRequestAfterAStream(t *testing.T) {
	t.Parallel()
	g := open(t, upstream.H1, options{callOf: func(r *http.Request) upstream.Call {
		if r.URL.Path == "/stream" {
			return stream
		}
		return upstream.Call{}
	}, cfg: func(c *upstream.Config) { c.StreamIdle = time.Second }}, backend(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/" {
			time.Sleep(1100 * time.Millisecond)
		}
		_, _ = io.WriteString(w, "done")
	}))
	c := client(t, false)
	for _, path := range []string{"/stream", "/"} {
		if got := do(t, c, g.request("GET", path, "")); got.body != "done" || got.err != nil {
			t.Errorf("%s: got %+v", path, got)
		}
	}
}

// A panic of the caller's own code takes no place with it.
func TestPanicLeavesNothing(t *testing.T) {
	t.Parallel()
	g := open(t, upstream.H2C, options{call: upstream.Call{Prepare: func(*http.Request, int) error { panic(http.ErrAbortHandler) }}}, dead)
	if got := g.post("/", "x"); got.err == nil {
		t.Errorf("got %+v", got)
	}
	eventually(t, "an empty upstream", func() bool { s := g.Status(); return s.InFlight == 0 && s.Endpoints[0].InFlight == 0 })
}

func TestBalance(t *testing.T) {
	t.Parallel()
	a, b := newProcess(t), newProcess(t)
	s := &source{now: []upstream.Endpoint{{Addr: a.addr, Weight: 3}, {Addr: b.addr, Weight: 1}}}
	g := open(t, upstream.H2C, options{cfg: func(c *upstream.Config) { c.Balance = upstream.RoundRobin }, opts: upstream.Options{Source: s}})
	eventually(t, "readiness", func() bool { return g.Ready() == nil })
	for range 40 {
		g.post("/", "x")
	}
	if diff := cmp.Diff([]int64{30, 10}, []int64{a.received.Load(), b.received.Load()}); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

// The one that is busy gets less.
func TestLeastInFlight(t *testing.T) {
	t.Parallel()
	begun, end := make(chan struct{}, 64), make(chan struct{})
	busy := backend(t, func(http.ResponseWriter, *http.Request) {
		begun <- struct{}{}
		<-end
	})
	fine := newProcess(t)
	g := open(t, upstream.H2C, options{cfg: func(c *upstream.Config) { c.Balance = upstream.LeastInFlight }}, busy, "http://"+fine.addr)
	for fine.received.Load() < 200 {
		r := g.request("POST", "/", "x")
		done := make(chan struct{})
		go func() { defer close(done); _ = do(t, client(t, false), r) }()
		select {
		case <-done:
		case <-begun:
		}
	}
	if n := g.endpoint(strings.TrimPrefix(busy, "http://")).InFlight; n != 1 {
		t.Errorf("the busy one was sent %d", n)
	}
	close(end)
}

func TestConfig(t *testing.T) {
	t.Parallel()
	if err := upstream.DefaultConfig().Validate("modules.orders.target"); err != nil {
		t.Errorf("the default: %v", err)
	}
	for _, c := range []struct {
		change func(*upstream.Config)
		want   string
	}{
		{func(c *upstream.Config) { c.Protocol = "h3" }, `t.protocol: "h3" is not h1 or h2c or h2`},
		{func(c *upstream.Config) { c.Balance = "random" }, `t.balance: "random" is not round_robin or least_in_flight`},
		{func(c *upstream.Config) { c.Endpoints = []string{"127.0.0.1:80"} }, `t.endpoints: "127.0.0.1:80" is not an endpoint`},
		{func(c *upstream.Config) { c.Endpoints = []string{"http://a:80/path"} }, `t.endpoints: "http://a:80/path" is not an endpoint`},
		{func(c *upstream.Config) { c.Endpoints = []string{"http://u:p@a:80"} }, `is not`},
		{func(c *upstream.Config) { c.Endpoints = []string{"http://a"} }, `t.endpoints: "a" is not host:port`},
		{func(c *upstream.Config) { c.Endpoints = []string{"http://a:80", "http://a:80"} }, `t.endpoints: "http://a:80" is named twice`},
		{func(c *upstream.Config) { c.Endpoints = []string{"https://a:80"} }, `set the protocol to h2`},
		{func(c *upstream.Config) { c.Protocol, c.Endpoints = "h2", []string{"http://a:80"} }, `set the protocol to h2c`},
		{func(c *upstream.Config) { c.Transport = "fast" }, `t.transport: "fast" is not standard or synchronous`},
		{func(c *upstream.Config) { c.Transport = upstream.Synchronous }, `t.transport: synchronous is for t.protocol h1, not h2c`},
		{func(c *upstream.Config) {
			c.Transport, c.Protocol, c.Endpoints = upstream.Synchronous, "h1", []string{"https://a:80"}
		}, `t.transport: synchronous is for http:// endpoints`},
		{func(c *upstream.Config) { c.ReplayBody = -1 }, `t.replay_body: -1 is not between 0 and 16777216`},
		{func(c *upstream.Config) { c.Pool.Connect = 0 }, `t.pool.connect: 0s is not between 1ms and 1m0s`},
		{func(c *upstream.Config) { c.Health.Active.Path = "readyz" }, `t.health.active.path: "readyz" is not a path`},
		{func(c *upstream.Config) { c.Health.Active.Fails = 0 }, `t.health.active.fails: 0 is not between`},
		{func(c *upstream.Config) { c.Health.MaxOut = 101 }, `t.health.max_out: 101 is not`},
		{func(c *upstream.Config) { c.Breaker.Probes = 0 }, `t.breaker.probes: 0 is not`},
		{func(c *upstream.Config) { c.Retry.Attempts = 0 }, `t.retry.attempts: 0 is not between 1 and 5`},
		{func(c *upstream.Config) { c.Bulkhead.MaxInFlight = 0 }, `t.bulkhead.max_in_flight: 0 is not`},
		{func(c *upstream.Config) { c.Drain.Jitter = time.Hour }, `t.drain.jitter: 1h0m0s is more than t.drain.streams`},
	} {
		cfg := upstream.DefaultConfig()
		c.change(&cfg)
		if err := cfg.Validate("t"); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("got %v, want %s", err, c.want)
		}
		if _, err := upstream.New(cfg, upstream.Options{Name: "t", Source: &source{}}); err == nil {
			t.Errorf("an upstream with %s", c.want)
		}
	}
	if _, err := upstream.New(upstream.DefaultConfig(), upstream.Options{Name: "t"}); err == nil || !strings.Contains(err.Error(), "t.endpoints: is empty") {
		t.Errorf("got %v", err)
	}
}

// One that takes the place of another one counts on where that has stopped.
func TestMetricsAreShared(t *testing.T) {
	t.Parallel()
	registry := prometheus.NewRegistry()
	for range 2 {
		open(t, upstream.H2C, options{opts: upstream.Options{Registry: registry}}, dead).post("/", "x")
	}
	open(t, upstream.H2C, options{opts: upstream.Options{Registry: registry, Name: "users"}}, dead)
	if n := metrics(t, registry)["banyan_upstream_requests_total not_sent orders"]; n != 2 {
		t.Errorf("%v were not sent", n)
	}
}

// metrics are the values of all, by name and labels.
func metrics(t *testing.T, r *prometheus.Registry) map[string]float64 {
	t.Helper()
	found, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	values := map[string]float64{}
	for _, f := range found {
		for _, m := range f.GetMetric() {
			name := f.GetName()
			for _, l := range m.GetLabel() {
				name += " " + l.GetValue()
			}
			values[name] = m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	return values
}
