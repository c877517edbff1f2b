// Package discovery finds the endpoints of an upstream: from a list, from DNS or from Consul. It also registers our own
// processes in Consul, so that others find them.
//
//	127.0.0.1:9101, 127.0.0.1:9102?weight=2    a list; names are resolved when a connection is made
//	dns://payments.internal:9101               the addresses (A, AAAA) of a name, asked for every Refresh
//	srv://_http._tcp.payments.internal         SRV records: ports and weights too; of the lowest priority only
//	consul://payments?tag=blue&dc=dc1          the passing instances of a service, told by Consul as they change
//
// An upstream must not lose its endpoints because of those who tell where they are. So what was known last stays while
// they do not answer, and an answer without endpoints is believed when it has stayed for EmptyAfter, not before.
package discovery
