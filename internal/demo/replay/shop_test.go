package replay

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

const password = "correct horse"

// shop is a fake of the shop's API: it keeps the rules that the client relies on, confirms orders and settles returns a
// while after it has answered, and has all the troubles of a network and of a server that is killed.
type shop struct {
	t       *testing.T
	url     string
	trouble float64 // share of requests that meet with some
	lasting time.Duration

	mu       sync.Mutex
	rand     *rand.Rand
	requests int
	faults   map[string]int // how often which trouble was met
	keys     map[string]stored
	repeats  int

	access, refresh string
	issued          int
	renewed         int

	users    []shopUser
	products map[string]string
	stock    map[string]int64
	given    map[string]bool // references of deliveries
	orders   []*shopOrder

	reject    string // reference of an order that is rejected
	stuck     bool   // returns never settle
	extraPaid int64  // money from elsewhere
	extraSold int64  // products from elsewhere
	down      bool
	asked     func() // with each request, under the lock; may be nil
}

type stored struct {
	hash   [32]byte
	status int
	body   []byte
}

type shopUser struct {
	ID        string `json:"id"`
	Name      string `json:"name"`
	Reference string `json:"reference,omitempty"`
}

type shopOrder struct {
	ID         string      `json:"id"`
	CustomerID string      `json:"customer_id"`
	Reference  string      `json:"reference"`
	Status     string      `json:"status"`
	Reason     string      `json:"reason,omitempty"`
	Total      price       `json:"total"`
	Lines      []shopLine  `json:"lines"`
	due        time.Time   // when it is confirmed
	gone       bool        // its goods have left
	returns    []time.Time // when each return settles
	returnIDs  map[string]string
	log        []string // credits, in their order
}

type shopLine struct {
	SKU      string `json:"sku"`
	Quantity int64  `json:"quantity"`
	Price    price  `json:"price"`
	Returned int64  `json:"returned"`
}

func openShop(t *testing.T, seed uint64, trouble float64) *shop {
	s := &shop{
		t: t, trouble: trouble, lasting: 30 * time.Millisecond, rand: rand.New(rand.NewPCG(seed, 1)), faults: map[string]int{}, keys: map[string]stored{},
		products: map[string]string{}, stock: map[string]int64{}, given: map[string]bool{},
		users: []shopUser{{ID: "admin", Name: "Admin"}},
	}
	server := httptest.NewServer(s)
	t.Cleanup(server.Close)
	s.url = server.URL
	return s
}

// answer is a status and a body; a problem for errors.
type answer struct {
	status int
	body   any
}

func problem(status int, format string, args ...any) answer {
	return answer{status, map[string]any{"status": status, "detail": fmt.Sprintf(format, args...)}}
}

func (s *shop) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	s.mu.Lock()
	s.requests++
	if s.asked != nil {
		s.asked()
	}
	fault := ""
	if s.down {
		fault = "503"
	} else if s.rand.Float64() < s.trouble {
		fault = []string{"drop", "lost", "broken", "429", "502", "503", "504"}[s.rand.IntN(7)]
	}
	if s.trouble > 0 && s.requests%150 == 50 {
		fault = "401"
	}
	s.faults[fault]++
	after := ""
	if s.rand.IntN(2) == 0 {
		after = "0"
	}
	s.mu.Unlock()

	switch fault {
	case "drop":
		panic(http.ErrAbortHandler)
	case "429", "502", "503", "504":
		status, _ := strconv.Atoi(fault)
		if after != "" {
			w.Header().Set("Retry-After", after)
		}
		http.Error(w, "not json", status)
		return
	case "401":
		s.mu.Lock()
		s.access = "" // a restart with another signing key
		if s.renewed > 0 {
			s.refresh = ""
		}
		s.mu.Unlock()
	}
	a := s.serve(r, body)
	encoded, err := json.Marshal(a.body)
	if err != nil {
		s.t.Error(err)
	}
	switch fault {
	case "lost":
		panic(http.ErrAbortHandler)
	case "broken":
		w.Header().Set("Content-Length", strconv.Itoa(len(encoded)+10))
		w.WriteHeader(a.status)
		_, _ = w.Write(encoded[:len(encoded)/2])
		panic(http.ErrAbortHandler)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(a.status)
	_, _ = w.Write(encoded)
}

