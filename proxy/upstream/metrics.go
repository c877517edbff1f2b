package upstream

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	requests  map[Failure]prometheus.Counter
	again     prometheus.Counter
	ejections prometheus.Counter
	inFlight  prometheus.Gauge
	endpoints prometheus.Gauge
	usable    prometheus.Gauge
	breaker   prometheus.Gauge
}

// newMetrics finds or registers the metrics. Upstreams share them, also one that is drained and the one that takes its
// place.
func newMetrics(r prometheus.Registerer, name string) (*metrics, error) {
	requests, err := register(r, prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "banyan_upstream_requests_total", Help: "Requests for an upstream, by what became of them.",
	}, []string{"upstream", "outcome"}))
	if err != nil {
		return nil, err
	}
	again, err := register(r, prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "banyan_upstream_retries_total", Help: "Requests that were sent to an upstream again.",
	}, []string{"upstream"}))
	if err != nil {
		return nil, err
	}
	ejections, err := register(r, prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "banyan_upstream_ejections_total", Help: "Endpoints that were left out because requests to them failed.",
	}, []string{"upstream"}))
	if err != nil {
		return nil, err
	}
	inFlight, err := register(r, prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "banyan_upstream_in_flight", Help: "Requests, streams and WebSockets at an upstream.",
	}, []string{"upstream"}))
	if err != nil {
		return nil, err
	}
	endpoints, err := register(r, prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "banyan_upstream_endpoints", Help: "Endpoints of an upstream.",
	}, []string{"upstream"}))
	if err != nil {
		return nil, err
	}
	usable, err := register(r, prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "banyan_upstream_endpoints_usable", Help: "Endpoints of an upstream that are well.",
	}, []string{"upstream"}))
	if err != nil {
		return nil, err
	}
	breaker, err := register(r, prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "banyan_upstream_breaker", Help: "State of the breaker: 0 closed, 1 half open, 2 open.",
	}, []string{"upstream"}))
	if err != nil {
		return nil, err
	}
	m := &metrics{
		requests: map[Failure]prometheus.Counter{}, again: again.WithLabelValues(name), ejections: ejections.WithLabelValues(name),
		inFlight: inFlight.WithLabelValues(name), endpoints: endpoints.WithLabelValues(name),
		usable: usable.WithLabelValues(name), breaker: breaker.WithLabelValues(name),
	}
	for _, f := range []Failure{None, NotSent, MaybeSent, Answered5xx, Aborted, ClientAbort, Overload} {
		m.requests[f] = requests.WithLabelValues(name, string(f))
	}
	return m, nil
}

func register[C prometheus.Collector](r prometheus.Registerer, c C) (C, error) {
	if r == nil {
		return c, nil
	}
	err := r.Register(c)
	var there prometheus.AlreadyRegisteredError
	if errors.As(err, &there) {
		if same, ok := there.ExistingCollector.(C); ok {
			return same, nil
		}
	}
	return c, err
}
