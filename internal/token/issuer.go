package token

import (
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/banyan-go/banyan/internal/errs"
	"github.com/banyan-go/banyan/internal/identity"
	"github.com/banyan-go/banyan/internal/secret"
)

// IssuerConfig is a foreign issuer whose tokens are believed.
type IssuerConfig struct {
	Name       string       `mapstructure:"name"`       // prefix of its users' ids, as in auth0: never change it
	Issuer     string       `mapstructure:"issuer"`     // iss of its tokens, letter by letter
	JWKSURL    string       `mapstructure:"jwks_url"`   // where it publishes its keys
	Secret     secret.Text  `mapstructure:"secret"`     // in place of jwks_url, for HS256
	Algorithms []string     `mapstructure:"algorithms"` // that it signs with: RS256, ES256 or EdDSA; HS256 with a secret
	Audiences  []string     `mapstructure:"audiences"`  // aud of tokens that are meant for us; one of them must be there
	RoleClaim  string       `mapstructure:"role_claim"` // claim with a role or a list of them, as in roles or realm_access.roles
	Roles      []RoleConfig `mapstructure:"roles"`      // what its roles are here; who has none of them is a customer
}

// RoleConfig is what a role of a foreign issuer is here.
type RoleConfig struct {
	Claim string        `mapstructure:"claim"` // its name there
	Role  identity.Role `mapstructure:"role"`  // customer, staff or admin
}

// minSecret is the shortest secret for HS256 (RFC 7518, section 3.2).
const minSecret = 32

