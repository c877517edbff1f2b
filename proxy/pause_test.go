package proxy_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/banyan-go/banyan/proxy"
)

func place(t *testing.T, s *shop, p proxy.Placement) {
	t.Helper()
	p.Module = "orders"
	if err := s.gate.Apply([]proxy.Placement{p}); err != nil {
		t.Fatal(err)
	}
}

// soon is a context that ends before a test would.
func soon(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

// While a module is paused nothing of it begins here; what runs ends, and what waits goes to the new owner.
func TestPause(t *testing.T) {
	t.Parallel()
	s, remote, _ := moving(t, proxy.Placement{State: proxy.Local, Epoch: 1}, nil)
	began, finish := make(chan struct{}), make(chan struct{})
	var here atomic.Int64
	s.local = func(w http.ResponseWriter, _ *http.Request) {
		if here.Add(1) == 1 {
			close(began)
			<-finish
		}
		w.Header().Set("X-Side", "local")
	}
	var all sync.WaitGroup
	post := func(n int, want string) {
		all.Go(func() {
			a, body := ask(t, s, "POST", "/api/orders", fmt.Sprint("customer:u", n), fmt.Sprintf(`{"n":%d}`, n))
			if side := a.Header.Get("X-Side"); a.StatusCode != 200 || side != want {
				t.Errorf("request %d: %d from %q, want %s: %s", n, a.StatusCode, side, want, body)
			}
			if want == "remote" && !strings.Contains(body, fmt.Sprintf(`{\"n\":%d}`, n)) {
				t.Errorf("request %d arrived as %s", n, body)
			}
		})
	}
	post(0, "local")
	<-began
	place(t, s, proxy.Placement{State: proxy.Local, Epoch: 1, Paused: true})
	if err := s.gate.Settle(soon(t, 20*time.Millisecond), "orders"); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "1 requests") {
		t.Errorf("settled while a request runs: %v", err)
	}
	for n := range 20 {
		post(n+1, "remote")
	}
	eventually(t, func() bool { return s.metric("banyan_gateway_waiting") == 20 })
	close(finish)
	if err := s.gate.Settle(soon(t, 5*time.Second), "orders"); err != nil {
		t.Fatal(err)
	}
	if h, away := s.gate.InFlight("orders"); h != 0 || away != 0 || here.Load() != 1 || remote.asked.Load() != 0 {
		t.Errorf("while paused %d and %d are in flight, %d were answered here and %d there", h, away, here.Load(), remote.asked.Load())
	}
	place(t, s, proxy.Placement{State: proxy.Remote, Epoch: 2})
	all.Wait()
	if here.Load() != 1 || remote.asked.Load() != 20 || s.metric("banyan_gateway_waiting") != 0 {
		t.Errorf("%d answered here, %d there", here.Load(), remote.asked.Load())
	}
	if err := s.gate.Settle(soon(t, time.Second), "nothing"); err == nil {
		t.Error("a module that is not there settles")
	}
}

