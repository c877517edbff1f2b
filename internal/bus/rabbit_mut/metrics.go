package rabbit

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	connected *prometheus.GaugeVec   // connection
	blocked   *prometheus.GaugeVec   // connection
	published *prometheus.CounterVec // subscriber, outcome
	given     *prometheus.CounterVec // module
	repeated  *prometheus.CounterVec // module
	asked     *prometheus.CounterVec // module, outcome
	answered  *prometheus.CounterVec // module, outcome
}

func newMetrics(reg prometheus.Registerer) *metrics {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return register(reg, prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels))
	}
	gauge := func(name, help string, labels ...string) *prometheus.GaugeVec {
		return register(reg, prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: name, Help: help}, labels))
	}
	return &metrics{
		connected: gauge("banyan_rabbitmq_connected", "1 while the connection is up.", "connection"),
		blocked:   gauge("banyan_rabbitmq_blocked", "1 while the broker takes no messages.", "connection"),
		published: counter("banyan_rabbitmq_published_total", "Messages sent, by what became of them.", "subscriber", "outcome"),
		given:     counter("banyan_rabbitmq_delivered_total", "Messages given to a subscriber.", "module"),
		repeated:  counter("banyan_rabbitmq_repeated_total", "Messages given to a subscriber again because it did not take them.", "module"),
		asked:     counter("banyan_rabbitmq_asked_total", "Questions to a module.", "module", "outcome"),
		answered:  counter("banyan_rabbitmq_answered_total", "Questions answered by a module.", "module", "outcome"),
	}
}

func register[C prometheus.Collector](reg prometheus.Registerer, c C) C {
	if reg != nil {
		reg.MustRegister(c)
	}
	return c
}
