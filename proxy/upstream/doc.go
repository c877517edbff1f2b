// Package upstream sends requests to a process behind the gateway.
//
// An Upstream is one module's process, as one or more endpoints that are alike. It knows which of them are well, spreads
// requests over them, and sends a request again where that does no harm. What is known about a request that failed is
// told apart, because everything that may be done next depends on it:
//
//	not_sent       no byte of it has left: it may go anywhere, whatever its method
//	maybe_sent     it may have been received, and no answer came: only what may be repeated is sent again
//	answered_5xx   the answer is a failure; it was passed on
//	aborted        the answer broke off: the client must see that it did
//	client_abort   the client's doing: it went away, its body broke off, or nobody could send what it asks
//	overload       nothing was sent, by our own decision: no room, the breaker is open, or the upstream is drained
//
// Guarantees:
//
//   - A request that changes something is sent again only if the one before was certainly not received, or if the
//     caller says that it may be repeated. net/http repeats some requests by itself; it is kept to the same rule.
//   - An answer that breaks off is never made to look complete.
//   - Nothing is kept in memory without a limit, and nobody waits without a limit.
//   - What a client does (aborts, bodies that stall, headers that are too long, no time given) never counts against the upstream.
//   - A connection is made a tunnel only for WebSocket, and only after a 101 that proves that the key was read.
//
// The breaker guards the module as a whole; it counts what became of requests after they were repeated elsewhere:
//
//	         too many failures                  time is up
//	closed --------------------> open ---------------------------> half-open
//	   ^                          ^                                  |    |
//	   |                          +---------- a probe fails ---------+    |
//	   +---------------------------- all probes succeed ------------------+
//
// An endpoint is left out while its health check fails, and for a while after it failed several times in a row. Where
// that would leave out more than the allowed share, nobody is left out: the fault is elsewhere then, and fewer
// endpoints would only be overloaded.
package upstream
