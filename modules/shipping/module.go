package shipping

import (
	"fmt"
	"time"

	"github.com/banyan-go/banyan/internal/identity"
	"github.com/banyan-go/banyan/internal/module"
	"github.com/banyan-go/banyan/internal/rest"
	"github.com/banyan-go/banyan/internal/unit"
	"github.com/banyan-go/banyan/modules/shipping/shippingapi"
)

// Config says how shipping behaves.
type Config struct {
	AutoDispatch time.Duration `mapstructure:"auto_dispatch"` // after the order was confirmed; 0: staff dispatch
	Carrier      string        `mapstructure:"carrier"`       // of what is dispatched automatically
}

// DefaultConfig is what holds unless said otherwise.
func DefaultConfig() Config { return Config{Carrier: "Banyan Post"} }

// Validate names the wrong key and the way out.
func (c Config) Validate() error {
	if c.AutoDispatch < 0 || c.AutoDispatch > 365*24*time.Hour {
		return fmt.Errorf("modules.shipping.auto_dispatch: %s is not between 0 (off) and a year (8760h)", c.AutoDispatch)
	}
	if n := len(c.Carrier); n < 1 || n > maxCarrier {
		return fmt.Errorf("modules.shipping.carrier: %d characters are not between 1 and %d", n, maxCarrier)
	}
	return nil
}

// Descriptor says what shipping is.
func Descriptor() module.Descriptor {
	return module.Descriptor{
		Name:     "shipping",
		Summary:  "choreographed from events: shipment, tracking, delivered; stops what has not left",
		Contract: shippingapi.Contract(),
		Routes: []module.Route{
			{ID: "list-shipments", Method: "GET", Path: "/api/shipments", Class: module.Read, Auth: identity.Customer, Summary: "List own shipments, newest first; staff see all"},
			{ID: "get-shipment", Method: "GET", Path: "/api/shipments/{id}", Class: module.Read, Auth: identity.Customer, Summary: "Show a shipment"},
			{ID: "track-shipment", Method: "GET", Path: "/api/shipments/{id}/tracking", Class: module.Read, Auth: identity.Customer, Summary: "Show what has happened to a shipment"},
			{ID: "dispatch-shipment", Method: "POST", Path: "/api/shipments/{id}/dispatch", Class: module.Write, Auth: identity.Staff, Summary: "Hand the goods to a carrier"},
			{ID: "deliver-shipment", Method: "POST", Path: "/api/shipments/{id}/deliver", Class: module.Write, Auth: identity.Staff, Summary: "Note that the customer has the goods"},
		},
		Subscriptions: []module.Subscription{
			{Handler: "orders", Events: []string{"orders.order_confirmed.v1", "orders.order_cancelled.v1", "orders.order_returned.v1"}, Group: 50},
			{Handler: "customers", Events: []string{"users.user_erased.v1"}},
		},
		Timers: []string{timerDispatch, timerErase},
	}
}

// New wires shipping.
func New(d module.Deps, cfg Config) *module.Module {
	s := &service{store: d.Store, cfg: cfg}
	m := module.New(Descriptor())
	rest.Handle(m, "list-shipments", s.list)
	rest.Handle(m, "get-shipment", s.get)
	rest.Handle(m, "track-shipment", s.track)
	rest.Handle(m, "dispatch-shipment", s.postDispatch)
	rest.Handle(m, "deliver-shipment", s.postDeliver)
	module.OnCommand(m, s.cancel)
	module.OnEvent(m, "orders", s.orderConfirmed)
	module.OnEvent(m, "orders", s.orderCancelled)
	module.OnEvent(m, "orders", s.orderReturned)
	module.OnEvent(m, "customers", s.customerErased)
	module.OnTimer(m, timerDispatch, s.autoDispatch)
	module.OnTimer(m, timerErase, s.eraseAgain)
	return m
}

type service struct {
	store *unit.Store
	cfg   Config
}
