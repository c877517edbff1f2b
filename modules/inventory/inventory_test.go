package inventory

import (
	"context"
	"fmt"
	"net/url"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/banyan-go/banyan/internal/message"
	"github.com/banyan-go/banyan/internal/module"
	"github.com/banyan-go/banyan/internal/moduletest"
	"github.com/banyan-go/banyan/internal/rest"
	"github.com/banyan-go/banyan/modules/catalog/catalogapi"
	"github.com/banyan-go/banyan/modules/inventory/inventoryapi"
)

func build(d module.Deps) *module.Module { return New(d, DefaultConfig()) }

func deliver(t testing.TB, h *moduletest.Harness, lines ...DeliveryLine) {
	t.Helper()
	h.Do("POST", "/api/inventory/deliveries", moduletest.Staff, map[string]any{"lines": lines}).Want(t, 201)
}

func stockOf(t testing.TB, h *moduletest.Harness) map[string]Level {
	t.Helper()
	var list rest.List[Level]
	h.Do("GET", "/api/inventory/reports/stock?limit=500", moduletest.Staff, nil).Into(t, &list)
	levels := map[string]Level{}
	for _, l := range list.Items {
		levels[l.SKU] = l
	}
	return levels
}

func names(messages []message.Message) []string {
	var out []string
	for _, m := range messages {
		out = append(out, m.Name)
	}
	return out
}

func stateOf(t testing.TB, h *moduletest.Harness, order string) Reservation {
	t.Helper()
	var r Reservation
	h.Do("GET", "/api/inventory/reservations/"+order, moduletest.Staff, nil).Into(t, &r)
	return r
}

func reserve(order string, lines ...inventoryapi.Line) inventoryapi.Reserve {
	return inventoryapi.Reserve{OrderID: order, Lines: lines, ExpiresAt: moduletest.Start.Add(time.Hour)}
}

// checkBooks checks that reserved is what reservations hold and that on hand is the sum of the movements.
func checkBooks(t testing.TB, h *moduletest.Harness) {
	t.Helper()
	db := h.Store.Read(context.Background())
	var wrong []struct{ SKU string }
	err := db.Raw(`SELECT sku FROM stock WHERE on_hand <> (SELECT COALESCE(SUM(delta), 0) FROM movements WHERE movements.sku = stock.sku)`).Scan(&wrong).Error
	if err != nil {
		t.Fatal(err)
	}
	if len(wrong) > 0 {
		t.Errorf("on hand is not the sum of movements: %v", wrong)
	}
	var rows []reservationRow
	if err := db.Where("state = 'held'").Find(&rows).Error; err != nil {
		t.Fatal(err)
	}
	held := map[string]int64{}
	for _, row := range rows {
		r, err := row.reservation()
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range r.Lines {
			held[l.SKU] += l.Quantity
		}
	}
	for sku, l := range stockOf(t, h) {
		if l.Reserved != held[sku] {
			t.Errorf("%s: %d reserved, reservations hold %d", sku, l.Reserved, held[sku])
		}
	}
}

