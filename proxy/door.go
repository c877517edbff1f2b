package proxy

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/banyan-go/banyan/internal/errs"
	"github.com/banyan-go/banyan/proxy/upstream"
)

// Pause bounds the requests of a module that wait here while its owner changes.
type Pause struct {
	Requests int           `mapstructure:"requests"` // that wait, of one module
	Bytes    int64         `mapstructure:"bytes"`    // of their bodies together
	Time     time.Duration `mapstructure:"time"`     // that one waits
}

func (p Pause) check() error {
	switch {
	case p.Requests < 0 || p.Requests > 1_000_000:
		return fmt.Errorf("gateway.pause.requests: %d is not between 0 (nobody waits) and 1000000", p.Requests)
	case p.Bytes < 0 || p.Bytes > 64<<30:
		return fmt.Errorf("gateway.pause.bytes: %d is not between 0 and 68719476736", p.Bytes)
	case p.Time < time.Millisecond || p.Time > time.Minute:
		return fmt.Errorf("gateway.pause.time: %s is not between 1ms and 1m", p.Time)
	}
	return nil
}

// errPaused: the module changes hands, and that takes longer than a request may wait.
var errPaused = errs.New(errs.Unavailable, "this part of the shop is being moved; try again in a moment").After(time.Second)

// door is where the requests of a module enter. It outlives the route tables: when it is closed and nobody is here, nothing of the
// module runs in this process for a request, however old the table is that the request began with.
type door struct {
	closed atomic.Bool
	here   atomic.Int64 // requests that are answered in this process
	away   atomic.Int64 // requests that the second process answers

	mu       sync.Mutex
	opened   chan struct{} // is closed when the door opens
	stirred  chan struct{} // is closed when the door closes, and when the last one leaves a closed door
	stay     context.Context
	cut      context.CancelFunc // ends stay when the door closes
	waiting  int
	bytes    int64
	watching func(waiting int)
}

func newDoor(watching func(waiting int)) *door {
	d := &door{opened: make(chan struct{}), stirred: make(chan struct{}), watching: watching}
	close(d.opened)
	d.stay, d.cut = context.WithCancel(context.Background())
	return d
}

// set closes or opens the door. Whoever opens it has put the table in force before that those who wait shall go by.
func (d *door) set(closed bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed.Load() == closed {
		return
	}
	if closed {
		d.opened = make(chan struct{})
		d.closed.Store(true)
		d.cut()
		d.stir()
		return
	}
	d.stay, d.cut = context.WithCancel(context.Background())
	d.closed.Store(false)
	close(d.opened)
}

// stir needs the lock.
func (d *door) stir() {
	close(d.stirred)
	d.stirred = make(chan struct{})
}

// try enters if the door is open. The count comes before the look: whoever closes the door sees the count, or is seen.
func (d *door) try() bool {
	d.here.Add(1)
	if !d.closed.Load() {
		return true
	}
	d.leave()
	return false
}

func (d *door) leave() {
	if d.here.Add(-1) == 0 && d.closed.Load() {
		d.mu.Lock()
		d.stir()
		d.mu.Unlock()
	}
}

// depart is for a request that has entered and is answered by the second process; it ends with away.Add(-1).
func (d *door) depart() {
	d.away.Add(1)
	d.leave()
}

// enter waits for an open door, as long as limit allows.
func (d *door) enter(ctx context.Context, size int64, limit Pause) error {
	if d.try() {
		return nil
	}
	size = max(0, size)
	d.mu.Lock()
	if d.waiting >= limit.Requests || d.bytes+size > limit.Bytes {
		d.mu.Unlock()
		return errPaused
	}
	d.count(1, size)
	d.mu.Unlock()
	defer func() {
		d.mu.Lock()
		d.count(-1, -size)
		d.mu.Unlock()
	}()
	late := time.NewTimer(limit.Time)
	defer late.Stop()
	for {
		d.mu.Lock()
		opened := d.opened
		d.mu.Unlock()
		if d.try() {
			return nil
		}
		select {
		case <-opened:
		case <-late.C:
			return errPaused
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// count needs the lock.
func (d *door) count(n int, size int64) {
	d.waiting += n
	d.bytes += size
	d.watching(d.waiting)
}

// staying ends when the door closes.
func (d *door) staying() context.Context {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.stay
}

// settle waits until the door is closed and nobody is here.
func (d *door) settle(ctx context.Context) error {
	for {
		d.mu.Lock()
		stirred := d.stirred
		d.mu.Unlock()
		if d.closed.Load() && d.here.Load() == 0 {
			return nil
		}
		select {
		case <-stirred:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// InFlight are the requests of a module that are answered in this process, and those that its second process answers, as seen from
// here. Requests that wait are in neither.
func (g *Gateway) InFlight(module string) (here, away int) {
	d := g.doors[module]
	if d == nil {
		return 0, 0
	}
	return int(d.here.Load()), int(d.away.Load())
}

// Settle waits until the module is paused here (Placement.Paused) and no request of it runs in this process any more. Streams have
// been told to come back. From then on nothing of it runs for a request until it is not paused any more. Run must be running, or
// somebody who calls Apply. Requests at the second process are not waited for: it knows its own.
func (g *Gateway) Settle(ctx context.Context, module string) error {
	d := g.doors[module]
	if d == nil {
		return errs.New(errs.NotFound, "there is no module %q", module)
	}
	if err := d.settle(ctx); err != nil {
		here, _ := g.InFlight(module)
		return fmt.Errorf("module %s: %d requests are still answered here (paused: %v): %w", module, here, d.closed.Load(), err)
	}
	return nil
}

// lasting gives a stream a context that ends, with a cause that lets it end in good order, when the module is paused.
func lasting(ctx context.Context, until context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(until, func() { cancel(upstream.ErrDraining) })
	return ctx, func() {
		stop()
		cancel(nil)
	}
}
