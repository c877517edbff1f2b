package discovery_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"

	"github.com/banyan-go/banyan/proxy/discovery"
)

// nameServer is a DNS server on loopback that answers from a zone, by UDP and TCP.
type nameServer struct {
	mu   sync.Mutex
	zone []string
	code int // of all answers
	mute bool
	tcp  atomic.Int64 // questions by TCP
	all  atomic.Int64 // questions
	addr string
}

func newNameServer(t *testing.T, zone ...string) *nameServer {
	t.Helper()
	n := &nameServer{zone: zone}
	stream, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	n.addr = stream.Addr().String()
	packets, err := net.ListenPacket("udp", n.addr)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []*dns.Server{{Listener: stream}, {PacketConn: packets}} {
		s.Handler = n
		started := make(chan struct{})
		s.NotifyStartedFunc = func() { close(started) }
		go func() { _ = s.ActivateAndServe() }()
		<-started
		t.Cleanup(func() { _ = s.Shutdown() })
	}
	return n
}

// set is what the server knows from now on.
func (n *nameServer) set(code int, zone ...string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.zone, n.code = zone, code
}

// silence lets it answer nothing from now on.
func (n *nameServer) silence() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.mute = true
}

func (n *nameServer) ServeDNS(w dns.ResponseWriter, q *dns.Msg) {
	n.mu.Lock()
	zone, code, mute := n.zone, n.code, n.mute
	n.mu.Unlock()
	n.all.Add(1)
	if mute {
		return
	}
	reply := new(dns.Msg).SetRcode(q, code)
	reply.Authoritative = true // without, "no such record" is a referral to nowhere
	known := false
	for _, line := range zone {
		record, err := dns.NewRR(line)
		if err != nil {
			panic(err)
		}
		if !strings.EqualFold(record.Header().Name, q.Question[0].Name) {
			continue
		}
		known = true
		if record.Header().Rrtype == q.Question[0].Qtype {
			reply.Answer = append(reply.Answer, record)
		}
	}
	if !known && code == dns.RcodeSuccess {
		reply.Rcode = dns.RcodeNameError
	}
	if _, udp := w.RemoteAddr().(*net.UDPAddr); udp {
		reply.Truncate(512)
	} else {
		n.tcp.Add(1)
	}
	_ = w.WriteMsg(reply)
}

// options ask this server, quickly.
func (n *nameServer) options() discovery.Options {
	c := discovery.DefaultConfig()
	c.Refresh, c.First, c.Timeout, c.EmptyAfter = 20*time.Millisecond, 10*time.Second, 5*time.Second, 100*time.Millisecond
	return discovery.Options{Config: c, Resolver: &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, network, n.addr)
	}}}
}

// watching is a source that is watched until the test ends.
type watching struct {
	t       *testing.T
	updates chan []discovery.Endpoint
	stop    func() error
}

func watch(t *testing.T, o discovery.Options, targets ...string) *watching {
	t.Helper()
	s, err := discovery.Parse(targets, o)
	if err != nil {
		t.Fatal(err)
	}
	w := &watching{t: t, updates: make(chan []discovery.Endpoint, 100)}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Watch(ctx, func(list []discovery.Endpoint) { w.updates <- list }) }()
	var once sync.Once
	w.stop = func() (err error) { once.Do(func() { cancel(); err = <-done }); return err }
	t.Cleanup(func() {
		if err := w.stop(); err != nil {
			t.Error(err)
		}
	})
	return w
}

// want waits for the next update, as "addr*weight addr*weight".
func (w *watching) want(want string) {
	w.t.Helper()
	select {
	case got := <-w.updates:
		if diff := cmp.Diff(want, show(got)); diff != "" {
			w.t.Errorf("update (-want +got):\n%s", diff)
		}
	case <-time.After(30 * time.Second):
		w.t.Fatalf("no update in 30 s, want %q", want)
	}
}

const longerThanAWait = 2 * time.Minute

// until waits for an update that may not be the next. A Consul that is restarted between two questions counts anew, and
// answers the second when its wait is over.
func (w *watching) until(want string) {
	w.t.Helper()
	for deadline := time.After(longerThanAWait); ; {
		select {
		case got := <-w.updates:
			if show(got) == want {
				return
			}
		case <-deadline:
			w.t.Fatalf("no update %q in %s", want, longerThanAWait)
		}
	}
}

func show(list []discovery.Endpoint) string {
	var words []string
	for _, e := range list {
		words = append(words, fmt.Sprintf("%s*%d", e.Addr, e.Weight))
	}
	return strings.Join(words, " ")
}

func TestAddresses(t *testing.T) {
	t.Parallel()
	n := newNameServer(t, "payments.test. 0 A 10.0.0.2", "payments.test. 0 A 10.0.0.1", "payments.test. 0 AAAA fd00::1", "other.test. 0 A 10.9.9.9")
	w := watch(t, n.options(), "dns://payments.test:9101")
	w.want("10.0.0.1:9101*1 10.0.0.2:9101*1 [fd00::1]:9101*1")
	n.set(dns.RcodeSuccess, "payments.test. 0 A 10.0.0.3")
	w.want("10.0.0.3:9101*1")
	n.set(dns.RcodeNameError)
	w.want("")
	n.set(dns.RcodeSuccess, "payments.test. 0 A 10.0.0.4")
	w.want("10.0.0.4:9101*1")
	n.set(dns.RcodeSuccess, "payments.test. 0 TXT nothing")
	w.want("")
	var many, want []string
	for i := range 100 {
		many = append(many, fmt.Sprintf("payments.test. 0 A 10.0.1.%d", 100+i))
		want = append(want, fmt.Sprintf("10.0.1.%d:9101*1", 100+i))
	}
	n.set(dns.RcodeSuccess, many...)
	w.want(strings.Join(want, " "))
	if n.tcp.Load() == 0 {
		t.Error("a hundred addresses came in 512 bytes: this test shows nothing")
	}
}

