package upstream_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/banyan-go/banyan/internal/module"
	"github.com/banyan-go/banyan/proxy/upstream"
)

// ledger is what the processes of an upstream have received, over all restarts.
type ledger struct {
	mu       sync.Mutex
	received map[string]int
}

func (l *ledger) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	b, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	l.mu.Lock()
	l.received[string(b)]++
	l.mu.Unlock()
	time.Sleep(500 * time.Microsecond) // some work, so that there is always something in flight
	_, _ = io.WriteString(w, "done")
}

// storm lets 24 clients send POSTs until stop, and gives what they were answered.
func storm(t *testing.T, g *gate, stop <-chan struct{}) (answered map[string]int, failed []upstream.Result) {
	t.Helper()
	answered = map[string]int{}
	var mu sync.Mutex
	var all sync.WaitGroup
	for n := range 24 {
		all.Go(func() {
			c := client(t, false)
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				id := fmt.Sprintf("%d-%d", n, i)
				r := g.request("POST", "/", id)
				if i%3 == 0 {
					r.Header["idempotency-key"] = []string{id} // so that the client itself repeats nothing
				}
				got := do(t, c, r)
				mu.Lock()
				answered[id] = got.status
				mu.Unlock()
			}
		})
	}
	all.Wait()
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, r := range g.results {
		if r.Failure != upstream.None {
			failed = append(failed, r)
		}
	}
	return answered, failed
}

// check says that each request that was answered was received once, and none twice.
func (l *ledger) check(t *testing.T, answered map[string]int) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(answered) < 100 {
		t.Errorf("only %d requests", len(answered))
	}
	for id, status := range answered {
		if n := l.received[id]; n > 1 || status == 200 && n != 1 {
			t.Errorf("%s was answered %d and received %d times", id, status, n)
		}
	}
}

// Over h2c a graceful restart loses nothing: the old process says what it has not looked at, and that goes to the new one.
func TestRestartStorm(t *testing.T) {
	t.Parallel()
	books := &ledger{received: map[string]int{}}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	// A process takes over the socket of the one before, as with socket activation, before that one stops.
	start := func() (stop func()) {
		f, err := l.(*net.TCPListener).File()
		if err != nil {
			t.Fatal(err)
		}
		shared, err := net.FileListener(f)
		_ = f.Close()
		if err != nil {
			t.Fatal(err)
		}
		s := &http.Server{Handler: books, Protocols: protocols(false, true)}
		ended := make(chan struct{})
		go func() { defer close(ended); _ = s.Serve(shared) }()
		return func() {
			ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
			defer cancel()
			if err := s.Shutdown(ctx); err != nil {
				t.Errorf("shutdown: %v", err)
			}
			<-ended
		}
	}
	g := open(t, upstream.H2C, options{call: upstream.Call{Class: module.Write}}, "http://"+l.Addr().String())
	stop := start()
	end := make(chan struct{})
	go func() {
		defer close(end)
		var stopping sync.WaitGroup
		for range 30 {
			time.Sleep(30 * time.Millisecond) // of load between two restarts
			next := start()
			stopping.Go(stop)
			stop = next
		}
		stopping.Wait()
	}()
	answered, failed := storm(t, g, end)
	stop()
	books.check(t, answered)
	if len(failed) > 0 {
		t.Errorf("%d of %d failed, as in %+v", len(failed), len(answered), failed[0])
	}
	t.Logf("%d requests", len(answered))
}

// Over h1 nothing is lost when the gateway leaves the old process before that one stops.
func TestRestartStormWithDrain(t *testing.T) {
	t.Parallel()
	for _, way := range []string{upstream.Standard, upstream.Synchronous} {
		t.Run(way, func(t *testing.T) {
			t.Parallel()
			books := &ledger{received: map[string]int{}}
			discovery := &source{}
			start := func() (addr string, kill func()) {
				l, err := net.Listen("tcp", "127.0.0.1:0")
				if err != nil {
					t.Fatal(err)
				}
				s := &http.Server{Handler: books}
				go func() { _ = s.Serve(l) }()
				return l.Addr().String(), func() { _ = s.Close() }
			}
			addr, kill := start()
			discovery.set(addr)
			g := open(t, upstream.H1, options{cfg: func(c *upstream.Config) { c.Transport = way }, call: upstream.Call{Class: module.Write}, opts: upstream.Options{Source: discovery}})
			eventually(t, "readiness", func() bool { return g.Ready() == nil })
			end := make(chan struct{})
			go func() {
				defer close(end)
				for range 30 {
					time.Sleep(20 * time.Millisecond)
					next, killNext := start()
					discovery.set(next)
					eventually(t, "the end of the old process", func() bool { return g.endpoint(addr).Addr == "" })
					kill() // it is not asked, and does not have to be
					addr, kill = next, killNext
				}
			}()
			answered, failed := storm(t, g, end)
			kill()
			books.check(t, answered)
			if len(failed) > 0 {
				t.Errorf("%d of %d failed, as in %+v", len(failed), len(answered), failed[0])
			}
			t.Logf("%d requests", len(answered))
		})
	}
}

// A process that is killed loses what it had; nothing else fails, and nothing is done twice.
func TestKill(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, protocol string, cfg func(*upstream.Config)) {
		books := &ledger{received: map[string]int{}}
		start := func() (string, func()) {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			s := &http.Server{Handler: books, Protocols: protocols(true, true)}
			go func() { _ = s.Serve(l) }()
			return l.Addr().String(), func() { _ = s.Close() }
		}
		stays, killStays := start()
		defer killStays()
		discovery := &source{}
		addr, kill := start()
		discovery.set(stays, addr)
		g := open(t, protocol, options{cfg: func(c *upstream.Config) {
			cfg(c)
			c.Retry.Attempts, c.Retry.Reserve, c.Breaker.Consecutive, c.Breaker.Ratio = 5, 100_000, 0, 0
		}, call: upstream.Call{Class: module.Write}, opts: upstream.Options{Source: discovery}})
		eventually(t, "readiness", func() bool { return g.Ready() == nil })
		end := make(chan struct{})
		const kills = 10
		go func() {
			defer close(end)
			for range kills {
				time.Sleep(20 * time.Millisecond)
				kill()
				time.Sleep(10 * time.Millisecond) // until it is noticed; the endpoint stays
				addr, kill = start()
				discovery.set(stays, addr)
			}
		}()
		answered, failed := storm(t, g, end)
		kill()
		books.check(t, answered)
		for _, r := range failed {
			if r.Failure != upstream.MaybeSent && r.Failure != upstream.Aborted || r.Endpoint == stays {
				t.Errorf("%+v", r)
			}
		}
		if len(failed) > 24*kills {
			t.Errorf("%d failed, with 24 clients and %d kills", len(failed), kills)
		}
		if s := g.Status(); s.InFlight != 0 || !strings.HasPrefix(s.Breaker, "closed") {
			t.Errorf("%+v", s)
		}
		t.Logf("%d of %d failed", len(failed), len(answered))
	})
}
