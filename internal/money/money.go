// Package money holds amounts as whole minor units with a currency, so that no sum is ever rounded.
package money

import (
	"math"

	"github.com/banyan-go/banyan/internal/errs"
)

// Money is an amount in minor units (pence, cents) of a currency.
type Money struct {
	Amount   int64  `json:"amount" doc:"Minor units, as in 255 for 2.55"`
	Currency string `json:"currency" minLength:"3" maxLength:"3" doc:"ISO 4217 code" example:"GBP"`
}

// Of is amount minor units of a currency.
func Of(amount int64, currency string) Money { return Money{Amount: amount, Currency: currency} }

// Add sums two amounts. Zero without a currency adds to anything; other mixed currencies and sums that do
// not fit int64 are errs.Invalid.
func (m Money) Add(o Money) (Money, error) {
	if m.Currency == "" && m.Amount == 0 {
		return o, nil
	}
	if o.Currency == "" && o.Amount == 0 {
		return m, nil
	}
	if m.Currency != o.Currency {
		return Money{}, errs.New(errs.Invalid, "cannot add %s to %s", o.Currency, m.Currency)
	}
	sum := m.Amount + o.Amount
	if (o.Amount > 0 && sum < m.Amount) || (o.Amount < 0 && sum > m.Amount) {
		return Money{}, errs.New(errs.Invalid, "amount is too large")
	}
	return Money{Amount: sum, Currency: m.Currency}, nil
}

// Sub takes o from m; errors as in Add.
func (m Money) Sub(o Money) (Money, error) {
	if o.Amount == math.MinInt64 {
		return Money{}, errs.New(errs.Invalid, "amount is too large")
	}
	return m.Add(Money{Amount: -o.Amount, Currency: o.Currency})
}

// Times multiplies by a count; a product that does not fit int64 is errs.Invalid.
func (m Money) Times(n int64) (Money, error) {
	if m.Amount == 0 || n == 0 {
		return Money{Currency: m.Currency}, nil
	}
	p := m.Amount * n
	if p/n != m.Amount || (m.Amount == math.MinInt64 && n == -1) || (n == math.MinInt64 && m.Amount == -1) {
		return Money{}, errs.New(errs.Invalid, "amount is too large")
	}
	return Money{Amount: p, Currency: m.Currency}, nil
}
