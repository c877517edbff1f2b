// Package catalogapi is what others may know of the catalog: products, their prices, and when they change.
package catalogapi

import (
	"context"
	"time"

	"github.com/banyan-go/banyan/internal/message"
	"github.com/banyan-go/banyan/internal/money"
)

// Contract lists what the catalog offers.
func Contract() message.Contract {
	return message.Contract{
		Module:  "catalog",
		Events:  []message.Event{ProductAdded{}, ProductChanged{}, PriceChanged{}, ProductRetired{}},
		Queries: []message.Exchange{{Query: GetProducts{}, Reply: Products{}}},
	}
}

// ProductAdded: a product is on sale.
type ProductAdded struct {
	SKU     string      `json:"sku"`
	Name    string      `json:"name"`
	Price   money.Money `json:"price"`
	Version int64       `json:"version"` // of the product; grows by one with each change
	At      time.Time   `json:"at"`
}

// ProductChanged: name, description or category changed.
type ProductChanged struct {
	SKU     string    `json:"sku"`
	Name    string    `json:"name"`
	Version int64     `json:"version"`
	At      time.Time `json:"at"`
}

// PriceChanged: the product costs something else from now on.
type PriceChanged struct {
	SKU     string      `json:"sku"`
	Old     money.Money `json:"old"`
	New     money.Money `json:"new"`
	Version int64       `json:"version"`
	At      time.Time   `json:"at"`
}

// ProductRetired: the product is no longer sold.
type ProductRetired struct {
	SKU     string    `json:"sku"`
	Version int64     `json:"version"`
	At      time.Time `json:"at"`
}

// GetProducts asks for products by SKU; unknown ones are left out of the reply.
type GetProducts struct {
	SKUs []string `json:"skus"`
}

// Products answers GetProducts.
type Products struct {
	Products []Product `json:"products"`
}

// Product is a product as others see it.
type Product struct {
	SKU     string      `json:"sku"`
	Name    string      `json:"name"`
	Price   money.Money `json:"price"`
	OnSale  bool        `json:"on_sale"`
	Version int64       `json:"version"`
}

func (ProductAdded) MessageName() string   { return "catalog.product_added.v1" }
func (ProductChanged) MessageName() string { return "catalog.product_changed.v1" }
func (PriceChanged) MessageName() string   { return "catalog.price_changed.v1" }
func (ProductRetired) MessageName() string { return "catalog.product_retired.v1" }
func (GetProducts) MessageName() string    { return "catalog.get_products.v1" }

func (e ProductAdded) MessageKey() string   { return e.SKU }
func (e ProductChanged) MessageKey() string { return e.SKU }
func (e PriceChanged) MessageKey() string   { return e.SKU }
func (e ProductRetired) MessageKey() string { return e.SKU }

// Facade answers questions about the catalog.
type Facade interface {
	Products(ctx context.Context, skus ...string) ([]Product, error)
}

// NewClient asks over the bus.
func NewClient(c message.Caller) Facade { return client{c} }

type client struct{ caller message.Caller }

func (c client) Products(ctx context.Context, skus ...string) ([]Product, error) {
	reply, err := message.Ask[Products](ctx, c.caller, GetProducts{SKUs: skus})
	return reply.Products, err
}
