package payments

import (
	"context"
	"fmt"

	"gorm.io/gorm"

	"github.com/banyan-go/banyan/internal/errs"
	"github.com/banyan-go/banyan/internal/money"
	"github.com/banyan-go/banyan/internal/rest"
	"github.com/banyan-go/banyan/modules/payments/internal/payment"
)

// What can be wrong between the ledger and the provider.
const (
	missingAtProvider = "missing_at_provider" // booked, but the provider did not do it
	missingInLedger   = "missing_in_ledger"   // the provider did it, but it is not booked
	doubled           = "doubled"             // the provider did it more than once
	different         = "different"           // another amount or currency
)

// differenceBody is a charge or refund that the ledger and the provider do not agree on.
type differenceBody struct {
	PaymentID string      `json:"payment_id"`
	RefundID  string      `json:"refund_id,omitempty"`
	Problem   string      `json:"problem" enum:"missing_at_provider,missing_in_ledger,doubled,different"`
	Ledger    money.Money `json:"ledger"`
	Provider  money.Money `json:"provider"`
	Times     int         `json:"times" doc:"How often the provider did it"`
}

type reconciliationBody struct {
	Checked     int              `json:"checked" doc:"Charges and refunds compared"`
	UnderWay    int              `json:"under_way" doc:"Charges and refunds left out: their outcome is not known yet"`
	Differences []differenceBody `json:"differences"`
	Next        string           `json:"next,omitempty" doc:"cursor of the next page; absent on the last one"`
}

type reconcileInput struct{ rest.Page }

// reconcile reads a page of payments first and asks the provider then: what is booked must be known there by now.
func (p *payments) reconcile(ctx context.Context, in *reconcileInput) (*rest.Answer[reconciliationBody], error) {
	after, err := in.AfterID()
	if err != nil {
		return nil, err
	}
	items, next, err := booked(p.store.Read(ctx), after, in.Limit)
	if err != nil {
		return nil, err
	}
	body := reconciliationBody{Differences: []differenceBody{}, Next: next}
	for _, b := range items {
		if b.pending {
			body.UnderWay++
			continue
		}
		body.Checked++
		outcome, found, err := p.provider.Lookup(ctx, b.id)
		if err != nil {
			return nil, errs.Wrap(errs.Unavailable, fmt.Errorf("look up %s: %w", b.id, err), "the card provider cannot be reached")
		}
		if problem := b.compare(outcome, found); problem != "" {
			body.Differences = append(body.Differences, differenceBody{
				PaymentID: b.paymentID, RefundID: b.refundID, Problem: problem, Ledger: b.amount, Provider: outcome.Amount, Times: outcome.Times,
			})
		}
	}
	return rest.Reply(body), nil
}

// booking is a charge or refund as the ledger has it; its amount is zero if it moved no money.
type booking struct {
	id                  string // by which the provider knows it
	paymentID, refundID string
	amount              money.Money
	pending             bool
}

func (b booking) compare(o Outcome, found bool) string {
	moved := found && o.Approved
	switch {
	case found && o.Times > 1:
		return doubled
	case b.amount.Amount > 0 && !moved:
		return missingAtProvider
	case b.amount.Amount == 0 && moved && o.Amount.Amount > 0:
		return missingInLedger
	case moved && b.amount != o.Amount:
		return different
	}
	return ""
}

// booked reads the charges and refunds of a page of payments.
func booked(db *gorm.DB, after string, limit int) (items []booking, next string, err error) {
	var rows []paymentRow
	if err := db.Where("id > ?", after).Order("id").Limit(limit + 1).Find(&rows).Error; err != nil {
		return nil, "", fmt.Errorf("read payments to reconcile: %w", err)
	}
	if len(rows) > limit {
		rows = rows[:limit]
		next = rows[limit-1].ID
	}
	if len(rows) == 0 {
		return nil, "", nil
	}
	ids := make([]string, len(rows))
	for i, r := range rows {
		ids[i] = r.ID
	}
	// Refunds before entries: one that gets done in between is left out as pending, not taken for unbooked.
	var refunds []refundRow
	if err := db.Where("payment_id IN ?", ids).Order("payment_id, id").Find(&refunds).Error; err != nil {
		return nil, "", fmt.Errorf("read refunds to reconcile: %w", err)
	}
	var entries []entryRow
	// What staff paid back outside the card is none of the provider's: there it is as if it had never been.
	if err := db.Where("payment_id IN ? AND amount > 0 AND account <> ?", ids, string(payment.Outside)).Find(&entries).Error; err != nil {
		return nil, "", fmt.Errorf("read entries to reconcile: %w", err)
	}
	amounts := make(map[string]money.Money, len(entries))
	for _, e := range entries {
		amounts[e.TransactionID] = money.Of(e.Amount, e.Currency)
	}
	for _, r := range rows {
		items = append(items, booking{id: r.ID, paymentID: r.ID, amount: amounts[r.ID], pending: r.Charge == string(payment.ChargePending)})
	}
	for _, r := range refunds {
		key := payment.RefundKey(r.PaymentID, r.ID)
		items = append(items, booking{id: key, paymentID: r.PaymentID, refundID: r.ID, amount: amounts[key], pending: r.State == string(payment.RefundPending)})
	}
	return items, next, nil
}
