package payments

import (
	"github.com/banyan-go/banyan/internal/identity"
	"github.com/banyan-go/banyan/internal/module"
	"github.com/banyan-go/banyan/internal/rest"
	"github.com/banyan-go/banyan/internal/unit"
	"github.com/banyan-go/banyan/modules/payments/paymentsapi"
	"github.com/banyan-go/banyan/modules/users/usersapi"
)

// Calls of the provider, each between the commit of its intent and the commit of its outcome.
const (
	effectCharge = "provider-charge"
	effectRefund = "provider-refund"
)

// Descriptor says what payments is.
func Descriptor() module.Descriptor {
	return module.Descriptor{
		Name:     "payments",
		Summary:  "charge, refund, ledger; a card provider behind an anti-corruption layer",
		Contract: paymentsapi.Contract(),
		Routes: []module.Route{
			{ID: "list-payments", Method: "GET", Path: "/api/payments", Class: module.Read, Auth: identity.Customer, Summary: "List payments: one's own, or all for staff"},
			{ID: "get-payment", Method: "GET", Path: "/api/payments/{id}", Class: module.Read, Auth: identity.Customer, Summary: "Read a payment with its refunds and ledger entries"},
			{ID: "refund-payment", Method: "POST", Path: "/api/payments/{id}/refunds", Class: module.Write, Auth: identity.Staff, Status: 202, Money: true, Summary: "Give a part of a payment back"},
			{ID: "report-payments-by-customer", Method: "GET", Path: "/api/payments/reports/customers", Class: module.Read, Auth: identity.Staff, Summary: "Sum up payments by customer and currency"},
			{ID: "report-payments", Method: "GET", Path: "/api/payments/reports/summary", Class: module.Read, Auth: identity.Staff, Summary: "Sum up all payments and check the ledger"},
			{ID: "reconcile-payments", Method: "GET", Path: "/api/payments/reports/reconciliation", Class: module.Read, Auth: identity.Staff, Summary: "Compare payments with the card provider's record"},
		},
		Subscriptions: []module.Subscription{
			{Handler: "erase", Events: []string{usersapi.UserErased{}.MessageName()}},
		},
		Effects: []string{effectCharge, effectRefund},
	}
}

// payments is the running module.
type payments struct {
	store    *unit.Store
	provider Provider
}

// New wires payments with the simulated provider.
func New(d module.Deps, cfg Config) *module.Module {
	return NewWith(d, cfg, newSimulated(d.Files, cfg.Provider))
}

// NewWith wires payments with a provider.
func NewWith(d module.Deps, cfg Config, provider Provider) *module.Module {
	m := module.New(Descriptor())
	p := &payments{store: d.Store, provider: guard(provider, cfg.Provider.Timeout)}
	module.OnCommand(m, p.charge)
	module.OnCommand(m, p.refund)
	module.OnCommand(m, p.void)
	module.OnEffect(m, effectCharge, p.callCharge)
	module.OnEffect(m, effectRefund, p.callRefund)
	module.OnEvent(m, "erase", p.onUserErased)
	rest.Handle(m, "list-payments", p.list)
	rest.Handle(m, "get-payment", p.get)
	rest.Handle(m, "refund-payment", p.refundByStaff)
	rest.Handle(m, "report-payments-by-customer", p.reportCustomers)
	rest.Handle(m, "report-payments", p.reportSummary)
	rest.Handle(m, "reconcile-payments", p.reconcile)
	return m
}
