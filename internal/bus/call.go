package bus

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"github.com/banyan-go/banyan/internal/bus/rabbit"
	"github.com/banyan-go/banyan/internal/database"
	"github.com/banyan-go/banyan/internal/errs"
	"github.com/banyan-go/banyan/internal/message"
	"github.com/banyan-go/banyan/internal/module"
	"github.com/banyan-go/banyan/internal/ownership"
	"github.com/banyan-go/banyan/internal/telemetry"
	"github.com/banyan-go/banyan/internal/unit"
)

// Call sends a query, or a command with a command id, to the module in its name. Payload and errors cross the
// boundary encoded, as they would to another process. It is refused inside a unit of work, which may run again and
// must not wait.
func (b *Bus) Call(ctx context.Context, name, commandID string, body []byte) ([]byte, error) {
	return b.call(ctx, "", name, commandID, body)
}

// CallerOf is Call for one module, whose questions are counted as its own.
func (b *Bus) CallerOf(module string) message.Caller { return caller{b, module} }

type caller struct {
	bus    *Bus
	module string
}

// Call asks, and notes how long it took.
func (c caller) Call(ctx context.Context, name, commandID string, body []byte) ([]byte, error) {
	began := time.Now()
	defer func() { c.bus.opts.Metrics.Calls.WithLabelValues(c.module, name).Observe(time.Since(began).Seconds()) }()
	return c.bus.call(ctx, c.module, name, commandID, body)
}

func (b *Bus) call(ctx context.Context, from, name, commandID string, body []byte) (reply []byte, err error) {
	if unit.Inside(ctx) {
		return nil, errs.New(errs.Internal, "%s was asked inside a unit of work", name)
	}
	target := message.Module(name)
	defer func() {
		outcome := "ok"
		if err != nil {
			outcome = string(errs.KindOf(err))
		}
		b.opts.Metrics.Asked.WithLabelValues(target, name, outcome).Inc()
	}()
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, b.cfg.RequestTimeout)
		defer cancel()
	}
	if ctx.Err() != nil {
		return nil, errs.New(errs.Timeout, "the deadline of %s has passed", name)
	}
	// The other side sees the deadline, the correlation and the trace, and nothing else of the caller's context.
	far := bare{ctx}
	fctx := trace.ContextWithSpanContext(telemetry.WithCorrelation(far, telemetry.Correlation(ctx)), trace.SpanContextFromContext(ctx))
	fctx, span := b.opts.Tracer.Start(fctx, "ask "+name, trace.WithSpanKind(trace.SpanKindServer))
	defer span.End()
	reply, err = b.ask(fctx, from, target, name, commandID, body)
	if err != nil {
		span.RecordError(err)
		if ctx.Err() != nil && !errs.Is(err, errs.Unavailable) {
			return nil, errs.New(errs.Timeout, "%s was not answered in time", name)
		}
		if errs.KindOf(err) == errs.Internal {
			b.opts.Log.ErrorContext(fctx, "request failed", "module", target, "message", name, "error", err)
		}
		return nil, errs.Decode(errs.Encode(err))
	}
	return append([]byte(nil), reply...), nil
}

// ask has a request answered where its module's owner is. While that changes, and while nobody can be reached for a moment (the owner
// restarts), it is held, and asked again with the same id: a query changes nothing, and a command finds its first reply. An outage of the
// broker only delays: it is waited out while the caller has time, and the moment of the owner begins when it is over. What the owner
// itself answers stands, whatever it is.
func (b *Bus) ask(ctx context.Context, from, target, name, commandID string, body []byte) ([]byte, error) {
	patience := time.Now().Add(b.cfg.RequestTimeout)
	var held error // why, the last time: a better answer than that the time is over
	for delay := askAgain; ; delay = min(2*delay, 100*time.Millisecond) {
		if b.here(target) {
			return b.answerHere(ctx, Crossing{from, target, name}, commandID, body)
		}
		if b.opts.Broker == nil {
			return nil, errs.New(errs.Unavailable, "module %s is not here, and there is no broker to reach it by", target)
		}
		r := b.look(target)
		if r.Step != ownership.Closing {
			reply, err := b.opts.Broker.Call(ctx, target, rabbit.Request{Name: name, CommandID: commandID, Headers: requestHeaders(ctx), Body: body})
			if held != nil && errors.Is(err, rabbit.ErrUnsent) {
				return nil, held
			}
			var answered *rabbit.Answered
			var away *rabbit.Away
			stands := errors.As(err, &answered) && !isElsewhere(err)
			if errors.As(err, &away) {
				patience = time.Now().Add(b.cfg.RequestTimeout)
			}
			if err == nil || stands || !errs.Is(err, errs.Unavailable) || time.Now().After(patience) && !b.moving(r, err) || ends(ctx) {
				return reply, err
			}
			held = err
			b.opts.Log.DebugContext(ctx, "request held", "module", target, "message", name, "error", err)
		}
		moved, cancel := context.WithTimeout(ctx, delay)
		b.await(moved, func() bool { return b.look(target).Version == r.Version })
		cancel()
		if ctx.Err() != nil {
			return nil, cmp.Or(held, error(errs.New(errs.Timeout, "%s was not answered in time", name)))
		}
	}
}

