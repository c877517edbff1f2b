// Package timer runs what a module has set to happen later: one-shot timers, schedules, and effects outside the
// store.
//
// Guarantees. A timer's effect and the removal of its row are one commit, as are a schedule's effect and its next due
// time: each fires once per due time, however many processes look; due times missed while nobody ran are caught
// up once. An effect is called until its outcome is committed, by one process at a time unless a call takes
// longer than unit.EffectGrace, or unless that one is taken for dead; the other side must know its id. What fails is tried again with backoff, and
// becomes a dead letter like a message.
package timer

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync"
	"time"

	"github.com/banyan-go/banyan/internal/database"
	"github.com/banyan-go/banyan/internal/due"
	"github.com/banyan-go/banyan/internal/errs"
	"github.com/banyan-go/banyan/internal/inbox"
	"github.com/banyan-go/banyan/internal/message"
	"github.com/banyan-go/banyan/internal/module"
	"github.com/banyan-go/banyan/internal/telemetry"
	"github.com/banyan-go/banyan/internal/unit"
)

// Timers runs the timers of one module.
type Timers struct {
	module  *module.Module
	names   []string // of what the module knows; rows of other names are left alone
	store   *unit.Store
	policy  inbox.Policy
	metrics *telemetry.Messages
	log     *slog.Logger
	began   time.Time // of this process
	loop    *due.Loop
	slots   chan struct{} // effects that run
	queued  chan struct{} // effects that run or wait in this process
	running sync.WaitGroup

	mu       sync.Mutex
	stopping bool
}

const (
	parallelEffects = 32
	queuedEffects   = 4096
)

// New runs the timers of a module.
func New(m *module.Module, store *unit.Store, policy inbox.Policy, metrics *telemetry.Messages, log *slog.Logger) *Timers {
	names := append(append([]string{""}, m.Timers...), m.Effects...)
	for _, s := range m.Schedules {
		names = append(names, s.Name)
	}
	t := &Timers{began: store.Clock().Now(), module: m, names: names, store: store, policy: policy, metrics: metrics, log: log,
		slots: make(chan struct{}, parallelEffects), queued: make(chan struct{}, queuedEffects)}
	t.loop = due.New(rows{t}, store.Clock(), t.warn)
	return t
}

func (t *Timers) warn(err error) {
	t.log.Warn("timers", "module", t.module.Name, "error", err)
}

// row is a timer, a schedule or an effect.
type row struct {
	Kind, Name, Key string
	DueAt, FirstAt  time.Time
	Attempt         int
	Payload         []byte
	Subject         string
}

// Wake looks for due rows now.
func (t *Timers) Wake() { t.loop.Wake() }

// Effect runs an effect that this process has just committed, unless it is too busy: then it is found by its row.
func (t *Timers) Effect(name, key string, payload []byte, firstAt time.Time) {
	t.start(row{Kind: unit.KindEffect, Name: name, Key: key, Payload: payload, FirstAt: firstAt}, false)
}

// start runs an effect soon; marked says that the store knows already that it runs.
func (t *Timers) start(d row, marked bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	full := false
	select {
	case t.queued <- struct{}{}:
	default:
		full = true
	}
	if t.stopping || full {
		if !full {
			<-t.queued
		}
		if marked {
			t.store.EndEffect(d.Name, d.Key)
		}
		return
	}
	if !marked && !t.store.StartEffect(d.Name, d.Key, d.FirstAt, d.Payload) {
		<-t.queued
		return
	}
	t.running.Go(func() {
		defer func() { <-t.queued }()
		t.slots <- struct{}{}
		defer func() { <-t.slots }()
		if t.ending() { // not begun: its row is found after the next start
			t.store.EndEffect(d.Name, d.Key)
			return
		}
		t.effect(d)
	})
}

func (t *Timers) ending() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.stopping
}

// Stop refuses new effects: their rows keep them.
func (t *Timers) Stop() {
	t.mu.Lock()
	t.stopping = true
	t.mu.Unlock()
}

// Drain refuses new effects and waits for those that run.
func (t *Timers) Drain() {
	t.Stop()
	t.running.Wait()
}

