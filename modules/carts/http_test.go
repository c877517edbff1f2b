package carts_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/banyan-go/banyan/internal/errs"
	"github.com/banyan-go/banyan/internal/module"
	"github.com/banyan-go/banyan/internal/moduletest"
	"github.com/banyan-go/banyan/internal/money"
	"github.com/banyan-go/banyan/modules/carts"
	"github.com/banyan-go/banyan/modules/carts/cartsapi"
	"github.com/banyan-go/banyan/modules/catalog/catalogapi"
	"github.com/banyan-go/banyan/modules/orders/ordersapi"
	"github.com/banyan-go/banyan/modules/users/usersapi"
)

type fields = map[string]any

type line struct {
	SKU          string       `json:"sku"`
	Name         string       `json:"name"`
	Quantity     int64        `json:"quantity"`
	Price        money.Money  `json:"price"`
	CurrentPrice *money.Money `json:"current_price"`
	OnSale       bool         `json:"on_sale"`
}

type cart struct {
	CustomerID   string       `json:"customer_id"`
	Version      int64        `json:"version"`
	Lines        []line       `json:"lines"`
	Total        *money.Money `json:"total"`
	CurrentTotal *money.Money `json:"current_total"`
	Problems     []string     `json:"problems"`
}

const (
	ann = "01900000-0000-7000-8000-000000000001"
	bob = "01900000-0000-7000-8000-000000000002"
)

func build(d module.Deps) *module.Module { return carts.New(d, carts.DefaultConfig()) }

func pounds(pence int64) money.Money { return money.Of(pence, "GBP") }

func ptr[T any](v T) *T { return &v }

func added(sku string, pence int64) catalogapi.ProductAdded {
	return catalogapi.ProductAdded{SKU: sku, Name: "The " + sku, Price: pounds(pence), Version: 1}
}

func mine(t *testing.T, h *moduletest.Harness, id string) cart {
	t.Helper()
	var c cart
	h.Do("GET", "/api/carts/mine", moduletest.Customer(id), nil).Into(t, &c)
	return c
}

func TestWiring(t *testing.T) {
	t.Parallel()
	if err := carts.New(module.Deps{}, carts.DefaultConfig()).Check(); err != nil {
		t.Error(err)
	}
	if err := carts.DefaultConfig().Validate(); err != nil {
		t.Error(err)
	}
	if err := (carts.Config{ExpireAfter: time.Minute}).Validate(); err == nil || !strings.Contains(err.Error(), "expire_after") {
		t.Errorf("a wrong expiry: got %v", err)
	}
}

