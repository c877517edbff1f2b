package shipping

import (
	"context"
	"fmt"
	"time"

	"gorm.io/gorm/clause"

	"github.com/banyan-go/banyan/internal/unit"
	"github.com/banyan-go/banyan/modules/users/usersapi"
)

// timerErase blanks the addresses of an erased customer once more; its key is the customer.
const timerErase = "erase_again"

// erasedAgainAfter is longer than any unit of work takes.
const erasedAgainAfter = time.Minute

// erase forgets where a customer lives. An order of the customer may be confirmed in the same moment, by a unit of
// work that does not see this one yet, nor this one it: a timer blanks once more when both are over.
func (s *service) erase(_ context.Context, w *unit.Work, e usersapi.UserErased) error {
	added := w.DB.Clauses(clause.OnConflict{DoNothing: true}).Create(&erasedRow{CustomerID: e.UserID, ErasedAt: w.Now()})
	if added.Error != nil {
		return fmt.Errorf("erase customer %s: %w", e.UserID, added.Error)
	}
	if err := blank(w, e.UserID); err != nil {
		return err
	}
	w.Schedule(timerErase, e.UserID, w.Now().Add(erasedAgainAfter), struct{}{})
	return w.Erase(e.UserID)
}

func (s *service) eraseAgain(_ context.Context, w *unit.Work, customerID string, _ struct{}) error {
	return blank(w, customerID)
}

// blank keeps the country: by itself it names nobody, and the books need it.
func blank(w *unit.Work, customerID string) error {
	err := w.DB.Model(&shipmentRow{}).Where("customer_id = ?", customerID).
		Updates(map[string]any{"name": "", "street": "", "city": "", "zip": ""}).Error
	if err != nil {
		return fmt.Errorf("erase customer %s: %w", customerID, err)
	}
	return nil
}
