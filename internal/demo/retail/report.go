package retail

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
)

// Report is what a shop ends with after a replay. Rows, skipped and unmatched speak of the files, the rest of the shop.
type Report struct {
	Rows              int64            `json:"rows"`
	Skipped           map[string]int64 `json:"skipped"` // by reason
	Customers         int64            `json:"customers"`
	Products          int64            `json:"products"`
	ProductsSold      int64            `json:"products_sold"`
	Orders            int64            `json:"orders"`
	Lines             int64            `json:"lines"`
	LargestOrderLines int64            `json:"largest_order_lines"`
	UnitsSold         int64            `json:"units_sold"`
	PaidPence         int64            `json:"paid_pence"`
	RefundedUnits     int64            `json:"refunded_units"`
	RefundedPence     int64            `json:"refunded_pence"`
	UnmatchedUnits    int64            `json:"unmatched_units"`
	UnmatchedPence    int64            `json:"unmatched_pence"`
	OrdersByReturn    map[string]int64 `json:"orders_by_return"` // kept, partly_returned, returned; only those that there are
	CustomersSHA256   string           `json:"customers_sha256"`
	StockSHA256       string           `json:"stock_sha256"`
}

// CustomerFigures are the sums of one customer, in pence.
type CustomerFigures struct {
	Number                 string
	Orders, Paid, Refunded int64
}

// CustomersDigest is a sum over all customers, sorted by number as text.
func CustomersDigest(customers []CustomerFigures) string {
	sorted := slices.SortedFunc(slices.Values(customers), func(a, b CustomerFigures) int { return strings.Compare(a.Number, b.Number) })
	sum := sha256.New()
	for _, c := range sorted {
		_, _ = fmt.Fprintf(sum, "%s,%d,%d,%d\n", c.Number, c.Orders, c.Paid, c.Refunded)
	}
	return hex.EncodeToString(sum.Sum(nil))
}

// Shelf is how many units of a product are on the shelf.
type Shelf struct {
	Code  string
	Units int64
}

// StockDigest is a sum over shelves, sorted by code as text.
func StockDigest(shelves []Shelf) string {
	sorted := slices.SortedFunc(slices.Values(shelves), func(a, b Shelf) int { return strings.Compare(a.Code, b.Code) })
	sum := sha256.New()
	for _, s := range sorted {
		_, _ = fmt.Fprintf(sum, "%s,%d\n", s.Code, s.Units)
	}
	return hex.EncodeToString(sum.Sum(nil))
}

// FileReport is the part of the report that speaks of the files.
func (p *Plan) FileReport() Report {
	r := Report{Rows: p.rows, Skipped: map[string]int64{}, UnmatchedUnits: p.unmatched.units, UnmatchedPence: p.unmatched.pence}
	for reason, n := range p.skipped {
		r.Skipped[reason] = n
	}
	return r
}

// Expected is what a shop that held nothing before must end with.
func (p *Plan) Expected() Report {
	r := p.FileReport()
	r.Customers, r.Products, r.Orders = int64(len(p.Customers)), int64(len(p.Products)), int64(len(p.Orders))
	r.OrdersByReturn = map[string]int64{}
	customers := make(map[string]*CustomerFigures, len(p.Customers))
	for _, number := range p.Customers {
		customers[number] = &CustomerFigures{Number: number}
	}
	back := make(map[string]int64, len(p.Products))
	for _, o := range p.Orders {
		c := customers[o.Customer]
		c.Orders++
		r.Lines += int64(len(o.Lines))
		r.LargestOrderLines = max(r.LargestOrderLines, int64(len(o.Lines)))
		var units, returned int64
		for i, l := range o.Lines {
			units += l.Quantity
			returned += o.returned[i]
			c.Paid += l.Quantity * l.Price
			c.Refunded += o.returned[i] * l.Price
			back[l.Code] += o.returned[i]
		}
		r.UnitsSold += units
		r.RefundedUnits += returned
		switch returned {
		case 0:
			r.OrdersByReturn["kept"]++
		case units:
			r.OrdersByReturn["returned"]++
		default:
			r.OrdersByReturn["partly_returned"]++
		}
	}
	figures := make([]CustomerFigures, 0, len(customers))
	for _, c := range customers {
		r.PaidPence += c.Paid
		r.RefundedPence += c.Refunded
		figures = append(figures, *c)
	}
	var shelves []Shelf
	for _, product := range p.Products {
		if product.Sold > 0 {
			shelves = append(shelves, Shelf{product.Code, back[product.Code]})
		}
	}
	r.ProductsSold = int64(len(shelves))
	r.CustomersSHA256, r.StockSHA256 = CustomersDigest(figures), StockDigest(shelves)
	return r
}

// Differences names the figures in which r is not want.
func (r Report) Differences(want Report) []string {
	var out []string
	number := func(name string, got, want int64) {
		if got != want {
			out = append(out, fmt.Sprintf("%s is %d and not %d", name, got, want))
		}
	}
	number("rows", r.Rows, want.Rows)
	number("customers", r.Customers, want.Customers)
	number("products", r.Products, want.Products)
	number("products_sold", r.ProductsSold, want.ProductsSold)
	number("orders", r.Orders, want.Orders)
	number("lines", r.Lines, want.Lines)
	number("largest_order_lines", r.LargestOrderLines, want.LargestOrderLines)
	number("units_sold", r.UnitsSold, want.UnitsSold)
	number("paid_pence", r.PaidPence, want.PaidPence)
	number("refunded_units", r.RefundedUnits, want.RefundedUnits)
	number("refunded_pence", r.RefundedPence, want.RefundedPence)
	number("unmatched_units", r.UnmatchedUnits, want.UnmatchedUnits)
	number("unmatched_pence", r.UnmatchedPence, want.UnmatchedPence)
	for _, state := range []string{"kept", "partly_returned", "returned"} {
		number("orders_by_return."+state, r.OrdersByReturn[state], want.OrdersByReturn[state])
	}
	if r.CustomersSHA256 != want.CustomersSHA256 {
		out = append(out, "customers_sha256 is another one")
	}
	if r.StockSHA256 != want.StockSHA256 {
		out = append(out, "stock_sha256 is another one")
	}
	return out
}
