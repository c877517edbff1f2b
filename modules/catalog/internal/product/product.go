// Package product holds the rules of a product: what makes one valid, how it changes, how it is found.
package product

import (
	"net/url"
	"regexp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/banyan-go/banyan/internal/errs"
	"github.com/banyan-go/banyan/internal/money"
)

// Limits of a product.
const (
	MaxName        = 200  // runes
	MaxDescription = 4000 // runes
	MaxCategories  = 20
	MaxPrice       = 1_000_000_000_00 // minor units
	MaxWords       = 8                // of one search
	MaxSearch      = 100              // runes of one search
)

// State says whether a product can be bought.
type State string

// The states. Retired is the end: a product never comes back under its SKU, as old orders speak of it.
const (
	OnSale  State = "on_sale"
	Retired State = "retired"
)

// Product is something the shop sells.
type Product struct {
	SKU         string
	Name        string
	Description string
	Categories  []string // slugs, sorted, each once
	Price       money.Money
	State       State
	Version     int64 // grows by one with each change
}

var (
	// The gateway takes no part of a path that ends with a dot, and a blank at the end is lost on the way too easily.
	skuForm      = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9 ._-]{0,62}[A-Za-z0-9_-])?$`)
	slugForm     = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,63}$`)
	currencyForm = regexp.MustCompile(`^[A-Z]{3}$`)
)

// ParseSKU reads a SKU. It also takes one that is still percent-encoded: a path keeps its encoding when a
// client has encoded more than it must ("85123%41"), and no SKU holds a percent sign.
func ParseSKU(text string) (string, error) {
	if strings.Contains(text, "%") {
		if decoded, err := url.PathUnescape(text); err == nil {
			text = decoded
		}
	}
	if !skuForm.MatchString(text) {
		return "", errs.New(errs.Invalid, "a SKU has 1 to 64 letters, digits, blanks, dots, dashes or underscores, begins with a letter or digit and does not end with a blank or dot")
	}
	return text, nil
}

// ParseSlug reads the short name of a category.
func ParseSlug(text string) (string, error) {
	if !slugForm.MatchString(text) {
		return "", errs.New(errs.Invalid, "the short name of a category has 1 to 64 small letters, digits or dashes and begins with a letter or digit")
	}
	return text, nil
}

// ParseCurrency reads a currency.
func ParseCurrency(text string) (string, error) {
	if !currencyForm.MatchString(text) {
		return "", errs.New(errs.Invalid, "a currency is three capital letters (ISO 4217), as in GBP")
	}
	return text, nil
}

// CleanName trims a name and refuses an empty one, one that is too long, and control characters.
func CleanName(name string) (string, error) {
	name = strings.TrimSpace(name)
	switch {
	case name == "":
		return "", errs.New(errs.Invalid, "a name is needed")
	case !utf8.ValidString(name) || strings.ContainsFunc(name, unicode.IsControl):
		return "", errs.New(errs.Invalid, "a name has no control characters")
	case utf8.RuneCountInString(name) > MaxName:
		return "", errs.New(errs.Invalid, "a name has at most %d characters", MaxName)
	}
	return name, nil
}

// New puts a product on sale. The price must be in the shop's currency: lists sort and filter by amount, and
// carts add amounts up.
func New(draft Product, currency string) (Product, error) {
	p := Product{State: OnSale, Version: 1}
	var err error
	if p.SKU, err = ParseSKU(draft.SKU); err != nil {
		return Product{}, err
	}
	if reserved(p.SKU) {
		return Product{}, errs.New(errs.Invalid, "the SKU %s is the name of a route", p.SKU)
	}
	if p.Name, err = CleanName(draft.Name); err != nil {
		return Product{}, err
	}
	if p.Description, err = cleanDescription(draft.Description); err != nil {
		return Product{}, err
	}
	if p.Categories, err = cleanCategories(draft.Categories); err != nil {
		return Product{}, err
	}
	if p.Price, err = checkPrice(draft.Price, currency); err != nil {
		return Product{}, err
	}
	return p, nil
}

