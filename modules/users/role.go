package users

import (
	"github.com/banyan-go/banyan/internal/unit"
	"github.com/banyan-go/banyan/modules/users/internal/account"
	"github.com/banyan-go/banyan/modules/users/usersapi"
)

// changeRole gives an account another role. Its access tokens name the old one, so its sessions end.
func (s *service) changeRole(w *unit.Work, id string, role account.Role) error {
	existing, err := admins(w)
	if err != nil {
		return err
	}
	row, err := user(forUpdate(w.DB), id)
	if err != nil {
		return err
	}
	if row.Role == string(role) {
		return nil
	}
	if err := account.CheckRole(id, role, row.PasswordHash != "", existing); err != nil {
		return err
	}
	if err := update(w, id, map[string]any{"role": string(role)}); err != nil {
		return err
	}
	if _, err := s.revokeUser(w, id, ""); err != nil {
		return err
	}
	w.Publish(usersapi.RoleChanged{UserID: id, Role: string(role)})
	return nil
}
