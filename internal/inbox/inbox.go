// Package inbox handles each message once and keeps the order of its key, whatever is delivered twice, late or
// by two owners at a time.
//
// Guarantees, for each handler:
//   - A message's effect and its inbox row (handler, message id) are one commit. The row is inserted first: who
//     comes second waits for the first and then drops the message. Rows never expire. On PostgreSQL the row goes with the
//     handler's first statement that is waited for, so that a handler may have begun when it turns out that the message is not
//     its to handle: what it did is rolled back, and what it says does not count.
//   - A message that fails is parked: in one commit the inbox row is claimed, so that no other delivery handles
//     the message, and the message becomes the head of its key in the tables parked and parked_key. Later
//     messages of the key are appended behind it. The row of the key in parked_key is what arrivals and
//     retries exclude each other by; nothing about parked keys is kept in memory.
//   - Transient errors are tried again with backoff and jitter until GiveUpAfter has passed since the first
//     attempt; permanent ones, and what is given up, become a dead letter. It blocks its key until an operator
//     replays or discards it, unless the handler declares Skip.
//   - What another version of the program handles, and this one does not know, is kept with what comes behind it, in the order of
//     the key, and handled as if it came when a version that knows it owns the module. It holds up no other key.
//   - What cannot be read becomes a dead letter at once and blocks nothing: nobody can say what would come after it.
package inbox

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sort"
	"strings"
	"time"

	"github.com/banyan-go/banyan/internal/database"
	"github.com/banyan-go/banyan/internal/due"
	"github.com/banyan-go/banyan/internal/errs"
	"github.com/banyan-go/banyan/internal/message"
	"github.com/banyan-go/banyan/internal/module"
	"github.com/banyan-go/banyan/internal/telemetry"
	"github.com/banyan-go/banyan/internal/unit"
)

// Policy says how failures are tried again.
type Policy struct {
	Base        time.Duration // first delay
	Cap         time.Duration // longest delay
	GiveUpAfter time.Duration // from the first attempt to the dead letter
	Timeout     time.Duration // of one attempt
}

// Handler is a subscription's handler with its promises.
//
// A renamed handler goes by its oldest name here, as New sees to: its rows, its follow-up ids, logs and metrics keep the name
// that they have had. While versions with the new and with the old name run side by side (two replicas on PostgreSQL), the
// older one knows nothing of the new name. It would handle again what had an inbox row under that, and overtake what was parked
// under it; what it parks itself under its own name nobody would find. Under one name each sees what the other did.
type Handler struct {
	Name      string
	Aliases   []string // other names, the oldest first; one is not dropped as long as the handler is there
	Unordered bool
	Skip      bool
	Group     int                                     // messages that may share a transaction when many wait; 0 or 1 for none
	For       func(name string) module.MessageHandler // nil for names that the handler does not know

	group group
}

// groupTimeout bounds a group; who cannot make it in that time is handled alone, with a time of its own.
const groupTimeout = 5 * time.Second

// Inbox is the receiving end of one module.
type Inbox struct {
	store    *unit.Store
	handlers map[string]*Handler
	names    []string // of the handlers
	resume   Resume
	policy   Policy
	metrics  *telemetry.Messages
	log      *slog.Logger
	wake     func()
	retries  *due.Loop
}

// Outcome is what became of a delivery. Each of them is final for the sender.
type Outcome string

// The outcomes.
const (
	Handled   Outcome = "handled"
	Duplicate Outcome = "duplicate"
	Parked    Outcome = "parked"
	Dead      Outcome = "dead"
)

// Take has one handler take a message, as Handle does.
type Take func(ctx context.Context, h *Handler, m message.Message) (Outcome, error)

// Resume has all handlers take a message that was kept for another version. It fails while there are none, with ErrOver if there will
// be none.
type Resume func(ctx context.Context, m message.Message, take Take) error

// New is the inbox of a module; wake is told when something may be due, for Inbox.Wake or as a timer, and resume handles what was
// kept for another version.
func New(store *unit.Store, handlers []*Handler, policy Policy, metrics *telemetry.Messages, log *slog.Logger, wake func(), resume Resume) *Inbox {
	b := &Inbox{store: store, handlers: map[string]*Handler{}, policy: policy, metrics: metrics, log: log, wake: wake, resume: resume}
	for _, h := range handlers {
		names := append(slices.Clone(h.Aliases), h.Name)
		h.Name, h.Aliases = names[0], names[1:]
		b.handlers[h.Name] = h
		b.names = append(b.names, h.Name)
	}
	sort.Strings(b.names)
	b.retries = due.New(retries{b}, store.Clock(), func(err error) { log.Warn("retries", "module", store.Module(), "error", err) })
	return b
}

