package cart

import (
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/banyan-go/banyan/internal/errs"
	"github.com/banyan-go/banyan/internal/money"
)

func lamp() Product {
	return Product{SKU: "LAMP", Name: "Lamp", Price: money.Of(255, "GBP"), OnSale: true}
}

func bowl() Product {
	return Product{SKU: "BOWL", Name: "Bowl", Price: money.Of(100, "GBP"), OnSale: true}
}

func with(p Product, change func(*Product)) Product {
	change(&p)
	return p
}

func TestRules(t *testing.T) {
	t.Parallel()
	dearer := with(lamp(), func(p *Product) { p.Price.Amount = 300 })
	gone := with(lamp(), func(p *Product) { p.OnSale = false })
	euros := with(bowl(), func(p *Product) { p.Price.Currency = "EUR" })
	full := Cart{Version: 9}
	for i := range MaxLines {
		full.Lines = append(full.Lines, Line{Product: with(bowl(), func(p *Product) { p.SKU = fmt.Sprint(i) }), Quantity: 1, Shown: money.Of(100, "GBP")})
	}
	one := Cart{CustomerID: "c", Version: 3, Lines: []Line{{Product: lamp(), Quantity: 2, Shown: lamp().Price}}}
	stale := Cart{CustomerID: "c", Version: 3, Lines: []Line{{Product: dearer, Quantity: 2, Shown: lamp().Price}}}
	total := func(amount int64) *money.Money { m := money.Of(amount, "GBP"); return &m }
	infallible := func(fn func(Cart) Cart) func(Cart) (Cart, error) {
		return func(c Cart) (Cart, error) { return fn(c), nil }
	}
	for _, tc := range []struct {
		name   string
		before Cart
		do     func(Cart) (Cart, error)
		want   func(*Cart) // nil: the cart stays as it is, with its version
		kind   errs.Kind
	}{
		{name: "set a new line", before: one, do: func(c Cart) (Cart, error) { return c.Set(bowl(), 4) },
			want: func(c *Cart) {
				c.Lines = append(c.Lines, Line{Product: bowl(), Quantity: 4, Shown: money.Of(100, "GBP")})
			}},
		{name: "set another quantity", before: one, do: func(c Cart) (Cart, error) { return c.Set(lamp(), 5) }, want: func(c *Cart) { c.Lines[0].Quantity = 5 }},
		{name: "set the same quantity", before: one, do: func(c Cart) (Cart, error) { return c.Set(lamp(), 2) }},
		{name: "set keeps the price shown", before: stale, do: func(c Cart) (Cart, error) { return c.Set(dearer, 5) }, want: func(c *Cart) { c.Lines[0].Quantity = 5 }},
		{name: "set nothing", before: one, do: func(c Cart) (Cart, error) { return c.Set(lamp(), 0) }, kind: errs.Invalid},
		{name: "set less than nothing", before: one, do: func(c Cart) (Cart, error) { return c.Set(lamp(), -1) }, kind: errs.Invalid},
		{name: "set too many", before: one, do: func(c Cart) (Cart, error) { return c.Set(lamp(), MaxQuantity+1) }, kind: errs.Invalid},
		{name: "set a retired product", before: one, do: func(c Cart) (Cart, error) { return c.Set(gone, 1) }, kind: errs.Conflict},
		{name: "set one line too many", before: full, do: func(c Cart) (Cart, error) { return c.Set(lamp(), 1) }, kind: errs.Conflict},
		{name: "set in another currency", before: one, do: func(c Cart) (Cart, error) { return c.Set(euros, 1) }, kind: errs.Conflict},
		{name: "add", before: one, do: func(c Cart) (Cart, error) { return c.Add(lamp(), 3) }, want: func(c *Cart) { c.Lines[0].Quantity = 5 }},
		{name: "add up to the limit", before: one, do: func(c Cart) (Cart, error) { return c.Add(lamp(), MaxQuantity-2) }, want: func(c *Cart) { c.Lines[0].Quantity = MaxQuantity }},
		{name: "add beyond the limit", before: one, do: func(c Cart) (Cart, error) { return c.Add(lamp(), MaxQuantity-1) }, kind: errs.Conflict},
		{name: "add less than nothing", before: one, do: func(c Cart) (Cart, error) { return c.Add(lamp(), -1) }, kind: errs.Invalid},
		{name: "add an overflow", before: one, do: func(c Cart) (Cart, error) { return c.Add(lamp(), 1<<63-1) }, kind: errs.Invalid},
		{name: "remove", before: one, do: infallible(func(c Cart) Cart { return c.Remove("LAMP") }), want: func(c *Cart) { c.Lines = []Line{} }},
		{name: "remove what is not there", before: one, do: infallible(func(c Cart) Cart { return c.Remove("BOWL") })},
		{name: "empty", before: full, do: infallible(Cart.Empty), want: func(c *Cart) { c.Lines = nil }},
		{name: "empty an empty one", before: Cart{Version: 3}, do: infallible(Cart.Empty)},
		{name: "accept", before: stale, do: func(c Cart) (Cart, error) { return c.Accept(nil) }, want: func(c *Cart) { c.Lines[0].Shown.Amount = 300 }},
		{name: "accept the total seen", before: stale, do: func(c Cart) (Cart, error) { return c.Accept(total(600)) }, want: func(c *Cart) { c.Lines[0].Shown.Amount = 300 }},
		{name: "accept a total of yesterday", before: stale, do: func(c Cart) (Cart, error) { return c.Accept(total(580)) }, kind: errs.Conflict},
		{name: "accept what has not changed", before: one, do: func(c Cart) (Cart, error) { return c.Accept(nil) }},
		{name: "accept mixed currencies", before: Cart{Version: 3, Lines: []Line{one.Lines[0], {Product: euros, Quantity: 1, Shown: money.Of(100, "GBP")}}},
			do: func(c Cart) (Cart, error) { return c.Accept(nil) }, kind: errs.Conflict},
		{name: "ordered all", before: one, do: infallible(func(c Cart) Cart { return c.Ordered(map[string]int64{"LAMP": 2}) }), want: func(c *Cart) { c.Lines = []Line{} }},
		{name: "ordered some", before: one, do: infallible(func(c Cart) Cart { return c.Ordered(map[string]int64{"LAMP": 1}) }), want: func(c *Cart) { c.Lines[0].Quantity = 1 }},
		{name: "ordered more", before: one, do: infallible(func(c Cart) Cart { return c.Ordered(map[string]int64{"LAMP": 1_000_000}) }), want: func(c *Cart) { c.Lines = []Line{} }},
		{name: "ordered what was removed since", before: one, do: infallible(func(c Cart) Cart { return c.Ordered(map[string]int64{"BOWL": 1}) })},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			untouched := slices.Clone(tc.before.Lines)
			got, err := tc.do(tc.before)
			if errs.KindOf(err) != tc.kind {
				t.Fatalf("got error %v, want kind %q", err, tc.kind)
			}
			if diff := cmp.Diff(untouched, tc.before.Lines); diff != "" {
				t.Errorf("the cart before was changed (-want +got):\n%s", diff)
			}
			if err != nil {
				return
			}
			want := tc.before
			if tc.want != nil {
				want = tc.before.next()
				tc.want(&want)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

func TestProblems(t *testing.T) {
	t.Parallel()
	c := Cart{Lines: []Line{
		{Product: lamp(), Quantity: 1, Shown: lamp().Price},
		{Product: with(bowl(), func(p *Product) { p.Price.Amount = 1205 }), Quantity: 3, Shown: money.Of(99, "GBP")},
		{Product: with(bowl(), func(p *Product) { p.SKU, p.OnSale, p.Price.Amount = "VASE", false, 7 }), Quantity: 1, Shown: money.Of(100, "GBP")},
	}}
	want := []string{"the price of BOWL has changed from GBP 0.99 to GBP 12.05", "VASE is no longer sold"}
	if diff := cmp.Diff(want, c.Problems()); diff != "" {
		t.Errorf("Problems (-want +got):\n%s", diff)
	}
	shown, err := c.Total()
	if err != nil || shown != money.Of(255+3*99+100, "GBP") {
		t.Errorf("Total: got %v, %v", shown, err)
	}
	current, err := c.CurrentTotal()
	if err != nil || current != money.Of(255+3*1205+7, "GBP") {
		t.Errorf("CurrentTotal: got %v, %v", current, err)
	}
}

// TestAnyStory lets customers, the catalog and orders do anything in any order.
func TestAnyStory(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		catalog := map[string]Product{}
		for _, sku := range []string{"A", "B", "C", "D"} {
			catalog[sku] = Product{SKU: sku, Name: sku, Price: money.Of(int64(len(catalog)+1)*100, "GBP"), OnSale: true}
		}
		sku := rapid.SampledFrom([]string{"A", "B", "C", "D"})
		quantity := rapid.Int64Range(-1, MaxQuantity+1)
		c := Cart{CustomerID: "c"}
		step := func(name string, after Cart, err error) {
			switch {
			case err != nil:
				return
			case after.Version == c.Version:
				if !slices.Equal(after.Lines, c.Lines) {
					t.Fatalf("%s changed the cart, but not its version", name)
				}
			case after.Version != c.Version+1:
				t.Fatalf("%s: version %d became %d", name, c.Version, after.Version)
			case slices.Equal(after.Lines, c.Lines):
				t.Fatalf("%s changed the version alone", name)
			}
			c = after
		}
		// The catalog's changes reach the cart with the next read, without a change of its own.
		refresh := func() {
			c.Lines = slices.Clone(c.Lines)
			for i := range c.Lines {
				c.Lines[i].Product = catalog[c.Lines[i].Product.SKU]
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"set": func(t *rapid.T) {
				after, err := c.Set(catalog[sku.Draw(t, "sku")], quantity.Draw(t, "quantity"))
				step("set", after, err)
			},
			"add": func(t *rapid.T) {
				after, err := c.Add(catalog[sku.Draw(t, "sku")], quantity.Draw(t, "quantity"))
				step("add", after, err)
			},
			"remove": func(t *rapid.T) { step("remove", c.Remove(sku.Draw(t, "sku")), nil) },
			"empty":  func(*rapid.T) { step("empty", c.Empty(), nil) },
			"accept": func(t *rapid.T) {
				after, err := c.Accept(nil)
				if err != nil {
					t.Fatalf("accept: %v", err)
				}
				step("accept", after, nil)
				if slices.ContainsFunc(c.Lines, Line.Changed) {
					t.Fatal("a price is still unseen after accept")
				}
			},
			"reprice": func(t *rapid.T) {
				p := catalog[sku.Draw(t, "sku")]
				p.Price.Amount = rapid.Int64Range(1, 1_000_000_000_00).Draw(t, "price")
				catalog[p.SKU] = p
				refresh()
			},
			"retire": func(t *rapid.T) {
				p := catalog[sku.Draw(t, "sku")]
				p.OnSale = false
				catalog[p.SKU] = p
				refresh()
			},
			"order": func(t *rapid.T) {
				units := map[string]int64{}
				for _, l := range c.Lines {
					units[l.Product.SKU] = l.Quantity
				}
				// Between the order and the news of it the customer may go on shopping.
				more, extra := sku.Draw(t, "sku"), rapid.Int64Range(1, 5).Draw(t, "extra")
				after, err := c.Add(catalog[more], extra)
				step("add before the news", after, err)
				step("order", c.Ordered(units), nil)
				want := map[string]int64{}
				if err == nil {
					want[more] = extra
				}
				for _, l := range c.Lines {
					if l.Quantity != want[l.Product.SKU] {
						t.Fatalf("%d of %s are left, want %d", l.Quantity, l.Product.SKU, want[l.Product.SKU])
					}
				}
				if len(c.Lines) != len(want) {
					t.Fatalf("%d lines are left, want %d", len(c.Lines), len(want))
				}
			},
			"": func(t *rapid.T) {
				seen := map[string]bool{}
				sum := int64(0)
				for _, l := range c.Lines {
					if seen[l.Product.SKU] || l.Quantity < 1 || l.Quantity > MaxQuantity || l.Shown.Amount < 1 {
						t.Fatalf("wrong line %+v", l)
					}
					seen[l.Product.SKU] = true
					sum += l.Quantity * l.Shown.Amount
				}
				total, err := c.Total()
				if err != nil || total.Amount != sum {
					t.Fatalf("total %v, %v; want %d", total, err, sum)
				}
				fine := !slices.ContainsFunc(c.Lines, func(l Line) bool { return l.Changed() || !l.Product.OnSale })
				if fine != (len(c.Problems()) == 0) {
					t.Fatalf("problems %q of %+v", c.Problems(), c.Lines)
				}
			},
		})
	})
}
