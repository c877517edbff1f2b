package carts

import (
	"fmt"
	"time"

	"github.com/banyan-go/banyan/internal/identity"
	"github.com/banyan-go/banyan/internal/module"
	"github.com/banyan-go/banyan/internal/rest"
	"github.com/banyan-go/banyan/internal/unit"
	"github.com/banyan-go/banyan/modules/carts/cartsapi"
	"github.com/banyan-go/banyan/modules/catalog/catalogapi"
	"github.com/banyan-go/banyan/modules/orders/ordersapi"
	"github.com/banyan-go/banyan/modules/users/usersapi"
)

// Config holds the knobs of the carts.
type Config struct {
	// ExpireAfter is how long a cart is kept that nobody touches.
	ExpireAfter time.Duration `mapstructure:"expire_after"`
}

// DefaultConfig keeps carts for 90 days.
func DefaultConfig() Config { return Config{ExpireAfter: 90 * 24 * time.Hour} }

// Validate says what is wrong with the configuration.
func (c Config) Validate() error {
	if c.ExpireAfter < time.Hour {
		return fmt.Errorf("expire_after: %s is less than an hour (1h)", c.ExpireAfter)
	}
	return nil
}

// Handlers and schedules; rows wait under these names.
const (
	onCatalog = "catalog"
	onOrders  = "orders"
	onUsers   = "users"
	expiry    = "expire-carts"
)

// Descriptor says what carts is.
func Descriptor() module.Descriptor {
	return module.Descriptor{
		Name:     "carts",
		Summary:  "cart per customer, prices checked against its own copy of the catalog",
		Contract: cartsapi.Contract(),
		Routes: []module.Route{
			{ID: "get-my-cart", Method: "GET", Path: "/api/carts/mine", Class: module.Read, Auth: identity.Customer, Summary: "Read your cart"},
			{ID: "get-cart", Method: "GET", Path: "/api/carts/{customer_id}", Class: module.Read, Auth: identity.Staff, Summary: "Read a customer's cart"},
			{ID: "add-cart-line", Method: "POST", Path: "/api/carts/mine/lines", Class: module.Write, Auth: identity.Customer, Summary: "Put more of a product into your cart"},
			{ID: "set-cart-line", Method: "PUT", Path: "/api/carts/mine/lines/{sku}", Class: module.Write, Auth: identity.Customer, Summary: "Set how much of a product is in your cart"},
			{ID: "remove-cart-line", Method: "DELETE", Path: "/api/carts/mine/lines/{sku}", Class: module.Write, Auth: identity.Customer, Summary: "Take a product out of your cart"},
			{ID: "empty-cart", Method: "DELETE", Path: "/api/carts/mine", Class: module.Write, Auth: identity.Customer, Summary: "Empty your cart"},
			{ID: "accept-cart-prices", Method: "POST", Path: "/api/carts/mine/accept-prices", Class: module.Write, Auth: identity.Customer, Summary: "Agree to prices that have changed"},
		},
		Subscriptions: []module.Subscription{
			{Handler: onCatalog, Events: []string{catalogapi.ProductAdded{}.MessageName(), catalogapi.ProductChanged{}.MessageName(), catalogapi.PriceChanged{}.MessageName(), catalogapi.ProductRetired{}.MessageName()}, Group: 50},
			{Handler: onOrders, Events: []string{ordersapi.OrderPlaced{}.MessageName()}},
			{Handler: onUsers, Events: []string{usersapi.UserErased{}.MessageName()}},
		},
		Schedules: []module.Schedule{{Name: expiry, Every: time.Hour}},
		Asks:      []string{catalogapi.GetProducts{}.MessageName()},
	}
}

// carts is the running module.
type carts struct {
	store       *unit.Store
	catalog     catalogapi.Facade
	expireAfter time.Duration
}

// New wires the carts.
func New(d module.Deps, cfg Config) *module.Module {
	m := module.New(Descriptor())
	c := &carts{store: d.Store, catalog: catalogapi.NewClient(d.Caller), expireAfter: cfg.ExpireAfter}
	rest.Handle(m, "get-my-cart", c.getMine)
	rest.Handle(m, "get-cart", c.get)
	rest.Handle(m, "add-cart-line", c.add)
	rest.Handle(m, "set-cart-line", c.set)
	rest.Handle(m, "remove-cart-line", c.remove)
	rest.Handle(m, "empty-cart", c.empty)
	rest.Handle(m, "accept-cart-prices", c.acceptPrices)
	module.OnQuery(m, c.answer)
	module.OnEvent(m, onCatalog, c.productAdded)
	module.OnEvent(m, onCatalog, c.productChanged)
	module.OnEvent(m, onCatalog, c.priceChanged)
	module.OnEvent(m, onCatalog, c.productRetired)
	module.OnEvent(m, onOrders, c.orderPlaced)
	module.OnEvent(m, onUsers, c.userErased)
	module.OnSchedule(m, expiry, c.expire)
	return m
}
