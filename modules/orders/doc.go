// Package orders takes orders and sees them through: from the click over stock and payment to the goods at the
// customer's, and back when something is returned or goes wrong.
//
// It owns the orders, as streams of private events, and their checkout. It announces ordersapi's events, sends
// commands to inventory, payments and shipping, listens to their answers, and to catalog and users for its copies of
// prices and customers.
//
// An order:
//
//	placed ----> reserved ----> confirmed    (+ fulfilment: not_shipped -> shipped -> delivered)
//	 |  | |       |  |            |   ^      (+ return state: kept -> partly_returned -> returned)
//	 |  | |       |  |            v   | goods left
//	 |  | |       |  |      cancel_requested
//	 |  | |       |  |            | goods stopped
//	 |  | |       |  |            v
//	 |  | +-------|--+------> cancelling ---> cancelled
//	 |  +---------+---------> rejecting ----> rejected        (payment_declined, timed_out)
//	 +------------------------------------> rejected          (out_of_stock)
//
// A confirmed order may leave at any moment, so that whoever cancels it asks shipping first (shipping.cancel_shipment); which of
// dispatch and cancellation was first is decided by the lock of the shipment, there. Only an order whose goods were stopped
// is cancelled; one whose goods have left stays confirmed, and can be returned.
//
// Units may also come back before the goods have left. Shipping leaves the rest to staff then, and is told to keep the goods
// when nothing is left of them. If they leave before it has heard of that, the order tells both: shipped, and returned.
//
// A return is settled when its units are on the shelf and its money went back, or the card provider has refused that
// (refund_refused): then staff pay it back in another way. Where staff have paid back a part of the payment before, a return gets
// what is left of it, be it nothing; its refund and the order's are what payments says then.
//
// So it is on a way back: an order whose money the provider refuses to give back is rejected or cancelled all the same, with
// its stock released and the mark refund_refused. The mark goes when payments has settled: when staff have written down
// there that they paid it back outside the card.
//
// rejecting and cancelling are ways back: the payment is voided first, then the stock released, each only if it was
// begun; the end is announced once both have answered. The saga that drives this is drawn in internal/checkout. Its
// row is locked together with the head of the order's stream, so an answer finds the order either before or after
// any other, never in between, and one that the saga does not wait for changes nothing.
//
// Invariants:
//   - an order that is cancelling or timed out is never confirmed afterwards, whatever arrives late, and
//     holds no stock at its end, and no money unless it is marked refund_refused;
//   - no order is both cancelled and dispatched;
//   - no more units come back than went out, per product and price;
//   - one order per reference, and one per version of a customer's cart;
//   - the read model (order_view, order_line_view, return_view) is a function of the events alone and is written in
//     the unit of work that appends them; totals per customer are sums over it;
//   - personal data of an event (address, free text) stands beside its body and can be erased; the bodies
//     never change.
//
// From the click to a confirmed order there are six durable commits in a row: the order is placed (orders), stock is
// reserved (inventory), the charge is asked for (orders), its intent kept (payments), its outcome kept (payments), the
// order is confirmed (orders).
//
// The card token is kept in the saga's row until the charge is asked for, and in no event.
package orders
