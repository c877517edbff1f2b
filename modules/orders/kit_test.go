package orders

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/banyan-go/banyan/internal/identity"
	"github.com/banyan-go/banyan/internal/message"
	"github.com/banyan-go/banyan/internal/module"
	"github.com/banyan-go/banyan/internal/moduletest"
	"github.com/banyan-go/banyan/internal/money"
	"github.com/banyan-go/banyan/modules/catalog/catalogapi"
	"github.com/banyan-go/banyan/modules/inventory/inventoryapi"
	"github.com/banyan-go/banyan/modules/payments/paymentsapi"
	"github.com/banyan-go/banyan/modules/shipping/shippingapi"
)

var (
	ann = moduletest.Customer("01900000-0000-7000-8000-0000000000c1")
	bob = moduletest.Customer("01900000-0000-7000-8000-0000000000c2")
)

func gbp(n int64) money.Money { return money.Of(n, "GBP") }

// shop is orders on the test bench.
type shop struct {
	*moduletest.Harness
	t           testing.TB
	projections *Projections
}

func openShop(t testing.TB, open moduletest.Opener, change ...func(*Config)) *shop {
	t.Helper()
	cfg := DefaultConfig()
	for _, c := range change {
		c(&cfg)
	}
	s := &shop{t: t}
	var mu sync.Mutex
	s.Harness = open(t, func(d module.Deps) *module.Module {
		m, p := New(d, cfg)
		mu.Lock()
		defer mu.Unlock()
		s.projections = p
		return m
	})
	s.Answer("catalog.get_products.v1", func([]byte) (any, error) { return catalogapi.Products{}, nil })
	for i, p := range []struct {
		sku    string
		amount int64
	}{{"jar", 104}, {"bag", 208}, {"cup", 125}} {
		s.Deliver(t, catalogapi.ProductAdded{SKU: p.sku, Name: "a " + p.sku, Price: gbp(p.amount), Version: 1, At: moduletest.Start.Add(time.Duration(i))})
	}
	return s
}

type lines []map[string]any

func line(sku string, quantity int64) map[string]any {
	return map[string]any{"sku": sku, "quantity": quantity}
}

func lineAt(sku string, quantity, amount int64) map[string]any {
	return map[string]any{"sku": sku, "quantity": quantity, "price": gbp(amount)}
}

type orderReply struct {
	ID, Status, Reason, Fulfilment, Reference, Note string
	CustomerID                                      string `json:"customer_id"`
	ReturnState                                     string `json:"return_state"`
	PlacedBy                                        string `json:"placed_by"`
	ReferenceTime                                   string `json:"reference_time"`
	Version                                         int64
	Settled                                         bool
	RefundRefused                                   bool `json:"refund_refused"`
	Total, Refunded                                 money.Money
	Address                                         *addressBody
	Lines                                           []struct {
		SKU                string
		Quantity, Returned int64
		Price              money.Money
	}
	Returns []returnReply
}

type returnReply struct {
	ID                           string
	Refunded, Restocked, Settled bool
	Refused                      bool `json:"refund_refused"`
	Refund                       money.Money
	Note                         string
}

// place orders as somebody and returns the order.
func (s *shop) place(as identity.Identity, body map[string]any) orderReply {
	s.t.Helper()
	if body["card"] == nil {
		body["card"] = "tok_visa"
	}
	var o orderReply
	s.Do("POST", "/api/orders", as, body).Want(s.t, 201).Into(s.t, &o)
	return o
}

// jars is an order of ann.
func (s *shop) jars() orderReply {
	s.t.Helper()
	return s.place(ann, map[string]any{"lines": lines{line("jar", 10), line("bag", 3)}, "address": map[string]any{"name": "Ann", "city": "Leeds"}})
}

func (s *shop) get(id string) orderReply {
	s.t.Helper()
	var o orderReply
	s.Do("GET", "/api/orders/"+id, moduletest.Staff, nil).Want(s.t, 200).Into(s.t, &o)
	return o
}

// confirm brings an order to confirmed.
func (s *shop) confirm(id string) {
	s.t.Helper()
	s.Deliver(s.t, reserved(id), captured(id))
	if got := s.get(id).Status; got != "confirmed" {
		s.t.Fatalf("order is %s", got)
	}
}

// want fails the test unless the order has a status.
func (s *shop) want(id, status string) {
	s.t.Helper()
	if got := s.get(id).Status; got != status {
		s.t.Fatalf("order is %s, want %s", got, status)
	}
}

// sent are the names of what orders has sent of an order, in order, without versions.
func (s *shop) sent(id string) []string {
	s.t.Helper()
	var names []string
	for _, m := range s.Announced("") {
		if m.Key == id {
			names = append(names, strings.TrimSuffix(m.Name, ".v1"))
		}
	}
	return names
}

func (s *shop) wantSent(id string, want ...string) {
	s.t.Helper()
	if got := s.sent(id); !slices.Equal(got, want) {
		s.t.Errorf("sent:\n %v\nwant:\n %v", got, want)
	}
}

func last[P any](s *shop, name string) P {
	s.t.Helper()
	all := s.Announced(name)
	if len(all) == 0 {
		s.t.Fatalf("%s was not sent", name)
	}
	return moduletest.Decode[P](s.t, all[len(all)-1])
}

func reserved(id string) message.Event { return inventoryapi.StockReserved{OrderID: id} }
func refused(id string) message.Event {
	return inventoryapi.ReservationRefused{OrderID: id, Reason: "out_of_stock"}
}
func expired(id string) message.Event  { return inventoryapi.ReservationExpired{OrderID: id} }
func released(id string) message.Event { return inventoryapi.ReservationReleased{OrderID: id} }
func captured(id string) message.Event {
	return paymentsapi.PaymentCaptured{OrderID: id, PaymentID: "pay-" + id}
}
func declined(id string) message.Event { return paymentsapi.PaymentDeclined{OrderID: id} }
func settled(id string) message.Event {
	return paymentsapi.PaymentSettled{OrderID: id, Refunded: gbp(0)}
}

func stopped(id string) message.Event { return shippingapi.ShipmentCancelled{OrderID: id} }
func left(id string) message.Event    { return shippingapi.CancellationRefused{OrderID: id} }

// rows is a table of the store as text, one line a row.
func (s *shop) rows(table string) []string {
	s.t.Helper()
	rows, err := s.Store.Read(s.t.Context()).Raw("SELECT * FROM " + table + " ORDER BY 1, 2").Rows()
	if err != nil {
		s.t.Fatal(err)
	}
	defer func() { _ = rows.Close() }()
	columns, err := rows.Columns()
	if err != nil {
		s.t.Fatal(err)
	}
	var out []string
	for rows.Next() {
		values, pointers := make([]any, len(columns)), make([]any, len(columns))
		for i := range values {
			pointers[i] = &values[i]
		}
		if err := rows.Scan(pointers...); err != nil {
			s.t.Fatal(err)
		}
		out = append(out, fmt.Sprint(values...))
	}
	if err := rows.Err(); err != nil {
		s.t.Fatal(err)
	}
	return out
}

// problem is a refusal.
type problem struct {
	Detail string
	Errors []struct{ Path, Message string }
}

func problemOf(t testing.TB, r moduletest.Response) problem {
	t.Helper()
	if got := r.Header.Get("Content-Type"); got != "application/problem+json" {
		t.Fatalf("content type %q: %s", got, r.Body)
	}
	var p problem
	if err := json.Unmarshal(r.Body, &p); err != nil {
		t.Fatal(err)
	}
	return p
}
