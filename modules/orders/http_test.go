package orders

import (
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/banyan-go/banyan/internal/identity"
	"github.com/banyan-go/banyan/internal/message"
	"github.com/banyan-go/banyan/internal/moduletest"
	"github.com/banyan-go/banyan/internal/money"
	"github.com/banyan-go/banyan/modules/carts/cartsapi"
	"github.com/banyan-go/banyan/modules/catalog/catalogapi"
	"github.com/banyan-go/banyan/modules/inventory/inventoryapi"
	"github.com/banyan-go/banyan/modules/orders/ordersapi"
	"github.com/banyan-go/banyan/modules/payments/paymentsapi"
	"github.com/banyan-go/banyan/modules/shipping/shippingapi"
	"github.com/banyan-go/banyan/modules/users/usersapi"
)

func TestWiring(t *testing.T) {
	t.Parallel()
	s := openShop(t, moduletest.NewSQLite)
	if err := s.Module.Check(); err != nil {
		t.Fatal(err)
	}
}

func TestConfig(t *testing.T) {
	t.Parallel()
	if err := DefaultConfig().Validate(); err != nil {
		t.Fatal(err)
	}
	for key, change := range map[string]func(*Config){
		"checkout_timeout":   func(c *Config) { c.CheckoutTimeout = 0 },
		"reservation_margin": func(c *Config) { c.ReservationMargin = 0 },
		"return_window":      func(c *Config) { c.ReturnWindow = -1 },
		"snapshot_every":     func(c *Config) { c.SnapshotEvery = 0 },
	} {
		c := DefaultConfig()
		change(&c)
		if err := c.Validate(); err == nil || !strings.Contains(err.Error(), "modules.orders."+key) {
			t.Errorf("%s: %v", key, err)
		}
	}
}

