package shadow

import (
	"fmt"
	"math"
	"slices"
	"strings"
)

// Verdict is what the gate says.
type Verdict string

// The verdicts. NotEnough neither advances nor rolls back.
const (
	Good      Verdict = "good"
	Bad       Verdict = "bad"
	NotEnough Verdict = "not_enough"
)

// Judgement is a verdict and what it rests on.
type Judgement struct {
	Verdict  Verdict  `json:"verdict"`
	Reasons  []string `json:"reasons,omitempty"` // why it is not good
	Compared int64    `json:"compared"`
	Mismatch int64    `json:"mismatch"`
	Upper    float64  `json:"mismatch_upper95"` // percent
}

const (
	// confidence is what the bounds are wrong with.
	confidence = 0.05
	// sure is for what is looked at for many paths and again and again: a false alarm must be rarer than all these looks.
	sure = 0.0001
	// few are too few mismatches to call a module bad: one may be an accident of the moment.
	few = 3
)

// Judge says whether clients may be sent to the remote side.
//
// It is good if enough was compared, over all and of each route, if at most the allowed share can be mismatched over all,
// and if no route by itself is worse than that. It is bad if that share is certainly exceeded, over all or by a route, or if
// a noisy path differs more often between the sides than within the local one.
func (g Gate) Judge(r Report) Judgement {
	j := Judgement{Verdict: NotEnough}
	var bad, hold []string
	note := func(list *[]string, format string, args ...any) { *list = append(*list, fmt.Sprintf(format, args...)) }
	for _, route := range r.Routes {
		j.Compared += route.Compared
		j.Mismatch += route.Mismatch
		exempt := slices.Contains(g.Exempt, route.Route)
		switch {
		case exempt:
		case route.Unsafe:
			note(&hold, "route %s tried to write when it was asked to read, so it cannot be compared; mend it, or exempt it", route.Route)
		case route.Compared < int64(g.MinPerRoute):
			note(&hold, "route %s: %d of %d comparisons", route.Route, route.Compared, g.MinPerRoute)
		}
		g.mismatches(route, func(certain bool, format string, args ...any) {
			if certain {
				note(&bad, format, args...)
			} else {
				note(&hold, format, args...)
			}
		})
		if !exempt {
			if low := lower(route.Failed, route.Compared+route.Failed, confidence); low*100 > g.Failed {
				note(&hold, "route %s: %d of %d comparisons failed, at least %s, and %s are allowed", route.Route, route.Failed,
					route.Compared+route.Failed, share(low), share(g.Failed/100))
			}
		}
		if low := lower(route.Unexplained, route.Compared, confidence); low*100 > g.Skew {
			note(&hold, "route %s: %d of %d differed for a moment while local did not change, at least %s, and %s are allowed: it lags, or has "+
				"a fault that comes and goes%s", route.Route, route.Unexplained, route.Compared, share(low), share(g.Skew/100),
				worst(route, func(p PathReport) int64 { return p.Skew }))
		}
		for _, p := range route.Paths {
			if own, both, broken := g.NoiseRule.broken(route, p); broken {
				note(&bad, "route %s: %s differs in %s of the comparisons, and local from itself in %s", route.Route, p.Path, share(both), share(own))
			}
		}
	}
	j.Upper = 100 * upper(j.Mismatch, j.Compared, confidence)
	if low := lower(j.Mismatch, j.Compared, confidence); low*100 > g.Mismatch && j.Mismatch >= few {
		note(&bad, "%d of %d differ, at least %s, and %s are allowed", j.Mismatch, j.Compared, share(low), share(g.Mismatch/100))
	}
	if j.Compared < int64(g.MinCompared) {
		note(&hold, "%d of %d comparisons", j.Compared, g.MinCompared)
	} else if j.Upper > g.Mismatch {
		note(&hold, "%d of %d differ: up to %s may, and %s are allowed", j.Mismatch, j.Compared, share(j.Upper/100), share(g.Mismatch/100))
	}
	switch {
	case len(bad) > 0:
		j.Verdict = Bad
	case len(hold) == 0:
		j.Verdict = Good
	}
	j.Reasons = append(bad, hold...)
	return j
}

