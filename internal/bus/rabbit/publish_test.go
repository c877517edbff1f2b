package rabbit

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	dto "github.com/prometheus/client_model/go"
	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/banyan-go/banyan/internal/certs"
	"github.com/banyan-go/banyan/internal/errs"
	"github.com/banyan-go/banyan/internal/testinfra"
)

// A message that no queue has taken is an error, though the broker confirms it; then what is missing is made again.
func TestAMessageThatComesBackIsAnError(t *testing.T) {
	t.Parallel()
	host := shared(t)
	b := open(t, host.URL())
	if err := b.Declare(t.Context(), "payments", "carts"); err != nil {
		t.Fatal(err)
	}
	publish(t, b, "payments", ours("orders", "k", 1))
	ch := channel(t, host.URL())
	if err := ch.QueueUnbind("banyan.payments", "payments", "banyan", nil); err != nil {
		t.Fatal(err)
	}
	// Many at once: each gets its own fate, and that of the other route is another one.
	var all sync.WaitGroup
	var mu sync.Mutex
	confirmed := 0
	for i := range 100 {
		all.Go(func() {
			err := b.Publisher().Publish("payments", ours("orders", fmt.Sprint(i), 1))
			if err == nil {
				mu.Lock()
				confirmed++
				mu.Unlock()
			} else if !errs.Is(err, errs.Unavailable) {
				t.Error(err)
			}
		})
		all.Go(func() {
			if err := b.Publisher().Publish("carts", ours("orders", fmt.Sprint(i), 1)); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if n := depth(t, ch, "banyan.carts"); n != 100 {
		t.Errorf("%d messages to carts", n)
	}
	eventually(t, "the messages that were confirmed", func() bool { return depth(t, ch, "banyan.payments") == 1+confirmed })
	t.Logf("%d of 100 confirmed", confirmed)
	if confirmed == 100 {
		t.Error("no message came back")
	}
	publish(t, b, "payments", ours("orders", "after", 1))
	if n := depth(t, ch, "banyan.payments"); n != 2+confirmed {
		t.Errorf("%d messages, want %d", n, 2+confirmed)
	}
}

func TestPublishAnswersWhileTheBrokerIsAway(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0") // nobody accepts
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	for name, begin := range map[string]bool{"not begun": false, "dead": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b, err := New(config("amqp://hidden:hunter2@"+l.Addr().String()+"/"), Options{})
			if err != nil {
				t.Fatal(err)
			}
			if begin {
				run(t, b)
			}
			m := ours("orders", "k", 1)
			ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
			defer cancel()
			m.SetContext(ctx)
			at := time.Now()
			if err := b.Publisher().Publish("payments", m); !errs.Is(err, errs.Unavailable) || !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("got %v", err)
			}
			if d := time.Since(at); d >= grace {
				t.Errorf("it took %s", d)
			}
			m.SetContext(t.Context())
			for _, call := range []func() error{
				func() error { return b.Publisher().Publish("payments", m) },
				func() error { return b.Publisher().Event(t.Context(), m) },
				func() error { return b.Publisher().Barrier(t.Context(), "payments", "orders", "b") },
				func() error {
					_, err := b.Call(t.Context(), "payments", Request{Name: "q", Deadline: time.Now().Add(time.Hour)})
					return err
				},
			} {
				at = time.Now()
				if err := call(); !errs.Is(err, errs.Unavailable) || strings.Contains(err.Error(), "hunter2") {
					t.Errorf("got %v", err)
				}
				if d := time.Since(at); d > 10*grace {
					t.Errorf("it took %s", d)
				}
			}
			if s := b.Status(); s.Connected || s.Error == "" || strings.Contains(s.Error, "hunter2") {
				t.Errorf("status %+v", s)
			}
		})
	}
}

func TestAPasswordThatIsWrongIsNotShown(t *testing.T) {
	t.Parallel()
	host := shared(t)
	url := strings.Replace(host.User("", "", ""), "@", "hunter2@", 1)
	b, log := openLogged(t, url)
	eventually(t, "the refusal", func() bool { return strings.Contains(b.Status().Error, "403") })
	if all := strings.Join(log.lines(), "\n") + b.Status().Error; strings.Contains(all, "hunter2") {
		t.Error(all)
	}
}

