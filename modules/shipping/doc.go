// Package shipping owns the shipments: what is to be packed, where it goes, who carries it, and when it arrived.
//
// It is choreographed: it makes a shipment when orders announces a confirmed order and stops it when the order is
// cancelled; it calls nobody. It announces shipments that were created, dispatched, delivered or cancelled. The rules
// are in internal/shipment, with a drawing of the states.
//
// Invariants:
//   - One shipment per order, however often and in whichever order confirmation and cancellation arrive: a cancellation
//     that comes first leaves a tombstone (void), and nothing is shipped.
//   - What was cancelled in time never leaves. What left already is marked to be called back, which staff see.
//   - The address is personal data. It is blanked when the customer is erased, and what arrives later about
//     an erased customer is kept without it.
package shipping
