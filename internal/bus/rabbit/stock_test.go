package rabbit

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	stock "github.com/ThreeDotsLabs/watermill-amqp/v3/pkg/amqp"
	"github.com/ThreeDotsLabs/watermill/message"
	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/banyan-go/banyan/internal/testinfra"
)

// Why this package is not watermill-amqp: each of these passes because the stock transport has a fault that breaks a promise made
// here. When one fails, the fault is gone.

type nopLogger struct{ watermill.NopLogger }

// notUnderRace: watermill-amqp has data races when it reconnects (watermill issue 693).
func notUnderRace(t *testing.T) {
	t.Helper()
	if raceDetector {
		t.Skip("watermill-amqp has data races")
	}
}

// stockConfig sends to a quorum queue through a durable direct exchange, as we do.
func stockConfig(url string) stock.Config {
	c := stock.NewDurableQueueConfig(url)
	c.Exchange = stock.ExchangeConfig{GenerateName: func(string) string { return exchange }, Type: amqp.ExchangeDirect, Durable: true}
	c.Queue = stock.QueueConfig{GenerateName: func(topic string) string { return queueOf(topic) }, Durable: true, Arguments: queueArgs("3")}
	c.QueueBind = stock.QueueBindConfig{GenerateRoutingKey: func(topic string) string { return topic }}
	c.Publish = stock.PublishConfig{GenerateRoutingKey: func(topic string) string { return topic }, ConfirmDelivery: true, Mandatory: true}
	c.TopologyBuilder = &stock.DefaultTopologyBuilder{}
	return c
}

