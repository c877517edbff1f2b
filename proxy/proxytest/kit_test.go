package proxytest_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/banyan-go/banyan/internal/assertion"
	"github.com/banyan-go/banyan/internal/identity"
	"github.com/banyan-go/banyan/internal/telemetry"
	"github.com/banyan-go/banyan/internal/token"
	"github.com/banyan-go/banyan/proxy"
	"github.com/banyan-go/banyan/proxy/upstream"
)

const patience = 20 * time.Second // for what takes milliseconds; the machine may be busy

// door is a gateway that serves, and what it has logged and counted.
type door struct {
	t       testing.TB
	gate    *proxy.Gateway
	server  *httptest.Server
	url     string // http://host:port
	addr    string
	keys    *token.Keyring
	logs    buffer
	metrics *prometheus.Registry
	stop    func()
}

// buffer is one for many writers.
type buffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// open starts a gateway that has no modules and no rate limits until change says otherwise.
func open(t testing.TB, change func(*proxy.Config, *proxy.Options)) *door {
	t.Helper()
	d := prepare(t, change)
	d.server.Start()
	d.begin()
	return d
}

// openTLS is open with TLS on the public port.
func openTLS(t testing.TB, change func(*proxy.Config, *proxy.Options)) *door {
	t.Helper()
	d := prepare(t, change)
	d.server.EnableHTTP2 = true
	d.server.StartTLS()
	d.begin()
	return d
}

func prepare(t testing.TB, change func(*proxy.Config, *proxy.Options)) *door {
	t.Helper()
	d := &door{t: t, metrics: prometheus.NewRegistry()}
	key, err := token.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	if d.keys, err = token.NewKeyring(key); err != nil {
		t.Fatal(err)
	}
	cfg := proxy.DefaultConfig()
	cfg.Rate.Customer, cfg.Rate.Anonymous, cfg.Rate.Login = proxy.Rate{}, proxy.Rate{}, proxy.Rate{}
	cfg.Remote = patient(cfg.Remote)
	options := proxy.Options{
		Local: http.NotFoundHandler(), Verifier: d.keys, Signer: assertion.NewSigner(d.keys, nil), Registry: d.metrics,
		Log: telemetry.NewLogger(&d.logs, telemetry.DefaultLogConfig()),
	}
	if change != nil {
		change(&cfg, &options)
	}
	if d.gate, err = proxy.New(cfg, options); err != nil {
		t.Fatal(err)
	}
	d.server = httptest.NewUnstartedServer(d.gate)
	d.server.Config = d.gate.Server()
	return d
}

func (d *door) begin() {
	d.url, d.addr = d.server.URL, d.server.Listener.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- d.gate.Run(ctx) }()
	d.stop = sync.OnceFunc(func() {
		d.gate.Drain()
		d.server.CloseClientConnections()
		d.server.Close() // waits for the requests: all is logged then
		cancel()
		if err := <-ended; err != nil {
			d.t.Errorf("Run: %v", err)
		}
		_ = d.gate.Close(context.Background()) // it cuts the tunnels that a test has left open, and says so
	})
	d.t.Cleanup(d.stop)
	// Run puts the configured placements in force once more: what a test changes must come after that.
	eventually(d.t, "the first table of Run", func() bool { return d.gate.Epoch() > 1 })
}

// patient is a configuration of an upstream that a busy machine does not disturb.
func patient(c upstream.Config) upstream.Config {
	c.Health.Active.Path = ""
	c.Health.Passive.Consecutive, c.Breaker.Consecutive, c.Breaker.Ratio = 0, 0, 0
	c.Pool.Connect, c.Drain = 5*time.Second, upstream.Drain{}
	return c
}