// Open moves what a version kept under another name of a handler, because it did not know the oldest one, to that: as when the alias was
// forgotten.
func (b *Inbox) Open(ctx context.Context) error {
	if len(b.handlers) < len(b.names) {
		return fmt.Errorf("module %s: two handlers go by one name, of %v; rename one, or take the name out of the Aliases of the other", b.store.Module(), b.names)
	}
	for _, h := range b.handlers {
		for _, other := range h.Aliases {
			if err := b.store.Do(ctx, func(_ context.Context, w *unit.Work) error { return adopt(w, h.Name, other) }); err != nil {
				return fmt.Errorf("rename handler %s to %s: %w", other, h.Name, err)
			}
		}
	}
	return nil
}

// Check is an error when rows wait for a handler that this version does not know.
func (b *Inbox) Check(ctx context.Context) error {
	var waiting []string
	err := b.store.Read(ctx).Raw("SELECT DISTINCT handler FROM parked_key UNION SELECT DISTINCT handler FROM dead_letters").Scan(&waiting).Error
	if err != nil {
		return err
	}
	known := []string{malformed, anotherVersion}
	for _, h := range b.handlers {
		known = append(append(known, h.Name), h.Aliases...)
	}
	for _, name := range waiting {
		if !slices.Contains(known, name) && !isTimer(name) {
			return fmt.Errorf("module %s: messages wait for the handler %q, which does not exist any more; give the renamed one Aliases: []string{%q}, or discard its dead letters with the version before",
				b.store.Module(), name, name)
		}
	}
	return nil
}

// adopt gives the rows of one name to another. What was taken under both names counts once. A key that one of them has blocked
// stays blocked, as long as there is a letter that blocks it.
func adopt(w *unit.Work, name, other string) error {
	const taken = " WHERE handler = @other AND message_id IN (SELECT message_id FROM inbox WHERE handler = @name)"
	for _, sql := range []string{
		"UPDATE parked_key SET next_at = NULL WHERE handler = @name AND key IN (SELECT key FROM parked_key WHERE handler = @other AND next_at IS NULL)",
		"DELETE FROM parked_key WHERE handler = @other AND key IN (SELECT key FROM parked_key WHERE handler = @name)",
		"DELETE FROM parked" + taken,
		"DELETE FROM dead_letters" + taken,
		"DELETE FROM inbox" + taken,
		"UPDATE parked_key SET handler = @name WHERE handler = @other",
		"UPDATE parked SET handler = @name WHERE handler = @other",
		"UPDATE dead_letters SET handler = @name WHERE handler = @other",
		"UPDATE inbox SET handler = @name WHERE handler = @other",
		`UPDATE parked_key SET next_at = @now WHERE handler = @name AND next_at IS NULL
			AND NOT EXISTS (SELECT 1 FROM dead_letters d WHERE d.handler = parked_key.handler AND d.key = parked_key.key)`,
	} {
		if err := w.DB.Exec(sql, map[string]any{"name": name, "other": other, "now": w.Now()}).Error; err != nil {
			return err
		}
	}
	return nil
}

func (h *Handler) key(m message.Message) string {
	k := m.Source + "/" + m.Key
	if h.Unordered {
		k += "#" + m.ID
	}
	return k
}

// keepTimeout is the time to keep what became of an attempt, whose own time may be up.
const keepTimeout = 10 * time.Second

// Handle runs a handler on a message. It returns an error only if nothing could be kept of the attempt, so that
// the message must be delivered again.
func (b *Inbox) Handle(ctx context.Context, h *Handler, m message.Message) (Outcome, error) {
	fn := h.For(m.Name)
	if fn == nil {
		// Its sender keeps it: a version that knows it may be on its way in. Nothing here says that nobody wants it: who has
		// dropped a subscription does not give its messages to a handler.
		b.log.WarnContext(ctx, "message refused, its handler does not know it in this version", "module", b.store.Module(), "handler", h.Name, "message", m.Name, "id", m.ID)
		return "", errs.New(errs.Unavailable, "handler %s of %s does not know %s in this version", h.Name, b.store.Module(), m.Name)
	}
	if b.together(ctx, h, fn, m) {
		b.count(h, m, Handled)
		return Handled, nil
	}
	return b.handle(ctx, h, fn, m, anotherVersion)
}

