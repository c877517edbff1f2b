package prove

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
)

const (
	unitPrice    = 450
	currency     = "GBP"
	sellable     = 6 // products that are ordered, whose price stays
	repriced     = 4 // products whose price changes all the time
	firstUnits   = 1_000_000
	adminAddress = "admin@banyan.local"
)

func sku(n int) string    { return fmt.Sprintf("S%d", n) }
func marked(n int) string { return fmt.Sprintf("P%d", n) }

type price struct {
	Amount   int64  `json:"amount"`
	Currency string `json:"currency"`
}

type line struct {
	SKU      string `json:"sku"`
	Quantity int64  `json:"quantity"`
	Price    *price `json:"price,omitempty"`
}

// traffic is what all clients do.
type traffic struct {
	told    *Told
	log     *requestLog
	admin   *client
	pass    string
	focus   string // the module whose requests come more often
	number  atomic.Int64
	clients []*buyer
	placed  atomic.Int64
	stop    chan struct{}
	all     sync.WaitGroup
}

// buyer is one client: a customer who orders, and the member of staff who serves him.
type buyer struct {
	*traffic
	rng      *rand.Rand
	me       *Customer
	customer *client
	orders   []*Order // the latest last
	renamed  int
	served   int // orders that staff have looked at
}

func newTraffic(base, password, focus string, clients int, seed uint64) *traffic {
	t := &traffic{told: newTold(), log: &requestLog{}, pass: password, focus: focus, stop: make(chan struct{})}
	h := newHTTP()
	t.admin = &client{base: base, http: h, log: t.log, email: adminAddress, pass: password}
	for i := range clients {
		t.clients = append(t.clients, &buyer{
			traffic: t, rng: rand.New(rand.NewPCG(seed, uint64(i))),
			customer: &client{base: base, http: h, log: t.log, email: fmt.Sprintf("buyer%d@example.test", i), pass: "correct horse " + password},
		})
	}
	return t
}

