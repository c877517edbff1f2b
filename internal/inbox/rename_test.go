package inbox_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/banyan-go/banyan/internal/bustest"
	"github.com/banyan-go/banyan/internal/clock"
	"github.com/banyan-go/banyan/internal/databasetest"
	"github.com/banyan-go/banyan/internal/errs"
	"github.com/banyan-go/banyan/internal/inbox"
	"github.com/banyan-go/banyan/internal/message"
	"github.com/banyan-go/banyan/internal/module"
	"github.com/banyan-go/banyan/internal/telemetry"
	"github.com/banyan-go/banyan/internal/unit"
)

// versions runs beta in several versions on one database; all of them fail with what fail says.
type versions struct {
	t    *testing.T
	e    databasetest.Engine
	fail atomic.Pointer[error]
	all  *bustest.Stage // the first one, for its clock
}

func (v *versions) failWith(err error) { v.fail.Store(&err) }

func (v *versions) open(handler string, aliases ...string) *bustest.Stage {
	v.t.Helper()
	o := bustest.StageOptions{}
	if v.all != nil {
		o.Clock = v.all.Clock
	}
	s := bustest.OpenStage(v.t, v.e, o, bustest.Alpha(),
		bustest.Listener("beta", module.Subscription{Handler: handler, Aliases: aliases, Events: []string{"alpha.*"}}, func(_ context.Context, u *unit.Work, m message.Message) error {
			if fail := v.fail.Load(); fail != nil && *fail != nil {
				return *fail
			}
			return bustest.Keep(u, "handler", m.Key, bustest.Number(m))
		}))
	if v.all == nil {
		v.all = s
	}
	return s
}

func numbered(s *bustest.Stage, key string, n int) message.Message {
	return message.Message{ID: message.NewID(), Name: "alpha.counted.v1", Source: "alpha", Key: key, Sequence: int64(n), Time: s.Clock.Now(), Payload: fmt.Appendf(nil, `{"id":%q,"n":%d}`, key, n)}
}

func (v *versions) deliver(s *bustest.Stage, messages ...message.Message) {
	v.t.Helper()
	for _, m := range messages {
		if err := s.Bus.Deliver(context.Background(), "beta", m); err != nil {
			v.t.Fatal(err)
		}
	}
}

// While a version in which a handler has a new name runs beside the one before, either of them may be given a message, and
// given it again when the other one had it. Each message has its effect once, and each key keeps its order.
func TestRenamedBesideTheVersionBefore(t *testing.T) {
	t.Parallel()
	v := &versions{t: t, e: databasetest.Postgres(t, bustest.Modules...)}
	older := v.open("count")
	newer := v.open("tally", "count")

	both := []message.Message{numbered(older, "good", 1), numbered(older, "good", 2)}
	v.deliver(older, both[0])
	v.deliver(newer, both...)
	v.deliver(older, both...)
	want(t, "handled once", newer.Seen("beta", "handler", "good"), []int{1, 2})

	v.failWith(errors.New("down"))
	v.deliver(older, numbered(older, "bad", 1))
	v.deliver(newer, numbered(older, "worse", 1))
	v.failWith(nil)
	v.deliver(newer, numbered(older, "bad", 2))
	v.deliver(older, numbered(older, "worse", 2))
	want(t, "overtaken", append(newer.Seen("beta", "handler", "bad"), newer.Seen("beta", "handler", "worse")...), []int{})

	v.failWith(errs.New(errs.Invalid, "no"))
	v.deliver(older, numbered(older, "dead", 1))
	v.failWith(nil)
	older.Close()
	bustest.Eventually(t, "what waited is handled", 20*time.Second, func() bool {
		newer.Clock.Advance(time.Minute)
		return len(newer.Seen("beta", "handler", "bad"))+len(newer.Seen("beta", "handler", "worse")) == 4
	})
	want(t, "what the older one parked", newer.Seen("beta", "handler", "bad"), []int{1, 2})
	want(t, "what the newer one parked", newer.Seen("beta", "handler", "worse"), []int{1, 2})

	in, err := newer.Bus.Inbox("beta")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"count", "tally"} {
		found, err := in.DeadLetters(t.Context(), name, "", 10)
		if err != nil {
			t.Fatal(err)
		}
		want(t, "letters of "+name, len(found), 1)
	}
}