func TestAnOutageIsLoggedOnce(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	_, log := openLogged(t, "amqp://guest:guest@"+l.Addr().String()+"/", func(c *Config) { c.RedialMin, c.RedialMax = time.Millisecond, 2*time.Millisecond })
	for range 60 {
		c, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		_ = c.Close()
	}
	// Three connections, which end in one of a few ways.
	if n := strings.Count(strings.Join(log.lines(), "\n"), "RabbitMQ is away"); n < 1 || n > 12 {
		t.Errorf("logged %d times:\n%s", n, strings.Join(log.lines(), "\n"))
	}
}

// A queue that is not as it must be is an error that says what to do; others are not concerned, and it heals by itself.
func TestAQueueWithOtherArguments(t *testing.T) {
	t.Parallel()
	host := shared(t)
	ch := channel(t, host.URL())
	if _, err := ch.QueueDeclare("banyan.payments", true, false, false, false, nil); err != nil {
		t.Fatal(err)
	}
	b, log := openLogged(t, host.URL())
	in := subscribe(t, t.Context(), b, "payments", SubscriberOptions{})
	for range 2 {
		err := b.Declare(t.Context(), "payments")
		if !errs.Is(err, errs.Unavailable) {
			t.Fatalf("got %v", err)
		}
		for _, want := range []string{"banyan.payments", "exists with other arguments", "delete_queue"} {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%q is not in %q", want, err)
			}
		}
	}
	eventually(t, "the publisher to know", func() bool {
		err := b.Publisher().Publish("payments", ours("orders", "k", 1))
		return err != nil && strings.Contains(err.Error(), "exists with other arguments")
	})
	if s := b.Status(); !s.Connected || !strings.Contains(s.Queues["banyan.payments"], "exists with other arguments") || !strings.Contains(s.Error, "banyan.payments") {
		t.Errorf("status %+v", s)
	}
	if err := b.Publisher().Publish("carts", ours("orders", "k", 1)); err != nil {
		t.Errorf("another queue: %v", err)
	}
	if n := strings.Count(strings.Join(log.lines(), "\n"), "cannot be used"); n != 1 {
		t.Errorf("logged %d times", n)
	}
	host.DeleteQueue("banyan.payments")
	publish(t, b, "payments", ours("orders", "k", 1))
	take(t, in).Ack()
	eventually(t, "a status without trouble", func() bool { return len(b.Status().Queues) == 0 && b.Status().Error == "" })
}

// A queue that is deleted at the broker is made again, by its consumer and by its publishers, and nobody gets a message that is none.
func TestAQueueThatIsDeleted(t *testing.T) {
	t.Parallel()
	host := shared(t)
	b := open(t, host.URL())
	in := subscribe(t, t.Context(), b, "payments", SubscriberOptions{})
	for i := range 3 {
		publish(t, b, "payments", ours("orders", "k", i+1))
		m := take(t, in)
		if m.UUID == "" || string(m.Payload) != fmt.Sprint(i+1) {
			t.Fatalf("got %q with %q", m.UUID, m.Payload)
		}
		m.Ack()
		host.DeleteQueue("banyan.payments")
	}
}

