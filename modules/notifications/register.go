package notifications

import (
	"github.com/banyan-go/banyan/internal/unit"
	"github.com/banyan-go/banyan/modules/notifications/internal/letter"
	"github.com/banyan-go/banyan/modules/users/usersapi"
)

// register makes a user known and says welcome to who has an address.
func (s *service) register(w *unit.Work, e usersapi.UserRegistered) error {
	row := newcomer(e.UserID)
	row.Name, row.Email, row.Role, row.Known = e.Name, e.Email, e.Role, true
	added, err := insert(w, &row)
	if err != nil {
		return err
	}
	if !added {
		// Something about the user has come before, from another module.
		err := change(w, e.UserID, func(r *recipientRow) { r.Name, r.Email, r.Role, r.Known = e.Name, e.Email, e.Role, true })
		if err != nil {
			return err
		}
	}
	if e.Email == "" {
		return nil
	}
	return s.notify(w, e.UserID, letter.Welcome, letter.Data{})
}

// change changes what is known of a user, unless the user is erased.
func change(w *unit.Work, userID string, set func(*recipientRow)) error {
	row, err := recipient(w, userID, "UPDATE")
	if err != nil || row.Erased {
		return err
	}
	before := row
	if set(&row); row == before {
		return nil
	}
	if err := update(w, &row); err != nil {
		return err
	}
	if row.Known && !before.Known {
		return settle(w, row)
	}
	return nil
}
