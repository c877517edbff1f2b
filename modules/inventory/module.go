package inventory

import (
	"fmt"

	"github.com/banyan-go/banyan/internal/identity"
	"github.com/banyan-go/banyan/internal/module"
	"github.com/banyan-go/banyan/internal/rest"
	"github.com/banyan-go/banyan/internal/unit"
	"github.com/banyan-go/banyan/modules/inventory/inventoryapi"
)

// Config says how the inventory behaves.
type Config struct {
	LowMark int64 `mapstructure:"low_mark"` // a product with fewer units available than this is low
}

// DefaultConfig is what holds unless said otherwise.
func DefaultConfig() Config { return Config{LowMark: 5} }

// Validate names the wrong key and the way out.
func (c Config) Validate() error {
	if c.LowMark < 0 || c.LowMark > 1_000_000 {
		return fmt.Errorf("modules.inventory.low_mark: %d is not between 0 (never low) and 1000000", c.LowMark)
	}
	return nil
}

// Descriptor says what the inventory is.
func Descriptor() module.Descriptor {
	return module.Descriptor{
		Name:     "inventory",
		Summary:  "stock, reservations that expire, returns",
		Contract: inventoryapi.Contract(),
		Routes: []module.Route{
			{ID: "list-stock", Method: "GET", Path: "/api/inventory", Class: module.Read, Auth: identity.Staff, Summary: "List stock"},
			{ID: "get-stock", Method: "GET", Path: "/api/inventory/{sku}", Class: module.Read, Summary: "Say whether a product is in stock; staff see numbers"},
			{ID: "deliver-stock", Method: "POST", Path: "/api/inventory/deliveries", Class: module.Write, Auth: identity.Staff, Status: 201, Summary: "Take a delivery"},
			{ID: "adjust-stock", Method: "POST", Path: "/api/inventory/{sku}/adjustments", Class: module.Write, Auth: identity.Staff, Status: 201, Summary: "Correct what is on hand"},
			{ID: "list-movements", Method: "GET", Path: "/api/inventory/{sku}/movements", Class: module.Read, Auth: identity.Staff, Summary: "List what came and left, newest first"},
			{ID: "get-reservation", Method: "GET", Path: "/api/inventory/reservations/{order_id}", Class: module.Read, Auth: identity.Staff, Summary: "Show what an order holds"},
			{ID: "report-stock", Method: "GET", Path: "/api/inventory/reports/stock", Class: module.Read, Auth: identity.Staff, Summary: "Report all stock by SKU"},
			{ID: "report-inventory", Method: "GET", Path: "/api/inventory/reports/summary", Class: module.Read, Auth: identity.Staff, Summary: "Report totals"},
		},
		Subscriptions: []module.Subscription{
			{Handler: "products", Events: []string{"catalog.product_added.v1"}, Group: 50},
		},
		Timers: []string{timerExpire},
	}
}

// New wires the inventory.
func New(d module.Deps, cfg Config) *module.Module {
	s := &service{store: d.Store, cfg: cfg}
	m := module.New(Descriptor())
	rest.Handle(m, "list-stock", s.listStock)
	rest.Handle(m, "get-stock", s.getStock)
	rest.Handle(m, "deliver-stock", s.postDelivery)
	rest.Handle(m, "adjust-stock", s.postAdjustment)
	rest.Handle(m, "list-movements", s.listMovements)
	rest.Handle(m, "get-reservation", s.getReservation)
	rest.Handle(m, "report-stock", s.reportStock)
	rest.Handle(m, "report-inventory", s.reportSummary)
	module.OnCommand(m, s.reserve)
	module.OnCommand(m, s.commit)
	module.OnCommand(m, s.release)
	module.OnCommand(m, s.restock)
	module.OnEvent(m, "products", s.productAdded)
	module.OnTimer(m, timerExpire, s.expire)
	return m
}

type service struct {
	store *unit.Store
	cfg   Config
}
