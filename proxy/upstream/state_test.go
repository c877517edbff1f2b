package upstream

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/banyan-go/banyan/internal/clock"
)

// trip is a breaker and what a test does with it, on the clock of a bubble.
type trip struct {
	*breaker
	t      *testing.T
	states []string
}

func newTrip(t *testing.T, change func(*Breaker)) *trip {
	x := &trip{t: t}
	cfg := DefaultConfig().Breaker
	if change != nil {
		change(&cfg)
	}
	x.breaker = &breaker{cfg: cfg, changed: func(s state) { x.states = append(x.states, s.String()) }}
	return x
}

// send is a request with a verdict; it says whether it was let through.
func (x *trip) send(v verdict) bool {
	p, ok := x.allow(time.Now())
	if ok {
		x.record(&p, v, time.Now())
	}
	return ok
}

func (x *trip) expect(states ...string) {
	x.t.Helper()
	if diff := cmp.Diff(states, x.states); diff != "" {
		x.t.Errorf("states (-want +got)\n%s", diff)
	}
}

func TestBreakerConsecutive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := newTrip(t, nil)
		for range 4 {
			x.send(failed)
		}
		for range 100 {
			x.send(nothing) // clients that go are no news
		}
		x.send(good)
		for range 4 {
			x.send(failed)
		}
		x.expect()
		x.send(failed)
		x.expect("open")
		if x.send(good) {
			t.Error("lets one through while it is open")
		}
		time.Sleep(x.cfg.Open - time.Millisecond)
		if x.send(good) || x.at(time.Now()) != open {
			t.Error("opens too early")
		}
		time.Sleep(time.Millisecond)
		if x.at(time.Now()) != halfOpen {
			t.Error("is not ready to be tried")
		}
		for range x.cfg.Probes - 1 {
			if !x.send(good) {
				t.Error("keeps a probe back")
			}
			x.expect("open", "half_open")
		}
		x.send(good)
		x.expect("open", "half_open", "closed")
	})
}

func TestBreakerAnswersAreNoSilence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := newTrip(t, func(c *Breaker) { c.Ratio = 0 })
		for range 100 {
			for range 4 {
				x.send(failed)
			}
			x.send(answered)
		}
		x.expect()
	})
}

func TestBreakerRatio(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := newTrip(t, nil)
		for range 19 {
			x.send(answered)
		}
		x.expect() // too few to say anything
		x.send(answered)
		x.expect("open")

		// What is older than the window does not count.
		x = newTrip(t, nil)
		for range 19 {
			x.send(answered)
		}
		time.Sleep(x.cfg.Window + x.cfg.Window/parts)
		for range 19 {
			x.send(answered)
		}
		x.expect()

		// Less than the ratio never trips, whatever the order.
		x = newTrip(t, nil)
		for i := range 100_000 {
			v := good
			if i*7%10 < 4 {
				v = answered
			}
			x.send(v)
			if i%1000 == 0 {
				time.Sleep(100 * time.Millisecond)
			}
		}
		x.expect()
	})
}

func TestBreakerProbes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := newTrip(t, func(c *Breaker) { c.Probes = 2 })
		tripped := func() {
			for range 5 {
				x.send(failed)
			}
			time.Sleep(x.cfg.Open)
			x.states = nil
		}
		tripped()
		a, ok := x.allow(time.Now())
		b, ok2 := x.allow(time.Now())
		if _, more := x.allow(time.Now()); !ok || !ok2 || more {
			t.Fatal("there are not two probes")
		}
		// A probe whose client went gives its place to another one.
		x.record(&a, nothing, time.Now())
		c, ok := x.allow(time.Now())
		if !ok {
			t.Fatal("the place is lost")
		}
		x.record(&b, good, time.Now())
		x.record(&c, failed, time.Now())
		x.expect("half_open", "open")

		// What was sent before the breaker opened says nothing when it is tried again.
		x = newTrip(t, func(c *Breaker) { c.Probes = 1 })
		old, _ := x.allow(time.Now())
		tripped()
		probe, _ := x.allow(time.Now())
		x.record(&old, failed, time.Now())
		x.expect("half_open")
		x.record(&probe, good, time.Now())
		x.expect("half_open", "closed")

		// A stream that has begun well and breaks off later is a failure like others.
		p, _ := x.allow(time.Now())
		x.record(&p, good, time.Now())
		for range 5 {
			x.record(&p, failed, time.Now())
		}
		x.expect("half_open", "closed", "open")
	})
}

