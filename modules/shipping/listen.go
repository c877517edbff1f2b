package shipping

import (
	"context"

	"github.com/banyan-go/banyan/internal/unit"
	"github.com/banyan-go/banyan/modules/orders/ordersapi"
	"github.com/banyan-go/banyan/modules/users/usersapi"
)

func (s *service) orderConfirmed(ctx context.Context, w *unit.Work, e ordersapi.OrderConfirmed) error {
	return s.create(ctx, w, e)
}

func (s *service) orderCancelled(ctx context.Context, w *unit.Work, e ordersapi.OrderCancelled) error {
	return s.callBack(ctx, w, e)
}

func (s *service) orderReturned(_ context.Context, w *unit.Work, e ordersapi.OrderReturned) error {
	return hold(w, e.OrderID)
}

func (s *service) customerErased(ctx context.Context, w *unit.Work, e usersapi.UserErased) error {
	return s.erase(ctx, w, e)
}
