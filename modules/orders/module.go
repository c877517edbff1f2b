package orders

import (
	"log/slog"

	"github.com/banyan-go/banyan/internal/clock"
	"github.com/banyan-go/banyan/internal/identity"
	"github.com/banyan-go/banyan/internal/module"
	"github.com/banyan-go/banyan/internal/rest"
	"github.com/banyan-go/banyan/internal/unit"
	"github.com/banyan-go/banyan/modules/carts/cartsapi"
	"github.com/banyan-go/banyan/modules/catalog/catalogapi"
	"github.com/banyan-go/banyan/modules/orders/ordersapi"
)

// checkoutTimer is the time-out of a checkout, by order id.
const checkoutTimer = "checkout-timeout"

// Descriptor says what orders is.
func Descriptor() module.Descriptor {
	return module.Descriptor{
		Name:     "orders",
		Summary:  "takes orders, sees them through checkout, fulfilment and returns",
		Contract: ordersapi.Contract(),
		Routes: []module.Route{
			{ID: "place-order", Method: "POST", Path: "/api/orders", Class: module.Write, Auth: identity.Customer, Summary: "Place an order", Status: 201, Money: true},
			{ID: "list-orders", Method: "GET", Path: "/api/orders", Class: module.Read, Auth: identity.Customer, Summary: "List orders, newest first"},
			{ID: "orders-summary", Method: "GET", Path: "/api/orders/reports/summary", Class: module.Read, Auth: identity.Staff, Summary: "Figures over all orders"},
			{ID: "orders-by-customer", Method: "GET", Path: "/api/orders/reports/customers", Class: module.Read, Auth: identity.Staff, Summary: "Figures by customer"},
			{ID: "get-order", Method: "GET", Path: "/api/orders/{id}", Class: module.Read, Auth: identity.Customer, Summary: "An order, now or as it was"},
			{ID: "order-history", Method: "GET", Path: "/api/orders/{id}/history", Class: module.Read, Auth: identity.Customer, Summary: "What happened to an order"},
			{ID: "follow-order", Method: "GET", Path: "/api/orders/{id}/events", Class: module.Stream, Auth: identity.Customer, Summary: "Follow an order live (server-sent events)"},
			{ID: "cancel-order", Method: "POST", Path: "/api/orders/{id}/cancel", Class: module.Write, Auth: identity.Customer, Summary: "Cancel an order that has not left", Money: true},
			{ID: "return-order", Method: "POST", Path: "/api/orders/{id}/returns", Class: module.Write, Auth: identity.Customer, Summary: "Return units of an order", Status: 201, Money: true},
			{ID: "list-returns", Method: "GET", Path: "/api/orders/{id}/returns", Class: module.Read, Auth: identity.Customer, Summary: "Returns of an order"},
		},
		Subscriptions: []module.Subscription{
			{Handler: "stock", Events: []string{"inventory.stock_reserved.v1", "inventory.reservation_refused.v1", "inventory.reservation_expired.v1", "inventory.reservation_released.v1", "inventory.stock_returned.v1"}, Group: 20},
			{Handler: "payment", Events: []string{"payments.*"}, Group: 20},
			{Handler: "shipment", Events: []string{"shipping.shipment_dispatched.v1", "shipping.shipment_delivered.v1", "shipping.shipment_cancelled.v1", "shipping.cancellation_refused.v1"}, Group: 20},
			{Handler: "price", Events: []string{"catalog.*"}, Group: 50},
			{Handler: "customer", Events: []string{"users.user_registered.v1", "users.user_erased.v1"}},
		},
		Timers: []string{checkoutTimer},
		Asks:   []string{"carts.get_cart.v1", "catalog.get_products.v1"},
		Sends: []string{"inventory.reserve.v1", "inventory.commit.v1", "inventory.release.v1", "inventory.restock.v1",
			"payments.charge.v1", "payments.refund.v1", "payments.void.v1", "shipping.cancel_shipment.v1"},
	}
}

type orders struct {
	store   *unit.Store
	clock   clock.Clock
	log     *slog.Logger
	cfg     Config
	carts   cartsapi.Facade
	catalog catalogapi.Facade
	bell    *bell
}

// New is the module orders, and the projections that can be rebuilt while it runs.
func New(d module.Deps, cfg Config) (*module.Module, *Projections) {
	m := module.New(Descriptor())
	o := &orders{
		store: d.Store, clock: d.Clock, log: d.Log, cfg: cfg,
		carts: cartsapi.NewClient(d.Caller), catalog: catalogapi.NewClient(d.Caller), bell: newBell(),
	}
	rest.Handle(m, "place-order", o.place)
	rest.Handle(m, "list-orders", o.list)
	rest.Handle(m, "orders-summary", o.summary)
	rest.Handle(m, "orders-by-customer", o.byCustomer)
	rest.Handle(m, "get-order", o.get)
	rest.Handle(m, "order-history", o.history)
	rest.Handle(m, "follow-order", o.follow)
	rest.Handle(m, "cancel-order", o.cancel)
	rest.Handle(m, "return-order", o.takeBack)
	rest.Handle(m, "list-returns", o.returns)

	module.OnEvent(m, "stock", o.onStockReserved)
	module.OnEvent(m, "stock", o.onReservationRefused)
	module.OnEvent(m, "stock", o.onReservationExpired)
	module.OnEvent(m, "stock", o.onReservationReleased)
	module.OnEvent(m, "stock", o.onStockReturned)
	module.OnEvent(m, "payment", o.onPaymentCaptured)
	module.OnEvent(m, "payment", o.onPaymentDeclined)
	module.OnEvent(m, "payment", o.onPaymentSettled)
	module.OnEvent(m, "payment", o.onPaymentRefunded)
	module.OnEvent(m, "payment", o.onRefundRefused)
	module.OnEvent(m, "shipment", o.onShipmentDispatched)
	module.OnEvent(m, "shipment", o.onShipmentDelivered)
	module.OnEvent(m, "shipment", o.onShipmentCancelled)
	module.OnEvent(m, "shipment", o.onCancellationRefused)
	module.OnEvent(m, "price", o.onProductAdded)
	module.OnEvent(m, "price", o.onProductChanged)
	module.OnEvent(m, "price", o.onPriceChanged)
	module.OnEvent(m, "price", o.onProductRetired)
	module.OnEvent(m, "customer", o.onUserRegistered)
	module.OnEvent(m, "customer", o.onUserErased)
	module.OnTimer(m, checkoutTimer, o.onCheckoutTimeout)
	module.OnQuery(m, o.onGetOrder)
	return m, &Projections{store: d.Store}
}
