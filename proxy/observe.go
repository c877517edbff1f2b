package proxy

import (
	"cmp"
	"context"
	"log/slog"
	"net/http"
	"runtime/debug"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"github.com/banyan-go/banyan/internal/errs"
	"github.com/banyan-go/banyan/proxy/upstream"
)

// answer watches what is answered.
type answer struct {
	http.ResponseWriter
	status int
	bytes  int64
}

// WriteHeader notes the status; those of 1xx come before the real one.
func (a *answer) WriteHeader(status int) {
	if a.status == 0 && status >= 200 {
		a.status = status
	}
	a.ResponseWriter.WriteHeader(status)
}

// Write counts.
func (a *answer) Write(b []byte) (int, error) {
	if a.status == 0 {
		a.status = http.StatusOK
	}
	n, err := a.ResponseWriter.Write(b)
	a.bytes += int64(n)
	return n, err
}

// Flush sends what there is: streams need it.
func (a *answer) Flush() {
	if a.status == 0 {
		a.status = http.StatusOK
	}
	_ = http.NewResponseController(a.ResponseWriter).Flush()
}

// Unwrap lets http.ResponseController reach the connection.
func (a *answer) Unwrap() http.ResponseWriter { return a.ResponseWriter }

type metrics struct {
	requests *prometheus.CounterVec
	duration *prometheus.HistogramVec

	sent      *prometheus.CounterVec
	refused   prometheus.Counter
	epoch     prometheus.Gauge
	placement *prometheus.GaugeVec
	waiting   *prometheus.GaugeVec
	stale     *prometheus.CounterVec
	moves     *prometheus.CounterVec
}