func (s *shop) serve(r *http.Request, body []byte) answer {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !strings.HasPrefix(r.URL.Path, "/api/") {
		return problem(404, "no %s", r.URL.Path)
	}
	switch r.URL.Path {
	case "/api/auth/login":
		var in struct{ Email, Password string }
		if err := strict(body, &in); err != nil || in.Email != "admin@banyan.local" || in.Password != password {
			return problem(401, "email or password is wrong")
		}
		return s.tokens()
	case "/api/auth/refresh":
		var in struct {
			Token string `json:"refresh_token"`
		}
		if err := strict(body, &in); err != nil || s.refresh == "" || in.Token != s.refresh {
			return problem(401, "sign in again")
		}
		s.renewed++
		return s.tokens()
	}
	if s.access == "" || r.Header.Get("Authorization") != "Bearer "+s.access {
		return problem(401, "sign in")
	}
	s.move()
	if r.Method == http.MethodGet {
		return s.read(r)
	}
	key := r.Header.Get("Idempotency-Key")
	if key == "" {
		return problem(400, "the request has no Idempotency-Key")
	}
	hash := sha256.Sum256(append([]byte(r.URL.Path+"\n"), body...))
	if k, ok := s.keys[r.URL.Path+key]; ok {
		s.repeats++
		if k.hash != hash {
			return problem(422, "this Idempotency-Key was used for a different request")
		}
		return answer{k.status, json.RawMessage(k.body)}
	}
	a := s.write(r.URL.Path, body)
	if a.status < 300 {
		encoded, err := json.Marshal(a.body)
		if err != nil {
			s.t.Error(err)
		}
		s.keys[r.URL.Path+key] = stored{hash, a.status, encoded}
	}
	return a
}

func strict(body []byte, out any) error {
	d := json.NewDecoder(bytes.NewReader(body))
	d.DisallowUnknownFields()
	return d.Decode(out)
}

// tokens last a second, so that a run needs several.
func (s *shop) tokens() answer {
	s.issued++
	s.access, s.refresh = fmt.Sprintf("access-%d", s.issued), fmt.Sprintf("refresh-%d", s.issued)
	return answer{200, map[string]any{"access_token": s.access, "expires_in": 1, "refresh_token": s.refresh}}
}

// move lets happen what is due.
func (s *shop) move() {
	now := time.Now()
	for _, o := range s.orders {
		if o.Status == "placed" && now.After(o.due) {
			if o.Status = "confirmed"; o.Reference == s.reject {
				o.Status, o.Reason = "rejected", "card_declined"
			}
		}
		o.gone = o.gone || now.After(o.due.Add(s.lasting))
	}
}

func (s *shop) write(path string, body []byte) answer {
	switch {
	case path == "/api/users":
		var in struct{ Name, Reference string }
		if err := strict(body, &in); err != nil || in.Name == "" || in.Reference == "" {
			return problem(422, "user: %v", err)
		}
		for _, u := range s.users {
			if u.Reference == in.Reference {
				return problem(409, "the reference is taken")
			}
		}
		u := shopUser{fmt.Sprintf("user-%03d", len(s.users)), in.Name, in.Reference}
		s.users = append(s.users, u)
		return answer{201, u}
	case path == "/api/products/batch":
		return s.addProducts(body)
	case path == "/api/inventory/deliveries":
		var in struct {
			Reference string
			Lines     []struct {
				SKU      string
				Quantity int64
			}
		}
		if err := strict(body, &in); err != nil || in.Reference == "" || len(in.Lines) == 0 || len(in.Lines) > 1000 {
			return problem(422, "delivery: %v", err)
		}
		if s.given[in.Reference] {
			return answer{201, map[string]string{}}
		}
		s.given[in.Reference] = true
		for _, l := range in.Lines {
			s.stock[l.SKU] += l.Quantity
		}
		return answer{201, map[string]string{}}
	case path == "/api/orders":
		return s.place(body)
	case strings.HasSuffix(path, "/returns"):
		return s.takeBack(strings.TrimSuffix(strings.TrimPrefix(path, "/api/orders/"), "/returns"), body)
	}
	return problem(404, "no %s", path)
}