// A request that began before the pause, and whose body comes after it, goes to the new owner and not where its table says.
func TestPauseBindsOldTables(t *testing.T) {
	t.Parallel()
	s, remote, _ := moving(t, proxy.Placement{State: proxy.Local, Epoch: 1}, nil)
	var here atomic.Int64
	s.local = func(http.ResponseWriter, *http.Request) { here.Add(1) }
	conn, err := net.Dial("tcp", s.server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	// The answer to Expect comes when the body is read: the request has its table then.
	_, _ = io.WriteString(conn, "POST /api/orders HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer customer:ada\r\nContent-Type: application/json\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n")
	in := bufio.NewReader(conn)
	if a, err := http.ReadResponse(in, nil); err != nil || a.StatusCode != 100 {
		t.Fatalf("%v %v", a, err)
	}
	place(t, s, proxy.Placement{State: proxy.Local, Epoch: 1, Paused: true})
	if err := s.gate.Settle(soon(t, 5*time.Second), "orders"); err != nil {
		t.Fatal(err)
	}
	place(t, s, proxy.Placement{State: proxy.Remote, Epoch: 2})
	_, _ = io.WriteString(conn, "{}")
	a, err := http.ReadResponse(in, nil)
	if err != nil || a.StatusCode != 200 || here.Load() != 0 || remote.asked.Load() != 1 {
		t.Errorf("%v %v; %d answered here, %d there", a, err, here.Load(), remote.asked.Load())
	}
}

// A pause is bounded in time, in requests and in bytes; the answer says when to come back.
func TestPauseIsBounded(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*proxy.Pause){
		"time":     func(p *proxy.Pause) { p.Time = 20 * time.Millisecond },
		"requests": func(p *proxy.Pause) { p.Requests = 0 },
		"bytes":    func(p *proxy.Pause) { p.Bytes = 1 },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, _, _ := moving(t, proxy.Placement{State: proxy.Local, Paused: true}, func(c *proxy.Config) {
				c.Pause.Time = time.Minute
				change(&c.Pause)
			})
			a, body := ask(t, s, "POST", "/api/orders", "customer:ada", `{}`)
			if a.StatusCode != 503 || a.Header.Get("Retry-After") == "" || !strings.Contains(body, "being moved") {
				t.Errorf("%d %v %s", a.StatusCode, a.Header, body)
			}
		})
	}
}

// Streams are told to come back when their module is paused, on whichever side they are.
func TestPauseEndsStreams(t *testing.T) {
	t.Parallel()
	for _, state := range []proxy.State{proxy.Local, proxy.Remote} {
		t.Run(string(state), func(t *testing.T) {
			t.Parallel()
			s, remote, _ := moving(t, proxy.Placement{State: state, Epoch: 1}, nil)
			follow := func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Content-Type", "text/event-stream")
				_, _ = io.WriteString(w, "data: first\n\n")
				_ = http.NewResponseController(w).Flush()
				<-r.Context().Done()
			}
			s.local = follow
			remote.set(follow)
			a, err := http.Get(s.server.URL + "/api/follow")
			if err != nil {
				t.Fatal(err)
			}
			defer a.Body.Close()
			stream := bufio.NewReader(a.Body)
			for range 2 {
				if line, err := stream.ReadString('\n'); err != nil {
					t.Fatalf("%q %v", line, err)
				}
			}
			if here, away := s.gate.InFlight("orders"); here+away != 1 || (here == 1) != (state == proxy.Local) {
				t.Errorf("%d here, %d away", here, away)
			}
			place(t, s, proxy.Placement{State: state, Epoch: 1, Paused: true})
			if err := s.gate.Settle(soon(t, 5*time.Second), "orders"); err != nil {
				t.Error(err)
			}
			if rest, err := io.ReadAll(stream); err != nil || !strings.HasPrefix(string(rest), "retry: ") {
				t.Errorf("the stream ends with %q, %v", rest, err)
			}
			eventually(t, func() bool { _, away := s.gate.InFlight("orders"); return away == 0 })
		})
	}
}

