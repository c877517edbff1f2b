// Package cardsim simulates a card provider: another company's system with its own words, its own record and its
// own faults. Payments translates its own words into these.
//
// A charge or refund is applied at most once per id, as with the idempotency keys of real providers: whoever asks
// again with the same id is told what happened the first time. Asking with the same id for something else is an
// error.
//
// # Record
//
// What the provider did is in one file of lines of JSON, its own and not a part of anybody's transaction, so that a
// shop that was killed can be compared with it. Each call takes the lock of the file (flock), reads what others have
// added, decides, and appends at most one line. So any number of processes of one machine may share the file, and what
// it says survives a kill -9. It is not synced to disk per call: it stands for a system that does not fail when this
// machine loses power. Processes of different machines need a real provider.
//
// # Cards
//
//	tok_declined             declined: card_declined
//	tok_insufficient_funds   declined: insufficient_funds
//	tok_expired              declined: expired_card
//	tok_slow                 charged after 2 s
//	tok_lost_reply           charged, but the first reply is lost (ErrTimeout)
//	tok_lost_twice           charged, but the first two replies are lost
//	tok_outage               the first 3 calls fail before anything is done (ErrUnavailable), then charged
//	tok_refund_lost          charged; the first reply to each refund is lost
//	tok_refund_refused       charged; every refund is refused: account_closed
//	any other, as tok_visa   charged, but for the rates of Behaviour
//
// How often a call failed or went unheard is in the record too, so a restart does not change how a card behaves.
package cardsim
