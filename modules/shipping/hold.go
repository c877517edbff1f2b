package shipping

import (
	"github.com/banyan-go/banyan/internal/unit"
	"github.com/banyan-go/banyan/modules/shipping/internal/shipment"
)

// hold leaves a shipment to staff when a part of its order came back before the goods left: they alone see what is left to
// pack. Goods of which nothing is left are stopped by orders.
func hold(w *unit.Work, orderID string) error {
	row, err := locked(w, "order_id", orderID)
	if err != nil || row == nil || row.State != string(shipment.Pending) {
		return err
	}
	w.Cancel(timerDispatch, row.ID)
	return nil
}
