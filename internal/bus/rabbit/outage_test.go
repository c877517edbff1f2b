package rabbit

import (
	"context"
	"errors"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill-amqp/v3/pkg/amqp"

	"github.com/banyan-go/banyan/internal/errs"
	"github.com/banyan-go/banyan/internal/testinfra"
)

// The faults that need a broker of their own, one after another.
func TestOutages(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a broker twice")
	}
	t.Parallel()
	host := testinfra.PrivateRabbit(t)
	b := open(t, host.URL(), func(c *Config) { c.ConfirmTimeout = 3 * time.Second })
	if err := b.Declare(t.Context(), "payments", "carts"); err != nil {
		t.Fatal(err)
	}
	steps := []struct {
		name string
		run  func(*testing.T, *testinfra.Broker, *Broker)
	}{
		{"a broker without memory takes nothing and gives on", memoryAlarm},
		{"a broker that hangs", frozen},
		{"a broker that is stopped and started", func(t *testing.T, h *testinfra.Broker, b *Broker) { restart(t, b, h.StopApp, h.StartApp) }},
		{"a broker that is killed", func(t *testing.T, h *testinfra.Broker, b *Broker) { restart(t, b, h.Crash, h.Start) }},
	}
	for _, step := range steps {
		if !t.Run(step.name, func(t *testing.T) { step.run(t, host, b) }) {
			return
		}
	}
}

func within(ctx context.Context, b *Broker, subscriber string, sequence int) error {
	m := ours("orders", "outage", sequence)
	m.SetContext(ctx)
	return b.Publisher().Publish(subscriber, m)
}

func memoryAlarm(t *testing.T, host *testinfra.Broker, b *Broker) {
	publish(t, b, "carts", ours("orders", "before", 1))
	host.SetMemoryAlarm(true)
	defer host.SetMemoryAlarm(false)
	for i := range 3 { // the first is what makes the broker tell
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		at := time.Now()
		err := within(ctx, b, "payments", i+1)
		if !errs.Is(err, errs.Unavailable) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		if d := time.Since(at); d > 1900*time.Millisecond { // the patience without a deadline is 2 s
			t.Errorf("it took %s", d)
		}
		cancel()
	}
	at := time.Now()
	if err := within(t.Context(), b, "payments", 4); !errs.Is(err, errs.Unavailable) || !strings.Contains(err.Error(), "memory") {
		t.Errorf("got %v", err)
	}
	if d := time.Since(at); d < 2*time.Second || d > 10*time.Second {
		t.Errorf("without a deadline of its own it took %s", d)
	}
	if s := b.Status(); !s.Connected || !strings.Contains(s.Blocked, "memory") {
		t.Errorf("status %+v", s)
	}
	ctx, cancel := context.WithCancel(t.Context())
	in := subscribe(t, ctx, b, "carts", SubscriberOptions{}) // consuming goes on
	take(t, in).Ack()
	cancel()
	endsWhileBlocked(t, host)
	if !raceDetector {
		stockIgnoresTheDeadline(t, host)
	}
	host.SetMemoryAlarm(false)
	eventually(t, "the end of the alarm", func() bool { return b.Status().Blocked == "" })
	publish(t, b, "payments", ours("orders", "outage", 5))
	ctx, cancel = context.WithCancel(t.Context())
	in = subscribe(t, ctx, b, "payments", SubscriberOptions{})
	for m := range in {
		m.Ack()
		if m.UUID == "orders-outage-5" {
			break
		}
	}
	cancel()
	for range in { //nolint:revive // its end
	}
}

// What waits for a broker that takes nothing does not hold up the end of the process.
func endsWhileBlocked(t *testing.T, host *testinfra.Broker) {
	b, err := New(config(host.URL(), func(c *Config) {
		c.Heartbeat, c.ConfirmTimeout, c.CloseTimeout = time.Second, 500*time.Millisecond, time.Second
	}), Options{})
	if err != nil {
		t.Fatal(err)
	}
	stop := run(t, b)
	if err := within(t.Context(), b, "payments", 1); !errs.Is(err, errs.Unavailable) {
		t.Errorf("got %v", err)
	}
	serve(t, b, 1, echo)
	for range 2 {
		if _, err := ask(b, "x", 300*time.Millisecond); err == nil {
			t.Error("a broker without memory takes a question")
		}
	}
	at := time.Now()
	stop()
	if d := time.Since(at); d > 10*time.Second {
		t.Errorf("it took %s", d)
	}
}

// Why not stock: a publish waits for the end of the alarm, whatever the deadline of the message.
func stockIgnoresTheDeadline(t *testing.T, host *testinfra.Broker) {
	p, err := amqp.NewPublisher(stockConfig(host.URL()), nopLogger{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	m := ours("orders", "stock", 1)
	m.SetContext(ctx)
	done := make(chan error, 1)
	go func() { done <- errors.Join(p.Publish("stock", m), p.Close()) }()
	select {
	case err := <-done:
		t.Errorf("watermill-amqp keeps the deadline now: %v", err)
	case <-time.After(500 * time.Millisecond):
	}
	host.SetMemoryAlarm(false)
	<-done
}

func frozen(t *testing.T, host *testinfra.Broker, b *Broker) {
	thaw := host.Freeze()
	var err error
	var at time.Time
	for err == nil && !t.Failed() { // the signal takes a moment
		at = time.Now()
		err = within(t.Context(), b, "payments", 1)
	}
	if !errs.Is(err, errs.Unavailable) {
		t.Errorf("got %v", err)
	}
	if d := time.Since(at); d > 5*time.Second {
		t.Errorf("it took %s", d)
	}
	eventuallyWithin(t, 12*time.Second, "the connection to be given up", func() bool { return !b.Status().Connected })
	thaw()
	eventuallyWithin(t, 10*time.Second, "a message to be sent", func() bool { return within(t.Context(), b, "payments", 1) == nil })
	in := subscribe(t, t.Context(), b, "payments", SubscriberOptions{})
	take(t, in).Ack()
}

// What was confirmed is there after a restart, and everything goes on soon after it, in order.
func restart(t *testing.T, b *Broker, stop, start func()) {
	l := newLedger(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	in := subscribe(t, ctx, b, "payments", SubscriberOptions{})
	handled := make(chan struct{})
	go func() {
		defer close(handled)
		handle(in, l, func(key string) (time.Duration, bool) { return time.Duration(rand.IntN(3)) * time.Millisecond, false })
	}()
	quit := make(chan struct{})
	sent := flow(t, b, 16, quit)
	eventually(t, "messages to flow", func() bool { return l.count() > 200 })
	stop()
	before := l.count() + b.cfg.Prefetch // what had come before the stop may be handled after it
	start()
	eventuallyWithin(t, 5*time.Second, "messages to flow again", func() bool { return l.count() > before+200 })
	close(quit)
	complete(t, l, sent())
	cancel()
	<-handled
}
