// Package shadow compares what a module's remote side answers with what its local side answers, on real requests that
// change nothing, and says whether clients could be sent to the remote side.
//
// A client is always answered by the local side, L1. A copy of that answer is offered to the Mirror, which asks the remote
// side the same afterwards, R, and for a share of requests (the control) the local side once more, L2. What differs between
// L1 and L2 is noise: it is learned per route and path, and excuses the same difference between L1 and R. What is
// left is asked again on both sides after a while, with a control:
//
//	          equal       all differences are noise
//	L1 R (L2) -----> equal   -----------------> noise
//	    |
//	    | others, confirm_after later
//	    v
//	L' R' L'' -----> mismatch   the same path differs again, and local agreed with itself
//	          -----> noise      it differs again, and local did not agree with itself either
//	          -----> skew       it does not differ any more
//	          -----> failed     it was an error of the remote side that did not come back
//
// Skew is unexplained if local has not changed in between: the remote side lags behind, or has a fault that comes and goes.
// Nobody can tell these apart from outside, so unexplained skew never counts as a mismatch, but too much of it keeps the
// gate from saying good.
//
// The first comparisons of a route only teach what is noise, and count for nothing else.
//
// Guarantees:
//
//   - No client waits for any of this: Offer never blocks, and what does not fit is dropped and counted.
//   - Memory has a bound whatever the remote side does: a number of queued answers and their bytes, a number of requests on
//     their way, one comparison at a time, and a number of paths and samples per route.
//   - No body is kept. Samples hold paths and shortened values, and none of those that look personal or secret.
//   - Numbers are compared as they are written: 9007199254740993 is not 9007199254740992, and 1.0 is 1.
//   - No data is neither good nor bad.
//
// A path names a place in a JSON body as in $.items[*].price, with [*] for any element and .* for a key that looks like an
// id. Beside these there are status, header.NAME, and body (of what is no JSON); "$.items (order)" says that the elements
// are the same in another order.
package shadow
