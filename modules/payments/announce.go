package payments

import (
	"time"

	"github.com/banyan-go/banyan/internal/message"
	"github.com/banyan-go/banyan/internal/money"
	"github.com/banyan-go/banyan/modules/payments/internal/payment"
	"github.com/banyan-go/banyan/modules/payments/paymentsapi"
)

// announcement is what others are told of an event, or nil; p is the payment after it.
func announcement(p payment.Payment, e payment.Event, at time.Time) message.Event {
	of := func(amount int64) money.Money { return money.Of(amount, p.Amount.Currency) }
	switch e := e.(type) {
	case payment.Captured:
		return paymentsapi.PaymentCaptured{OrderID: p.OrderID, PaymentID: p.ID, CustomerID: p.CustomerID, Amount: of(e.Amount), At: at}
	case payment.Declined:
		return paymentsapi.PaymentDeclined{OrderID: p.OrderID, PaymentID: p.ID, CustomerID: p.CustomerID, Reason: e.Reason, At: at}
	case payment.Refunded:
		if e.Refund.By == payment.ByVoid { // PaymentSettled tells of it
			return nil
		}
		return paymentsapi.PaymentRefunded{OrderID: p.OrderID, PaymentID: p.ID, CustomerID: p.CustomerID, RefundID: e.Refund.ID, Amount: of(e.Refund.Amount), At: at}
	case payment.RefundCovered:
		return paymentsapi.PaymentRefunded{OrderID: p.OrderID, PaymentID: p.ID, CustomerID: p.CustomerID, RefundID: e.Refund.ID, Amount: of(0), At: at}
	case payment.RefundRefused:
		return paymentsapi.RefundRefused{
			OrderID: p.OrderID, PaymentID: p.ID, CustomerID: p.CustomerID, RefundID: e.Refund.ID, Amount: of(e.Refund.Amount), Reason: e.Refund.Refusal, At: at,
		}
	case payment.ChargeBarred:
		return paymentsapi.PaymentSettled{OrderID: p.OrderID, Refunded: of(0), At: at}
	case payment.Settled:
		return paymentsapi.PaymentSettled{OrderID: p.OrderID, Refunded: e.Refunded, At: at}
	}
	return nil
}
