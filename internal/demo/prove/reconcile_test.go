package prove

import (
	"fmt"
	"slices"
	"testing"
	"time"
)

// sound is a world in which all ledgers agree: a delivered order with a return, one that was cancelled, one that was rejected.
func sound() (*Told, Books) {
	told := newTold()
	told.Customers["u1"] = &Customer{ID: "u1", Email: "a@example.test", Name: "Ann the 2", Cart: Lines{"A": 2}}
	told.Deliveries["first"] = Lines{"A": 100}
	told.Prices["A"] = 450
	told.Orders["R1"] = &Order{Reference: "R1", ID: "o1", Customer: "u1", Amount: 1350, Lines: Lines{"A": 3}, Returns: map[string]int64{"x1": 450}, Returned: Lines{"A": 1}, Dispatched: true, Delivered: true}
	told.Orders["R2"] = &Order{Reference: "R2", ID: "o2", Customer: "u1", Amount: 450, Lines: Lines{"A": 1}, Cancelled: true}
	told.Orders["R3"] = &Order{Reference: "R3", ID: "o3", Customer: "u1", Amount: 900, Lines: Lines{"A": 2}}

	order := func(id, mark, status string, total, units int64, events ...string) OrderBook {
		o := OrderBook{ID: id, Customer: "u1", Status: status, Personal: `{"address":{"street":"` + mark + `"}}`, Total: total, Units: units, Events: events}
		for i := range events {
			o.Versions = append(o.Versions, int64(i+1))
		}
		o.Version, o.StreamVersion = int64(len(events)), int64(len(events))
		return o
	}
	b := Books{
		Orders: []OrderBook{
			order("o1", "R1", "confirmed", 1350, 3, "placed", "reserved", "confirmed", "dispatched", "delivered", "returned", "return_refunded", "return_restocked"),
			order("o2", "R2", "cancelled", 450, 1, "placed", "reserved", "cancellation_begun", "payment_settled", "cancelled"),
			order("o3", "R3", "rejected", 900, 2, "placed", "reserved", "rejection_begun", "rejected"),
		},
		Returns: []ReturnBook{{ID: "x1", Order: "o1", Refund: 450, Refunded: true, Restocked: true}},
		Payments: []PaymentBook{
			{ID: "p1", Order: "o1", State: "captured", Amount: 1350, Captured: 1350, Refunded: 450},
			{ID: "p2", Order: "o2", State: "settled", Amount: 450, Captured: 450, Refunded: 450},
			{ID: "p3", Order: "o3", State: "declined", Amount: 900},
		},
		Entries: []EntryBook{
			{Transaction: "p1", Payment: "p1", Kind: "capture", Clearing: 1350}, {Transaction: "r1", Payment: "p1", Kind: "refund", Clearing: -450},
			{Transaction: "p2", Payment: "p2", Kind: "capture", Clearing: 450}, {Transaction: "r2", Payment: "p2", Kind: "refund", Clearing: -450},
		},
		Provider: []ProviderBook{
			{Op: "charge", ID: "p1", Amount: 1350, Approved: true}, {Op: "refund", ID: "r1", Charge: "p1", Amount: 450, Approved: true},
			{Op: "charge", ID: "p2", Amount: 450, Approved: true}, {Op: "refund", ID: "r2", Charge: "p2", Amount: 450, Approved: true},
			{Op: "charge", ID: "p3", Amount: 900}, {Op: "unheard", ID: "p1"},
		},
		Reservations: []ReservationBook{{"o1", "committed"}, {"o2", "released"}, {"o3", "released"}},
		Stock:        []StockBook{{SKU: "A", OnHand: 98}},
		Movements:    []MovementBook{{SKU: "A", Reason: "delivery", Ref: "d1", Delta: 100, Times: 1}, {SKU: "A", Reason: "sale", Ref: "o1", Delta: -3, Times: 1}, {SKU: "A", Reason: "return", Ref: "x1", Delta: 1, Times: 1}},
		Shipments:    []ShipmentBook{{"o1", "delivered", "R1"}, {"o2", "void", ""}},
		Recipients:   []NameBook{{"u1", "Ann the 2", "a@example.test"}},
		Users:        []NameBook{{"u1", "Ann the 2", "a@example.test"}},
		Products:     []ProductBook{{"A", 450, 3}},
		Copies:       []CopyBook{{"carts", "A", 450, 3}, {"orders", "A", 450, 3}},
		Carts:        []CartBook{{"u1", "A", 2}},
		Reports: Reports{
			Orders: map[string]string{"o1": "confirmed", "o2": "cancelled", "o3": "rejected"}, Payments: map[string]int64{"o1": 900, "o2": 0, "o3": 0}, OnHand: map[string]int64{"A": 98},
			Shipments: map[string]string{"o1": "delivered"}, Users: map[string]string{"u1": "Ann the 2"}, Notifications: map[string]int64{},
		},
	}
	b.Orders[0].Refunded, b.Orders[0].ReturnedUnits = 450, 1
	for i, n := range []struct{ kind, order, subject string }{
		{"welcome", "", "Welcome to Banyan"}, {"receipt", "o1", "Your order o1 is confirmed"}, {"tracking", "o1", "Your order o1 is on its way"}, {"delivered", "o1", "Your order o1 was delivered"},
		{"refund", "o1", "Refund for your order o1"}, {"cancelled", "o2", "Your order o2 is cancelled"}, {"rejected", "o3", "Your order o3 could not be fulfilled"},
	} {
		id := string(rune('a' + i))
		b.Notifications = append(b.Notifications, NotificationBook{ID: id, User: "u1", Kind: n.kind, State: "sent", Order: n.order})
		b.Mails = append(b.Mails, MailBook{ID: id + "@banyan", MessageID: id + "@banyan", To: "a@example.test", Subject: n.subject})
		b.Reports.Notifications[n.kind+" sent"]++
	}
	return told, b
}

