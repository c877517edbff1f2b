package notifications

import (
	"net/url"
	"strings"

	"github.com/banyan-go/banyan/internal/unit"
	"github.com/banyan-go/banyan/modules/notifications/internal/letter"
	"github.com/banyan-go/banyan/modules/users/usersapi"
)

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
