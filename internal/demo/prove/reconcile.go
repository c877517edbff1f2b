package prove

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// reconcile compares what clients were told with what everybody holds, once all has settled.
func reconcile(told *Told, b Books) []Violation {
	r := &reconciliation{told: told, books: b, found: slices.Clone(told.Problems)}
	r.index()
	r.orders()
	r.payments()
	r.provider()
	r.inventory()
	r.shipments()
	r.notifications()
	r.people()
	r.catalog()
	r.carts()
	r.reports()
	return r.found
}

type reconciliation struct {
	told  *Told
	books Books
	found []Violation

	byID    map[string]OrderBook
	payment map[string]PaymentBook // by order
}

func (r *reconciliation) say(kind, what, key, format string, args ...any) {
	r.found = append(r.found, Violation{Kind: kind, What: what, Key: key, Detail: fmt.Sprintf(format, args...)})
}

func (r *reconciliation) index() {
	r.byID, r.payment = map[string]OrderBook{}, map[string]PaymentBook{}
	for _, o := range r.books.Orders {
		r.byID[o.ID] = o
	}
	for _, p := range r.books.Payments {
		if before, twice := r.payment[p.Order]; twice {
			r.say(Doubled, "payment", p.Order, "payments %s and %s", before.ID, p.ID)
		}
		r.payment[p.Order] = p
	}
}

// count says whether something is there as often as it should be.
func (r *reconciliation) count(what, key string, got, want int64, detail string) {
	switch {
	case got < want:
		r.say(Lost, what, key, "%d of %d are there: %s", got, want, detail)
	case got > want:
		r.say(Doubled, what, key, "%d are there in place of %d: %s", got, want, detail)
	}
}

func (r *reconciliation) orders() {
	// The mark in the address tells an order of ours that nobody was told of, or that was made twice.
	marked := map[string][]OrderBook{}
	for _, o := range r.books.Orders {
		mark := markOf(o.Personal)
		marked[mark] = append(marked[mark], o)
		if r.told.Orders[mark] == nil {
			r.say(Doubled, "order", o.ID, "nobody was told of it (reference %q)", mark)
		}
		if o.Version != o.StreamVersion || int64(len(o.Versions)) != o.Version {
			r.say(Differs, "order", o.ID, "its stream is at version %d with %d events, its view at %d", o.StreamVersion, len(o.Versions), o.Version)
		}
		for i, v := range o.Versions {
			if v != int64(i+1) {
				r.say(Reordered, "order", o.ID, "event %d of its stream has the version %d", i+1, v)
				break
			}
		}
	}
	returns := map[string][]ReturnBook{}
	for _, x := range r.books.Returns {
		returns[x.Order] = append(returns[x.Order], x)
	}
	for _, ref := range slices.Sorted(maps.Keys(r.told.Orders)) {
		t := r.told.Orders[ref]
		if n := len(marked[ref]); n != 1 {
			r.count("order", ref, int64(n), 1, "acknowledged as "+t.ID)
		}
		o, ok := r.byID[t.ID]
		switch {
		case !ok:
			if len(marked[ref]) == 1 {
				r.say(Differs, "order", ref, "acknowledged as %s, and there as %s", t.ID, marked[ref][0].ID)
			}
			continue
		case o.Total != t.Amount || o.Units != t.Lines.units() || o.Customer != t.Customer:
			r.say(Differs, "order", ref, "%d units for %d were acknowledged to %s, and %d for %d of %s are there", t.Lines.units(), t.Amount, t.Customer, o.Units, o.Total, o.Customer)
		}
		final := slices.Contains([]string{"confirmed", "rejected", "cancelled"}, o.Status)
		switch {
		case !final || o.OpenReturns != 0:
			r.say(Stuck, "order", ref, "it is %s, with %d open returns", o.Status, o.OpenReturns)
		case t.Cancelled && o.Status == "confirmed" && !slices.Contains(o.Events, "cancellation_refused"):
			r.say(Lost, "cancellation", ref, "it was accepted, and the order is confirmed")
		}
		r.returns(ref, t, o, returns[t.ID])
	}
}

