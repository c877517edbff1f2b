package certs_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/banyan-go/banyan/internal/certs"
	"github.com/banyan-go/banyan/internal/clock"
)

// record is a log that tests read.
type record struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (r *record) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.text.Write(p)
}

func (r *record) String() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.text.String()
}

// process is one of ours: an identity, with what it logs and counts.
type process struct {
	*certs.Identity
	log     record
	metrics *certs.Metrics
}

func (f *folder) open(name string) *process {
	f.t.Helper()
	p := &process{metrics: certs.NewMetrics(prometheus.NewRegistry())}
	var err error
	if p.Identity, err = certs.Open(f.Dir, name, certs.Options{Clock: f.clock, Log: slog.New(slog.NewTextHandler(&p.log, nil)), Metrics: p.metrics}); err != nil {
		f.t.Fatal(err)
	}
	return p
}

func value(t *testing.T, m prometheus.Metric) float64 {
	t.Helper()
	var d dto.Metric
	if err := m.Write(&d); err != nil {
		t.Fatal(err)
	}
	return d.GetCounter().GetValue() + d.GetGauge().GetValue()
}

// listen answers each connection with the name of its peer, until the test ends.
func listen(t *testing.T, c *tls.Config) string {
	t.Helper()
	l, err := tls.Listen("tcp", "127.0.0.1:0", c)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{
		ReadHeaderTimeout: time.Minute, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug),
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, certs.Peer(r.TLS)) }),
	}
	done := make(chan error)
	go func() { done <- server.Serve(l) }()
	t.Cleanup(func() {
		_ = server.Close()
		if err := <-done; !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	})
	return l.Addr().String()
}

// dial makes a connection and one request on it: with TLS 1.3 the client's handshake is over before the server has judged
// its certificate. It gives the serial number of the server's certificate.
func dial(addr string, c *tls.Config) (serial, answer string, err error) {
	conn, err := tls.Dial("tcp", addr, c)
	if err != nil {
		return "", "", err
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	answer, err = ask(conn)
	return conn.ConnectionState().PeerCertificates[0].SerialNumber.String(), answer, err
}

func ask(conn net.Conn) (string, error) {
	if err := conn.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		return "", err
	}
	r, err := http.NewRequestWithContext(context.Background(), http.MethodGet, "http://here/", nil)
	if err != nil {
		return "", err
	}
	if err := r.Write(conn); err != nil {
		return "", err
	}
	// One byte at a time, so that nothing of the next answer is read.
	response, err := http.ReadResponse(newOneByteReader(conn), r)
	if err != nil {
		return "", err
	}
	body, err := io.ReadAll(response.Body)
	return string(body), errors.Join(err, response.Body.Close())
}

func TestPeersKnowEachOtherByName(t *testing.T) {
	t.Parallel()
	f, foreign := newFolder(t, "gateway", "payments", "orders"), newFolder(t, "gateway", "payments")
	payments, gateway := f.open("payments"), f.open("gateway")
	addr := listen(t, payments.Server("gateway"))
	if _, peer, err := dial(addr, gateway.Client("payments")); err != nil || peer != "gateway" {
		t.Errorf("the gateway at payments: got peer %q, %v", peer, err)
	}
	both := listen(t, payments.Server("gateway", "orders"))
	if _, peer, err := dial(both, f.open("orders").Client("payments")); err != nil || peer != "orders" {
		t.Errorf("orders at payments, which lets it in: got peer %q, %v", peer, err)
	}
	with := func(c *tls.Config, change func(*tls.Config)) *tls.Config { change(c); return c }
	for name, c := range map[string]struct {
		client *tls.Config
		want   string
	}{
		"the client is not one that may":          {f.open("orders").Client("payments"), "bad certificate"},
		"the server is not the one that is meant": {gateway.Client("orders"), "the other side is payments, want orders"},
		"the client is of another CA":             {with(foreign.open("gateway").Client("payments"), func(c *tls.Config) { c.VerifyConnection = nil }), "bad certificate"},
		"the server is of another CA":             {foreign.open("gateway").Client("payments"), "is not believed: x509: certificate signed by unknown authority"},
		"no client certificate": {with(gateway.Client("payments"), func(c *tls.Config) {
			c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &tls.Certificate{}, nil }
		}), "certificate required"},
		"TLS 1.2": {with(gateway.Client("payments"), func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS12, tls.VersionTLS12 }), "protocol version"},
	} {
		if _, peer, err := dial(addr, c.client); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got peer %q, %v, want %q", name, peer, err, c.want)
		}
	}
	if _, peer, err := dial(listen(t, payments.Server()), gateway.Client("payments")); err == nil {
		t.Errorf("a server without peers let %q in", peer)
	}
	if certs.Peer(nil) != "" || certs.Peer(&tls.ConnectionState{}) != "" {
		t.Error("nobody has a name")
	}
}

