package telemetry

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"strings"

	"go.opentelemetry.io/otel/trace"

	"github.com/banyan-go/banyan/internal/secret"
)

// LogConfig says how the process logs.
type LogConfig struct {
	Level  string `mapstructure:"level"`  // debug, info, warn or error
	Format string `mapstructure:"format"` // json or text
}

// DefaultLogConfig is JSON from info on.
func DefaultLogConfig() LogConfig { return LogConfig{Level: "info", Format: "json"} }

var levels = map[string]slog.Level{"debug": slog.LevelDebug, "info": slog.LevelInfo, "warn": slog.LevelWarn, "error": slog.LevelError}

// Validate names the wrong key and the way out.
func (c LogConfig) Validate() error {
	if _, ok := levels[c.Level]; !ok {
		return fmt.Errorf("log.level: %q is not debug, info, warn or error", c.Level)
	}
	if c.Format != "json" && c.Format != "text" {
		return fmt.Errorf("log.format: %q is not json or text", c.Format)
	}
	return nil
}

// NewLogger logs to w. Each record carries the ids that its context ties it to, at the top level: correlation_id,
// trace_id, span_id. Attributes that are named as secrets are masked.
func NewLogger(w io.Writer, c LogConfig) *slog.Logger {
	options := &slog.HandlerOptions{Level: levels[c.Level], ReplaceAttr: mask}
	if c.Format == "text" {
		return slog.New(handler{inner: slog.NewTextHandler(w, options)})
	}
	return slog.New(handler{inner: slog.NewJSONHandler(w, options)})
}

// mask is the second line of defence: secrets have the type secret.Text, but a library may log a header.
func mask(_ []string, a slog.Attr) slog.Attr {
	switch strings.ToLower(a.Key) {
	case "password", "secret", "token", "authorization", "cookie", "set-cookie", "refresh_token", "access_token", "api_key":
		if a.Value.Kind() == slog.KindString && a.Value.String() != "" || a.Value.Kind() == slog.KindAny {
			return slog.String(a.Key, secret.Mask)
		}
	}
	return a
}

// handler adds the ids of the context. It keeps opened groups to itself, so that the ids stay out of them.
type handler struct {
	inner  slog.Handler
	groups []group
}

type group struct {
	name  string
	attrs []slog.Attr
}

func (h handler) Enabled(ctx context.Context, l slog.Level) bool { return h.inner.Enabled(ctx, l) }

func (h handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	if len(h.groups) == 0 {
		return handler{inner: h.inner.WithAttrs(attrs)}
	}
	groups := append([]group(nil), h.groups...)
	last := &groups[len(groups)-1]
	last.attrs = append(append([]slog.Attr(nil), last.attrs...), attrs...)
	return handler{inner: h.inner, groups: groups}
}

func (h handler) WithGroup(name string) slog.Handler {
	if name == "" {
		return h
	}
	return handler{inner: h.inner, groups: append(append([]group(nil), h.groups...), group{name: name})}
}

func (h handler) Handle(ctx context.Context, r slog.Record) error {
	if len(h.groups) > 0 {
		r = h.nest(r)
	} else {
		r = r.Clone()
	}
	if id := Correlation(ctx); id != "" {
		r.AddAttrs(slog.String("correlation_id", id))
	}
	if span := trace.SpanContextFromContext(ctx); span.IsValid() {
		r.AddAttrs(slog.String("trace_id", span.TraceID().String()), slog.String("span_id", span.SpanID().String()))
	}
	return h.inner.Handle(ctx, r)
}

// nest puts the attributes of the record into the opened groups.
func (h handler) nest(r slog.Record) slog.Record {
	attrs := make([]slog.Attr, 0, r.NumAttrs())
	r.Attrs(func(a slog.Attr) bool {
		attrs = append(attrs, a)
		return true
	})
	for i := len(h.groups) - 1; i >= 0; i-- {
		g := h.groups[i]
		within := append(append([]slog.Attr(nil), g.attrs...), attrs...)
		attrs = []slog.Attr{{Key: g.name, Value: slog.GroupValue(within...)}}
	}
	nested := slog.NewRecord(r.Time, r.Level, r.Message, r.PC)
	nested.AddAttrs(attrs...)
	return nested
}
