package shipping

import (
	"context"

	"github.com/banyan-go/banyan/internal/errs"
	"github.com/banyan-go/banyan/internal/unit"
	"github.com/banyan-go/banyan/modules/shipping/internal/shipment"
	"github.com/banyan-go/banyan/modules/shipping/shippingapi"
)

// timerDispatch dispatches a shipment that nobody dispatched by hand; its key is the shipment.
const timerDispatch = "auto_dispatch"

// dispatch hands the goods to a carrier.
func (s *service) dispatch(w *unit.Work, row *shipmentRow, carrier, tracking string) error {
	after, err := row.shipment().Dispatch(row.ID, carrier, tracking, w.Now())
	if err != nil {
		return err
	}
	if err := row.set(w, after); err != nil {
		return err
	}
	w.Publish(shippingapi.ShipmentDispatched{
		ShipmentID: row.ID, OrderID: row.OrderID, CustomerID: row.CustomerID, Carrier: row.Carrier, Tracking: row.Tracking, At: w.Now(),
	})
	return nil
}

func (s *service) dispatchByStaff(w *unit.Work, id, carrier, tracking string) (*shipmentRow, error) {
	row, err := existing(w, id)
	if err != nil {
		return nil, err
	}
	if s.cfg.AutoDispatch > 0 {
		w.Cancel(timerDispatch, id)
	}
	return row, s.dispatch(w, row, carrier, tracking)
}

func (s *service) autoDispatch(_ context.Context, w *unit.Work, id string, _ struct{}) error {
	row, err := locked(w, "id", id)
	if err != nil || row == nil || row.State != string(shipment.Pending) {
		return err
	}
	return s.dispatch(w, row, s.cfg.Carrier, "")
}

func existing(w *unit.Work, id string) (*shipmentRow, error) {
	row, err := locked(w, "id", id)
	if err == nil && (row == nil || row.State == string(shipment.Void)) {
		return nil, errs.New(errs.NotFound, "no such shipment")
	}
	return row, err
}
