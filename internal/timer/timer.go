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
	"sync/atomic"
	"time"

	"github.com/banyan-go/banyan/internal/database"
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
	wake    chan struct{}
	slots   chan struct{} // effects that run
	queued  chan struct{} // effects that run or wait in this process
	running sync.WaitGroup

	mu       sync.Mutex
	stopping bool
}

const (
	parallelEffects = 32
	queuedEffects   = 4096
	batch           = 64
)

// New runs the timers of a module.
func New(m *module.Module, store *unit.Store, policy inbox.Policy, metrics *telemetry.Messages, log *slog.Logger) *Timers {
	names := append(append([]string{""}, m.Timers...), m.Effects...)
	for _, s := range m.Schedules {
		names = append(names, s.Name)
	}
	return &Timers{began: store.Clock().Now(), module: m, names: names, store: store, policy: policy, metrics: metrics, log: log, wake: make(chan struct{}, 1),
		slots: make(chan struct{}, parallelEffects), queued: make(chan struct{}, queuedEffects)}
}

type due struct {
	Kind, Name, Key string
	DueAt, FirstAt  time.Time
	Attempt         int
	Payload         []byte
	Subject         string
}

// Wake looks for due rows now.
func (t *Timers) Wake() {
	select {
	case t.wake <- struct{}{}:
	default:
	}
}

// Effect runs an effect that this process has just committed, unless it is too busy: then it is found by its row.
func (t *Timers) Effect(name, key string, payload []byte, firstAt time.Time) {
	t.start(due{Kind: unit.KindEffect, Name: name, Key: key, Payload: payload, FirstAt: firstAt}, false)
}

