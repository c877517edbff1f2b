package ownership

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Placement is where a module's requests are answered.
type Placement string

// The placements, in the order of a way out.
const (
	Local   Placement = "local"
	Shadow  Placement = "shadow"
	Canary  Placement = "canary"
	Remote  Placement = "remote"
	Retired Placement = "retired"
)

// Placements are all of them.
var Placements = []Placement{Local, Shadow, Canary, Remote, Retired}

// Side is the replicas of one placement.
type Side string

// The sides of a module: the processes of the whole shop, and those that serve it alone.
const (
	Home Side = "home"
	Away Side = "away"
)

// owner is the side that owns a module in a placement.
func (p Placement) owner() Side {
	if p == Remote || p == Retired {
		return Away
	}
	return Home
}

// Step is how far a change has come.
type Step string

// The steps. A SQLite file has one writing process: while it is handed over, from holding to opening, requests are held.
const (
	Settled  Step = ""
	Holding  Step = "holding"  // requests are held, and those in flight finish
	Closing  Step = "closing"  // the owner gives the store up; nobody has it when all follow
	Opening  Step = "opening"  // the other side is the owner, and takes the store
	Settling Step = "settling" // in force, but not everybody has said that it follows
)

// Wish is a placement that somebody wants.
type Wish struct {
	Placement Placement `json:"placement"`
	Reads     int       `json:"reads,omitempty"`  // basis points, in canary
	Writes    int       `json:"writes,omitempty"` // basis points, in canary
}

// String is the one form of a wish in which two are compared, as in "canary 500/100".
func (w Wish) String() string {
	if w.Placement != Canary {
		return string(w.Placement)
	}
	return fmt.Sprintf("%s %d/%d", w.Placement, w.Reads, w.Writes)
}

const all = 10_000

// Check names what is wrong with a wish by itself.
func (w Wish) Check() error {
	switch {
	case !slices.Contains(Placements, w.Placement):
		return fmt.Errorf("%q is not local, shadow, canary, remote or retired", w.Placement)
	case w.Reads < 0 || w.Reads > all || w.Writes < 0 || w.Writes > all:
		return fmt.Errorf("a canary of %d and %d is not between 0 and %d basis points", w.Reads, w.Writes, all)
	case w.Placement == Canary && w.Writes > w.Reads:
		return fmt.Errorf("a canary of more writes (%d) than reads (%d): whoever writes at one side must read there", w.Writes, w.Reads)
	case w.Placement != Canary && (w.Reads != 0 || w.Writes != 0):
		return fmt.Errorf("%s has no share of reads or writes; only canary has", w.Placement)
	}
	return nil
}

// Record is where a module is.
type Record struct {
	Module    string    `json:"module"`
	Wish                // in force
	Owner     Side      `json:"owner"`
	Epoch     uint64    `json:"epoch"`             // counts changes of the owner
	Version   uint64    `json:"version"`           // counts all changes
	Step      Step      `json:"step,omitempty"`    // of the last change
	Wished    string    `json:"wished,omitempty"`  // the configured value that was acted on last
	Refused   string    `json:"refused,omitempty"` // why that one was refused
	ChangedAt time.Time `json:"changed_at"`        // when what is in force did: placement, owner or step
}

// first is the record of a module that has never moved.
func first(module string) Record {
	return Record{Module: module, Wish: Wish{Placement: Local}, Owner: Home, Epoch: 1}
}

// Held says that requests of the module wait: its store goes from one process to another.
func (r Record) Held() bool { return r.Step == Holding || r.Step == Closing || r.Step == Opening }

// Owns says whether a side owns the module: between two processes neither does.
func (r Record) Owns(side Side) bool { return r.Owner == side && r.Step != Closing }

// Cause is who changes a record, and why.
type Cause struct {
	Caller   string // as in "banyan placement set" or "gate"
	Reason   string
	Evidence any // what made it, kept as JSON; nil for nothing
}

// Entry is a change as the journal keeps it.
type Entry struct {
	ID       int64           `json:"id"`
	Module   string          `json:"module"`
	At       time.Time       `json:"at"`
	Caller   string          `json:"caller"`
	Reason   string          `json:"reason"`
	From     Record          `json:"from"`
	To       Record          `json:"to"`
	Evidence json.RawMessage `json:"evidence,omitempty"`
}

// Process is a running process.
type Process struct {
	ID        string            `json:"id"`
	Module    string            `json:"module,omitempty"` // that it serves alone; "" for the whole shop
	Program   string            `json:"program"`          // version of the program
	Names     []string          `json:"names"`            // wire names that it knows
	Address   string            `json:"address,omitempty"`
	Operators string            `json:"operators,omitempty"` // address of its operator's port, as seen on its own machine
	Lacks     []string          `json:"lacks,omitempty"`     // modules that the shop was started without: they were retired
	Broker    string            `json:"broker"`              // BrokerReady, BrokerNone, or what is wrong with it
	Wishes    map[string]string `json:"wishes,omitempty"`
	Follows   map[string]uint64 `json:"follows,omitempty"` // module -> version of the record that is in force here
	Waits     map[string]string `json:"waits,omitempty"`   // module -> why a record is not in force here yet
	StartedAt time.Time         `json:"started_at"`
	SeenAt    time.Time         `json:"-"` // when it has last registered, by the clock of the store
	Age       time.Duration     `json:"-"` // since then: as a registry says it by the same clock, as Owners say it by what they have seen
}

// What a process says of its broker.
const (
	BrokerReady = "ready"
	BrokerNone  = "" // none is configured
)

// Label is the process for people.
func (p Process) Label() string {
	if p.Module == "" {
		return "shop " + p.ID
	}
	return p.Module + " " + p.ID
}

// skew names a message of which two processes know released versions that lie further apart than one; "" if there is none. Two that are
// next to each other understand one another: a new version is announced beside the old one until nobody reads that any more.
func skew(a, b []string) string {
	newest := func(names []string) map[string]int {
		found := map[string]int{}
		for _, n := range names {
			family, v, ok := cutVersion(n)
			if ok {
				found[family] = max(found[family], v)
			}
		}
		return found
	}
	x, y := newest(a), newest(b)
	var apart []string
	for family, v := range x {
		if d := v - y[family]; d > 1 || d < -1 {
			apart = append(apart, fmt.Sprintf("%s (v%d and v%d)", family, v, y[family]))
		}
	}
	for family, v := range y {
		if _, both := x[family]; !both && v > 1 {
			apart = append(apart, fmt.Sprintf("%s (none and v%d)", family, v))
		}
	}
	slices.Sort(apart)
	return strings.Join(apart, ", ")
}

func cutVersion(name string) (family string, version int, ok bool) {
	i := strings.LastIndex(name, ".v")
	if i < 0 {
		return "", 0, false
	}
	v, err := strconv.Atoi(name[i+2:])
	return name[:i], v, err == nil
}
