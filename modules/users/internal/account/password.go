package account

import (
	"strings"
	"unicode/utf8"

	"github.com/banyan-go/banyan/internal/errs"
)

// Lengths of a password, in characters.
const (
	MinPassword = 8
	MaxPassword = 128
)

// CheckPassword says what is wrong with a new password for the account with that email; field names the input. There
// are no rules on kinds of characters: they make passwords worse.
func CheckPassword(password, emailKey, field string) error {
	n := utf8.RuneCountInString(password)
	switch {
	case n < MinPassword || n > MaxPassword:
		return errs.New(errs.Invalid, "a password has %d to %d characters", MinPassword, MaxPassword).
			With(field, "must have %d to %d characters", MinPassword, MaxPassword)
	case emailKey != "" && strings.ToLower(strings.TrimSpace(password)) == emailKey:
		return errs.New(errs.Invalid, "the password must not be the email address").With(field, "must not be the email address")
	}
	return nil
}
