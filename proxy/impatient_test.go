package proxy_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"
	"time"

	"github.com/banyan-go/banyan/proxy"
	"github.com/banyan-go/banyan/proxy/aggregate"
	"github.com/banyan-go/banyan/proxy/shadow"
)

// hesitates answers when the request has ended, as a process does whose work ends then, and else at once.
func hesitates(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("X-Side", "remote")
	_, _ = io.Copy(io.Discard, r.Body)
	if r.URL.Query().Has("slow") {
		<-r.Context().Done()
		w.WriteHeader(http.StatusGatewayTimeout)
		return
	}
	_, _ = io.WriteString(w, "{}")
}

// Whoever gives a request no time makes nobody look bad: not the breaker and the endpoints of an upstream, and not the gates of a module.
func TestImpatientClientsAreNobodysFault(t *testing.T) {
	t.Parallel()
	origin := httptest.NewServer(http.HandlerFunc(hesitates))
	t.Cleanup(origin.Close)
	inFront := func(limit time.Duration) *shop {
		return open(t, func(c *proxy.Config, _ *proxy.Options) {
			c.Limits.Request = limit
			c.Upstreams = []proxy.Foreign{foreign(origin.URL, proxy.ForeignRoute{Match: "GET /old", Class: "read"}, proxy.ForeignRoute{Match: "POST /old", Class: "write"})}
		})
	}
	s := inFront(30 * time.Second)
	for n := range 12 {
		method, body := "GET", ""
		if n%2 == 1 {
			method, body = "POST", "{}"
		}
		if a := s.do(method, "/old?slow", body, "X-Request-Timeout", "20"); a.status != http.StatusGatewayTimeout {
			t.Fatalf("an impatient %s gets %d %s, want 504", method, a.status, a.body)
		}
	}
	if a := s.do("GET", "/old", ""); a.status != http.StatusOK {
		t.Errorf("then everybody gets %d %s", a.status, a.body)
	}
	if u := s.gate.Upstreams()[0]; !u.Endpoints[0].OutUntil.IsZero() {
		t.Errorf("the endpoint is left out: %+v", u)
	}

	// Also who is not sent at all in the time that he gives has had no time: there is room for one request, and somebody has it.
	s = open(t, func(c *proxy.Config, _ *proxy.Options) {
		f := foreign(origin.URL, proxy.ForeignRoute{Match: "GET /old", Class: "read"})
		f.Bulkhead.MaxInFlight, f.Bulkhead.QueueWait = 1, time.Minute
		c.Upstreams = []proxy.Foreign{f}
	})
	ctx, leave := context.WithCancel(t.Context())
	defer leave()
	go func() {
		if r, err := http.NewRequestWithContext(ctx, "GET", s.server.URL+"/old?slow", nil); err == nil {
			_, _ = http.DefaultTransport.RoundTrip(r)
		}
	}()
	eventually(t, func() bool { return s.gate.Upstreams()[0].InFlight == 1 })
	if a := s.do("GET", "/old", "", "X-Request-Timeout", "20"); a.status != http.StatusGatewayTimeout {
		t.Errorf("who waits for room gets %d %s, want 504", a.status, a.body)
	}

	// Our own limit is another matter, also for whoever would wait less than for ever.
	s = inFront(20 * time.Millisecond)
	for range 6 {
		s.do("GET", "/old?slow", "", "X-Request-Timeout", "1000")
	}
	if a := s.do("GET", "/old", ""); a.status != http.StatusServiceUnavailable {
		t.Errorf("an upstream that is too slow for us is still asked: %d %s", a.status, a.body)
	}
}

func TestImpatientClientsMoveNoModule(t *testing.T) {
	t.Parallel()
	for name, path := range map[string]string{"a request": "/api/orders?slow", "parts of an answer": "/api/dashboard"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, remote, fixed := moving(t, proxy.Placement{State: proxy.Canary, Reads: 10_000}, func(c *proxy.Config) {
				c.Aggregate.Aggregates = []aggregate.Aggregate{{Path: "/api/dashboard", Auth: "customer", Timeout: 5 * time.Second, Parts: []aggregate.Part{
					{Name: "orders", Get: "/api/orders?slow"}, {Name: "one", Get: "/api/orders/1?slow", Required: true},
				}}}
			})
			remote.set(hesitates)
			for n := range 60 {
				if a, body := ask(t, s, "GET", "/api/orders", fmt.Sprint("customer:u", n), ""); a.StatusCode != 200 || a.Header.Get("X-Side") != "remote" {
					t.Fatalf("%d %s", a.StatusCode, body)
				}
			}
			for n := range 20 {
				if a, body := ask(t, s, "GET", path, "customer:eve", "", "X-Request-Timeout", fmt.Sprint(n+1)); a.StatusCode != http.StatusGatewayTimeout {
					t.Fatalf("an impatient request gets %d %s, want 504", a.StatusCode, body)
				}
			}
			if a, body := ask(t, s, "GET", "/api/orders", "customer:u1", ""); a.StatusCode != 200 || a.Header.Get("X-Side") != "remote" {
				t.Errorf("then everybody gets %d %s from %q", a.StatusCode, body, a.Header.Get("X-Side"))
			}
			if v := s.gate.Gates()["orders"]; v.Remote.Failures != 0 || fixed.Current()[0].State != proxy.Canary {
				t.Errorf("the module is %s, %d of %d requests count as failed", fixed.Current()[0].State, v.Remote.Failures, v.Remote.Requests)
			}
		})
	}
}

// What an impatient client gets here is no measure for the other side either, and nothing to compare its answers with.
func TestImpatientClientsSayNothingOfThisSide(t *testing.T) {
	t.Parallel()
	s, _, _ := moving(t, proxy.Placement{State: proxy.Shadow, Held: true}, func(c *proxy.Config) { c.Shadow.Sample = 100 })
	s.local = hesitates
	for range 20 {
		ask(t, s, "GET", "/api/orders?slow", "customer:eve", "", "X-Request-Timeout", "5")
	}
	ask(t, s, "GET", "/api/orders/1", "customer:ada", "")
	if v := s.gate.Gates()["orders"]; v.Local.Requests != 1 || v.Local.Failures != 0 {
		t.Errorf("%d of %d requests count as failed, want only the one of the client that waits to count", v.Local.Failures, v.Local.Requests)
	}
	var routes []string
	eventually(t, func() bool {
		all, err := s.gate.ShadowReport("orders")
		if err != nil {
			t.Fatal(err)
		}
		routes = nil
		for _, r := range all.(map[string]any)["report"].(shadow.Report).Routes {
			if r.Compared+r.Learned+r.Failed+r.Dropped > 0 {
				routes = append(routes, r.Route)
			}
		}
		return slices.Contains(routes, "GET /api/orders/{id}")
	})
	if len(routes) != 1 {
		t.Errorf("compared was %v, want the answer to the client that waits alone", routes)
	}
}
