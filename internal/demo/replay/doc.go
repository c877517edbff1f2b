// Package replay is a client that replays Online Retail files against a running shop through its public HTTP API.
//
// It enters customers, products and stock, places each invoice as an order of its customer at the invoice's prices, and
// returns what credits take back (internal/demo/retail says how). Steps are taken in the order of the files by several
// clients at once, those of one customer strictly one after another; an order need be confirmed only before something of
// it is returned. When all is settled it reads the figures back from the shop and compares them with the files'.
//
// # Nothing twice
//
// Every request that changes something carries an Idempotency-Key that is made of what it is about: the invoice, the
// credit and the order, the customer, the content of the files. So a request whose answer was lost is sent again, and a
// whole replay that was interrupted is run again, and the shop answers what it answered before. References guard beyond
// the keys: what the shop refuses because it has it already is looked up.
//
// # Patience
//
// A shop that cannot be reached, or says 429, 502, 503 or 504, is asked again with growing, random pauses, until nothing
// has succeeded for as long as the patience lasts.
package replay