// A version in which the alias was forgotten kept rows under the new name alone, beside those of the version before. The next one,
// which has it, takes them over: what both were given counts once.
func TestForgottenAlias(t *testing.T) {
	t.Parallel()
	v := &versions{t: t, e: databasetest.Postgres(t, bustest.Modules...)}
	older := v.open("count")
	forgot := v.open("tally")
	down, no := errors.New("down"), errs.New(errs.Invalid, "no")
	made := func(key string, n int) message.Message { return numbered(older, key, n) }
	to := func(s *bustest.Stage, err error, messages ...message.Message) {
		t.Helper()
		v.failWith(err)
		v.deliver(s, messages...)
	}
	good, late, bad, dead, half := made("good", 1), made("late", 1), made("bad", 1), made("dead", 1), made("half", 1)
	to(older, nil, good, half)
	to(forgot, nil, good, late)
	to(older, down, bad)
	to(forgot, down, bad, made("bad", 2), made("parked", 1))
	to(forgot, no, half, made("letter", 1))
	to(older, no, dead)
	to(forgot, no, dead)
	to(older, down, made("letter", 2))
	older.Close()
	forgot.Close()

	v.failWith(nil)
	s := v.open("tally", "count")
	v.deliver(s, good, late, made("half", 2))
	s.Advance(time.Hour)
	in, err := s.Bus.Inbox("beta")
	if err != nil {
		t.Fatal(err)
	}
	found, err := in.DeadLetters(t.Context(), "", "", 10)
	if err != nil {
		t.Fatal(err)
	}
	keys := []string{}
	for _, l := range found {
		keys = append(keys, l.Key)
	}
	slices.Sort(keys)
	want(t, "letters", keys, []string{"alpha/dead", "alpha/letter"})
	want(t, "blocked by a letter of the other name", s.Seen("beta", "handler", "letter"), []int{})
	for _, l := range found {
		if err := in.Replay(t.Context(), l.ID); err != nil {
			t.Fatal(err)
		}
	}
	s.Advance(time.Hour)
	for key, expect := range map[string][]int{
		"good": {1, 1}, "late": {1}, "bad": {1, 2}, "parked": {1}, "dead": {1}, "letter": {1, 2}, "half": {1, 2},
	} { // both versions had the good one, before anybody could help it
		want(t, key, s.Seen("beta", "handler", key), expect)
	}
}

// Two handlers with one name would take each other's messages for their own.
func TestOneNameForTwoHandlers(t *testing.T) {
	each(t, func(t *testing.T, e databasetest.Engine) {
		beta := bustest.Part{Descriptor: module.Descriptor{Name: "beta", Contract: message.Contract{Module: "beta"}, Subscriptions: []module.Subscription{
			{Handler: "count", Events: []string{"alpha.counted.v1"}}, {Handler: "tally", Aliases: []string{"count"}, Events: []string{"alpha.other.v1"}},
		}}, Bind: func(m *module.Module, _ *unit.Store) {
			for _, h := range []string{"count", "tally"} {
				module.OnAny(m, h, func(context.Context, *unit.Work, message.Message) error { return nil })
			}
		}}
		if _, err := bustest.SetStage(t, e, bustest.StageOptions{}, bustest.Alpha(), beta); err == nil || !strings.Contains(err.Error(), "Aliases") {
			t.Errorf("started with error %v, want one that names the way out", err)
		}
	})
}

