package carts

import (
	"context"
	"time"

	"github.com/banyan-go/banyan/internal/errs"
	"github.com/banyan-go/banyan/internal/rest"
	"github.com/banyan-go/banyan/internal/unit"
	"github.com/banyan-go/banyan/modules/carts/internal/cart"
	"github.com/banyan-go/banyan/modules/catalog/catalogapi"
)

// put changes the line of a product in the caller's cart.
func (c *carts) put(ctx context.Context, ifMatch, text string, fn func(cart.Cart, cart.Product) (cart.Cart, error)) (*rest.Answer[cartBody], error) {
	sku, err := cart.ParseSKU(text)
	if err != nil {
		return nil, err
	}
	asked, err := c.ask(ctx, sku)
	if err != nil {
		return nil, err
	}
	return c.update(ctx, ifMatch, open, func(w *unit.Work, before cart.Cart) (cart.Cart, error) {
		if asked != nil {
			if err := learn(w, *asked); err != nil {
				return cart.Cart{}, err
			}
		}
		// Read here and not before: the price may have changed in between.
		p, err := product(w.DB, sku)
		if errs.Is(err, errs.NotFound) {
			// What the catalog has answered was overtaken by news, and did not get into the copy.
			return cart.Cart{}, errs.New(errs.Unavailable, "the product has changed at the same time").After(time.Second)
		}
		if err != nil {
			return cart.Cart{}, err
		}
		return fn(before, p)
	})
}

// ask asks the catalog for a product that the copy lacks; nil if the copy has it.
func (c *carts) ask(ctx context.Context, sku string) (*catalogapi.Product, error) {
	_, err := product(c.store.Read(ctx), sku)
	if err == nil {
		return nil, nil
	}
	if !errs.Is(err, errs.NotFound) {
		return nil, err
	}
	found, err := c.catalog.Products(ctx, sku)
	if err != nil {
		return nil, err
	}
	for _, p := range found {
		if p.SKU == sku {
			return &p, nil
		}
	}
	return nil, errs.New(errs.NotFound, "no such product")
}