// In a million requests with few failures it never trips by chance; when all fail it does at once.
func TestBreakerInTheLongRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := newTrip(t, nil)
		r := rand.New(rand.NewPCG(1, 2))
		for i := range 1_000_000 {
			v := good
			if r.IntN(1000) < 4 {
				v = failed
			}
			x.send(v)
			if i%100 == 0 {
				time.Sleep(time.Second)
			}
		}
		x.expect()
		n := 0
		for x.send(failed) {
			n++
		}
		if n > 10 {
			t.Errorf("%d requests until the breaker opened", n)
		}
	})
}

func TestBudgetOfRetries(t *testing.T) {
	spendAll := func(b *budget) (n int) {
		for b.spend() {
			n++
		}
		return n
	}
	b := newBudget(Retry{Budget: 10, Reserve: 5})
	if n := spendAll(b); n != 5 {
		t.Errorf("the reserve is %d", n)
	}
	for range 29 {
		b.earn()
	}
	if n := spendAll(b); n != 2 {
		t.Errorf("29 requests earn %d", n)
	}
	for range 1_000_000 {
		b.earn()
	}
	if n := spendAll(b); n != 5 {
		t.Errorf("what is saved is %d", n)
	}
	none := newBudget(Retry{Budget: 0, Reserve: 5})
	none.earn()
	if none.spend() {
		t.Error("no budget lets one be sent again")
	}
}

func TestBulkheadQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBulkhead(Bulkhead{MaxInFlight: 1, MaxQueue: 3, QueueWait: time.Second, MaxStreams: 1}, clock.System{})
		enter := func(ctx context.Context) error { return b.enter(ctx, false, time.Now()) }
		if err := enter(t.Context()); err != nil {
			t.Fatal(err)
		}
		// First come, first served; whoever gives up leaves no hole.
		var mu sync.Mutex
		var served []string
		ctx, cancel := context.WithCancel(t.Context())
		var all sync.WaitGroup
		wait := func(name string, ctx context.Context) {
			all.Go(func() {
				err := enter(ctx)
				mu.Lock()
				defer mu.Unlock()
				if err != nil {
					name += ": " + err.Error()
				}
				served = append(served, name)
			})
			synctest.Wait()
		}
		wait("a", t.Context())
		wait("gone", ctx)
		wait("b", t.Context())
		if err := enter(t.Context()); !errors.Is(err, ErrSaturated) {
			t.Errorf("the queue is full: %v", err)
		}
		cancel()
		synctest.Wait()
		b.leave(false)
		synctest.Wait()
		b.leave(false)
		all.Wait()
		wait("late", t.Context())
		time.Sleep(2 * time.Second)
		all.Wait()
		if diff := cmp.Diff([]string{"gone: context canceled", "a", "b", "late: " + ErrSaturated.Error()}, served); diff != "" {
			t.Errorf("(-want +got)\n%s", diff)
		}
		if requests, _, queued, _ := b.count(); requests != 1 || queued != 0 {
			t.Errorf("%d in flight, %d wait", requests, queued)
		}
		// A drain sends those away who wait, and waits for the others.
		wait("last", t.Context())
		b.close()
		all.Wait()
		if got := served[len(served)-1]; got != "last: "+ErrDraining.Error() {
			t.Errorf("got %q", got)
		}
		if err := b.enter(t.Context(), true, time.Now()); !errors.Is(err, ErrDraining) {
			t.Errorf("a stream enters: %v", err)
		}
		go func() { time.Sleep(time.Minute); b.leave(false) }()
		short, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if left := b.wait(short, false); left != 1 {
			t.Errorf("%d are left after a second", left)
		}
		if left := b.wait(t.Context(), false); left != 0 {
			t.Errorf("%d are left", left)
		}
	})
}