func TestPlace(t *testing.T) {
	t.Parallel()
	moduletest.Each(t, func(t *testing.T, open moduletest.Opener) {
		s := openShop(t, open)
		asked := 0
		s.Answer("catalog.get_products.v1", func([]byte) (any, error) {
			asked++
			return catalogapi.Products{Products: []catalogapi.Product{{SKU: "new", Name: "a new one", Price: gbp(7), OnSale: true, Version: 4}}}, nil
		})
		s.Deliver(t, catalogapi.ProductRetired{SKU: "cup", Version: 2})
		long := make(lines, 0, 1001)
		for range 1001 {
			long = append(long, line("jar", 1))
		}
		one := lines{line("jar", 1)}
		type body = map[string]any
		for _, c := range []struct {
			name   string
			as     identity.Identity
			body   body
			status int
			path   string // of the wrong input
		}{
			{"nobody", moduletest.Nobody, body{"lines": one}, 401, ""},
			{"no card", ann, body{"lines": one, "card": ""}, 422, "body.card"},
			{"a card number", ann, body{"lines": one, "card": "tok_4242424242424242"}, 422, "body.card"},
			{"no token", ann, body{"lines": one, "card": "visa"}, 422, "body.card"},
			{"nothing to order", ann, body{}, 422, "body.lines"},
			{"cart and lines", ann, body{"cart": true, "lines": one}, 422, "body.lines"},
			{"no units", ann, body{"lines": lines{line("jar", 0)}}, 422, "body.lines[0].quantity"},
			{"too many units", ann, body{"lines": lines{line("jar", 1_000_001)}}, 422, "body.lines[0].quantity"},
			{"too many lines", ann, body{"lines": long}, 422, "body.lines"},
			{"an unknown product", ann, body{"lines": lines{line("jar", 1), line("nix", 1)}}, 422, "body.lines[1].sku"},
			{"a retired product", ann, body{"lines": lines{line("cup", 1)}}, 422, "body.lines[0].sku"},
			{"an escape sequence in the street", ann, body{"lines": one, "address": body{"street": "1 Fig Lane\x1b[2J"}}, 422, "body.address.street"},
			{"two lines in the name", ann, body{"lines": one, "address": body{"name": "Ann\nBob"}}, 422, "body.address.name"},
			{"staff, a control character in the reference", moduletest.Staff, body{"customer_id": ann.Subject, "lines": one, "reference": "R\u0085"}, 422, "body.reference"},
			{"an unknown field", ann, body{"lines": one, "discount": 1}, 422, "body.discount"},
			{"own prices", ann, body{"lines": lines{lineAt("jar", 1, 1)}}, 403, "body.lines[0].price"},
			{"own reference", ann, body{"lines": one, "reference": "1"}, 403, "body.reference"},
			{"for somebody else", ann, body{"lines": one, "customer_id": bob.Subject}, 403, "body.customer_id"},
			{"another price expected", ann, body{"lines": one, "expected_total": gbp(103)}, 409, "body.expected_total"},
			{"staff, an unknown product", moduletest.Staff, body{"customer_id": ann.Subject, "lines": lines{lineAt("nix", 1, 1)}}, 422, "body.lines[0].sku"},
			{"staff, somebody's cart", moduletest.Staff, body{"customer_id": ann.Subject, "cart": true}, 422, "body.cart"},
			{"staff, a negative price", moduletest.Staff, body{"customer_id": ann.Subject, "lines": lines{lineAt("jar", 1, -1)}}, 422, "body.lines[0].price.amount"},
			{"staff, a total that overflows", moduletest.Staff, body{"customer_id": ann.Subject, "lines": lines{lineAt("jar", 1_000_000, 99_999_999_999)}}, 422, "body.lines"},
			{"staff, two currencies", moduletest.Staff, body{"customer_id": ann.Subject, "lines": lines{lineAt("jar", 1, 1), {"sku": "bag", "quantity": 1, "price": money.Of(1, "EUR")}}}, 422, "body.lines[1].price.currency"},
			{"staff, free of charge", moduletest.Staff, body{"customer_id": ann.Subject, "lines": lines{lineAt("jar", 1, 0)}}, 422, "body.lines"},
			{"staff, before the first year", moduletest.Staff, body{"customer_id": ann.Subject, "lines": one, "reference_time": "0000-01-01T00:00:00+05:00"}, 422, "body.reference_time"},
			{"staff, in the year 0", moduletest.Staff, body{"customer_id": ann.Subject, "lines": one, "reference_time": "0000-12-31T23:59:59Z"}, 422, "body.reference_time"},
			{"staff, after the last year", moduletest.Staff, body{"customer_id": ann.Subject, "lines": one, "reference_time": "9999-12-31T23:59:59-05:00"}, 422, "body.reference_time"},
			{"staff, no time", moduletest.Staff, body{"customer_id": ann.Subject, "lines": one, "reference_time": "yesterday"}, 422, "body.reference_time"},
			{"staff, odd customer", moduletest.Staff, body{"customer_id": "x'; DROP TABLE", "lines": one}, 422, "body.customer_id"},
		} {
			if c.body["card"] == nil {
				c.body["card"] = "tok_visa"
			}
			r := s.Do("POST", "/api/orders", c.as, c.body)
			if r.Status != c.status {
				t.Errorf("%s: status %d, want %d: %s", c.name, r.Status, c.status, r.Body)
				continue
			}
			p := problemOf(t, r)
			if c.path != "" && (len(p.Errors) == 0 || p.Errors[0].Path != c.path) {
				t.Errorf("%s: names %+v, want %s", c.name, p.Errors, c.path)
			}
		}
		if rows := s.rows("stream"); len(rows) != 0 {
			t.Fatalf("refused orders are stored: %v", rows)
		}

		r := s.Do("POST", "/api/orders", ann, body{"lines": lines{line("jar", 2), line("new", 1), line("jar", 3)}, "card": "tok_visa", "expected_total": gbp(527)}, "Idempotency-Key", "k1")
		var o, again orderReply
		r.Want(t, 201).Into(t, &o)
		if r.Header.Get("Location") != "/api/orders/"+o.ID || len(o.Lines) != 2 || o.Lines[0].Quantity != 5 || o.Total != gbp(527) || o.PlacedBy != "customer" {
			t.Errorf("placed at %q: %+v", r.Header.Get("Location"), o)
		}
		s.Do("POST", "/api/orders", ann, body{"lines": lines{line("jar", 2), line("new", 1), line("jar", 3)}, "card": "tok_visa", "expected_total": gbp(527)}, "Idempotency-Key", "k1").Into(t, &again)
		if again.ID != o.ID || len(s.rows("stream")) != 1 {
			t.Errorf("a repeat made order %s, not %s", again.ID, o.ID)
		}
		was := asked
		s.place(ann, body{"lines": lines{line("new", 1)}})
		if asked != was {
			t.Error("the catalog is asked again for a product that it told already")
		}

		// The copy follows the catalog, but never back.
		s.Deliver(t, catalogapi.PriceChanged{SKU: "new", New: gbp(9), Version: 5}, catalogapi.PriceChanged{SKU: "new", New: gbp(8), Version: 3},
			catalogapi.ProductChanged{SKU: "new", Name: "an old one", Version: 6}, catalogapi.ProductAdded{SKU: "new", Name: "?", Price: gbp(1), Version: 1})
		if o := s.place(ann, body{"lines": lines{line("new", 1)}}); o.Total != gbp(9) {
			t.Errorf("total %+v", o.Total)
		}

		// Staff order at agreed prices, of retired products too, under a reference.
		at := "2010-12-01T08:26:00Z"
		agreed := body{"customer_id": bob.Subject, "reference": "536365", "reference_time": at, "lines": lines{lineAt("jar", 2, 99), lineAt("jar", 1, 98), lineAt("cup", 1, 5)}}
		o = s.place(moduletest.Staff, agreed)
		if o.Total != gbp(301) || len(o.Lines) != 3 || o.CustomerID != bob.Subject || o.PlacedBy != "staff" || o.Reference != "536365" {
			t.Errorf("placed %+v", o)
		}
		p := problemOf(t, s.Do("POST", "/api/orders", moduletest.Staff, agreed).Want(t, 409))
		if len(p.Errors) != 1 || p.Errors[0].Path != "body.reference" {
			t.Errorf("refused because of %+v", p)
		}
		for _, at := range []string{"0001-01-01T00:00:00Z", "9999-12-31T23:59:59.999999Z"} {
			var first orderReply
			o := s.place(moduletest.Staff, body{"customer_id": bob.Subject, "reference_time": at, "lines": one})
			s.Do("GET", "/api/orders/"+o.ID+"?version=1", bob, nil).Want(t, 200).Into(t, &first)
			if now := s.get(o.ID); now.ReferenceTime != at || first.ReferenceTime != at {
				t.Errorf("reference time %s, and %s at first, want %s", now.ReferenceTime, first.ReferenceTime, at)
			}
		}
		s.Do("GET", "/api/orders/"+o.ID, bob, nil).Want(t, 200)
		s.Do("GET", "/api/orders/"+o.ID, ann, nil).Want(t, 404)
	})
}

// TestPriceIsOvertaken: what the catalog answers before it changes a product does not get into the copy after that change.
func TestPriceIsOvertaken(t *testing.T) {
	t.Parallel()
	moduletest.Each(t, func(t *testing.T, open moduletest.Opener) {
		s := openShop(t, open)
		answer := func(price int64, version int64, meanwhile ...message.Event) {
			s.Answer("catalog.get_products.v1", func([]byte) (any, error) {
				s.Deliver(t, meanwhile...)
				return catalogapi.Products{Products: []catalogapi.Product{{SKU: "new", Name: "a new one", Price: gbp(price), OnSale: true, Version: version}}}, nil
			})
		}
		order := func(want int64) {
			t.Helper()
			if o := s.place(ann, map[string]any{"lines": lines{line("new", 1)}}); o.Total != gbp(want) {
				t.Errorf("total %+v, want %d", o.Total, want)
			}
		}
		answer(7, 5, catalogapi.ProductChanged{SKU: "new", Name: "an old one", Version: 4}, catalogapi.PriceChanged{SKU: "new", New: gbp(9), Version: 6})
		order(7) // as it was asked for
		answer(9, 6)
		order(9)
		answer(1, 9)
		order(9) // known by now
		s.Deliver(t, catalogapi.ProductRetired{SKU: "new", Version: 7})
		s.Do("POST", "/api/orders", ann, map[string]any{"card": "tok_visa", "lines": lines{line("new", 1)}}).Want(t, 422)
	})
}

