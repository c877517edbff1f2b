package certs_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/letsencrypt/pebble/v2/ca"
	"github.com/letsencrypt/pebble/v2/db"
	"github.com/letsencrypt/pebble/v2/va"
	"github.com/letsencrypt/pebble/v2/wfe"
	"github.com/miekg/dns"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/banyan-go/banyan/internal/certs"
)

// TestMain tells the ACME server not to wait between its steps.
func TestMain(m *testing.M) {
	if err := os.Setenv("PEBBLE_VA_NOSLEEP", "1"); err != nil {
		panic(err)
	}
	os.Exit(m.Run())
}

// public is the public port as it is configured, with what it logs and counts.
type public struct {
	*certs.Public
	log     record
	metrics *certs.Metrics
}

func (f *folder) openPublic(c certs.Config) (*public, error) {
	p := &public{metrics: certs.NewMetrics(prometheus.NewRegistry())}
	o := certs.Options{Log: slog.New(slog.NewTextHandler(&p.log, nil)), Metrics: p.metrics}
	if f != nil {
		o.Clock = f.clock
	}
	var err error
	p.Public, err = certs.OpenPublic(c, o)
	return p, err
}

// TestPublicFilesAreReloaded takes certificates as certbot leaves them: two files, one written after the other.
func TestPublicFilesAreReloaded(t *testing.T) {
	t.Parallel()
	f := newFolder(t, "shop")
	f.split("shop")
	p, err := f.openPublic(certs.Config{Cert: f.path("cert"), Key: f.path("key")})
	if err != nil {
		t.Fatal(err)
	}
	addr := listen(t, p.TLS())
	serial := func() string {
		t.Helper()
		f.clock.Advance(time.Second)
		s, _, err := dial(addr, &tls.Config{RootCAs: f.pool(), ServerName: "localhost", Time: f.clock.Now})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	before, key := serial(), f.read("key")
	f.do(certs.Renew)
	f.split("shop")
	newKey := f.read("key")
	f.write("key", key)
	for range 3 {
		if serial() != before {
			t.Error("a certificate was served without its key")
		}
	}
	if text := p.log.String(); strings.Count(text, "level=ERROR") != 1 || !strings.Contains(text, "private key does not match") {
		t.Errorf("got log %s", text)
	}
	if n := value(t, p.metrics.Failures.WithLabelValues("public")); n != 1 {
		t.Errorf("%v failures were counted, want 1", n)
	}
	f.write("key", newKey)
	if serial() == before {
		t.Error("the new certificate was not taken up")
	}
	if log := p.log.String(); strings.Contains(log, "ends soon") {
		t.Errorf("too early: %s", log)
	}
	f.clock.Advance(80 * day)
	_, _ = serial(), serial()
	if log := p.log.String(); strings.Count(log, "ends soon") != 1 {
		t.Errorf("ten days before the end: %s", log)
	}
	f.clock.Advance(11 * day)
	if _, err := f.openPublic(certs.Config{Cert: f.path("cert"), Key: f.path("key")}); err == nil || !strings.Contains(err.Error(), "expired") {
		t.Errorf("a start with an expired certificate: got %v", err)
	}
	if _, err := f.openPublic(certs.Config{Cert: f.path("cert"), Key: f.path("nothing")}); err == nil || !strings.Contains(err.Error(), "no such file") {
		t.Errorf("a start without the key: got %v", err)
	}
}

// split puts the certificate and the key of an identity into files of their own.
func (f *folder) split(name string) {
	f.t.Helper()
	cert, key := pem.Decode(f.read(name + ".pem"))
	f.write("cert", pem.EncodeToMemory(cert))
	f.write("key", key)
}

func (f *folder) pool() *x509.CertPool {
	pool := x509.NewCertPool()
	for _, root := range f.roots() {
		pool.AddCert(root)
	}
	return pool
}

func TestPublicProtocols(t *testing.T) {
	t.Parallel()
	f := newFolder(t, "shop")
	p, err := f.openPublic(certs.Config{Cert: f.path("shop.pem"), Key: f.path("shop.pem")})
	if err != nil {
		t.Fatal(err)
	}
	addr := listen(t, p.TLS())
	for name, c := range map[string]struct {
		versions uint16
		suites   []uint16
		protos   []string
		want     string // the protocol, or the error
	}{
		"TLS 1.3, HTTP/2":      {versions: tls.VersionTLS13, protos: []string{"h2", "http/1.1"}, want: "h2"},
		"TLS 1.2, HTTP/2":      {versions: tls.VersionTLS12, protos: []string{"h2", "http/1.1"}, want: "h2"},
		"TLS 1.2, HTTP/1.1":    {versions: tls.VersionTLS12, protos: []string{"http/1.1"}, want: "http/1.1"},
		"TLS 1.1":              {versions: tls.VersionTLS11, want: "protocol version"},
		"TLS 1.2, old ciphers": {versions: tls.VersionTLS12, suites: []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA}, want: "handshake failure"},
	} {
		conn, err := tls.Dial("tcp", addr, &tls.Config{
			RootCAs: f.pool(), ServerName: "localhost", Time: f.clock.Now, MinVersion: c.versions, MaxVersion: c.versions, CipherSuites: c.suites, NextProtos: c.protos,
		})
		if err != nil {
			if !strings.Contains(err.Error(), c.want) {
				t.Errorf("%s: got %v, want %q", name, err, c.want)
			}
			continue
		}
		if got := conn.ConnectionState().NegotiatedProtocol; got != c.want {
			t.Errorf("%s: got %q, want %q", name, got, c.want)
		}
		_ = conn.Close()
	}
	if h := p.Challenges(http.NotFoundHandler()); h == nil {
		t.Error("the plain port has nothing to answer with")
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := p.Run(ctx); err != nil {
		t.Error(err)
	}
}

// authority is a real ACME server, Pebble, that finds every domain at 127.0.0.1.
type authority struct {
	config certs.Config
	roots  *x509.CertPool // of what it issues
	orders atomic.Int64
	server *http.Server
}

// newAuthority validates at these ports.
func newAuthority(t *testing.T, httpAddr, tlsAddr string, domains ...string) *authority {
	t.Helper()
	names, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	resolver := &dns.Server{Listener: names, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		reply := new(dns.Msg).SetReply(q)
		if question := q.Question[0]; question.Qtype == dns.TypeA {
			reply.Answer = append(reply.Answer, &dns.A{
				Hdr: dns.RR_Header{Name: question.Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 1}, A: net.IPv4(127, 0, 0, 1),
			})
		}
		_ = w.WriteMsg(reply)
	})}
	go func() { _ = resolver.ActivateAndServe() }()
	t.Cleanup(func() { _ = resolver.Shutdown() })

	quiet := log.New(io.Discard, "", 0)
	store := db.NewMemoryStore()
	issuer := ca.New(quiet, store, "", "ecdsa", 0, 1, map[string]ca.Profile{"default": {ValidityPeriod: 90 * 24 * 3600}})
	validator := va.New(quiet, port(t, httpAddr), port(t, tlsAddr), true, names.Addr().String(), store)
	front := wfe.New(quiet, store, validator, issuer, []string{"ca.example"}, true, false, 0, 0)
	f := newFolder(t)
	f.Clock = nil // the client of the ACME server knows the time of the machine only
	f.do(certs.Create, "acme")
	a := &authority{roots: x509.NewCertPool()}
	root, err := x509.ParseCertificate(issuer.GetRootCert(0).DER)
	if err != nil {
		t.Fatal(err)
	}
	a.roots.AddCert(root)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	handler := front.Handler()
	a.server = &http.Server{ReadHeaderTimeout: time.Minute, ErrorLog: quiet, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/order-plz" {
			w = &accepted{w, &a.orders} // Pebble refuses one nonce in twenty, to see whether the client comes again
		}
		handler.ServeHTTP(w, r)
	})}
	pair, err := tls.LoadX509KeyPair(f.path("acme.pem"), f.path("acme.pem"))
	if err != nil {
		t.Fatal(err)
	}
	a.server.TLSConfig = &tls.Config{Certificates: []tls.Certificate{pair}}
	go func() { _ = a.server.ServeTLS(l, "", "") }()
	t.Cleanup(func() { _ = a.server.Close() })
	a.config = certs.Config{ACME: certs.ACME{
		Domains: domains, Email: "ops@shop.example", Directory: "https://" + l.Addr().String() + wfe.DirectoryPath,
		Roots: f.path("ca.pem"), Cache: filepath.Join(t.TempDir(), "acme"),
	}}
	if err := a.config.Validate("gateway.tls."); err != nil {
		t.Fatal(err)
	}
	return a
}

