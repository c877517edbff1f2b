package rabbit

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/banyan-go/banyan/internal/secret"
	"github.com/banyan-go/banyan/internal/testinfra"
)

func config(url string, edit ...func(*Config)) Config {
	cfg := DefaultConfig()
	cfg.URL = secret.Text(url)
	for _, e := range edit {
		e(&cfg)
	}
	return cfg
}

// open is a Broker that runs until the test or ctx ends; stopped is closed when Run has returned.
func open(t testing.TB, url string, edit ...func(*Config)) *Broker {
	t.Helper()
	b, _ := openLogged(t, url, edit...)
	return b
}

func openLogged(t testing.TB, url string, edit ...func(*Config)) (*Broker, *logs) {
	t.Helper()
	l := &logs{}
	b, err := New(config(url, edit...), Options{Name: t.Name(), Log: slog.New(l)})
	if err != nil {
		t.Fatal(err)
	}
	run(t, b)
	return b, l
}

func run(t testing.TB, b *Broker) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := b.Run(ctx); err != nil {
			t.Error(err)
		}
	}()
	stop = func() { cancel(); <-done }
	t.Cleanup(stop)
	return stop
}

// logs keeps what is logged.
type logs struct {
	mu  sync.Mutex
	all []string
}

func (*logs) Enabled(context.Context, slog.Level) bool { return true }
func (l *logs) WithAttrs([]slog.Attr) slog.Handler     { return l }
func (l *logs) WithGroup(string) slog.Handler          { return l }
func (l *logs) Handle(_ context.Context, r slog.Record) error {
	line := r.Message
	r.Attrs(func(a slog.Attr) bool { line += " " + a.String(); return true })
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all = append(l.all, line)
	return nil
}

func (l *logs) lines() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]string(nil), l.all...)
}

func ours(source, key string, sequence int) *message.Message {
	m := message.NewMessage(fmt.Sprintf("%s-%s-%d", source, key, sequence), fmt.Appendf(nil, "%d", sequence))
	m.Metadata = message.Metadata{headerSource: "/" + source, headerKey: key, headerType: source + ".happened.v1", "ce_sequence": fmt.Sprint(sequence)}
	return m
}

// publish sends until the message is confirmed, as the relay does.
func publish(t testing.TB, b *Broker, subscriber string, m *message.Message) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for {
		err := b.Publisher().Publish(subscriber, m)
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Errorf("message %s is still not sent: %v", m.UUID, err)
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func subscribe(t testing.TB, ctx context.Context, b *Broker, module string, o SubscriberOptions) <-chan *message.Message {
	t.Helper()
	in, err := b.Subscriber(o).Subscribe(ctx, module)
	if err != nil {
		t.Fatal(err)
	}
	return in
}

// take is the next message.
func take(t testing.TB, in <-chan *message.Message) *message.Message {
	t.Helper()
	select {
	case m, ok := <-in:
		if !ok {
			t.Fatal("the subscription has ended")
		}
		return m
	case <-time.After(20 * time.Second):
		t.Fatal("no message came")
	}
	return nil
}

// eventually waits for something of another process.
func eventually(t testing.TB, what string, reached func() bool) {
	t.Helper()
	eventuallyWithin(t, 30*time.Second, what, reached)
}

func eventuallyWithin(t testing.TB, most time.Duration, what string, reached func() bool) {
	t.Helper()
	for deadline := time.Now().Add(most); !reached(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited %s for %s", most, what)
		}
	}
}

// channel is a channel of the plain client.
func channel(t testing.TB, url string) *amqp.Channel {
	t.Helper()
	conn, err := amqp.Dial(url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	ch, err := conn.Channel()
	if err != nil {
		t.Fatal(err)
	}
	return ch
}

func depth(t testing.TB, ch *amqp.Channel, queue string) int {
	t.Helper()
	q, err := ch.QueueDeclarePassive(queue, true, false, false, false, nil)
	if err != nil {
		t.Fatal(err)
	}
	return q.Messages
}

// ledger is what handlers have done: for each key the last sequence. It stands for the store of a module with its inbox.
type ledger struct {
	t testing.TB

	mu         sync.Mutex
	last       map[string]int
	inside     map[string]bool
	duplicates int
	handled    int
}

func newLedger(t testing.TB) *ledger {
	return &ledger{t: t, last: map[string]int{}, inside: map[string]bool{}}
}

func (l *ledger) enter(key string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.inside[key] {
		l.t.Errorf("two messages of key %q are given out at once", key)
	}
	l.inside[key] = true
}

// leave ends an attempt; with commit it has its effect, once.
func (l *ledger) leave(key string, sequence int, commit bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.inside[key] = false
	switch last := l.last[key]; {
	case sequence > last+1:
		l.t.Errorf("key %q: message %d came after %d", key, sequence, last)
	case sequence <= last:
		l.duplicates++
	case commit:
		l.last[key] = sequence
		l.handled++
	}
}

func (l *ledger) repeats() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.duplicates
}

func (l *ledger) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.handled
}

func (l *ledger) of(key string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.last[key]
}

func shared(t testing.TB) *testinfra.Broker {
	t.Helper()
	return testinfra.Rabbit(t)
}

// nothingLeft waits for the end of a subscription; then the next message must be one that was not there before.
func nothingLeft(t testing.TB, b *Broker, in <-chan *message.Message) {
	t.Helper()
	for m := range in {
		t.Errorf("got %s at the end", m.UUID)
	}
	publish(t, b, "payments", ours("orders", "sentinel", 1))
	m := take(t, subscribe(t, t.Context(), b, "payments", SubscriberOptions{}))
	if m.Metadata[headerKey] != "sentinel" {
		t.Errorf("%s was left in the queue", m.UUID)
	}
	m.Ack()
}
