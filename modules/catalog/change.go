package catalog

import (
	"slices"

	"github.com/banyan-go/banyan/internal/unit"
	"github.com/banyan-go/banyan/modules/catalog/internal/product"
)

// changeOne changes what is said of a locked product.
func changeOne(w *unit.Work, before product.Product, change product.Change) (product.Product, error) {
	after, err := before.Change(change)
	if err != nil || after.Version == before.Version {
		return after, err
	}
	if !slices.Equal(before.Categories, after.Categories) {
		if err := checkCategories(w.DB, after.Categories); err != nil {
			return product.Product{}, err
		}
		if err := replaceCategories(w.DB, after); err != nil {
			return product.Product{}, err
		}
	}
	if err := updateProduct(w, before, after); err != nil {
		return product.Product{}, err
	}
	w.Publish(changed(after, w.Now()))
	return after, nil
}
