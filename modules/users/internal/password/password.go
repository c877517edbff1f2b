// Package password hashes passwords with Argon2id, few at a time: each one takes 19 MiB and tens of milliseconds of a
// processor, which a flood of logins must not take from everybody else.
package password

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/alexedwards/argon2id"

	"github.com/banyan-go/banyan/internal/errs"
)

const (
	atOnce   = 2
	maxQueue = 32
)

const (
	memory = 19 * 1024 // KiB
	passes = 2
	lanes  = 1
	salt   = 16 // bytes
	length = 32 // bytes
)

// Hasher makes and checks hashes.
type Hasher struct {
	slots   chan struct{}
	waiting atomic.Int32
	nobody  string // a hash that no password has
}

// NewHasher is ready for use. It computes nothing yet.
func NewHasher() *Hasher {
	return &Hasher{
		slots: make(chan struct{}, atOnce),
		// All zeros in place of a key: no password is known to have it, and finding one is as hard as any other.
		nobody: fmt.Sprintf("$argon2id$v=19$m=%d,t=%d,p=%d$%s$%s", memory, passes, lanes,
			base64.RawStdEncoding.EncodeToString(make([]byte, salt)), base64.RawStdEncoding.EncodeToString(make([]byte, length))),
	}
}

// Hash is the hash of a password.
func (h *Hasher) Hash(ctx context.Context, password string) (string, error) {
	if err := h.enter(ctx); err != nil {
		return "", err
	}
	defer h.leave()
	hash, err := argon2id.CreateHash(password, &argon2id.Params{Memory: memory, Iterations: passes, Parallelism: lanes, SaltLength: salt, KeyLength: length})
	if err != nil {
		return "", fmt.Errorf("hash password: %w", err)
	}
	return hash, nil
}

// Matches says whether the password has the hash. An empty hash stands for an account that does not exist or has no
// password; that takes as long, so that nobody can tell.
func (h *Hasher) Matches(ctx context.Context, password, hash string) (bool, error) {
	if err := h.enter(ctx); err != nil {
		return false, err
	}
	defer h.leave()
	target := hash
	if target == "" {
		target = h.nobody
	}
	ok, err := argon2id.ComparePasswordAndHash(password, target)
	if err != nil {
		return false, fmt.Errorf("check password: %w", err)
	}
	return ok && hash != "", nil
}

func (h *Hasher) enter(ctx context.Context) error {
	select {
	case h.slots <- struct{}{}:
		return nil
	default:
	}
	if h.waiting.Add(1) > maxQueue {
		h.waiting.Add(-1)
		return errs.New(errs.Unavailable, "too many are signing in right now").After(2 * time.Second)
	}
	defer h.waiting.Add(-1)
	select {
	case h.slots <- struct{}{}:
		return nil
	case <-ctx.Done():
		return errs.Wrap(errs.Timeout, ctx.Err(), "the request ended while it waited to check a password")
	}
}

func (h *Hasher) leave() { <-h.slots }

// Random is a password of 20 characters that nobody can guess: 100 bits.
func Random() string { return rand.Text()[:20] }
