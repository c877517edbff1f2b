package bench

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/banyan-go/banyan/internal/assertion"
	"github.com/banyan-go/banyan/internal/clock"
	"github.com/banyan-go/banyan/internal/module"
	"github.com/banyan-go/banyan/internal/telemetry"
	"github.com/banyan-go/banyan/internal/token"
	"github.com/banyan-go/banyan/proxy"
	"github.com/banyan-go/banyan/proxy/upstream"
)

// The gateway is measured as a process of its own: what it computes is read from the kernel, and what the clients and the origin
// compute is not in it.

// roleVariable makes this test binary a server instead of a test.
const roleVariable = "BANYAN_TEST_BENCH_ROLE"

func TestMain(m *testing.M) {
	if role := os.Getenv(roleVariable); role != "" {
		if err := serveRole(role, os.Getenv("BANYAN_TEST_BENCH_ADDR"), os.Getenv("BANYAN_TEST_BENCH_ORIGIN")); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

var page = bytes.Repeat([]byte("banyan "), 147)[:1024]

func answerPage(w http.ResponseWriter, _ *http.Request) {
	w.Header()["Content-Type"] = []string{"application/octet-stream"}
	_, _ = w.Write(page)
}

// answerAlike answers with the headers that the gateway sets.
func answerAlike(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h["X-Request-Id"] = []string{"0123456789abcdef0123456789abcdef"}
	h["X-Content-Type-Options"], h["Referrer-Policy"], h["X-Frame-Options"] = []string{"nosniff"}, []string{"no-referrer"}, []string{"DENY"}
	h["Content-Security-Policy"], h["Cache-Control"] = []string{"default-src 'none'; frame-ancestors 'none'"}, []string{"no-store"}
	answerPage(w, r)
}

var order = []byte(`{"id":"0197f2c3-5b7e-7c4e-9d55-1f2a3b4c5d6e","lines":[` + strings.Repeat(`{"sku":"85123A","quantity":6,"price":{"amount":255,"currency":"GBP"}},`, 13) + `{"sku":"71053","quantity":1}]}`)

// answerOrder waits, as for a database, and answers.
func answerOrder(w http.ResponseWriter, _ *http.Request) {
	time.Sleep(2 * time.Millisecond)
	w.Header()["Content-Type"] = []string{"application/json"}
	_, _ = w.Write(order)
}

// serveRole is one of the servers that are compared.
func serveRole(role, addr, origin string) error {
	protocols := &http.Protocols{}
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	cfg := proxy.DefaultConfig()
	switch role {
	case "plain":
		s := &http.Server{Addr: addr, Handler: http.HandlerFunc(answerPage), Protocols: protocols}
		return s.ListenAndServe()
	case "plain-alike":
		c := cfg.Limits
		s := &http.Server{
			Addr: addr, Handler: http.HandlerFunc(answerAlike), Protocols: protocols, ReadHeaderTimeout: c.ReadHeader, WriteTimeout: c.Write, IdleTimeout: c.Idle,
			MaxHeaderBytes: c.HeaderBytes,
		}
		return s.ListenAndServe()
	}
	cfg.AccessLog = false
	cfg.Rate = proxy.Rates{Clients: 100}
	o := proxy.Options{Clock: clock.System{}, Local: http.HandlerFunc(answerPage), Modules: []module.Descriptor{{Name: "pages", Routes: []module.Route{{ID: "page", Method: "GET", Path: "/api/pages/{id}", Class: module.Read}}}}}
	kind, full := strings.CutSuffix(role, "-full")
	if full {
		// Everything that a shop has by default: log, limits, metrics, traces.
		cfg.AccessLog, cfg.Rate = true, proxy.DefaultConfig().Rate
		cfg.Rate.Anonymous = proxy.Rate{PerSecond: 1e6, Burst: 1e6}
		tracing, err := telemetry.OpenTracing(context.Background(), telemetry.DefaultConfig(), "bench", slog.New(slog.DiscardHandler))
		if err != nil {
			return err
		}
		o.Tracer, o.Registry, o.Log = tracing.Tracer(), telemetry.NewRegistry(), telemetry.NewLogger(io.Discard, telemetry.DefaultLogConfig())
	} else {
		cfg.Cache.Enabled, cfg.Compress.Enabled = false, false
	}
	if kind == "module" || kind == "shadow" {
		key, err := token.NewKey()
		if err != nil {
			return err
		}
		keys, err := token.NewKeyring(key)
		if err != nil {
			return err
		}
		cfg.Remote.Health.Active.Path = ""
		o.Signer, o.Endpoints = assertion.NewSigner(keys, clock.System{}), map[string][]string{"pages": {"http://" + origin}}
	}
	switch kind {
	case "local":
	case "module":
		o.Placements = proxy.NewFixed(proxy.Placement{Module: "pages", State: proxy.Remote, Held: true})
	case "order":
		o.Local = http.HandlerFunc(answerOrder)
	case "shadow":
		o.Local = http.HandlerFunc(answerOrder)
		cfg.Shadow.Sample = 100
		o.Placements = proxy.NewFixed(proxy.Placement{Module: "pages", State: proxy.Shadow, Held: true})
	default:
		remote := upstream.DefaultConfig()
		remote.Endpoints, remote.Health.Active.Path, remote.Protocol = []string{"http://" + origin}, "", upstream.H1
		switch kind {
		case "h2c":
			remote.Protocol = upstream.H2C
		case "synchronous":
			remote.Transport = upstream.Synchronous
		}
		cfg.Upstreams = []proxy.Foreign{{Name: "origin", Config: remote, Routes: []proxy.ForeignRoute{{Match: "GET /pages/{id}", Class: "read"}}}}
	}
	gate, err := proxy.New(cfg, o)
	if err != nil {
		return err
	}
	go func() { _ = gate.Run(context.Background()) }()
	s := gate.Server()
	s.Addr = addr
	return s.ListenAndServe()
}

// process is a server under measurement.
type process struct {
	addr string
	cmd  *exec.Cmd
}

func start(b *testing.B, cmd *exec.Cmd, addr string) process {
	b.Helper()
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	for deadline := time.Now().Add(10 * time.Second); ; <-time.After(5 * time.Millisecond) {
		c, err := net.Dial("tcp", addr)
		if err == nil {
			_ = c.Close()
			return process{addr: addr, cmd: cmd}
		}
		if time.Now().After(deadline) {
			b.Fatalf("%s does not listen: %v", cmd.Path, err)
		}
	}
}

func startRole(b *testing.B, role, origin string) process {
	b.Helper()
	addr := freeAddr(b)
	self, err := os.Executable()
	if err != nil {
		b.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), roleVariable+"="+role, "BANYAN_TEST_BENCH_ADDR="+addr, "BANYAN_TEST_BENCH_ORIGIN="+origin, "GOMAXPROCS=2")
	return start(b, cmd, addr)
}

func freeAddr(b *testing.B) string {
	b.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}

// used is what the process and its children have computed.
func (p process) used(b *testing.B) time.Duration {
	b.Helper()
	total := int64(0)
	pids := []string{strconv.Itoa(p.cmd.Process.Pid)}
	if tasks, err := os.ReadFile(filepath.Join("/proc", pids[0], "task", pids[0], "children")); err == nil {
		pids = append(pids, strings.Fields(string(tasks))...)
	}
	for _, pid := range pids {
		threads, err := filepath.Glob(filepath.Join("/proc", pid, "task", "*", "schedstat"))
		if err != nil {
			b.Fatal(err)
		}
		for _, t := range threads {
			text, err := os.ReadFile(t)
			if err != nil {
				continue // it has ended
			}
			ns, err := strconv.ParseInt(strings.Fields(string(text))[0], 10, 64)
			if err != nil {
				b.Fatal(err)
			}
			total += ns
		}
	}
	return time.Duration(total)
}

// load sends b.N requests over 32 connections.
func load(b *testing.B, addr, path string) {
	b.Helper()
	request := []byte("GET " + path + " HTTP/1.1\r\nHost: " + addr + "\r\nUser-Agent: bench\r\nAccept: */*\r\n\r\n")
	var left atomic.Int64
	left.Store(int64(b.N))
	var all sync.WaitGroup
	for range 32 {
		all.Go(func() {
			c, err := net.Dial("tcp", addr)
			if err != nil {
				b.Error(err)
				return
			}
			defer func() { _ = c.Close() }()
			r := bufio.NewReader(c)
			for left.Add(-1) >= 0 {
				if _, err := c.Write(request); err != nil {
					b.Error(err)
					return
				}
				a, err := http.ReadResponse(r, nil)
				if err != nil {
					b.Error(err)
					return
				}
				n, err := io.Copy(io.Discard, a.Body)
				if err != nil || a.StatusCode != 200 || n != int64(len(page)) {
					b.Errorf("%d, %d bytes, error %v", a.StatusCode, n, err)
					return
				}
			}
		})
	}
	all.Wait()
}

// BenchmarkGateway: computing time per request of the process in front, 1 KiB answers, 32 connections. The origin is the same for all.
func BenchmarkGateway(b *testing.B) {
	origin := startRole(b, "plain", "")
	servers := []struct {
		name, path string
		start      func(b *testing.B) process
	}{
		{"plain-net-http", "/x", func(*testing.B) process { return origin }},
		{"plain-net-http-alike", "/x", func(b *testing.B) process { return startRole(b, "plain-alike", "") }},
		{"local", "/api/pages/1", func(b *testing.B) process { return startRole(b, "local", "") }},
		{"local-full", "/api/pages/1", func(b *testing.B) process { return startRole(b, "local-full", "") }},
		{"h1", "/pages/1", func(b *testing.B) process { return startRole(b, "h1", origin.addr) }},
		{"h1-synchronous", "/pages/1", func(b *testing.B) process { return startRole(b, "synchronous", origin.addr) }},
		{"h2c", "/pages/1", func(b *testing.B) process { return startRole(b, "h2c", origin.addr) }},
		{"h1-full", "/pages/1", func(b *testing.B) process { return startRole(b, "h1-full", origin.addr) }},
		{"module-h2c-assertion", "/api/pages/1", func(b *testing.B) process { return startRole(b, "module", origin.addr) }},
		{"nginx", "/pages/1", func(b *testing.B) process { return startNginx(b, origin.addr) }},
		{"haproxy", "/pages/1", func(b *testing.B) process { return startHAProxy(b, origin.addr) }},
		{"caddy", "/pages/1", func(b *testing.B) process { return startCaddy(b, origin.addr) }},
	}
	for _, s := range servers {
		b.Run(s.name, func(b *testing.B) {
			p := s.start(b)
			before := p.used(b)
			b.ResetTimer()
			load(b, p.addr, s.path)
			b.ReportMetric(float64((p.used(b)-before).Nanoseconds())/1000/float64(b.N), "cpu-us/op")
		})
	}
}

// BenchmarkShadow: what a client feels of comparisons with an upstream that is ill. Every answer is offered for comparison, 500
// requests a second, each answered after 2 ms. A gateway without a shadow takes turns with it, so that both see the same machine.
func BenchmarkShadow(b *testing.B) {
	for _, ill := range []string{"none", "dead", "slow", "flooding"} { // none: how far two gateways alike are apart
		b.Run(ill, func(b *testing.B) {
			without, with := startRole(b, "order", ""), process{}
			if ill == "none" {
				with = startRole(b, "order", "")
			} else {
				with = startRole(b, "shadow", startIll(b, ill))
			}
			const turn = 500
			paced(b, without.addr, turn) // connections, caches, and a first heap
			paced(b, with.addr, turn)
			var before, after, growth [2][]float64 // at 50 and at 99 percent, of each turn
			b.ResetTimer()
			for n := range max(4, b.N/turn) {
				var one, other []time.Duration
				if n%2 == 0 { // nobody is always first
					one = paced(b, without.addr, turn)
				}
				other = paced(b, with.addr, turn)
				if one == nil {
					one = paced(b, without.addr, turn)
				}
				slices.Sort(one)
				slices.Sort(other)
				for i, percent := range []int{50, 99} {
					x, y := one[turn*percent/100].Seconds()*1000, other[turn*percent/100].Seconds()*1000
					before[i], after[i], growth[i] = append(before[i], x), append(after[i], y), append(growth[i], 100*(y/x-1))
				}
			}
			// The middle one of all turns: what else the machine does comes and goes.
			middle := func(list []float64) float64 {
				slices.Sort(list)
				return list[len(list)/2]
			}
			for i, name := range []string{"p50", "p99"} {
				b.ReportMetric(middle(before[i]), name+"-without-ms")
				b.ReportMetric(middle(after[i]), name+"-with-ms")
				b.ReportMetric(middle(growth[i]), name+"-growth-%")
			}
			b.ReportMetric(with.peak(b), "peak-MiB")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// startIll is an upstream that gives no good answer.
func startIll(b *testing.B, ill string) (addr string) {
	b.Helper()
	if ill == "dead" {
		return freeAddr(b)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	protocols := &http.Protocols{}
	protocols.SetUnencryptedHTTP2(true)
	s := &http.Server{Protocols: protocols, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if ill == "slow" {
			select {
			case <-r.Context().Done():
			case <-time.After(30 * time.Second):
			}
			return
		}
		w.Header()["Content-Type"] = []string{"application/json"}
		for {
			if _, err := w.Write(order); err != nil {
				return
			}
		}
	})}
	go func() { _ = s.Serve(l) }()
	b.Cleanup(func() { _ = s.Close() })
	return l.Addr().String()
}

// paced sends n requests at 500 a second over 10 connections, and tells how long each took.
func paced(b *testing.B, addr string, n int) []time.Duration {
	b.Helper()
	const conns, every = 10, 2 * time.Millisecond
	request := []byte("GET /api/pages/1 HTTP/1.1\r\nHost: " + addr + "\r\nUser-Agent: bench\r\nAccept: */*\r\n\r\n")
	taken := make([]time.Duration, n)
	begin := time.Now()
	var all sync.WaitGroup
	for first := range conns {
		all.Go(func() {
			c, err := net.Dial("tcp", addr)
			if err != nil {
				b.Error(err)
				return
			}
			defer func() { _ = c.Close() }()
			in := bufio.NewReader(c)
			for i := first; i < n; i += conns {
				time.Sleep(time.Until(begin.Add(time.Duration(i) * every)))
				start := time.Now()
				_, err := c.Write(request)
				if err == nil {
					var a *http.Response
					if a, err = http.ReadResponse(in, nil); err == nil {
						_, err = io.Copy(io.Discard, a.Body)
						if a.StatusCode != http.StatusOK {
							err = fmt.Errorf("answered %d", a.StatusCode)
						}
					}
				}
				if err != nil {
					b.Error(err)
					return
				}
				taken[i] = time.Since(start)
			}
		})
	}
	all.Wait()
	return taken
}

// peak is the most memory that the process has had, in MiB.
func (p process) peak(b *testing.B) float64 {
	b.Helper()
	text, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(p.cmd.Process.Pid), "status"))
	if err != nil {
		b.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), "VmHWM:")
	kib, err := strconv.ParseFloat(strings.Fields(rest)[0], 64)
	if err != nil {
		b.Fatal(err)
	}
	return kib / 1024
}

func find(b *testing.B, name string) string {
	b.Helper()
	if path := os.Getenv("BANYAN_TEST_" + strings.ToUpper(name)); path != "" {
		return path
	}
	path, err := exec.LookPath(name)
	if err != nil {
		b.Skipf("skipped: %s is not installed", name)
	}
	return path
}

func startNginx(b *testing.B, origin string) process {
	path, addr, dir := find(b, "nginx"), freeAddr(b), b.TempDir()
	conf := fmt.Sprintf(`daemon off; worker_processes 2; pid %[1]s/pid; error_log stderr error;
events {}
http { access_log off; keepalive_requests 1000000; client_body_temp_path %[1]s/a; proxy_temp_path %[1]s/b; fastcgi_temp_path %[1]s/c; uwsgi_temp_path %[1]s/d; scgi_temp_path %[1]s/e;
 upstream origin { server %[2]s; keepalive 64; keepalive_requests 1000000; }
 server { listen %[3]s; location / { proxy_pass http://origin; proxy_http_version 1.1; proxy_set_header Connection ""; } } }`, dir, origin, addr)
	write(b, filepath.Join(dir, "nginx.conf"), conf)
	return start(b, exec.Command(path, "-p", dir, "-c", filepath.Join(dir, "nginx.conf")), addr)
}

func startHAProxy(b *testing.B, origin string) process {
	path, addr, dir := find(b, "haproxy"), freeAddr(b), b.TempDir()
	write(b, filepath.Join(dir, "haproxy.cfg"), fmt.Sprintf("global\n nbthread 2\ndefaults\n mode http\n timeout connect 1s\n timeout client 30s\n timeout server 30s\n http-reuse always\nfrontend f\n bind %s\n default_backend o\nbackend o\n server o %s\n", addr, origin))
	return start(b, exec.Command(path, "-db", "-f", filepath.Join(dir, "haproxy.cfg")), addr)
}

func startCaddy(b *testing.B, origin string) process {
	path, addr, dir := find(b, "caddy"), freeAddr(b), b.TempDir()
	config, err := json.Marshal(map[string]any{
		"admin": map[string]any{"disabled": true},
		"apps": map[string]any{"http": map[string]any{"servers": map[string]any{"s": map[string]any{
			"listen": []string{addr}, "automatic_https": map[string]any{"disable": true},
			"routes": []any{map[string]any{"handle": []any{map[string]any{"handler": "reverse_proxy", "upstreams": []any{map[string]any{"dial": origin}}}}}},
		}}}},
	})
	if err != nil {
		b.Fatal(err)
	}
	write(b, filepath.Join(dir, "caddy.json"), string(config))
	cmd := exec.Command(path, "run", "--config", filepath.Join(dir, "caddy.json"))
	cmd.Env = append(os.Environ(), "HOME="+dir, "GOMAXPROCS=2")
	return start(b, cmd, addr)
}

func write(b *testing.B, path, text string) {
	b.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		b.Fatal(err)
	}
}
