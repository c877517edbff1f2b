package discovery_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/banyan-go/banyan/internal/secret"
	"github.com/banyan-go/banyan/proxy/discovery"
)

// consul is an agent, be it a fake or real.
type consul interface {
	config() discovery.Consul
	restart()
}

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

func (r *record) logger() *slog.Logger { return slog.New(slog.NewTextHandler(r, nil)) }

func consulOptions(c consul) discovery.Options {
	o := discovery.Options{Config: discovery.DefaultConfig()}
	o.Consul, o.First, o.EmptyAfter = c.config(), 30*time.Second, time.Second
	return o
}

// process is one of ours that keeps itself registered.
type process struct {
	stop  func()
	ready atomic.Pointer[string] // why it is not ready
	log   record
}

func register(t *testing.T, c consul, r discovery.Registration) *process {
	t.Helper()
	p := &process{}
	if r.TTL == 0 && r.HTTP == "" {
		r.TTL = time.Second
		r.Ready = func(context.Context) error {
			if why := p.ready.Load(); why != nil {
				return errors.New(*why)
			}
			return nil
		}
	}
	g, err := discovery.NewRegistrar(consulOptions(c).Config, r, p.log.logger())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- g.Run(ctx) }()
	var once sync.Once
	p.stop = func() {
		once.Do(func() {
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
	}
	t.Cleanup(p.stop)
	return p
}

// TestConsul is what we need of Consul. The fake passes it so that it may stand in, the real one so that the fake is right.
func TestConsul(t *testing.T) {
	t.Parallel()
	t.Run("fake", func(t *testing.T) {
		t.Parallel()
		conforms(t, func(t *testing.T) consul { t.Parallel(); return newFake(t) })
	})
	t.Run("real", func(t *testing.T) {
		agent := newReal(t)
		agent.start()
		conforms(t, func(*testing.T) consul { return agent })
	})
}

func conforms(t *testing.T, open func(t *testing.T) consul) {
	t.Run("instances come and go", func(t *testing.T) {
		c := open(t)
		_ = register(t, c, discovery.Registration{Service: "come", Addr: "10.0.0.1:9101"})
		w := watch(t, consulOptions(c), "consul://come")
		w.want("10.0.0.1:9101*1")
		second := register(t, c, discovery.Registration{Service: "come", Addr: "10.0.0.2:9102", Weight: 4})
		w.want("10.0.0.1:9101*1 10.0.0.2:9102*4")
		second.stop()
		w.want("10.0.0.1:9101*1")
	})
	t.Run("the last one that goes is believed later", func(t *testing.T) {
		c := open(t)
		p := register(t, c, discovery.Registration{Service: "last", Addr: "10.0.0.1:9101"})
		w := watch(t, consulOptions(c), "consul://last")
		w.want("10.0.0.1:9101*1")
		p.stop()
		begin := time.Now()
		w.want("")
		if after := time.Since(begin); after < 900*time.Millisecond {
			t.Errorf("believed after %s, want a second", after)
		}
	})
	t.Run("only those that pass", func(t *testing.T) {
		c := open(t)
		_ = register(t, c, discovery.Registration{Service: "pass", Addr: "10.0.0.1:9101"})
		p := register(t, c, discovery.Registration{Service: "pass", Addr: "10.0.0.2:9101"})
		w := watch(t, consulOptions(c), "consul://pass")
		w.until("10.0.0.1:9101*1 10.0.0.2:9101*1")
		why := "the store is away"
		p.ready.Store(&why)
		w.want("10.0.0.1:9101*1")
		p.ready.Store(nil)
		w.want("10.0.0.1:9101*1 10.0.0.2:9101*1")
	})
	t.Run("a process that says nothing any more", func(t *testing.T) {
		c := open(t)
		_ = register(t, c, discovery.Registration{Service: "silent", Addr: "10.0.0.1:9101"})
		block := make(chan struct{})
		var blocked atomic.Bool
		_ = register(t, c, discovery.Registration{Service: "silent", Addr: "10.0.0.2:9101", TTL: time.Second, Ready: func(ctx context.Context) error {
			if blocked.Load() {
				<-block
			}
			return nil
		}})
		t.Cleanup(func() { close(block) })
		w := watch(t, consulOptions(c), "consul://silent")
		w.until("10.0.0.1:9101*1 10.0.0.2:9101*1")
		blocked.Store(true)
		w.want("10.0.0.1:9101*1")
	})
	t.Run("checked by HTTP", func(t *testing.T) {
		c := open(t)
		var status atomic.Int64
		status.Store(http.StatusOK)
		probe := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(int(status.Load())) }))
		t.Cleanup(probe.Close)
		for i := range 2 {
			r := discovery.Registration{Service: "http", Addr: fmt.Sprintf("10.0.0.%d:9101", i+1), HTTP: probe.URL + "/readyz", Interval: time.Second}
			if i == 1 {
				r.HTTP, r.TTL = "", time.Second
			}
			_ = register(t, c, r)
		}
		w := watch(t, consulOptions(c), "consul://http")
		w.until("10.0.0.1:9101*1 10.0.0.2:9101*1")
		status.Store(http.StatusServiceUnavailable)
		w.want("10.0.0.2:9101*1")
		status.Store(http.StatusNoContent)
		w.want("10.0.0.1:9101*1 10.0.0.2:9101*1")
	})
	t.Run("tags and datacenter", func(t *testing.T) {
		c := open(t)
		_ = register(t, c, discovery.Registration{Service: "tags", Addr: "10.0.0.1:9101", Tags: []string{"blue"}})
		_ = register(t, c, discovery.Registration{Service: "tags", Addr: "10.0.0.2:9101", Tags: []string{"blue", "v2"}})
		watch(t, consulOptions(c), "consul://tags?tag=blue&tag=v2&dc=dc1").want("10.0.0.2:9101*1")
		o := consulOptions(c)
		o.First = time.Second
		s, err := discovery.Parse([]string{"consul://tags?dc=elsewhere"}, o)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Watch(context.Background(), func([]discovery.Endpoint) {}); err == nil || !strings.Contains(err.Error(), "No path to datacenter") {
			t.Errorf("another datacenter: got %v", err)
		}
	})
	t.Run("a process that has died and comes back at another address", func(t *testing.T) {
		c := open(t)
		id := "died-1"
		dead, err := discovery.NewRegistrar(consulOptions(c).Config, discovery.Registration{Service: "died", ID: id, Addr: "10.0.0.1:9101", TTL: time.Minute}, nil)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		t.Cleanup(cancel)
		go func() { _ = dead.Run(ctx) }() // says once that it lives, and then nothing for 20 s
		w := watch(t, consulOptions(c), "consul://died")
		w.want("10.0.0.1:9101*1")
		_ = register(t, c, discovery.Registration{Service: "died", ID: id, Addr: "10.0.0.7:9101"})
		w.until("10.0.0.7:9101*1")
	})
	t.Run("a wrong token", func(t *testing.T) {
		c := open(t)
		const wrong = "6f1c9c1e-0000-4000-8000-00000000dead"
		o := consulOptions(c)
		o.Consul.Token, o.First = secret.Text(wrong), time.Second
		var log record
		o.Log = log.logger()
		s, err := discovery.Parse([]string{"consul://wrong"}, o)
		if err != nil {
			t.Fatal(err)
		}
		err = s.Watch(context.Background(), func([]discovery.Endpoint) {})
		if err == nil || !strings.Contains(err.Error(), "403") || !strings.Contains(err.Error(), "ACL not found") {
			t.Errorf("got %v", err)
		}
		g, badErr := discovery.NewRegistrar(o.Config, discovery.Registration{Service: "wrong", Addr: "10.0.0.1:9101", TTL: time.Second}, o.Log)
		if badErr != nil {
			t.Fatal(badErr)
		}
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error)
		go func() { done <- g.Run(ctx) }()
		eventually(t, "a warning", func() bool { return strings.Contains(log.String(), "cannot be registered in Consul") })
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if shown := fmt.Sprintf("%v %s %+v", err, log.String(), o.Config); strings.Contains(shown, wrong) {
			t.Errorf("the token is shown: %s", shown)
		}
	})
	t.Run("the agent is restarted and has forgotten all", func(t *testing.T) {
		c := open(t)
		first := register(t, c, discovery.Registration{Service: "restart", Addr: "10.0.0.1:9101"})
		probe := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
		t.Cleanup(probe.Close)
		second := register(t, c, discovery.Registration{Service: "restart", Addr: "10.0.0.2:9101", HTTP: probe.URL, Interval: time.Second})
		o := consulOptions(c)
		o.EmptyAfter = time.Minute
		w := watch(t, o, "consul://restart")
		w.until("10.0.0.1:9101*1 10.0.0.2:9101*1")
		c.restart()
		// What is registered anew first may be seen alone for a moment.
		for deadline := time.After(time.Minute); ; {
			select {
			case got := <-w.updates:
				if len(got) == 0 {
					t.Error("a restart of Consul took all endpoints away")
				}
			case <-deadline:
				t.Fatal("not registered again within a minute")
			case <-time.After(10 * time.Millisecond):
			}
			if strings.Contains(first.log.String(), "has forgotten") && strings.Contains(second.log.String(), "has forgotten") {
				break
			}
		}
		_ = register(t, c, discovery.Registration{Service: "restart", Addr: "10.0.0.3:9101"})
		w.until("10.0.0.1:9101*1 10.0.0.2:9101*1 10.0.0.3:9101*1")
	})
	t.Run("by its DNS", func(t *testing.T) {
		c := open(t)
		agent, ok := c.(*real)
		if !ok {
			t.Skip("the fake has no DNS")
		}
		_ = register(t, c, discovery.Registration{Service: "named", Addr: "10.0.0.1:9101", Weight: 7})
		o := consulOptions(c)
		o.Refresh = 100 * time.Millisecond
		o.Resolver = &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, network, agent.dns)
		}}
		w := watch(t, o, "srv://named.service.consul")
		w.want("10.0.0.1:9101*7")
		watch(t, o, "dns://named.service.consul:80").want("10.0.0.1:80*1")
		_ = register(t, c, discovery.Registration{Service: "named", Addr: "10.0.0.2:9102"})
		w.want("10.0.0.1:9101*7 10.0.0.2:9102*1")
	})
}
