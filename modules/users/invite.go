package users

import (
	"context"
	"errors"
	"fmt"

	"gorm.io/gorm"

	"github.com/banyan-go/banyan/internal/errs"
	"github.com/banyan-go/banyan/internal/rest"
	"github.com/banyan-go/banyan/internal/unit"
	"github.com/banyan-go/banyan/modules/users/internal/account"
	"github.com/banyan-go/banyan/modules/users/usersapi"
)

// invite asks somebody to join. A newer invitation to the same address takes the place of the one before.
func (s *service) invite(w *unit.Work, by string, email account.Email, role account.Role) (Invitation, error) {
	if err := checkFree(w, "email_key", email.Key, "", "email address"); err != nil {
		return Invitation{}, err
	}
	err := w.DB.Model(&invitationRow{}).Where("email_key = ? AND state = ?", email.Key, statePending).Update("state", stateReplaced).Error
	if err != nil {
		return Invitation{}, fmt.Errorf("replace invitation: %w", err)
	}
	secret, hash := newSecret()
	row := invitationRow{
		ID: w.NewID(), TokenHash: hash, Email: email.Address, EmailKey: email.Key, Role: string(role), State: statePending, InvitedBy: by,
		CreatedAt: w.Now(), ExpiresAt: w.Now().Add(s.cfg.Invitation),
	}
	err = w.DB.Create(&row).Error
	if errors.Is(err, gorm.ErrDuplicatedKey) {
		return Invitation{}, errs.Wrap(errs.Conflict, err, "somebody else has invited this address at the same moment")
	}
	if err != nil {
		return Invitation{}, fmt.Errorf("invite: %w", err)
	}
	w.Publish(usersapi.UserInvited{InvitationID: row.ID, Email: row.Email, Role: row.Role, Token: secret, ExpiresAt: row.ExpiresAt})
	return Invitation{ID: row.ID, Email: row.Email, Role: row.Role, ExpiresAt: row.ExpiresAt}, nil
}

// accept makes an account of an invitation.
func (s *service) accept(ctx context.Context, secret, name, password string) (*rest.Answer[User], error) {
	hash := hashSecret(secret)
	name, err := account.ParseName(name)
	if err != nil {
		return nil, err
	}
	var invitation invitationRow
	if _, err := take(s.store.Read(ctx).Where("token_hash = ?", hash), &invitation); err != nil {
		return nil, fmt.Errorf("invitation: %w", err)
	}
	if err := invitation.check(s.clock.Now().Before(invitation.ExpiresAt)); err != nil {
		return nil, err // before the password is hashed, which costs
	}
	if err := account.CheckPassword(password, invitation.EmailKey, "body.password"); err != nil {
		return nil, err
	}
	hashed, err := s.hasher.Hash(ctx, password)
	if err != nil {
		return nil, err
	}
	return rest.Commit(ctx, s.store, func(_ context.Context, w *unit.Work) (User, error) {
		var row invitationRow
		if _, err := take(forUpdate(w.DB).Where("token_hash = ?", hash), &row); err != nil {
			return User{}, fmt.Errorf("invitation: %w", err)
		}
		if err := row.check(w.Now().Before(row.ExpiresAt)); err != nil {
			return User{}, err
		}
		// The address is the account's from here on; kept twice, it would have to be erased twice.
		err := w.DB.Model(&invitationRow{}).Where("id = ?", row.ID).Updates(map[string]any{"state": stateAccepted, "email": "", "email_key": ""}).Error
		if err != nil {
			return User{}, fmt.Errorf("accept invitation %s: %w", row.ID, err)
		}
		u := newUser(row.ID, account.Role(row.Role), name, account.Email{Address: row.Email, Key: row.EmailKey}, w.Now())
		u.PasswordHash = hashed
		return s.announced(w, u)
	})
}

// check says whether an invitation can be accepted.
func (r invitationRow) check(inTime bool) error {
	switch {
	case r.ID == "":
		return errs.New(errs.NotFound, "no such invitation")
	case r.State == stateAccepted:
		return errs.New(errs.Conflict, "the invitation was accepted already")
	case r.State != statePending || !inTime:
		return errs.New(errs.Gone, "the invitation has expired or was replaced by a newer one")
	}
	return nil
}
