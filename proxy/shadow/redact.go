package shadow

import (
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/google/uuid"
)

const (
	shown     = 64  // bytes of a value in a report
	pathBytes = 256 // of a path in a report
	hidden    = "(hidden)"
	absent    = "(absent)"
)

// privateNames are parts of names whose values are nobody's business who reads a report.
var privateNames = []string{
	"pass", "pwd", "secret", "token", "credential", "auth", "cookie", "session", "apikey", "otp", "signature",
	"mail", "phone", "mobile", "card", "iban", "cvc", "cvv", "account", "name", "address", "street", "city", "zip", "postal", "postcode",
	"birth", "gender", "ssn", "taxid", "latitude", "longitude", "note", "comment", "reason",
}

// isPrivate says whether values of this name, and all within them, are hidden.
func isPrivate(name string) bool {
	name = strings.Map(func(c rune) rune {
		if strings.ContainsRune("_-. ", c) {
			return -1
		}
		return unicode.ToLower(c)
	}, name)
	for _, p := range privateNames {
		if strings.Contains(name, p) {
			return true
		}
	}
	return false
}

// secretHeader says whether a header must not be compared, because what differs is shown.
func secretHeader(name string) bool {
	name = strings.ToLower(name)
	return strings.Contains(name, "cookie") || strings.Contains(name, "auth") || strings.Contains(name, "token") || strings.Contains(name, "key")
}

// segment is a field's part of a path. A key that looks like data, and not like the name of a field, is .*: it may be
// personal, and there may be any number of them.
func segment(name string) string {
	letters := false
	plain := name != ""
	for i, c := range name {
		letter := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c == '_' || c == '$'
		letters = letters || letter
		if i == 0 && c >= '0' && c <= '9' || c == '@' && i > 0 || c < ' ' || c == utf8.RuneError {
			return ".*"
		}
		if !letter && (c < '0' || c > '9') && c != '-' {
			plain = false
		}
	}
	if len(name) > 40 || name != "" && !letters || uuid.Validate(name) == nil {
		return ".*"
	}
	if plain {
		return "." + name
	}
	return "[" + strconv.Quote(name) + "]"
}

// show is a value for a report. Of what holds other values only the size is told.
func (n *node) show(hide bool) string {
	switch {
	case n.kind == array:
		return "array of " + strconv.Itoa(len(n.items))
	case n.kind == object:
		return "object of " + strconv.Itoa(len(n.items))
	case n.kind == null:
		return "null"
	case hide || n.kind == text && personal(n.text):
		return hidden
	case n.kind == text:
		return strconv.Quote(cut(n.text, shown))
	}
	return cut(n.text, shown)
}

// personal says whether a value should be hidden whatever its name: addresses of mail, tokens, numbers of cards.
func personal(s string) bool {
	if strings.Contains(s, "@") || strings.HasPrefix(s, "eyJ") || strings.HasPrefix(s, "Bearer ") || strings.HasPrefix(s, "tok_") {
		return true
	}
	digits := 0
	for _, c := range s {
		switch {
		case c >= '0' && c <= '9':
			digits++
		case c != ' ' && c != '-' && c != '+':
			return false
		}
	}
	return digits >= 9
}

// cut shortens a text to at most n bytes, between characters.
func cut(s string, n int) string {
	const more = "…"
	s = strings.ToValidUTF8(s, "\ufffd")
	if len(s) <= n {
		return s
	}
	n -= len(more)
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n] + more
}