func TestShopping(t *testing.T) {
	t.Parallel()
	moduletest.Each(t, func(t *testing.T, open moduletest.Opener) {
		h := open(t, build)
		h.Deliver(t, added("LAMP", 255), added("BANK CHARGES", 100))
		me := moduletest.Customer(ann)
		if got := mine(t, h, ann); !cmp.Equal(got, cart{CustomerID: ann, Lines: []line{}, Problems: []string{}}) {
			t.Errorf("empty cart: got %+v", got)
		}
		h.Do("DELETE", "/api/carts/mine", me, nil).Want(t, 200)
		h.Do("POST", "/api/carts/mine/accept-prices", me, nil).Want(t, 200)

		r := h.Do("POST", "/api/carts/mine/lines", me, fields{"sku": "LAMP", "quantity": 2}, "Idempotency-Key", "k").Want(t, 200)
		if again := h.Do("POST", "/api/carts/mine/lines", me, fields{"sku": "LAMP", "quantity": 2}, "Idempotency-Key", "k"); string(again.Body) != string(r.Body) {
			t.Errorf("repeat: got %s, want %s", again.Body, r.Body)
		}
		h.Do("PUT", "/api/carts/mine/lines/BANK%20CHARGES", me, fields{"quantity": 3}).Want(t, 200)
		h.Do("PUT", "/api/carts/mine/lines/BANK%20CHARGES", me, fields{"quantity": 3}).Want(t, 200)
		h.Do("PUT", "/api/carts/mine/lines/BANK%20CHARGES", me, fields{"quantity": 4}, "If-Match", `"1"`).Want(t, 409)
		h.Do("POST", "/api/carts/mine/lines", me, fields{"sku": "LAMP", "quantity": 1}, "If-Match", `"2"`).Want(t, 200)

		h.Deliver(t,
			catalogapi.PriceChanged{SKU: "LAMP", Old: pounds(255), New: pounds(300), Version: 2},
			catalogapi.ProductChanged{SKU: "LAMP", Name: "The new lamp", Version: 3},
			catalogapi.ProductRetired{SKU: "BANK CHARGES", Version: 2})
		want := cart{
			CustomerID: ann, Version: 3, Total: ptr(pounds(3*255 + 300)), CurrentTotal: ptr(pounds(1200)),
			Lines: []line{
				{SKU: "LAMP", Name: "The new lamp", Quantity: 3, Price: pounds(255), CurrentPrice: ptr(pounds(300)), OnSale: true},
				{SKU: "BANK CHARGES", Name: "The BANK CHARGES", Quantity: 3, Price: pounds(100)},
			},
			Problems: []string{"the price of LAMP has changed from GBP 2.55 to GBP 3.00", "BANK CHARGES is no longer sold"},
		}
		if diff := cmp.Diff(want, mine(t, h, ann)); diff != "" {
			t.Errorf("cart with problems (-want +got):\n%s", diff)
		}
		var asked cartsapi.Cart
		h.Ask(t, cartsapi.GetCart{CustomerID: ann}, &asked)
		wantAsked := cartsapi.Cart{
			CustomerID: ann, Version: 3, Total: pounds(3*255 + 300), Problems: want.Problems,
			Lines: []cartsapi.Line{{SKU: "LAMP", Name: "The new lamp", Quantity: 3, Price: pounds(255)}, {SKU: "BANK CHARGES", Name: "The BANK CHARGES", Quantity: 3, Price: pounds(100)}},
		}
		if diff := cmp.Diff(wantAsked, asked); diff != "" {
			t.Errorf("GetCart (-want +got):\n%s", diff)
		}

		h.Do("PUT", "/api/carts/mine/lines/BANK%20CHARGES", me, fields{"quantity": 5}).Want(t, 409)
		h.Do("DELETE", "/api/carts/mine/lines/BANK%20CHARGES", me, nil).Want(t, 200)
		h.Do("DELETE", "/api/carts/mine/lines/BANK%20CHARGES", me, nil).Want(t, 200)
		h.Do("POST", "/api/carts/mine/accept-prices", me, fields{"total": pounds(765)}).Want(t, 409)
		h.Do("POST", "/api/carts/mine/accept-prices", me, fields{"total": pounds(900)}).Want(t, 200)
		want = cart{CustomerID: ann, Version: 5, Total: ptr(pounds(900)), Lines: []line{{SKU: "LAMP", Name: "The new lamp", Quantity: 3, Price: pounds(300), OnSale: true}}, Problems: []string{}}
		if diff := cmp.Diff(want, mine(t, h, ann)); diff != "" {
			t.Errorf("accepted cart (-want +got):\n%s", diff)
		}
		var seen cart
		h.Do("GET", "/api/carts/"+ann, moduletest.Staff, nil).Into(t, &seen)
		if diff := cmp.Diff(want, seen); diff != "" {
			t.Errorf("as staff sees it (-want +got):\n%s", diff)
		}
		if got := mine(t, h, bob); len(got.Lines) != 0 {
			t.Errorf("somebody else's cart: got %+v", got)
		}
		h.Do("DELETE", "/api/carts/mine", me, nil).Want(t, 200)
		if got := mine(t, h, ann); got.Version != 6 || len(got.Lines) != 0 {
			t.Errorf("emptied cart: got %+v", got)
		}
	})
}