// refused is the world in which the provider does not give the money of o2 back.
func refused(_ *Told, b *Books) {
	b.Orders[1].Events[3] = "refund_refused"
	b.Payments[1].State, b.Payments[1].Refunded = "voiding", 0
	b.Entries, b.Provider[3].Approved, b.Reports.Payments["o2"] = b.Entries[:3], false, 450
}

func TestSoundWorld(t *testing.T) {
	t.Parallel()
	told, books := sound()
	refused(told, &books)
	if found := reconcile(told, books); len(found) > 0 {
		t.Errorf("in a world in which a refund was refused: %v", found)
	}
	if found := reconcile(sound()); len(found) > 0 {
		t.Errorf("in a world in which all ledgers agree: %v", found)
	}
}

// What came back before it left need not leave.
func TestStoppedShipment(t *testing.T) {
	t.Parallel()
	told, books := sound()
	told.Orders["R1"].Dispatched, told.Orders["R1"].Delivered = false, false
	books.Orders[0].ReturnedUnits, books.Orders[0].Events[3], books.Orders[0].Events[4] = 3, "noted", "noted"
	books.Shipments[0].State = "cancelled"
	for _, found := range reconcile(told, books) {
		if found.What == "shipment" {
			t.Error(found)
		}
	}
}

// Every kind of loss and double is found: something is taken away from, or added to, one ledger of a world in which all agree.
func TestReconcileFinds(t *testing.T) {
	t.Parallel()
	drop := func(b *Books, id string) {
		b.Orders = slices.DeleteFunc(b.Orders, func(o OrderBook) bool { return o.ID == id })
	}
	for _, c := range []struct {
		name       string
		do         func(*Told, *Books)
		kind, what string
	}{
		{"an order is gone", func(_ *Told, b *Books) { drop(b, "o3") }, Lost, "order"},
		{"an order is gone, its payment is not", func(_ *Told, b *Books) { drop(b, "o1") }, Lost, "order"},
		{"an order was made twice", func(_ *Told, b *Books) { o := b.Orders[2]; o.ID = "o9"; b.Orders = append(b.Orders, o) }, Doubled, "order"},
		{"an order nobody asked for", func(t *Told, _ *Books) { delete(t.Orders, "R3") }, Doubled, "order"},
		{"an order under another id", func(t *Told, _ *Books) { t.Orders["R3"].ID = "o8" }, Differs, "order"},
		{"an order of another amount", func(_ *Told, b *Books) { b.Orders[2].Total++ }, Differs, "order"},
		{"an order of other units", func(_ *Told, b *Books) { b.Orders[2].Units++ }, Differs, "order"},
		{"an order of somebody else", func(_ *Told, b *Books) { b.Orders[2].Customer = "u2" }, Differs, "order"},
		{"an order that does not end", func(_ *Told, b *Books) { b.Orders[2].Status = "reserved" }, Stuck, "order"},
		{"a return that does not end", func(_ *Told, b *Books) { b.Orders[0].OpenReturns = 1 }, Stuck, "order"},
		{"a view behind its stream", func(_ *Told, b *Books) { b.Orders[0].Version-- }, Differs, "order"},
		{"an event is gone", func(_ *Told, b *Books) { b.Orders[0].Versions = b.Orders[0].Versions[1:] }, Reordered, "order"},
		{"a cancellation is forgotten", func(t *Told, _ *Books) { t.Orders["R1"].Cancelled = true }, Lost, "cancellation"},
		{"a return is gone", func(_ *Told, b *Books) { b.Returns = nil }, Lost, "return"},
		{"a return is there twice", func(_ *Told, b *Books) { b.Returns = append(b.Returns, b.Returns[0]) }, Doubled, "return"},
		{"a return nobody asked for", func(t *Told, _ *Books) { delete(t.Orders["R1"].Returns, "x1") }, Doubled, "return"},
		{"a return of another amount", func(_ *Told, b *Books) { b.Returns[0].Refund++ }, Differs, "return"},
		{"units that are not back", func(_ *Told, b *Books) { b.Returns[0].Restocked = false }, Stuck, "return"},
		{"a confirmed order without payment", func(_ *Told, b *Books) { b.Payments = b.Payments[1:] }, Lost, "payment"},
		{"an order is paid for twice", func(_ *Told, b *Books) { b.Payments = append(b.Payments, PaymentBook{ID: "p9", Order: "o1"}) }, Doubled, "payment"},
		{"too little money", func(_ *Told, b *Books) { b.Payments[0].Captured-- }, Lost, "money of an order"},
		{"a cancelled order keeps money", func(_ *Told, b *Books) { b.Payments[1].Refunded = 0 }, Doubled, "money of an order"},
		{"a cancelled order does not hear that it was paid back", func(t *Told, b *Books) { refused(t, b); b.Payments[1].Refunded = 450 }, Lost, "news of a payment"},
		{"a cancelled order does not say that a refund was refused", func(t *Told, b *Books) { refused(t, b); b.Orders[1].Events[3] = "payment_settled" }, Doubled, "money of an order"},
		{"a refund twice", func(_ *Told, b *Books) { b.Payments[0].Refunded += 450 }, Lost, "money of an order"},
		{"a payment that does not end", func(_ *Told, b *Books) { b.Payments[2].State = "pending" }, Stuck, "payment"},
		{"money on its way", func(_ *Told, b *Books) { b.Payments[0].Refunding = 1 }, Stuck, "payment"},
		{"an entry of the ledger is gone", func(_ *Told, b *Books) { b.Entries = b.Entries[1:] }, Lost, "ledger of a payment"},
		{"an entry of the ledger is there twice", func(_ *Told, b *Books) { b.Entries = append(b.Entries, b.Entries[0]) }, Doubled, "ledger of a payment"},
		{"a ledger that is not balanced", func(_ *Told, b *Books) { b.Entries[0].Sum = 1 }, Differs, "ledger"},
		{"a charge twice with one id", func(_ *Told, b *Books) { b.Provider = append(b.Provider, b.Provider[0]) }, Doubled, "charge"},
		{"a charge twice with two ids", func(_ *Told, b *Books) {
			b.Provider = append(b.Provider, ProviderBook{Op: "charge", ID: "p9", Amount: 1350, Approved: true})
		}, Lost, "payment"},
		{"a refund twice at the provider", func(_ *Told, b *Books) {
			b.Provider = append(b.Provider, ProviderBook{Op: "refund", ID: "r9", Charge: "p1", Amount: 450, Approved: true})
		}, Lost, "money at the card provider"},
		{"a refund that the provider never saw", func(_ *Told, b *Books) { b.Provider = slices.Delete(b.Provider, 3, 4) }, Doubled, "money at the card provider"},
		{"a charge that the provider never saw", func(_ *Told, b *Books) { b.Provider = b.Provider[1:] }, Lost, "money at the card provider"},
		{"a reservation is gone", func(_ *Told, b *Books) { b.Reservations = b.Reservations[1:] }, Lost, "reservation"},
		{"a reservation is kept", func(_ *Told, b *Books) { b.Reservations[1].State = "held" }, Stuck, "reservation"},
		{"stock taken twice", func(_ *Told, b *Books) {
			b.Movements[1].Times, b.Movements[1].Delta, b.Stock[0].OnHand = 2, -6, 95
		}, Doubled, "movement"},
		{"stock taken twice, without a word", func(_ *Told, b *Books) { b.Stock[0].OnHand -= 3 }, Differs, "stock"},
		{"a delivery is forgotten", func(t *Told, _ *Books) { t.Deliveries["D1"] = Lines{"A": 7} }, Differs, "stock"},
		{"a product without stock", func(t *Told, _ *Books) { t.Deliveries["D1"] = Lines{"B": 7} }, Lost, "stock"},
		{"stock still reserved", func(_ *Told, b *Books) { b.Stock[0].Reserved = 1 }, Stuck, "stock"},
		{"a shipment is gone", func(_ *Told, b *Books) { b.Shipments = b.Shipments[1:] }, Lost, "shipment"},
		{"a shipment twice", func(_ *Told, b *Books) { b.Shipments = append(b.Shipments, b.Shipments[0]) }, Doubled, "shipment"},
		{"a shipment of a cancelled order", func(_ *Told, b *Books) { b.Shipments[1].State = "dispatched" }, Doubled, "shipment"},
		{"a shipment of what came back before it left", func(_ *Told, b *Books) { b.Orders[0].ReturnedUnits, b.Orders[0].Events[3] = 3, "noted" }, Doubled, "shipment"},
		{"a shipment to another address", func(_ *Told, b *Books) { b.Shipments[0].Street = "R2" }, Differs, "shipment"},
		{"a dispatch is forgotten", func(_ *Told, b *Books) { b.Shipments[0].State = "pending" }, Lost, "shipment"},
		{"news that never came", func(_ *Told, b *Books) { b.Orders[0].Events[4] = "noted" }, Lost, "news of a shipment"},
		{"a shipment between two states", func(_ *Told, b *Books) { b.Shipments[0].State = "intercept" }, Stuck, "shipment"},
		{"a notification is gone", func(_ *Told, b *Books) { b.Notifications = b.Notifications[:6] }, Lost, "notification"},
		{"a notification twice", func(_ *Told, b *Books) {
			n := b.Notifications[1]
			n.ID = "z"
			b.Notifications = append(b.Notifications, n)
		}, Doubled, "notification"},
		{"no welcome", func(_ *Told, b *Books) { b.Notifications = b.Notifications[1:] }, Lost, "notification"},
		{"a notification that is not sent", func(_ *Told, b *Books) { b.Notifications[2].State = "pending" }, Stuck, "notification"},
		{"a mail is gone", func(_ *Told, b *Books) { b.Mails = b.Mails[:6] }, Lost, "mail"},
		{"a mail twice", func(_ *Told, b *Books) {
			m := b.Mails[1]
			m.ID, m.MessageID = "z@banyan", "z@banyan"
			b.Mails = append(b.Mails, m)
		}, Doubled, "mail"},
		{"a mail to somebody else", func(_ *Told, b *Books) { b.Mails[1].To = "b@example.test" }, Lost, "mail"},
		{"a mail of nobody", func(_ *Told, b *Books) { b.Mails[1].MessageID = "y@banyan" }, Differs, "mail"},
		{"an account is gone", func(_ *Told, b *Books) { b.Users = nil }, Lost, "account"},
		{"an account twice", func(_ *Told, b *Books) { b.Users = append(b.Users, NameBook{"u2", "Ann", "a@example.test"}) }, Doubled, "account"},
		{"an older name", func(_ *Told, b *Books) { b.Recipients[0].Name = "Ann the 1" }, Reordered, "recipient"},
		{"an older price", func(_ *Told, b *Books) { b.Products[0].Price = 100 }, Differs, "price"},
		{"a product is gone", func(_ *Told, b *Books) { b.Products = nil }, Lost, "product"},
		{"an older copy of a price", func(_ *Told, b *Books) { b.Copies[0].Version = 2 }, Reordered, "copy of a price"},
		{"a copy of a price is gone", func(_ *Told, b *Books) { b.Copies = b.Copies[1:] }, Lost, "copy of a price"},
		{"a line of a cart is gone", func(_ *Told, b *Books) { b.Carts = nil }, Lost, "units in a cart"},
		{"a line of a cart was put in twice", func(_ *Told, b *Books) { b.Carts[0].Quantity = 4 }, Doubled, "units in a cart"},
		{"orders says something else", func(_ *Told, b *Books) { b.Reports.Orders["o1"] = "cancelled" }, Differs, "orders"},
		{"payments leaves one out", func(_ *Told, b *Books) { delete(b.Reports.Payments, "o2") }, Differs, "payments"},
		{"inventory says something else", func(_ *Told, b *Books) { b.Reports.OnHand["A"] = 97 }, Differs, "inventory"},
		{"shipping shows one too many", func(_ *Told, b *Books) { b.Reports.Shipments["o9"] = "pending" }, Differs, "shipping"},
		{"users says something else", func(_ *Told, b *Books) { b.Reports.Users["u1"] = "Bob" }, Differs, "users"},
		{"notifications counts wrong", func(_ *Told, b *Books) { b.Reports.Notifications["receipt sent"] = 2 }, Differs, "notifications"},
		{"payments finds a difference itself", func(_ *Told, b *Books) { b.Reports.Unreconciled = 1 }, Differs, "payments"},
		{"a client saw something wrong", func(t *Told, _ *Books) { t.problem(Lost, "order", "R1", "404") }, Lost, "order"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			told, b := sound()
			c.do(told, &b)
			found := reconcile(told, b)
			if !slices.ContainsFunc(found, func(v Violation) bool { return v.Kind == c.kind && v.What == c.what }) {
				t.Errorf("got %v, want %s of %s", found, c.kind, c.what)
			}
		})
	}
}

