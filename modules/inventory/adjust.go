package inventory

import (
	"github.com/banyan-go/banyan/internal/errs"
	"github.com/banyan-go/banyan/internal/unit"
	"github.com/banyan-go/banyan/modules/inventory/internal/stock"
)

// adjust corrects what is on hand of a product by a count, and says why.
func (s *service) adjust(w *unit.Work, sku string, by int64, reason, staff string) (stock.Level, error) {
	shelf, err := lock(w, []string{sku})
	if err != nil {
		return stock.Level{}, err
	}
	level, known := shelf[sku]
	if !known {
		return level, errs.New(errs.NotFound, "no such product")
	}
	delta, err := stock.Adjust(level, sku, by)
	if err != nil {
		return level, err
	}
	if err := s.move(w, shelf, []stock.Delta{delta}, byAdjustment, staff, reason); err != nil {
		return level, err
	}
	return shelf[sku], nil
}