func stockPublisher(t testing.TB, c stock.Config) *stock.Publisher {
	t.Helper()
	p, err := stock.NewPublisher(c, nopLogger{})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// A message that reaches no queue is lost and Publish says nil, although it asks for confirms and for what comes back.
func TestStockLosesWhatComesBack(t *testing.T) {
	notUnderRace(t)
	t.Parallel()
	host := shared(t)
	p := stockPublisher(t, stockConfig(host.URL()))
	defer func() { _ = p.Close() }()
	if err := p.Publish("nobody", ours("orders", "k", 1)); err != nil {
		t.Errorf("watermill-amqp tells of it now: %v", err)
	}
	b := open(t, host.URL())
	if err := b.Publisher().Publish("payments", ours("orders", "k", 1)); err != nil {
		t.Errorf("ours: %v", err)
	}
}

// A lost connection empties the pool of channels, and everybody who publishes waits for ever.
func TestStockWaitsForEverAfterALostConnection(t *testing.T) {
	notUnderRace(t)
	t.Parallel()
	host := shared(t)
	line := testinfra.NewLine(t, host.Addr())
	c := stockConfig(line.URL(host.URL()))
	c.Publish.ChannelPoolSize = 2
	p := stockPublisher(t, c)
	if err := p.Publish("payments", ours("orders", "k", 1)); err != nil {
		t.Fatal(err)
	}
	var sent atomic.Int64
	for range 8 {
		go func() {
			for t.Context().Err() == nil {
				if p.Publish("payments", ours("orders", "k", 2)) == nil {
					sent.Add(1)
				}
				time.Sleep(time.Millisecond)
			}
		}()
	}
	for range 5 { // most often once is enough
		line.Cut()
		time.Sleep(1500 * time.Millisecond) // it is connected again
		before := sent.Load()
		time.Sleep(500 * time.Millisecond)
		if sent.Load() == before {
			return
		}
	}
	t.Error("watermill-amqp publishes again after a lost connection")
}

// NewDurableTopicConfig's exchange is not durable: after a restart of the broker it is gone, and its bindings with it.
func TestStockDurableTopicIsNotDurable(t *testing.T) {
	notUnderRace(t)
	t.Parallel()
	if stock.NewDurableTopicConfig("amqp://localhost", "e", "q").Exchange.Durable {
		t.Error("it is now")
	}
}

// A header that is no text makes a message that nobody can take, which comes again as fast as it can.
func TestStockLoopsOnAForeignHeader(t *testing.T) {
	notUnderRace(t)
	t.Parallel()
	host := shared(t)
	s, err := stock.NewSubscriber(stockConfig(host.URL()), nopLogger{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	if err := s.SubscribeInitialize("payments"); err != nil {
		t.Fatal(err)
	}
	ch := channel(t, host.URL())
	if err := ch.Publish("", "banyan.payments", true, false, amqp.Publishing{Headers: amqp.Table{"count": int32(1)}, DeliveryMode: amqp.Persistent}); err != nil {
		t.Fatal(err)
	}
	in, err := s.Subscribe(t.Context(), "payments")
	if err != nil {
		t.Fatal(err)
	}
	select {
	case m := <-in:
		t.Errorf("watermill-amqp takes it now: %v", m.Metadata)
	case <-time.After(time.Second):
	}
	_ = s.Close()
	deliveries, err := ch.Consume("banyan.payments", "", true, false, false, false, nil)
	if err != nil {
		t.Fatal(err)
	}
	d := <-deliveries
	if n, _ := d.Headers["x-delivery-count"].(int64); n < 100 {
		t.Errorf("it came %d times in a second", n)
	}
}

// A queue that is deleted gives the handler a message that nobody has sent.
func TestStockMakesAMessageOfADeletedQueue(t *testing.T) {
	notUnderRace(t)
	t.Parallel()
	host := shared(t)
	s, err := stock.NewSubscriber(stockConfig(host.URL()), nopLogger{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	in, err := s.Subscribe(t.Context(), "payments")
	if err != nil {
		t.Fatal(err)
	}
	ch := channel(t, host.URL())
	eventually(t, "the consumer", func() bool {
		q, err := ch.QueueDeclarePassive("banyan.payments", true, false, false, false, nil)
		return err == nil && q.Consumers == 1
	})
	host.DeleteQueue("banyan.payments")
	if m := take(t, in); m.UUID != "" || len(m.Payload) > 0 {
		t.Errorf("got %s", m.UUID)
	} else {
		m.Ack()
	}
}

// Publishers and subscribers cannot be made while the broker is away.
func TestStockNeedsTheBrokerAtTheStart(t *testing.T) {
	notUnderRace(t)
	t.Parallel()
	if _, err := stock.NewPublisher(stockConfig("amqp://127.0.0.1:1/"), nopLogger{}); err == nil {
		t.Error("it can now")
	}
}

// Any Watermill service can read what we send, and we what it sends.
func TestStockAndWeUnderstandEachOther(t *testing.T) {
	notUnderRace(t)
	t.Parallel()
	host := shared(t)
	b := open(t, host.URL())
	if err := b.Declare(t.Context(), "payments"); err != nil {
		t.Fatal(err)
	}
	p := stockPublisher(t, stockConfig(host.URL()))
	defer func() { _ = p.Close() }()
	sent := ours("orders", "k", 1)
	if err := p.Publish("payments", sent); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	in := subscribe(t, ctx, b, "payments", SubscriberOptions{})
	same(t, take(t, in), sent)
	cancel()
	for range in { //nolint:revive // its end
	}
	s, err := stock.NewSubscriber(stockConfig(host.URL()), nopLogger{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	theirs, err := s.Subscribe(t.Context(), "payments")
	if err != nil {
		t.Fatal(err)
	}
	publish(t, b, "payments", ours("orders", "k", 2))
	m := take(t, theirs)
	same(t, m, ours("orders", "k", 2))
	m.Ack()
}

func same(t *testing.T, got, want *message.Message) {
	t.Helper()
	if !got.Equals(want) {
		t.Errorf("got %s %q %v, want %s %q %v", got.UUID, got.Payload, got.Metadata, want.UUID, want.Payload, want.Metadata)
	}
	got.Ack()
}