// A recovery is no violation: three attempts and one order, a reply that was lost and asked for again, a redelivery that changed nothing.
func TestRecoveryIsNoLoss(t *testing.T) {
	t.Parallel()
	told, b := sound()
	b.Provider = append(b.Provider, ProviderBook{Op: "failed", ID: "p1"}, ProviderBook{Op: "unheard", ID: "p1"})
	b.Orders[0].Events = slices.Insert(b.Orders[0].Events, 3, "cancellation_requested", "cancellation_refused")
	b.Orders[0].Versions = append(b.Orders[0].Versions, 9, 10)
	b.Orders[0].Version, b.Orders[0].StreamVersion = 10, 10
	told.Orders["R1"].Cancelled = true // refused, because the goods had left
	if found := reconcile(told, b); len(found) > 0 {
		t.Errorf("got %v", found)
	}
}

// watchedMessages are two messages of one key, and one of another, of orders to payments and notifications.
func watchedMessages() Testimony {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	owed := func(subscriber, id, key string, sequence int64) Owed {
		return Owed{Publisher: "orders", Subscriber: subscriber, ID: id, Name: "orders.x.v1", Key: key, Sequence: sequence, At: at}
	}
	taken := func(serial int64, module, id string) Taken {
		return Taken{Serial: serial, Module: module, Handler: "orders", ID: id, At: at.Add(time.Duration(serial) * time.Millisecond)}
	}
	return Testimony{
		Owed:  []Owed{owed("payments", "m1", "k", 1), owed("payments", "m2", "k", 2), owed("payments", "m3", "l", 1), owed("notifications", "m1", "k", 1), owed("notifications", "m2", "k", 2)},
		Taken: []Taken{taken(1, "payments", "m1"), taken(2, "notifications", "m1"), taken(3, "payments", "m3"), taken(4, "payments", "m2"), taken(6, "notifications", "m2"), taken(7, "payments", "request")},
	}
}

