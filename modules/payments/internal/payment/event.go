package payment

import "github.com/banyan-go/banyan/internal/money"

// Event is something that happened to a payment.
type Event interface{ apply(*Payment) }

// ChargeRequested: the card is to be charged.
type ChargeRequested struct {
	ID, OrderID, CustomerID, Card string
	Amount                        money.Money
}

// ChargeBarred: a charge was asked for after the void; it does not begin.
type ChargeBarred struct {
	CustomerID string
	Amount     money.Money
}

// Captured: the charge succeeded, the money is ours.
type Captured struct{ Amount int64 }

// Declined: the charge failed for good, no money moved.
type Declined struct{ Reason string }

// RefundRequested: money is to go back to the card.
type RefundRequested struct{ Refund Refund }

// RefundCovered: a refund was asked for that needs no money to move: it is of nothing, or all money went back already, or a void
// gives it back anyway.
type RefundCovered struct{ Refund Refund }

// Refunded: money went back to the card.
type Refunded struct{ Refund Refund }

// RefundedOutside: staff gave money back in another way than to the card.
type RefundedOutside struct{ Refund Refund }

// RefundRefused: the provider does not give the money back; it stays with the payment.
type RefundRefused struct{ Refund Refund }

// Voided: the payment is to end at zero.
type Voided struct{ ID, OrderID, Reason string }

// Settled: the payment was voided and holds nothing of the customer.
type Settled struct{ Refunded money.Money }

func (e ChargeRequested) apply(p *Payment) {
	p.ID, p.OrderID, p.CustomerID, p.Card, p.Amount, p.Charge = e.ID, e.OrderID, e.CustomerID, e.Card, e.Amount, ChargePending
}

func (e ChargeBarred) apply(p *Payment) {
	p.CustomerID, p.Amount, p.Charge = e.CustomerID, e.Amount, ChargeBar
}

func (e Captured) apply(p *Payment) { p.Charge, p.Captured = ChargeCaptured, e.Amount }

func (e Declined) apply(p *Payment) { p.Charge, p.Reason = ChargeDeclined, e.Reason }

func (e RefundRequested) apply(p *Payment) {
	p.Refunding += e.Refund.Amount
	p.know(e.Refund)
}

func (e RefundCovered) apply(p *Payment) { p.know(e.Refund) }

func (e Refunded) apply(p *Payment) {
	p.Refunding -= e.Refund.Amount
	p.Refunded += e.Refund.Amount
	p.know(e.Refund)
}

func (e RefundedOutside) apply(p *Payment) {
	p.Refunded += e.Refund.Amount
	p.know(e.Refund)
}

func (e RefundRefused) apply(p *Payment) {
	p.Refunding -= e.Refund.Amount
	p.know(e.Refund)
}

func (e Voided) apply(p *Payment) {
	p.ID, p.OrderID, p.Voided, p.VoidReason = e.ID, e.OrderID, true, e.Reason
}

func (e Settled) apply(p *Payment) { p.Settled = true }

// know keeps a refund. The map is copied: another Payment value may share the old one.
func (p *Payment) know(r Refund) {
	known := make(map[string]Refund, len(p.Refunds)+1)
	for id, other := range p.Refunds {
		known[id] = other
	}
	known[r.ID] = r
	p.Refunds = known
}