// A message that this version has no function for may be known to one that is on its way in. It is not taken.
func TestMessageOfANewerVersionIsNotTaken(t *testing.T) {
	each(t, func(t *testing.T, e databasetest.Engine) {
		w := bustest.Prepare(t, e, bustest.Options{})
		h := &inbox.Handler{Name: "count", For: func(string) module.MessageHandler { return nil }}
		in := inbox.New(w.Beta, []*inbox.Handler{h}, inbox.Policy{Timeout: time.Second}, telemetry.NewMessages(nil), slog.New(slog.DiscardHandler), func() {}, nil)
		m := message.Message{ID: message.NewID(), Name: "alpha.another.v2", Source: "alpha", Key: "a", Sequence: 1, Time: w.Clock.Now(), Payload: []byte(`{}`)}
		outcome, err := in.Handle(t.Context(), h, m)
		if !errs.Is(err, errs.Unavailable) || outcome != "" {
			t.Errorf("outcome %q, error %v; want it refused for now", outcome, err)
		}
		want(t, "rows of it", bustest.Count(t, w.Beta, "SELECT (SELECT count(*) FROM inbox) + (SELECT count(*) FROM parked) + (SELECT count(*) FROM dead_letters)"), 0)
	})
}

// A message that a newer version has parked waits for it, where the version before takes over amid a roll-out.
func TestParkedByANewerVersion(t *testing.T) {
	each(t, func(t *testing.T, e databasetest.Engine) {
		o := bustest.StageOptions{Control: true, Clock: clock.NewSimulated(time.Date(2026, 3, 1, 9, 0, 0, 0, time.UTC))}
		var down atomic.Bool
		down.Store(true)
		newer := func() *bustest.Stage {
			return bustest.OpenStage(t, e, o, bustest.Alpha(), bustest.Listener("beta", module.Subscription{Handler: "count", Events: []string{"alpha.*"}},
				func(_ context.Context, u *unit.Work, m message.Message) error {
					if down.Load() {
						return errs.New(errs.Unavailable, "down")
					}
					return bustest.Keep(u, "count", m.Key, bustest.Number(m))
				}))
		}
		s := newer()
		s.Announce("alpha", bustest.Other{ID: "a", N: 1})
		s.Eventually("it is parked", func() bool { return s.Count("beta", "SELECT count(*) FROM parked") == 1 })
		s.Close()
		older := bustest.Part{
			Descriptor: module.Descriptor{Name: "beta", Contract: message.Contract{Module: "beta"}, Subscriptions: []module.Subscription{{Handler: "count", Events: []string{"alpha.counted.v1"}}}},
			Bind: func(m *module.Module, _ *unit.Store) {
				module.OnEvent(m, "count", func(context.Context, *unit.Work, bustest.Counted) error { return nil })
			},
		}
		s = bustest.OpenStage(t, e, o, bustest.Alpha(), older)
		o.Clock.Advance(48 * time.Hour)
		s.Eventually("it is tried", func() bool {
			return s.Count("beta", "SELECT count(*) FROM parked_key WHERE attempt = 0 OR next_at IS NULL") == 1
		})
		want(t, "dead letters", s.Count("beta", "SELECT count(*) FROM dead_letters"), 0)
		s.Close()
		s = newer()
		o.Clock.Advance(time.Hour)
		s.Eventually("its version fails with it", func() bool {
			return s.Count("beta", "SELECT count(*) FROM parked_key WHERE attempt = 1 OR next_at IS NULL") == 1
		})
		want(t, "dead letters, as its time has only begun", s.Count("beta", "SELECT count(*) FROM dead_letters"), 0)
		down.Store(false)
		o.Clock.Advance(time.Hour)
		s.Eventually("it is handled", func() bool { return len(s.Seen("beta", "count", "a")) == 1 })
		s.Close()

		down.Store(true)
		s = newer()
		s.Announce("alpha", bustest.Other{ID: "b", N: 1})
		s.Eventually("another is parked", func() bool { return s.Count("beta", "SELECT count(*) FROM parked") == 1 })
		s.Close()
		s = bustest.OpenStage(t, e, o, bustest.Alpha(), older)
		o.Clock.Advance(31 * 24 * time.Hour)
		s.Eventually("nobody waits for ever for a version that does not come", func() bool { return s.Count("beta", "SELECT count(*) FROM dead_letters") == 1 })
		s.Close()
	})
}
