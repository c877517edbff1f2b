package gate

import (
	"math"
	"math/bits"
	"time"
)

const (
	// prior is how many requests at p0 the local side is taken to have answered before the first one: a few local
	// failures at the start do not make anything tolerable.
	prior = 50
	// memory is after how many local requests they count half.
	memory = 2048
	// likelyGood is the evidence for p0 rather than p1 that is good: p1 is 20 times less likely.
	likelyGood = 3
	// shared is how likely the remote side fails no more than the local one, for a fault to be taken as that of both.
	shared = 0.01
	// fewLocal failures prove no fault that both share.
	fewLocal = 3
	// recent local requests are looked at when there were fewer since the remote side began to fail.
	recent = 16
)

// tally counts one side.
type tally struct{ requests, failures uint64 }

func (t *tally) add(failed bool) {
	t.requests++
	if failed {
		t.failures++
	}
}

func (t tally) since(then tally) tally {
	return tally{t.requests - then.requests, t.failures - then.failures}
}

// cusum is the rule "errors".
type cusum struct {
	cfg   CUSUM
	odds  float64 // p1's to p0's: it is kept when p0 follows the local side
	local tally   // of the last thousand or two
	last  uint16  // the recent local requests, a bit for each that failed

	p0, up, down float64 // what is tolerated now, and what a failure and a success weigh
	sum          float64
	whole        float64 // as sum, but over the whole stage and free to fall

	// Where the sum left 0.
	since           time.Time
	remote0, local0 tally
}

func newCUSUM(cfg CUSUM) cusum {
	c := cusum{cfg: cfg, odds: odds(cfg.P1) / odds(cfg.P0)}
	c.weigh()
	return c
}

// weigh sets p0 to what is tolerated or what the local side shows, if that is more.
func (c *cusum) weigh() {
	shown := (float64(c.local.failures) + prior*c.cfg.P0) / (float64(c.local.requests) + prior)
	c.p0 = min(max(c.cfg.P0, shown), 0.95)
	p1 := share(odds(c.p0) * c.odds)
	c.up, c.down = math.Log(p1/c.p0), math.Log((1-p1)/(1-c.p0))
}

func (c *cusum) addLocal(failed bool) {
	c.local.add(failed)
	c.last <<= 1
	if failed {
		c.last |= 1
	}
	if c.local.requests >= memory {
		c.local.requests /= 2
		c.local.failures /= 2
	}
	// Logarithms are for when something changes.
	if failed || c.local.requests%64 == 0 {
		c.weigh()
	}
}

// addRemote says whether it is bad. The totals are those of the stage, with this request in them.
func (c *cusum) addRemote(failed bool, at time.Time, remote, local tally) bool {
	if !failed {
		c.sum = max(0, c.sum+c.down)
		c.whole += c.down
		return false
	}
	if c.sum == 0 {
		c.since, c.remote0, c.local0 = at, tally{remote.requests - 1, remote.failures - 1}, local
	}
	c.sum += c.up
	c.whole += c.up
	if c.sum < c.cfg.H {
		return false
	}
	r, l := c.stretch(remote, local)
	if l.failures >= fewLocal {
		expected := float64(r.requests) / float64(r.requests+l.requests)
		if atLeast(r.failures, r.failures+l.failures, expected) > shared {
			c.sum = 0 // the next failures are compared anew
			return false
		}
	}
	return true
}

// stretch is what both sides have answered since the sum left 0.
func (c *cusum) stretch(remote, local tally) (r, l tally) {
	r, l = remote.since(c.remote0), local.since(c.local0)
	if l.requests < recent && local.requests >= recent {
		l = tally{recent, uint64(bits.OnesCount16(c.last))}
	}
	return r, l
}

// state is good once p1 is unlikely, and while nothing points to it.
func (c *cusum) state() State {
	if c.whole <= -likelyGood && c.sum < c.cfg.H/2 {
		return Good
	}
	return NotEnough
}