func (r *reconciliation) returns(ref string, t *Order, o OrderBook, books []ReturnBook) {
	there := map[string]int{}
	refund := int64(0)
	for _, x := range books {
		there[x.ID]++
		refund += x.Refund
		if want, ok := t.Returns[x.ID]; !ok {
			r.say(Doubled, "return", ref, "nobody was told of return %s", x.ID)
		} else if want != x.Refund {
			r.say(Differs, "return", ref, "return %s refunds %d, %d was acknowledged", x.ID, x.Refund, want)
		}
		if !x.Restocked || !x.Refunded && !x.Refused {
			r.say(Stuck, "return", ref, "return %s: money back %t, units back %t", x.ID, x.Refunded, x.Restocked)
		}
	}
	for id := range t.Returns {
		r.count("return", ref, int64(there[id]), 1, "return "+id)
	}
	if o.Refunded != refund || o.ReturnedUnits != t.Returned.units() {
		r.say(Differs, "return", ref, "the order has %d units back for %d, its returns say %d for %d", o.ReturnedUnits, o.Refunded, t.Returned.units(), refund)
	}
}

func (r *reconciliation) payments() {
	for _, o := range r.books.Orders {
		p, ok := r.payment[o.ID]
		want := int64(0)
		if o.Status == "confirmed" {
			want = o.Total - o.Refunded
			if !ok {
				r.say(Lost, "payment", o.ID, "the order is confirmed and has no payment")
				continue
			}
		}
		// What the card provider refused to give back is held until staff pay it back in another way.
		held, owed := p.Captured-p.Refunded, o.owed()
		switch {
		case owed && held == 0:
			r.say(Lost, "news of a payment", o.ID, "nothing is held any more, and the order says that a refund was refused")
		case !owed && held != want:
			r.count("money of an order", o.ID, held, want, "the order is "+o.Status)
		}
		if p.State == "pending" || p.State == "voiding" && !owed || p.Refunding != 0 {
			r.say(Stuck, "payment", o.ID, "it is %s, with %d on its way back", p.State, p.Refunding)
		}
	}
	for _, p := range r.books.Payments {
		if _, ok := r.byID[p.Order]; !ok {
			r.say(Lost, "order", p.Order, "payment %s is for it, and it is not there", p.ID)
		}
	}
	booked := map[string]int64{}
	for _, e := range r.books.Entries {
		booked[e.Payment] += e.Clearing
		if e.Sum != 0 {
			r.say(Differs, "ledger", e.Transaction, "its entries sum to %d", e.Sum)
		}
	}
	for _, p := range r.books.Payments {
		if held := p.Captured - p.Refunded; booked[p.ID] != held {
			r.count("ledger of a payment", p.Order, booked[p.ID], held, "by its entries")
		}
	}
}

// provider compares payments with what the provider itself has written down.
func (r *reconciliation) provider() {
	held := map[string]int64{}
	seen := map[string]bool{}
	for _, l := range r.books.Provider {
		if l.Op != "charge" && l.Op != "refund" {
			continue
		}
		if seen[l.Op+" "+l.ID] {
			r.say(Doubled, l.Op, l.ID, "the card provider did it twice")
		}
		seen[l.Op+" "+l.ID] = true
		switch {
		case !l.Approved:
		case l.Op == "charge":
			held[l.ID] += l.Amount
		default:
			held[l.Charge] -= l.Amount
		}
	}
	for _, p := range r.books.Payments {
		if got, want := held[p.ID], p.Captured-p.Refunded; got != want {
			r.count("money at the card provider", p.Order, got, want, "payment "+p.ID)
		}
		delete(held, p.ID)
	}
	for id, amount := range held {
		r.say(Lost, "payment", id, "the card provider holds %d for it, and it is not there", amount)
	}
}

func (r *reconciliation) inventory() {
	hold := map[string]string{}
	for _, x := range r.books.Reservations {
		hold[x.Order] = x.State
	}
	want := Lines{}
	for _, lines := range r.told.Deliveries {
		for sku, n := range lines {
			want[sku] += n
		}
	}
	for ref, t := range r.told.Orders {
		o, ok := r.byID[t.ID]
		if !ok {
			continue
		}
		state := hold[t.ID]
		switch {
		case o.Status == "confirmed" && state != "committed":
			r.say(Lost, "reservation", ref, "the order is confirmed, its reservation is %q", state)
		case o.Status != "confirmed" && (state == "held" || state == "committed"):
			r.say(Stuck, "reservation", ref, "the order is %s, its reservation is %s", o.Status, state)
		}
		if o.Status == "confirmed" {
			for sku, n := range t.Lines {
				want[sku] -= n
			}
			for sku, n := range t.Returned {
				want[sku] += n
			}
		}
	}
	moved := map[string]int64{}
	for _, m := range r.books.Movements {
		moved[m.SKU] += m.Delta
		if m.Times > 1 {
			r.say(Doubled, "movement", m.SKU, "%d movements for %s of %s", m.Times, m.Reason, m.Ref)
		}
	}
	for _, s := range r.books.Stock {
		if s.OnHand != want[s.SKU] {
			r.say(Differs, "stock", s.SKU, "%d are on hand, %d by what clients were told", s.OnHand, want[s.SKU])
		}
		if s.OnHand != moved[s.SKU] {
			r.say(Differs, "stock", s.SKU, "%d are on hand, %d by the movements", s.OnHand, moved[s.SKU])
		}
		if s.Reserved != 0 {
			r.say(Stuck, "stock", s.SKU, "%d are still reserved", s.Reserved)
		}
		delete(want, s.SKU)
	}
	for sku, n := range want {
		if n != 0 {
			r.say(Lost, "stock", sku, "%d were delivered and the product has no stock", n)
		}
	}
}

