package upstream_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"io"
	"log"
	"math/big"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/banyan-go/banyan/proxy/upstream"
)

// authority is a small CA.
type authority struct {
	t    *testing.T
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{t: t}
	var err error
	if a.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, a.key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	return a
}

func (a *authority) pool() *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(a.cert)
	return p
}

func (a *authority) issue(change func(*x509.Certificate)) *tls.Certificate {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	if change != nil {
		change(template)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func uri(s string) func(*x509.Certificate) {
	return func(c *x509.Certificate) {
		u, _ := url.Parse(s)
		c.URIs = []*url.URL{u}
	}
}

func dns(names ...string) func(*x509.Certificate) {
	return func(c *x509.Certificate) { c.DNSNames = names }
}

// secure is an upstream over mTLS; it tells the name of the client.
func secure(t *testing.T, ca *authority, cert func() *tls.Certificate, protocols *http.Protocols) string {
	s := &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, _ = fmt.Fprint(w, r.Proto, " ", r.TLS.PeerCertificates[0].DNSNames)
		}),
		Protocols: protocols,
		TLSConfig: &tls.Config{
			ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: ca.pool(),
			GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return cert(), nil },
		},
	}
	return strings.Replace(serve(t, s), "http://", "https://", 1)
}

func TestPeer(t *testing.T) {
	t.Parallel()
	ca, other := newAuthority(t), newAuthority(t)
	const name = "spiffe://banyan/payments"
	both := new(http.Protocols)
	both.SetHTTP1(true)
	both.SetHTTP2(true)
	only1 := new(http.Protocols)
	only1.SetHTTP1(true)
	server := func(c *tls.Certificate) func() *tls.Certificate { return func() *tls.Certificate { return c } }
	for _, c := range []struct {
		name      string
		peer      string
		cert      *tls.Certificate
		protocols *http.Protocols
		want      string // "" is that it is trusted
	}{
		{"URI", name, ca.issue(uri(name)), both, ""},
		{"DNS name", "payments", ca.issue(dns("orders", "payments")), both, ""},
		{"another module", name, ca.issue(uri("spiffe://banyan/orders")), both, "is not for"},
		{"one that begins alike", "payments", ca.issue(dns("payments.evil.example")), both, "is not for"},
		{"wildcard", "payments.internal", ca.issue(dns("*.internal")), both, "is not for"},
		{"common name", "payments", ca.issue(func(c *x509.Certificate) { c.Subject.CommonName = "payments" }), both, "is not for"},
		{"another authority", name, other.issue(uri(name)), both, "unknown authority"},
		{"expired", name, ca.issue(func(c *x509.Certificate) { uri(name)(c); c.NotAfter = time.Now().Add(-time.Minute) }), both, "expired"},
		{"for clients only", name, ca.issue(func(c *x509.Certificate) { uri(name)(c); c.ExtKeyUsage = c.ExtKeyUsage[1:] }), both, "incompatible key usage"},
		{"no HTTP/2", name, ca.issue(uri(name)), only1, "no application protocol"},
		{"for the host, unnamed", "", ca.issue(dns("127.0.0.1")), both, "doesn't contain any IP SANs"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			g := open(t, upstream.H2, options{opts: upstream.Options{
				PeerName: c.peer, TLS: &tls.Config{RootCAs: ca.pool(), Certificates: []tls.Certificate{*ca.issue(dns("gateway"))}},
			}}, secure(t, ca, server(c.cert), c.protocols))
			got := g.post("/", "x")
			if c.want == "" {
				if got.status != 200 || got.body != "HTTP/2.0 [gateway]" {
					t.Errorf("got %+v", got)
				}
				return
			}
			if got.header.Get("Failure") != "not_sent" || !strings.Contains(got.header.Get("Error"), c.want) {
				t.Errorf("got %+v", got)
			}
		})
	}
}

