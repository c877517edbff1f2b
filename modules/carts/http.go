package carts

import (
	"context"
	"slices"
	"strconv"
	"strings"

	"github.com/banyan-go/banyan/internal/errs"
	"github.com/banyan-go/banyan/internal/identity"
	"github.com/banyan-go/banyan/internal/money"
	"github.com/banyan-go/banyan/internal/rest"
	"github.com/banyan-go/banyan/internal/unit"
	"github.com/banyan-go/banyan/modules/carts/internal/cart"
)

// cartBody is a cart as its customer sees it.
type cartBody struct {
	CustomerID   string         `json:"customer_id"`
	Version      int64          `json:"version" doc:"Grows with each change; for If-Match"`
	Lines        []cartLineBody `json:"lines"`
	Total        *money.Money   `json:"total,omitempty" doc:"At the prices shown; absent for an empty cart"`
	CurrentTotal *money.Money   `json:"current_total,omitempty" doc:"At today's prices, where they are others"`
	Problems     []string       `json:"problems" doc:"What stands in the way of ordering the cart as it is"`
}

type cartLineBody struct {
	SKU          string       `json:"sku"`
	Name         string       `json:"name"`
	Quantity     int64        `json:"quantity"`
	Price        money.Money  `json:"price" doc:"Of one unit, as it was shown"`
	CurrentPrice *money.Money `json:"current_price,omitempty" doc:"Today's price of one unit, where it is another one"`
	OnSale       bool         `json:"on_sale"`
}

func encode(c cart.Cart) (cartBody, error) {
	body := cartBody{CustomerID: c.CustomerID, Version: c.Version, Lines: make([]cartLineBody, len(c.Lines)), Problems: c.Problems()}
	if body.Problems == nil {
		body.Problems = []string{}
	}
	changed := false
	for i, l := range c.Lines {
		body.Lines[i] = cartLineBody{SKU: l.Product.SKU, Name: l.Product.Name, Quantity: l.Quantity, Price: l.Shown, OnSale: l.Product.OnSale}
		if l.Changed() {
			changed = true
			price := l.Product.Price
			body.Lines[i].CurrentPrice = &price
		}
	}
	if len(c.Lines) == 0 {
		return body, nil
	}
	total, err := c.Total()
	if err != nil {
		return cartBody{}, err
	}
	body.Total = &total
	// Without one total the products are sold in different currencies by now; the prices of the lines say so.
	if current, err := c.CurrentTotal(); changed && err == nil {
		body.CurrentTotal = &current
	}
	return body, nil
}

type getCartOutput struct {
	ETag         string `header:"ETag"`
	CacheControl string `header:"Cache-Control"`
	Body         cartBody
}

func (c *carts) getMine(ctx context.Context, _ *struct{}) (*getCartOutput, error) {
	return c.read(ctx, identity.From(ctx).Subject)
}

type getCartInput struct {
	CustomerID string `path:"customer_id" maxLength:"64" pattern:"^[A-Za-z0-9-]+$"`
}

func (c *carts) get(ctx context.Context, in *getCartInput) (*getCartOutput, error) {
	return c.read(ctx, in.CustomerID)
}

func (c *carts) read(ctx context.Context, customerID string) (*getCartOutput, error) {
	found, err := find(c.store.Read(ctx), customerID)
	if err != nil {
		return nil, err
	}
	body, err := encode(found)
	if err != nil {
		return nil, err
	}
	// The answer also depends on the catalog, so the version says nothing about whether a kept copy is still right.
	return &getCartOutput{ETag: `"` + strconv.FormatInt(found.Version, 10) + `"`, CacheControl: "no-store", Body: body}, nil
}

// CartVersion is the version that the client has seen. It is exported because huma passes over embedded structs that
// are not.
type CartVersion struct {
	IfMatch string `header:"If-Match" maxLength:"200" doc:"ETag of the cart: refuse to change any other version"`
}

