package config

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/banyan-go/banyan/internal/admin"
	"github.com/banyan-go/banyan/internal/bus"
	"github.com/banyan-go/banyan/internal/database"
	"github.com/banyan-go/banyan/internal/ownership/guard"
	"github.com/banyan-go/banyan/internal/telemetry"
	"github.com/banyan-go/banyan/modules/carts"
	"github.com/banyan-go/banyan/modules/catalog"
	"github.com/banyan-go/banyan/modules/inventory"
	"github.com/banyan-go/banyan/modules/notifications"
	"github.com/banyan-go/banyan/modules/orders"
	"github.com/banyan-go/banyan/modules/payments"
	"github.com/banyan-go/banyan/modules/shipping"
	"github.com/banyan-go/banyan/modules/users"
	"github.com/banyan-go/banyan/proxy"
	"github.com/banyan-go/banyan/proxy/aggregate"
)

// Config is everything that can be configured. Each part lives beside the type that reads it.
type Config struct {
	Data            string              `mapstructure:"data"`
	Addr            string              `mapstructure:"addr"`
	Advertise       string              `mapstructure:"advertise"`
	AdminAddr       string              `mapstructure:"admin_addr"`
	AdminAnywhere   bool                `mapstructure:"admin_anywhere"`
	AdminHosts      []string            `mapstructure:"admin_hosts"`
	ShutdownTimeout time.Duration       `mapstructure:"shutdown_timeout"`
	Log             telemetry.LogConfig `mapstructure:"log"`
	Telemetry       telemetry.Config    `mapstructure:"telemetry"`
	Database        database.Config     `mapstructure:"database"`
	Bus             bus.Config          `mapstructure:"bus"`
	Ownership       Ownership           `mapstructure:"ownership"`
	Gateway         proxy.Config        `mapstructure:"gateway"`
	Modules         Modules             `mapstructure:"modules"`

	sources map[string]string // key -> where its value came from; absent for a default
	file    contents
}

// contents is what a configuration was read from its file.
type contents struct {
	digest [sha256.Size]byte
	keys   int // that it sets
}

// Ownership is about where modules are.
type Ownership struct {
	Gates guard.Config `mapstructure:"gates"` // what brings a module home after it was moved, beside the gateway's
}

// Modules holds a part per module.
type Modules struct {
	Users         Users         `mapstructure:"users"`
	Catalog       Catalog       `mapstructure:"catalog"`
	Carts         Carts         `mapstructure:"carts"`
	Orders        Orders        `mapstructure:"orders"`
	Payments      Payments      `mapstructure:"payments"`
	Inventory     Inventory     `mapstructure:"inventory"`
	Shipping      Shipping      `mapstructure:"shipping"`
	Notifications Notifications `mapstructure:"notifications"`
}

// Module is what every module has, whatever it does.
type Module struct {
	Placement string   `mapstructure:"placement"` // local, shadow, canary, remote or retired
	Endpoints []string `mapstructure:"endpoints"` // of its second process: addresses, or one URL of dns, srv or consul
	Canary    Canary   `mapstructure:"canary"`
	Hold      bool     `mapstructure:"hold"` // nothing moves it by itself
}

// Canary is the share of subjects that the second process answers, in basis points.
type Canary struct {
	Reads  int `mapstructure:"reads"`
	Writes int `mapstructure:"writes"`
}

// Each is what every module has, by module.
func (m Modules) Each() map[string]Module {
	return map[string]Module{
		"users": m.Users.Module, "catalog": m.Catalog.Module, "carts": m.Carts.Module, "orders": m.Orders.Module, "payments": m.Payments.Module,
		"inventory": m.Inventory.Module, "shipping": m.Shipping.Module, "notifications": m.Notifications.Module,
	}
}

// The parts of the modules: what every module has, and what is its own.
type (
	Users struct {
		Module       `mapstructure:",squash"`
		users.Config `mapstructure:",squash"`
	}
	Catalog struct {
		Module         `mapstructure:",squash"`
		catalog.Config `mapstructure:",squash"`
	}
	Carts struct {
		Module       `mapstructure:",squash"`
		carts.Config `mapstructure:",squash"`
	}
	Orders struct {
		Module        `mapstructure:",squash"`
		orders.Config `mapstructure:",squash"`
	}
	Payments struct {
		Module          `mapstructure:",squash"`
		payments.Config `mapstructure:",squash"`
	}
	Inventory struct {
		Module           `mapstructure:",squash"`
		inventory.Config `mapstructure:",squash"`
	}
	Shipping struct {
		Module          `mapstructure:",squash"`
		shipping.Config `mapstructure:",squash"`
	}
	Notifications struct {
		Module               `mapstructure:",squash"`
		notifications.Config `mapstructure:",squash"`
	}
)

const local = "local"