// TestCopyOfTheCatalog: older news never replaces newer, and what the copy lacks is asked for once.
func TestCopyOfTheCatalog(t *testing.T) {
	t.Parallel()
	moduletest.Each(t, func(t *testing.T, open moduletest.Opener) {
		h := open(t, build)
		me := moduletest.Customer(ann)
		h.Do("POST", "/api/carts/mine/lines", me, fields{"sku": "LAMP", "quantity": 1}).Want(t, 503) // nobody answers
		questions := 0
		h.Answer("catalog.get_products.v1", func(body []byte) (any, error) {
			questions++
			var q catalogapi.GetProducts
			if err := json.Unmarshal(body, &q); err != nil || len(q.SKUs) != 1 {
				return nil, errs.New(errs.Invalid, "wrong question %s", body)
			}
			if q.SKUs[0] != "LAMP" {
				return catalogapi.Products{}, nil
			}
			return catalogapi.Products{Products: []catalogapi.Product{{SKU: "LAMP", Name: "Lamp", Price: pounds(300), OnSale: true, Version: 5}}}, nil
		})
		h.Do("POST", "/api/carts/mine/lines", me, fields{"sku": "BOWL", "quantity": 1}).Want(t, 404)
		// A change of what the copy lacks says too little to keep.
		h.Deliver(t, catalogapi.PriceChanged{SKU: "LAMP", New: pounds(290), Version: 4})
		h.Do("POST", "/api/carts/mine/lines", me, fields{"sku": "LAMP", "quantity": 1}).Want(t, 200)
		h.Do("POST", "/api/carts/mine/lines", me, fields{"sku": "LAMP", "quantity": 1}).Want(t, 200)
		if questions != 2 {
			t.Errorf("asked %d times, want 2", questions)
		}
		// What the answer overtook.
		h.Deliver(t, added("LAMP", 100), catalogapi.ProductChanged{SKU: "LAMP", Name: "Old lamp", Version: 2}, catalogapi.PriceChanged{SKU: "LAMP", New: pounds(200), Version: 3},
			catalogapi.ProductRetired{SKU: "LAMP", Version: 5})
		want := []line{{SKU: "LAMP", Name: "Lamp", Quantity: 2, Price: pounds(300), OnSale: true}}
		if diff := cmp.Diff(want, mine(t, h, ann).Lines); diff != "" {
			t.Errorf("after old news (-want +got):\n%s", diff)
		}
		h.Deliver(t, catalogapi.PriceChanged{SKU: "LAMP", New: pounds(310), Version: 6}, catalogapi.ProductRetired{SKU: "LAMP", Version: 7})
		h.Restart()
		want = []line{{SKU: "LAMP", Name: "Lamp", Quantity: 2, Price: pounds(300), CurrentPrice: ptr(pounds(310))}}
		if diff := cmp.Diff(want, mine(t, h, ann).Lines); diff != "" {
			t.Errorf("after new news (-want +got):\n%s", diff)
		}
	})
}

