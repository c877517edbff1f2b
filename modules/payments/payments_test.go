package payments

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/banyan-go/banyan/internal/errs"
	"github.com/banyan-go/banyan/internal/message"
	"github.com/banyan-go/banyan/internal/module"
	"github.com/banyan-go/banyan/internal/moduletest"
	"github.com/banyan-go/banyan/modules/payments/paymentsapi"
	"github.com/banyan-go/banyan/modules/users/usersapi"
)

func TestDescriptor(t *testing.T) {
	t.Parallel()
	if err := New(module.Deps{}, DefaultConfig()).Check(); err != nil {
		t.Error(err)
	}
}

func TestScenarios(t *testing.T) {
	t.Parallel()
	type step = message.Event
	cases := []struct {
		name    string
		steps   []step
		told    []string
		state   string
		charges int // that the provider approved
		refunds int
	}{
		{"visa", []step{charge("o", "tok_visa")}, []string{"captured 1000"}, "captured", 1, 0},
		{"declined", []step{charge("o", "tok_declined")}, []string{"declined card_declined"}, "declined", 0, 0},
		{"insufficient funds", []step{charge("o", "tok_insufficient_funds")}, []string{"declined insufficient_funds"}, "declined", 0, 0},
		{"expired", []step{charge("o", "tok_expired")}, []string{"declined expired_card"}, "declined", 0, 0},
		{"no card", []step{charge("o", "")}, []string{"declined no_card"}, "declined", 0, 0},
		{"card number", []step{charge("o", "4242424242424242")}, []string{"declined invalid_card"}, "declined", 0, 0},
		{"slow", []step{charge("o", "tok_slow")}, []string{"captured 1000"}, "captured", 1, 0},
		{"lost reply", []step{charge("o", "tok_lost_reply")}, []string{"captured 1000"}, "captured", 1, 0},
		{"lost twice", []step{charge("o", "tok_lost_twice")}, []string{"captured 1000"}, "captured", 1, 0},
		{"outage", []step{charge("o", "tok_outage")}, []string{"captured 1000"}, "captured", 1, 0},
		{"nothing to pay", []step{paymentsapi.Charge{OrderID: "o", CustomerID: customer, Amount: gbp(0), Card: "tok_visa"}}, []string{"captured 0"}, "captured", 0, 0},
		{"charged twice", []step{charge("o", "tok_lost_reply"), charge("o", "tok_lost_reply")}, []string{"captured 1000"}, "captured", 1, 0},
		{"void first", []step{void("o")}, []string{"settled 0"}, "settled", 0, 0},
		{"void first, then charge", []step{void("o"), charge("o", "tok_visa"), charge("o", "tok_visa")}, []string{"settled 0", "settled 0"}, "settled", 0, 0},
		{"void of a declined charge", []step{charge("o", "tok_declined"), nil, void("o"), void("o")}, []string{"declined card_declined", "settled 0"}, "settled", 0, 0},
		{"void of a captured charge", []step{charge("o", "tok_visa"), nil, void("o"), void("o"), nil, void("o")}, []string{"captured 1000", "settled 1000"}, "settled", 1, 1},
		{"void of a refunded charge", []step{charge("o", "tok_visa"), nil, refund("o", "r1", 300), nil, void("o")},
			[]string{"captured 1000", "refunded r1 300", "settled 1000"}, "settled", 1, 2},
		{"void of a fully refunded charge", []step{charge("o", "tok_visa"), nil, refund("o", "r1", 1000), nil, void("o")},
			[]string{"captured 1000", "refunded r1 1000", "settled 1000"}, "settled", 1, 1},
		{"void whose refund's reply is lost", []step{charge("o", "tok_refund_lost"), nil, void("o")}, []string{"captured 1000", "settled 1000"}, "settled", 1, 1},
		{"refunds", []step{charge("o", "tok_visa"), nil, refund("o", "r1", 300), refund("o", "r1", 300), nil, refund("o", "r2", 700), refund("o", "r1", 300)},
			[]string{"captured 1000", "refunded r1 300", "refunded r2 700"}, "captured", 1, 2},
		{"refund of nothing", []step{charge("o", "tok_visa"), nil, refund("o", "r1", 0)}, []string{"captured 1000", "refunded r1 0"}, "captured", 1, 0},
		{"refund whose reply is lost", []step{charge("o", "tok_refund_lost"), nil, refund("o", "r1", 300)}, []string{"captured 1000", "refunded r1 300"}, "captured", 1, 1},
		{"refund after a void", []step{charge("o", "tok_visa"), nil, void("o"), nil, refund("o", "r1", 300), refund("o", "r1", 300)},
			[]string{"captured 1000", "settled 1000", "refunded r1 0"}, "settled", 1, 1},
		{"return after goodwill", []step{charge("o", "tok_visa"), nil, byStaff{amount: 300}, nil, refund("o", "r1", 1000), refund("o", "r1", 1000), nil, refund("o", "r1", 1000)},
			[]string{"captured 1000", "refunded staff 300", "refunded r1 700"}, "captured", 1, 2},
		{"returns after goodwill", []step{charge("o", "tok_visa"), nil, byStaff{amount: 300}, nil, refund("o", "r1", 600), nil, refund("o", "r2", 400), nil, refund("o", "r2", 400)},
			[]string{"captured 1000", "refunded staff 300", "refunded r1 600", "refunded r2 100"}, "captured", 1, 3},
		{"return of what is paid back", []step{charge("o", "tok_visa"), nil, byStaff{amount: 1000}, nil, refund("o", "r1", 1000), refund("o", "r1", 1000)},
			[]string{"captured 1000", "refunded staff 1000", "refunded r1 0"}, "captured", 1, 1},
		{"return after goodwill, refused", []step{charge("o", "tok_refund_refused"), nil, byStaff{amount: 300}, nil, byStaff{amount: 300, outside: true}, refund("o", "r1", 1000)},
			[]string{"captured 1000", "refused staff 300 account_closed", "refused r1 700 account_closed"}, "captured", 1, 0},
		{"refund of more than was captured", []step{charge("o", "tok_visa"), nil, refund("o", "r1", 1001)}, []string{"captured 1000", "refunded r1 1000"}, "captured", 1, 1},
		{"refused refund", []step{charge("o", "tok_refund_refused"), nil, refund("o", "r1", 300), refund("o", "r1", 300)},
			[]string{"captured 1000", "refused r1 300 account_closed"}, "captured", 1, 0},
	}
	moduletest.Each(t, func(t *testing.T, open moduletest.Opener) {
		s := openShop(t, open)
		scenarios := make([]scenario, len(cases))
		for i, c := range cases {
			scenarios[i] = scenario{order: c.name, steps: c.steps}
		}
		s.play(scenarios...)
		for _, c := range cases {
			t.Run(c.name, func(t *testing.T) {
				if diff := cmp.Diff(s.told(c.name), c.told); diff != "" {
					t.Errorf("announced (-got +want):\n%s", diff)
				}
				p := s.payment(c.name)
				if p.State != c.state {
					t.Errorf("got state %s, want %s", p.State, c.state)
				}
				if charges, refunds, _ := s.seen(p.ID); charges != c.charges || refunds != c.refunds {
					t.Errorf("the provider saw %d charges and %d refunds, want %d and %d", charges, refunds, c.charges, c.refunds)
				}
			})
		}
		s.agrees()
	})
}

