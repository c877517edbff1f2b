package inventory

import (
	"context"
	"fmt"

	"gorm.io/gorm/clause"

	"github.com/banyan-go/banyan/internal/unit"
	"github.com/banyan-go/banyan/modules/inventory/internal/stock"
	"github.com/banyan-go/banyan/modules/inventory/inventoryapi"
)

// restock puts returned units back on the shelf, once per return.
func (s *service) restock(_ context.Context, w *unit.Work, c inventoryapi.Restock) error {
	lines, err := merge(c.Lines)
	if err != nil {
		return err
	}
	first := w.DB.Clauses(clause.OnConflict{DoNothing: true}).Create(&returnRow{OrderID: c.OrderID, ReturnID: c.ReturnID, ReturnedAt: w.Now()})
	if first.Error != nil {
		return fmt.Errorf("return %s: %w", c.ReturnID, first.Error)
	}
	if first.RowsAffected == 1 {
		if err := s.putBack(w, c, lines); err != nil {
			return err
		}
	}
	w.Publish(inventoryapi.StockReturned{OrderID: c.OrderID, ReturnID: c.ReturnID, At: w.Now()})
	return nil
}

func (s *service) putBack(w *unit.Work, c inventoryapi.Restock, lines []stock.Line) error {
	row, r, err := reservation(w, c.OrderID)
	if err != nil {
		return err
	}
	if r.State == stock.None {
		if err := know(w, skusOf(lines)); err != nil {
			return err
		}
	}
	shelf, err := lock(w, skusOf(lines))
	if err != nil {
		return err
	}
	d := r.Restock(lines)
	if d.Changed {
		row.set(d.Next, w.Now())
		if err := update(w, &row); err != nil {
			return err
		}
	}
	return s.move(w, shelf, d.Deltas, byReturn, c.ReturnID, "")
}