func TestCartBecomesOrder(t *testing.T) {
	t.Parallel()
	moduletest.Each(t, func(t *testing.T, open moduletest.Opener) {
		s := openShop(t, open)
		cart := cartsapi.Cart{CustomerID: ann.Subject, Version: 7}
		s.Answer("carts.get_cart.v1", func([]byte) (any, error) { return cart, nil })
		body := map[string]any{"cart": true, "card": "tok_visa"}
		s.Do("POST", "/api/orders", ann, body).Want(t, 409)
		cart.Lines = []cartsapi.Line{{SKU: "jar", Name: "a jar", Quantity: 2, Price: gbp(100)}}
		cart.Problems = []string{"the price of a jar changed"}
		if p := problemOf(t, s.Do("POST", "/api/orders", ann, body).Want(t, 409)); len(p.Errors) != 1 {
			t.Errorf("refused because of %+v", p)
		}
		cart.Problems = nil
		var o, again orderReply
		s.Do("POST", "/api/orders", ann, body, "Idempotency-Key", "k").Want(t, 201).Into(t, &o)
		if placed := last[ordersapi.OrderPlaced](s, "orders.order_placed.v1"); placed.CartVersion != 7 || placed.Total != gbp(200) {
			t.Errorf("announced %+v", placed)
		}
		s.Do("POST", "/api/orders", ann, body).Want(t, 409) // a second click
		cart.Lines = nil                                    // the cart heard of the order
		s.Do("POST", "/api/orders", ann, body, "Idempotency-Key", "k").Want(t, 201).Into(t, &again)
		if again.ID != o.ID {
			t.Errorf("a repeat made order %s, not %s", again.ID, o.ID)
		}
		s.Do("POST", "/api/orders", ann, body).Want(t, 409)
	})
}

func TestWhoSeesWhat(t *testing.T) {
	t.Parallel()
	moduletest.Each(t, func(t *testing.T, open moduletest.Opener) {
		s := openShop(t, open)
		o := s.jars()
		mine := s.place(bob, map[string]any{"lines": lines{line("jar", 1)}})
		for _, path := range []string{"", "/history", "/events", "/returns"} {
			s.Do("GET", "/api/orders/"+o.ID+path, bob, nil).Want(t, 404)
			s.Do("GET", "/api/orders/nix"+path, bob, nil).Want(t, 404)
		}
		s.Do("POST", "/api/orders/"+o.ID+"/cancel", bob, map[string]any{}).Want(t, 404)
		s.Do("POST", "/api/orders/"+o.ID+"/returns", bob, map[string]any{"lines": lines{lineAt("jar", 1, 104)}}).Want(t, 404)
		for _, path := range []string{"summary", "customers"} {
			s.Do("GET", "/api/orders/reports/"+path, bob, nil).Want(t, 403)
		}
		// ids reads a list in pages of one.
		ids := func(as identity.Identity, query string) []string {
			all, next := []string{}, ""
			for {
				var page struct {
					Items []orderReply
					Next  string
				}
				s.Do("GET", "/api/orders?limit=1&"+query+"&cursor="+url.QueryEscape(next), as, nil).Want(t, 200).Into(t, &page)
				for _, o := range page.Items {
					all = append(all, o.ID)
				}
				if next = page.Next; next == "" {
					return all
				}
			}
		}
		for _, c := range []struct {
			as    identity.Identity
			query string
			want  []string
		}{
			{moduletest.Staff, "", []string{mine.ID, o.ID}},
			{moduletest.Staff, "customer_id=" + ann.Subject, []string{o.ID}},
			{moduletest.Staff, "status=placed", []string{mine.ID, o.ID}},
			{moduletest.Staff, "status=confirmed", []string{}},
			{moduletest.Staff, "reference=nix", []string{}},
			{bob, "", []string{mine.ID}},
			{bob, "customer_id=" + ann.Subject, []string{}},
		} {
			if got := ids(c.as, c.query); !slices.Equal(got, c.want) {
				t.Errorf("%s?%s: %v, want %v", c.as.Role, c.query, got, c.want)
			}
		}
	})
}