// prepare makes customers, products and stock.
func (t *traffic) prepare(ctx context.Context) error {
	if err := t.admin.login(ctx); err != nil {
		return err
	}
	var products []map[string]any
	goods := Lines{}
	var lines []line
	for i := range sellable + repriced {
		code := sku(i)
		if i >= sellable {
			code = marked(i - sellable)
		}
		products = append(products, map[string]any{"sku": code, "name": "Product " + code, "price": price{unitPrice, currency}})
		t.told.Prices[code] = unitPrice
		goods[code] = firstUnits
		lines = append(lines, line{SKU: code, Quantity: firstUnits})
	}
	if err := t.must(ctx, "catalog", "POST", "/api/products/batch", "products", map[string]any{"products": products}); err != nil {
		return err
	}
	if err := t.must(ctx, "inventory", "POST", "/api/inventory/deliveries", "first", map[string]any{"reference": "first", "lines": lines}); err != nil {
		return err
	}
	t.told.Deliveries["first"] = goods
	for _, b := range t.clients {
		name := "Buyer of " + b.customer.email
		a, err := b.customer.send(ctx, "users", "POST", "/api/users", "register "+b.customer.email, map[string]string{"name": name, "email": b.customer.email, "password": b.customer.pass})
		if err != nil {
			return err
		}
		var u struct {
			ID string `json:"id"`
		}
		if err := a.into(&u); err != nil {
			return fmt.Errorf("register: %w", err)
		}
		b.me = &Customer{ID: u.ID, Email: b.customer.email, Name: name, Cart: Lines{}}
		t.told.Customers[u.ID] = b.me
		if err := b.customer.login(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (t *traffic) must(ctx context.Context, module, method, path, key string, body any) error {
	a, err := t.admin.send(ctx, module, method, path, key, body)
	if err == nil && a.status >= 300 {
		err = fmt.Errorf("%s %s: %d %s", method, path, a.status, a.body)
	}
	return err
}

// start lets all clients go on until end.
func (t *traffic) start(ctx context.Context) {
	for _, b := range t.clients {
		t.all.Go(func() {
			for ctx.Err() == nil {
				select {
				case <-t.stop:
					return
				default:
					b.act(ctx)
				}
				// People look at what they got. The pause keeps the shop busy and not flooded.
				_ = wait(ctx, time.Duration(b.rng.IntN(20))*time.Millisecond)
			}
		})
	}
}

// end waits until every client has the answer that it waits for.
func (t *traffic) end() {
	close(t.stop)
	t.all.Wait()
}

// action is something that clients do now and then.
type action struct {
	module string // whose requests it makes, for the most part
	weight int
	do     func(b *buyer, ctx context.Context)
}

var actions = []action{
	{"orders", 24, (*buyer).orderByStaff},
	{"carts", 12, (*buyer).orderFromCart},
	{"orders", 8, (*buyer).cancel},
	{"orders", 6, (*buyer).giveBack},
	{"shipping", 10, (*buyer).serve},
	{"orders", 6, (*buyer).readOrders},
	{"catalog", 8, (*buyer).readProducts},
	{"catalog", 4, (*buyer).reprice},
	{"inventory", 6, (*buyer).readStock},
	{"inventory", 2, (*buyer).deliver},
	{"payments", 6, (*buyer).readPayments},
	{"notifications", 5, (*buyer).readNotifications},
	{"users", 4, (*buyer).rename},
	{"users", 1, (*buyer).signIn},
	{"carts", 3, (*buyer).readCart},
}

func (b *buyer) act(ctx context.Context) {
	weight := func(a action) int {
		if a.module == b.focus && a.weight < 12 {
			return 2 * a.weight
		}
		return a.weight
	}
	sum := 0
	for _, a := range actions {
		sum += weight(a)
	}
	n := b.rng.IntN(sum)
	for _, a := range actions {
		if n -= weight(a); n < 0 {
			a.do(b, ctx)
			return
		}
	}
}

func (t *traffic) reference(what string) string { return fmt.Sprintf("%s-%d", what, t.number.Add(1)) }

// good reads an answer, and says so if it is one that cannot be.
func (b *buyer) good(a answer, err error, what, key string, into any, others ...int) bool {
	switch {
	case err != nil: // said by the client already
		return false
	case a.status < 300:
		if into != nil && json.Unmarshal(a.body, into) != nil {
			b.told.problem(Failed, what, key, "the answer cannot be read: "+string(a.body))
			return false
		}
		return true
	case slices.Contains(others, a.status):
		return false
	case a.status == http.StatusNotFound:
		b.told.problem(Lost, what, key, "it was acknowledged, and is not found: "+brief(a.body))
	default:
		b.told.problem(Failed, what, key, fmt.Sprintf("%d: %s", a.status, brief(a.body)))
	}
	return false
}

func (b *buyer) card() string {
	switch b.rng.IntN(10) {
	case 3:
		return "tok_declined"
	case 6:
		return "tok_lost_reply"
	}
	return "tok_visa"
}

func address(ref string) map[string]string {
	return map[string]string{"name": "Buyer", "street": ref, "city": "Banyan", "zip": "1", "country": "GB"}
}

func (b *buyer) orderByStaff(ctx context.Context) {
	ref := b.reference("R")
	lines := Lines{}
	var body []line
	for _, i := range b.rng.Perm(sellable)[:1+b.rng.IntN(2)] {
		n := int64(1 + b.rng.IntN(4))
		if b.rng.IntN(6) == 0 {
			n = 12 // comes back unit by unit
		}
		lines[sku(i)] = n
		body = append(body, line{SKU: sku(i), Quantity: n, Price: &price{unitPrice, currency}})
	}
	a, err := b.admin.send(ctx, "orders", "POST", "/api/orders", "order "+ref, map[string]any{
		"customer_id": b.me.ID, "reference": ref, "card": b.card(), "lines": body, "address": address(ref),
	})
	b.acknowledged(a, err, ref, lines)
}

// orderFromCart fills the cart and orders it. What was ordered leaves the cart a moment later; until then it is left alone, so that its
// owner knows what has to be in it.
func (b *buyer) orderFromCart(ctx context.Context) {
	var cart struct {
		Lines    []line   `json:"lines"`
		Problems []string `json:"problems"`
	}
	a, err := b.customer.send(ctx, "carts", "GET", "/api/carts/mine", "", nil)
	if !b.good(a, err, "cart", b.me.Email, &cart) || len(cart.Lines) > 0 {
		return
	}
	lines := Lines{}
	for range 1 + b.rng.IntN(3) {
		code, n := sku(b.rng.IntN(sellable)), int64(1+b.rng.IntN(3))
		a, err := b.customer.send(ctx, "carts", "POST", "/api/carts/mine/lines", b.reference("line"), map[string]any{"sku": code, "quantity": n})
		if !b.good(a, err, "cart", b.me.Email, nil) {
			return
		}
		lines[code] += n
		b.told.do(func() { b.me.Cart[code] += n })
	}
	ref := b.reference("C")
	a, err = b.customer.send(ctx, "orders", "POST", "/api/orders", "order "+ref, map[string]any{"cart": true, "card": b.card(), "address": address(ref)})
	if b.acknowledged(a, err, ref, lines) {
		b.told.do(func() { clear(b.me.Cart) })
	}
}

func (b *buyer) acknowledged(a answer, err error, ref string, lines Lines) bool {
	var o struct {
		ID    string `json:"id"`
		Total price  `json:"total"`
	}
	if !b.good(a, err, "order", ref, &o) {
		return false
	}
	order := &Order{Reference: ref, ID: o.ID, Customer: b.me.ID, Amount: unitPrice * lines.units(), Lines: maps.Clone(lines), AcceptedAt: time.Now(), Returns: map[string]int64{}, Returned: Lines{}}
	if o.Total != (price{order.Amount, currency}) {
		b.told.problem(Differs, "order", ref, fmt.Sprintf("%d were ordered, and %d acknowledged", order.Amount, o.Total.Amount))
	}
	b.told.do(func() { b.told.Orders[ref] = order })
	b.orders = append(b.orders, order)
	b.placed.Add(1)
	return true
}

// recent is one of the last orders.
func (b *buyer) recent(of int) *Order {
	if len(b.orders) == 0 {
		return nil
	}
	return b.orders[len(b.orders)-1-b.rng.IntN(min(of, len(b.orders)))]
}

func (b *buyer) cancel(ctx context.Context) {
	o := b.recent(3)
	if o == nil || o.Cancelled {
		return
	}
	a, err := b.customer.send(ctx, "orders", "POST", "/api/orders/"+o.ID+"/cancel", "cancel "+o.Reference, map[string]string{"reason": "changed my mind"})
	if b.good(a, err, "order", o.Reference, nil, http.StatusConflict) {
		b.told.do(func() { o.Cancelled = true })
	}
}

type orderNow struct {
	Status     string `json:"status"`
	Fulfilment string `json:"fulfilment"`
}

func (b *buyer) giveBack(ctx context.Context) {
	o := b.recent(20)
	if o == nil || o.Cancelled || len(o.Returns) > 0 {
		return
	}
	var now orderNow
	a, err := b.customer.send(ctx, "orders", "GET", "/api/orders/"+o.ID, "", nil)
	if !b.good(a, err, "order", o.Reference, &now) || now.Status != "confirmed" {
		return
	}
	code := slices.Sorted(maps.Keys(o.Lines))[0]
	// Many returns of one order at once are many messages of one key in a row, in both directions.
	times, n := int64(1), 1+b.rng.Int64N(o.Lines[code])
	if o.Lines[code] > 4 {
		times, n = o.Lines[code], 1
	}
	var all sync.WaitGroup
	room := make(chan struct{}, 3)
	for i := range times {
		room <- struct{}{}
		all.Go(func() {
			defer func() { <-room }()
			id := uuid.NewSHA1(uuid.NameSpaceOID, fmt.Appendf(nil, "banyan prove %s %d", o.ID, i)).String()
			a, err := b.admin.send(ctx, "orders", "POST", "/api/orders/"+o.ID+"/returns", fmt.Sprintf("return %s %d", o.Reference, i), map[string]any{
				"return_id": id, "lines": []line{{SKU: code, Quantity: n, Price: &price{unitPrice, currency}}}, "reason": "too many",
			})
			if b.good(a, err, "order", o.Reference, nil, http.StatusConflict) {
				b.told.do(func() { o.Returns[id], o.Returned[code] = n*unitPrice, o.Returned[code]+n })
			}
		})
	}
	all.Wait()
}

// serve hands the goods of an order to the carrier, and then to the customer.
func (b *buyer) serve(ctx context.Context) {
	if b.served >= len(b.orders) {
		return
	}
	o := b.orders[b.served]
	var list struct {
		Items []struct{ ID, State string }
	}
	a, err := b.admin.send(ctx, "shipping", "GET", "/api/shipments?order_id="+url.QueryEscape(o.ID), "", nil)
	if !b.good(a, err, "shipment", o.Reference, &list) {
		return
	}
	if len(list.Items) == 0 || list.Items[0].State != "pending" || b.rng.IntN(3) == 0 { // not every order is served
		b.served++
		return
	}
	path := "/api/shipments/" + list.Items[0].ID
	a, err = b.admin.send(ctx, "shipping", "POST", path+"/dispatch", "dispatch "+o.Reference, map[string]string{"carrier": "Banyan Post"})
	if b.served++; !b.good(a, err, "shipment", o.Reference, nil, http.StatusConflict) {
		return
	}
	b.told.do(func() { o.Dispatched = true })
	if b.rng.IntN(2) == 0 {
		return
	}
	a, err = b.admin.send(ctx, "shipping", "POST", path+"/deliver", "deliver "+o.Reference, nil)
	if b.good(a, err, "shipment", o.Reference, nil, http.StatusConflict) {
		b.told.do(func() { o.Delivered = true })
	}
}

func (b *buyer) read(ctx context.Context, c *client, module, path, what, key string, into any) bool {
	a, err := c.send(ctx, module, "GET", path, "", nil)
	return b.good(a, err, what, key, into)
}

func (b *buyer) readOrders(ctx context.Context) {
	if o := b.recent(10); o != nil {
		b.read(ctx, b.customer, "orders", "/api/orders/"+o.ID, "order", o.Reference, nil)
		b.read(ctx, b.customer, "orders", "/api/orders/"+o.ID+"/history", "order", o.Reference, nil)
	}
	b.read(ctx, b.customer, "orders", "/api/orders?limit=10", "orders", b.me.Email, nil)
}

func (b *buyer) readProducts(ctx context.Context) {
	code := sku(b.rng.IntN(sellable))
	b.read(ctx, b.customer, "catalog", "/api/products/"+code, "product", code, nil)
	b.read(ctx, b.customer, "catalog", "/api/products?limit=10", "products", "", nil)
}

// reprice changes a price that nobody else changes: each client has its own product.
func (b *buyer) reprice(ctx context.Context) {
	n := slices.Index(b.clients, b)
	if n >= repriced {
		b.readProducts(ctx)
		return
	}
	code := marked(n)
	for range 1 + b.rng.IntN(8) { // one after another, as quickly as they are answered
		amount := 100 + b.rng.Int64N(10_000)
		a, err := b.admin.send(ctx, "catalog", "POST", "/api/products/"+code+"/price", b.reference("price"), map[string]any{"price": price{amount, currency}})
		if !b.good(a, err, "product", code, nil) {
			return
		}
		b.told.do(func() { b.told.Prices[code] = amount })
	}
}

func (b *buyer) readStock(ctx context.Context) {
	code := sku(b.rng.IntN(sellable))
	b.read(ctx, b.customer, "inventory", "/api/inventory/"+code, "stock", code, nil)
	b.read(ctx, b.admin, "inventory", "/api/inventory?limit=10", "stock", "", nil)
}

func (b *buyer) deliver(ctx context.Context) {
	ref, code, n := b.reference("D"), sku(b.rng.IntN(sellable)), int64(1+b.rng.IntN(50))
	a, err := b.admin.send(ctx, "inventory", "POST", "/api/inventory/deliveries", "deliver "+ref, map[string]any{"reference": ref, "lines": []line{{SKU: code, Quantity: n}}})
	if b.good(a, err, "delivery", ref, nil) {
		b.told.do(func() { b.told.Deliveries[ref] = Lines{code: n} })
	}
}

func (b *buyer) readPayments(ctx context.Context) {
	b.read(ctx, b.customer, "payments", "/api/payments?limit=10", "payments", b.me.Email, nil)
	if o := b.recent(10); o != nil {
		b.read(ctx, b.admin, "payments", "/api/payments?order_id="+url.QueryEscape(o.ID), "payments", o.Reference, nil)
	}
}

func (b *buyer) readNotifications(ctx context.Context) {
	b.read(ctx, b.customer, "notifications", "/api/notifications?limit=10", "notifications", b.me.Email, nil)
	b.read(ctx, b.customer, "notifications", "/api/notifications/unread", "notifications", b.me.Email, nil)
	if b.rng.IntN(5) == 0 {
		a, err := b.customer.send(ctx, "notifications", "POST", "/api/notifications/read-all", b.reference("read"), nil)
		b.good(a, err, "notifications", b.me.Email, nil)
	}
}

func (b *buyer) rename(ctx context.Context) {
	for range 1 + b.rng.IntN(6) {
		b.renamed++
		name := fmt.Sprintf("Buyer %s the %d", strings.TrimSuffix(b.me.Email, "@example.test"), b.renamed)
		a, err := b.customer.send(ctx, "users", "PATCH", "/api/users/"+b.me.ID, b.reference("name"), map[string]string{"name": name})
		if !b.good(a, err, "account", b.me.Email, nil) {
			return
		}
		b.told.do(func() { b.me.Name = name })
	}
	var me struct{ Name string }
	if b.read(ctx, b.customer, "users", "/api/auth/me", "account", b.me.Email, &me) && me.Name != b.me.Name {
		b.told.problem(Lost, "account", b.me.Email, fmt.Sprintf("the name %q was acknowledged, and is %q a moment later", b.me.Name, me.Name))
	}
}

func (b *buyer) signIn(ctx context.Context) {
	if err := b.customer.login(ctx); err != nil && ctx.Err() == nil {
		b.told.problem(Failed, "login", b.me.Email, err.Error())
	}
	if b.rng.IntN(4) == 0 {
		_ = b.admin.login(ctx) // its failure shows in the log of requests
	}
}

func (b *buyer) readCart(ctx context.Context) {
	b.read(ctx, b.customer, "carts", "/api/carts/mine", "cart", b.me.Email, nil)
}
