// Package gate judges a module that is moving, and says what to do next.
//
// A Monitor sees every request of the module, on both sides, and compares the remote side with the live local one. Its
// verdict has three values. No data is neither good nor bad: it never advances a module and never sends it home.
//
//	errors         a CUSUM over the remote's failures: p0 is what is tolerated, or what the local side shows, if that is
//	               more; p1 what must be noticed. Bad at once, in the request that makes it so; but not while the local
//	               side fails just as much in the same stretch of time: then the fault is one that both share.
//	trip           so many requests in a row that got no answer. Bad at once.
//	client_errors  a CUSUM per status (401, 403, 404, 409, 422): of those that get it, how many were asked remotely, and
//	               how many would be if remote gave it ratio times as often as local. Bad at once.
//	latency        p95 and p99 of successful answers, in windows; bad if enough of the last windows are breached.
//
// What the comparison with local relies on:
//
//   - Like is compared with like, route by route: a canary of reads alone takes no writes, which are slower.
//   - A difference must be more than chance. Counts are tested, not compared: with ten requests a p99 is no p99.
//   - A client is one witness. Subjects stay on their side, so that one who asks too often, or asks for what is not
//     there, would look like a fault of the side it happens to be on. Of a subject one request per route and window is
//     compared, and one client error per status and stage; one without a subject is counted each time.
//   - What is to be had for nothing proves nothing. Anybody can be as many guests as he likes, and get client errors at
//     will: client_errors looks at those alone who have signed in, and min_subjects counts them alone. A module that
//     only strangers use so has no data for these two, and goes on by itself only without them. Failures and times
//     count whoever asks.
//   - What a client aborts (499) and what we ourselves refuse is never counted.
//
// Verdicts are asked for; only Observe, in the request that turns a stage bad, calls back, so that nothing waits for the
// next time somebody asks. What is slow is bad only when a window ends.
//
// A Controller takes verdicts and the time, and decides. It is a function: what it remembers is given to it and handed
// back, so that it can be kept in the control record and go on elsewhere.
//
//	          good, automatic         good; time, requests, subjects; approved where asked
//	shadow -------------------> canary, first step ------> next step ------> ... ------> last step: remote is a human's
//	   |                            |   ^                      |                             |
//	   +-------- bad ---------------+---|------- bad ----------+------------ bad ------------+---- bad in remote
//	                                |   | time is up, automatic
//	                                v   |
//	                        back, cooling down: 5 minutes, then 30, then until a human says so
//
// Good keeps a module where it is unless automatic.advance is set. Bad sends it back unless automatic.rollback is not
// set, the module is held, or there is no safe way back: then nothing moves, and the decision is an alarm.
package gate
