package carts

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"gorm.io/gorm"
	"gorm.io/gorm/clause"

	"github.com/banyan-go/banyan/internal/errs"
	"github.com/banyan-go/banyan/internal/money"
	"github.com/banyan-go/banyan/internal/unit"
	"github.com/banyan-go/banyan/modules/carts/internal/cart"
	"github.com/banyan-go/banyan/modules/catalog/catalogapi"
)

// batchRows is how many rows go into one INSERT.
const batchRows = 100

type cartRow struct {
	CustomerID string     `gorm:"column:customer_id;primaryKey"`
	Version    int64      `gorm:"column:version"`
	TouchedAt  *time.Time `gorm:"column:touched_at"`
}

func (cartRow) TableName() string { return "carts" }

type lineRow struct {
	CustomerID    string `gorm:"column:customer_id;primaryKey"`
	SKU           string `gorm:"column:sku;primaryKey"`
	Position      int64  `gorm:"column:position"`
	Quantity      int64  `gorm:"column:quantity"`
	ShownAmount   int64  `gorm:"column:shown_amount"`
	ShownCurrency string `gorm:"column:shown_currency"`
}

func (lineRow) TableName() string { return "cart_lines" }

type productRow struct {
	SKU           string `gorm:"column:sku;primaryKey"`
	Name          string `gorm:"column:name"`
	PriceAmount   int64  `gorm:"column:price_amount"`
	PriceCurrency string `gorm:"column:price_currency"`
	OnSale        bool   `gorm:"column:on_sale"`
	Version       int64  `gorm:"column:version"`
}

func (productRow) TableName() string { return "products" }

// find reads a cart in one statement, so that version and lines belong together. A customer without one has an empty
// cart at version 0.
func find(db *gorm.DB, customerID string) (cart.Cart, error) {
	found := cart.Cart{CustomerID: customerID}
	var rows []struct {
		CartVersion   int64
		SKU           *string
		Quantity      int64
		ShownAmount   int64
		ShownCurrency string
		Name          string
		PriceAmount   int64
		PriceCurrency string
		OnSale        bool
	}
	// A line never outlives the copy of its product; the COALESCEs are for a cart without lines.
	err := db.Raw(`SELECT c.version AS cart_version, l.sku, COALESCE(l.quantity, 0) AS quantity, COALESCE(l.shown_amount, 0) AS shown_amount,
			COALESCE(l.shown_currency, '') AS shown_currency, COALESCE(p.name, '') AS name, COALESCE(p.price_amount, 0) AS price_amount,
			COALESCE(p.price_currency, '') AS price_currency, COALESCE(p.on_sale, FALSE) AS on_sale
		FROM carts c LEFT JOIN cart_lines l ON l.customer_id = c.customer_id LEFT JOIN products p ON p.sku = l.sku
		WHERE c.customer_id = ? ORDER BY l.position, l.sku`, customerID).Scan(&rows).Error
	if err != nil {
		return found, fmt.Errorf("read cart of %s: %w", customerID, err)
	}
	for _, r := range rows {
		found.Version = r.CartVersion
		if r.SKU == nil {
			continue
		}
		found.Lines = append(found.Lines, cart.Line{
			Product:  cart.Product{SKU: *r.SKU, Name: r.Name, Price: money.Of(r.PriceAmount, r.PriceCurrency), OnSale: r.OnSale},
			Quantity: r.Quantity, Shown: money.Of(r.ShownAmount, r.ShownCurrency),
		})
	}
	return found, nil
}

// lock reads a cart that is about to change and holds it until the commit. Whoever changes lines holds the cart's row.
func lock(w *unit.Work, customerID string) (cart.Cart, error) {
	var rows []cartRow
	if err := w.DB.Clauses(clause.Locking{Strength: "UPDATE"}).Where("customer_id = ?", customerID).Find(&rows).Error; err != nil {
		return cart.Cart{}, fmt.Errorf("lock cart of %s: %w", customerID, err)
	}
	if len(rows) == 0 {
		return cart.Cart{CustomerID: customerID}, nil
	}
	return find(w.DB, customerID)
}

// open is lock for a cart that is to get a line: one that does not exist yet is made first, so that there is a row to hold.
func open(w *unit.Work, customerID string) (cart.Cart, error) {
	err := w.Later().Clauses(clause.OnConflict{DoNothing: true}).Create(&cartRow{CustomerID: customerID}).Error
	if err != nil {
		return cart.Cart{}, fmt.Errorf("open cart of %s: %w", customerID, err)
	}
	return lock(w, customerID)
}

