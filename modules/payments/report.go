package payments

import (
	"context"
	"fmt"
	"strings"

	"github.com/banyan-go/banyan/internal/rest"
	"github.com/banyan-go/banyan/modules/payments/internal/payment"
)

// customerBody is what a customer has paid and got back in a currency.
type customerBody struct {
	CustomerID string `json:"customer_id"`
	Currency   string `json:"currency"`
	Payments   int64  `json:"payments"`
	Captured   int64  `json:"captured" doc:"Minor units"`
	Refunded   int64  `json:"refunded" doc:"Minor units"`
}

type customersInput struct{ rest.Page }

// reportCustomers has an item per customer and currency. Sums are cast because PostgreSQL sums integers to decimals.
func (p *payments) reportCustomers(ctx context.Context, in *customersInput) (*rest.Answer[rest.List[customerBody]], error) {
	currency, customer, _ := strings.Cut(in.Cursor, ".")
	if in.Cursor != "" && (customer == "" || len(currency) != 3) {
		return nil, rest.BadCursor()
	}
	var rows []customerBody
	// A tombstone without a charge belongs to nobody; its empty customer is below every cursor.
	err := p.store.Read(ctx).Raw(`SELECT customer_id, currency, count(*) AS payments,
			CAST(sum(captured) AS BIGINT) AS captured, CAST(sum(refunded) AS BIGINT) AS refunded
		FROM payments WHERE customer_id <> '' AND (customer_id, currency) > (?, ?)
		GROUP BY customer_id, currency ORDER BY customer_id, currency LIMIT ?`, customer, currency, in.Limit+1).Scan(&rows).Error
	if err != nil {
		return nil, fmt.Errorf("report customers: %w", err)
	}
	return rest.Reply(rest.Cut(rows, in.Limit, func(r customerBody) customerBody { return r }, func(r customerBody) string {
		return r.Currency + "." + r.CustomerID
	})), nil
}

// summaryBody sums up all payments.
type summaryBody struct {
	Payments   stateCounts  `json:"payments" doc:"How many are in which state"`
	Refunds    refundCounts `json:"refunds" doc:"How many are in which state"`
	Unsettled  int64        `json:"unsettled" doc:"Payments and refunds whose outcome is not known yet"`
	Totals     []totalBody  `json:"totals" doc:"By currency"`
	Unbalanced int64        `json:"unbalanced" doc:"Transactions of the ledger that do not sum to zero; always 0"`
}

type stateCounts struct {
	Pending  int64 `json:"pending"`
	Captured int64 `json:"captured"`
	Declined int64 `json:"declined"`
	Voiding  int64 `json:"voiding"`
	Settled  int64 `json:"settled"`
}

type refundCounts struct {
	Pending int64 `json:"pending"`
	Done    int64 `json:"done"`
	Refused int64 `json:"refused"`
	Covered int64 `json:"covered"`
	Outside int64 `json:"outside"`
}

type totalBody struct {
	Currency  string `json:"currency"`
	Captured  int64  `json:"captured" doc:"Minor units"`
	Refunded  int64  `json:"refunded" doc:"Minor units"`
	Refunding int64  `json:"refunding" doc:"Minor units on their way back"`
	Outside   int64  `json:"outside" doc:"Of refunded, what staff paid back in another way than to the card; the provider holds captured less refunded and this"`
	Clearing  int64  `json:"clearing" doc:"Balance of the shop in the ledger; captured less refunded"`
	LedgerSum int64  `json:"ledger_sum" doc:"Of all entries; always 0"`
}

type summaryInput struct{}

func (p *payments) reportSummary(ctx context.Context, _ *summaryInput) (*rest.Answer[summaryBody], error) {
	db := p.store.Read(ctx)
	body := summaryBody{Totals: []totalBody{}}
	type count struct {
		State string
		N     int64
	}
	var counts []count
	if err := db.Raw("SELECT state, count(*) AS n FROM payments GROUP BY state").Scan(&counts).Error; err != nil {
		return nil, fmt.Errorf("count payments: %w", err)
	}
	for _, c := range counts {
		switch payment.State(c.State) {
		case payment.StatePending:
			body.Payments.Pending = c.N
		case payment.StateCaptured:
			body.Payments.Captured = c.N
		case payment.StateDeclined:
			body.Payments.Declined = c.N
		case payment.StateVoiding:
			body.Payments.Voiding = c.N
		case payment.StateSettled:
			body.Payments.Settled = c.N
		}
	}
	counts = nil
	if err := db.Raw("SELECT state, count(*) AS n FROM refunds GROUP BY state").Scan(&counts).Error; err != nil {
		return nil, fmt.Errorf("count refunds: %w", err)
	}
	for _, c := range counts {
		switch payment.RefundState(c.State) {
		case payment.RefundPending:
			body.Refunds.Pending = c.N
		case payment.RefundDone:
			body.Refunds.Done = c.N
		case payment.RefundRefusal:
			body.Refunds.Refused = c.N
		case payment.RefundCover:
			body.Refunds.Covered = c.N
		case payment.RefundOutside:
			body.Refunds.Outside = c.N
		}
	}
	body.Unsettled = body.Payments.Pending + body.Payments.Voiding + body.Refunds.Pending
	err := db.Raw(`SELECT p.currency, p.captured, p.refunded, p.refunding, COALESCE(e.outside, 0) AS outside, COALESCE(e.clearing, 0) AS clearing, COALESCE(e.ledger_sum, 0) AS ledger_sum
		FROM (SELECT currency, CAST(sum(captured) AS BIGINT) AS captured, CAST(sum(refunded) AS BIGINT) AS refunded,
				CAST(sum(refunding) AS BIGINT) AS refunding
			FROM payments WHERE currency <> '' GROUP BY currency) p
		LEFT JOIN (SELECT currency, CAST(sum(amount) AS BIGINT) AS ledger_sum,
				CAST(sum(CASE WHEN account = ? THEN amount ELSE 0 END) AS BIGINT) AS outside,
				CAST(sum(CASE WHEN account = ? THEN amount ELSE 0 END) AS BIGINT) AS clearing
			FROM entries GROUP BY currency) e ON e.currency = p.currency
		ORDER BY p.currency`, string(payment.Outside), string(payment.ShopClearing)).Scan(&body.Totals).Error
	if err != nil {
		return nil, fmt.Errorf("sum payments: %w", err)
	}
	err = db.Raw("SELECT count(*) FROM (SELECT transaction_id FROM entries GROUP BY transaction_id HAVING sum(amount) <> 0) t").Scan(&body.Unbalanced).Error
	if err != nil {
		return nil, fmt.Errorf("check the ledger: %w", err)
	}
	return rest.Reply(body), nil
}
