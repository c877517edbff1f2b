// Package module is what a bounded context is to the platform: a descriptor that can be read without opening
// anything, and handlers bound to it. A module never knows where it runs.
package module

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"reflect"
	"sort"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/banyan-go/banyan/internal/clock"
	"github.com/banyan-go/banyan/internal/errs"
	"github.com/banyan-go/banyan/internal/identity"
	"github.com/banyan-go/banyan/internal/message"
	"github.com/banyan-go/banyan/internal/unit"
)

// Descriptor says what a module is. It is plain data: reading it opens nothing.
type Descriptor struct {
	Name          string
	Summary       string // one line, for docs and `banyan modules`
	Contract      message.Contract
	Routes        []Route
	Subscriptions []Subscription
	Timers        []string   // one-shot timers, see OnTimer
	Effects       []string   // work outside transactions, see OnEffect
	Schedules     []Schedule // recurring work, see OnSchedule
	Asks          []string   // wire names of other modules' queries that this module sends
	Sends         []string   // wire names of other modules' commands that this module sends
}

// Class says how a route may be treated by the gateway.
type Class string

// The classes of routes.
const (
	Read   Class = "read"   // changes nothing
	Write  Class = "write"  // changes state
	Stream Class = "stream" // answers without end
)

// Route is one operation of the HTTP API.
type Route struct {
	ID      string // operation id, as in "place-order"
	Method  string
	Path    string // as in "/api/orders/{id}"
	Class   Class
	Auth    identity.Role // least role; identity.Anonymous lets everybody in
	Summary string
	Status  int    // of success; 0 means 200
	Money   bool   // its idempotency keys are kept for ever
	Fresh   bool   // each request is answered anew, whatever its Idempotency-Key: the answer is a secret, which is not kept
	MaxBody int64  // bytes; 0 means the gateway's default (1 MiB)
	Limit   string // name of a stricter rate limit, as in "login"; "" means the default one
}

// KeepsAnswer says whether the answer is kept under the request's Idempotency-Key, so that the request may be sent again.
func (r Route) KeepsAnswer() bool {
	return r.Class == Write && (r.Method == "POST" || r.Method == "PATCH") && !r.Fresh
}

// Subscription is a handler of other modules' events.
type Subscription struct {
	Handler string   // unique in the module and never changed: rows wait under this name
	Aliases []string // former names of the handler, the oldest first; they stay as long as the handler does
	Events  []string // wire names, or prefixes as in "payments.*"
	// Unordered lets messages of one key overtake each other when one fails. The default keeps their order.
	Unordered bool
	// Group lets so many messages of different keys share a transaction when many wait (PostgreSQL; SQLite shares commits anyway).
	// It suits short handlers that lock nothing but rows of their key: what a group locks it takes in the order of the keys.
	Group int
	// Skip lets later messages of a key go on when one becomes a dead letter. The default blocks the key.
	Skip bool
}

// Schedule is recurring work. A due time missed while the process was down is caught up once.
type Schedule struct {
	Name  string
	Every time.Duration
}

// Deps is what the platform gives a module.
type Deps struct {
	Store  *unit.Store    // the module's own store
	Caller message.Caller // asks other modules
	Clock  clock.Clock
	Log    *slog.Logger
	Files  string // the module's own folder for files, made on demand
}

// Module is a descriptor with its handlers.
type Module struct {
	Descriptor
	Store     *unit.Store // set when the module is put on the bus
	mounts    map[string]func(huma.API, huma.Operation)
	messages  map[string]map[string]MessageHandler // handler -> wire name ("" for any) -> fn
	queries   map[string]QueryHandler
	requests  map[string]RequestHandler
	timers    map[string]TimerHandler
	effects   map[string]EffectHandler
	schedules map[string]ScheduleHandler
	payloads  map[string]reflect.Type // of timers and effects
	start     []func(ctx context.Context) error
}

// The forms of handlers, with payloads still encoded.
type (
	// MessageHandler handles an event or a command within one unit of work that also holds its inbox row.
	MessageHandler func(ctx context.Context, w *unit.Work, m message.Message) error
	// QueryHandler answers a query; it changes nothing.
	QueryHandler func(ctx context.Context, body []byte) ([]byte, error)
	// RequestHandler answers a command at once; the reply is stored with its inbox row.
	// The user whose personal data it holds, or "", comes with it.
	RequestHandler func(ctx context.Context, w *unit.Work, body []byte) (reply []byte, subject string, err error)
	// TimerHandler runs when a timer is due, within the unit of work that removes the timer.
	TimerHandler func(ctx context.Context, w *unit.Work, key string, body []byte) error
	// EffectHandler does something outside the store, outside any unit of work.
	EffectHandler func(ctx context.Context, key string, body []byte) error
	// ScheduleHandler runs once per due time.
	ScheduleHandler func(ctx context.Context, w *unit.Work, due time.Time) error
)

