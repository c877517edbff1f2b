package ownership

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/banyan-go/banyan/internal/errs"
)

// situation is what a change is judged by.
type situation struct {
	shared    bool   // both sides can have the module's store open: PostgreSQL
	broker    string // as this process sees it
	asks      map[string]bool
	needed    map[string]string
	processes []Process // that live
	self      Process
}

// plan is the record after a change. What cannot be is a Conflict or Invalid; what only has to wait for something is Unavailable.
func plan(s situation, from Record, w Wish) (Record, error) {
	to := from
	to.Wish = w
	if err := w.Check(); err != nil {
		return to, errs.New(errs.Invalid, "%s: %w", from.Module, err)
	}
	owner := w.Placement.owner()
	if from.Wish == w {
		return from, nil
	}
	if err := s.allows(from, w); err != nil {
		return to, err
	}
	to.Refused = ""
	switch {
	case owner == from.Owner && from.Step == Closing:
		to.Step = Opening // nobody else has taken the store
	case owner == from.Owner && from.Step != Opening:
		to.Step = Settling
	case owner == from.Owner:
	case s.shared:
		to.Owner, to.Epoch, to.Step = owner, from.Epoch+1, Settling
	case from.Step == Settled || from.Step == Settling:
		to.Step = Holding
	default:
		to.Step = Closing // requests are held already
	}
	return to, nil
}

// allows says what stands in the way.
func (s situation) allows(from Record, w Wish) error {
	m := from.Module
	refuse := func(format string, args ...any) error { return errs.New(errs.Conflict, format, args...) }
	wait := func(format string, args ...any) error { return errs.New(errs.Unavailable, format, args...) }
	if from.Placement == Retired && w.Placement != Remote {
		return refuse("%s is retired, and the shop may run without it; set it to remote, start the shop's processes anew, and go on from there", m)
	}
	for _, p := range s.processes {
		if w.Placement.owner() == Home && slices.Contains(p.Lacks, m) {
			return refuse("%s was started without %s, which was retired then; start it anew", p.Label(), m)
		}
	}
	if w.Placement == Local {
		return nil // nothing else blocks the way home
	}
	if from.Step != Settled && w.Placement.owner() != from.Owner {
		return wait("%s is in the middle of a change (%s); wait for it (banyan placement status), or set it to local", m, from.Wish)
	}
	if w.Placement == Retired && from.Placement != Remote {
		return refuse("%s is %s; only a module that is remote can be retired", m, from.Placement)
	}
	if w.Placement == Retired && from.Step != Settled {
		return wait("%s has not settled as %s; wait for it (banyan placement status)", m, from.Placement)
	}
	if !s.shared && w.Writes > 0 {
		return refuse("%s cannot have a canary of writes: its SQLite file has one writing process; leave the writes out (--writes 0), go to remote in one step, or move the store to PostgreSQL first (database.driver: postgres)", m)
	}
	if why := s.needed[m]; why != "" && w.Placement == Retired {
		return refuse("%s cannot be retired: %s", m, why)
	}
	self := s.self
	self.Broker = s.broker
	here, there := []Process{self}, []Process{}
	for _, p := range s.processes {
		switch {
		case p.Module == m:
			there = append(there, p)
		case p.Module == "" && p.ID != self.ID:
			here = append(here, p)
		}
	}
	if len(there) == 0 {
		return wait("no process serves %s alone; start one with `banyan serve --only %s` on the same configuration", m, m)
	}
	for _, p := range there {
		for _, q := range here {
			if apart := skew(q.Names, p.Names); apart != "" {
				return refuse("the contracts of %s (%s) and %s (%s) are more than one released version apart: %s; bring both within one version of each other",
					p.Label(), p.Program, q.Label(), q.Program, apart)
			}
		}
	}
	if w.Placement.owner() == Home && !s.asks[m] {
		return nil // requests alone go out, and nothing of them needs the broker
	}
	for _, b := range slices.Concat(here, there) {
		switch b.Broker {
		case BrokerReady:
		case BrokerNone:
			return refuse("%s needs a broker between the processes, and %s has none; set bus.rabbitmq.url", m, b.Label())
		default:
			return wait("the broker cannot be reached by %s: %s", b.Label(), b.Broker)
		}
	}
	return nil
}

// alive are the processes whose registration has not run out.
func alive(processes []Process, ttl time.Duration) []Process {
	return slices.DeleteFunc(slices.Clone(processes), func(p Process) bool { return p.Age > ttl })
}

// waitsFor names what a change still waits for; nothing when it is done.
func waitsFor(r Record, live []Process) []string {
	var waits []string
	owners := 0
	for _, p := range live {
		mine := p.Module == "" && r.Owner == Home || p.Module == r.Module && r.Owner == Away
		if p.Follows[r.Module] < r.Version {
			what := p.Label() + " to follow"
			if why := p.Waits[r.Module]; why != "" {
				what += ": " + why
			}
			waits = append(waits, what)
		} else if mine {
			owners++
		}
	}
	if owners == 0 && r.Step != Holding && r.Step != Closing {
		waits = append(waits, fmt.Sprintf("a process of the owner (%s)", r.Owner))
	}
	slices.Sort(waits)
	return waits
}

// next is the record after the step that all live processes follow; false if there is nothing to do.
func next(r Record, live []Process) (Record, bool) {
	if r.Step == Settled || len(waitsFor(r, live)) > 0 {
		return r, false
	}
	switch r.Step {
	case Holding:
		r.Step = Closing
	case Closing:
		if owner := r.Placement.owner(); owner != r.Owner {
			r.Owner, r.Epoch = owner, r.Epoch+1
		}
		r.Step = Opening
	default:
		r.Step = Settled
	}
	return r, true
}

// abandoned says that a change goes to a side of which no process lives.
func abandoned(r Record, live []Process) bool {
	return r.Step != Settled && r.Placement.owner() == Away && !slices.ContainsFunc(live, func(p Process) bool { return p.Module == r.Module })
}

// disagreement names the other processes of the shop that are configured otherwise; "" if there are none. What this one says of itself
// there may be older than its wish.
func disagreement(module, wish string, live []Process, self string) string {
	var others []string
	for _, p := range live {
		if p.Module == "" && p.ID != self && p.Wishes[module] != wish {
			others = append(others, fmt.Sprintf("%s says %q", p.ID, p.Wishes[module]))
		}
	}
	slices.Sort(others)
	return strings.Join(others, ", ")
}
