package telemetry_test

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.opentelemetry.io/otel/trace"

	"github.com/banyan-go/banyan/internal/secret"
	"github.com/banyan-go/banyan/internal/telemetry"
)

func spanContext() trace.SpanContext {
	return trace.NewSpanContext(trace.SpanContextConfig{TraceID: trace.TraceID{1}, SpanID: trace.SpanID{2}, TraceFlags: trace.FlagsSampled})
}

func TestLoggerAddsTheIDsOfTheContext(t *testing.T) {
	t.Parallel()
	tied := trace.ContextWithSpanContext(telemetry.WithCorrelation(t.Context(), "c-1"), spanContext())
	ids := map[string]any{
		"correlation_id": "c-1", "trace_id": "01000000000000000000000000000000", "span_id": "0200000000000000",
	}
	with := func(m map[string]any) map[string]any {
		for k, v := range ids {
			m[k] = v
		}
		return m
	}
	tests := []struct {
		name string
		log  func(*slog.Logger)
		want map[string]any
	}{
		{"nothing in the context", func(l *slog.Logger) { l.InfoContext(t.Context(), "x", "a", 1) }, map[string]any{"a": 1.0}},
		{"ids", func(l *slog.Logger) { l.InfoContext(tied, "x", "a", 1) }, with(map[string]any{"a": 1.0})},
		{"with attributes", func(l *slog.Logger) { l.With("b", 2).InfoContext(tied, "x", "a", 1) }, with(map[string]any{"a": 1.0, "b": 2.0})},
		{"ids stay out of groups", func(l *slog.Logger) {
			l.With("b", 2).WithGroup("g").With("c", 3).WithGroup("h").InfoContext(tied, "x", "a", 1)
		}, with(map[string]any{"b": 2.0, "g": map[string]any{"c": 3.0, "h": map[string]any{"a": 1.0}}})},
		{"loggers made of one do not meet", func(l *slog.Logger) {
			g := l.WithGroup("g")
			_ = g.With("other", 1)
			g.With("c", 3).InfoContext(tied, "x")
		}, with(map[string]any{"g": map[string]any{"c": 3.0}})},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			var out bytes.Buffer
			test.log(telemetry.NewLogger(&out, telemetry.DefaultLogConfig()))
			var got map[string]any
			if err := json.Unmarshal(out.Bytes(), &got); err != nil {
				t.Fatalf("%v in %s", err, out.String())
			}
			for _, k := range []string{"time", "level", "msg"} {
				delete(got, k)
			}
			if diff := cmp.Diff(got, test.want); diff != "" {
				t.Errorf("(-got +want)\n%s", diff)
			}
		})
	}
}

func TestLoggerMasksSecrets(t *testing.T) {
	t.Parallel()
	for _, format := range []string{"json", "text"} {
		var out bytes.Buffer
		log := telemetry.NewLogger(&out, telemetry.LogConfig{Level: "debug", Format: format})
		log.Debug("x", "password", "hunter2", "Authorization", "Bearer hunter2", "dsn", secret.Text("hunter2"), slog.Group("request", "token", "hunter2"))
		if strings.Contains(out.String(), "hunter2") {
			t.Errorf("%s shows a secret: %s", format, out.String())
		}
		if !strings.Contains(out.String(), secret.Mask) {
			t.Errorf("%s has no mask: %s", format, out.String())
		}
	}
}

func TestLoggerLevel(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	log := telemetry.NewLogger(&out, telemetry.LogConfig{Level: "warn", Format: "json"})
	log.Info("hidden")
	if out.Len() != 0 {
		t.Errorf("info shows at warn: %s", out.String())
	}
	if !log.Enabled(context.Background(), slog.LevelError) {
		t.Error("error is not enabled at warn")
	}
}

func TestLogConfigNamesTheKey(t *testing.T) {
	t.Parallel()
	tests := []struct {
		config telemetry.LogConfig
		want   string
	}{
		{telemetry.LogConfig{Level: "loud", Format: "json"}, `log.level: "loud" is not debug, info, warn or error`},
		{telemetry.LogConfig{Level: "info", Format: "xml"}, `log.format: "xml" is not json or text`},
	}
	for _, test := range tests {
		if err := test.config.Validate(); err == nil || err.Error() != test.want {
			t.Errorf("got %v, want %s", err, test.want)
		}
	}
	if err := telemetry.DefaultLogConfig().Validate(); err != nil {
		t.Error(err)
	}
}
