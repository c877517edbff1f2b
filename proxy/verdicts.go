package proxy

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/banyan-go/banyan/proxy/gate"
)

// verdicts show what gates and comparisons say, at the time that it is asked for.
type verdicts struct{ g *Gateway }

var (
	verdictDesc = prometheus.NewDesc("banyan_gate_verdict", "What the rules of a module's gates say: 1 good, -1 bad, 0 not enough data; the rule all is the verdict.",
		[]string{"module", "rule"}, nil)
	comparisonsDesc = prometheus.NewDesc("banyan_shadow_comparisons_total", "Answers of a module's two sides that were compared, by result.",
		[]string{"module", "route", "result"}, nil)
	droppedDesc = prometheus.NewDesc("banyan_shadow_dropped_total", "Answers that were not compared, because there was no room (queue) or because they are too large (size).",
		[]string{"module", "route", "reason"}, nil)
	unsafeDesc = prometheus.NewDesc("banyan_shadow_unsafe", "1 for a route that is compared no more, because it tried to write when it was asked to read.",
		[]string{"module", "route"}, nil)
)

// Describe is for the registry.
func (verdicts) Describe(to chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{verdictDesc, comparisonsDesc, droppedDesc, unsafeDesc} {
		to <- d
	}
}

// Collect is for the registry.
func (v verdicts) Collect(to chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, value float64, labels ...string) {
		to <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, labels...)
	}
	count := func(d *prometheus.Desc, value int64, labels ...string) {
		to <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(value), labels...)
	}
	placements := v.g.table.Load().placements
	for name, r := range v.g.remotes {
		if r.monitor == nil {
			continue
		}
		verdict := r.monitor.Verdict(time.Now())
		if placements[name].State == Shadow {
			verdict = gate.All(verdict, shadowVerdict(r.mirror.Judge()))
		}
		gauge(verdictDesc, number(verdict.State), name, "all")
		for _, rule := range verdict.Rules {
			gauge(verdictDesc, number(rule.State), name, rule.Name)
		}
		for _, c := range r.mirror.Report().Routes {
			if c.Compared+c.Learned+c.Failed+c.Dropped+c.TooLarge == 0 && !c.Unsafe {
				continue // most routes of most modules, most of the time
			}
			for _, result := range []struct {
				name  string
				value int64
			}{{"equal", c.Equal}, {"noise", c.Noise}, {"skew", c.Skew}, {"mismatch", c.Mismatch}, {"failed", c.Failed}, {"learned", c.Learned}} {
				count(comparisonsDesc, result.value, name, c.Route, result.name)
			}
			count(droppedDesc, c.Dropped, name, c.Route, "queue")
			count(droppedDesc, c.TooLarge, name, c.Route, "size")
			if c.Unsafe {
				gauge(unsafeDesc, 1, name, c.Route)
			}
		}
	}
}

func number(s gate.State) float64 {
	switch s {
	case gate.Good:
		return 1
	case gate.Bad:
		return -1
	}
	return 0
}
