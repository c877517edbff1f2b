// Package ownership keeps where each module is: one control record per module, changed by compare-and-set alone.
//
// A record says where requests are answered (the placement) and which side does the owner-only work: relay, subscriptions, commands
// and queries, timers, sagas. Everything else that knows about places is a cache of the records: route tables, leases, consumers. A
// process learns of a change by a notification or a slow poll, follows it, and says so in its registration.
//
//	          set, wish, gate                  every live process follows
//	settled ------------------> settling --------------------------------> settled
//	   ^                            |
//	   +---------- back home -------+   at any time, whether the other side lives or not
//
// Where both sides cannot have the store at once (a SQLite file), a change of the owner takes more steps, each of which all live
// processes follow before the next: holding (gateways hold new requests, those in flight finish), closing (the owner gives the file up),
// opening (the other side is the owner and takes it), settled (held requests go on).
//
// Guarantees. A change is one row's update that names the version it was made from; who comes second is refused. What is in force
// survives every process. While the store of the records cannot be reached nothing changes, everything runs on, and nobody is taken for
// gone because of that. A process that follows an older record does no harm: the epoch is in the lease of the module's own store, and
// each effect is guarded by a row.
// Only a change of the configured value is a wish, so that a restart does not undo what an operator or a gate has decided.
package ownership
