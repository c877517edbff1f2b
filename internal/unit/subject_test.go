package unit_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/banyan-go/banyan/internal/bustest"
	"github.com/banyan-go/banyan/internal/databasetest"
	"github.com/banyan-go/banyan/internal/errs"
	"github.com/banyan-go/banyan/internal/inbox"
	"github.com/banyan-go/banyan/internal/message"
	"github.com/banyan-go/banyan/internal/module"
	"github.com/banyan-go/banyan/internal/unit"
)

// intent is what a module wants done for somebody.
type intent struct {
	Order string `json:"order"`
	Card  string `json:"card" personal:"true"`
}

// Pay and Paid are a command that is answered at once, and its answer.
type (
	Pay  struct{}
	Paid struct {
		Card string `json:"card" personal:"true"`
	}
)

func (Pay) MessageName() string      { return "beta.pay.v1" }
func (Paid) PersonalSubject() string { return "ann" }

// desk is a module that answers each message with an effect and a timer that hold a card.
type desk struct {
	*bustest.Stage
	t *testing.T

	mu     sync.Mutex
	fail   error
	effect []intent // as called
	timer  []intent // as fired
}

func openDesk(t *testing.T, e databasetest.Engine) *desk {
	t.Helper()
	d := &desk{t: t}
	d.Stage = bustest.OpenStage(t, e, bustest.StageOptions{}, bustest.Alpha(), bustest.Part{
		Descriptor: module.Descriptor{
			Name: "beta", Subscriptions: []module.Subscription{{Handler: "count", Events: []string{"alpha.counted.v1"}}}, Timers: []string{"later"}, Effects: []string{"call"},
			Contract: message.Contract{Module: "beta", Queries: []message.Exchange{{Query: Pay{}, Reply: Paid{}}}},
		},
		Bind: func(m *module.Module, s *unit.Store) {
			module.OnAny(m, "count", func(_ context.Context, u *unit.Work, m message.Message) error {
				i := intent{Order: m.Key, Card: "card of " + m.Subject}
				u.Effect("call", m.Key, i)
				u.Schedule("later", m.Key, u.Now().Add(time.Minute), i)
				return nil
			})
			module.OnEffect(m, "call", func(_ context.Context, _ string, i intent) error {
				d.mu.Lock()
				defer d.mu.Unlock()
				d.effect = append(d.effect, i)
				return d.fail
			})
			module.OnTimer(m, "later", func(_ context.Context, _ *unit.Work, _ string, i intent) error {
				d.mu.Lock()
				defer d.mu.Unlock()
				d.timer = append(d.timer, i)
				return nil
			})
			module.OnRequest(m, func(context.Context, *unit.Work, Pay) (Paid, error) { return Paid{Card: "card of ann"}, nil })
		},
	})
	return d
}

func (d *desk) failWith(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.fail = err
}

// last is how the effect was called and the timer fired last.
func (d *desk) last() (effect, timer intent) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if n := len(d.effect); n > 0 {
		effect = d.effect[n-1]
	}
	if n := len(d.timer); n > 0 {
		timer = d.timer[n-1]
	}
	return effect, timer
}

func (d *desk) tell(key, subject string) {
	d.t.Helper()
	m := message.Message{ID: message.NewID(), Name: "alpha.counted.v1", Source: "alpha", Key: key, Sequence: 1, Subject: subject, Time: d.Clock.Now(), Payload: []byte(`{}`)}
	if err := d.Bus.Deliver(context.Background(), "beta", m); err != nil {
		d.t.Fatal(err)
	}
	d.Settle()
}

func (d *desk) erase(subject string) {
	d.t.Helper()
	d.Do("beta", func(u *unit.Work) error { return u.Erase(subject) })
}

// holding are the tables in which a card of somebody stands.
func (d *desk) holding(subject string) []string {
	d.t.Helper()
	found := []string{}
	for table, columns := range map[string][]string{"timers": {"payload"}, "dead_letters": {"message", "reason"}, "inbox": {"reply"}} {
		var n int
		for _, c := range columns {
			var rows [][]byte
			if err := d.Stores["beta"].Read(context.Background()).Raw("SELECT " + c + " FROM " + table).Scan(&rows).Error; err != nil {
				d.t.Fatal(err)
			}
			for _, r := range rows {
				if strings.Contains(string(r), "card of "+subject) {
					n++
				}
			}
		}
		if n > 0 {
			found = append(found, table)
		}
	}
	return found
}