// Many come and go at the same time, and the number is never exceeded nor lost.
func TestBulkheadIsExact(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const most = 5
		b := newBulkhead(Bulkhead{MaxInFlight: most, MaxQueue: 50, QueueWait: 30 * time.Millisecond}, clock.System{})
		var mu sync.Mutex
		inside := 0
		var all sync.WaitGroup
		for i := range 200 {
			r := rand.New(rand.NewPCG(uint64(i), 7))
			all.Go(func() {
				time.Sleep(time.Duration(r.Int64N(int64(100 * time.Millisecond))))
				ctx, cancel := context.WithTimeout(t.Context(), time.Duration(r.Int64N(int64(40*time.Millisecond))))
				defer cancel()
				if b.enter(ctx, false, time.Now()) != nil {
					return
				}
				mu.Lock()
				if inside++; inside > most {
					t.Errorf("%d are inside", inside)
				}
				mu.Unlock()
				time.Sleep(time.Duration(r.Int64N(int64(10 * time.Millisecond))))
				mu.Lock()
				inside--
				mu.Unlock()
				b.leave(false)
			})
		}
		all.Wait()
		if requests, _, queued, _ := b.count(); requests != 0 || queued != 0 {
			t.Errorf("%d in flight, %d wait at the end", requests, queued)
		}
	})
}

