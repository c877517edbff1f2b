package meter

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

func TestChange(t *testing.T) {
	t.Parallel()
	registry := prometheus.NewRegistry()
	asked := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "asked"}, []string{"module", "outcome"})
	took := prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "took", Buckets: []float64{.001, .01, .1}}, []string{"module", "route"})
	other := prometheus.NewCounter(prometheus.CounterOpts{Name: "other"})
	registry.MustRegister(asked, took, other)
	m := New(registry, "asked", "took")
	now := m.past[0].At
	m.now = func() time.Time { return now }
	asked.WithLabelValues("a", "ok").Add(100)
	for range 1000 {
		took.WithLabelValues("a", "/x").Observe(.05)
	}
	now = now.Add(10 * time.Second)
	before, err := m.Read()
	if err != nil {
		t.Fatal(err)
	}
	asked.WithLabelValues("a", "ok").Add(30)
	asked.WithLabelValues("a", "timeout").Add(10)
	asked.WithLabelValues("b", "ok").Add(1)
	other.Add(7)
	for range 98 {
		took.WithLabelValues("a", "/x").Observe(.0005)
	}
	took.WithLabelValues("a", "/y").Observe(.05)
	took.WithLabelValues("a", "/y").Observe(50)
	now = now.Add(20 * time.Second)
	after, err := m.Read()
	if err != nil {
		t.Fatal(err)
	}
	c := Between(before, after)
	if got := c.PerSecond(c.Of("asked", "module", "a").Count); got != 2 {
		t.Errorf("module a was asked %v times a second, want 2", got)
	}
	if got := c.Of("asked", "module", "a", "outcome", "timeout").Count; got != 10 {
		t.Errorf("%v time-outs, want 10", got)
	}
	if got := c.Of("other").Count; got != 0 {
		t.Errorf("a metric that nobody wants is read: %v", got)
	}
	if got := len(c.By("took", "module", "route")); got != 2 {
		t.Errorf("%d routes, want 2", got)
	}
	all := c.By("took", "module")
	if len(all) != 1 || all[0].Count != 100 {
		t.Fatalf("all routes together: %+v", all)
	}
	for q, want := range map[float64][2]time.Duration{
		.5: {400 * time.Microsecond, 600 * time.Microsecond}, .99: {10 * time.Millisecond, 100 * time.Millisecond}, 1: {100 * time.Millisecond, 100 * time.Millisecond},
	} {
		if got := all[0].Quantile(q); got < want[0] || got > want[1] {
			t.Errorf("quantile %v is %s, want one of %v", q, got, want)
		}
	}
	if got := (Series{}).Quantile(.5); got != 0 {
		t.Errorf("the median of nothing is %s", got)
	}
}

func TestLately(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		count := prometheus.NewCounter(prometheus.CounterOpts{Name: "count"})
		registry := prometheus.NewRegistry()
		registry.MustRegister(count)
		m := New(registry, "count")
		go func() { _ = m.Run(t.Context()) }()
		since := func(d time.Duration) float64 {
			now, err := m.Read()
			if err != nil {
				t.Fatal(err)
			}
			return Between(m.Lately(d), now).Of("count").Count
		}
		count.Add(1)
		if got := since(time.Minute); got != 1 {
			t.Errorf("at the start: %v, want what has happened since", got)
		}
		<-time.After(time.Minute)
		count.Add(10)
		<-time.After(31 * time.Second)
		if got := since(time.Minute); got != 10 {
			t.Errorf("in the last minute: %v, want 10", got)
		}
		<-time.After(time.Hour)
		if got := since(24 * time.Hour); got != 0 {
			t.Errorf("an hour later: %v, want 0: only some minutes are kept", got)
		}
		if len(m.past) != kept {
			t.Errorf("%d readings are kept, want %d", len(m.past), kept)
		}
	})
}
