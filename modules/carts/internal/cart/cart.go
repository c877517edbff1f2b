// Package cart holds the rules of a customer's cart: what fits into it, what stands in the way of ordering it, and
// what is left of it once it was ordered.
package cart

import (
	"fmt"
	"slices"

	"github.com/banyan-go/banyan/internal/errs"
	"github.com/banyan-go/banyan/internal/money"
)

// Limits of a cart.
const (
	MaxLines    = 300
	MaxQuantity = 10_000 // of one line
)

// Product is what the cart knows of a product now.
type Product struct {
	SKU    string
	Name   string
	Price  money.Money
	OnSale bool
}

// Line is a product in the cart.
type Line struct {
	Product  Product
	Quantity int64
	Shown    money.Money // the price of one unit that the customer has seen
}

// Changed says whether the product costs something else than the customer has seen.
func (l Line) Changed() bool { return l.Product.Price != l.Shown }

// Cart is what a customer is about to buy. It is a value: a change makes a new one.
//
// All prices shown are in one currency, every product stands on one line, and the version grows with each change: it
// is never used twice for a customer, since an order names it.
type Cart struct {
	CustomerID string
	Version    int64
	Lines      []Line // in the order in which they were added
}

// Set makes a product stand in the cart with a quantity. A line that is there already keeps the price that the
// customer was shown.
func (c Cart) Set(p Product, quantity int64) (Cart, error) {
	if quantity < 1 || quantity > MaxQuantity {
		return Cart{}, errs.New(errs.Invalid, "a quantity is 1 to %d", MaxQuantity)
	}
	if !p.OnSale {
		return Cart{}, errs.New(errs.Conflict, "%s is no longer sold", p.SKU)
	}
	i := c.index(p.SKU)
	if i >= 0 {
		if c.Lines[i].Quantity == quantity {
			return c, nil
		}
		after := c.next()
		after.Lines[i].Quantity = quantity
		return after, nil
	}
	if len(c.Lines) >= MaxLines {
		return Cart{}, errs.New(errs.Conflict, "a cart has at most %d lines", MaxLines)
	}
	if len(c.Lines) > 0 && c.Lines[0].Shown.Currency != p.Price.Currency {
		return Cart{}, errs.New(errs.Conflict, "the cart is in %s, but %s is sold in %s", c.Lines[0].Shown.Currency, p.SKU, p.Price.Currency)
	}
	after := c.next()
	after.Lines = append(after.Lines, Line{Product: p, Quantity: quantity, Shown: p.Price})
	return after, nil
}

// Add puts more of a product into the cart.
func (c Cart) Add(p Product, quantity int64) (Cart, error) {
	if quantity < 1 || quantity > MaxQuantity {
		return Cart{}, errs.New(errs.Invalid, "a quantity is 1 to %d", MaxQuantity)
	}
	if i := c.index(p.SKU); i >= 0 {
		quantity += c.Lines[i].Quantity
		if quantity > MaxQuantity {
			return Cart{}, errs.New(errs.Conflict, "a line has at most %d units", MaxQuantity)
		}
	}
	return c.Set(p, quantity)
}

// Remove takes a product out of the cart; one that is not in it changes nothing.
func (c Cart) Remove(sku string) Cart {
	i := c.index(sku)
	if i < 0 {
		return c
	}
	after := c.next()
	after.Lines = slices.Delete(after.Lines, i, i+1)
	return after
}

// Empty takes everything out.
func (c Cart) Empty() Cart {
	if len(c.Lines) == 0 {
		return c
	}
	after := c.next()
	after.Lines = nil
	return after
}

// Accept makes the customer have seen today's prices. seen is the total that the customer agrees to; a price that
// changed after the customer looked so does not pass unseen. nil agrees to whatever the prices are.
func (c Cart) Accept(seen *money.Money) (Cart, error) {
	if seen != nil {
		now, err := c.CurrentTotal()
		if err != nil {
			return Cart{}, err
		}
		if now != *seen {
			return Cart{}, errs.New(errs.Conflict, "the cart now costs something else; look at it again")
		}
	}
	if !slices.ContainsFunc(c.Lines, Line.Changed) {
		return c, nil
	}
	after := c.next()
	for i := range after.Lines {
		after.Lines[i].Shown = after.Lines[i].Product.Price
		if after.Lines[i].Shown.Currency != after.Lines[0].Shown.Currency {
			return Cart{}, errs.New(errs.Conflict, "the products are sold in different currencies by now; remove %s", after.Lines[i].Product.SKU)
		}
	}
	return after, nil
}

// Ordered takes out what was ordered, units by SKU. What the customer has put in since stays.
func (c Cart) Ordered(units map[string]int64) Cart {
	after := c.next()
	for i := range after.Lines {
		l := &after.Lines[i]
		l.Quantity -= min(max(units[l.Product.SKU], 0), l.Quantity)
	}
	after.Lines = slices.DeleteFunc(after.Lines, func(l Line) bool { return l.Quantity == 0 })
	if slices.Equal(c.Lines, after.Lines) {
		return c
	}
	return after
}

// Total is what the cart costs at the prices shown.
func (c Cart) Total() (money.Money, error) {
	return c.sum(func(l Line) money.Money { return l.Shown })
}

// CurrentTotal is what the cart costs at today's prices.
func (c Cart) CurrentTotal() (money.Money, error) {
	return c.sum(func(l Line) money.Money { return l.Product.Price })
}

func (c Cart) sum(price func(Line) money.Money) (money.Money, error) {
	var total money.Money
	for _, l := range c.Lines {
		amount, err := price(l).Times(l.Quantity)
		if err != nil {
			return money.Money{}, err
		}
		if total, err = total.Add(amount); err != nil {
			return money.Money{}, err
		}
	}
	return total, nil
}

// Problems says what stands in the way of ordering the cart as it is.
func (c Cart) Problems() []string {
	var problems []string
	for _, l := range c.Lines {
		switch {
		case !l.Product.OnSale:
			problems = append(problems, fmt.Sprintf("%s is no longer sold", l.Product.SKU))
		case l.Changed():
			problems = append(problems, fmt.Sprintf("the price of %s has changed from %s to %s", l.Product.SKU, text(l.Shown), text(l.Product.Price)))
		}
	}
	return problems
}

func text(m money.Money) string {
	return fmt.Sprintf("%s %d.%02d", m.Currency, m.Amount/100, m.Amount%100)
}

func (c Cart) index(sku string) int {
	return slices.IndexFunc(c.Lines, func(l Line) bool { return l.Product.SKU == sku })
}

// next is a copy of the cart at its next version.
func (c Cart) next() Cart {
	return Cart{CustomerID: c.CustomerID, Version: c.Version + 1, Lines: slices.Clone(c.Lines)}
}