// start runs an effect soon; marked says that the store knows already that it runs.
func (t *Timers) start(d due, marked bool) {
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

// Open makes the rows of the module's schedules. On SQLite it also takes up the effects of the process before: it was the
// only one and is gone, so nobody needs the grace that their rows still give it.
func (t *Timers) Open(ctx context.Context) error {
	var unknown []string
	if err := t.store.Read(ctx).Raw("SELECT DISTINCT name FROM timers WHERE kind <> ? AND name NOT IN ?", unit.KindSchedule, t.names).Scan(&unknown).Error; err != nil {
		return err
	}
	if len(unknown) > 0 {
		return fmt.Errorf("module %s: rows wait for the timers or effects %v, which do not exist any more; let the version before finish them first", t.module.Name, unknown)
	}
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

// Run fires what is due until ctx ends. extra is work of the same rhythm (retries of parked messages): it says when
// it wants to be called next.
func (t *Timers) Run(ctx context.Context, poll time.Duration, extra func(ctx context.Context) (time.Time, bool, error)) {
	clock := t.store.Clock()
	t.mu.Lock()
	t.stopping = false
	t.mu.Unlock()
	for ctx.Err() == nil {
		now := clock.Now()
		wake := now.Add(poll)
		sooner := func(next time.Time, some bool) {
			if some && next.Before(wake) {
				wake = next
			}
		}
		busy, err := t.fire(ctx, now)
		if err == nil {
			var next time.Time
			var some bool
			next, some, err = t.next(ctx, now)
			sooner(next, some)
		}
		next, some, extraErr := extra(ctx)
		sooner(next, some)
		err = errors.Join(err, extraErr)
		if err != nil && ctx.Err() == nil {
			t.log.Warn("timers", "module", t.module.Name, "error", err)
			wake = clock.Now().Add(200 * time.Millisecond)
		} else if busy {
			continue
		}
		select {
		case <-ctx.Done():
			return
		case <-t.wake:
		case <-clock.At(wake):
		}
	}
}

// next is when the next row after a moment is due.
func (t *Timers) next(ctx context.Context, since time.Time) (time.Time, bool, error) {
	var at []time.Time
	err := t.store.Read(ctx).Raw("SELECT due_at FROM timers WHERE due_at > ? AND name IN ? ORDER BY due_at LIMIT 1", since, t.names).Scan(&at).Error
	if err != nil || len(at) == 0 {
		return time.Time{}, false, err
	}
	return at[0], true, nil
}

func (t *Timers) fire(ctx context.Context, now time.Time) (busy bool, err error) {
	var rows []due
	err = t.store.Read(ctx).Raw("SELECT kind, name, key, due_at, first_at, attempt, payload, subject FROM timers WHERE due_at <= ? AND name IN ? ORDER BY due_at LIMIT ?",
		now, t.names, batch).Scan(&rows).Error
	if err != nil {
		return false, err
	}
	var inside sync.WaitGroup
	var moved atomic.Int64
	slots := make(chan struct{}, 8)
	for _, d := range rows {
		if d.Kind == unit.KindEffect {
			if t.postpone(ctx, d) {
				moved.Add(1)
			}
			continue
		}
		slots <- struct{}{}
		inside.Go(func() {
			defer func() { <-slots }()
			if t.fireOne(ctx, d) {
				moved.Add(1)
			}
		})
	}
	inside.Wait()
	return len(rows) == batch && moved.Load() > 0, nil // else the store takes no writes: there is no hurry
}

// postpone claims a due effect for this process by moving its row, then runs it. It says whether the row is not due any more.
func (t *Timers) postpone(ctx context.Context, d due) (moved bool) {
	// Marked before the row is moved: whoever asks in between whether anything is left to do must see one of both. One that
	// runs here already only has its row moved, out of the way of what is due.
	fresh := t.store.StartEffect(d.Name, d.Key, d.FirstAt, d.Payload)
	claimed := false
	err := t.store.Do(ctx, func(_ context.Context, w *unit.Work) error {
		r := w.DB.Exec("UPDATE timers SET due_at = ? WHERE name = ? AND key = ? AND due_at = ?", w.Now().Add(unit.EffectGrace), d.Name, d.Key, d.DueAt)
		claimed = r.RowsAffected == 1
		return r.Error
	})
	if err != nil {
		t.log.Warn("effect not claimed", "module", t.module.Name, "effect", d.Name, "key", d.Key, "error", err)
	}
	switch {
	case !fresh:
	case err != nil || !claimed:
		t.store.EndEffect(d.Name, d.Key)
	default:
		t.start(d, true)
	}
	return err == nil
}

// cause is the message that a timer's work derives its ids from.
func (t *Timers) cause(d due) *message.Message {
	return &message.Message{
		ID:  message.DeriveID("", t.module.Name+"/"+d.Name+"/"+d.Key, int(d.FirstAt.UnixMicro())),
		Key: d.Key, Name: d.Name, Source: d.Kind, Time: d.FirstAt, Subject: d.Subject, Payload: json.RawMessage(d.Payload),
	}
}

// fireOne says whether the row is not due any more.
func (t *Timers) fireOne(ctx context.Context, d due) (moved bool) {
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
	return true
}

// claim removes a timer's row, or moves a schedule's to its next due time; 0 rows mean that another process was faster.
func (t *Timers) claim(w *unit.Work, d *due) (int64, error) {
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

func (t *Timers) effect(d due) {
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
		t.failed(context.Background(), d, err)
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

func (t *Timers) call(ctx context.Context, fn module.EffectHandler, d due) (err error) {
	defer func() {
		if p := recover(); p != nil {
			t.log.Error("effect panicked", "module", t.module.Name, "effect", d.Name, "panic", p, "stack", string(debug.Stack()))
			err = errs.New(errs.Internal, "internal error")
		}
	}()
	return fn(ctx, d.Key, d.Payload)
}

// failed puts a timer, a schedule or an effect off, or buries it. It says whether that could be kept.
func (t *Timers) failed(ctx context.Context, d due, cause error) (kept bool) {
	dead := false
	var at time.Time
	err := t.store.Do(ctx, func(_ context.Context, w *unit.Work) error {
		dead = false
		var row due
		lock := ""
		if w.Dialect() == database.Postgres {
			lock = " FOR UPDATE"
		}
		found := w.DB.Raw("SELECT kind, name, key, due_at, first_at, attempt, payload, subject FROM timers WHERE name = ? AND key = ?"+lock, d.Name, d.Key).Scan(&row)
		if found.Error != nil || found.RowsAffected == 0 {
			return found.Error // cancelled, or finished by another process
		}
		if !row.FirstAt.Equal(d.FirstAt) || !bytes.Equal(row.Payload, d.Payload) || (row.Kind != unit.KindEffect && !row.DueAt.Equal(d.DueAt)) {
			return nil // set anew meanwhile: that one has not failed
		}
		before := t.policy.Base << min(row.Attempt, 20)
		at = w.Now().Add(inbox.Backoff(t.policy, min(before, t.policy.Cap)))
		if row.Kind == unit.KindSchedule || (errs.Transient(cause) && w.Now().Sub(row.FirstAt) < t.policy.GiveUpAfter) {
			return w.DB.Exec("UPDATE timers SET due_at = ?, attempt = attempt + 1 WHERE name = ? AND key = ?", at, d.Name, d.Key).Error
		}
		dead = true
		m := t.cause(row)
		body, reason, err := inbox.Kept(w, *m, cause.Error())
		if err != nil {
			return err
		}
		if err := w.DB.Exec(`INSERT INTO dead_letters (id, position, handler, key, message_id, name, subject, message, reason, attempts, first_at, died_at)
			VALUES (?, 0, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`, message.NewID(), inbox.TimerHandler(row.Name), row.Key, m.ID, row.Name, row.Subject, body, reason, row.Attempt+1, row.FirstAt, w.Now()).Error; err != nil {
			return err
		}
		return w.DB.Exec("DELETE FROM timers WHERE name = ? AND key = ?", d.Name, d.Key).Error
	})
	if err != nil {
		t.log.Error("timer failed and was not put off", "module", t.module.Name, "timer", d.Name, "key", d.Key, "error", fmt.Errorf("%w; %w", cause, err))
		return false
	}
	if dead {
		t.metrics.Dead.WithLabelValues(t.module.Name, inbox.TimerHandler(d.Name)).Inc()
	}
	t.log.Warn("timer failed", "module", t.module.Name, "timer", d.Name, "key", d.Key, "dead", dead, "error", cause)
	t.Wake()
	return true
}
