package catalog_test

import (
	"fmt"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/banyan-go/banyan/internal/module"
	"github.com/banyan-go/banyan/internal/moduletest"
	"github.com/banyan-go/banyan/internal/money"
	"github.com/banyan-go/banyan/modules/catalog"
	"github.com/banyan-go/banyan/modules/catalog/catalogapi"
)

type fields = map[string]any

type productBody struct {
	SKU         string      `json:"sku"`
	Name        string      `json:"name"`
	Description string      `json:"description"`
	Categories  []string    `json:"categories"`
	Price       money.Money `json:"price"`
	State       string      `json:"state"`
	Version     int64       `json:"version"`
}

type page[T any] struct {
	Items []T    `json:"items"`
	Next  string `json:"next"`
}

func build(d module.Deps) *module.Module { return catalog.New(d, catalog.DefaultConfig()) }

func draft(sku, name string, pence int64) fields {
	return fields{"sku": sku, "name": name, "price": fields{"amount": pence, "currency": "GBP"}}
}

func skus(items []productBody) []string {
	var all []string
	for _, p := range items {
		all = append(all, p.SKU)
	}
	return all
}

// names are the wire names of what was announced, with the version of each.
func names(t *testing.T, h *moduletest.Harness) []string {
	t.Helper()
	var all []string
	for _, m := range h.Announced("") {
		v := moduletest.Decode[struct{ Version int64 }](t, m)
		all = append(all, fmt.Sprintf("%s %s %d", m.Key, strings.TrimPrefix(m.Name, "catalog."), v.Version))
	}
	return all
}

func TestWiring(t *testing.T) {
	t.Parallel()
	if err := catalog.New(module.Deps{}, catalog.DefaultConfig()).Check(); err != nil {
		t.Error(err)
	}
	if err := catalog.DefaultConfig().Validate(); err != nil {
		t.Error(err)
	}
	if err := (catalog.Config{Currency: "pounds"}).Validate(); err == nil || !strings.Contains(err.Error(), "currency") {
		t.Errorf("a wrong currency: got %v", err)
	}
}

