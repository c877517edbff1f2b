package inbox

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"gorm.io/gorm"

	"github.com/banyan-go/banyan/internal/database"
	"github.com/banyan-go/banyan/internal/errs"
	"github.com/banyan-go/banyan/internal/message"
	"github.com/banyan-go/banyan/internal/unit"
)

// TimerHandler is the handler name under which a timer, a schedule or an effect is buried.
func TimerHandler(name string) string { return "timer:" + name }

func isTimer(handler string) bool { return strings.HasPrefix(handler, "timer:") }

// malformed is the handler name under which is buried what came from the transport and is no message of ours.
const malformed = "malformed"

// Bury keeps what came for the module and cannot be read, once, as a dead letter that blocks nothing: text is all of it, in JSON.
func (b *Inbox) Bury(ctx context.Context, text []byte, reason string) error {
	sum := sha256.Sum256(text)
	id := malformed + ":" + hex.EncodeToString(sum[:16])
	buried := false
	ctx, cancel := context.WithTimeout(ctx, keepTimeout)
	defer cancel()
	err := b.store.Do(ctx, func(_ context.Context, w *unit.Work) error {
		claimed := w.DB.Exec("INSERT INTO inbox (handler, message_id, handled_at) VALUES (?, ?, ?) ON CONFLICT (handler, message_id) DO NOTHING", malformed, id, w.Now())
		if buried = claimed.RowsAffected > 0; claimed.Error != nil || !buried {
			return claimed.Error
		}
		return w.DB.Exec(`INSERT INTO dead_letters (id, position, handler, key, message_id, name, subject, message, reason, attempts, first_at, died_at)
			VALUES (?, 0, ?, '', ?, '', '', ?, ?, 1, ?, ?)`, message.NewID(), malformed, id, text, reason, w.Now(), w.Now()).Error
	})
	if err == nil && buried {
		b.metrics.Dead.WithLabelValues(b.store.Module(), malformed).Inc()
		b.log.ErrorContext(ctx, "message that cannot be read", "module", b.store.Module(), "reason", reason)
	}
	return err
}

// DeadLetter is a message that its handler could not take.
type DeadLetter struct {
	ID       string          `json:"id"`
	Module   string          `json:"module"`
	Handler  string          `json:"handler"`
	Key      string          `json:"key"`
	Name     string          `json:"name"`
	Reason   string          `json:"reason"`
	Attempts int             `json:"attempts"`
	FirstAt  time.Time       `json:"first_at"`
	DiedAt   time.Time       `json:"died_at"`
	Behind   int64           `json:"behind"` // messages of the key that wait for it
	Message  json.RawMessage `json:"message,omitempty"`
}

type deadRow struct {
	ID, Handler, Key, MessageID, Name, Subject, Reason string
	Position                                           int64
	Message                                            []byte
	Attempts                                           int
	FirstAt, DiedAt                                    time.Time
	Behind                                             int64
}

func (r deadRow) letter(module string) DeadLetter {
	return DeadLetter{ID: r.ID, Module: module, Handler: r.Handler, Key: r.Key, Name: r.Name, Reason: r.Reason, Attempts: r.Attempts,
		FirstAt: r.FirstAt, DiedAt: r.DiedAt, Behind: r.Behind}
}

// DeadLetters lists up to limit dead letters after an id, oldest first, of one handler, by any of its names, or of all ("").
func (b *Inbox) DeadLetters(ctx context.Context, handler, after string, limit int) ([]DeadLetter, error) {
	for _, h := range b.handlers {
		if slices.Contains(h.Aliases, handler) {
			handler = h.Name
		}
	}
	var rows []deadRow
	err := b.store.Read(ctx).Raw(`SELECT d.id, d.handler, d.key, d.name, d.reason, d.attempts, d.first_at, d.died_at,
			(SELECT count(*) FROM parked p WHERE p.handler = d.handler AND p.key = d.key) AS behind
		FROM dead_letters d WHERE d.id > ? AND (d.handler = ? OR ? = '') ORDER BY d.id LIMIT ?`, after, handler, handler, limit).Scan(&rows).Error
	letters := make([]DeadLetter, len(rows))
	for i, r := range rows {
		letters[i] = r.letter(b.store.Module())
	}
	return letters, err
}

// DeadLetter is one with its message.
func (b *Inbox) DeadLetter(ctx context.Context, id string) (DeadLetter, error) {
	r, err := b.letter(b.store.Read(ctx), id, "")
	if err != nil {
		return DeadLetter{}, err
	}
	letter := r.letter(b.store.Module())
	letter.Message = r.Message
	return letter, nil
}

func (b *Inbox) letter(db *gorm.DB, id, lock string) (deadRow, error) {
	var r deadRow
	found := db.Raw("SELECT * FROM dead_letters WHERE id = ?"+lock, id).Scan(&r)
	if found.Error == nil && found.RowsAffected == 0 {
		return r, errs.New(errs.NotFound, "module %s has no dead letter %s", b.store.Module(), id)
	}
	return r, found.Error
}

// take removes a dead letter within a unit of work: whoever removes the row decides what becomes of it.
func (b *Inbox) take(w *unit.Work, id string) (deadRow, error) {
	r, err := b.letter(w.DB, id, lock(w))
	if err != nil {
		return r, err
	}
	return r, w.DB.Exec("DELETE FROM dead_letters WHERE id = ?", id).Error
}