// legacy is an upstream that is no process of ours, with all paths as streams unless other routes are given.
func legacy(endpoint string, routes ...proxy.ForeignRoute) proxy.Foreign {
	f := proxy.Foreign{}.WithDefaults().(proxy.Foreign)
	f.Name, f.Endpoints, f.Routes = "legacy", []string{endpoint}, routes
	if len(routes) == 0 {
		f.Routes = []proxy.ForeignRoute{{Match: "/{rest...}", Class: "stream"}}
	}
	f.Config = patient(f.Config)
	return f
}

// inFrontOf is a gateway with that upstream alone.
func inFrontOf(t testing.TB, f proxy.Foreign) *door {
	t.Helper()
	return open(t, func(c *proxy.Config, _ *proxy.Options) { c.Upstreams = []proxy.Foreign{f} })
}

// token is one of the gateway's own.
func (d *door) token(role identity.Role) string {
	d.t.Helper()
	now := time.Now()
	raw, err := d.keys.Issue(token.Claims{Subject: "u-" + string(role), Role: role, Session: "s", IssuedAt: now, ExpiresAt: now.Add(10 * time.Minute)})
	if err != nil {
		d.t.Fatal(err)
	}
	return raw
}

// line is a line of the access log.
type line struct {
	Message   string `json:"msg"`
	ID        string `json:"correlation_id"`
	Method    string `json:"method"`
	Route     string `json:"route"`
	Module    string `json:"module"`
	Placement string `json:"placement"`
	Target    string `json:"target"`
	Reason    string `json:"reason"`
	Bucket    *int   `json:"bucket"`
	Endpoint  string `json:"endpoint"`
	Attempt   int    `json:"attempt"`
	Failure   string `json:"failure"`
	Status    int    `json:"status"`
	Aborted   bool   `json:"aborted"`
	Subject   string `json:"subject"`
	Epoch     uint64 `json:"epoch"`
}

// access is the access log so far.
func (d *door) access() []line {
	d.t.Helper()
	var list []line
	for raw := range strings.Lines(d.logs.String()) {
		var l line
		if err := json.Unmarshal([]byte(raw), &l); err != nil {
			d.t.Fatalf("%q: %v", raw, err)
		}
		if l.Message == "request" {
			list = append(list, l)
		}
	}
	return list
}

// logged waits for the line that comes after the answer.
func (d *door) logged(what string, is func(line) bool) line {
	d.t.Helper()
	var found line
	eventually(d.t, "a line of the access log: "+what, func() bool {
		all := d.access()
		i := slices.IndexFunc(all, is)
		if i >= 0 {
			found = all[i]
		}
		return i >= 0
	})
	return found
}

// count is the sum of the samples of a counter whose labels have these values.
func (d *door) count(name string, labels ...string) float64 {
	d.t.Helper()
	families, err := d.metrics.Gather()
	if err != nil {
		d.t.Fatal(err)
	}
	sum := 0.0
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			if has(m.GetLabel(), labels) {
				sum += m.GetCounter().GetValue()
			}
		}
	}
	return sum
}

func has(labels []*dto.LabelPair, want []string) bool {
	for pair := range slices.Chunk(want, 2) {
		if !slices.ContainsFunc(labels, func(l *dto.LabelPair) bool { return l.GetName() == pair[0] && l.GetValue() == pair[1] }) {
			return false
		}
	}
	return true
}

// fault ends a test of what the gateway is known to do wrong.
func fault(t testing.TB, what string) {
	t.Helper()
	t.Skipf("a fault of the gateway: %s", what)
}

// mended is for a test of a known fault that passes.
const mended = "this fault is gone: take its mark away, so that it is tried like everything else"

// eventually is for what another goroutine or process does behind an answer.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); {
		if time.Now().After(end) {
			t.Fatalf("%s did not come", what)
		}
		time.Sleep(time.Millisecond)
	}
}

// serve runs a server until the test ends.
func serve(t testing.TB, s *http.Server) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.ErrorLog = log.New(io.Discard, "", 0)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = s.Serve(l)
	}()
	t.Cleanup(func() {
		_ = s.Close()
		<-ended
	})
	return "http://" + l.Addr().String()
}

