// Package cartsapi is what others may know of carts: the content of a cart that is about to become an order.
package cartsapi

import (
	"context"
	"time"

	"github.com/banyan-go/banyan/internal/message"
	"github.com/banyan-go/banyan/internal/money"
)

// Contract lists what carts offers.
func Contract() message.Contract {
	return message.Contract{
		Module:  "carts",
		Events:  []message.Event{CartCheckedOut{}},
		Queries: []message.Exchange{{Query: GetCart{}, Reply: Cart{}}},
	}
}

// CartCheckedOut: the cart became an order and was emptied of what was ordered.
type CartCheckedOut struct {
	CustomerID string    `json:"customer_id"`
	OrderID    string    `json:"order_id"`
	At         time.Time `json:"at"`
}

// GetCart asks for the open cart of a customer.
type GetCart struct {
	CustomerID string `json:"customer_id"`
}

// Cart answers GetCart: lines at the prices that the customer was shown. An empty cart has no lines.
type Cart struct {
	CustomerID string      `json:"customer_id"`
	Version    int64       `json:"version"` // grows with each change
	Lines      []Line      `json:"lines"`
	Total      money.Money `json:"total"`
	Problems   []string    `json:"problems,omitempty"` // why the cart can't be ordered as it is (price changed, product retired)
}

// Line is a product in a cart.
type Line struct {
	SKU      string      `json:"sku"`
	Name     string      `json:"name"`
	Quantity int64       `json:"quantity"`
	Price    money.Money `json:"price"` // of one unit
}

func (CartCheckedOut) MessageName() string { return "carts.cart_checked_out.v1" }
func (GetCart) MessageName() string        { return "carts.get_cart.v1" }

func (e CartCheckedOut) MessageKey() string { return e.CustomerID }

// Facade answers questions about carts.
type Facade interface {
	Cart(ctx context.Context, customerID string) (Cart, error)
}

// NewClient asks over the bus.
func NewClient(c message.Caller) Facade { return client{c} }

type client struct{ caller message.Caller }

func (c client) Cart(ctx context.Context, customerID string) (Cart, error) {
	return message.Ask[Cart](ctx, c.caller, GetCart{CustomerID: customerID})
}
