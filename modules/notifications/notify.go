package notifications

import (
	"encoding/json"
	"fmt"

	"github.com/banyan-go/banyan/internal/unit"
	"github.com/banyan-go/banyan/modules/notifications/internal/letter"
)

// batch is how many rows one statement inserts.
const batch = 100

// notify tells a user something: in the app, and by mail if there is an address and mail is wanted.
func (s *service) notify(w *unit.Work, userID string, kind letter.Kind, d letter.Data) error {
	to, err := recipient(w, userID, "SHARE")
	if err != nil || to.Erased {
		return err
	}
	state := stateInApp
	switch {
	case !to.Known:
		state = stateWaiting
	case to.mailable():
		state = statePending
	default:
		d.Lines = nil // only a mail shows them
	}
	row, err := made(w, userID, kind, d)
	if err != nil {
		return err
	}
	row.State = state
	return keep(w, []notificationRow{row})
}

func made(w *unit.Work, userID string, kind letter.Kind, d letter.Data) (notificationRow, error) {
	data, err := json.Marshal(d)
	if err != nil {
		return notificationRow{}, fmt.Errorf("notification of %s: %w", kind, err)
	}
	return notificationRow{ID: w.NewID(), UserID: userID, Kind: string(kind), State: stateInApp, Data: string(data), CreatedAt: w.Now()}, nil
}

// keep stores notifications and asks for the mails of those that want one.
func keep(w *unit.Work, rows []notificationRow) error {
	if err := w.Later().CreateInBatches(rows, batch).Error; err != nil {
		return fmt.Errorf("keep notifications: %w", err)
	}
	for _, r := range rows {
		if r.State == statePending {
			w.Effect(effectSend, r.ID, struct{}{})
		}
	}
	return nil
}

// alert tells all staff something, in the app.
func (s *service) alert(w *unit.Work, kind letter.Kind, d letter.Data) error {
	var staff []string
	err := w.DB.Model(&recipientRow{}).Where("role IN ('staff', 'admin') AND NOT erased").Order("id").Pluck("id", &staff).Error
	if err != nil {
		return fmt.Errorf("staff to alert: %w", err)
	}
	if len(staff) == 0 {
		return nil
	}
	rows := make([]notificationRow, len(staff))
	for i, id := range staff {
		if rows[i], err = made(w, id, kind, d); err != nil {
			return err
		}
	}
	return keep(w, rows)
}

// settle decides about the notifications of a user who has become known.
func settle(w *unit.Work, to recipientRow) error {
	state := stateInApp
	if to.mailable() {
		state = statePending
	}
	var ids []string
	err := w.DB.Raw("UPDATE notifications SET state = ? WHERE user_id = ? AND state = ? RETURNING id", state, to.ID, stateWaiting).Scan(&ids).Error
	if err != nil {
		return fmt.Errorf("notifications of %s: %w", to.ID, err)
	}
	if state == statePending {
		for _, id := range ids {
			w.Effect(effectSend, id, struct{}{})
		}
	}
	return nil
}
