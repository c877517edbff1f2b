package token

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/banyan-go/banyan/internal/clock"
)

// Refresher reads keys again and again, and at once when somebody names a key that is not known. However many strange
// keys are named, it reads one at a time and, asked, only some time after the last time: nobody can make it flood
// whoever has the keys.
type Refresher struct {
	o RefresherOptions

	mu      sync.Mutex
	running chan struct{} // closed when the reading under way has ended; nil if there is none
	begun   time.Time     // the last reading
	healthy bool
}

// RefresherOptions say how.
type RefresherOptions struct {
	Read    func(ctx context.Context) error
	Every   time.Duration // between two readings of Run
	Pause   time.Duration // from the last reading until Ask begins another one
	Timeout time.Duration // of one reading
	Clock   clock.Clock
	Log     *slog.Logger
	What    string // what is read, for the log
}

// NewRefresher does nothing yet.
func NewRefresher(o RefresherOptions) *Refresher {
	if o.Clock == nil {
		o.Clock = clock.System{}
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &Refresher{o: o, healthy: true}
}

// Ask reads, unless that was tried just now, and returns when it has been done. A reading under way counts.
func (r *Refresher) Ask() {
	r.mu.Lock()
	if r.running == nil && !r.begun.IsZero() && r.o.Clock.Now().Before(r.begun.Add(r.o.Pause)) {
		r.mu.Unlock()
		return
	}
	done := r.begin()
	r.mu.Unlock()
	<-done
}

// Now reads something that was changed just before. A reading under way may have missed it, and does not count.
func (r *Refresher) Now() {
	r.mu.Lock()
	underWay := r.running
	r.mu.Unlock()
	if underWay != nil {
		<-underWay
	}
	r.mu.Lock()
	done := r.begin()
	r.mu.Unlock()
	<-done
}

// begin starts a reading unless there is one. It needs the lock.
func (r *Refresher) begin() <-chan struct{} {
	if r.running != nil {
		return r.running
	}
	done := make(chan struct{})
	r.running, r.begun = done, r.o.Clock.Now()
	// It belongs to nobody who waits for it: one of them may go, and the others still need it.
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), r.o.Timeout)
		defer cancel()
		err := r.o.Read(ctx)
		r.mu.Lock()
		was := r.healthy
		r.running, r.healthy = nil, err == nil
		r.mu.Unlock()
		switch {
		case err != nil && was:
			r.o.Log.Warn(r.o.What+" cannot be read; those known stay in use", "error", err)
		case err == nil && !was:
			r.o.Log.Info(r.o.What + " can be read again")
		}
		close(done)
	}()
	return done
}

// Run reads at once, and then again and again until ctx ends.
func (r *Refresher) Run(ctx context.Context) error {
	for {
		r.mu.Lock()
		done := r.begin()
		r.mu.Unlock()
		select {
		case <-done:
		case <-ctx.Done():
			<-done // it ends by its own timeout; nothing of it is left behind
			return nil
		}
		select {
		case <-ctx.Done():
			return nil
		case <-r.o.Clock.At(r.o.Clock.Now().Add(r.o.Every)):
		}
	}
}
