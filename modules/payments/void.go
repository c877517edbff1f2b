package payments

import (
	"context"

	"github.com/banyan-go/banyan/internal/unit"
	"github.com/banyan-go/banyan/modules/payments/paymentsapi"
)

// void makes an order settle at zero. Before any charge it leaves a payment that only says so.
func (p *payments) void(_ context.Context, w *unit.Work, c paymentsapi.Void) error {
	known, err := lockOrder(w, c.OrderID)
	if err != nil {
		return err
	}
	events, err := known.Void(w.NewID(), c.OrderID, c.Reason)
	if err != nil {
		return err
	}
	return keep(w, known, events)
}
