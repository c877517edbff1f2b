// Package modules is the list of the shop's bounded contexts. A team that replaces the shop changes this file.
package modules

import (
	"context"

	"github.com/banyan-go/banyan/internal/module"
	"github.com/banyan-go/banyan/modules/carts"
	"github.com/banyan-go/banyan/modules/catalog"
	"github.com/banyan-go/banyan/modules/inventory"
	"github.com/banyan-go/banyan/modules/notifications"
	"github.com/banyan-go/banyan/modules/orders"
	"github.com/banyan-go/banyan/modules/payments"
	"github.com/banyan-go/banyan/modules/shipping"
	"github.com/banyan-go/banyan/modules/users"
)

// All are the descriptors of all modules. Reading them opens nothing.
func All() []module.Descriptor {
	return []module.Descriptor{
		users.Descriptor(), catalog.Descriptor(), carts.Descriptor(), orders.Descriptor(),
		payments.Descriptor(), inventory.Descriptor(), shipping.Descriptor(), notifications.Descriptor(),
	}
}

// Names are the names of all modules.
func Names() []string {
	var names []string
	for _, d := range All() {
		names = append(names, d.Name)
	}
	return names
}

// Config is the configuration of each module.
type Config struct {
	Users         users.Config
	Catalog       catalog.Config
	Carts         carts.Config
	Orders        orders.Config
	Payments      payments.Config
	Inventory     inventory.Config
	Shipping      shipping.Config
	Notifications notifications.Config
}

// Rebuild rebuilds a module's read models and says how far it is.
type Rebuild = func(ctx context.Context, progress func(done, total int)) error

// Set is the opened modules, and what the platform needs of some of them.
type Set struct {
	Modules     []*module.Module
	Sessions    *users.Sessions // which logins are revoked
	Projections map[string]Rebuild
}

// Open makes the modules; deps gives each of them what it works with. Nothing runs yet.
func Open(cfg Config, keys users.Issuer, deps func(name string) module.Deps) Set {
	accounts, sessions := users.New(deps("users"), cfg.Users, keys)
	orders, projections := orders.New(deps("orders"), cfg.Orders)
	return Set{
		Modules: []*module.Module{
			accounts,
			catalog.New(deps("catalog"), cfg.Catalog),
			carts.New(deps("carts"), cfg.Carts),
			orders,
			payments.New(deps("payments"), cfg.Payments),
			inventory.New(deps("inventory"), cfg.Inventory),
			shipping.New(deps("shipping"), cfg.Shipping),
			notifications.New(deps("notifications"), cfg.Notifications),
		},
		Sessions:    sessions,
		Projections: map[string]Rebuild{"orders": projections.Rebuild},
	}
}
