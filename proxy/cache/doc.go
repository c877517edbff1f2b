// Package cache is the shared response cache of the gateway, after RFC 9111.
//
// An answer is kept only if it says so itself: 200 and a few other statuses of GET, with Cache-Control public, s-maxage
// or max-age, or with Expires; never with private, no-store, Set-Cookie or Vary: *, never a part of something (206),
// a stream, or an answer that did not come to its end. What cannot be read is not kept.
//
// Nobody sees what was made for somebody else. A caller is known if the gateway has verified a subject, or if the
// request carries Authorization or a Cookie. What a known caller is answered is kept only if the answer says public or
// s-maxage, and only such an answer is given to a known caller; what strangers are answered with max-age alone goes to
// strangers alone. The key is the side that answers, scheme, host, path and query; the headers that the answer names in Vary must be those of
// the request it was made for, and an answer that varies by Authorization or Cookie is kept for strangers alone. Headers
// that belong to one request (its id, rate limits, the identity of a connection) are not kept.
//
// Every answer that passed by carries Cache-Status (RFC 9211). Cache-Tag is for us: it names what the answer was made
// of, Purge forgets by it, and clients never see it.
//
// # Changes
//
// Purging and storing are ordered: an answer that was asked for before a purge and arrives after it is not kept. A
// request with an unsafe method forgets its path (all queries and variants of it, on every host) and the paths of
// Location and Content-Location before its client is answered, so that whoever has seen the answer sees the change. Of a
// module of ours it forgets all: a price is in lists, too. Its name is a tag of all its answers, so that others can be told. One
// that ends with 5xx or breaks off may have changed something, and forgets as well; one that ends with 4xx has not.
//
// # Sides
//
// What one side has answered is given to those whom that side answers, and to nobody else: a canary is for a share of the
// users, and one that is bad must be bad for no others and leave nothing behind. So who answers is part of the key, with
// the time since when: a side that requests come back to is another side. What was asked for before they left it is kept,
// if at all, for nobody.
//
// # Epochs
//
// An answer of the same side that is kept under an older epoch of its module, as from before its store was moved, is
// still given while it is fresh. An epoch counts changes of who owns the data, not of the data: a store is moved behind a
// fence, with all that was written; so what was right for so many seconds when it was said is right for so many seconds
// still. Changes reach the cache as they did, by purge and by time. Throwing it away would answer a move with a burst of
// requests to the store that has just been moved.
//
// Yet an older answer is never revalidated. A validator names a version of the data; another binary may put the same
// version into another form, and its 304 would prolong the old form for as long as the data stays. So what is stale and
// of another epoch is fetched whole. And an answer that was asked for under an older epoch never replaces one of a newer.
package cache
