// Package unit runs units of work: one transaction of one module that holds its state, what it sends, what it has
// handled and which requests it has answered.
//
// Guarantees. Messages of a unit of work are in the module's outbox if and only if its state is: with a
// sequence that has no gaps per key and grows in commit order, because a row per key is locked from the moment the
// number is taken until the commit. A handler's effect and its inbox row are one commit, so a message that
// arrives twice has one effect. A request's effect and the answer to its Idempotency-Key are one commit too. A unit
// of work may run more than once before it commits; ids made in a handler are the same each time.
package unit

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"
	"gorm.io/gorm"

	"github.com/banyan-go/banyan/internal/clock"
	"github.com/banyan-go/banyan/internal/database"
	"github.com/banyan-go/banyan/internal/errs"
	"github.com/banyan-go/banyan/internal/message"
	"github.com/banyan-go/banyan/internal/telemetry"
)

// Kinds of rows in the table timers.
const (
	KindTimer    = "timer"
	KindEffect   = "effect"
	KindSchedule = "schedule"
	kindTimer    = KindTimer
	kindEffect   = KindEffect
)

// EffectGrace is how long the process that committed an effect has to finish it before another one takes over.
const EffectGrace = 30 * time.Second

type timerRow struct {
	Kind, Name, Key string
	DueAt, FirstAt  time.Time
	Payload         []byte
	Subject         string
}

type timerKey struct{ Name, Key string }

type traceContext struct{ correlation, parent string }

// running is an effect on its way.
type running struct {
	firstAt  time.Time
	payload  []byte
	finished bool // its outcome is committed
}

// Options say what a store's module announces, sends and is driven by.
type Options struct {
	Module    string
	Announces []string // wire names of its own events
	Sends     []string // wire names of commands that it sends
	Timers    []string
	Effects   []string
	Personal  *message.Redactor
	Clock     clock.Clock
	Tracer    trace.Tracer
	Log       *slog.Logger
}

// Store is a module's handle to its store.
type Store struct {
	db        *database.DB
	module    string
	announces map[string]bool
	sends     map[string]bool
	timers    map[string]string // name -> kind
	personal  *message.Redactor
	clock     clock.Clock
	tracer    trace.Tracer
	log       *slog.Logger
	hooks     atomic.Pointer[Hooks]
	overload  atomic.Pointer[string]

	mu      sync.Mutex
	running map[timerKey]*running // effects that run now
}

// Hooks are told what a commit has left to do. They are hints: after a crash the rows are found anyway.
type Hooks struct {
	// Subscribers are the modules that a message goes to, by wire name.
	Subscribers func(name string) []string
	// Sent says that messages were committed. On SQLite the calls come in the order of the commits. On PostgreSQL they may come in another
	// one, and there are none for what other processes commit.
	Sent func(messages []*Sent)
	// Due says that a timer was set.
	Due func(at time.Time)
	// Effect asks to run an effect now.
	Effect func(name, key string, payload []byte, firstAt time.Time)
}

// Others is the subscriber that stands for services that are not ours. What goes there alone is subscribed to by nobody.
const Others = "~others"

// Sent is a message in the outbox. Its id and its sequence are known when the unit of work is committed.
type Sent struct {
	ID          int64 // of the outbox row
	Message     *message.Message
	Subscribers []string
}

