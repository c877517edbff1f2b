package payments

import (
	"errors"
	"fmt"
	"time"

	"gorm.io/gorm"
	"gorm.io/gorm/clause"

	"github.com/banyan-go/banyan/internal/errs"
	"github.com/banyan-go/banyan/internal/money"
	"github.com/banyan-go/banyan/internal/unit"
	"github.com/banyan-go/banyan/modules/payments/internal/payment"
)

type paymentRow struct {
	ID         string `gorm:"primaryKey"`
	OrderID    string
	CustomerID string
	Card       string
	Currency   string
	Amount     int64
	State      string
	Charge     string
	Reason     string
	Captured   int64
	Refunded   int64
	Refunding  int64
	Voided     bool
	VoidReason string
	Settled    bool
	CreatedAt  time.Time `gorm:"autoCreateTime:false"`
	UpdatedAt  time.Time `gorm:"autoUpdateTime:false"`
}

func (paymentRow) TableName() string { return "payments" }

type refundRow struct {
	PaymentID string `gorm:"primaryKey"`
	ID        string `gorm:"primaryKey"`
	AskedBy   string
	Amount    int64
	State     string
	Reason    string
	Refusal   string
	CreatedAt time.Time `gorm:"autoCreateTime:false"`
	UpdatedAt time.Time `gorm:"autoUpdateTime:false"`
}

func (refundRow) TableName() string { return "refunds" }

type entryRow struct {
	TransactionID string `gorm:"primaryKey"`
	Account       string `gorm:"primaryKey"`
	PaymentID     string
	Kind          string
	Amount        int64
	Currency      string
	BookedAt      time.Time
}

func (entryRow) TableName() string { return "entries" }

func (r paymentRow) payment() payment.Payment {
	return payment.Payment{
		ID: r.ID, OrderID: r.OrderID, CustomerID: r.CustomerID, Card: r.Card, Amount: money.Of(r.Amount, r.Currency),
		Charge: payment.Charge(r.Charge), Reason: r.Reason, Captured: r.Captured, Refunded: r.Refunded, Refunding: r.Refunding,
		Voided: r.Voided, VoidReason: r.VoidReason, Settled: r.Settled,
	}
}

func (r refundRow) refund() payment.Refund {
	return payment.Refund{ID: r.ID, By: payment.By(r.AskedBy), Amount: r.Amount, State: payment.RefundState(r.State), Reason: r.Reason, Refusal: r.Refusal}
}

// lockOrder reads the payment of an order with those of its refunds that are named, and holds it until the commit. An
// order without one has the zero payment.
func lockOrder(w *unit.Work, orderID string, refundIDs ...string) (payment.Payment, error) {
	p, err := lock(w, "order_id = ?", orderID)
	if errs.Is(err, errs.NotFound) {
		return payment.Payment{}, nil
	}
	if err != nil || len(refundIDs) == 0 {
		return p, err
	}
	var rows []refundRow
	if err := w.DB.Where("payment_id = ? AND id IN ?", p.ID, refundIDs).Find(&rows).Error; err != nil {
		return p, fmt.Errorf("read refunds of payment %s: %w", p.ID, err)
	}
	p.Refunds = make(map[string]payment.Refund, len(rows))
	for _, r := range rows {
		p.Refunds[r.ID] = r.refund()
	}
	return p, nil
}

// lockPayment reads a payment and holds it until the commit.
func lockPayment(w *unit.Work, id string) (payment.Payment, error) { return lock(w, "id = ?", id) }

func lock(w *unit.Work, where, id string) (payment.Payment, error) {
	var row paymentRow
	err := w.DB.Clauses(clause.Locking{Strength: "UPDATE"}).Where(where, id).Take(&row).Error
	if errors.Is(err, gorm.ErrRecordNotFound) {
		return payment.Payment{}, noSuchPayment()
	}
	if err != nil {
		return payment.Payment{}, fmt.Errorf("lock payment %s: %w", id, err)
	}
	return row.payment(), nil
}

func noSuchPayment() error { return errs.New(errs.NotFound, "no such payment") }