func (r *reconciliation) shipments() {
	there := map[string][]ShipmentBook{}
	for _, s := range r.books.Shipments {
		there[s.Order] = append(there[s.Order], s)
	}
	for ref, t := range r.told.Orders {
		o, ok := r.byID[t.ID]
		if !ok {
			continue
		}
		live := slices.DeleteFunc(slices.Clone(there[t.ID]), func(s ShipmentBook) bool { return s.State == "void" || s.State == "cancelled" })
		want, why := int64(0), "the order is "+o.Status
		switch {
		case o.Status != "confirmed":
		case o.ReturnedUnits == o.Units && !slices.Contains(o.Events, "dispatched"):
			why = "everything came back before it left"
		default:
			want = 1
		}
		r.count("shipment", ref, int64(len(live)), want, why)
		if len(live) != 1 {
			continue
		}
		s := live[0]
		switch {
		case s.Street != ref:
			r.say(Differs, "shipment", ref, "it goes to %q", s.Street)
		case t.Delivered && s.State != "delivered", t.Dispatched && s.State != "dispatched" && s.State != "delivered":
			r.say(Lost, "shipment", ref, "dispatched %t and delivered %t were acknowledged, and it is %s", t.Dispatched, t.Delivered, s.State)
		case t.Dispatched && !slices.Contains(o.Events, "dispatched"), t.Delivered && !slices.Contains(o.Events, "delivered"):
			r.say(Lost, "news of a shipment", ref, "it is %s, and the order has not heard of it", s.State)
		}
		if s.State == "intercept" {
			r.say(Stuck, "shipment", ref, "it is to be stopped")
		}
	}
}

// letters are the kinds of what is told about an order: the event of the order behind it, and the words in the mail's subject.
var letters = []struct{ kind, event, subject string }{
	{"receipt", "confirmed", "Your order %s is confirmed"},
	{"rejected", "rejected", "Your order %s could not be fulfilled"},
	{"cancelled", "cancelled", "Your order %s is cancelled"},
	{"refund", "return_refunded", "Refund for your order %s"},
	{"tracking", "dispatched", "Your order %s is on its way"},
	{"delivered", "delivered", "Your order %s was delivered"},
}

func (r *reconciliation) notifications() {
	type about struct{ kind, of string }
	told, mailed := map[about]int64{}, map[string]int64{}
	row := map[string]NotificationBook{}
	for _, n := range r.books.Notifications {
		of := n.Order
		if of == "" {
			of = n.User
		}
		told[about{n.Kind, of}]++
		row[n.ID] = n
		if n.State == "waiting" || n.State == "pending" {
			r.say(Stuck, "notification", n.ID, "%s about %s is %s", n.Kind, of, n.State)
		}
	}
	files := map[string]int64{}
	for _, m := range r.books.Mails {
		mailed[m.Subject+" to "+m.To]++
		id, _, _ := strings.Cut(m.MessageID, "@")
		files[id]++
		if _, ok := row[id]; !ok || m.ID != m.MessageID {
			r.say(Differs, "mail", m.ID, "its Message-ID is %q, and of a notification: %t", m.MessageID, ok)
		}
	}
	for _, n := range r.books.Notifications {
		if n.State == "sent" {
			r.count("mail", n.ID, files[n.ID], 1, n.Kind)
		}
	}
	for ref, t := range r.told.Orders {
		o, ok := r.byID[t.ID]
		if !ok {
			continue
		}
		to := ""
		if c := r.told.Customers[t.Customer]; c != nil {
			to = c.Email
		}
		for _, l := range letters {
			want := int64(0)
			for _, e := range o.Events {
				if e == l.event {
					want++
				}
			}
			r.count("notification", ref, told[about{l.kind, t.ID}], want, l.kind)
			r.count("mail", ref, mailed[fmt.Sprintf(l.subject, t.ID)+" to "+to], want, l.kind)
		}
	}
	for id, c := range r.told.Customers {
		r.count("notification", c.Email, told[about{"welcome", id}], 1, "welcome")
		r.count("mail", c.Email, mailed["Welcome to Banyan to "+c.Email], 1, "welcome")
	}
}

