package proxy

import (
	"crypto/sha256"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/banyan-go/banyan/internal/errs"
	"github.com/banyan-go/banyan/internal/identity"
	"github.com/banyan-go/banyan/internal/token"
)

// Verifier checks the signature and the times of a token; an error means that the token proves nothing.
// *token.Keyring is one.
type Verifier interface {
	Verify(token string, now time.Time) (token.Claims, error)
}

const cachedTokens = 20_000

// tokens remembers verified tokens by their hash: a signature is dear, and a client shows the same token many times.
// Two generations bound it: when the younger is full, the older is forgotten.
type tokens struct {
	mu         sync.Mutex
	young, old map[[sha256.Size]byte]token.Claims
	half       int
}

func newTokens(size int) *tokens {
	return &tokens{young: map[[sha256.Size]byte]token.Claims{}, half: max(1, size/2)}
}

func (t *tokens) get(hash [sha256.Size]byte, now time.Time) (token.Claims, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	c, ok := t.young[hash]
	if !ok {
		if c, ok = t.old[hash]; ok {
			t.keep(hash, c)
		}
	}
	return c, ok && now.Before(c.ExpiresAt)
}

func (t *tokens) put(hash [sha256.Size]byte, c token.Claims) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.keep(hash, c)
}

// forget believes nothing any more that was verified before.
func (t *tokens) forget() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.young, t.old = map[[sha256.Size]byte]token.Claims{}, nil
}

func (t *tokens) keep(hash [sha256.Size]byte, c token.Claims) {
	if len(t.young) >= t.half {
		t.old, t.young = t.young, map[[sha256.Size]byte]token.Claims{}
	}
	t.young[hash] = c
}

// bearer is the token of the request, or "".
func bearer(h http.Header) (string, error) {
	lines := h["Authorization"]
	if len(lines) == 0 {
		return "", nil
	}
	if len(lines) > 1 {
		return "", errs.New(errs.Malformed, "there is more than one Authorization header")
	}
	scheme, raw, _ := strings.Cut(lines[0], " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return "", nil
	}
	// The length is checked here already: a hash of all of it is made each time.
	if raw = strings.TrimSpace(raw); len(raw) > token.MaxSize {
		return "", errs.New(errs.Unauthenticated, "the access token is not valid")
	}
	return raw, nil
}

// Forget has every token verified again, as after a key was dropped.
func (g *Gateway) Forget() {
	g.tokens.forget()
	g.visitors.forget()
}

// authenticate is who asks. Without a token that is nobody. A token that proves nothing is errs.Unauthenticated:
// the caller decides whether the route needs one. Checking an unknown token is work that anybody can ask for, so it
// is limited per address.
func (g *Gateway) authenticate(h http.Header, c client, now time.Time) (identity.Identity, error) {
	raw, err := bearer(h)
	if err != nil || raw == "" || g.verifier == nil {
		return identity.Identity{}, err
	}
	hash := sha256.Sum256([]byte(raw))
	claims, ok := g.tokens.get(hash, now)
	if !ok {
		if g.verifications != nil {
			if _, wait := g.verifications.take(c.key, now); wait > 0 {
				return identity.Identity{}, errs.New(errs.Throttled, "too many requests").After(wait)
			}
		}
		if claims, err = g.verifier.Verify(raw, now); err != nil {
			return identity.Identity{}, err
		}
		g.tokens.put(hash, claims)
	}
	if g.revocations != nil && g.revocations.Revoked(claims.Session, claims.Subject, claims.IssuedAt) {
		return identity.Identity{}, errs.New(errs.Unauthenticated, "the access token was revoked")
	}
	return claims.Identity(), nil
}
