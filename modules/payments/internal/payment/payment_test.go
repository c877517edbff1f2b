package payment

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/banyan-go/banyan/internal/errs"
	"github.com/banyan-go/banyan/internal/money"
)

func gbp(amount int64) money.Money { return money.Of(amount, "GBP") }

// Events that many cases begin with.
var (
	asked     = ChargeRequested{ID: "p", OrderID: "o", CustomerID: "c", Card: "tok_visa", Amount: gbp(100)}
	captured  = Captured{Amount: 100}
	declined  = Declined{Reason: "card_declined"}
	voided    = Voided{ID: "p", OrderID: "o", Reason: "cancelled"}
	orderOf30 = Refund{ID: "r1", By: ByOrder, Amount: 30, Reason: "returned"}
	voidOf    = func(amount int64, s RefundState) Refund {
		return Refund{ID: VoidRefund, By: ByVoid, Amount: amount, State: s, Reason: "cancelled"}
	}
	settledAt  = func(amount int64) Settled { return Settled{Refunded: gbp(amount)} }
	withState  = func(r Refund, s RefundState) Refund { r.State = s; return r }
	charge     = func(p Payment) ([]Event, error) { return p.RequestCharge("p", "o", "c", "tok_visa", gbp(100)) }
	chargeWith = func(card string, amount money.Money) func(Payment) ([]Event, error) {
		return func(p Payment) ([]Event, error) { return p.RequestCharge("p", "o", "c", card, amount) }
	}
	refund = func(r Refund) func(Payment) ([]Event, error) {
		return func(p Payment) ([]Event, error) { return p.RequestRefund(r, "GBP") }
	}
	void      = func(p Payment) ([]Event, error) { return p.Void("p", "o", "cancelled") }
	succeeded = func(p Payment) ([]Event, error) { return p.ChargeSucceeded(), nil }
	failed    = func(p Payment) ([]Event, error) { return p.ChargeFailed("card_declined"), nil }
	refunded  = func(id string) func(Payment) ([]Event, error) {
		return func(p Payment) ([]Event, error) { return p.RefundSucceeded(id), nil }
	}
	refused = func(id string) func(Payment) ([]Event, error) {
		return func(p Payment) ([]Event, error) { return p.RefundFailed(id, "account_closed"), nil }
	}
)

