package catalog

import (
	"github.com/banyan-go/banyan/internal/unit"
	"github.com/banyan-go/banyan/modules/catalog/internal/product"
)

// retireOne takes a locked product off sale; one that is retired already stays so.
func retireOne(w *unit.Work, before product.Product) (product.Product, error) {
	after := before.Retire()
	if after.Version == before.Version {
		return after, nil
	}
	if err := updateProduct(w, before, after); err != nil {
		return product.Product{}, err
	}
	w.Publish(retired(after, w.Now()))
	return after, nil
}
