package gate

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"
)

// Config says what is good, what is bad, and what follows.
type Config struct {
	Errors       Errors       `mapstructure:"errors"`
	ClientErrors ClientErrors `mapstructure:"client_errors"`
	Latency      Latency      `mapstructure:"latency"`
	Trip         Trip         `mapstructure:"trip"`
	Canary       Ramp         `mapstructure:"canary"`
	Rollback     Cooling      `mapstructure:"rollback"`
	Automatic    Automatic    `mapstructure:"automatic"`
}

// Errors is about answers of 5xx and requests that got none.
type Errors struct {
	CUSUM CUSUM `mapstructure:"cusum"`
}

// CUSUM adds up the evidence that failures are p1 of requests rather than p0; it never falls below 0. The evidence is the
// logarithm of how much likelier p1 is: a failure adds ln(p1/p0), so that h/ln(p1/p0) failures in a row are bad.
type CUSUM struct {
	P0 float64 `mapstructure:"p0"` // share of failures that is tolerated; 0.005 is 0.5 %
	P1 float64 `mapstructure:"p1"` // share of failures that must be noticed
	H  float64 `mapstructure:"h"`  // evidence that is bad
}

// ClientErrors is about 401, 403, 404, 409 and 422, each by itself.
type ClientErrors struct {
	Ratio float64 `mapstructure:"ratio"` // remote may give a status so many times as often as local; 0 does not look at it
	Min   int     `mapstructure:"min"`   // requests of those who have signed in compared on each side, before anything is said
}

// Latency is about the time of successful answers.
type Latency struct {
	P95Ratio float64       `mapstructure:"p95_ratio"` // remote's p95 may be so many times local's; 0 does not look at it
	P99Ratio float64       `mapstructure:"p99_ratio"` // the same for p99
	Hop      time.Duration `mapstructure:"hop"`       // what the way to another process may add, however fast local is
	Min      int           `mapstructure:"min"`       // requests compared on each side in a window
	Window   time.Duration `mapstructure:"window"`    // lasts at least so long, and until it has enough
	Breaches string        `mapstructure:"breaches"`  // as in 2of3: so many of the last windows are bad
}

// Trip is about requests that got no answer.
type Trip struct {
	ConsecutiveTransport int `mapstructure:"consecutive_transport"` // in a row; 0 does not count them
}

// Ramp is the way from the first requests to all of them.
type Ramp struct {
	Steps     []string `mapstructure:"steps"` // basis points
	Step      Step     `mapstructure:"step"`
	ApproveAt []string `mapstructure:"approve_at"` // steps that are left only when somebody has approved it
}

// Step is what a step takes before it may be left.
type Step struct {
	MinTime     time.Duration `mapstructure:"min_time"`
	MinRequests int           `mapstructure:"min_requests"` // remote
	MinSubjects int           `mapstructure:"min_subjects"` // remote, who have signed in
}

// Cooling is about what follows a rollback.
type Cooling struct {
	Cooldown []string `mapstructure:"cooldown"` // after the first rollback, the second and so on; hold waits for a human
}

// Automatic says what is done without asking.
type Automatic struct {
	Advance  bool `mapstructure:"advance"`
	Rollback bool `mapstructure:"rollback"`
}

// DefaultConfig goes back by itself and forward when told to.
func DefaultConfig() Config {
	return Config{
		// 14 is 8 failures in a row. Chance alone did not reach it in a thousand million requests of which 0.4 % failed; it
		// reached 9 once in four million.
		Errors:       Errors{CUSUM: CUSUM{P0: 0.005, P1: 0.03, H: 14}},
		ClientErrors: ClientErrors{Ratio: 2, Min: 200},
		Latency:      Latency{P95Ratio: 1.5, P99Ratio: 2, Hop: 5 * time.Millisecond, Min: 200, Window: 30 * time.Second, Breaches: "2of3"},
		Trip:         Trip{ConsecutiveTransport: 5},
		Canary: Ramp{
			Steps: []string{"10", "100", "500", "2500", "5000", "10000"}, ApproveAt: []string{"5000"},
			Step: Step{MinTime: 5 * time.Minute, MinRequests: 500, MinSubjects: 50},
		},
		Rollback:  Cooling{Cooldown: []string{"5m", "30m", hold}},
		Automatic: Automatic{Rollback: true},
	}
}

const (
	hold      = "hold"
	allOfIt   = 10000 // basis points
	untilTold = time.Duration(-1)
)

