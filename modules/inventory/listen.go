package inventory

import (
	"context"

	"github.com/banyan-go/banyan/internal/unit"
	"github.com/banyan-go/banyan/modules/catalog/catalogapi"
)

// productAdded makes a product known, so that reserving it is out of stock rather than unknown.
func (s *service) productAdded(_ context.Context, w *unit.Work, e catalogapi.ProductAdded) error {
	return know(w, []string{e.SKU})
}
