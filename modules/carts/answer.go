package carts

import (
	"context"

	"github.com/banyan-go/banyan/modules/carts/cartsapi"
)

// answer answers GetCart.
func (c *carts) answer(ctx context.Context, q cartsapi.GetCart) (cartsapi.Cart, error) {
	found, err := find(c.store.Read(ctx), q.CustomerID)
	if err != nil {
		return cartsapi.Cart{}, err
	}
	reply := cartsapi.Cart{CustomerID: found.CustomerID, Version: found.Version, Lines: make([]cartsapi.Line, len(found.Lines)), Problems: found.Problems()}
	for i, l := range found.Lines {
		reply.Lines[i] = cartsapi.Line{SKU: l.Product.SKU, Name: l.Product.Name, Quantity: l.Quantity, Price: l.Shown}
	}
	reply.Total, err = found.Total()
	return reply, err
}