// A second process that knows of a newer epoch sends the request back before anybody has looked at it. It goes to whoever owns the
// module now, once, and no client sees anything of it.
func TestStaleRequestsAreRoutedAgain(t *testing.T) {
	t.Parallel()
	s, remote, _ := moving(t, proxy.Placement{State: proxy.Remote, Epoch: 1}, nil)
	s.local = func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		w.Header().Set("X-Side", "local")
		_, _ = w.Write(body)
	}
	remote.epoch.Store(2)
	type got struct {
		status            int
		side, body        string
		epoch, mustRemain string
	}
	answers := make(chan got, 1)
	go func() {
		a, body := ask(t, s, "POST", "/api/orders", "customer:ada", `{"n":1}`)
		answers <- got{a.StatusCode, a.Header.Get("X-Side"), body, a.Header.Get("X-Banyan-Epoch"), a.Header.Get("X-Content-Type-Options")}
	}()
	eventually(t, func() bool { return s.metric("banyan_gateway_stale_total") == 1 })
	place(t, s, proxy.Placement{State: proxy.Local, Epoch: 2})
	if g := <-answers; g.status != 200 || g.side != "local" || g.body != `{"n":1}` || g.epoch != "" || g.mustRemain != "nosniff" {
		t.Errorf("got %+v", g)
	}
	if remote.asked.Load() != 0 {
		t.Error("the second process has handled it")
	}
	// The owner is the second process again.
	place(t, s, proxy.Placement{State: proxy.Remote, Epoch: 3})
	if a, body := ask(t, s, "POST", "/api/orders", "customer:ada", `{}`); a.StatusCode != 200 || a.Header.Get("X-Side") != "remote" {
		t.Errorf("%d %s", a.StatusCode, body)
	}
	// The newer epoch never comes: that is said, and when to come back.
	remote.epoch.Store(9)
	if a, body := ask(t, s, "POST", "/api/orders", "customer:ada", `{}`); a.StatusCode != 503 || a.Header.Get("Retry-After") == "" || a.Header.Get("X-Banyan-Epoch") != "" {
		t.Errorf("%d %v %s", a.StatusCode, a.Header, body)
	}
	// A module's own 421 is the module's.
	remote.epoch.Store(0)
	remote.set(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusMisdirectedRequest) })
	if a, _ := ask(t, s, "POST", "/api/orders", "customer:ada", `{}`); a.StatusCode != http.StatusMisdirectedRequest {
		t.Errorf("the module's own 421 became %d", a.StatusCode)
	}
}

// fresh are placements that have to be asked.
type fresh struct {
	*proxy.Fixed
	found proxy.Placement
}

func (f fresh) Refresh(ctx context.Context) error {
	return f.Move(ctx, f.Current()[0], f.found, nil)
}

// Placements that can be read anew are, so that nobody waits for the next time they would be by themselves.
func TestStaleRequestsRefreshPlacements(t *testing.T) {
	t.Parallel()
	s, remote, _ := movingWith(t, proxy.Placement{State: proxy.Remote, Epoch: 1}, nil, func(o *proxy.Options) {
		o.Placements = fresh{o.Placements.(*proxy.Fixed), proxy.Placement{Module: "orders", State: proxy.Local, Epoch: 2}}
	})
	remote.epoch.Store(2)
	if a, body := ask(t, s, "POST", "/api/orders", "customer:ada", `{}`); a.StatusCode != 200 || a.Header.Get("X-Side") != "local" {
		t.Errorf("%d %s", a.StatusCode, body)
	}
}

// How long a client waits is known wherever its request is answered.
func TestDeadlinesTravel(t *testing.T) {
	t.Parallel()
	left := func(w http.ResponseWriter, r *http.Request) {
		until, ok := r.Context().Deadline()
		if len(r.Header["X-Request-Timeout"]) > 0 {
			t.Error("the module sees the header")
		}
		_, _ = fmt.Fprintf(w, "%v %d", ok, time.Until(until).Milliseconds())
	}
	for _, state := range []proxy.State{proxy.Local, proxy.Remote} {
		s, remote, _ := moving(t, proxy.Placement{State: state}, func(c *proxy.Config) { c.Limits.Request = 10 * time.Second })
		s.local = left
		remote.set(left)
		for said, most := range map[string]int{"": 10_000, "2000": 2000, "60000": 10_000, "soon": 10_000, "-1": 10_000} {
			var ok bool
			var ms int
			_, body := ask(t, s, "GET", "/api/orders/1", "customer:ada", "", "X-Request-Timeout", said)
			if _, err := fmt.Sscan(body, &ok, &ms); err != nil || !ok || ms > most || ms < most-1500 {
				t.Errorf("%s, %q: the module has %q, want %d ms at most", state, said, body, most)
			}
		}
	}
}

// metric is the sum of a metric over its labels.
func (s *shop) metric(name string) float64 {
	s.t.Helper()
	families, err := s.metrics.Gather()
	if err != nil {
		s.t.Fatal(err)
	}
	sum := 0.0
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			sum += m.GetGauge().GetValue() + m.GetCounter().GetValue()
		}
	}
	return sum
}
