// Package preflight says what a change of a module's placement would do and what stands in its way, and how ready each module is to leave. It
// looks and changes nothing: the plans are made from what was found, by functions that ask nobody.
package preflight

import (
	"slices"
	"strings"
	"time"

	"github.com/banyan-go/banyan/internal/message"
	"github.com/banyan-go/banyan/internal/module"
	"github.com/banyan-go/banyan/internal/ownership"
)

// Input is what was found.
type Input struct {
	Modules   []module.Descriptor
	Records   []ownership.Record
	Processes []ownership.Process // that live
	Shared    bool                // both sides can have a store open: PostgreSQL
	Broker    Broker
	Traffic   Traffic
	Stores    map[string]Store // by module
	Breaches  []Breach
	Held      map[string]bool // modules.X.hold
	Limits    Limits
}

// Broker is how the broker between the processes is.
type Broker struct {
	Configured bool           `json:"configured"`
	Error      string         `json:"error,omitempty"`      // it cannot be used
	RoundTrip  time.Duration  `json:"round_trip,omitempty"` // measured; 0 if it could not be
	Waiting    map[string]int `json:"waiting,omitempty"`    // messages in the queues of modules
}

// unmeasured is what a question to another process costs where there is no broker to measure.
const unmeasured = time.Millisecond

// question is what a question to another process costs beside its answer: the way to the broker and on to the module, and the same back.
func (b Broker) question() time.Duration {
	if b.RoundTrip <= 0 {
		return unmeasured
	}
	return 2 * b.RoundTrip
}

// Traffic is what the process has measured in the last minutes.
type Traffic struct {
	Window   time.Duration      `json:"window"`
	Requests map[string]float64 `json:"requests"` // per second, by module
	Messages map[string]float64 `json:"messages"` // handled and published per second, by module
	Calls    []Call             `json:"calls"`
}

// Call is a question that one module asks another.
type Call struct {
	Caller    string        `json:"caller"`
	Message   string        `json:"message"`
	PerSecond float64       `json:"per_second"`
	P50       time.Duration `json:"p50"`
	P99       time.Duration `json:"p99"`
}

// Store is what a module's store holds that a move has to do with.
type Store struct {
	Error   string        `json:"error,omitempty"` // it could not be looked at
	Pending int64         `json:"pending"`         // messages that their subscribers have not taken
	Oldest  time.Duration `json:"oldest"`          // waits the oldest of them
	Parked  int64         `json:"parked_keys"`
	Dead    int64         `json:"dead_letters"`
	Due     int64         `json:"timers_due"`   // within the next minute
	Timers  int64         `json:"timers"`       // all that are set
	Unheard int64         `json:"unsubscribed"` // messages kept that nobody subscribes to
}

// Breach is a way by which a module reaches into another one's store or code.
type Breach struct {
	Module string `json:"module"`
	Other  string `json:"other"`
	What   string `json:"what"`
	WayOut string `json:"way_out"`
}

// Limits are those of the configuration that bound what waits.
type Limits struct {
	Pause  time.Duration // of a request that waits at the gateway
	Paused int           // requests that may
}

func (in Input) record(name string) ownership.Record {
	i := slices.IndexFunc(in.Records, func(r ownership.Record) bool { return r.Module == name })
	if i < 0 {
		return ownership.Record{Module: name, Wish: ownership.Wish{Placement: ownership.Local}, Owner: ownership.Home, Epoch: 1}
	}
	return in.Records[i]
}

// place is where a module's owner is: "" for the shop, else the module's own process.
func place(r ownership.Record) string {
	if r.Owner == ownership.Away {
		return r.Module
	}
	return ""
}

// places are where all modules are, with one of them somewhere else.
func (in Input) places(changed ownership.Record) map[string]string {
	all := map[string]string{}
	for _, d := range in.Modules {
		all[d.Name] = place(in.record(d.Name))
	}
	all[changed.Module] = place(changed)
	return all
}

// contracts is what there is: wire name -> event, command or query.
func (in Input) contracts() map[string]string {
	kinds := map[string]string{}
	for _, d := range in.Modules {
		for _, n := range d.Contract.Names() {
			kinds[n] = "event"
		}
		for _, c := range d.Contract.Commands {
			kinds[c.MessageName()] = "command"
		}
		for _, q := range d.Contract.Queries {
			kinds[q.Query.MessageName()] = "query"
		}
	}
	return kinds
}

// hears says whether a subscription is one to an event.
func hears(s module.Subscription, event string) bool {
	return slices.ContainsFunc(s.Events, func(pattern string) bool { return matches(pattern, event) })
}

func matches(pattern, event string) bool {
	prefix, wild := strings.CutSuffix(pattern, "*")
	return pattern == event || wild && strings.HasPrefix(event, prefix)
}

// ways are the pairs of modules between which messages go: publisher -> subscriber.
func (in Input) ways() [][2]string {
	var list [][2]string
	add := func(from, to string) {
		if w := [2]string{from, to}; !slices.Contains(list, w) {
			list = append(list, w)
		}
	}
	for _, from := range in.Modules {
		for _, name := range from.Sends {
			add(from.Name, message.Module(name))
		}
		for _, to := range in.Modules {
			for _, s := range to.Subscriptions {
				if slices.ContainsFunc(from.Contract.Names(), func(n string) bool { return hears(s, n) }) {
					add(from.Name, to.Name)
				}
			}
		}
	}
	slices.SortFunc(list, func(a, b [2]string) int { return slices.Compare(a[:], b[:]) })
	return list
}