// Check is an error when rows wait for a timer or an effect that this version does not know.
func (t *Timers) Check(ctx context.Context) error {
	var unknown []string
	if err := t.store.Read(ctx).Raw("SELECT DISTINCT name FROM timers WHERE kind <> ? AND name NOT IN ?", unit.KindSchedule, t.names).Scan(&unknown).Error; err != nil {
		return err
	}
	if len(unknown) > 0 {
		return fmt.Errorf("module %s: rows wait for the timers or effects %v, which do not exist any more; let the version before finish them first", t.module.Name, unknown)
	}
	return nil
}

// Open makes the rows of the module's schedules. On SQLite it also takes up the effects of the process before: it was the
// only one and is gone, so nobody needs the grace that their rows still give it.
func (t *Timers) Open(ctx context.Context) error {
	return t.store.Do(ctx, func(_ context.Context, w *unit.Work) error {
		if w.Dialect() == database.SQLite {
			if err := w.DB.Exec("UPDATE timers SET due_at = ? WHERE kind = ? AND attempt = 0 AND due_at > ?", w.Now(), unit.KindEffect, w.Now()).Error; err != nil {
				return err
			}
		}
		for _, s := range t.module.Schedules {
			err := w.DB.Exec(`INSERT INTO timers (kind, name, key, due_at, first_at, attempt, payload) VALUES (?, ?, '', ?, ?, 0, ?) ON CONFLICT (name, key) DO NOTHING`,
				unit.KindSchedule, s.Name, w.Now().Add(s.Every), w.Now().Add(s.Every), []byte("{}")).Error
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// TakeUp makes the effects due now that were committed before this process began, and that nobody has finished: for when no process
// lives any more that could be calling them.
func (t *Timers) TakeUp(ctx context.Context) error {
	err := t.store.Do(ctx, func(_ context.Context, w *unit.Work) error {
		return w.DB.Exec("UPDATE timers SET due_at = ? WHERE kind = ? AND attempt = 0 AND due_at > ? AND first_at < ?", w.Now(), unit.KindEffect, w.Now(), t.began).Error
	})
	t.Wake()
	return err
}

// Run fires what is due until ctx ends.
func (t *Timers) Run(ctx context.Context, poll time.Duration) {
	t.mu.Lock()
	t.stopping = false
	t.mu.Unlock()
	t.loop.Run(ctx, poll)
}

// rows are what a module has set to happen.
type rows struct{ *Timers }

// Next is when the next row after a moment is due.
func (t rows) Next(ctx context.Context, since time.Time) (time.Time, bool, error) {
	var at []time.Time
	err := t.store.Read(ctx).Raw("SELECT due_at FROM timers WHERE due_at > ? AND name IN ? ORDER BY due_at LIMIT 1", since, t.names).Scan(&at).Error
	if err != nil || len(at) == 0 {
		return time.Time{}, false, err
	}
	return at[0], true, nil
}

// Due are the rows that are due at a moment.
func (t rows) Due(ctx context.Context, now time.Time, most int) ([]due.Item, error) {
	var found []row
	err := t.store.Read(ctx).Raw("SELECT kind, name, key, due_at, first_at, attempt, payload, subject FROM timers WHERE due_at <= ? AND name IN ? ORDER BY due_at LIMIT ?",
		now, t.names, most).Scan(&found).Error
	items := make([]due.Item, len(found))
	for i, r := range found {
		items[i] = due.Item{Key: r.Name + "\x00" + r.Key, Do: func(ctx context.Context) error {
			if r.Kind == unit.KindEffect {
				return t.postpone(ctx, r)
			}
			return t.fire(ctx, r)
		}}
	}
	return items, err
}

// postpone claims a due effect for this process by moving its row, then runs it.
func (t *Timers) postpone(ctx context.Context, d row) error {
	// Marked before the row is moved: whoever asks in between whether anything is left to do must see one of both. One that
	// runs here already only has its row moved, out of the way of what is due.
	fresh := t.store.StartEffect(d.Name, d.Key, d.FirstAt, d.Payload)
	claimed := false
	err := t.store.Do(ctx, func(_ context.Context, w *unit.Work) error {
		r := w.DB.Exec("UPDATE timers SET due_at = ? WHERE name = ? AND key = ? AND due_at = ?", w.Now().Add(unit.EffectGrace), d.Name, d.Key, d.DueAt)
		claimed = r.RowsAffected == 1
		return r.Error
	})
	switch {
	case !fresh:
	case err != nil || !claimed:
		t.store.EndEffect(d.Name, d.Key)
	default:
		t.start(d, true)
	}
	if err != nil {
		return fmt.Errorf("effect %s %s not claimed: %w", d.Name, d.Key, err)
	}
	return nil
}

// cause is the message that a timer's work derives its ids from.
func (t *Timers) cause(d row) *message.Message {
	return &message.Message{
		ID:  message.DeriveID("", t.module.Name+"/"+d.Name+"/"+d.Key, int(d.FirstAt.UnixMicro())),
		Key: d.Key, Name: d.Name, Source: d.Kind, Time: d.FirstAt, Subject: d.Subject, Payload: json.RawMessage(d.Payload),
	}
}

// fire does the work of a timer or a schedule.
func (t *Timers) fire(ctx context.Context, d row) error {
	asked := ctx
	ctx, cancel := context.WithTimeout(ctx, t.policy.Timeout)
	defer cancel()
	cause := t.cause(d)
	if d.Kind == unit.KindSchedule {
		cause.ID = message.DeriveID(cause.ID, "due", int(d.FirstAt.UnixMicro()))
	}
	gone := false
	err := t.store.Handle(ctx, cause, inbox.TimerHandler(d.Name), func(ctx context.Context, w *unit.Work) error {
		gone = false
		n, err := t.claim(w, &d)
		if err != nil || n == 0 {
			gone = n == 0
			return err
		}
		if d.Kind == unit.KindSchedule {
			fn := t.module.ScheduleHandler(d.Name)
			if fn == nil {
				return nil // a schedule of another version
			}
			return fn(ctx, w, d.FirstAt)
		}
		fn := t.module.Timer(d.Name)
		if fn == nil {
			return errs.New(errs.NotFound, "module %s has no timer %s", t.module.Name, d.Name)
		}
		return fn(ctx, w, d.Key, d.Payload)
	}, database.Repeatable)
	switch {
	case gone || asked.Err() != nil:
	case err == nil:
		t.metrics.Timers.WithLabelValues(t.module.Name, d.Name).Inc()
	default:
		return t.failed(asked, d, err)
	}
	return nil
}

// claim removes a timer's row, or moves a schedule's to its next due time; 0 rows mean that another process was faster.
func (t *Timers) claim(w *unit.Work, d *row) (int64, error) {
	if d.Kind != unit.KindSchedule {
		// What the row says now counts, not what it said when it was read.
		err := database.Statements(w.DB).Row("DELETE FROM timers WHERE name = ? AND key = ? AND due_at = ? RETURNING payload", d.Name, d.Key, d.DueAt).Scan(&d.Payload)
		if errors.Is(err, sql.ErrNoRows) {
			return 0, nil
		}
		return 1, err
	}
	every := time.Duration(0)
	for _, s := range t.module.Schedules {
		if s.Name == d.Name {
			every = s.Every
		}
	}
	if every <= 0 {
		r := w.DB.Exec("DELETE FROM timers WHERE name = ? AND key = ''", d.Name)
		return r.RowsAffected, r.Error
	}
	next := d.FirstAt.Add(every) // first_at is the time it was due; due_at may be that of another try
	if late := w.Now().Sub(next); late >= 0 {
		next = next.Add((late/every + 1) * every) // caught up once, then back in step
	}
	r := w.DB.Exec("UPDATE timers SET due_at = ?, first_at = ?, attempt = 0 WHERE name = ? AND key = '' AND due_at = ?", next, next, d.Name, d.DueAt)
	return r.RowsAffected, r.Error
}

func (t *Timers) effect(d row) {
	// After this another process may call it: who hangs longer would only do it twice, and keep a place.
	ctx, cancel := context.WithTimeout(context.Background(), unit.EffectGrace)
	defer cancel()
	fn := t.module.Effect(d.Name)
	var err error
	if fn == nil {
		err = errs.New(errs.NotFound, "module %s has no effect %s", t.module.Name, d.Name)
	} else {
		err = t.call(ctx, fn, d)
	}
	defer t.store.EndEffect(d.Name, d.Key)
	finished := t.store.Finished(d.Name, d.Key)
	switch {
	case err != nil:
		if err := t.failed(context.Background(), d, err); err != nil {
			t.warn(err)
		}
		return
	case !finished:
		// The handler has kept no outcome of its own: the row goes now. Losing this only calls the effect again.
		if err := t.store.Do(ctx, func(_ context.Context, w *unit.Work) error {
			return w.DB.Exec("DELETE FROM timers WHERE name = ? AND key = ? AND first_at = ? AND payload = ?", d.Name, d.Key, d.FirstAt, d.Payload).Error
		}); err != nil {
			t.log.Warn("effect not finished, it will be called again", "module", t.module.Name, "effect", d.Name, "key", d.Key, "error", err)
		}
	}
	t.metrics.Timers.WithLabelValues(t.module.Name, d.Name).Inc()
}

func (t *Timers) call(ctx context.Context, fn module.EffectHandler, d row) (err error) {
	defer func() {
		if p := recover(); p != nil {
			t.log.Error("effect panicked", "module", t.module.Name, "effect", d.Name, "panic", p, "stack", string(debug.Stack()))
			err = errs.New(errs.Internal, "internal error")
		}
	}()
	return fn(ctx, d.Key, d.Payload)
}

// failed puts a timer, a schedule or an effect off, or buries it.
func (t *Timers) failed(ctx context.Context, d row, cause error) error {
	dead := false
	var at time.Time
	err := t.store.Do(ctx, func(_ context.Context, w *unit.Work) error {
		dead = false
		var kept row
		lock := ""
		if w.Dialect() == database.Postgres {
			lock = " FOR UPDATE"
		}
		found := w.DB.Raw("SELECT kind, name, key, due_at, first_at, attempt, payload, subject FROM timers WHERE name = ? AND key = ?"+lock, d.Name, d.Key).Scan(&kept)
		if found.Error != nil || found.RowsAffected == 0 {
			return found.Error // cancelled, or finished by another process
		}
		if !kept.FirstAt.Equal(d.FirstAt) || !bytes.Equal(kept.Payload, d.Payload) || (kept.Kind != unit.KindEffect && !kept.DueAt.Equal(d.DueAt)) {
			return nil // set anew meanwhile: that one has not failed
		}
		before := t.policy.Base << min(kept.Attempt, 20)
		at = w.Now().Add(inbox.Backoff(t.policy, min(before, t.policy.Cap)))
		if kept.Kind == unit.KindSchedule || (errs.Transient(cause) && w.Now().Sub(kept.FirstAt) < t.policy.GiveUpAfter) {
			return w.DB.Exec("UPDATE timers SET due_at = ?, attempt = attempt + 1 WHERE name = ? AND key = ?", at, d.Name, d.Key).Error
		}
		dead = true
		m := t.cause(kept)
		body, reason, err := inbox.Kept(w, *m, cause.Error())
		if err != nil {
			return err
		}
		if err := w.DB.Exec(`INSERT INTO dead_letters (id, position, handler, key, message_id, name, subject, message, reason, attempts, first_at, died_at)
			VALUES (?, 0, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`, message.NewID(), inbox.TimerHandler(kept.Name), kept.Key, m.ID, kept.Name, kept.Subject, body, reason, kept.Attempt+1, kept.FirstAt, w.Now()).Error; err != nil {
			return err
		}
		return w.DB.Exec("DELETE FROM timers WHERE name = ? AND key = ?", d.Name, d.Key).Error
	})
	if err != nil {
		return fmt.Errorf("%s %s failed and was not put off: %w; %w", d.Name, d.Key, cause, err)
	}
	if dead {
		t.metrics.Dead.WithLabelValues(t.module.Name, inbox.TimerHandler(d.Name)).Inc()
	}
	t.log.Warn("timer failed", "module", t.module.Name, "timer", d.Name, "key", d.Key, "dead", dead, "error", cause)
	t.Wake()
	return nil
}
