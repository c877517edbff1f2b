// Package token issues and verifies access tokens: JWTs of our own, signed with Ed25519, and those of foreign issuers.
//
// Of our own tokens only EdDSA is accepted, only with a key of the ring named by the token's kid, only from the issuer
// and for the audience "banyan", and only with an expiry. For each foreign issuer the configuration says which
// algorithms, keys and audiences are accepted, and a Verifier uses the issuer that a token names for nothing but to
// choose who tries it. Why a token is refused is not told, but for its having expired.
package token

import (
	"bytes"
	"cmp"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/google/uuid"

	"github.com/banyan-go/banyan/internal/errs"
	"github.com/banyan-go/banyan/internal/identity"
)

// MaxSize is the length of the longest token that is looked at.
const MaxSize = 8 << 10

// MaxLife is the longest time that a token of ours may be valid. A key that no longer signs is kept as long.
const MaxLife = time.Hour

const (
	issuer   = "banyan"
	audience = "banyan"
)

// Claims is what a token says.
type Claims struct {
	ID        string // jti; made by Issue if it is empty
	Subject   string // user id
	Role      identity.Role
	Session   string          // login session
	Scopes    identity.Scopes // what the token is limited to; "" says nothing about it
	IssuedAt  time.Time
	ExpiresAt time.Time
}

// Identity is the caller that the claims speak of.
func (c Claims) Identity() identity.Identity {
	return identity.Identity{Subject: c.Subject, Role: c.Role, Session: c.Session, Scopes: c.Scopes}
}

// Revocations knows the tokens that must no longer be believed although they have not expired.
type Revocations interface {
	// Revoked says whether a token of the session and the subject, issued at a time, is revoked.
	Revoked(session, subject string, issuedAt time.Time) bool
}

// Keyring signs with its newest key that has a private half, and verifies with any. It never changes, so it is safe for
// concurrent use.
type Keyring struct {
	signer Key // the zero Key if none signs
	public map[string]ed25519.PublicKey
	jwks   []byte
}

// NewKeyring is a ring of one or more keys.
func NewKeyring(keys ...Key) (*Keyring, error) {
	if len(keys) == 0 {
		return nil, errors.New("keyring: no signing key")
	}
	keys = slices.Clone(keys)
	slices.SortStableFunc(keys, func(a, b Key) int {
		return cmp.Or(b.CreatedAt.Compare(a.CreatedAt), cmp.Compare(a.ID, b.ID))
	})
	ring := &Keyring{public: make(map[string]ed25519.PublicKey, len(keys))}
	set := keySet{Keys: make([]publicKey, 0, len(keys))}
	for _, k := range keys {
		switch {
		case len(k.Private) == ed25519.PrivateKeySize:
			k.Public = k.Private.Public().(ed25519.PublicKey)
		case k.Private != nil || len(k.Public) != ed25519.PublicKeySize:
			return nil, fmt.Errorf("keyring: key %q is not an Ed25519 key", k.ID)
		}
		switch {
		case k.ID == "":
			return nil, errors.New("keyring: a key has no id")
		case ring.public[k.ID] != nil:
			return nil, fmt.Errorf("keyring: key %q is there twice", k.ID)
		}
		if k.Private != nil && ring.signer.Private == nil {
			ring.signer = k
		}
		ring.public[k.ID] = k.Public
		set.Keys = append(set.Keys, publicKey{
			Type: "OKP", Curve: "Ed25519", X: base64.RawURLEncoding.EncodeToString(k.Public), ID: k.ID, Use: "sig", Algorithm: "EdDSA",
		})
	}
	var err error
	ring.jwks, err = json.Marshal(set)
	return ring, err
}

// Signer is the key that signs.
func (r *Keyring) Signer() (Key, error) {
	if r.signer.Private == nil {
		return Key{}, errors.New("keyring: no key of this process signs")
	}
	return r.signer, nil
}

// Public is the public key of an id.
func (r *Keyring) Public(id string) (ed25519.PublicKey, bool) {
	key, ok := r.public[id]
	return key, ok
}

// JWKS is the JSON Web Key Set of the public keys.
func (r *Keyring) JWKS() []byte { return bytes.Clone(r.jwks) }

type keySet struct {
	Keys []publicKey `json:"keys"`
}

type publicKey struct {
	Type      string `json:"kty"`
	Curve     string `json:"crv"`
	X         string `json:"x"`
	ID        string `json:"kid"`
	Use       string `json:"use"`
	Algorithm string `json:"alg"`
}

// Issue signs a token.
func (r *Keyring) Issue(c Claims) (string, error) {
	key, err := r.Signer()
	if err != nil {
		return "", fmt.Errorf("issue token: %w", err)
	}
	if c.Subject == "" || c.Session == "" || c.IssuedAt.IsZero() || !c.ExpiresAt.After(c.IssuedAt) || !known(c.Role) {
		return "", errors.New("issue token: the claims are incomplete")
	}
	if c.ExpiresAt.Sub(c.IssuedAt) > MaxLife {
		return "", fmt.Errorf("issue token: it would be valid for more than %s", MaxLife)
	}
	if c.ID == "" {
		c.ID = uuid.NewString()
	}
	t := jwt.NewWithClaims(jwt.SigningMethodEdDSA, wire{
		Issuer: issuer, Audience: jwt.ClaimStrings{audience}, ID: c.ID, Subject: c.Subject, Role: c.Role, Session: c.Session, Scopes: c.Scopes,
		IssuedAt: instant(c.IssuedAt), ExpiresAt: instant(c.ExpiresAt),
	})
	t.Header["kid"] = key.ID
	signed, err := t.SignedString(key.Private)
	if err != nil {
		return "", fmt.Errorf("issue token: %w", err)
	}
	if len(signed) > MaxSize {
		return "", errors.New("issue token: it is too long")
	}
	return signed, nil
}

