package payment

import (
	"fmt"
	"testing"

	"pgregory.net/rapid"

	"github.com/banyan-go/banyan/internal/errs"
)

// TestAnyOrder gives commands and outcomes in any order and as often as it likes, then lets the provider answer
// what is still open, and checks after every step what must always hold.
func TestAnyOrder(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(t)
		t.Repeat(map[string]func(*rapid.T){
			"charge": func(t *rapid.T) { w.command(t, charge) },
			"void":   func(t *rapid.T) { w.command(t, void) },
			"refund": func(t *rapid.T) {
				r := Refund{
					ID: rapid.SampledFrom([]string{"r1", "r2", "r3", "r4"}).Draw(t, "id"), Amount: rapid.Int64Range(0, 120).Draw(t, "amount"),
					By: rapid.SampledFrom([]By{ByOrder, ByStaff}).Draw(t, "by"),
				}
				if r.By == ByStaff && rapid.Bool().Draw(t, "outside") {
					r.State = RefundOutside
				}
				w.command(t, refund(r))
			},
			"charge succeeded": func(t *rapid.T) { w.command(t, succeeded) },
			"charge failed":    func(t *rapid.T) { w.command(t, failed) },
			"refund succeeded": func(t *rapid.T) {
				w.command(t, refunded(rapid.SampledFrom([]string{"r1", "r2", "r3", "r4", VoidRefund}).Draw(t, "id")))
			},
			"refund failed": func(t *rapid.T) {
				w.command(t, refused(rapid.SampledFrom([]string{"r1", "r2", "r3", "r4", VoidRefund}).Draw(t, "id")))
			},
			"": w.check,
		})
		w.finish(t)
	})
}

// world is a payment with what its events have caused outside of it.
type world struct {
	payment  Payment
	captures int
	settled  int
	refusals int
	balances map[string]int64 // of each transaction
	accounts map[Account]int64
}

func newWorld(*rapid.T) *world {
	return &world{balances: map[string]int64{}, accounts: map[Account]int64{}}
}

func (w *world) command(t *rapid.T, when func(Payment) ([]Event, error)) {
	events, err := when(w.payment)
	if err != nil {
		if kind := errs.KindOf(err); kind != errs.Conflict && kind != errs.Invalid {
			t.Fatalf("error without a kind that says why: %v", err)
		}
		return
	}
	for _, e := range events {
		switch e.(type) {
		case Captured:
			w.captures++
		case Settled:
			w.settled++
		case RefundRefused:
			w.refusals++
		}
		w.payment = w.payment.Apply(e)
		for _, entry := range w.payment.Entries(e) {
			w.balances[entry.Transaction] += entry.Amount
			w.accounts[entry.Account] += entry.Amount
		}
	}
	again, err := when(w.payment)
	if err == nil && len(again) > 0 {
		t.Fatalf("a repeat has the effect %v", again)
	}
}

func (w *world) check(t *rapid.T) {
	if err := w.wrong(); err != nil {
		t.Fatal(err)
	}
}

func (w *world) wrong() error {
	p := w.payment
	var refunding, refunded int64
	for _, r := range p.Refunds {
		switch r.State {
		case RefundPending:
			refunding += r.Amount
		case RefundDone, RefundOutside:
			refunded += r.Amount
		}
	}
	switch {
	case w.captures > 1:
		return fmt.Errorf("captured %d times", w.captures)
	case w.settled > 1:
		return fmt.Errorf("settled %d times", w.settled)
	case p.Refunded < 0 || p.Refunding < 0 || p.Refunded+p.Refunding > p.Captured:
		return fmt.Errorf("captured %d, refunded %d, refunding %d", p.Captured, p.Refunded, p.Refunding)
	case refunding != p.Refunding || refunded != p.Refunded:
		return fmt.Errorf("refunds sum to %d and %d, the payment says %d and %d", refunding, refunded, p.Refunding, p.Refunded)
	case p.Settled && (p.Captured != p.Refunded || p.Refunding != 0 || !p.Voided || p.Charge == ChargePending):
		return fmt.Errorf("settled with %+v", p)
	case w.accounts[ShopClearing] != p.Captured-p.Refunded || w.accounts[CustomerCard]+w.accounts[Outside] != -w.accounts[ShopClearing] || w.accounts[Outside] < 0:
		return fmt.Errorf("the accounts are %v", w.accounts)
	}
	for transaction, sum := range w.balances {
		if sum != 0 {
			return fmt.Errorf("transaction %s sums to %d", transaction, sum)
		}
	}
	return nil
}

// finish voids the payment and lets the provider answer everything: nothing may be left then.
func (w *world) finish(t *rapid.T) {
	w.command(t, void)
	w.command(t, succeeded)
	for id := range w.payment.Refunds {
		w.command(t, refunded(id))
	}
	if left := w.payment.Left(); left > 0 { // refused before: staff give it back
		if w.refusals == 0 {
			t.Fatalf("%d left without a refusal", left)
		}
		w.command(t, refund(Refund{ID: "staff", By: ByStaff, Amount: left}))
		w.command(t, refunded("staff"))
	}
	w.check(t)
	if !w.payment.Settled {
		t.Fatalf("a voided payment did not settle: %+v", w.payment)
	}
}

func TestGuardsCanFail(t *testing.T) {
	t.Parallel()
	for name, broken := range map[string]*world{
		"captured twice":      {captures: 2},
		"refunded too much":   {payment: Payment{Captured: 1, Refunded: 2}},
		"settled with money":  {payment: Payment{Captured: 1, Voided: true, Settled: true}},
		"unbalanced":          {balances: map[string]int64{"p": 1}},
		"accounts that leak":  {accounts: map[Account]int64{CustomerCard: -1}},
		"a refund uncounted":  {payment: Payment{Captured: 1, Refunds: map[string]Refund{"r": {State: RefundDone, Amount: 1}}}},
		"settled twice":       {settled: 2},
		"settled while asked": {payment: Payment{Charge: ChargePending, Voided: true, Settled: true}},
	} {
		if broken.wrong() == nil {
			t.Errorf("%s is not noticed", name)
		}
	}
}
