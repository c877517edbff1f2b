package e2e

import (
	"bufio"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
)

// ledger drives orders from several clients and remembers what each was told. Every order has an id of its own on the
// client's side (its reference), so that a loss can be told from a recovery.
type ledger struct {
	t     *testing.T
	shop  *shop
	any   func() *shop // which replica a request goes to
	admin *client
	skus  []string
	units int64
	n     atomic.Int64 // orders so far

	mu     sync.Mutex
	orders map[string]string // reference -> order id that was acknowledged
	sent   map[string]int64  // reference -> units

	refused []string // ids of orders that are called off at the end, and whose money does not go back
}

func newLedger(t *testing.T, s *shop) *ledger {
	t.Helper()
	l := &ledger{t: t, shop: s, any: func() *shop { return s }, admin: s.asAdmin(), skus: []string{"A", "B", "C", "D"}, units: 100_000, orders: map[string]string{}, sent: map[string]int64{}}
	l.admin.stock(l.units, l.skus...)
	return l
}

// run places orders from so many clients; between is called with each order's number before it is sent.
func (l *ledger) run(clients, each int, between func(n int)) {
	l.t.Helper()
	var customers []string
	for i := range clients {
		customers = append(customers, l.admin.customer(fmt.Sprint("c", l.n.Load(), "-", i)))
	}
	var all sync.WaitGroup
	for i := range clients {
		all.Go(func() {
			c := *l.admin
			c.base = func() string { return "http://" + l.any().addr }
			for range each {
				k := int(l.n.Add(1))
				if between != nil {
					between(k)
				}
				l.place(&c, customers[i], k)
			}
		})
	}
	all.Wait()
}

func (l *ledger) place(c *client, customer string, n int) {
	units := int64(1 + n%5)
	reference := fmt.Sprint("R", n)
	card := "tok_visa"
	switch n % 10 {
	case 3:
		card = "tok_declined"
	case 6:
		card = "tok_lost_reply"
	}
	refused := n%14 == 7
	if refused {
		card = "tok_refund_refused"
	}
	body := map[string]any{"customer_id": customer, "reference": reference, "card": card, "lines": []lineBody{{SKU: l.skus[n%len(l.skus)], Quantity: units, Price: &priceBody{450, "GBP"}}}}
	a, err := c.insist("POST", "/api/orders", body, "order "+reference)
	if err != nil || a.Status != 201 {
		l.t.Errorf("order %s: %d %s (error %v)", reference, a.Status, a.Body, err)
		return
	}
	var o struct {
		ID string `json:"id"`
	}
	if err := json.Unmarshal(a.Body, &o); err != nil {
		l.t.Error(err)
		return
	}
	l.mu.Lock()
	l.orders[reference], l.sent[reference] = o.ID, units
	if refused {
		l.refused = append(l.refused, o.ID)
	}
	l.mu.Unlock()
	if n%7 == 0 && !refused { // some are called off at a random moment of their checkout
		if rand.IntN(2) == 0 {
			_, _ = c.insist("POST", "/api/orders/"+o.ID+"/cancel", map[string]string{"reason": "changed my mind"}, "cancel "+reference)
		}
	}
}

type orderView struct {
	ID        string `json:"id"`
	Reference string `json:"reference"`
	Status    string `json:"status"`
	Settled   bool   `json:"settled"`
	Refused   bool   `json:"refund_refused"`
	Units     int64  `json:"units"`
}

type stockView struct {
	SKU      string `json:"sku"`
	OnHand   int64  `json:"on_hand"`
	Reserved int64  `json:"reserved"`
}

type paymentView struct {
	OrderID  string    `json:"order_id"`
	State    string    `json:"state"`
	Captured priceBody `json:"captured"`
	Refunded priceBody `json:"refunded"`
}

// pages reads a whole list.
func pages[T any](t *testing.T, c *client, path string) []T {
	t.Helper()
	var all []T
	for cursor := ""; ; {
		var page struct {
			Items []T    `json:"items"`
			Next  string `json:"next"`
		}
		c.do("GET", path+"?limit=500&cursor="+url.QueryEscape(cursor), nil).into(t, &page)
		all = append(all, page.Items...)
		if cursor = page.Next; cursor == "" {
			return all
		}
	}
}