// save stores what is different between two versions of a locked cart.
func save(w *unit.Work, before, after cart.Cart) error {
	if after.Version == before.Version {
		return nil
	}
	old := make(map[string]cart.Line, len(before.Lines))
	for _, l := range before.Lines {
		old[l.Product.SKU] = l
	}
	var put []lineRow
	for _, l := range after.Lines {
		was, kept := old[l.Product.SKU]
		delete(old, l.Product.SKU)
		if kept && was.Quantity == l.Quantity && was.Shown == l.Shown {
			continue
		}
		put = append(put, lineRow{
			CustomerID: after.CustomerID, SKU: l.Product.SKU, Position: after.Version, Quantity: l.Quantity,
			ShownAmount: l.Shown.Amount, ShownCurrency: l.Shown.Currency,
		})
	}
	if len(put) > 0 {
		// The position of a line that is there already stays: it keeps its place.
		err := w.Later().Clauses(clause.OnConflict{
			Columns:   []clause.Column{{Name: "customer_id"}, {Name: "sku"}},
			DoUpdates: clause.AssignmentColumns([]string{"quantity", "shown_amount", "shown_currency"}),
		}).CreateInBatches(put, batchRows).Error
		if err != nil {
			return fmt.Errorf("put lines into cart of %s: %w", after.CustomerID, err)
		}
	}
	if len(old) > 0 {
		gone := make([]string, 0, len(old))
		for sku := range old {
			gone = append(gone, sku)
		}
		slices.Sort(gone)
		if err := w.Later().Where("customer_id = ? AND sku IN ?", after.CustomerID, gone).Delete(&lineRow{}).Error; err != nil {
			return fmt.Errorf("remove lines from cart of %s: %w", after.CustomerID, err)
		}
	}
	var touched any
	if len(after.Lines) > 0 {
		touched = w.Now()
	}
	err := w.Expect(1, errs.New(errs.Conflict, "the cart was changed at the same time")).Model(&cartRow{}).
		Where("customer_id = ? AND version = ?", after.CustomerID, before.Version).
		Updates(map[string]any{"version": after.Version, "touched_at": touched}).Error
	if err != nil {
		return fmt.Errorf("change cart of %s: %w", after.CustomerID, err)
	}
	return nil
}

// forget removes a cart and every trace of it.
func forget(w *unit.Work, customerID string) error {
	// The cart's row first: whoever is changing lines holds it.
	if err := w.DB.Where("customer_id = ?", customerID).Delete(&cartRow{}).Error; err != nil {
		return fmt.Errorf("forget cart of %s: %w", customerID, err)
	}
	if err := w.DB.Where("customer_id = ?", customerID).Delete(&lineRow{}).Error; err != nil {
		return fmt.Errorf("forget cart of %s: %w", customerID, err)
	}
	return nil
}

// product reads a product of the copy; errs.NotFound if the copy lacks it.
func product(db *gorm.DB, sku string) (cart.Product, error) {
	var row productRow
	err := db.Where("sku = ? AND price_currency <> ''", sku).Take(&row).Error
	switch {
	case errors.Is(err, gorm.ErrRecordNotFound):
		return cart.Product{}, errs.New(errs.NotFound, "no such product")
	case err != nil:
		return cart.Product{}, fmt.Errorf("read product %s: %w", sku, err)
	}
	return cart.Product{SKU: row.SKU, Name: row.Name, Price: money.Of(row.PriceAmount, row.PriceCurrency), OnSale: row.OnSale}, nil
}

// learn keeps a product, unless something newer is known of it.
func learn(w *unit.Work, p catalogapi.Product) error {
	err := w.Later().Exec(`INSERT INTO products (sku, name, price_amount, price_currency, on_sale, version) VALUES (?, ?, ?, ?, ?, ?)
		ON CONFLICT (sku) DO UPDATE SET name = excluded.name, price_amount = excluded.price_amount, price_currency = excluded.price_currency,
			on_sale = excluded.on_sale, version = excluded.version
		WHERE products.version < excluded.version OR (products.version = excluded.version AND products.price_currency = '')`, p.SKU, p.Name, p.Price.Amount, p.Price.Currency, p.OnSale, p.Version).Error
	if err != nil {
		return fmt.Errorf("learn product %s: %w", p.SKU, err)
	}
	return nil
}

// amend changes part of a product, unless something newer is known of it. The whole of one that the copy lacks is asked for
// when a customer wants it. Until then its version is kept, without a currency: somebody may have asked already, and the answer
// may be older than this change.
func amend(w *unit.Work, sku string, version int64, set string, values ...any) error {
	args := append([]any{sku, false, version}, values...)
	err := w.Later().Exec(`INSERT INTO products (sku, name, price_amount, price_currency, on_sale, version) VALUES (?, '', 0, '', ?, ?)
		ON CONFLICT (sku) DO UPDATE SET `+set+`, version = excluded.version WHERE products.version < excluded.version`, args...).Error
	if err != nil {
		return fmt.Errorf("learn of product %s: %w", sku, err)
	}
	return nil
}
