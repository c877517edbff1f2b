package orders

import (
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/banyan-go/banyan/internal/message"
	"github.com/banyan-go/banyan/internal/moduletest"
	"github.com/banyan-go/banyan/modules/inventory/inventoryapi"
	"github.com/banyan-go/banyan/modules/orders/ordersapi"
	"github.com/banyan-go/banyan/modules/payments/paymentsapi"
	"github.com/banyan-go/banyan/modules/shipping/shippingapi"
)

func TestCheckoutConfirms(t *testing.T) {
	t.Parallel()
	moduletest.Each(t, func(t *testing.T, open moduletest.Opener) {
		s := openShop(t, open)
		o := s.jars()
		if o.Status != "placed" || o.Total != gbp(1664) || o.Version != 1 {
			t.Fatalf("placed: %+v", o)
		}
		reserve := last[inventoryapi.Reserve](s, "inventory.reserve.v1")
		if want := moduletest.Start.Add(2*time.Hour + 30*time.Minute); !reserve.ExpiresAt.Equal(want) || len(reserve.Lines) != 2 {
			t.Errorf("reserve %+v, want until %s", reserve, want)
		}
		s.Deliver(t, reserved(o.ID))
		charge := last[paymentsapi.Charge](s, "payments.charge.v1")
		if charge != (paymentsapi.Charge{OrderID: o.ID, CustomerID: ann.Subject, Amount: gbp(1664), Card: "tok_visa"}) {
			t.Errorf("charge %+v", charge)
		}
		if rows := s.rows("checkout WHERE card <> ''"); len(rows) != 0 {
			t.Errorf("the card is kept: %v", rows)
		}
		s.Restart() // the saga goes on where it was
		s.Deliver(t, captured(o.ID))
		s.want(o.ID, "confirmed")
		s.wantSent(o.ID, "orders.order_placed", "inventory.reserve", "payments.charge", "inventory.commit", "orders.order_confirmed")
		confirmed := last[ordersapi.OrderConfirmed](s, "orders.order_confirmed.v1")
		if confirmed.Address.Name != "Ann" || len(confirmed.Lines) != 2 || confirmed.Lines[0].Name != "a jar" || confirmed.Total != gbp(1664) {
			t.Errorf("confirmed %+v", confirmed)
		}
		s.Advance(10 * time.Hour) // no time-out any more
		s.Deliver(t, reserved(o.ID), captured(o.ID), settled(o.ID), released(o.ID), declined(o.ID), refused(o.ID))
		s.want(o.ID, "confirmed")
		s.wantSent(o.ID, "orders.order_placed", "inventory.reserve", "payments.charge", "inventory.commit", "orders.order_confirmed")
		var reply ordersapi.Order
		s.Ask(t, ordersapi.GetOrder{OrderID: o.ID}, &reply)
		if reply.Status != "confirmed" || len(reply.Lines) != 2 || reply.Total != gbp(1664) {
			t.Errorf("asked: %+v", reply)
		}
	})
}

