// Package due does what the rows of a store say is to be done at a time: several things side by side, so that one that takes its time
// keeps no other one waiting. A process never does one thing twice at the same time; what several processes find is theirs to claim.
package due

import (
	"context"
	"sync"
	"time"

	"github.com/banyan-go/banyan/internal/clock"
)

// Item is one thing that is due. Do gives an error if it is due as before: then it is not tried again at once.
type Item struct {
	Key string
	Do  func(ctx context.Context) error
}

// Rows are where things that are to be done are kept.
type Rows interface {
	// Due are up to most of the things that are due at a moment, those that are due longest first.
	Due(ctx context.Context, now time.Time, most int) ([]Item, error)
	// Next is when the first thing after a moment is due, if there is one.
	Next(ctx context.Context, now time.Time) (at time.Time, some bool, err error)
}

const (
	parallel = 8
	batch    = 64
	pause    = 200 * time.Millisecond // after a failure
)

// Loop does what is due in some rows.
type Loop struct {
	rows   Rows
	clock  clock.Clock
	failed func(error)
	wake   chan struct{}
}

// New is a loop over rows; failed hears of what could not be read or done.
func New(rows Rows, c clock.Clock, failed func(error)) *Loop {
	return &Loop{rows: rows, clock: c, failed: failed, wake: make(chan struct{}, 1)}
}

// Wake has the rows looked at now.
func (l *Loop) Wake() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// Run does what is due until ctx ends, and looks at the rows at least once in every poll.
func (l *Loop) Run(ctx context.Context, poll time.Duration) {
	var inside sync.WaitGroup
	defer inside.Wait()
	var waiting []Item
	busy := map[string]bool{}
	done := make(chan string, parallel)
	for ctx.Err() == nil {
		var at <-chan time.Time
		if len(waiting) == 0 && len(busy) < parallel {
			now := l.clock.Now()
			wake := now.Add(poll)
			items, err := l.rows.Due(ctx, now, batch+len(busy))
			if err == nil {
				var next time.Time
				var some bool
				if next, some, err = l.rows.Next(ctx, now); some && next.Before(wake) {
					wake = next
				}
			}
			if err != nil && ctx.Err() == nil {
				l.failed(err)
				wake = l.clock.Now().Add(pause)
			}
			for _, i := range items {
				if !busy[i.Key] {
					waiting = append(waiting, i)
				}
			}
			at = l.clock.At(wake)
		}
		for len(waiting) > 0 && len(busy) < parallel {
			i := waiting[0]
			waiting = waiting[1:]
			busy[i.Key] = true
			inside.Go(func() {
				l.do(ctx, i)
				done <- i.Key
			})
		}
		woken := l.wake
		if at == nil {
			woken = nil // there is no place for more
		}
		select {
		case <-ctx.Done():
		case key := <-done:
			delete(busy, key)
		case <-woken:
		case <-at:
		}
	}
}

func (l *Loop) do(ctx context.Context, i Item) {
	err := i.Do(ctx)
	if err == nil || ctx.Err() != nil {
		return
	}
	l.failed(err)
	select {
	case <-ctx.Done():
	case <-time.After(pause):
	}
}
