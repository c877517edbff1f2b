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

// cancel stops the goods of an order if they have not left, and answers which it is. The lock of the shipment's row decides:
// whoever dispatches has it before or after, so that what was answered stays true.
func (s *service) cancel(_ context.Context, w *unit.Work, c shippingapi.CancelShipment) error {
	row, err := locked(w, "order_id", c.OrderID)
	if err != nil {
		return err
	}
	if row == nil { // the confirmation of the order is still on its way
		if row, err = tombstone(w, c.OrderID, c.CustomerID); err != nil {
			return err
		}
	}
	before := row.shipment()
	after, stopped := before.Stop(w.Now())
	if !stopped {
		w.Publish(shippingapi.CancellationRefused{ShipmentID: row.ID, OrderID: row.OrderID, CustomerID: row.CustomerID, At: w.Now()})
		return nil
	}
	if after != before {
		if err := row.set(w, after); err != nil {
			return err
		}
		w.Cancel(timerDispatch, row.ID)
	}
	w.Publish(cancelled(w, row))
	return nil
}

// callBack is for an order that was cancelled without asking: its shipment is stopped, or marked to be called back.
// Most orders are cancelled before they are confirmed: of these a tombstone is kept.
func (s *service) callBack(_ context.Context, w *unit.Work, e ordersapi.OrderCancelled) error {
	row, err := locked(w, "order_id", e.OrderID)
	if err != nil {
		return err
	}
	if row == nil {
		_, err := tombstone(w, e.OrderID, e.CustomerID)
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
		w.Publish(cancelled(w, row))
	}
	return nil
}

// tombstone keeps the place of an order that is not to be shipped.
func tombstone(w *unit.Work, orderID, customerID string) (*shipmentRow, error) {
	row := &shipmentRow{ID: message.NewID(), OrderID: orderID, CustomerID: customerID, State: string(shipment.Void), CreatedAt: w.Now(), CancelledAt: orNil(w.Now())}
	added, err := insert(w, row)
	if err == nil && !added {
		err = errs.New(errs.Unavailable, "the shipment of order %s is being made", orderID)
	}
	return row, err
}

func cancelled(w *unit.Work, row *shipmentRow) shippingapi.ShipmentCancelled {
	return shippingapi.ShipmentCancelled{ShipmentID: row.ID, OrderID: row.OrderID, CustomerID: row.CustomerID, At: w.Now()}
}
