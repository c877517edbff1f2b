package prove

import (
	"slices"
	"sync"
	"time"
)

// Told is what the clients were told: only what was acknowledged stands in it.
type Told struct {
	mu sync.Mutex

	Customers  map[string]*Customer // by id
	Orders     map[string]*Order    // by reference
	Deliveries map[string]Lines     // goods for the shelf, by reference
	Prices     map[string]int64     // the last price of a product, by SKU
	Problems   []Violation          // answers that cannot be right
}

// Lines are units by SKU.
type Lines map[string]int64

func (l Lines) units() (n int64) {
	for _, q := range l {
		n += q
	}
	return n
}

// Customer is an account as its owner knows it.
type Customer struct {
	ID, Email string
	Name      string // the last one that was acknowledged
	Cart      Lines  // what the owner has put in since the last order
}

// Order is an order as its client knows it.
type Order struct {
	Reference, ID, Customer string
	Amount                  int64
	Lines                   Lines
	AcceptedAt              time.Time

	Cancelled  bool             // the cancellation was accepted
	Returns    map[string]int64 // refund by return id
	Returned   Lines
	Dispatched bool
	Delivered  bool
}

func newTold() *Told {
	return &Told{Customers: map[string]*Customer{}, Orders: map[string]*Order{}, Deliveries: map[string]Lines{}, Prices: map[string]int64{}}
}

func (t *Told) do(fn func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	fn()
}

func (t *Told) problem(kind, what, key, detail string) {
	t.do(func() { t.Problems = append(t.Problems, Violation{Kind: kind, What: what, Key: key, Detail: detail}) })
}

// Books are what the shop and the world around it hold at the end.
type Books struct {
	Orders        []OrderBook
	Returns       []ReturnBook
	Payments      []PaymentBook
	Entries       []EntryBook
	Reservations  []ReservationBook
	Stock         []StockBook
	Movements     []MovementBook
	Shipments     []ShipmentBook
	Notifications []NotificationBook
	Recipients    []NameBook // of notifications
	Users         []NameBook
	Products      []ProductBook // of catalog
	Copies        []CopyBook    // of products, at other modules
	Carts         []CartBook
	Provider      []ProviderBook
	Mails         []MailBook
	Reports       Reports
}

// OrderBook is an order as orders has it.
type OrderBook struct {
	ID, Reference, Customer, Status, Personal                   string
	Total, Refunded, Units, ReturnedUnits, OpenReturns, Version int64
	StreamVersion                                               int64
	Events                                                      []string // kinds, by version
	Versions                                                    []int64  // of the events
	Waited                                                      time.Duration
}

// owed says whether the order is off and its money did not go back by itself.
func (o OrderBook) owed() bool {
	refused := slices.Index(o.Events, "refund_refused")
	return refused >= 0 && !slices.Contains(o.Events[refused:], "payment_settled")
}

// ReturnBook is a return as orders has it.
type ReturnBook struct {
	ID, Order                    string
	Refund                       int64
	Refunded, Refused, Restocked bool
}

// PaymentBook is a payment.
type PaymentBook struct {
	ID, Order, State                      string
	Amount, Captured, Refunded, Refunding int64
}

// EntryBook is a transaction of the ledger of payments.
type EntryBook struct {
	Transaction, Payment, Kind string
	Sum                        int64 // of all its entries
	Clearing                   int64 // of the shop's account
}

// ReservationBook is what an order holds of the stock.
type ReservationBook struct{ Order, State string }

// StockBook is a product on the shelf.
type StockBook struct {
	SKU              string
	OnHand, Reserved int64
}

// MovementBook is what came to the shelf or left it.
type MovementBook struct {
	SKU, Reason, Ref string
	Delta            int64
	Times            int64 // how many rows there are of this
}

// ShipmentBook is the goods of an order.
type ShipmentBook struct{ Order, State, Street string }

// NotificationBook is what somebody was told.
type NotificationBook struct{ ID, User, Kind, State, Order string }

// NameBook is somebody's name.
type NameBook struct{ ID, Name, Email string }

// ProductBook is a product of the catalog.
type ProductBook struct {
	SKU            string
	Price, Version int64
}

// CopyBook is a product that another module keeps a copy of.
type CopyBook struct {
	Holder, SKU    string
	Price, Version int64
}

// CartBook is a line of a cart.
type CartBook struct {
	Customer, SKU string
	Quantity      int64
}

// ProviderBook is a line of the card provider's record.
type ProviderBook struct {
	Op, ID, Charge string
	Amount         int64
	Approved       bool
}

// MailBook is a mail in the folder.
type MailBook struct{ ID, MessageID, To, Subject string }

// Reports are what the modules say of themselves over HTTP.
type Reports struct {
	Orders        map[string]string // status by id
	Payments      map[string]int64  // money held, by order
	OnHand        map[string]int64  // by SKU
	Shipments     map[string]string // state by order
	Users         map[string]string // name by id
	Notifications map[string]int64  // by kind and state
	Unbalanced    int64             // transactions of the ledger that do not sum to zero
	Unreconciled  int64             // differences that payments finds between itself and the provider
}

// Violation is something that must not be.
type Violation struct {
	Kind   string `json:"kind"` // one of the kinds below
	What   string `json:"what"` // the thing, as in order or mail
	Key    string `json:"key"`  // which one
	Detail string `json:"detail"`
	Count  int    `json:"count,omitempty"` // how many of the same, if they are told together
}

// The kinds of violations.
const (
	Lost      = "lost"      // acknowledged or owed, and not there
	Doubled   = "doubled"   // more effects than causes
	Reordered = "reordered" // of one key, in another order
	Failed    = "failed"    // requests that ended in an error
	Differs   = "differs"   // two ledgers say different things
	Stuck     = "stuck"     // under way, and does not end
)
