// Package inventory owns the stock of each product, what orders have reserved of it, and the journal of what came to
// the shelf and left it.
//
// It takes durable commands, keyed by the order: Reserve, Commit, Release, Restock (inventoryapi). It listens to the
// catalog, so that a new product is known before its first delivery. It announces what became of each command,
// reservations that expired, and products that went below their low mark or came back to it. The rules are in
// internal/stock, with a drawing of the states of a reservation.
//
// Invariants:
//   - 0 <= reserved <= on hand of each product, whoever asks at the same time: the rows of the products are locked in
//     sorted order before they are judged, and the database checks it once more. Nothing is ever oversold.
//   - A reservation holds all of its lines or none, and not for ever: a timer of its own gives them back.
//   - Reserved is the sum of what held reservations hold; on hand is the sum of the product's movements.
//   - A Release that overtakes its Reserve leaves a tombstone, and the late Reserve is refused.
//   - A delivery counts once per reference, a return once per return id, and an order never brings more back than it took.
//
// A Commit should come while the reservation is held: orders commits after the capture and reserves for longer than
// a capture may take. If it comes after the expiry all the same, the units are taken again when all of them are still
// there, and the commit counts. If others have bought them meanwhile, nothing is taken: what is missing is noted
// at the reservation (GET /api/inventory/reservations/{order_id}) and ReservationExpired is announced once more. The
// order must then cancel and give the money back; it may wait for a delivery and send Commit again instead.
package inventory