// keep stores what events made of a locked payment: its row, refunds and ledger entries, the calls of the provider that
// they ask for, and what others are told.
func keep(w *unit.Work, before payment.Payment, events []payment.Event) error {
	if len(events) == 0 {
		return nil
	}
	p := before
	var entries []entryRow
	for _, e := range events {
		p = p.Apply(e)
		for _, line := range p.Entries(e) {
			entries = append(entries, entryRow{
				TransactionID: line.Transaction, Account: string(line.Account), PaymentID: p.ID, Kind: string(line.Kind),
				Amount: line.Amount, Currency: line.Currency, BookedAt: w.Now(),
			})
		}
		if err := keepRefund(w, p, e); err != nil {
			return err
		}
		if told := announcement(p, e, w.Now()); told != nil {
			w.Publish(told)
		}
	}
	if p.Charge == payment.ChargePending && before.Charge == payment.ChargeNone {
		w.Effect(effectCharge, p.ID, chargeIntent{OrderID: p.OrderID, Amount: p.Amount, Card: p.Card})
	}
	if err := keepPayment(w, before, p); err != nil {
		return err
	}
	if len(entries) > 0 {
		if err := w.Later().Create(&entries).Error; err != nil {
			return fmt.Errorf("book payment %s: %w", p.ID, err)
		}
	}
	return nil
}

func keepPayment(w *unit.Work, before, p payment.Payment) error {
	row := paymentRow{
		ID: p.ID, OrderID: p.OrderID, CustomerID: p.CustomerID, Card: p.Card, Currency: p.Amount.Currency, Amount: p.Amount.Amount,
		State: string(p.State()), Charge: string(p.Charge), Reason: p.Reason, Captured: p.Captured, Refunded: p.Refunded, Refunding: p.Refunding,
		Voided: p.Voided, VoidReason: p.VoidReason, Settled: p.Settled, CreatedAt: w.Now(), UpdatedAt: w.Now(),
	}
	if before.ID == "" {
		// The charge of an order may come after its customer has gone: the intent alone holds the card, until it is carried out.
		gone, err := w.Erased(p.CustomerID)
		if err != nil {
			return err
		}
		if gone {
			row.Card = ""
		}
		err = w.DB.Create(&row).Error
		if errors.Is(err, gorm.ErrDuplicatedKey) {
			// Another unit of work has just made the payment of this order: seen from now on, if this one runs again.
			return errs.Wrap(errs.Unavailable, err, "the order is being paid by another request")
		}
		if err != nil {
			return fmt.Errorf("add payment %s: %w", p.ID, err)
		}
		return nil
	}
	err := w.Later().Model(&paymentRow{}).Where("id = ?", p.ID).Select("*").Omit("id", "order_id", "created_at").Updates(row).Error
	if err != nil {
		return fmt.Errorf("change payment %s: %w", p.ID, err)
	}
	return nil
}

// keepRefund stores what an event says of a refund, and asks for the call of the provider if it is a new one.
func keepRefund(w *unit.Work, p payment.Payment, e payment.Event) error {
	var r payment.Refund
	switch e := e.(type) {
	case payment.RefundRequested:
		r = e.Refund
		w.Effect(effectRefund, payment.RefundKey(p.ID, r.ID), refundIntent{
			OrderID: p.OrderID, PaymentID: p.ID, RefundID: r.ID, Amount: money.Of(r.Amount, p.Amount.Currency),
		})
	case payment.RefundCovered:
		r = e.Refund
	case payment.RefundedOutside:
		r = e.Refund
	case payment.Refunded:
		return changeRefund(w, p, e.Refund)
	case payment.RefundRefused:
		return changeRefund(w, p, e.Refund)
	default:
		return nil
	}
	row := refundRow{
		PaymentID: p.ID, ID: r.ID, AskedBy: string(r.By), Amount: r.Amount, State: string(r.State), Reason: r.Reason, Refusal: r.Refusal,
		CreatedAt: w.Now(), UpdatedAt: w.Now(),
	}
	if err := w.Later().Create(&row).Error; err != nil {
		return fmt.Errorf("add refund %s of payment %s: %w", r.ID, p.ID, err)
	}
	return nil
}

func changeRefund(w *unit.Work, p payment.Payment, r payment.Refund) error {
	err := w.Later().Exec("UPDATE refunds SET state = ?, refusal = ?, updated_at = ? WHERE payment_id = ? AND id = ?",
		string(r.State), r.Refusal, w.Now(), p.ID, r.ID).Error
	if err != nil {
		return fmt.Errorf("change refund %s of payment %s: %w", r.ID, p.ID, err)
	}
	return nil
}
