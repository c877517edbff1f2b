package prove

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/banyan-go/banyan/internal/cli"
	"github.com/banyan-go/banyan/internal/ownership"
)

// span is a time in which something was going on.
type span struct {
	What     string    `json:"what"`
	From, To time.Time `json:"-"`
	kills    bool
}

func (s span) over(from, to time.Time) bool { return !s.From.After(to) && !s.To.Before(from) }

// flip is a change of the module's place.
type flip struct {
	span
	to      ownership.Placement
	again   int  // how often it had to be asked for
	changed bool // somebody had changed his mind in the middle of it
	inForce time.Time
	waits   string // what it waited for last
}

// flipWithin is how long a change may take, with everything that is broken meanwhile.
const flipWithin = 2 * time.Minute

// mover moves a module, as `banyan placement set` does.
type mover struct {
	top    topology
	module string

	mu    sync.Mutex
	flips []flip
}

func (m *mover) admin() (*cli.Admin, error) { return cli.Dial(m.top.data(), m.top.shop().admin) }

// ask asks for a placement once.
func (m *mover) ask(ctx context.Context, to ownership.Placement) error {
	a, err := m.admin()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	var r ownership.Record
	return a.Post(ctx, cli.Path("placement", m.module), map[string]any{"placement": to, "reason": "the proof"}, &r)
}

