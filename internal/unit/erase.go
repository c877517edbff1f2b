package unit

import (
	"fmt"
)

type personalRow struct {
	ID      int64
	Name    string
	Payload []byte
}

// Erase blanks the personal data of a user in everything that the module's store keeps of messages and answers:
// outbox, parked messages, dead letters, stored answers. What was sent already has reached others, who erase for
// themselves.
func (w *Work) Erase(subject string) error {
	if subject == "" {
		return nil
	}
	for _, t := range []struct{ table, id, body string }{{"outbox", "id", "payload"}, {"parked", "position", "message"}, {"dead_letters", "position", "message"}} {
		var rows []personalRow
		if err := w.DB.Raw(fmt.Sprintf("SELECT %s AS id, name, %s AS payload FROM %s WHERE subject = ?", t.id, t.body, t.table), subject).Scan(&rows).Error; err != nil {
			return fmt.Errorf("erase in %s: %w", t.table, err)
		}
		for _, r := range rows {
			var clean []byte
			var err error
			if t.table == "outbox" {
				clean, err = w.store.personal.Payload(r.Name, r.Payload)
			} else {
				clean, err = w.store.personal.Envelope(r.Name, r.Payload)
			}
			if err != nil {
				return fmt.Errorf("erase in %s: %w", t.table, err)
			}
			if err := w.DB.Exec(fmt.Sprintf("UPDATE %s SET %s = ? WHERE %s = ?", t.table, t.body, t.id), clean, r.ID).Error; err != nil {
				return fmt.Errorf("erase in %s: %w", t.table, err)
			}
		}
	}
	err := w.DB.Exec("UPDATE idempotency SET body = ?, location = '', erased = ? WHERE personal = ? OR subject = ?", []byte{}, true, subject, subject).Error
	if err != nil {
		return fmt.Errorf("erase stored answers: %w", err)
	}
	return nil
}
