// Package clock is the time as the platform sees it, so that a test can let an hour pass at once.
package clock

import (
	"sync"
	"time"
)

// Clock tells the time and wakes sleepers. Times are UTC with microseconds, as the stores keep them.
type Clock interface {
	Now() time.Time
	// At sends once it is t or later: a moment, not a duration, so that nothing is missed when the time moves between
	// working it out and waiting for it. The channel is buffered: it may be dropped unread.
	At(t time.Time) <-chan time.Time
}

// System is the machine's clock.
type System struct{}

// Now is the current time, UTC, cut to microseconds.
func (System) Now() time.Time { return time.Now().UTC().Truncate(time.Microsecond) }

// At is time.After for what is left until t.
func (System) At(t time.Time) <-chan time.Time { return time.After(time.Until(t)) }

// Simulated is a clock that moves only when told to.
type Simulated struct {
	mu       sync.Mutex
	now      time.Time
	sleepers []sleeper
}

type sleeper struct {
	at time.Time
	ch chan time.Time
}

// NewSimulated is a clock that stands at start.
func NewSimulated(start time.Time) *Simulated {
	return &Simulated{now: start.UTC().Truncate(time.Microsecond)}
}

// Now is where the clock stands.
func (s *Simulated) Now() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.now
}

// At sends once the clock was advanced to t.
func (s *Simulated) At(t time.Time) <-chan time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	ch := make(chan time.Time, 1)
	if !t.After(s.now) {
		ch <- s.now
		return ch
	}
	s.sleepers = append(s.sleepers, sleeper{at: t, ch: ch})
	return ch
}

// Advance moves the clock and wakes whoever is due.
func (s *Simulated) Advance(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now = s.now.Add(d)
	rest := s.sleepers[:0]
	for _, w := range s.sleepers {
		if w.at.After(s.now) {
			rest = append(rest, w)
			continue
		}
		w.ch <- s.now
	}
	s.sleepers = rest
}
