// Package shipping owns the shipments: what is to be packed, where it goes, who carries it, and when it arrived.
//
// It is choreographed: it makes a shipment when orders announces a confirmed order; it calls nobody. It announces shipments
// that were created, dispatched, delivered or cancelled. The one command that it takes is CancelShipment, with which orders asks
// before it calls a confirmed order off, or when nothing is left of one that came back before it left. The rules are in internal/shipment, with a drawing of the states.
//
// Invariants:
//   - One shipment per order, however often and in whichever order confirmation and cancellation arrive: a cancellation
//     that comes first leaves a tombstone (void), and nothing is shipped.
//   - Dispatch or CancelShipment, whichever is committed first, wins for good: what was answered with ShipmentCancelled never
//     leaves, what has left is answered with CancellationRefused. What leaves although its order is cancelled, because nobody
//     asked, is marked to be called back, which staff see.
//   - A shipment whose order came back in part before it left is not dispatched by itself, only by staff. What is in it is what
//     the order says is left; shipments have no lines of their own.
//   - The address is personal data. It is blanked when the customer is erased, and what arrives later about
//     an erased customer is kept without it.
package shipping
