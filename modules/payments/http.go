package payments

import (
	"context"
	"fmt"
	"time"

	"github.com/banyan-go/banyan/internal/identity"
	"github.com/banyan-go/banyan/internal/money"
	"github.com/banyan-go/banyan/internal/rest"
	"github.com/banyan-go/banyan/internal/unit"
	"github.com/banyan-go/banyan/modules/payments/internal/payment"
)

// paymentBody is a payment as clients see it.
type paymentBody struct {
	ID            string      `json:"id"`
	OrderID       string      `json:"order_id"`
	CustomerID    string      `json:"customer_id"`
	State         string      `json:"state" enum:"pending,captured,declined,voiding,settled"`
	Amount        money.Money `json:"amount" doc:"Asked for"`
	Captured      money.Money `json:"captured"`
	Refunded      money.Money `json:"refunded"`
	Refunding     money.Money `json:"refunding" doc:"On its way back"`
	DeclineReason string      `json:"decline_reason,omitempty"`
	CreatedAt     time.Time   `json:"created_at"`
	UpdatedAt     time.Time   `json:"updated_at"`
}

func encode(r paymentRow) paymentBody {
	of := func(amount int64) money.Money { return money.Of(amount, r.Currency) }
	return paymentBody{
		ID: r.ID, OrderID: r.OrderID, CustomerID: r.CustomerID, State: r.State, Amount: of(r.Amount), Captured: of(r.Captured),
		Refunded: of(r.Refunded), Refunding: of(r.Refunding), DeclineReason: r.Reason, CreatedAt: r.CreatedAt, UpdatedAt: r.UpdatedAt,
	}
}

// refundBody is a refund as clients see it.
type refundBody struct {
	ID        string      `json:"id"`
	PaymentID string      `json:"payment_id"`
	By        string      `json:"by" enum:"order,staff,void" doc:"Who asked for it"`
	Amount    money.Money `json:"amount"`
	State     string      `json:"state" enum:"pending,done,refused,covered,outside"`
	Reason    string      `json:"reason"`
	Refusal   string      `json:"refusal,omitempty" doc:"Why the card provider refused it"`
	CreatedAt time.Time   `json:"created_at"`
	UpdatedAt time.Time   `json:"updated_at"`
}

// Location is where the refund is seen: with its payment.
func (b refundBody) Location() string { return "/api/payments/" + b.PaymentID }

// entryBody is a line of the ledger as clients see it.
type entryBody struct {
	Transaction string      `json:"transaction"`
	Account     string      `json:"account" enum:"customer_card,shop_clearing,outside"`
	Kind        string      `json:"kind" enum:"capture,refund"`
	Amount      money.Money `json:"amount" doc:"What the account gains; a transaction sums to zero"`
	At          time.Time   `json:"at"`
}

type detailBody struct {
	paymentBody
	Refunds []refundBody `json:"refunds"`
	Entries []entryBody  `json:"entries"`
}

type listInput struct {
	rest.Page
	OrderID    string `query:"order_id" maxLength:"64"`
	CustomerID string `query:"customer_id" maxLength:"64"`
	State      string `query:"state" enum:"pending,captured,declined,voiding,settled"`
}

// list shows the newest payments first. Customers see their own, whatever they filter by.
func (p *payments) list(ctx context.Context, in *listInput) (*rest.Answer[rest.List[paymentBody]], error) {
	q := p.store.Read(ctx).Order("created_at DESC, id DESC").Limit(in.Limit + 1)
	if id := identity.From(ctx); !id.Role.Includes(identity.Staff) {
		q = q.Where("customer_id = ?", id.Subject)
	}
	for _, f := range []struct{ column, value string }{{"order_id", in.OrderID}, {"customer_id", in.CustomerID}, {"state", in.State}} {
		if f.value != "" {
			q = q.Where(f.column+" = ?", f.value)
		}
	}
	if in.Cursor != "" {
		at, id, err := in.AfterTime()
		if err != nil {
			return nil, err
		}
		q = q.Where("(created_at, id) < (?, ?)", at, id)
	}
	var rows []paymentRow
	if err := q.Find(&rows).Error; err != nil {
		return nil, fmt.Errorf("list payments: %w", err)
	}
	return rest.Reply(rest.Cut(rows, in.Limit, encode, func(r paymentRow) string {
		return rest.TimeCursor(r.CreatedAt, r.ID)
	})), nil
}