// TestExpired lets the clock of one side alone reach the day, and then of the other: each has to refuse by itself.
func TestExpired(t *testing.T) {
	t.Parallel()
	for _, side := range []string{"payments", "gateway"} {
		f := newFolder(t, "gateway", "payments")
		late := &folder{t: t, Request: f.Request, clock: clock.NewSimulated(start)}
		open := map[string]*process{"payments": f.open("payments"), "gateway": f.open("gateway")}
		open[side] = late.open(side)
		addr := listen(t, open["payments"].Server("gateway"))
		late.clock.Advance(90 * day)
		if _, _, err := dial(addr, open["gateway"].Client("payments")); err != nil {
			t.Errorf("%s, the last moment: %v", side, err)
		}
		late.clock.Advance(time.Second)
		want := map[string]string{"payments": "bad certificate", "gateway": "expired"}[side]
		if _, _, err := dial(addr, open["gateway"].Client("payments")); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s, a second later: got %v, want %q", side, err, want)
		}
		if log := open[side].log.String(); !strings.Contains(log, "certificate ends soon") {
			t.Errorf("%s: nothing was said before: %s", side, log)
		}
	}
}

// TestRotationUnderLoad replaces certificates and then the CA while connections are open and new ones are made all the time.
func TestRotationUnderLoad(t *testing.T) {
	t.Parallel()
	f := newFolder(t, "gateway", "payments")
	payments, gateway := f.open("payments"), f.open("gateway")
	addr := listen(t, payments.Server("gateway"))
	kept, err := tls.Dial("tcp", addr, gateway.Client("payments"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = kept.Close() }()
	if _, err := ask(kept); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var clients sync.WaitGroup
	var made [4]atomic.Int64
	for i := range made {
		clients.Go(func() {
			for ctx.Err() == nil {
				if _, _, err := dial(addr, gateway.Client("payments")); err != nil {
					t.Errorf("a handshake failed during the rotation: %v", err)
					return
				}
				made[i].Add(1)
			}
		})
	}
	// Each client ends the handshake that it is in, and makes another.
	handshakes := func() {
		for i := range made {
			eventually(t, "handshakes go on", func() func() bool {
				n := made[i].Load() + 2
				return func() bool { return made[i].Load() >= n || t.Failed() }
			}())
		}
	}
	// A second later everybody has taken up what is new.
	serial := func() string {
		t.Helper()
		handshakes()
		f.clock.Advance(time.Second)
		handshakes()
		s, _, err := dial(addr, gateway.Client("payments"))
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	before := serial()
	f.do(certs.Renew)
	renewed := serial()
	if renewed == before {
		t.Error("the renewed certificate was not taken up")
	}
	if got, want := value(t, payments.metrics.Until.WithLabelValues("payments")), f.leaf("payments").NotAfter.Unix(); int64(got) != want {
		t.Errorf("the metric says the end is %v, want %v", got, want)
	}
	old := f.read("gateway.pem")
	f.do(certs.Rotate)
	if got := serial(); got != renewed {
		t.Error("a rotation of the CA replaces no certificate")
	}
	f.do(certs.Renew, "payments")
	last := serial()
	f.do(certs.Renew, "gateway")
	_ = serial()
	f.do(certs.Prune)
	_ = serial()
	if last == renewed {
		t.Error("the certificate of the new CA was not taken up")
	}
	cancel()
	clients.Wait()
	if _, err := ask(kept); err != nil {
		t.Errorf("the connection that was open all the time: %v", err)
	}
	for _, p := range []*process{payments, gateway} {
		if log := p.log.String(); strings.Contains(log, "level=ERROR") {
			t.Errorf("errors were logged: %s", log)
		}
	}
	// Who still has a certificate of the old CA is refused now.
	late := newFolder(t, "gateway")
	late.write("ca.pem", f.read("ca.pem"))
	late.write("gateway.pem", old)
	if _, err := certs.Open(late.Dir, "gateway", certs.Options{Clock: f.clock}); err == nil || !strings.Contains(err.Error(), "unknown authority") {
		t.Errorf("a process with the old certificate: got %v, want it not to start", err)
	}
	refused := gateway.Client("payments")
	refused.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		pair, err := tls.X509KeyPair(old, old)
		return &pair, err
	}
	if _, peer, err := dial(addr, refused); err == nil {
		t.Errorf("the old certificate was let in as %q", peer)
	}
}

// TestAResumedSessionIsJudgedAnew: a session ticket must not outlive the CA that it was given under.
func TestAResumedSessionIsJudgedAnew(t *testing.T) {
	t.Parallel()
	f := newFolder(t, "gateway", "payments")
	addr := listen(t, f.open("payments").Server("gateway"))
	client := f.open("gateway").Client("payments")
	client.ClientSessionCache = tls.NewLRUClientSessionCache(8)
	client.ServerName = "payments"
	resumed := func() (bool, error) {
		conn, err := tls.Dial("tcp", addr, client)
		if err != nil {
			return false, err
		}
		defer func() { _ = conn.Close() }()
		_, err = ask(conn) // the ticket comes with the answer
		return conn.ConnectionState().DidResume, err
	}
	if again, err := resumed(); again || err != nil {
		t.Fatalf("the first time: resumed %v, %v", again, err)
	}
	if again, err := resumed(); !again || err != nil {
		t.Fatalf("the second time: resumed %v, %v: this test shows nothing", again, err)
	}
	// The client stays as it is; the server learns other roots.
	other := newFolder(t, "gateway", "payments")
	client.VerifyConnection = func(tls.ConnectionState) error { return nil }
	for _, file := range []string{"ca.pem", "payments.pem"} {
		f.write(file, other.read(file))
	}
	f.clock.Advance(time.Second)
	if again, err := resumed(); err == nil {
		t.Errorf("let in although its CA is gone (resumed: %v)", again)
	}
}

// TestABrokenFileLeavesTheLastGoodOne breaks each file in each way. It must be said once, counted once, and mended
// without a restart.
func TestABrokenFileLeavesTheLastGoodOne(t *testing.T) {
	t.Parallel()
	other := newFolder(t, "gateway", "payments")
	for name, c := range map[string]struct {
		file  string
		write func(f *folder) []byte // nil removes the file
		want  string
	}{
		"garbage":             {"payments.pem", func(*folder) []byte { return []byte("garbage") }, "payments.pem: is not a certificate with its key"},
		"empty":               {"payments.pem", func(*folder) []byte { return []byte{} }, "is not a certificate with its key"},
		"removed":             {"payments.pem", nil, "no such file"},
		"half written":        {"payments.pem", func(f *folder) []byte { return f.read("payments.pem")[:400] }, "is not a certificate with its key"},
		"the key of another":  {"payments.pem", mixed, "private key does not match"},
		"another identity":    {"payments.pem", func(f *folder) []byte { return f.read("gateway.pem") }, "is the certificate of gateway, not of payments"},
		"of another CA":       {"payments.pem", func(*folder) []byte { return other.read("payments.pem") }, "unknown authority"},
		"expired":             {"payments.pem", expired, "expired"},
		"roots: garbage":      {"ca.pem", func(*folder) []byte { return []byte("garbage") }, "ca.pem: after 0 certificates there is something that is none"},
		"roots: empty":        {"ca.pem", func(*folder) []byte { return []byte{} }, "ca.pem: holds no certificate"},
		"roots: removed":      {"ca.pem", nil, "no such file"},
		"roots: half written": {"ca.pem", func(f *folder) []byte { return append(f.read("ca.pem"), f.read("ca.pem")[:300]...) }, "after 1 certificates there"},
		"roots: with a key":   {"ca.pem", func(f *folder) []byte { return f.read("ca-key.pem") }, "holds a PRIVATE KEY"},
		"roots: no CA": {"ca.pem", func(f *folder) []byte {
			return f.read("gateway.pem")[:bytes.Index(f.read("gateway.pem"), []byte("-----BEGIN PRIVATE"))]
		}, "is not that of a CA"},
		"roots: of another CA":   {"ca.pem", func(*folder) []byte { return other.read("ca.pem") }, "unknown authority"},
		"both: only one is good": {"ca.pem", func(f *folder) []byte { f.do(certs.Renew, "payments"); return []byte("garbage") }, "ca.pem"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFolder(t, "gateway", "payments")
			payments, gateway := f.open("payments"), f.open("gateway")
			addr := listen(t, payments.Server("gateway"))
			good := f.read(c.file)
			before, _, err := dial(addr, gateway.Client("payments"))
			if err != nil {
				t.Fatal(err)
			}
			if c.write == nil {
				if err := os.Remove(f.path(c.file)); err != nil {
					t.Fatal(err)
				}
			} else {
				f.write(c.file, c.write(f))
			}
			for range 3 {
				f.clock.Advance(time.Second)
				got, _, err := dial(addr, gateway.Client("payments"))
				if err != nil {
					t.Fatalf("the broken file broke the process: %v", err)
				}
				if (got == before) == strings.HasPrefix(name, "both") {
					t.Errorf("got certificate %s, before it was %s", got, before)
				}
			}
			log := payments.log.String()
			if n := strings.Count(log, "level=ERROR"); n != 1 || !strings.Contains(log, c.want) || strings.Contains(log, "PRIVATE KEY-----") {
				t.Errorf("got %d errors, want one with %q: %s", n, c.want, log)
			}
			if n := value(t, payments.metrics.Failures.WithLabelValues("payments")); n != 1 {
				t.Errorf("%v failures were counted, want 1", n)
			}
			f.write(c.file, good)
			f.do(certs.Renew)
			f.clock.Advance(time.Second)
			if got, _, err := dial(addr, gateway.Client("payments")); err != nil || got == before {
				t.Errorf("after it was mended: got certificate %s, %v; before it was %s", got, err, before)
			}
		})
	}
}

