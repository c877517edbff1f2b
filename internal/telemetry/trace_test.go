package telemetry_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"
	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"google.golang.org/protobuf/proto"

	"github.com/banyan-go/banyan/internal/telemetry"
)

// receiver takes OTLP over HTTP as a collector does.
type receiver struct {
	*httptest.Server
	mu       sync.Mutex
	requests []*collector.ExportTraceServiceRequest
	headers  []http.Header
	paths    []string
	status   int
}

func newReceiver(t *testing.T) *receiver {
	r := &receiver{status: http.StatusOK}
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		body := io.Reader(req.Body)
		if req.Header.Get("Content-Encoding") == "gzip" {
			z, err := gzip.NewReader(body)
			if err != nil {
				t.Error(err)
				return
			}
			body = z
		}
		raw, err := io.ReadAll(body)
		if err != nil {
			t.Error(err)
		}
		export := &collector.ExportTraceServiceRequest{}
		if err := proto.Unmarshal(raw, export); err != nil {
			t.Errorf("not OTLP: %v", err)
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		r.requests, r.headers, r.paths = append(r.requests, export), append(r.headers, req.Header), append(r.paths, req.URL.Path)
		w.Header().Set("Content-Type", "application/x-protobuf")
		w.WriteHeader(r.status)
	}))
	t.Cleanup(r.Close)
	return r
}

func TestTracesReachACollector(t *testing.T) {
	t.Parallel()
	r := newReceiver(t)
	tracing, err := telemetry.OpenTracing(t.Context(), telemetry.Config{
		OTLP: telemetry.OTLPConfig{Endpoint: r.URL, Headers: "x-key=abc, x-other=d"}, SampleRatio: 1,
	}, "1.2.3", nil)
	if err != nil {
		t.Fatal(err)
	}
	incoming := http.Header{"Traceparent": {"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}}
	ctx, parent := tracing.Tracer().Start(telemetry.ExtractHeader(t.Context(), incoming), "POST /api/orders", trace.WithSpanKind(trace.SpanKindServer))
	_, child := tracing.Tracer().Start(ctx, "unit of work orders", trace.WithAttributes(attribute.String("module", "orders"), attribute.Int("rows", 3)))
	child.SetStatus(codes.Error, "conflict")
	child.End()
	parent.End()
	if err := tracing.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}

	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.requests) != 1 {
		t.Fatalf("%d exports, want 1", len(r.requests))
	}
	if r.paths[0] != "/v1/traces" || r.headers[0].Get("X-Key") != "abc" || r.headers[0].Get("X-Other") != "d" {
		t.Errorf("posted to %s with %v", r.paths[0], r.headers[0])
	}
	resource := r.requests[0].ResourceSpans[0]
	found := map[string]string{}
	for _, a := range resource.Resource.Attributes {
		found[a.Key] = a.Value.GetStringValue()
	}
	if found["service.name"] != "banyan" || found["service.version"] != "1.2.3" {
		t.Errorf("resource is %v", found)
	}
	spans := resource.ScopeSpans[0].Spans
	if len(spans) != 2 {
		t.Fatalf("%d spans, want 2", len(spans))
	}
	for _, s := range spans {
		if got, want := trace.TraceID(s.TraceId).String(), "0af7651916cd43dd8448eb211c80319c"; got != want {
			t.Errorf("span %s is of trace %s, want %s", s.Name, got, want)
		}
	}
	if got, want := trace.SpanID(spans[1].ParentSpanId).String(), "b7ad6b7169203331"; got != want {
		t.Errorf("parent of %s is %s, want %s", spans[1].Name, got, want)
	}
	if !bytes.Equal(spans[0].ParentSpanId, spans[1].SpanId) || spans[0].Status.Message != "conflict" {
		t.Errorf("child is %v", spans[0])
	}
}

func TestACollectorThatFailsHurtsNobody(t *testing.T) {
	t.Parallel()
	r := newReceiver(t)
	r.status = http.StatusBadRequest
	var out bytes.Buffer
	tracing, err := telemetry.OpenTracing(t.Context(), telemetry.Config{OTLP: telemetry.OTLPConfig{Endpoint: r.URL}, SampleRatio: 1},
		"1", telemetry.NewLogger(&out, telemetry.DefaultLogConfig()))
	if err != nil {
		t.Fatal(err)
	}
	_, span := tracing.Tracer().Start(t.Context(), "x")
	span.End()
	if err := tracing.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
	if !strings.Contains(out.String(), "not taken by the collector") {
		t.Errorf("nothing logged: %s", out.String())
	}
}

