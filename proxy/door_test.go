package proxy

import (
	"context"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// Whoever has settled a door finds nobody behind it until it opens, however many come and go meanwhile, and nobody waits for ever.
func TestDoor(t *testing.T) {
	t.Parallel()
	d := newDoor(func(int) {})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	var inside atomic.Int64
	var settled atomic.Bool
	var all sync.WaitGroup
	var entered atomic.Int64
	done, end := context.WithCancel(ctx)
	for range 16 {
		all.Go(func() {
			for done.Err() == nil {
				if err := d.enter(ctx, 1, Pause{Requests: 100, Bytes: 100, Time: time.Minute}); err != nil {
					t.Errorf("not let in: %v", err)
					return
				}
				inside.Add(1)
				if settled.Load() {
					t.Error("somebody is in although the door has settled")
				}
				entered.Add(1)
				inside.Add(-1)
				d.leave()
			}
		})
	}
	for start := time.Now(); time.Since(start) < time.Second; {
		d.set(true)
		if err := d.settle(ctx); err != nil {
			t.Fatalf("%d are here: %v", d.here.Load(), err)
		}
		settled.Store(true)
		for range 10 {
			runtime.Gosched() // whoever has slipped in comes to light
			if n := inside.Load(); n != 0 {
				t.Errorf("%d are in although the door has settled", n)
			}
		}
		settled.Store(false)
		d.set(false)
		runtime.Gosched()
	}
	end()
	all.Wait()
	if d.here.Load() != 0 || d.waiting != 0 || d.bytes != 0 || entered.Load() == 0 {
		t.Errorf("at the end %d are here and %d wait with %d bytes; %d have entered", d.here.Load(), d.waiting, d.bytes, entered.Load())
	}
}
