package inventory

import (
	"context"

	"github.com/banyan-go/banyan/internal/unit"
	"github.com/banyan-go/banyan/modules/inventory/internal/stock"
)

// expire gives back what an order holds when its time is over.
func (s *service) expire(_ context.Context, w *unit.Work, orderID string, _ struct{}) error {
	row, r, err := reservation(w, orderID)
	if err != nil || r.State != stock.Held {
		return err
	}
	if row.ExpiresAt.After(w.Now()) {
		// Reserved again meanwhile: that reservation has its own time.
		w.Schedule(timerExpire, orderID, row.ExpiresAt, struct{}{})
		return nil
	}
	shelf, err := lock(w, skusOf(r.Lines))
	if err != nil {
		return err
	}
	d := r.Expire()
	row.set(d.Next, w.Now())
	if err := update(w, &row); err != nil {
		return err
	}
	if err := s.move(w, shelf, d.Deltas, "", orderID, ""); err != nil {
		return err
	}
	answer(w, row, d)
	return nil
}
