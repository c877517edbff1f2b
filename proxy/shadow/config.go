package shadow

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"
)

// Config is about comparing the answers of modules.
type Config struct {
	Sample        float64       `mapstructure:"sample"`         // percent of the requests that read
	ControlSample float64       `mapstructure:"control_sample"` // percent of those: local is asked twice, to see what is noise
	Learn         int           `mapstructure:"learn"`          // first comparisons of a route, which only teach what is noise
	ConfirmAfter  time.Duration `mapstructure:"confirm_after"`  // until both are asked again about a difference
	Headers       []string      `mapstructure:"headers"`        // that are compared, beside status and body
	Compare       []Rule        `mapstructure:"compare"`
	Limits        Limits        `mapstructure:"limits"`
	Gate          Gate          `mapstructure:"gate"`
}

// Rule says how the values at a path are compared. It has one of ignore, unordered_by, tolerance and format; a format of
// time may have a tolerance.
type Rule struct {
	Route       string  `mapstructure:"route"`        // "" means all
	Path        string  `mapstructure:"path"`         // as in $.items[*].price, $.*.id or $["odd name"]
	Ignore      bool    `mapstructure:"ignore"`       // whether it is there or not
	UnorderedBy string  `mapstructure:"unordered_by"` // the field that names an element, as in sku or product.sku; $ is the element itself
	Tolerance   float64 `mapstructure:"tolerance"`    // of a number; of a time in seconds
	Format      string  `mapstructure:"format"`       // time or uuid: any two that are one are equal
}

// The formats.
const (
	Time = "time" // RFC 3339
	UUID = "uuid"
)

// Limits bound what the comparison costs. At most Bytes + 3 * Concurrency * MaxBody bytes of answers are held; to compare
// two of them takes up to 100 * MaxBody for a moment.
type Limits struct {
	MaxBody     int           `mapstructure:"max_body"`    // bytes of an answer; longer ones are not compared
	Queue       int           `mapstructure:"queue"`       // answers that wait
	Bytes       int64         `mapstructure:"bytes"`       // of all answers that wait or are being compared
	Concurrency int           `mapstructure:"concurrency"` // comparisons at a time
	Timeout     time.Duration `mapstructure:"timeout"`     // of each answer
}

// Gate says when the remote side is good enough. All shares are percent.
type Gate struct {
	MinCompared int     `mapstructure:"min_compared"`
	MinPerRoute int     `mapstructure:"min_per_route"`
	Mismatch    float64 `mapstructure:"mismatch_upper95"` // the greatest share that could be mismatched, with 95 % confidence
	Skew        float64 `mapstructure:"skew"`             // of differences that came and went while local did not change
	Failed      float64 `mapstructure:"failed"`           // of comparisons that got no answer
	// NoiseRule bounds how much more often a noisy path may differ between the sides than within the local one.
	NoiseRule NoiseRule `mapstructure:"noise_rule"`
	Exempt    []string  `mapstructure:"exempt"` // routes that need not be compared: they are rare, too large, or not shadow-safe
}

// NoiseRule is broken by a path that exceeds both.
type NoiseRule struct {
	Relative float64 `mapstructure:"relative"` // of the difference of the two shares to their sum
	Absolute float64 `mapstructure:"absolute"` // of the difference of the two shares
}

// DefaultConfig suits two sides that share one store.
func DefaultConfig() Config {
	return Config{
		Sample: 10, ControlSample: 20, Learn: 20, ConfirmAfter: 250 * time.Millisecond,
		Headers: []string{"Content-Type", "Location"}, Compare: []Rule{},
		Limits: Limits{MaxBody: 256 << 10, Queue: 512, Bytes: 16 << 20, Concurrency: 4, Timeout: 2 * time.Second},
		Gate: Gate{
			MinCompared: 2000, MinPerRoute: 50, Mismatch: 0.1, Skew: 0.1, Failed: 0.5,
			NoiseRule: NoiseRule{Relative: 20, Absolute: 0.03}, Exempt: []string{},
		},
	}
}