// accepted counts answers that say that something was made.
type accepted struct {
	http.ResponseWriter
	n *atomic.Int64
}

func (a *accepted) WriteHeader(status int) {
	if status == http.StatusCreated {
		a.n.Add(1)
	}
	a.ResponseWriter.WriteHeader(status)
}

func port(t *testing.T, addr string) int {
	t.Helper()
	_, text, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	n, err := net.LookupPort("tcp", text)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// run keeps the certificates of p until the test ends, or until the function is called.
func (p *public) run(t *testing.T) func() {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	ended := false
	stop := func() {
		if ended {
			return
		}
		ended = true
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(stop)
	return stop
}

// free is an address at which nobody listens.
func free(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}

// later is a TLS configuration that is known after the listener is.
type later struct{ atomic.Pointer[tls.Config] }

func (l *later) config() *tls.Config {
	return &tls.Config{GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return l.Load(), nil }}
}

func TestACMEByTLS(t *testing.T) {
	t.Parallel()
	var c later
	addr := listen(t, c.config())
	a := newAuthority(t, free(t), addr, "shop.example", "www.shop.example")
	p, err := (*folder)(nil).openPublic(a.config)
	if err != nil {
		t.Fatal(err)
	}
	c.Store(p.TLS())
	if _, _, err := dial(addr, &tls.Config{RootCAs: a.roots, ServerName: "shop.example"}); err == nil || a.orders.Load() != 0 {
		t.Errorf("before Run: got %v and %d orders; a client must not make the CA be asked", err, a.orders.Load())
	}
	stop := p.run(t)
	for _, domain := range a.config.ACME.Domains {
		var last error
		eventually(t, "a certificate for "+domain, func() bool {
			_, _, last = dial(addr, &tls.Config{RootCAs: a.roots, ServerName: domain})
			return last == nil || t.Failed()
		})
	}
	for name, server := range map[string]string{"another domain": "elsewhere.example", "no domain": "", "capital letters": "SHOP.example"} {
		_, _, err := dial(addr, &tls.Config{RootCAs: a.roots, ServerName: server, InsecureSkipVerify: true})
		if good := name == "capital letters"; good != (err == nil) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	// All get one certificate, whatever they offer.
	serials := map[string]bool{}
	for _, c := range []*tls.Config{{}, {MinVersion: tls.VersionTLS13}, {MaxVersion: tls.VersionTLS12}, {NextProtos: []string{"http/1.1"}}} {
		c.RootCAs, c.ServerName = a.roots, "shop.example"
		serial, _, err := dial(addr, c)
		if err != nil {
			t.Error(err)
		}
		serials[serial] = true
	}
	if n := a.orders.Load(); n != 2 || len(serials) != 1 {
		t.Errorf("%d orders and %d certificates, want one for each of two domains", n, len(serials))
	}
	until := value(t, p.metrics.Until.WithLabelValues("shop.example"))
	if left := time.Until(time.Unix(int64(until), 0)); left < 89*day || left > 91*day {
		t.Errorf("the metric says the end is in %s", left)
	}
	if text := p.log.String(); strings.Contains(text, "level=ERROR") || strings.Contains(text, "PRIVATE") {
		t.Error(text)
	}
	stop()

	// After a start what is in the folder is enough, the CA is not asked.
	_ = a.server.Close()
	if p, err = (*folder)(nil).openPublic(a.config); err != nil {
		t.Fatal(err)
	}
	c.Store(p.TLS())
	_ = p.run(t)
	eventually(t, "the certificate from the folder", func() bool {
		serial, _, err := dial(addr, &tls.Config{RootCAs: a.roots, ServerName: "shop.example"})
		return err == nil && serials[serial]
	})
	if info, err := os.Stat(filepath.Join(a.config.ACME.Cache, "shop.example")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the file in the folder: %v, %v", info, err)
	}
}

// TestACMEByHTTP has nobody at the port where the CA looks for TLS.
func TestACMEByHTTP(t *testing.T) {
	t.Parallel()
	plain, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	a := newAuthority(t, plain.Addr().String(), free(t), "shop.example")
	p, err := (*folder)(nil).openPublic(a.config)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{ReadHeaderTimeout: time.Minute, Handler: p.Challenges(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "next")
	}))}
	go func() { _ = server.Serve(plain) }()
	defer func() { _ = server.Close() }()
	addr := listen(t, p.TLS())
	_ = p.run(t)
	eventually(t, "a certificate", func() bool {
		_, _, err := dial(addr, &tls.Config{RootCAs: a.roots, ServerName: "shop.example"})
		return err == nil
	})
	for path, want := range map[string]string{"/": "200 next", "/.well-known/acme-challenge/made-up": "403 \"127.0.0.1\" is not a domain that is served here\n"} {
		response, err := http.Get("http://" + plain.Addr().String() + path)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(response.Body)
		if got := response.Status[:4] + string(body); errors.Join(err, response.Body.Close()) != nil || got != want {
			t.Errorf("%s: got %q, %v, want %q", path, got, err, want)
		}
	}
}

