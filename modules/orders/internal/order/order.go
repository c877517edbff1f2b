package order

import (
	"time"

	"github.com/banyan-go/banyan/internal/money"
)

// Status is how far an order is between placing and its end.
type Status string

// The states; doc.go of the module draws how they follow each other.
const (
	StatusPlaced          Status = "placed"
	StatusReserved        Status = "reserved"
	StatusConfirmed       Status = "confirmed"
	StatusRejecting       Status = "rejecting"
	StatusRejected        Status = "rejected"
	StatusCancelRequested Status = "cancel_requested"
	StatusCancelling      Status = "cancelling"
	StatusCancelled       Status = "cancelled"
)

// Fulfilment is where the goods are.
type Fulfilment string

// The states of fulfilment.
const (
	NotShipped        Fulfilment = "not_shipped"
	Shipped           Fulfilment = "shipped"
	DeliveredToPerson Fulfilment = "delivered"
)

// ReturnState is how much of an order came back.
type ReturnState string

// The return states.
const (
	Kept           ReturnState = "kept"
	PartlyReturned ReturnState = "partly_returned"
	AllReturned    ReturnState = "returned"
)

// Return is units that came back.
type Return struct {
	ID            string      `json:"id"`
	By            Actor       `json:"by"`
	Lines         []Line      `json:"lines"`
	Refund        money.Money `json:"refund"`                   // the price of the units; what was left of the payment, once that is known to be less
	Refunded      bool        `json:"refunded"`                 // the money went back
	RefundRefused bool        `json:"refund_refused,omitempty"` // it does not go back by itself: staff see to it
	Restocked     bool        `json:"restocked"`                // the units are on the shelf
	At            time.Time   `json:"at"`
}

// Settled says whether the return has had all its consequences.
func (r Return) Settled() bool { return (r.Refunded || r.RefundRefused) && r.Restocked }

// less is an amount that is not all of the refund, or nil.
func (r Return) less(amount money.Money) *money.Money {
	if amount.Amount >= r.Refund.Amount {
		return nil
	}
	return &amount
}

// Private is the personal data in an order.
type Private struct {
	Address *Address          `json:"address,omitempty"`
	Notes   map[string]string `json:"notes,omitempty"` // by return id; "" is the cancellation's
}

// Order is what an order is after the events applied so far. The zero Order is one that was not placed yet.
type Order struct {
	Version       int64       `json:"version"` // number of events
	CustomerID    string      `json:"customer_id"`
	Status        Status      `json:"status"`
	Reason        string      `json:"reason,omitempty"`    // why it is rejected or cancelled, or is to be
	CancelBy      Actor       `json:"cancel_by,omitempty"` // who calls it off
	Fulfilment    Fulfilment  `json:"fulfilment"`
	By            Actor       `json:"by"`
	Lines         []Line      `json:"lines"`
	Total         money.Money `json:"total"`
	Refunded      money.Money `json:"refunded"`                 // by returns
	RefundRefused bool        `json:"refund_refused,omitempty"` // the way back left money that does not go back by itself: staff see to it
	Returns       []Return    `json:"returns,omitempty"`
	CartVersion   int64       `json:"cart_version,omitempty"`
	Reference     string      `json:"reference,omitempty"`
	ReferenceTime *time.Time  `json:"reference_time,omitempty"`
	PaymentID     string      `json:"payment_id,omitempty"`
	Carrier       string      `json:"carrier,omitempty"`
	Tracking      string      `json:"tracking,omitempty"`
	PlacedAt      time.Time   `json:"placed_at"`
	UpdatedAt     time.Time   `json:"updated_at"`
	ConfirmedAt   *time.Time  `json:"confirmed_at,omitempty"`
	DeliveredAt   *time.Time  `json:"delivered_at,omitempty"`
	Private       Private     `json:"-"` // apart, so that a snapshot's body holds nothing personal
}

