package bus_test

import (
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/banyan-go/banyan/internal/bus"
	"github.com/banyan-go/banyan/internal/bustest"
	"github.com/banyan-go/banyan/internal/databasetest"
	"github.com/banyan-go/banyan/internal/errs"
	"github.com/banyan-go/banyan/internal/testinfra"
)

// outside is a service that is not ours. The ids of messages that it has heard are given, in their order.
func outside(t *testing.T, url string) func() []string {
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
	if err := ch.ExchangeDeclare("banyan.events", "topic", true, false, false, false, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := ch.QueueDeclare("elsewhere", false, false, true, false, nil); err != nil {
		t.Fatal(err)
	}
	if err := ch.QueueBind("elsewhere", "#", "banyan.events", false, nil); err != nil {
		t.Fatal(err)
	}
	all, err := ch.Consume("elsewhere", "", true, true, false, false, nil)
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var heard []string
	go func() {
		for d := range all {
			mu.Lock()
			heard = append(heard, d.MessageId)
			mu.Unlock()
		}
	}()
	return func() []string { mu.Lock(); defer mu.Unlock(); return slices.Clone(heard) }
}

func tellsOthers(on bool) func(*bus.Config) {
	return func(c *bus.Config) { c.RabbitMQ.Events = on }
}

// lines are what is logged, one after another.
type lines struct {
	mu   sync.Mutex
	text []string
}

func (l *lines) Write(line []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.text = append(l.text, string(line))
	return len(line), nil
}

func (l *lines) with(words string) (found []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, line := range l.text {
		if strings.Contains(line, words) {
			found = append(found, line)
		}
	}
	return found
}

// What waits for services that are not ours, when they are told no more, goes there when they are told again; the shop starts without.
func TestOthersAreToldNoMore(t *testing.T) {
	each(t, func(t *testing.T, e databasetest.Engine) {
		url := testinfra.Rabbit(t).URL()
		heard := outside(t, url)
		s, err := bustest.SetStage(t, e, bustest.StageOptions{Broker: url, Config: tellsOthers(true)}, bustest.Alpha(), listener("beta"))
		if err != nil {
			t.Fatal(err)
		}
		s.Announce("alpha", bustest.Counted{ID: "a", N: 1}, bustest.Counted{ID: "a", N: 2})
		s.Close()
		for n, o := range []bustest.StageOptions{{Broker: url, Config: tellsOthers(false)}, {Config: tellsOthers(true)}} {
			said := &lines{}
			o.Log = slog.New(slog.NewTextHandler(said, nil))
			s = bustest.OpenStage(t, e, o, bustest.Alpha(), listener("beta"))
			s.Announce("alpha", bustest.Counted{ID: "a", N: 3 + n})
			s.Settle()
			want(t, "handled", s.Seen("beta", "count", "a"), bustest.Range(1, 3+n))
			want(t, "what waits", s.Count("alpha", "SELECT count(*) FROM delivery"), 2)
			if l := said.with("bus.rabbitmq.events"); len(l) != 1 || !strings.Contains(l[0], "number=2") {
				t.Errorf("the log says %q", l)
			}
			s.Close()
		}
		s = bustest.OpenStage(t, e, bustest.StageOptions{Broker: url, Config: tellsOthers(true)}, bustest.Alpha(), listener("beta"))
		s.Announce("alpha", bustest.Counted{ID: "a", N: 5})
		s.Eventually("the others have heard", func() bool { return len(heard()) == 3 })
		s.Settle()
	})
}

// What no module subscribes to is kept, and can be replayed, also where services that are not ours are told of it. They are told once.
func TestOthersAloneSubscribe(t *testing.T) {
	each(t, func(t *testing.T, e databasetest.Engine) {
		url := testinfra.Rabbit(t).URL()
		heard := outside(t, url)
		o := bustest.StageOptions{Broker: url, Config: tellsOthers(true)}
		s := bustest.OpenStage(t, e, o, bustest.Alpha())
		s.Announce("alpha", bustest.Counted{ID: "a", N: 1}, bustest.Counted{ID: "a", N: 2})
		s.Settle()
		s.Eventually("others have heard", func() bool { return len(heard()) == 2 })
		name := bustest.Counted{}.MessageName()
		kept, err := s.Bus.Kept(t.Context(), "alpha")
		if err != nil || len(kept) != 1 || kept[0].Number != 2 || len(kept[0].Subscribers) != 0 {
			t.Errorf("kept %+v, error %v", kept, err)
		}
		if n, err := s.Bus.Replay(t.Context(), "alpha", name); n != 0 || !errs.Is(err, errs.Conflict) {
			t.Errorf("replayed %d to nobody, error %v", n, err)
		}
		s.Stop()
		s.Announce("alpha", bustest.Counted{ID: "a", N: 3}) // others have not heard of it when it is replayed
		s.Close()
		if s, err = bustest.SetStage(t, e, o, bustest.Alpha(), listener("beta")); err != nil {
			t.Fatal(err)
		}
		if n, err := s.Bus.Replay(t.Context(), "alpha", name); n != 3 || err != nil {
			t.Errorf("replayed %d, error %v", n, err)
		}
		s.Run()
		s.Settle()
		want(t, "handled", s.Seen("beta", "count", "a"), []int{1, 2, 3})
		s.Eventually("others have heard of the third, too", func() bool { return len(heard()) >= 3 })
		want(t, "others have heard", len(heard()), 3)
		want(t, "left in the outbox", s.Count("alpha", "SELECT count(*) FROM outbox"), 0)
	})
}
