package orders

import (
	"context"
	"fmt"

	"github.com/banyan-go/banyan/internal/errs"
	"github.com/banyan-go/banyan/internal/money"
	"github.com/banyan-go/banyan/internal/unit"
	"github.com/banyan-go/banyan/modules/catalog/catalogapi"
	"github.com/banyan-go/banyan/modules/orders/internal/order"
)

// askAtOnce is how many products one question to the catalog names.
const askAtOnce = 100

// priced are lines with their prices.
type priced struct {
	lines       []order.Line
	currency    string
	cartVersion int64
	learned     []catalogapi.Product // what the catalog said, to be kept
}

// priceLines gives lines the prices of our own copy of the catalog, or the agreed ones. It may ask the catalog, so
// it runs outside of units of work.
func (o *orders) priceLines(ctx context.Context, in []placeLine, agreed bool) (priced, error) {
	known, learned, err := o.products(ctx, in)
	if err != nil {
		return priced{}, err
	}
	p := priced{lines: make([]order.Line, len(in)), learned: learned}
	for i, l := range in {
		product, ok := known[l.SKU]
		switch {
		case !ok:
			return priced{}, errs.New(errs.Invalid, "the catalog does not know a product").With(fmt.Sprintf("body.lines[%d].sku", i), "is not in the catalog")
		case !product.OnSale && !agreed:
			return priced{}, errs.New(errs.Invalid, "a product is no longer sold").With(fmt.Sprintf("body.lines[%d].sku", i), "is no longer sold")
		}
		price := product.Price
		if l.Price != nil {
			price = *l.Price
		}
		if p.currency == "" {
			p.currency = price.Currency
		}
		if price.Currency != p.currency {
			return priced{}, errs.New(errs.Invalid, "an order has one currency").With(fmt.Sprintf("body.lines[%d].price.currency", i), "differs from the lines before")
		}
		p.lines[i] = order.Line{SKU: l.SKU, Name: product.Name, Quantity: l.Quantity, Price: price.Amount}
	}
	return p, nil
}

// priceCart takes the lines of the customer's cart, at the prices that it shows.
func (o *orders) priceCart(ctx context.Context, customerID string) (priced, error) {
	cart, err := o.carts.Cart(ctx, customerID)
	if err != nil {
		return priced{}, fmt.Errorf("read cart: %w", err)
	}
	if len(cart.Lines) == 0 {
		return priced{}, errs.New(errs.Conflict, "the cart is empty")
	}
	if len(cart.Lines) > maxLines {
		return priced{}, errs.New(errs.Conflict, "the cart has more than %d lines", maxLines)
	}
	if len(cart.Problems) > 0 {
		refusal := errs.New(errs.Conflict, "the cart cannot be ordered as it is")
		for _, problem := range cart.Problems {
			refusal = refusal.With("body.cart", "%s", problem)
		}
		return priced{}, refusal
	}
	p := priced{lines: make([]order.Line, len(cart.Lines)), currency: cart.Lines[0].Price.Currency, cartVersion: cart.Version}
	for i, l := range cart.Lines {
		if l.Price.Currency != p.currency {
			return priced{}, errs.New(errs.Conflict, "the cart has more than one currency")
		}
		p.lines[i] = order.Line{SKU: l.SKU, Name: l.Name, Quantity: l.Quantity, Price: l.Price.Amount}
	}
	return p, nil
}

// products are the products of lines by SKU: from the copy, and what the copy lacks from the catalog.
func (o *orders) products(ctx context.Context, lines []placeLine) (known map[string]catalogapi.Product, learned []catalogapi.Product, err error) {
	known = make(map[string]catalogapi.Product, len(lines))
	skus := make([]string, 0, len(lines))
	for _, l := range lines {
		if _, ok := known[l.SKU]; !ok {
			known[l.SKU] = catalogapi.Product{}
			skus = append(skus, l.SKU)
		}
	}
	clear(known)
	var rows []struct {
		SKU      string `gorm:"column:sku"`
		Name     string
		Amount   int64
		Currency string
		OnSale   bool
	}
	if err := o.store.Read(ctx).Raw("SELECT sku, name, amount, currency, on_sale FROM price WHERE sku IN ? AND currency <> ''", skus).Scan(&rows).Error; err != nil {
		return nil, nil, fmt.Errorf("read prices: %w", err)
	}
	for _, r := range rows {
		known[r.SKU] = catalogapi.Product{SKU: r.SKU, Name: r.Name, Price: money.Of(r.Amount, r.Currency), OnSale: r.OnSale}
	}
	var missing []string
	for _, sku := range skus {
		if _, ok := known[sku]; !ok {
			missing = append(missing, sku)
		}
	}
	for len(missing) > 0 {
		n := min(len(missing), askAtOnce)
		found, err := o.catalog.Products(ctx, missing[:n]...)
		if err != nil {
			return nil, nil, fmt.Errorf("ask the catalog: %w", err)
		}
		for _, p := range found {
			known[p.SKU] = p
		}
		learned = append(learned, found...)
		missing = missing[n:]
	}
	return known, learned, nil
}

// keepPrices puts products into the copy, unless it knows a newer version.
func keepPrices(w *unit.Work, products []catalogapi.Product) error {
	args := make([]any, 0, 6*len(products))
	for _, p := range products {
		args = append(args, p.SKU, p.Name, p.Price.Amount, p.Price.Currency, p.OnSale, p.Version)
	}
	err := insert(w.Later(), "price (sku, name, amount, currency, on_sale, version)", 6, args, ` ON CONFLICT (sku) DO UPDATE SET
		name = excluded.name, amount = excluded.amount, currency = excluded.currency, on_sale = excluded.on_sale, version = excluded.version
		WHERE price.version < excluded.version OR (price.version = excluded.version AND price.currency = '')`)
	if err != nil {
		return fmt.Errorf("keep prices: %w", err)
	}
	return nil
}

// changePrice changes a product in the copy, unless it knows a newer version. One that is not there is asked for
// when somebody orders it. Until then its version is kept, without a currency: somebody may have asked already, and the answer
// may be older than this change.
func changePrice(w *unit.Work, sku string, version int64, set string, values ...any) error {
	args := append([]any{sku, false, version}, values...)
	err := w.Later().Exec(`INSERT INTO price (sku, name, amount, currency, on_sale, version) VALUES (?, '', 0, '', ?, ?)
		ON CONFLICT (sku) DO UPDATE SET `+set+`, version = excluded.version WHERE price.version < excluded.version`, args...).Error
	if err != nil {
		return fmt.Errorf("keep price of %s: %w", sku, err)
	}
	return nil
}
