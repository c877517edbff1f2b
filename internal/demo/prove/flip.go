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
		if err := wait(ctx, 10*time.Millisecond); err != nil {
			return err
		}
	}
}

// change begins a move and changes its mind at once.
func (m *mover) change(ctx context.Context, first, then ownership.Placement) error {
	_ = m.ask(ctx, first) // it may be refused; the second word counts
	return m.set(ctx, then, true)
}

// breaker breaks things, one after another.
type breaker struct {
	all  []fault
	rng  *rand.Rand
	deck []fault

	mu     sync.Mutex
	broken []span
}

func newBreaker(all []fault, seed uint64) *breaker {
	return &breaker{all: all, rng: rand.New(rand.NewPCG(seed, 1<<32))}
}

// next is a fault, each of them once before any comes twice.
func (b *breaker) next() fault {
	if len(b.deck) == 0 {
		b.deck = slices.Clone(b.all)
		b.rng.Shuffle(len(b.deck), func(i, j int) { b.deck[i], b.deck[j] = b.deck[j], b.deck[i] })
	}
	f := b.deck[0]
	b.deck = b.deck[1:]
	return f
}

// strike causes a fault after a while, and returns when it is mended.
func (b *breaker) strike(ctx context.Context, f fault, after, pause time.Duration) error {
	if err := wait(ctx, after); err != nil {
		return err
	}
	s := span{What: f.name, From: time.Now(), kills: f.kills}
	err := f.cause(ctx, func() { _ = wait(ctx, pause) })
	s.To = time.Now()
	b.mu.Lock()
	b.broken = append(b.broken, s)
	b.mu.Unlock()
	if err != nil {
		return fmt.Errorf("%s: %w", f.name, err)
	}
	return nil
}

// cycles moves the module out and home so many times.
func cycles(ctx context.Context, o Options, m *mover, b *breaker, t *traffic, say func(string, ...any)) error {
	rng := rand.New(rand.NewPCG(o.Seed, 2<<32))
	for n := range o.Cycles {
		for _, to := range []ownership.Placement{ownership.Remote, ownership.Local} {
			from := ownership.Local
			if to == ownership.Local {
				from = ownership.Remote
			}
			struck := make(chan error, 1)
			name := ""
			if b == nil {
				struck <- nil
			} else {
				// Half of them come in the middle of the change, the others before or after it.
				f, after, pause := b.next(), upTo(rng, 250*time.Millisecond), upTo(rng, 1500*time.Millisecond)
				if rng.IntN(2) == 0 {
					after = upTo(rng, 1500*time.Millisecond)
				}
				name = ", " + f.name + " after " + after.Round(time.Millisecond).String()
				go func() { struck <- b.strike(ctx, f, after, pause) }()
			}
			began := time.Now()
			err := wait(ctx, upTo(rng, 100*time.Millisecond))
			if b != nil && rng.IntN(4) == 0 && err == nil {
				err = m.change(ctx, to, from)
			}
			if err == nil {
				err = m.set(ctx, to, false)
			}
			took := time.Since(began)
			if err := errors.Join(err, <-struck); err != nil {
				return fmt.Errorf("cycle %d: %w", n+1, err)
			}
			say("cycle %d: %s is %s after %s%s; %d orders", n+1, m.module, to, took.Round(time.Millisecond), name, t.placed.Load())
			// Long enough to see orders begin and end there.
			if err := stay(ctx, t, 300*time.Millisecond+upTo(rng, 700*time.Millisecond)); err != nil {
				return err
			}
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

func upTo(rng *rand.Rand, d time.Duration) time.Duration { return time.Duration(rng.Int64N(int64(d))) }
