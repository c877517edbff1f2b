package account

import (
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/banyan-go/banyan/internal/errs"
)

// Longest inputs, in characters.
const (
	MaxEmail = 254
	MaxName  = 200
)

// Email is an address in two forms.
type Email struct {
	Address string // as mail is sent to it
	Key     string // as it is compared: two addresses with one key are one account
}

// ParseEmail reads an address. Mail servers may tell upper from lower case before the @, but people do not: so the
// key is lower case throughout, while the address keeps what its owner wrote there.
func ParseEmail(s string) (Email, error) {
	s = strings.TrimSpace(s)
	at := strings.LastIndexByte(s, '@')
	local, domain := s, ""
	if at >= 0 {
		local, domain = s[:at], s[at+1:]
	}
	if utf8.RuneCountInString(s) > MaxEmail || local == "" || len(local) > 64 || strings.ContainsFunc(local, notInLocal) || !isDomain(domain) {
		return Email{}, errs.New(errs.Invalid, "this is not an email address").With("body.email", "must be an email address")
	}
	address := local + "@" + strings.ToLower(domain)
	return Email{Address: address, Key: strings.ToLower(address)}, nil
}

// notInLocal refuses what could end the address in a mail header or turn it into a list.
func notInLocal(r rune) bool {
	return !unicode.IsGraphic(r) || unicode.IsSpace(r) || strings.ContainsRune(`@<>()[],;:\"`, r)
}

func isDomain(s string) bool {
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
		if strings.ContainsFunc(label, func(r rune) bool {
			return r != '-' && !unicode.IsLetter(r) && !unicode.IsDigit(r) && !unicode.IsMark(r)
		}) {
			return false
		}
	}
	return true
}

// ParseName reads the name of a person: one line of text that is not empty.
func ParseName(s string) (string, error) {
	s = strings.TrimSpace(s)
	if n := utf8.RuneCountInString(s); n == 0 || n > MaxName || strings.ContainsFunc(s, unicode.IsControl) {
		return "", errs.New(errs.Invalid, "this is not a name").With("body.name", "must be one line of 1 to %d characters", MaxName)
	}
	return s, nil
}