// Verify gives the claims of a token that is valid now. Its errors are errs.Unauthenticated and say only whether
// the token has expired or is not valid.
func (r *Keyring) Verify(token string, now time.Time) (Claims, error) {
	if len(token) > MaxSize {
		return Claims{}, invalid()
	}
	// The leeway of the parser stays zero: the process that issues reads the same kind of clock as the one that verifies,
	// and a token that lives a minute longer than it says is no use to anybody.
	parser := jwt.NewParser(
		jwt.WithValidMethods([]string{jwt.SigningMethodEdDSA.Alg()}), jwt.WithIssuer(issuer), jwt.WithAudience(audience),
		jwt.WithExpirationRequired(), jwt.WithStrictDecoding(), jwt.WithTimeFunc(func() time.Time { return now }),
	)
	var w wire
	_, err := parser.ParseWithClaims(token, &w, r.keyOf)
	switch {
	case err == nil:
	case expiredOnly(err):
		return Claims{}, errExpired()
	default:
		return Claims{}, invalid()
	}
	if w.ID == "" || w.Subject == "" || w.Session == "" || w.IssuedAt.time().IsZero() || !known(w.Role) {
		return Claims{}, invalid()
	}
	return Claims{
		ID: w.ID, Subject: w.Subject, Role: w.Role, Session: w.Session, Scopes: w.Scopes,
		IssuedAt: w.IssuedAt.time(), ExpiresAt: w.ExpiresAt.time(),
	}, nil
}

func (r *Keyring) keyOf(t *jwt.Token) (any, error) {
	// RFC 7515: whoever does not understand a critical header must refuse the token, and none is understood here.
	if _, ok := t.Header["crit"]; ok {
		return nil, errors.New("critical header")
	}
	id, _ := t.Header["kid"].(string)
	key, ok := r.public[id]
	if !ok {
		return nil, errors.New("unknown key")
	}
	return key, nil
}

// expiredOnly: the token is signed and meant for us, but its time is over.
func expiredOnly(err error) bool {
	return errors.Is(err, jwt.ErrTokenExpired) && !errors.Is(err, jwt.ErrTokenInvalidIssuer) && !errors.Is(err, jwt.ErrTokenInvalidAudience)
}

func errExpired() error { return errs.New(errs.Unauthenticated, "the access token has expired") }

func invalid() error { return errs.New(errs.Unauthenticated, "the access token is not valid") }

func known(role identity.Role) bool {
	switch role {
	case identity.Customer, identity.Staff, identity.Admin:
		return true
	}
	return false
}

// wire is the claims as they are encoded.
type wire struct {
	Issuer    string           `json:"iss"`
	Audience  jwt.ClaimStrings `json:"aud"`
	ID        string           `json:"jti"`
	Subject   string           `json:"sub"`
	Role      identity.Role    `json:"role"`
	Session   string           `json:"sid"`
	Scopes    identity.Scopes  `json:"scope,omitempty"`
	IssuedAt  instant          `json:"iat"`
	ExpiresAt instant          `json:"exp"`
}

func (w wire) GetExpirationTime() (*jwt.NumericDate, error) { return w.ExpiresAt.date(), nil }
func (w wire) GetIssuedAt() (*jwt.NumericDate, error)       { return w.IssuedAt.date(), nil }
func (w wire) GetNotBefore() (*jwt.NumericDate, error)      { return nil, nil }
func (w wire) GetIssuer() (string, error)                   { return w.Issuer, nil }
func (w wire) GetSubject() (string, error)                  { return w.Subject, nil }
func (w wire) GetAudience() (jwt.ClaimStrings, error)       { return w.Audience, nil }

// instant is a time with microseconds. The library's own dates are cut to seconds, and a token issued in the second
// of a revocation, but after it, would count as revoked.
type instant time.Time

func (i instant) time() time.Time { return time.Time(i) }

func (i instant) date() *jwt.NumericDate {
	if i.time().IsZero() {
		return nil
	}
	return &jwt.NumericDate{Time: i.time()}
}

// MarshalJSON writes seconds since 1970 with six digits.
func (i instant) MarshalJSON() ([]byte, error) {
	micros := i.time().UnixMicro()
	if micros <= 0 {
		return nil, errors.New("a time before 1970")
	}
	return fmt.Appendf(nil, "%d.%06d", micros/1e6, micros%1e6), nil
}

// UnmarshalJSON reads seconds since 1970, whole or not.
func (i *instant) UnmarshalJSON(b []byte) error {
	seconds, err := strconv.ParseFloat(string(b), 64)
	if err != nil || !(seconds > 0 && seconds < 1e10) {
		return errors.New("not a time")
	}
	*i = instant(time.UnixMicro(int64(math.Round(seconds * 1e6))).UTC())
	return nil
}