func TestACMEThatFailsIsSaid(t *testing.T) {
	t.Parallel()
	a := newAuthority(t, free(t), free(t), "shop.example") // nobody answers its questions
	p, err := (*folder)(nil).openPublic(a.config)
	if err != nil {
		t.Fatal(err)
	}
	addr := listen(t, p.TLS())
	stop := p.run(t)
	eventually(t, "an error in the log", func() bool { return strings.Contains(p.log.String(), "level=ERROR") })
	if text := p.log.String(); !strings.Contains(text, "shop.example") || !strings.Contains(text, "in=2m0s") {
		t.Error(text)
	}
	if n := value(t, p.metrics.Failures.WithLabelValues("shop.example")); n != 1 {
		t.Errorf("%v failures were counted, want 1", n)
	}
	before := a.orders.Load()
	for range 5 {
		if _, _, err := dial(addr, &tls.Config{RootCAs: a.roots, ServerName: "shop.example"}); err == nil {
			t.Error("a handshake without a certificate")
		}
	}
	if n := a.orders.Load(); before == 0 || n != before {
		t.Errorf("handshakes made %d orders of %d", n, before)
	}
	stop()

	wrong := a.config
	wrong.ACME.Roots = "nothing.pem"
	if _, err := certs.OpenPublic(wrong, certs.Options{}); err == nil || !strings.Contains(err.Error(), "nothing.pem") {
		t.Errorf("roots that are not there: got %v", err)
	}
}

