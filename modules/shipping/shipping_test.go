package shipping

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/banyan-go/banyan/internal/message"
	"github.com/banyan-go/banyan/internal/module"
	"github.com/banyan-go/banyan/internal/moduletest"
	"github.com/banyan-go/banyan/internal/rest"
	"github.com/banyan-go/banyan/internal/unit"
	"github.com/banyan-go/banyan/modules/orders/ordersapi"
	"github.com/banyan-go/banyan/modules/shipping/shippingapi"
	"github.com/banyan-go/banyan/modules/users/usersapi"
)

func build(d module.Deps) *module.Module { return New(d, DefaultConfig()) }

func confirmed(order, customer string) ordersapi.OrderConfirmed {
	return ordersapi.OrderConfirmed{OrderID: order, CustomerID: customer,
		Address: ordersapi.Address{Name: "Ada Lovelace", Street: "12 St James's Square", City: "London", Zip: "SW1Y", Country: "GB"}}
}

func shipmentOf(t testing.TB, h *moduletest.Harness, order string) Shipment {
	t.Helper()
	var list rest.List[Shipment]
	h.Do("GET", "/api/shipments?order_id="+order, moduletest.Staff, nil).Into(t, &list)
	if len(list.Items) != 1 {
		t.Fatalf("order %s has %d shipments", order, len(list.Items))
	}
	return list.Items[0]
}

func names(messages []message.Message) []string {
	var out []string
	for _, m := range messages {
		out = append(out, m.Name)
	}
	return out
}

func TestShipmentOfAnOrder(t *testing.T) {
	t.Parallel()
	moduletest.Each(t, func(t *testing.T, open moduletest.Opener) {
		h := open(t, build)
		h.Deliver(t, confirmed("o1", "c1"), confirmed("o1", "c1"))
		s := shipmentOf(t, h, "o1")
		if s.State != "pending" || s.Address.City != "London" || s.CustomerID != "c1" {
			t.Errorf("got %+v", s)
		}
		path := "/api/shipments/" + s.ID
		h.Do("POST", path+"/deliver", moduletest.Staff, nil).Want(t, 409)
		var first, second Shipment
		h.Do("POST", path+"/dispatch", moduletest.Staff, map[string]any{"carrier": "DHL"}, "Idempotency-Key", "k").Into(t, &first)
		h.Do("POST", path+"/dispatch", moduletest.Staff, map[string]any{"carrier": "DHL"}, "Idempotency-Key", "k").Into(t, &second)
		if first.State != "dispatched" || !strings.HasPrefix(first.Tracking, "BY") || first.Tracking != second.Tracking {
			t.Errorf("got %+v and %+v", first, second)
		}
		h.Do("POST", path+"/dispatch", moduletest.Staff, map[string]any{"carrier": "DHL"}).Want(t, 409)
		h.Clock.Advance(time.Hour)
		h.Do("POST", path+"/deliver", moduletest.Staff, nil).Want(t, 200)
		h.Do("POST", path+"/deliver", moduletest.Staff, nil).Want(t, 409)
		var log Tracking
		h.Do("GET", path+"/tracking", moduletest.Customer("c1"), nil).Into(t, &log)
		at := moduletest.Start
		want := Tracking{ShipmentID: s.ID, Carrier: "DHL", Tracking: first.Tracking,
			Steps: []Step{{"pending", at}, {"dispatched", at}, {"delivered", at.Add(time.Hour)}}}
		if diff := cmp.Diff(log, want); diff != "" {
			t.Error(diff)
		}
		wantNames := []string{"shipping.shipment_created.v1", "shipping.shipment_dispatched.v1", "shipping.shipment_delivered.v1"}
		if diff := cmp.Diff(names(h.Announced("")), wantNames); diff != "" {
			t.Error(diff)
		}
		e := moduletest.Decode[shippingapi.ShipmentDispatched](t, h.Announced("shipping.shipment_dispatched.v1")[0])
		if e.OrderID != "o1" || e.CustomerID != "c1" || e.Carrier != "DHL" || e.Tracking != first.Tracking {
			t.Errorf("got %+v", e)
		}
	})
}