// CommandHandler is the handler name of all commands of a module, so that commands of one key keep their order.
const CommandHandler = "commands"

// New starts a module from its descriptor; bind its handlers next, then Check.
func New(d Descriptor) *Module {
	return &Module{
		Descriptor: d, mounts: map[string]func(huma.API, huma.Operation){}, messages: map[string]map[string]MessageHandler{},
		queries: map[string]QueryHandler{}, requests: map[string]RequestHandler{}, timers: map[string]TimerHandler{},
		effects: map[string]EffectHandler{}, schedules: map[string]ScheduleHandler{}, payloads: map[string]reflect.Type{},
	}
}

// Mount binds a route to a huma registration; rest.Handle is the usual caller.
func (m *Module) Mount(id string, register func(huma.API, huma.Operation)) { m.mounts[id] = register }

// OnStart adds work that runs before the module takes requests, as reading a cache.
func (m *Module) OnStart(fn func(ctx context.Context) error) { m.start = append(m.start, fn) }

// OnEvent binds a handler of a subscription to one type of event.
func OnEvent[E message.Event](m *Module, handler string, fn func(ctx context.Context, w *unit.Work, e E) error) {
	var zero E
	m.bindMessage(handler, zero.MessageName(), decoding(fn))
}

// OnAny binds a handler of a subscription to every event that has no OnEvent of its own.
func OnAny(m *Module, handler string, fn MessageHandler) { m.bindMessage(handler, "", fn) }

// OnCommand binds a durable command of the module's own contract.
func OnCommand[C message.Command](m *Module, fn func(ctx context.Context, w *unit.Work, c C) error) {
	var zero C
	m.bindMessage(CommandHandler, zero.MessageName(), decoding(fn))
}

func (m *Module) bindMessage(handler, name string, fn MessageHandler) {
	if m.messages[handler] == nil {
		m.messages[handler] = map[string]MessageHandler{}
	}
	m.messages[handler][name] = fn
}

func decoding[P any](fn func(context.Context, *unit.Work, P) error) MessageHandler {
	return func(ctx context.Context, w *unit.Work, msg message.Message) error {
		var p P
		if err := json.Unmarshal(msg.Payload, &p); err != nil {
			return errs.New(errs.Malformed, "decode %s: %w", msg.Name, err)
		}
		return fn(ctx, w, p)
	}
}

// OnQuery binds a query of the module's own contract.
func OnQuery[Q message.Query, R any](m *Module, fn func(ctx context.Context, q Q) (R, error)) {
	var zero Q
	m.queries[zero.MessageName()] = func(ctx context.Context, body []byte) ([]byte, error) {
		var q Q
		if err := json.Unmarshal(body, &q); err != nil {
			return nil, errs.New(errs.Malformed, "decode %s: %w", zero.MessageName(), err)
		}
		r, err := fn(ctx, q)
		if err != nil {
			return nil, err
		}
		return json.Marshal(r)
	}
}

// OnRequest binds a command that is answered at once; message.Request is its caller. A reply with personal data says whose
// (message.Personal), so that it is erased with the user.
func OnRequest[Q message.Query, R any](m *Module, fn func(ctx context.Context, w *unit.Work, q Q) (R, error)) {
	var zero Q
	m.requests[zero.MessageName()] = func(ctx context.Context, w *unit.Work, body []byte) (reply []byte, subject string, err error) {
		var q Q
		if err := json.Unmarshal(body, &q); err != nil {
			return nil, "", errs.New(errs.Malformed, "decode %s: %w", zero.MessageName(), err)
		}
		r, err := fn(ctx, w, q)
		if err != nil {
			return nil, "", err
		}
		if p, ok := any(r).(message.Personal); ok {
			subject = p.PersonalSubject()
		}
		reply, err = json.Marshal(r)
		return reply, subject, err
	}
}

// OnTimer binds a one-shot timer, set by Work.Schedule. Fields of its payload that are tagged `personal:"true"` are empty when
// the user was erased.
func OnTimer[P any](m *Module, name string, fn func(ctx context.Context, w *unit.Work, key string, p P) error) {
	m.payloads[name] = reflect.TypeFor[P]()
	m.timers[name] = func(ctx context.Context, w *unit.Work, key string, body []byte) error {
		var p P
		if err := json.Unmarshal(body, &p); err != nil {
			return errs.New(errs.Malformed, "decode timer %s: %w", name, err)
		}
		return fn(ctx, w, key, p)
	}
}

// OnEffect binds work outside the store, asked for by Work.Effect: the second of the three steps of an external
// effect (commit the intent, call with a stable id, commit the outcome). It may run again after a crash, so the
// other side must know the id; key is a good one. An error is tried again with backoff. Fields of its payload that are tagged
// `personal:"true"` are empty if it was given up, its user was erased and its dead letter is replayed: what was done
// before must then be found out by the id.
func OnEffect[P any](m *Module, name string, fn func(ctx context.Context, key string, p P) error) {
	m.payloads[name] = reflect.TypeFor[P]()
	m.effects[name] = func(ctx context.Context, key string, body []byte) error {
		var p P
		if err := json.Unmarshal(body, &p); err != nil {
			return errs.New(errs.Malformed, "decode effect %s: %w", name, err)
		}
		return fn(ctx, key, p)
	}
}