// backend is an origin of net/http that speaks HTTP/1.1 and h2c.
func backend(t testing.TB, h http.HandlerFunc) string {
	t.Helper()
	return serve(t, &http.Server{Handler: h, Protocols: protocols(true, true)})
}

func protocols(h1, h2c bool) *http.Protocols {
	p := new(http.Protocols)
	p.SetHTTP1(h1)
	p.SetUnencryptedHTTP2(h2c)
	return p
}

// wire is an origin that says what the test wants: h is called for each connection, which is closed after it.
func wire(t testing.TB, h func(c net.Conn, in *bufio.Reader)) string {
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

// readRequest reads one request with its body.
func readRequest(in *bufio.Reader) (*http.Request, string, error) {
	r, err := http.ReadRequest(in)
	if err != nil {
		return nil, "", err
	}
	b, err := io.ReadAll(r.Body)
	return r, string(b), err
}

// client is an HTTP client of its own, so that no test shares connections with another.
func client(t testing.TB, h2 bool) *http.Client {
	tr := &http.Transport{Protocols: protocols(!h2, h2), DisableCompression: true, MaxIdleConnsPerHost: 64}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: patience, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

type reply struct {
	status  int
	header  http.Header
	trailer http.Header
	body    string
	err     error // of reading the body
}

// do sends a request; headers are spelled as they are given.
func (d *door) do(method, path, body string, headers ...string) reply {
	d.t.Helper()
	return send(d.t, client(d.t, false), request(d.t, method, d.url+path, body, headers...))
}

func request(t testing.TB, method, url, body string, headers ...string) *http.Request {
	t.Helper()
	var in io.Reader
	if body != "" {
		in = strings.NewReader(body)
	}
	r, err := http.NewRequestWithContext(t.Context(), method, url, in)
	if err != nil {
		t.Fatal(err)
	}
	for pair := range slices.Chunk(headers, 2) {
		if pair[0] == "Host" {
			r.Host = pair[1]
			continue
		}
		r.Header[pair[0]] = append(r.Header[pair[0]], pair[1])
	}
	return r
}

func send(t testing.TB, c *http.Client, r *http.Request) reply {
	t.Helper()
	resp, err := c.Do(r)
	if err != nil {
		t.Fatalf("%s %s: %v", r.Method, r.URL, err)
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	return reply{status: resp.StatusCode, header: resp.Header, trailer: resp.Trailer, body: string(b), err: err}
}

// peer is a connection of a client that writes bytes as they are.
type peer struct {
	t  testing.TB
	in *bufio.Reader
	net.Conn
}

func dial(t testing.TB, addr string) *peer {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	_ = c.SetDeadline(time.Now().Add(patience))
	t.Cleanup(func() { _ = c.Close() })
	return &peer{t: t, in: bufio.NewReader(c), Conn: c}
}

// write does not care whether the other side listens: it may have hung up already.
func (p *peer) write(s string) { _, _ = io.WriteString(p.Conn, s) }

// answer reads the next one that is final; nil is the end of the connection.
func (p *peer) answer(method string) (*http.Response, string) {
	p.t.Helper()
	for {
		resp, err := http.ReadResponse(p.in, &http.Request{Method: method})
		if err != nil {
			return nil, ""
		}
		if resp.StatusCode == http.StatusSwitchingProtocols {
			return resp, ""
		}
		if resp.StatusCode < 200 {
			continue
		}
		body, _ := io.ReadAll(resp.Body) // whoever is refused may be cut in the middle
		return resp, string(body)
	}
}

// rest ends our side, and reads what the other one still has to say.
func (p *peer) rest() string {
	p.t.Helper()
	_ = p.Conn.(*net.TCPConn).CloseWrite()
	b, _ := io.ReadAll(p.in)
	return string(b)
}
