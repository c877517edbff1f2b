package payment

import (
	"regexp"

	"github.com/banyan-go/banyan/internal/errs"
	"github.com/banyan-go/banyan/internal/money"
)

// Charge is how far the one charge of a payment is.
type Charge string

// The states of a charge.
const (
	ChargeNone     Charge = ""         // never asked for
	ChargePending  Charge = "pending"  // asked for, the outcome is not known
	ChargeCaptured Charge = "captured" // succeeded
	ChargeDeclined Charge = "declined" // failed for good
	ChargeBar      Charge = "barred"   // asked for after the void, never begun
)

// State sums a payment up.
type State string

// The states of a payment.
const (
	StatePending  State = "pending"
	StateCaptured State = "captured"
	StateDeclined State = "declined"
	StateVoiding  State = "voiding"
	StateSettled  State = "settled"
)

// RefundState is how far a refund is.
type RefundState string

// The states of a refund.
const (
	RefundPending RefundState = "pending" // asked for, the outcome is not known
	RefundDone    RefundState = "done"    // the money went back
	RefundRefusal RefundState = "refused" // the provider does not give it back
	RefundCover   RefundState = "covered" // no money had to move
	RefundOutside RefundState = "outside" // staff paid the money back in another way than to the card
)

// By says who asked for a refund.
type By string

// Who asks for refunds.
const (
	ByOrder By = "order"
	ByStaff By = "staff"
	ByVoid  By = "void"
)

// VoidRefund is the id of the refund that a void makes; there is one per payment at most.
const VoidRefund = "void"

// Refund is money on its way back. One that is asked for in the state RefundOutside has arrived: nobody asks the provider.
type Refund struct {
	ID      string
	By      By
	Amount  int64 // asked for, in the currency of the payment
	State   RefundState
	Reason  string
	Refusal string // why the provider refused it
}

// Payment is what is known of the money of one order.
type Payment struct {
	ID, OrderID, CustomerID string
	Card                    string
	Amount                  money.Money // asked for
	Charge                  Charge
	Reason                  string // why the charge was declined
	Captured                int64
	Refunded                int64
	Refunding               int64 // asked of the provider, outcome not known
	Voided                  bool
	VoidReason              string
	Settled                 bool
	Refunds                 map[string]Refund // by id; the store looks up those that a command or an outcome names
}

// State sums the payment up.
func (p Payment) State() State {
	switch {
	case p.Settled:
		return StateSettled
	case p.Voided:
		return StateVoiding
	case p.Charge == ChargeCaptured:
		return StateCaptured
	case p.Charge == ChargeDeclined:
		return StateDeclined
	}
	return StatePending
}

// Left is what could still be refunded.
func (p Payment) Left() int64 { return p.Captured - p.Refunded - p.Refunding }

// Apply gives the payment after events.
func (p Payment) Apply(events ...Event) Payment {
	for _, e := range events {
		e.apply(&p)
	}
	return p
}

// cardForm is what a token looks like; the check for digits alone keeps card numbers out of the store.
var (
	cardForm   = regexp.MustCompile(`^[A-Za-z0-9_.:-]{1,128}$`)
	cardNumber = regexp.MustCompile(`^[0-9]+$`)
)

// RequestCharge decides on a charge of the order. A repeat changes nothing.
//
// A card that cannot be one is declined rather than refused: the order waits for an answer.
func (p Payment) RequestCharge(id, orderID, customerID, card string, amount money.Money) ([]Event, error) {
	if orderID == "" || amount.Amount < 0 || len(amount.Currency) != 3 {
		return nil, errs.New(errs.Invalid, "a charge needs an order and an amount of a currency")
	}
	if p.Charge != ChargeNone {
		if p.Amount != amount {
			return nil, errs.New(errs.Conflict, "order %s has a charge of another amount", orderID)
		}
		return nil, nil
	}
	if p.Voided {
		return []Event{ChargeBarred{CustomerID: customerID, Amount: amount}}, nil
	}
	asked := ChargeRequested{ID: id, OrderID: orderID, CustomerID: customerID, Card: card, Amount: amount}
	switch {
	case amount.Amount == 0:
		asked.Card = ""
		return []Event{asked, Captured{}}, nil
	case card == "":
		return []Event{asked, Declined{Reason: "no_card"}}, nil
	case !cardForm.MatchString(card) || cardNumber.MatchString(card):
		asked.Card = ""
		return []Event{asked, Declined{Reason: "invalid_card"}}, nil
	}
	return []Event{asked}, nil
}

