// Package prove shows that a module leaves and comes home while customers order, and nothing is lost, doubled or reordered.
//
// It starts a shop of its own with the module's second process beside it, drives orders through HTTP clients, moves the module out
// and back, and ends processes, broker and database sessions in the middle of it if asked to. Then it compares ledgers that do not
// know of each other: what each client was told, what each module holds (its own reports, and its rows read past it), what the card
// provider and the mail folder hold, and what the witness saw: triggers beside the outbox and the inbox of each module, which
// write down every message that was owed to a module, and every time that one was handled.
//
// # Loss and recovery
//
// Everything has an id at both ends. An order carries its client's reference, in its address too, which the shop hands on to shipping;
// a request that is sent again has the Idempotency-Key of the first. So an order that is there once after three attempts is a recovery,
// one that was acknowledged and is not there is a loss, and one reference with two orders, charges or mails is a double, whatever the
// sums say.
//
// # Order
//
// The witness numbers what it sees within the handler's own transaction. The numbers of one publisher, key and handler have to grow
// with the sequence that the publisher gave; a message that was parked counts when its handler has taken it at last. Handlers that
// are declared unordered promise nothing and are left out. Beside that the results are looked at which an order decides: the versions of each
// order's stream and view, and the copies of names and prices, which have to be the last that was acknowledged.
//
// # What it does not see
//
// Requests of one module to another (queries) leave no row; they show in the answers of the requests that need them. A mail's content is
// compared by its subject and recipient alone.
package prove
