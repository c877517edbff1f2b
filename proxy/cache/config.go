package cache

import (
	"errors"
	"fmt"
	"time"
)

// Config is the response cache's.
type Config struct {
	Enabled bool          `mapstructure:"enabled"`
	Bytes   int64         `mapstructure:"bytes"`    // of all that is kept
	MaxBody int64         `mapstructure:"max_body"` // of one answer; larger ones pass through
	Wait    time.Duration `mapstructure:"wait"`     // longest wait for the answer to the same question of somebody else
	Refresh time.Duration `mapstructure:"refresh"`  // longest time of a refresh in the background
}

// DefaultConfig suits a shop with a catalog of some thousand products.
func DefaultConfig() Config {
	return Config{Enabled: true, Bytes: 32 << 20, MaxBody: 1 << 20, Wait: 2 * time.Second, Refresh: 10 * time.Second}
}

// Validate names the wrong key, which lies below prefix, and the way out.
func (c Config) Validate(prefix string) error {
	var wrong []error
	note := func(format string, args ...any) { wrong = append(wrong, fmt.Errorf(prefix+format, args...)) }
	if c.Bytes < 1<<20 || c.Bytes > 64<<30 {
		note(".bytes: %d is not between 1048576 and 68719476736; to keep nothing set %s.enabled to false", c.Bytes, prefix)
	}
	if c.MaxBody < 1024 || c.MaxBody > 64<<20 {
		note(".max_body: %d is not between 1024 and 67108864", c.MaxBody)
	} else if c.MaxBody > c.Bytes/8 {
		note(".max_body: %d is more than an eighth of %s.bytes, %d: a few answers would push out all others", c.MaxBody, prefix, c.Bytes)
	}
	if c.Wait < 0 || c.Wait > time.Minute {
		note(".wait: %s is not between 0s (do not wait) and 1m", c.Wait)
	}
	if c.Refresh < 100*time.Millisecond || c.Refresh > time.Minute {
		note(".refresh: %s is not between 100ms and 1m", c.Refresh)
	}
	return errors.Join(wrong...)
}