// check waits until everything is settled and compares the books: what clients were told, what orders, payments and
// inventory hold, and what the card provider has seen.
func (l *ledger) check() {
	t := l.t
	t.Helper()
	admin := l.any().asAdmin()
	for _, id := range l.refused {
		if a, err := admin.insist("POST", "/api/orders/"+id+"/cancel", map[string]string{}, "refused "+id); err != nil || a.Status != 200 && a.Status != 409 {
			t.Errorf("cancel %s: %d %s (error %v)", id, a.Status, a.Body, err)
		}
	}
	eventually(t, "all orders settle", func() bool {
		var summary struct{ Unsettled int }
		a, err := admin.try("GET", "/api/orders/reports/summary", nil)
		return err == nil && a.Status == 200 && json.Unmarshal(a.Body, &summary) == nil && summary.Unsettled == 0
	})
	// An order is settled before the last command of its saga is handled: that one changes nothing any more but the books.
	eventually(t, "nothing is reserved any more", func() bool {
		left := int64(0)
		for _, s := range pages[stockView](t, admin, "/api/inventory/reports/stock") {
			left += s.Reserved
		}
		return left == 0
	})
	byReference := map[string]orderView{}
	for _, o := range pages[orderView](t, admin, "/api/orders") {
		if _, twice := byReference[o.Reference]; twice {
			t.Errorf("order %s is there twice", o.Reference)
		}
		byReference[o.Reference] = o
	}
	payments := map[string]paymentView{}
	for _, p := range pages[paymentView](t, admin, "/api/payments") {
		if _, twice := payments[p.OrderID]; twice {
			t.Errorf("order %s is paid for twice", p.OrderID)
		}
		payments[p.OrderID] = p
	}
	sold := int64(0)
	states := map[string]int{}
	for reference, id := range l.orders {
		o, ok := byReference[reference]
		if !ok || o.ID != id {
			t.Errorf("order %s was acknowledged as %s and is lost (found %q)", reference, id, o.ID)
			continue
		}
		states[o.Status]++
		p := payments[id]
		held := p.Captured.Amount - p.Refunded.Amount
		switch o.Status {
		case "confirmed":
			sold += o.Units
			if held != 450*o.Units {
				t.Errorf("order %s is confirmed and holds %d of %d", reference, held, 450*o.Units)
			}
		case "rejected", "cancelled":
			// Nothing is held but what the provider refuses to give back, and then the order says so.
			if (held != 0) != o.Refused {
				t.Errorf("order %s is %s and holds %d (refund refused: %t)", reference, o.Status, held, o.Refused)
			}
			if o.Refused {
				states["refund refused"]++
			}
		default:
			t.Errorf("order %s ended as %s", reference, o.Status)
		}
	}
	if len(byReference) != len(l.orders) {
		t.Errorf("%d orders are there, %d were acknowledged", len(byReference), len(l.orders))
	}
	left := int64(0)
	for _, s := range pages[stockView](t, admin, "/api/inventory/reports/stock") {
		left += s.OnHand
		if s.Reserved != 0 {
			t.Errorf("%d of %s are still reserved", s.Reserved, s.SKU)
		}
	}
	if want := l.units*int64(len(l.skus)) - sold; left != want {
		t.Errorf("%d units on hand, want %d after %d sold", left, want, sold)
	}
	l.checkProvider(payments)
	t.Logf("%d orders: %v", len(l.orders), states)
}

// checkProvider compares the payments with what the card provider itself has written down.
func (l *ledger) checkProvider(payments map[string]paymentView) {
	t := l.t
	t.Helper()
	f, err := os.Open(filepath.Join(l.shop.dir, "payments", "provider.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	seen := map[string]bool{}
	var provider, shop int64
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		var r struct {
			Op, ID   string
			Amount   int64
			Approved bool
		}
		if err := json.Unmarshal(lines.Bytes(), &r); err != nil {
			continue // a line that a kill tore; the provider has mended it by another
		}
		if r.Op != "charge" && r.Op != "refund" {
			t.Errorf("unknown record of the provider: %s", lines.Text())
		}
		if seen[r.Op+r.ID] {
			t.Errorf("the provider did %s %s twice", r.Op, r.ID)
		}
		seen[r.Op+r.ID] = true
		switch {
		case r.Approved && r.Op == "charge":
			provider += r.Amount
		case r.Approved:
			provider -= r.Amount
		}
	}
	for _, p := range payments {
		shop += p.Captured.Amount - p.Refunded.Amount
	}
	if provider != shop || len(seen) == 0 {
		t.Errorf("the provider holds %d of the customers' money after %d operations, the shop's books say %d", provider, len(seen), shop)
	}
}

func TestOrdersSurviveKills(t *testing.T) {
	t.Parallel()
	s := sqlite(t).start()
	l := newLedger(t, s)
	var once sync.Mutex
	killed := map[int]bool{}
	l.run(6, 50, func(n int) {
		if n%50 == 25 {
			once.Lock()
			defer once.Unlock()
			if !killed[n] {
				killed[n] = true
				s.kill()
				s.start()
			}
		}
	})
	l.check()
}
