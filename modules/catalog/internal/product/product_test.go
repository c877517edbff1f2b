package product

import (
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/banyan-go/banyan/internal/errs"
	"github.com/banyan-go/banyan/internal/money"
)

func TestParseSKU(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name, text, want string
		kind             errs.Kind
	}{
		{name: "usual", text: "85123A", want: "85123A"},
		{name: "small letters are another product", text: "85123a", want: "85123a"},
		{name: "one letter", text: "M", want: "M"},
		{name: "blank", text: "BANK CHARGES", want: "BANK CHARGES"},
		{name: "underscore", text: "gift_0001_40", want: "gift_0001_40"},
		{name: "still encoded", text: "BANK%20CHARGE%53", want: "BANK CHARGES"},
		{name: "longest", text: strings.Repeat("x", 64), want: strings.Repeat("x", 64)},
		{name: "too long", text: strings.Repeat("x", 65), kind: errs.Invalid},
		{name: "empty", text: "", kind: errs.Invalid},
		{name: "blank first", text: " A", kind: errs.Invalid},
		{name: "blank last", text: "tr ", kind: errs.Invalid},
		{name: "dot last", text: "a.", kind: errs.Invalid},
		{name: "encoded dot last", text: "a%2e", kind: errs.Invalid},
		{name: "dash last", text: "A-", want: "A-"},
		{name: "dots only", text: "..", kind: errs.Invalid},
		{name: "slash", text: "a/b", kind: errs.Invalid},
		{name: "encoded slash", text: "a%2Fb", kind: errs.Invalid},
		{name: "encoded NUL", text: "a%00", kind: errs.Invalid},
		{name: "broken encoding", text: "a%2", kind: errs.Invalid},
		{name: "line break at the end", text: "85123A\n", kind: errs.Invalid},
		{name: "quote", text: "a' OR '1'='1", kind: errs.Invalid},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			got, err := ParseSKU(tc.text)
			if got != tc.want || errs.KindOf(err) != tc.kind {
				t.Errorf("ParseSKU(%q) = %q, %v; want %q, kind %q", tc.text, got, err, tc.want, tc.kind)
			}
		})
	}
}

func TestNew(t *testing.T) {
	t.Parallel()
	valid := Product{SKU: "85123A", Name: "  WHITE HANGING HEART ", Description: "Hangs.\nWhite.", Categories: []string{"lights", "gifts", "lights"}, Price: money.Of(255, "")}
	want := Product{SKU: "85123A", Name: "WHITE HANGING HEART", Description: "Hangs.\nWhite.", Categories: []string{"gifts", "lights"}, Price: money.Of(255, "GBP"), State: OnSale, Version: 1}
	got, err := New(valid, "GBP")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("New (-want +got):\n%s", diff)
	}
	for name, spoil := range map[string]func(*Product){
		"bad SKU":               func(p *Product) { p.SKU = "a/b" },
		"SKU of a route":        func(p *Product) { p.SKU = "report" },
		"SKU of another route":  func(p *Product) { p.SKU = "batch" },
		"SKU of the inventory":  func(p *Product) { p.SKU = "deliveries" },
		"SKU of holds":          func(p *Product) { p.SKU = "reservations" },
		"SKU of figures":        func(p *Product) { p.SKU = "reports" },
		"no name":               func(p *Product) { p.Name = " \t" },
		"name too long":         func(p *Product) { p.Name = strings.Repeat("é", MaxName+1) },
		"NUL in name":           func(p *Product) { p.Name = "a\x00b" },
		"broken UTF-8 in name":  func(p *Product) { p.Name = "a\xffb" },
		"NUL in description":    func(p *Product) { p.Description = "a\x00b" },
		"description too long":  func(p *Product) { p.Description = strings.Repeat("x", MaxDescription+1) },
		"category is no slug":   func(p *Product) { p.Categories = []string{"Lights & More"} },
		"too many categories":   func(p *Product) { p.Categories = make([]string, MaxCategories+1) },
		"no price":              func(p *Product) { p.Price = money.Of(0, "GBP") },
		"negative price":        func(p *Product) { p.Price = money.Of(-1, "GBP") },
		"price too large":       func(p *Product) { p.Price = money.Of(MaxPrice+1, "GBP") },
		"price in other money":  func(p *Product) { p.Price = money.Of(255, "EUR") },
		"price in broken money": func(p *Product) { p.Price = money.Of(255, "gbp") },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := valid
			spoil(&p)
			if _, err := New(p, "GBP"); !errs.Is(err, errs.Invalid) {
				t.Errorf("New: got %v, want invalid", err)
			}
		})
	}
}

