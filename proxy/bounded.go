package proxy

import (
	"context"
	"sync"
	"time"
)

// bounded is a context that ends after a time. It starts a timer only when somebody waits for its end, and most requests are
// answered by somebody who does not: a timer costs more than routing does.
type bounded struct {
	context.Context
	until time.Time
	cause error

	mu     sync.Mutex
	armed  context.Context // nil until somebody waits
	cancel context.CancelFunc
	over   bool
}

// bound gives a context that ends with ctx, after d for the cause, or with the function that comes with it.
func bound(ctx context.Context, d time.Duration, cause error) (context.Context, context.CancelFunc) {
	b := &bounded{Context: ctx, until: time.Now().Add(d), cause: cause}
	if earlier, ok := ctx.Deadline(); ok && earlier.Before(b.until) {
		b.until = earlier
	}
	return b, b.end
}

func (b *bounded) Deadline() (time.Time, bool) { return b.until, true }

func (b *bounded) Done() <-chan struct{} { return b.arm().Done() }

func (b *bounded) Err() error {
	b.mu.Lock()
	armed, over := b.armed, b.over
	b.mu.Unlock()
	switch {
	case armed != nil:
		return armed.Err()
	case b.Context.Err() != nil, over, !time.Now().Before(b.until):
		return b.arm().Err()
	}
	return nil
}

// Value also lets the standard library find its own kind of context here, so that those derived from this one need no goroutine.
func (b *bounded) Value(key any) any {
	b.mu.Lock()
	armed := b.armed
	b.mu.Unlock()
	if armed != nil {
		return armed.Value(key)
	}
	return b.Context.Value(key)
}

func (b *bounded) arm() context.Context {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.armed == nil {
		b.armed, b.cancel = context.WithDeadlineCause(b.Context, b.until, b.cause)
		if b.over {
			b.cancel()
		}
	}
	return b.armed
}

func (b *bounded) end() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.over = true
	if b.cancel != nil {
		b.cancel()
	}
}
