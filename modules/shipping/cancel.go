package shipping

import (
	"context"

	"github.com/banyan-go/banyan/internal/errs"
	"github.com/banyan-go/banyan/internal/message"
	"github.com/banyan-go/banyan/internal/unit"
	"github.com/banyan-go/banyan/modules/orders/ordersapi"
	"github.com/banyan-go/banyan/modules/shipping/internal/shipment"
	"github.com/banyan-go/banyan/modules/shipping/shippingapi"
)

// cancel stops the shipment of a cancelled order, or marks it to be called back. Most orders are cancelled
// before they are confirmed: of these a tombstone is kept.
func (s *service) cancel(_ context.Context, w *unit.Work, e ordersapi.OrderCancelled) error {
	row, err := locked(w, "order_id", e.OrderID)
	if err != nil {
		return err
	}
	if row == nil {
		added, err := insert(w, &shipmentRow{
			ID: message.NewID(), OrderID: e.OrderID, CustomerID: e.CustomerID, State: string(shipment.Void), CreatedAt: w.Now(), CancelledAt: orNil(w.Now()),
		})
		if err == nil && !added {
			err = errs.New(errs.Unavailable, "the shipment of order %s is being made", e.OrderID)
		}
		return err
	}
	before := row.shipment()
	after := before.Cancel(w.Now())
	if after == before {
		return nil
	}
	if err := row.set(w, after); err != nil {
		return err
	}
	if after.State == shipment.Cancelled {
		w.Cancel(timerDispatch, row.ID)
		w.Publish(shippingapi.ShipmentCancelled{ShipmentID: row.ID, OrderID: row.OrderID, CustomerID: row.CustomerID, At: w.Now()})
	}
	return nil
}
