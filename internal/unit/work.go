package unit

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"gorm.io/gorm"

	"github.com/banyan-go/banyan/internal/database"
	"github.com/banyan-go/banyan/internal/message"
)

// Work is one running unit of work: the transaction, and what is to be sent when it commits.
//
// A unit of work may run again (a serialization failure, a rolled back group), so it must have no effect but
// through its Work.
type Work struct {
	DB *gorm.DB // bound to the transaction and to the caller's context

	store   *Store
	cause   *message.Message // what is being handled; nil outside of handlers
	handler string
	made    int // ids derived so far

	messages []message.Message
	sent     []*Sent
	timers   []timerRow
	cancels  []timerKey
	finishes []timerKey
	after    []func()
	err      error // first error of Publish and the like, returned at the end
	now      time.Time
	trace    traceContext
}

// Now is the time of the unit of work: the same however often it is asked.
func (w *Work) Now() time.Time { return w.now }

// NewID is a fresh id; within a message handler it is derived from the message, so that a handler that
// runs again makes the same ids.
func (w *Work) NewID() string {
	if w.cause == nil {
		return message.NewID()
	}
	w.made++
	return message.DeriveID(w.cause.ID, w.handler, w.made)
}

// Later is DB for writes whose result nobody waits for: on PostgreSQL they go with the next statement that somebody does wait for, or with
// the commit, and save a round trip each. What a write touched is not known then; one that fails, fails the unit of work. What it is given is
// read when it goes, and must not be changed before.
func (w *Work) Later() *gorm.DB { return database.Later(w.DB) }

// Expect is Later for writes each of which must touch so many rows; otherwise is what the unit of work ends with if one does not,
// whatever came after it.
func (w *Work) Expect(rows int64, otherwise error) *gorm.DB {
	return database.Expect(w.DB, rows, otherwise)
}

// Publish announces events of the module's own contract when the unit of work commits.
func (w *Work) Publish(events ...message.Event) {
	for _, e := range events {
		if !w.store.announces[e.MessageName()] {
			w.fail(fmt.Errorf("publish: %s is not an event of the contract of %s", e.MessageName(), w.store.module))
			return
		}
		w.add(e, e.MessageKey())
	}
}

// Send gives another module (or the own one) a durable command when the unit of work commits.
func (w *Work) Send(commands ...message.Command) {
	for _, c := range commands {
		if !w.store.sends[c.MessageName()] {
			w.fail(fmt.Errorf("send: module %s does not declare that it sends %s", w.store.module, c.MessageName()))
			return
		}
		w.add(c, c.MessageKey())
	}
}

func (w *Work) add(p message.Payload, key string) {
	body, err := json.Marshal(p)
	if err != nil {
		w.fail(fmt.Errorf("encode %s: %w", p.MessageName(), err))
		return
	}
	if key == "" {
		w.fail(fmt.Errorf("publish %s: the key is empty", p.MessageName()))
		return
	}
	m := message.Message{
		ID: w.NewID(), Name: p.MessageName(), Source: w.store.module, Key: key, Time: w.now, Payload: body,
		CorrelationID: w.trace.correlation, Traceparent: w.trace.parent,
	}
	if personal, ok := p.(message.Personal); ok {
		m.Subject = personal.PersonalSubject()
	}
	// Whoever receives it refuses what no store can keep, and must never have to.
	for _, text := range [...]struct{ what, value string }{{"key", m.Key}, {"subject", m.Subject}} {
		if err := message.CheckText(text.value); err != nil {
			w.fail(fmt.Errorf("publish %s: the %s %w", m.Name, text.what, err))
			return
		}
	}
	if w.cause != nil {
		m.CausationID = w.cause.ID
		if w.cause.CorrelationID != "" {
			m.CorrelationID = w.cause.CorrelationID
		}
	}
	if m.CorrelationID == "" {
		m.CorrelationID = m.ID
	}
	w.messages = append(w.messages, m)
}

func (w *Work) fail(err error) {
	if w.err == nil {
		w.err = err
	}
}

// Schedule sets the one-shot timer (name, key) for due, in place of an earlier one.
func (w *Work) Schedule(name, key string, due time.Time, payload any) {
	w.timer(kindTimer, name, key, due, payload)
}

// Cancel removes the timer (name, key), if it is set.
func (w *Work) Cancel(name, key string) {
	w.timers = slices.DeleteFunc(w.timers, func(t timerRow) bool { return t.Name == name && t.Key == key })
	w.cancels = append(w.cancels, timerKey{Name: name, Key: key})
}

// Effect asks for the module's effect (name, key) right after the commit, and again until it has succeeded:
// see module.OnEffect.
func (w *Work) Effect(name, key string, payload any) {
	w.timer(kindEffect, name, key, w.now, payload)
}

// FinishEffect says, in the unit of work that keeps its outcome, that the effect (name, key) is done.
// One that was asked for anew while it ran is left to be called again.
func (w *Work) FinishEffect(name, key string) {
	w.finishes = append(w.finishes, timerKey{Name: name, Key: key})
}

func (w *Work) timer(kind, name, key string, due time.Time, payload any) {
	body, err := json.Marshal(payload)
	if err != nil {
		w.fail(fmt.Errorf("encode timer %s: %w", name, err))
		return
	}
	if w.store.timers[name] != kind {
		w.fail(fmt.Errorf("module %s does not declare the %s %s", w.store.module, kind, name))
		return
	}
	w.timers = append(w.timers, timerRow{Kind: kind, Name: name, Key: key, DueAt: due.UTC().Truncate(time.Microsecond), Payload: body, FirstAt: w.now, Subject: w.subject(payload)})
}

// AfterCommit runs fn once the unit of work is durable; a crash loses the call, so it may only be a hint.
func (w *Work) AfterCommit(fn func()) { w.after = append(w.after, fn) }

type contextKey struct{}

type readOnlyKey struct{}

// ReadOnly is for requests that must change nothing: a unit of work fails, and says so by calling tried.
func ReadOnly(ctx context.Context, tried func()) context.Context {
	return context.WithValue(ctx, readOnlyKey{}, tried)
}

// Inside says whether ctx belongs to a running unit of work; calls to others are refused there.
func Inside(ctx context.Context) bool { return ctx.Value(contextKey{}) != nil }

// Dialect is the kind of the store, for the few statements that differ.
func (w *Work) Dialect() database.Dialect { return w.store.db.Dialect() }