func TestReturns(t *testing.T) {
	t.Parallel()
	moduletest.Each(t, func(t *testing.T, open moduletest.Opener) {
		s := openShop(t, open)
		o := s.jars()
		path := "/api/orders/" + o.ID + "/returns"
		some := map[string]any{"return_id": "01900000-0000-7000-8000-00000000aaaa", "lines": lines{lineAt("jar", 3, 104), lineAt("jar", 1, 104)}, "reason": "broken lid"}
		s.Do("POST", path, moduletest.Staff, some).Want(t, 409)
		s.confirm(o.ID)
		s.Do("POST", path, ann, some).Want(t, 409) // not delivered yet
		var r returnReply
		s.Do("POST", path, moduletest.Staff, some).Want(t, 201).Into(t, &r)
		if r.Refund != gbp(416) || r.Settled || r.Note != "broken lid" {
			t.Errorf("return %+v", r)
		}
		s.Do("POST", path, moduletest.Staff, some).Want(t, 201) // the same again is the same
		other := map[string]any{"return_id": some["return_id"], "lines": lines{lineAt("bag", 1, 208)}}
		s.Do("POST", path, moduletest.Staff, other).Want(t, 409)
		refund, restock := last[paymentsapi.Refund](s, "payments.refund.v1"), last[inventoryapi.Restock](s, "inventory.restock.v1")
		if refund.RefundID != r.ID || refund.Amount != gbp(416) || restock.ReturnID != r.ID || len(restock.Lines) != 1 || restock.Lines[0].Quantity != 4 {
			t.Errorf("refund %+v restock %+v", refund, restock)
		}
		if len(s.Announced("payments.refund.v1")) != 1 || len(s.Announced("orders.order_returned.v1")) != 1 {
			t.Error("a repeated return pays twice")
		}
		// A return id of another order is taken.
		strange := s.jars()
		s.confirm(strange.ID)
		s.Do("POST", "/api/orders/"+strange.ID+"/returns", moduletest.Staff, some).Want(t, 409)

		s.Deliver(t, inventoryapi.StockReturned{OrderID: o.ID, ReturnID: r.ID})
		if got := s.get(o.ID); got.Settled || !got.Returns[0].Restocked || got.ReturnState != "partly_returned" || got.Refunded != gbp(416) || got.Lines[0].Returned != 4 {
			t.Errorf("order %+v", got)
		}
		s.Deliver(t, paymentsapi.PaymentRefunded{OrderID: o.ID, RefundID: r.ID, Amount: gbp(416)}, paymentsapi.PaymentRefunded{OrderID: o.ID, RefundID: r.ID, Amount: gbp(416)}, paymentsapi.PaymentRefunded{OrderID: o.ID, RefundID: "void"})
		if got := s.get(o.ID); !got.Settled || !got.Returns[0].Settled {
			t.Errorf("order %+v", got)
		}
		s.Do("POST", path, moduletest.Staff, map[string]any{"lines": lines{lineAt("jar", 7, 104)}}).Want(t, 409)
		s.Do("POST", path, moduletest.Staff, map[string]any{"lines": lines{lineAt("jar", 1, 105)}}).Want(t, 422)
		s.Do("POST", path, moduletest.Staff, map[string]any{"lines": lines{{"sku": "jar", "quantity": 1, "price": money.Of(104, "EUR")}}}).Want(t, 422)
		s.Do("POST", "/api/orders/"+o.ID+"/cancel", ann, map[string]any{}).Want(t, 409)
		s.Deliver(t, shippingapi.ShipmentDispatched{ShipmentID: "s", OrderID: o.ID}, shippingapi.ShipmentDelivered{ShipmentID: "s", OrderID: o.ID})
		s.Advance(29 * 24 * time.Hour)
		var rest returnReply
		s.Do("POST", path, ann, map[string]any{"lines": lines{lineAt("jar", 6, 104), lineAt("bag", 2, 208)}}, "Idempotency-Key", "r").Want(t, 201).Into(t, &rest)
		s.Do("POST", path, ann, map[string]any{"lines": lines{lineAt("jar", 6, 104), lineAt("bag", 2, 208)}}, "Idempotency-Key", "r").Want(t, 201)
		s.Advance(2 * 24 * time.Hour)
		s.Do("POST", path, ann, map[string]any{"lines": lines{lineAt("bag", 1, 208)}}).Want(t, 409) // too late for customers
		s.Do("POST", path, moduletest.Staff, map[string]any{"lines": lines{lineAt("bag", 1, 208)}}).Want(t, 201)
		var list struct{ Items []returnReply }
		s.Do("GET", path, ann, nil).Into(t, &list)
		if len(list.Items) != 3 || list.Items[1].ID != rest.ID {
			t.Errorf("returns %+v", list)
		}
		if got := s.get(o.ID); got.ReturnState != "returned" || got.Refunded != got.Total || got.Settled {
			t.Errorf("order %+v", got)
		}
	})
}

// TestReturnedBeforeItLeaves: when nothing is left of an order whose goods are still here, shipping is told to keep them.
func TestReturnedBeforeItLeaves(t *testing.T) {
	t.Parallel()
	moduletest.Each(t, func(t *testing.T, open moduletest.Opener) {
		s := openShop(t, open)
		giveBack := func(id string, of ...map[string]any) {
			t.Helper()
			body := map[string]any{"return_id": message.NewID(), "lines": lines(of)}
			var r returnReply
			s.Do("POST", "/api/orders/"+id+"/returns", moduletest.Staff, body).Want(t, 201).Into(t, &r)
			s.Do("POST", "/api/orders/"+id+"/returns", moduletest.Staff, body).Want(t, 201)
			s.Deliver(t, paymentsapi.PaymentRefunded{OrderID: id, RefundID: r.ID, Amount: r.Refund}, inventoryapi.StockReturned{OrderID: id, ReturnID: r.ID})
		}
		stops := func(id string) (n int) {
			for _, name := range s.sent(id) {
				if name == "shipping.cancel_shipment" {
					n++
				}
			}
			return n
		}
		var ids []string
		for range 3 {
			o := s.jars()
			s.confirm(o.ID)
			ids = append(ids, o.ID)
		}
		here, gone, leaving := ids[0], ids[1], ids[2]
		giveBack(here, lineAt("jar", 10, 104), lineAt("bag", 1, 208))
		if n := stops(here); n != 0 {
			t.Errorf("the goods of an order that came back in part are stopped %d times", n)
		}
		giveBack(here, lineAt("bag", 2, 208))
		if ask := last[shippingapi.CancelShipment](s, "shipping.cancel_shipment.v1"); stops(here) != 1 || ask != (shippingapi.CancelShipment{OrderID: here, CustomerID: ann.Subject}) {
			t.Errorf("stopped %d times: %+v", stops(here), ask)
		}
		s.Deliver(t, stopped(here))
		if got := s.get(here); got.Status != "confirmed" || got.Fulfilment != "not_shipped" || got.ReturnState != "returned" || !got.Settled {
			t.Errorf("kept here: %+v", got)
		}

		s.Deliver(t, shippingapi.ShipmentDispatched{ShipmentID: "s", OrderID: gone})
		giveBack(gone, lineAt("jar", 10, 104), lineAt("bag", 3, 208))
		if n := stops(gone); n != 0 {
			t.Errorf("goods that have left are stopped %d times", n)
		}

		// They leave before shipping hears of it: what happened is told.
		giveBack(leaving, lineAt("jar", 10, 104), lineAt("bag", 3, 208))
		s.Deliver(t, shippingapi.ShipmentDispatched{ShipmentID: "s", OrderID: leaving}, left(leaving))
		if got := s.get(leaving); got.Status != "confirmed" || got.Fulfilment != "shipped" || got.ReturnState != "returned" || !got.Settled || stops(leaving) != 1 {
			t.Errorf("left meanwhile: %+v, stopped %d times", got, stops(leaving))
		}
		if n := s.DeadLetters(); n != 0 {
			t.Errorf("%d dead letters", n)
		}
	})
}

