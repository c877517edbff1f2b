// Package ordersapi is what others may know of orders: what became of them.
package ordersapi

import (
	"context"
	"time"

	"github.com/banyan-go/banyan/internal/message"
	"github.com/banyan-go/banyan/internal/money"
)

// Contract lists what orders offers.
func Contract() message.Contract {
	return message.Contract{
		Module:  "orders",
		Events:  []message.Event{OrderPlaced{}, OrderConfirmed{}, OrderRejected{}, OrderCancelled{}, OrderReturned{}},
		Queries: []message.Exchange{{Query: GetOrder{}, Reply: Order{}}},
	}
}

// Line is a product in an order at the price agreed for it. SKU and price together name a line.
type Line struct {
	SKU      string      `json:"sku"`
	Name     string      `json:"name,omitempty"`
	Quantity int64       `json:"quantity"`
	Price    money.Money `json:"price"` // of one unit
}

// Address is where goods go.
type Address struct {
	Name    string `json:"name,omitempty" personal:"true"`
	Street  string `json:"street,omitempty" personal:"true"`
	City    string `json:"city,omitempty" personal:"true"`
	Zip     string `json:"zip,omitempty" personal:"true"`
	Country string `json:"country,omitempty"`
}

// OrderPlaced: the shop has taken the order and tries to fulfil it.
type OrderPlaced struct {
	OrderID     string      `json:"order_id"`
	CustomerID  string      `json:"customer_id"`
	CartVersion int64       `json:"cart_version,omitempty"` // set when the order was made of the customer's cart
	Lines       []Line      `json:"lines"`
	Total       money.Money `json:"total"`
	At          time.Time   `json:"at"`
}

// OrderConfirmed: stock is reserved and the money captured; goods may leave.
type OrderConfirmed struct {
	OrderID    string      `json:"order_id"`
	CustomerID string      `json:"customer_id"`
	Lines      []Line      `json:"lines"`
	Total      money.Money `json:"total"`
	Address    Address     `json:"address"`
	At         time.Time   `json:"at"`
}

// OrderRejected: the order could not be fulfilled; nothing stays reserved or charged.
type OrderRejected struct {
	OrderID    string    `json:"order_id"`
	CustomerID string    `json:"customer_id"`
	Reason     string    `json:"reason"` // out_of_stock, payment_declined, timed_out
	At         time.Time `json:"at"`
}

// OrderCancelled: somebody called the order off before it left; it settles at zero.
type OrderCancelled struct {
	OrderID    string    `json:"order_id"`
	CustomerID string    `json:"customer_id"`
	Reason     string    `json:"reason"`
	At         time.Time `json:"at"`
}

// OrderReturned: units came back; their price is refunded, or what is left of the payment, and they go back on the shelf.
type OrderReturned struct {
	OrderID    string      `json:"order_id"`
	CustomerID string      `json:"customer_id"`
	ReturnID   string      `json:"return_id"`
	Lines      []Line      `json:"lines"`
	Refund     money.Money `json:"refund"`
	At         time.Time   `json:"at"`
}

// GetOrder asks for an order.
type GetOrder struct {
	OrderID string `json:"order_id"`
}

// Order answers GetOrder.
type Order struct {
	OrderID    string      `json:"order_id"`
	CustomerID string      `json:"customer_id"`
	Status     string      `json:"status"`
	Lines      []Line      `json:"lines"`
	Total      money.Money `json:"total"`
}

func (OrderPlaced) MessageName() string    { return "orders.order_placed.v1" }
func (OrderConfirmed) MessageName() string { return "orders.order_confirmed.v1" }
func (OrderRejected) MessageName() string  { return "orders.order_rejected.v1" }
func (OrderCancelled) MessageName() string { return "orders.order_cancelled.v1" }
func (OrderReturned) MessageName() string  { return "orders.order_returned.v1" }
func (GetOrder) MessageName() string       { return "orders.get_order.v1" }

func (e OrderPlaced) MessageKey() string    { return e.OrderID }
func (e OrderConfirmed) MessageKey() string { return e.OrderID }
func (e OrderRejected) MessageKey() string  { return e.OrderID }
func (e OrderCancelled) MessageKey() string { return e.OrderID }
func (e OrderReturned) MessageKey() string  { return e.OrderID }

func (e OrderConfirmed) PersonalSubject() string { return e.CustomerID }

// Facade answers questions about orders.
type Facade interface {
	Order(ctx context.Context, orderID string) (Order, error)
}

// NewClient asks over the bus.
func NewClient(c message.Caller) Facade { return client{c} }

type client struct{ caller message.Caller }

func (c client) Order(ctx context.Context, orderID string) (Order, error) {
	return message.Ask[Order](ctx, c.caller, GetOrder{OrderID: orderID})
}
