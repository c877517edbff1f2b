package orders

import (
	"fmt"
	"time"
)

// Config are the knobs of orders.
type Config struct {
	CheckoutTimeout   time.Duration `mapstructure:"checkout_timeout"`   // from placing; an order not confirmed by then is rejected
	ReservationMargin time.Duration `mapstructure:"reservation_margin"` // how much longer than that stock stays reserved
	ReturnWindow      time.Duration `mapstructure:"return_window"`      // from delivery; how long customers may return
	SnapshotEvery     int64         `mapstructure:"snapshot_every"`     // events of one order
}

// DefaultConfig lets an order wait out an hour without the card provider.
func DefaultConfig() Config {
	return Config{CheckoutTimeout: 2 * time.Hour, ReservationMargin: 30 * time.Minute, ReturnWindow: 30 * 24 * time.Hour, SnapshotEvery: 50}
}

// Validate names the wrong key and the way out.
func (c Config) Validate() error {
	switch {
	case c.CheckoutTimeout < time.Second:
		return fmt.Errorf("modules.orders.checkout_timeout: %s is not at least 1s", c.CheckoutTimeout)
	case c.ReservationMargin < time.Second:
		// A reservation that ends with the checkout could run out while its confirmation is on its way.
		return fmt.Errorf("modules.orders.reservation_margin: %s is not at least 1s", c.ReservationMargin)
	case c.ReturnWindow < 0:
		return fmt.Errorf("modules.orders.return_window: %s is not 0 or more", c.ReturnWindow)
	case c.SnapshotEvery < 1:
		return fmt.Errorf("modules.orders.snapshot_every: %d is not at least 1", c.SnapshotEvery)
	}
	return nil
}