// Apply tells what the order is after an event that was recorded at a time.
func (o *Order) Apply(e Event, at time.Time) {
	o.Version++
	o.UpdatedAt = at
	switch e := e.(type) {
	case Placed:
		o.CustomerID, o.By, o.Total, o.CartVersion = e.CustomerID, e.By, e.Total, e.CartVersion
		o.Lines = append([]Line(nil), e.Lines...) // returns count on them
		o.Refunded = money.Of(0, e.Total.Currency)
		o.Reference, o.ReferenceTime = e.Reference, e.ReferenceTime
		o.Status, o.Fulfilment, o.PlacedAt = StatusPlaced, NotShipped, at
		o.Private.Address = e.Personal.Address
	case Reserved:
		o.Status = StatusReserved
	case Confirmed:
		o.Status, o.PaymentID, o.ConfirmedAt = StatusConfirmed, e.PaymentID, &at
	case RejectionBegun:
		o.Status, o.Reason = StatusRejecting, e.Reason
	case Rejected:
		o.Status, o.Reason = StatusRejected, e.Reason
	case CancellationRequested:
		o.Status, o.Reason, o.CancelBy = StatusCancelRequested, e.Reason, e.By
		o.note("", e.Personal.Note)
	case CancellationRefused:
		o.Status, o.Reason, o.CancelBy = StatusConfirmed, "", ""
		delete(o.Private.Notes, "")
	case CancellationBegun:
		o.Status, o.Reason, o.CancelBy = StatusCancelling, e.Reason, e.By
		o.note("", e.Personal.Note)
	case RefundRefused:
		o.RefundRefused = true
	case PaymentSettled:
		o.RefundRefused = false
	case Cancelled:
		o.Status = StatusCancelled
	case Dispatched:
		o.Fulfilment, o.Carrier, o.Tracking = Shipped, e.Carrier, e.Tracking
	case Delivered:
		o.Fulfilment, o.DeliveredAt = DeliveredToPerson, &at
	case Returned:
		for _, back := range e.Lines {
			if i := o.line(back.SKU, back.Price); i >= 0 {
				o.Lines[i].Returned += back.Quantity
			}
		}
		o.Refunded.Amount += e.Refund.Amount
		o.Returns = append(o.Returns, Return{ID: e.ReturnID, By: e.By, Lines: e.Lines, Refund: e.Refund, Refunded: e.Refund.Amount == 0, At: at})
		o.note(e.ReturnID, e.Personal.Note)
	case ReturnRefunded:
		if r := o.find(e.ReturnID); r != nil {
			r.Refunded, r.RefundRefused = true, false
			o.correct(r, e.Refund)
		}
	case ReturnRefundRefused:
		if r := o.find(e.ReturnID); r != nil {
			r.RefundRefused = true
			o.correct(r, e.Refund)
		}
	case ReturnRestocked:
		if r := o.find(e.ReturnID); r != nil {
			r.Restocked = true
		}
	}
}

// correct makes the refund of a return what was left of the payment, if that is less.
func (o *Order) correct(r *Return, less *money.Money) {
	if less != nil {
		o.Refunded.Amount -= r.Refund.Amount - less.Amount
		r.Refund.Amount = less.Amount
	}
}

func (o *Order) note(key, text string) {
	if text == "" {
		return
	}
	if o.Private.Notes == nil {
		o.Private.Notes = map[string]string{}
	}
	o.Private.Notes[key] = text
}

func (o *Order) line(sku string, price int64) int {
	for i, l := range o.Lines {
		if l.SKU == sku && l.Price == price {
			return i
		}
	}
	return -1
}

func (o *Order) find(returnID string) *Return {
	for i := range o.Returns {
		if o.Returns[i].ID == returnID {
			return &o.Returns[i]
		}
	}
	return nil
}

// Return is a return of the order by its id.
func (o *Order) Return(id string) (Return, bool) {
	if r := o.find(id); r != nil {
		return *r, true
	}
	return Return{}, false
}

// Units is how many units were ordered and how many of them came back.
func (o *Order) Units() (ordered, returned int64) {
	for _, l := range o.Lines {
		ordered += l.Quantity
		returned += l.Returned
	}
	return ordered, returned
}

// ReturnState says how much came back.
func (o *Order) ReturnState() ReturnState {
	switch ordered, returned := o.Units(); returned {
	case 0:
		return Kept
	case ordered:
		return AllReturned
	default:
		return PartlyReturned
	}
}

// OpenReturns is how many returns have not had all their consequences.
func (o *Order) OpenReturns() int64 {
	var n int64
	for _, r := range o.Returns {
		if !r.Settled() {
			n++
		}
	}
	return n
}

// Settled says whether nothing is under way: no checkout, no way back, no return.
func (o *Order) Settled() bool {
	switch o.Status {
	case StatusConfirmed, StatusRejected, StatusCancelled:
		return o.OpenReturns() == 0
	}
	return false
}

// Final says whether nothing more is expected to happen by itself.
func (o *Order) Final() bool {
	if !o.Settled() {
		return false
	}
	return o.Status != StatusConfirmed || o.Fulfilment == DeliveredToPerson || o.ReturnState() == AllReturned
}
