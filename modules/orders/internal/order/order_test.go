package order

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/banyan-go/banyan/internal/errs"
	"github.com/banyan-go/banyan/internal/money"
)

var (
	start  = time.Date(2026, 3, 1, 9, 0, 0, 0, time.UTC)
	gbp    = func(n int64) money.Money { return money.Of(n, "GBP") }
	jar    = Line{SKU: "23166", Name: "jar", Quantity: 10, Price: 104}
	bag    = Line{SKU: "85099B", Name: "bag", Quantity: 3, Price: 208}
	dear   = Line{SKU: "23166", Name: "jar", Quantity: 2, Price: 125} // the same product at another price
	placed = Placed{CustomerID: "c1", By: ByCustomer, Lines: []Line{jar, bag, dear}, Total: gbp(1914)}
)

func units(l Line, n int64) Line { return Line{SKU: l.SKU, Price: l.Price, Quantity: n} }

func given(events ...Event) *Order {
	var o Order
	for i, e := range events {
		o.Apply(e, start.Add(time.Duration(i)*time.Minute))
	}
	return &o
}

func confirmed(more ...Event) []Event {
	return append([]Event{placed, Reserved{}, Confirmed{PaymentID: "p1"}}, more...)
}

func named(l Line, n int64) Line {
	l.Quantity = n
	return l
}