// mismatches looks at a route by itself: a route that is seldom asked for may be all wrong, and be nothing among all.
func (g Gate) mismatches(r RouteReport, note func(certain bool, format string, args ...any)) {
	low := lower(r.Mismatch, r.Compared, confidence)
	if low*100 <= g.Mismatch {
		return
	}
	note(r.Mismatch >= few, "route %s: %d of %d differ, at least %s, and %s are allowed%s", r.Route, r.Mismatch, r.Compared, share(low),
		share(g.Mismatch/100), worst(r, func(p PathReport) int64 { return p.Mismatch }))
}

// worst names the paths that differ most.
func worst(r RouteReport, count func(PathReport) int64) string {
	paths := slices.DeleteFunc(slices.Clone(r.Paths), func(p PathReport) bool { return count(p) == 0 })
	slices.SortStableFunc(paths, func(a, b PathReport) int { return int(count(b) - count(a)) })
	names := make([]string, 0, 3)
	for _, p := range paths[:min(len(paths), 3)] {
		names = append(names, p.Path)
	}
	if len(names) == 0 {
		return ""
	}
	return " (" + strings.Join(names, ", ") + ")"
}

// broken says whether a path differs more often between the sides, even in the best case for the remote one, than it does
// within the local one.
func (n NoiseRule) broken(r RouteReport, p PathReport) (own, both float64, broken bool) {
	if p.Noise == 0 || r.Compared == 0 || r.Controls == 0 {
		return 0, 0, false
	}
	exceeds := func(own, both float64) bool {
		return both > own && (both-own)/(both+own)*100 > n.Relative && (both-own)*100 > n.Absolute
	}
	own, both = float64(p.Control)/float64(r.Controls), float64(p.Noise)/float64(r.Compared)
	return own, both, exceeds(own, both) && exceeds(upper(p.Control, r.Controls, sure), lower(p.Noise, r.Compared, sure))
}

// share is a share as percent.
func share(f float64) string { return fmt.Sprintf("%.3g %%", 100*f) }

// upper is the Clopper-Pearson bound: if the true share were greater, k or fewer of n would be seen with a probability of
// at most alpha.
func upper(k, n int64, alpha float64) float64 {
	if k >= n {
		return 1
	}
	return bisect(float64(k)/float64(n), 1, func(p float64) bool { return incompleteBeta(float64(n-k), float64(k+1), 1-p) > alpha })
}

// lower is its counterpart: if the true share were less, k or more would be seen with at most alpha.
func lower(k, n int64, alpha float64) float64 {
	if k <= 0 {
		return 0
	}
	if k >= n {
		return math.Pow(alpha, 1/float64(n))
	}
	return bisect(0, float64(k)/float64(n), func(p float64) bool { return incompleteBeta(float64(k), float64(n-k+1), p) < alpha })
}

// bisect finds where less turns from true to false.
func bisect(low, high float64, less func(float64) bool) float64 {
	for range 60 {
		if mid := (low + high) / 2; less(mid) {
			low = mid
		} else {
			high = mid
		}
	}
	return (low + high) / 2
}

// incompleteBeta is the regularized incomplete beta function I_x(a, b), by its continued fraction (Lentz).
func incompleteBeta(a, b, x float64) float64 {
	if x <= 0 {
		return 0
	}
	if x >= 1 {
		return 1
	}
	if x > (a+1)/(a+b+2) {
		return 1 - incompleteBeta(b, a, 1-x)
	}
	la, _ := math.Lgamma(a)
	lb, _ := math.Lgamma(b)
	lab, _ := math.Lgamma(a + b)
	front := math.Exp(lab - la - lb + a*math.Log(x) + b*math.Log1p(-x))
	const tiny = 1e-300
	guard := func(f float64) float64 {
		if math.Abs(f) < tiny {
			return tiny
		}
		return f
	}
	c, d := 1.0, 1/guard(1-(a+b)*x/(a+1))
	f := d
	// It takes about the root of the greater of a and b.
	for i := 1; i <= 100_000; i++ {
		m := float64(i)
		even := m * (b - m) * x / ((a + 2*m - 1) * (a + 2*m))
		d, c = 1/guard(1+even*d), guard(1+even/c)
		f *= d * c
		odd := -(a + m) * (a + b + m) * x / ((a + 2*m) * (a + 2*m + 1))
		d, c = 1/guard(1+odd*d), guard(1+odd/c)
		f *= d * c
		if math.Abs(d*c-1) < 1e-12 {
			break
		}
	}
	return front * f / a
}
