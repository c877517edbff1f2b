// Package proxy is the gateway: the front door that every request enters by.
//
// It cleans a request before anybody sees it, finds its route, checks who asks and how often, and hands it to the
// process that owns the route's module, by the module's placement: this one, or its second one.
//
// The order of the steps is the guarantee, each relies on those before it:
//
//	who is the client          address, through trusted proxies only
//	request id                 from here on everything logged and answered carries it
//	host, path, query          one canonical form; ambiguous ones are refused
//	headers                    identity, forwarding and hop-by-hop headers of the client are dropped
//	route                      404, 405
//	token                      who asks; nobody if there is none
//	rate limits, permission    429, 401, 403
//	body                       bounded, JSON, read before the module is called
//	cache                      answers that are the same for others
//	door                       closed while the module's owner changes; whoever is in finishes
//	target                     the module here, or its second process
//
// What a module gets is the same wherever it runs: the cleaned request, and the caller in the context.
package proxy
