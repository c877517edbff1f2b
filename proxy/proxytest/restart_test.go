package proxytest_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/banyan-go/banyan/internal/module"
	"github.com/banyan-go/banyan/proxy"
	"github.com/banyan-go/banyan/proxy/upstream"
)

// The file in which a process notes what it has received makes this test binary such a process.
const ledgerVariable = "BANYAN_TEST_LEDGER"

func TestMain(m *testing.M) {
	if name := os.Getenv(ledgerVariable); name != "" {
		if err := serveLedger(name); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// serveLedger is an upstream's process: it notes each request before it answers, and stops in good order when it is told to.
func serveLedger(name string) error {
	books, err := os.OpenFile(name, os.O_APPEND|os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	var leaving atomic.Bool
	s := &http.Server{Protocols: protocols(true, true), Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if leaving.Load() {
			w.Header().Set("Connection", "close") // Shutdown does not reach a connection that comes about at that moment
		}
		id, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		_, _ = books.Write(append(id, '\n')) // the kernel has it: a kill loses nothing of it
		time.Sleep(500 * time.Microsecond)   // some work, so that there is always something in flight
		_, _ = io.WriteString(w, "done")
	})}
	l, err := net.FileListener(os.NewFile(3, "listener"))
	if err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		leaving.Store(true)
		ended <- s.Shutdown(ctx)
	}()
	fmt.Println("ready")
	if err := s.Serve(l); err != http.ErrServerClosed {
		return err
	}
	return <-ended
}

// ledger is what the processes of an upstream have received, over all restarts.
type ledger struct {
	t    *testing.T
	name string
}

func newLedger(t *testing.T) ledger {
	t.Helper()
	return ledger{t, filepath.Join(t.TempDir(), "received")}
}

// start starts a process that takes over the socket. stop ends it in good order and kill does not; both wait for its end.
func (l ledger) start(listener net.Listener) (stop, kill func()) {
	l.t.Helper()
	socket, err := share(listener)
	if err != nil {
		l.t.Fatal(err)
	}
	defer func() { _ = socket.Close() }()
	self, err := os.Executable()
	if err != nil {
		l.t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), ledgerVariable+"="+l.name)
	cmd.ExtraFiles = []*os.File{socket}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	in, err := cmd.StdinPipe()
	if err != nil {
		l.t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		l.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		l.t.Fatal(err)
	}
	if _, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		l.t.Fatalf("the process does not start: %v", err)
	}
	var once sync.Once
	stop = func() {
		once.Do(func() {
			_ = in.Close()
			if err := cmd.Wait(); err != nil {
				l.t.Errorf("the process ends with %v", err)
			}
		})
	}
	kill = func() {
		once.Do(func() {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		})
	}
	l.t.Cleanup(kill)
	return stop, kill
}

// share is File of a listener without its side effect: that makes the socket a blocking one, in all processes that have it, and one of
// them that waits in accept could not stop before the next connection comes.
func share(listener net.Listener) (*os.File, error) {
	raw, err := listener.(*net.TCPListener).SyscallConn()
	if err != nil {
		return nil, err
	}
	var socket int
	var failed error
	err = raw.Control(func(fd uintptr) { socket, failed = syscall.Dup(int(fd)) })
	if err = errors.Join(err, failed); err != nil {
		return nil, err
	}
	syscall.CloseOnExec(socket)
	return os.NewFile(uintptr(socket), "listener"), nil
}

// check says that each request that was answered well was received once, and none twice.
func (l ledger) check(answered map[string]reply) (failed []string) {
	l.t.Helper()
	raw, err := os.ReadFile(l.name)
	if err != nil {
		l.t.Fatal(err)
	}
	received := map[string]int{}
	for _, id := range strings.Fields(string(raw)) {
		received[id]++
	}
	for id, got := range answered {
		if n := received[id]; n > 1 || got.status == 200 && n != 1 {
			l.t.Errorf("%s was answered %d and received %d times", id, got.status, n)
		}
		if got.status != 200 || got.err != nil {
			failed = append(failed, id)
		}
	}
	if len(answered) < 100 {
		l.t.Errorf("only %d requests", len(answered))
	}
	l.t.Logf("%d requests, %d failed", len(answered), len(failed))
	return failed
}

