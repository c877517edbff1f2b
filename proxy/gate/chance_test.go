package gate

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"
)

func TestAtLeast(t *testing.T) {
	t.Parallel()
	choose := func(n, k int) float64 {
		c := 1.0
		for i := range k {
			c = c * float64(n-i) / float64(i+1)
		}
		return c
	}
	for _, n := range []int{0, 1, 2, 7, 40} {
		for _, p := range []float64{0, 0.001, 0.1, 0.5, 0.97} {
			for k := range n + 1 {
				want := 0.0
				for i := k; i <= n; i++ {
					want += choose(n, i) * math.Pow(p, float64(i)) * math.Pow(1-p, float64(n-i))
				}
				if float64(k) < float64(n)*p+1 {
					want = 1
				}
				if got := atLeast(uint64(k), uint64(n), p); math.Abs(got-want) > 1e-9*want+1e-15 {
					t.Errorf("%d or more of %d at %v: %v, want %v", k, n, p, got, want)
				}
			}
		}
	}
	if got := atLeast(600_000, 1_000_000, 0.5); got > 1e-300 {
		t.Errorf("%v", got)
	}
}

// Dealt at random, one side has more than its part no oftener than is said, although routes have different parts.
func TestAtLeastBoundsRoutes(t *testing.T) {
	t.Parallel()
	rng := rand.New(rand.NewPCG(1, 2))
	routes := []struct{ remote, local, marked int }{{50, 50, 6}, {10, 900, 30}, {300, 20, 9}, {5, 5, 3}}
	expected, marked := 0.0, 0
	for _, r := range routes {
		expected += float64(r.marked) * float64(r.remote) / float64(r.remote+r.local)
		marked += r.marked
	}
	const rounds = 40_000
	var seen [64]int
	for range rounds {
		n := 0
		for _, r := range routes {
			remote, all := r.remote, r.remote+r.local
			for range r.marked {
				if rng.IntN(all) < remote {
					n++
					remote--
				}
				all--
			}
		}
		seen[n]++
	}
	above := 0
	for n := len(seen) - 1; n >= 0; n-- {
		above += seen[n]
		p := atLeast(uint64(n), uint64(marked), expected/float64(marked))
		if got := float64(above) / rounds; n <= marked && got > p+4*math.Sqrt(p/rounds)+1e-4 {
			t.Errorf("%d or more of %d: it says %v, and it was %v", n, marked, p, got)
		}
	}
}

func TestHistogram(t *testing.T) {
	t.Parallel()
	rng := rand.New(rand.NewPCG(1, 2))
	for range 100_000 {
		d := time.Duration(math.Exp(rng.Float64() * math.Log(float64(time.Minute))))
		i := bucket(d)
		low := time.Duration(0)
		if i > 0 {
			low = upper(i - 1)
		}
		if d < low || d >= upper(i) {
			t.Fatalf("%s is in bucket %d, from %s to %s", d, i, low, upper(i))
		}
		if wide := upper(i) - low; wide > max(time.Microsecond, d/fine*105/100+time.Microsecond) {
			t.Fatalf("bucket %d, from %s, is %s wide", i, low, wide)
		}
	}
	for _, d := range []time.Duration{-1, 0, 1, time.Hour, math.MaxInt64, math.MinInt64} {
		if i := bucket(d); i < 0 || i >= buckets || d > time.Hour && i != buckets-1 {
			t.Errorf("%d is in bucket %d", d, i)
		}
	}
	if last := upper(buckets - 1); last < 2*time.Minute {
		t.Errorf("times above %s are all alike", last)
	}
	var h histogram
	for i := range 1000 {
		h.add(time.Duration(i+1) * time.Millisecond)
	}
	for _, q := range []float64{0.5, 0.95, 0.99} {
		got, want := h.quantile(q).Seconds(), q
		if math.Abs(got/want-1) > 0.04 {
			t.Errorf("quantile %v is %v", q, got)
		}
	}
	if got := (&histogram{}).quantile(0.5); got > time.Microsecond {
		t.Errorf("the median of nothing is %s", got)
	}
}

// Where every answer takes the same time on its side, a quantile lies within one of the lumps; both ends must be right.
func TestLumps(t *testing.T) {
	t.Parallel()
	judge := func(remote, local time.Duration, n int) *breach {
		p := &pair{}
		for range n {
			p.remote.add(remote)
			p.local.add(local)
		}
		w := window{pairs: []*pair{p}}
		return w.judge(Latency{P95Ratio: 1.5, P99Ratio: 2, Hop: 5 * time.Millisecond})
	}
	const ms = time.Millisecond
	for _, tt := range []struct {
		remote, local time.Duration
		n             int
		want          bool
	}{
		{100 * ms, 100 * ms, 200, false}, {145 * ms, 100 * ms, 200, false}, {170 * ms, 100 * ms, 200, true}, {900 * ms, 100 * ms, 200, true},
		{100 * ms, 900 * ms, 200, false}, {5 * ms, 100 * time.Microsecond, 200, false}, {6 * ms, 100 * time.Microsecond, 200, true},
		{900 * ms, 100 * ms, 5, false}, {900 * ms, 100 * ms, 12, true}, {0, 0, 200, false},
	} {
		if got := judge(tt.remote, tt.local, tt.n) != nil; got != tt.want {
			t.Errorf("%d of %s against %s: breach %v", tt.n, tt.remote, tt.local, got)
		}
	}
	if (&window{}).judge(Latency{P95Ratio: 1.5}) != nil {
		t.Error("a window of nothing is breached")
	}
}

// How often a window is breached when remote is as slow as it may just be: as seldom as promised.
func TestBreachesByChance(t *testing.T) {
	t.Parallel()
	rng := rand.New(rand.NewPCG(3, 4))
	const rounds = 1500
	for _, share := range []float64{0.05, 0.5} {
		n := 0
		for range rounds {
			var w window
			for route := range 3 {
				p := &pair{}
				for range 2000 {
					d := 20 * float64(route+1) * float64(time.Millisecond) * math.Exp(rng.NormFloat64())
					if rng.Float64() < share {
						p.remote.add(time.Duration(d * 1.5))
					} else {
						p.local.add(time.Duration(d))
					}
				}
				w.pairs = append(w.pairs, p)
			}
			if w.judge(Latency{P95Ratio: 1.5}) != nil {
				n++
			}
		}
		if limit := chance*rounds + 4*math.Sqrt(chance*rounds); float64(n) > limit {
			t.Errorf("%d of %d windows are breached at a share of %v, wanted %v at most", n, rounds, share, limit)
		}
	}
}

func TestFilter(t *testing.T) {
	t.Parallel()
	var f filter
	wrong := 0
	for i := range uint64(10_000) {
		if !f.first(i) {
			wrong++
		}
		if f.first(i) {
			t.Fatalf("%d is new twice", i)
		}
	}
	if wrong > 1000 {
		t.Errorf("%d of 10000 were taken for others", wrong)
	}
	found := 0
	for i := range uint64(1_000_000) {
		if f.first(i + 1<<40) {
			found++
		}
		if f.set > filterBits/2 {
			t.Fatalf("%d bits are set", f.set)
		}
	}
	if found < 500_000 {
		t.Errorf("%d of a million were new: it is too full", found)
	}
}
