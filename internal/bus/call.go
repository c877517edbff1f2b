package bus

import (
	"context"
	"fmt"
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/banyan-go/banyan/internal/database"
	"github.com/banyan-go/banyan/internal/errs"
	"github.com/banyan-go/banyan/internal/message"
	"github.com/banyan-go/banyan/internal/module"
	"github.com/banyan-go/banyan/internal/telemetry"
	"github.com/banyan-go/banyan/internal/unit"
)

// Call sends a query, or a command with a command id, to the module in its name. Payload and errors cross the
// boundary encoded, as they would to another process. It is refused inside a unit of work, which may run again and
// must not wait.
func (b *Bus) Call(ctx context.Context, name, commandID string, body []byte) (reply []byte, err error) {
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
	p := b.parts[target]
	if p == nil {
		return nil, errs.New(errs.Unavailable, "module %s is not here", target)
	}
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
	reply, err = b.answer(fctx, p, name, commandID, body)
	if err != nil {
		span.RecordError(err)
		if ctx.Err() != nil {
			return nil, errs.New(errs.Timeout, "%s was not answered in time", name)
		}
		if errs.KindOf(err) == errs.Internal {
			b.opts.Log.ErrorContext(fctx, "request failed", "module", target, "message", name, "error", err)
		}
		return nil, errs.Decode(errs.Encode(err))
	}
	return append([]byte(nil), reply...), nil
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
