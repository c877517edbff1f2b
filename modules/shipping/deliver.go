package shipping

import (
	"github.com/banyan-go/banyan/internal/unit"
	"github.com/banyan-go/banyan/modules/shipping/shippingapi"
)

// deliver notes that the customer has the goods.
func (s *service) deliver(w *unit.Work, id string) (*shipmentRow, error) {
	row, err := existing(w, id)
	if err != nil {
		return nil, err
	}
	after, err := row.shipment().Deliver(w.Now())
	if err != nil {
		return nil, err
	}
	if err := row.set(w, after); err != nil {
		return nil, err
	}
	w.Publish(shippingapi.ShipmentDelivered{ShipmentID: row.ID, OrderID: row.OrderID, CustomerID: row.CustomerID, At: w.Now()})
	return row, nil
}
