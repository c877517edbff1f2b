package orders

import (
	"time"

	"github.com/banyan-go/banyan/internal/money"
	"github.com/banyan-go/banyan/internal/unit"
	"github.com/banyan-go/banyan/modules/inventory/inventoryapi"
	"github.com/banyan-go/banyan/modules/orders/internal/order"
	"github.com/banyan-go/banyan/modules/orders/ordersapi"
)

// announce tells others what private events mean to them. What stands here is all that leaves the event store.
func announce(w *unit.Work, s *stream, events []order.Event, at time.Time) {
	o := &s.order
	for _, e := range events {
		switch e := e.(type) {
		case order.Placed:
			w.Publish(ordersapi.OrderPlaced{
				OrderID: s.id, CustomerID: o.CustomerID, CartVersion: o.CartVersion, Lines: publicLines(o.Lines, o.Total.Currency), Total: o.Total, At: at,
			})
		case order.Confirmed:
			w.Publish(ordersapi.OrderConfirmed{
				OrderID: s.id, CustomerID: o.CustomerID, Lines: publicLines(o.Lines, o.Total.Currency), Total: o.Total, Address: publicAddress(o.Private.Address), At: at,
			})
		case order.Rejected:
			w.Publish(ordersapi.OrderRejected{OrderID: s.id, CustomerID: o.CustomerID, Reason: e.Reason, At: at})
		case order.Cancelled:
			w.Publish(ordersapi.OrderCancelled{OrderID: s.id, CustomerID: o.CustomerID, Reason: o.Reason, At: at})
		case order.Returned:
			w.Publish(ordersapi.OrderReturned{
				OrderID: s.id, CustomerID: o.CustomerID, ReturnID: e.ReturnID, Lines: publicLines(e.Lines, e.Refund.Currency), Refund: e.Refund, At: at,
			})
		}
	}
}

func publicLines(lines []order.Line, currency string) []ordersapi.Line {
	out := make([]ordersapi.Line, len(lines))
	for i, l := range lines {
		out[i] = ordersapi.Line{SKU: l.SKU, Name: l.Name, Quantity: l.Quantity, Price: money.Of(l.Price, currency)}
	}
	return out
}

func publicAddress(a *order.Address) ordersapi.Address {
	if a == nil {
		return ordersapi.Address{}
	}
	return ordersapi.Address{Name: a.Name, Street: a.Street, City: a.City, Zip: a.Zip, Country: a.Country}
}

func stockLines(lines []order.Line) []inventoryapi.Line {
	out := make([]inventoryapi.Line, len(lines))
	for i, l := range lines {
		out[i] = inventoryapi.Line{SKU: l.SKU, Quantity: l.Quantity}
	}
	return out
}