func TestLifeOfAProduct(t *testing.T) {
	t.Parallel()
	moduletest.Each(t, func(t *testing.T, open moduletest.Opener) {
		h := open(t, build)
		h.Do("POST", "/api/categories", moduletest.Staff, fields{"slug": "lights", "name": "Lights"}).Want(t, 201)
		h.Do("POST", "/api/categories", moduletest.Staff, fields{"slug": "lights", "name": "Again"}).Want(t, 409)
		h.Do("POST", "/api/categories", moduletest.Staff, fields{"slug": "gifts", "name": "Gifts"}).Want(t, 201)

		body := draft("BANK CHARGES", "White heart", 255)
		body["categories"] = []string{"lights"}
		r := h.Do("POST", "/api/products", moduletest.Staff, body, "Idempotency-Key", "k1").Want(t, 201)
		path := r.Header.Get("Location")
		if path != "/api/products/BANK%20CHARGES" {
			t.Fatalf("Location %q", path)
		}
		again := h.Do("POST", "/api/products", moduletest.Staff, body, "Idempotency-Key", "k1").Want(t, 201)
		if string(again.Body) != string(r.Body) {
			t.Errorf("repeat: got %s, want %s", again.Body, r.Body)
		}
		h.Do("POST", "/api/products", moduletest.Staff, body, "Idempotency-Key", "k2").Want(t, 409)

		got := h.Do("GET", path, moduletest.Nobody, nil).Want(t, 200)
		if tag := got.Header.Get("ETag"); tag != `"1"` {
			t.Errorf("ETag %s", tag)
		}
		for public, want := range map[string]string{path: "public, max-age=0, s-maxage=10", "/api/products": "public, max-age=0, s-maxage=10", "/api/categories": "public, max-age=0, s-maxage=10",
			"/api/products/report": "", path + "/prices": ""} {
			if got := h.Do("GET", public, moduletest.Staff, nil).Want(t, 200).Header.Get("Cache-Control"); got != want {
				t.Errorf("%s may be kept for %q, want %q", public, got, want)
			}
		}
		if r := h.Do("GET", path, moduletest.Nobody, nil, "If-None-Match", `W/"1"`).Want(t, 304); len(r.Body) != 0 {
			t.Errorf("304 with body %s", r.Body)
		}
		h.Do("GET", path, moduletest.Nobody, nil, "If-None-Match", `"7"`).Want(t, 200)
		h.Do("GET", "/api/products/BANK%20CHARGE%53", moduletest.Nobody, nil).Want(t, 200) // encoded more than it must

		h.Do("PATCH", path, moduletest.Staff, fields{"name": "Red heart"}, "If-Match", `"2"`).Want(t, 409)
		h.Do("PATCH", path, moduletest.Staff, fields{"name": "Red heart", "categories": []string{"gifts", "lights"}}, "If-Match", `"1"`).Want(t, 200)
		h.Do("PATCH", path, moduletest.Staff, fields{"name": "Red heart"}).Want(t, 200)
		h.Do("PATCH", path, moduletest.Staff, fields{"categories": []string{"toys"}}).Want(t, 422)
		h.Clock.Advance(time.Minute)
		h.Do("POST", path+"/price", moduletest.Staff, fields{"price": fields{"amount": 255}}).Want(t, 200)
		h.Do("POST", path+"/price", moduletest.Staff, fields{"price": fields{"amount": 300}}).Want(t, 200)
		h.Do("POST", path+"/price", moduletest.Staff, fields{"price": fields{"amount": 310}}, "If-Match", `"2"`).Want(t, 409)
		h.Do("DELETE", path, moduletest.Staff, nil).Want(t, 200)
		h.Do("DELETE", path, moduletest.Staff, nil).Want(t, 200)
		h.Do("POST", path+"/price", moduletest.Staff, fields{"price": fields{"amount": 310}}).Want(t, 409)
		h.Do("PATCH", path, moduletest.Staff, fields{"name": "Blue heart"}).Want(t, 409)

		var p productBody
		h.Do("GET", path, moduletest.Nobody, nil).Into(t, &p)
		want := productBody{SKU: "BANK CHARGES", Name: "Red heart", Categories: []string{"gifts", "lights"}, Price: money.Of(300, "GBP"), State: "retired", Version: 4}
		if diff := cmp.Diff(want, p); diff != "" {
			t.Errorf("product (-want +got):\n%s", diff)
		}
		wantNames := []string{"BANK CHARGES product_added.v1 1", "BANK CHARGES product_changed.v1 2", "BANK CHARGES price_changed.v1 3", "BANK CHARGES product_retired.v1 4"}
		if diff := cmp.Diff(wantNames, names(t, h)); diff != "" {
			t.Errorf("announced (-want +got):\n%s", diff)
		}
		e := moduletest.Decode[catalogapi.PriceChanged](t, h.Announced("catalog.price_changed.v1")[0])
		if e.Old != money.Of(255, "GBP") || e.New != money.Of(300, "GBP") {
			t.Errorf("price changed: %+v", e)
		}

		type price struct {
			Price   money.Money `json:"price"`
			Version int64       `json:"version"`
			From    time.Time   `json:"from"`
		}
		var first, second page[price]
		h.Do("GET", path+"/prices?limit=1", moduletest.Staff, nil).Into(t, &first)
		h.Do("GET", path+"/prices?limit=1&cursor="+first.Next, moduletest.Staff, nil).Into(t, &second)
		wantPrices := []price{{money.Of(300, "GBP"), 3, moduletest.Start.Add(time.Minute)}, {money.Of(255, "GBP"), 1, moduletest.Start}}
		if diff := cmp.Diff(wantPrices, append(first.Items, second.Items...)); diff != "" || second.Next != "" {
			t.Errorf("prices, next %q (-want +got):\n%s", second.Next, diff)
		}

		h.Do("POST", "/api/products", moduletest.Staff, draft("C2", "Carriage", 1)).Want(t, 201)
		r = h.Do("GET", "/api/products/report", moduletest.Staff, nil).Want(t, 200)
		if string(r.Body) != `{"products":2,"on_sale":1,"retired":1}`+"\n" {
			t.Errorf("report %s", r.Body)
		}

		var reply catalogapi.Products
		h.Ask(t, catalogapi.GetProducts{SKUs: []string{"C2", "nothing", "BANK CHARGES", "a\x00b", "C2"}}, &reply)
		wantReply := []catalogapi.Product{{SKU: "C2", Name: "Carriage", Price: money.Of(1, "GBP"), OnSale: true, Version: 1}, {SKU: "BANK CHARGES", Name: "Red heart", Price: money.Of(300, "GBP"), Version: 4}}
		if diff := cmp.Diff(wantReply, reply.Products); diff != "" {
			t.Errorf("GetProducts (-want +got):\n%s", diff)
		}
	})
}