// mixed is a certificate of payments with the key of the gateway.
func mixed(f *folder) []byte {
	own, foreign := f.read("payments.pem"), f.read("gateway.pem")
	cut := []byte("-----BEGIN PRIVATE")
	return append(own[:bytes.Index(own, cut)], foreign[bytes.Index(foreign, cut):]...)
}

// expired is a certificate of payments that ended before the tests begin.
func expired(f *folder) []byte {
	past := newFolder(f.t)
	past.clock.Advance(-91 * day)
	for _, file := range []string{"ca.pem", "ca-key.pem"} {
		if err := os.MkdirAll(past.Dir, 0o700); err != nil {
			f.t.Fatal(err)
		}
		past.write(file, f.read(file))
	}
	past.do(certs.Create, "payments")
	return past.read("payments.pem")
}

func TestFilesAreLookedAtOnceASecond(t *testing.T) {
	t.Parallel()
	f := newFolder(t, "gateway", "payments")
	payments := f.open("payments").Server("gateway")
	serial := func() string {
		c, err := payments.GetCertificate(nil)
		if err != nil {
			t.Fatal(err)
		}
		return c.Leaf.SerialNumber.String()
	}
	before := serial()
	f.do(certs.Renew)
	f.clock.Advance(time.Second - time.Microsecond)
	if serial() != before {
		t.Error("looked before a second was over")
	}
	f.clock.Advance(time.Microsecond)
	if serial() == before {
		t.Error("not looked after a second")
	}
}

