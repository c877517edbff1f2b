package payments

import (
	"context"
	"fmt"

	"github.com/banyan-go/banyan/internal/unit"
	"github.com/banyan-go/banyan/modules/users/usersapi"
)

func (p *payments) onUserErased(_ context.Context, w *unit.Work, e usersapi.UserErased) error {
	if err := w.Erase(e.UserID); err != nil {
		return err
	}
	if err := w.DB.Exec("UPDATE payments SET card = '' WHERE customer_id = ? AND card <> ''", e.UserID).Error; err != nil {
		return fmt.Errorf("erase cards of %s: %w", e.UserID, err)
	}
	return nil
}
