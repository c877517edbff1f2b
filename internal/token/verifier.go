package token

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/banyan-go/banyan/internal/clock"
)

// Own verifies tokens of our own; *Keyring does.
type Own interface {
	Verify(token string, now time.Time) (Claims, error)
}

// Verifier verifies our own tokens and those of the foreign issuers that the configuration names. The issuer that a
// token names only chooses who tries it: that one then believes nothing that is not signed.
type Verifier struct {
	own     Own
	foreign map[string]*foreign // by iss
}

// NewVerifier reads no keys yet.
func NewVerifier(own Own, issuers []IssuerConfig, c clock.Clock, log *slog.Logger) (*Verifier, error) {
	if err := ValidateIssuers("issuers", issuers); err != nil {
		return nil, err
	}
	v := &Verifier{own: own, foreign: make(map[string]*foreign, len(issuers))}
	for _, cfg := range issuers {
		f := &foreign{cfg: cfg}
		if cfg.Secret == "" {
			var err error
			if f.keys, err = NewKeySet(cfg.JWKSURL, c, log); err != nil {
				return nil, fmt.Errorf("issuer %s: %w", cfg.Name, err)
			}
		}
		v.foreign[cfg.Issuer] = f
	}
	return v, nil
}

// Run keeps the keys of foreign issuers fresh until ctx ends.
func (v *Verifier) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, f := range v.foreign {
		if f.keys != nil {
			g.Go(func() error { return f.keys.Run(ctx) })
		}
	}
	return g.Wait()
}

// Verify gives the claims of a token that is valid now. Its errors are errs.Unauthenticated, and errs.Unavailable while
// the keys of a foreign issuer cannot be read at all.
func (v *Verifier) Verify(token string, now time.Time) (Claims, error) {
	if len(token) > MaxSize {
		return Claims{}, invalid()
	}
	if len(v.foreign) > 0 {
		if f := v.foreign[unverifiedIssuer(token)]; f != nil {
			return f.verify(token, now)
		}
	}
	return v.own.Verify(token, now)
}

// unverifiedIssuer is the iss of a token, which anybody may have written.
func unverifiedIssuer(token string) string {
	_, rest, _ := strings.Cut(token, ".")
	payload, _, _ := strings.Cut(rest, ".")
	var c struct {
		Issuer string `json:"iss"`
	}
	return decodeSegment(payload, &c, func() string { return c.Issuer })
}

// UnverifiedKeyID is the id of the key that a token says it was signed with, which anybody may have written.
func UnverifiedKeyID(token string) string {
	header, _, _ := strings.Cut(token, ".")
	var h struct {
		KeyID string `json:"kid"`
	}
	return decodeSegment(header, &h, func() string { return h.KeyID })
}

func decodeSegment(segment string, into any, value func() string) string {
	raw, err := base64.RawURLEncoding.DecodeString(segment)
	if err != nil || json.Unmarshal(raw, into) != nil {
		return ""
	}
	return value()
}