type getInput struct {
	ID string `path:"id" maxLength:"64"`
}

func (p *payments) get(ctx context.Context, in *getInput) (*rest.Answer[detailBody], error) {
	db := p.store.Read(ctx)
	var rows []paymentRow
	if err := db.Where("id = ?", in.ID).Find(&rows).Error; err != nil {
		return nil, fmt.Errorf("read payment %s: %w", in.ID, err)
	}
	if len(rows) == 0 {
		return nil, noSuchPayment()
	}
	if err := identity.NeedSelf(ctx, rows[0].CustomerID, "payment"); err != nil {
		return nil, err
	}
	body := detailBody{paymentBody: encode(rows[0]), Refunds: []refundBody{}, Entries: []entryBody{}}
	var refunds []refundRow
	if err := db.Where("payment_id = ?", in.ID).Order("created_at, id").Find(&refunds).Error; err != nil {
		return nil, fmt.Errorf("read refunds of payment %s: %w", in.ID, err)
	}
	for _, r := range refunds {
		body.Refunds = append(body.Refunds, encodeRefund(r, rows[0].Currency))
	}
	var entries []entryRow
	if err := db.Where("payment_id = ?", in.ID).Order("booked_at, transaction_id, amount").Find(&entries).Error; err != nil {
		return nil, fmt.Errorf("read entries of payment %s: %w", in.ID, err)
	}
	for _, e := range entries {
		body.Entries = append(body.Entries, entryBody{Transaction: e.TransactionID, Account: e.Account, Kind: e.Kind, Amount: money.Of(e.Amount, e.Currency), At: e.BookedAt})
	}
	return rest.Reply(body), nil
}

func encodeRefund(r refundRow, currency string) refundBody {
	return refundBody{
		ID: r.ID, PaymentID: r.PaymentID, By: r.AskedBy, Amount: money.Of(r.Amount, currency), State: r.State, Reason: r.Reason,
		Refusal: r.Refusal, CreatedAt: r.CreatedAt, UpdatedAt: r.UpdatedAt,
	}
}

type refundInput struct {
	ID   string `path:"id" maxLength:"64"`
	Body struct {
		Amount  int64  `json:"amount" minimum:"1" maximum:"100000000000" doc:"Minor units of the payment's currency, as in 255 for 2.55; at most what is left of the payment"`
		Reason  string `json:"reason" minLength:"1" maxLength:"200" pattern:"^[\\P{Cc}\\r\\n\\t]*$" patternDescription:"text without control characters"`
		Outside bool   `json:"outside,omitempty" doc:"Staff have paid it back in another way than to the card: this only writes it down"`
	}
}

func (p *payments) refundByStaff(ctx context.Context, in *refundInput) (*rest.Answer[refundBody], error) {
	return rest.Commit(ctx, p.store, func(_ context.Context, w *unit.Work) (refundBody, error) {
		after, r, err := goodwill(w, in.ID, in.Body.Amount, in.Body.Reason, in.Body.Outside)
		if err != nil {
			return refundBody{}, err
		}
		return refundBody{
			ID: r.ID, PaymentID: after.ID, By: string(payment.ByStaff), Amount: money.Of(r.Amount, after.Amount.Currency),
			State: string(r.State), Reason: r.Reason, CreatedAt: w.Now(), UpdatedAt: w.Now(),
		}, nil
	})
}
