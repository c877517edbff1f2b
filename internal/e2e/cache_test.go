package e2e

import (
	"strings"
	"testing"
)

// Answers of the catalog are kept, and whoever has seen the answer to a change of a price sees the new one, in lists too.
func TestPricesAreKeptAndForgotten(t *testing.T) {
	t.Parallel()
	s := sqlite(t).start()
	admin := s.asAdmin()
	admin.stock(1, "MUG")
	visitor := s.client()
	price := func(c *client) (one, list int64, kept bool) {
		t.Helper()
		var p struct{ Price priceBody }
		var all struct{ Items []struct{ Price priceBody } }
		a := c.do("GET", "/api/products/MUG", nil)
		a.into(t, &p)
		b := c.do("GET", "/api/products?q=mug", nil)
		b.into(t, &all)
		if a.Status != 200 || b.Status != 200 || len(all.Items) != 1 {
			t.Fatalf("%d %s, %d %s", a.Status, a.Body, b.Status, b.Body)
		}
		hit := func(a answer) bool { return strings.HasPrefix(a.Header.Get("Cache-Status"), "banyan; hit") }
		return p.Price.Amount, all.Items[0].Price.Amount, hit(a) && hit(b)
	}
	before, _, _ := price(visitor)
	// What the new product has still to tell forgets what was kept of it.
	eventually(t, "both answers are kept", func() bool {
		one, list, kept := price(visitor)
		if one != before || list != before {
			t.Fatalf("again: %d and %d, want %d", one, list, before)
		}
		return kept
	})
	for n := range int64(5) {
		want := before + 1 + n
		if a := admin.do("POST", "/api/products/MUG/price", map[string]any{"price": map[string]any{"amount": want}}); a.Status != 200 {
			t.Fatalf("%d %s", a.Status, a.Body)
		}
		for _, c := range []*client{visitor, admin} {
			if one, list, _ := price(c); one != want || list != want {
				t.Errorf("the price is %d, and %d in the list, want %d", one, list, want)
			}
		}
	}
	for _, path := range []string{"/api/products/report", "/api/products/MUG/prices"} {
		if a := admin.do("GET", path, nil); a.Status != 200 || a.Header.Get("Cache-Control") != "no-store" {
			t.Errorf("%s, for staff alone: %d with %q", path, a.Status, a.Header.Get("Cache-Control"))
		}
	}
}
