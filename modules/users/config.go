package users

import (
	"fmt"
	"time"
)

// longestAccess bounds Config.AccessToken: a revocation is kept as long as any access token may live.
const longestAccess = time.Hour

// Config says how long things last.
type Config struct {
	AccessToken  time.Duration `mapstructure:"access_token"`  // until it has to be refreshed
	RefreshToken time.Duration `mapstructure:"refresh_token"` // since its last use, until somebody has to sign in again
	Invitation   time.Duration `mapstructure:"invitation"`    // to accept one
}

// DefaultConfig is what holds unless said otherwise.
func DefaultConfig() Config {
	return Config{AccessToken: 15 * time.Minute, RefreshToken: 30 * 24 * time.Hour, Invitation: 7 * 24 * time.Hour}
}

// Validate names the wrong key and the way out.
func (c Config) Validate() error {
	for _, d := range []struct {
		key              string
		value, low, high time.Duration
	}{
		{"access_token", c.AccessToken, time.Minute, longestAccess},
		{"refresh_token", c.RefreshToken, time.Hour, 365 * 24 * time.Hour},
		{"invitation", c.Invitation, time.Hour, 90 * 24 * time.Hour},
	} {
		if d.value < d.low || d.value > d.high {
			return fmt.Errorf("modules.users.%s: %s is not between %s and %s", d.key, d.value, d.low, d.high)
		}
	}
	if c.RefreshToken <= c.AccessToken {
		return fmt.Errorf("modules.users.refresh_token: %s is not longer than access_token (%s)", c.RefreshToken, c.AccessToken)
	}
	return nil
}
