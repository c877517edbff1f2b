// Package meter tells rates and percentiles of the last minutes from the metrics of the process: what a registry counts since the start is
// read now and then, and two readings are compared.
package meter

import (
	"context"
	"fmt"
	"math"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

// Meter reads a registry. Run keeps the readings of the last minutes.
type Meter struct {
	gather  prometheus.Gatherer
	metrics map[string]bool
	now     func() time.Time

	mu    sync.Mutex
	known map[string]*series
	past  []Reading
}

const (
	readEvery = 15 * time.Second
	kept      = 21 // readings: five minutes and one
)

// New is a meter of some metrics, counters and histograms, by their names.
func New(gather prometheus.Gatherer, metrics ...string) *Meter {
	m := &Meter{gather: gather, metrics: map[string]bool{}, now: time.Now, known: map[string]*series{}}
	for _, name := range metrics {
		m.metrics[name] = true
	}
	m.past = []Reading{{At: m.now()}} // everything begins at nought
	return m
}

// series is what all readings of one thing share.
type series struct {
	metric string
	labels map[string]string
	bounds []float64
}

// Reading is what was counted until a moment.
type Reading struct {
	At     time.Time
	values map[*series]value
}

type value struct {
	count, sum float64
	buckets    []uint64 // cumulative, without the last one, which is all
}

// Run reads now and then until ctx ends.
func (m *Meter) Run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(readEvery):
		}
		if r, err := m.Read(); err == nil {
			m.mu.Lock()
			m.past = append(m.past, r)
			m.past = m.past[max(0, len(m.past)-kept):]
			m.mu.Unlock()
		}
	}
}

// Read is what is counted now.
func (m *Meter) Read() (Reading, error) {
	families, err := m.gather.Gather()
	if err != nil {
		return Reading{}, fmt.Errorf("metrics: %w", err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	r := Reading{At: m.now(), values: map[*series]value{}}
	for _, f := range families {
		if !m.metrics[f.GetName()] {
			continue
		}
		for _, one := range f.GetMetric() {
			var v value
			var bounds []float64
			switch {
			case one.Counter != nil:
				v.count = one.Counter.GetValue()
			case one.Histogram != nil:
				v.count, v.sum = float64(one.Histogram.GetSampleCount()), one.Histogram.GetSampleSum()
				for _, b := range one.Histogram.GetBucket() {
					bounds = append(bounds, b.GetUpperBound())
					v.buckets = append(v.buckets, b.GetCumulativeCount())
				}
			default:
				continue
			}
			r.values[m.series(f.GetName(), one.GetLabel(), bounds)] = v
		}
	}
	return r, nil
}

// series needs the lock.
func (m *Meter) series(metric string, pairs []*dto.LabelPair, bounds []float64) *series {
	var key strings.Builder
	key.WriteString(metric)
	for _, p := range pairs {
		fmt.Fprintf(&key, "\x00%s\x00%s", p.GetName(), p.GetValue())
	}
	s := m.known[key.String()]
	if s == nil {
		s = &series{metric: metric, labels: map[string]string{}, bounds: bounds}
		for _, p := range pairs {
			s.labels[p.GetName()] = p.GetValue()
		}
		m.known[key.String()] = s
	}
	return s
}

// Lately is the oldest reading that is kept and not older than d: the start of the meter if that is later.
func (m *Meter) Lately(d time.Duration) Reading {
	m.mu.Lock()
	defer m.mu.Unlock()
	from := m.now().Add(-d)
	for _, r := range m.past {
		if !r.At.Before(from) {
			return r
		}
	}
	return m.past[len(m.past)-1]
}

// Between is what has changed from one reading to a later one.
func Between(from, to Reading) Change {
	c := Change{From: from.At, To: to.At}
	for s, now := range to.values {
		before := from.values[s]
		n := Series{Metric: s.metric, Labels: s.labels, Count: now.count - before.count, Sum: now.sum - before.sum, bounds: s.bounds}
		if n.Count <= 0 {
			continue
		}
		for i, b := range now.buckets {
			if i < len(before.buckets) {
				b -= before.buckets[i]
			}
			n.buckets = append(n.buckets, b)
		}
		c.series = append(c.series, n)
	}
	return c
}

// Change is what has happened between two readings.
type Change struct {
	From, To time.Time
	series   []Series
}

// Seconds is how long it took.
func (c Change) Seconds() float64 { return c.To.Sub(c.From).Seconds() }

// PerSecond is how often something happened that happened so many times.
func (c Change) PerSecond(count float64) float64 {
	if s := c.Seconds(); s > 0 {
		return count / s
	}
	return 0
}

// Series is how often one thing has happened, and how long it took.
type Series struct {
	Metric     string
	Labels     map[string]string
	Count, Sum float64
	bounds     []float64
	buckets    []uint64
}

// By adds the series of a metric up to one for each set of values of some of its labels.
func (c Change) By(metric string, labels ...string) []Series {
	var order []string
	all := map[string]*Series{}
	for _, s := range c.series {
		if s.Metric != metric {
			continue
		}
		key, own := "", map[string]string{}
		for _, l := range labels {
			own[l] = s.Labels[l]
			key += s.Labels[l] + "\x00"
		}
		sum := all[key]
		if sum == nil {
			sum = &Series{Metric: metric, Labels: own, bounds: s.bounds, buckets: make([]uint64, len(s.buckets))}
			all[key] = sum
			order = append(order, key)
		}
		sum.add(s)
	}
	list := make([]Series, len(order))
	for i, key := range order {
		list[i] = *all[key]
	}
	return list
}

// Of adds up the series of a metric that have certain labels: names and values in turn.
func (c Change) Of(metric string, labels ...string) Series {
	sum := Series{Metric: metric, Labels: map[string]string{}}
	for i := 0; i+1 < len(labels); i += 2 {
		sum.Labels[labels[i]] = labels[i+1]
	}
	for _, s := range c.series {
		if s.Metric != metric {
			continue
		}
		same := true
		for l, v := range sum.Labels {
			same = same && s.Labels[l] == v
		}
		if same {
			sum.add(s)
		}
	}
	return sum
}

func (s *Series) add(o Series) {
	s.Count += o.Count
	s.Sum += o.Sum
	if s.buckets == nil {
		s.bounds, s.buckets = o.bounds, make([]uint64, len(o.buckets))
	}
	for i, b := range o.buckets {
		if i < len(s.buckets) {
			s.buckets[i] += b
		}
	}
}

// Quantile is the time that a share q of them took at most, as far as the buckets of a histogram tell; nought if there is nothing. What took
// longer than the last bound counts as that.
func (s Series) Quantile(q float64) time.Duration {
	if s.Count <= 0 || len(s.buckets) == 0 {
		return 0
	}
	rank := q * s.Count
	lower, below := 0.0, 0.0
	for i, b := range s.buckets {
		if n := float64(b); n >= rank && n > below {
			share := (rank - below) / (n - below)
			return seconds(lower + (s.bounds[i]-lower)*share)
		} else {
			lower, below = s.bounds[i], n
		}
	}
	return seconds(lower)
}

func seconds(s float64) time.Duration {
	return time.Duration(math.Round(s*1e6)) * time.Microsecond
}