func newMetrics(r prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "banyan_http_requests_total", Help: "Requests answered, by class of status.",
		}, []string{"module", "route", "method", "status"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "banyan_http_request_duration_seconds", Help: "Time to answer a request; streams are not in it.",
			Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10},
		}, []string{"module", "route", "method"}),
		sent: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "banyan_gateway_sent_total", Help: "Requests of modules that have a second process, by the side that was chosen, why, and what became of them there.",
		}, []string{"module", "side", "reason", "failure"}),
		refused: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "banyan_gateway_tables_refused_total", Help: "Route tables that were not put in force because they are not valid.",
		}),
		epoch: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "banyan_gateway_table_epoch", Help: "Number of the route table that is in force.",
		}),
		placement: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "banyan_module_placement", Help: "1 for the placement that a module has in this process.",
		}, []string{"module", "placement"}),
		waiting: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "banyan_gateway_waiting", Help: "Requests that wait because the owner of their module changes.",
		}, []string{"module"}),
		stale: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "banyan_gateway_stale_total", Help: "Requests that a second process sent back because it knows of a newer epoch; they were routed again.",
		}, []string{"module"}),
		moves: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "banyan_gate_moves_total", Help: "Moves of a module by its gates, by the placement it went to.",
		}, []string{"module", "to"}),
	}
	if r == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{m.requests, m.duration, m.sent, m.refused, m.epoch, m.placement, m.waiting, m.stale, m.moves} {
		if err := r.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

func (m *metrics) bind(r *route) {
	r.metrics.duration = m.duration.WithLabelValues(r.module, r.Path, r.Method)
}

var classes = [6]string{"", "1xx", "2xx", "3xx", "4xx", "5xx"}

func (m *metrics) count(r *route, method string, status int) {
	class := status / 100
	if class < 1 || class > 5 {
		class = 5
	}
	if r == nil {
		// What a client makes up must not become a label.
		if !slices.Contains(methods, method) {
			method = "other"
		}
		m.requests.WithLabelValues("", "", method, classes[class]).Inc()
		return
	}
	counter := r.metrics.classes[class].Load()
	if counter == nil {
		made := m.requests.WithLabelValues(r.module, r.Path, r.Method, classes[class])
		counter = &made
		r.metrics.classes[class].Store(counter)
	}
	(*counter).Inc()
}

// finish counts and logs the request, whatever became of it. It recovers a panic: the client gets a 500 without the
// stack or, if a part of the answer is out already, a connection that is cut, so that nothing looks complete that is
// not. http.ErrAbortHandler is how a handler asks for just that.
func (x *exchange) finish(ctx context.Context, span trace.Span) {
	g := x.g
	cut := false
	if v := recover(); v != nil {
		if v != http.ErrAbortHandler {
			g.log.LogAttrs(ctx, slog.LevelError, "panic", slog.Any("panic", v), slog.String("stack", string(debug.Stack())))
		}
		if v == http.ErrAbortHandler || x.answer.status != 0 {
			cut = true
		} else {
			x.problem(newProblem(ctx, http.StatusInternalServerError, errs.Internal, ""), 0)
		}
	}
	if x.answer.status == 0 {
		x.answer.status = http.StatusOK // net/http says so when nothing is written
	}
	status, taken := x.answer.status, time.Since(x.start)
	if cut {
		status = http.StatusInternalServerError
	}
	g.metrics.count(x.route, x.method, status)
	if h := x.hop.Load(); h != nil && h.target.remote != nil {
		g.metrics.sent.WithLabelValues(x.route.module, h.side(), h.reason, cmp.Or(string(h.failure), string(upstream.None))).Inc()
	}
	if x.route != nil && x.route.Class != "stream" {
		x.route.metrics.duration.Observe(taken.Seconds())
	}
	if span != nil {
		x.describe(span, status)
	}
	if g.cfg.AccessLog && g.log.Enabled(ctx, slog.LevelInfo) {
		x.log(ctx, status, taken, cut)
	}
	if cut {
		panic(http.ErrAbortHandler)
	}
}

// target is the one that has answered, or that would have.
func (x *exchange) target() *target {
	if h := x.hop.Load(); h != nil {
		return h.target
	}
	return x.route.target
}

func (x *exchange) log(ctx context.Context, status int, taken time.Duration, cut bool) {
	attrs := make([]slog.Attr, 0, 16)
	attrs = append(attrs, slog.String("method", x.method))
	if x.route != nil {
		attrs = append(attrs, slog.String("route", x.route.Path), slog.String("module", x.route.module), slog.String("placement", string(x.target().placement.State)))
		if h := x.hop.Load(); h != nil && h.target.remote != nil {
			attrs = append(attrs, slog.String("target", h.side()), slog.String("reason", h.reason))
			if h.bucket >= 0 {
				attrs = append(attrs, slog.Int("bucket", h.bucket))
			}
			if h.remote {
				attrs = append(attrs, slog.String("endpoint", h.endpoint), slog.Int("attempt", h.attempts))
			}
			if h.failure != "" && h.failure != upstream.None {
				attrs = append(attrs, slog.String("failure", string(h.failure)))
			}
		}
	} else {
		attrs = append(attrs, slog.String("path", x.path[:min(len(x.path), 200)]))
	}
	epoch := x.table.number()
	if h := x.hop.Load(); h != nil {
		epoch = h.epoch
	}
	attrs = append(attrs, slog.Int("status", status), slog.Int64("bytes", x.answer.bytes),
		slog.Float64("duration_ms", float64(taken.Microseconds())/1000), slog.Uint64("epoch", epoch))
	if x.who.Subject != "" {
		attrs = append(attrs, slog.String("subject", x.who.Subject))
	}
	if cut {
		attrs = append(attrs, slog.Bool("aborted", true))
	}
	x.g.log.LogAttrs(ctx, slog.LevelInfo, "request", attrs...)
}

func (x *exchange) describe(span trace.Span, status int) {
	defer span.End()
	if !span.IsRecording() {
		return
	}
	span.SetAttributes(attribute.String("http.request.method", x.method), attribute.Int("http.response.status_code", status),
		attribute.String("url.path", x.path))
	if x.route != nil {
		span.SetName(x.method + " " + x.route.Path)
		span.SetAttributes(attribute.String("http.route", x.route.Path), attribute.String("banyan.module", x.route.module),
			attribute.String("banyan.placement", string(x.target().placement.State)))
		if h := x.hop.Load(); h != nil && h.target.remote != nil {
			span.SetAttributes(attribute.String("banyan.target", h.side()), attribute.String("banyan.reason", h.reason))
		}
	}
	if status >= 500 {
		span.SetStatus(codes.Error, http.StatusText(status))
	}
}
