package orders

import (
	"context"
	"fmt"

	"github.com/banyan-go/banyan/internal/errs"
	"github.com/banyan-go/banyan/internal/money"
	"github.com/banyan-go/banyan/internal/unit"
	"github.com/banyan-go/banyan/modules/inventory/inventoryapi"
	"github.com/banyan-go/banyan/modules/orders/internal/checkout"
	"github.com/banyan-go/banyan/modules/orders/internal/order"
	"github.com/banyan-go/banyan/modules/payments/paymentsapi"
	"github.com/banyan-go/banyan/modules/shipping/shippingapi"
)

// input is what the saga is told, with what belongs to it.
type input struct {
	what      checkout.Input
	paymentID string      // of a captured payment
	refunded  money.Money // of a settled one
	by        order.Actor // who cancels
	reason    string      // why
	note      string      // in their own words
	refusal   string      // why the card provider refuses a refund

	// fact is what the news is to an order whose saga does not wait for it.
	fact func(*order.Order) []order.Event
}

// answer brings an answer of another module, or a time-out, to the saga of an order.
func (o *orders) answer(ctx context.Context, w *unit.Work, orderID string, in input) error {
	s, err := o.lock(w, orderID)
	if err != nil {
		return err
	}
	if s == nil {
		o.log.WarnContext(ctx, "an answer for an order that does not exist", "order", orderID, "input", in.what)
		return nil
	}
	next, _ := s.saga.On(in.what, false, in.reason)
	if next == s.saga && in.fact == nil {
		return nil // late or repeated: it need not even be known what the order is
	}
	if err := o.fold(w, s); err != nil {
		return err
	}
	if next == s.saga {
		return o.append(w, s, in.fact(&s.order)...)
	}
	return o.advance(ctx, w, s, in)
}

// advance lets the saga of a loaded order take its next step, all in this unit of work.
func (o *orders) advance(ctx context.Context, w *unit.Work, s *stream, in input) error {
	// Goods that left, or came back in part, are past what a way back could undo.
	fixed := s.order.Fulfilment != order.NotShipped || len(s.order.Returns) > 0
	before := s.saga
	next, actions := before.On(in.what, fixed, in.reason)
	if next == before {
		o.log.WarnContext(ctx, "too late: the goods have left or came back", "order", s.id, "input", in.what)
		return nil
	}
	card := s.card
	if next.State != checkout.Reserving {
		card = "" // asked for or never needed: the token is not kept a moment longer
	}
	var events []order.Event
	for _, a := range actions {
		made, err := o.act(w, s, a, next, in)
		if err != nil {
			return errs.New(errs.Internal, "checkout of order %s in %s: %w", s.id, before.State, err)
		}
		events = append(events, made...)
	}
	if err := o.append(w, s, events...); err != nil {
		return err
	}
	if onTheWay(before.State) && !onTheWay(next.State) && in.what != checkout.TimeOut {
		w.Cancel(checkoutTimer, s.id)
	}
	return o.saveSaga(w, s, next, card)
}

func onTheWay(s checkout.State) bool { return s == checkout.Reserving || s == checkout.Charging }

// act does one action: it sends a command, or says which events it makes of the order.
func (o *orders) act(w *unit.Work, s *stream, a checkout.Action, next checkout.Checkout, in input) ([]order.Event, error) {
	switch a {
	case checkout.Charge:
		w.Send(paymentsapi.Charge{OrderID: s.id, CustomerID: s.order.CustomerID, Amount: s.order.Total, Card: s.card})
	case checkout.Commit:
		w.Send(inventoryapi.Commit{OrderID: s.id})
	case checkout.Stop:
		w.Send(shippingapi.CancelShipment{OrderID: s.id, CustomerID: s.order.CustomerID})
	case checkout.Void:
		w.Send(paymentsapi.Void{OrderID: s.id, Reason: next.Reason})
	case checkout.Release:
		w.Send(inventoryapi.Release{OrderID: s.id, Reason: next.Reason})
	case checkout.MarkReserved:
		return s.order.Reserve()
	case checkout.MarkConfirmed:
		return s.order.Confirm(in.paymentID)
	case checkout.MarkRejecting:
		return s.order.BeginRejection(next.Reason)
	case checkout.MarkRejected:
		return s.order.Reject(next.Reason)
	case checkout.MarkCancelRequested:
		return s.order.Cancel(in.by, next.Reason, in.note)
	case checkout.MarkCancelRefused:
		return s.order.RefuseCancel()
	case checkout.MarkCancelling:
		if in.what == checkout.GoodsStopped {
			return s.order.BeginCancel()
		}
		return s.order.Cancel(in.by, next.Reason, in.note)
	case checkout.MarkPaymentSettled:
		return s.order.SettlePayment(in.refunded)
	case checkout.MarkRefundRefused:
		return s.order.RefuseVoid(in.refusal)
	case checkout.MarkCancelled:
		return s.order.FinishCancel()
	default:
		return nil, fmt.Errorf("unknown action %q", a)
	}
	return nil, nil
}

// onCheckoutTimeout rejects an order that was not confirmed in time.
func (o *orders) onCheckoutTimeout(ctx context.Context, w *unit.Work, orderID string, _ struct{}) error {
	return o.answer(ctx, w, orderID, input{what: checkout.TimeOut})
}