// New is the store of a module on db.
func New(db *database.DB, o Options) *Store {
	s := &Store{
		db: db, module: o.Module, announces: map[string]bool{}, sends: map[string]bool{}, timers: map[string]string{},
		personal: o.Personal, clock: o.Clock, tracer: o.Tracer, log: o.Log, running: map[timerKey]*running{},
	}
	if s.clock == nil {
		s.clock = clock.System{}
	}
	if s.tracer == nil {
		s.tracer = noop.NewTracerProvider().Tracer("")
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	for _, n := range o.Announces {
		s.announces[n] = true
	}
	for _, n := range o.Sends {
		s.sends[n] = true
	}
	for _, n := range o.Timers {
		s.timers[n] = kindTimer
	}
	for _, n := range o.Effects {
		s.timers[n] = kindEffect
	}
	s.hooks.Store(&Hooks{})
	return s
}

// Watch sets the hooks.
func (s *Store) Watch(h Hooks) { s.hooks.Store(&h) }

// Module is whose store it is.
func (s *Store) Module() string { return s.module }

// DB is the store below, for the platform.
func (s *Store) DB() *database.DB { return s.db }

// Clock is the clock of the store's units of work.
func (s *Store) Clock() clock.Clock { return s.clock }

// Read is a handle for queries outside of units of work; writes through it fail.
func (s *Store) Read(ctx context.Context) *gorm.DB { return s.db.Read(ctx) }

// Overload makes rest.Commit refuse new requests with the reason, or accept them again with "".
func (s *Store) Overload(reason string) {
	if reason == "" {
		s.overload.Store(nil)
		return
	}
	s.overload.Store(&reason)
}

// Overloaded is why new requests are refused, or "".
func (s *Store) Overloaded() string {
	if r := s.overload.Load(); r != nil {
		return *r
	}
	return ""
}

// Do runs fn as one unit of work. fn may run more than once: it must set what it captures anew each time and do
// nothing outside of w. A commit whose outcome is unknown is database.ErrOutcomeUnknown.
func (s *Store) Do(ctx context.Context, fn func(ctx context.Context, w *Work) error) error {
	return s.run(ctx, nil, "", fn)
}

// Handle is Do for what a message, a timer or a request causes: ids are derived from it.
func (s *Store) Handle(ctx context.Context, cause *message.Message, handler string, fn func(ctx context.Context, w *Work) error, opts ...database.Option) error {
	return s.run(ctx, cause, handler, fn, opts...)
}

func (s *Store) run(ctx context.Context, cause *message.Message, handler string, fn func(ctx context.Context, w *Work) error, opts ...database.Option) error {
	if Inside(ctx) {
		return fmt.Errorf("a unit of work of %s was started inside another one", s.module)
	}
	var work *Work
	return s.transact(ctx, opts, func(ctx context.Context, tx *gorm.DB) ([]*Work, error) {
		work = s.work(ctx, tx, cause, handler)
		if err := fn(ctx, work); err != nil {
			return nil, err
		}
		return []*Work{work}, flush(work)
	})
}

// Cause is a message to handle, with the context that it came with.
type Cause struct {
	Context context.Context
	Message *message.Message
}

// HandleGroup handles several messages in one transaction, each as by Handle: fn is called for each in turn, with the values of its
// own context and the end of ctx. An error rolls all of them back.
func (s *Store) HandleGroup(ctx context.Context, causes []Cause, handler string, fn func(ctx context.Context, i int, w *Work) error) error {
	if len(causes) == 1 {
		ctx = valued{ctx, causes[0].Context} // the transaction belongs to its trace
	}
	return s.transact(ctx, []database.Option{database.Repeatable}, func(ctx context.Context, tx *gorm.DB) ([]*Work, error) {
		var all []*Work
		for i, c := range causes {
			own := context.Context(valued{ctx, c.Context})
			w := s.work(own, tx, c.Message, handler)
			if err := fn(own, i, w); err != nil {
				return nil, err
			}
			all = append(all, w)
		}
		return all, flush(all...)
	})
}

// valued is a context with the values of another one beside its own.
type valued struct {
	context.Context
	values context.Context
}

func (c valued) Value(key any) any {
	if v := c.Context.Value(key); v != nil {
		return v
	}
	return c.values.Value(key)
}

func (s *Store) work(ctx context.Context, tx *gorm.DB, cause *message.Message, handler string) *Work {
	return &Work{DB: tx, store: s, cause: cause, handler: handler, now: s.clock.Now(), trace: traceContext{correlation: telemetry.Correlation(ctx), parent: Traceparent(ctx)}}
}

// transact runs fn in a transaction and does afterwards what its works have left to do.
func (s *Store) transact(ctx context.Context, opts []database.Option, fn func(ctx context.Context, tx *gorm.DB) ([]*Work, error)) error {
	if tried, _ := ctx.Value(readOnlyKey{}).(func()); tried != nil {
		tried()
		return errs.New(errs.Forbidden, "this request may change nothing")
	}
	ctx, span := s.tracer.Start(ctx, "unit of work "+s.module)
	defer span.End()
	inside := context.WithValue(ctx, contextKey{}, s)
	var works []*Work
	runs := 0
	opts = append(opts, database.Committed(func() {
		var sent []*Sent
		for _, w := range works {
			sent = append(sent, w.sent...)
		}
		if hooks := s.hooks.Load(); hooks.Sent != nil && len(sent) > 0 {
			hooks.Sent(sent)
		}
	}))
	err := s.db.Write(inside, func(tx *gorm.DB) error {
		runs++
		var err error
		works, err = fn(inside, tx)
		return err
	}, opts...)
	if runs > 1 {
		span.SetAttributes(attribute.Int("banyan.runs", runs))
	}
	if err != nil {
		span.SetStatus(codes.Error, "rolled back")
		return err
	}
	for _, w := range works {
		s.committed(w)
	}
	return nil
}

// Traceparent is the W3C form of the span in ctx, or "".
func Traceparent(ctx context.Context) string {
	if !trace.SpanContextFromContext(ctx).IsValid() {
		return ""
	}
	carrier := propagation.MapCarrier{}
	propagation.TraceContext{}.Inject(ctx, carrier)
	return carrier["traceparent"]
}

func (s *Store) committed(w *Work) {
	hooks := s.hooks.Load()
	for _, c := range append(w.cancels, w.finishes...) {
		s.mu.Lock()
		if r := s.running[c]; r != nil {
			r.finished = true
		}
		s.mu.Unlock()
	}
	for _, t := range w.timers {
		switch {
		case t.Kind == kindEffect && hooks.Effect != nil:
			hooks.Effect(t.Name, t.Key, t.Payload, t.FirstAt)
		case hooks.Due != nil:
			hooks.Due(t.DueAt)
		}
	}
	for _, fn := range w.after {
		s.call(fn)
	}
}

// call runs what was left for after the commit. It is committed: a bug there is told, and ends nothing.
func (s *Store) call(fn func()) {
	defer func() {
		if p := recover(); p != nil {
			s.log.Error("panic after a commit", "module", s.module, "panic", p, "stack", string(debug.Stack()))
		}
	}()
	fn()
}

// StartEffect marks an effect as running in this process; false if it is running already.
func (s *Store) StartEffect(name, key string, firstAt time.Time, payload []byte) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	k := timerKey{name, key}
	if _, ok := s.running[k]; ok {
		return false
	}
	s.running[k] = &running{firstAt: firstAt, payload: payload}
	return true
}