func TestExamine(t *testing.T) {
	t.Parallel()
	ordered := func(string, string) bool { return false }
	if found := examine(watchedMessages(), ordered); len(found) > 0 {
		t.Fatalf("when all is well: %v", found)
	}
	for _, c := range []struct {
		name string
		do   func(*Testimony)
		want []string
	}{
		{"a message is never taken", func(s *Testimony) { s.Taken = slices.Delete(s.Taken, 3, 4) }, []string{Lost}},
		{"one subscriber of two never takes it", func(s *Testimony) { s.Taken = slices.Delete(s.Taken, 1, 2) }, []string{Lost}},
		{"a message is taken twice", func(s *Testimony) {
			again := s.Taken[0]
			again.Serial = 8
			s.Taken = append(s.Taken, again)
		}, []string{Doubled}},
		{"two messages of a key change places", func(s *Testimony) { s.Taken[0].Serial, s.Taken[3].Serial = 4, 1 }, []string{Reordered}},
		{"two messages of different keys change places", func(s *Testimony) { s.Taken[2].Serial, s.Taken[3].Serial = 4, 3 }, nil},
		{"two handlers take a message", func(s *Testimony) {
			other := s.Taken[0]
			other.Serial, other.Handler = 9, "refunds"
			s.Taken = append(s.Taken, other)
		}, nil},
		{"a message was given up", func(s *Testimony) { s.Dead = []string{"payments/orders m1"} }, []string{Stuck}},
	} {
		s := watchedMessages()
		c.do(&s)
		var got []string
		for _, v := range examine(s, ordered) {
			got = append(got, v.Kind)
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: got %v, want %v", c.name, got, c.want)
		}
	}
	s := watchedMessages()
	s.Taken[0].Serial, s.Taken[3].Serial = 4, 1
	if found := examine(s, func(module, _ string) bool { return module == "payments" }); len(found) > 0 {
		t.Errorf("a handler that promises no order: %v", found)
	}
	p := pauses(watchedMessages(), "notifications")
	if p.Messages != 2 || p.Longest != 6*time.Millisecond || p.Median != 6*time.Millisecond {
		t.Errorf("got %+v", p)
	}
}