var issuerName = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,31}$`)

// ValidateIssuers names the wrong key and the way out; prefix is the key of the list.
func ValidateIssuers(prefix string, list []IssuerConfig) error {
	var wrong []error
	names, issuers := map[string]bool{}, map[string]bool{issuer: true}
	for i, c := range list {
		at := fmt.Sprintf("%s[%d]", prefix, i)
		wrong = append(wrong, c.Validate(at))
		if names[c.Name] {
			wrong = append(wrong, fmt.Errorf("%s.name: %q is there twice", at, c.Name))
		}
		if issuers[c.Issuer] {
			wrong = append(wrong, fmt.Errorf("%s.issuer: %q is there twice, or our own", at, c.Issuer))
		}
		names[c.Name], issuers[c.Issuer] = true, true
	}
	return errors.Join(wrong...)
}

// Validate names the wrong key and the way out; prefix is the key of the issuer.
func (c IssuerConfig) Validate(prefix string) error {
	var wrong []error
	note := func(format string, args ...any) { wrong = append(wrong, fmt.Errorf(prefix+"."+format, args...)) }
	if !issuerName.MatchString(c.Name) {
		note("name: %q is not a short name of a-z, 0-9 and -, as in auth0", c.Name)
	}
	if c.Issuer == "" {
		note("issuer: is empty; give the iss of its tokens, as in https://id.example/")
	}
	allowed := []string{"RS256", "ES256", "EdDSA"}
	switch {
	case c.JWKSURL == "" && c.Secret == "":
		note("jwks_url: is empty; give where it publishes its keys, or a secret")
	case c.JWKSURL != "" && c.Secret != "":
		note("secret: cannot be had together with jwks_url; with both, whoever knows a public key could sign")
	case c.Secret != "":
		allowed = []string{"HS256"}
		if len(c.Secret) < minSecret {
			note("secret: has less than %d bytes", minSecret)
		}
	default:
		if u, err := url.Parse(c.JWKSURL); err != nil || !mayFetch(u) {
			note("jwks_url: %q is not a URL as in https://id.example/keys, without a password; http is for this machine alone", masked(c.JWKSURL))
		}
	}
	if len(c.Algorithms) == 0 {
		note("algorithms: is empty; give those that it signs with, of %s", strings.Join(allowed, ", "))
	}
	for _, a := range c.Algorithms {
		if !slices.Contains(allowed, a) {
			note("algorithms: %q is not one of %s", a, strings.Join(allowed, ", "))
		}
	}
	if len(c.Audiences) == 0 || slices.Contains(c.Audiences, "") {
		note("audiences: name the aud of tokens that are meant for this shop; without it a token made for anybody would do")
	}
	if len(c.Roles) > 0 && c.RoleClaim == "" {
		note("role_claim: is empty; say which claim the roles are in")
	}
	for i, r := range c.Roles {
		if r.Claim == "" {
			note("roles[%d].claim: is empty", i)
		}
		if !known(r.Role) {
			note("roles[%d].role: %q is not customer, staff or admin", i, r.Role)
		}
	}
	return errors.Join(wrong...)
}

// foreignLeeway is how far the clock of a foreign issuer may be from ours.
const foreignLeeway = 10 * time.Second

const maxForeignSubject = 255

// foreign verifies the tokens of one issuer.
type foreign struct {
	cfg  IssuerConfig
	keys *KeySet // nil with a secret
}

func (f *foreign) verify(token string, now time.Time) (Claims, error) {
	parser := jwt.NewParser(
		jwt.WithValidMethods(f.cfg.Algorithms), jwt.WithIssuer(f.cfg.Issuer), jwt.WithAudience(f.cfg.Audiences...), jwt.WithExpirationRequired(),
		jwt.WithStrictDecoding(), jwt.WithLeeway(foreignLeeway), jwt.WithIssuedAt(), jwt.WithTimeFunc(func() time.Time { return now }),
	)
	m := jwt.MapClaims{}
	if _, err := parser.ParseWithClaims(token, m, f.keyOf); err != nil {
		var unavailable *errs.Error
		switch {
		case errors.As(err, &unavailable):
			return Claims{}, unavailable
		case expiredOnly(err):
			return Claims{}, errExpired()
		}
		return Claims{}, invalid()
	}
	subject, _ := m["sub"].(string)
	if subject == "" || len(subject) > maxForeignSubject || strings.ContainsFunc(subject, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return Claims{}, invalid()
	}
	// The name before the bar makes it impossible to be somebody of ours, or of another issuer: neither has a bar in it.
	c := Claims{Subject: f.cfg.Name + "|" + subject, Role: f.role(m), Scopes: scopes(m)}
	c.ID, _ = m["jti"].(string)
	if session, _ := m["sid"].(string); session != "" {
		c.Session = f.cfg.Name + "|" + session
	}
	if at, err := m.GetIssuedAt(); err == nil && at != nil {
		c.IssuedAt = at.UTC()
	}
	expires, err := m.GetExpirationTime()
	if err != nil || expires == nil {
		return Claims{}, invalid()
	}
	c.ExpiresAt = expires.UTC()
	return c, nil
}

func (f *foreign) keyOf(t *jwt.Token) (any, error) {
	if _, ok := t.Header["crit"]; ok {
		return nil, errors.New("critical header")
	}
	if f.keys == nil {
		return []byte(f.cfg.Secret.Reveal()), nil
	}
	id, _ := t.Header["kid"].(string)
	if id == "" {
		return nil, errors.New("unknown key")
	}
	return f.keys.find(id, t.Method.Alg())
}

// role is the greatest of the token's roles.
func (f *foreign) role(m jwt.MapClaims) identity.Role {
	role := identity.Customer
	for _, name := range texts(claim(m, f.cfg.RoleClaim)) {
		for _, r := range f.cfg.Roles {
			if r.Claim == name && r.Role.Includes(role) {
				role = r.Role
			}
		}
	}
	return role
}

// claim is the claim of a name, or of a path as in realm_access.roles. A name with dots, as some issuers use, comes first.
func claim(m map[string]any, path string) any {
	if v, ok := m[path]; ok {
		return v
	}
	name, rest, more := strings.Cut(path, ".")
	inner, ok := m[name].(map[string]any)
	if !more || !ok {
		return nil
	}
	return claim(inner, rest)
}

// texts is a text, or the texts of a list.
func texts(v any) []string {
	switch v := v.(type) {
	case string:
		return []string{v}
	case []any:
		list := make([]string, 0, len(v))
		for _, one := range v {
			if s, ok := one.(string); ok {
				list = append(list, s)
			}
		}
		return list
	}
	return nil
}

// scopes are those of "scope" (RFC 8693) and "scp", each a text with spaces or a list.
func scopes(m jwt.MapClaims) identity.Scopes {
	var all []string
	for _, name := range []string{"scope", "scp"} {
		for _, text := range texts(m[name]) {
			for one := range strings.FieldsSeq(text) {
				if !slices.Contains(all, one) {
					all = append(all, one)
				}
			}
		}
	}
	return identity.Scopes(strings.Join(all, " "))
}
