package gate

import (
	"math/bits"
	"sort"
	"time"
)

// chance is how likely a window may be breached without cause. A window alone decides nothing, so it need not be small.
const chance = 0.01

// histogram counts times in steps of about 3 %, from 1 µs to 2 minutes.
type histogram struct {
	counts [buckets]uint32
	n      uint64
}

const (
	fine    = 32 // steps from one power of two to the next
	octaves = 23
	buckets = fine * octaves
)

// bucket is where a time belongs.
func bucket(d time.Duration) int {
	v := uint64(max(d, 0)) / uint64(time.Microsecond)
	if v < fine {
		return int(v)
	}
	octave := bits.Len64(v) - 6
	return min(fine*(octave+1)+int(v>>octave)-fine, buckets-1)
}

// upper is the time at which a bucket ends.
func upper(i int) time.Duration {
	if i < fine {
		return time.Duration(i+1) * time.Microsecond
	}
	octave := i/fine - 1
	return time.Duration(uint64(i%fine+fine+1)<<octave) * time.Microsecond
}

func (h *histogram) add(d time.Duration) {
	h.counts[bucket(d)]++
	h.n++
}

// quantile is the time within which a share of q was answered.
func (h *histogram) quantile(q float64) time.Duration {
	var sum uint64
	for i, c := range h.counts {
		if sum += uint64(c); float64(sum) >= q*float64(h.n) {
			return upper(i)
		}
	}
	return 0
}

// above are the counts above each bucket.
func (h *histogram) above() *[buckets]uint64 {
	var sums [buckets]uint64
	for i := buckets - 1; i > 0; i-- {
		sums[i-1] = sums[i] + uint64(h.counts[i])
	}
	return &sums
}

// pair is a route in a window.
type pair struct {
	route         string
	remote, local histogram
	slowest       [4]Sample // remote
}

func (p *pair) add(s *Sample) {
	if !s.Remote {
		p.local.add(s.Duration)
		return
	}
	p.remote.add(s.Duration)
	least := 0
	for i := range p.slowest {
		if p.slowest[i].Duration < p.slowest[least].Duration {
			least = i
		}
	}
	if s.Duration > p.slowest[least].Duration {
		p.slowest[least] = *s
	}
}

// slow counts the slowest of both sides, once remote times are divided by what they may be longer: the slowest 5 %, say,
// of both together. If remote is not slower than allowed each of them is as likely to be remote as any other request.
func (p *pair) slow(q, ratio float64, hop time.Duration) (remote, local uint64) {
	aboveRemote, aboveLocal := p.remote.above(), p.local.above()
	allowed := func(i int) int {
		t := upper(i)
		return bucket(max(time.Duration(float64(t)*ratio), t+hop) - 1)
	}
	enough := (1 - q) * float64(p.remote.n+p.local.n)
	// The first bucket above which there are fewer than that; the one before it is taken.
	i := sort.Search(buckets, func(i int) bool { return float64(aboveRemote[allowed(i)]+aboveLocal[i]) < enough })
	if i == 0 {
		return p.remote.n, p.local.n
	}
	return aboveRemote[allowed(i-1)], aboveLocal[i-1]
}

// window is a stretch of time in which routes are compared.
type window struct {
	from, to time.Time
	pairs    []*pair
}

// counts are the answers on routes that both sides have answered.
func (w *window) counts() compared {
	var c compared
	for _, p := range w.pairs {
		if p.remote.n > 0 && p.local.n > 0 {
			c.remote, c.local = c.remote+p.remote.n, c.local+p.local.n
		}
	}
	return c
}

func (w *window) enough(least int) bool {
	c := w.counts()
	return c.remote >= uint64(least) && c.local >= uint64(least)
}

// breach is what a window found.
type breach struct {
	quantile      string
	from, to      time.Time
	remote, local Counts
	worst         *pair // the route with the most slow answers over what is expected
}

// judge tests p95 and p99; nil is no breach. Only routes that both sides have answered are compared.
func (w *window) judge(cfg Latency) *breach {
	for _, t := range []struct {
		name     string
		q, ratio float64
	}{{"p95", 0.95, cfg.P95Ratio}, {"p99", 0.99, cfg.P99Ratio}} {
		if t.ratio == 0 {
			continue
		}
		b := breach{quantile: t.name, from: w.from, to: w.to}
		expected, excess := 0.0, 0.0
		for _, p := range w.pairs {
			if p.remote.n == 0 || p.local.n == 0 {
				continue
			}
			remote, local := p.slow(t.q, t.ratio, cfg.Hop)
			b.remote.Requests, b.local.Requests = b.remote.Requests+p.remote.n, b.local.Requests+p.local.n
			b.remote.Bad, b.local.Bad = b.remote.Bad+remote, b.local.Bad+local
			mean := float64(remote+local) * float64(p.remote.n) / float64(p.remote.n+p.local.n)
			expected += mean
			if d := float64(remote) - mean; b.worst == nil || d > excess {
				excess, b.worst = d, p
			}
		}
		all := b.remote.Bad + b.local.Bad
		if all == 0 || atLeast(b.remote.Bad, all, expected/float64(all)) >= chance {
			continue
		}
		b.remote.P95, b.remote.P99 = b.worst.remote.quantile(0.95), b.worst.remote.quantile(0.99)
		b.local.P95, b.local.P99 = b.worst.local.quantile(0.95), b.worst.local.quantile(0.99)
		return &b
	}
	return nil
}
