package rabbit

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/banyan-go/banyan/internal/testinfra"
)

// handle takes messages until the subscription ends, each in a goroutine of its own as Watermill's router does.
func handle(in <-chan *message.Message, l *ledger, pace func(key string) (wait time.Duration, nack bool)) {
	var all sync.WaitGroup
	defer all.Wait()
	for m := range in {
		all.Go(func() {
			key := keyOf(m)
			sequence, err := strconv.Atoi(string(m.Payload))
			if err != nil {
				l.t.Errorf("message %q has the payload %q", m.UUID, m.Payload)
			}
			l.enter(key)
			wait, nack := pace(key)
			if wait > 0 {
				time.Sleep(wait)
			}
			l.leave(key, sequence, !nack)
			if nack {
				m.Nack()
			} else {
				m.Ack()
			}
		})
	}
}

// flow publishes to payments, keys side by side and each key's messages one after another, until stop; it gives how many there were.
func flow(t *testing.T, b *Broker, keys int, stop <-chan struct{}) (sent func() map[string]int) {
	var all sync.WaitGroup
	counts := make([]int, keys)
	for k := range keys {
		all.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				counts[k]++
				publish(t, b, "payments", ours("orders", fmt.Sprint(k), counts[k]))
			}
		})
	}
	return func() map[string]int {
		all.Wait()
		m := map[string]int{}
		for k, n := range counts {
			m["/orders\x00"+fmt.Sprint(k)] = n
		}
		return m
	}
}

func complete(t *testing.T, l *ledger, sent map[string]int) {
	t.Helper()
	for key, n := range sent {
		eventually(t, fmt.Sprintf("all %d messages of key %q to be handled", n, key), func() bool { return l.of(key) >= n || t.Failed() })
		if got := l.of(key); got != n {
			t.Errorf("key %q: %d of %d messages were handled", key, got, n)
		}
	}
	t.Logf("%d messages, %d duplicates", l.count(), l.repeats())
}

// Messages that are refused, handlers that are slow and connections that end change the order of no key, and lose nothing.
func TestOrderPerKeySurvivesRefusalsAndLostConnections(t *testing.T) {
	t.Parallel()
	host := shared(t)
	line := testinfra.NewLine(t, host.Addr())
	edit := func(c *Config) { c.Prefetch, c.RedialMax = 64, 100*time.Millisecond }
	sender, receiver := open(t, line.URL(host.URL()), edit), open(t, line.URL(host.URL()), edit)
	l := newLedger(t)
	ctx, cancel := context.WithCancel(t.Context())
	in := subscribe(t, ctx, receiver, "payments", SubscriberOptions{})
	handled := make(chan struct{})
	go func() {
		defer close(handled)
		handle(in, l, func(string) (time.Duration, bool) {
			switch rand.IntN(20) {
			case 0:
				return time.Duration(rand.IntN(20)) * time.Millisecond, false
			case 1:
				return time.Millisecond, true
			}
			return 0, false
		})
	}()
	stop := make(chan struct{})
	sent := flow(t, sender, 64, stop)
	for range 15 {
		before := l.count()
		eventually(t, "messages to flow", func() bool { return l.count() > before+200 || t.Failed() })
		line.Cut()
	}
	close(stop)
	complete(t, l, sent())
	cancel()
	<-handled
	if l.repeats() == 0 {
		t.Error("nothing came twice: the connections were not lost in the middle")
	}
}

