package carts

import (
	"github.com/banyan-go/banyan/internal/unit"
	"github.com/banyan-go/banyan/modules/orders/ordersapi"
)

// checkOut takes ordered units out of the customer's cart. If the cart is still as it was ordered nothing is left; what
// the customer put in since stays.
func checkOut(w *unit.Work, e ordersapi.OrderPlaced) error {
	before, err := lock(w, e.CustomerID)
	if err != nil {
		return err
	}
	units := make(map[string]int64, len(e.Lines))
	for _, l := range e.Lines {
		units[l.SKU] += l.Quantity
	}
	if err := save(w, before, before.Ordered(units)); err != nil {
		return err
	}
	w.Publish(checkedOut(e, w.Now()))
	return nil
}
