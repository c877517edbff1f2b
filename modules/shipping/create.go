package shipping

import (
	"context"
	"fmt"

	"github.com/banyan-go/banyan/internal/message"
	"github.com/banyan-go/banyan/internal/unit"
	"github.com/banyan-go/banyan/modules/orders/ordersapi"
	"github.com/banyan-go/banyan/modules/shipping/internal/shipment"
	"github.com/banyan-go/banyan/modules/shipping/shippingapi"
)

// create makes the shipment of a confirmed order, unless the order was cancelled before.
func (s *service) create(_ context.Context, w *unit.Work, e ordersapi.OrderConfirmed) error {
	row := shipmentRow{
		ID: message.NewID(), OrderID: e.OrderID, CustomerID: e.CustomerID, State: string(shipment.Pending), CreatedAt: w.Now(),
		Country: e.Address.Country,
	}
	erased, err := isErased(w, e.CustomerID)
	if err != nil {
		return err
	}
	if !erased {
		row.Name, row.Street, row.City, row.Zip = e.Address.Name, e.Address.Street, e.Address.City, e.Address.Zip
	}
	added, err := insert(w, &row)
	if err != nil || !added {
		return err
	}
	if s.cfg.AutoDispatch > 0 {
		w.Schedule(timerDispatch, row.ID, w.Now().Add(s.cfg.AutoDispatch), struct{}{})
	}
	w.Publish(shippingapi.ShipmentCreated{ShipmentID: row.ID, OrderID: row.OrderID, CustomerID: row.CustomerID, At: w.Now()})
	return nil
}

func isErased(w *unit.Work, customerID string) (bool, error) {
	var n int64
	if err := w.DB.Model(&erasedRow{}).Where("customer_id = ?", customerID).Count(&n).Error; err != nil {
		return false, fmt.Errorf("customer %s: %w", customerID, err)
	}
	return n > 0, nil
}
