package orders

import (
	"context"

	"github.com/banyan-go/banyan/internal/identity"
	"github.com/banyan-go/banyan/internal/rest"
	"github.com/banyan-go/banyan/internal/unit"
	"github.com/banyan-go/banyan/modules/orders/internal/checkout"
	"github.com/banyan-go/banyan/modules/orders/internal/order"
)

// cancel calls an order off before it leaves. It answers at once; the way back runs on its own. Of a confirmed order only
// shipping knows whether it has left: until it has said so the cancellation is requested, and may be refused.
func (o *orders) cancel(ctx context.Context, in *cancelInput) (*rest.Answer[orderBody], error) {
	return rest.Commit(ctx, o.store, func(ctx context.Context, w *unit.Work) (orderBody, error) {
		s, err := o.load(w, in.ID)
		if err != nil {
			return orderBody{}, err
		}
		if err := identity.NeedSelf(ctx, s.order.CustomerID, "order"); err != nil {
			return orderBody{}, err
		}
		by, reason := actor(ctx, s.order.CustomerID), order.CancelledByCustomer
		if by == order.ByStaff {
			reason = order.CancelledByStaff
		}
		events, err := s.order.Cancel(by, reason, in.Body.Reason)
		if err != nil {
			return orderBody{}, err
		}
		if len(events) > 0 {
			err = o.advance(ctx, w, s, input{what: checkout.Cancel, by: by, reason: reason, note: in.Body.Reason})
		}
		return bodyOf(s.id, &s.order), err
	})
}

// actor says as whom somebody who may touch the order does so.
func actor(ctx context.Context, customerID string) order.Actor {
	if identity.From(ctx).Subject == customerID {
		return order.ByCustomer
	}
	return order.ByStaff
}