func TestACMEFollowsTheDataFolder(t *testing.T) {
	t.Parallel()
	if got := certs.DefaultConfig().In("/var/banyan").ACME.Cache; got != filepath.Join("/var/banyan", "acme") {
		t.Errorf("the cache is %q", got)
	}
	c := certs.DefaultConfig()
	c.ACME.Cache = "/shared"
	if got := c.In("/var/banyan").ACME.Cache; got != "/shared" {
		t.Errorf("the cache that is configured became %q", got)
	}
}

func TestConfigNamesTheKeyAndTheWayOut(t *testing.T) {
	t.Parallel()
	acme := certs.DefaultConfig().ACME
	with := func(change func(*certs.ACME)) certs.Config {
		c := certs.Config{ACME: acme}
		c.ACME.Domains = []string{"shop.example"}
		change(&c.ACME)
		return c
	}
	for _, c := range []struct {
		config  certs.Config
		enabled bool
		want    string
	}{
		{certs.DefaultConfig(), false, ""},
		{certs.Config{Cert: "a", Key: "a", ACME: acme}, true, ""},
		{with(func(*certs.ACME) {}), true, ""},
		{certs.Config{Cert: "a", ACME: acme}, true, "gateway.tls.key: is empty, and gateway.tls.cert is not; give both"},
		{certs.Config{Key: "a", ACME: acme}, false, "gateway.tls.cert: is empty, and gateway.tls.key is not; give both"},
		{
			certs.Config{Cert: "a", Key: "a", ACME: certs.ACME{Domains: []string{"shop.example"}, Directory: acme.Directory, Cache: "x"}}, true,
			"gateway.tls.acme.domains: are given, and gateway.tls.cert too",
		},
		{with(func(a *certs.ACME) { a.Domains = []string{"*.shop.example"} }), true, `gateway.tls.acme.domains: "*.shop.example" is not a domain`},
		{with(func(a *certs.ACME) { a.Domains = []string{"localhost"} }), true, `"localhost" is not a domain`},
		{with(func(a *certs.ACME) { a.Domains = []string{"10.0.0.1"} }), true, `"10.0.0.1" is not a domain`},
		{with(func(a *certs.ACME) { a.Email = "Ops <ops@shop.example>" }), true, "gateway.tls.acme.email:"},
		{with(func(a *certs.ACME) { a.Directory = "http://ca.example/dir" }), true, "gateway.tls.acme.directory: is not a URL"},
		{with(func(a *certs.ACME) { a.Directory = "https://user:hunter2@ca.example/dir" }), true, "gateway.tls.acme.directory: is not a URL"},
		{certs.Config{Cert: "a", Key: "a", HTTP: ":80", ACME: acme}, true, ""},
		{certs.Config{Cert: "a", Key: "a", HTTP: "80", ACME: acme}, true, `gateway.tls.http_addr: "80" is not host:port`},
		{certs.Config{HTTP: ":80", ACME: acme}, false, "gateway.tls.http_addr: is given, and there is no TLS"},
	} {
		if got := c.config.Enabled(); got != c.enabled {
			t.Errorf("%+v: enabled %v", c.config, got)
		}
		err := c.config.Validate("gateway.tls.")
		if (err == nil) != (c.want == "") || err != nil && (!strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "hunter2")) {
			t.Errorf("%+v: got %v, want %q", c.config, err, c.want)
		}
	}
}