func TestOrder(t *testing.T) {
	t.Parallel()
	back := Returned{ReturnID: "r1", By: ByStaff, Lines: []Line{named(jar, 4)}, Refund: gbp(416)}
	all := Returned{ReturnID: "r1", By: ByStaff, Lines: placed.Lines, Refund: placed.Total}
	less := gbp(116)
	takeBack := func(by Actor, lines ...Line) func(*Order) ([]Event, error) {
		return func(o *Order) ([]Event, error) {
			return o.TakeBack(start.Add(40*24*time.Hour), 30*24*time.Hour, "r2", by, lines, "broken")
		}
	}
	cancel := func(o *Order) ([]Event, error) { return o.Cancel(ByCustomer, CancelledByCustomer, "changed my mind") }
	cancelling := CancellationBegun{By: ByCustomer, Reason: CancelledByCustomer, Personal: Personal{Note: "changed my mind"}}
	requested := CancellationRequested{By: ByCustomer, Reason: CancelledByCustomer, Personal: Personal{Note: "changed my mind"}}
	begun := CancellationBegun{By: ByCustomer, Reason: CancelledByCustomer}
	refuseVoid := func(o *Order) ([]Event, error) { return o.RefuseVoid("closed") }
	payBack := facts(func(o *Order) []Event { return o.PayBack(gbp(1914)) })
	for _, c := range []struct {
		name  string
		given []Event
		when  func(*Order) ([]Event, error)
		then  []Event
		fails errs.Kind
	}{
		{name: "stock is reserved", given: []Event{placed}, when: (*Order).Reserve, then: []Event{Reserved{}}},
		{name: "stock is reserved once", given: []Event{placed, Reserved{}}, when: (*Order).Reserve, fails: errs.Conflict},
		{name: "a reserved order is confirmed", given: []Event{placed, Reserved{}},
			when: func(o *Order) ([]Event, error) { return o.Confirm("p1") }, then: []Event{Confirmed{PaymentID: "p1"}}},
		{name: "an order is not confirmed without stock", given: []Event{placed},
			when: func(o *Order) ([]Event, error) { return o.Confirm("p1") }, fails: errs.Conflict},
		{name: "a cancelled order is never confirmed", given: []Event{placed, Reserved{}, cancelling},
			when: func(o *Order) ([]Event, error) { return o.Confirm("p1") }, fails: errs.Conflict},
		{name: "a timed-out order is never confirmed", given: []Event{placed, Reserved{}, RejectionBegun{Reason: TimedOut}},
			when: func(o *Order) ([]Event, error) { return o.Confirm("p1") }, fails: errs.Conflict},
		{name: "a placed order can be rejected at once", given: []Event{placed},
			when: func(o *Order) ([]Event, error) { return o.Reject(OutOfStock) }, then: []Event{Rejected{Reason: OutOfStock}}},
		{name: "a confirmed order is not rejected", given: confirmed(),
			when: func(o *Order) ([]Event, error) { return o.BeginRejection(TimedOut) }, fails: errs.Conflict},

		{name: "a placed order is cancelled", given: []Event{placed}, when: cancel, then: []Event{cancelling}},
		{name: "a reserved order is cancelled", given: []Event{placed, Reserved{}}, when: cancel, then: []Event{cancelling}},
		{name: "a confirmed order is asked to be cancelled", given: confirmed(), when: cancel, then: []Event{requested}},
		{name: "asking twice is asking once", given: confirmed(requested), when: cancel},
		{name: "its goods are stopped", given: confirmed(requested), when: (*Order).BeginCancel, then: []Event{begun}},
		{name: "its goods have left", given: confirmed(requested, Dispatched{}), when: (*Order).RefuseCancel, then: []Event{CancellationRefused{}}},
		{name: "nobody asked, and the goods are stopped", given: confirmed(), when: (*Order).BeginCancel, fails: errs.Conflict},
		{name: "a cancellation that began is not refused", given: confirmed(requested, begun), when: (*Order).RefuseCancel, fails: errs.Conflict},
		{name: "an order that may be cancelled has nothing to return", given: confirmed(requested), when: takeBack(ByStaff, units(jar, 1)), fails: errs.Conflict},
		{name: "an order whose cancellation was refused comes back", given: confirmed(requested, CancellationRefused{}), when: takeBack(ByStaff, units(jar, 4)),
			then: []Event{Returned{ReturnID: "r2", By: ByStaff, Lines: []Line{named(jar, 4)}, Refund: gbp(416), Personal: Personal{Note: "broken"}}}},
		{name: "the money does not go back", given: confirmed(requested, begun), when: refuseVoid, then: []Event{RefundRefused{Reason: "closed"}}},
		{name: "the money of an order that goes on stays", given: confirmed(), when: refuseVoid, fails: errs.Conflict},
		{name: "staff pay it back", given: confirmed(requested, begun, RefundRefused{}, Cancelled{}), when: payBack, then: []Event{PaymentSettled{Refunded: gbp(1914)}}},
		{name: "and is told once, too", given: confirmed(requested, begun, RefundRefused{}, Cancelled{}, PaymentSettled{}), when: payBack},
		{name: "what went back by itself is not paid back", given: confirmed(requested, begun, PaymentSettled{}, Cancelled{}), when: payBack},
		{name: "cancelling twice is cancelling once", given: confirmed(cancelling), when: cancel},
		{name: "a cancelled order is cancelled", given: confirmed(cancelling, Cancelled{}), when: cancel},
		{name: "a rejected order is not cancelled", given: []Event{placed, Rejected{Reason: OutOfStock}}, when: cancel, fails: errs.Conflict},
		{name: "a dispatched order is not cancelled", given: confirmed(Dispatched{ShipmentID: "s1"}), when: cancel, fails: errs.Conflict},
		{name: "an order that came back in part is not cancelled", given: confirmed(back), when: cancel, fails: errs.Conflict},

		{name: "staff take units back", given: confirmed(), when: takeBack(ByStaff, units(jar, 3), units(dear, 1), units(jar, 1)),
			then: []Event{Returned{ReturnID: "r2", By: ByStaff, Lines: []Line{named(jar, 4), named(dear, 1)}, Refund: gbp(541), Personal: Personal{Note: "broken"}}}},
		{name: "staff take the rest back", given: confirmed(back), when: takeBack(ByStaff, units(jar, 6)),
			then: []Event{Returned{ReturnID: "r2", By: ByStaff, Lines: []Line{named(jar, 6)}, Refund: gbp(624), Personal: Personal{Note: "broken"}}}},
		{name: "no more comes back than went out", given: confirmed(back), when: takeBack(ByStaff, units(jar, 7)), fails: errs.Conflict},
		{name: "no more comes back than went out, in pieces", given: confirmed(), when: takeBack(ByStaff, units(jar, 6), units(jar, 5)), fails: errs.Conflict},
		{name: "the price names the line too", given: confirmed(), when: takeBack(ByStaff, units(dear, 3)), fails: errs.Conflict},
		{name: "what was not ordered does not come back", given: confirmed(), when: takeBack(ByStaff, Line{SKU: "23166", Price: 1, Quantity: 1}), fails: errs.Invalid},
		{name: "a return of nothing", given: confirmed(), when: takeBack(ByStaff), fails: errs.Invalid},
		{name: "an unconfirmed order has nothing to return", given: []Event{placed, Reserved{}}, when: takeBack(ByStaff, units(jar, 1)), fails: errs.Conflict},
		{name: "a cancelled order has nothing to return", given: confirmed(cancelling), when: takeBack(ByStaff, units(jar, 1)), fails: errs.Conflict},
		{name: "customers wait for the delivery", given: confirmed(Dispatched{}), when: takeBack(ByCustomer, units(jar, 1)), fails: errs.Conflict},
		{name: "customers come in time", given: confirmed(Dispatched{}, Delivered{}), when: takeBack(ByCustomer, units(jar, 1)), fails: errs.Conflict},
		{name: "a return id is used once", given: confirmed(Returned{ReturnID: "r2", Lines: []Line{named(bag, 1)}, Refund: gbp(208)}),
			when: takeBack(ByStaff, units(jar, 1)), fails: errs.Conflict},

		{name: "the refund of a return arrives", given: confirmed(back), when: facts(func(o *Order) []Event { return o.RefundReturn("r1", gbp(416)) }), then: []Event{ReturnRefunded{ReturnID: "r1"}}},
		{name: "and is told once", given: confirmed(back, ReturnRefunded{ReturnID: "r1"}), when: facts(func(o *Order) []Event { return o.RefundReturn("r1", gbp(416)) })},
		{name: "a foreign refund is nothing", given: confirmed(back), when: facts(func(o *Order) []Event { return o.RefundReturn("void", gbp(0)) })},
		{name: "the refund of a return is refused", given: confirmed(back), when: facts(func(o *Order) []Event { return o.RefuseRefund("r1", gbp(416), "closed") }),
			then: []Event{ReturnRefundRefused{ReturnID: "r1", Reason: "closed"}}},
		{name: "and is told once too", given: confirmed(back, ReturnRefundRefused{ReturnID: "r1"}), when: facts(func(o *Order) []Event { return o.RefuseRefund("r1", gbp(416), "closed") })},
		{name: "a refund that arrived is not refused", given: confirmed(back, ReturnRefunded{ReturnID: "r1"}), when: facts(func(o *Order) []Event { return o.RefuseRefund("r1", gbp(416), "closed") })},
		{name: "a foreign refund is refused", given: confirmed(back), when: facts(func(o *Order) []Event { return o.RefuseRefund("void", gbp(0), "closed") })},
		{name: "less was left to refund", given: confirmed(back), when: facts(func(o *Order) []Event { return o.RefundReturn("r1", gbp(116)) }),
			then: []Event{ReturnRefunded{ReturnID: "r1", Refund: &less}}},
		{name: "less was left to refuse", given: confirmed(back), when: facts(func(o *Order) []Event { return o.RefuseRefund("r1", gbp(116), "closed") }),
			then: []Event{ReturnRefundRefused{ReturnID: "r1", Reason: "closed", Refund: &less}}},
		{name: "the units of a return arrive", given: confirmed(all), when: facts(func(o *Order) []Event { return o.RestockReturn("r1") }), then: []Event{ReturnRestocked{ReturnID: "r1"}}},
		{name: "the goods leave", given: confirmed(), when: facts(func(o *Order) []Event { return o.Dispatch(Dispatched{ShipmentID: "s1"}) }), then: []Event{Dispatched{ShipmentID: "s1"}}},
		{name: "the goods leave once", given: confirmed(Delivered{}), when: facts(func(o *Order) []Event { return o.Dispatch(Dispatched{ShipmentID: "s1"}) })},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			got, err := c.when(given(c.given...))
			if kind := errs.KindOf(err); kind != c.fails {
				t.Fatalf("error %v (%q), want %q", err, kind, c.fails)
			}
			if diff := cmp.Diff(got, c.then, cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("events (-got +want):\n%s", diff)
			}
		})
	}
}

