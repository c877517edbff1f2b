package upstream

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// endpoint is one address of an upstream.
type endpoint struct {
	up     *Upstream
	addr   string
	scheme string
	pooled carrier // requests
	long   carrier // streams, which may take their time to answer, and health checks, which must not wait for room

	inFlight atomic.Int64 // requests, without streams
	streams  atomic.Int64
	weight   atomic.Int64
	streak   atomic.Int64 // failures in a row

	gone   context.Context // ends when the endpoint is no longer one
	retire context.CancelFunc

	// Guarded by the upstream's lock.
	checked bool // by a health check
	well    bool // as far as health checks go
	fails   int
	passes  int
	out     time.Time // left out until then
	fault   string    // why it is not well, for people

	mu    sync.Mutex
	conns map[*conn]struct{}
	cut   bool
}

// Endpoint is an address that was discovered.
type Endpoint struct {
	Addr   string // host:port
	Weight int    // its share, compared with the others'; less than 1 is 1
}

// Source finds the endpoints of an upstream.
type Source interface {
	// Watch calls update at once with the first answer, and with all of them at each change, until ctx ends. While nothing
	// can be found out the last answer stays.
	Watch(ctx context.Context, update func([]Endpoint)) error
}

func (u *Upstream) newEndpoint(addr string, secure bool, weight int) *endpoint {
	e := &endpoint{up: u, addr: addr, scheme: "http", well: true, conns: map[*conn]struct{}{}}
	e.weight.Store(int64(max(weight, 1)))
	if secure {
		e.scheme = "https"
	}
	e.gone, e.retire = context.WithCancel(context.Background())
	pool := &u.cfg.Pool
	if u.cfg.Protocol != H1 {
		e.long = &multiplexed{endpoint: e, factory: newTransport(e, 0, 0)}
		e.pooled = &multiplexed{endpoint: e, factory: newTransport(e, 0, pool.Header)}
		return e
	}
	e.long = &standard{newTransport(e, 0, 0)}
	usual := &standard{newTransport(e, pool.MaxConns, pool.Header)}
	e.pooled = usual
	if u.cfg.Transport == Synchronous {
		e.pooled = newSynchronous(e, usual)
	}
	return e
}

// enter takes a place of the pool. Over h2 one connection has room for all that the bulkhead lets in.
func (e *endpoint) enter(stream bool) error {
	count := &e.inFlight
	if stream {
		count = &e.streams
	}
	n := count.Add(1)
	// Counted first, looked at then: whoever retires the endpoint and finds nobody in it can rely on that.
	if e.gone.Err() != nil {
		e.leave(stream)
		return errGone
	}
	if !stream && n > int64(e.up.cfg.Pool.MaxConns) && e.up.cfg.Protocol == H1 {
		e.leave(stream)
		return ErrSaturated
	}
	return nil
}

// errGone: the endpoint is no longer one.
var errGone = errors.New("upstream: the endpoint has gone")

func (e *endpoint) leave(stream bool) {
	if stream {
		e.streams.Add(-1)
	} else {
		e.inFlight.Add(-1)
	}
	if e.gone.Err() != nil && e.load() == 0 {
		e.up.swept()
	}
}

// keep takes a new connection into the list of those that can be cut.
func (e *endpoint) keep(c *conn) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.cut {
		return false
	}
	e.conns[c] = struct{}{}
	return true
}

func (e *endpoint) forget(c *conn) {
	e.mu.Lock()
	delete(e.conns, c)
	e.mu.Unlock()
}

// sever closes every connection, and lets none come about any more.
func (e *endpoint) sever() {
	e.mu.Lock()
	e.cut = true
	all := make([]*conn, 0, len(e.conns))
	for c := range e.conns {
		all = append(all, c)
	}
	e.mu.Unlock()
	for _, c := range all {
		_ = c.Close()
	}
}

func (e *endpoint) closeIdle() {
	e.pooled.closeIdle()
	e.long.closeIdle()
}

