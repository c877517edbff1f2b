package payments

import (
	"context"
	"fmt"

	"github.com/banyan-go/banyan/internal/errs"
	"github.com/banyan-go/banyan/internal/money"
	"github.com/banyan-go/banyan/internal/unit"
	"github.com/banyan-go/banyan/modules/payments/internal/payment"
	"github.com/banyan-go/banyan/modules/payments/paymentsapi"
)

// refundIntent is what the provider is to be asked.
type refundIntent struct {
	OrderID   string      `json:"order_id"`
	PaymentID string      `json:"payment_id"`
	RefundID  string      `json:"refund_id"`
	Amount    money.Money `json:"amount"`
}

// refund commits the intent of an order's refund.
func (p *payments) refund(_ context.Context, w *unit.Work, c paymentsapi.Refund) error {
	known, err := lockOrder(w, c.OrderID, c.RefundID)
	if err != nil {
		return err
	}
	if known.ID == "" {
		return errs.New(errs.NotFound, "no payment for order %s", c.OrderID)
	}
	events, err := known.RequestRefund(payment.Refund{ID: c.RefundID, By: payment.ByOrder, Amount: c.Amount.Amount, Reason: c.Reason}, c.Amount.Currency)
	if err != nil {
		return err
	}
	return keep(w, known, events)
}

// goodwill commits the intent of a refund that staff give, or keeps that they have given it outside the card.
func goodwill(w *unit.Work, paymentID string, amount int64, reason string, outside bool) (payment.Payment, payment.Refund, error) {
	none := payment.Refund{}
	known, err := lockPayment(w, paymentID)
	if err != nil {
		return known, none, err
	}
	r := payment.Refund{ID: w.NewID(), By: payment.ByStaff, Amount: amount, Reason: reason}
	if outside {
		r.State = payment.RefundOutside
	}
	events, err := known.RequestRefund(r, known.Amount.Currency)
	if err != nil {
		return known, none, err
	}
	if err := keep(w, known, events); err != nil {
		return known, none, err
	}
	after := known.Apply(events...)
	return after, after.Refunds[r.ID], nil
}

// callRefund asks the provider, then commits the outcome.
func (p *payments) callRefund(ctx context.Context, key string, i refundIntent) error {
	outcome, err := p.provider.Refund(ctx, RefundRequest{ID: key, ChargeID: i.PaymentID, Amount: i.Amount})
	if err != nil {
		return fmt.Errorf("refund %s of payment %s: %w", i.RefundID, i.PaymentID, err)
	}
	return p.store.Do(ctx, func(_ context.Context, w *unit.Work) error {
		w.FinishEffect(effectRefund, key)
		known, err := lockOrder(w, i.OrderID, i.RefundID)
		if err != nil {
			return err
		}
		events := known.RefundSucceeded(i.RefundID)
		if !outcome.Approved {
			events = known.RefundFailed(i.RefundID, outcome.Reason)
		}
		return keep(w, known, events)
	})
}
