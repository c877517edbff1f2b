package stock

import "github.com/banyan-go/banyan/internal/errs"

// State is where a reservation stands.
type State string

// The states; doc.go draws them.
const (
	None      State = ""
	Refused   State = "refused"
	Held      State = "held"
	Committed State = "committed"
	Expired   State = "expired"
	Released  State = "released"
)

// Reservation is what one order holds or held.
type Reservation struct {
	State    State
	Lines    []Line // merged; what was asked for
	Returned []Line // merged; what came back since the commit
	Short    []Line // what was missing at a refusal, or at a commit that came too late
}

// Answer is what the order is told.
type Answer int

// The answers; NoAnswer tells nothing.
const (
	NoAnswer Answer = iota
	SayReserved
	SayRefused
	SayReleased
	SayExpired
	SayReturned
)

// The reasons of a refusal.
const (
	OutOfStock     = "out_of_stock"
	UnknownProduct = "unknown_product"
	WasReleased    = "released"
)

// Decision is what follows from a command.
type Decision struct {
	Next    Reservation
	Changed bool    // Next differs from what was
	Deltas  []Delta // of the shelf, sorted by SKU
	Answer  Answer
	Short   []Line // of a refusal
	Reason  string // of a refusal
}

func (r Reservation) say(a Answer) Decision { return Decision{Next: r, Answer: a} }

// Reserve sets merged lines aside, all or nothing. What is held or sold already is not set aside again, and after
// a release there is nothing more to have: the Reserve was overtaken.
func (r Reservation) Reserve(shelf Shelf, lines []Line) Decision {
	switch r.State {
	case Held, Committed:
		return r.say(SayReserved)
	case Released:
		d := r.say(SayRefused)
		d.Reason = WasReleased
		return d
	}
	short, unknown := shelf.Short(lines)
	if len(short) > 0 {
		d := Decision{Next: Reservation{State: Refused, Lines: lines, Short: short}, Changed: true, Answer: SayRefused, Short: short, Reason: OutOfStock}
		if unknown {
			d.Reason = UnknownProduct
		}
		return d
	}
	return Decision{Next: Reservation{State: Held, Lines: lines}, Changed: true, Deltas: deltas(lines, 0, +1), Answer: SayReserved}
}

// Commit sells what is held. A commit that comes after the reservation has expired takes the units again if
// all of them are still there. If not nothing is taken, what is missing is noted, and the order hears a second time
// that its reservation is gone, so that it can give the money back: promising units that nobody has would be
// worse. The same goes for an order that never held anything.
func (r Reservation) Commit(shelf Shelf) Decision {
	next := r
	switch r.State {
	case Committed:
		return r.say(NoAnswer)
	case Released:
		return r.say(SayReleased)
	case Held:
		next.State = Committed
		return Decision{Next: next, Changed: true, Deltas: deltas(r.Lines, -1, -1)}
	case Expired:
		short, _ := shelf.Short(r.Lines)
		if len(short) > 0 {
			next.Short = short
			return Decision{Next: next, Changed: true, Answer: SayExpired}
		}
		next.State, next.Short = Committed, nil
		return Decision{Next: next, Changed: true, Deltas: deltas(r.Lines, -1, 0)}
	}
	return r.say(SayExpired)
}

// Release gives back whatever the order still has.
func (r Reservation) Release() Decision {
	if r.State == Released {
		return r.say(SayReleased)
	}
	next := r
	next.State = Released
	d := Decision{Next: next, Changed: true, Answer: SayReleased}
	switch r.State {
	case Held:
		d.Deltas = deltas(r.Lines, 0, -1)
	case Committed:
		d.Deltas = deltas(r.Outstanding(), +1, 0)
		d.Next.Returned = r.Lines
	}
	return d
}

// Expire gives back what is held when its time is over; what was committed or released meanwhile stays.
func (r Reservation) Expire() Decision {
	if r.State != Held {
		return r.say(NoAnswer)
	}
	next := r
	next.State = Expired
	return Decision{Next: next, Changed: true, Deltas: deltas(r.Lines, 0, -1), Answer: SayExpired}
}

// Restock puts returned units back: of what the order took no more than it has not brought back yet. Units of an order
// that this inventory never saw were sold before it kept records; they are on the shelf all the same.
func (r Reservation) Restock(lines []Line) Decision {
	if r.State == None {
		return Decision{Next: r, Deltas: deltas(lines, +1, 0), Answer: SayReturned}
	}
	if r.State != Committed {
		return r.say(SayReturned)
	}
	out := map[string]int64{}
	for _, l := range r.Outstanding() {
		out[l.SKU] = l.Quantity
	}
	back := map[string]int64{}
	for _, l := range lines {
		back[l.SKU] += min(l.Quantity, out[l.SKU]-back[l.SKU])
	}
	taken := sorted(back)
	if len(taken) == 0 {
		return r.say(SayReturned)
	}
	for _, l := range r.Returned {
		back[l.SKU] += l.Quantity
	}
	next := r
	next.Returned = sorted(back)
	return Decision{Next: next, Changed: true, Deltas: deltas(taken, +1, 0), Answer: SayReturned}
}

// Outstanding is what a committed order has taken and not brought back.
func (r Reservation) Outstanding() []Line {
	if r.State != Committed {
		return nil
	}
	left := make(map[string]int64, len(r.Lines))
	for _, l := range r.Lines {
		left[l.SKU] += l.Quantity
	}
	for _, l := range r.Returned {
		left[l.SKU] -= l.Quantity
	}
	return sorted(left)
}

// Check says what is impossible about a reservation that was read from a store.
func (r Reservation) Check() error {
	switch r.State {
	case None, Refused, Held, Committed, Expired, Released:
		return nil
	}
	return errs.New(errs.Internal, "a reservation in the state %q", r.State)
}
