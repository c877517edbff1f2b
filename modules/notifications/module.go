package notifications

import (
	"github.com/banyan-go/banyan/internal/identity"
	"github.com/banyan-go/banyan/internal/module"
	"github.com/banyan-go/banyan/internal/rest"
	"github.com/banyan-go/banyan/internal/unit"
	"github.com/banyan-go/banyan/modules/notifications/internal/letter"
	"github.com/banyan-go/banyan/modules/notifications/internal/mail"
	"github.com/banyan-go/banyan/modules/notifications/notificationsapi"
)

// Descriptor says what notifications is.
func Descriptor() module.Descriptor {
	return module.Descriptor{
		Name:     "notifications",
		Summary:  "choreographed: welcome, receipt, alert, tracking; in the app and by mail",
		Contract: notificationsapi.Contract(),
		Routes: []module.Route{
			{ID: "list-notifications", Method: "GET", Path: "/api/notifications", Class: module.Read, Auth: identity.Customer, Summary: "List own notifications, newest first"},
			{ID: "count-unread-notifications", Method: "GET", Path: "/api/notifications/unread", Class: module.Read, Auth: identity.Customer, Summary: "Count own unread notifications"},
			{ID: "read-notification", Method: "POST", Path: "/api/notifications/{id}/read", Class: module.Write, Auth: identity.Customer, Summary: "Mark a notification as read"},
			{ID: "read-all-notifications", Method: "POST", Path: "/api/notifications/read-all", Class: module.Write, Auth: identity.Customer, Summary: "Mark all own notifications as read"},
			{ID: "report-notifications", Method: "GET", Path: "/api/notifications/report", Class: module.Read, Auth: identity.Staff, Summary: "Count notifications by kind and state"},
		},
		Subscriptions: []module.Subscription{
			{Handler: "users", Events: []string{"users.*"}},
			{Handler: "orders", Events: []string{"orders.order_confirmed.v1", "orders.order_rejected.v1", "orders.order_cancelled.v1"}, Group: 50},
			{Handler: "refunds", Events: []string{"payments.payment_refunded.v1", "payments.refund_refused.v1"}, Group: 50},
			{Handler: "tracking", Events: []string{"shipping.shipment_dispatched.v1", "shipping.shipment_delivered.v1"}, Group: 50},
			{Handler: "stock", Events: []string{"inventory.stock_level_changed.v1"}, Group: 50},
		},
		Effects: []string{effectSend, effectForget},
	}
}

// New wires notifications.
func New(d module.Deps, cfg Config) *module.Module { return build(d, cfg, cfg.sender(d)) }

func build(d module.Deps, cfg Config, sender mail.Sender) *module.Module {
	s := &service{store: d.Store, cfg: cfg, sender: sender, writer: letter.NewWriter()}
	m := module.New(Descriptor())
	rest.Handle(m, "list-notifications", s.list)
	rest.Handle(m, "count-unread-notifications", s.countUnread)
	rest.Handle(m, "read-notification", s.postRead)
	rest.Handle(m, "read-all-notifications", s.postReadAll)
	rest.Handle(m, "report-notifications", s.report)
	module.OnEvent(m, "users", s.userRegistered)
	module.OnEvent(m, "users", s.userInvited)
	module.OnEvent(m, "users", s.profileChanged)
	module.OnEvent(m, "users", s.preferencesChanged)
	module.OnEvent(m, "users", s.roleChanged)
	module.OnEvent(m, "users", s.userErased)
	module.OnEvent(m, "orders", s.orderConfirmed)
	module.OnEvent(m, "orders", s.orderRejected)
	module.OnEvent(m, "orders", s.orderCancelled)
	module.OnEvent(m, "refunds", s.paymentRefunded)
	module.OnEvent(m, "refunds", s.refundRefused)
	module.OnEvent(m, "tracking", s.shipmentDispatched)
	module.OnEvent(m, "tracking", s.shipmentDelivered)
	module.OnEvent(m, "stock", s.stockLevelChanged)
	module.OnEffect(m, effectSend, s.send)
	module.OnEffect(m, effectForget, s.forget)
	m.OnStart(sender.Start)
	return m
}

type service struct {
	store  *unit.Store
	cfg    Config
	sender mail.Sender
	writer *letter.Writer
}
