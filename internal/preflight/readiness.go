package preflight

import (
	"cmp"
	"math"
	"slices"

	"github.com/banyan-go/banyan/internal/message"
	"github.com/banyan-go/banyan/internal/ownership"
)

// Readiness is how ready a module is to leave.
type Readiness struct {
	Module    string              `json:"module"`
	Placement ownership.Placement `json:"placement"`
	Breaches  int                 `json:"breaches"`          // of its boundary
	Changes   *int                `json:"changes,omitempty"` // commits to its folder lately; nil if there is no history
	Requests  float64             `json:"requests"`          // per second
	Messages  float64             `json:"messages"`          // per second
	CallsOut  float64             `json:"calls_out"`         // questions to others, for each of its requests and messages
	CallsIn   float64             `json:"calls_in"`          // questions of others, for each of its requests and messages
	Asks      int                 `json:"asks"`              // kinds of questions that it declares, and that others declare to ask it
	HearsFrom int                 `json:"hears_from"`        // modules whose events it subscribes to, or that send it commands
	HeardBy   int                 `json:"heard_by"`          // modules that subscribe to its events, or get its commands
	Score     int                 `json:"score"`             // 0 to 100
}

// Table is how ready the modules are, without a score.
func Table(in Input) []Readiness {
	var list []Readiness
	for _, d := range in.Modules {
		r := Readiness{Module: d.Name, Placement: in.record(d.Name).Placement, Requests: in.Traffic.Requests[d.Name], Messages: in.Traffic.Messages[d.Name], Asks: len(d.Asks)}
		for _, b := range in.Breaches {
			if b.Module == d.Name || b.Other == d.Name {
				r.Breaches++
			}
		}
		out, to := 0.0, 0.0
		for _, c := range in.Traffic.Calls {
			switch d.Name {
			case c.Caller:
				out += c.PerSecond
			case message.Module(c.Message):
				to += c.PerSecond
			}
		}
		if work := r.Requests + r.Messages; work > 0 {
			r.CallsOut, r.CallsIn = out/work, to/work
		}
		for _, other := range in.Modules {
			for _, n := range other.Asks {
				if message.Module(n) == d.Name {
					r.Asks++
				}
			}
		}
		for _, w := range in.ways() {
			switch d.Name {
			case w[0]:
				r.HeardBy++
			case w[1]:
				r.HearsFrom++
			}
		}
		list = append(list, r)
	}
	return list
}

// The parts of a score.
const (
	forBoundary = 50.0 // for a clear boundary
	forCoupling = 30.0 // for few questions to and from others
	forBenefit  = 20.0 // for much load and many changes
)

// Score puts the readiest first. changes are the commits to each module's folder; nil if there is no history to count.
//
// A clear boundary is 50 points, one breach of it none. Coupling is up to 30: 30 divided by one more than the questions to and from other
// modules for each of the module's requests and messages (while there are none, the kinds of questions count that are declared). What
// leaving brings is up to 20: as much of them as the module's load is of the busiest one's and, where there is a history, its changes of the
// most changed one's, half each.
func Score(list []Readiness, changes map[string]int) []Readiness {
	most, busiest := 0, 0.0
	for i, r := range list {
		if changes != nil {
			n := changes[r.Module]
			list[i].Changes = &n
			most = max(most, n)
		}
		busiest = math.Max(busiest, r.Requests+r.Messages)
	}
	for i := range list {
		r := &list[i]
		score := 0.0
		if r.Breaches == 0 {
			score += forBoundary
		}
		coupling := r.CallsOut + r.CallsIn
		if r.Requests+r.Messages == 0 {
			coupling = float64(r.Asks)
		}
		score += forCoupling / (1 + coupling)
		load, changed := 0.0, 0.0
		if busiest > 0 {
			load = (r.Requests + r.Messages) / busiest
		}
		if most > 0 {
			changed = float64(*r.Changes) / float64(most)
		}
		if changes == nil {
			score += forBenefit * load
		} else {
			score += forBenefit * (load + changed) / 2
		}
		r.Score = int(math.Round(score))
	}
	slices.SortStableFunc(list, func(a, b Readiness) int {
		return cmp.Or(cmp.Compare(b.Score, a.Score), cmp.Compare(a.Module, b.Module))
	})
	return list
}
