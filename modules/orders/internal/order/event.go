package order

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/banyan-go/banyan/internal/errs"
	"github.com/banyan-go/banyan/internal/money"
)

// Event is something that happened to an order, as the event store keeps it. Events never leave the module.
type Event interface {
	// Kind is the name in the event store; it never changes.
	Kind() string
}

// Personal is the part of an event that tells about a person. The event store keeps it beside the event's body,
// so that it can be erased without touching what happened.
type Personal struct {
	Address *Address `json:"address,omitempty"`
	Note    string   `json:"note,omitempty"` // free text by whoever cancelled or returned
}

// Address is where goods go.
type Address struct {
	Name    string `json:"name,omitempty"`
	Street  string `json:"street,omitempty"`
	City    string `json:"city,omitempty"`
	Zip     string `json:"zip,omitempty"`
	Country string `json:"country,omitempty"`
}

// Line is a product in an order at the price agreed for it. SKU and price together name a line.
type Line struct {
	SKU      string `json:"sku"`
	Name     string `json:"name,omitempty"`
	Quantity int64  `json:"quantity"`
	Price    int64  `json:"price"`              // of one unit, in minor units of the order's currency
	Returned int64  `json:"returned,omitempty"` // units
}

// Actor says on whose behalf something was done.
type Actor string

// The actors.
const (
	ByCustomer Actor = "customer"
	ByStaff    Actor = "staff"
	ByShop     Actor = "shop" // the shop itself, without a person
)

// Placed: the shop has taken the order.
type Placed struct {
	CustomerID    string      `json:"customer_id"`
	By            Actor       `json:"by"`
	Lines         []Line      `json:"lines"`
	Total         money.Money `json:"total"`
	CartVersion   int64       `json:"cart_version,omitempty"`
	Reference     string      `json:"reference,omitempty"`
	ReferenceTime *time.Time  `json:"reference_time,omitempty"`
	Personal      Personal    `json:"-"`
}

// Reserved: the stock is set aside.
type Reserved struct{}

// Confirmed: the money is captured, the goods may leave.
type Confirmed struct {
	PaymentID string `json:"payment_id"`
}

// RejectionBegun: the order cannot be fulfilled, and what was begun is being undone.
type RejectionBegun struct {
	Reason string `json:"reason"`
}

// Rejected: nothing is held any more.
type Rejected struct {
	Reason string `json:"reason"`
}

// CancellationRequested: somebody wants to call the confirmed order off, and its goods are being stopped.
type CancellationRequested struct {
	By       Actor    `json:"by"`
	Reason   string   `json:"reason"`
	Personal Personal `json:"-"`
}

// CancellationRefused: the goods have left, and the order stays confirmed.
type CancellationRefused struct{}

// CancellationBegun: the order is called off, and what was begun is being undone.
type CancellationBegun struct {
	By       Actor    `json:"by"`
	Reason   string   `json:"reason"`
	Personal Personal `json:"-"`
}

// PaymentSettled: on the way back, no money of the customer is held any more.
type PaymentSettled struct {
	Refunded money.Money `json:"refunded"`
}

// RefundRefused: on the way back, the card provider does not give the money back. PaymentSettled follows when staff have paid
// it back in another way.
type RefundRefused struct {
	Reason string `json:"reason"`
}

// Cancelled: nothing is held any more.
type Cancelled struct{}

// Dispatched: the goods left.
type Dispatched struct {
	ShipmentID string `json:"shipment_id"`
	Carrier    string `json:"carrier"`
	Tracking   string `json:"tracking"`
}

// Delivered: the customer has the goods.
type Delivered struct {
	ShipmentID string `json:"shipment_id"`
}

// Returned: units came back.
type Returned struct {
	ReturnID string      `json:"return_id"`
	By       Actor       `json:"by"`
	Lines    []Line      `json:"lines"` // Quantity is what came back
	Refund   money.Money `json:"refund"`
	Personal Personal    `json:"-"`
}

// ReturnRefunded: the price of a return is paid back.
type ReturnRefunded struct {
	ReturnID string       `json:"return_id"`
	Refund   *money.Money `json:"refund,omitempty"` // if less was left of the payment than the price
}

// ReturnRefundRefused: the card provider does not give the price of a return back.
type ReturnRefundRefused struct {
	ReturnID string       `json:"return_id"`
	Reason   string       `json:"reason"`
	Refund   *money.Money `json:"refund,omitempty"` // as in ReturnRefunded
}

