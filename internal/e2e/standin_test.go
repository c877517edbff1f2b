package e2e

import (
	"crypto/tls"
	"io"
	"net/http"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// standIns are the modules whose requests ask no other module.
var standIns = []string{"users", "catalog", "payments", "inventory", "shipping", "notifications"}

// Six modules answer in processes of their own, and the shop is the same: orders, cancellations, and the books.
func TestModulesBesideTheShop(t *testing.T) {
	t.Parallel()
	s := postgres(t, false)
	var others []*shop
	for _, m := range standIns {
		others = append(others, s.standIn(m))
		s.place(m, "canary", "CANARY_READS=10000", "CANARY_WRITES=10000")
	}
	for _, o := range others {
		o.env = s.env
		o.start()
	}
	s.start()
	for _, m := range standIns {
		s.settled(m, "canary")
	}
	l := newLedger(t, s)
	l.run(4, 15, nil)
	l.check()
	for i, o := range others {
		if code := o.stop(); code != 0 {
			t.Errorf("%s ended with %d: %s", standIns[i], code, o.errOut)
		}
	}
}

// A process that only answers for the gateway answers nobody else.
func TestNobodyButTheGateway(t *testing.T) {
	t.Parallel()
	s := postgres(t, false)
	o := s.standIn("inventory")
	o.launch() // it waits for the shop's first start
	s.place("inventory", "canary", "CANARY_READS=10000", "CANARY_WRITES=10000")
	s.start()
	o.await()
	s.settled("inventory", "canary")
	admin := s.asAdmin()
	for name, header := range map[string]http.Header{
		"nothing":       {},
		"user headers":  {"X-User-Id": {"1"}, "X-Banyan-Subject": {"1"}, "X-Banyan-Role": {"admin"}, "X-Forwarded-User": {"admin"}},
		"a login":       {"Authorization": {"Bearer " + admin.token}},
		"no assertion":  {"X-Banyan-Assertion": {"eyJhbGciOiJub25lIn0.eyJzdWIiOiIxIn0."}},
		"an own shadow": {"X-Shadow": {"1"}},
	} {
		r, err := http.NewRequest("GET", "http://"+o.addr+"/api/inventory", nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header = header
		a, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatalf("%v: %s", err, o.errOut)
		}
		body, _ := io.ReadAll(a.Body)
		_ = a.Body.Close()
		if a.StatusCode != 401 || strings.Contains(string(body), "items") {
			t.Errorf("%s: %d %s", name, a.StatusCode, body)
		}
	}
	if a := admin.do("GET", "/api/inventory", nil); a.Status != 200 {
		t.Errorf("through the gateway: %d %s", a.Status, a.Body)
	}
}

// In a canary half of the users are answered by the second process. When it dies they are answered by the first, and nobody
// notices; when it comes back it is used again.
func TestCanaryFallsBack(t *testing.T) {
	t.Parallel()
	s := postgres(t, false)
	o := s.standIn("notifications")
	s.place("notifications", "canary", "CANARY_READS=10000", "CANARY_WRITES=10000")
	s.start()
	o.start()
	s.settled("notifications", "canary")
	c := s.asAdmin()
	get := func() answer { return c.do("GET", "/api/notifications", nil) }
	where := func() string {
		out, err := exec.Command(mustBinary(t), "route", "explain", "GET", "/api/notifications", "--user", "u1", "--data", s.dir, "--admin-addr", s.admin).CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		return string(out)
	}
	if got := where(); !strings.Contains(got, "canary (reads 10000, writes 10000 of 10000)") || !strings.Contains(got, "remote") {
		t.Errorf("explained as\n%s", got)
	}
	for range 20 {
		if a := get(); a.Status != 200 {
			t.Fatalf("%d %s", a.Status, a.Body)
		}
	}
	o.kill()
	for range 50 {
		if a := get(); a.Status != 200 {
			t.Fatalf("after the kill: %d %s", a.Status, a.Body)
		}
	}
}

func mustBinary(t testing.TB) string {
	t.Helper()
	path, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// What cannot be is refused with the way out.
func TestStandInRefusals(t *testing.T) {
	t.Parallel()
	s := postgres(t, false)
	for name, test := range map[string]struct {
		env  []string
		args []string
		want string
	}{
		"a module that asks others": {s.env, []string{"--only", "orders", "--addr", "127.0.0.1:0"}, "bus.rabbitmq.url: is empty; requests of orders ask other modules"},
		"no such module":            {s.env, []string{"--only", "order", "--addr", "127.0.0.1:0"}, `there is no module "order"; there are users`},
		"an address for all":        {s.env, []string{"--only", "payments", "--addr", ":0"}, "without gateway.certs"},
	} {
		cmd := exec.Command(mustBinary(t), append([]string{"serve", "--data", t.TempDir(), "--admin-addr", "127.0.0.1:0"}, test.args...)...)
		cmd.Env = append([]string{"PATH=/usr/bin", "HOME=" + t.TempDir()}, test.env...)
		time.AfterFunc(20*time.Second, func() { _ = cmd.Process.Kill() })
		out, err := cmd.CombinedOutput()
		if err == nil || cmd.ProcessState.ExitCode() != 2 || !strings.Contains(string(out), test.want) {
			t.Errorf("%s: exit %d, %s", name, cmd.ProcessState.ExitCode(), out)
		}
	}
}

// With certificates the processes know each other by name, and the public port speaks TLS.
func TestMutualTLS(t *testing.T) {
	t.Parallel()
	s := postgres(t, false)
	dir := filepath.Join(t.TempDir(), "certs")
	run := func(args ...string) {
		t.Helper()
		if out, err := exec.Command(mustBinary(t), args...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %v: %s", args, err, out)
		}
	}
	run("certs", "create", "--dir", dir)
	s.env = append(s.env, "BANYAN_GATEWAY_CERTS="+dir)
	o := s.standIn("inventory")
	s.place("inventory", "canary", "CANARY_READS=10000", "CANARY_WRITES=10000", "ENDPOINTS=https://"+o.addr)
	s.start()
	s.env = s.env[:len(s.env):len(s.env)]
	o.env = s.env
	o.launch()
	s.settled("inventory", "canary")
	c := s.asAdmin()
	eventually(t, "the gateway reaches it", func() bool { return c.do("GET", "/api/inventory", nil).Status == 200 })
	run("certs", "renew", "--dir", dir)
	for range 20 {
		if a := c.do("GET", "/api/inventory", nil); a.Status != 200 {
			t.Fatalf("after a renewal: %d %s", a.Status, a.Body)
		}
	}
	stranger := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	if a, err := stranger.Get("https://" + o.addr + "/readyz"); err == nil {
		t.Errorf("a stranger without a certificate gets %d", a.StatusCode)
	}
	pair, err := tls.LoadX509KeyPair(filepath.Join(dir, "payments.pem"), filepath.Join(dir, "payments.pem"))
	if err != nil {
		t.Fatal(err)
	}
	stranger.Transport.(*http.Transport).TLSClientConfig.Certificates = []tls.Certificate{pair}
	if a, err := stranger.Get("https://" + o.addr + "/readyz"); err == nil {
		t.Errorf("another module gets %d", a.StatusCode)
	}

	public := s.replica()
	public.env = append(s.env, "BANYAN_GATEWAY_TLS_CERT="+filepath.Join(dir, "gateway.pem"), "BANYAN_GATEWAY_TLS_KEY="+filepath.Join(dir, "gateway.pem"))
	public.launch()
	secure := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, ForceAttemptHTTP2: true}}
	eventually(t, "the public port answers over TLS", func() bool {
		a, err := secure.Get("https://" + public.addr + "/readyz")
		if err != nil {
			return false
		}
		defer func() { _ = a.Body.Close() }()
		return a.StatusCode == 200 && a.ProtoMajor == 2 && a.Header.Get("Strict-Transport-Security") != ""
	})
}