// ChargeSucceeded takes in that the provider charged the card.
func (p Payment) ChargeSucceeded() []Event {
	if p.Charge != ChargePending {
		return nil
	}
	events := []Event{Captured{Amount: p.Amount.Amount}}
	if p.Voided {
		events = append(events, p.Apply(events...).giveBack()...)
	}
	return events
}

// ChargeFailed takes in that the provider declined for good.
func (p Payment) ChargeFailed(reason string) []Event {
	if p.Charge != ChargePending {
		return nil
	}
	events := []Event{Declined{Reason: reason}}
	if p.Voided {
		events = append(events, p.settled())
	}
	return events
}

// RequestRefund decides on giving a part of the money back. A repeat of a refund changes nothing.
//
// Of a voided payment everything goes back anyway: an order's refund is covered by that, and only staff may
// add one, for money that the provider refused to give back.
//
// Staff may have paid back a part of what an order asks for: it gets what is left, if anything is.
func (p Payment) RequestRefund(r Refund, currency string) ([]Event, error) {
	if r.ID == "" || r.ID == VoidRefund || r.Amount < 0 {
		return nil, errs.New(errs.Invalid, "a refund needs an id of its own and an amount")
	}
	if known, ok := p.Refunds[r.ID]; ok {
		less := r.By == ByOrder && known.Amount < r.Amount // no more was left
		if known.Amount != r.Amount && !less || currency != p.Amount.Currency {
			return nil, errs.New(errs.Conflict, "refund %s was asked for with another amount", r.ID)
		}
		return nil, nil
	}
	switch {
	case p.Charge != ChargeCaptured:
		return nil, errs.New(errs.Conflict, "nothing was captured for order %s", p.OrderID)
	case currency != p.Amount.Currency:
		return nil, errs.New(errs.Conflict, "order %s was paid in %s", p.OrderID, p.Amount.Currency)
	case r.Amount == 0, r.By == ByOrder && p.Left() == 0, p.Voided && r.By == ByOrder && r.Amount <= p.Refunded+p.Refunding:
		r.State = RefundCover
		return []Event{RefundCovered{Refund: r}}, nil
	case r.By == ByOrder:
		r.Amount = min(r.Amount, p.Left())
	case p.Settled || r.Amount > p.Left():
		return nil, errs.New(errs.Conflict, "only %d of the payment for order %s can still be refunded", p.Left(), p.OrderID)
	}
	if r.State == RefundOutside {
		return p.given(RefundedOutside{Refund: r}), nil
	}
	r.State = RefundPending
	return []Event{RefundRequested{Refund: r}}, nil
}

// given is that money went back, and what follows: a voided payment that holds nothing any more is settled.
func (p Payment) given(back Event) []Event {
	events := []Event{back}
	if after := p.Apply(back); after.Voided && after.Refunded == after.Captured {
		events = append(events, after.settled())
	}
	return events
}

// RefundSucceeded takes in that the provider gave the money of a refund back.
func (p Payment) RefundSucceeded(id string) []Event {
	r, ok := p.Refunds[id]
	if !ok || r.State != RefundPending {
		return nil
	}
	r.State = RefundDone
	return p.given(Refunded{Refund: r})
}

// RefundFailed takes in that the provider refused a refund for good. The money stays with the payment, also if
// that is voided, until staff give it back in another way.
func (p Payment) RefundFailed(id, refusal string) []Event {
	r, ok := p.Refunds[id]
	if !ok || r.State != RefundPending {
		return nil
	}
	r.State, r.Refusal = RefundRefusal, refusal
	return []Event{RefundRefused{Refund: r}}
}

// Void makes the payment end at zero, whatever has happened or is under way. A repeat changes nothing.
func (p Payment) Void(id, orderID, reason string) ([]Event, error) {
	if orderID == "" {
		return nil, errs.New(errs.Invalid, "a void needs an order")
	}
	if p.Voided {
		return nil, nil
	}
	if p.ID != "" {
		id = p.ID
	}
	events := []Event{Voided{ID: id, OrderID: orderID, Reason: reason}}
	after := p.Apply(events...)
	switch p.Charge {
	case ChargePending: // its outcome decides
		return events, nil
	case ChargeCaptured:
		return append(events, after.giveBack()...), nil
	}
	return append(events, after.settled()), nil
}

// giveBack returns what a voided payment holds and nobody is giving back yet.
func (p Payment) giveBack() []Event {
	if left := p.Left(); left > 0 {
		return []Event{RefundRequested{Refund: Refund{ID: VoidRefund, By: ByVoid, Amount: left, State: RefundPending, Reason: p.VoidReason}}}
	}
	if p.Refunding > 0 {
		return nil
	}
	return []Event{p.settled()}
}

func (p Payment) settled() Event {
	return Settled{Refunded: money.Of(p.Refunded, p.Amount.Currency)}
}