func (s *shop) addProducts(body []byte) answer {
	var in struct {
		Products []struct {
			SKU, Name string
			Price     price
		}
	}
	if err := strict(body, &in); err != nil || len(in.Products) == 0 || len(in.Products) > 500 {
		return problem(422, "products: %v", err)
	}
	for _, p := range in.Products {
		what := fmt.Sprint(p)
		if was, ok := s.products[p.SKU]; ok && was != what {
			return problem(409, "%s is different", p.SKU)
		}
		s.products[p.SKU] = what
		s.stock[p.SKU] += 0
	}
	return answer{200, map[string]string{}}
}

func (s *shop) place(body []byte) answer {
	var in struct {
		CustomerID    string `json:"customer_id"`
		Reference     string
		ReferenceTime time.Time `json:"reference_time"`
		Lines         []orderLine
		Card          string
	}
	if err := strict(body, &in); err != nil || len(in.Lines) == 0 || in.Card != "tok_visa" || in.ReferenceTime.Year() != 2011 {
		return problem(422, "order: %v", err)
	}
	if !slices.ContainsFunc(s.users, func(u shopUser) bool { return u.ID == in.CustomerID }) {
		return problem(422, "no customer %q", in.CustomerID)
	}
	for _, o := range s.orders {
		if o.Reference == in.Reference {
			return problem(409, "there is an order with this reference already")
		}
	}
	o := &shopOrder{
		ID: fmt.Sprintf("order-%04d", len(s.orders)), CustomerID: in.CustomerID, Reference: in.Reference, Status: "placed", Total: price{0, "GBP"},
		due: time.Now().Add(time.Duration(s.rand.Int64N(int64(s.lasting)))), returnIDs: map[string]string{},
	}
	for _, l := range in.Lines {
		if _, ok := s.products[l.SKU]; !ok {
			return problem(422, "no product %s", l.SKU)
		}
		if s.stock[l.SKU] < l.Quantity {
			s.t.Errorf("order %s: %d of %s are asked for and %d are there", in.Reference, l.Quantity, l.SKU, s.stock[l.SKU])
		}
		s.stock[l.SKU] -= l.Quantity
		o.Total.Amount += l.Quantity * l.Price.Amount
		o.Lines = append(o.Lines, shopLine{SKU: l.SKU, Quantity: l.Quantity, Price: l.Price})
	}
	s.orders = append(s.orders, o)
	return answer{201, *o}
}

func (s *shop) takeBack(id string, body []byte) answer {
	var in struct {
		ReturnID string `json:"return_id"`
		Lines    []orderLine
		Reason   string
	}
	if err := strict(body, &in); err != nil || len(in.ReturnID) != 36 {
		return problem(422, "return: %v", err)
	}
	i := slices.IndexFunc(s.orders, func(o *shopOrder) bool { return o.ID == id })
	if i < 0 {
		return problem(404, "no order %s", id)
	}
	o := s.orders[i]
	if was, ok := o.returnIDs[in.ReturnID]; ok && was == fmt.Sprint(in.Lines) {
		return answer{201, map[string]string{"id": in.ReturnID}}
	}
	if o.Status != "confirmed" {
		s.t.Errorf("order %s is %s when it is returned", o.Reference, o.Status)
		return problem(409, "the order is %s", o.Status)
	}
	for _, l := range in.Lines {
		n := slices.IndexFunc(o.Lines, func(have shopLine) bool { return have.SKU == l.SKU && have.Price == l.Price })
		if n < 0 || o.Lines[n].Quantity-o.Lines[n].Returned < l.Quantity {
			return problem(409, "order %s has not so many %s left", o.Reference, l.SKU)
		}
		o.Lines[n].Returned += l.Quantity
		s.stock[l.SKU] += l.Quantity
	}
	o.returnIDs[in.ReturnID] = fmt.Sprint(in.Lines)
	o.returns = append(o.returns, time.Now().Add(s.lasting))
	o.log = append(o.log, in.Reason)
	return answer{201, map[string]string{"id": in.ReturnID}}
}

func (o *shopOrder) sums() (units, returned, refunded int64) {
	for _, l := range o.Lines {
		units += l.Quantity
		returned += l.Returned
		refunded += l.Returned * l.Price.Amount
	}
	return units, returned, refunded
}