type addCartLineInput struct {
	CartVersion
	Body struct {
		SKU      string `json:"sku" minLength:"1" maxLength:"64"`
		Quantity int64  `json:"quantity" minimum:"1" maximum:"10000"`
	}
}

func (c *carts) add(ctx context.Context, in *addCartLineInput) (*rest.Answer[cartBody], error) {
	return c.put(ctx, in.IfMatch, in.Body.SKU, func(before cart.Cart, p cart.Product) (cart.Cart, error) {
		return before.Add(p, in.Body.Quantity)
	})
}

// CartLinePath names a line of the cart.
type CartLinePath struct {
	CartVersion
	SKU string `path:"sku" minLength:"1" maxLength:"192" doc:"SKU, URL-encoded"`
}

type setCartLineInput struct {
	CartLinePath
	Body struct {
		Quantity int64 `json:"quantity" minimum:"1" maximum:"10000"`
	}
}

func (c *carts) set(ctx context.Context, in *setCartLineInput) (*rest.Answer[cartBody], error) {
	return c.put(ctx, in.IfMatch, in.SKU, func(before cart.Cart, p cart.Product) (cart.Cart, error) {
		return before.Set(p, in.Body.Quantity)
	})
}

func (c *carts) remove(ctx context.Context, in *CartLinePath) (*rest.Answer[cartBody], error) {
	sku, err := cart.ParseSKU(in.SKU)
	if err != nil {
		return nil, err
	}
	return c.update(ctx, in.IfMatch, lock, func(_ *unit.Work, before cart.Cart) (cart.Cart, error) { return before.Remove(sku), nil })
}

func (c *carts) empty(ctx context.Context, in *CartVersion) (*rest.Answer[cartBody], error) {
	return c.update(ctx, in.IfMatch, lock, func(_ *unit.Work, before cart.Cart) (cart.Cart, error) { return before.Empty(), nil })
}

type cartPricesBody struct {
	Total *money.Money `json:"total,omitempty" doc:"current_total that the customer agrees to; refused if it is another one by now"`
}

type acceptCartPricesInput struct {
	CartVersion
	Body *cartPricesBody
}

func (c *carts) acceptPrices(ctx context.Context, in *acceptCartPricesInput) (*rest.Answer[cartBody], error) {
	var seen *money.Money
	if in.Body != nil {
		seen = in.Body.Total
	}
	return c.update(ctx, in.IfMatch, lock, func(_ *unit.Work, before cart.Cart) (cart.Cart, error) { return before.Accept(seen) })
}

// update runs one change of the caller's cart: it locks the cart and checks the version that the client has seen.
func (c *carts) update(ctx context.Context, ifMatch string, locked func(*unit.Work, string) (cart.Cart, error), fn func(*unit.Work, cart.Cart) (cart.Cart, error)) (*rest.Answer[cartBody], error) {
	customerID := identity.From(ctx).Subject
	return rest.Commit(ctx, c.store, func(_ context.Context, w *unit.Work) (cartBody, error) {
		before, err := locked(w, customerID)
		if err != nil {
			return cartBody{}, err
		}
		if ifMatch != "" && !names(ifMatch, before.Version) {
			return cartBody{}, errs.New(errs.Conflict, "the cart is at version %d by now", before.Version)
		}
		after, err := fn(w, before)
		if err != nil {
			return cartBody{}, err
		}
		if err := save(w, before, after); err != nil {
			return cartBody{}, err
		}
		return encode(after)
	})
}

// names says whether a list of entity tags holds the version.
func names(tags string, version int64) bool {
	want := strconv.FormatInt(version, 10)
	return slices.ContainsFunc(strings.Split(tags, ","), func(tag string) bool {
		tag = strings.TrimSpace(tag)
		return tag == "*" || strings.Trim(strings.TrimPrefix(tag, "W/"), `"`) == want
	})
}
