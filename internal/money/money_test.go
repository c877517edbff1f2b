package money_test

import (
	"math"
	"math/big"
	"testing"

	"pgregory.net/rapid"

	"github.com/banyan-go/banyan/internal/errs"
	"github.com/banyan-go/banyan/internal/money"
)

func TestEdges(t *testing.T) {
	t.Parallel()
	gbp := func(n int64) money.Money { return money.Of(n, "GBP") }
	for _, c := range []struct {
		name string
		got  func() (money.Money, error)
		want money.Money
		fail bool
	}{
		{"nothing and something", func() (money.Money, error) { return money.Money{}.Add(gbp(5)) }, gbp(5), false},
		{"something and nothing", func() (money.Money, error) { return gbp(5).Add(money.Money{}) }, gbp(5), false},
		{"something from nothing", func() (money.Money, error) { return money.Money{}.Sub(gbp(5)) }, gbp(-5), false},
		{"two currencies", func() (money.Money, error) { return gbp(5).Add(money.Of(5, "EUR")) }, money.Money{}, true},
		{"two currencies, one of them zero", func() (money.Money, error) { return gbp(5).Add(money.Of(0, "EUR")) }, money.Money{}, true},
		{"an amount without a currency", func() (money.Money, error) { return gbp(5).Add(money.Of(5, "")) }, money.Money{}, true},
		{"over the top", func() (money.Money, error) { return gbp(math.MaxInt64).Add(gbp(1)) }, money.Money{}, true},
		{"under the bottom", func() (money.Money, error) { return gbp(math.MinInt64).Sub(gbp(1)) }, money.Money{}, true},
		{"less the least", func() (money.Money, error) { return gbp(-1).Sub(gbp(math.MinInt64)) }, money.Money{}, true},
		{"the least times -1", func() (money.Money, error) { return gbp(math.MinInt64).Times(-1) }, money.Money{}, true},
		{"-1 times the least", func() (money.Money, error) { return gbp(-1).Times(math.MinInt64) }, money.Money{}, true},
		{"the least times 1", func() (money.Money, error) { return gbp(math.MinInt64).Times(1) }, gbp(math.MinInt64), false},
		{"times nothing", func() (money.Money, error) { return gbp(5).Times(0) }, gbp(0), false},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := c.got()
			if got != c.want || (err != nil) != c.fail {
				t.Errorf("%v, error %v", got, err)
			}
			if err != nil && !errs.Is(err, errs.Invalid) {
				t.Errorf("error of the kind %s, want invalid", errs.KindOf(err))
			}
		})
	}
}

// amounts are around the edges as often as not.
func amounts() *rapid.Generator[int64] {
	return rapid.OneOf(rapid.Int64(), rapid.Int64Range(-1000, 1000), rapid.Int64Range(math.MaxInt64-3, math.MaxInt64), rapid.Int64Range(math.MinInt64, math.MinInt64+3),
		rapid.Int64Range(math.MaxInt32-3, math.MaxInt32+3))
}

// Every sum and product is exact, or refused exactly when it does not fit.
func TestExact(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		a, b := amounts().Draw(t, "a"), amounts().Draw(t, "b")
		check := func(what string, exact *big.Int, got money.Money, err error) {
			if exact.IsInt64() == (err != nil) && !(what == "sub" && b == math.MinInt64) {
				t.Errorf("%s of %d and %d: error %v, exactly %s", what, a, b, err, exact)
			}
			if err == nil && (got.Amount != exact.Int64() || got.Currency != "GBP") {
				t.Errorf("%s of %d and %d is %v, want %s", what, a, b, got, exact)
			}
		}
		x, y := big.NewInt(a), big.NewInt(b)
		sum, err := money.Of(a, "GBP").Add(money.Of(b, "GBP"))
		check("add", new(big.Int).Add(x, y), sum, err)
		difference, err := money.Of(a, "GBP").Sub(money.Of(b, "GBP"))
		check("sub", new(big.Int).Sub(x, y), difference, err)
		product, err := money.Of(a, "GBP").Times(b)
		check("times", new(big.Int).Mul(x, y), product, err)
	})
}