// handle runs a handler on a message, unless its key is parked: the handler's own, or that of behind.
func (b *Inbox) handle(ctx context.Context, h *Handler, fn module.MessageHandler, m message.Message, behind string) (Outcome, error) {
	attempt, cancel := context.WithTimeout(ctx, b.policy.Timeout)
	outcome, err := b.attempt(attempt, h, fn, m, behind)
	cancel()
	switch {
	case err == nil:
		b.count(h, m, outcome)
		return outcome, nil
	case ctx.Err() != nil:
		return "", err
	}
	// A handler that takes too long fails like any other: it must not hold its key's place for ever.
	keep, cancel := context.WithTimeout(ctx, keepTimeout)
	defer cancel()
	outcome, perr := b.fail(keep, h, m, err)
	if perr != nil {
		return "", fmt.Errorf("%s: %w", h.Name, errors.Join(err, perr))
	}
	b.log.WarnContext(ctx, "message "+string(outcome), "module", b.store.Module(), "handler", h.Name, "message", m.Name, "id", m.ID, "key", m.Key, "error", err)
	b.count(h, m, outcome)
	return outcome, nil
}

func (b *Inbox) count(h *Handler, m message.Message, outcome Outcome) {
	module := b.store.Module()
	switch outcome {
	case Handled:
		b.metrics.Handled.WithLabelValues(module, h.Name, m.Name).Inc()
	case Duplicate:
		b.metrics.Duplicates.WithLabelValues(module, h.Name).Inc()
	case Dead:
		b.metrics.Dead.WithLabelValues(module, h.Name).Inc()
	}
}

// errBehind rolls a unit of work back that found its key parked.
var errBehind = errors.New("the key is parked")

func (b *Inbox) attempt(ctx context.Context, h *Handler, fn module.MessageHandler, m message.Message, behind string) (Outcome, error) {
	for {
		outcome := Handled
		err := b.store.Handle(ctx, &m, h.Name, func(ctx context.Context, w *unit.Work) error {
			outcome = Handled
			if err := database.Statements(w.DB).Expect(1, errBehind, claimFree[w.Dialect()], h.Name, m.ID, w.Now(), h.Name, behind, h.key(m)); err != nil {
				return err
			}
			return fn(ctx, w, m)
		}, database.Repeatable)
		if !errors.Is(err, errBehind) {
			return outcome, err
		}
		// Either handled before or behind a parked message; who appends does so under the key's row.
		done := false
		if outcome, done, err = b.behind(ctx, h, m, behind); err != nil || done {
			return outcome, err
		}
	}
}

// claimFree inserts the inbox row of a message whose key is not parked. A bare parameter in a SELECT list has no type on
// PostgreSQL until it is given one.
var claimFree = map[database.Dialect]string{
	database.SQLite: `INSERT INTO inbox (handler, message_id, handled_at) SELECT ?, ?, ? WHERE NOT EXISTS (SELECT 1 FROM parked_key WHERE handler IN (?, ?) AND key = ?)
		ON CONFLICT (handler, message_id) DO NOTHING`,
	database.Postgres: `INSERT INTO inbox (handler, message_id, handled_at) SELECT CAST(? AS TEXT), CAST(? AS TEXT), CAST(? AS TIMESTAMPTZ)
		WHERE NOT EXISTS (SELECT 1 FROM parked_key WHERE handler IN (?, ?) AND key = ?) ON CONFLICT (handler, message_id) DO NOTHING`,
}

// behind appends a message to its parked key, or finds that it is a duplicate; done is false if the key has
// become free in between. A message behind one for another version goes there whole, for all of its handlers.
func (b *Inbox) behind(ctx context.Context, h *Handler, m message.Message, other string) (outcome Outcome, done bool, err error) {
	err = b.store.Handle(ctx, &m, h.Name, func(_ context.Context, w *unit.Work) error {
		outcome, done = "", false
		var parked []string
		if err := w.DB.Raw("SELECT handler FROM parked_key WHERE handler IN (?, ?) AND key = ?"+lock(w), h.Name, other, h.key(m)).Scan(&parked).Error; err != nil {
			return err
		}
		var seen int64
		if err := w.DB.Raw("SELECT count(*) FROM inbox WHERE handler = ? AND message_id = ?", h.Name, m.ID).Scan(&seen).Error; err != nil {
			return err
		}
		switch {
		case seen > 0:
			outcome, done = Duplicate, true
			return nil
		case len(parked) == 0:
			return nil
		}
		to := h
		if other != h.Name && slices.Contains(parked, other) {
			to = &Handler{Name: other}
		}
		claimed, err := claim(w, to, m)
		if err != nil {
			return err
		}
		outcome, done = Parked, true
		if !claimed {
			outcome = Duplicate
			return nil
		}
		return park(w, to, m, "behind an earlier message of its key")
	}, database.Repeatable)
	return outcome, done, err
}

