package compress

import (
	"net/http"
	"strings"
)

// Coding is a content coding.
type Coding string

// The codings. Identity is no coding at all.
const (
	Identity Coding = ""
	Zstd     Coding = "zstd"
	Gzip     Coding = "gzip"
)

// Negotiate is the coding that suits the client best (RFC 9110, 12.5.3); of those it likes as much, zstd, which packs
// as well in less time. What cannot be read says nothing.
func Negotiate(h http.Header) Coding {
	const unsaid = -1
	zstd, gzip, identity, other := unsaid, unsaid, unsaid, unsaid
	for _, line := range h["Accept-Encoding"] {
		for line != "" {
			var item string
			item, line, _ = strings.Cut(line, ",")
			name, params, _ := strings.Cut(item, ";")
			q, ok := weight(params)
			if !ok {
				continue
			}
			switch name = strings.TrimSpace(name); {
			case strings.EqualFold(name, "zstd"):
				zstd = q
			case strings.EqualFold(name, "gzip"), strings.EqualFold(name, "x-gzip"):
				gzip = q
			case strings.EqualFold(name, "identity"):
				identity = q
			case name == "*":
				other = q
			}
		}
	}
	for _, q := range []*int{&zstd, &gzip} {
		if *q == unsaid {
			*q = other
		}
	}
	switch {
	case zstd > 0 && zstd >= gzip && zstd >= identity:
		return Zstd
	case gzip > 0 && gzip >= identity:
		return Gzip
	}
	return Identity
}

// weight is the q of an item in thousandths; false if it cannot be read.
func weight(params string) (int, bool) {
	params = strings.TrimSpace(params)
	if params == "" {
		return 1000, true
	}
	name, value, ok := strings.Cut(params, "=")
	if !ok || !strings.EqualFold(strings.TrimSpace(name), "q") {
		return 0, false
	}
	value = strings.TrimSpace(value)
	if value == "" || len(value) > 5 || value[0] != '0' && value[0] != '1' || len(value) > 1 && value[1] != '.' {
		return 0, false
	}
	q, unit := int(value[0]-'0')*1000, 100
	for i := 2; i < len(value); i++ {
		if value[i] < '0' || value[i] > '9' {
			return 0, false
		}
		q += int(value[i]-'0') * unit
		unit /= 10
	}
	return q, q <= 1000
}
