package rabbit

import (
	"strings"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/google/go-cmp/cmp"
	amqp "github.com/rabbitmq/amqp091-go"
)

// What others send is given out once, whatever it looks like, in its order and with headers as text.
func TestMessagesThatAreNotOurs(t *testing.T) {
	t.Parallel()
	host := shared(t)
	b := open(t, host.URL())
	in := subscribe(t, t.Context(), b, "payments", SubscriberOptions{})
	if err := b.Declare(t.Context(), "payments"); err != nil {
		t.Fatal(err)
	}
	ch := channel(t, host.URL())
	when := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	sent := []amqp.Publishing{
		{},
		{Body: []byte("no headers"), MessageId: "m1"},
		{Headers: amqp.Table{
			"int": int32(-1), "long": int64(1 << 40), "bool": true, "float": 0.5, "bytes": []byte("text"), "binary": []byte{0xff}, "time": when, "none": nil,
			"x-death": []any{amqp.Table{"count": int64(3)}}, "table": amqp.Table{"a": "b"}, headerUUID: int32(7), "ce_id": "e1",
		}, Body: []byte("headers")},
	}
	for _, p := range sent {
		if err := ch.Publish("", "banyan.payments", true, false, p); err != nil {
			t.Fatal(err)
		}
	}
	want := []message.Metadata{{}, {}, {
		"int": "-1", "long": "1099511627776", "bool": "true", "float": "0.5", "bytes": "text", "time": "2026-01-02T03:04:05Z", "ce_id": "e1",
	}}
	ids := []string{"", "m1", "7"}
	for i := range sent {
		m := take(t, in)
		if d := cmp.Diff(want[i], m.Metadata); d != "" || m.UUID != ids[i] || string(m.Payload) != string(sent[i].Body) {
			t.Errorf("got %q %q: %s", m.UUID, m.Payload, d)
		}
		m.Ack()
	}
	select {
	case m := <-in:
		t.Errorf("got %q %q once more", m.UUID, m.Payload)
	case <-time.After(100 * time.Millisecond):
	}
}

func TestProperties(t *testing.T) {
	t.Parallel()
	m := message.NewMessage("id", []byte("{}"))
	m.Metadata = message.Metadata{headerType: "orders.placed.v1", headerCorrelation: "c", "content-type": "application/json", "other": "x"}
	got, err := marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	want := amqp.Publishing{
		Headers:   amqp.Table{headerUUID: "id", headerType: "orders.placed.v1", headerCorrelation: "c", "content-type": "application/json", "other": "x"},
		MessageId: "id", Type: "orders.placed.v1", CorrelationId: "c", ContentType: "application/json", DeliveryMode: amqp.Persistent, Body: []byte("{}"),
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

// Servers before 4.0 take -1 for "no delivery is left", those since then drop what was delivered twenty times without it.
func TestDeliveryLimit(t *testing.T) {
	t.Parallel()
	for version, want := range map[string]bool{"3.10.8": false, "3.13.7": false, "4.0.0": true, "4.1.2": true, "10.0": true, "": false, "x": false} {
		if _, got := queueArgs(version)["x-delivery-limit"]; got != want {
			t.Errorf("%q: %v", version, got)
		}
	}
}

func TestConfigNamesTheKey(t *testing.T) {
	t.Parallel()
	if err := DefaultConfig().Validate(); err != nil {
		t.Fatal(err)
	}
	for key, edit := range map[string]func(*Config){
		"url: cannot be read":     func(c *Config) { c.URL = "amqp://user:hunter2@[" },
		"url: cannot be":          func(c *Config) { c.URL = "http://user:hunter2@host/" },
		"url: cannot":             func(c *Config) { c.URL = "amqp://user:hunter2@/" },
		"url: has parameters":     func(c *Config) { c.URL = "amqp://user:hunter2@host/?heartbeat=0" },
		"tls: is set":             func(c *Config) { c.URL, c.TLS.CA = "amqp://user:hunter2@host/", "ca.pem" },
		"tls.cert":                func(c *Config) { c.TLS.Cert = "x" },
		"heartbeat":               func(c *Config) { c.Heartbeat = 3 * time.Second },
		"heartbeat: is out":       func(c *Config) { c.Heartbeat = 0 },
		"prefetch":                func(c *Config) { c.Prefetch = 65536 },
		"prefetch: is":            func(c *Config) { c.Prefetch = 0 },
		"window":                  func(c *Config) { c.Window = 0 },
		"redial_min":              func(c *Config) { c.RedialMin = 0 },
		"redial_max":              func(c *Config) { c.RedialMax = time.Millisecond },
		"confirm_timeout":         func(c *Config) { c.ConfirmTimeout = 0 },
		"close_timeout":           func(c *Config) { c.CloseTimeout = 0 },
		"calls":                   func(c *Config) { c.Calls = 0 },
		"breaker.failures":        func(c *Config) { c.Breaker.Failures = -1 },
		"breaker.open: is out of": func(c *Config) { c.Breaker.Open = 0 },
	} {
		c := DefaultConfig()
		edit(&c)
		err := c.Validate()
		if err == nil || !strings.HasPrefix(err.Error(), "bus.rabbitmq."+key) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: got %v", key, err)
		}
		if _, again := New(c, Options{}); again == nil {
			t.Errorf("%s: New takes it", key)
		}
	}
	if _, err := New(DefaultConfig(), Options{}); err == nil || !strings.HasPrefix(err.Error(), "bus.rabbitmq.url") {
		t.Errorf("no URL: got %v", err)
	}
}
