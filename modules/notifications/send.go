package notifications

import (
	"context"
	"errors"
	"fmt"
	"time"

	"gorm.io/gorm"
	"gorm.io/gorm/clause"

	"github.com/banyan-go/banyan/internal/unit"
	"github.com/banyan-go/banyan/modules/notifications/internal/letter"
	"github.com/banyan-go/banyan/modules/notifications/internal/mail"
	"github.com/banyan-go/banyan/modules/notifications/notificationsapi"
)

// effectSend sends the mail of a notification; its key is the notification.
const effectSend = "send"

// send renders and sends a mail and keeps what became of it. It runs outside of any unit of work, and again
// after a crash: the sender knows the mail by its id.
func (s *service) send(ctx context.Context, id string, _ struct{}) error {
	m, want, err := s.compose(ctx, id)
	if err != nil {
		return err
	}
	state := stateInApp
	if want {
		switch err := s.sender.Send(ctx, m); {
		case err == nil:
			state = stateSent
		case errors.Is(err, mail.ErrRefused):
			state = stateRefused
		default:
			return err
		}
	}
	return s.store.Do(ctx, func(_ context.Context, w *unit.Work) error { return s.sent(w, id, state) })
}

// compose is the mail of a notification, and whether it is wanted now: preferences may have changed since.
func (s *service) compose(ctx context.Context, id string) (m mail.Mail, want bool, err error) {
	db := s.store.Read(ctx)
	var row notificationRow
	err = db.Where("id = ?", id).Take(&row).Error
	if errors.Is(err, gorm.ErrRecordNotFound) || (err == nil && row.State != statePending) {
		return m, false, nil
	}
	if err != nil {
		return m, false, fmt.Errorf("notification %s: %w", id, err)
	}
	var to recipientRow
	err = db.Where("id = ?", row.UserID).Take(&to).Error
	if err != nil && !errors.Is(err, gorm.ErrRecordNotFound) {
		return m, false, fmt.Errorf("recipient %s: %w", row.UserID, err)
	}
	address := to.Email
	if row.Address != "" {
		address = row.Address
	} else if !to.mailable() {
		return m, false, nil
	}
	d, err := row.data()
	if err != nil {
		return m, false, err
	}
	l, err := s.writer.Write(letter.Kind(row.Kind), letter.Language(to.Language, s.cfg.Language), to.Name, d)
	if err != nil {
		return m, false, err
	}
	// The date is that of the notification: a mail that is sent again is the same mail.
	return mail.Mail{ID: id, From: s.cfg.From, To: address, Name: to.Name, Subject: l.Subject, Text: l.Body, Date: row.CreatedAt}, true, nil
}

// sent keeps the outcome of a mail.
func (s *service) sent(w *unit.Work, id, state string) error {
	w.FinishEffect(effectSend, id)
	var row notificationRow
	err := w.DB.Clauses(clause.Locking{Strength: "UPDATE"}).Where("id = ?", id).Take(&row).Error
	if errors.Is(err, gorm.ErrRecordNotFound) {
		// The user was erased while the mail was being sent, and the file may have come after the files were removed.
		w.Effect(effectForget, id, []string{id})
		return nil
	}
	if err != nil {
		return fmt.Errorf("notification %s: %w", id, err)
	}
	if row.State != statePending {
		return nil
	}
	change := map[string]any{"state": state}
	if state == stateSent {
		change["sent_at"] = w.Now()
	}
	if row.Kind == string(letter.Invitation) {
		change["data"] = "{}" // the token belongs to the invited alone
	}
	if err := w.DB.Model(&row).Updates(change).Error; err != nil {
		return fmt.Errorf("notification %s: %w", id, err)
	}
	if state == stateSent {
		w.Publish(announced(row, w.Now()))
	}
	return nil
}

func announced(row notificationRow, at time.Time) notificationsapi.NotificationSent {
	return notificationsapi.NotificationSent{NotificationID: row.ID, UserID: row.UserID, Kind: row.Kind, At: at}
}
