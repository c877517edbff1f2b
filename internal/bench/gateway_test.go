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

// serveRole is one of the servers that are compared.
func serveRole(role, addr, origin string) error {
	protocols := &http.Protocols{}
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	if role == "plain" {
		s := &http.Server{Addr: addr, Handler: http.HandlerFunc(answerPage), Protocols: protocols}
		return s.ListenAndServe()
	}
	cfg := proxy.DefaultConfig()
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
	if kind != "local" {
		remote := upstream.DefaultConfig()
		remote.Endpoints, remote.Health.Active.Path, remote.Protocol = []string{"http://" + origin}, "", upstream.H1
		switch kind {
		case "h2c":
			remote.Protocol = upstream.H2C
		case "synchronous":
			remote.Transport = upstream.Synchronous
		}
		cfg.Upstreams = []proxy.Foreign{{Name: "origin", Config: remote, Routes: []proxy.ForeignRoute{{Match: "GET /pages/{id}", Class: "read"}}}}
		if kind == "module" {
			key, err := token.NewKey()
			if err != nil {
				return err
			}
			keys, err := token.NewKeyring(key)
			if err != nil {
				return err
			}
			cfg.Upstreams = nil
			cfg.Remote.Health.Active.Path = ""
			o.Signer, o.Endpoints = assertion.NewSigner(keys, clock.System{}), map[string][]string{"pages": {"http://" + origin}}
			o.Placements = proxy.NewFixed(proxy.Placement{Module: "pages", State: proxy.Remote, Held: true})
		}
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
