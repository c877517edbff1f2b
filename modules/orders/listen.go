package orders

import (
	"context"
	"fmt"

	"github.com/banyan-go/banyan/internal/money"
	"github.com/banyan-go/banyan/internal/unit"
	"github.com/banyan-go/banyan/modules/catalog/catalogapi"
	"github.com/banyan-go/banyan/modules/inventory/inventoryapi"
	"github.com/banyan-go/banyan/modules/orders/internal/checkout"
	"github.com/banyan-go/banyan/modules/orders/internal/order"
	"github.com/banyan-go/banyan/modules/orders/ordersapi"
	"github.com/banyan-go/banyan/modules/payments/paymentsapi"
	"github.com/banyan-go/banyan/modules/shipping/shippingapi"
	"github.com/banyan-go/banyan/modules/users/usersapi"
)

func (o *orders) onStockReserved(ctx context.Context, w *unit.Work, e inventoryapi.StockReserved) error {
	return o.answer(ctx, w, e.OrderID, input{what: checkout.StockReserved})
}

func (o *orders) onReservationRefused(ctx context.Context, w *unit.Work, e inventoryapi.ReservationRefused) error {
	return o.answer(ctx, w, e.OrderID, input{what: checkout.StockRefused})
}

func (o *orders) onReservationExpired(ctx context.Context, w *unit.Work, e inventoryapi.ReservationExpired) error {
	return o.answer(ctx, w, e.OrderID, input{what: checkout.StockExpired, by: order.ByShop})
}

func (o *orders) onReservationReleased(ctx context.Context, w *unit.Work, e inventoryapi.ReservationReleased) error {
	return o.answer(ctx, w, e.OrderID, input{what: checkout.StockReleased})
}

func (o *orders) onPaymentCaptured(ctx context.Context, w *unit.Work, e paymentsapi.PaymentCaptured) error {
	return o.answer(ctx, w, e.OrderID, input{what: checkout.Captured, paymentID: e.PaymentID})
}

func (o *orders) onPaymentDeclined(ctx context.Context, w *unit.Work, e paymentsapi.PaymentDeclined) error {
	return o.answer(ctx, w, e.OrderID, input{what: checkout.Declined})
}

func (o *orders) onPaymentSettled(ctx context.Context, w *unit.Work, e paymentsapi.PaymentSettled) error {
	return o.answer(ctx, w, e.OrderID, input{
		what: checkout.Settled, refunded: e.Refunded, fact: func(x *order.Order) []order.Event { return x.PayBack(e.Refunded) },
	})
}

// record appends what is a fact, if it is news to the order.
func (o *orders) record(ctx context.Context, w *unit.Work, orderID string, facts func(*order.Order) []order.Event) error {
	s, err := o.lock(w, orderID)
	if err != nil {
		return err
	}
	if s == nil {
		o.log.WarnContext(ctx, "news of an order that does not exist", "order", orderID)
		return nil
	}
	if err := o.fold(w, s); err != nil {
		return err
	}
	return o.append(w, s, facts(&s.order)...)
}

func (o *orders) onPaymentRefunded(ctx context.Context, w *unit.Work, e paymentsapi.PaymentRefunded) error {
	return o.record(ctx, w, e.OrderID, func(x *order.Order) []order.Event { return x.RefundReturn(e.RefundID, e.Amount) })
}

func (o *orders) onRefundRefused(ctx context.Context, w *unit.Work, e paymentsapi.RefundRefused) error {
	return o.answer(ctx, w, e.OrderID, input{
		what: checkout.RefundRefused, refusal: e.Reason, fact: func(x *order.Order) []order.Event { return x.RefuseRefund(e.RefundID, e.Amount, e.Reason) },
	})
}

func (o *orders) onStockReturned(ctx context.Context, w *unit.Work, e inventoryapi.StockReturned) error {
	return o.record(ctx, w, e.OrderID, func(x *order.Order) []order.Event { return x.RestockReturn(e.ReturnID) })
}

func (o *orders) onShipmentDispatched(ctx context.Context, w *unit.Work, e shippingapi.ShipmentDispatched) error {
	return o.record(ctx, w, e.OrderID, func(x *order.Order) []order.Event {
		return x.Dispatch(order.Dispatched{ShipmentID: e.ShipmentID, Carrier: e.Carrier, Tracking: e.Tracking})
	})
}

func (o *orders) onShipmentCancelled(ctx context.Context, w *unit.Work, e shippingapi.ShipmentCancelled) error {
	return o.answer(ctx, w, e.OrderID, input{what: checkout.GoodsStopped})
}

