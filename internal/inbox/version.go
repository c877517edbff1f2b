package inbox

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"time"

	"github.com/banyan-go/banyan/internal/database"
	"github.com/banyan-go/banyan/internal/message"
	"github.com/banyan-go/banyan/internal/telemetry"
	"github.com/banyan-go/banyan/internal/unit"
)

// anotherVersion is the handler name under which is kept what only another version of the program handles, and what came behind it.
const anotherVersion = "(another version)"

// ErrOver says that no version of the program subscribes to a message any more.
var ErrOver = errors.New("no version of the program subscribes to it any more")

// errUnknown says that a handler does not take a message in this version.
var errUnknown = errors.New("not known in this version of the program")

// keepUnknown is how long a message waits, parked, for the version whose handler takes it.
const keepUnknown = 30 * 24 * time.Hour

// Between two looks whether a message is known by now, while its module is owned by a version that did not know it.
const (
	lookAgain     = 10 * time.Second
	lookAgainMost = 10 * time.Minute
)

// KeepForAnotherVersion keeps a message that no handler of this version knows until one that knows it owns the module. Everything of its
// key that comes later waits behind it.
func (b *Inbox) KeepForAnotherVersion(ctx context.Context, m message.Message) error {
	ctx, cancel := context.WithTimeout(ctx, keepTimeout)
	defer cancel()
	h, kept := &Handler{Name: anotherVersion}, false
	err := b.store.Handle(ctx, &m, h.Name, func(_ context.Context, w *unit.Work) error {
		var err error
		if kept, err = claim(w, h, m); err != nil || !kept {
			return err
		}
		due := w.Now().Add(lookAgain)
		if err := parkKey(w, h, h.key(m), &due, 0, w.Now(), lookAgain); err != nil {
			return err
		}
		return park(w, h, m, "no handler of this version of the program knows it")
	}, database.Repeatable)
	if err == nil && kept {
		b.log.WarnContext(ctx, "message kept for another version of the program", "module", b.store.Module(), "message", m.Name, "id", m.ID, "key", m.Key)
	}
	return err
}

// Over keeps a message of a subscription that has ended, for a person to look at. It blocks nothing.
func (b *Inbox) Over(ctx context.Context, m message.Message) error {
	ctx, cancel := context.WithTimeout(ctx, keepTimeout)
	defer cancel()
	h, buried := &Handler{Name: anotherVersion}, false
	err := b.store.Handle(ctx, &m, h.Name, func(_ context.Context, w *unit.Work) error {
		var err error
		if buried, err = claim(w, h, m); err != nil || !buried {
			return err
		}
		return bury(w, h, m, 0, ErrOver.Error(), 1, w.Now())
	}, database.Repeatable)
	if err == nil && buried {
		b.over(ctx, m)
	}
	return err
}

func (b *Inbox) over(ctx context.Context, m message.Message) {
	b.metrics.Dead.WithLabelValues(b.store.Module(), anotherVersion).Inc()
	b.log.ErrorContext(ctx, "message dead", "module", b.store.Module(), "handler", anotherVersion, "id", m.ID, "key", m.Key, "error", ErrOver)
}

// Recall has everything looked at that waits for another version: this one has become the owner.
func (b *Inbox) Recall(ctx context.Context) error {
	waits := false
	if err := b.store.Read(ctx).Raw("SELECT EXISTS (SELECT 1 FROM parked_key WHERE handler = ?)", anotherVersion).Row().Scan(&waits); err != nil || !waits {
		return err
	}
	return b.store.Do(ctx, func(_ context.Context, w *unit.Work) error {
		return w.DB.Exec("UPDATE parked_key SET next_at = ?, delay_ms = 0 WHERE handler = ?", w.Now(), anotherVersion).Error
	})
}

// resumeKey handles the messages of a key that waited for this version, in their order. One is removed after all of its handlers have
// durably taken it; after a crash in between their inbox rows tell who has. One whose subscription has ended becomes a dead letter that
// blocks nothing.
func (b *Inbox) resumeKey(ctx context.Context, key string) error {
	for range keyBatch {
		var position int64
		var body []byte
		err := b.store.Read(ctx).Raw("SELECT position, message FROM parked WHERE handler = ? AND key = ? ORDER BY position LIMIT 1", anotherVersion, key).Row().Scan(&position, &body)
		if err != nil && !errors.Is(err, sql.ErrNoRows) {
			return err
		}
		var unknown error
		var m message.Message
		if err == nil {
			if err := json.Unmarshal(body, &m); err != nil {
				return err
			}
			unknown = b.resume(telemetry.WithCorrelation(ctx, m.CorrelationID), m, func(ctx context.Context, h *Handler, m message.Message) (Outcome, error) {
				return b.handle(ctx, h, h.For(m.Name), m, h.Name)
			})
			if ctx.Err() != nil {
				return ctx.Err()
			}
		}
		over := errors.Is(unknown, ErrOver)
		more, buried := false, false
		err = b.store.Do(ctx, func(_ context.Context, w *unit.Work) error {
			more, buried = false, false
			var delay []int64
			if err := w.DB.Raw("SELECT delay_ms FROM parked_key WHERE handler = ? AND key = ?"+lock(w), anotherVersion, key).Scan(&delay).Error; err != nil || len(delay) == 0 {
				return err // another owner was faster
			}
			if unknown != nil && !over {
				next := min(max(lookAgain, 2*time.Duration(delay[0])*time.Millisecond), lookAgainMost)
				return w.DB.Exec("UPDATE parked_key SET next_at = ?, attempt = attempt + 1, delay_ms = ? WHERE handler = ? AND key = ?",
					w.Now().Add(next), next.Milliseconds(), anotherVersion, key).Error
			}
			gone := w.DB.Exec("DELETE FROM parked WHERE handler = ? AND position = ?", anotherVersion, position)
			if gone.Error != nil {
				return gone.Error
			}
			if buried = over && gone.RowsAffected > 0; buried {
				if err := bury(w, &Handler{Name: anotherVersion}, m, position, ErrOver.Error(), 1, w.Now()); err != nil {
					return err
				}
			}
			var err error
			more, err = release(w, anotherVersion, key)
			return err
		})
		if err == nil && buried {
			b.over(ctx, m)
		}
		if err != nil || !more {
			return err
		}
	}
	return nil
}
