package catalog

import (
	"encoding/base64"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"gorm.io/gorm"
	"gorm.io/gorm/clause"

	"github.com/banyan-go/banyan/internal/errs"
	"github.com/banyan-go/banyan/internal/money"
	"github.com/banyan-go/banyan/internal/rest"
	"github.com/banyan-go/banyan/internal/unit"
	"github.com/banyan-go/banyan/modules/catalog/internal/product"
)

// batchRows is how many rows go into one INSERT.
const batchRows = 100

type productRow struct {
	SKU           string    `gorm:"column:sku;primaryKey"`
	Name          string    `gorm:"column:name"`
	Description   string    `gorm:"column:description"`
	Search        string    `gorm:"column:search"`
	SortName      string    `gorm:"column:sort_name"`
	PriceAmount   int64     `gorm:"column:price_amount"`
	PriceCurrency string    `gorm:"column:price_currency"`
	State         string    `gorm:"column:state"`
	Version       int64     `gorm:"column:version"`
	AddedAt       time.Time `gorm:"column:added_at"`
	ChangedAt     time.Time `gorm:"column:changed_at"`
}

func (productRow) TableName() string { return "products" }

func (r productRow) product(categories []string) product.Product {
	return product.Product{
		SKU: r.SKU, Name: r.Name, Description: r.Description, Categories: categories, Price: money.Of(r.PriceAmount, r.PriceCurrency),
		State: product.State(r.State), Version: r.Version,
	}
}

type priceRow struct {
	SKU       string    `gorm:"column:sku;primaryKey"`
	Version   int64     `gorm:"column:version;primaryKey;autoIncrement:false"`
	Amount    int64     `gorm:"column:amount"`
	Currency  string    `gorm:"column:currency"`
	ValidFrom time.Time `gorm:"column:valid_from"`
}

func (priceRow) TableName() string { return "prices" }

type categoryRow struct {
	Slug    string    `gorm:"column:slug;primaryKey"`
	Name    string    `gorm:"column:name"`
	AddedAt time.Time `gorm:"column:added_at"`
}

func (categoryRow) TableName() string { return "categories" }

type productCategoryRow struct {
	Category string `gorm:"column:category;primaryKey"`
	SKU      string `gorm:"column:sku;primaryKey"`
}

func (productCategoryRow) TableName() string { return "product_categories" }

// find reads a product.
func find(db *gorm.DB, sku string) (product.Product, error) {
	var row productRow
	if err := db.Where("sku = ?", sku).Take(&row).Error; err != nil {
		if errors.Is(err, gorm.ErrRecordNotFound) {
			return product.Product{}, noSuch()
		}
		return product.Product{}, fmt.Errorf("read product %s: %w", sku, err)
	}
	categories, err := categoriesOf(db, []string{sku})
	if err != nil {
		return product.Product{}, err
	}
	return row.product(categories[sku]), nil
}

// lock reads a product that is about to change and holds it until the commit.
func lock(db *gorm.DB, sku string) (product.Product, error) {
	var row productRow
	if err := db.Clauses(clause.Locking{Strength: "UPDATE"}).Where("sku = ?", sku).Take(&row).Error; err != nil {
		if errors.Is(err, gorm.ErrRecordNotFound) {
			return product.Product{}, noSuch()
		}
		return product.Product{}, fmt.Errorf("lock product %s: %w", sku, err)
	}
	categories, err := categoriesOf(db, []string{sku})
	if err != nil {
		return product.Product{}, err
	}
	return row.product(categories[sku]), nil
}

// findAll reads products; unknown ones are left out.
func findAll(db *gorm.DB, skus []string) (map[string]product.Product, error) {
	found := make(map[string]product.Product, len(skus))
	if len(skus) == 0 {
		return found, nil
	}
	var rows []productRow
	if err := db.Where("sku IN ?", skus).Find(&rows).Error; err != nil {
		return nil, fmt.Errorf("read products: %w", err)
	}
	categories, err := categoriesOf(db, skus)
	if err != nil {
		return nil, err
	}
	for _, r := range rows {
		found[r.SKU] = r.product(categories[r.SKU])
	}
	return found, nil
}

func categoriesOf(db *gorm.DB, skus []string) (map[string][]string, error) {
	if len(skus) == 0 {
		return nil, nil
	}
	var rows []productCategoryRow
	if err := db.Where("sku IN ?", skus).Order("category").Find(&rows).Error; err != nil {
		return nil, fmt.Errorf("read categories of products: %w", err)
	}
	found := map[string][]string{}
	for _, r := range rows {
		found[r.SKU] = append(found[r.SKU], r.Category)
	}
	return found, nil
}