// Validate names the wrong key and the way out. prefix is where the configuration stands, as in gateway.shadow.
func (c Config) Validate(prefix string) error {
	var wrong []error
	note := func(key, format string, args ...any) {
		wrong = append(wrong, fmt.Errorf("%s.%s: %w", prefix, key, fmt.Errorf(format, args...)))
	}
	within := func(key string, value, least, most int64) {
		if value < least || value > most {
			note(key, "%d is not between %d and %d", value, least, most)
		}
	}
	percent := func(key string, value float64) {
		if !(value >= 0 && value <= 100) {
			note(key, "%v is not between 0 and 100 percent", value)
		}
	}
	lasts := func(key string, value, least, most time.Duration) {
		if value < least || value > most {
			note(key, "%s is not between %s and %s", value, least, most)
		}
	}
	percent("sample", c.Sample)
	if !(c.ControlSample >= 1 && c.ControlSample <= 100) {
		note("control_sample", "%v is not between 1 and 100 percent: without asking local twice nobody knows what is noise", c.ControlSample)
	}
	within("learn", int64(c.Learn), 0, 10_000)
	lasts("confirm_after", c.ConfirmAfter, 0, time.Minute)
	for _, h := range c.Headers {
		if h == "" || strings.ContainsAny(h, " \t\r\n:\"(),/;<=>?@[\\]{}") {
			note("headers", "%q is not the name of a header", h)
		} else if secretHeader(h) {
			note("headers", "%q holds a secret, and what differs is shown; leave it out", h)
		}
	}
	for i, r := range c.Compare {
		if _, err := r.compile(); err != nil {
			note(fmt.Sprintf("compare[%d]", i), "%w", err)
		}
	}
	within("limits.max_body", int64(c.Limits.MaxBody), 1024, 1<<20)
	within("limits.queue", int64(c.Limits.Queue), 1, 100_000)
	within("limits.bytes", c.Limits.Bytes, 64<<10, 1<<30)
	if c.Limits.Bytes < int64(c.Limits.MaxBody) {
		note("limits.bytes", "%d is less than %s.limits.max_body, %d: not one such answer would fit", c.Limits.Bytes, prefix, c.Limits.MaxBody)
	}
	within("limits.concurrency", int64(c.Limits.Concurrency), 1, 1024)
	lasts("limits.timeout", c.Limits.Timeout, time.Millisecond, time.Minute)
	within("gate.min_compared", int64(c.Gate.MinCompared), 1, 100_000_000)
	within("gate.min_per_route", int64(c.Gate.MinPerRoute), 0, 100_000_000)
	if !(c.Gate.Mismatch > 0 && c.Gate.Mismatch <= 100) {
		note("gate.mismatch_upper95", "%v is not more than 0 and at most 100 percent: no number of comparisons proves 0", c.Gate.Mismatch)
	}
	percent("gate.skew", c.Gate.Skew)
	percent("gate.failed", c.Gate.Failed)
	percent("gate.noise_rule.relative", c.Gate.NoiseRule.Relative)
	percent("gate.noise_rule.absolute", c.Gate.NoiseRule.Absolute)
	return errors.Join(wrong...)
}

// CheckRoutes names the routes of the configuration that are none of those that read, of all modules.
func (c Config) CheckRoutes(prefix string, routes []string) error {
	var wrong []error
	for i, r := range c.Compare {
		if r.Route != "" && !slices.Contains(routes, r.Route) {
			wrong = append(wrong, fmt.Errorf("%s.compare[%d].route: %q is not a route that reads; those are %s", prefix, i, r.Route, strings.Join(routes, ", ")))
		}
	}
	for _, e := range c.Gate.Exempt {
		if !slices.Contains(routes, e) {
			wrong = append(wrong, fmt.Errorf("%s.gate.exempt: %q is not a route that reads; those are %s", prefix, e, strings.Join(routes, ", ")))
		}
	}
	return errors.Join(wrong...)
}

func finite(f float64) bool { return !math.IsNaN(f) && !math.IsInf(f, 0) }