func TestCheckoutFails(t *testing.T) {
	t.Parallel()
	type step func(s *shop, id string)
	deliver := func(events ...func(string) message.Event) step {
		return func(s *shop, id string) {
			for _, e := range events {
				s.Deliver(s.t, e(id))
			}
		}
	}
	timeOut := func(s *shop, _ string) { s.Advance(2*time.Hour + time.Second) }
	cancel := func(s *shop, id string) {
		s.Do("POST", "/api/orders/"+id+"/cancel", ann, map[string]any{"reason": "too slow"}).Want(s.t, 200)
	}
	begin := []string{"orders.order_placed", "inventory.reserve"}
	charged := append(slices.Clone(begin), "payments.charge")
	confirmed := append(slices.Clone(charged), "inventory.commit", "orders.order_confirmed")
	for _, c := range []struct {
		name   string
		steps  []step
		status string
		reason string
		sent   []string
	}{
		{"out of stock", []step{deliver(refused, released)}, "rejected", "out_of_stock", append(slices.Clone(begin), "orders.order_rejected")},
		{"declined, stock still held", []step{deliver(reserved, declined)}, "rejecting", "payment_declined", append(slices.Clone(charged), "inventory.release")},
		{"declined", []step{deliver(reserved, declined, released)}, "rejected", "payment_declined", append(slices.Clone(charged), "inventory.release", "orders.order_rejected")},
		{"no answer from the stock", []step{timeOut, deliver(reserved, released)}, "rejected", "timed_out", append(slices.Clone(begin), "inventory.release", "orders.order_rejected")},
		{"no answer from the payment", []step{deliver(reserved), timeOut, deliver(captured, settled, released, captured)}, "rejected", "timed_out",
			append(slices.Clone(charged), "payments.void", "inventory.release", "orders.order_rejected")},
		{"the reservation ran out", []step{deliver(reserved, expired, captured, settled, released)}, "rejected", "timed_out",
			append(slices.Clone(charged), "payments.void", "inventory.release", "orders.order_rejected")},
		{"cancelled at once", []step{cancel, deliver(reserved), cancel, deliver(released)}, "cancelled", "cancelled_by_customer", append(slices.Clone(begin), "inventory.release", "orders.order_cancelled")},
		{"cancelled during the payment", []step{deliver(reserved), cancel, deliver(captured, settled), timeOut, deliver(released)}, "cancelled", "cancelled_by_customer",
			append(slices.Clone(charged), "payments.void", "inventory.release", "orders.order_cancelled")},
		{"cancelled after confirmation, nobody knows whether it has left", []step{deliver(reserved, captured), cancel, cancel, deliver(settled, released)}, "cancel_requested", "cancelled_by_customer",
			append(slices.Clone(confirmed), "shipping.cancel_shipment")},
		{"cancelled after confirmation", []step{deliver(reserved, captured), cancel, deliver(stopped, stopped, left, settled, released)}, "cancelled", "cancelled_by_customer",
			append(slices.Clone(confirmed), "shipping.cancel_shipment", "payments.void", "inventory.release", "orders.order_cancelled")},
		{"cancelled after it has left", []step{deliver(reserved, captured), cancel, deliver(left, stopped, settled, released)}, "confirmed", "",
			append(slices.Clone(confirmed), "shipping.cancel_shipment")},
		{"the units are gone when the commit comes", []step{deliver(reserved, captured, expired, expired, stopped, settled, released)}, "cancelled", "reservation_expired",
			append(slices.Clone(confirmed), "shipping.cancel_shipment", "payments.void", "inventory.release", "orders.order_cancelled")},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			moduletest.Each(t, func(t *testing.T, open moduletest.Opener) {
				s := openShop(t, open)
				o := s.jars()
				for _, step := range c.steps {
					step(s, o.ID)
				}
				got := s.get(o.ID)
				if got.Status != c.status || got.Reason != c.reason {
					t.Errorf("order is %s because of %q, want %s because of %q", got.Status, got.Reason, c.status, c.reason)
				}
				// The announcement of a step stands before or after its commands; what counts is what was sent.
				sent := s.sent(o.ID)
				slices.Sort(sent)
				want := slices.Clone(c.sent)
				slices.Sort(want)
				if !slices.Equal(sent, want) {
					t.Errorf("sent %v, want %v", sent, want)
				}
				if s.DeadLetters() != 0 {
					t.Error("there are dead letters")
				}
			})
		})
	}
}

// TestAnswersInEveryOrder delivers answers, wishes and time-outs to the real module in any order, several times.
func TestAnswersInEveryOrder(t *testing.T) {
	t.Parallel()
	s := openShop(t, moduletest.NewSQLite)
	rapid.Check(t, func(t *rapid.T) {
		o := s.jars()
		off, committed := false, false
		for _, what := range rapid.Permutation([]string{"reserved", "reserved", "captured", "cancel", "time-out", "settled", "released", "expired", "declined", "refused", "stopped", "left"}).Draw(t, "order") {
			var e message.Event
			switch what {
			case "reserved":
				e = reserved(o.ID)
			case "captured":
				e = captured(o.ID)
			case "settled":
				e = settled(o.ID)
			case "released":
				e = released(o.ID)
			case "expired":
				e = expired(o.ID)
			case "declined":
				e = declined(o.ID)
			case "refused":
				e = refused(o.ID)
			case "stopped":
				e = stopped(o.ID)
			case "left":
				e = left(o.ID)
			case "cancel":
				s.Do("POST", "/api/orders/"+o.ID+"/cancel", ann, map[string]any{})
			case "time-out":
				s.Advance(2*time.Hour + time.Second)
			}
			if e != nil {
				s.Deliver(s.t, e)
			}
			status := s.get(o.ID).Status
			if off && (status == "confirmed" || status == "reserved" || status == "placed") {
				t.Fatalf("%s after it was called off", status)
			}
			off = off || !slices.Contains([]string{"confirmed", "reserved", "placed", "cancel_requested"}, status)
		}
		s.Deliver(s.t, stopped(o.ID))
		s.Deliver(s.t, settled(o.ID))
		s.Deliver(s.t, released(o.ID))
		end := s.get(o.ID)
		sent := s.sent(o.ID)
		committed = slices.Contains(sent, "inventory.commit")
		switch {
		case end.Status == "confirmed" && !slices.Contains(sent, "payments.void") && !slices.Contains(sent, "inventory.release") && committed:
		case end.Status == "rejected" && end.Reason == "out_of_stock" && !slices.Contains(sent, "payments.charge"):
		case (end.Status == "rejected" || end.Status == "cancelled") && slices.Contains(sent, "inventory.release") &&
			slices.Contains(sent, "payments.charge") == (slices.Contains(sent, "payments.void") || end.Reason == "payment_declined"):
		default:
			t.Fatalf("ends as %s (%s) after sending %v", end.Status, end.Reason, sent)
		}
		if !end.Settled {
			t.Fatalf("%s is not settled", end.Status)
		}
	})
}

