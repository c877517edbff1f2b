package prove

import (
	"cmp"
	"fmt"
	"slices"
	"time"
)

// Owed is a message that a module owes to another: the publisher's transaction has committed.
type Owed struct {
	Publisher, Subscriber, ID, Name, Key string
	Sequence                             int64 // of the publisher's key
	At                                   time.Time
}

// Taken is a message that a handler has taken, in the order of what the witness saw.
type Taken struct {
	Serial              int64
	Module, Handler, ID string
	At                  time.Time
}

// Testimony is what the witness saw.
type Testimony struct {
	Owed  []Owed
	Taken []Taken
	Dead  []string // messages that were given up, for people
}

// Pause is how long messages were on their way.
type Pause struct {
	Messages int           `json:"messages"`
	Median   time.Duration `json:"median_ns"`
	P99      time.Duration `json:"p99_ns"`
	Longest  time.Duration `json:"longest_ns"`
	Of       string        `json:"of"` // the one that took longest
}

// examine finds messages that were owed and not handled, handled twice, and handled out of order.
func examine(t Testimony, unordered func(module, handler string) bool) []Violation {
	var found []Violation
	say := func(kind, key, format string, args ...any) {
		found = append(found, Violation{Kind: kind, What: "message", Key: key, Detail: fmt.Sprintf(format, args...)})
	}
	for _, d := range t.Dead {
		say(Stuck, d, "it is a dead letter")
	}
	owed := map[[2]string]Owed{} // by subscriber and id
	for _, o := range t.Owed {
		owed[[2]string{o.Subscriber, o.ID}] = o
	}
	type stream struct{ publisher, key, module, handler string }
	last := map[stream]Owed{}
	taken, handled := map[[3]string]int{}, map[[2]string]bool{}
	slices.SortFunc(t.Taken, func(a, b Taken) int { return cmp.Compare(a.Serial, b.Serial) })
	for _, h := range t.Taken {
		o, ok := owed[[2]string{h.Module, h.ID}]
		if !ok {
			continue // a command that was asked for directly
		}
		handled[[2]string{h.Module, h.ID}] = true
		once := [3]string{h.Module, h.Handler, h.ID}
		if taken[once]++; taken[once] > 1 {
			say(Doubled, h.ID, "%s (key %s, sequence %d of %s) was taken %d times by %s/%s", o.Name, o.Key, o.Sequence, o.Publisher, taken[once], h.Module, h.Handler)
			continue
		}
		s := stream{o.Publisher, o.Key, h.Module, h.Handler}
		if before, ok := last[s]; ok && before.Sequence > o.Sequence && !unordered(h.Module, h.Handler) {
			say(Reordered, o.Key, "%s/%s took %s (sequence %d of %s) after %s (sequence %d)", h.Module, h.Handler, o.Name, o.Sequence, o.Publisher, before.Name, before.Sequence)
			continue
		}
		last[s] = o
	}
	for k, o := range owed {
		if !handled[k] {
			say(Lost, o.ID, "%s (key %s, sequence %d of %s) was never taken by %s", o.Name, o.Key, o.Sequence, o.Publisher, o.Subscriber)
		}
	}
	return found
}

// pauses is how long the messages from and to a module were on their way, by the database's clock.
func pauses(t Testimony, module string) Pause {
	sent := map[[2]string]Owed{}
	for _, o := range t.Owed {
		if o.Publisher == module || o.Subscriber == module {
			sent[[2]string{o.Subscriber, o.ID}] = o
		}
	}
	var all []time.Duration
	var p Pause
	for _, h := range t.Taken {
		if o, ok := sent[[2]string{h.Module, h.ID}]; ok {
			d := h.At.Sub(o.At)
			if all = append(all, d); d > p.Longest {
				p.Longest, p.Of = d, fmt.Sprintf("%s from %s to %s, key %s", o.Name, o.Publisher, o.Subscriber, o.Key)
			}
		}
	}
	p.Messages, p.Median, p.P99 = len(all), quantile(all, 0.5), quantile(all, 0.99)
	return p
}

// quantile sorts what it is given.
func quantile(all []time.Duration, q float64) time.Duration {
	if len(all) == 0 {
		return 0
	}
	slices.Sort(all)
	return all[min(len(all)-1, int(q*float64(len(all))))]
}
