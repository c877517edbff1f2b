package users

import (
	"context"
	"fmt"
	"strings"

	"github.com/banyan-go/banyan/internal/errs"
	"github.com/banyan-go/banyan/internal/identity"
	"github.com/banyan-go/banyan/internal/rest"
	"github.com/banyan-go/banyan/internal/token"
	"github.com/banyan-go/banyan/internal/unit"
	"github.com/banyan-go/banyan/modules/users/internal/account"
)

// login begins a session. The password is checked outside of any unit of work, because that takes long; what was read
// for it is looked at again inside.
func (s *service) login(ctx context.Context, email, password string) (grant, error) {
	key := strings.ToLower(strings.TrimSpace(email))
	if parsed, err := account.ParseEmail(email); err == nil {
		key = parsed.Key
	}
	db := s.store.Read(ctx)
	var u userRow
	if _, err := take(db.Where("email_key = ?", key), &u); err != nil {
		return grant{}, fmt.Errorf("login: %w", err)
	}
	try := newAttempt(key, rest.ClientIP(ctx), u.ID)
	counters, known, err := try.read(db)
	if err != nil {
		return grant{}, err
	}
	if err := wait(counters, known, s.clock.Now()); err != nil {
		return grant{}, err
	}
	matches, err := s.hasher.Matches(ctx, password, u.PasswordHash)
	if err != nil {
		return grant{}, err
	}
	var g grant
	var refused error // committed, and only then told
	err = s.store.Do(ctx, func(_ context.Context, w *unit.Work) error {
		g, refused = grant{}, nil
		var now userRow
		if _, err := take(forUpdate(w.DB).Where("id = ?", u.ID), &now); err != nil {
			return fmt.Errorf("login: %w", err)
		}
		// A password that was changed in between is a wrong one; an account that was erased has none.
		if !matches || now.PasswordHash != u.PasswordHash {
			throttled, err := try.fail(w)
			refused = errs.New(errs.Unauthenticated, "email or password is wrong")
			if throttled != nil {
				refused = throttled
			}
			return err
		}
		counters, known, err := try.read(forUpdate(w.DB))
		if err != nil {
			return err
		}
		if refused = wait(counters, known, w.Now()); refused != nil {
			return nil
		}
		if err := try.succeed(w); err != nil {
			return err
		}
		g, err = s.begin(w, now)
		return err
	})
	if err != nil {
		return grant{}, err
	}
	return g, refused
}

// begin makes a session of a locked account.
func (s *service) begin(w *unit.Work, u userRow) (grant, error) {
	at := issuedAt(w, u)
	row := sessionRow{
		ID: w.NewID(), UserID: u.ID, RotatedAt: w.Now(), LastIssuedAt: at, CreatedAt: w.Now(), ExpiresAt: w.Now().Add(s.cfg.RefreshToken),
	}
	if err := w.DB.Create(&row).Error; err != nil {
		return grant{}, fmt.Errorf("begin session: %w", err)
	}
	return s.grant(w, u, row)
}

// grant adds a refresh token of the session's generation.
func (s *service) grant(w *unit.Work, u userRow, row sessionRow) (grant, error) {
	secret, hash := newSecret()
	err := w.DB.Create(&refreshTokenRow{Hash: hash, SessionID: row.ID, UserID: u.ID, Generation: row.Generation, ExpiresAt: row.ExpiresAt}).Error
	if err != nil {
		return grant{}, fmt.Errorf("issue refresh token: %w", err)
	}
	return grant{refresh: secret, expires: row.ExpiresAt.Sub(w.Now()), claims: token.Claims{
		Subject: u.ID, Role: identity.Role(u.Role), Session: row.ID, IssuedAt: row.LastIssuedAt, ExpiresAt: row.LastIssuedAt.Add(s.cfg.AccessToken),
	}}, nil
}