// A queue passes from one process to another and back while messages flow: nothing is lost or reordered.
func TestConsumersHandOver(t *testing.T) {
	t.Parallel()
	host := shared(t)
	sender, left, right := open(t, host.URL()), open(t, host.URL()), open(t, host.URL())
	l := newLedger(t)
	stop := make(chan struct{})
	sent := flow(t, sender, 32, stop)
	begin := func(b *Broker) (end func()) {
		ctx, cancel := context.WithCancel(context.Background())
		in := subscribe(t, ctx, b, "payments", SubscriberOptions{})
		done := make(chan struct{})
		go func() {
			defer close(done)
			handle(in, l, func(string) (time.Duration, bool) {
				return time.Duration(rand.IntN(10)) * time.Millisecond, rand.IntN(50) == 0
			})
		}()
		return func() { cancel(); <-done }
	}
	end := begin(left)
	for i := range 10 {
		before := l.count()
		eventually(t, "messages to flow", func() bool { return l.count() > before+100 || t.Failed() })
		next := begin([]*Broker{right, left}[i%2]) // waits at the broker for the other one to end
		end()
		end = next
	}
	close(stop)
	complete(t, l, sent())
	end()
	// The broker forgets acknowledgements that it has not passed on to the queue when the channel closes.
	if l.repeats() > l.count()/10 {
		t.Errorf("%d of %d messages were handled twice", l.repeats(), l.count())
	}
}

// One message that takes long holds up nobody but its own key.
func TestASlowMessageDoesNotFillTheWindow(t *testing.T) {
	t.Parallel()
	host := shared(t)
	b := open(t, host.URL(), func(c *Config) { c.Prefetch = 4 })
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	in := subscribe(t, ctx, b, "payments", SubscriberOptions{})
	publish(t, b, "payments", ours("orders", "slow", 1))
	publish(t, b, "payments", ours("orders", "slow", 2))
	slow := take(t, in)
	for i := range 50 {
		publish(t, b, "payments", ours("orders", fmt.Sprint(i), 1))
		m := take(t, in)
		if string(m.Metadata[headerKey]) != fmt.Sprint(i) {
			t.Fatalf("got %s while the first of its key is out", m.UUID)
		}
		m.Ack()
	}
	slow.Ack()
	m := take(t, in)
	if m.UUID != "orders-slow-2" {
		t.Errorf("got %s", m.UUID)
	}
	m.Ack()
	cancel()
	nothingLeft(t, b, in)
}

// A message that is refused comes again, in this process, after a growing pause, and those behind it wait.
func TestARefusedMessageComesAgain(t *testing.T) {
	t.Parallel()
	host := shared(t)
	b := open(t, host.URL())
	in := subscribe(t, t.Context(), b, "payments", SubscriberOptions{})
	for i := range 3 {
		publish(t, b, "payments", ours("orders", "k", i+1))
	}
	var pauses []time.Duration
	var at time.Time
	for range 6 {
		m := take(t, in)
		if m.UUID != "orders-k-1" {
			t.Fatalf("got %s before the first was taken", m.UUID)
		}
		if string(m.Payload) != "1" || m.Metadata[headerKey] != "k" {
			t.Fatalf("it came with %q %v", m.Payload, m.Metadata)
		}
		m.Payload[0], m.Metadata[headerKey] = 'x', "x" // a handler's own affair
		m.Payload, m.Metadata = []byte("1"), ours("orders", "k", 1).Metadata
		if !at.IsZero() {
			pauses = append(pauses, time.Since(at))
		}
		at = time.Now()
		m.Nack()
	}
	if len(pauses) != 5 || pauses[0] < 10*time.Millisecond || pauses[4] < 160*time.Millisecond || pauses[4] > 3*time.Second {
		t.Errorf("pauses %v", pauses)
	}
	for i := range 3 {
		m := take(t, in)
		if string(m.Payload) != fmt.Sprint(i+1) {
			t.Errorf("got %s", m.UUID)
		}
		m.Ack()
	}
}

