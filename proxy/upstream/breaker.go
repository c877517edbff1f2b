package upstream

import (
	"sync"
	"time"
)

// verdict is what a request says of the upstream.
type verdict int

const (
	nothing  verdict = iota // the client or we ourselves ended it
	good                    // it was answered
	answered                // it was answered, with a failure
	failed                  // it got no answer, or half of one
)

// state is the breaker's.
type state int32

const (
	closed state = iota
	halfOpen
	open
)

func (s state) String() string { return [...]string{"closed", "half_open", "open"}[s] }

const parts = 10 // of the window

// breaker stops requests to an upstream that only fails. See the package for its states.
type breaker struct {
	cfg     Breaker
	changed func(state) // told with the lock held

	mu      sync.Mutex
	state   state
	round   uint64    // counts changes of state: what began before one says nothing after it
	until   time.Time // open until then
	streak  int       // failures in a row
	window  [parts]struct{ slice, good, bad int64 }
	probing int // probes on their way
	passed  int
}

// permit is the right to send one request.
type permit struct {
	round uint64
	probe bool
}

func (b *breaker) allow(now time.Time) (permit, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.state == open {
		if now.Before(b.until) {
			return permit{}, false
		}
		b.turn(halfOpen)
	}
	if b.state == halfOpen {
		// One more probe only if all those on their way and it were needed.
		if b.probing+b.passed >= b.cfg.Probes {
			return permit{}, false
		}
		b.probing++
		return permit{b.round, true}, true
	}
	return permit{round: b.round}, true
}

// forget closes the breaker: what it knows is about another time.
func (b *breaker) forget() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.window = [parts]struct{ slice, good, bad int64 }{}
	if b.streak = 0; b.state != closed {
		b.turn(closed)
	}
}

// record notes what became of a request. Each permit is recorded once; one more time if an answer that began well
// broke off.
func (b *breaker) record(p *permit, v verdict, now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if p.round != b.round {
		return
	}
	probe := p.probe
	p.probe = false
	if probe {
		b.probing--
	}
	if v == nothing {
		return
	}
	if b.state == halfOpen {
		switch {
		case v != good:
			b.until = now.Add(b.cfg.Open)
			b.turn(open)
		case probe:
			if b.passed++; b.passed >= b.cfg.Probes {
				b.turn(closed)
			}
		}
		return
	}
	current := now.UnixNano() / int64(b.cfg.Window/parts)
	w := &b.window[current%parts]
	if w.slice != current {
		w.slice, w.good, w.bad = current, 0, 0
	}
	if v == good {
		w.good++
	} else {
		w.bad++
	}
	if v == failed {
		b.streak++
	} else {
		b.streak = 0
	}
	if v != good && b.trips(current) {
		b.until = now.Add(b.cfg.Open)
		b.turn(open)
	}
}

func (b *breaker) trips(current int64) bool {
	if b.cfg.Consecutive > 0 && b.streak >= b.cfg.Consecutive {
		return true
	}
	var all, bad int64
	for _, w := range b.window {
		if current-w.slice < parts {
			all, bad = all+w.good+w.bad, bad+w.bad
		}
	}
	return b.cfg.Ratio > 0 && all >= int64(b.cfg.Requests) && bad*100 >= all*int64(b.cfg.Ratio)
}

func (b *breaker) turn(s state) {
	b.state = s
	b.round++
	b.streak, b.probing, b.passed = 0, 0, 0
	b.window = [parts]struct{ slice, good, bad int64 }{}
	b.changed(s)
}

// at is the state as a request would find it.
func (b *breaker) at(now time.Time) state {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.state == open && !now.Before(b.until) {
		return halfOpen
	}
	return b.state
}

// budget bounds how many requests are sent again, so that a module in trouble is not asked twice as much.
type budget struct {
	percent, most int // hundredths of a request

	mu   sync.Mutex
	left int
}

func newBudget(cfg Retry) *budget {
	if cfg.Budget == 0 {
		return &budget{}
	}
	return &budget{percent: cfg.Budget, most: max(cfg.Reserve, 1) * 100, left: cfg.Reserve * 100}
}

// earn is for each request.
func (b *budget) earn() {
	b.mu.Lock()
	b.left = min(b.left+b.percent, b.most)
	b.mu.Unlock()
}

// spend is for each one that is sent again.
func (b *budget) spend() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.left < 100 {
		return false
	}
	b.left -= 100
	return true
}