func TestCancellations(t *testing.T) {
	t.Parallel()
	moduletest.Each(t, func(t *testing.T, open moduletest.Opener) {
		h := open(t, build)
		cancelled := func(order string) ordersapi.OrderCancelled {
			return ordersapi.OrderCancelled{OrderID: order, CustomerID: "c1"}
		}
		// In time.
		h.Deliver(t, confirmed("o1", "c1"), cancelled("o1"), cancelled("o1"))
		s := shipmentOf(t, h, "o1")
		if s.State != "cancelled" {
			t.Errorf("got %+v", s)
		}
		h.Do("POST", "/api/shipments/"+s.ID+"/dispatch", moduletest.Staff, map[string]any{"carrier": "DHL"}).Want(t, 409)
		// Too late: staff see that it is to be called back, the customer that it is on its way.
		h.Deliver(t, confirmed("o2", "c1"))
		s = shipmentOf(t, h, "o2")
		h.Do("POST", "/api/shipments/"+s.ID+"/dispatch", moduletest.Staff, map[string]any{"carrier": "DHL", "tracking": "JD 014"}).Want(t, 200)
		h.Deliver(t, cancelled("o2"))
		if s = shipmentOf(t, h, "o2"); s.State != "intercept" || s.Tracking != "JD 014" {
			t.Errorf("got %+v", s)
		}
		var seen Shipment
		h.Do("GET", "/api/shipments/"+s.ID, moduletest.Customer("c1"), nil).Into(t, &seen)
		if seen.State != "dispatched" {
			t.Errorf("got %+v", seen)
		}
		for state, want := range map[string]int{"dispatched": 1, "intercept": 0, "cancelled": 1, "delivered": 0} {
			var list rest.List[Shipment]
			h.Do("GET", "/api/shipments?state="+state, moduletest.Customer("c1"), nil).Into(t, &list)
			if len(list.Items) != want {
				t.Errorf("%s: got %d shipments, want %d", state, len(list.Items), want)
			}
		}
		// Before there was anything to ship.
		h.Deliver(t, cancelled("o3"), confirmed("o3", "c1"))
		var list rest.List[Shipment]
		h.Do("GET", "/api/shipments?order_id=o3", moduletest.Staff, nil).Into(t, &list)
		if len(list.Items) != 0 {
			t.Errorf("got %+v", list.Items)
		}
		want := []string{"shipping.shipment_created.v1", "shipping.shipment_cancelled.v1", "shipping.shipment_created.v1", "shipping.shipment_dispatched.v1"}
		if diff := cmp.Diff(names(h.Announced("")), want); diff != "" {
			t.Error(diff)
		}
	})
}

// TestCancelShipment: what is asked to be stopped is stopped for good, or has left.
func TestCancelShipment(t *testing.T) {
	t.Parallel()
	moduletest.Each(t, func(t *testing.T, open moduletest.Opener) {
		h := open(t, func(d module.Deps) *module.Module {
			return New(d, Config{AutoDispatch: time.Hour, Carrier: "Banyan Post"})
		})
		stop := func(order string) shippingapi.CancelShipment {
			return shippingapi.CancelShipment{OrderID: order, CustomerID: "c1"}
		}
		dispatch := func(order string, want int) {
			t.Helper()
			h.Do("POST", "/api/shipments/"+shipmentOf(t, h, order).ID+"/dispatch", moduletest.Staff, map[string]any{"carrier": "DHL"}).Want(t, want)
		}
		h.Deliver(t, confirmed("in-time", "c1"), stop("in-time"))
		dispatch("in-time", 409)
		h.Deliver(t, confirmed("too-late", "c1"))
		dispatch("too-late", 200)
		h.Deliver(t, stop("too-late"))
		h.Deliver(t, stop("too-early"), confirmed("too-early", "c1"))
		h.Deliver(t, stop("in-time"), stop("too-early")) // asked again: answered again
		h.Advance(2 * time.Hour)                         // nothing is dispatched by the clock either
		h.Deliver(t, ordersapi.OrderCancelled{OrderID: "in-time", CustomerID: "c1"}, ordersapi.OrderCancelled{OrderID: "too-early", CustomerID: "c1"})

		got := map[string][]string{}
		for _, m := range h.Announced("") {
			got[m.Key] = append(got[m.Key], strings.TrimSuffix(strings.TrimPrefix(m.Name, "shipping."), ".v1"))
		}
		want := map[string][]string{
			"in-time":   {"shipment_created", "shipment_cancelled", "shipment_cancelled"},
			"too-late":  {"shipment_created", "shipment_dispatched", "cancellation_refused"},
			"too-early": {"shipment_cancelled", "shipment_cancelled"},
		}
		if diff := cmp.Diff(got, want); diff != "" {
			t.Errorf("announced (-got +want):\n%s", diff)
		}
		if s := shipmentOf(t, h, "too-late"); s.State != "dispatched" {
			t.Errorf("got %+v", s)
		}
		if e := moduletest.Decode[shippingapi.CancellationRefused](t, h.Announced("shipping.cancellation_refused.v1")[0]); e.OrderID != "too-late" || e.CustomerID != "c1" || e.ShipmentID == "" {
			t.Errorf("got %+v", e)
		}
	})
}

