package orders

import (
	"context"
	"errors"
	"fmt"

	"gorm.io/gorm"

	"github.com/banyan-go/banyan/internal/errs"
	"github.com/banyan-go/banyan/internal/identity"
	"github.com/banyan-go/banyan/internal/rest"
	"github.com/banyan-go/banyan/internal/unit"
	"github.com/banyan-go/banyan/modules/inventory/inventoryapi"
	"github.com/banyan-go/banyan/modules/orders/internal/order"
	"github.com/banyan-go/banyan/modules/payments/paymentsapi"
	"github.com/banyan-go/banyan/modules/shipping/shippingapi"
)

// takeBack accepts returned units: their price goes back to the customer, they go back on the shelf. If nothing
// is left of an order that is still here, its shipment is stopped; should the goods have left by then, that is told as it is.
func (o *orders) takeBack(ctx context.Context, in *returnInput) (*rest.Answer[returnBody], error) {
	return rest.Commit(ctx, o.store, func(ctx context.Context, w *unit.Work) (returnBody, error) {
		s, err := o.load(w, in.ID)
		if err != nil {
			return returnBody{}, err
		}
		if err := identity.NeedSelf(ctx, s.order.CustomerID, "order"); err != nil {
			return returnBody{}, err
		}
		lines, err := in.lines(s.order.Total.Currency)
		if err != nil {
			return returnBody{}, err
		}
		id := in.Body.ReturnID
		if id == "" {
			id = w.NewID()
		}
		if prior, ok := s.order.Return(id); ok && order.SameReturn(prior, lines) {
			return returnBodyOf(s.id, s.order.CustomerID, prior, s.order.Private.Notes[id]), nil
		}
		by := actor(ctx, s.order.CustomerID)
		events, err := s.order.TakeBack(w.Now(), o.cfg.ReturnWindow, id, by, lines, in.Body.Reason)
		if err != nil {
			return returnBody{}, err
		}
		if err := o.append(w, s, events...); err != nil {
			if errors.Is(err, gorm.ErrDuplicatedKey) {
				return returnBody{}, errs.New(errs.Conflict, "there is a return with this id already").With("body.return_id", "is taken")
			}
			return returnBody{}, err
		}
		made, _ := s.order.Return(id)
		if made.Refund.Amount > 0 {
			w.Send(paymentsapi.Refund{OrderID: s.id, RefundID: id, Amount: made.Refund, Reason: "returned"})
		}
		w.Send(inventoryapi.Restock{OrderID: s.id, ReturnID: id, Lines: stockLines(made.Lines)})
		if s.order.Fulfilment == order.NotShipped && s.order.ReturnState() == order.AllReturned {
			w.Send(shippingapi.CancelShipment{OrderID: s.id, CustomerID: s.order.CustomerID})
		}
		return returnBodyOf(s.id, s.order.CustomerID, made, in.Body.Reason), nil
	})
}

// lines are what comes back, in the order's currency.
func (in *returnInput) lines(currency string) ([]order.Line, error) {
	lines := make([]order.Line, len(in.Body.Lines))
	for i, l := range in.Body.Lines {
		if l.Price.Currency != currency {
			return nil, errs.New(errs.Invalid, "the order is in another currency").With(fmt.Sprintf("body.lines[%d].price.currency", i), "must be %s", currency)
		}
		lines[i] = order.Line{SKU: l.SKU, Quantity: l.Quantity, Price: l.Price.Amount}
	}
	return lines, nil
}
