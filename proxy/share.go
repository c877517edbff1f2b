package proxy

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/banyan-go/banyan/internal/clock"
	"github.com/banyan-go/banyan/internal/control"
)

// Budgets are the rate limits of all replicas together; *control.Budgets are some.
type Budgets interface {
	Charge(ctx context.Context, limit control.Budget, charges []control.Charge) ([]control.Balance, error)
}

const (
	chargeTimeout = 400 * time.Millisecond // of a statement
	chargeWait    = 500 * time.Millisecond // of a request for its answer
	chargeRetry   = time.Second
	chargeRows    = 500     // clients in a statement
	chargeQueue   = 100_000 // clients that wait to be charged; what more give out is forgotten
)

// sharing charges what the limiters of a process have given out to the budgets of all replicas: one statement at a time,
// for all clients that are due then. While the budgets cannot be reached nobody waits for them.
type sharing struct {
	budgets Budgets
	clock   clock.Clock
	log     *slog.Logger
	timeout time.Duration // of a statement
	wait    time.Duration // of a request for its answer
	healthy atomic.Bool   // Run runs, and its last statement went well
	wake    chan struct{}

	mu    sync.Mutex
	queue []*bucket
}

// newSharing shares nothing before Run runs.
func newSharing(b Budgets, c clock.Clock, log *slog.Logger, r prometheus.Registerer) (*sharing, error) {
	s := &sharing{budgets: b, clock: c, log: log, timeout: chargeTimeout, wait: chargeWait, wake: make(chan struct{}, 1)}
	if s.clock == nil {
		s.clock = clock.System{}
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if r == nil {
		return s, nil
	}
	return s, r.Register(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "banyan_rate_limits_alone", Help: "1 while rate limits are those of this process alone, because the shared ones cannot be reached.",
	}, func() float64 {
		if s.reachable() {
			return 0
		}
		return 1
	}))
}

func (s *sharing) reachable() bool { return s.healthy.Load() }

// add queues a bucket to be charged. It needs the lock of the bucket.
func (s *sharing) add(b *bucket) {
	if b.queued {
		return
	}
	s.mu.Lock()
	if b.queued = len(s.queue) < chargeQueue; b.queued {
		s.queue = append(s.queue, b)
	}
	s.mu.Unlock()
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// await waits for a verdict, but not for ever, and not at all if the budgets were lost just before the question was put.
func (s *sharing) await(answer <-chan verdict) verdict {
	if !s.reachable() {
		return verdict{alone: true}
	}
	t := time.NewTimer(s.wait)
	defer t.Stop()
	select {
	case v := <-answer:
		return v
	case <-t.C:
		return verdict{alone: true}
	}
}

// Run charges until ctx ends.
func (s *sharing) Run(ctx context.Context) error {
	s.healthy.Store(true)
	defer s.lost()
	alone := false
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-s.wake:
		}
		for batch := s.next(chargeRows); len(batch) > 0; batch = s.next(chargeRows) {
			err := s.charge(ctx, batch)
			switch {
			case ctx.Err() != nil:
				return nil
			case err == nil && alone:
				s.log.InfoContext(ctx, "rate limits are shared again")
			case err != nil && !alone:
				s.log.WarnContext(ctx, "rate limits are not shared now; every process has its own", "error", err)
			}
			if alone = err != nil; !alone {
				continue
			}
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(chargeRetry):
			}
		}
	}
}

// lost lets everybody go on alone. Whoever puts a question after that sees that nobody can be asked.
func (s *sharing) lost() {
	s.healthy.Store(false)
	s.mu.Lock()
	waiting := slices.Clone(s.queue)
	s.mu.Unlock()
	for _, b := range waiting {
		b.shard.mu.Lock()
		asking := b.asking
		b.asking = nil
		b.shard.mu.Unlock()
		tell(asking, 0, true)
	}
}

// next takes up to n buckets of one limit from the queue. No client comes twice: one that was forgotten and came back has
// two buckets.
func (s *sharing) next(n int) []*bucket {
	s.mu.Lock()
	defer s.mu.Unlock()
	var batch, rest []*bucket
	seen := map[string]bool{}
	for _, b := range s.queue {
		if len(batch) == n || len(batch) > 0 && b.limiter != batch[0].limiter || seen[b.key] {
			rest = append(rest, b)
			continue
		}
		seen[b.key] = true
		batch = append(batch, b)
	}
	s.queue = rest
	return batch
}

// charge charges buckets of one limit, and answers whoever waits for them.
func (s *sharing) charge(ctx context.Context, batch []*bucket) error {
	l := batch[0].limiter
	charges, asking := make([]control.Charge, len(batch)), make([][]chan verdict, len(batch))
	for i, b := range batch {
		b.shard.mu.Lock()
		charges[i] = control.Charge{Key: b.key, Pay: b.unpaid, Want: len(b.asking)}
		asking[i] = b.asking
		b.unpaid, b.asking, b.queued = 0, nil, false
		b.shard.mu.Unlock()
	}
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	balances, err := s.budgets.Charge(ctx, l.budget, charges)
	if err == nil {
		s.healthy.Store(true)
	} else {
		s.lost() // before those of the batch are told: whoever goes on alone must not come back to ask
	}
	// Read after the answer: the budget is a little fuller by then, which errs on the safe side.
	now := s.clock.Now().UnixNano()
	for i, b := range batch {
		b.shard.mu.Lock()
		if err == nil {
			b.tat = now + max(0, int64(balances[i].Full)) + int64(b.unpaid)*l.step
		} else if b.unpaid = min(b.unpaid+charges[i].Pay, l.rate.Burst); b.unpaid > 0 {
			s.add(b)
		}
		b.shard.mu.Unlock()
		if err == nil {
			tell(asking[i], balances[i].Granted, false)
		} else {
			tell(asking[i], 0, true)
		}
	}
	return err
}

// tell answers those who wait: so many of them got a token.
func tell(asking []chan verdict, granted int, alone bool) {
	for i, answer := range asking {
		answer <- verdict{granted: i < granted, alone: alone}
	}
}
