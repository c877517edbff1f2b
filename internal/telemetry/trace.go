package telemetry

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"

	"github.com/banyan-go/banyan/internal/secret"
)

// Config says which traces are kept and where they go.
type Config struct {
	OTLP        OTLPConfig `mapstructure:"otlp"`
	SampleRatio float64    `mapstructure:"sample_ratio"` // share of traces that are recorded, 0 to 1
	RecentSpans int        `mapstructure:"recent_spans"` // spans kept in memory for the operator; 0 keeps none
}

// OTLPConfig is a collector of traces.
type OTLPConfig struct {
	Endpoint string      `mapstructure:"endpoint"` // URL of the collector; "" sends nothing
	Headers  secret.Text `mapstructure:"headers"`  // "name=value,name=value"
	Insecure bool        `mapstructure:"insecure"` // lets http:// go to another machine
}

// DefaultConfig records everything, keeps the last spans in memory and sends nothing.
func DefaultConfig() Config { return Config{SampleRatio: 1, RecentSpans: 512} }

const maxRecentSpans = 100_000

// Validate names the wrong key and the way out.
func (c Config) Validate() error {
	var wrong []error
	if !(c.SampleRatio >= 0 && c.SampleRatio <= 1) {
		wrong = append(wrong, fmt.Errorf("telemetry.sample_ratio: %v is not between 0 and 1", c.SampleRatio))
	}
	if c.RecentSpans < 0 || c.RecentSpans > maxRecentSpans {
		wrong = append(wrong, fmt.Errorf("telemetry.recent_spans: %d is not between 0 and %d", c.RecentSpans, maxRecentSpans))
	}
	if _, err := c.OTLP.headers(); err != nil {
		wrong = append(wrong, err)
	}
	if c.OTLP.Endpoint != "" {
		if _, err := c.OTLP.url(); err != nil {
			wrong = append(wrong, err)
		}
	}
	return errors.Join(wrong...)
}

// url is where traces are posted to.
func (c OTLPConfig) url() (string, error) {
	u, err := url.Parse(c.Endpoint)
	if err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") {
		return "", fmt.Errorf("telemetry.otlp.endpoint: %q is not a URL as in http://127.0.0.1:4318", c.Endpoint)
	}
	if u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return "", errors.New("telemetry.otlp.endpoint: takes no user, query or fragment; secrets belong into telemetry.otlp.headers")
	}
	if u.Scheme == "http" && !c.Insecure && !loopback(u.Hostname()) {
		return "", fmt.Errorf("telemetry.otlp.endpoint: %q would send traces in clear text; use https:// or set telemetry.otlp.insecure", c.Endpoint)
	}
	if !strings.HasSuffix(u.Path, "/v1/traces") {
		u.Path = strings.TrimSuffix(u.Path, "/") + "/v1/traces"
	}
	return u.String(), nil
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

func (c OTLPConfig) headers() (map[string]string, error) {
	headers := map[string]string{}
	if c.Headers == "" {
		return headers, nil
	}
	for _, pair := range strings.Split(c.Headers.Reveal(), ",") {
		name, value, found := strings.Cut(pair, "=")
		name, value = strings.TrimSpace(name), strings.TrimSpace(value)
		if !found || name == "" || strings.ContainsAny(name+value, "\r\n\x00") {
			return nil, errors.New(`telemetry.otlp.headers: is not "name=value,name=value"`)
		}
		headers[name] = value
	}
	return headers, nil
}

// Tracing makes spans, keeps the last of them and sends them to a collector, as configured.
type Tracing struct {
	provider trace.TracerProvider
	sdk      *sdktrace.TracerProvider // nil if nothing is recorded
	ring     *ring                    // nil if none are kept
}

const scope = "github.com/banyan-go/banyan"

