package proxy

import (
	"hash/maphash"
	"math"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/banyan-go/banyan/internal/control"
	"github.com/banyan-go/banyan/internal/errs"
)

// limiter is one token bucket per client, kept as the time at which it is full again (GCRA). It remembers so many clients
// and no more: one whose bucket is full again is forgotten without anybody noticing.
//
// Alone, a process lets a client have exactly what the limit says. With replicas, one budget on PostgreSQL is shared by
// all of them, and most requests still need no SQL: a process gives out a lot of tokens, a twentieth of the burst, and
// charges them to the budget while it goes on. Tokens that were given out but not charged are two lots at most, one on
// its way and one after it; who needs more waits for the budget's answer. So N replicas together let a client have
//
//	burst + rate * time + N * 2 * lot        (at most a tenth of the burst more per replica)
//
// in any stretch of time, and exactly what the limit says where the burst is less than 20, as for logins: there the lot
// is 0, and every request asks. This holds as long as the budget can be reached and the client is remembered. While it
// cannot be reached every process goes on by itself, with the whole limit, and charges what it gave out afterwards.
type limiter struct {
	rate   Rate
	step   int64         // nanoseconds that a token takes to come back
	burst  int64         // nanoseconds that all of them take
	full   time.Duration // after which an untouched bucket is full
	seed   maphash.Seed
	shards [16]limiterShard
	max    int // clients per shard
	limit  []string
	policy []string
	name   string

	shared *sharing // nil: this process is alone
	budget control.Budget
	lot    int
}

type limiterShard struct {
	mu      sync.Mutex
	clients map[string]*bucket
}

type bucket struct {
	limiter *limiter
	shard   *limiterShard
	key     string
	tat     int64 // when it is full again, as far as this process knows
	last    time.Time

	unpaid int  // tokens that were given out here and are not charged yet
	queued bool // waits to be charged
	asking []chan verdict
}

// verdict is what the shared budget says to one request.
type verdict struct {
	granted bool
	alone   bool // it cannot be asked
}

func newLimiter(r Rate, clients int) *limiter { return newSharedLimiter("default", r, clients, nil) }

// newSharedLimiter is a limit whose budget is shared, unless shared is nil. Its name is told to clients.
func newSharedLimiter(name string, r Rate, clients int, shared *sharing) *limiter {
	if r.PerSecond == 0 {
		return nil
	}
	// What takes longer than a day to come back is cut off there: nobody is remembered that long.
	const day = float64(24 * time.Hour)
	step := max(1, min(float64(time.Second)/r.PerSecond, day))
	l := &limiter{
		rate: r, step: int64(step), burst: int64(min(float64(r.Burst)*math.Floor(step), 1<<61)), seed: maphash.MakeSeed(), name: name,
		full: time.Duration(min(float64(r.Burst)*step, day)), limit: []string{strconv.Itoa(r.Burst)},
		shared: shared, budget: control.Budget{Name: name, PerSecond: r.PerSecond, Burst: r.Burst}, lot: r.Burst / 20,
	}
	window := max(1, math.Ceil(float64(r.Burst)/r.PerSecond))
	l.policy = []string{strconv.Quote(name) + ";q=" + l.limit[0] + ";w=" + strconv.FormatFloat(window, 'f', 0, 64)}
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
	b := s.clients[key]
	if b == nil {
		if len(s.clients) >= l.max {
			l.forget(s, now)
		}
		b = &bucket{limiter: l, shard: s, key: key}
		s.clients[key] = b
	}
	b.last = now
	if l.shared == nil || b.unpaid < l.lot || !l.shared.reachable() {
		defer s.mu.Unlock()
		return b.take(now)
	}
	if wait := b.wait(now); wait > 0 { // the budget has said so: no need to ask it again
		s.mu.Unlock()
		return 0, wait
	}
	answer := make(chan verdict, 1)
	b.asking = append(b.asking, answer)
	l.shared.add(b)
	s.mu.Unlock()

	v := l.shared.await(answer)
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case v.alone:
		return b.take(now)
	case v.granted:
		return b.left(now), 0
	}
	return 0, max(time.Millisecond, b.wait(now))
}

// take gives out a token by what is known here.
func (b *bucket) take(now time.Time) (left int, wait time.Duration) {
	if wait = b.wait(now); wait > 0 {
		return 0, wait
	}
	b.tat = max(b.tat, now.UnixNano()) + b.limiter.step
	if shared := b.limiter.shared; shared != nil {
		b.unpaid = min(b.unpaid+1, b.limiter.rate.Burst)
		if b.unpaid >= b.limiter.lot {
			shared.add(b)
		}
	}
	return b.left(now), 0
}

// wait is the time until there is a token; 0 if there is one.
func (b *bucket) wait(now time.Time) time.Duration {
	short := max(b.tat-now.UnixNano(), 0) + b.limiter.step - b.limiter.burst
	if short <= 0 {
		return 0
	}
	return max(time.Millisecond, time.Duration(short))
}

// left is how many tokens there are.
func (b *bucket) left(now time.Time) int {
	return int(max(0, (b.limiter.burst-max(b.tat-now.UnixNano(), 0))/b.limiter.step))
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

// check takes a token and says so in the headers; an error tells the client to wait. A request that has several limits
// has a RateLimit and a RateLimit-Policy of each (draft-ietf-httpapi-ratelimit-headers), and the older headers of the last.
func (l *limiter) check(h http.Header, key string, now time.Time) error {
	left, wait := l.take(key, now)
	reset := wait
	if wait == 0 {
		reset = time.Duration(l.burst - int64(left)*l.step)
	}
	remaining, seconds := strconv.Itoa(left), strconv.FormatInt(int64((reset+time.Second-1)/time.Second), 10)
	values := [2]string{remaining, seconds}
	h["Ratelimit-Limit"] = l.limit
	h["Ratelimit-Remaining"] = values[:1:1]
	h["Ratelimit-Reset"] = values[1:]
	h["Ratelimit-Policy"] = append(h["Ratelimit-Policy"], l.policy...)
	h["Ratelimit"] = append(h["Ratelimit"], `"`+l.name+`";r=`+remaining+`;t=`+seconds)
	if wait > 0 {
		return errs.New(errs.Throttled, "too many requests").After(wait)
	}
	return nil
}