// What is with a handler when the connection is lost is finished, and its second copy waits for that.
func TestACopyWaitsForTheOneThatIsOut(t *testing.T) {
	t.Parallel()
	host := shared(t)
	b := open(t, host.URL())
	in := subscribe(t, t.Context(), b, "payments", SubscriberOptions{})
	publish(t, b, "payments", ours("orders", "k", 1))
	publish(t, b, "payments", ours("orders", "k", 2))
	publish(t, b, "payments", ours("orders", "other", 1))
	first, other := take(t, in), take(t, in)
	if first.Metadata[headerKey] != "k" {
		first, other = other, first
	}
	other.Ack()
	eventually(t, "the connections to be known", func() bool { return host.KillConnections() >= 3 })
	publish(t, b, "payments", ours("orders", "third", 1)) // the connections are back
	for m := range in {
		if m.Metadata[headerKey] == "k" {
			t.Fatalf("got %s while the first one is out", m.UUID)
		}
		m.Ack()
		if m.Metadata[headerKey] == "third" {
			break
		}
	}
	first.Ack() // of a channel that is gone: it acknowledges nothing
	second := take(t, in)
	if second.UUID != "orders-k-1" {
		t.Fatalf("got %s", second.UUID)
	}
	eventually(t, "the connections to be known", func() bool { return host.KillConnections() >= 3 })
	second.Nack()
	for _, want := range []string{"orders-k-1", "orders-k-2"} {
		m := take(t, in)
		if m.UUID != want {
			t.Errorf("got %s, want %s", m.UUID, want)
		}
		m.Ack()
	}
}

// A subscription that ends waits for its handlers and tells the broker what they have taken.
func TestTheEndOfASubscription(t *testing.T) {
	t.Parallel()
	host := shared(t)
	b := open(t, host.URL())
	ctx, cancel := context.WithCancel(t.Context())
	in := subscribe(t, ctx, b, "payments", SubscriberOptions{})
	for i := range 3 {
		publish(t, b, "payments", ours("orders", fmt.Sprint(i), 1))
	}
	a, c := take(t, in), take(t, in)
	cancel()
	select {
	case m, ok := <-in:
		if ok && m.Metadata[headerKey] != "2" {
			t.Fatalf("got %v while messages are with handlers", m.UUID)
		}
		if !ok {
			t.Fatal("the subscription ended while messages are with handlers")
		}
		m.Nack() // it was on its way
	case <-time.After(50 * time.Millisecond):
	}
	if err := a.Context().Err(); err != nil {
		t.Errorf("the message's context ended with the subscription: %v", err)
	}
	a.Ack()
	c.Nack()
	for m := range in {
		t.Errorf("got %s at the end", m.UUID)
	}
	left := map[string]bool{}
	in = subscribe(t, t.Context(), b, "payments", SubscriberOptions{})
	for range 2 {
		m := take(t, in)
		left[m.Metadata[headerKey]] = true
		m.Ack()
	}
	if len(left) != 2 || left[a.Metadata[headerKey]] {
		t.Errorf("left were %v", left)
	}
}

func TestHandlersThatDoNotEndAreLeft(t *testing.T) {
	t.Parallel()
	host := shared(t)
	b := open(t, host.URL(), func(c *Config) { c.CloseTimeout = 50 * time.Millisecond })
	s := b.Subscriber(SubscriberOptions{})
	in, err := s.Subscribe(t.Context(), "payments")
	if err != nil {
		t.Fatal(err)
	}
	publish(t, b, "payments", ours("orders", "k", 1))
	m := take(t, in)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, ok := <-in; ok {
		t.Error("a message after the end")
	}
	m.Ack() // nobody listens; nobody is stuck either
	if _, err := s.Subscribe(t.Context(), "payments"); err == nil {
		t.Error("a closed subscriber subscribes")
	}
	again := take(t, subscribe(t, t.Context(), b, "payments", SubscriberOptions{}))
	if again.UUID != m.UUID {
		t.Errorf("got %s", again.UUID)
	}
	again.Ack()
}