// TestCopyIsOvertaken: what the catalog answers before it changes a product does not get into the copy after that change.
func TestCopyIsOvertaken(t *testing.T) {
	t.Parallel()
	moduletest.Each(t, func(t *testing.T, open moduletest.Opener) {
		for name, news := range map[string]catalogapi.Product{
			"another price": {Name: "Lamp", Price: pounds(310), OnSale: true, Version: 6},
			"another name":  {Name: "Light", Price: pounds(300), OnSale: true, Version: 6},
			"retired":       {Name: "Lamp", Price: pounds(300), Version: 6},
		} {
			t.Run(name, func(t *testing.T) {
				h := open(t, build)
				me := moduletest.Customer(ann)
				news.SKU = "LAMP"
				was := catalogapi.Product{SKU: "LAMP", Name: "Lamp", Price: pounds(300), OnSale: true, Version: 5}
				questions := 0
				h.Answer("catalog.get_products.v1", func([]byte) (any, error) {
					if questions++; questions > 1 {
						return catalogapi.Products{Products: []catalogapi.Product{news}}, nil
					}
					h.Deliver(t, catalogapi.ProductChanged{SKU: "LAMP", Name: "Lamp", Version: 4}, catalogapi.PriceChanged{SKU: "LAMP", New: pounds(300), Version: 5})
					switch {
					case news.Price != was.Price:
						h.Deliver(t, catalogapi.PriceChanged{SKU: "LAMP", New: news.Price, Version: 6})
					case news.Name != was.Name:
						h.Deliver(t, catalogapi.ProductChanged{SKU: "LAMP", Name: news.Name, Version: 6})
					default:
						h.Deliver(t, catalogapi.ProductRetired{SKU: "LAMP", Version: 6})
					}
					return catalogapi.Products{Products: []catalogapi.Product{was}}, nil
				})
				put := func() moduletest.Response {
					return h.Do("POST", "/api/carts/mine/lines", me, fields{"sku": "LAMP", "quantity": 1}, "Idempotency-Key", "k")
				}
				if r := put().Want(t, 503); r.Header.Get("Retry-After") == "" {
					t.Error("it is not said when to come back")
				}
				if !news.OnSale {
					put().Want(t, 409)
				} else {
					put().Want(t, 200)
					want := []line{{SKU: "LAMP", Name: news.Name, Quantity: 1, Price: news.Price, OnSale: true}}
					if diff := cmp.Diff(want, mine(t, h, ann).Lines); diff != "" {
						t.Errorf("(-want +got):\n%s", diff)
					}
				}
				if questions != 2 {
					t.Errorf("asked %d times, want 2", questions)
				}
			})
		}
	})
}

func TestOrdered(t *testing.T) {
	t.Parallel()
	moduletest.Each(t, func(t *testing.T, open moduletest.Opener) {
		h := open(t, build)
		h.Deliver(t, added("LAMP", 255), added("BOWL", 100), added("VASE", 50))
		me := moduletest.Customer(ann)
		put := func(sku string, quantity int) {
			h.Do("PUT", "/api/carts/mine/lines/"+sku, me, fields{"quantity": quantity}).Want(t, 200)
		}
		put("LAMP", 2)
		put("BOWL", 3)
		order := ordersapi.OrderPlaced{OrderID: "o1", CustomerID: ann, CartVersion: 2, Total: pounds(810), Lines: []ordersapi.Line{
			{SKU: "LAMP", Quantity: 2, Price: pounds(255)}, {SKU: "BOWL", Quantity: 3, Price: pounds(100)},
		}}
		// The customer goes on shopping before the news of the order is here.
		put("LAMP", 5)
		put("VASE", 1)
		h.Do("DELETE", "/api/carts/mine/lines/BOWL", me, nil).Want(t, 200)
		news := h.Envelope(t, order)
		h.DeliverMessage(t, news)
		h.DeliverMessage(t, news)
		got := mine(t, h, ann)
		want := []line{{SKU: "LAMP", Name: "The LAMP", Quantity: 3, Price: pounds(255), OnSale: true}, {SKU: "VASE", Name: "The VASE", Quantity: 1, Price: pounds(50), OnSale: true}}
		if diff := cmp.Diff(want, got.Lines); diff != "" || got.Version != 6 {
			t.Errorf("version %d, what is left (-want +got):\n%s", got.Version, diff)
		}
		out := h.Announced("carts.cart_checked_out.v1")
		if len(out) != 1 {
			t.Fatalf("%d carts checked out, want 1", len(out))
		}
		if e := moduletest.Decode[cartsapi.CartCheckedOut](t, out[0]); e.OrderID != "o1" || e.CustomerID != ann {
			t.Errorf("checked out: %+v", e)
		}
		h.Deliver(t, ordersapi.OrderPlaced{OrderID: "o2", CustomerID: ann, Lines: order.Lines, Total: order.Total}) // not of the cart
		if again := mine(t, h, ann); again.Version != 6 || len(h.Announced("")) != 1 {
			t.Errorf("an order without cart changed it: %+v", again)
		}
		h.Deliver(t, ordersapi.OrderPlaced{OrderID: "o3", CustomerID: ann, CartVersion: 6, Total: pounds(815), Lines: []ordersapi.Line{
			{SKU: "LAMP", Quantity: 1, Price: pounds(255)}, {SKU: "LAMP", Quantity: 2, Price: pounds(250)}, {SKU: "VASE", Quantity: 1, Price: pounds(50)},
		}})
		if last := mine(t, h, ann); last.Version != 7 || len(last.Lines) != 0 {
			t.Errorf("all ordered: %+v", last)
		}
	})
}