// storm lets 24 clients send POSTs through the gateway until end, and gives what they were answered.
func storm(d *door, path string, end <-chan struct{}) map[string]reply {
	d.t.Helper()
	answered := map[string]reply{}
	var mu sync.Mutex
	var all sync.WaitGroup
	for n := range 24 {
		c := client(d.t, false)
		all.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-end:
					return
				default:
				}
				id := fmt.Sprintf("%d%06d", n+1, i) // a number is JSON
				r := request(d.t, "POST", d.url+path, id, "Content-Type", "application/json")
				r.GetBody = nil // the client itself repeats nothing
				resp, err := c.Do(r)
				got := reply{err: err}
				if err == nil {
					_, got.err = io.Copy(io.Discard, resp.Body)
					_ = resp.Body.Close()
					got.status, got.header = resp.StatusCode, resp.Header
				}
				mu.Lock()
				answered[id] = got
				mu.Unlock()
			}
		})
	}
	all.Wait()
	return answered
}

// listen is a socket that outlives the processes which serve it.
func listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

// placed is a gateway with a module that is remote, at the endpoints.
func placed(t *testing.T, change func(*proxy.Config), endpoints ...string) *door {
	t.Helper()
	return open(t, func(c *proxy.Config, o *proxy.Options) {
		c.Gates.Automatic.Rollback, c.Gates.Automatic.Advance = false, false
		c.Remote.Pool.Connect = 10 * time.Second // a slow machine is no restart
		o.Modules = []module.Descriptor{{Name: "orders", Routes: []module.Route{{ID: "place", Method: "POST", Path: "/api/orders", Class: module.Write}}}}
		o.Endpoints = map[string][]string{"orders": endpoints}
		o.Placements = proxy.NewFixed(proxy.Placement{Module: "orders", State: proxy.Remote})
		change(c)
	})
}

const restarts = 30

// TestRestartsLoseNothing: over h2c the old process says what it has not looked at, and that goes to the new one.
func TestRestartsLoseNothing(t *testing.T) {
	t.Parallel()
	books, l := newLedger(t), listen(t)
	d := placed(t, func(*proxy.Config) {}, "http://"+l.Addr().String())
	stop, _ := books.start(l)
	end := make(chan struct{})
	go func() {
		defer close(end)
		var stopping sync.WaitGroup
		for range restarts {
			next, _ := books.start(l) // listens before the old one stops
			time.Sleep(20 * time.Millisecond)
			stopping.Go(stop)
			stop = next
		}
		stopping.Wait()
	}()
	answered := storm(d, "/api/orders", end)
	stop()
	if failed := books.check(answered); len(failed) > 0 {
		t.Errorf("%d failed, as %+v", len(failed), answered[failed[0]])
	}
}

// registry answers as a Consul agent that knows one instance of a service.
type registry struct {
	mu      sync.Mutex
	addr    string
	index   int
	changed chan struct{}
}

func (r *registry) set(addr string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.addr = addr
	r.index++
	close(r.changed)
	r.changed = make(chan struct{})
}

func (r *registry) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	r.mu.Lock()
	if q.URL.Query().Get("index") == strconv.Itoa(r.index) {
		changed := r.changed
		r.mu.Unlock()
		select {
		case <-changed:
		case <-q.Context().Done():
			return
		}
		r.mu.Lock()
	}
	defer r.mu.Unlock()
	host, port, _ := net.SplitHostPort(r.addr)
	number, _ := strconv.Atoi(port)
	w.Header().Set("X-Consul-Index", strconv.Itoa(r.index))
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode([]any{map[string]any{"Service": map[string]any{"ID": r.addr, "Address": host, "Port": number}}})
}