// lock makes a SELECT take its rows on PostgreSQL; on SQLite there is one writer.
func lock(w *unit.Work) string {
	if w.Dialect() == database.Postgres {
		return " FOR UPDATE"
	}
	return ""
}

func claim(w *unit.Work, h *Handler, m message.Message) (bool, error) {
	r := w.DB.Exec("INSERT INTO inbox (handler, message_id, handled_at) VALUES (?, ?, ?) ON CONFLICT (handler, message_id) DO NOTHING", h.Name, m.ID, w.Now())
	return r.RowsAffected == 1, r.Error
}

// Kept is a message and the reason of its failure in the form in which a store takes them.
func Kept(w *unit.Work, m message.Message, reason string) ([]byte, string, error) {
	body, erased, err := w.Envelope(m)
	if erased {
		return body, "erased", err
	}
	return body, Reason(reason), err
}

// maxReason bounds the text of an error that is kept, in bytes.
const maxReason = 4096

// Reason is the text of an error without what PostgreSQL cannot store.
func Reason(text string) string {
	text = strings.ReplaceAll(strings.ToValidUTF8(text, "?"), "\x00", "?")
	if len(text) > maxReason {
		text = strings.ToValidUTF8(text[:maxReason], "") + " ..."
	}
	return text
}

func park(w *unit.Work, h *Handler, m message.Message, reason string) error {
	body, reason, err := Kept(w, m, reason)
	if err != nil {
		return err
	}
	return w.DB.Exec("INSERT INTO parked (handler, key, message_id, name, subject, message, error) VALUES (?, ?, ?, ?, ?, ?, ?)",
		h.Name, h.key(m), m.ID, m.Name, m.Subject, body, reason).Error
}

// fail parks a message after its first attempt, or buries it.
func (b *Inbox) fail(ctx context.Context, h *Handler, m message.Message, cause error) (Outcome, error) {
	var outcome Outcome
	err := b.store.Handle(ctx, &m, h.Name, func(_ context.Context, w *unit.Work) error {
		outcome = Parked
		claimed, err := claim(w, h, m)
		if err != nil {
			return err
		}
		if !claimed {
			outcome = Duplicate // another owner has handled or parked it meanwhile
			return nil
		}
		if !errs.Transient(cause) {
			outcome = Dead
			if err := bury(w, h, m, 0, cause.Error(), 1, w.Now()); err != nil {
				return err
			}
			if h.Skip {
				return nil
			}
			return parkKey(w, h, h.key(m), nil, 0, w.Now(), 0)
		}
		delay := b.backoff(0)
		next := w.Now().Add(delay)
		if err := parkKey(w, h, h.key(m), &next, 1, w.Now(), delay); err != nil {
			return err
		}
		return park(w, h, m, cause.Error())
	}, database.Repeatable)
	if err == nil && outcome == Parked {
		b.wake()
	}
	return outcome, err
}

// parkKey makes the key parked, due at next (nil: blocked by a dead letter). A key parked by another owner meanwhile
// stays as it is; its row is taken, so that nobody removes it who does not see the message that is parked with it.
func parkKey(w *unit.Work, h *Handler, key string, next *time.Time, attempt int, first time.Time, delay time.Duration) error {
	return w.DB.Exec(`INSERT INTO parked_key (handler, key, next_at, attempt, first_at, delay_ms) VALUES (?, ?, ?, ?, ?, ?)
		ON CONFLICT (handler, key) DO UPDATE SET attempt = parked_key.attempt`,
		h.Name, key, next, attempt, first, delay.Milliseconds()).Error
}

func bury(w *unit.Work, h *Handler, m message.Message, position int64, reason string, attempts int, first time.Time) error {
	body, reason, err := Kept(w, m, reason)
	if err != nil {
		return err
	}
	return w.DB.Exec(`INSERT INTO dead_letters (id, position, handler, key, message_id, name, subject, message, reason, attempts, first_at, died_at)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
		message.NewID(), position, h.Name, h.key(m), m.ID, m.Name, m.Subject, body, reason, attempts, first, w.Now()).Error
}

// backoff is decorrelated jitter: between the base and three times the delay before, up to the cap.
func (b *Inbox) backoff(before time.Duration) time.Duration {
	return Backoff(b.policy, before)
}

// Backoff is the delay after one of before.
func Backoff(p Policy, before time.Duration) time.Duration {
	upper := max(p.Base, min(p.Cap, 3*before))
	d := p.Base
	if upper > p.Base {
		d += rand.N(upper - p.Base)
	}
	return min(d, p.Cap)
}
