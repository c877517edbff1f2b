package discovery

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"
)

// question asks once. If whom it asks can do so, it waits up to wait for the answer to differ from the one before.
type question func(ctx context.Context, wait time.Duration) ([]Endpoint, error)

// watcher is a source that asks again and again.
type watcher struct {
	target string
	begin  func() question // for one Watch: what a question remembers is not shared
	every  time.Duration   // between an answer and the next question
	retry  time.Duration   // between failures at most
	o      Options
}

const (
	longestWait = time.Minute // Consul may have lost what it counted by, and then only the end of the wait helps
	shortPause  = 200 * time.Millisecond
	longPause   = 30 * time.Second
)

// Watch asks until ctx ends.
func (w *watcher) Watch(ctx context.Context, update func([]Endpoint)) error {
	ask := w.begin()
	known, err := w.first(ctx, ask)
	if err != nil || ctx.Err() != nil {
		return err
	}
	w.o.Log.Info("endpoints found", "target", w.target, "endpoints", known)
	update(slices.Clone(known))
	var empty, failing time.Time // since when
	backoff := shortPause
	for pause := w.every; sleep(ctx, jitter(pause)); {
		wait := longestWait
		if !empty.IsZero() && len(known) > 0 {
			wait = w.doubt(empty)
		}
		answer, err := ask(ctx, wait)
		if ctx.Err() != nil {
			break
		}
		pause = w.every
		switch {
		case err != nil:
			pause, backoff = min(backoff, w.retry), min(2*backoff, longPause)
		case len(answer) > 0:
			empty = time.Time{}
		case len(known) > 0:
			if empty.IsZero() {
				empty = time.Now()
			}
			if time.Since(empty) < w.o.EmptyAfter {
				err = w.none()
				pause = min(pause, w.doubt(empty))
			}
		}
		if err != nil {
			if failing.IsZero() { // once, not with every question
				failing = time.Now()
				w.o.Log.Warn("endpoints cannot be found; those that are known stay", "target", w.target, "endpoints", len(known), "error", err)
			}
			continue
		}
		backoff = shortPause
		if !failing.IsZero() {
			w.o.Log.Info("there is an answer again", "target", w.target, "after", time.Since(failing).Round(time.Millisecond))
			failing = time.Time{}
		}
		if answer = sorted(answer); !slices.Equal(answer, known) {
			w.o.Log.Info("endpoints changed", "target", w.target, "endpoints", answer)
			known = answer
			update(slices.Clone(known))
		}
	}
	return nil
}

// first asks until there is an answer with endpoints, or the time is over.
func (w *watcher) first(ctx context.Context, ask question) ([]Endpoint, error) {
	until, cancel := context.WithTimeout(ctx, w.o.First)
	defer cancel()
	var last error
	for pause := shortPause; ; pause = min(2*pause, time.Second) {
		answer, err := ask(until, longestWait)
		if err == nil && len(answer) > 0 {
			return sorted(answer), nil
		}
		if err == nil {
			err = w.none()
		}
		if last == nil || until.Err() == nil {
			last = err // and not that the last question was broken off
		}
		if !sleep(until, jitter(pause)) {
			if ctx.Err() != nil {
				return nil, nil
			}
			return nil, fmt.Errorf("no endpoints within %s: %w", w.o.First, last)
		}
	}
}

func (w *watcher) none() error { return fmt.Errorf("%s: the answer has no endpoints", w.target) }

// doubt is for how long an answer without endpoints is still not believed.
func (w *watcher) doubt(since time.Time) time.Duration {
	return max(w.o.EmptyAfter-time.Since(since), shortPause)
}

// jitter is d, give or take a tenth: replicas that started together shall not ask together for ever.
func jitter(d time.Duration) time.Duration { return d - d/10 + rand.N(d/5+1) }

// sleep says whether ctx is still there afterwards.
func sleep(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return ctx.Err() == nil
	}
}
