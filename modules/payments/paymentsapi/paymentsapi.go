// Package paymentsapi is what others may know of payments: commands to move money, and what became of them.
package paymentsapi

import (
	"time"

	"github.com/banyan-go/banyan/internal/message"
	"github.com/banyan-go/banyan/internal/money"
)

// Contract lists what payments offers.
func Contract() message.Contract {
	return message.Contract{
		Module:   "payments",
		Events:   []message.Event{PaymentCaptured{}, PaymentDeclined{}, PaymentRefunded{}, RefundRefused{}, PaymentSettled{}},
		Commands: []message.Command{Charge{}, Refund{}, Void{}},
	}
}

// Charge takes the price of an order from a card, once. Answered by PaymentCaptured or PaymentDeclined; by
// PaymentSettled alone if the order was voided before.
type Charge struct {
	OrderID    string      `json:"order_id"`
	CustomerID string      `json:"customer_id"`
	Amount     money.Money `json:"amount"`
	Card       string      `json:"card" personal:"true"` // token of the card, never a number
}

// Refund gives part of a captured payment back, or what is left of it if that is less. Answered by PaymentRefunded or
// RefundRefused, which say how much that is. RefundID makes it happen once.
type Refund struct {
	OrderID  string      `json:"order_id"`
	RefundID string      `json:"refund_id"`
	Amount   money.Money `json:"amount"`
	Reason   string      `json:"reason"`
}

// Void makes an order settle at zero, whatever has happened or is under way: a charge not begun never begins,
// one in flight is refunded when it turns out captured, a captured one is refunded. Answered by PaymentSettled.
type Void struct {
	OrderID string `json:"order_id"`
	Reason  string `json:"reason"`
}

// PaymentCaptured: the money is ours.
type PaymentCaptured struct {
	OrderID    string      `json:"order_id"`
	PaymentID  string      `json:"payment_id"`
	CustomerID string      `json:"customer_id"`
	Amount     money.Money `json:"amount"`
	At         time.Time   `json:"at"`
}

// PaymentDeclined: no money moved, and none will.
type PaymentDeclined struct {
	OrderID    string    `json:"order_id"`
	PaymentID  string    `json:"payment_id"`
	CustomerID string    `json:"customer_id"`
	Reason     string    `json:"reason"`
	At         time.Time `json:"at"`
}

// PaymentRefunded: money went back; none if nothing was left, or a void covers it.
type PaymentRefunded struct {
	OrderID    string      `json:"order_id"`
	PaymentID  string      `json:"payment_id"`
	CustomerID string      `json:"customer_id"`
	RefundID   string      `json:"refund_id"`
	Amount     money.Money `json:"amount"`
	At         time.Time   `json:"at"`
}

// RefundRefused: the provider does not give the money back, now or later. It stays with the payment until staff pay it back
// in another way; a voided order settles only then.
type RefundRefused struct {
	OrderID    string      `json:"order_id"`
	PaymentID  string      `json:"payment_id"`
	CustomerID string      `json:"customer_id"`
	RefundID   string      `json:"refund_id"`
	Amount     money.Money `json:"amount"`
	Reason     string      `json:"reason"` // the provider's
	At         time.Time   `json:"at"`
}

// PaymentSettled: a voided order holds no money of the customer any more.
type PaymentSettled struct {
	OrderID  string      `json:"order_id"`
	Refunded money.Money `json:"refunded"` // zero if nothing had been captured
	At       time.Time   `json:"at"`
}

func (Charge) MessageName() string          { return "payments.charge.v1" }
func (Refund) MessageName() string          { return "payments.refund.v1" }
func (Void) MessageName() string            { return "payments.void.v1" }
func (PaymentCaptured) MessageName() string { return "payments.payment_captured.v1" }
func (PaymentDeclined) MessageName() string { return "payments.payment_declined.v1" }
func (PaymentRefunded) MessageName() string { return "payments.payment_refunded.v1" }
func (RefundRefused) MessageName() string   { return "payments.refund_refused.v1" }
func (PaymentSettled) MessageName() string  { return "payments.payment_settled.v1" }

func (c Charge) MessageKey() string          { return c.OrderID }
func (c Refund) MessageKey() string          { return c.OrderID }
func (c Void) MessageKey() string            { return c.OrderID }
func (e PaymentCaptured) MessageKey() string { return e.OrderID }
func (e PaymentDeclined) MessageKey() string { return e.OrderID }
func (e PaymentRefunded) MessageKey() string { return e.OrderID }
func (e RefundRefused) MessageKey() string   { return e.OrderID }
func (e PaymentSettled) MessageKey() string  { return e.OrderID }

func (c Charge) PersonalSubject() string { return c.CustomerID }