// TestRefundRefused: what the card provider does not give back keeps no return open, and everybody sees it.
func TestRefundRefused(t *testing.T) {
	t.Parallel()
	moduletest.Each(t, func(t *testing.T, open moduletest.Opener) {
		s := openShop(t, open, func(c *Config) { c.SnapshotEvery = 3 })
		o := s.jars()
		s.confirm(o.ID)
		var r returnReply
		s.Do("POST", "/api/orders/"+o.ID+"/returns", moduletest.Staff, map[string]any{"lines": lines{lineAt("jar", 4, 104)}}).Want(t, 201).Into(t, &r)
		refusal := paymentsapi.RefundRefused{OrderID: o.ID, RefundID: r.ID, Amount: gbp(416), Reason: "account_closed"}
		s.Deliver(t, refusal, refusal, paymentsapi.RefundRefused{OrderID: o.ID, RefundID: "void"}, paymentsapi.RefundRefused{OrderID: "unknown", RefundID: "r"})
		if got := s.get(o.ID); got.Settled || got.Returns[0].Refunded || !got.Returns[0].Refused || got.Returns[0].Settled {
			t.Errorf("before the units are on the shelf: %+v", got)
		}
		s.Deliver(t, inventoryapi.StockReturned{OrderID: o.ID, ReturnID: r.ID})
		var now, last orderReply
		s.Do("GET", "/api/orders/"+o.ID, moduletest.Staff, nil).Into(t, &now)
		if !now.Settled || now.Returns[0].Refunded || !now.Returns[0].Refused || !now.Returns[0].Settled || now.Refunded != gbp(416) {
			t.Errorf("order %+v", now)
		}
		s.Do("GET", fmt.Sprintf("/api/orders/%s?version=%d", o.ID, now.Version), moduletest.Staff, nil).Into(t, &last)
		if diff := cmp.Diff(now, last); diff != "" {
			t.Errorf("the read model and the events differ (-view +events):\n%s", diff)
		}
		before := s.rows("return_view")
		if err := s.projections.Rebuild(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(s.rows("return_view"), before); diff != "" {
			t.Errorf("after a rebuild (-got +want):\n%s", diff)
		}
		var sum reportBody
		s.Do("GET", "/api/orders/reports/summary", moduletest.Staff, nil).Into(t, &sum)
		if sum.Unsettled != 0 {
			t.Errorf("%d orders are unsettled", sum.Unsettled)
		}
		if history := s.Do("GET", "/api/orders/"+o.ID+"/history", moduletest.Staff, nil); !strings.Contains(string(history.Body), `"type":"return_refund_refused"`) || !strings.Contains(string(history.Body), "account_closed") {
			t.Errorf("the history does not tell it: %s", history.Body)
		}
	})
}

// TestLessRefunded: where staff have paid back a part of the payment before, a return gets what is left, and the books say so.
func TestLessRefunded(t *testing.T) {
	t.Parallel()
	moduletest.Each(t, func(t *testing.T, open moduletest.Opener) {
		s := openShop(t, open, func(c *Config) { c.SnapshotEvery = 3 })
		o := s.jars()
		s.confirm(o.ID)
		s.Deliver(t, paymentsapi.PaymentRefunded{OrderID: o.ID, RefundID: "goodwill", Amount: gbp(1364)})
		var first, second, third returnReply
		for _, r := range []struct {
			lines  lines
			into   *returnReply
			answer func(id string) message.Event
		}{
			{lines{lineAt("jar", 1, 104)}, &first, func(id string) message.Event {
				return paymentsapi.PaymentRefunded{OrderID: o.ID, RefundID: id, Amount: gbp(104)}
			}},
			{lines{lineAt("jar", 9, 104)}, &second, func(id string) message.Event {
				return paymentsapi.RefundRefused{OrderID: o.ID, RefundID: id, Amount: gbp(196), Reason: "account_closed"}
			}},
			{lines{lineAt("bag", 3, 208)}, &third, func(id string) message.Event {
				return paymentsapi.PaymentRefunded{OrderID: o.ID, RefundID: id, Amount: gbp(0)}
			}},
		} {
			s.Do("POST", "/api/orders/"+o.ID+"/returns", moduletest.Staff, map[string]any{"lines": r.lines}).Want(t, 201).Into(t, r.into)
			s.Deliver(t, r.answer(r.into.ID), inventoryapi.StockReturned{OrderID: o.ID, ReturnID: r.into.ID}, r.answer(r.into.ID))
		}
		now := s.get(o.ID)
		if r := now.Returns; !now.Settled || now.Refunded != gbp(300) || r[0].Refund != gbp(104) || r[1].Refund != gbp(196) || !r[1].Refused || r[2].Refund != gbp(0) || !r[2].Refunded {
			t.Errorf("order %+v", now)
		}
		var last orderReply
		s.Do("GET", fmt.Sprintf("/api/orders/%s?version=%d", o.ID, now.Version), moduletest.Staff, nil).Into(t, &last)
		if diff := cmp.Diff(now, last); diff != "" {
			t.Errorf("the read model and the events differ (-view +events):\n%s", diff)
		}
		orders, returns := s.rows("order_view"), s.rows("return_view")
		if err := s.projections.Rebuild(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff([][]string{s.rows("order_view"), s.rows("return_view")}, [][]string{orders, returns}); diff != "" {
			t.Errorf("after a rebuild (-got +want):\n%s", diff)
		}
		var sum reportBody
		s.Do("GET", "/api/orders/reports/summary", moduletest.Staff, nil).Into(t, &sum)
		if sum.Unsettled != 0 || sum.Refunded != gbp(300) || sum.ReturnedUnits != 13 {
			t.Errorf("report %+v", sum)
		}
		if r := s.Do("GET", "/api/orders/"+o.ID+"/events", ann, nil).Want(t, 200); !strings.Contains(string(r.Body), "event: end") {
			t.Errorf("the stream does not end: %s", r.Body)
		}
	})
}

// TestVoidRefused: what the card provider does not give back keeps no order on its way back, and no units off the shelf.
func TestVoidRefused(t *testing.T) {
	t.Parallel()
	moduletest.Each(t, func(t *testing.T, open moduletest.Opener) {
		s := openShop(t, open, func(c *Config) { c.SnapshotEvery = 3 })
		refusal := func(id, refund string) message.Event {
			return paymentsapi.RefundRefused{OrderID: id, RefundID: refund, Amount: gbp(1664), Reason: "account_closed"}
		}
		same := func(id string) orderReply {
			t.Helper()
			var view, events orderReply
			s.Do("GET", "/api/orders/"+id, moduletest.Staff, nil).Into(t, &view)
			s.Do("GET", fmt.Sprintf("/api/orders/%s?version=%d", id, view.Version), moduletest.Staff, nil).Into(t, &events)
			if diff := cmp.Diff(view, events); diff != "" {
				t.Errorf("the read model and the events differ (-view +events):\n%s", diff)
			}
			before := s.rows("order_view")
			if err := s.projections.Rebuild(t.Context(), nil); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(s.rows("order_view"), before); diff != "" {
				t.Errorf("after a rebuild (-got +want):\n%s", diff)
			}
			return view
		}
		for _, c := range []struct {
			name, status string
			begin        func(id string)
		}{
			{"cancelled", "cancelled", func(id string) {
				s.confirm(id)
				s.Deliver(t, refusal(id, "goodwill")) // not of the void: changes nothing
				s.Do("POST", "/api/orders/"+id+"/cancel", ann, map[string]any{}).Want(t, 200)
				s.Deliver(t, stopped(id))
			}},
			{"timed out", "rejected", func(id string) {
				s.Deliver(t, reserved(id))
				s.Advance(2*time.Hour + time.Second)
			}},
		} {
			id := s.jars().ID
			c.begin(id)
			s.Deliver(t, refusal(id, "void"), refusal(id, "void"))
			if got := same(id); got.Settled || !got.RefundRefused || !slices.Contains(s.sent(id), "inventory.release") {
				t.Errorf("%s, with units to come: %+v after %v", c.name, got, s.sent(id))
			}
			s.Deliver(t, released(id))
			if got := same(id); got.Status != c.status || !got.Settled || !got.RefundRefused {
				t.Errorf("%s: %+v", c.name, got)
			}
			// Staff pay it back in another way.
			s.Deliver(t, settled(id), settled(id))
			if got := same(id); got.Status != c.status || !got.Settled || got.RefundRefused {
				t.Errorf("%s, and paid back: %+v", c.name, got)
			}
			history := string(s.Do("GET", "/api/orders/"+id+"/history", moduletest.Staff, nil).Body)
			if strings.Count(history, `"type":"refund_refused"`) != 1 || strings.Count(history, `"type":"payment_settled"`) != 1 || !strings.Contains(history, "account_closed") {
				t.Errorf("%s: the history is %s", c.name, history)
			}
			if !slices.Contains(s.sent(id), "orders.order_"+c.status) || s.DeadLetters() != 0 {
				t.Errorf("%s: %d dead letters after %v", c.name, s.DeadLetters(), s.sent(id))
			}
		}
		// It may be paid back before the units are on the shelf.
		id := s.jars().ID
		s.Deliver(t, reserved(id))
		s.Do("POST", "/api/orders/"+id+"/cancel", ann, map[string]any{}).Want(t, 200)
		s.Deliver(t, refusal(id, "void"), settled(id), released(id))
		if got := same(id); got.Status != "cancelled" || got.RefundRefused {
			t.Errorf("paid back at once: %+v", got)
		}
	})
}

func TestAsItWas(t *testing.T) {
	t.Parallel()
	moduletest.Each(t, func(t *testing.T, open moduletest.Opener) {
		s := openShop(t, open, func(c *Config) { c.SnapshotEvery = 2 })
		o := s.jars()
		s.Advance(time.Minute)
		s.Deliver(t, reserved(o.ID))
		s.Advance(time.Minute)
		s.Deliver(t, captured(o.ID))
		s.Advance(time.Minute)
		s.Do("POST", "/api/orders/"+o.ID+"/returns", moduletest.Staff, map[string]any{"lines": lines{lineAt("jar", 4, 104)}, "reason": "broken"}).Want(t, 201)
		if rows := s.rows("snapshots"); len(rows) != 1 {
			t.Errorf("snapshots: %v", rows)
		}
		for query, want := range map[string]string{
			"at=" + moduletest.Start.Format(time.RFC3339):                      "placed kept",
			"at=" + moduletest.Start.Add(119*time.Second).Format(time.RFC3339): "reserved kept",
			"at=" + moduletest.Start.Add(2*time.Minute).Format(time.RFC3339):   "confirmed kept",
			"at=" + moduletest.Start.Add(time.Hour).Format(time.RFC3339):       "confirmed partly_returned",
			"at=" + url.QueryEscape("2026-03-01T11:01:00+02:00"):               "reserved kept",
			"version=1": "placed kept",
			"version=4": "confirmed partly_returned",
		} {
			var was orderReply
			s.Do("GET", "/api/orders/"+o.ID+"?"+query, ann, nil).Want(t, 200).Into(t, &was)
			if got := was.Status + " " + was.ReturnState; got != want {
				t.Errorf("?%s: %s, want %s", query, got, want)
			}
		}
		var now, last orderReply
		s.Do("GET", "/api/orders/"+o.ID, ann, nil).Into(t, &now)
		s.Do("GET", "/api/orders/"+o.ID+"?version=4", ann, nil).Into(t, &last)
		if diff := cmp.Diff(now, last); diff != "" {
			t.Errorf("the read model and the events differ (-view +events):\n%s", diff)
		}
		for query, status := range map[string]int{
			"at=2026-03-01T08:59:59Z": 404, "version=5": 404, "version=0": 422, "at=yesterday": 422, "at=2026-03-01T09:00:00Z&version=1": 422,
		} {
			s.Do("GET", "/api/orders/"+o.ID+"?"+query, ann, nil).Want(t, status)
		}
		var history struct {
			Items []struct {
				Version      int64
				Type, Status string
				Data         map[string]any
			}
			Next string
		}
		for _, path := range []string{"", "/" + o.ID + "/history", "/reports/customers"} {
			s.WantCursors(t, "/api/orders"+path, moduletest.Staff)
		}
		s.Do("GET", "/api/orders/"+o.ID+"/history?limit=3", ann, nil).Into(t, &history)
		if len(history.Items) != 3 || history.Items[0].Type != "placed" || history.Items[2].Status != "confirmed" {
			t.Errorf("history %+v", history)
		}
		r := s.Do("GET", "/api/orders/"+o.ID+"/history?cursor="+history.Next, ann, nil)
		history.Items = nil
		history.Next = ""
		r.Into(t, &history)
		if len(history.Items) != 1 || history.Items[0].Type != "returned" || strings.Contains(string(r.Body), "broken") {
			t.Errorf("history %s", r.Body)
		}
		// Amounts come with their currency, in the stream too.
		for path, prices := range map[string][]string{
			"history":         {`"sku":"jar","name":"a jar","quantity":10,"price":{"amount":104,"currency":"GBP"}`, `"sku":"jar","name":"a jar","quantity":4,"price":{"amount":104,"currency":"GBP"}`},
			"history?limit=1": {`"sku":"bag","name":"a bag","quantity":3,"price":{"amount":208,"currency":"GBP"}`},
		} {
			r := s.Do("GET", "/api/orders/"+o.ID+"/"+path, ann, nil)
			for _, p := range prices {
				if !strings.Contains(string(r.Body), p) || strings.Contains(string(r.Body), `"price":1`) || strings.Contains(string(r.Body), "Leeds") {
					t.Errorf("%s: no %s, or more than that, in %s", path, p, r.Body)
				}
			}
		}
	})
}

func TestErasure(t *testing.T) {
	t.Parallel()
	moduletest.Each(t, func(t *testing.T, open moduletest.Opener) {
		s := openShop(t, open, func(c *Config) { c.SnapshotEvery = 1 })
		s.Deliver(t, usersapi.UserRegistered{UserID: ann.Subject, Name: "Ann"})
		o := s.jars()
		other := s.place(bob, map[string]any{"lines": lines{line("jar", 1)}, "address": map[string]any{"name": "Bob"}})
		s.confirm(o.ID)
		s.Do("POST", "/api/orders/"+o.ID+"/returns", moduletest.Staff, map[string]any{"lines": lines{lineAt("jar", 4, 104)}, "reason": "Ann is angry"}, "Idempotency-Key", "x").Want(t, 201)
		s.Do("POST", "/api/orders", moduletest.Staff, map[string]any{"customer_id": ann.Subject, "card": "tok_a", "lines": lines{line("jar", 1)}, "address": map[string]any{"street": "Ann's"}}, "Idempotency-Key", "y").Want(t, 201)
		s.Deliver(t, usersapi.UserErased{UserID: ann.Subject})
		for _, table := range []string{"event", "snapshots", "order_view", "return_view", "idempotency"} {
			for _, row := range s.rows(table) {
				if strings.Contains(row, "Ann") || strings.Contains(row, "Leeds") {
					t.Errorf("%s keeps %s", table, row)
				}
			}
		}
		for _, m := range s.Announced("") {
			if strings.Contains(string(m.Payload), "Ann") {
				t.Errorf("outbox keeps %s", m.Payload)
			}
		}
		if got := s.get(o.ID); got.Address != nil || got.Status != "confirmed" || got.Total != gbp(1664) {
			t.Errorf("order %+v", got)
		}
		if got := s.get(other.ID); got.Address == nil || got.Address.Name != "Bob" {
			t.Errorf("somebody else's order %+v", got)
		}
		s.Do("POST", "/api/orders", moduletest.Staff, map[string]any{"customer_id": ann.Subject, "card": "tok_a", "lines": lines{line("jar", 1)}}).Want(t, 409)
		s.Deliver(t, usersapi.UserRegistered{UserID: ann.Subject, Name: "Ann"}) // told late
		s.Do("POST", "/api/orders", moduletest.Staff, map[string]any{"customer_id": ann.Subject, "card": "tok_a", "lines": lines{line("jar", 1)}}).Want(t, 409)
	})
}

func TestReports(t *testing.T) {
	t.Parallel()
	moduletest.Each(t, func(t *testing.T, open moduletest.Opener) {
		s := openShop(t, open)
		var empty reportBody
		s.Do("GET", "/api/orders/reports/summary", moduletest.Staff, nil).Into(t, &empty)
		if empty.Orders != 0 || empty.OrdersByReturn["kept"] != 0 {
			t.Errorf("empty %+v", empty)
		}
		var part orderReply
		for i, who := range []identity.Identity{ann, bob, ann} {
			o := s.place(who, map[string]any{"lines": lines{line("jar", 10), line("bag", int64(i+1))}})
			s.confirm(o.ID)
			part = o
		}
		s.place(bob, map[string]any{"lines": lines{line("jar", 1), line("cup", 1)}}) // under way
		no := s.place(bob, map[string]any{"lines": lines{line("jar", 1)}})
		s.Deliver(t, refused(no.ID))
		var r returnReply
		s.Do("POST", "/api/orders/"+part.ID+"/returns", moduletest.Staff, map[string]any{"lines": lines{lineAt("jar", 4, 104)}}).Want(t, 201).Into(t, &r)
		var sum reportBody
		s.Do("GET", "/api/orders/reports/summary", moduletest.Staff, nil).Into(t, &sum)
		want := reportBody{
			Orders: 3, Lines: 6, LargestOrderLines: 2, ProductsSold: 2, Units: 36, Total: gbp(4368), ReturnedUnits: 4, Refunded: gbp(416), Unsettled: 2,
			ByStatus: map[string]int64{"confirmed": 3, "placed": 1, "rejected": 1}, OrdersByReturn: map[string]int64{"kept": 2, "partly_returned": 1, "returned": 0},
		}
		if diff := cmp.Diff(sum, want); diff != "" {
			t.Errorf("summary (-got +want):\n%s", diff)
		}
		var got []customerBody
		next := ""
		for {
			var page struct {
				Items []customerBody
				Next  string
			}
			s.Do("GET", "/api/orders/reports/customers?limit=1&cursor="+url.QueryEscape(next), moduletest.Staff, nil).Into(t, &page)
			got = append(got, page.Items...)
			if next = page.Next; next == "" {
				break
			}
		}
		customers := []customerBody{{ann.Subject, 2, gbp(2912), gbp(416)}, {bob.Subject, 1, gbp(1456), money.Of(0, "GBP")}}
		if diff := cmp.Diff(got, customers); diff != "" {
			t.Errorf("customers (-got +want):\n%s", diff)
		}
		euro := s.place(moduletest.Staff, map[string]any{"customer_id": ann.Subject, "lines": lines{{"sku": "jar", "quantity": 1, "price": money.Of(5, "EUR")}}})
		s.confirm(euro.ID)
		s.Do("GET", "/api/orders/reports/summary", moduletest.Staff, nil).Want(t, 422)
		s.Do("GET", "/api/orders/reports/summary?currency=EUR", moduletest.Staff, nil).Into(t, &sum)
		if sum.Orders != 1 || sum.ProductsSold != 1 || sum.Total != money.Of(5, "EUR") {
			t.Errorf("in euros %+v", sum)
		}
	})
}

// TestCancelMeetsCapture lets a cancel and the captured payment arrive at the same time.
func TestCancelMeetsCapture(t *testing.T) {
	t.Parallel()
	moduletest.Each(t, func(t *testing.T, open moduletest.Opener) {
		s := openShop(t, open)
		for range 20 {
			o := s.jars()
			s.Deliver(t, reserved(o.ID))
			money := s.Envelope(t, captured(o.ID))
			done := make(chan int)
			go func() { done <- s.Do("POST", "/api/orders/"+o.ID+"/cancel", ann, map[string]any{}).Status }()
			s.DeliverMessage(t, money)
			if status := <-done; status != 200 {
				t.Fatalf("cancel: status %d", status)
			}
			s.Deliver(t, stopped(o.ID)) // counts if the money came first
			s.want(o.ID, "cancelling")
			s.Deliver(t, settled(o.ID), released(o.ID))
			s.want(o.ID, "cancelled")
		}
	})
}

// TestOneOrderPerReference lets many place the same order at the same time.
func TestOneOrderPerReference(t *testing.T) {
	t.Parallel()
	moduletest.Each(t, func(t *testing.T, open moduletest.Opener) {
		s := openShop(t, open)
		done := make(chan int, 8)
		for range cap(done) {
			go func() {
				done <- s.Do("POST", "/api/orders", moduletest.Staff, map[string]any{
					"customer_id": ann.Subject, "reference": "536365", "card": "tok_visa", "lines": lines{line("jar", 1)},
				}).Status
			}()
		}
		got := map[int]int{}
		for range cap(done) {
			got[<-done]++
		}
		if got[201] != 1 || got[409] != cap(done)-1 || len(s.rows("order_view")) != 1 {
			t.Errorf("statuses %v, orders %v", got, s.rows("order_view"))
		}
	})
}

func TestConcurrentReturns(t *testing.T) {
	t.Parallel()
	moduletest.Each(t, func(t *testing.T, open moduletest.Opener) {
		s := openShop(t, open)
		o := s.jars()
		s.confirm(o.ID)
		done := make(chan int, 12)
		for i := range cap(done) {
			go func() {
				done <- s.Do("POST", "/api/orders/"+o.ID+"/returns", moduletest.Staff, map[string]any{"lines": lines{lineAt("jar", 1, 104)}}, "Idempotency-Key", fmt.Sprint(i)).Status
			}()
		}
		taken := 0
		for range cap(done) {
			switch status := <-done; status {
			case 201:
				taken++
			case 409:
			default:
				t.Errorf("status %d", status)
			}
		}
		if got := s.get(o.ID); taken != 10 || got.Lines[0].Returned != 10 || got.Refunded != gbp(1040) || len(got.Returns) != 10 {
			t.Errorf("%d returns were taken: %+v", taken, got)
		}
	})
}