func facts(fn func(*Order) []Event) func(*Order) ([]Event, error) {
	return func(o *Order) ([]Event, error) { return fn(o), nil }
}

func TestCustomersReturnWithinTheWindow(t *testing.T) {
	t.Parallel()
	o := given(confirmed(Dispatched{}, Delivered{})...)
	window := 30 * 24 * time.Hour
	for _, c := range []struct {
		now  time.Time
		kind errs.Kind
	}{{o.DeliveredAt.Add(window), ""}, {o.DeliveredAt.Add(window + time.Microsecond), errs.Conflict}} {
		if _, err := o.TakeBack(c.now, window, "r", ByCustomer, []Line{units(bag, 1)}, ""); errs.KindOf(err) != c.kind {
			t.Errorf("at %s: %v, want %q", c.now, err, c.kind)
		}
	}
}

func TestPlace(t *testing.T) {
	t.Parallel()
	place := func(change func(*Placement)) (Placed, error) {
		p := Placement{CustomerID: "c1", By: ByStaff, Currency: "GBP", Lines: []Line{units(jar, 4), units(bag, 3), units(jar, 6)}}
		change(&p)
		return Place(p)
	}
	got, err := place(func(*Placement) {})
	if err != nil {
		t.Fatal(err)
	}
	want := Placed{CustomerID: "c1", By: ByStaff, Lines: []Line{units(jar, 10), units(bag, 3)}, Total: gbp(1664)}
	if diff := cmp.Diff(got, want); diff != "" {
		t.Errorf("placed (-got +want):\n%s", diff)
	}
	for name, change := range map[string]func(*Placement){
		"no customer":            func(p *Placement) { p.CustomerID = "" },
		"no lines":               func(p *Placement) { p.Lines = nil },
		"no units":               func(p *Placement) { p.Lines[0].Quantity = 0 },
		"too many units":         func(p *Placement) { p.Lines[0].Quantity = MaxQuantity + 1 },
		"a negative price":       func(p *Placement) { p.Lines[0].Price = -1 },
		"a price that overflows": func(p *Placement) { p.Lines[0].Price = 1 << 62 },
		"a total that overflows": func(p *Placement) { p.Lines[0].Price, p.Lines[0].Quantity = MaxAmount, MaxQuantity },
		"costs nothing":          func(p *Placement) { p.Lines = []Line{{SKU: "x", Quantity: 1}} },
		"no currency":            func(p *Placement) { p.Currency = "" },
		"half a currency":        func(p *Placement) { p.Currency = "g1" },
	} {
		if _, err := place(change); errs.KindOf(err) != errs.Invalid {
			t.Errorf("%s: %v, want invalid", name, err)
		}
	}
}