// TestACertificateOfTomorrow is taken up when its time has come, although the file does not change any more.
func TestACertificateOfTomorrow(t *testing.T) {
	t.Parallel()
	f := newFolder(t, "gateway", "payments")
	payments := f.open("payments").Server("gateway")
	ahead := newFolder(t)
	ahead.Dir = f.Dir
	ahead.clock.Advance(day)
	ahead.do(certs.Renew)
	for i, want := range []bool{false, true} {
		f.clock.Advance(12 * time.Hour)
		c, err := payments.GetCertificate(nil)
		if err != nil || c.Leaf.Equal(f.leaf("payments")) != want {
			t.Errorf("after %d half days: taken up %v, %v", i+1, !want, err)
		}
	}
}

func TestOpenSaysWhatIsMissing(t *testing.T) {
	t.Parallel()
	f := newFolder(t, "gateway")
	for name, want := range map[string]string{
		"payments":   "payments.pem: no such file or directory; make certificates with: banyan certs create",
		"../gateway": "is not a name",
	} {
		if _, err := certs.Open(f.Dir, name, certs.Options{Clock: f.clock}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", name, err, want)
		}
	}
	f.clock.Advance(91 * day)
	if _, err := certs.Open(f.Dir, "gateway", certs.Options{Clock: f.clock}); err == nil || !strings.Contains(err.Error(), "expired") {
		t.Errorf("an expired certificate: got %v", err)
	}
}