// A server that says nothing about protocols speaks HTTP/1.1, and is not asked in it.
func TestServerNamesNoProtocol(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{*ca.issue(dns("payments"))}})
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("was asked") }), ErrorLog: log.New(io.Discard, "", 0)}
	go func() { _ = s.Serve(l) }()
	defer func() { _ = s.Close() }()
	g := open(t, upstream.H2, options{opts: upstream.Options{PeerName: "payments", TLS: &tls.Config{RootCAs: ca.pool()}}}, "https://"+l.Addr().String())
	if got := g.post("/", "x"); got.header.Get("Failure") != "not_sent" || !strings.Contains(got.header.Get("Error"), "speaks no HTTP/2") {
		t.Errorf("got %+v", got)
	}
}

// Certificates of both sides and the authority change while all runs.
func TestRotation(t *testing.T) {
	t.Parallel()
	old, fresh := newAuthority(t), newAuthority(t)
	both := new(http.Protocols)
	both.SetHTTP2(true)
	both.SetHTTP1(true)
	var server, mine atomic.Pointer[tls.Certificate]
	var roots atomic.Pointer[x509.CertPool]
	server.Store(old.issue(dns("payments")))
	mine.Store(old.issue(dns("gateway-1")))
	roots.Store(old.pool())
	at := secure(t, old, server.Load, both)
	g := open(t, upstream.H2, options{opts: upstream.Options{
		PeerName: "payments", Roots: roots.Load,
		TLS: &tls.Config{GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return mine.Load(), nil }},
	}, cfg: func(c *upstream.Config) { c.Pool.Idle = 100 * time.Millisecond }}, at)
	if got := g.post("/", "x"); got.body != "HTTP/2.0 [gateway-1]" {
		t.Errorf("got %+v", got)
	}
	unused := func() bool { return g.Status().Endpoints[0].Conns == 0 }
	eventually(t, "the end of the connection", unused)
	mine.Store(old.issue(dns("gateway-2")))
	if got := g.post("/", "x"); got.body != "HTTP/2.0 [gateway-2]" {
		t.Errorf("got %+v", got)
	}
	eventually(t, "the end of the connection", unused)
	server.Store(fresh.issue(dns("payments")))
	if got := g.post("/", "x"); got.header.Get("Failure") != "not_sent" {
		t.Errorf("got %+v", got)
	}
	roots.Store(fresh.pool())
	if got := g.post("/", "x"); got.body != "HTTP/2.0 [gateway-2]" {
		t.Errorf("got %+v", got)
	}
}

// HTTP/1.1 over TLS, as a foreign upstream may speak it: checked by the name of its host.
func TestH1OverTLS(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	only1 := new(http.Protocols)
	only1.SetHTTP1(true)
	cert := ca.issue(dns("localhost"))
	at := secure(t, ca, func() *tls.Certificate { return cert }, only1)
	mine := &tls.Config{RootCAs: ca.pool(), Certificates: []tls.Certificate{*ca.issue(dns("gateway"))}}
	g := open(t, upstream.H1, options{opts: upstream.Options{TLS: mine}}, strings.Replace(at, "127.0.0.1", "localhost", 1))
	for range 3 {
		if got := g.post("/", "x"); got.body != "HTTP/1.1 [gateway]" {
			t.Errorf("got %+v", got)
		}
	}
	wrong := open(t, upstream.H1, options{opts: upstream.Options{TLS: mine}}, at)
	if got := wrong.post("/", "x"); got.header.Get("Failure") != "not_sent" || !strings.Contains(got.header.Get("Error"), "IP SANs") {
		t.Errorf("got %+v", got)
	}
}

func TestTLSThatBelievesAnybody(t *testing.T) {
	t.Parallel()
	cfg := upstream.DefaultConfig()
	cfg.Protocol, cfg.Endpoints = upstream.H2, []string{"https://127.0.0.1:1"}
	if _, err := upstream.New(cfg, upstream.Options{Name: "t", TLS: &tls.Config{InsecureSkipVerify: true}}); err == nil {
		t.Error("is taken")
	}
}
