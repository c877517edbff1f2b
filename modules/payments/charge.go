package payments

import (
	"context"
	"fmt"

	"github.com/banyan-go/banyan/internal/money"
	"github.com/banyan-go/banyan/internal/unit"
	"github.com/banyan-go/banyan/modules/payments/paymentsapi"
)

// chargeIntent is what the provider is to be asked. It holds the card, so that the call needs no query and works for
// a user who was erased meanwhile.
type chargeIntent struct {
	OrderID string      `json:"order_id"`
	Amount  money.Money `json:"amount"`
	Card    string      `json:"card" personal:"true"`
}

// charge commits the intent.
func (p *payments) charge(_ context.Context, w *unit.Work, c paymentsapi.Charge) error {
	known, err := lockOrder(w, c.OrderID)
	if err != nil {
		return err
	}
	events, err := known.RequestCharge(w.NewID(), c.OrderID, c.CustomerID, c.Card, c.Amount)
	if err != nil {
		return err
	}
	return keep(w, known, events)
}

// askCharge asks the provider for the charge. Without a card, as after the charge was given up and its customer erased, only
// what was done before counts.
func (p *payments) askCharge(ctx context.Context, id string, i chargeIntent) (Outcome, error) {
	if i.Card != "" {
		return p.provider.Charge(ctx, ChargeRequest{ID: id, Amount: i.Amount, CardToken: i.Card})
	}
	outcome, found, err := p.provider.Lookup(ctx, id)
	if err == nil && !found {
		outcome = Outcome{Reason: "no_card"}
	}
	return outcome, err
}

// callCharge asks the provider, then commits the outcome.
func (p *payments) callCharge(ctx context.Context, id string, i chargeIntent) error {
	outcome, err := p.askCharge(ctx, id, i)
	if err != nil {
		return fmt.Errorf("charge for payment %s: %w", id, err)
	}
	return p.store.Do(ctx, func(_ context.Context, w *unit.Work) error {
		w.FinishEffect(effectCharge, id)
		known, err := lockOrder(w, i.OrderID)
		if err != nil {
			return err
		}
		events := known.ChargeSucceeded()
		if !outcome.Approved {
			events = known.ChargeFailed(outcome.Reason)
		}
		return keep(w, known, events)
	})
}