// reserved says whether a path with the SKU in it would reach another route, here or in the inventory.
func reserved(sku string) bool {
	return slices.Contains([]string{"report", "batch", "deliveries", "reservations", "reports"}, sku)
}

// Same says whether o offers the same as p: everything but the version.
func (p Product) Same(o Product) bool {
	return p.SKU == o.SKU && p.Name == o.Name && p.Description == o.Description && p.Price == o.Price &&
		p.State == o.State && slices.Equal(p.Categories, o.Categories)
}

// Change is what is to be said differently of a product; nil leaves a part as it is.
type Change struct {
	Name        *string
	Description *string
	Categories  *[]string
}

// Change changes what is said of the product. The version grows only if something became different.
func (p Product) Change(c Change) (Product, error) {
	if err := p.onSale(); err != nil {
		return Product{}, err
	}
	after := p
	var err error
	if c.Name != nil {
		if after.Name, err = CleanName(*c.Name); err != nil {
			return Product{}, err
		}
	}
	if c.Description != nil {
		if after.Description, err = cleanDescription(*c.Description); err != nil {
			return Product{}, err
		}
	}
	if c.Categories != nil {
		if after.Categories, err = cleanCategories(*c.Categories); err != nil {
			return Product{}, err
		}
	}
	if !after.Same(p) {
		after.Version++
	}
	return after, nil
}

// Reprice gives the product another price. The version grows only if it is another one.
func (p Product) Reprice(price money.Money, currency string) (Product, error) {
	if err := p.onSale(); err != nil {
		return Product{}, err
	}
	price, err := checkPrice(price, currency)
	if err != nil {
		return Product{}, err
	}
	after := p
	after.Price = price
	if price != p.Price {
		after.Version++
	}
	return after, nil
}

// Retire takes the product off sale; doing so twice changes nothing.
func (p Product) Retire() Product {
	if p.State == Retired {
		return p
	}
	p.State = Retired
	p.Version++
	return p
}

func (p Product) onSale() error {
	if p.State != OnSale {
		return errs.New(errs.Conflict, "product %s is retired", p.SKU)
	}
	return nil
}

func checkPrice(price money.Money, currency string) (money.Money, error) {
	if price.Currency == "" {
		price.Currency = currency
	}
	switch {
	case price.Currency != currency:
		return money.Money{}, errs.New(errs.Invalid, "prices are in %s", currency)
	case price.Amount <= 0:
		return money.Money{}, errs.New(errs.Invalid, "a price is more than zero")
	case price.Amount > MaxPrice:
		return money.Money{}, errs.New(errs.Invalid, "a price is at most %d minor units", int64(MaxPrice))
	}
	return price, nil
}

func cleanDescription(text string) (string, error) {
	text = strings.TrimSpace(text)
	control := func(r rune) bool { return unicode.IsControl(r) && r != '\n' && r != '\r' && r != '\t' }
	switch {
	case !utf8.ValidString(text) || strings.ContainsFunc(text, control):
		return "", errs.New(errs.Invalid, "a description has no control characters but line breaks and tabs")
	case utf8.RuneCountInString(text) > MaxDescription:
		return "", errs.New(errs.Invalid, "a description has at most %d characters", MaxDescription)
	}
	return text, nil
}

func cleanCategories(slugs []string) ([]string, error) {
	if len(slugs) > MaxCategories {
		return nil, errs.New(errs.Invalid, "a product is in at most %d categories", MaxCategories)
	}
	clean := make([]string, 0, len(slugs))
	for _, s := range slugs {
		slug, err := ParseSlug(s)
		if err != nil {
			return nil, err
		}
		clean = append(clean, slug)
	}
	slices.Sort(clean)
	return slices.Compact(clean), nil
}