// TestDrainedRestartsLoseNothing: over HTTP/1.1 a process is left before it stops. It is not asked, and does not have to be.
func TestDrainedRestartsLoseNothing(t *testing.T) {
	t.Parallel()
	for _, way := range []string{upstream.Standard, upstream.Synchronous} {
		t.Run(way, func(t *testing.T) {
			t.Parallel()
			books := newLedger(t)
			start := func() (addr string, kill func()) {
				l := listen(t)
				_, kill = books.start(l)
				_ = l.Close()
				return l.Addr().String(), kill
			}
			consul := &registry{changed: make(chan struct{})}
			addr, kill := start()
			consul.set(addr)
			agent := serve(t, &http.Server{Handler: consul})
			d := placed(t, func(c *proxy.Config) {
				c.Remote.Protocol, c.Remote.Transport = upstream.H1, way
				c.Discovery.Consul.Addr = agent
			}, "consul://orders")
			uses := func(addr string) (found bool) {
				for _, e := range d.gate.Upstreams()[0].Endpoints {
					found = found || e.Addr == addr
				}
				return found
			}
			eventually(t, "the first process", func() bool { return uses(addr) })
			end := make(chan struct{})
			go func() {
				defer close(end)
				for range restarts {
					time.Sleep(20 * time.Millisecond)
					next, killNext := start()
					consul.set(next)
					for limit := time.Now().Add(patience); uses(addr); time.Sleep(time.Millisecond) {
						if time.Now().After(limit) {
							t.Error("the old process is not left")
							return
						}
					}
					kill()
					addr, kill = next, killNext
				}
			}()
			answered := storm(d, "/api/orders", end)
			kill()
			if failed := books.check(answered); len(failed) > 0 {
				t.Errorf("%d failed, as %+v", len(failed), answered[failed[0]])
			}
		})
	}
}

// TestKilledProcesses: of a process that is killed only what may have been sent to it fails, and nothing is done twice.
func TestKilledProcesses(t *testing.T) {
	t.Parallel()
	for _, way := range []string{upstream.H2C, upstream.H1, upstream.Synchronous} {
		t.Run(way, func(t *testing.T) {
			t.Parallel()
			books, l := newLedger(t), listen(t)
			d := placed(t, func(c *proxy.Config) {
				c.Remote.Protocol = way
				if way == upstream.Synchronous {
					c.Remote.Protocol, c.Remote.Transport = upstream.H1, upstream.Synchronous
				}
				c.Remote.Retry.Attempts, c.Remote.Retry.Reserve = 5, 100_000
			}, "http://"+l.Addr().String())
			_, kill := books.start(l)
			const kills = 10
			end := make(chan struct{})
			go func() {
				defer close(end)
				for range kills {
					time.Sleep(30 * time.Millisecond)
					_, next := books.start(l) // whoever has nothing to lose goes there
					kill()
					kill = next
				}
			}()
			answered := storm(d, "/api/orders", end)
			kill()
			failed := books.check(answered)
			var broken []error // answers, each of which the gateway says that it has broken off
			for _, id := range failed {
				if got := answered[id]; got.err != nil {
					broken = append(broken, got.err)
				} else if got.status != http.StatusBadGateway {
					t.Errorf("%s: got %+v", id, got)
				}
			}
			aborted := 0
			for _, line := range d.access() {
				if line.Failure == string(upstream.Aborted) {
					aborted++
				}
				if line.Failure != "" && line.Failure != string(upstream.MaybeSent) && line.Failure != string(upstream.Aborted) {
					t.Errorf("%+v", line)
				}
			}
			if len(broken) > aborted {
				t.Errorf("%d clients got no answer, and %d answers were broken off: %v", len(broken), aborted, errors.Join(broken...))
			}
			if len(failed) > 24*kills {
				t.Errorf("%d failed, with 24 clients and %d kills", len(failed), kills)
			}
		})
	}
}
