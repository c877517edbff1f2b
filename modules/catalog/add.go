package catalog

import (
	"slices"
	"strings"

	"github.com/banyan-go/banyan/internal/errs"
	"github.com/banyan-go/banyan/internal/message"
	"github.com/banyan-go/banyan/internal/unit"
	"github.com/banyan-go/banyan/modules/catalog/internal/product"
)

// addOne puts a product on sale.
func addOne(w *unit.Work, p product.Product) (product.Product, error) {
	if err := checkCategories(w.DB, p.Categories); err != nil {
		return product.Product{}, err
	}
	if err := insertProducts(w, []product.Product{p}); err != nil {
		return product.Product{}, err
	}
	w.Publish(added(p, w.Now()))
	return p, nil
}

// addMany puts products on sale, all or none. Those that are on sale exactly so are left alone, so that a batch can
// be sent again.
func addMany(w *unit.Work, drafts []product.Product) (productBatchBody, error) {
	body := productBatchBody{Added: []string{}, Unchanged: []string{}}
	skus, slugs := make([]string, 0, len(drafts)), []string{}
	seen := make(map[string]bool, len(drafts))
	for i, p := range drafts {
		if seen[p.SKU] {
			return body, errs.New(errs.Invalid, "a product is in the batch twice; none is added").With(place(i), "the SKU %s stands further up already", p.SKU)
		}
		seen[p.SKU] = true
		skus = append(skus, p.SKU)
		slugs = append(slugs, p.Categories...)
	}
	slices.Sort(slugs)
	if err := checkCategories(w.DB, slices.Compact(slugs)); err != nil {
		return body, err
	}
	known, err := findAll(w.DB, skus)
	if err != nil {
		return body, err
	}
	var fresh []product.Product
	clash := errs.New(errs.Conflict, "products of the batch exist and are different; none is added")
	for i, p := range drafts {
		switch k, ok := known[p.SKU]; {
		case !ok:
			fresh = append(fresh, p)
			body.Added = append(body.Added, p.SKU)
		case k.Same(p):
			body.Unchanged = append(body.Unchanged, p.SKU)
		default:
			clash = clash.With(place(i), "the product %s exists and is different", p.SKU)
		}
	}
	if len(clash.Fields) > 0 {
		return body, clash
	}
	// Sorted, so that two batches with the same products cannot wait for each other in a circle.
	slices.SortFunc(fresh, func(a, b product.Product) int { return strings.Compare(a.SKU, b.SKU) })
	if err := insertProducts(w, fresh); err != nil {
		return body, err
	}
	events := make([]message.Event, len(fresh))
	for i, p := range fresh {
		events[i] = added(p, w.Now())
	}
	w.Publish(events...)
	return body, nil
}