const (
	askAgain = 5 * time.Millisecond
	lastWord = 100 * time.Millisecond // what is the matter is a better answer than that the time is over
)

// ends says whether there is no time left to ask again.
func ends(ctx context.Context) bool {
	until, limited := ctx.Deadline()
	return limited && time.Until(until) < lastWord
}

// errElsewhere is the answer of a process that owns the module no more, or not yet.
var errElsewhere = errs.New(errs.Unavailable, "the owner of the module is another process")

func isElsewhere(err error) bool { return strings.Contains(err.Error(), errElsewhere.Message) }

// moving says whether a request that nobody took finds its module elsewhere.
func (b *Bus) moving(asked ownership.Record, err error) bool {
	now := b.look(asked.Module)
	return now.Version != asked.Version || now.Step != ownership.Settled || isElsewhere(err)
}

func requestHeaders(ctx context.Context) map[string]string {
	h := map[string]string{headerCorrelation: telemetry.Correlation(ctx)}
	propagation.TraceContext{}.Inject(ctx, propagation.MapCarrier(h))
	return h
}

// answerOthers answers what other processes ask a module until ctx ends.
func (b *Bus) answerOthers(ctx context.Context, p *part) {
	for ctx.Err() == nil {
		err := b.opts.Broker.Serve(ctx, p.module.Name, b.cfg.Workers, func(ctx context.Context, r rabbit.Request) ([]byte, error) {
			if !b.here(p.module.Name) {
				return nil, errElsewhere
			}
			ctx = propagation.TraceContext{}.Extract(ctx, propagation.MapCarrier(r.Headers))
			ctx = telemetry.WithCorrelation(ctx, r.Headers[headerCorrelation])
			ctx, span := b.opts.Tracer.Start(ctx, "answer "+r.Name, trace.WithSpanKind(trace.SpanKindServer))
			defer span.End()
			reply, err := b.answer(ctx, p, r.Name, r.CommandID, r.Body)
			if err != nil {
				span.RecordError(err)
			}
			if errs.KindOf(err) == errs.Internal {
				b.opts.Log.ErrorContext(ctx, "request failed", "module", p.module.Name, "message", r.Name, "error", err)
			}
			return reply, err
		})
		if ctx.Err() == nil {
			b.opts.Log.Error("requests of others are not answered, will try again", "module", p.module.Name, "error", err)
			pause(ctx, time.Second)
		}
	}
}

func (b *Bus) answer(ctx context.Context, p *part, name, commandID string, body []byte) (reply []byte, err error) {
	if q := p.module.Query(name); q != nil {
		defer func() {
			if r := recover(); r != nil {
				err = fmt.Errorf("query %s panicked: %v", name, r)
			}
		}()
		return q(ctx, append([]byte(nil), body...))
	}
	fn := p.module.Request(name)
	if fn == nil {
		return nil, errs.New(errs.NotFound, "module %s does not answer %s", p.module.Name, name)
	}
	if commandID == "" {
		return nil, errs.New(errs.Invalid, "%s changes state: it needs a command id", name)
	}
	return b.request(ctx, p, fn, name, commandID, body)
}

// request runs a command once per id and keeps its reply with the inbox row; a repeat gets the first reply, or errs.Gone if that
// was erased with its user.
func (b *Bus) request(ctx context.Context, p *part, fn module.RequestHandler, name, id string, body []byte) (reply []byte, err error) {
	handler := "request:" + name
	cause := &message.Message{ID: id, Name: name, Key: id, CorrelationID: telemetry.Correlation(ctx)}
	err = p.store.Handle(ctx, cause, handler, func(ctx context.Context, w *unit.Work) error {
		reply = nil
		claimed := w.DB.Exec("INSERT INTO inbox (handler, message_id, handled_at) VALUES (?, ?, ?) ON CONFLICT (handler, message_id) DO NOTHING", handler, id, w.Now())
		if claimed.Error != nil {
			return claimed.Error
		}
		if claimed.RowsAffected == 0 {
			err := w.DB.Raw("SELECT reply FROM inbox WHERE handler = ? AND message_id = ?", handler, id).Row().Scan(&reply)
			if err == nil && reply == nil {
				return errs.New(errs.Gone, "the reply to this command was erased")
			}
			return err
		}
		var subject string
		var err error
		if reply, subject, err = fn(ctx, w, append([]byte(nil), body...)); err != nil {
			return err
		}
		erased, err := w.Erased(subject)
		if err != nil {
			return err
		}
		kept := reply
		if erased {
			kept = nil
		}
		return w.DB.Exec("UPDATE inbox SET reply = ?, subject = ? WHERE handler = ? AND message_id = ?", kept, subject, handler, id).Error
	}, database.Repeatable)
	return reply, err
}

// bare keeps deadline and cancellation of a context and drops its values.
type bare struct{ ctx context.Context }

func (b bare) Deadline() (time.Time, bool) { return b.ctx.Deadline() }
func (b bare) Done() <-chan struct{}       { return b.ctx.Done() }
func (b bare) Err() error                  { return b.ctx.Err() }
func (b bare) Value(any) any               { return nil }