func TestBatch(t *testing.T) {
	t.Parallel()
	moduletest.Each(t, func(t *testing.T, open moduletest.Opener) {
		h := open(t, build)
		var batch []fields
		for i := range 500 {
			batch = append(batch, draft(fmt.Sprintf("P%03d", i), fmt.Sprintf("Product %d", i), int64(i)+1))
		}
		var body struct{ Added, Unchanged []string }
		h.Do("POST", "/api/products/batch", moduletest.Staff, fields{"products": batch}).Want(t, 200).Into(t, &body)
		if len(body.Added) != 500 || len(body.Unchanged) != 0 || len(h.Announced("catalog.product_added.v1")) != 500 {
			t.Fatalf("first: %d added, %d unchanged, %d announced", len(body.Added), len(body.Unchanged), len(h.Announced("")))
		}
		batch[7] = draft("NEW", "New", 5)
		h.Do("POST", "/api/products/batch", moduletest.Staff, fields{"products": batch}).Want(t, 200).Into(t, &body)
		if !slices.Equal(body.Added, []string{"NEW"}) || len(body.Unchanged) != 499 || len(h.Announced("")) != 501 {
			t.Errorf("second: %v added, %d unchanged, %d announced", body.Added, len(body.Unchanged), len(h.Announced("")))
		}
		for name, products := range map[string][]fields{
			"a different one":      {draft("OTHER", "Other", 5), draft("NEW", "New", 6)},
			"one twice":            {draft("OTHER", "Other", 5), draft("OTHER", "Other", 5)},
			"one without name":     {draft("OTHER", "Other", 5), draft("X", " ", 5)},
			"an unknown category":  {draft("OTHER", "Other", 5), {"sku": "X", "name": "X", "price": fields{"amount": 1}, "categories": []string{"none"}}},
			"more than 500":        append(slices.Clone(batch), draft("OTHER", "Other", 5)),
			"none":                 {},
			"one in another money": {draft("OTHER", "Other", 5), {"sku": "X", "name": "X", "price": fields{"amount": 1, "currency": "EUR"}}},
		} {
			r := h.Do("POST", "/api/products/batch", moduletest.Staff, fields{"products": products})
			if r.Status != 422 && r.Status != 409 {
				t.Errorf("%s: status %d: %s", name, r.Status, r.Body)
			}
		}
		h.Do("GET", "/api/products/OTHER", moduletest.Nobody, nil).Want(t, 404)
		h.Do("DELETE", "/api/products/NEW", moduletest.Staff, nil).Want(t, 200)
		h.Do("POST", "/api/products/batch", moduletest.Staff, fields{"products": batch}).Want(t, 409)
	})
}