// Finished says whether a unit of work has finished an effect since StartEffect.
func (s *Store) Finished(name, key string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.running[timerKey{name, key}]
	return r != nil && r.finished
}

// EndEffect ends what StartEffect began.
func (s *Store) EndEffect(name, key string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.running, timerKey{name, key})
}

// Busy says whether effects run in this process.
func (s *Store) Busy() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.running) > 0
}

// flush writes what units of work of one transaction send and when they want to be woken. It comes last, so that the rows that
// order the messages of a key are locked as briefly as possible. Keys are taken in sorted order, so that transactions with several
// keys cannot wait for each other in a circle; the messages of one key keep their order.
func flush(works ...*Work) error {
	var all []*Sent
	for _, w := range works {
		if w.err != nil {
			return w.err
		}
		if err := w.flushTimers(); err != nil {
			return err
		}
		hooks := w.store.hooks.Load()
		for i := range w.messages {
			m := &Sent{Message: &w.messages[i]}
			if hooks.Subscribers != nil {
				m.Subscribers = hooks.Subscribers(m.Message.Name)
			}
			w.sent, all = append(w.sent, m), append(all, m)
		}
	}
	slices.SortStableFunc(all, func(a, b *Sent) int { return cmp.Compare(a.Message.Key, b.Message.Key) })
	for _, m := range all {
		write := works[0].writeMessage
		if works[0].Dialect() == database.Postgres {
			write = works[0].sendMessage
		}
		if err := write(m); err != nil {
			return fmt.Errorf("outbox: %w", err)
		}
	}
	return nil
}

func (s *Sent) unsubscribed() bool {
	return !slices.ContainsFunc(s.Subscribers, func(name string) bool { return name != Others })
}