func (r *reconciliation) people() {
	for what, books := range map[string][]NameBook{"account": r.books.Users, "recipient": r.books.Recipients} {
		there := map[string]NameBook{}
		mails := map[string]int64{}
		for _, u := range books {
			there[u.ID] = u
			mails[u.Email]++
		}
		for id, c := range r.told.Customers {
			r.count(what, c.Email, mails[c.Email], 1, "by address")
			if u, ok := there[id]; ok && u.Name != c.Name {
				r.say(Reordered, what, c.Email, "the name is %q, the last acknowledged one %q", u.Name, c.Name)
			} else if !ok {
				r.say(Lost, what, c.Email, "acknowledged as %s", id)
			}
		}
	}
}

func (r *reconciliation) catalog() {
	there := map[string]ProductBook{}
	for _, p := range r.books.Products {
		there[p.SKU] = p
	}
	for sku, price := range r.told.Prices {
		if p, ok := there[sku]; !ok {
			r.say(Lost, "product", sku, "it was acknowledged")
		} else if p.Price != price {
			r.say(Differs, "price", sku, "it is %d, the last acknowledged one %d", p.Price, price)
		}
	}
	copies := map[string]int64{}
	for _, c := range r.books.Copies {
		copies[c.SKU]++
		if p := there[c.SKU]; c.Version != p.Version || c.Price != p.Price {
			r.say(Reordered, "copy of a price", c.SKU+" at "+c.Holder, "%d of version %d, in the catalog %d of version %d", c.Price, c.Version, p.Price, p.Version)
		}
	}
	for sku := range r.told.Prices {
		r.count("copy of a price", sku, copies[sku], 2, "carts and orders keep one each")
	}
}

func (r *reconciliation) carts() {
	there := map[string]Lines{}
	for _, l := range r.books.Carts {
		if there[l.Customer] == nil {
			there[l.Customer] = Lines{}
		}
		there[l.Customer][l.SKU] = l.Quantity
	}
	for id, c := range r.told.Customers {
		for _, sku := range slices.Sorted(maps.Keys(union(c.Cart, there[id]))) {
			r.count("units in a cart", c.Email+" "+sku, there[id][sku], c.Cart[sku], "by what its owner was told")
		}
	}
}

func union(a, b Lines) Lines {
	all := Lines{}
	maps.Copy(all, a)
	maps.Copy(all, b)
	return all
}

// reports compares what the modules say of themselves with their rows.
func (r *reconciliation) reports() {
	p := r.books.Reports
	rows := func(what string, said, held map[string]string) {
		for k, v := range held {
			if said[k] != v {
				r.say(Differs, what, k, "its rows say %q, its API %q", v, said[k])
			}
		}
		for k, v := range said {
			if _, ok := held[k]; !ok {
				r.say(Differs, what, k, "its API says %q, and there are no rows", v)
			}
		}
	}
	orders, shipments, users := map[string]string{}, map[string]string{}, map[string]string{}
	for _, o := range r.books.Orders {
		orders[o.ID] = o.Status
	}
	for _, s := range r.books.Shipments {
		if s.State != "void" {
			shipments[s.Order] = s.State
		}
	}
	for _, u := range r.books.Users {
		users[u.ID] = u.Name
	}
	rows("orders", p.Orders, orders)
	rows("shipping", p.Shipments, shipments)
	rows("users", p.Users, users)
	money, stock, kinds := map[string]int64{}, map[string]int64{}, map[string]int64{}
	for _, x := range r.books.Payments {
		money[x.Order] = x.Captured - x.Refunded
	}
	for _, s := range r.books.Stock {
		stock[s.SKU] = s.OnHand
	}
	for _, n := range r.books.Notifications {
		kinds[n.Kind+" "+n.State]++
	}
	rows("payments", text(p.Payments), text(money))
	rows("inventory", text(p.OnHand), text(stock))
	rows("notifications", text(p.Notifications), text(kinds))
	if p.Unbalanced != 0 || p.Unreconciled != 0 {
		r.say(Differs, "payments", "reports", "%d transactions are not balanced, %d differ from the card provider", p.Unbalanced, p.Unreconciled)
	}
}

func text(numbers map[string]int64) map[string]string {
	all := make(map[string]string, len(numbers))
	for k, n := range numbers {
		all[k] = fmt.Sprint(n)
	}
	return all
}
