package stock

import (
	"sort"

	"github.com/banyan-go/banyan/internal/errs"
)

// MaxUnits is the most that may be on hand of one product: far from what int64 cannot hold.
const MaxUnits = 1_000_000_000_000

// Line is a number of units of a product.
type Line struct {
	SKU      string `json:"sku"`
	Quantity int64  `json:"quantity"`
}

// Merge adds the lines of each product up and sorts them by SKU, the order in which products are locked.
func Merge(lines []Line) ([]Line, error) {
	sums := make(map[string]int64, len(lines))
	for _, l := range lines {
		if l.SKU == "" {
			return nil, errs.New(errs.Invalid, "a line has no product")
		}
		if l.Quantity < 1 || l.Quantity > MaxUnits || sums[l.SKU]+l.Quantity > MaxUnits {
			return nil, errs.New(errs.Invalid, "the quantity of %s is not between 1 and %d", l.SKU, int64(MaxUnits))
		}
		sums[l.SKU] += l.Quantity
	}
	if len(sums) == 0 {
		return nil, errs.New(errs.Invalid, "there are no lines")
	}
	return sorted(sums), nil
}

func sorted(sums map[string]int64) []Line {
	merged := make([]Line, 0, len(sums))
	for sku, n := range sums {
		if n != 0 {
			merged = append(merged, Line{SKU: sku, Quantity: n})
		}
	}
	sort.Slice(merged, func(i, j int) bool { return merged[i].SKU < merged[j].SKU })
	return merged
}

// Level is what there is of one product.
type Level struct {
	OnHand   int64
	Reserved int64
	Low      bool // said to be below its low mark
}

// Available is what can still be reserved.
func (l Level) Available() int64 { return l.OnHand - l.Reserved }

// The words for how much there is, for those who may not know the number.
const (
	InStock = "in_stock"
	Low     = "low"
	Out     = "out"
)

// Word says how much there is without the number.
func (l Level) Word(mark int64) string {
	switch n := l.Available(); {
	case n <= 0:
		return Out
	case n < mark:
		return Low
	}
	return InStock
}

// Delta changes the level of one product.
type Delta struct {
	SKU      string
	OnHand   int64
	Reserved int64
}

// Shelf is what there is of some products. A product that is not on it is unknown.
type Shelf map[string]Level

// Short is what is missing of lines, and whether a product of them is unknown.
func (s Shelf) Short(lines []Line) (short []Line, unknown bool) {
	for _, l := range lines {
		level, known := s[l.SKU]
		unknown = unknown || !known
		if missing := l.Quantity - max(0, level.Available()); missing > 0 {
			short = append(short, Line{SKU: l.SKU, Quantity: missing})
		}
	}
	return short, unknown
}

// Crossing is a product that went below its low mark or came back to it.
type Crossing struct {
	SKU       string
	Available int64
	Low       bool
}

// Apply changes the shelf and says which products crossed their low mark. A product that never had stock has not
// gone below its mark; one that is low already is not said to be low again.
func (s Shelf) Apply(deltas []Delta, mark int64) ([]Crossing, error) {
	var crossed []Crossing
	for _, d := range deltas {
		l, known := s[d.SKU]
		if !known {
			return nil, errs.New(errs.NotFound, "no such product: %s", d.SKU)
		}
		l.OnHand += d.OnHand
		l.Reserved += d.Reserved
		if l.Reserved < 0 || l.OnHand < l.Reserved || l.OnHand > MaxUnits {
			return nil, errs.New(errs.Conflict, "%s: %d on hand with %d reserved is not possible", d.SKU, l.OnHand, l.Reserved)
		}
		if low := l.Available() < mark; low != l.Low {
			l.Low = low
			crossed = append(crossed, Crossing{SKU: d.SKU, Available: l.Available(), Low: low})
		}
		s[d.SKU] = l
	}
	return crossed, nil
}

// Adjust corrects what is on hand by a count, never below what is reserved.
func Adjust(l Level, sku string, by int64) (Delta, error) {
	switch {
	case by == 0:
		return Delta{}, errs.New(errs.Invalid, "an adjustment by zero changes nothing")
	case l.OnHand+by < l.Reserved:
		return Delta{}, errs.New(errs.Conflict, "only %d units of %s are not reserved", l.Available(), sku)
	case l.OnHand+by > MaxUnits:
		return Delta{}, errs.New(errs.Invalid, "no more than %d units of %s can be on hand", int64(MaxUnits), sku)
	}
	return Delta{SKU: sku, OnHand: by}, nil
}

// Deliver is the deltas of merged lines that arrive.
func Deliver(lines []Line) []Delta { return deltas(lines, +1, 0) }

func deltas(lines []Line, onHand, reserved int64) []Delta {
	out := make([]Delta, len(lines))
	for i, l := range lines {
		out[i] = Delta{SKU: l.SKU, OnHand: onHand * l.Quantity, Reserved: reserved * l.Quantity}
	}
	return out
}