func TestCheckCard(t *testing.T) {
	t.Parallel()
	for token, ok := range map[string]bool{
		"tok_visa": true, "tok_x_1": true, "tok_": false, "visa": false, "tok_VISA": false, "tok_é": false, "": false,
		"tok_123456789012": true, "tok_4242424242424242": false, "tok_4242_4242_4242_4242": false, "4242424242424242": false, "tok_a4242424242424242b": false,
	} {
		if err := CheckCard(token); (err == nil) != ok {
			t.Errorf("%q: %v, want ok %v", token, err, ok)
		}
	}
}

func TestApplyTellsTheState(t *testing.T) {
	t.Parallel()
	first := Returned{ReturnID: "r1", Lines: []Line{units(jar, 10)}, Refund: gbp(1040)}
	rest := Returned{ReturnID: "r2", Lines: []Line{units(bag, 3), units(dear, 2)}, Refund: gbp(874)}
	for _, c := range []struct {
		name           string
		given          []Event
		status         Status
		fulfilment     Fulfilment
		state          ReturnState
		settled, final bool
	}{
		{"placed", []Event{placed}, StatusPlaced, NotShipped, Kept, false, false},
		{"confirmed", confirmed(), StatusConfirmed, NotShipped, Kept, true, false},
		{"rejecting", []Event{placed, RejectionBegun{}}, StatusRejecting, NotShipped, Kept, false, false},
		{"rejected", []Event{placed, RejectionBegun{}, Rejected{}}, StatusRejected, NotShipped, Kept, true, true},
		{"cancel requested", confirmed(CancellationRequested{Reason: "x"}), StatusCancelRequested, NotShipped, Kept, false, false},
		{"cancel refused", confirmed(CancellationRequested{Reason: "x"}, Dispatched{}, CancellationRefused{}), StatusConfirmed, Shipped, Kept, true, false},
		{"refund refused", confirmed(first, ReturnRefundRefused{ReturnID: "r1", Reason: "x"}), StatusConfirmed, NotShipped, PartlyReturned, false, false},
		{"refund refused, units back", confirmed(first, ReturnRefundRefused{ReturnID: "r1", Reason: "x"}, ReturnRestocked{"r1"}), StatusConfirmed, NotShipped, PartlyReturned, true, false},
		{"cancelling", confirmed(CancellationBegun{}, PaymentSettled{}), StatusCancelling, NotShipped, Kept, false, false},
		{"cancelled", confirmed(CancellationBegun{}, PaymentSettled{}, Cancelled{}), StatusCancelled, NotShipped, Kept, true, true},
		{"shipped", confirmed(Dispatched{}), StatusConfirmed, Shipped, Kept, true, false},
		{"delivered", confirmed(Dispatched{}, Delivered{}), StatusConfirmed, DeliveredToPerson, Kept, true, true},
		{"returning", confirmed(first), StatusConfirmed, NotShipped, PartlyReturned, false, false},
		{"half returned", confirmed(first, ReturnRefunded{ReturnID: "r1"}), StatusConfirmed, NotShipped, PartlyReturned, false, false},
		{"partly returned", confirmed(first, ReturnRefunded{ReturnID: "r1"}, ReturnRestocked{"r1"}), StatusConfirmed, NotShipped, PartlyReturned, true, false},
		{"returned", confirmed(first, ReturnRefunded{ReturnID: "r1"}, ReturnRestocked{"r1"}, rest, ReturnRestocked{"r2"}, ReturnRefunded{ReturnID: "r2"}), StatusConfirmed, NotShipped, AllReturned, true, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			o := given(c.given...)
			if o.Status != c.status || o.Fulfilment != c.fulfilment || o.ReturnState() != c.state || o.Settled() != c.settled || o.Final() != c.final {
				t.Errorf("%s %s %s settled %v final %v", o.Status, o.Fulfilment, o.ReturnState(), o.Settled(), o.Final())
			}
			if o.Version != int64(len(c.given)) {
				t.Errorf("version %d after %d events", o.Version, len(c.given))
			}
		})
	}
	if placed.Lines[0].Returned != 0 {
		t.Error("applying a return changed the event that placed the order")
	}
}

