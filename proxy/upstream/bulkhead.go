package upstream

import (
	"container/list"
	"context"
	"sync"
	"time"

	"github.com/banyan-go/banyan/internal/clock"
)

// bulkhead bounds what is in flight and what waits, and knows when nothing is left.
type bulkhead struct {
	cfg   Bulkhead
	clock clock.Clock

	mu       sync.Mutex
	requests int
	streams  int
	queue    list.List // of chan error, first come first served
	closed   bool
	idle     *sync.Cond // signalled when something ends while closed
}

func newBulkhead(cfg Bulkhead, c clock.Clock) *bulkhead {
	b := &bulkhead{cfg: cfg, clock: c}
	b.idle = sync.NewCond(&b.mu)
	return b
}

// enter takes room for a stream or a request; leave gives it back. A request waits for a while if it has to.
func (b *bulkhead) enter(ctx context.Context, stream bool, now time.Time) error {
	b.mu.Lock()
	if b.closed {
		b.mu.Unlock()
		return ErrDraining
	}
	if stream {
		defer b.mu.Unlock()
		if b.streams >= b.cfg.MaxStreams {
			return ErrSaturated
		}
		b.streams++
		return nil
	}
	if b.requests < b.cfg.MaxInFlight {
		b.requests++
		b.mu.Unlock()
		return nil
	}
	if b.queue.Len() >= b.cfg.MaxQueue || b.cfg.QueueWait == 0 {
		b.mu.Unlock()
		return ErrSaturated
	}
	turn := make(chan error, 1)
	place := b.queue.PushBack(turn)
	b.mu.Unlock()

	var err error
	select {
	case err = <-turn:
		return err
	case <-ctx.Done():
		err = ctx.Err()
	case <-b.clock.At(now.Add(b.cfg.QueueWait)):
		err = ErrSaturated
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	select {
	case given := <-turn: // its turn came at the same moment
		return given
	default:
		b.queue.Remove(place)
		return err
	}
}

func (b *bulkhead) leave(stream bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch first := b.queue.Front(); {
	case stream:
		b.streams--
	case first != nil:
		// The room goes to the next one, so the number stays.
		b.queue.Remove(first)
		first.Value.(chan error) <- nil
	default:
		b.requests--
	}
	if b.closed {
		b.idle.Broadcast()
	}
}

// close lets nobody in any more, and sends those away who wait.
func (b *bulkhead) close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	for first := b.queue.Front(); first != nil; first = b.queue.Front() {
		b.queue.Remove(first)
		first.Value.(chan error) <- ErrDraining
	}
	b.idle.Broadcast()
}

// wait returns when no request is left, or no stream, or when ctx ends; and how many are left.
func (b *bulkhead) wait(ctx context.Context, streams bool) int {
	defer context.AfterFunc(ctx, func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.idle.Broadcast()
	})()
	b.mu.Lock()
	defer b.mu.Unlock()
	for {
		left := b.requests
		if streams {
			left = b.streams
		}
		if left == 0 || ctx.Err() != nil {
			return left
		}
		b.idle.Wait()
	}
}

func (b *bulkhead) count() (requests, streams, queued int, closed bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.requests, b.streams, b.queue.Len(), b.closed
}
