// Package moduletest runs one real module on the real platform, with fake neighbours and a simulated clock.
package moduletest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humaecho"
	"github.com/labstack/echo/v4"

	"github.com/banyan-go/banyan/internal/bus"
	"github.com/banyan-go/banyan/internal/clock"
	"github.com/banyan-go/banyan/internal/database"
	"github.com/banyan-go/banyan/internal/databasetest"
	"github.com/banyan-go/banyan/internal/errs"
	"github.com/banyan-go/banyan/internal/identity"
	"github.com/banyan-go/banyan/internal/message"
	"github.com/banyan-go/banyan/internal/module"
	"github.com/banyan-go/banyan/internal/rest"
	"github.com/banyan-go/banyan/internal/telemetry"
	"github.com/banyan-go/banyan/internal/unit"
)

// Callers of requests.
var (
	Nobody = identity.Identity{}
	Staff  = identity.Identity{Subject: "01900000-0000-7000-8000-0000000000a1", Role: identity.Staff, Session: "s-staff"}
	Admin  = identity.Identity{Subject: "01900000-0000-7000-8000-0000000000a2", Role: identity.Admin, Session: "s-admin"}
)

// Customer is a customer with an id.
func Customer(id string) identity.Identity {
	return identity.Identity{Subject: id, Role: identity.Customer, Session: "s-" + id}
}

// Start is where the simulated clock begins.
var Start = time.Date(2026, 3, 1, 9, 0, 0, 0, time.UTC)

// Opener opens a module under test.
type Opener func(t testing.TB, build func(d module.Deps) *module.Module) *Harness

// Each runs fn on SQLite and on PostgreSQL.
func Each(t *testing.T, fn func(t *testing.T, open Opener)) {
	t.Helper()
	t.Run("sqlite", func(t *testing.T) {
		t.Parallel()
		fn(t, func(t testing.TB, build func(module.Deps) *module.Module) *Harness {
			return start(t, databasetest.SQLite(t), build)
		})
	})
	t.Run("postgres", func(t *testing.T) {
		t.Parallel()
		fn(t, func(t testing.TB, build func(module.Deps) *module.Module) *Harness {
			return start(t, databasetest.Postgres(t, build(module.Deps{}).Name), build)
		})
	})
}

// NewSQLite opens a module on SQLite alone.
func NewSQLite(t testing.TB, build func(d module.Deps) *module.Module) *Harness {
	t.Helper()
	return start(t, databasetest.SQLite(t), build)
}

// Harness is a running module.
type Harness struct {
	Store  *unit.Store
	Clock  *clock.Simulated
	Module *module.Module
	Files  string // the module's folder

	t      testing.TB
	engine databasetest.Engine
	build  func(module.Deps) *module.Module
	bus    *bus.Bus
	stores *database.Stores
	echo   *echo.Echo
	stop   func()

	mu        sync.Mutex
	answers   map[string]func(body []byte) (any, error)
	sequences map[string]int64
}

func start(t testing.TB, e databasetest.Engine, build func(module.Deps) *module.Module) *Harness {
	t.Helper()
	h := &Harness{t: t, engine: e, build: build, Clock: clock.NewSimulated(Start), Files: t.TempDir(),
		answers: map[string]func([]byte) (any, error){}, sequences: map[string]int64{}}
	h.open()
	t.Cleanup(func() { h.stop() })
	return h
}

// foreign is an event of another module, of which the test knows the name.
type foreign string

func (f foreign) MessageName() string { return string(f) }
func (foreign) MessageKey() string    { return "" }

func (h *Harness) open() {
	h.t.Helper()
	ctx := context.Background()
	log := slog.New(slog.DiscardHandler)
	if testing.Verbose() {
		log = slog.New(slog.NewTextHandler(h.t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn}))
	}
	d := h.build(module.Deps{}).Descriptor
	stores, err := database.Open(h.engine.Config, h.engine.Dir, 1, log)
	if err != nil {
		h.t.Fatal(err)
	}
	db, err := stores.Store(ctx, d.Name)
	if err != nil {
		h.t.Fatal(err)
	}
	o := d.StoreOptions()
	o.Clock, o.Log, o.Personal = h.Clock, log, message.NewRedactor(d.Contract)
	h.Store, h.stores = unit.New(db, o), stores
	h.Module = h.build(module.Deps{Store: h.Store, Caller: caller{h}, Clock: h.Clock, Log: log, Files: h.Files})
	var others module.Descriptor
	for _, s := range d.Subscriptions {
		for _, e := range append(h.Module.Bound(s.Handler), s.Events...) {
			if !strings.HasSuffix(e, "*") {
				others.Contract.Events = append(others.Contract.Events, foreign(e))
			}
		}
	}
	h.bus = bus.New(bus.DefaultConfig(), bus.Options{Foreign: []module.Descriptor{others}, Log: log})
	if err := h.bus.Add(h.Module, h.Store); err != nil {
		h.t.Fatal(err)
	}
	if err := h.bus.Open(ctx); err != nil {
		h.t.Fatal(err)
	}
	h.echo = rest.NewEcho(log)
	h.Module.Register(rest.NewAPI("test", "test", h.echo, log), func(r module.Route) huma.Operation {
		op := rest.Operation(d.Name, r)
		op.Middlewares = append(op.Middlewares, guard(r.Auth))
		return op
	})
	running, cancel := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- h.bus.Run(running) }()
	if err := h.Module.Start(ctx); err != nil {
		h.t.Fatal(err)
	}
	for {
		if _, ready := h.bus.Status(ctx); ready {
			break
		}
		<-time.After(time.Millisecond)
	}
	h.stop = func() {
		cancel()
		if err := <-done; err != nil {
			h.t.Errorf("bus: %v", err)
		}
		if err := stores.Close(); err != nil {
			h.t.Errorf("close: %v", err)
		}
	}
}