// TestLessGoesBack: a return's refund is what goes back for it, and the order's the sum of them.
func TestLessGoesBack(t *testing.T) {
	t.Parallel()
	less := gbp(1000)
	first := Returned{ReturnID: "r1", Lines: []Line{units(jar, 1)}, Refund: gbp(104)}
	rest := Returned{ReturnID: "r2", Lines: []Line{units(jar, 9), units(bag, 3)}, Refund: gbp(1560)}
	for _, end := range []Event{ReturnRefunded{ReturnID: "r2", Refund: &less}, ReturnRefundRefused{ReturnID: "r2", Refund: &less}} {
		o := given(confirmed(first, rest, end, ReturnRefunded{ReturnID: "r1"})...)
		if o.Refunded != gbp(1104) || o.Returns[0].Refund != gbp(104) || o.Returns[1].Refund != less {
			t.Errorf("after %s: %v of %v and %v", end.Kind(), o.Refunded, o.Returns[0].Refund, o.Returns[1].Refund)
		}
	}
}

// TestRefusedCancellationLeavesNothing: an order that could not be called off is as it was, whoever wanted it and why.
func TestRefusedCancellationLeavesNothing(t *testing.T) {
	t.Parallel()
	o := given(confirmed(CancellationRequested{By: ByCustomer, Reason: CancelledByCustomer, Personal: Personal{Note: "changed my mind"}}, CancellationRefused{})...)
	if o.Status != StatusConfirmed || o.Reason != "" || o.CancelBy != "" || len(o.Private.Notes) != 0 {
		t.Errorf("got %s, reason %q by %q, notes %v", o.Status, o.Reason, o.CancelBy, o.Private.Notes)
	}
}

func TestEventsSurviveTheStore(t *testing.T) {
	t.Parallel()
	at, less := start, gbp(1)
	events := []Event{
		Placed{CustomerID: "c1", By: ByStaff, Lines: []Line{jar}, Total: gbp(1040), CartVersion: 3, Reference: "536365", ReferenceTime: &at, Personal: Personal{Address: &Address{Name: "Ann"}}},
		Reserved{}, Confirmed{PaymentID: "p"}, RejectionBegun{Reason: TimedOut}, Rejected{Reason: TimedOut},
		CancellationRequested{By: ByCustomer, Reason: CancelledByCustomer, Personal: Personal{Note: "n"}}, CancellationRefused{}, ReturnRefundRefused{"r", "closed", &less},
		CancellationBegun{By: ByShop, Reason: ReservationExpired, Personal: Personal{Note: "n"}}, PaymentSettled{Refunded: gbp(1)}, RefundRefused{Reason: "closed"}, Cancelled{},
		Dispatched{ShipmentID: "s", Carrier: "c", Tracking: "t"}, Delivered{ShipmentID: "s"},
		Returned{ReturnID: "r", By: ByStaff, Lines: []Line{jar}, Refund: gbp(5), Personal: Personal{Note: "n"}}, ReturnRefunded{"r", &less}, ReturnRestocked{"r"},
	}
	for _, e := range events {
		body, personal, err := Encode(e)
		if err != nil {
			t.Fatal(err)
		}
		back, err := Decode(e.Kind(), body, personal)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(back, e); diff != "" {
			t.Errorf("%s (-got +want):\n%s", e.Kind(), diff)
		}
		erased, err := Decode(e.Kind(), body, nil)
		if err != nil {
			t.Fatal(err)
		}
		if p, ok := erased.(Placed); ok && p.Personal != (Personal{}) {
			t.Errorf("%s: the body holds personal data", e.Kind())
		}
	}
	if _, err := Decode("unknown", []byte("{}"), nil); err == nil {
		t.Error("an unknown kind of event was read")
	}
}