// Replay makes a dead letter the head of its key again, due now. A timer or an effect is set again; errs.Conflict if it was
// set anew since, because that one is not to be lost for the letter. Personal data of somebody who was erased does not come
// back: neither with a letter that was kept before, nor with one that is replayed while the erasure looks for it.
func (b *Inbox) Replay(ctx context.Context, id string) error {
	var now time.Time
	err := b.store.Do(ctx, func(_ context.Context, w *unit.Work) error {
		now = w.Now()
		r, err := b.letter(w.DB, id, "")
		if err != nil {
			return err
		}
		if r.Handler == malformed {
			return errs.New(errs.Conflict, "dead letter %s is no message that module %s can read (%s); have its sender mend it and send it again, and discard this one", id, b.store.Module(), r.Reason)
		}
		var m message.Message
		if err := json.Unmarshal(r.Message, &m); err != nil {
			return fmt.Errorf("dead letter %s: %w", id, err)
		}
		// Before the letter's row is taken, as an erasure does it: it either finds the letter, or what is made of it here.
		body, reason, err := Kept(w, m, r.Reason)
		if err != nil {
			return err
		}
		if _, err := b.take(w, id); err != nil {
			return err
		}
		if isTimer(r.Handler) {
			return b.setAgain(w, r, body)
		}
		// It goes before everything of its key that came later. Replays take their places one after another.
		if w.Dialect() == database.Postgres {
			if err := w.DB.Exec("SELECT pg_advisory_xact_lock(hashtext(?))", "replay "+b.store.Module()).Error; err != nil {
				return err
			}
		}
		var first int64
		if err := w.DB.Raw("SELECT coalesce(min(position), 0) FROM parked").Scan(&first).Error; err != nil {
			return err
		}
		position := min(first, 0) - 1
		if err := w.DB.Exec("INSERT INTO parked (position, handler, key, message_id, name, subject, message, error) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
			position, r.Handler, r.Key, r.MessageID, r.Name, r.Subject, body, reason).Error; err != nil {
			return err
		}
		return w.DB.Exec(`INSERT INTO parked_key (handler, key, next_at, attempt, first_at, delay_ms) VALUES (?, ?, ?, 0, ?, 0)
			ON CONFLICT (handler, key) DO UPDATE SET next_at = excluded.next_at, attempt = 0, first_at = excluded.first_at, delay_ms = 0`, r.Handler, r.Key, now, now).Error
	})
	if err == nil {
		b.wake()
	}
	return err
}

// setAgain sets the timer or asks for the effect of a dead letter.
func (b *Inbox) setAgain(w *unit.Work, r deadRow, body []byte) error {
	var m message.Message
	if err := json.Unmarshal(body, &m); err != nil {
		return fmt.Errorf("dead letter %s: %w", r.ID, err)
	}
	set := w.DB.Exec(`INSERT INTO timers (kind, name, key, due_at, first_at, attempt, payload, subject) VALUES (?, ?, ?, ?, ?, 0, ?, ?) ON CONFLICT (name, key) DO NOTHING`,
		m.Source, r.Name, r.Key, w.Now(), w.Now(), []byte(m.Payload), r.Subject)
	if set.Error == nil && set.RowsAffected == 0 {
		return errs.New(errs.Conflict, "the %s %s of %s was set anew after dead letter %s: replay it when that one is done, or discard it", m.Source, r.Name, r.Key, r.ID)
	}
	return set.Error
}

// Discard removes a dead letter for good and lets its key go on. The reason is logged.
func (b *Inbox) Discard(ctx context.Context, id, reason string) error {
	var r deadRow
	err := b.store.Do(ctx, func(_ context.Context, w *unit.Work) error {
		var err error
		if r, err = b.take(w, id); err != nil || isTimer(r.Handler) {
			return err
		}
		// The key's row first: an arrival that is just being appended has it.
		var blocked []string
		if err := w.DB.Raw("SELECT handler FROM parked_key WHERE handler = ? AND key = ? AND next_at IS NULL"+lock(w), r.Handler, r.Key).Scan(&blocked).Error; err != nil || len(blocked) == 0 {
			return err
		}
		var others int64
		if err := w.DB.Raw("SELECT count(*) FROM dead_letters WHERE handler = ? AND key = ?", r.Handler, r.Key).Scan(&others).Error; err != nil || others > 0 {
			return err
		}
		_, err = release(w, r.Handler, r.Key)
		return err
	})
	if err == nil {
		b.log.WarnContext(ctx, "dead letter discarded", "module", b.store.Module(), "id", id, "handler", r.Handler, "message", r.MessageID, "reason", reason)
		b.wake()
	}
	return err
}

// Counts are the keys that wait for another attempt and the dead letters.
func (b *Inbox) Counts(ctx context.Context) (parked, dead int64, err error) {
	err = b.store.Read(ctx).Raw("SELECT (SELECT count(*) FROM parked_key WHERE next_at IS NOT NULL), (SELECT count(*) FROM dead_letters)").Row().Scan(&parked, &dead)
	return parked, dead, err
}