func TestReserveCommitReturn(t *testing.T) {
	t.Parallel()
	moduletest.Each(t, func(t *testing.T, open moduletest.Opener) {
		h := open(t, build)
		deliver(t, h, DeliveryLine{"BANK CHARGES", 10}, DeliveryLine{"85123A", 20}, DeliveryLine{"85123A", 5})
		h.Deliver(t, reserve("o1", inventoryapi.Line{SKU: "85123A", Quantity: 3}, inventoryapi.Line{SKU: "BANK CHARGES", Quantity: 1}, inventoryapi.Line{SKU: "85123A", Quantity: 4}))
		want := map[string]Level{"85123A": {"85123A", 25, 7, 18}, "BANK CHARGES": {"BANK CHARGES", 10, 1, 9}}
		if diff := cmp.Diff(stockOf(t, h), want); diff != "" {
			t.Error(diff)
		}
		h.Deliver(t, inventoryapi.Commit{OrderID: "o1"}, inventoryapi.Commit{OrderID: "o1"})
		want = map[string]Level{"85123A": {"85123A", 18, 0, 18}, "BANK CHARGES": {"BANK CHARGES", 9, 0, 9}}
		if diff := cmp.Diff(stockOf(t, h), want); diff != "" {
			t.Error(diff)
		}
		back := inventoryapi.Restock{OrderID: "o1", ReturnID: "r1", Lines: []inventoryapi.Line{{SKU: "85123A", Quantity: 2}}}
		h.Deliver(t, back, back) // two messages of the same return
		if got := stockOf(t, h)["85123A"].OnHand; got != 20 {
			t.Errorf("got %d on hand, want 20", got)
		}
		h.Advance(2 * time.Hour) // the reservation is sold: it does not expire any more
		h.Deliver(t, inventoryapi.Release{OrderID: "o1", Reason: "cancelled"}, inventoryapi.Release{OrderID: "o1", Reason: "cancelled"})
		want = map[string]Level{"85123A": {"85123A", 25, 0, 25}, "BANK CHARGES": {"BANK CHARGES", 10, 0, 10}}
		if diff := cmp.Diff(stockOf(t, h), want); diff != "" {
			t.Error(diff)
		}
		checkBooks(t, h)
		wantNames := []string{"inventory.stock_reserved.v1", "inventory.stock_returned.v1", "inventory.stock_returned.v1", "inventory.reservation_released.v1", "inventory.reservation_released.v1"}
		if diff := cmp.Diff(names(h.Announced("")), wantNames); diff != "" {
			t.Error(diff)
		}
		var moved rest.List[Movement]
		h.Do("GET", "/api/inventory/BANK%20CHARGES/movements?limit=2", moduletest.Staff, nil).Into(t, &moved)
		if len(moved.Items) != 2 || moved.Items[0].Reason != byRelease || moved.Items[1].Reason != bySale || moved.Next == "" {
			t.Errorf("got %+v", moved)
		}
		h.Do("GET", "/api/inventory/BANK%20CHARGES/movements?limit=2&cursor="+moved.Next, moduletest.Staff, nil).Into(t, &moved)
		if len(moved.Items) != 1 || moved.Items[0].Reason != byDelivery || moved.Items[0].Delta != 10 {
			t.Errorf("got %+v", moved)
		}
	})
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	moduletest.Each(t, func(t *testing.T, open moduletest.Opener) {
		h := open(t, build)
		deliver(t, h, DeliveryLine{"a", 3})
		h.Deliver(t, catalogapi.ProductAdded{SKU: "b"}, catalogapi.ProductAdded{SKU: "b"})
		tests := []struct {
			order  string
			line   inventoryapi.Line
			reason string
			short  int64
		}{
			{"o1", inventoryapi.Line{SKU: "a", Quantity: 5}, "out_of_stock", 2},
			{"o2", inventoryapi.Line{SKU: "b", Quantity: 1}, "out_of_stock", 1},
			{"o3", inventoryapi.Line{SKU: "c", Quantity: 1}, "unknown_product", 1},
		}
		for i, tt := range tests {
			h.Deliver(t, reserve(tt.order, inventoryapi.Line{SKU: "a", Quantity: 1}, tt.line))
			refused := h.Announced("inventory.reservation_refused.v1")
			if len(refused) != i+1 {
				t.Fatalf("%s was not refused", tt.order)
			}
			got := moduletest.Decode[inventoryapi.ReservationRefused](t, refused[i])
			if got.OrderID != tt.order || got.Reason != tt.reason || len(got.Short) != 1 || got.Short[0].SKU != tt.line.SKU {
				t.Errorf("got %+v", got)
			}
			if r := stateOf(t, h, tt.order); r.State != "refused" || r.Reason != tt.reason {
				t.Errorf("got %+v", r)
			}
		}
		if got := stockOf(t, h)["a"]; got.Reserved != 0 {
			t.Errorf("a refused order reserved %d", got.Reserved)
		}
		h.Deliver(t, inventoryapi.Release{OrderID: "o1"}, inventoryapi.Commit{OrderID: "never"})
		if n := len(h.Announced("inventory.reservation_expired.v1")); n != 1 {
			t.Errorf("a commit of nothing was answered %d times", n)
		}
		checkBooks(t, h)
	})
}

func TestReleaseBeforeReserve(t *testing.T) {
	t.Parallel()
	moduletest.Each(t, func(t *testing.T, open moduletest.Opener) {
		h := open(t, build)
		deliver(t, h, DeliveryLine{"a", 3})
		h.Deliver(t, inventoryapi.Release{OrderID: "o1", Reason: "timed_out"}, reserve("o1", inventoryapi.Line{SKU: "a", Quantity: 1}))
		refused := h.Announced("inventory.reservation_refused.v1")
		if len(refused) != 1 || moduletest.Decode[inventoryapi.ReservationRefused](t, refused[0]).Reason != "released" {
			t.Errorf("got %v", refused)
		}
		if got := stockOf(t, h)["a"]; got.Reserved != 0 {
			t.Errorf("got %+v", got)
		}
	})
}

