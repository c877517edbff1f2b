package unit

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"

	"github.com/banyan-go/banyan/internal/database"
	"github.com/banyan-go/banyan/internal/message"
)

// Erase blanks the personal data of a user in everything that the module's store keeps of messages, timers and answers. It is
// remembered, so that a message that comes later is kept without it too. What was sent already has reached others, who erase
// for themselves. What another unit of work writes of the user at the same time is for the module to keep out: by a row of its own
// that both of them lock, before Erase; or by asking Erased, which waits for an Erase that has begun.
//
//   - outbox, parked, dead_letters, timers: the fields tagged as personal. What nobody knows the type of is emptied whole. The
//     reasons of failures go with it; an error may quote what it could not handle.
//   - inbox, idempotency: answers to requests that are about the user or were given to them. Who asks again is told that the
//     answer is gone.
//
// A pending effect stays as it was asked for. It may be on its way, or have been called without a reply, and the other side
// knows it by its first words: with others a charge could neither be found nor finished. It has its end in sight: its row goes with
// its outcome, or, given up after bus.give_up_after, becomes a dead letter without personal data. Replayed, the effect is
// called with that.
func (w *Work) Erase(subject string) error {
	if subject == "" {
		return nil
	}
	if err := w.lockSubject(subject, "pg_advisory_xact_lock"); err != nil {
		return fmt.Errorf("erase: %w", err)
	}
	if err := w.DB.Exec("INSERT INTO erased (subject, erased_at) VALUES (?, ?) ON CONFLICT (subject) DO NOTHING", subject, w.now).Error; err != nil {
		return fmt.Errorf("erase: %w", err)
	}
	for _, t := range []struct {
		table, id, body, reason string
		blank                   func(name string, body []byte) ([]byte, error)
	}{
		{"outbox", "message_id", "payload", "", w.store.personal.Payload},
		{"parked", "message_id", "message", "error", w.store.personal.Envelope},
		{"dead_letters", "message_id", "message", "reason", w.store.personal.Envelope},
		{"timers", "name || ' ' || key", "payload", "", w.store.personal.Payload},
	} {
		where := "subject = ?"
		if t.table == "timers" {
			where += " AND kind <> '" + kindEffect + "'"
		}
		var rows []struct {
			ID      string
			Name    string
			Payload []byte
		}
		query := fmt.Sprintf("SELECT DISTINCT %s AS id, name, %s AS payload FROM %s WHERE %s", t.id, t.body, t.table, where)
		if err := w.DB.Raw(query, subject).Scan(&rows).Error; err != nil {
			return fmt.Errorf("erase in %s: %w", t.table, err)
		}
		for _, r := range rows {
			clean, err := t.blank(w.store.payloadName(r.Name), r.Payload)
			if err != nil {
				return fmt.Errorf("erase in %s: %w", t.table, err)
			}
			set := t.body + " = ?"
			if t.reason != "" {
				set += ", " + t.reason + " = 'erased'"
			}
			if err := w.DB.Exec(fmt.Sprintf("UPDATE %s SET %s WHERE %s = ? AND %s", t.table, set, t.id, where), clean, r.ID, subject).Error; err != nil {
				return fmt.Errorf("erase in %s: %w", t.table, err)
			}
		}
	}
	if err := w.DB.Exec("UPDATE inbox SET reply = NULL WHERE subject = ?", subject).Error; err != nil {
		return fmt.Errorf("erase replies: %w", err)
	}
	err := w.DB.Exec("UPDATE idempotency SET body = ?, location = '', erased = ? WHERE personal = ? OR subject = ?", []byte{}, true, subject, subject).Error
	if err != nil {
		return fmt.Errorf("erase stored answers: %w", err)
	}
	return nil
}

// Know names the types of what timers and effects are given, so that what is personal in it can be told. It comes before the
// first unit of work.
func (s *Store) Know(payloads map[string]reflect.Type) {
	named := make(map[string]reflect.Type, len(payloads))
	for name, t := range payloads {
		named[s.payloadName(name)] = t
	}
	s.personal = s.personal.With(named)
}

// subject is whom a timer or an effect is about: who its payload says, or whom the message is about that caused it.
func (w *Work) subject(payload any) string {
	if p, ok := payload.(message.Personal); ok {
		return p.PersonalSubject()
	}
	if w.cause != nil {
		return w.cause.Subject
	}
	return ""
}

// timerPayload is what a timer is given: nothing personal of somebody who is erased already.
func (w *Work) timerPayload(t timerRow) ([]byte, error) {
	if t.Kind == kindEffect || t.Subject == "" {
		return t.Payload, nil
	}
	clean, err := w.store.personal.Payload(w.store.payloadName(t.Name), t.Payload)
	if err != nil || bytes.Equal(clean, t.Payload) {
		return t.Payload, err
	}
	if erased, err := w.Erased(t.Subject); err != nil || !erased {
		return t.Payload, err
	}
	return clean, nil
}

// payloadName is how the redactor knows a payload: a message by its wire name, a timer or an effect by its module and name.
func (s *Store) payloadName(name string) string {
	if message.CheckName(name) == nil {
		return name
	}
	return s.module + "/" + name
}

// Erased says whether a user was erased in this store. The answer holds until the unit of work is over: an erasure of the user
// waits for its end, and then finds what it has kept.
func (w *Work) Erased(subject string) (bool, error) {
	if subject == "" {
		return false, nil
	}
	if err := w.lockSubject(subject, "pg_advisory_xact_lock_shared"); err != nil {
		return false, err
	}
	var n int
	err := w.DB.Raw("SELECT count(*) FROM erased WHERE subject = ?", subject).Row().Scan(&n)
	return n > 0, err
}

// Envelope is a message in the form in which it is kept, without the personal data of who was erased; erased says so.
func (w *Work) Envelope(m message.Message) (body []byte, erased bool, err error) {
	if body, err = json.Marshal(m); err != nil {
		return nil, false, err
	}
	if erased, err = w.Erased(m.Subject); err != nil || !erased {
		return body, false, err
	}
	body, err = w.store.personal.Envelope(w.store.payloadName(m.Name), body)
	return body, true, err
}

// lockSubject makes an erasure and whoever keeps a message of the same user wait for each other's commit: else neither
// sees what the other is about to write. On SQLite there is one writer.
func (w *Work) lockSubject(subject, how string) error {
	if w.Dialect() != database.Postgres {
		return nil
	}
	return database.Statements(w.DB).Later(nil, "SELECT "+how+"(hashtextextended(?, 0))", "erase "+w.store.module+" "+subject)
}
