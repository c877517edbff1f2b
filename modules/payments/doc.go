// Package payments moves the money of orders: it charges cards, refunds, voids, and keeps the ledger.
//
// It is driven by three durable commands, Charge, Refund and Void, each answered by an event; the rules and the drawing
// of their states are in internal/payment.
//
//	owns        payments (one per order), refunds, ledger entries
//	announces   PaymentCaptured, PaymentDeclined, PaymentRefunded, RefundRefused, PaymentSettled
//	listens to  users.user_erased
//
// # Invariants
//
// A customer is charged at most once per order, never more goes back than was captured, an order that was voided at any
// moment ends at zero, and the entries of each transaction of the ledger sum to zero.
//
// # External effects
//
// Each charge and refund takes three steps: the unit of work that handles the command commits the intent; then the
// provider is called with an id that is always the same, outside of any transaction; the unit of work after that commits
// the outcome with its ledger entries and its event. So a charge is two durable commits. A call without a definite
// outcome (time-out, lost reply, outage) is called again with backoff, and the provider, which knows the id, says what
// happened before. A void does not try to overtake a call that may be under way: a provider can say "unknown" of a
// charge that it applies a moment later. It waits for the outcome and gives the money back.
//
// # What events say
//
// PaymentSettled.Refunded is all that went back to the customer of the voided order, earlier refunds included. The refund
// that a void makes is told by PaymentSettled alone. An order's refund gets what is left of the payment, because staff may have
// given a part back before; the event says what moved. PaymentRefunded of zero answers a refund for which nothing was left, or
// that a void covers. A command that is repeated is answered once. A refund that the provider refuses is told by
// RefundRefused, whoever asked for it, that of a void too. It stays visible (reports, state refused) and its amount stays with the payment until staff refund it anew, to
// the card or outside of it; a voided payment settles only then.
//
// # Outside the card
//
// What a closed card does not take, staff pay back by a transfer or in cash, and write it down: a refund with "outside". It is
// bounded by what is left of the payment, like any other; it goes from the shop to an account of its own in the ledger, the
// provider is never asked, and the reconciliation expects nothing of it there. It is not announced: PaymentRefunded tells
// customers to look at their card. Only that it settles a voided payment is told.
//
// # Personal data
//
// Payments keeps ids and card tokens, never card numbers. When a user is erased, the tokens on the user's payments are
// blanked; a charge under way keeps its own copy until the provider has answered.
//
// # The provider
//
// Provider is what payments needs of a card provider, in its own words; an implementation translates (provider.go).
// The one here is simulated: internal/cardsim lists its test cards and how it keeps its record. The record is a file, by
// default in the module's folder; processes on several machines would each have their own, so there the
// simulation cannot vouch for a single charge.
package payments