func TestRefused(t *testing.T) {
	t.Parallel()
	cases := []struct {
		name  string
		given []message.Event
		bad   message.Event
	}{
		{"a charge of a negative amount", nil, paymentsapi.Charge{OrderID: "o", CustomerID: customer, Amount: gbp(-1), Card: "tok_visa"}},
		{"a charge of another amount", []message.Event{charge("o", "tok_visa")}, paymentsapi.Charge{OrderID: "o", CustomerID: customer, Amount: gbp(1), Card: "tok_visa"}},
		{"a refund of an unknown order", nil, refund("o", "r1", 1)},
		{"a refund of a declined charge", []message.Event{charge("o", "tok_declined")}, refund("o", "r1", 1)},
		{"a refund id with another amount", []message.Event{charge("o", "tok_visa"), nil, refund("o", "r1", 600)}, refund("o", "r1", 1)},
		{"a refund after a void of nothing", []message.Event{void("o")}, refund("o", "r1", 1)},
	}
	moduletest.Each(t, func(t *testing.T, open moduletest.Opener) {
		s := openShop(t, open)
		scenarios := make([]scenario, len(cases))
		for i, c := range cases {
			scenarios[i] = scenario{order: c.name, steps: c.given}
		}
		s.play(scenarios...)
		told := len(s.Announced(""))
		charges, refunds, _ := s.seen("")
		for _, c := range cases {
			t.Run(c.name, func(t *testing.T) { s.deliverBad(t, forOrder(c.bad, c.name)) })
		}
		s.finish()
		if got := len(s.Announced("")); got != told {
			t.Errorf("%d messages were announced", got-told)
		}
		if c, r, _ := s.seen(""); c != charges || r != refunds {
			t.Errorf("the provider saw %d charges and %d refunds, want %d and %d", c, r, charges, refunds)
		}
	})
}

