// Package proxytest holds the gateway to what it promises at its front door, from outside: real connections to a gateway that
// serves, with real origins behind it. It has tests only.
//
//	smuggle, frames   requests that could be understood in two ways, over HTTP/1.1 and HTTP/2, against net/http, nginx and haproxy
//	footgun           the known faults of proxies; where httputil.ReverseProxy or echo's proxy has the fault, it is shown
//	stream            events, bodies in both directions, trailers
//	change            a hundred tables a second under load
//	abuse             forged tokens, requests that are too long or too slow
//	tools             h2spec, the interoperability tests of gRPC, two WebSocket libraries
//
// How to run them, from the root of the repository:
//
//	go test ./proxy/proxytest                                everything; what is missing on the machine is skipped, and it says so
//	go test -short ./proxy/proxytest                         without tools, and with less load
//	go test -run NobodyDisagrees ./proxy/proxytest           nginx and haproxy must be installed: scripts/webservers.sh does it
//	go test -run 'H2spec|GRPC|WebSocketLib' ./proxy/proxytest -v
//	go test -run 'why_not|TestC|TestE|TestN|TestO' ./proxy/proxytest -v | grep -A1 why_not    what the stock proxies do instead
//
// With BANYAN_TEST_REQUIRE=1 nothing is skipped for want of nginx, haproxy or the tools. The tools are a module of their own, in
// tools, so that they move no version of the shop's; they are built once, into the user's cache directory.
//
// A test that meets a fault of the gateway that is known skips with the words "a fault of the gateway".
package proxytest
