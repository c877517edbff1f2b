package order

import (
	"slices"
	"strings"
	"time"

	"github.com/banyan-go/banyan/internal/errs"
	"github.com/banyan-go/banyan/internal/money"
)

// Reasons of rejections and cancellations; others may know them.
const (
	OutOfStock          = "out_of_stock"
	PaymentDeclined     = "payment_declined"
	TimedOut            = "timed_out"
	CancelledByCustomer = "cancelled_by_customer"
	CancelledByStaff    = "cancelled_by_staff"
	ReservationExpired  = "reservation_expired"
)

// MaxAmount is the most that an order may cost, in minor units.
const MaxAmount = 1_000_000_000_00

// MaxQuantity is the most units on one line.
const MaxQuantity = 1_000_000

// Placement is what somebody orders.
type Placement struct {
	CustomerID    string
	By            Actor
	Currency      string
	Lines         []Line
	CartVersion   int64
	Reference     string
	ReferenceTime *time.Time
	Address       *Address
}

// Place takes an order. Lines of the same product at the same price become one.
func Place(p Placement) (Placed, error) {
	if p.CustomerID == "" {
		return Placed{}, errs.New(errs.Invalid, "an order needs a customer").With("body.customer_id", "is missing")
	}
	if len(p.Lines) == 0 {
		return Placed{}, errs.New(errs.Invalid, "an order needs at least one line").With("body.lines", "is empty")
	}
	if len(p.Currency) != 3 || strings.Trim(p.Currency, "ABCDEFGHIJKLMNOPQRSTUVWXYZ") != "" {
		return Placed{}, errs.New(errs.Invalid, "this is no currency").With(linePath(0, "price.currency"), "must look like GBP")
	}
	if t := p.ReferenceTime; t != nil && (t.UTC().Year() < 1 || t.UTC().Year() > 9999) {
		// The time as it is written may be in range, in its own zone.
		return Placed{}, errs.New(errs.Invalid, "this is no time that can be kept").With("body.reference_time", "must be in the years 1 to 9999, in UTC")
	}
	lines, total, err := merge(p.Lines, p.Currency)
	if err != nil {
		return Placed{}, err
	}
	if total.Amount == 0 {
		return Placed{}, errs.New(errs.Invalid, "an order must cost something").With("body.lines", "add up to nothing")
	}
	return Placed{
		CustomerID: p.CustomerID, By: p.By, Lines: lines, Total: total, CartVersion: p.CartVersion,
		Reference: p.Reference, ReferenceTime: p.ReferenceTime, Personal: Personal{Address: p.Address},
	}, nil
}

type lineKey struct {
	sku   string
	price int64
}

func merge(in []Line, currency string) ([]Line, money.Money, error) {
	lines := make([]Line, 0, len(in))
	index := make(map[lineKey]int, len(in))
	total := money.Of(0, currency)
	for n, l := range in {
		if l.Quantity < 1 || l.Quantity > MaxQuantity {
			return nil, total, errs.New(errs.Invalid, "a quantity is out of range").With(linePath(n, "quantity"), "must be 1 to %d", MaxQuantity)
		}
		if l.Price < 0 || l.Price > MaxAmount {
			return nil, total, errs.New(errs.Invalid, "a price is out of range").With(linePath(n, "price.amount"), "must be 0 to %d", MaxAmount)
		}
		cost, err := money.Of(l.Price, currency).Times(l.Quantity)
		if err == nil {
			total, err = total.Add(cost)
		}
		if err != nil || total.Amount > MaxAmount {
			return nil, total, errs.New(errs.Invalid, "the order costs too much").With("body.lines", "must not add up to more than %d", MaxAmount)
		}
		l.Returned = 0
		key := lineKey{l.SKU, l.Price}
		if i, ok := index[key]; ok {
			lines[i].Quantity += l.Quantity
			continue
		}
		index[key] = len(lines)
		lines = append(lines, l)
	}
	return lines, total, nil
}