// insertProducts stores new products with their first prices.
func insertProducts(w *unit.Work, products []product.Product) error {
	if len(products) == 0 {
		return nil
	}
	rows := make([]productRow, len(products))
	var links []productCategoryRow
	for i, p := range products {
		rows[i] = productRow{
			SKU: p.SKU, Name: p.Name, Description: p.Description, Search: p.SearchText(), SortName: p.SortName(),
			PriceAmount: p.Price.Amount, PriceCurrency: p.Price.Currency, State: string(p.State), Version: p.Version,
			AddedAt: w.Now(), ChangedAt: w.Now(),
		}
		for _, c := range p.Categories {
			links = append(links, productCategoryRow{Category: c, SKU: p.SKU})
		}
	}
	if err := w.DB.CreateInBatches(rows, batchRows).Error; err != nil {
		switch {
		case !errors.Is(err, gorm.ErrDuplicatedKey):
			return fmt.Errorf("add products: %w", err)
		case len(products) == 1:
			return errs.New(errs.Conflict, "product %s exists already", products[0].SKU)
		default:
			return errs.New(errs.Conflict, "somebody else is adding the same products")
		}
	}
	if err := insertPrices(w, products); err != nil {
		return err
	}
	return insertLinks(w.Later(), links)
}

func insertLinks(db *gorm.DB, links []productCategoryRow) error {
	if len(links) == 0 {
		return nil
	}
	if err := db.CreateInBatches(links, batchRows).Error; err != nil {
		return fmt.Errorf("put products into categories: %w", err)
	}
	return nil
}

// insertPrices keeps what products cost from their version on.
func insertPrices(w *unit.Work, products []product.Product) error {
	rows := make([]priceRow, len(products))
	for i, p := range products {
		rows[i] = priceRow{SKU: p.SKU, Version: p.Version, Amount: p.Price.Amount, Currency: p.Price.Currency, ValidFrom: w.Now()}
	}
	if err := w.Later().CreateInBatches(rows, batchRows).Error; err != nil {
		return fmt.Errorf("keep prices: %w", err)
	}
	return nil
}

// updateProduct stores the new version of a locked product, without its categories.
func updateProduct(w *unit.Work, before, after product.Product) error {
	err := w.Expect(1, errs.New(errs.Conflict, "product %s was changed at the same time", before.SKU)).Model(&productRow{}).Where("sku = ? AND version = ?", before.SKU, before.Version).Updates(map[string]any{
		"name": after.Name, "description": after.Description, "search": after.SearchText(), "sort_name": after.SortName(),
		"price_amount": after.Price.Amount, "price_currency": after.Price.Currency, "state": string(after.State),
		"version": after.Version, "changed_at": w.Now(),
	}).Error
	if err != nil {
		return fmt.Errorf("change product %s: %w", before.SKU, err)
	}
	return nil
}

// replaceCategories puts a product into its categories and no others.
func replaceCategories(db *gorm.DB, p product.Product) error {
	if err := db.Where("sku = ?", p.SKU).Delete(&productCategoryRow{}).Error; err != nil {
		return fmt.Errorf("take product %s out of its categories: %w", p.SKU, err)
	}
	links := make([]productCategoryRow, len(p.Categories))
	for i, c := range p.Categories {
		links[i] = productCategoryRow{Category: c, SKU: p.SKU}
	}
	return insertLinks(db, links)
}

// checkCategories refuses categories that do not exist. They are never removed, so no lock is needed.
func checkCategories(db *gorm.DB, slugs []string) error {
	if len(slugs) == 0 {
		return nil
	}
	var known []string
	// A batch may name more categories than one statement takes.
	for part := range slices.Chunk(slugs, 500) {
		var found []string
		if err := db.Model(&categoryRow{}).Where("slug IN ?", part).Pluck("slug", &found).Error; err != nil {
			return fmt.Errorf("read categories: %w", err)
		}
		known = append(known, found...)
	}
	for _, s := range slugs {
		if !slices.Contains(known, s) {
			return errs.New(errs.Invalid, "no such category: %s", s)
		}
	}
	return nil
}

func insertCategory(w *unit.Work, slug, name string) error {
	err := w.DB.Create(&categoryRow{Slug: slug, Name: name, AddedAt: w.Now()}).Error
	switch {
	case errors.Is(err, gorm.ErrDuplicatedKey):
		return errs.New(errs.Conflict, "category %s exists already", slug)
	case err != nil:
		return fmt.Errorf("add category %s: %w", slug, err)
	}
	return nil
}

func categories(db *gorm.DB, after string, limit int) (rest.List[categoryBody], error) {
	var rows []categoryRow
	if err := db.Where("slug > ?", after).Order("slug").Limit(limit + 1).Find(&rows).Error; err != nil {
		return rest.List[categoryBody]{}, fmt.Errorf("list categories: %w", err)
	}
	return rest.Cut(rows, limit, func(r categoryRow) categoryBody { return categoryBody{Slug: r.Slug, Name: r.Name} },
		func(r categoryRow) string { return r.Slug }), nil
}