// TestTransportsWithHTTP2 takes the configuration as the gateway does: through http.Transport and http.Server.
func TestTransportsWithHTTP2(t *testing.T) {
	t.Parallel()
	f := newFolder(t, "gateway", "payments")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{
		TLSConfig: f.open("payments").Server("gateway"), ReadHeaderTimeout: time.Minute,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = fmt.Fprint(w, certs.Peer(r.TLS), " ", r.Proto) }),
	}
	done := make(chan error)
	go func() { done <- server.ServeTLS(l, "", "") }()
	defer func() { _ = server.Close(); <-done }()
	transport := &http.Transport{TLSClientConfig: f.open("gateway").Client("payments"), Protocols: new(http.Protocols)}
	transport.Protocols.SetHTTP2(true)
	defer transport.CloseIdleConnections()
	response, err := (&http.Client{Transport: transport, Timeout: 30 * time.Second}).Get("https://" + l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(response.Body)
	if err = errors.Join(err, response.Body.Close()); err != nil || string(body) != "gateway HTTP/2.0" {
		t.Errorf("got %q, %v", body, err)
	}
}

// TestAPeerIsOneNameAndNothingElse: certificates that our CA would not make, but another under the same roots might.
func TestAPeerIsOneNameAndNothingElse(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ uris, want string }{
		{"banyan://gateway", "gateway"},
		{"https://elsewhere.example/a banyan://gateway", "gateway"},
		{"", ""},
		{"spiffe://gateway", ""},
		{"banyan://gateway/x", ""},
		{"banyan://gateway?x=1", ""},
		{"banyan://root@gateway", ""},
		{"banyan://gateway:1", ""},
		{"banyan:gateway", ""},
		{"banyan://gateway banyan://orders", ""},
		{"banyan://GATEWAY", ""},
	} {
		leaf := &x509.Certificate{}
		for uri := range strings.FieldsSeq(c.uris) {
			leaf.URIs = append(leaf.URIs, parse(t, uri))
		}
		if got := certs.Peer(&tls.ConnectionState{PeerCertificates: []*x509.Certificate{leaf}}); got != c.want {
			t.Errorf("%s: got %q, want %q", c.uris, got, c.want)
		}
	}
}