// A failed attempt is excused by a process that was killed, and by nothing else.
func TestFailedRequests(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	sec := func(n float64) time.Time { return at.Add(time.Duration(n * float64(time.Second))) }
	killed := span{What: "kill -9 of the shop", From: sec(10), To: sec(12), kills: true}
	cut := span{What: "broker stopped", From: sec(30), To: sec(32)}
	moved := flip{span: span{What: "to remote", From: sec(40), To: sec(41)}, to: "remote", again: 1}
	for _, c := range []struct {
		name        string
		from, to    float64
		failed      int
		interrupted int
	}{
		{"before the kill", 8, 9, 1, 0},
		{"under it", 9.5, 10.1, 0, 1},
		{"while it is dead", 11, 11.1, 0, 1},
		{"while the gateway finds it again", 16, 16.1, 0, 1},
		{"long after", 17.5, 17.6, 1, 0},
		{"while the broker is away", 31, 31.1, 1, 0},
		{"in a change", 40.5, 40.6, 1, 0},
	} {
		log := &requestLog{requests: 2}
		log.add(attempt{what: "GET /x", from: sec(c.from), to: sec(c.to), failure: "503: gone"})
		log.add(attempt{what: "GET /x", from: sec(40.2), to: sec(40.3)})
		var r Report
		r.requests(log, sec(1), []flip{moved}, []span{killed, cut})
		if r.Failed != c.failed || r.Interrupted["kill -9 of the shop"] != c.interrupted || len(r.Violations) != c.failed {
			t.Errorf("%s: %d failed, %v interrupted, want %d and %d", c.name, r.Failed, r.Interrupted, c.failed, c.interrupted)
		}
		if got := r.Latency["during changes"]; got.Requests != 1 || got.Longest < 99*time.Millisecond {
			t.Errorf("%s: latency in the change: %+v", c.name, got)
		}
	}
	log := &requestLog{}
	for i := range 3 {
		log.add(attempt{what: fmt.Sprintf("GET /api/orders/01a1fde6-dde7-7c00-a6cb-d74fde77a8a%d", i), from: sec(60 + float64(i)), to: sec(60.5 + float64(i)), failure: fmt.Sprintf("503: port %d", i)})
	}
	var many Report
	if many.requests(log, sec(1), nil, nil); many.Failed != 3 || len(many.Violations) != 1 || many.Violations[0].Key != "GET /api/orders/{id}" {
		t.Errorf("the same three times: %+v", many.Violations)
	}
	log = &requestLog{given: []Violation{{Kind: Failed, What: "request"}}}
	var r Report
	if r.requests(log, at, nil, nil); r.Failed != 1 {
		t.Error("a request that nobody ever answered is not counted")
	}
}
