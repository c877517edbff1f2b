package inbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/banyan-go/banyan/internal/database"
	"github.com/banyan-go/banyan/internal/due"
	"github.com/banyan-go/banyan/internal/errs"
	"github.com/banyan-go/banyan/internal/message"
	"github.com/banyan-go/banyan/internal/telemetry"
	"github.com/banyan-go/banyan/internal/unit"
)

type parkedKey struct {
	Handler, Key string
	NextAt       *time.Time
	Attempt      int
	FirstAt      time.Time
	DelayMs      int64
}

type parkedMessage struct {
	Position int64
	Message  []byte
}

const keyBatch = 20 // messages of one key at a time: others are due too

// Run handles the heads of keys that are due, until ctx ends.
func (b *Inbox) Run(ctx context.Context, poll time.Duration) { b.retries.Run(ctx, poll) }

// Wake looks for keys that are due now.
func (b *Inbox) Wake() { b.retries.Wake() }

// retries are the keys that are due.
type retries struct{ *Inbox }

// Due are the keys whose heads are due.
func (b retries) Due(ctx context.Context, now time.Time, most int) ([]due.Item, error) {
	var keys []parkedKey
	err := b.store.Read(ctx).Raw("SELECT handler, key FROM parked_key WHERE next_at <= ? AND handler IN ? ORDER BY next_at LIMIT ?", now, b.retried(), most).Scan(&keys).Error
	items := make([]due.Item, len(keys))
	for i, k := range keys {
		items[i] = due.Item{Key: k.Handler + "\x00" + k.Key, Do: func(ctx context.Context) error {
			if k.Handler == anotherVersion {
				return b.resumeKey(ctx, k.Key)
			}
			return b.retry(ctx, k.Handler, k.Key)
		}}
	}
	return items, err
}

// Next is when the next key after a moment is due.
func (b retries) Next(ctx context.Context, since time.Time) (time.Time, bool, error) {
	var next []time.Time
	err := b.store.Read(ctx).Raw("SELECT next_at FROM parked_key WHERE next_at > ? AND handler IN ? ORDER BY next_at LIMIT 1", since, b.retried()).Scan(&next).Error
	if err != nil || len(next) == 0 {
		return time.Time{}, false, err
	}
	return next[0], true, nil
}

// retried are the handlers whose parked keys this version looks after.
func (b *Inbox) retried() []string { return append(slices.Clone(b.names), anotherVersion) }

var errNotDue = errors.New("not due")

// head reads the first parked message of a key under the key's row, which it takes.
func (b *Inbox) head(w *unit.Work, h *Handler, key string) (k parkedKey, m message.Message, position int64, err error) {
	found := w.DB.Raw("SELECT handler, key, next_at, attempt, first_at, delay_ms FROM parked_key WHERE handler = ? AND key = ? AND next_at <= ?"+lock(w), h.Name, key, w.Now()).Scan(&k)
	if found.Error != nil {
		return k, m, 0, found.Error
	}
	if found.RowsAffected == 0 {
		return k, m, 0, errNotDue
	}
	var row parkedMessage
	found = w.DB.Raw("SELECT position, message FROM parked WHERE handler = ? AND key = ? ORDER BY position LIMIT 1"+lock(w), h.Name, key).Scan(&row)
	if found.Error != nil {
		return k, m, 0, found.Error
	}
	if found.RowsAffected == 0 {
		return k, m, 0, w.DB.Exec("DELETE FROM parked_key WHERE handler = ? AND key = ?", h.Name, key).Error
	}
	return k, m, row.Position, json.Unmarshal(row.Message, &m)
}

