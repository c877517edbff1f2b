package telemetry

import (
	"context"
	"sort"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
)

// Span is one finished step of a trace.
type Span struct {
	Name       string         `json:"name"`
	TraceID    string         `json:"trace_id"`
	SpanID     string         `json:"span_id"`
	ParentID   string         `json:"parent_id,omitempty"`
	Kind       string         `json:"kind"`
	Start      time.Time      `json:"start"`
	Duration   time.Duration  `json:"duration_ns"`
	Attributes map[string]any `json:"attributes,omitempty"`
	Status     string         `json:"status"` // unset, ok or error
	Message    string         `json:"message,omitempty"`
}

// ring keeps the last spans. Ending a span costs one atomic add and one store; reading pays for the rest.
type ring struct {
	next  atomic.Uint64
	spans []atomic.Pointer[kept]
}

type kept struct {
	number uint64
	span   sdktrace.ReadOnlySpan
}

// OnStart does nothing: only finished spans are kept.
func (*ring) OnStart(context.Context, sdktrace.ReadWriteSpan) {}

// OnEnd keeps the span in place of the oldest.
func (r *ring) OnEnd(s sdktrace.ReadOnlySpan) {
	n := r.next.Add(1)
	r.spans[n%uint64(len(r.spans))].Store(&kept{number: n, span: s})
}

// Shutdown keeps what there is readable.
func (*ring) Shutdown(context.Context) error { return nil }

// ForceFlush has nothing to do.
func (*ring) ForceFlush(context.Context) error { return nil }

func (r *ring) recent() []Span {
	all := make([]*kept, 0, len(r.spans))
	for i := range r.spans {
		if k := r.spans[i].Load(); k != nil {
			all = append(all, k)
		}
	}
	sort.Slice(all, func(i, j int) bool { return all[i].number > all[j].number })
	spans := make([]Span, len(all))
	for i, k := range all {
		spans[i] = convert(k.span)
	}
	return spans
}

func convert(s sdktrace.ReadOnlySpan) Span {
	span := Span{
		Name: s.Name(), TraceID: s.SpanContext().TraceID().String(), SpanID: s.SpanContext().SpanID().String(), Kind: s.SpanKind().String(),
		Start: s.StartTime().UTC(), Duration: s.EndTime().Sub(s.StartTime()), Status: "unset", Message: s.Status().Description,
	}
	if s.Parent().SpanID().IsValid() {
		span.ParentID = s.Parent().SpanID().String()
	}
	switch s.Status().Code {
	case codes.Ok:
		span.Status = "ok"
	case codes.Error:
		span.Status = "error"
	}
	if attributes := s.Attributes(); len(attributes) > 0 {
		span.Attributes = make(map[string]any, len(attributes))
		for _, a := range attributes {
			span.Attributes[string(a.Key)] = a.Value.AsInterface()
		}
	}
	return span
}