// Whoever has chosen an endpoint before it went, and comes in after, is sent on: the endpoint may have stopped already.
func TestEndpointGoesMeanwhile(t *testing.T) {
	t.Parallel()
	cfg := DefaultConfig()
	cfg.Endpoints = []string{"http://127.0.0.1:1", "http://127.0.0.1:2"}
	u, err := New(cfg, Options{Name: "orders"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = u.Close() }()
	chosen := u.endpoints[0]
	u.replace([]address{{addr: "127.0.0.1:2"}})
	for _, stream := range []bool{false, true} {
		if err := chosen.enter(stream); !errors.Is(err, errGone) || chosen.load() != 0 {
			t.Errorf("enters: %v, %d are in it", err, chosen.load())
		}
		if e, err := u.pick(time.Now(), stream, nil); err != nil || e.addr != "127.0.0.1:2" {
			t.Errorf("picks %v, %v", e, err)
		}
	}
}

// three is an upstream with as many endpoints, where nobody listens.
func three(t *testing.T, change func(*Config)) *Upstream {
	t.Helper()
	cfg := DefaultConfig()
	cfg.Endpoints = []string{"http://127.0.0.1:1", "http://127.0.0.1:2", "http://127.0.0.1:3"}
	change(&cfg)
	u, err := New(cfg, Options{Name: "orders"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = u.Close() })
	return u
}

func TestChecksInARow(t *testing.T) {
	t.Parallel()
	u := three(t, func(c *Config) { c.Health.Active.Fails, c.Health.Active.Passes = 3, 2 })
	e := u.endpoints[0]
	bad := errors.New("/readyz answers 503")
	// Each letter is a check, and each sign whether the endpoint counts as well after it.
	const checks, want = "pfffpfpfppffpfffpp", "+++------++++++--+"
	got := ""
	for _, c := range checks {
		if c == 'p' {
			u.learn(e, nil)
		} else {
			u.learn(e, bad)
		}
		if e.well {
			got += "+"
		} else {
			got += "-"
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s (-want +got)\n%s", checks, diff)
	}
	// The very first one decides alone.
	if u.learn(u.endpoints[1], bad); u.endpoints[1].well {
		t.Error("one that has never been well is believed to be")
	}
	if u.learn(u.endpoints[1], nil); u.endpoints[1].well {
		t.Error("one pass is taken for two")
	}
}

func TestFailuresInARow(t *testing.T) {
	t.Parallel()
	u := three(t, func(c *Config) { c.Health.Passive.Consecutive = 3 })
	e := u.endpoints[0]
	for _, v := range []verdict{failed, answered, good, answered, failed, nothing, good, failed, failed} {
		e.note(v)
	}
	if !e.out.IsZero() {
		t.Error("is left out although it has answered in between")
	}
	e.note(failed)
	if e.out.IsZero() {
		t.Error("is not left out")
	}
}

// timed is a writer that notes until when the client may send.
type timed struct {
	http.ResponseWriter
	until time.Time
}

func (w *timed) SetReadDeadline(t time.Time) error {
	w.until = t
	return nil
}

type readFunc func(p []byte) (int, error)

func (fn readFunc) Read(p []byte) (int, error) { return fn(p) }

// A body that has come to its end has no time any more, also if a piece of the answer has passed in the same moment.
func TestNoTimeAfterTheBody(t *testing.T) {
	t.Parallel()
	w := &timed{ResponseWriter: httptest.NewRecorder()}
	var b *body
	r := &http.Request{ContentLength: -1, Body: io.NopCloser(readFunc(func([]byte) (int, error) {
		b.stir()
		if w.until.Before(time.Now()) {
			t.Error("the client has no time for its body")
		}
		return 0, io.EOF
	}))}
	b, err := newBody(w, r, 0, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	var out http.Request
	if err := b.attach(&out, H1); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(out.Body); err != nil {
		t.Fatal(err)
	}
	b.stir()
	if !w.until.IsZero() {
		t.Errorf("the connection is read until %s", w.until)
	}
}

// What has ended is not read from any more: the server may use the connection for another request.
func TestBodyHasEnded(t *testing.T) {
	t.Parallel()
	src := bytes.NewReader(make([]byte, 1000))
	r := &http.Request{Body: io.NopCloser(src), ContentLength: 1000}
	b, err := newBody(httptest.NewRecorder(), r, 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	var first, second http.Request
	if err := errors.Join(b.attach(&first, H1), first.Body.Close()); err != nil || !b.again() {
		t.Fatalf("a body that nobody has read cannot be sent again: %v", err)
	}
	if err := b.attach(&second, H1); err != nil {
		t.Fatal(err)
	}
	if n, err := first.Body.Read(make([]byte, 10)); n != 0 || err == nil {
		t.Errorf("the first attempt still reads: %d, %v", n, err)
	}
	if n, err := second.Body.Read(make([]byte, 10)); n != 10 || err != nil {
		t.Errorf("the second attempt reads %d, %v", n, err)
	}
	if b.again() {
		t.Error("can be sent again after it was read")
	}
	b.end()
	if n, err := second.Body.Read(make([]byte, 10)); n != 0 || err == nil {
		t.Errorf("is read after the end: %d, %v", n, err)
	}
}

// Connections that have ended leave nothing behind in the pool.
func TestPoolForgetsWhatHasEnded(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := new(http.Protocols)
	p.SetUnencryptedHTTP2(true)
	s := &http.Server{Handler: http.NotFoundHandler(), Protocols: p}
	go func() { _ = s.Serve(l) }()
	defer func() { _ = s.Close() }()
	u := three(t, func(c *Config) {
		c.Endpoints, c.Pool.Idle = []string{"http://" + l.Addr().String()}, 100*time.Millisecond
	})
	for range 5 {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		if result := u.Serve(httptest.NewRecorder(), r, Call{}); result.Status != 404 {
			t.Fatalf("%+v", result)
		}
		for u.Status().Endpoints[0].Conns > 0 {
			time.Sleep(time.Millisecond)
		}
	}
	if n := len(u.endpoints[0].pooled.(*multiplexed).conns); n > 1 {
		t.Errorf("%d connections are kept", n)
	}
}

func TestSpread(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		weights []int64
		want    string
	}{
		{nil, ""}, {[]int64{1}, "a"}, {[]int64{7, 7, 7}, "abc"}, {[]int64{2, 1}, "aba"}, {[]int64{1, 5}, "bbabbb"}, {[]int64{5, 1, 1}, "aabacaa"},
		{[]int64{65535, 65535 / 2}, "abaabaaabaabaabaaabaaba"}, {[]int64{1_000_000, 1}, "aaaaaaaabaaaaaaaa"},
	} {
		var list []*endpoint
		for i, w := range c.weights {
			e := &endpoint{addr: string(rune('a' + i))}
			e.weight.Store(w)
			list = append(list, e)
		}
		var got strings.Builder
		for _, e := range spread(list) {
			got.WriteString(e.addr)
		}
		if got.String() != c.want {
			t.Errorf("%v: %s, want %s", c.weights, got.String(), c.want)
		}
	}
}

func TestEventEnd(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]bool{
		"": true, ":": false, "data: 1": false, "data: 1\n": false, "data: 1\n\n": true, "data: 1\r\n\r\n": true, "data: 1\r\r": true, "data: 1\r\n": false,
		"data: 1\n\ndata": false, "\n": true, "data: 1\n\n\n": true, "data: 1\r\n\n": true, ": ping\n\n": true, "a\r\nb\r\n": false, "a\n\nb\n": false,
	} {
		for cut := range len(text) + 1 { // however it is cut into pieces
			e := eventEnd{between: true, blank: true}
			e.write([]byte(text[:cut]))
			e.write([]byte(text[cut:]))
			if e.between != want {
				t.Errorf("%q cut at %d: %t", text, cut, e.between)
			}
		}
	}
}

func TestFrames(t *testing.T) {
	t.Parallel()
	var all []byte
	var ends []int
	for _, n := range []int{0, 1, 125, 126, 127, 65535, 65536, 70000} {
		for _, masked := range []byte{0, 0x80} {
			head := []byte{0x82, masked | byte(min(n, 125))}
			switch {
			case n > 65535:
				head = []byte{0x82, masked | 127, 0, 0, 0, 0, 0, byte(n >> 16), byte(n >> 8), byte(n)}
			case n > 125:
				head = []byte{0x82, masked | 126, byte(n >> 8), byte(n)}
			}
			if masked != 0 {
				head = append(head, 1, 2, 3, 4)
			}
			all = append(append(all, head...), bytes.Repeat([]byte{0x88}, n)...)
			ends = append(ends, len(all))
		}
	}
	r := rand.New(rand.NewPCG(3, 4))
	for range 50 {
		var f frames
		var got []int
		at := 0
		for at < len(all) {
			piece := all[at:min(len(all), at+1+r.IntN(1<<r.IntN(17)))]
			n := f.step(piece)
			if n == 0 {
				t.Fatal("nothing is taken")
			}
			if at += n; f.between() {
				got = append(got, at)
			}
		}
		if diff := cmp.Diff(ends, got); diff != "" {
			t.Fatalf("(-want +got)\n%s", diff)
		}
		if f.closed {
			t.Error("takes what is within a frame for a close frame")
		}
	}
	var f frames
	f.skip([]byte{0x88, 2, 3, 0xe8})
	if !f.closed || !f.between() {
		t.Error("does not see a close frame")
	}
}

func FuzzFrames(f *testing.F) {
	f.Add([]byte{0x82, 3, 1, 2, 3, 0x88, 0}, 2)
	f.Fuzz(func(t *testing.T, b []byte, cut int) {
		if cut < 0 || cut > len(b) {
			return
		}
		var whole, pieces frames
		whole.skip(b)
		pieces.skip(b[:cut])
		pieces.skip(b[cut:])
		if whole.between() != pieces.between() || whole.closed != pieces.closed || whole.left != pieces.left {
			t.Errorf("%+v, in pieces %+v", whole, pieces)
		}
	})
}
