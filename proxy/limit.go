package proxy

import (
	"hash/maphash"
	"math"
	"net/http"
	"strconv"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/banyan-go/banyan/internal/errs"
)

// limiter is one token bucket per client. It remembers so many clients and no more: one whose bucket is full again
// is forgotten without anybody noticing.
type limiter struct {
	rate   Rate
	full   time.Duration // after which an untouched bucket is full
	seed   maphash.Seed
	shards [16]limiterShard
	max    int // clients per shard
	limit  []string
}

type limiterShard struct {
	mu      sync.Mutex
	clients map[string]*bucket
}

type bucket struct {
	limiter *rate.Limiter
	last    time.Time
}

func newLimiter(r Rate, clients int) *limiter {
	if r.PerSecond == 0 {
		return nil
	}
	l := &limiter{
		rate: r, full: time.Duration(min(float64(r.Burst)/r.PerSecond*float64(time.Second), float64(24*time.Hour))), seed: maphash.MakeSeed(),
		limit: []string{strconv.Itoa(r.Burst)},
	}
	l.max = max(1, clients/len(l.shards))
	for i := range l.shards {
		l.shards[i].clients = map[string]*bucket{}
	}
	return l
}

// take takes a token of the client. It says how many are left and, if there was none, when there is one again.
func (l *limiter) take(key string, now time.Time) (left int, wait time.Duration) {
	s := &l.shards[maphash.String(l.seed, key)%uint64(len(l.shards))]
	s.mu.Lock()
	defer s.mu.Unlock()
	b := s.clients[key]
	if b == nil {
		if len(s.clients) >= l.max {
			l.forget(s, now)
		}
		b = &bucket{limiter: rate.NewLimiter(rate.Limit(l.rate.PerSecond), l.rate.Burst)}
		s.clients[key] = b
	}
	b.last = now
	if b.limiter.AllowN(now, 1) {
		return int(b.limiter.TokensAt(now)), 0
	}
	missing := 1 - b.limiter.TokensAt(now)
	return 0, max(time.Millisecond, time.Duration(missing/l.rate.PerSecond*float64(time.Second)))
}

// forget makes room: for all whose bucket is full again, else for whoever comes first, which gives that one a new
// bucket. Memory stays bounded, whoever floods us with addresses.
func (l *limiter) forget(s *limiterShard, now time.Time) {
	for key, b := range s.clients {
		if now.Sub(b.last) >= l.full {
			delete(s.clients, key)
		}
	}
	for key := range s.clients {
		if len(s.clients) < l.max {
			return
		}
		delete(s.clients, key)
	}
}

// check takes a token and says so in the headers; an error tells the client to wait.
func (l *limiter) check(h http.Header, key string, now time.Time) error {
	left, wait := l.take(key, now)
	h["Ratelimit-Limit"] = l.limit
	h["Ratelimit-Remaining"] = []string{strconv.Itoa(left)}
	reset := wait
	if wait == 0 {
		reset = time.Duration(float64(l.rate.Burst-left) / l.rate.PerSecond * float64(time.Second))
	}
	h["Ratelimit-Reset"] = []string{strconv.Itoa(int(math.Ceil(reset.Seconds())))}
	if wait > 0 {
		return errs.New(errs.Throttled, "too many requests").After(wait)
	}
	return nil
}