// A barrier is told of when all before it is acknowledged, and not before; what comes behind it does not wait.
func TestBarrier(t *testing.T) {
	t.Parallel()
	host := shared(t)
	b := open(t, host.URL())
	type call struct{ subscriber, publisher, id string }
	calls := make(chan call, 10)
	var failures atomic.Int32
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	in := subscribe(t, ctx, b, "payments", SubscriberOptions{Barrier: func(_ context.Context, subscriber, publisher, id string) error {
		if failures.Add(1) <= 2 {
			return errors.New("the store is busy")
		}
		calls <- call{subscriber, publisher, id}
		return nil
	}})
	for i := range 5 {
		publish(t, b, "payments", ours("orders", fmt.Sprint(i), 1))
	}
	publish(t, b, "payments", ours("orders", "0", 2))
	if err := b.Publisher().Barrier(t.Context(), "payments", "orders", "b1"); err != nil {
		t.Fatal(err)
	}
	if err := b.Publisher().Barrier(t.Context(), "payments", "carts", "b2"); err != nil {
		t.Fatal(err)
	}
	publish(t, b, "payments", ours("carts", "behind", 1))
	var before []*message.Message
	for range 6 {
		m := take(t, in)
		if m.Metadata[headerKey] == "behind" {
			m.Ack()
		} else {
			before = append(before, m)
		}
	}
	for i, m := range before {
		if failures.Load() > 0 {
			t.Fatalf("the barrier was told of with %d messages out", len(before)-i)
		}
		if m.Metadata[headerKey] == "0" {
			m.Nack() // comes again
		} else {
			m.Ack()
		}
	}
	for range 2 {
		m := take(t, in)
		if m.Metadata[headerKey] != "0" || failures.Load() > 0 {
			t.Fatalf("got %s, barrier calls %d", m.UUID, failures.Load())
		}
		m.Ack()
	}
	if got := <-calls; got != (call{"payments", "orders", "b1"}) {
		t.Errorf("got %+v", got)
	}
	if got := <-calls; got != (call{"payments", "carts", "b2"}) {
		t.Errorf("got %+v", got)
	}
	if n := failures.Load(); n != 4 {
		t.Errorf("%d calls", n)
	}
	cancel()
	nothingLeft(t, b, in)
}

// Without somebody who knows barriers, they are given out rather than swallowed.
func TestABarrierNobodyKnows(t *testing.T) {
	t.Parallel()
	b := open(t, shared(t).URL())
	in := subscribe(t, t.Context(), b, "payments", SubscriberOptions{})
	eventually(t, "the queue", func() bool { return b.Publisher().Barrier(t.Context(), "payments", "orders", "b1") == nil })
	if m := take(t, in); m.Metadata[headerBarrier] != "b1" || !strings.Contains(m.UUID, "b1") {
		t.Errorf("got %s %v", m.UUID, m.Metadata)
	} else {
		m.Ack()
	}
}

// The end of Run ends the subscriptions and waits for their handlers.
func TestTheEndOfRun(t *testing.T) {
	t.Parallel()
	host := shared(t)
	b, err := New(config(host.URL()), Options{})
	if err != nil {
		t.Fatal(err)
	}
	in := subscribe(t, t.Context(), b, "payments", SubscriberOptions{}) // before Run
	stop := run(t, b)
	publish(t, b, "payments", ours("orders", "k", 1))
	m := take(t, in)
	ended := make(chan struct{})
	go func() { defer close(ended); stop() }()
	select {
	case <-ended:
		t.Fatal("Run ended while a message is with a handler")
	case <-time.After(50 * time.Millisecond):
	}
	m.Ack()
	<-ended
	if _, ok := <-in; ok {
		t.Error("a message after the end")
	}
	if n := depth(t, channel(t, host.URL()), "banyan.payments"); n != 0 {
		t.Errorf("%d messages are left", n)
	}
	if err := b.Publisher().Publish("payments", ours("orders", "k", 2)); err == nil {
		t.Error("a message was sent after the end")
	}
	if _, err := b.Subscriber(SubscriberOptions{}).Subscribe(t.Context(), "payments"); err == nil {
		t.Error("a subscription after the end")
	}
	if err := b.Run(t.Context()); err == nil {
		t.Error("it ran twice")
	}
}