func TestPayment(t *testing.T) {
	t.Parallel()
	outside := func(amount int64) Refund {
		return Refund{ID: "bank", By: ByStaff, Amount: amount, State: RefundOutside, Reason: "closed"}
	}
	refusal := func(r Refund) Refund { r.State, r.Refusal = RefundRefusal, "account_closed"; return r }
	for _, c := range []struct {
		name  string
		given []Event
		when  func(Payment) ([]Event, error)
		then  []Event
		fails errs.Kind
		state State
	}{
		{name: "a charge waits for the provider", when: charge, then: []Event{asked}, state: StatePending},
		{name: "a repeated charge changes nothing", given: []Event{asked}, when: charge, state: StatePending},
		{name: "a repeated charge after its outcome changes nothing", given: []Event{asked, captured}, when: charge, state: StateCaptured},
		{name: "a charge of another amount is refused", given: []Event{asked}, when: chargeWith("tok_visa", gbp(101)), fails: errs.Conflict},
		{name: "a charge in another currency is refused", given: []Event{asked}, when: chargeWith("tok_visa", money.Of(100, "EUR")), fails: errs.Conflict},
		{name: "a negative charge is invalid", when: chargeWith("tok_visa", gbp(-1)), fails: errs.Invalid},
		{name: "a charge without a currency is invalid", when: chargeWith("tok_visa", money.Of(1, "")), fails: errs.Invalid},
		{name: "a charge of nothing is captured at once", when: chargeWith("tok_visa", gbp(0)), state: StateCaptured,
			then: []Event{ChargeRequested{ID: "p", OrderID: "o", CustomerID: "c", Amount: gbp(0)}, Captured{}}},
		{name: "a charge without a card is declined", when: chargeWith("", gbp(100)), state: StateDeclined,
			then: []Event{ChargeRequested{ID: "p", OrderID: "o", CustomerID: "c", Amount: gbp(100)}, Declined{Reason: "no_card"}}},
		{name: "a card number is declined and not kept", when: chargeWith("4242424242424242", gbp(100)), state: StateDeclined,
			then: []Event{ChargeRequested{ID: "p", OrderID: "o", CustomerID: "c", Amount: gbp(100)}, Declined{Reason: "invalid_card"}}},
		{name: "a success captures", given: []Event{asked}, when: succeeded, then: []Event{captured}, state: StateCaptured},
		{name: "a repeated success changes nothing", given: []Event{asked, captured}, when: succeeded, state: StateCaptured},
		{name: "a success after a decline changes nothing", given: []Event{asked, declined}, when: succeeded, state: StateDeclined},
		{name: "a decline ends the charge", given: []Event{asked}, when: failed, then: []Event{declined}, state: StateDeclined},
		{name: "a decline after a success changes nothing", given: []Event{asked, captured}, when: failed, state: StateCaptured},

		{name: "a void before the charge settles at zero", when: void, then: []Event{voided, Settled{}}, state: StateSettled},
		{name: "a charge after the void never begins", given: []Event{voided, Settled{}}, when: charge, state: StateSettled,
			then: []Event{ChargeBarred{CustomerID: "c", Amount: gbp(100)}}},
		{name: "a repeated charge after the void changes nothing", given: []Event{voided, Settled{}, ChargeBarred{CustomerID: "c", Amount: gbp(100)}}, when: charge, state: StateSettled},
		{name: "a void during the charge waits", given: []Event{asked}, when: void, then: []Event{voided}, state: StateVoiding},
		{name: "a repeated void changes nothing", given: []Event{asked, voided}, when: void, state: StateVoiding},
		{name: "a success after the void goes back", given: []Event{asked, voided}, when: succeeded, state: StateVoiding,
			then: []Event{captured, RefundRequested{Refund: voidOf(100, RefundPending)}}},
		{name: "a decline after the void settles", given: []Event{asked, voided}, when: failed, then: []Event{declined, settledAt(0)}, state: StateSettled},
		{name: "a void after a decline settles", given: []Event{asked, declined}, when: void, then: []Event{voided, settledAt(0)}, state: StateSettled},
		{name: "a void after the capture gives all back", given: []Event{asked, captured}, when: void, state: StateVoiding,
			then: []Event{voided, RefundRequested{Refund: voidOf(100, RefundPending)}}},
		{name: "the refund of a void settles", given: []Event{asked, captured, voided, RefundRequested{Refund: voidOf(100, RefundPending)}},
			when: refunded(VoidRefund), then: []Event{Refunded{Refund: voidOf(100, RefundDone)}, settledAt(100)}, state: StateSettled},
		{name: "a void after a capture of nothing settles", given: []Event{ChargeRequested{ID: "p", OrderID: "o", Amount: gbp(0)}, Captured{}},
			when: void, then: []Event{voided, settledAt(0)}, state: StateSettled},
		{name: "a void gives back what is left", given: []Event{asked, captured, RefundRequested{Refund: withState(orderOf30, RefundPending)}, Refunded{Refund: withState(orderOf30, RefundDone)}},
			when: void, then: []Event{voided, RefundRequested{Refund: voidOf(70, RefundPending)}}, state: StateVoiding},
		{name: "a void leaves a refund under way alone", given: []Event{asked, captured, RefundRequested{Refund: withState(orderOf30, RefundPending)}},
			when: void, then: []Event{voided, RefundRequested{Refund: voidOf(70, RefundPending)}}, state: StateVoiding},
		{name: "a void settles only when every refund is back",
			given: []Event{asked, captured, RefundRequested{Refund: withState(orderOf30, RefundPending)}, voided, RefundRequested{Refund: voidOf(70, RefundPending)}},
			when:  refunded(VoidRefund), then: []Event{Refunded{Refund: voidOf(70, RefundDone)}}, state: StateVoiding},

		{name: "a refund waits for the provider", given: []Event{asked, captured}, when: refund(orderOf30), state: StateCaptured,
			then: []Event{RefundRequested{Refund: withState(orderOf30, RefundPending)}}},
		{name: "a repeated refund changes nothing", given: []Event{asked, captured, RefundRequested{Refund: withState(orderOf30, RefundPending)}}, when: refund(orderOf30), state: StateCaptured},
		{name: "a refund id with another amount is refused", given: []Event{asked, captured, RefundRequested{Refund: withState(orderOf30, RefundPending)}},
			when: refund(Refund{ID: "r1", By: ByOrder, Amount: 29}), fails: errs.Conflict},
		{name: "an order's refund is of what is left", given: []Event{asked, captured, RefundRequested{Refund: Refund{ID: "r0", By: ByStaff, Amount: 80, State: RefundPending}}}, when: refund(orderOf30),
			then: []Event{RefundRequested{Refund: Refund{ID: "r1", By: ByOrder, Amount: 20, State: RefundPending, Reason: orderOf30.Reason}}}, state: StateCaptured},
		{name: "a repeat of a refund that found less changes nothing", given: []Event{asked, captured, RefundRequested{Refund: Refund{ID: "r1", By: ByOrder, Amount: 20, State: RefundPending, Reason: orderOf30.Reason}}},
			when: refund(orderOf30), state: StateCaptured},
		{name: "an order's refund is covered when nothing is left", given: []Event{asked, captured, RefundRequested{Refund: Refund{ID: "r0", By: ByStaff, Amount: 100, State: RefundPending}}},
			when: refund(orderOf30), then: []Event{RefundCovered{Refund: withState(orderOf30, RefundCover)}}, state: StateCaptured},
		{name: "staff cannot refund more than was captured", given: []Event{asked, captured}, when: refund(Refund{ID: "r1", By: ByStaff, Amount: 101}), fails: errs.Conflict},
		{name: "staff cannot ask for more with the same id", given: []Event{asked, captured, RefundRequested{Refund: Refund{ID: "r1", By: ByStaff, Amount: 20, State: RefundPending}}},
			when: refund(Refund{ID: "r1", By: ByStaff, Amount: 21}), fails: errs.Conflict},
		{name: "a refund of more than is left is refused", given: []Event{asked, captured, RefundRequested{Refund: withState(orderOf30, RefundPending)}},
			when: refund(Refund{ID: "r2", By: ByStaff, Amount: 71}), fails: errs.Conflict},
		{name: "a refund before the capture is refused", given: []Event{asked}, when: refund(orderOf30), fails: errs.Conflict},
		{name: "a refund after a decline is refused", given: []Event{asked, declined}, when: refund(orderOf30), fails: errs.Conflict},
		{name: "a refund in another currency is refused", given: []Event{asked, captured}, fails: errs.Conflict,
			when: func(p Payment) ([]Event, error) { return p.RequestRefund(orderOf30, "EUR") }},
		{name: "a refund cannot take the id of the void's", given: []Event{asked, captured}, when: refund(Refund{ID: VoidRefund, Amount: 1}), fails: errs.Invalid},
		{name: "a negative refund is invalid", given: []Event{asked, captured}, when: refund(Refund{ID: "r1", Amount: -1}), fails: errs.Invalid},
		{name: "a refund of nothing is covered", given: []Event{asked, captured}, when: refund(Refund{ID: "r1", By: ByOrder}), state: StateCaptured,
			then: []Event{RefundCovered{Refund: Refund{ID: "r1", By: ByOrder, State: RefundCover}}}},
		{name: "an order's refund is covered by the void", given: []Event{asked, captured, voided, RefundRequested{Refund: voidOf(100, RefundPending)}}, when: refund(orderOf30),
			then: []Event{RefundCovered{Refund: withState(orderOf30, RefundCover)}}, state: StateVoiding},
		{name: "an order's refund is covered after the void", given: []Event{asked, captured, voided, RefundRequested{Refund: voidOf(100, RefundPending)}, Refunded{Refund: voidOf(100, RefundDone)}, settledAt(100)},
			when: refund(orderOf30), then: []Event{RefundCovered{Refund: withState(orderOf30, RefundCover)}}, state: StateSettled},
		{name: "a refund after a void of nothing is refused", given: []Event{voided, Settled{}}, when: refund(orderOf30), fails: errs.Conflict},
		{name: "staff cannot refund what the void gives back", given: []Event{asked, captured, voided, RefundRequested{Refund: voidOf(100, RefundPending)}},
			when: refund(Refund{ID: "r1", By: ByStaff, Amount: 1}), fails: errs.Conflict},
		{name: "an outcome of an unknown refund changes nothing", given: []Event{asked, captured}, when: refunded("r9"), state: StateCaptured},
		{name: "a refund succeeds", given: []Event{asked, captured, RefundRequested{Refund: withState(orderOf30, RefundPending)}},
			when: refunded("r1"), then: []Event{Refunded{Refund: withState(orderOf30, RefundDone)}}, state: StateCaptured},
		{name: "a refund succeeds once", given: []Event{asked, captured, RefundRequested{Refund: withState(orderOf30, RefundPending)}, Refunded{Refund: withState(orderOf30, RefundDone)}},
			when: refunded("r1"), state: StateCaptured},
		{name: "a refused refund frees its amount", given: []Event{asked, captured, RefundRequested{Refund: withState(orderOf30, RefundPending)}},
			when: refused("r1"), then: []Event{RefundRefused{Refund: refusal(orderOf30)}}, state: StateCaptured},
		{name: "staff give back what the void could not", given: []Event{asked, captured, voided, RefundRequested{Refund: voidOf(100, RefundPending)}, RefundRefused{Refund: refusal(voidOf(100, RefundPending))}},
			when: refund(Refund{ID: "r1", By: ByStaff, Amount: 100}), then: []Event{RefundRequested{Refund: Refund{ID: "r1", By: ByStaff, Amount: 100, State: RefundPending}}}, state: StateVoiding},
		{name: "staff have given back outside what the void could not", given: []Event{asked, captured, voided, RefundRequested{Refund: voidOf(100, RefundPending)}, RefundRefused{Refund: refusal(voidOf(100, RefundPending))}},
			when: refund(outside(100)), then: []Event{RefundedOutside{Refund: outside(100)}, settledAt(100)}, state: StateSettled},
		{name: "staff have given back outside a part of what the void could not", given: []Event{asked, captured, voided, RefundRequested{Refund: voidOf(100, RefundPending)}, RefundRefused{Refund: refusal(voidOf(100, RefundPending))}},
			when: refund(outside(99)), then: []Event{RefundedOutside{Refund: outside(99)}}, state: StateVoiding},
		{name: "staff have given back outside", given: []Event{asked, captured}, when: refund(outside(30)), then: []Event{RefundedOutside{Refund: outside(30)}}, state: StateCaptured},
		{name: "it is written down once", given: []Event{asked, captured, RefundedOutside{Refund: outside(30)}}, when: refund(outside(30)), state: StateCaptured},
		{name: "no more is given back outside than is left", given: []Event{asked, captured, RefundRequested{Refund: withState(orderOf30, RefundPending)}},
			when: refund(outside(71)), fails: errs.Conflict},
		{name: "nothing is given back outside while the void gives it back", given: []Event{asked, captured, voided, RefundRequested{Refund: voidOf(100, RefundPending)}},
			when: refund(outside(1)), fails: errs.Conflict},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			before := Payment{}.Apply(c.given...)
			got, err := c.when(before)
			if errs.KindOf(err) != c.fails {
				t.Fatalf("got error %v, want kind %q", err, c.fails)
			}
			if err != nil {
				return
			}
			if diff := cmp.Diff(got, c.then); diff != "" {
				t.Errorf("events (-got +want):\n%s", diff)
			}
			if state := before.Apply(got...).State(); state != c.state {
				t.Errorf("got state %s, want %s", state, c.state)
			}
		})
	}
}