// What one user may do is what its module needs, and no more.
func TestAUserHasTheRightsOfItsModule(t *testing.T) {
	t.Parallel()
	host := shared(t)
	orders, payments := open(t, host.User(Permissions("orders", nil))), open(t, host.User(Permissions("payments", []string{"carts"})))
	if err := orders.Declare(t.Context(), "payments"); err == nil || !strings.Contains(err.Error(), "banyan.payments does not exist") {
		t.Errorf("the queue of another module: %v", err)
	}
	for b, modules := range map[*Broker][]string{orders: {"orders"}, payments: {"payments", "carts"}} {
		for _, module := range modules {
			in := subscribe(t, t.Context(), b, module, SubscriberOptions{})
			go func() {
				_ = b.Serve(t.Context(), module, 1, func(context.Context, Request) ([]byte, error) { return []byte(module), nil })
			}()
			for _, sender := range []*Broker{orders, payments} {
				eventually(t, "the queue", func() bool { return sender.Declare(t.Context(), module) == nil })
				publish(t, sender, module, ours("x", "k", 1))
				take(t, in).Ack()
				eventually(t, "an answer", func() bool {
					answer, err := sender.Call(t.Context(), module, Request{Name: "q", Deadline: time.Now().Add(time.Second)})
					return err == nil && string(answer) == module
				})
			}
		}
	}
	if err := orders.Publisher().Event(t.Context(), ours("orders", "k", 1)); err != nil {
		t.Errorf("an event to outside: %v", err)
	}
	for _, try := range map[string]func(*amqp.Channel) error{
		"consume": func(ch *amqp.Channel) error {
			_, err := ch.Consume("banyan.payments", "", true, false, false, false, nil)
			return err
		},
		"get": func(ch *amqp.Channel) error { _, _, err := ch.Get("banyan.payments", true); return err },
		"requests": func(ch *amqp.Channel) error {
			_, err := ch.Consume("banyan.payments.requests", "", true, false, false, false, nil)
			return err
		},
		"purge": func(ch *amqp.Channel) error { _, err := ch.QueuePurge("banyan.payments", false); return err },
		"delete": func(ch *amqp.Channel) error {
			_, err := ch.QueueDelete("banyan.payments", false, false, false)
			return err
		},
		"steal": func(ch *amqp.Channel) error { return ch.QueueBind("banyan.orders", "k", "banyan.events", false, nil) },
		"prefix": func(ch *amqp.Channel) error {
			_, err := ch.QueueDeclare("banyan.orders2", true, false, false, false, nil)
			return err
		},
		"dot is a dot": func(ch *amqp.Channel) error {
			_, err := ch.QueueDeclare("banyanxorders", true, false, false, false, nil)
			return err
		},
	} {
		if err := try(channel(t, string(orders.cfg.URL.Reveal()))); !is(err, amqp.AccessRefused) {
			t.Errorf("it was not refused: %v", err)
		}
	}
}

// Services that are not ours get the events they ask for; an event that nobody asks for is no error.
func TestEventsToOthers(t *testing.T) {
	t.Parallel()
	host := shared(t)
	b := open(t, host.URL())
	if err := b.Publisher().Event(t.Context(), ours("orders", "k", 1)); err != nil {
		t.Fatal(err)
	}
	ch := channel(t, host.URL())
	if _, err := ch.QueueDeclare("theirs", true, false, false, false, nil); err != nil {
		t.Fatal(err)
	}
	if err := ch.QueueBind("theirs", "orders.*.v1", "banyan.events", false, nil); err != nil {
		t.Fatal(err)
	}
	for _, source := range []string{"carts", "orders"} {
		if err := b.Publisher().Event(t.Context(), ours(source, "k", 2)); err != nil {
			t.Fatal(err)
		}
	}
	d, ok, err := ch.Get("theirs", true)
	if err != nil || !ok || d.MessageId != "orders-k-2" || d.Type != "orders.happened.v1" || d.DeliveryMode != amqp.Persistent {
		t.Errorf("got %+v, %v, %v", d, ok, err)
	}
	if _, ok, _ := ch.Get("theirs", true); ok {
		t.Error("an event that was not asked for")
	}
}

