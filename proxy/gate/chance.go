package gate

import "math"

// atLeast is how likely k or more of n are on the side that each is on with probability p.
//
// It also bounds what it is used for: when things are dealt to two sides route by route, the number on one side is a
// sum of independent draws whose probabilities differ, and above its mean such a sum is never likelier than the binomial
// with the same mean (Hoeffding 1956). Below the mean, where that does not hold, it says 1.
func atLeast(k, n uint64, p float64) float64 {
	switch {
	case float64(k) < float64(n)*p+1:
		return 1
	case p <= 0:
		return 0
	}
	lg := func(x uint64) float64 { v, _ := math.Lgamma(float64(x) + 1); return v }
	term := math.Exp(lg(n) - lg(k) - lg(n-k) + float64(k)*math.Log(p) + float64(n-k)*math.Log1p(-p))
	sum := term
	// Above the mean each term is smaller than the one before, and soon nothing is left.
	for i := k; i < n && term > sum*1e-12; i++ {
		term *= float64(n-i) / float64(i+1) * p / (1 - p)
		sum += term
	}
	return min(sum, 1)
}