// TestVoidWhileCharging voids while the provider has the charge.
func TestVoidWhileCharging(t *testing.T) {
	t.Parallel()
	want := map[string][]string{ // by card, which is the order too
		"tok_visa":       {"captured 1000", "settled 1000"},
		"tok_lost_twice": {"captured 1000", "settled 1000"},
		"tok_declined":   {"declined card_declined", "settled 0"},
	}
	moduletest.Each(t, func(t *testing.T, open moduletest.Opener) {
		s := openShop(t, open)
		s.line.held = make(chan struct{})
		for card := range want {
			s.Deliver(t, charge(card, card), void(card))
			if got := s.payment(card); got.State != "voiding" || len(s.told(card)) != 0 {
				t.Errorf("%s: before the outcome: got state %s, told %v", card, got.State, s.told(card))
			}
		}
		close(s.line.held)
		s.finish()
		for card, want := range want {
			if diff := cmp.Diff(s.told(card), want); diff != "" {
				t.Errorf("%s: announced (-got +want):\n%s", card, diff)
			}
		}
		s.agrees()
	})
}

// TestReturnsAtOnce decides on a return while the provider has the refund of another one: what that one asked for is not
// given twice. Which of them the provider answers first is its own affair.
func TestReturnsAtOnce(t *testing.T) {
	t.Parallel()
	moduletest.Each(t, func(t *testing.T, open moduletest.Opener) {
		s := openShop(t, open)
		s.Deliver(t, charge("o", "tok_visa"))
		s.finish()
		s.line.held = make(chan struct{})
		s.Deliver(t, refund("o", "r1", 600), refund("o", "r2", 600))
		if got := s.told("o"); len(got) != 1 {
			t.Errorf("before the outcomes: told %v", got)
		}
		close(s.line.held)
		s.finish()
		got := s.told("o")
		slices.Sort(got)
		if diff := cmp.Diff(got, []string{"captured 1000", "refunded r1 600", "refunded r2 400"}); diff != "" {
			t.Errorf("announced (-got +want):\n%s", diff)
		}
		s.agrees()
	})
}

// TestProviderDownForAnHour lets charges, a void and a refund wait out an outage.
func TestProviderDownForAnHour(t *testing.T) {
	t.Parallel()
	moduletest.Each(t, func(t *testing.T, open moduletest.Opener) {
		s := openShop(t, open)
		s.Deliver(t, charge("before", "tok_visa"))
		s.finish()
		s.line.cut.Store(true)
		s.Deliver(t, charge("a", "tok_visa"), charge("b", "tok_visa"), void("b"), refund("before", "r1", 400))
		for range 60 {
			s.Advance(time.Minute)
		}
		if got := s.payment("a").State; got != "pending" || s.line.calls.Load() < 10 {
			t.Errorf("during the outage: got state %s after %d calls", got, s.line.calls.Load())
		}
		s.line.cut.Store(false)
		s.finish()
		for order, want := range map[string][]string{
			"before": {"captured 1000", "refunded r1 400"}, "a": {"captured 1000"}, "b": {"captured 1000", "settled 1000"},
		} {
			if diff := cmp.Diff(s.told(order), want); diff != "" {
				t.Errorf("%s: announced (-got +want):\n%s", order, diff)
			}
		}
		if charges, refunds, _ := s.seen(""); charges != 3 || refunds != 2 {
			t.Errorf("the provider saw %d charges and %d refunds, want 3 and 2", charges, refunds)
		}
		s.agrees()
	})
}

