package users

import (
	"fmt"

	"github.com/banyan-go/banyan/internal/unit"
	"github.com/banyan-go/banyan/modules/users/internal/account"
	"github.com/banyan-go/banyan/modules/users/usersapi"
)

// erase forgets who an account belonged to. Its row stays, because orders and payments go on naming its id.
func (s *service) erase(w *unit.Work, id string) error {
	existing, err := admins(w)
	if err != nil {
		return err
	}
	row, err := user(forUpdate(w.DB), id)
	if err != nil {
		return err
	}
	if err := account.CheckLastAdmin(id, existing); err != nil {
		return err
	}
	if _, err := s.revokeUser(w, id, ""); err != nil {
		return err
	}
	// An erased account is a customer: it must not be counted among the admins.
	err = update(w, id, map[string]any{
		"state": stateErased, "role": string(account.Customer), "name": "", "email": "", "email_key": nil, "reference": nil, "password_hash": "",
		"mail": false, "language": "",
	})
	if err != nil {
		return err
	}
	key := row.emailKey()
	for _, d := range []struct {
		where string
		args  []any
		row   any
	}{
		{"user_id = ?", []any{id}, &refreshTokenRow{}},
		{"user_id = ?", []any{id}, &sessionRow{}},
		{"user_id = ?", []any{id}, &knownAddressRow{}},
		{"account = ?", []any{pseudonym("account", key)}, &failuresRow{}},
	} {
		if err := w.DB.Where(d.where, d.args...).Delete(d.row).Error; err != nil {
			return fmt.Errorf("erase user %s: %w", id, err)
		}
	}
	var invitations []invitationRow
	if err := forUpdate(w.DB).Where("id = ? OR (email_key = ? AND email_key <> '')", id, key).Order("id").Find(&invitations).Error; err != nil {
		return fmt.Errorf("erase user %s: %w", id, err)
	}
	if err := forget(w, invitations); err != nil {
		return err
	}
	return announceErased(w, id)
}

// forget deletes locked invitations. Somebody who never became a user by one has left an address with us and with whoever sent
// the mail, under the invitation's id: that is forgotten as a user's would be.
func forget(w *unit.Work, invitations []invitationRow) error {
	for _, i := range invitations {
		if err := w.DB.Where("id = ?", i.ID).Delete(&invitationRow{}).Error; err != nil {
			return fmt.Errorf("forget invitation %s: %w", i.ID, err)
		}
		if i.State == stateAccepted {
			continue
		}
		if err := announceErased(w, i.ID); err != nil {
			return err
		}
	}
	return nil
}

// announceErased lets everybody forget who an id belongs to, and does so with what is kept here.
func announceErased(w *unit.Work, id string) error {
	w.Publish(usersapi.UserErased{UserID: id, At: w.Now()})
	return w.Erase(id)
}
