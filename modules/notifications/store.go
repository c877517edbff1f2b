package notifications

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"gorm.io/gorm"
	"gorm.io/gorm/clause"

	"github.com/banyan-go/banyan/internal/errs"
	"github.com/banyan-go/banyan/internal/unit"
	"github.com/banyan-go/banyan/modules/notifications/internal/letter"
)

// The states; doc.go draws them.
const (
	stateWaiting = "waiting" // nothing is known of the user yet
	statePending = "pending" // a mail is to be sent
	stateSent    = "sent"
	stateRefused = "refused"
	stateInApp   = "in_app" // without a mail
)

type recipientRow struct {
	ID       string `gorm:"primaryKey"`
	Name     string
	Email    string
	Language string
	Mail     bool // wants mail
	Role     string
	Known    bool // false: something refers to the user, whose own events have not come yet
	Erased   bool
}

func (recipientRow) TableName() string { return "recipients" }

// newcomer is a user of whom nothing is known: mail is wanted until said otherwise.
func newcomer(id string) recipientRow { return recipientRow{ID: id, Mail: true} }

// mailable says whether a mail may go to the user now.
func (r recipientRow) mailable() bool { return r.Email != "" && r.Mail && !r.Erased }

type notificationRow struct {
	ID        string `gorm:"primaryKey"`
	UserID    string
	Kind      string
	State     string
	Address   string // of who has no account: the invited
	Data      string
	CreatedAt time.Time
	ReadAt    *time.Time
	SentAt    *time.Time
}

func (notificationRow) TableName() string { return "notifications" }

func (r notificationRow) data() (letter.Data, error) {
	var d letter.Data
	if err := json.Unmarshal([]byte(r.Data), &d); err != nil {
		return d, errs.New(errs.Internal, "notification %s: %w", r.ID, err)
	}
	return d, nil
}

// recipient reads a user's row and locks it with a strength until the unit of work ends, making it if there is none:
// whoever erases or registers the user waits, and then finds what this unit of work leaves.
func recipient(w *unit.Work, id, strength string) (recipientRow, error) {
	var row recipientRow
	read := func() error {
		return w.DB.Clauses(clause.Locking{Strength: strength}).Where("id = ?", id).Take(&row).Error
	}
	err := read()
	if errors.Is(err, gorm.ErrRecordNotFound) {
		row = newcomer(id)
		var added bool
		if added, err = insert(w, &row); err == nil && !added {
			err = read()
		}
	}
	if err != nil {
		return row, fmt.Errorf("recipient %s: %w", id, err)
	}
	return row, nil
}

// insert adds a user's row; false if there is one.
func insert(w *unit.Work, row *recipientRow) (bool, error) {
	added := w.DB.Clauses(clause.OnConflict{DoNothing: true}).Create(row)
	return added.RowsAffected == 1, added.Error
}

func update(w *unit.Work, row *recipientRow) error {
	err := w.Later().Model(row).Select("name", "email", "language", "mail", "role", "known", "erased").Updates(row).Error
	if err != nil {
		return fmt.Errorf("recipient %s: %w", row.ID, err)
	}
	return nil
}
