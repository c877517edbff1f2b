package guard

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/banyan-go/banyan/internal/ownership"
)

// Config says what brings a module home after its placement was changed.
type Config struct {
	Automatic   bool          `mapstructure:"automatic"`    // else it is only said
	Watch       time.Duration `mapstructure:"watch"`        // how long after a change
	Lag         time.Duration `mapstructure:"lag"`          // that a message to or from the module may have; 0 does not look at it
	DeadLetters int           `mapstructure:"dead_letters"` // more than before the change; 0 does not look at them
	Failed      float64       `mapstructure:"failed"`       // share of the questions to it, more than before; 0 does not look at it
	TimeOuts    int           `mapstructure:"time_outs"`    // of those who send it commands, more than before; 0 does not look at them
}

// DefaultConfig suits a module that is used all the time.
func DefaultConfig() Config {
	return Config{Automatic: true, Watch: 15 * time.Minute, Lag: 30 * time.Second, DeadLetters: 3, Failed: 0.1, TimeOuts: 5}
}

// Validate names the wrong key and the way out.
func (c Config) Validate(prefix string) error {
	var wrong []error
	note := func(key, format string, args ...any) {
		wrong = append(wrong, fmt.Errorf("%s.%s: %w", prefix, key, fmt.Errorf(format, args...)))
	}
	if c.Watch < time.Second || c.Watch > 30*24*time.Hour {
		note("watch", "%s is not between 1s and 720h", c.Watch)
	}
	if c.Lag != 0 && (c.Lag < time.Second || c.Lag > 24*time.Hour) {
		note("lag", "%s is not between 1s and 24h, or 0s to leave it out", c.Lag)
	}
	if c.DeadLetters < 0 {
		note("dead_letters", "%d is not a number from 1 on, or 0 to leave them out", c.DeadLetters)
	}
	if !(c.Failed >= 0 && c.Failed <= 1) {
		note("failed", "%v is not a share between 0 and 1; 0 leaves it out", c.Failed)
	}
	if c.TimeOuts < 0 {
		note("time_outs", "%d is not a number from 1 on, or 0 to leave them out", c.TimeOuts)
	}
	return errors.Join(wrong...)
}

// Waiting is the oldest thing of its kind that began after the change and has not ended.
type Waiting struct {
	What  string        `json:"what"`
	Since time.Time     `json:"since"`
	For   time.Duration `json:"for"`
}

// Compared is a figure since the change, and what it would be if everything were as before.
type Compared struct {
	Now    float64 `json:"now"`
	Before float64 `json:"before"`
}

func (c Compared) more() float64 { return c.Now - c.Before }

// Measures are how a module does since its placement has changed.
type Measures struct {
	Waiting  []Waiting `json:"waiting"`
	Dead     Compared  `json:"dead_letters"`
	Asked    float64   `json:"asked"`  // questions to it
	Failed   Compared  `json:"failed"` // share of them
	TimeOuts Compared  `json:"time_outs"`
	Unknown  []string  `json:"unknown,omitempty"` // what could not be measured
}

// Case is what a verdict is made from.
type Case struct {
	Record   ownership.Record
	Since    time.Time // when its placement changed
	Now      time.Time
	Held     bool // the configuration forbids automatic moves
	Measures Measures
}

// Action is what follows.
type Action string

// The actions.
const (
	None  Action = "none"
	Home  Action = "home"
	Alarm Action = "alarm" // it does badly and stays where it is
)

// Verdict is what is said of a module that was moved.
type Verdict struct {
	Action    Action    `json:"action"`
	Reason    string    `json:"reason"`
	Placement string    `json:"placement"`
	Since     time.Time `json:"since"`
	At        time.Time `json:"at"`
	Breaches  []string  `json:"breaches"`
	Measures  Measures  `json:"measures"`
}

// fewAsked is how many questions say too little about their share of failures.
const fewAsked = 20

// Judge says what follows from how a module does. What could not be measured is neither good nor bad.
func Judge(cfg Config, c Case) Verdict {
	m := c.Measures
	v := Verdict{Action: None, Placement: c.Record.Wish.String(), Since: c.Since, At: c.Now, Breaches: []string{}, Measures: m}
	breach := func(format string, args ...any) { v.Breaches = append(v.Breaches, fmt.Sprintf(format, args...)) }
	switch {
	case c.Record.Placement == ownership.Local:
		v.Reason = "it is at home"
		return v
	case c.Now.Sub(c.Since) >= cfg.Watch:
		v.Reason = "the change is older than ownership.gates.watch"
		return v
	}
	if cfg.Lag > 0 {
		for _, w := range m.Waiting {
			if w.For >= cfg.Lag {
				breach("lag: %s waits for %s, more than %s", w.What, w.For.Round(100*time.Millisecond), cfg.Lag)
			}
		}
	}
	if cfg.DeadLetters > 0 && m.Dead.more() >= float64(cfg.DeadLetters) {
		breach("dead_letters: %.0f since the change, %.0f in the same time before", m.Dead.Now, m.Dead.Before)
	}
	if cfg.Failed > 0 && m.Asked >= fewAsked && m.Failed.more() >= cfg.Failed {
		breach("failed: %.1f %% of %.0f questions, %.1f %% before", 100*m.Failed.Now, m.Asked, 100*m.Failed.Before)
	}
	if cfg.TimeOuts > 0 && m.TimeOuts.more() >= float64(cfg.TimeOuts) {
		breach("time_outs: %.0f since the change, %.1f were to be expected", m.TimeOuts.Now, m.TimeOuts.Before)
	}
	if len(v.Breaches) == 0 {
		v.Reason = "nothing is worse than before"
		return v
	}
	v.Action, v.Reason = Home, strings.Join(v.Breaches, "; ")
	if stays := stays(cfg, c); stays != "" {
		v.Action, v.Reason = Alarm, v.Reason+"; "+stays
	}
	return v
}

// stays says why a module that does badly is left where it is; "" if it is not.
func stays(cfg Config, c Case) string {
	switch {
	case c.Record.Placement == ownership.Retired:
		return "retired is left by a human alone"
	case c.Held:
		return "held by configuration (modules." + c.Record.Module + ".hold)"
	case !cfg.Automatic:
		return "ownership.gates.automatic is off"
	}
	return ""
}