func TestCancelAfterDispatch(t *testing.T) {
	t.Parallel()
	moduletest.Each(t, func(t *testing.T, open moduletest.Opener) {
		s := openShop(t, open)
		o := s.jars()
		s.confirm(o.ID)
		s.Deliver(t, shippingapi.ShipmentDispatched{ShipmentID: "s1", OrderID: o.ID, Carrier: "post", Tracking: "T1"})
		before := s.sent(o.ID)
		for _, who := range []string{"ann", "staff"} {
			as := ann
			if who == "staff" {
				as = moduletest.Staff
			}
			s.Do("POST", "/api/orders/"+o.ID+"/cancel", as, map[string]any{}).Want(t, 409)
		}
		if got := s.get(o.ID); got.Status != "confirmed" || got.Fulfilment != "shipped" || len(s.sent(o.ID)) != len(before) {
			t.Errorf("order %+v", got)
		}
		s.Deliver(t, shippingapi.ShipmentDelivered{ShipmentID: "s1", OrderID: o.ID}, shippingapi.ShipmentDispatched{ShipmentID: "s1", OrderID: o.ID})
		if got := s.get(o.ID); got.Fulfilment != "delivered" {
			t.Errorf("order %+v", got)
		}

		// Goods that leave while somebody asks whether they have: the order stays, and can be returned.
		o = s.jars()
		s.confirm(o.ID)
		before = s.sent(o.ID)
		var asked orderReply
		s.Do("POST", "/api/orders/"+o.ID+"/cancel", ann, map[string]any{"reason": "too slow"}).Want(t, 200).Into(t, &asked)
		if asked.Status != "cancel_requested" || asked.Settled || asked.Note != "too slow" {
			t.Errorf("order %+v", asked)
		}
		if ask := last[shippingapi.CancelShipment](s, "shipping.cancel_shipment.v1"); ask != (shippingapi.CancelShipment{OrderID: o.ID, CustomerID: ann.Subject}) {
			t.Errorf("asked for %+v", ask)
		}
		s.Restart() // it goes on waiting
		s.Deliver(t, shippingapi.ShipmentDispatched{ShipmentID: "s2", OrderID: o.ID}, left(o.ID))
		got := s.get(o.ID)
		if got.Status != "confirmed" || got.Fulfilment != "shipped" || got.Reason != "" || got.Note != "" || !got.Settled || len(s.sent(o.ID)) != len(before)+1 {
			t.Errorf("order %+v after %v", got, s.sent(o.ID))
		}
		s.Do("POST", "/api/orders/"+o.ID+"/cancel", ann, map[string]any{}).Want(t, 409)
		s.Do("POST", "/api/orders/"+o.ID+"/returns", moduletest.Staff, map[string]any{"lines": lines{lineAt("jar", 1, 104)}}).Want(t, 201)

		// Goods that leave although they were stopped are not put on the shelf.
		o = s.jars()
		s.confirm(o.ID)
		s.Do("POST", "/api/orders/"+o.ID+"/cancel", moduletest.Staff, map[string]any{}).Want(t, 200)
		s.Deliver(t, stopped(o.ID), shippingapi.ShipmentDispatched{ShipmentID: "s3", OrderID: o.ID}, settled(o.ID))
		if got := s.get(o.ID); got.Status != "cancelled" || got.Reason != "cancelled_by_staff" || got.Fulfilment != "shipped" || slices.Contains(s.sent(o.ID), "inventory.release") {
			t.Errorf("order %+v after %v", got, s.sent(o.ID))
		}
		s.Deliver(t, reserved("unknown"), shippingapi.ShipmentDelivered{ShipmentID: "s", OrderID: "unknown"}) // nobody's order is no trouble
	})
}