func TestExpiry(t *testing.T) {
	t.Parallel()
	moduletest.Each(t, func(t *testing.T, open moduletest.Opener) {
		h := open(t, build)
		deliver(t, h, DeliveryLine{"a", 3})
		h.Deliver(t, reserve("late", inventoryapi.Line{SKU: "a", Quantity: 3}))
		h.Advance(59 * time.Minute)
		if n := len(h.Announced("inventory.reservation_expired.v1")); n != 0 {
			t.Fatalf("expired %d times too early", n)
		}
		h.Advance(time.Minute)
		if n := len(h.Announced("inventory.reservation_expired.v1")); n != 1 {
			t.Fatalf("expired %d times", n)
		}
		if got := stockOf(t, h)["a"]; got.Available != 3 {
			t.Errorf("got %+v", got)
		}
		// Others buy one meanwhile: the late commit has nothing to sell, and says so once more.
		h.Deliver(t, inventoryapi.Reserve{OrderID: "other", Lines: []inventoryapi.Line{{SKU: "a", Quantity: 1}}, ExpiresAt: h.Clock.Now().Add(time.Hour)},
			inventoryapi.Commit{OrderID: "late"})
		if n := len(h.Announced("inventory.reservation_expired.v1")); n != 2 {
			t.Fatalf("expired %d times", n)
		}
		if r := stateOf(t, h, "late"); r.State != "expired" || len(r.Short) != 1 || r.Short[0].Quantity != 1 {
			t.Errorf("got %+v", r)
		}
		// Goods arrive: the same commit counts.
		deliver(t, h, DeliveryLine{"a", 1})
		h.Deliver(t, inventoryapi.Commit{OrderID: "late"})
		if r := stateOf(t, h, "late"); r.State != "committed" {
			t.Errorf("got %+v", r)
		}
		if got := stockOf(t, h)["a"]; got.OnHand != 1 || got.Reserved != 1 {
			t.Errorf("got %+v", got)
		}
		checkBooks(t, h)
	})
}

func TestExpiryAfterDowntime(t *testing.T) {
	t.Parallel()
	h := moduletest.NewSQLite(t, build)
	deliver(t, h, DeliveryLine{"a", 3})
	h.Deliver(t, reserve("o1", inventoryapi.Line{SKU: "a", Quantity: 3}))
	h.Settle()
	h.Clock.Advance(2 * time.Hour)
	h.Restart()
	h.Settle()
	if got := stockOf(t, h)["a"]; got.Available != 3 {
		t.Errorf("got %+v", got)
	}
}

// TestLastUnits lets 64 orders ask at the same time for the last 20 units, each for two products in another order
// than its neighbour.
func TestLastUnits(t *testing.T) {
	t.Parallel()
	moduletest.Each(t, func(t *testing.T, open moduletest.Opener) {
		h := open(t, build)
		deliver(t, h, DeliveryLine{"a", 20}, DeliveryLine{"b", 20})
		var all sync.WaitGroup
		for i := range 64 {
			lines := []inventoryapi.Line{{SKU: "a", Quantity: 1}, {SKU: "b", Quantity: 1}}
			if i%2 == 1 {
				lines[0], lines[1] = lines[1], lines[0]
			}
			m := h.Envelope(t, reserve(fmt.Sprintf("o%d", i), lines...))
			all.Go(func() { h.DeliverMessage(t, m) })
		}
		all.Wait()
		h.Settle()
		if n := len(h.Announced("inventory.stock_reserved.v1")); n != 20 {
			t.Errorf("%d orders got their units, want 20", n)
		}
		if n := len(h.Announced("inventory.reservation_refused.v1")); n != 44 {
			t.Errorf("%d orders were refused, want 44", n)
		}
		for sku, l := range stockOf(t, h) {
			if l.Available != 0 || l.Reserved != 20 {
				t.Errorf("%s: got %+v", sku, l)
			}
		}
		if n := h.DeadLetters(); n != 0 {
			t.Errorf("%d dead letters", n)
		}
		checkBooks(t, h)
	})
}

