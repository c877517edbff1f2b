package bus_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/banyan-go/banyan/internal/bus"
	"github.com/banyan-go/banyan/internal/bustest"
	"github.com/banyan-go/banyan/internal/clock"
	"github.com/banyan-go/banyan/internal/database"
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

// A message that only another version of the program handles waits for that version, with what comes behind it, in the order of its
// key, and holds up nothing else, however many there are. One whose subscription is over becomes a dead letter that blocks nothing.
func TestAnotherVersionsMessages(t *testing.T) {
	t.Parallel()
	databasetest.Each(t, append([]string{"control"}, bustest.Modules...), func(t *testing.T, e databasetest.Engine) {
		o := bustest.StageOptions{Control: true, Clock: clock.NewSimulated(time.Date(2026, 3, 1, 9, 0, 0, 0, time.UTC))}
		counted, other := bustest.Counted{}.MessageName(), bustest.Other{}.MessageName()
		version := func(events ...string) *bustest.Stage {
			return bustest.OpenStage(t, e, o, bustest.Alpha(), bustest.Listener("beta", module.Subscription{Handler: "count", Events: events},
				func(_ context.Context, u *unit.Work, m message.Message) error {
					return bustest.Keep(u, "count", m.Key, bustest.Number(m))
				}))
		}
		s := version(counted)
		change := func(sql string, args ...any) {
			t.Helper()
			if err := s.Stores[database.Control].Do(t.Context(), func(_ context.Context, w *unit.Work) error { return w.DB.Exec(sql, args...).Error }); err != nil {
				t.Fatal(err)
			}
		}
		subscribe := func() { // as a process does that has beta in a newer version
			change("INSERT INTO subscription (subscriber, message, since, part_seen_at) VALUES ('beta', ?, ?, ?)", other, time.Now(), time.Now())
		}
		end := func() { change("DELETE FROM subscription WHERE message = ?", other) }
		deliver := func(name, key string, n int) {
			t.Helper()
			m := message.Message{ID: fmt.Sprintf("%s-%d", key, n), Name: name, Source: "alpha", Key: key, Sequence: int64(n), Time: o.Clock.Now(), Payload: fmt.Appendf(nil, `{"id":%q,"n":%d}`, key, n)}
			if err := s.Bus.Deliver(t.Context(), "beta", m); err != nil {
				t.Errorf("%s: %v", m.ID, err)
			}
		}
		seen := func(key string, numbers ...int) {
			t.Helper()
			if got := s.Seen("beta", "count", key); !slices.Equal(got, numbers) {
				t.Errorf("key %s: handled %v, want %v", key, got, numbers)
			}
		}
		kept := func(key string) int {
			return s.Count("beta", "SELECT count(*) FROM parked WHERE key = ?", "alpha/"+key)
		}
		subscribe()
		for range 2 { // what comes twice counts once
			deliver(other, "a", 1)
			deliver(counted, "a", 2)
			deliver(counted, "b", 1)
			deliver(other, "c", 1)
			deliver(counted, "c", 2)
		}
		const many = 300 // more than are on their way over RabbitMQ
		for n := range many {
			deliver(other, fmt.Sprintf("many-%d", n), 1)
		}
		seen("a")
		seen("b", 1)
		want(t, "messages of a kept", kept("a"), 2)
		o.Clock.Advance(48 * time.Hour)
		s.Eventually("it is tried", func() bool { return s.Count("beta", "SELECT count(*) FROM parked_key WHERE attempt = 0") == 0 })
		want(t, "messages of a kept after two days", kept("a"), 2)
		want(t, "dead letters", s.Count("beta", "SELECT count(*) FROM dead_letters"), 0)
		s.Close()

		s = version("alpha.*")
		s.Eventually("the newer version has handled all", func() bool { return s.Count("beta", "SELECT count(*) FROM parked") == 0 })
		s.Eventually("nothing is kept", func() bool { return s.Count("beta", "SELECT count(*) FROM parked_key") == 0 })
		deliver(other, "a", 1)
		deliver(other, "a", 3)
		seen("a", 1, 2, 3)
		seen("c", 1, 2)
		want(t, "handled", s.Count("beta", "SELECT count(*) FROM seen"), 3+1+2+many)
		s.Close()

		s = version(counted)
		end()
		subscribe()
		deliver(other, "d", 1)
		deliver(counted, "d", 2)
		seen("d")
		end()
		o.Clock.Advance(time.Hour)
		s.Eventually("what is behind a message whose subscription is over is handled", func() bool { return len(s.Seen("beta", "count", "d")) == 1 })
		seen("d", 2)
		for range 2 {
			deliver(other, "d", 3)
		}
		s.Eventually("nothing is kept", func() bool { return s.Count("beta", "SELECT count(*) FROM parked_key") == 0 })
		in, err := s.Bus.Inbox("beta")
		if err != nil {
			t.Fatal(err)
		}
		letters, err := in.DeadLetters(t.Context(), "", "", 10)
		if err != nil || len(letters) != 2 {
			t.Fatalf("dead letters %+v, %v; want those of both messages", letters, err)
		}
		s.Close()

		s = version("alpha.*")
		if in, err = s.Bus.Inbox("beta"); err != nil {
			t.Fatal(err)
		}
		for _, l := range letters {
			if err := in.Replay(t.Context(), l.ID); err != nil {
				t.Error(err)
			}
		}
		s.Eventually("both are handled when they are replayed", func() bool { return len(s.Seen("beta", "count", "d")) == 3 })
		want(t, "dead letters left", s.Count("beta", "SELECT count(*) FROM dead_letters"), 0)
	})
}