func (d *desk) letters() (*inbox.Inbox, []inbox.DeadLetter) {
	d.t.Helper()
	in, err := d.Bus.Inbox("beta")
	if err != nil {
		d.t.Fatal(err)
	}
	found, err := in.DeadLetters(context.Background(), "", "", 10)
	if err != nil {
		d.t.Fatal(err)
	}
	return in, found
}

// A timer is given nothing personal of somebody who was erased, before it was set or after; those of others are.
func TestTimerOfAnErasedUser(t *testing.T) {
	each(t, func(t *testing.T, e databasetest.Engine) {
		d := openDesk(t, e)
		d.tell("before", "ann")
		d.erase("ann")
		want(t, "with a card", d.holding("ann"), []string{})
		d.Advance(2 * time.Minute)
		_, timer := d.last()
		want(t, "set before", timer, intent{Order: "before"})
		d.tell("after", "ann")
		want(t, "with a card", d.holding("ann"), []string{})
		d.Advance(2 * time.Minute)
		_, timer = d.last()
		want(t, "set after", timer, intent{Order: "after"})
		d.tell("other", "bob")
		d.Advance(2 * time.Minute)
		_, timer = d.last()
		want(t, "of somebody else", timer, intent{Order: "other", Card: "card of bob"})
	})
}

// An effect that is pending when its user is erased is finished as it was begun, and leaves nothing behind.
func TestPendingEffectOfAnErasedUser(t *testing.T) {
	each(t, func(t *testing.T, e databasetest.Engine) {
		d := openDesk(t, e)
		d.failWith(errors.New("down, says the bank about the card of ann"))
		d.tell("a", "ann")
		d.erase("ann")
		d.failWith(nil)
		d.Advance(time.Minute)
		effect, _ := d.last()
		want(t, "the call", effect, intent{Order: "a", Card: "card of ann"})
		want(t, "left over", d.Count("beta", "SELECT count(*) FROM timers"), 0)
		want(t, "with a card", d.holding("ann"), []string{})
	})
}

// An effect that was given up is kept without what is personal, whether its user was erased before or after; with what is left
// of it it can be called again.
func TestGivenUpEffectOfAnErasedUser(t *testing.T) {
	for _, before := range []bool{true, false} {
		t.Run(map[bool]string{true: "erased before", false: "erased after"}[before], func(t *testing.T) {
			each(t, func(t *testing.T, e databasetest.Engine) {
				d := openDesk(t, e)
				d.failWith(errors.New("down"))
				d.tell("a", "ann")
				d.tell("b", "bob")
				if before {
					d.erase("ann")
				}
				d.failWith(errs.New(errs.Invalid, "the bank does not like the card of ann"))
				bustest.Eventually(t, "both are given up", 10*time.Second, func() bool {
					d.Advance(time.Minute)
					_, found := d.letters()
					return len(found) == 2
				})
				if !before {
					want(t, "with a card before the erasure", d.holding("ann"), []string{"dead_letters"})
					d.erase("ann")
				}
				in, found := d.letters()
				d.failWith(nil)
				for _, l := range found {
					letter, err := in.DeadLetter(t.Context(), l.ID)
					if err != nil {
						t.Fatal(err)
					}
					if l.Key == "a" && (strings.Contains(string(letter.Message), "card of ann") || letter.Reason != "erased") {
						t.Errorf("the letter keeps %s and %q", letter.Message, letter.Reason)
					}
					if err := in.Replay(t.Context(), l.ID); err != nil {
						t.Fatal(err)
					}
					d.Settle()
					effect, _ := d.last()
					expect := map[string]intent{"a": {Order: "a"}, "b": {Order: "b", Card: "card of bob"}}[l.Key]
					want(t, "replayed", effect, expect)
				}
			})
		})
	}
}

// The reply to a command is forgotten with whom it is about; who repeats the command is told so.
func TestReplyOfAnErasedUser(t *testing.T) {
	each(t, func(t *testing.T, e databasetest.Engine) {
		d := openDesk(t, e)
		id := message.NewID()
		ask := func(id string) (Paid, error) { return message.Request[Paid](t.Context(), d.Bus, Pay{}, id) }
		for range 2 {
			paid, err := ask(id)
			if err != nil || paid.Card != "card of ann" {
				t.Fatalf("got %v, %v", paid, err)
			}
		}
		d.erase("ann")
		want(t, "with a card", d.holding("ann"), []string{})
		if _, err := ask(id); !errs.Is(err, errs.Gone) {
			t.Errorf("the repeat: %v, want gone", err)
		}
		if _, err := ask(message.NewID()); err != nil {
			t.Errorf("another command: %v", err)
		}
		want(t, "with a card after another command", d.holding("ann"), []string{})
	})
}