func TestSearch(t *testing.T) {
	t.Parallel()
	moduletest.Each(t, func(t *testing.T, open moduletest.Opener) {
		h := open(t, build)
		h.Do("POST", "/api/categories", moduletest.Staff, fields{"slug": "lights", "name": "Lights"}).Want(t, 201)
		hundred := draft("100A", "100% Cotton bag", 500)
		lamp := draft("85123A", "WHITE Hanging Lamp", 255)
		lamp["categories"] = []string{"lights"}
		h.Do("POST", "/api/products/batch", moduletest.Staff, fields{"products": []fields{
			hundred, lamp, draft("85123a", "white lamp, small", 255), draft("gift_0001", "Gift voucher", 1000),
			draft("M", "Manual", 100), draft("TX", "Été au café", 300), draft("OLD", "Old lamp", 50),
		}}).Want(t, 200)
		h.Do("DELETE", "/api/products/OLD", moduletest.Staff, nil).Want(t, 200)
		for _, tc := range []struct {
			query string
			want  []string
		}{
			{"", []string{"100A", "85123A", "85123a", "M", "TX", "gift_0001"}},
			{"sort=name", []string{"100A", "gift_0001", "M", "85123A", "85123a", "TX"}},
			{"sort=price", []string{"M", "85123A", "85123a", "TX", "100A", "gift_0001"}},
			{"state=all&q=lamp", []string{"85123A", "85123a", "OLD"}},
			{"state=retired", []string{"OLD"}},
			{"q=LAMP+white", []string{"85123A", "85123a"}},
			{"q=85123a", []string{"85123A", "85123a"}},
			{"q=" + url.QueryEscape("%"), []string{"100A"}},
			{"q=_", []string{"gift_0001"}},
			{"q=" + url.QueryEscape("' OR 1=1 --"), nil},
			{"q=" + url.QueryEscape(`\`), nil},
			{"q=" + url.QueryEscape("!"), nil},
			{"q=" + url.QueryEscape("ÉTÉ"), []string{"TX"}},
			{"category=lights", []string{"85123A"}},
			{"category=none", nil},
			{"min_price=255&max_price=300", []string{"85123A", "85123a", "TX"}},
			{"min_price=501", []string{"gift_0001"}},
		} {
			for _, limit := range []string{"limit=500", "limit=1", "limit=2"} {
				var got []string
				cursor := ""
				for range 10 {
					var p page[productBody]
					h.Do("GET", "/api/products?"+limit+"&"+tc.query+"&cursor="+cursor, moduletest.Nobody, nil).Into(t, &p)
					got = append(got, skus(p.Items)...)
					if cursor = p.Next; cursor == "" {
						break
					}
				}
				if diff := cmp.Diff(tc.want, got); diff != "" {
					t.Errorf("%s %s (-want +got):\n%s", tc.query, limit, diff)
				}
			}
		}
		var categories page[fields]
		h.Do("GET", "/api/categories", moduletest.Nobody, nil).Into(t, &categories)
		if len(categories.Items) != 1 || categories.Items[0]["slug"] != "lights" {
			t.Errorf("categories %v", categories)
		}
	})
}

func TestBadInput(t *testing.T) {
	t.Parallel()
	moduletest.Each(t, func(t *testing.T, open moduletest.Opener) {
		h := open(t, build)
		h.Do("POST", "/api/products", moduletest.Staff, draft("A", "Lamp", 100)).Want(t, 201)
		with := func(key string, value any) fields {
			d := draft("B", "Bowl", 100)
			d[key] = value
			return d
		}
		for _, tc := range []struct {
			name, method, path string
			body               any
			status             int
		}{
			{"negative price", "POST", "/api/products", with("price", fields{"amount": -1}), 422},
			{"no price", "POST", "/api/products", with("price", fields{"amount": 0}), 422},
			{"overflowing price", "POST", "/api/products", with("price", fields{"amount": 1e30}), 422},
			{"fraction of a penny", "POST", "/api/products", with("price", fields{"amount": 1.5}), 422},
			{"unknown field", "POST", "/api/products", with("colour", "red"), 422},
			{"SKU with a slash", "POST", "/api/products", with("sku", "a/b"), 422},
			{"SKU with a dot at its end", "POST", "/api/products", with("sku", "a."), 422},
			{"SKU with a blank at its end", "POST", "/api/products", with("sku", "tr "), 422},
			{"SKU of a route of the inventory", "POST", "/api/products", with("sku", "deliveries"), 422},
			{"SKU of a route", "POST", "/api/products", with("sku", "report"), 422},
			{"long name", "POST", "/api/products", with("name", strings.Repeat("x", 201)), 422},
			{"NUL in name", "POST", "/api/products", with("name", "a\x00b"), 422},
			{"retyped", "POST", "/api/products", []int{1}, 422},
			{"NUL in search", "GET", "/api/products?q=%00", nil, 422},
			{"broken UTF-8 in search", "GET", "/api/products?q=%ff", nil, 422},
			{"NUL in category", "GET", "/api/products?category=%00", nil, 422},
			{"foreign cursor", "GET", "/api/products?cursor=AAAA", nil, 422},
			{"cursor of another list", "GET", "/api/products?sort=name&cursor=c2t1CgpB", nil, 422},
			{"cursor with NUL", "GET", "/api/products?sort=name&cursor=bmFtZQoACkE", nil, 422},
			{"cursor of prices", "GET", "/api/products/A/prices?cursor=x", nil, 422},
			{"cursor of categories", "GET", "/api/categories?cursor=%00", nil, 422},
			{"too large a page", "GET", "/api/products?limit=501", nil, 422},
			{"unknown order", "GET", "/api/products?sort=colour", nil, 422},
			{"unknown product", "GET", "/api/products/B", nil, 404},
			{"NUL in SKU", "GET", "/api/products/%00", nil, 404},
			{"broken UTF-8 in SKU", "GET", "/api/products/%ff", nil, 404},
			{"slash in SKU", "GET", "/api/products/a%2Fb", nil, 404},
			{"prices of an unknown product", "GET", "/api/products/B/prices", nil, 404},
			{"change of an unknown product", "PATCH", "/api/products/B", fields{"name": "x"}, 404},
			{"price of an unknown product", "POST", "/api/products/B/price", fields{"price": fields{"amount": 1}}, 404},
			{"retire an unknown product", "DELETE", "/api/products/B", nil, 404},
		} {
			r := h.Do(tc.method, tc.path, moduletest.Staff, tc.body)
			if r.Status != tc.status || r.Header.Get("Content-Type") != "application/problem+json" {
				t.Errorf("%s: status %d (%s), want %d: %s", tc.name, r.Status, r.Header.Get("Content-Type"), tc.status, r.Body)
			}
		}
		for _, path := range []string{"/api/products", "/api/products/A/prices", "/api/categories"} {
			h.WantCursors(t, path, moduletest.Staff)
		}
		if n := len(h.Announced("")); n != 1 {
			t.Errorf("%d events, want 1", n)
		}
	})
}

// TestChangesAtTheSameTime: every change counts, each with its own version.
func TestChangesAtTheSameTime(t *testing.T) {
	t.Parallel()
	moduletest.Each(t, func(t *testing.T, open moduletest.Opener) {
		h := open(t, build)
		h.Do("POST", "/api/products", moduletest.Staff, draft("A", "Lamp", 1)).Want(t, 201)
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() {
				for j := range 5 {
					r := h.Do("POST", "/api/products/A/price", moduletest.Staff, fields{"price": fields{"amount": 1000 + i*100 + j}})
					if r.Status != 200 {
						t.Errorf("status %d: %s", r.Status, r.Body)
					}
				}
			})
		}
		wg.Wait()
		for i, m := range h.Announced("") {
			if v := moduletest.Decode[struct{ Version int64 }](t, m); v.Version != int64(i)+1 || m.Sequence != int64(i)+1 {
				t.Fatalf("event %d has version %d and sequence %d", i, v.Version, m.Sequence)
			}
		}
		var p productBody
		h.Do("GET", "/api/products/A", moduletest.Nobody, nil).Into(t, &p)
		if p.Version != 41 {
			t.Errorf("version %d, want 41", p.Version)
		}
	})
}

// TestSameProductsAtTheSameTime: of several who add the same, one does.
func TestSameProductsAtTheSameTime(t *testing.T) {
	t.Parallel()
	moduletest.Each(t, func(t *testing.T, open moduletest.Opener) {
		h := open(t, build)
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				batch := []fields{draft("A", "A", 1), draft("B", "B", 1), draft("C", "C", 1)}
				if r := h.Do("POST", "/api/products/batch", moduletest.Staff, fields{"products": batch}); r.Status != 200 && r.Status != 409 {
					t.Errorf("status %d: %s", r.Status, r.Body)
				}
			})
		}
		wg.Wait()
		if n := len(h.Announced("")); n != 3 {
			t.Errorf("%d events, want 3", n)
		}
	})
}