// Restart closes the module and opens it again on the same store.
func (h *Harness) Restart() {
	h.t.Helper()
	h.stop()
	h.open()
}

type caller struct{ h *Harness }

func (c caller) Call(ctx context.Context, name, id string, body []byte) ([]byte, error) {
	if unit.Inside(ctx) {
		return nil, errs.New(errs.Internal, "%s was asked inside a unit of work", name)
	}
	c.h.mu.Lock()
	fn := c.h.answers[name]
	c.h.mu.Unlock()
	if fn == nil {
		return nil, errs.New(errs.Unavailable, "nobody answers %s", name)
	}
	reply, err := fn(body)
	if err != nil {
		return nil, err
	}
	return json.Marshal(reply)
}

// Answer fakes a neighbour's answer to a query.
func (h *Harness) Answer(name string, fn func(body []byte) (any, error)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.answers[name] = fn
}

// Ask asks the module one of its own queries.
func (h *Harness) Ask(t testing.TB, q message.Query, reply any) {
	t.Helper()
	body, err := json.Marshal(q)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := h.bus.Call(context.Background(), q.MessageName(), "", body)
	if err != nil {
		t.Fatalf("%s: %v", q.MessageName(), err)
	}
	if err := json.Unmarshal(answer, reply); err != nil {
		t.Fatal(err)
	}
}

// Envelope makes a message of a payload, as its module would send it next.
func (h *Harness) Envelope(t testing.TB, p message.Event) message.Message {
	t.Helper()
	body, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	source := message.Module(p.MessageName())
	h.mu.Lock()
	defer h.mu.Unlock()
	h.sequences[source+"/"+p.MessageKey()]++
	m := message.Message{ID: message.NewID(), Name: p.MessageName(), Source: source, Key: p.MessageKey(),
		Sequence: h.sequences[source+"/"+p.MessageKey()], Time: h.Clock.Now(), Payload: body}
	m.CorrelationID = m.ID
	if personal, ok := p.(message.Personal); ok {
		m.Subject = personal.PersonalSubject()
	}
	return m
}

// DeliverMessage delivers a message, perhaps again, and returns once the module has durably taken it.
func (h *Harness) DeliverMessage(t testing.TB, m message.Message) {
	t.Helper()
	if err := h.bus.Deliver(context.Background(), h.Module.Name, m); err != nil {
		t.Fatalf("deliver %s: %v", m.Name, err)
	}
}

// Deliver delivers events and commands as if their modules had sent them, and fails the test if one is not handled.
func (h *Harness) Deliver(t testing.TB, payloads ...message.Event) {
	t.Helper()
	for _, p := range payloads {
		m := h.Envelope(t, p)
		h.DeliverMessage(t, m)
		var failed []struct{ Error string }
		err := h.Store.Read(context.Background()).Raw("SELECT error FROM parked WHERE message_id = ? UNION SELECT reason FROM dead_letters WHERE message_id = ?", m.ID, m.ID).Scan(&failed).Error
		if err != nil {
			t.Fatal(err)
		}
		if len(failed) > 0 {
			t.Fatalf("deliver %s: %s", m.Name, failed[0].Error)
		}
	}
}

// DeadLetters are the module's dead letters.
func (h *Harness) DeadLetters() int {
	h.t.Helper()
	var n int
	if err := h.Store.Read(context.Background()).Raw("SELECT count(*) FROM dead_letters").Row().Scan(&n); err != nil {
		h.t.Fatal(err)
	}
	return n
}

// Announced are the messages with a name ("" for all) that the module has sent so far, in order.
func (h *Harness) Announced(name string) []message.Message {
	h.t.Helper()
	var rows []struct {
		MessageID, Name, Key, CorrelationID, CausationID, Subject string
		Sequence                                                  int64
		Payload                                                   []byte
	}
	err := h.Store.Read(context.Background()).Raw("SELECT message_id, name, key, correlation_id, causation_id, subject, sequence, payload FROM outbox WHERE name = ? OR ? = '' ORDER BY id", name, name).Scan(&rows).Error
	if err != nil {
		h.t.Fatal(err)
	}
	all := make([]message.Message, len(rows))
	for i, r := range rows {
		all[i] = message.Message{ID: r.MessageID, Name: r.Name, Key: r.Key, Sequence: r.Sequence, Source: h.Module.Name,
			CorrelationID: r.CorrelationID, CausationID: r.CausationID, Subject: r.Subject, Payload: r.Payload}
	}
	return all
}

