package inventory

import (
	"context"

	"github.com/banyan-go/banyan/internal/errs"
	"github.com/banyan-go/banyan/internal/unit"
	"github.com/banyan-go/banyan/modules/inventory/internal/stock"
	"github.com/banyan-go/banyan/modules/inventory/inventoryapi"
)

// release gives back whatever an order has. Without a reservation it leaves a tombstone, so that a Reserve that comes
// later cannot set units aside for an order that is over.
func (s *service) release(_ context.Context, w *unit.Work, c inventoryapi.Release) error {
	row, r, err := reservation(w, c.OrderID)
	if err != nil {
		return err
	}
	var shelf stock.Shelf
	if r.State == stock.Held || r.State == stock.Committed {
		if shelf, err = lock(w, skusOf(r.Lines)); err != nil {
			return err
		}
	}
	d := r.Release()
	if d.Changed {
		known := row.OrderID != ""
		row.OrderID = c.OrderID // the reason is the order's to keep: it may be a customer's own words
		row.set(d.Next, w.Now())
		if known {
			err = update(w, &row)
		} else {
			row.CreatedAt, row.ExpiresAt = w.Now(), w.Now()
			var added bool
			if added, err = insert(w, &row); err == nil && !added {
				err = errs.New(errs.Unavailable, "order %s is being reserved", c.OrderID)
			}
		}
		if err != nil {
			return err
		}
	}
	if r.State == stock.Held {
		w.Cancel(timerExpire, c.OrderID)
	}
	if err := s.move(w, shelf, d.Deltas, byRelease, c.OrderID, ""); err != nil {
		return err
	}
	answer(w, row, d)
	return nil
}
