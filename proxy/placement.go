package proxy

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"slices"
	"sync"
)

// State is where a module's requests are answered.
type State string

// The placements. In shadow a share of the reads is also sent to the second process, and the answers are compared; in canary
// a share of the subjects is answered there; retired is remote without a way back.
const (
	Local   State = "local"
	Shadow  State = "shadow"
	Canary  State = "canary"
	Remote  State = "remote"
	Retired State = "retired"
)

// States are all placements, in the order of a way out.
var States = []State{Local, Shadow, Canary, Remote, Retired}

// Placement is where a module is.
type Placement struct {
	Module string `json:"module"`
	State  State  `json:"placement"`
	Reads  int    `json:"reads,omitempty"`  // basis points of the subjects whose reads go out, in canary
	Writes int    `json:"writes,omitempty"` // the same of everything else
	Epoch  uint64 `json:"epoch"`            // of the last change of the owner
	Held   bool   `json:"held,omitempty"`   // nothing moves it by itself
	Paused bool   `json:"paused,omitempty"` // new requests wait at the gateway, and streams are told to come back: its owner changes
}

// all is the number of buckets: a basis point is one of them.
const all = 10_000

func (p Placement) check() error {
	switch {
	case !slices.Contains(States, p.State):
		return fmt.Errorf("%q is not local, shadow, canary, remote or retired", p.State)
	case p.Reads < 0 || p.Reads > all || p.Writes < 0 || p.Writes > all:
		return fmt.Errorf("a canary of %d and %d is not between 0 and %d basis points", p.Reads, p.Writes, all)
	case p.State == Canary && p.Writes > p.Reads:
		return fmt.Errorf("a canary of more writes (%d) than reads (%d): whoever writes at one side must read there", p.Writes, p.Reads)
	case p.State != Canary && (p.Reads != 0 || p.Writes != 0):
		return fmt.Errorf("%s has no share of reads or writes; only canary has", p.State)
	}
	return nil
}

// share is how much goes out: of what a monitor and a controller look at.
func (p Placement) share() int {
	switch p.State {
	case Canary:
		return p.Reads
	case Remote, Retired:
		return all
	}
	return 0
}

// answers says whether requests are answered at a side.
func (p Placement) answers(remote bool) bool {
	switch p.State {
	case Canary:
		return true
	case Remote, Retired:
		return remote
	}
	return !remote
}

// moved is the placement without what only says how it may change: what the gates have seen holds as long as it is the same.
func (p Placement) moved() Placement {
	p.Held, p.Paused = false, false
	return p
}

// home is the placement of a module that was taken back.
func (p Placement) home() Placement {
	p.State, p.Reads, p.Writes = Local, 0, 0
	return p
}

// Placements tell where the modules are, and change it.
type Placements interface {
	// Current are the placements in force; a module that is not among them is local.
	Current() []Placement
	// Watch calls changed with all placements at each change until ctx ends.
	Watch(ctx context.Context, changed func([]Placement)) error
	// Move puts to in the place of from, unless something else has taken it meanwhile (ErrMoved). evidence is kept with it.
	Move(ctx context.Context, from, to Placement, evidence any) error
}

// Refresher are placements that can be read anew before they would be by themselves. Watch tells what is found. They are asked when
// another process knows of a newer epoch.
type Refresher interface {
	Refresh(ctx context.Context) error
}

// ErrMoved: somebody else has changed the placement meanwhile.
var ErrMoved = errors.New("the module has been moved by somebody else meanwhile")

// Fixed are placements as they are configured. A move is in force until the process ends.
type Fixed struct {
	mu      sync.Mutex
	current []Placement
	changed chan struct{} // closed at a change
}

// NewFixed starts from a list.
func NewFixed(list ...Placement) *Fixed {
	return &Fixed{current: slices.Clone(list), changed: make(chan struct{})}
}

// Current are the placements in force.
func (f *Fixed) Current() []Placement {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.current)
}

// Watch tells of moves.
func (f *Fixed) Watch(ctx context.Context, changed func([]Placement)) error {
	for {
		f.mu.Lock()
		list, next := slices.Clone(f.current), f.changed
		f.mu.Unlock()
		changed(list)
		select {
		case <-ctx.Done():
			return nil
		case <-next:
		}
	}
}

// Move changes a placement.
func (f *Fixed) Move(_ context.Context, from, to Placement, _ any) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	i := slices.IndexFunc(f.current, func(p Placement) bool { return p.Module == from.Module })
	switch {
	case i < 0 && from.State == Local:
		f.current = append(f.current, to)
	case i < 0 || f.current[i] != from:
		return ErrMoved
	default:
		f.current[i] = to
	}
	close(f.changed)
	f.changed = make(chan struct{})
	return nil
}

// bucketOf is the bucket of a subject among 10,000: the same in every process, and another one for each salt. FNV-1a alone is not uniform
// enough in its low bits, so it is mixed (the finalizer of MurmurHash3).
func bucketOf(salt, subject string) int { return int(mix(salt, subject) % all) }

func mix(salt, subject string) uint64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(salt))
	_, _ = h.Write([]byte{0})
	_, _ = h.Write([]byte(subject))
	x := h.Sum64()
	x ^= x >> 33
	x *= 0xff51afd7ed558ccd
	x ^= x >> 33
	x *= 0xc4ceb9fe1a85ec53
	return x ^ x>>33
}