// ReturnRestocked: the units of a return are on the shelf again.
type ReturnRestocked struct {
	ReturnID string `json:"return_id"`
}

func (Placed) Kind() string                { return "placed" }
func (Reserved) Kind() string              { return "reserved" }
func (Confirmed) Kind() string             { return "confirmed" }
func (RejectionBegun) Kind() string        { return "rejection_begun" }
func (Rejected) Kind() string              { return "rejected" }
func (CancellationRequested) Kind() string { return "cancellation_requested" }
func (CancellationRefused) Kind() string   { return "cancellation_refused" }
func (CancellationBegun) Kind() string     { return "cancellation_begun" }
func (PaymentSettled) Kind() string        { return "payment_settled" }
func (RefundRefused) Kind() string         { return "refund_refused" }
func (Cancelled) Kind() string             { return "cancelled" }
func (Dispatched) Kind() string            { return "dispatched" }
func (Delivered) Kind() string             { return "delivered" }
func (Returned) Kind() string              { return "returned" }
func (ReturnRefunded) Kind() string        { return "return_refunded" }
func (ReturnRefundRefused) Kind() string   { return "return_refund_refused" }
func (ReturnRestocked) Kind() string       { return "return_restocked" }

// Encode gives an event's body and, apart from it, its personal part; nil if it has none.
func Encode(e Event) (body, personal []byte, err error) {
	if body, err = json.Marshal(e); err != nil {
		return nil, nil, fmt.Errorf("encode %s: %w", e.Kind(), err)
	}
	var p Personal
	switch e := e.(type) {
	case Placed:
		p = e.Personal
	case CancellationRequested:
		p = e.Personal
	case CancellationBegun:
		p = e.Personal
	case Returned:
		p = e.Personal
	}
	if p == (Personal{}) {
		return body, nil, nil
	}
	if personal, err = json.Marshal(p); err != nil {
		return nil, nil, fmt.Errorf("encode %s: %w", e.Kind(), err)
	}
	return body, personal, nil
}

// Decode reads what Encode gave. An erased personal part is empty.
func Decode(kind string, body, personal []byte) (Event, error) {
	var p Personal
	if len(personal) > 0 {
		if err := json.Unmarshal(personal, &p); err != nil {
			return nil, fmt.Errorf("decode %s: %w", kind, err)
		}
	}
	switch kind {
	case Placed{}.Kind():
		e, err := read[Placed](kind, body)
		e.Personal = p
		return e, err
	case Reserved{}.Kind():
		return read[Reserved](kind, body)
	case Confirmed{}.Kind():
		return read[Confirmed](kind, body)
	case RejectionBegun{}.Kind():
		return read[RejectionBegun](kind, body)
	case Rejected{}.Kind():
		return read[Rejected](kind, body)
	case CancellationRequested{}.Kind():
		e, err := read[CancellationRequested](kind, body)
		e.Personal = p
		return e, err
	case CancellationRefused{}.Kind():
		return read[CancellationRefused](kind, body)
	case CancellationBegun{}.Kind():
		e, err := read[CancellationBegun](kind, body)
		e.Personal = p
		return e, err
	case PaymentSettled{}.Kind():
		return read[PaymentSettled](kind, body)
	case RefundRefused{}.Kind():
		return read[RefundRefused](kind, body)
	case Cancelled{}.Kind():
		return read[Cancelled](kind, body)
	case Dispatched{}.Kind():
		return read[Dispatched](kind, body)
	case Delivered{}.Kind():
		return read[Delivered](kind, body)
	case Returned{}.Kind():
		e, err := read[Returned](kind, body)
		e.Personal = p
		return e, err
	case ReturnRefunded{}.Kind():
		return read[ReturnRefunded](kind, body)
	case ReturnRefundRefused{}.Kind():
		return read[ReturnRefundRefused](kind, body)
	case ReturnRestocked{}.Kind():
		return read[ReturnRestocked](kind, body)
	}
	return nil, errs.New(errs.Internal, "event store: unknown kind of event %q", kind)
}

func read[E Event](kind string, body []byte) (E, error) {
	var e E
	if err := json.Unmarshal(body, &e); err != nil {
		return e, fmt.Errorf("decode %s: %w", kind, err)
	}
	return e, nil
}
