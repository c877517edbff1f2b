package notifications

import (
	"context"

	"github.com/banyan-go/banyan/internal/unit"
	"github.com/banyan-go/banyan/modules/inventory/inventoryapi"
	"github.com/banyan-go/banyan/modules/notifications/internal/letter"
	"github.com/banyan-go/banyan/modules/orders/ordersapi"
	"github.com/banyan-go/banyan/modules/payments/paymentsapi"
	"github.com/banyan-go/banyan/modules/shipping/shippingapi"
	"github.com/banyan-go/banyan/modules/users/usersapi"
)

func (s *service) userRegistered(_ context.Context, w *unit.Work, e usersapi.UserRegistered) error {
	return s.register(w, e)
}

func (s *service) userInvited(_ context.Context, w *unit.Work, e usersapi.UserInvited) error {
	return s.invite(w, e)
}

func (s *service) profileChanged(_ context.Context, w *unit.Work, e usersapi.ProfileChanged) error {
	return change(w, e.UserID, func(r *recipientRow) { r.Name, r.Email, r.Known = e.Name, e.Email, true })
}

func (s *service) preferencesChanged(_ context.Context, w *unit.Work, e usersapi.PreferencesChanged) error {
	return change(w, e.UserID, func(r *recipientRow) { r.Mail, r.Language = e.Mail, e.Language })
}

func (s *service) roleChanged(_ context.Context, w *unit.Work, e usersapi.RoleChanged) error {
	return change(w, e.UserID, func(r *recipientRow) { r.Role = e.Role })
}

func (s *service) userErased(_ context.Context, w *unit.Work, e usersapi.UserErased) error {
	return s.erase(w, e.UserID)
}

func (s *service) orderConfirmed(_ context.Context, w *unit.Work, e ordersapi.OrderConfirmed) error {
	d := letter.Data{Order: e.OrderID, Amount: e.Total, Lines: make([]letter.Line, len(e.Lines))}
	for i, l := range e.Lines {
		name := l.Name
		if name == "" {
			name = l.SKU
		}
		d.Lines[i] = letter.Line{Name: name, Quantity: l.Quantity, Price: l.Price}
	}
	return s.notify(w, e.CustomerID, letter.Receipt, d)
}

func (s *service) orderRejected(_ context.Context, w *unit.Work, e ordersapi.OrderRejected) error {
	return s.notify(w, e.CustomerID, letter.Rejected, letter.Data{Order: e.OrderID, Reason: e.Reason})
}

func (s *service) orderCancelled(_ context.Context, w *unit.Work, e ordersapi.OrderCancelled) error {
	return s.notify(w, e.CustomerID, letter.Cancelled, letter.Data{Order: e.OrderID})
}

// paymentRefunded tells of money; that none was left to go back is no news.
func (s *service) paymentRefunded(_ context.Context, w *unit.Work, e paymentsapi.PaymentRefunded) error {
	if e.Amount.Amount == 0 {
		return nil
	}
	return s.notify(w, e.CustomerID, letter.Refund, letter.Data{Order: e.OrderID, Amount: e.Amount})
}

// refundRefused alerts staff: nobody else brings the money back.
func (s *service) refundRefused(_ context.Context, w *unit.Work, e paymentsapi.RefundRefused) error {
	return s.alert(w, letter.RefundRefused, letter.Data{Order: e.OrderID, Amount: e.Amount, Reason: e.Reason})
}

func (s *service) shipmentDispatched(_ context.Context, w *unit.Work, e shippingapi.ShipmentDispatched) error {
	return s.notify(w, e.CustomerID, letter.Tracking, letter.Data{Order: e.OrderID, Carrier: e.Carrier, Tracking: e.Tracking})
}

func (s *service) shipmentDelivered(_ context.Context, w *unit.Work, e shippingapi.ShipmentDelivered) error {
	return s.notify(w, e.CustomerID, letter.Delivered, letter.Data{Order: e.OrderID})
}

// stockLevelChanged alerts staff of what is low; what is back above its mark needs nobody.
func (s *service) stockLevelChanged(_ context.Context, w *unit.Work, e inventoryapi.StockLevelChanged) error {
	if !e.Low {
		return nil
	}
	return s.alert(w, letter.Alert, letter.Data{SKU: e.SKU, Available: e.Available})
}
