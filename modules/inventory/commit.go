package inventory

import (
	"context"

	"github.com/banyan-go/banyan/internal/unit"
	"github.com/banyan-go/banyan/modules/inventory/inventoryapi"
)

// commit sells what an order holds; the package comment says what happens when it comes too late.
func (s *service) commit(_ context.Context, w *unit.Work, c inventoryapi.Commit) error {
	row, r, err := reservation(w, c.OrderID)
	if err != nil {
		return err
	}
	row.OrderID = c.OrderID
	shelf, err := lock(w, skusOf(r.Lines))
	if err != nil {
		return err
	}
	d := r.Commit(shelf)
	if d.Changed {
		row.set(d.Next, w.Now())
		if err := update(w, &row); err != nil {
			return err
		}
		w.Cancel(timerExpire, c.OrderID)
	}
	if err := s.move(w, shelf, d.Deltas, bySale, c.OrderID, ""); err != nil {
		return err
	}
	answer(w, row, d)
	return nil
}
