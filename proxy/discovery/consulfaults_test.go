package discovery_test

import (
	"context"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/banyan-go/banyan/internal/secret"
	"github.com/banyan-go/banyan/proxy/discovery"
)

// TestTheEnvironmentIsNotAsked: CONSUL_* variables are for other programs, and a token among them for another agent.
func TestTheEnvironmentIsNotAsked(t *testing.T) {
	f := newFake(t)
	f.add("env-1", "env", "10.0.0.1:9101")
	for name, value := range map[string]string{
		"CONSUL_HTTP_ADDR": "127.0.0.1:1", "CONSUL_HTTP_TOKEN": "a token of another agent", "CONSUL_HTTP_TOKEN_FILE": "/nothing", "CONSUL_HTTP_SSL": "true",
		"CONSUL_HTTP_AUTH": "user:password",
	} {
		t.Setenv(name, value)
	}
	watch(t, consulOptions(f), "consul://env").want("10.0.0.1:9101*1")
	o := consulOptions(f)
	o.Consul.Token, o.First = "", time.Second
	s, err := discovery.Parse([]string{"consul://env"}, o)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Watch(context.Background(), func([]discovery.Endpoint) {}); err == nil || !strings.Contains(err.Error(), "403") {
		t.Errorf("without a token: got %v", err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if slices.ContainsFunc(f.tokens, func(token string) bool { return token != "" && token != f.token }) || !slices.Contains(f.tokens, "") {
		t.Errorf("tokens that were sent: %q", f.tokens)
	}
}

func TestARedirectDoesNotCarryTheToken(t *testing.T) {
	t.Parallel()
	stranger := make(chan string, 100)
	elsewhere := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { stranger <- r.Header.Get("X-Consul-Token") }))
	defer elsewhere.Close()
	agent := httptest.NewServer(http.RedirectHandler(elsewhere.URL, http.StatusTemporaryRedirect))
	defer agent.Close()
	o := discovery.Options{Config: discovery.DefaultConfig()}
	o.Consul, o.First = discovery.Consul{Addr: agent.URL, Token: "hunter2"}, time.Second
	s, err := discovery.Parse([]string{"consul://payments"}, o)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Watch(context.Background(), func([]discovery.Endpoint) {}); err == nil || !strings.Contains(err.Error(), "307") {
		t.Errorf("got %v", err)
	}
	select {
	case token := <-stranger:
		t.Errorf("the redirect was followed, with the token %q", token)
	default:
	}
}

func TestConsulByHTTPS(t *testing.T) {
	t.Parallel()
	f := startFake(t, (*httptest.Server).StartTLS)
	f.add("tls-1", "tls", "10.0.0.1:9101")
	o := consulOptions(f)
	o.Consul.Roots = filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(o.Consul.Roots, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: f.server.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	watch(t, o, "consul://tls").want("10.0.0.1:9101*1")
	o.Consul.Roots, o.First = "", time.Second
	s, err := discovery.Parse([]string{"consul://tls"}, o)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Watch(context.Background(), func([]discovery.Endpoint) {}); err == nil || !strings.Contains(err.Error(), "unknown authority") {
		t.Errorf("a server with another root: got %v", err)
	}
	for roots, want := range map[string]string{"/nothing": "no such file", "doc.go": "holds no certificate"} {
		o.Consul.Roots = roots
		if _, err := discovery.Parse([]string{"consul://tls"}, o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("roots %s: got %v, want %q", roots, err, want)
		}
	}
}

func TestATokenInClearTextIsSaid(t *testing.T) {
	t.Parallel()
	for addr, want := range map[string]bool{
		"http://127.0.0.1:8500": false, "http://localhost:8500": false, "http://[::1]:8500": false, "https://consul:8501": false,
		"http://10.0.0.1:8500": true, "http://consul:8500": true,
	} {
		for _, token := range []string{"", "hunter2"} {
			var log record
			o := discovery.Options{Config: discovery.DefaultConfig(), Log: log.logger()}
			o.Consul.Addr, o.Consul.Token = addr, secret.Text(token)
			if _, err := discovery.Parse([]string{"consul://payments"}, o); err != nil {
				t.Fatal(err)
			}
			if got := strings.Contains(log.String(), "in clear text"); got != (want && token != "") || strings.Contains(log.String(), "hunter2") {
				t.Errorf("%s with token %q: got log %q", addr, token, log.String())
			}
		}
	}
}

func TestInstancesThatAreOdd(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	f.add("odd-1", "odd", "10.0.0.1:0")
	f.add("odd-2", "odd", ":9102")
	f.add("odd-3", "odd", "10.0.0.3:9103")
	w := watch(t, consulOptions(f), "consul://odd")
	w.want("10.0.0.3:9103*1 10.255.255.1:9102*1")
}

// TestQuestionsWait: Consul is not asked again and again, it answers when there is something new.
func TestQuestionsWait(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	f.add("wait-1", "wait", "10.0.0.1:9101")
	var log record
	o := consulOptions(f)
	o.Timeout, o.Log = 300*time.Millisecond, log.logger()
	w := watch(t, o, "consul://wait")
	w.want("10.0.0.1:9101*1")
	begin, before := time.Now(), f.questions()
	for i := 2; time.Since(begin) < 2*time.Second; i++ {
		<-time.After(500 * time.Millisecond)
		f.add(fmt.Sprintf("wait-%d", i), "wait", fmt.Sprintf("10.0.0.%d:9101", i))
		select {
		case got := <-w.updates:
			if len(got) != i {
				t.Errorf("got %q, want %d endpoints", show(got), i)
			}
		case <-time.After(10 * time.Second):
			t.Fatal("no update")
		}
	}
	if n := f.questions() - before; n > 8 {
		t.Errorf("%d questions for 4 changes", n)
	}
	if strings.Contains(log.String(), "level=WARN") {
		t.Errorf("to wait is no failure: %s", log.String())
	}
}

// TestConsulIsRestoredFromASnapshot: the index goes back, and must not be waited for.
func TestConsulIsRestoredFromASnapshot(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	f.add("back-1", "back", "10.0.0.1:9101")
	o := consulOptions(f)
	o.EmptyAfter = time.Minute
	w := watch(t, o, "consul://back")
	w.want("10.0.0.1:9101*1")
	waits := func() bool { f.mu.Lock(); defer f.mu.Unlock(); return f.waiting > 0 }
	eventually(t, "a question that waits", waits)
	before := f.questions()
	f.restore()
	eventually(t, "a new question", func() bool { return f.questions() > before && waits() })
	f.add("back-2", "back", "10.0.0.2:9101")
	w.want("10.0.0.2:9101*1")
}

// TestAnAgentThatHangs answers the third question only.
func TestAnAgentThatHangs(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	f.add("hang-1", "hang", "10.0.0.1:9101")
	agent, questions := f.server.Config.Handler, atomic.Int64{}
	f.server.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if questions.Add(1) < 3 {
			<-r.Context().Done()
			return
		}
		agent.ServeHTTP(w, r)
	})
	o := consulOptions(f)
	o.Timeout = 500 * time.Millisecond
	watch(t, o, "consul://hang").want("10.0.0.1:9101*1")
}