// Several messages of one call: those of a key one after another, and an error for any of them is one for the call.
func TestPublishSeveral(t *testing.T) {
	t.Parallel()
	host := shared(t)
	b := open(t, host.URL())
	if err := b.Publisher().Publish("payments"); err != nil {
		t.Errorf("no message: %v", err)
	}
	var all []*message.Message
	for i := range 30 {
		all = append(all, ours("orders", fmt.Sprint(i%3), i/3+1))
	}
	if err := b.Publisher().Publish("payments", all...); err != nil {
		t.Fatal(err)
	}
	in := subscribe(t, t.Context(), b, "payments", SubscriberOptions{})
	l := newLedger(t)
	for range all {
		m := take(t, in)
		l.enter(keyOf(m))
		var n int
		_, _ = fmt.Sscan(string(m.Payload), &n)
		l.leave(keyOf(m), n, true)
		m.Ack()
	}
	// What follows a message that was not taken is not sent before it.
	if err := channel(t, host.URL()).QueueUnbind("banyan.payments", "payments", "banyan", nil); err != nil {
		t.Fatal(err)
	}
	if err := b.Publisher().Publish("payments", ours("orders", "k", 1), ours("orders", "k", 2), ours("orders", "other", 1)); !errs.Is(err, errs.Unavailable) {
		t.Errorf("got %v", err)
	}
	var returned dto.Metric
	if err := b.metrics.published.WithLabelValues("payments", "returned").Write(&returned); err != nil || returned.GetCounter().GetValue() != 1 {
		t.Errorf("%v messages came back, error %v", returned.GetCounter().GetValue(), err)
	}
	publish(t, b, "payments", ours("orders", "k", 1))
	if err := b.Publisher().Publish("payments", ours("orders", "k", 1), message.NewMessage("", nil)); !errs.Is(err, errs.Invalid) {
		t.Errorf("got %v", err)
	}
	if err := b.Publisher().Publish("No Module", ours("orders", "k", 1)); !errs.Is(err, errs.Invalid) {
		t.Errorf("got %v", err)
	}
}

// What the broker or the client would answer by ending the channel is refused before it gets there.
func TestMessagesThatDoNotFit(t *testing.T) {
	t.Parallel()
	b := open(t, shared(t).URL())
	long := strings.Repeat("x", 300)
	for name, c := range map[string]struct {
		edit func(*message.Message)
		want errs.Kind
	}{
		"body":        {func(m *message.Message) { m.Payload = make([]byte, maxBody+1) }, errs.TooLarge},
		"headers":     {func(m *message.Message) { m.Metadata["x"] = strings.Repeat(long, 300) }, errs.TooLarge},
		"header name": {func(m *message.Message) { m.Metadata[long] = "x" }, errs.Invalid},
		"no name":     {func(m *message.Message) { m.Metadata[""] = "x" }, errs.Invalid},
		"id":          {func(m *message.Message) { m.UUID = long }, errs.Invalid},
		"properties":  {func(m *message.Message) { m.Metadata[headerCorrelation], m.Metadata[headerType] = long, long }, ""},
		"large":       {func(m *message.Message) { m.Payload, m.Metadata["x"] = make([]byte, 1<<20), strings.Repeat(long, 200) }, ""},
	} {
		m := ours("orders", "k", 1)
		c.edit(m)
		if err := b.Publisher().Publish("payments", m); errs.KindOf(err) != c.want {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

func TestTLS(t *testing.T) {
	t.Parallel()
	host := shared(t)
	dir := t.TempDir()
	if _, err := certs.Create(certs.Request{Dir: dir, Names: []string{"broker"}}); err != nil {
		t.Fatal(err)
	}
	ca, pair := filepath.Join(dir, "ca.pem"), filepath.Join(dir, "broker.pem")
	identity, err := tls.LoadX509KeyPair(pair, pair)
	if err != nil {
		t.Fatal(err)
	}
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{identity}})
	if err != nil {
		t.Fatal(err)
	}
	line := testinfra.NewLineOn(t, l, host.Addr())
	url := strings.Replace(line.URL(host.URL()), "amqp:", "amqps:", 1)
	good := open(t, url, func(c *Config) { c.TLS = TLSConfig{CA: ca, Cert: pair, Key: pair, ServerName: "localhost"} })
	publish(t, good, "payments", ours("orders", "k", 1))
	for name, c := range map[string]TLSConfig{
		"authority unknown": {ServerName: "localhost"},
		"name wrong":        {CA: ca, ServerName: "elsewhere"},
		"no such file":      {CA: filepath.Join(dir, "none")},
		"no certificate":    {CA: filepath.Join(dir, "empty")},
		"no pair":           {CA: ca, Cert: ca, Key: ca},
	} {
		if err := os.WriteFile(filepath.Join(dir, "empty"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		b := open(t, url, func(cfg *Config) { cfg.TLS = c })
		eventually(t, name, func() bool { s := b.Status(); return !s.Connected && s.Error != "" && s.Error != "not connected yet" })
		t.Log(name, b.Status().Error)
	}
}
