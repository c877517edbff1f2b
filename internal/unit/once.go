package unit

import (
	"bytes"
	"context"
	"errors"
	"time"

	"github.com/banyan-go/banyan/internal/database"
	"github.com/banyan-go/banyan/internal/errs"
)

// RequestKey names a request that may be sent again.
type RequestKey struct {
	Subject string // who asks; keys of different callers never meet
	Route   string // method and pattern
	Key     string // Idempotency-Key
	Hash    []byte // of path and body
	Keep    bool   // for ever, because money moves
}

// StoredAnswer is what a request was answered.
type StoredAnswer struct {
	Status   int
	Location string
	Body     []byte
	Personal string // user id whose personal data the body holds
}

type idempotencyRow struct {
	Hash     []byte
	Status   int
	Location string
	Body     []byte
	Erased   bool
}

// Answered is the stored answer to a request, if it has one: errs.Invalid if the key was used for another request,
// errs.Gone if the answer held personal data that was erased since.
func (s *Store) Answered(ctx context.Context, key RequestKey) (*StoredAnswer, error) {
	var row idempotencyRow
	found := s.db.Read(ctx).Raw("SELECT hash, status, location, body, erased FROM idempotency WHERE subject = ? AND route = ? AND key = ?",
		key.Subject, key.Route, key.Key).Scan(&row)
	if found.Error != nil || found.RowsAffected == 0 {
		return nil, found.Error
	}
	return row.answer(key)
}

func (r idempotencyRow) answer(key RequestKey) (*StoredAnswer, error) {
	switch {
	case !bytes.Equal(r.Hash, key.Hash):
		return nil, errs.New(errs.Invalid, "this Idempotency-Key was used for a different request").
			With("header.Idempotency-Key", "use a new key for a new request")
	case r.Erased:
		return nil, errs.New(errs.Gone, "the answer to this request was erased")
	}
	return &StoredAnswer{Status: r.Status, Location: r.Location, Body: r.Body}, nil
}

// errRepeated rolls a unit of work back whose request has an answer.
var errRepeated = errors.New("the request was answered before")

// Once runs fn as a unit of work that begins with the row of its request: whoever comes second with the same key
// waits for the first and gets its answer. If fn fails nothing is kept and the key may be used again.
func (s *Store) Once(ctx context.Context, key RequestKey, fn func(ctx context.Context, w *Work) (*StoredAnswer, error)) (answer *StoredAnswer, repeated bool, err error) {
	for {
		err = s.run(ctx, nil, "", func(ctx context.Context, w *Work) error {
			err := w.Expect(1, errRepeated).Exec(`INSERT INTO idempotency (subject, route, key, hash, status, location, body, personal, erased, keep, made_at)
				VALUES (?, ?, ?, ?, 0, '', ?, '', ?, ?, ?) ON CONFLICT (subject, route, key) DO NOTHING`,
				key.Subject, key.Route, key.Key, key.Hash, []byte{}, false, key.Keep, w.Now()).Error
			if err != nil {
				return err
			}
			if answer, err = fn(ctx, w); err != nil {
				return err
			}
			return w.Later().Exec("UPDATE idempotency SET status = ?, location = ?, body = ?, personal = ? WHERE subject = ? AND route = ? AND key = ?",
				answer.Status, answer.Location, answer.Body, answer.Personal, key.Subject, key.Route, key.Key).Error
		}, database.Repeatable)
		if !errors.Is(err, errRepeated) {
			return answer, false, err
		}
		// Its row may be gone again by now.
		if answer, err = s.Answered(ctx, key); err != nil || answer != nil {
			return answer, true, err
		}
	}
}

// ForgetAnswers removes stored answers made before a time, but for those of money.
func (s *Store) ForgetAnswers(ctx context.Context, before time.Time) error {
	return s.Do(ctx, func(_ context.Context, w *Work) error {
		return w.DB.Exec("DELETE FROM idempotency WHERE made_at < ? AND NOT keep", before).Error
	})
}
