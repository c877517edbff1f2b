// Package transform changes requests and answers by rules of the configuration: paths that have moved, headers that
// somebody expects.
//
// A rule has a match like that of a route, as in "GET /old/{id}", "/old/{id}" for any method, or "/old/{rest...}" for all
// that lies below. Segment by segment a name is preferred to a {name} and that to a {name...}; where the order of two
// rules would decide, the second is refused.
//
// Rules apply once, before the request is routed, to its canonical path: Config.Rules never see what a rule has made.
// The path that a rule makes of parts of a canonical one is checked again as if it had come from outside, and then takes
// the place of the first everywhere: it is routed, authorised, cached and forwarded; the first is only logged. So a rule
// opens nothing that its new path does not. The query stays as it is.
//
// Rules cannot speak for the gateway: headers that carry identity, say where a request comes from, belong to one
// connection or frame a message are refused, in requests and in answers, and so is the request's id.
package transform
