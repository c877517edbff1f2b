package payment

// Account is a side of the ledger.
type Account string

// The accounts. Money is counted where it is: what a customer paid is missing from the card and is in clearing.
const (
	CustomerCard Account = "customer_card"
	ShopClearing Account = "shop_clearing"
	Outside      Account = "outside" // paid back by staff themselves: the card provider still holds it for the shop
)

// Kind is what a transaction of the ledger is about.
type Kind string

// The kinds of transactions.
const (
	KindCapture Kind = "capture"
	KindRefund  Kind = "refund"
)

// Entry is one line of a transaction; the amounts of a transaction sum to zero.
type Entry struct {
	Transaction string // also the id under which the provider knows the charge or refund
	Account     Account
	Kind        Kind
	Amount      int64
	Currency    string
}

// RefundKey is the id under which the provider, the ledger and the effect know a refund. An order may use its
// own refund ids, so they are unique within the payment only.
func RefundKey(paymentID, refundID string) string { return paymentID + ":" + refundID }

// Entries is what an event writes into the ledger.
func (p Payment) Entries(e Event) []Entry {
	switch e := e.(type) {
	case Captured:
		return p.transfer(p.ID, KindCapture, CustomerCard, ShopClearing, e.Amount)
	case RefundedOutside:
		return p.transfer(RefundKey(p.ID, e.Refund.ID), KindRefund, ShopClearing, Outside, e.Refund.Amount)
	case Refunded:
		return p.transfer(RefundKey(p.ID, e.Refund.ID), KindRefund, ShopClearing, CustomerCard, e.Refund.Amount)
	}
	return nil
}

func (p Payment) transfer(transaction string, kind Kind, from, to Account, amount int64) []Entry {
	if amount == 0 {
		return nil
	}
	return []Entry{
		{Transaction: transaction, Account: from, Kind: kind, Amount: -amount, Currency: p.Amount.Currency},
		{Transaction: transaction, Account: to, Kind: kind, Amount: amount, Currency: p.Amount.Currency},
	}
}
