package proxy

import (
	"net/url"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/banyan-go/banyan/internal/errs"
)

// canonicalPath is the one form of a path that is matched, forwarded and logged: decoded, with no part that two
// readers could take for different things. Every other form is refused rather than repaired, because a repaired
// path is one that somebody in front of us may have judged differently.
func canonicalPath(u *url.URL) (string, error) {
	path := u.Path
	if path == "" || path[0] != '/' {
		return "", errs.New(errs.Malformed, "the path must start with /")
	}
	// A slash within a segment can only be told while it is encoded.
	if u.RawPath != "" && containsEscape(u.RawPath, '2', 'f') {
		return "", errs.New(errs.Malformed, "the path contains an encoded slash")
	}
	start := 1 // of the segment
	ascii := true
	for i := 1; i < len(path); i++ {
		switch c := path[i]; {
		case c == '/':
			if err := checkSegment(path[start:i]); err != nil {
				return "", err
			}
			start = i + 1
		case c < ' ' || c == 0x7f:
			return "", errs.New(errs.Malformed, "the path contains a control character")
		case c == '\\' || c == ';' || c == '%':
			return "", errs.New(errs.Malformed, "the path contains %q", c)
		case c >= utf8.RuneSelf:
			ascii = false
		}
	}
	// Only the last segment may be empty: "/" and "/docs/".
	if start < len(path) {
		if err := checkSegment(path[start:]); err != nil {
			return "", err
		}
	}
	if !ascii {
		if !utf8.ValidString(path) {
			return "", errs.New(errs.Malformed, "the path is not UTF-8")
		}
		if strings.IndexFunc(path, unicode.IsControl) >= 0 {
			return "", errs.New(errs.Malformed, "the path contains a control character")
		}
	}
	return path, nil
}

func checkSegment(s string) error {
	if s == "" {
		return errs.New(errs.Malformed, "the path contains //")
	}
	if s[len(s)-1] == '.' {
		return errs.New(errs.Malformed, "a part of the path ends with a dot")
	}
	return nil
}

// containsEscape looks for %xy, with y in either case.
func containsEscape(s string, x, y byte) bool {
	for i := 0; i+2 < len(s); i++ {
		if s[i] == '%' && s[i+1] == x && s[i+2]|0x20 == y {
			return true
		}
	}
	return false
}

// checkQuery refuses what readers of a query split or decode differently, and what no store can keep.
func checkQuery(q string) error {
	for i := 0; i < len(q); i++ {
		switch c := q[i]; {
		case c == ';':
			return errs.New(errs.Malformed, "the query contains ';'")
		case c == '#':
			return errs.New(errs.Malformed, "the query contains '#'")
		case c <= ' ' || c == 0x7f:
			return errs.New(errs.Malformed, "the query contains a blank or a control character")
		case c == '%':
			if i+2 >= len(q) || !hexDigit(q[i+1]) || !hexDigit(q[i+2]) {
				return errs.New(errs.Malformed, "the query contains a broken escape")
			}
			if q[i+1] == '0' && q[i+2] == '0' {
				return errs.New(errs.Malformed, "the query contains a NUL character")
			}
		}
	}
	if text, err := url.QueryUnescape(q); err != nil || !utf8.ValidString(text) {
		return errs.New(errs.Malformed, "the query is not UTF-8")
	}
	return nil
}

func hexDigit(c byte) bool {
	return c >= '0' && c <= '9' || c|0x20 >= 'a' && c|0x20 <= 'f'
}
