package users

import (
	"context"
	"errors"

	"github.com/banyan-go/banyan/internal/errs"
	"github.com/banyan-go/banyan/internal/identity"
	"github.com/banyan-go/banyan/internal/rest"
	"github.com/banyan-go/banyan/internal/unit"
	"github.com/banyan-go/banyan/modules/users/internal/account"
)

// errWrongPassword ends a change of password; it is counted like a failed login, or a stolen session could guess on.
var errWrongPassword error = errs.New(errs.Forbidden, "the old password is wrong")

// changePassword replaces a password and ends the other sessions of the account: whoever knew the old one is out.
func (s *service) changePassword(ctx context.Context, id, old, replacement string) (*rest.Answer[SignedOut], error) {
	db := s.store.Read(ctx)
	u, err := user(db, id)
	if err != nil {
		return nil, err
	}
	if u.PasswordHash == "" {
		return nil, errs.New(errs.Conflict, "the account has no password")
	}
	if err := account.CheckPassword(replacement, u.emailKey(), "body.new_password"); err != nil {
		return nil, err
	}
	try := newAttempt(u.emailKey(), rest.ClientIP(ctx), id)
	counters, known, err := try.read(db)
	if err != nil {
		return nil, err
	}
	if err := wait(counters, known, s.clock.Now()); err != nil {
		return nil, err
	}
	matches, err := s.hasher.Matches(ctx, old, u.PasswordHash)
	if err != nil {
		return nil, err
	}
	if !matches {
		return nil, s.wrongPassword(ctx, try)
	}
	hash, err := s.hasher.Hash(ctx, replacement)
	if err != nil {
		return nil, err
	}
	answer, err := rest.Commit(ctx, s.store, func(ctx context.Context, w *unit.Work) (SignedOut, error) {
		now, err := user(forUpdate(w.DB), id)
		if err != nil {
			return SignedOut{}, err
		}
		if now.PasswordHash != u.PasswordHash {
			return SignedOut{}, errWrongPassword // changed in between
		}
		counters, known, err := try.read(forUpdate(w.DB))
		if err != nil {
			return SignedOut{}, err
		}
		if err := wait(counters, known, w.Now()); err != nil {
			return SignedOut{}, err
		}
		if err := update(w, id, map[string]any{"password_hash": hash}); err != nil {
			return SignedOut{}, err
		}
		n, err := s.revokeUser(w, id, identity.From(ctx).Session)
		return SignedOut{Sessions: n}, err
	})
	if errors.Is(err, errWrongPassword) {
		return nil, s.wrongPassword(ctx, try)
	}
	return answer, err
}

// wrongPassword counts the failure and is what to answer.
func (s *service) wrongPassword(ctx context.Context, try attempt) error {
	var throttled error
	err := s.store.Do(ctx, func(_ context.Context, w *unit.Work) error {
		var err error
		throttled, err = try.fail(w)
		return err
	})
	switch {
	case err != nil:
		return err
	case throttled != nil:
		return throttled
	}
	return errWrongPassword
}
