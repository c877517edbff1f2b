package config

import (
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/banyan-go/banyan/internal/admin"
	"github.com/banyan-go/banyan/internal/bus"
	"github.com/banyan-go/banyan/internal/database"
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
)

// Config is everything that can be configured. Each part lives beside the type that reads it.
type Config struct {
	Data            string              `mapstructure:"data"`
	Addr            string              `mapstructure:"addr"`
	AdminAddr       string              `mapstructure:"admin_addr"`
	AdminAnywhere   bool                `mapstructure:"admin_anywhere"`
	AdminHosts      []string            `mapstructure:"admin_hosts"`
	ShutdownTimeout time.Duration       `mapstructure:"shutdown_timeout"`
	Log             telemetry.LogConfig `mapstructure:"log"`
	Telemetry       telemetry.Config    `mapstructure:"telemetry"`
	Database        database.Config     `mapstructure:"database"`
	Bus             bus.Config          `mapstructure:"bus"`
	Gateway         proxy.Config        `mapstructure:"gateway"`
	Modules         Modules             `mapstructure:"modules"`

	sources map[string]string // key -> where its value came from; absent for a default
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
	Placement string `mapstructure:"placement"`
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
	here := Module{Placement: local}
	return Config{
		Data: "./data", Addr: ":8080", AdminAddr: "127.0.0.1:9090", AdminHosts: []string{}, ShutdownTimeout: 20 * time.Second,
		Log: telemetry.DefaultLogConfig(), Telemetry: telemetry.DefaultConfig(), Database: database.DefaultConfig(), Bus: bus.DefaultConfig(),
		Gateway: proxy.DefaultConfig(),
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
	if c.ShutdownTimeout < time.Second || c.ShutdownTimeout > time.Hour {
		note(fmt.Errorf("shutdown_timeout: %s is not between 1s and 1h", c.ShutdownTimeout))
	}
	for _, part := range []interface{ Validate() error }{c.Log, c.Telemetry, c.Database, c.Bus, c.Gateway} {
		note(part.Validate())
	}
	m := c.Modules
	for _, part := range []struct {
		name      string
		placement string
		own       interface{ Validate() error }
	}{
		{"users", m.Users.Placement, m.Users.Config},
		{"catalog", m.Catalog.Placement, m.Catalog.Config},
		{"carts", m.Carts.Placement, m.Carts.Config},
		{"orders", m.Orders.Placement, m.Orders.Config},
		{"payments", m.Payments.Placement, m.Payments.Config},
		{"inventory", m.Inventory.Placement, m.Inventory.Config},
		{"shipping", m.Shipping.Placement, m.Shipping.Config},
		{"notifications", m.Notifications.Placement, m.Notifications.Config},
	} {
		prefix := "modules." + part.name + "."
		note(checkPlacement(prefix+"placement", part.placement))
		if err := part.own.Validate(); err != nil {
			// A module need not know where its part is.
			if !strings.HasPrefix(err.Error(), prefix) {
				err = fmt.Errorf("%s%w", prefix, err)
			}
			note(err)
		}
	}
	return errors.Join(wrong...)
}

func checkPlacement(key, placement string) error {
	switch placement {
	case local:
		return nil
	case "shadow", "canary", "remote", "retired":
		return fmt.Errorf("%s: %s needs a second process, which this version cannot start yet; use local", key, placement)
	}
	return fmt.Errorf("%s: %q is not local, shadow, canary, remote or retired", key, placement)
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