// where is what is in force, and whether everybody follows.
func (m *mover) where(ctx context.Context) (ownership.Status, error) {
	a, err := m.admin()
	if err != nil {
		return ownership.Status{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	var s struct{ Modules []ownership.Status }
	if err := a.Get(ctx, cli.Path("placement"), &s); err != nil {
		return ownership.Status{}, err
	}
	i := slices.IndexFunc(s.Modules, func(x ownership.Status) bool { return x.Module == m.module })
	if i < 0 {
		return ownership.Status{}, fmt.Errorf("there is no module %s", m.module)
	}
	return s.Modules[i], nil
}

// set moves the module and waits until everybody follows. What cannot be now, as while a process is dead, is asked for again; so is what
// a gate took back.
func (m *mover) set(ctx context.Context, to ownership.Placement, changed bool) error {
	f := flip{span: span{What: "to " + string(to), From: time.Now()}, to: to, changed: changed}
	last := "nothing was answered"
	for asked := false; ; {
		if !asked {
			err := m.ask(ctx, to)
			if asked = err == nil; asked {
				f.again++
			} else {
				last = err.Error()
			}
		}
		if asked {
			switch s, err := m.where(ctx); {
			case err != nil:
				last = err.Error()
			case s.Placement != to:
				asked, last, f.inForce = false, "it is "+string(s.Placement), time.Time{}
			case s.Step == ownership.Settled:
				if f.To = time.Now(); f.inForce.IsZero() {
					f.inForce = f.To
				}
				m.mu.Lock()
				m.flips = append(m.flips, f)
				m.mu.Unlock()
				return nil
			default:
				if f.inForce.IsZero() {
					f.inForce = time.Now()
				}
				if len(s.Waits) > 0 {
					f.waits = strings.Join(s.Waits, "; ")
				}
				last = fmt.Sprintf("%s; waits for %s", s.Step, f.waits)
			}
		}
		if time.Since(f.From) > flipWithin {
			return fmt.Errorf("%s is not %s after %s: %s", m.module, to, flipWithin, last)
		}
		pause := 10 * time.Millisecond
		if !asked {
			pause = 100 * time.Millisecond // refused: nothing is gained by asking at once
		}
		if err := wait(ctx, pause); err != nil {
			return err
		}
	}
}

// change begins a move and changes its mind at once.
func (m *mover) change(ctx context.Context, first, then ownership.Placement) error {
	_ = m.ask(ctx, first) // it may be refused; the second word counts
	return m.set(ctx, then, true)
}

// When a fault comes.
const (
	beforeChange = "before" // the module is where it was for a while, then moves with things broken
	amidChange   = "amid"   // in the middle of the change
	afterChange  = "after"  // everybody follows
)

// stroke is one change of place, and what is broken around it.
type stroke struct {
	to      ownership.Placement
	fault   fault // without a name: none
	when    string
	lead    time.Duration // between the fault and the change
	down    time.Duration // until what was ended is started again
	changes bool          // somebody changes his mind first
	rest    time.Duration // afterwards
}

// plan is what happens in all cycles, by the seed alone: each fault comes once before any comes twice.
func plan(cycles int, faults []fault, seed uint64) []stroke {
	rng := rand.New(rand.NewPCG(seed, 1<<32))
	upTo := func(d time.Duration) time.Duration { return time.Duration(rng.Int64N(int64(d))) }
	var deck []fault
	var all []stroke
	for range cycles {
		for _, to := range []ownership.Placement{ownership.Remote, ownership.Local} {
			s := stroke{to: to, lead: upTo(100 * time.Millisecond), rest: 300*time.Millisecond + upTo(700*time.Millisecond)}
			if len(faults) > 0 {
				if len(deck) == 0 {
					deck = slices.Clone(faults)
					rng.Shuffle(len(deck), func(i, j int) { deck[i], deck[j] = deck[j], deck[i] })
				}
				s.fault, deck = deck[0], deck[1:]
				s.when = []string{beforeChange, amidChange, amidChange, afterChange}[rng.IntN(4)]
				if s.lead = upTo(250 * time.Millisecond); s.when == beforeChange {
					s.lead = upTo(1500 * time.Millisecond)
				}
				s.down, s.changes = upTo(1500*time.Millisecond), rng.IntN(4) == 0
			}
			all = append(all, s)
		}
	}
	return all
}

// breaker remembers what was broken, and when.
type breaker struct {
	mu     sync.Mutex
	broken []span
}

// strike causes a fault, and returns when it is mended.
func (b *breaker) strike(ctx context.Context, f fault, down time.Duration) error {
	s := span{What: f.name, From: time.Now(), kills: f.kills}
	err := f.cause(ctx, func() { _ = wait(ctx, down) })
	s.To = time.Now()
	b.mu.Lock()
	b.broken = append(b.broken, s)
	b.mu.Unlock()
	if err != nil {
		return fmt.Errorf("%s: %w", f.name, err)
	}
	return nil
}

// run moves the module as planned.
func (b *breaker) run(ctx context.Context, plan []stroke, m *mover, t *traffic, say func(string, ...any)) error {
	for i, s := range plan {
		struck := make(chan error, 1)
		strike := func(in time.Duration) {
			if err := wait(ctx, in); err != nil {
				struck <- err
				return
			}
			struck <- b.strike(ctx, s.fault, s.down)
		}
		told, lead := "", s.lead
		switch s.when {
		case beforeChange:
			go strike(0)
		case amidChange:
			go strike(s.lead)
			lead = 0
		}
		if s.when != "" {
			told = ", " + s.fault.name + " " + s.when
		}
		err := wait(ctx, lead)
		began := time.Now()
		if err == nil && s.changes {
			from := ownership.Local
			if s.to == ownership.Local {
				from = ownership.Remote
			}
			err = m.change(ctx, s.to, from)
		}
		if err == nil {
			err = m.set(ctx, s.to, false)
		}
		took := time.Since(began)
		switch {
		case s.when == afterChange && err == nil:
			strike(s.lead)
			err = <-struck
		case s.when == beforeChange, s.when == amidChange:
			err = errors.Join(err, <-struck)
		}
		if err != nil {
			return fmt.Errorf("cycle %d: %w", i/2+1, err)
		}
		say("cycle %d: %s is %s after %s%s; %d orders", i/2+1, m.module, s.to, took.Round(time.Millisecond), told, t.placed.Load())
		// Long enough to see orders begin and end there.
		if err := stay(ctx, t, s.rest); err != nil {
			return err
		}
	}
	return nil
}

// stay lets customers order for a while: at least one of each of them.
func stay(ctx context.Context, t *traffic, d time.Duration) error {
	before := t.placed.Load()
	if err := wait(ctx, d); err != nil {
		return err
	}
	for limit := time.Now().Add(30 * time.Second); t.placed.Load() < before+int64(len(t.clients)); {
		if time.Now().After(limit) {
			return fmt.Errorf("%d orders in 30 s: the shop does not go on", t.placed.Load()-before)
		}
		if err := wait(ctx, 10*time.Millisecond); err != nil {
			return err
		}
	}
	return nil
}