func TestAddressesOfIPv4AreWrittenAsSuch(t *testing.T) {
	t.Parallel()
	n := newNameServer(t, "localhost. 0 A 127.0.0.1") // asked if the machine's hosts file has no localhost
	if got := show(<-watch(t, n.options(), "dns://localhost:80").updates); !strings.HasPrefix(got, "127.0.0.1:80*1") {
		t.Errorf("got %q", got)
	}
}

// TestATroubledServerTakesNothingAway: an error is not an answer, for however long it stays.
func TestATroubledServerTakesNothingAway(t *testing.T) {
	t.Parallel()
	n := newNameServer(t, "payments.test. 0 A 10.0.0.1", "_http._tcp.payments.test. 0 SRV 0 0 9101 payments.test.")
	o := n.options()
	o.EmptyAfter = 0
	var mu sync.Mutex
	var log bytes.Buffer
	o.Log = slog.New(slog.NewTextHandler(writer(func(p []byte) (int, error) { mu.Lock(); defer mu.Unlock(); return log.Write(p) }), nil))
	for _, target := range []string{"dns://payments.test:9101", "srv://_http._tcp.payments.test"} {
		w := watch(t, o, target)
		w.want("10.0.0.1:9101*1")
		for _, code := range []int{dns.RcodeServerFailure, dns.RcodeRefused} {
			n.set(code)
			eventually(t, "a warning", func() bool {
				mu.Lock()
				defer mu.Unlock()
				return strings.Contains(log.String(), "those that are known stay")
			})
			n.set(dns.RcodeSuccess, "payments.test. 0 A 10.0.0.1", "_http._tcp.payments.test. 0 SRV 0 0 9101 payments.test.")
			eventually(t, "the end of it", func() bool {
				mu.Lock()
				defer mu.Unlock()
				if !strings.Contains(log.String(), "there is an answer again") {
					return false
				}
				log.Reset()
				return true
			})
		}
		select {
		case got := <-w.updates:
			t.Errorf("%s: got the update %q", target, show(got))
		default:
		}
		if err := w.stop(); err != nil {
			t.Error(err)
		}
	}
}

type writer func([]byte) (int, error)

func (w writer) Write(p []byte) (int, error) { return w(p) }

func TestServices(t *testing.T) {
	t.Parallel()
	hosts := []string{"a.test. 0 A 10.0.0.1", "a.test. 0 AAAA fd00::1", "b.test. 0 A 10.0.0.2", "c.test. 0 A 10.0.0.3"}
	with := func(records ...string) []string {
		zone := append([]string{}, hosts...)
		for _, r := range records {
			zone = append(zone, "_http._tcp.payments.test. 0 SRV "+r)
		}
		return zone
	}
	n := newNameServer(t, with("10 5 9101 a.test.", "10 0 9102 b.test.", "20 9 9103 c.test.")...)
	w := watch(t, n.options(), "srv://_http._tcp.payments.test")
	w.want("10.0.0.1:9101*5 10.0.0.2:9102*1 [fd00::1]:9101*5")
	n.set(dns.RcodeSuccess, with("20 9 9103 c.test.", "30 1 9101 a.test.")...)
	w.want("10.0.0.3:9103*9")
	n.set(dns.RcodeSuccess, with("10 2 9101 a.test.", "10 2 9101 gone.test.", "10 2 9102 b.test.", "10 7 9102 b.test.")...)
	w.want("10.0.0.1:9101*2 10.0.0.2:9102*7 [fd00::1]:9101*2")
	n.set(dns.RcodeSuccess, with("0 0 0 .")...)
	w.want("")
}

func TestTheFirstAnswerHasADeadline(t *testing.T) {
	t.Parallel()
	n := newNameServer(t)
	mute := newNameServer(t)
	mute.silence()
	for name, c := range map[string]struct {
		server *nameServer
		target string
		want   string
	}{
		"unknown name":    {n, "dns://payments.test:9101", "no endpoints within 1s: dns://payments.test:9101: the answer has no endpoints"},
		"unknown service": {n, "srv://_http._tcp.payments.test", "no endpoints within 1s: srv://_http._tcp.payments.test: the answer has no endpoints"},
		"no answer":       {mute, "dns://payments.test:9101", "no endpoints within 1s: dns://payments.test:9101: lookup payments.test"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := c.server.options()
			o.First, o.Timeout = time.Second, 100*time.Millisecond
			s, err := discovery.Parse([]string{c.target}, o)
			if err != nil {
				t.Fatal(err)
			}
			begin := time.Now()
			err = s.Watch(context.Background(), func(list []discovery.Endpoint) { t.Errorf("got %q", show(list)) })
			if err == nil || !strings.HasPrefix(err.Error(), c.want) || time.Since(begin) > 10*time.Second {
				t.Errorf("got %v after %s, want %q", err, time.Since(begin), c.want)
			}
			if questions := c.server.all.Load(); c.server == mute && questions < 4 { // of each attempt two, for A and AAAA
				t.Errorf("%d questions: one that was not answered kept the others waiting", questions)
			}
		})
	}
}

// eventually waits for what happens in another goroutine.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !ok(); {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within a minute", what)
		}
		<-time.After(2 * time.Millisecond)
	}
}