func TestErasure(t *testing.T) {
	t.Parallel()
	moduletest.Each(t, func(t *testing.T, open moduletest.Opener) {
		h := open(t, build)
		h.Deliver(t, added("LAMP", 255))
		for _, id := range []string{ann, bob} {
			h.Do("PUT", "/api/carts/mine/lines/LAMP", moduletest.Customer(id), fields{"quantity": 1}).Want(t, 200)
		}
		h.Deliver(t, usersapi.UserErased{UserID: ann}, usersapi.UserErased{UserID: "never-had-a-cart"})
		if got := mine(t, h, ann); got.Version != 0 || len(got.Lines) != 0 {
			t.Errorf("erased: %+v", got)
		}
		if got := mine(t, h, bob); len(got.Lines) != 1 {
			t.Errorf("the other one: %+v", got)
		}
		// News of an order may come after that of the erasure: their publishers are different.
		h.Deliver(t, ordersapi.OrderPlaced{OrderID: "o1", CustomerID: ann, CartVersion: 1, Lines: []ordersapi.Line{{SKU: "LAMP", Quantity: 1, Price: pounds(255)}}})
	})
}

func TestExpiry(t *testing.T) {
	t.Parallel()
	moduletest.Each(t, func(t *testing.T, open moduletest.Opener) {
		h := open(t, build)
		h.Deliver(t, added("LAMP", 255))
		put := func(id string) {
			h.Do("POST", "/api/carts/mine/lines", moduletest.Customer(id), fields{"sku": "LAMP", "quantity": 1}).Want(t, 200)
		}
		put(ann)
		put(bob)
		h.Advance(60 * 24 * time.Hour)
		put(bob)
		h.Advance(31 * 24 * time.Hour)
		if got := mine(t, h, ann); got.Version != 2 || len(got.Lines) != 0 {
			t.Errorf("untouched for 91 days: %+v", got)
		}
		if got := mine(t, h, bob); len(got.Lines) != 1 || got.Lines[0].Quantity != 2 {
			t.Errorf("touched 31 days ago: %+v", got)
		}
		// An emptied cart does not age, and its versions go on: an order may name an old one.
		h.Advance(91 * 24 * time.Hour)
		put(ann)
		if got := mine(t, h, ann); got.Version != 3 || len(got.Lines) != 1 {
			t.Errorf("used again: %+v", got)
		}
	})
}