// TestRestart restarts between the intent and the outcome: the provider was not reached, or it charged and nobody heard.
func TestRestart(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		cut   bool
		cards []string // which are the orders too
	}{
		"not reached": {true, []string{"tok_visa"}},
		"not heard":   {false, []string{"tok_lost_reply", "tok_lost_twice", "tok_outage"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			moduletest.Each(t, func(t *testing.T, open moduletest.Opener) {
				s := openShop(t, open)
				s.line.cut.Store(c.cut)
				for _, card := range c.cards {
					s.Deliver(t, charge(card, card))
				}
				s.Settle()
				s.Restart()
				for _, card := range c.cards {
					if got := s.payment(card).State; got != "pending" {
						t.Fatalf("%s: after the restart: got state %s", card, got)
					}
				}
				s.line.cut.Store(false)
				s.finish()
				for _, card := range c.cards {
					if diff := cmp.Diff(s.told(card), []string{"captured 1000"}); diff != "" {
						t.Errorf("%s: announced (-got +want):\n%s", card, diff)
					}
					if charges, _, _ := s.seen(s.payment(card).ID); charges != 1 {
						t.Errorf("%s: the provider charged %d times", card, charges)
					}
				}
				s.agrees()
			})
		})
	}
}

// TestLostReplies charges and refunds many orders with a provider that loses every third reply and declines some.
func TestLostReplies(t *testing.T) {
	t.Parallel()
	moduletest.Each(t, func(t *testing.T, open moduletest.Opener) {
		s := &shop{t: t, line: &line{}, cfg: DefaultConfig()}
		s.cfg.Provider.LostReplyRate, s.cfg.Provider.DeclineRate, s.cfg.Provider.Seed = 0.34, 0.1, 7
		s.Harness = open(t, func(d module.Deps) *module.Module {
			s.line.Provider = newSimulated(d.Files, s.cfg.Provider)
			return NewWith(d, s.cfg, s.line)
		})
		const orders = 60
		for i := range orders {
			s.Deliver(t, charge(fmt.Sprint("o", i), "tok_visa"))
		}
		s.finish()
		captured := s.Announced("payments.payment_captured.v1")
		if n := len(captured) + len(s.Announced("payments.payment_declined.v1")); n != orders {
			t.Errorf("%d answers to %d charges", n, orders)
		}
		if charges, _, _ := s.seen(""); charges != len(captured) || charges == orders || charges == 0 {
			t.Errorf("the provider charged %d times, %d were captured", charges, len(captured))
		}
		for i, m := range captured {
			if i%2 == 0 {
				s.Deliver(t, refund(m.Key, "r1", 250))
			} else {
				s.Deliver(t, void(m.Key))
			}
		}
		s.finish()
		if s.line.calls.Load() <= int64(orders+len(captured)) {
			t.Errorf("%d calls: no reply was lost", s.line.calls.Load())
		}
		s.agrees()
	})
}

func TestRepeatedMessages(t *testing.T) {
	t.Parallel()
	moduletest.Each(t, func(t *testing.T, open moduletest.Opener) {
		s := openShop(t, open)
		charged := s.Envelope(t, charge("o", "tok_visa"))
		s.DeliverMessage(t, charged)
		s.DeliverMessage(t, charged)
		s.finish()
		voided := s.Envelope(t, void("o"))
		s.DeliverMessage(t, voided)
		s.finish()
		s.DeliverMessage(t, voided)
		s.DeliverMessage(t, charged)
		s.finish()
		if diff := cmp.Diff(s.told("o"), []string{"captured 1000", "settled 1000"}); diff != "" {
			t.Errorf("announced (-got +want):\n%s", diff)
		}
		s.agrees()
	})
}

// TestRefusedRefundOfVoid settles only when staff have given back what the provider refused.
func TestRefusedRefundOfVoid(t *testing.T) {
	t.Parallel()
	moduletest.Each(t, func(t *testing.T, open moduletest.Opener) {
		s := openShop(t, open)
		s.Deliver(t, charge("o", "tok_refund_refused"))
		s.finish()
		s.Deliver(t, void("o"))
		s.finish()
		p := s.payment("o")
		if p.State != "voiding" || len(p.Refunds) != 1 || p.Refunds[0].State != "refused" || p.Refunds[0].Refusal != "account_closed" {
			t.Fatalf("after the refusal: %+v", p)
		}
		var sum summaryBody
		s.Do("GET", "/api/payments/reports/summary", moduletest.Staff, nil).Into(t, &sum)
		if sum.Refunds.Refused != 1 || sum.Unsettled != 1 {
			t.Errorf("the summary does not show it: %+v", sum)
		}
		s.Do("POST", "/api/payments/"+p.ID+"/refunds", moduletest.Staff, map[string]any{"amount": 1000, "reason": "again"}).Want(t, 202)
		s.finish()
		if got := s.payment("o"); got.State != "voiding" || len(got.Refunds) != 2 {
			t.Errorf("after the second refusal: %+v", got)
		}
		told := []string{"captured 1000", "refused void 1000 account_closed", "refused staff 1000 account_closed"}
		if diff := cmp.Diff(s.told("o"), told); diff != "" {
			t.Errorf("announced (-got +want):\n%s", diff)
		}
	})
}