func TestChange(t *testing.T) {
	t.Parallel()
	before := Product{SKU: "A", Name: "Lamp", Categories: []string{"lights"}, Price: money.Of(100, "GBP"), State: OnSale, Version: 3}
	text := func(s string) *string { return &s }
	list := func(s ...string) *[]string { return &s }
	for _, tc := range []struct {
		name   string
		before Product
		change Change
		want   func(*Product)
		kind   errs.Kind
	}{
		{name: "name", before: before, change: Change{Name: text("Lantern")}, want: func(p *Product) { p.Name, p.Version = "Lantern", 4 }},
		{name: "everything is one change", before: before, change: Change{Name: text("Lantern"), Description: text("Big"), Categories: list("b", "a")},
			want: func(p *Product) {
				p.Name, p.Description, p.Categories, p.Version = "Lantern", "Big", []string{"a", "b"}, 4
			}},
		{name: "the same again", before: before, change: Change{Name: text(" Lamp "), Categories: list("lights", "lights")}, want: func(*Product) {}},
		{name: "nothing", before: before, change: Change{}, want: func(*Product) {}},
		{name: "out of all categories", before: before, change: Change{Categories: list()}, want: func(p *Product) { p.Categories, p.Version = []string{}, 4 }},
		{name: "empty name", before: before, change: Change{Name: text("")}, kind: errs.Invalid},
		{name: "retired", before: before.Retire(), change: Change{Name: text("Lantern")}, kind: errs.Conflict},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			got, err := tc.before.Change(tc.change)
			if errs.KindOf(err) != tc.kind {
				t.Fatalf("got error %v, want kind %q", err, tc.kind)
			}
			if err != nil {
				return
			}
			want := tc.before
			tc.want(&want)
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("Change (-want +got):\n%s", diff)
			}
		})
	}
}

func TestReprice(t *testing.T) {
	t.Parallel()
	before := Product{SKU: "A", Name: "Lamp", Price: money.Of(100, "GBP"), State: OnSale, Version: 3}
	for _, tc := range []struct {
		name    string
		before  Product
		price   money.Money
		version int64
		kind    errs.Kind
	}{
		{name: "dearer", before: before, price: money.Of(120, "GBP"), version: 4},
		{name: "the shop's currency is meant", before: before, price: money.Of(120, ""), version: 4},
		{name: "equal", before: before, price: money.Of(100, "GBP"), version: 3},
		{name: "free", before: before, price: money.Of(0, "GBP"), kind: errs.Invalid},
		{name: "other currency", before: before, price: money.Of(100, "USD"), kind: errs.Invalid},
		{name: "retired", before: before.Retire(), price: money.Of(120, "GBP"), kind: errs.Conflict},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			got, err := tc.before.Reprice(tc.price, "GBP")
			if errs.KindOf(err) != tc.kind || got.Version != tc.version {
				t.Errorf("got version %d, %v; want %d, kind %q", got.Version, err, tc.version, tc.kind)
			}
			if err == nil && got.Price.Amount != tc.price.Amount {
				t.Errorf("got price %v, want %v", got.Price, tc.price)
			}
		})
	}
}

func TestRetire(t *testing.T) {
	t.Parallel()
	once := Product{SKU: "A", State: OnSale, Version: 3}.Retire()
	if once.State != Retired || once.Version != 4 {
		t.Errorf("retired once: got %+v", once)
	}
	if twice := once.Retire(); !cmp.Equal(once, twice) {
		t.Errorf("retired twice: got %+v, want %+v", twice, once)
	}
}

func TestPatterns(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name, search string
		want         []string
		kind         errs.Kind
	}{
		{name: "nothing", search: "  "},
		{name: "words", search: "White  HEART", want: []string{"%white%", "%heart%"}},
		{name: "signs of LIKE", search: "100% a_b !", want: []string{"%100!%%", "%a!_b%", "%!!%"}},
		{name: "backslash means itself", search: `a\b`, want: []string{`%a\b%`}},
		{name: "NUL", search: "a\x00", kind: errs.Invalid},
		{name: "broken UTF-8", search: "a\xff", kind: errs.Invalid},
		{name: "too many words", search: "a b c d e f g h i", kind: errs.Invalid},
		{name: "too long", search: strings.Repeat("x", MaxSearch+1), kind: errs.Invalid},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			got, err := Patterns(tc.search)
			if errs.KindOf(err) != tc.kind {
				t.Fatalf("got error %v, want kind %q", err, tc.kind)
			}
			if len(got) != len(tc.want) || (len(got) > 0 && !cmp.Equal(tc.want, got)) {
				t.Errorf("got %q, want %q", got, tc.want)
			}
		})
	}
}

func TestSortName(t *testing.T) {
	t.Parallel()
	p := Product{SKU: "A", Name: strings.Repeat("É", MaxName)}
	if got := utf8.RuneCountInString(p.SortName()); got != sortRunes {
		t.Errorf("got %d characters, want %d", got, sortRunes)
	}
	if got := (Product{SKU: "C2", Name: "Carriage"}).SearchText(); got != "carriage\nc2" {
		t.Errorf("SearchText: got %q", got)
	}
}