func TestBadInput(t *testing.T) {
	t.Parallel()
	moduletest.Each(t, func(t *testing.T, open moduletest.Opener) {
		h := open(t, build)
		h.Deliver(t, added("LAMP", 255))
		h.Answer("catalog.get_products.v1", func([]byte) (any, error) { return catalogapi.Products{}, nil })
		for _, tc := range []struct {
			name, method, path string
			body               any
			status             int
		}{
			{"nothing", "PUT", "/api/carts/mine/lines/LAMP", fields{"quantity": 0}, 422},
			{"less than nothing", "POST", "/api/carts/mine/lines", fields{"sku": "LAMP", "quantity": -5}, 422},
			{"too many", "PUT", "/api/carts/mine/lines/LAMP", fields{"quantity": 10001}, 422},
			{"overflow", "PUT", "/api/carts/mine/lines/LAMP", fields{"quantity": 1e30}, 422},
			{"half a lamp", "PUT", "/api/carts/mine/lines/LAMP", fields{"quantity": 0.5}, 422},
			{"own price", "PUT", "/api/carts/mine/lines/LAMP", fields{"quantity": 1, "price": 1}, 422},
			{"no body", "PUT", "/api/carts/mine/lines/LAMP", nil, 400},
			{"unknown product", "PUT", "/api/carts/mine/lines/BOWL", fields{"quantity": 1}, 404},
			{"NUL in SKU", "PUT", "/api/carts/mine/lines/a%00", fields{"quantity": 1}, 404},
			{"NUL in SKU of the body", "POST", "/api/carts/mine/lines", fields{"sku": "a\x00", "quantity": 1}, 404},
			{"broken UTF-8 in SKU", "DELETE", "/api/carts/mine/lines/%ff", nil, 404},
			{"SQL in SKU", "DELETE", "/api/carts/mine/lines/'%20OR%201=1", nil, 200},
			{"NUL in customer", "GET", "/api/carts/%00", nil, 422},
		} {
			if r := h.Do(tc.method, tc.path, moduletest.Staff, tc.body); r.Status != tc.status {
				t.Errorf("%s: status %d, want %d: %s", tc.name, r.Status, tc.status, r.Body)
			}
		}
		var c cart
		h.Do("GET", "/api/carts/mine", moduletest.Staff, nil).Into(t, &c)
		if c.Version != 0 {
			t.Errorf("something was stored: %+v", c)
		}
	})
}

// TestTabsOfOneCustomer: what is put in at the same time is all there.
func TestTabsOfOneCustomer(t *testing.T) {
	t.Parallel()
	moduletest.Each(t, func(t *testing.T, open moduletest.Opener) {
		h := open(t, build)
		for i := range 5 {
			h.Deliver(t, added(fmt.Sprintf("P%d", i), 100))
		}
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				for i := range 5 {
					r := h.Do("POST", "/api/carts/mine/lines", moduletest.Customer(ann), fields{"sku": fmt.Sprintf("P%d", i), "quantity": 1})
					if r.Status != 200 {
						t.Errorf("status %d: %s", r.Status, r.Body)
					}
				}
			})
		}
		wg.Wait()
		got := mine(t, h, ann)
		if got.Version != 40 || len(got.Lines) != 5 || *got.Total != pounds(4000) {
			t.Errorf("got %+v", got)
		}
	})
}

// TestLargestCart: 300 lines are taken in and ordered; one more is refused.
func TestLargestCart(t *testing.T) {
	t.Parallel()
	h := moduletest.NewSQLite(t, build)
	me := moduletest.Customer(ann)
	order := ordersapi.OrderPlaced{OrderID: "o1", CustomerID: ann, CartVersion: 300}
	for i := range 301 {
		sku := fmt.Sprintf("P%d", i)
		h.Deliver(t, added(sku, 100))
		want := 200
		if i == 300 {
			want = 409
		}
		h.Do("PUT", "/api/carts/mine/lines/"+sku, me, fields{"quantity": 10000}).Want(t, want)
		order.Lines = append(order.Lines, ordersapi.Line{SKU: sku, Quantity: 10000, Price: pounds(100)})
		if i < 300 {
			h.Deliver(t, catalogapi.PriceChanged{SKU: sku, New: pounds(200), Version: 2})
		}
	}
	h.Do("POST", "/api/carts/mine/accept-prices", me, nil).Want(t, 200)
	if got := mine(t, h, ann); len(got.Lines) != 300 || *got.Total != pounds(300*10000*200) || len(got.Problems) != 0 {
		t.Errorf("%d lines, total %v, %d problems", len(got.Lines), got.Total, len(got.Problems))
	}
	h.Deliver(t, order)
	if got := mine(t, h, ann); len(got.Lines) != 0 || got.Version != 302 {
		t.Errorf("ordered: version %d, %d lines", got.Version, len(got.Lines))
	}
}
