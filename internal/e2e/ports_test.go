package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// agent is as much of a Consul agent as a registration needs.
type agent struct {
	*httptest.Server
	mu    sync.Mutex
	asked []string
	body  string
}

func newAgent(t *testing.T) *agent {
	t.Helper()
	a := &agent{}
	a.Server = httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		a.mu.Lock()
		defer a.mu.Unlock()
		a.asked = append(a.asked, r.Method+" "+r.URL.Path)
		if strings.HasSuffix(r.URL.Path, "/service/register") {
			a.body = string(body)
		}
	}))
	t.Cleanup(a.Close)
	return a
}

func (a *agent) saw(path string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, one := range a.asked {
		if strings.HasPrefix(one, path) {
			return true
		}
	}
	return false
}

// A process is in Consul while it takes requests: from when it is ready until it drains.
func TestConsulRegistration(t *testing.T) {
	t.Parallel()
	a := newAgent(t)
	s := sqlite(t, "BANYAN_GATEWAY_DISCOVERY_CONSUL_REGISTER=true", "BANYAN_GATEWAY_DISCOVERY_CONSUL_ADDR="+a.URL, "BANYAN_GATEWAY_DISCOVERY_CONSUL_TAGS=blue").start()
	eventually(t, "it is registered", func() bool { return a.saw("PUT /v1/agent/check/update/") })
	_, port, _ := net.SplitHostPort(s.addr)
	a.mu.Lock()
	body := a.body
	a.mu.Unlock()
	for _, want := range []string{`"Name":"banyan"`, `"Address":"127.0.0.1"`, `"Port":` + port, `"Tags":["blue"]`} {
		if !strings.Contains(body, want) {
			t.Errorf("%s is not in %s", want, body)
		}
	}
	if code := s.stop(); code != 0 || !a.saw("PUT /v1/agent/service/deregister/banyan-127.0.0.1-"+port) {
		t.Errorf("ended with %d after %v", code, a.asked)
	}
}

// Beside a port of TLS a plain one sends everybody to it, and answers nothing else.
func TestPlainPortBesideTLS(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"localhost"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	raw, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "both.pem")
	content := append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: raw}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})...)
	if err := os.WriteFile(file, content, 0o600); err != nil {
		t.Fatal(err)
	}
	plain := freeAddr(t)
	s := sqlite(t, "BANYAN_GATEWAY_TLS_CERT="+file, "BANYAN_GATEWAY_TLS_KEY="+file, "BANYAN_GATEWAY_TLS_HTTP_ADDR="+plain)
	s.launch()
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(content)
	client := &http.Client{
		Transport:     &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, ServerName: "localhost"}},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	eventually(t, "it answers", func() bool {
		a, err := client.Get("https://" + s.addr + "/readyz")
		if err != nil {
			return false
		}
		_ = a.Body.Close()
		return a.StatusCode == 200
	})
	a, err := client.Get("http://" + plain + "/api/products?q=mug")
	if err != nil {
		t.Fatal(err)
	}
	_ = a.Body.Close()
	if got := a.Header.Get("Location"); a.StatusCode != 308 || got != "https://"+s.addr+"/api/products?q=mug" {
		t.Errorf("%d %q", a.StatusCode, got)
	}
	a, err = client.Post("http://"+plain+"/api/auth/login", "application/json", strings.NewReader("{}"))
	if err != nil {
		t.Fatal(err)
	}
	_ = a.Body.Close()
	if a.StatusCode != 403 {
		t.Errorf("a password over plain HTTP: %d", a.StatusCode)
	}
}