// pastPrices are the prices of a product, newest first, those below a version of the product (0: all).
func pastPrices(db *gorm.DB, sku string, below int64, limit int) (rest.List[pastProductPriceBody], error) {
	var rows []priceRow
	q := db.Where("sku = ?", sku)
	if below > 0 {
		q = q.Where("version < ?", below)
	}
	if err := q.Order("version DESC").Limit(limit + 1).Find(&rows).Error; err != nil {
		return rest.List[pastProductPriceBody]{}, fmt.Errorf("read prices of %s: %w", sku, err)
	}
	if len(rows) == 0 && below == 0 {
		return rest.List[pastProductPriceBody]{}, noSuch() // every product has a first price
	}
	return rest.Cut(rows, limit, func(r priceRow) pastProductPriceBody {
		return pastProductPriceBody{Price: money.Of(r.Amount, r.Currency), Version: r.Version, From: r.ValidFrom}
	}, func(r priceRow) string { return strconv.FormatInt(r.Version, 10) }), nil
}

func count(db *gorm.DB) (productReportBody, error) {
	var body productReportBody
	err := db.Model(&productRow{}).Select(`COUNT(*) AS products, COALESCE(SUM(CASE WHEN state = ? THEN 1 ELSE 0 END), 0) AS on_sale,
		COALESCE(SUM(CASE WHEN state = ? THEN 1 ELSE 0 END), 0) AS retired`, product.OnSale, product.Retired).Scan(&body).Error
	if err != nil {
		return productReportBody{}, fmt.Errorf("count products: %w", err)
	}
	return body, nil
}

// query says which products a list holds.
type query struct {
	patterns           []string // see product.Patterns
	category           string
	minPrice, maxPrice int64
	state              string // or "all"
	sort               string
	after              *position // nil for the first page
	limit              int
}

// position is a place in a list: the value that it is sorted by, and the SKU for equal ones.
type position struct {
	name  string
	price int64
	sku   string
}

// search reads one page of a list.
func search(db *gorm.DB, q query) (rest.List[productBody], error) {
	none := rest.List[productBody]{}
	tx := db.Limit(q.limit + 1)
	for _, p := range q.patterns {
		tx = tx.Where("search LIKE ? ESCAPE '!'", p)
	}
	if q.category != "" {
		tx = tx.Where("sku IN (SELECT sku FROM product_categories WHERE category = ?)", q.category)
	}
	if q.minPrice > 0 {
		tx = tx.Where("price_amount >= ?", q.minPrice)
	}
	if q.maxPrice > 0 {
		tx = tx.Where("price_amount <= ?", q.maxPrice)
	}
	if q.state != "all" {
		tx = tx.Where("state = ?", q.state)
	}
	switch q.sort {
	case "name":
		tx = tx.Order("sort_name, sku")
		if q.after != nil {
			tx = tx.Where("(sort_name, sku) > (?, ?)", q.after.name, q.after.sku)
		}
	case "price":
		tx = tx.Order("price_amount, sku")
		if q.after != nil {
			tx = tx.Where("(price_amount, sku) > (?, ?)", q.after.price, q.after.sku)
		}
	default:
		tx = tx.Order("sku")
		if q.after != nil {
			tx = tx.Where("sku > ?", q.after.sku)
		}
	}
	var rows []productRow
	if err := tx.Find(&rows).Error; err != nil {
		return none, fmt.Errorf("search products: %w", err)
	}
	skus := make([]string, len(rows))
	for i, r := range rows {
		skus[i] = r.SKU
	}
	categories, err := categoriesOf(db, skus)
	if err != nil {
		return none, err
	}
	return rest.Cut(rows, q.limit, func(r productRow) productBody { return encode(r.product(categories[r.SKU])) },
		func(r productRow) string { return encodeCursor(q.sort, r) }), nil
}

// encodeCursor names a row in a list. It carries the value that the list is sorted by: a product that is renamed
// between two pages must not move the place where the list goes on.
func encodeCursor(sort string, r productRow) string {
	value := ""
	switch sort {
	case "name":
		value = r.SortName
	case "price":
		value = strconv.FormatInt(r.PriceAmount, 10)
	}
	return base64.RawURLEncoding.EncodeToString([]byte(sort + "\n" + value + "\n" + r.SKU))
}

// listed is what a SKU in the list looks like, also one from before SKUs could not end with a blank or a dot.
var listed = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9 ._-]{0,63}$`)

// decodeCursor reads what encodeCursor wrote, or nothing good: anybody can make a cursor.
func decodeCursor(sort, cursor string) (*position, error) {
	if cursor == "" {
		return nil, nil
	}
	raw, err := base64.RawURLEncoding.DecodeString(cursor)
	parts := strings.Split(string(raw), "\n")
	if err != nil || len(parts) != 3 || parts[0] != sort || !utf8.Valid(raw) || strings.Contains(parts[1], "\x00") {
		return nil, rest.BadCursor()
	}
	at := &position{name: parts[1], sku: parts[2]}
	if !listed.MatchString(at.sku) {
		return nil, rest.BadCursor()
	}
	if sort == "price" {
		if at.price, err = strconv.ParseInt(parts[1], 10, 64); err != nil {
			return nil, rest.BadCursor()
		}
	}
	return at, nil
}
