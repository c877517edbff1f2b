package carts

import (
	"context"

	"github.com/banyan-go/banyan/internal/unit"
	"github.com/banyan-go/banyan/modules/catalog/catalogapi"
	"github.com/banyan-go/banyan/modules/orders/ordersapi"
	"github.com/banyan-go/banyan/modules/users/usersapi"
)

func (c *carts) productAdded(_ context.Context, w *unit.Work, e catalogapi.ProductAdded) error {
	return learn(w, catalogapi.Product{SKU: e.SKU, Name: e.Name, Price: e.Price, OnSale: true, Version: e.Version})
}

func (c *carts) productChanged(_ context.Context, w *unit.Work, e catalogapi.ProductChanged) error {
	return amend(w, e.SKU, e.Version, "name = ?", e.Name)
}

func (c *carts) priceChanged(_ context.Context, w *unit.Work, e catalogapi.PriceChanged) error {
	return amend(w, e.SKU, e.Version, "price_amount = ?, price_currency = CASE WHEN products.price_currency = '' THEN '' ELSE ? END", e.New.Amount, e.New.Currency)
}

func (c *carts) productRetired(_ context.Context, w *unit.Work, e catalogapi.ProductRetired) error {
	return amend(w, e.SKU, e.Version, "on_sale = ?", false)
}

// orderPlaced takes what was ordered out of the cart that the order was made of. Orders without a cart concern nobody here.
func (c *carts) orderPlaced(_ context.Context, w *unit.Work, e ordersapi.OrderPlaced) error {
	if e.CartVersion == 0 {
		return nil
	}
	return checkOut(w, e)
}

// userErased forgets the cart: what somebody wanted to buy is personal.
func (c *carts) userErased(_ context.Context, w *unit.Work, e usersapi.UserErased) error {
	if err := forget(w, e.UserID); err != nil {
		return err
	}
	return w.Erase(e.UserID)
}
