package e2e

import (
	"strings"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/banyan-go/banyan/internal/testinfra"
)

// A service that is not ours hears what the shop announces, in the form that Watermill's own subscribers read.
func TestOthersHearEvents(t *testing.T) {
	t.Parallel()
	broker := testinfra.Rabbit(t)
	conn, err := amqp.Dial(broker.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	ch, err := conn.Channel()
	if err != nil {
		t.Fatal(err)
	}
	if err := ch.ExchangeDeclare("banyan.events", "topic", true, false, false, false, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := ch.QueueDeclare("elsewhere", false, true, true, false, nil); err != nil {
		t.Fatal(err)
	}
	if err := ch.QueueBind("elsewhere", "orders.#", "banyan.events", false, nil); err != nil {
		t.Fatal(err)
	}
	heard, err := ch.Consume("elsewhere", "", true, true, false, false, nil)
	if err != nil {
		t.Fatal(err)
	}
	s := sqlite(t, "BANYAN_BUS_RABBITMQ_URL="+broker.URL(), "BANYAN_BUS_RABBITMQ_EVENTS=true").start()
	l := newLedger(t, s)
	l.run(2, 5, nil)
	l.check()
	placed := map[string]bool{}
	for len(placed) < 10 {
		select {
		case m := <-heard:
			id, _ := m.Headers["_watermill_message_uuid"].(string)
			if id == "" || !strings.HasPrefix(m.RoutingKey, "orders.") {
				t.Fatalf("%s with %v", m.RoutingKey, m.Headers)
			}
			if m.RoutingKey == "orders.order_placed.v1" {
				placed[id] = true
			}
		case <-time.After(30 * time.Second):
			t.Fatalf("%d of 10 orders were announced", len(placed))
		}
	}
}
