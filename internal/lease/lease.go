// Package lease lets one process at a time do the owner-only work of a store: relay, timers, retries.
//
// A lease only avoids double work; no correctness rests on it, because each effect is guarded by a row of its own.
// It is a row in the module's store on the database's clock. A SQLite file has one process, which is the holder.
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
}

// New is a lease for a holder, which is a name unique to the process.
func New(store *unit.Store, holder string, ttl time.Duration, log *slog.Logger) *Lease {
	return &Lease{store: store, holder: holder, ttl: ttl, log: log}
}

// Held says whether this process holds the lease.
func (l *Lease) Held() bool { return l.held.Load() }

// Run calls fn whenever this process holds the lease, with a context that ends when it is lost or ctx ends. It
// returns after ctx has ended and fn has returned, and then gives the lease back.
func (l *Lease) Run(ctx context.Context, fn func(ctx context.Context)) {
	if l.store.DB().Dialect() == database.SQLite {
		l.held.Store(true)
		defer l.held.Store(false)
		fn(ctx)
		return
	}
	for ctx.Err() == nil {
		if ok, err := l.acquire(ctx); err != nil || !ok {
			if err != nil && ctx.Err() == nil {
				l.log.Warn("lease cannot be asked for", "module", l.store.Module(), "error", err)
			}
			pause(ctx, l.ttl/3)
			continue
		}
		l.hold(ctx, fn)
	}
}

func (l *Lease) hold(ctx context.Context, fn func(ctx context.Context)) {
	held, lose := context.WithCancel(ctx)
	defer lose()
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
		ok, err := l.acquire(held)
		switch {
		case err == nil && ok:
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

// acquire takes or renews the lease.
func (l *Lease) acquire(ctx context.Context) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, l.ttl/2)
	defer cancel()
	ok := false
	err := l.store.Do(ctx, func(_ context.Context, w *unit.Work) error {
		r := w.DB.Exec(`INSERT INTO lease (name, holder, epoch, expires_at) VALUES ('owner', ?, 1, clock_timestamp() + make_interval(secs => ?))
			ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, expires_at = excluded.expires_at,
				epoch = lease.epoch + CASE WHEN lease.holder = excluded.holder THEN 0 ELSE 1 END
			WHERE lease.holder = excluded.holder OR lease.expires_at < clock_timestamp()`, l.holder, l.ttl.Seconds())
		ok = r.RowsAffected == 1
		return r.Error
	})
	return ok, err
}

func (l *Lease) release(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
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