// sendMessage numbers and keeps a message and its deliveries in one statement, which goes with the commit. The number is taken
// under the lock of its key, and the id after it.
func (w *Work) sendMessage(s *Sent) error {
	m, subscribers := s.Message, s.Subscribers
	if subscribers == nil {
		subscribers = []string{}
	}
	return database.Statements(w.DB).Later([]any{&s.ID, &m.Sequence}, `WITH numbered AS (
			INSERT INTO outbox_key (key, sequence) VALUES (?, 1) ON CONFLICT (key) DO UPDATE SET sequence = outbox_key.sequence + 1 RETURNING key, sequence
		), kept AS (
			INSERT INTO outbox (message_id, name, key, sequence, correlation_id, causation_id, traceparent, subject, created_at, unsubscribed, payload)
			SELECT CAST(? AS TEXT), CAST(? AS TEXT), key, sequence, CAST(? AS TEXT), CAST(? AS TEXT), CAST(? AS TEXT), CAST(? AS TEXT), CAST(? AS TIMESTAMPTZ), CAST(? AS BOOLEAN), CAST(? AS BYTEA)
			FROM numbered RETURNING id, sequence
		), delivered AS (
			INSERT INTO delivery (subscriber, outbox_id) SELECT subscriber, id FROM kept, unnest(CAST(? AS TEXT[])) AS subscriber
		)
		SELECT id, sequence FROM kept`,
		m.Key, m.ID, m.Name, m.CorrelationID, m.CausationID, m.Traceparent, m.Subject, m.Time, s.unsubscribed(), []byte(m.Payload), subscribers)
}

// writeMessage does the same on SQLite, where a statement costs no round trip.
func (w *Work) writeMessage(s *Sent) error {
	m, db := s.Message, database.Statements(w.DB)
	if err := db.Row(`INSERT INTO outbox_key (key, sequence) VALUES (?, 1) ON CONFLICT (key) DO UPDATE SET sequence = outbox_key.sequence + 1 RETURNING sequence`,
		m.Key).Scan(&m.Sequence); err != nil {
		return err
	}
	if err := db.Row(`INSERT INTO outbox (message_id, name, key, sequence, correlation_id, causation_id, traceparent, subject, created_at, unsubscribed, payload)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) RETURNING id`,
		m.ID, m.Name, m.Key, m.Sequence, m.CorrelationID, m.CausationID, m.Traceparent, m.Subject, m.Time, s.unsubscribed(), []byte(m.Payload)).Scan(&s.ID); err != nil {
		return err
	}
	if len(s.Subscribers) == 0 {
		return nil
	}
	args := make([]any, 0, 2*len(s.Subscribers))
	for _, name := range s.Subscribers {
		args = append(args, name, s.ID)
	}
	rows := strings.TrimSuffix(strings.Repeat("(?, ?), ", len(s.Subscribers)), ", ")
	_, err := db.Exec("INSERT INTO delivery (subscriber, outbox_id) VALUES "+rows, args...)
	return err
}

func (w *Work) flushTimers() error {
	for _, c := range w.cancels {
		set := slices.ContainsFunc(w.timers, func(t timerRow) bool { return t.Name == c.Name && t.Key == c.Key })
		if set {
			continue
		}
		if err := database.Statements(w.DB).Later(nil, "DELETE FROM timers WHERE name = ? AND key = ?", c.Name, c.Key); err != nil {
			return fmt.Errorf("cancel timer: %w", err)
		}
	}
	for _, f := range w.finishes {
		w.store.mu.Lock()
		r := w.store.running[f]
		w.store.mu.Unlock()
		query, args := "DELETE FROM timers WHERE name = ? AND key = ?", []any{f.Name, f.Key}
		if r != nil {
			query, args = query+" AND first_at = ? AND payload = ?", append(args, r.firstAt, r.payload)
		}
		if err := database.Statements(w.DB).Later(nil, query, args...); err != nil {
			return fmt.Errorf("finish effect: %w", err)
		}
	}
	for _, t := range w.timers {
		due := t.DueAt
		if t.Kind == kindEffect {
			due = due.Add(EffectGrace) // this process runs it now; the row is for the case that it dies
		}
		payload, err := w.timerPayload(t)
		if err != nil {
			return fmt.Errorf("set timer: %w", err)
		}
		err = database.Statements(w.DB).Later(nil, `INSERT INTO timers (kind, name, key, due_at, first_at, attempt, payload, subject) VALUES (?, ?, ?, ?, ?, 0, ?, ?)
			ON CONFLICT (name, key) DO UPDATE SET kind = excluded.kind, due_at = excluded.due_at, first_at = excluded.first_at, attempt = 0, payload = excluded.payload, subject = excluded.subject`,
			t.Kind, t.Name, t.Key, due, t.FirstAt, payload, t.Subject)
		if err != nil {
			return fmt.Errorf("set timer: %w", err)
		}
	}
	return nil
}