// CheckCard refuses what is not a card token. A card number has no place in a shop, not even inside a token: it
// would end up in logs and back-ups.
func CheckCard(token string) error {
	digits := 0
	for _, c := range token {
		switch {
		case c >= '0' && c <= '9':
			digits++
		case c == '_':
		default:
			digits = 0
		}
		if digits >= 13 {
			return errs.New(errs.Invalid, "send the token of a card, never its number").With("body.card", "looks like a card number")
		}
	}
	rest, ok := strings.CutPrefix(token, "tok_")
	if !ok || rest == "" || len(rest) > 64 || strings.Trim(rest, "abcdefghijklmnopqrstuvwxyz0123456789_") != "" {
		return errs.New(errs.Invalid, "this is no card token").With("body.card", "must look like tok_visa")
	}
	return nil
}

// Reserve records that the stock is set aside.
func (o *Order) Reserve() ([]Event, error) {
	if o.Status != StatusPlaced {
		return nil, o.cannot("be reserved")
	}
	return []Event{Reserved{}}, nil
}

// Confirm records that the money is captured.
func (o *Order) Confirm(paymentID string) ([]Event, error) {
	if o.Status != StatusReserved {
		return nil, o.cannot("be confirmed")
	}
	return []Event{Confirmed{PaymentID: paymentID}}, nil
}

// BeginRejection starts the way back of an order that cannot be fulfilled.
func (o *Order) BeginRejection(reason string) ([]Event, error) {
	if o.Status != StatusPlaced && o.Status != StatusReserved {
		return nil, o.cannot("be rejected")
	}
	return []Event{RejectionBegun{Reason: reason}}, nil
}

// Reject ends an order that cannot be fulfilled, once nothing is held any more.
func (o *Order) Reject(reason string) ([]Event, error) {
	if o.Status != StatusPlaced && o.Status != StatusRejecting {
		return nil, o.cannot("be rejected")
	}
	return []Event{Rejected{Reason: reason}}, nil
}

// Cancel calls the order off. A confirmed one may have left already: it is only asked for, and shipping decides. No events and
// no error mean that the order is cancelled, or about to be, already.
func (o *Order) Cancel(by Actor, reason, note string) ([]Event, error) {
	switch o.Status {
	case StatusCancelRequested, StatusCancelling, StatusCancelled:
		return nil, nil
	case StatusPlaced, StatusReserved:
		return []Event{CancellationBegun{By: by, Reason: reason, Personal: Personal{Note: note}}}, nil
	case StatusConfirmed:
	default:
		return nil, o.cannot("be cancelled")
	}
	if o.Fulfilment != NotShipped {
		return nil, errs.New(errs.Conflict, "the goods have left: the order can be returned, but no longer cancelled")
	}
	if len(o.Returns) > 0 {
		// A return has put units on the shelf and paid money back; the way back of a cancellation would do so again.
		return nil, errs.New(errs.Conflict, "a part of the order was returned: return the rest instead")
	}
	return []Event{CancellationRequested{By: by, Reason: reason, Personal: Personal{Note: note}}}, nil
}

// BeginCancel records that the goods are stopped: from here on there is no way but back.
func (o *Order) BeginCancel() ([]Event, error) {
	if o.Status != StatusCancelRequested {
		return nil, o.cannot("be cancelled")
	}
	return []Event{CancellationBegun{By: o.CancelBy, Reason: o.Reason}}, nil
}

// RefuseCancel records that the goods had left before the order could be called off.
func (o *Order) RefuseCancel() ([]Event, error) {
	if o.Status != StatusCancelRequested {
		return nil, o.cannot("be kept")
	}
	return []Event{CancellationRefused{}}, nil
}

// SettlePayment records on the way back that no money is held any more.
func (o *Order) SettlePayment(refunded money.Money) ([]Event, error) {
	if o.Status != StatusCancelling && o.Status != StatusRejecting {
		return nil, o.cannot("be settled")
	}
	return []Event{PaymentSettled{Refunded: refunded}}, nil
}

// RefuseVoid records on the way back that the money does not go back by itself.
func (o *Order) RefuseVoid(reason string) ([]Event, error) {
	if o.Status != StatusCancelling && o.Status != StatusRejecting {
		return nil, o.cannot("be settled")
	}
	return []Event{RefundRefused{Reason: reason}}, nil
}

// PayBack records that money which did not go back by itself has gone back; nothing for an order of which none is missing.
func (o *Order) PayBack(refunded money.Money) []Event {
	if !o.RefundRefused {
		return nil
	}
	return []Event{PaymentSettled{Refunded: refunded}}
}

