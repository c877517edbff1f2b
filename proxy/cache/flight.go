package cache

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// flight is a request to a target whose answer others wait for.
type flight struct {
	done    chan struct{}
	entry   *entry // what it brought, nil if that is for nobody else
	onError bool   // entry is stale: the target failed
	again   bool   // it broke off and says nothing: somebody else shall fly
}

// flights are those on their way. Two requests share one if they ask for the same, in the headers by which the
// answers to it vary, as far as that is known before.
type flights struct {
	mu  sync.Mutex
	all map[flightKey]*flight
}

type flightKey struct {
	key    key
	known  bool // what a known caller is answered may be nothing for strangers, and the other way round
	varied string
}

// join is the flight of the key. The one who leads it must land it.
func (f *flights) join(k flightKey) (fl *flight, lead bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if fl := f.all[k]; fl != nil {
		return fl, false
	}
	fl = &flight{done: make(chan struct{})}
	f.all[k] = fl
	return fl, true
}

func (f *flights) land(k flightKey, fl *flight) {
	f.mu.Lock()
	delete(f.all, k)
	f.mu.Unlock()
	close(fl.done)
}

// wait waits for the flight; false if the request or the time has ended before.
func (fl *flight) wait(ctx context.Context, until time.Time) bool {
	select {
	case <-fl.done:
		return true
	default:
	}
	t := time.NewTimer(time.Until(until))
	defer t.Stop()
	select {
	case <-fl.done:
		return true
	case <-t.C:
	case <-ctx.Done():
	}
	return false
}

// budget bounds what is captured at the same time.
type budget struct{ left atomic.Int64 }

func (b *budget) take(n int64) bool {
	if b.left.Add(-n) >= 0 {
		return true
	}
	b.left.Add(n)
	return false
}

func (b *budget) give(n int64) { b.left.Add(n) }