// onCancellationRefused comes after the news that the goods left: both have one key and one handler.
func (o *orders) onCancellationRefused(ctx context.Context, w *unit.Work, e shippingapi.CancellationRefused) error {
	return o.answer(ctx, w, e.OrderID, input{what: checkout.GoodsLeft})
}

func (o *orders) onShipmentDelivered(ctx context.Context, w *unit.Work, e shippingapi.ShipmentDelivered) error {
	return o.record(ctx, w, e.OrderID, func(x *order.Order) []order.Event { return x.Deliver(order.Delivered{ShipmentID: e.ShipmentID}) })
}

// The copy of prices takes the newest version only: the catalog may have been asked meanwhile.

func (o *orders) onProductAdded(_ context.Context, w *unit.Work, e catalogapi.ProductAdded) error {
	return keepPrices(w, []catalogapi.Product{{SKU: e.SKU, Name: e.Name, Price: e.Price, OnSale: true, Version: e.Version}})
}

func (o *orders) onProductChanged(_ context.Context, w *unit.Work, e catalogapi.ProductChanged) error {
	return changePrice(w, e.SKU, e.Version, "name = ?", e.Name)
}

func (o *orders) onPriceChanged(_ context.Context, w *unit.Work, e catalogapi.PriceChanged) error {
	return changePrice(w, e.SKU, e.Version, "amount = ?, currency = CASE WHEN price.currency = '' THEN '' ELSE ? END", e.New.Amount, e.New.Currency)
}

func (o *orders) onProductRetired(_ context.Context, w *unit.Work, e catalogapi.ProductRetired) error {
	return changePrice(w, e.SKU, e.Version, "on_sale = ?", false)
}

func (o *orders) onUserRegistered(_ context.Context, w *unit.Work, e usersapi.UserRegistered) error {
	err := w.Later().Exec("INSERT INTO customer (customer_id, erased) VALUES (?, ?) ON CONFLICT (customer_id) DO NOTHING", e.UserID, false).Error
	if err != nil {
		return fmt.Errorf("keep customer %s: %w", e.UserID, err)
	}
	return nil
}

// onUserErased forgets what tells about the person. The personal part of events is the one thing in the event
// store that may change: the right to be forgotten goes before its immutability; what happened stays told.
func (o *orders) onUserErased(_ context.Context, w *unit.Work, e usersapi.UserErased) error {
	// First whoever is placing an order for this customer, then whoever changes one: nothing personal can be
	// written behind our back, or from what was read before.
	err := w.DB.Exec("INSERT INTO customer (customer_id, erased) VALUES (?, ?) ON CONFLICT (customer_id) DO UPDATE SET erased = excluded.erased", e.UserID, true).Error
	if err != nil {
		return fmt.Errorf("erase customer: %w", err)
	}
	if err := lockStreamsOf(w, e.UserID); err != nil {
		return err
	}
	const theirs = " AND order_id IN (SELECT order_id FROM stream WHERE customer_id = ?)"
	for _, sql := range []string{
		"UPDATE event SET personal = '' WHERE personal <> ''" + theirs,
		"UPDATE snapshots SET personal = '' WHERE personal <> ''" + theirs,
		"UPDATE return_view SET note = '' WHERE note <> ''" + theirs,
		"UPDATE order_view SET personal = '' WHERE personal <> '' AND customer_id = ?",
	} {
		if err := w.DB.Exec(sql, e.UserID).Error; err != nil {
			return fmt.Errorf("erase customer: %w", err)
		}
	}
	return w.Erase(e.UserID)
}

// onGetOrder answers other modules.
func (o *orders) onGetOrder(ctx context.Context, q ordersapi.GetOrder) (ordersapi.Order, error) {
	v, lines, _, err := readView(o.store.Read(ctx), q.OrderID)
	if err != nil {
		return ordersapi.Order{}, err
	}
	if v == nil {
		return ordersapi.Order{}, errNoOrder()
	}
	reply := ordersapi.Order{OrderID: v.OrderID, CustomerID: v.CustomerID, Status: v.Status, Lines: make([]ordersapi.Line, len(lines)), Total: money.Of(v.Total, v.Currency)}
	for i, l := range lines {
		reply.Lines[i] = ordersapi.Line{SKU: l.SKU, Name: l.Name, Quantity: l.Quantity, Price: money.Of(l.Price, v.Currency)}
	}
	return reply, nil
}