// Validate names the wrong key and the way out. prefix is where the configuration stands, as in modules.payments.gate.
func (c Config) Validate(prefix string) error {
	var wrong []error
	note := func(key, format string, args ...any) {
		wrong = append(wrong, fmt.Errorf("%s.%s: %w", prefix, key, fmt.Errorf(format, args...)))
	}
	within := func(key string, value, least, most int) {
		if value < least || value > most {
			note(key, "%d is not between %d and %d", value, least, most)
		}
	}
	lasts := func(key string, value, least, most time.Duration) {
		if value < least || value > most {
			note(key, "%s is not between %s and %s", value, least, most)
		}
	}
	ratio := func(key string, value float64) {
		if value != 0 && !(value >= 1.1 && value <= 100) {
			note(key, "%v is not between 1.1 and 100, or 0 to leave it out", value)
		}
	}
	switch e := c.Errors.CUSUM; {
	case !(e.P0 >= 0.0001 && e.P0 <= 0.2):
		note("errors.cusum.p0", "%v is not between 0.0001 and 0.2, the share of failures that is tolerated", e.P0)
	case !(e.P1 >= 1.5*e.P0 && e.P1 <= 0.9):
		note("errors.cusum.p1", "%v is not between one and a half times %s.errors.cusum.p0, %v, and 0.9", e.P1, prefix, 1.5*e.P0)
	case !(e.H >= 3 && e.H <= 100):
		note("errors.cusum.h", "%v is not between 3 and 100; at 3 chance alone is bad soon", e.H)
	}
	ratio("client_errors.ratio", c.ClientErrors.Ratio)
	within("client_errors.min", c.ClientErrors.Min, 1, 1_000_000)
	ratio("latency.p95_ratio", c.Latency.P95Ratio)
	ratio("latency.p99_ratio", c.Latency.P99Ratio)
	lasts("latency.hop", c.Latency.Hop, 0, time.Minute)
	within("latency.min", c.Latency.Min, 1, 1_000_000)
	lasts("latency.window", c.Latency.Window, 10*time.Millisecond, 24*time.Hour)
	if _, _, err := parseBreaches(c.Latency.Breaches); err != nil {
		note("latency.breaches", "%w", err)
	}
	within("trip.consecutive_transport", c.Trip.ConsecutiveTransport, 0, 1000)
	steps, err := parseSteps(c.Canary.Steps)
	if err != nil {
		note("canary.steps", "%w", err)
	}
	if len(c.Canary.Steps) == 0 {
		note("canary.steps", "is empty; name at least one, as in [100, 1000, 10000]")
	}
	if approve, err := parseSteps(c.Canary.ApproveAt); err != nil {
		note("canary.approve_at", "%w", err)
	} else if len(steps) > 0 {
		for _, a := range approve {
			if !slices.Contains(steps, a) {
				note("canary.approve_at", "%d is none of %s.canary.steps", a, prefix)
			}
		}
	}
	lasts("canary.step.min_time", c.Canary.Step.MinTime, 0, 30*24*time.Hour)
	within("canary.step.min_requests", c.Canary.Step.MinRequests, 1, 1_000_000_000)
	within("canary.step.min_subjects", c.Canary.Step.MinSubjects, 0, maxSubjects)
	if _, err := parseCooldown(c.Rollback.Cooldown); err != nil {
		note("rollback.cooldown", "%w", err)
	}
	return errors.Join(wrong...)
}

// parseSteps reads basis points, which must grow.
func parseSteps(list []string) ([]int, error) {
	steps := make([]int, 0, len(list))
	for _, s := range list {
		n, err := strconv.Atoi(s)
		if err != nil || n < 1 || n > allOfIt {
			return nil, fmt.Errorf("%q is not a number of basis points, 1 to 10000 (10000 is all)", s)
		}
		if len(steps) > 0 && n <= steps[len(steps)-1] {
			return nil, fmt.Errorf("%d comes after %d; name them from least to most", n, steps[len(steps)-1])
		}
		steps = append(steps, n)
	}
	return steps, nil
}

// parseBreaches reads "2of3".
func parseBreaches(s string) (need, of int, err error) {
	_, err = fmt.Sscanf(s, "%dof%d", &need, &of)
	if err != nil || need < 1 || of < need || of > 10 || s != fmt.Sprintf("%dof%d", need, of) {
		return 0, 0, fmt.Errorf("%q is not so many of the last windows, at most 10, as in 2of3", s)
	}
	return need, of, nil
}

// parseCooldown reads durations; hold becomes untilTold.
func parseCooldown(list []string) ([]time.Duration, error) {
	if len(list) == 0 {
		return nil, fmt.Errorf("is empty; name durations, or hold to wait for a human after the first rollback")
	}
	waits := make([]time.Duration, len(list))
	for i, s := range list {
		if s == hold {
			if i != len(list)-1 {
				return nil, fmt.Errorf("hold is not the last; nothing follows it")
			}
			waits[i] = untilTold
			continue
		}
		d, err := time.ParseDuration(s)
		if err != nil || d <= 0 || d > 30*24*time.Hour {
			return nil, fmt.Errorf("%q is not a duration up to 720h as in 5m, or hold", s)
		}
		waits[i] = d
	}
	return waits, nil
}

// odds is how much likelier something is than not.
func odds(p float64) float64 { return p / (1 - p) }

// share is the inverse of odds.
func share(odds float64) float64 { return odds / (1 + odds) }
