package testinfra

import (
	"errors"
	"net"
	"strings"
	"testing"

	amqp "github.com/rabbitmq/amqp091-go"
)

func TestRabbitHostsAreApart(t *testing.T) {
	t.Parallel()
	a, b := Rabbit(t), Rabbit(t)
	if a.URL() == b.URL() {
		t.Fatal("two tests share a virtual host")
	}
	conn := dialRabbit(t, a.URL())
	ch, err := conn.Channel()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ch.QueueDeclare("q", true, false, false, false, amqp.Table{"x-queue-type": "quorum"}); err != nil {
		t.Fatal(err)
	}
	if ch, err = dialRabbit(t, b.URL()).Channel(); err != nil {
		t.Fatal(err)
	}
	if _, err := ch.QueueDeclarePassive("q", true, false, false, false, nil); err == nil {
		t.Error("a queue is seen from another test")
	}
	closed := conn.NotifyClose(make(chan *amqp.Error, 1))
	wait(t, "the connection to be known", func() bool { return a.KillConnections() > 0 })
	if err := <-closed; err == nil || err.Code != amqp.ConnectionForced {
		t.Errorf("the connection ended with %v", err)
	}
	a.DeleteQueue("q")
	if _, err := amqp.Dial(a.User("", "", "")); err != nil {
		t.Errorf("a user cannot connect: %v", err)
	}
}

func dialRabbit(t *testing.T, url string) *amqp.Connection {
	t.Helper()
	conn, err := amqp.Dial(url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// A private broker keeps what is durable over a kill.
func TestPrivateRabbit(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a broker twice")
	}
	t.Parallel()
	b := PrivateRabbit(t)
	ch, err := dialRabbit(t, b.URL()).Channel()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ch.QueueDeclare("q", true, false, false, false, amqp.Table{"x-queue-type": "quorum"}); err != nil {
		t.Fatal(err)
	}
	b.Crash()
	if c, err := net.Dial("tcp", b.Addr()); err == nil {
		_ = c.Close()
		t.Error("a broker that was killed listens")
	}
	b.Start()
	if ch, err = dialRabbit(t, b.URL()).Channel(); err != nil {
		t.Fatal(err)
	}
	if _, err := ch.QueueDeclarePassive("q", true, false, false, false, nil); err != nil {
		t.Errorf("the queue is gone: %v", err)
	}
	for range 200 {
		if err := b.server.Eval("exit(wrong)"); err == nil || !strings.HasSuffix(err.Error(), "wrong") {
			t.Fatalf("an expression that fails gives %v", err)
		}
	}
}

func TestNeedRabbit(t *testing.T) {
	for _, c := range []struct {
		name, require string
		err           error
		want          string
	}{
		{"there", "", nil, ""}, {"missing", "", ErrNoRabbit, "skipped"}, {"missing but required", "1", ErrNoRabbit, "failed"}, {"broken", "", errors.New("exit 1"), "failed"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Setenv(EnvRequire, c.require)
			tb := &fakeTB{TB: t}
			needRabbit(tb, c.err)
			if tb.ended != c.want {
				t.Errorf("got %q, want %q", tb.ended, c.want)
			}
		})
	}
}

func TestForeignRabbit(t *testing.T) {
	for _, c := range []struct{ broker, admin, want string }{
		{"amqp://a:b@h:1/", "", "http://a:b@h:15672"},
		{"amqp://a:b@h:1/", "http://c:d@i:2", "http://c:d@i:2"},
		{"amqp://h", "", ""}, {"http://a:b@h", "", ""}, {"amqp://a:b@h:1/", "i:2", ""},
	} {
		s, err := foreignRabbit(c.broker, c.admin)
		if c.want == "" {
			if err == nil || strings.Contains(err.Error(), "a:b") {
				t.Errorf("%s and %s: got %v", c.broker, c.admin, err)
			}
			continue
		}
		if err != nil || s.Admin() != c.want || s.URL() != c.broker {
			t.Errorf("%s and %s: got %v, %v", c.broker, c.admin, s, err)
		}
	}
}
