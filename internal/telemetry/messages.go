package telemetry

import "github.com/prometheus/client_golang/prometheus"

// Messages are the metrics of the bus, per module and message.
type Messages struct {
	Published  *prometheus.CounterVec   // module, message
	Handled    *prometheus.CounterVec   // module, handler, message
	Retried    *prometheus.CounterVec   // module, handler
	Dead       *prometheus.CounterVec   // module, handler
	Duplicates *prometheus.CounterVec   // module, handler
	Lag        *prometheus.HistogramVec // module, subscriber; seconds from commit to handled
	Oldest     *prometheus.GaugeVec     // module, subscriber; seconds
	ParkedKeys *prometheus.GaugeVec     // module
	BlockedBy  *prometheus.GaugeVec     // module; keys blocked by a dead letter
	Timers     *prometheus.CounterVec   // module, timer
	Asked      *prometheus.CounterVec   // module, message, kind of error or "ok"
	Calls      *prometheus.HistogramVec // caller, message; seconds that the caller has waited
	Switched   *prometheus.HistogramVec // module, subscriber, transport now; seconds that messages to it waited for the change
}

// NewMessages registers the metrics; a nil registry keeps them to themselves.
func NewMessages(reg prometheus.Registerer) *Messages {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		c := prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
		if reg != nil {
			reg.MustRegister(c)
		}
		return c
	}
	gauge := func(name, help string, labels ...string) *prometheus.GaugeVec {
		g := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: name, Help: help}, labels)
		if reg != nil {
			reg.MustRegister(g)
		}
		return g
	}
	lag := prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "banyan_relay_lag_seconds", Help: "Time from the commit of a message to the end of its handling.",
		Buckets: []float64{.0005, .001, .002, .003, .005, .01, .025, .05, .1, .25, .5, 1, 5, 30, 300},
	}, []string{"module", "subscriber"})
	calls := prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "banyan_call_seconds", Help: "Time that a module has waited for the answer of another one.",
		Buckets: []float64{.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 5},
	}, []string{"caller", "message"})
	switched := prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "banyan_route_switch_seconds", Help: "Time that the messages of a module to a subscriber waited in the outbox while their transport changed.",
		Buckets: []float64{.001, .002, .003, .005, .0075, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 30},
	}, []string{"module", "subscriber", "transport"})
	if reg != nil {
		reg.MustRegister(lag, calls, switched)
	}
	return &Messages{
		Published:  counter("banyan_messages_published_total", "Messages handed to a subscriber.", "module", "message"),
		Handled:    counter("banyan_messages_handled_total", "Messages handled.", "module", "handler", "message"),
		Retried:    counter("banyan_messages_retried_total", "Attempts after the first one.", "module", "handler"),
		Dead:       counter("banyan_messages_dead_total", "Messages that became dead letters.", "module", "handler"),
		Duplicates: counter("banyan_messages_duplicate_total", "Messages dropped because they were handled before.", "module", "handler"),
		Lag:        lag,
		Calls:      calls,
		Switched:   switched,
		Oldest:     gauge("banyan_outbox_oldest_seconds", "Age of the oldest message that a subscriber has not taken.", "module", "subscriber"),
		ParkedKeys: gauge("banyan_parked_keys", "Keys whose first message waits for another attempt.", "module"),
		BlockedBy:  gauge("banyan_dead_letters", "Dead letters that wait for an operator.", "module"),
		Timers:     counter("banyan_timers_fired_total", "Timers, schedules and effects that ran.", "module", "timer"),
		Asked:      counter("banyan_requests_total", "Queries and commands answered at once.", "module", "message", "outcome"),
	}
}
