package catalog

import (
	"github.com/banyan-go/banyan/internal/money"
	"github.com/banyan-go/banyan/internal/unit"
	"github.com/banyan-go/banyan/modules/catalog/internal/product"
)

// repriceOne gives a locked product another price. An equal price is no change: nobody hears of it.
func repriceOne(w *unit.Work, before product.Product, price money.Money, currency string) (product.Product, error) {
	after, err := before.Reprice(price, currency)
	if err != nil || after.Version == before.Version {
		return after, err
	}
	if err := updateProduct(w, before, after); err != nil {
		return product.Product{}, err
	}
	if err := insertPrices(w, []product.Product{after}); err != nil {
		return product.Product{}, err
	}
	w.Publish(repriced(before, after, w.Now()))
	return after, nil
}