// note tells the endpoint what became of a request to it.
func (e *endpoint) note(v verdict) {
	switch v {
	case nothing:
	case good:
		if e.streak.Load() != 0 {
			e.streak.Store(0)
		}
	default:
		if limit := int64(e.up.cfg.Health.Passive.Consecutive); limit > 0 && e.streak.Add(1) >= limit {
			e.up.eject(e)
		}
	}
}

// choice is who may be sent to. It never changes; a new one takes its place.
type choice struct {
	turns []*endpoint // each as often as its weight says, evenly spread
	well  int         // endpoints that are
	all   bool        // too many are not, so all are used
	until time.Time   // when one that is left out comes back; zero if none is
}

// choose works out who may be sent to. The upstream's lock is held.
func (u *Upstream) choose(now time.Time) *choice {
	c := &choice{}
	usable := make([]*endpoint, 0, len(u.endpoints))
	for _, e := range u.endpoints {
		if now.Before(e.out) && (c.until.IsZero() || e.out.Before(c.until)) {
			c.until = e.out
		}
		if e.well && !now.Before(e.out) {
			usable = append(usable, e)
		}
	}
	c.well = len(usable)
	if out := len(u.endpoints) - len(usable); out*100 > u.cfg.Health.MaxOut*len(u.endpoints) {
		c.all, usable = true, u.endpoints
	}
	c.turns = spread(usable)
	return c
}

const mostTurns = 16 // of an endpoint; weights are scaled down to it

// spread makes the smooth round: with weights 2 and 1 it is a b a, not a a b.
func spread(list []*endpoint) []*endpoint {
	share, owed := make([]int64, len(list)), make([]int64, len(list))
	least, most, total := int64(0), int64(0), int64(0)
	for i, e := range list {
		share[i] = e.weight.Load()
		least, most = min(share[i], least), max(share[i], most)
		if i == 0 {
			least = share[i]
		}
	}
	if least == most {
		return slices.Clone(list)
	}
	for i := range share {
		if most > mostTurns {
			share[i] = max(1, share[i]*mostTurns/most)
		}
		total += share[i]
	}
	turns := make([]*endpoint, 0, total)
	for range total {
		next := 0
		for i := range list {
			if owed[i] += share[i]; owed[i] > owed[next] {
				next = i
			}
		}
		owed[next] -= total
		turns = append(turns, list[next])
	}
	return turns
}

// pick takes an endpoint that was not tried yet and has room.
func (u *Upstream) pick(now time.Time, stream bool, tried []*endpoint) (*endpoint, error) {
	c := u.choice.Load()
	if !c.until.IsZero() && !now.Before(c.until) {
		c = u.refresh()
	}
	n := len(c.turns)
	if n == 0 {
		return nil, ErrNoEndpoint
	}
	var first *endpoint
	start := 0
	if u.cfg.Balance == LeastInFlight {
		start = rand.IntN(n)
		first = c.turns[start]
		if n > 1 {
			other := c.turns[(start+1+rand.IntN(n-1))%n]
			if other.load()*first.weight.Load() < first.load()*other.weight.Load() {
				first = other
			}
		}
	} else {
		start = int(u.cursor.Add(1) % uint64(n))
		first = c.turns[start]
	}
	err := ErrNoEndpoint
	for i := -1; i < n; i++ {
		e := first
		if i >= 0 {
			e = c.turns[(start+i)%n]
		}
		if slices.Contains(tried, e) {
			continue
		}
		switch e.enter(stream) {
		case nil:
			return e, nil
		case errGone:
			// The choice without it was there before it went.
			return u.pick(now, stream, tried)
		default:
			err = ErrSaturated
		}
	}
	return nil, err
}

func (e *endpoint) load() int64 { return e.inFlight.Load() + e.streams.Load() }

// carrier takes a request to an endpoint and brings the header of the answer.
type carrier interface {
	// prepare gives the context to send with, so that the attempt learns what became of it.
	prepare(ctx context.Context, a *attempt) context.Context
	send(out *http.Request, a *attempt) (*http.Response, error)
	closeIdle()
}
