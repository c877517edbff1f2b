package notifications

import (
	"context"
	"fmt"

	"github.com/banyan-go/banyan/internal/unit"
)

// effectForget removes the .eml files of mails; its key is the user, or a mail that came too late to be among them.
const effectForget = "forget"

// erase forgets a user: what is known, what was told, and the mails. The row stays, so that what other modules announce
// later about the user tells nobody anything.
func (s *service) erase(w *unit.Work, userID string) error {
	row, err := recipient(w, userID, "UPDATE")
	if err != nil {
		return err
	}
	if err := update(w, &recipientRow{ID: row.ID, Known: true, Erased: true}); err != nil {
		return err
	}
	var gone []struct{ ID, State string }
	if err := w.DB.Raw("DELETE FROM notifications WHERE user_id = ? RETURNING id, state", userID).Scan(&gone).Error; err != nil {
		return fmt.Errorf("erase user %s: %w", userID, err)
	}
	var mails []string
	for _, g := range gone {
		if g.State == stateSent || g.State == statePending {
			mails = append(mails, g.ID)
		}
	}
	if len(mails) > 0 {
		w.Effect(effectForget, userID, mails)
	}
	return w.Erase(userID)
}

func (s *service) forget(ctx context.Context, key string, ids []string) error {
	if err := s.sender.Forget(ctx, ids); err != nil {
		return err
	}
	return s.store.Do(ctx, func(_ context.Context, w *unit.Work) error {
		w.FinishEffect(effectForget, key)
		return nil
	})
}