// retry handles the parked messages of a key until it is free or one fails.
func (b *Inbox) retry(ctx context.Context, handler, key string) error {
	h := b.handlers[handler]
	if h == nil {
		return nil // a timer's dead letter, or a handler of another version; Open has checked
	}
	for range keyBatch {
		more, cause := false, error(nil)
		var m message.Message
		var head message.Message
		found := b.store.Read(ctx).Raw("SELECT message FROM parked WHERE handler = ? AND key = ? ORDER BY position LIMIT 1", h.Name, key)
		var body []byte
		if err := found.Row().Scan(&body); err == nil {
			_ = json.Unmarshal(body, &head) // only to derive ids; read again under the lock
		}
		hctx, cancel := context.WithTimeout(telemetry.WithCorrelation(ctx, head.CorrelationID), b.policy.Timeout)
		err := b.store.Handle(hctx, &head, h.Name, func(ctx context.Context, w *unit.Work) error {
			more, cause = false, nil
			_, got, position, err := b.head(w, h, key)
			if err != nil || position == 0 {
				return err
			}
			if got.ID != head.ID {
				more = true // another owner was faster; look again
				return nil
			}
			m = got
			fn := h.For(m.Name)
			if fn == nil { // another version has parked it, and may come back
				err = fmt.Errorf("%s: %w", m.Name, errUnknown)
			} else {
				err = fn(ctx, w, m)
			}
			if err != nil {
				cause = err
				return err
			}
			if err := w.DB.Exec("DELETE FROM parked WHERE position = ?", position).Error; err != nil {
				return err
			}
			more, err = release(w, h.Name, key)
			return err
		})
		cancel()
		b.metrics.Retried.WithLabelValues(b.store.Module(), h.Name).Inc()
		switch {
		case errors.Is(err, errNotDue):
			return nil
		case err == nil:
		case ctx.Err() != nil || m.ID == "":
			return err
		case cause != nil:
			return b.failAgain(ctx, h, key, m.ID, cause)
		default: // what the handler asked for could not be done: its failure as well
			return b.failAgain(ctx, h, key, m.ID, err)
		}
		if m.ID != "" {
			b.count(h, m, Handled)
		}
		if !more {
			return nil
		}
	}
	return nil
}

// release makes the next message of a key the head, or frees the key.
func release(w *unit.Work, handler, key string) (more bool, err error) {
	var left int64
	if err := w.DB.Raw("SELECT count(*) FROM (SELECT 1 FROM parked WHERE handler = ? AND key = ? LIMIT 1) AS one", handler, key).Scan(&left).Error; err != nil {
		return false, err
	}
	if left == 0 {
		return false, w.DB.Exec("DELETE FROM parked_key WHERE handler = ? AND key = ?", handler, key).Error
	}
	return true, w.DB.Exec("UPDATE parked_key SET next_at = ?, attempt = 0, first_at = ?, delay_ms = 0 WHERE handler = ? AND key = ?", w.Now(), w.Now(), handler, key).Error
}

// failAgain puts the head off, or buries it.
func (b *Inbox) failAgain(ctx context.Context, h *Handler, key, id string, cause error) error {
	put, dead := false, false
	err := b.store.Handle(ctx, nil, h.Name, func(_ context.Context, w *unit.Work) error {
		put, dead = false, false
		k, m, position, err := b.head(w, h, key)
		if errors.Is(err, errNotDue) {
			return nil // another owner has it
		}
		if err != nil || position == 0 || m.ID != id {
			return err
		}
		unknown, patience := errors.Is(cause, errUnknown), b.policy.GiveUpAfter
		attempt := k.Attempt + 1
		switch {
		case unknown: // that it waits for its version is no attempt
			attempt, patience = 0, max(patience, keepUnknown)
		case k.Attempt == 0:
			k.FirstAt = w.Now()
		}
		if (unknown || errs.Transient(cause)) && w.Now().Sub(k.FirstAt) < patience {
			delay := b.backoff(time.Duration(k.DelayMs) * time.Millisecond)
			put = true
			if err := w.DB.Exec("UPDATE parked SET error = ? WHERE position = ?", Reason(cause.Error()), position).Error; err != nil {
				return err
			}
			return w.DB.Exec("UPDATE parked_key SET next_at = ?, attempt = ?, first_at = ?, delay_ms = ? WHERE handler = ? AND key = ?",
				w.Now().Add(delay), attempt, k.FirstAt, delay.Milliseconds(), h.Name, key).Error
		}
		dead = true
		if err := bury(w, h, m, position, cause.Error(), k.Attempt+1, k.FirstAt); err != nil {
			return err
		}
		if err := w.DB.Exec("DELETE FROM parked WHERE position = ?", position).Error; err != nil {
			return err
		}
		if h.Skip {
			_, err := release(w, h.Name, key)
			return err
		}
		return w.DB.Exec("UPDATE parked_key SET next_at = NULL WHERE handler = ? AND key = ?", h.Name, key).Error
	}, database.Repeatable)
	if err != nil {
		return err
	}
	if dead {
		b.metrics.Dead.WithLabelValues(b.store.Module(), h.Name).Inc()
		b.log.ErrorContext(ctx, "message dead", "module", b.store.Module(), "handler", h.Name, "id", id, "key", key, "error", cause)
		return nil
	}
	if put {
		b.wake()
	}
	return nil // with neither, another owner was faster
}
