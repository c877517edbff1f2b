package payments

import (
	"fmt"
	"time"
)

// Config are the knobs of payments; they are read at start.
type Config struct {
	Provider ProviderConfig `mapstructure:"provider"`
}

// ProviderConfig says how the card provider is called, and how the simulated one behaves.
type ProviderConfig struct {
	Timeout       time.Duration `mapstructure:"timeout"`         // of one call, waiting for a free slot included
	File          string        `mapstructure:"file"`            // the simulated provider's record; empty: in the module's folder
	Delay         time.Duration `mapstructure:"delay"`           // of each charge and refund
	DeclineRate   float64       `mapstructure:"decline_rate"`    // share of charges that are declined
	LostReplyRate float64       `mapstructure:"lost_reply_rate"` // share of charges and refunds whose first reply is lost
	Outage        bool          `mapstructure:"outage"`          // every call fails
	Seed          int64         `mapstructure:"seed"`            // decides which charges the rates hit
}

// maxTimeout leaves room below the time after which another process takes over a call that is not finished.
const maxTimeout = 20 * time.Second

// DefaultConfig is a provider without faults.
func DefaultConfig() Config {
	return Config{Provider: ProviderConfig{Timeout: 10 * time.Second, Seed: 1}}
}

// Validate names the wrong key and the way out.
func (c Config) Validate() error {
	p := c.Provider
	switch {
	case p.Timeout < 10*time.Millisecond || p.Timeout > maxTimeout:
		return fmt.Errorf("modules.payments.provider.timeout: %s is not between 10ms and %s", p.Timeout, maxTimeout)
	case p.Delay < 0 || p.Delay >= p.Timeout:
		return fmt.Errorf("modules.payments.provider.delay: %s is not between 0s and the timeout of %s", p.Delay, p.Timeout)
	case !(p.DeclineRate >= 0 && p.DeclineRate <= 1): // so that NaN is refused
		return fmt.Errorf("modules.payments.provider.decline_rate: %v is not between 0 and 1", p.DeclineRate)
	case !(p.LostReplyRate >= 0 && p.LostReplyRate <= 1):
		return fmt.Errorf("modules.payments.provider.lost_reply_rate: %v is not between 0 and 1", p.LostReplyRate)
	}
	return nil
}