func TestRecentSpans(t *testing.T) {
	t.Parallel()
	tracing, err := telemetry.OpenTracing(t.Context(), telemetry.Config{SampleRatio: 1, RecentSpans: 3}, "1", nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, parent := tracing.Tracer().Start(t.Context(), "parent")
	for _, name := range []string{"a", "b", "c"} {
		_, s := tracing.Tracer().Start(ctx, name, trace.WithAttributes(attribute.String("module", name)))
		s.End()
	}
	parent.SetStatus(codes.Error, "broken")
	parent.End()

	got := tracing.Recent()
	var names []string
	for _, s := range got {
		names = append(names, s.Name)
	}
	if want := "parent c b"; strings.Join(names, " ") != want {
		t.Fatalf("got %v, want %s", names, want)
	}
	if got[0].Status != "error" || got[0].Message != "broken" || got[0].ParentID != "" {
		t.Errorf("parent is %+v", got[0])
	}
	if got[1].ParentID != got[0].SpanID || got[1].TraceID != got[0].TraceID || got[1].Attributes["module"] != "c" || got[1].Duration < 0 {
		t.Errorf("child is %+v", got[1])
	}
}

func TestRecentSpansWhileSpansEnd(t *testing.T) {
	t.Parallel()
	tracing, err := telemetry.OpenTracing(t.Context(), telemetry.Config{SampleRatio: 1, RecentSpans: 16}, "1", nil)
	if err != nil {
		t.Fatal(err)
	}
	var group sync.WaitGroup
	for range 4 {
		group.Go(func() {
			for range 200 {
				_, s := tracing.Tracer().Start(context.Background(), "x")
				s.End()
			}
		})
	}
	for range 50 {
		tracing.Recent()
	}
	group.Wait()
	if got := len(tracing.Recent()); got != 16 {
		t.Errorf("%d spans, want 16", got)
	}
}

func TestNoTracingMakesNoSpans(t *testing.T) {
	t.Parallel()
	for _, config := range []telemetry.Config{{SampleRatio: 1}, {RecentSpans: 10}} {
		tracing, err := telemetry.OpenTracing(t.Context(), config, "1", nil)
		if err != nil {
			t.Fatal(err)
		}
		_, span := tracing.Tracer().Start(t.Context(), "x")
		if span.IsRecording() {
			t.Errorf("%+v records", config)
		}
		span.End()
		if got := tracing.Recent(); got != nil {
			t.Errorf("%+v keeps %v", config, got)
		}
		if err := tracing.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
	}
}

func TestTheRatioIsOurs(t *testing.T) {
	t.Parallel()
	tracing, err := telemetry.OpenTracing(t.Context(), telemetry.Config{SampleRatio: 1e-9, RecentSpans: 10}, "1", nil)
	if err != nil {
		t.Fatal(err)
	}
	claimed := http.Header{"Traceparent": {"00-ffffffffffffffffffffffffffffffff-b7ad6b7169203331-01"}}
	_, span := tracing.Tracer().Start(telemetry.ExtractHeader(t.Context(), claimed), "x")
	if span.IsRecording() {
		t.Error("a client made us record its trace")
	}
	out := http.Header{}
	telemetry.InjectHeader(trace.ContextWithSpanContext(t.Context(), span.SpanContext()), out)
	if !strings.HasPrefix(out.Get("Traceparent"), "00-ffffffffffffffffffffffffffffffff-") {
		t.Errorf("the trace goes on as %q", out.Get("Traceparent"))
	}
}

func TestConfigNamesTheKey(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name   string
		config telemetry.Config
		want   string
	}{
		{"ratio", telemetry.Config{SampleRatio: 2}, "telemetry.sample_ratio: 2 is not between 0 and 1"},
		{"spans", telemetry.Config{RecentSpans: -1}, "telemetry.recent_spans: -1 is not between 0 and 100000"},
		{"no url", telemetry.Config{OTLP: telemetry.OTLPConfig{Endpoint: "collector:4318"}}, "telemetry.otlp.endpoint: \"collector:4318\" is not a URL"},
		{"clear text", telemetry.Config{OTLP: telemetry.OTLPConfig{Endpoint: "http://collector:4318"}}, "set telemetry.otlp.insecure"},
		{"user", telemetry.Config{OTLP: telemetry.OTLPConfig{Endpoint: "https://a:b@collector:4318"}}, "takes no user"},
		{"headers", telemetry.Config{OTLP: telemetry.OTLPConfig{Headers: "hunter2"}}, `telemetry.otlp.headers: is not "name=value`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			err := test.config.Validate()
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %s", err, test.want)
			}
			if err != nil && strings.Contains(err.Error(), "hunter2") {
				t.Errorf("the error shows a secret: %v", err)
			}
			if _, err := telemetry.OpenTracing(t.Context(), test.config, "1", nil); err == nil {
				t.Error("opened all the same")
			}
		})
	}
	valid := telemetry.Config{OTLP: telemetry.OTLPConfig{Endpoint: "http://collector:4318", Insecure: true, Headers: "a=b"}}
	if err := valid.Validate(); err != nil {
		t.Error(err)
	}
}

func TestRegistryKnowsProcessRuntimeAndBuild(t *testing.T) {
	t.Parallel()
	families, err := telemetry.NewRegistry().Gather()
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]bool{}
	for _, f := range families {
		found[f.GetName()] = true
	}
	for _, name := range []string{"process_resident_memory_bytes", "go_goroutines", "go_build_info"} {
		if !found[name] {
			t.Errorf("no metric %s", name)
		}
	}
}