// OpenTracing starts tracing. With neither a collector nor spans kept in memory no span is ever made. The
// collector need not be there: spans that it does not take are dropped, and log says so.
func OpenTracing(ctx context.Context, c Config, serviceVersion string, log *slog.Logger) (*Tracing, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	if c.SampleRatio == 0 || (c.OTLP.Endpoint == "" && c.RecentSpans == 0) {
		return &Tracing{provider: noop.NewTracerProvider()}, nil
	}
	// A client may claim that its trace is sampled, but the ratio is ours. It decides by the trace's id, so that
	// all processes agree.
	ratio := sdktrace.TraceIDRatioBased(c.SampleRatio)
	options := []sdktrace.TracerProviderOption{
		sdktrace.WithSampler(sdktrace.ParentBased(ratio, sdktrace.WithRemoteParentSampled(ratio))),
		sdktrace.WithResource(resource.NewSchemaless(
			attribute.String("service.name", "banyan"), attribute.String("service.version", serviceVersion))),
	}
	t := &Tracing{}
	if c.RecentSpans > 0 {
		t.ring = &ring{spans: make([]atomic.Pointer[kept], c.RecentSpans)}
		options = append(options, sdktrace.WithSpanProcessor(t.ring))
	}
	if c.OTLP.Endpoint != "" {
		exporter, err := openOTLP(ctx, c.OTLP, log)
		if err != nil {
			return nil, fmt.Errorf("telemetry.otlp: %w", err)
		}
		options = append(options, sdktrace.WithBatcher(exporter))
	}
	t.sdk = sdktrace.NewTracerProvider(options...)
	t.provider = t.sdk
	return t, nil
}

func openOTLP(ctx context.Context, c OTLPConfig, log *slog.Logger) (sdktrace.SpanExporter, error) {
	endpoint, err := c.url()
	if err != nil {
		return nil, err
	}
	headers, err := c.headers()
	if err != nil {
		return nil, err
	}
	// Encoding and headers are always given, or OTEL_* variables would decide beside our own configuration.
	inner, err := otlptracehttp.New(ctx, otlptracehttp.WithEndpointURL(endpoint), otlptracehttp.WithHeaders(headers),
		otlptracehttp.WithEncoding(otlptracehttp.EncodingProtobuf), otlptracehttp.WithTimeout(10*time.Second))
	if err != nil {
		return nil, err
	}
	return &loggingExporter{SpanExporter: inner, log: log}, nil
}

// loggingExporter keeps export errors from the global error handler of the SDK, which prints past our logger.
type loggingExporter struct {
	sdktrace.SpanExporter
	log  *slog.Logger
	last atomic.Int64 // unix seconds of the last complaint
}

func (e *loggingExporter) ExportSpans(ctx context.Context, spans []sdktrace.ReadOnlySpan) error {
	err := e.SpanExporter.ExportSpans(ctx, spans)
	if err != nil && e.log != nil {
		// A collector that is down is said once a minute, not once a batch.
		now := time.Now().Unix()
		if last := e.last.Load(); now-last >= 60 && e.last.CompareAndSwap(last, now) {
			e.log.LogAttrs(ctx, slog.LevelWarn, "traces were not taken by the collector", slog.Int("spans", len(spans)), slog.String("error", err.Error()))
		}
	}
	return nil
}

// Tracer makes the spans of this project.
func (t *Tracing) Tracer() trace.Tracer { return t.provider.Tracer(scope) }

// Provider is for libraries that make spans of their own.
func (t *Tracing) Provider() trace.TracerProvider { return t.provider }

// Shutdown sends what is left.
func (t *Tracing) Shutdown(ctx context.Context) error {
	if t.sdk == nil {
		return nil
	}
	return t.sdk.Shutdown(ctx)
}

// Recent is the spans kept in memory, latest first.
func (t *Tracing) Recent() []Span {
	if t.ring == nil {
		return nil
	}
	return t.ring.recent()
}

// ExtractHeader continues the trace that the W3C headers of a request name, if they name one.
func ExtractHeader(ctx context.Context, h http.Header) context.Context {
	return propagation.TraceContext{}.Extract(ctx, propagation.HeaderCarrier(h))
}

// InjectHeader names the trace of the context in the headers of a request.
func InjectHeader(ctx context.Context, h http.Header) {
	propagation.TraceContext{}.Inject(ctx, propagation.HeaderCarrier(h))
}
