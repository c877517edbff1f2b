package bus_test

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"gorm.io/gorm"

	"github.com/banyan-go/banyan/internal/bus"
	"github.com/banyan-go/banyan/internal/bustest"
	"github.com/banyan-go/banyan/internal/databasetest"
	"github.com/banyan-go/banyan/internal/message"
	"github.com/banyan-go/banyan/internal/module"
	"github.com/banyan-go/banyan/internal/unit"
)

// counter is a subscriber that keeps what it gets once open is closed.
func counter(open <-chan struct{}) bustest.Part {
	return bustest.Listener("beta", module.Subscription{Handler: "count", Events: []string{"alpha.*"}}, func(_ context.Context, u *unit.Work, m message.Message) error {
		<-open
		return bustest.Keep(u, "count", m.Key, bustest.Number(m))
	})
}

// Too many messages wait: every replica refuses requests, not only the one that relays.
func TestEveryReplicaSeesTheHighWaterMark(t *testing.T) {
	t.Parallel()
	e := databasetest.Postgres(t, bustest.Modules...)
	blocked := make(chan struct{})
	var once sync.Once
	release := func() { once.Do(func() { close(blocked) }) }
	o := bustest.StageOptions{Config: func(c *bus.Config) { c.HighWaterRows = 3 }}
	a := bustest.OpenStage(t, e, o, bustest.Alpha(), counter(blocked))
	a.Eventually("the first one owns", func() bool { m, _ := a.Bus.Status(t.Context()); return m["alpha"].Owner })
	b := bustest.OpenStage(t, e, o, bustest.Alpha(), counter(blocked))
	t.Cleanup(release)
	for n := range 6 {
		a.Announce("alpha", bustest.Counted{ID: bustest.Key(n), N: n})
	}
	for name, s := range map[string]*bustest.Stage{"owner": a, "other replica": b} {
		s.Eventually("the "+name+" refuses", func() bool { return strings.Contains(s.Stores["alpha"].Overloaded(), "more than 3 messages") })
	}
	release()
	for name, s := range map[string]*bustest.Stage{"owner": a, "other replica": b} {
		s.Eventually("the "+name+" takes requests again", func() bool { return s.Stores["alpha"].Overloaded() == "" })
	}
}

// What is committed while a notification is on its way is told too, and not left to the sweep of a second.
func TestNotificationsMissNothing(t *testing.T) {
	t.Parallel()
	e := databasetest.Postgres(t, append([]string{"control"}, bustest.Modules...)...)
	open := make(chan struct{})
	close(open)
	a := bustest.OpenStage(t, e, bustest.StageOptions{Real: true, Control: true}, bustest.Alpha(), counter(open))
	a.Eventually("the first one owns", func() bool { m, _ := a.Bus.Status(t.Context()); return m["alpha"].Owner })
	b := bustest.OpenStage(t, e, bustest.StageOptions{Real: true, Control: true}, bustest.Alpha(), counter(open))
	slow := 0
	const pairs = 15
	for n := range pairs {
		b.Announce("alpha", bustest.Counted{ID: "k", N: 2 * n})
		b.Announce("alpha", bustest.Counted{ID: "k", N: 2*n + 1})
		start := time.Now()
		a.Eventually("both are handled", func() bool { return len(a.Seen("beta", "count", "k")) == 2*n+2 })
		if time.Since(start) > 400*time.Millisecond {
			slow++
		}
	}
	// Each second one of a pair falls into the time of the first one's notification. Left to the sweep, it would take half a second on
	// average; some of them may, on a busy machine.
	if slow > pairs/3 {
		t.Errorf("%d of %d pairs took longer than 400 ms", slow, pairs)
	}
}

// A message for a handler of another version of the program waits for that version. One whose subscription is over is dropped.
func TestUnknownHandler(t *testing.T) {
	t.Parallel()
	e := databasetest.Postgres(t, append([]string{"control"}, bustest.Modules...)...)
	open := make(chan struct{})
	close(open)
	old := bustest.Listener("beta", module.Subscription{Handler: "other", Events: []string{"alpha.other.*"}}, func(context.Context, *unit.Work, message.Message) error { return nil })
	s := bustest.OpenStage(t, e, bustest.StageOptions{Control: true}, bustest.Alpha(), old)
	subscribe := func(change string, args ...any) {
		t.Helper()
		if err := e.Store(t, "control").Write(t.Context(), func(tx *gorm.DB) error { return tx.Exec(change, args...).Error }); err != nil {
			t.Fatal(err)
		}
	}
	m := message.Message{ID: message.NewID(), Name: bustest.Counted{}.MessageName(), Source: "alpha", Key: "k", Sequence: 1, Time: time.Now(), Payload: []byte(`{"id":"k","n":1}`)}
	subscribe("INSERT INTO subscription (subscriber, message, since) VALUES ('beta', ?, now())", m.Name)
	if err := s.Bus.Deliver(t.Context(), "beta", m); err == nil {
		t.Error("a message that another version subscribes to was taken")
	}
	subscribe("DELETE FROM subscription WHERE message = ?", m.Name)
	if err := s.Bus.Deliver(t.Context(), "beta", m); err != nil {
		t.Errorf("a message whose subscription is over: %v", err)
	}
}