// OnSchedule binds recurring work.
func OnSchedule(m *Module, name string, fn ScheduleHandler) { m.schedules[name] = fn }

// Check says what is declared but not bound, or bound but not declared.
func (m *Module) Check() error {
	var wrong []string
	note := func(format string, args ...any) { wrong = append(wrong, fmt.Sprintf(format, args...)) }
	routes := map[string]bool{}
	for _, r := range m.Routes {
		if routes[r.ID] {
			note("route %s is declared twice", r.ID)
		}
		routes[r.ID] = true
		if m.mounts[r.ID] == nil {
			note("route %s has no handler", r.ID)
		}
	}
	for id := range m.mounts {
		if !routes[id] {
			note("handler for unknown route %s", id)
		}
	}
	handlers := map[string]bool{CommandHandler: true}
	for _, s := range m.Subscriptions {
		if handlers[s.Handler] {
			note("handler %s is declared twice", s.Handler)
		}
		handlers[s.Handler] = true
		if m.messages[s.Handler] == nil {
			note("subscription %s has no handler", s.Handler)
		}
	}
	for h := range m.messages {
		if !handlers[h] {
			note("handler %s has no subscription", h)
		}
	}
	for _, c := range m.Contract.Commands {
		if m.messages[CommandHandler][c.MessageName()] == nil {
			note("command %s has no handler", c.MessageName())
		}
	}
	for _, x := range m.Contract.Queries {
		if n := x.Query.MessageName(); m.queries[n] == nil && m.requests[n] == nil {
			note("query %s has no handler", n)
		}
	}
	check(note, "timer", m.Timers, m.timers)
	check(note, "effect", m.Effects, m.effects)
	names := make([]string, len(m.Schedules))
	for i, s := range m.Schedules {
		names[i] = s.Name
	}
	check(note, "schedule", names, m.schedules)
	if len(wrong) == 0 {
		return nil
	}
	sort.Strings(wrong)
	return fmt.Errorf("module %s: %v", m.Name, wrong)
}

func check[H any](note func(string, ...any), what string, declared []string, bound map[string]H) {
	known := map[string]bool{}
	for _, n := range declared {
		known[n] = true
		if _, ok := bound[n]; !ok {
			note("%s %s has no handler", what, n)
		}
	}
	for n := range bound {
		if !known[n] {
			note("handler for unknown %s %s", what, n)
		}
	}
}

// Register mounts the module's routes.
func (m *Module) Register(api huma.API, operation func(Route) huma.Operation) {
	for _, r := range m.Routes {
		m.mounts[r.ID](api, operation(r))
	}
}

// Start runs what OnStart added.
func (m *Module) Start(ctx context.Context) error {
	for _, fn := range m.start {
		if err := fn(ctx); err != nil {
			return fmt.Errorf("start %s: %w", m.Name, err)
		}
	}
	return nil
}

// MessageHandler is the function for a handler and a wire name; nil if there is none.
func (m *Module) MessageHandler(handler, name string) MessageHandler {
	if fn := m.messages[handler][name]; fn != nil {
		return fn
	}
	return m.messages[handler][""]
}

// Bound are the wire names that a handler has functions of its own for.
func (m *Module) Bound(handler string) []string {
	var names []string
	for n := range m.messages[handler] {
		if n != "" {
			names = append(names, n)
		}
	}
	sort.Strings(names)
	return names
}

// Query is the handler of a query; nil if there is none.
func (m *Module) Query(name string) QueryHandler { return m.queries[name] }

// Request is the handler of a command that is answered at once; nil if there is none.
func (m *Module) Request(name string) RequestHandler { return m.requests[name] }

// Timer is the handler of a one-shot timer; nil if there is none.
func (m *Module) Timer(name string) TimerHandler { return m.timers[name] }

// Effect is the handler of work outside the store; nil if there is none.
func (m *Module) Effect(name string) EffectHandler { return m.effects[name] }

// Payloads are the types of what timers and effects are given, by name.
func (m *Module) Payloads() map[string]reflect.Type { return m.payloads }

// ScheduleHandler is the handler of recurring work; nil if there is none.
func (m *Module) ScheduleHandler(name string) ScheduleHandler { return m.schedules[name] }

// StoreOptions is what the module's store must know of the descriptor.
func (d Descriptor) StoreOptions() unit.Options {
	return unit.Options{Module: d.Name, Announces: d.Contract.Names(), Sends: d.Sends, Timers: d.Timers, Effects: d.Effects}
}