// TestDispatchMeetsCancel lets staff dispatch what is being stopped: one of them comes first, and the other knows it.
func TestDispatchMeetsCancel(t *testing.T) {
	t.Parallel()
	moduletest.Each(t, func(t *testing.T, open moduletest.Opener) {
		h := open(t, build)
		for i := range 20 {
			order := fmt.Sprintf("o%d", i)
			h.Deliver(t, confirmed(order, "c1"))
			s := shipmentOf(t, h, order)
			stop := h.Envelope(t, shippingapi.CancelShipment{OrderID: order, CustomerID: "c1"})
			done := make(chan int)
			go func() {
				done <- h.Do("POST", "/api/shipments/"+s.ID+"/dispatch", moduletest.Staff, map[string]any{"carrier": "DHL"}).Status
			}()
			h.DeliverMessage(t, stop)
			dispatched := <-done == 200
			h.Settle()
			var said []string
			for _, m := range h.Announced("") {
				if m.Key == order {
					said = append(said, m.Name)
				}
			}
			want := []string{"shipping.shipment_created.v1", "shipping.shipment_cancelled.v1"}
			if dispatched {
				want = []string{"shipping.shipment_created.v1", "shipping.shipment_dispatched.v1", "shipping.cancellation_refused.v1"}
			}
			if diff := cmp.Diff(said, want); diff != "" {
				t.Fatalf("%s, dispatched %v (-got +want):\n%s", order, dispatched, diff)
			}
		}
	})
}

func TestWhoSeesWhat(t *testing.T) {
	t.Parallel()
	moduletest.Each(t, func(t *testing.T, open moduletest.Opener) {
		h := open(t, build)
		h.Deliver(t, confirmed("o1", "c1"), confirmed("o2", "c2"), confirmed("o3", "c1"))
		foreign := shipmentOf(t, h, "o2").ID
		h.Do("GET", "/api/shipments/"+foreign, moduletest.Customer("c1"), nil).Want(t, 404)
		h.Do("GET", "/api/shipments/"+foreign+"/tracking", moduletest.Customer("c1"), nil).Want(t, 404)
		h.Do("GET", "/api/shipments/nothing", moduletest.Customer("c1"), nil).Want(t, 404)
		h.Do("POST", "/api/shipments/nothing/dispatch", moduletest.Staff, map[string]any{"carrier": "DHL"}).Want(t, 404)
		h.Do("POST", "/api/shipments/"+foreign+"/dispatch", moduletest.Staff, map[string]any{"carrier": ""}).Want(t, 422)
		h.Do("POST", "/api/shipments/"+foreign+"/dispatch", moduletest.Staff, map[string]any{"carrier": "DHL\x1b[2J"}).Want(t, 422)
		h.Do("POST", "/api/shipments/"+foreign+"/dispatch", moduletest.Staff, map[string]any{"carrier": "DHL", "tracking": "a\r\nb"}).Want(t, 422)
		h.WantCursors(t, "/api/shipments", moduletest.Customer("c1"))
		var page, older rest.List[Shipment]
		h.Do("GET", "/api/shipments?limit=1", moduletest.Customer("c1"), nil).Into(t, &page)
		h.Do("GET", "/api/shipments?limit=1&cursor="+page.Next, moduletest.Customer("c1"), nil).Into(t, &older)
		if len(page.Items) != 1 || page.Items[0].OrderID != "o3" || len(older.Items) != 1 || older.Items[0].OrderID != "o1" || older.Next != "" {
			t.Errorf("got %+v, then %+v", page, older)
		}
		h.Do("GET", "/api/shipments?state=pending", moduletest.Staff, nil).Into(t, &page)
		if len(page.Items) != 3 {
			t.Errorf("staff see %d shipments", len(page.Items))
		}
	})
}

func TestAutoDispatch(t *testing.T) {
	t.Parallel()
	moduletest.Each(t, func(t *testing.T, open moduletest.Opener) {
		h := open(t, func(d module.Deps) *module.Module {
			return New(d, Config{AutoDispatch: time.Hour, Carrier: "Banyan Post"})
		})
		h.Deliver(t, confirmed("o1", "c1"), confirmed("o2", "c1"), confirmed("o3", "c1"), ordersapi.OrderCancelled{OrderID: "o2", CustomerID: "c1"})
		h.Do("POST", "/api/shipments/"+shipmentOf(t, h, "o3").ID+"/dispatch", moduletest.Staff, map[string]any{"carrier": "DHL"}).Want(t, 200)
		h.Advance(time.Hour)
		got := map[string]string{}
		for _, order := range []string{"o1", "o2", "o3"} {
			s := shipmentOf(t, h, order)
			got[order] = s.State + " " + s.Carrier
		}
		want := map[string]string{"o1": "dispatched Banyan Post", "o2": "cancelled ", "o3": "dispatched DHL"}
		if diff := cmp.Diff(got, want); diff != "" {
			t.Error(diff)
		}
	})
}

