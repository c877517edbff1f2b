package catalog

import (
	"context"
	"slices"

	"github.com/banyan-go/banyan/internal/errs"
	"github.com/banyan-go/banyan/modules/catalog/catalogapi"
	"github.com/banyan-go/banyan/modules/catalog/internal/product"
)

// maxAsked is how many products one query may name.
const maxAsked = 500

// products answers GetProducts in the order of the SKUs asked for.
func (c *catalog) products(ctx context.Context, q catalogapi.GetProducts) (catalogapi.Products, error) {
	reply := catalogapi.Products{Products: []catalogapi.Product{}}
	if len(q.SKUs) > maxAsked {
		return reply, errs.New(errs.Invalid, "at most %d products can be asked for at once", maxAsked)
	}
	// What is no SKU is no product either; the database never sees it.
	skus := slices.DeleteFunc(slices.Clone(q.SKUs), func(sku string) bool {
		parsed, err := product.ParseSKU(sku)
		return err != nil || parsed != sku
	})
	known, err := findAll(c.store.Read(ctx), skus)
	if err != nil {
		return reply, err
	}
	for _, sku := range skus {
		if p, ok := known[sku]; ok {
			reply.Products = append(reply.Products, summary(p))
			delete(known, sku) // a SKU asked for twice is answered once
		}
	}
	return reply, nil
}