// FinishCancel ends a cancelled order, once nothing is held any more.
func (o *Order) FinishCancel() ([]Event, error) {
	if o.Status != StatusCancelling {
		return nil, o.cannot("be cancelled")
	}
	return []Event{Cancelled{}}, nil
}

// Dispatch records that the goods left. It is a fact, so it is recorded whatever the order is, once.
func (o *Order) Dispatch(e Dispatched) []Event {
	if o.Version == 0 || o.Fulfilment != NotShipped {
		return nil
	}
	return []Event{e}
}

// Deliver records that the customer has the goods; once, like Dispatch.
func (o *Order) Deliver(e Delivered) []Event {
	if o.Version == 0 || o.Fulfilment == DeliveredToPerson {
		return nil
	}
	return []Event{e}
}

// TakeBack accepts returned units. Staff may do so at any time after confirmation, customers within the window
// after delivery. lines name what comes back by SKU and price.
func (o *Order) TakeBack(now time.Time, window time.Duration, id string, by Actor, lines []Line, note string) ([]Event, error) {
	if o.Status != StatusConfirmed {
		return nil, o.cannot("be returned")
	}
	if by == ByCustomer {
		if o.DeliveredAt == nil {
			return nil, errs.New(errs.Conflict, "the order is not delivered yet")
		}
		if now.After(o.DeliveredAt.Add(window)) {
			return nil, errs.New(errs.Conflict, "the time for returns is over: it ended at %s", o.DeliveredAt.Add(window).UTC().Format(time.RFC3339))
		}
	}
	back, refund, err := merge(lines, o.Total.Currency)
	if err != nil {
		return nil, err
	}
	if len(back) == 0 {
		return nil, errs.New(errs.Invalid, "a return needs at least one line").With("body.lines", "is empty")
	}
	for n, l := range back {
		i := o.line(l.SKU, l.Price)
		if i < 0 {
			return nil, errs.New(errs.Invalid, "the order has no line of %s at that price", l.SKU).With(linesPath(lines, l), "is not in the order")
		}
		if left := o.Lines[i].Quantity - o.Lines[i].Returned; l.Quantity > left {
			return nil, errs.New(errs.Conflict, "only %d units of %s at that price are left to return", left, l.SKU).With(linesPath(lines, l), "is too many")
		}
		back[n].Name = o.Lines[i].Name
	}
	if prior := o.find(id); prior != nil {
		return nil, errs.New(errs.Conflict, "the order has a return %s already", id)
	}
	return []Event{Returned{ReturnID: id, By: by, Lines: back, Refund: refund, Personal: Personal{Note: note}}}, nil
}

// SameReturn says whether a return is of these lines: then it was asked for twice.
func SameReturn(r Return, lines []Line) bool {
	back, _, err := merge(lines, r.Refund.Currency)
	return err == nil && slices.EqualFunc(r.Lines, back, func(a, b Line) bool {
		return a.SKU == b.SKU && a.Price == b.Price && a.Quantity == b.Quantity
	})
}

// RefundReturn records how much money of a return went back; nothing for a return that is unknown or has it.
func (o *Order) RefundReturn(id string, amount money.Money) []Event {
	r := o.find(id)
	if r == nil || r.Refunded {
		return nil
	}
	return []Event{ReturnRefunded{ReturnID: id, Refund: r.less(amount)}}
}

// RefuseRefund records that the money of a return does not go back by itself; nothing for a return that is unknown or has it, or
// of which this is known.
func (o *Order) RefuseRefund(id string, amount money.Money, reason string) []Event {
	r := o.find(id)
	if r == nil || r.Refunded || r.RefundRefused {
		return nil
	}
	return []Event{ReturnRefundRefused{ReturnID: id, Reason: reason, Refund: r.less(amount)}}
}

// RestockReturn records that the units of a return are on the shelf; nothing for one that is unknown or has it.
func (o *Order) RestockReturn(id string) []Event {
	if r := o.find(id); r == nil || r.Restocked {
		return nil
	}
	return []Event{ReturnRestocked{ReturnID: id}}
}

func (o *Order) cannot(what string) error {
	return errs.New(errs.Conflict, "the order is %s and cannot %s", o.Status, what)
}
