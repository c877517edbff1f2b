// Package secret holds text that must not be seen: it is masked wherever it is printed, logged or encoded.
package secret

import (
	"fmt"
	"io"
	"log/slog"
)

// Mask stands where a secret is.
const Mask = "********"

// Text is a secret. Only Reveal gives it away.
type Text string

// Reveal is the secret itself.
func (t Text) Reveal() string { return string(t) }

// String is the mask, or "" for no secret.
func (t Text) String() string {
	if t == "" {
		return ""
	}
	return Mask
}

// Format masks the secret whatever the verb: for a verb that does not suit, fmt would print the plain value.
func (t Text) Format(f fmt.State, verb rune) {
	if verb == 'q' || (verb == 'v' && f.Flag('#')) {
		_, _ = io.WriteString(f, `"`+t.String()+`"`)
		return
	}
	_, _ = io.WriteString(f, t.String())
}

// LogValue masks the secret in logs.
func (t Text) LogValue() slog.Value { return slog.StringValue(t.String()) }

// MarshalText masks the secret in JSON, YAML and everything else that encodes text.
func (t Text) MarshalText() ([]byte, error) { return []byte(t.String()), nil }
