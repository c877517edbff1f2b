package proxy

import (
	"crypto/sha256"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/banyan-go/banyan/internal/errs"
	"github.com/banyan-go/banyan/internal/identity"
)

// Caller is who a token speaks for.
type Caller struct {
	identity.Identity
	IssuedAt  time.Time
	ExpiresAt time.Time
}

// VerifyFunc checks the signature and the time of a token; an error means that the token proves nothing.
type VerifyFunc func(token string, now time.Time) (Caller, error)

// RevokedFunc says whether a verified token was revoked since. It is asked for every request.
type RevokedFunc func(Caller) bool

const (
	maxToken     = 8 << 10 // bytes; ours are far smaller, and a hash of all of it is made each time
	cachedTokens = 20_000
)

// tokens remembers verified tokens by their hash: a signature is dear, and a client shows the same token many times.
// Two generations bound it: when the younger is full, the older is forgotten.
type tokens struct {
	mu         sync.Mutex
	young, old map[[sha256.Size]byte]Caller
	half       int
}

func newTokens(size int) *tokens {
	return &tokens{young: map[[sha256.Size]byte]Caller{}, half: max(1, size/2)}
}

func (t *tokens) get(hash [sha256.Size]byte, now time.Time) (Caller, bool) {
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

func (t *tokens) put(hash [sha256.Size]byte, c Caller) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.keep(hash, c)
}

func (t *tokens) keep(hash [sha256.Size]byte, c Caller) {
	if len(t.young) >= t.half {
		t.old, t.young = t.young, map[[sha256.Size]byte]Caller{}
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
	scheme, token, _ := strings.Cut(lines[0], " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return "", nil
	}
	if token = strings.TrimSpace(token); len(token) > maxToken {
		return "", errs.New(errs.Unauthenticated, "the token is not valid")
	}
	return token, nil
}

// authenticate is who asks. Without a token that is nobody. A token that proves nothing is errs.Unauthenticated:
// the caller decides whether the route needs one. Checking an unknown token is work that anybody can ask for, so it
// is limited per address.
func (g *Gateway) authenticate(h http.Header, c client, now time.Time) (identity.Identity, error) {
	raw, err := bearer(h)
	if err != nil || raw == "" || g.verify == nil {
		return identity.Identity{}, err
	}
	hash := sha256.Sum256([]byte(raw))
	caller, ok := g.tokens.get(hash, now)
	if !ok {
		if g.verifications != nil {
			if _, wait := g.verifications.take(c.key(), now); wait > 0 {
				return identity.Identity{}, errs.New(errs.Throttled, "too many requests").After(wait)
			}
		}
		if caller, err = g.verify(raw, now); err != nil || caller.Subject == "" || caller.Role == identity.Anonymous {
			return identity.Identity{}, errs.Wrap(errs.Unauthenticated, err, "the token is not valid")
		}
		g.tokens.put(hash, caller)
	}
	if g.revoked != nil && g.revoked(caller) {
		return identity.Identity{}, errs.New(errs.Unauthenticated, "the token was revoked")
	}
	return caller.Identity, nil
}