func TestErasure(t *testing.T) {
	t.Parallel()
	moduletest.Each(t, func(t *testing.T, open moduletest.Opener) {
		s := openShop(t, open)
		s.Deliver(t, charge("done", "tok_visa"))
		s.finish()
		s.line.cut.Store(true)
		other := charge("other", "tok_visa")
		other.CustomerID = stranger
		s.Deliver(t, charge("open", "tok_visa"), other, usersapi.UserErased{UserID: customer, At: s.Clock.Now()}, charge("late", "tok_visa"))
		var cards []string
		if err := s.Store.Read(t.Context()).Raw("SELECT order_id FROM payments WHERE card <> ''").Scan(&cards).Error; err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(cards, []string{"other"}); diff != "" {
			t.Errorf("payments with a card (-got +want):\n%s", diff)
		}
		s.line.cut.Store(false)
		s.finish()
		for _, order := range []string{"open", "late"} {
			if diff := cmp.Diff(s.told(order), []string{"captured 1000"}); diff != "" {
				t.Errorf("a charge under way, %s (-got +want):\n%s", order, diff)
			}
		}
		s.agrees()
	})
}

func TestConfig(t *testing.T) {
	t.Parallel()
	if err := DefaultConfig().Validate(); err != nil {
		t.Errorf("the defaults are wrong: %v", err)
	}
	for want, change := range map[string]func(*ProviderConfig){
		"modules.payments.provider.timeout: 0s is not between 10ms and 20s":             func(p *ProviderConfig) { p.Timeout = 0 },
		"modules.payments.provider.timeout: 1m0s is not between 10ms and 20s":           func(p *ProviderConfig) { p.Timeout = time.Minute },
		"modules.payments.provider.delay: -1s is not between 0s and the timeout of 10s": func(p *ProviderConfig) { p.Delay = -time.Second },
		"modules.payments.provider.delay: 10s is not between 0s and the timeout of 10s": func(p *ProviderConfig) { p.Delay = 10 * time.Second },
		"modules.payments.provider.decline_rate: 1.5 is not between 0 and 1":            func(p *ProviderConfig) { p.DeclineRate = 1.5 },
		"modules.payments.provider.lost_reply_rate: -0.1 is not between 0 and 1":        func(p *ProviderConfig) { p.LostReplyRate = -0.1 },
	} {
		c := DefaultConfig()
		change(&c.Provider)
		if err := c.Validate(); err == nil || err.Error() != want {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}

// stuck is a provider that answers nobody until it is released, and nobody in time.
type stuck struct {
	Provider
	calls   atomic.Int64
	release chan struct{}
}

func (s *stuck) Charge(ctx context.Context, _ ChargeRequest) (Outcome, error) {
	s.calls.Add(1)
	<-s.release
	<-ctx.Done() // who came later than the others has time left
	return Outcome{}, ctx.Err()
}

func TestGuard(t *testing.T) {
	t.Parallel()
	s := &stuck{release: make(chan struct{})}
	g := guard(s, 50*time.Millisecond)
	done := make(chan error, 2*parallelCalls)
	for range 2 * parallelCalls {
		go func() {
			_, err := g.Charge(context.Background(), ChargeRequest{})
			done <- err
		}()
	}
	check := func(err error) {
		t.Helper()
		if !errs.Transient(err) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v, want a time-out that is worth another try", err)
		}
	}
	for range parallelCalls { // those that got no slot give up first: the others are stuck
		err := <-done
		check(err)
		if !errs.Is(err, errs.Unavailable) {
			t.Errorf("got %v, want the provider to be busy", err)
		}
	}
	if got := s.calls.Load(); got != parallelCalls {
		t.Errorf("the provider got %d calls at once, want %d", got, parallelCalls)
	}
	close(s.release)
	for range parallelCalls {
		check(<-done)
	}
}
