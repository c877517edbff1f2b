package users

import (
	"context"
	"fmt"

	"github.com/banyan-go/banyan/internal/errs"
	"github.com/banyan-go/banyan/internal/unit"
	"github.com/banyan-go/banyan/modules/users/internal/account"
)

// refresh exchanges a refresh token.
func (s *service) refresh(ctx context.Context, secret string) (grant, error) {
	hash := hashSecret(secret)
	var g grant
	var refused error // committed, and only then told: the theft of a token ends its session
	err := s.store.Do(ctx, func(_ context.Context, w *unit.Work) error {
		g, refused = grant{}, errs.New(errs.Unauthenticated, "the refresh token is not valid; sign in again")
		var t refreshTokenRow
		if found, err := take(w.DB.Where("hash = ?", hash), &t); err != nil || !found {
			return err
		}
		// The account comes before the session, as in revokeUser: they cannot wait for each other in a circle.
		var u userRow
		if found, err := take(forUpdate(w.DB).Where("id = ? AND state = ?", t.UserID, stateActive), &u); err != nil || !found {
			return err
		}
		var row sessionRow
		if found, err := take(forUpdate(w.DB).Where("id = ?", t.SessionID), &row); err != nil || !found {
			return err
		}
		session := account.Session{Generation: row.Generation, Parent: row.Parent, RotatedAt: row.RotatedAt, ExpiresAt: row.ExpiresAt, Revoked: row.Revoked}
		switch session.Use(account.RefreshToken{Hash: t.Hash, Generation: t.Generation, ExpiresAt: t.ExpiresAt}, w.Now()) {
		case account.Rotate:
			row.Generation, row.Parent, row.RotatedAt = row.Generation+1, t.Hash, w.Now()
		case account.Repeat:
		case account.Stolen:
			_, err := s.revokeSession(w, row.UserID, row.ID)
			return err
		default:
			return nil
		}
		row.LastIssuedAt, row.ExpiresAt = issuedAt(w, u), w.Now().Add(s.cfg.RefreshToken)
		err := w.DB.Model(&row).Select("generation", "parent", "rotated_at", "last_issued_at", "expires_at").Updates(&row).Error
		if err != nil {
			return fmt.Errorf("refresh session %s: %w", row.ID, err)
		}
		g, err = s.grant(w, u, row)
		refused = nil
		return err
	})
	if err != nil {
		return grant{}, err
	}
	return g, refused
}