func TestApplySharesNothing(t *testing.T) {
	t.Parallel()
	before := Payment{}.Apply(asked, captured, RefundRequested{Refund: withState(orderOf30, RefundPending)})
	before.Apply(Refunded{Refund: withState(orderOf30, RefundDone)})
	if got := before.Refunds["r1"].State; got != RefundPending {
		t.Errorf("the payment before the event has a refund that is %s", got)
	}
}

func TestEntries(t *testing.T) {
	t.Parallel()
	p := Payment{}.Apply(asked)
	got := append(p.Entries(captured), p.Entries(Refunded{Refund: orderOf30})...)
	got = append(got, p.Entries(RefundedOutside{Refund: Refund{ID: "r2", Amount: 5}})...)
	want := []Entry{
		{Transaction: "p", Account: CustomerCard, Kind: KindCapture, Amount: -100, Currency: "GBP"},
		{Transaction: "p", Account: ShopClearing, Kind: KindCapture, Amount: 100, Currency: "GBP"},
		{Transaction: "p:r1", Account: ShopClearing, Kind: KindRefund, Amount: -30, Currency: "GBP"},
		{Transaction: "p:r1", Account: CustomerCard, Kind: KindRefund, Amount: 30, Currency: "GBP"},
		{Transaction: "p:r2", Account: ShopClearing, Kind: KindRefund, Amount: -5, Currency: "GBP"},
		{Transaction: "p:r2", Account: Outside, Kind: KindRefund, Amount: 5, Currency: "GBP"},
	}
	if diff := cmp.Diff(got, want); diff != "" {
		t.Errorf("entries (-got +want):\n%s", diff)
	}
	for _, e := range []Event{asked, declined, voided, Captured{}, Settled{}} {
		if got := p.Entries(e); got != nil {
			t.Errorf("%T writes entries %v", e, got)
		}
	}
}
