package proxy

import (
	"net/http"
	"net/netip"
	"strings"
)

// client is who is at the other end, as far as the network can tell.
type client struct {
	addr    netip.Addr // invalid if unknown
	text    string     // the address
	key     string     // the address in rate limits
	proxied bool       // the address was told by a proxy that we trust
	secure  bool       // came over TLS, to us or to a proxy that we trust
}

// clientOf tells who the client is. It must run before the headers are stripped.
func (g *Gateway) clientOf(r *http.Request) client {
	c := client{secure: r.TLS != nil}
	if peer, err := netip.ParseAddrPort(r.RemoteAddr); err == nil {
		c.addr = peer.Addr().Unmap()
	}
	if g.trusts(c.addr) {
		g.believe(&c, r.Header)
	}
	c.text = c.addr.String()
	c.key = c.text
	if c.addr.Is6() {
		// An IPv6 customer owns a whole /64.
		if p, err := c.addr.WithZone("").Prefix(64); err == nil {
			c.key = p.String()
		}
	}
	return c
}

// believe takes the client from the forwarding headers of a trusted proxy: the last address in them that is not a
// trusted proxy's itself. What stands before it may have been written by anybody.
func (g *Gateway) believe(c *client, h http.Header) {
	if proto := h["X-Forwarded-Proto"]; len(proto) == 1 {
		c.secure = strings.EqualFold(proto[0], "https")
	}
	// All the lines are one list; the nearest proxy has written at its end.
	lines := h["X-Forwarded-For"]
	for i := len(lines) - 1; i >= 0; i-- {
		rest := lines[i]
		for rest != "" {
			entry := rest
			if comma := strings.LastIndexByte(rest, ','); comma >= 0 {
				rest, entry = rest[:comma], rest[comma+1:]
			} else {
				rest = ""
			}
			addr, err := netip.ParseAddr(strings.TrimSpace(entry))
			if err != nil {
				return // what cannot be read ends the chain of those we can trust
			}
			c.addr, c.proxied = addr.Unmap().WithZone(""), true
			if !g.trusts(c.addr) {
				return
			}
		}
	}
}

func (g *Gateway) trusts(addr netip.Addr) bool {
	for _, p := range g.trusted {
		if p.Contains(addr) {
			return true
		}
	}
	return false
}

// allowsHost says whether requests to host are answered.
func (g *Gateway) allowsHost(host string) bool {
	if len(g.hosts) == 0 {
		return true
	}
	host = strings.ToLower(host)
	if i := strings.LastIndexByte(host, ':'); i >= 0 && !strings.HasSuffix(host, "]") {
		if strings.Trim(host[i+1:], "0123456789") != "" {
			return false // who reads it may take it for something else
		}
		host = host[:i]
	}
	if inner, found := strings.CutPrefix(host, "["); found && strings.Contains(host, ":") {
		host = strings.TrimSuffix(inner, "]")
	}
	if g.hosts[host] {
		return true
	}
	_, parent, found := strings.Cut(host, ".")
	return found && g.hosts["*."+parent]
}