func TestLargeOrder(t *testing.T) {
	t.Parallel()
	moduletest.Each(t, func(t *testing.T, open moduletest.Opener) {
		h := open(t, build)
		lines := make([]inventoryapi.Line, 541)
		arrived := make([]DeliveryLine, len(lines))
		for i := range lines {
			sku := fmt.Sprintf("sku %d", i)
			lines[i], arrived[i] = inventoryapi.Line{SKU: sku, Quantity: 2}, DeliveryLine{sku, 2}
		}
		deliver(t, h, arrived...)
		h.Deliver(t, reserve("o1", lines...), inventoryapi.Commit{OrderID: "o1"})
		var sum Summary
		h.Do("GET", "/api/inventory/reports/summary", moduletest.Staff, nil).Into(t, &sum)
		if want := (Summary{Products: 541}); sum != want {
			t.Errorf("got %+v, want %+v", sum, want)
		}
		checkBooks(t, h)
	})
}

func TestLowMarkIsToldOnce(t *testing.T) {
	t.Parallel()
	moduletest.Each(t, func(t *testing.T, open moduletest.Opener) {
		h := open(t, build)
		deliver(t, h, DeliveryLine{"a", 6})
		h.Deliver(t, reserve("o1", inventoryapi.Line{SKU: "a", Quantity: 1}), reserve("o2", inventoryapi.Line{SKU: "a", Quantity: 1}),
			reserve("o3", inventoryapi.Line{SKU: "a", Quantity: 1}), inventoryapi.Commit{OrderID: "o3"}, inventoryapi.Release{OrderID: "o2"})
		var got []inventoryapi.StockLevelChanged
		for _, m := range h.Announced("inventory.stock_level_changed.v1") {
			e := moduletest.Decode[inventoryapi.StockLevelChanged](t, m)
			e.At = time.Time{}
			got = append(got, e)
		}
		want := []inventoryapi.StockLevelChanged{{SKU: "a", Available: 4, Low: true}}
		if diff := cmp.Diff(got, want); diff != "" {
			t.Error(diff)
		}
		deliver(t, h, DeliveryLine{"a", 10})
		if n := len(h.Announced("inventory.stock_level_changed.v1")); n != 2 {
			t.Errorf("told %d times", n)
		}
	})
}

func TestDeliveryCountsOncePerReference(t *testing.T) {
	t.Parallel()
	moduletest.Each(t, func(t *testing.T, open moduletest.Opener) {
		h := open(t, build)
		body := map[string]any{"reference": "D-1", "lines": []DeliveryLine{{"a", 3}}}
		var first, second, third Delivery
		h.Do("POST", "/api/inventory/deliveries", moduletest.Staff, body, "Idempotency-Key", "k1").Want(t, 201).Into(t, &first)
		h.Do("POST", "/api/inventory/deliveries", moduletest.Staff, body, "Idempotency-Key", "k1").Want(t, 201).Into(t, &second)
		h.Do("POST", "/api/inventory/deliveries", moduletest.Staff, body).Want(t, 201).Into(t, &third)
		if first != second || first != third || first.Units != 3 || first.Products != 1 {
			t.Errorf("got %+v, %+v, %+v", first, second, third)
		}
		h.Do("POST", "/api/inventory/deliveries", moduletest.Staff, map[string]any{"reference": "D-1", "lines": []DeliveryLine{{"a", 4}}}).Want(t, 409)
		if got := stockOf(t, h)["a"].OnHand; got != 3 {
			t.Errorf("got %d on hand, want 3", got)
		}
	})
}

