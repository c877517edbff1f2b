package notifications

import (
	"net/url"
	"strings"

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

// tokenMark stands for the token in the configured link.
const tokenMark = "{token}"

// invite mails an invitation. Who is invited has no account: the address is the notification's own, and nobody sees
// it in the app.
func (s *service) invite(w *unit.Work, e usersapi.UserInvited) error {
	if e.Email == "" || !w.Now().Before(e.ExpiresAt) {
		return nil // erased or expired on the way
	}
	link := strings.ReplaceAll(s.cfg.InvitationLink, tokenMark, url.QueryEscape(e.Token))
	row, err := made(w, e.InvitationID, letter.Invitation, letter.Data{Link: link, Token: e.Token, Until: e.ExpiresAt})
	if err != nil {
		return err
	}
	row.Address, row.State = e.Email, statePending
	return keep(w, []notificationRow{row})
}