// Default is what holds unless said otherwise: the same as default.yaml.
func Default() Config {
	here := Module{Placement: local, Endpoints: []string{}}
	gateway := proxy.DefaultConfig()
	gateway.Aggregate = aggregate.DefaultConfig()
	return Config{
		Data: "./data", Addr: ":8080", AdminAddr: "127.0.0.1:9090", AdminHosts: []string{}, ShutdownTimeout: 20 * time.Second,
		Log: telemetry.DefaultLogConfig(), Telemetry: telemetry.DefaultConfig(), Database: database.DefaultConfig(), Bus: bus.DefaultConfig(),
		Ownership: Ownership{Gates: guard.DefaultConfig()},
		Gateway:   gateway,
		Modules: Modules{
			Users:         Users{here, users.DefaultConfig()},
			Catalog:       Catalog{here, catalog.DefaultConfig()},
			Carts:         Carts{here, carts.DefaultConfig()},
			Orders:        Orders{here, orders.DefaultConfig()},
			Payments:      Payments{here, payments.DefaultConfig()},
			Inventory:     Inventory{here, inventory.DefaultConfig()},
			Shipping:      Shipping{here, shipping.DefaultConfig()},
			Notifications: Notifications{here, notifications.DefaultConfig()},
		},
	}
}

// Validate names each wrong key and the way out.
func (c Config) Validate() error {
	var wrong []error
	note := func(err error) {
		if err != nil {
			wrong = append(wrong, err)
		}
	}
	if c.Data == "" {
		note(errors.New("data: is empty; name a folder, as in ./data"))
	}
	note(checkAddr("addr", c.Addr))
	if err := checkAddr("admin_addr", c.AdminAddr); err != nil {
		note(err)
	} else {
		note(admin.CheckAddr(c.AdminAddr, c.AdminAnywhere))
	}
	if c.Addr == c.AdminAddr && !strings.HasSuffix(c.Addr, ":0") {
		note(fmt.Errorf("admin_addr: %q is the public addr too; give another port", c.AdminAddr))
	}
	if c.Advertise != "" {
		note(checkAddr("advertise", c.Advertise))
	}
	if c.ShutdownTimeout < time.Second || c.ShutdownTimeout > time.Hour {
		note(fmt.Errorf("shutdown_timeout: %s is not between 1s and 1h", c.ShutdownTimeout))
	}
	for _, part := range []interface{ Validate() error }{c.Log, c.Telemetry, c.Database, c.Bus, c.Gateway} {
		note(part.Validate())
	}
	note(c.Ownership.Gates.Validate("ownership.gates"))
	m := c.Modules
	for name, own := range m.Each() {
		note(own.check("modules."+name, c.Database.Driver))
	}
	for name, own := range map[string]interface{ Validate() error }{
		"users": m.Users.Config, "catalog": m.Catalog.Config, "carts": m.Carts.Config, "orders": m.Orders.Config, "payments": m.Payments.Config,
		"inventory": m.Inventory.Config, "shipping": m.Shipping.Config, "notifications": m.Notifications.Config,
	} {
		prefix := "modules." + name + "."
		if err := own.Validate(); err != nil {
			// A module need not know where its part is.
			if !strings.HasPrefix(err.Error(), prefix) {
				err = fmt.Errorf("%s%w", prefix, err)
			}
			note(err)
		}
	}
	slices.SortFunc(wrong, func(a, b error) int { return strings.Compare(a.Error(), b.Error()) })
	return errors.Join(wrong...)
}

func (m Module) check(prefix, driver string) error {
	switch {
	case !slices.Contains(proxy.States, proxy.State(m.Placement)):
		return fmt.Errorf("%s.placement: %q is not local, shadow, canary, remote or retired", prefix, m.Placement)
	case m.Placement == string(proxy.Canary) && m.Canary.Writes > 0 && driver == string(database.SQLite):
		return fmt.Errorf("%s.canary.writes: is %d, but a SQLite file has one writing process; set it to 0, go to remote in one step, or set database.driver to postgres", prefix, m.Canary.Writes)
	case m.Canary.Reads < 0 || m.Canary.Reads > 10_000:
		return fmt.Errorf("%s.canary.reads: %d is not between 0 and 10000 basis points", prefix, m.Canary.Reads)
	case m.Canary.Writes < 0 || m.Canary.Writes > m.Canary.Reads:
		return fmt.Errorf("%s.canary.writes: %d is not between 0 and %s.canary.reads; who writes at one side must read there", prefix, m.Canary.Writes, prefix)
	}
	return nil
}

// Advertised is the address at which others reach what listens at one: the configured one, or that itself.
func (c Config) Advertised(listens net.Addr) (string, error) {
	if c.Advertise != "" {
		return c.Advertise, nil
	}
	host, _, err := net.SplitHostPort(listens.String())
	if ip := net.ParseIP(host); err != nil || ip == nil || ip.IsUnspecified() {
		return "", fmt.Errorf("advertise: is empty, and %s is no address that others can reach; give host:port by which the gateway finds this process", listens)
	}
	return listens.String(), nil
}

func checkAddr(key, addr string) error {
	_, port, err := net.SplitHostPort(addr)
	if err == nil {
		_, err = strconv.ParseUint(port, 10, 16)
	}
	if err != nil {
		return fmt.Errorf("%s: %q is not host:port, as in 127.0.0.1:8080, or :8080 for all addresses", key, addr)
	}
	return nil
}
