package rest

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"time"

	"github.com/banyan-go/banyan/internal/errs"
	"github.com/banyan-go/banyan/internal/message"
	"github.com/banyan-go/banyan/internal/unit"
)

// Request is what the gateway knows of a request and its answer depends on.
type Request struct {
	Method, Route  string // Route is the pattern, as in "/api/orders/{id}/cancel"
	Path, Query    string // as sent
	Subject        string // of the verified identity
	IdempotencyKey string // "" for none
	BodyHash       [32]byte
	ClientIP       string
	Money          bool // keep the answer for ever
}

type requestKey struct{}

// WithRequest puts the request into the context. It must not change any more.
func WithRequest(ctx context.Context, r *Request) context.Context {
	return context.WithValue(ctx, requestKey{}, r)
}

// ClientIP is the address of the client as the gateway believes it, or "".
func ClientIP(ctx context.Context) string {
	r, ok := ctx.Value(requestKey{}).(*Request)
	if !ok {
		return ""
	}
	return r.ClientIP
}

// key is what names the request in the store; false without an Idempotency-Key.
func key(ctx context.Context) (unit.RequestKey, bool) {
	r, ok := ctx.Value(requestKey{}).(*Request)
	if !ok || r.IdempotencyKey == "" || (r.Method != "POST" && r.Method != "PATCH") {
		return unit.RequestKey{}, false
	}
	// Bodies may hold passwords. What is kept of one is keyed with the caller's Idempotency-Key, and of that only a hash:
	// whoever reads the table can try neither.
	mac := hmac.New(sha256.New, []byte(r.IdempotencyKey))
	_, _ = fmt.Fprintf(mac, "%s?%s\n", r.Path, r.Query)
	mac.Write(r.BodyHash[:])
	subject := r.Subject
	if subject == "" {
		subject = "anonymous " + digest(r.ClientIP) // keys of strangers must not meet
	}
	return unit.RequestKey{Subject: subject, Route: r.Method + " " + r.Route, Key: digest(r.IdempotencyKey), Hash: mac.Sum(nil), Keep: r.Money}, true
}

func digest(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:])
}

func commit[T any](ctx context.Context, store *unit.Store, fn func(ctx context.Context, w *unit.Work) (T, error)) (*Answer[T], error) {
	if reason := store.Overloaded(); reason != "" {
		return nil, errs.New(errs.Unavailable, "%s", reason).After(5 * time.Second)
	}
	k, once := key(ctx)
	if !once {
		var body T
		err := store.Do(ctx, func(ctx context.Context, w *unit.Work) error {
			var err error
			body, err = fn(ctx, w)
			return err
		})
		if err != nil {
			return nil, err
		}
		return Reply(body), nil
	}
	var fresh *Answer[T]
	stored, repeated, err := store.Once(ctx, k, func(ctx context.Context, w *unit.Work) (*unit.StoredAnswer, error) {
		body, err := fn(ctx, w)
		if err != nil {
			return nil, err
		}
		fresh = Reply(body)
		encoded, err := json.Marshal(body)
		if err != nil {
			return nil, fmt.Errorf("encode answer: %w", err)
		}
		s := &unit.StoredAnswer{Location: fresh.Location, Body: encoded}
		if p, ok := any(body).(message.Personal); ok {
			s.Personal = p.PersonalSubject()
		}
		return s, nil
	})
	switch {
	case err != nil:
		return nil, err
	case !repeated:
		return fresh, nil
	}
	answer := new(Answer[T])
	return answer, answer.restore(stored)
}

// restore fills the answer from a stored one.
func (a *Answer[T]) restore(s *unit.StoredAnswer) error {
	if err := json.Unmarshal(s.Body, &a.Body); err != nil {
		return fmt.Errorf("decode stored answer: %w", err)
	}
	a.Location, a.Replayed = s.Location, "true"
	return nil
}

type restorer interface {
	restore(*unit.StoredAnswer) error
}