// TestARegistrationThatIsBrokenOffIsTakenBack: Consul has taken it, but the process ends before it hears of that.
func TestARegistrationThatIsBrokenOffIsTakenBack(t *testing.T) {
	t.Parallel()
	registered, deregistered := make(chan struct{}), make(chan string, 1)
	agent := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/register") {
			_, _ = io.Copy(io.Discard, r.Body)
			close(registered)
			<-r.Context().Done()
			return
		}
		deregistered <- r.URL.Path
	}))
	defer agent.Close()
	c := discovery.DefaultConfig()
	c.Consul.Addr, c.Timeout = agent.URL, 30*time.Second
	g, err := discovery.NewRegistrar(c, discovery.Registration{Service: "payments", Addr: "10.0.0.1:9101", TTL: time.Second}, nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- g.Run(ctx) }()
	<-registered
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	select {
	case path := <-deregistered:
		if path != "/v1/agent/service/deregister/payments-10.0.0.1-9101" {
			t.Errorf("got %s", path)
		}
	default:
		t.Error("the process has ended and is still registered")
	}
}

func TestWhatIsRegistered(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	_ = register(t, f, discovery.Registration{Service: "payments", Addr: "[fd00::1]:9101", Tags: []string{"v2"}})
	probe := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(probe.Close)
	_ = register(t, f, discovery.Registration{Service: "orders", ID: "o1", Addr: "10.0.0.1:9102", HTTP: probe.URL, Forget: time.Hour})
	eventually(t, "both", func() bool { f.mu.Lock(); defer f.mu.Unlock(); return len(f.services) == 2 })
	f.mu.Lock()
	defer f.mu.Unlock()
	p, o := f.services["payments-fd00::1-9101"], f.services["o1"]
	if p == nil || o == nil {
		t.Fatalf("registered: %v", f.services)
	}
	if p.Address != "fd00::1" || p.Port != 9101 || p.Check.TTL != "1s" || p.Check.DeregisterCriticalServiceAfter != "10m0s" || len(p.Tags) != 1 {
		t.Errorf("got %+v, %+v", p.AgentServiceRegistration, p.Check)
	}
	if o.Check.HTTP != probe.URL || o.Check.Interval != "10s" || o.Check.DeregisterCriticalServiceAfter != "1h0m0s" || o.Check.TTL != "" {
		t.Errorf("got %+v", o.Check)
	}
}

func TestRegistrationsThatAreRefused(t *testing.T) {
	t.Parallel()
	good := discovery.Registration{Service: "payments", Addr: "10.0.0.1:9101", TTL: time.Second}
	for want, change := range map[string]func(*discovery.Registration){
		`service: "" with id "" is not a name`:                  func(r *discovery.Registration) { r.Service = "" },
		`with id "a/b" is not a name`:                           func(r *discovery.Registration) { r.ID = "a/b" },
		`addr: ":9101" is not where others reach`:               func(r *discovery.Registration) { r.Addr = ":9101" },
		`addr: "0.0.0.0:9101" is not where others reach`:        func(r *discovery.Registration) { r.Addr = "0.0.0.0:9101" },
		`addr: "10.0.0.1" is not where others reach`:            func(r *discovery.Registration) { r.Addr = "10.0.0.1" },
		"check: give either a TTL or a URL":                     func(r *discovery.Registration) { r.TTL = 0 },
		"check: give either":                                    func(r *discovery.Registration) { r.HTTP = "http://10.0.0.1/" },
		"ttl: 1ms is less than 1s":                              func(r *discovery.Registration) { r.TTL = time.Millisecond },
		"check: is not a URL as in http://10.0.0.5:9101/readyz": func(r *discovery.Registration) { r.TTL, r.HTTP = 0, "http://:pw@10.0.0.1/" },
	} {
		r := good
		change(&r)
		if _, err := discovery.NewRegistrar(discovery.DefaultConfig(), r, nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}