func (s *shop) read(r *http.Request) answer {
	q := r.URL.Query()
	switch path := r.URL.Path; path {
	case "/api/users":
		var found []shopUser
		for _, u := range s.users {
			if q.Get("reference") == "" || u.Reference == q.Get("reference") {
				found = append(found, u)
			}
		}
		return page(found, q.Get("cursor"))
	case "/api/products/report":
		return answer{200, map[string]int{"products": len(s.products), "on_sale": len(s.products)}}
	case "/api/orders":
		var found []shopOrder
		for _, o := range s.orders {
			if (q.Get("reference") == "" || o.Reference == q.Get("reference")) && (q.Get("status") == "" || o.Status == q.Get("status")) {
				found = append(found, *o)
			}
		}
		return page(found, q.Get("cursor"))
	case "/api/orders/reports/summary":
		return s.summary()
	case "/api/orders/reports/customers", "/api/payments/reports/customers":
		return s.byCustomer(path, q.Get("cursor"))
	case "/api/payments/reports/summary":
		return answer{200, map[string]int64{"unsettled": 0}}
	case "/api/inventory/reports/summary":
		held := 0
		for _, o := range s.orders {
			if !o.gone {
				held++
			}
		}
		return answer{200, map[string]int{"reserved": held, "open_reservations": held}}
	case "/api/inventory/reports/stock":
		type level struct {
			SKU      string `json:"sku"`
			OnHand   int64  `json:"on_hand"`
			Reserved int64  `json:"reserved"`
		}
		var levels []level
		for sku, n := range s.stock {
			levels = append(levels, level{sku, n, 0})
		}
		slices.SortFunc(levels, func(a, b level) int { return strings.Compare(a.SKU, b.SKU) })
		return page(levels, q.Get("cursor"))
	default:
		for _, o := range s.orders {
			if path == "/api/orders/"+o.ID {
				return answer{200, *o}
			}
		}
		return problem(404, "no %s", path)
	}
}

// page is a page of 7 items, whatever is asked for.
func page[T any](items []T, cursor string) answer {
	from, _ := strconv.Atoi(cursor)
	to := min(from+7, len(items))
	p := map[string]any{"items": items[from:to]}
	if to < len(items) {
		p["next"] = strconv.Itoa(to)
	}
	return answer{200, p}
}

func (s *shop) summary() answer {
	var sum ordersSummary
	skus := map[string]bool{}
	sum.ByStatus, sum.OrdersByReturn = map[string]int64{}, map[string]int64{"kept": 0, "partly_returned": 0, "returned": 0}
	for _, o := range s.orders {
		sum.ByStatus[o.Status]++
		if o.Status == "placed" {
			sum.Unsettled++
		}
		if o.Status != "confirmed" {
			continue
		}
		if slices.ContainsFunc(o.returns, func(at time.Time) bool { return s.stuck || time.Now().Before(at) }) {
			sum.Unsettled++
		}
		units, returned, _ := o.sums()
		sum.Orders++
		sum.Lines += int64(len(o.Lines))
		sum.LargestOrderLines = max(sum.LargestOrderLines, int64(len(o.Lines)))
		for _, l := range o.Lines {
			skus[l.SKU] = true
		}
		sum.ProductsSold = int64(len(skus)) + s.extraSold
		sum.Units += units
		sum.ReturnedUnits += returned
		switch returned {
		case 0:
			sum.OrdersByReturn["kept"]++
		case units:
			sum.OrdersByReturn["returned"]++
		default:
			sum.OrdersByReturn["partly_returned"]++
		}
	}
	return answer{200, sum}
}

func (s *shop) byCustomer(path, cursor string) answer {
	var items []map[string]any
	for _, u := range s.users {
		var orders, paid, refunded int64
		for _, o := range s.orders {
			if o.CustomerID == u.ID && o.Status == "confirmed" {
				_, _, back := o.sums()
				orders++
				paid += o.Total.Amount
				refunded += back
			}
		}
		switch {
		case orders == 0:
		case strings.HasPrefix(path, "/api/orders"):
			items = append(items, map[string]any{"customer_id": u.ID, "orders": orders, "paid": price{paid, "GBP"}, "refunded": price{refunded, "GBP"}})
		default:
			items = append(items, map[string]any{"customer_id": u.ID, "currency": "GBP", "captured": paid + s.extraPaid, "refunded": refunded})
		}
	}
	return page(items, cursor)
}
