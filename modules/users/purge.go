package users

import (
	"context"
	"fmt"
	"time"

	"github.com/banyan-go/banyan/internal/unit"
)

const (
	// purgeMost bounds one run, which keeps other units of work waiting on SQLite; what is left waits for the next one.
	purgeMost = 5000
	// erasuresMost is less, because each one is announced.
	erasuresMost = 100
	// rememberAddress is how long an address stays known to an account that is not used from there.
	rememberAddress = 180 * 24 * time.Hour
)

// purge deletes what has expired.
func (s *service) purge(_ context.Context, w *unit.Work, _ time.Time) error {
	now := w.Now()
	for _, p := range []struct{ table, key, column string }{
		{"refresh_tokens", "hash", "expires_at"}, {"sessions", "id", "expires_at"}, {"revocations", "id", "expires_at"},
	} {
		err := w.DB.Exec(fmt.Sprintf("DELETE FROM %[1]s WHERE %[2]s IN (SELECT %[2]s FROM %[1]s WHERE %[3]s <= ? LIMIT ?)", p.table, p.key, p.column), now, purgeMost).Error
		if err != nil {
			return fmt.Errorf("purge %s: %w", p.table, err)
		}
	}
	if err := w.DB.Where("expires_at <= ?", now).Delete(&failuresRow{}).Error; err != nil {
		return fmt.Errorf("purge login failures: %w", err)
	}
	if err := w.DB.Where("seen_at <= ?", now.Add(-rememberAddress)).Delete(&knownAddressRow{}).Error; err != nil {
		return fmt.Errorf("purge known addresses: %w", err)
	}
	return purgeInvitations(w)
}

// purgeInvitations forgets expired invitations.
func purgeInvitations(w *unit.Work) error {
	var rows []invitationRow
	if err := forUpdate(w.DB).Where("expires_at <= ?", w.Now()).Order("id").Limit(erasuresMost).Find(&rows).Error; err != nil {
		return fmt.Errorf("purge invitations: %w", err)
	}
	return forget(w, rows)
}
