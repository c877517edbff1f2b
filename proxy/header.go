package proxy

import (
	"encoding/binary"
	"encoding/hex"
	"math/rand/v2"
	"net/http"
	"strings"
)

// stripped are headers that only a proxy or we ourselves may write, and those that belong to one connection.
var stripped = map[string]bool{
	"Forwarded": true, "X-Real-Ip": true, "X-Client-Ip": true, "True-Client-Ip": true, "X-Original-Url": true, "X-Original-Uri": true,
	"X-Rewrite-Url": true, "X-Http-Method": true, "X-Http-Method-Override": true, "X-Method-Override": true, "X-Shadow": true,
	"X-Tenant-Id": true, "X-Request-Timeout": true,
	"Connection": true, "Proxy-Connection": true, "Keep-Alive": true, "Proxy-Authenticate": true, "Proxy-Authorization": true,
	"Te": true, "Trailer": true, "Transfer-Encoding": true, "Upgrade": true, "Http2-Settings": true,
}

var strippedPrefixes = [...]string{"X-User-", "X-Banyan-", "X-Forwarded-", "X-Accel-"}

// cleanHeader drops what a client must not say. A name with an underscore is dropped because some readers take it
// for the one with a hyphen; the headers that Connection names are dropped first, as a proxy would.
func cleanHeader(h http.Header) {
	for _, line := range h["Connection"] {
		for name := range strings.SplitSeq(line, ",") {
			if name = http.CanonicalHeaderKey(strings.TrimSpace(name)); name != "" && !endToEnd[name] {
				delete(h, name)
			}
		}
	}
	for name := range h {
		if drops(name) {
			delete(h, name)
		}
	}
}

// endToEnd headers are not for a client to remove on the way: the request would mean something else without them.
var endToEnd = map[string]bool{"Authorization": true, "Content-Type": true, "Content-Length": true, "Host": true, "Idempotency-Key": true, "Cookie": true}

func drops(name string) bool {
	if stripped[name] {
		return true
	}
	for _, p := range strippedPrefixes {
		if strings.HasPrefix(name, p) {
			return true
		}
	}
	return strings.IndexByte(name, '_') >= 0
}

// Values that every answer shares. Nobody changes them in place: net/http appends to a copy.
var (
	noSniff    = []string{"nosniff"}
	noReferrer = []string{"no-referrer"}
	noStore    = []string{"no-store"}
	denyFrames = []string{"DENY"}
	noContent  = []string{"default-src 'none'; frame-ancestors 'none'"}
	strictTLS  = []string{"max-age=31536000"}
	closing    = []string{"close"}
)

// protect sets the security headers; a handler may set others in their place.
func protect(h http.Header, secure bool) {
	h["X-Content-Type-Options"] = noSniff
	h["Referrer-Policy"] = noReferrer
	h["X-Frame-Options"] = denyFrames
	h["Content-Security-Policy"] = noContent
	h["Cache-Control"] = noStore
	if secure {
		h["Strict-Transport-Security"] = strictTLS
	}
}

// expose takes off what suits our own pages and answers alone: what an application that is not ours may show, and for how long it is
// kept, it says itself. What is about the host and the way to it stays, and so does nosniff: its pages and ours have one origin.
func expose(h http.Header) {
	for _, name := range [...]string{"Referrer-Policy", "X-Frame-Options", "Content-Security-Policy", "Cache-Control"} {
		delete(h, name)
	}
}

// saneID says whether a request id may be used as it is: in logs, in headers, in rows.
func saneID(id string) bool {
	if id == "" || len(id) > 64 {
		return false
	}
	for _, c := range []byte(id) {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '.', c == '_', c == '-':
		default:
			return false
		}
	}
	return true
}

// newID is a request id: 128 bits that nothing but the log and the answers rely on.
func newID() string {
	var raw [16]byte
	binary.BigEndian.PutUint64(raw[:8], rand.Uint64())
	binary.BigEndian.PutUint64(raw[8:], rand.Uint64())
	var text [32]byte
	hex.Encode(text[:], raw[:])
	return string(text[:])
}