// Decode reads a payload.
func Decode[P any](t testing.TB, m message.Message) P {
	t.Helper()
	var p P
	if err := json.Unmarshal(m.Payload, &p); err != nil {
		t.Fatal(err)
	}
	return p
}

// Settle waits until nothing is on its way and nothing is due.
func (h *Harness) Settle() {
	h.t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for {
		idle, err := h.bus.Idle(context.Background())
		if err == nil && idle {
			return
		}
		if time.Now().After(deadline) {
			h.t.Fatalf("the module does not settle (error: %v)", err)
		}
		<-time.After(2 * time.Millisecond)
	}
}

// Advance moves the clock and settles.
func (h *Harness) Advance(d time.Duration) {
	h.t.Helper()
	h.Settle()
	h.Clock.Advance(d)
	h.Settle()
}

// Response is the answer to a request.
type Response struct {
	Status int
	Header http.Header
	Body   []byte
}

// Into decodes the body; it fails the test if the status is not a success.
func (r Response) Into(t testing.TB, v any) Response {
	t.Helper()
	if r.Status >= 300 {
		t.Fatalf("status %d: %s", r.Status, r.Body)
	}
	if err := json.Unmarshal(r.Body, v); err != nil {
		t.Fatalf("body %s: %v", r.Body, err)
	}
	return r
}

// WantCursors checks that a list refuses cursors that are not its own, all lists in the same words. None of these is one of any.
func (h *Harness) WantCursors(t testing.TB, path string, as identity.Identity) {
	t.Helper()
	for _, cursor := range []string{"-1", ".", "/", "-5.a"} {
		r := h.Do("GET", path+"?cursor="+url.QueryEscape(cursor), as, nil)
		if r.Status != 422 || !strings.Contains(string(r.Body), "the cursor is not one of this list") {
			t.Errorf("%s with cursor %q: %d %s", path, cursor, r.Status, r.Body)
		}
	}
}

// Want fails the test if the status is another one.
func (r Response) Want(t testing.TB, status int) Response {
	t.Helper()
	if r.Status != status {
		t.Fatalf("status %d, want %d: %s", r.Status, status, r.Body)
	}
	return r
}

// guard refuses who may not use a route, as the gateway does: a handler never sees such a request.
func guard(least identity.Role) func(huma.Context, func(huma.Context)) {
	return func(c huma.Context, next func(huma.Context)) {
		if err := identity.Need(c.Context(), least); err != nil {
			p, retry := rest.NewProblem(c.Context(), err)
			rest.WriteProblem(humaecho.UnwrapV4(c).Response(), p, retry)
			return
		}
		next(c)
	}
}

// Do sends a request as the gateway would: it is refused without the identity that its route asks for. body is encoded as
// JSON (nil: none), header holds names and values in turn.
func (h *Harness) Do(method, path string, as identity.Identity, body any, header ...string) Response {
	h.t.Helper()
	req := h.Request(method, path, as, body, header...)
	rec := httptest.NewRecorder()
	h.echo.ServeHTTP(rec, req)
	out, err := io.ReadAll(rec.Result().Body)
	if err != nil {
		h.t.Fatal(err)
	}
	return Response{Status: rec.Code, Header: rec.Header(), Body: out}
}

// Handler is what Do sends requests to, for streams.
func (h *Harness) Handler() http.Handler { return h.echo }

// Request makes a request as the gateway would pass it on.
func (h *Harness) Request(method, path string, as identity.Identity, body any, header ...string) *http.Request {
	h.t.Helper()
	var encoded []byte
	if body != nil {
		var err error
		if encoded, err = json.Marshal(body); err != nil {
			h.t.Fatal(err)
		}
	}
	req := httptest.NewRequest(method, path, bytes.NewReader(encoded))
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	ctx := identity.With(req.Context(), as)
	ctx = telemetry.WithCorrelation(ctx, "test-"+message.NewID())
	ctx = rest.WithRequest(ctx, &rest.Request{
		Method: method, Route: req.URL.Path, Path: req.URL.Path, Query: req.URL.RawQuery, Subject: as.Subject,
		IdempotencyKey: req.Header.Get("Idempotency-Key"), BodyHash: sha256.Sum256(encoded), ClientIP: clientIP(req),
	})
	return req.WithContext(ctx)
}

// clientIP lets a test choose its address with the header Test-Client-IP.
func clientIP(r *http.Request) string {
	if ip := r.Header.Get("Test-Client-IP"); ip != "" {
		return ip
	}
	return "192.0.2.1"
}

// String names the engine.
func (h *Harness) String() string { return fmt.Sprintf("%s on %s", h.Module.Name, h.engine.Dialect) }
