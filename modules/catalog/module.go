package catalog

import (
	"fmt"

	"github.com/banyan-go/banyan/internal/identity"
	"github.com/banyan-go/banyan/internal/module"
	"github.com/banyan-go/banyan/internal/rest"
	"github.com/banyan-go/banyan/internal/unit"
	"github.com/banyan-go/banyan/modules/catalog/catalogapi"
	"github.com/banyan-go/banyan/modules/catalog/internal/product"
)

// Config holds the knobs of the catalog.
type Config struct {
	// Currency is the shop's currency (ISO 4217): a price without one is in it, another one is refused.
	Currency string `mapstructure:"currency"`
}

// DefaultConfig is a shop that sells in pounds.
func DefaultConfig() Config { return Config{Currency: "GBP"} }

// Validate says what is wrong with the configuration.
func (c Config) Validate() error {
	if _, err := product.ParseCurrency(c.Currency); err != nil {
		return fmt.Errorf("currency: %q is not three capital letters (ISO 4217), as in GBP", c.Currency)
	}
	return nil
}

// Descriptor says what the catalog is.
func Descriptor() module.Descriptor {
	return module.Descriptor{
		Name:     "catalog",
		Summary:  "products, categories, prices, search; announces price changes",
		Contract: catalogapi.Contract(),
		Routes: []module.Route{
			{ID: "list-products", Method: "GET", Path: "/api/products", Class: module.Read, Summary: "Search products"},
			{ID: "report-products", Method: "GET", Path: "/api/products/report", Class: module.Read, Auth: identity.Staff, Summary: "Count products"},
			{ID: "get-product", Method: "GET", Path: "/api/products/{sku}", Class: module.Read, Summary: "Read a product"},
			{ID: "list-prices", Method: "GET", Path: "/api/products/{sku}/prices", Class: module.Read, Auth: identity.Staff, Summary: "Read the history of a product's price"},
			{ID: "add-product", Method: "POST", Path: "/api/products", Class: module.Write, Auth: identity.Staff, Status: 201, Summary: "Put a product on sale"},
			{ID: "add-products", Method: "POST", Path: "/api/products/batch", Class: module.Write, Auth: identity.Staff, MaxBody: 4 << 20, Summary: "Put many products on sale, all or none"},
			{ID: "change-product", Method: "PATCH", Path: "/api/products/{sku}", Class: module.Write, Auth: identity.Staff, Summary: "Change name, description or categories"},
			{ID: "reprice-product", Method: "POST", Path: "/api/products/{sku}/price", Class: module.Write, Auth: identity.Staff, Summary: "Change the price"},
			{ID: "retire-product", Method: "DELETE", Path: "/api/products/{sku}", Class: module.Write, Auth: identity.Staff, Summary: "Take a product off sale"},
			{ID: "list-categories", Method: "GET", Path: "/api/categories", Class: module.Read, Summary: "List categories"},
			{ID: "add-category", Method: "POST", Path: "/api/categories", Class: module.Write, Auth: identity.Staff, Status: 201, Summary: "Add a category"},
		},
	}
}

// catalog is the running module.
type catalog struct {
	store    *unit.Store
	currency string
}

// New wires the catalog.
func New(d module.Deps, cfg Config) *module.Module {
	m := module.New(Descriptor())
	c := &catalog{store: d.Store, currency: cfg.Currency}
	rest.Handle(m, "list-products", c.list)
	rest.Handle(m, "report-products", c.report)
	rest.Handle(m, "get-product", c.get)
	rest.Handle(m, "list-prices", c.prices)
	rest.Handle(m, "add-product", c.add)
	rest.Handle(m, "add-products", c.addBatch)
	rest.Handle(m, "change-product", c.change)
	rest.Handle(m, "reprice-product", c.reprice)
	rest.Handle(m, "retire-product", c.retire)
	rest.Handle(m, "list-categories", c.listCategories)
	rest.Handle(m, "add-category", c.addCategory)
	module.OnQuery(m, c.products)
	return m
}
