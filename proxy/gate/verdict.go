package gate

import (
	"fmt"
	"time"
)

// State is what is known of the module where it is.
type State int

// The states. The zero value is that nothing is known.
const (
	NotEnough State = iota
	Good
	Bad
)

// String is not_enough, good or bad.
func (s State) String() string { return [...]string{"not_enough", "good", "bad"}[s] }

// MarshalText is for JSON.
func (s State) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText reads what MarshalText wrote.
func (s *State) UnmarshalText(text []byte) error {
	for _, state := range []State{NotEnough, Good, Bad} {
		if string(text) == state.String() {
			*s = state
			return nil
		}
	}
	return fmt.Errorf("%q is not not_enough, good or bad", text)
}

// The placements, as in the control record.
const (
	Local   = "local"
	Shadow  = "shadow"
	Canary  = "canary"
	Remote  = "remote"
	Retired = "retired"
)

// Stage is a stretch of time in which a module is treated in one way.
type Stage struct {
	Epoch     uint64 `json:"epoch"`
	Placement string `json:"placement"`
	Share     int    `json:"share"` // basis points, in canary
	// Control: the local side answers requests of the same routes, so that it can be compared. It is false where one side
	// has them all, as at 10000 and in remote; then errors and trip judge alone, against what is configured.
	Control bool `json:"control"`
}

// The rules.
const (
	RuleErrors       = "errors"
	RuleTrip         = "trip"
	RuleClientErrors = "client_errors"
	RuleLatency      = "latency"
)

// Verdict is what is to be thought of the module.
type Verdict struct {
	State  State     `json:"state"`
	Stage  Stage     `json:"stage"`
	Began  time.Time `json:"began"` // the stage
	At     time.Time `json:"at"`    // of the verdict
	Remote Totals    `json:"remote"`
	Local  Totals    `json:"local"`
	Rules  []Rule    `json:"rules"` // those that apply
	// Evidence is why it is bad; it is nil otherwise.
	Evidence *Evidence `json:"evidence,omitempty"`
}

// Totals are those of a side since the stage began.
type Totals struct {
	Requests uint64 `json:"requests"`
	Failures uint64 `json:"failures"`
	Subjects uint64 `json:"subjects,omitempty"` // at least so many; remote only
}

// Rule is what one rule says.
type Rule struct {
	Name   string `json:"name"`
	State  State  `json:"state"`
	Reason string `json:"reason"`
}

// Evidence is what made a rule say bad.
type Evidence struct {
	Epoch  uint64    `json:"epoch"`
	Rule   string    `json:"rule"`
	Reason string    `json:"reason"`
	Since  time.Time `json:"since"` // the first of what counted
	At     time.Time `json:"at"`    // the last of it
	// Remote and Local are what was counted from Since to At.
	Remote  Counts   `json:"remote"`
	Local   Counts   `json:"local"`
	Samples []Sample `json:"samples"` // a few of the bad ones, remote
	Traces  []string `json:"traces"`  // theirs
}

// Counts are those of a side.
type Counts struct {
	Requests uint64        `json:"requests"`      // that were looked at
	Bad      uint64        `json:"bad"`           // failures; subjects with the client error; answers that were too slow
	P95      time.Duration `json:"p95,omitempty"` // latency: of the route that differs most
	P99      time.Duration `json:"p99,omitempty"`
}

func (c Counts) at(quantile string) time.Duration {
	if quantile == "p99" {
		return c.P99
	}
	return c.P95
}

// All is the verdict of several gates on the same module, as those of another package: bad if one is bad, good if all
// are good. The stage and the totals are the first one's.
func All(first Verdict, others ...Verdict) Verdict {
	all := first
	all.Rules = append([]Rule(nil), first.Rules...)
	for _, o := range others {
		all.Rules = append(all.Rules, o.Rules...)
		switch {
		case all.State == Bad:
		case o.State == Bad:
			all.State, all.Evidence = Bad, o.Evidence
		case o.State == NotEnough:
			all.State = NotEnough
		}
	}
	return all
}

// traces are the ids that samples carry.
func traces(samples []Sample) []string {
	ids := make([]string, 0, len(samples))
	for _, s := range samples {
		if s.Trace != "" {
			ids = append(ids, s.Trace)
		}
	}
	return ids
}