// TestReturnedBeforeItLeaves: what is left of an order that came back in part does not leave by itself.
func TestReturnedBeforeItLeaves(t *testing.T) {
	t.Parallel()
	moduletest.Each(t, func(t *testing.T, open moduletest.Opener) {
		h := open(t, func(d module.Deps) *module.Module {
			return New(d, Config{AutoDispatch: time.Hour, Carrier: "Banyan Post"})
		})
		back := func(order string) ordersapi.OrderReturned {
			return ordersapi.OrderReturned{OrderID: order, CustomerID: "c1", ReturnID: "r"}
		}
		h.Deliver(t, confirmed("part", "c1"), confirmed("all", "c1"), confirmed("none", "c1"), back("part"), back("part"), back("all"),
			shippingapi.CancelShipment{OrderID: "all", CustomerID: "c1"}, ordersapi.OrderCancelled{OrderID: "void", CustomerID: "c1"}, back("void"), back("unknown"))
		h.Advance(time.Hour)
		h.Deliver(t, back("none"))
		got := map[string]string{}
		for _, order := range []string{"part", "all", "none"} {
			got[order] = shipmentOf(t, h, order).State
		}
		if diff := cmp.Diff(got, map[string]string{"part": "pending", "all": "cancelled", "none": "dispatched"}); diff != "" {
			t.Error(diff)
		}
		h.Do("POST", "/api/shipments/"+shipmentOf(t, h, "part").ID+"/dispatch", moduletest.Staff, map[string]any{"carrier": "DHL"}).Want(t, 200)
		h.Do("POST", "/api/shipments/"+shipmentOf(t, h, "all").ID+"/dispatch", moduletest.Staff, map[string]any{"carrier": "DHL"}).Want(t, 409)

		// In the moment in which they leave one of both comes first.
		orders := make([]string, 20)
		for i := range orders {
			orders[i] = fmt.Sprintf("o%d", i)
			h.Deliver(t, confirmed(orders[i], "c1"))
		}
		h.Clock.Advance(time.Hour)
		for _, order := range orders {
			h.Deliver(t, back(order))
		}
		h.Settle()
		before := map[string]string{}
		for _, order := range orders {
			before[order] = shipmentOf(t, h, order).State
		}
		h.Advance(time.Hour)
		for _, order := range orders {
			s := shipmentOf(t, h, order)
			if s.State != before[order] || s.State != "pending" && s.State != "dispatched" {
				t.Errorf("%s was %s, and is %s", order, before[order], s.State)
			}
		}
		if n := h.DeadLetters(); n != 0 {
			t.Errorf("%d dead letters", n)
		}
	})
}

func TestErasure(t *testing.T) {
	t.Parallel()
	moduletest.Each(t, func(t *testing.T, open moduletest.Opener) {
		h := open(t, build)
		h.Deliver(t, confirmed("o1", "c1"), confirmed("o2", "c2"))
		h.Do("POST", "/api/shipments/"+shipmentOf(t, h, "o1").ID+"/dispatch", moduletest.Staff, map[string]any{"carrier": "DHL"}, "Idempotency-Key", "k").Want(t, 200)
		h.Deliver(t, usersapi.UserErased{UserID: "c1"}, confirmed("o3", "c1"))
		// As if it had been written by a unit of work that ran beside the erasure.
		err := h.Store.Do(context.Background(), func(_ context.Context, w *unit.Work) error {
			return w.DB.Exec("UPDATE shipments SET name = 'Ada Lovelace' WHERE order_id = 'o3'").Error
		})
		if err != nil {
			t.Fatal(err)
		}
		h.Advance(erasedAgainAfter)
		for _, order := range []string{"o1", "o3"} {
			if got := shipmentOf(t, h, order).Address; got != (Address{Country: "GB"}) {
				t.Errorf("%s: got %+v", order, got)
			}
		}
		if got := shipmentOf(t, h, "o2").Address.Name; got == "" {
			t.Error("the address of another customer is gone")
		}
		var bodies [][]byte
		if err := h.Store.Read(context.Background()).Raw("SELECT body FROM idempotency").Scan(&bodies).Error; err != nil || len(bodies) != 1 || len(bodies[0]) != 0 {
			t.Errorf("stored answers are %q (error %v)", bodies, err)
		}
	})
}

func TestConfig(t *testing.T) {
	t.Parallel()
	if err := DefaultConfig().Validate(); err != nil {
		t.Error(err)
	}
	for _, c := range []Config{{AutoDispatch: -time.Second, Carrier: "a"}, {}, {Carrier: strings.Repeat("a", maxCarrier+1)}} {
		if err := c.Validate(); err == nil {
			t.Errorf("%+v was taken", c)
		}
	}
	if err := build(module.Deps{}).Check(); err != nil {
		t.Error(err)
	}
}