func TestAdjustmentsAndViews(t *testing.T) {
	t.Parallel()
	moduletest.Each(t, func(t *testing.T, open moduletest.Opener) {
		h := open(t, build)
		deliver(t, h, DeliveryLine{"a", 10}, DeliveryLine{"b", 10}, DeliveryLine{"c", 1})
		h.Deliver(t, reserve("o1", inventoryapi.Line{SKU: "a", Quantity: 4}))
		post := func(sku string, delta int, status int) {
			t.Helper()
			h.Do("POST", "/api/inventory/"+sku+"/adjustments", moduletest.Staff, map[string]any{"delta": delta, "reason": "counted"}).Want(t, status)
		}
		post("a", -7, 409)
		post("a", -6, 201)
		post("nothing", 1, 404)
		post("a", 0, 422)
		post("b", 2_000_000, 422)
		h.Do("POST", "/api/inventory/deliveries", moduletest.Staff, map[string]any{"reference": "d\x1b", "lines": []map[string]any{{"sku": "a", "quantity": 1}}}).Want(t, 422)
		h.Do("POST", "/api/inventory/a/adjustments", moduletest.Staff, map[string]any{"delta": -1, "reason": "lost\x07"}).Want(t, 422)
		for _, sku := range []string{"a.", "a "} { // no route would reach it
			h.Do("POST", "/api/inventory/deliveries", moduletest.Staff, map[string]any{"lines": []map[string]any{{"sku": sku, "quantity": 1}}}).Want(t, 422)
			h.Do("GET", "/api/inventory/"+url.PathEscape(sku), moduletest.Staff, nil).Want(t, 422)
		}
		if got := stockOf(t, h)["a"]; got.OnHand != 4 || got.Reserved != 4 {
			t.Errorf("got %+v", got)
		}
		var seen Availability
		for sku, want := range map[string]string{"a": "out", "b": "in_stock", "c": "low"} {
			seen = Availability{}
			h.Do("GET", "/api/inventory/"+sku, moduletest.Nobody, nil).Into(t, &seen)
			if seen.Status != want || seen.Available != nil || seen.OnHand != nil {
				t.Errorf("%s: got %+v, want %s and no numbers", sku, seen, want)
			}
		}
		h.Do("GET", "/api/inventory/b", moduletest.Staff, nil).Into(t, &seen)
		if seen.Available == nil || *seen.Available != 10 {
			t.Errorf("got %+v", seen)
		}
		h.Do("GET", "/api/inventory/nothing", moduletest.Nobody, nil).Want(t, 404)
		for _, path := range []string{"", "/a/movements", "/reports/stock"} {
			h.WantCursors(t, "/api/inventory"+path, moduletest.Staff)
		}
		var low, page rest.List[Level]
		h.Do("GET", "/api/inventory?low=true", moduletest.Staff, nil).Into(t, &low)
		if len(low.Items) != 2 || low.Items[0].SKU != "a" || low.Items[1].SKU != "c" {
			t.Errorf("got %+v", low)
		}
		h.Do("GET", "/api/inventory?limit=2", moduletest.Staff, nil).Into(t, &page)
		if len(page.Items) != 2 || page.Next != "b" {
			t.Errorf("got %+v", page)
		}
		checkBooks(t, h)
	})
}

func TestBadInput(t *testing.T) {
	t.Parallel()
	h := moduletest.NewSQLite(t, build)
	many := make([]DeliveryLine, 1001)
	for i := range many {
		many[i] = DeliveryLine{fmt.Sprint(i), 1}
	}
	bodies := map[string]any{
		"no lines":        map[string]any{"lines": []DeliveryLine{}},
		"too many lines":  map[string]any{"lines": many},
		"zero":            map[string]any{"lines": []DeliveryLine{{"a", 0}}},
		"negative":        map[string]any{"lines": []DeliveryLine{{"a", -1}}},
		"too many units":  map[string]any{"lines": []DeliveryLine{{"a", 1_000_001}}},
		"no SKU":          map[string]any{"lines": []DeliveryLine{{"", 1}}},
		"odd SKU":         map[string]any{"lines": []DeliveryLine{{"a'; DROP TABLE stock; --", 1}}},
		"unknown field":   map[string]any{"lines": []DeliveryLine{{"a", 1}}, "colour": "red"},
		"long reference":  map[string]any{"reference": fmt.Sprintf("%0101d", 1), "lines": []DeliveryLine{{"a", 1}}},
		"not even a body": "lines",
	}
	for name, body := range bodies {
		if r := h.Do("POST", "/api/inventory/deliveries", moduletest.Staff, body); r.Status < 400 || r.Status >= 500 {
			t.Errorf("%s: status %d: %s", name, r.Status, r.Body)
		}
	}
	if got := stockOf(t, h); len(got) != 0 {
		t.Errorf("something was stored: %v", got)
	}
}

func TestConfig(t *testing.T) {
	t.Parallel()
	if err := DefaultConfig().Validate(); err != nil {
		t.Error(err)
	}
	if err := (Config{LowMark: -1}).Validate(); err == nil {
		t.Error("a negative low mark was taken")
	}
	if err := build(module.Deps{}).Check(); err != nil {
		t.Error(err)
	}
}
