// Package lease lets one process at a time do the owner-only work of a store: relay, timers, retries.
//
// A lease avoids double work; effects are guarded by rows of their own. It is a row in the module's store on the database's clock. A
// SQLite file has one process, which is the holder.
//
// It has two numbers. The term is the epoch of the module's placement: who owns the module by a later placement takes the lease from who
// had it by an earlier one, whether that has noticed or not, and never the other way round; an owner whose placement is earlier than the
// lease, as one from a backup, is told so. The fence is counted at each change of the holder: what a holder reads and marks as sent names
// it, so that a holder that was cut off neither sees what came after it nor removes what its successor has to send.
package lease

import (
	"context"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/banyan-go/banyan/internal/database"
	"github.com/banyan-go/banyan/internal/unit"
)

// Lease is the right to do a store's owner-only work.
type Lease struct {
	store  *unit.Store
	holder string
	ttl    time.Duration
	log    *slog.Logger
	held   atomic.Bool
	fence  atomic.Int64

	answered atomic.Pointer[time.Time] // when the store last said who has it
}

// New is a lease for a holder, which is a name unique to the process.
func New(store *unit.Store, holder string, ttl time.Duration, log *slog.Logger) *Lease {
	return &Lease{store: store, holder: holder, ttl: ttl, log: log}
}

// Fence is the number of the holding; it stands in the row as long as nobody else has taken the lease.
func (l *Lease) Fence() int64 { return l.fence.Load() }

// Held says whether this process holds the lease.
func (l *Lease) Held() bool { return l.held.Load() }

// A new owner waits for the one before to give the lease back, and then takes it.
const (
	handOver  = time.Second
	askEvery  = 10 * time.Millisecond
	giveBack  = time.Second
	firstTerm = 1
)

// Run calls fn whenever this process holds the lease, with a context that ends when it is lost or ctx ends. It
// returns after ctx has ended and fn has returned, and then gives the lease back. term is the epoch of the module's placement; 0
// stands for the first. outrun, if there is one, is told a later term by which somebody has taken the lease: by this one nobody gets it.
func (l *Lease) Run(ctx context.Context, term uint64, outrun func(ctx context.Context, term uint64), fn func(ctx context.Context)) {
	if l.store.DB().Dialect() == database.SQLite {
		l.held.Store(true)
		defer l.held.Store(false)
		fn(ctx)
		return
	}
	term = max(term, firstTerm)
	began := time.Now()
	for ctx.Err() == nil {
		waited := time.Since(began)
		fence, last, err := l.acquire(ctx, term, waited > handOver)
		if err == nil && fence != 0 {
			l.hold(ctx, term, fence, fn)
			continue
		}
		if last > term && outrun != nil {
			outrun(ctx, last)
		}
		if err != nil && ctx.Err() == nil {
			l.log.Warn("lease cannot be asked for", "module", l.store.Module(), "error", err)
		}
		if err == nil && waited < 2*handOver && term > firstTerm {
			pause(ctx, askEvery) // the side before gives it back in a moment
		} else {
			pause(ctx, l.ttl/3)
		}
	}
}

// WhileAnswering calls fn whenever the store answers what Run asks, whoever holds the lease, with a context that ends when it has not for
// as long as a lease lasts, or when ctx does. It is for what a process does beside the holder: who cannot reach the store stands in the
// way of those who can. It returns after ctx has ended and fn has returned.
func (l *Lease) WhileAnswering(ctx context.Context, fn func(ctx context.Context)) {
	if l.store.DB().Dialect() == database.SQLite {
		fn(ctx)
		return
	}
	for ctx.Err() == nil {
		if !l.answering() {
			pause(ctx, askEvery)
			continue
		}
		near, end := context.WithCancel(ctx)
		done := make(chan struct{})
		go func() {
			defer close(done)
			fn(near)
		}()
		for l.answering() && pause(near, l.ttl/6) {
		}
		end()
		<-done
		if ctx.Err() == nil {
			l.log.Warn("the store does not answer: its messages are left to other processes", "module", l.store.Module())
		}
	}
}

func (l *Lease) answering() bool {
	at := l.answered.Load()
	return at != nil && time.Since(*at) <= l.ttl
}

// hold calls fn as long as nobody else takes the lease. Who finds that somebody else had it meanwhile, as after standing still, has lost
// it too: that one may have changed what fn goes by. Until fn has ended the fence stays that of before.
func (l *Lease) hold(ctx context.Context, term uint64, fence int64, fn func(ctx context.Context)) {
	held, lose := context.WithCancel(ctx)
	defer lose()
	l.fence.Store(fence)
	l.held.Store(true)
	defer l.held.Store(false)
	done := make(chan struct{})
	go func() {
		defer close(done)
		fn(held)
	}()
	renewed := time.Now()
	for held.Err() == nil {
		if !pause(held, l.ttl/3) {
			break
		}
		now, _, err := l.acquire(held, term, false)
		switch {
		case err == nil && now == fence:
			renewed = time.Now()
		case err == nil || time.Since(renewed) > l.ttl:
			l.log.Warn("lease lost", "module", l.store.Module(), "error", err)
			lose()
		}
	}
	<-done
	if ctx.Err() != nil {
		l.release(context.WithoutCancel(ctx))
	}
}

// acquire takes or renews the lease, and gives its fence; 0 if somebody else has it, and the term by which it was taken then. With force
// it is taken from a holder of an earlier term that has not given it back.
func (l *Lease) acquire(ctx context.Context, term uint64, force bool) (fence int64, last uint64, err error) {
	ctx, cancel := context.WithTimeout(ctx, l.ttl/2)
	defer cancel()
	var fences []int64
	err = l.store.Do(ctx, func(_ context.Context, w *unit.Work) error {
		fences = nil
		err := w.DB.Raw(`INSERT INTO lease (name, holder, epoch, expires_at, term) VALUES ('owner', ?, 1, clock_timestamp() + make_interval(secs => ?), ?)
			ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, expires_at = excluded.expires_at, term = excluded.term,
				epoch = lease.epoch + CASE WHEN lease.holder = excluded.holder AND lease.term = excluded.term THEN 0 ELSE 1 END
			WHERE lease.term = excluded.term AND lease.holder = excluded.holder
				OR lease.term <= excluded.term AND lease.expires_at < clock_timestamp()
				OR lease.term < excluded.term AND ?
			RETURNING epoch`, l.holder, l.ttl.Seconds(), int64(term), force).Scan(&fences).Error
		if err != nil || len(fences) > 0 {
			return err
		}
		return w.DB.Raw("SELECT term FROM lease WHERE name = 'owner'").Scan(&last).Error
	})
	if err != nil {
		return 0, 0, err
	}
	now := time.Now()
	l.answered.Store(&now)
	if len(fences) == 0 {
		return 0, last, nil
	}
	return fences[0], 0, nil
}

func (l *Lease) release(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, giveBack)
	defer cancel()
	err := l.store.Do(ctx, func(_ context.Context, w *unit.Work) error {
		return w.DB.Exec("UPDATE lease SET expires_at = clock_timestamp() WHERE name = 'owner' AND holder = ?", l.holder).Error
	})
	if err != nil {
		l.log.Warn("lease not given back, it will run out", "module", l.store.Module(), "error", err)
	}
}

func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
