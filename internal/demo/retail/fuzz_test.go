package retail

import (
	"math/big"
	"strings"
	"testing"
)

// FuzzParsePence compares with exact fractions.
func FuzzParsePence(f *testing.F) {
	for _, seed := range []string{"2.55", "0.005", "-1.015", "+3", " 4.2 ", "1e3", "", ".", "1000000000.004"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		got, err := parsePence(text)
		if err != nil {
			return
		}
		exact, ok := new(big.Rat).SetString(strings.TrimSpace(text))
		if !ok {
			t.Fatalf("%q: got %d of what is no number", text, got)
		}
		exact.Mul(exact, big.NewRat(100, 1))
		away := new(big.Rat).Sub(exact, new(big.Rat).SetInt64(got))
		switch away.Abs(away).Cmp(big.NewRat(1, 2)) {
		case 1:
			t.Errorf("%q: got %d, more than half a penny away", text, got)
		case 0:
			if got%2 != 0 {
				t.Errorf("%q: got %d, want the even one", text, got)
			}
		}
	})
}

// FuzzRead looks for content that breaks the reader, or a plan that returns what was not sold.
func FuzzRead(f *testing.F) {
	f.Add(head + "1,A,X,1,2010-12-01 08:26:00,1.0,17.0,UK\nC2,A,X,-2,2010-12-01 08:26:00,1.0,17,UK\n")
	f.Add("\ufeff" + head + `1,A,"X ""Y""` + "\n" + `",1,2010-12-01 08:26:00,1.0,17.0,UK`)
	f.Add("\x1f\x8b")
	f.Fuzz(func(t *testing.T, content string) {
		b := newBuilder()
		if b.add("file.csv", strings.NewReader(content)) != nil {
			return
		}
		p, err := b.plan()
		if err != nil {
			return
		}
		if r := p.Expected(); r.RefundedUnits > r.UnitsSold || r.RefundedPence > r.PaidPence || r.Orders != int64(len(p.Orders)) {
			t.Errorf("got %+v", r)
		}
	})
}
