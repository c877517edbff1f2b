package rehearsal

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/banyan-go/banyan/internal/errs"
	"github.com/banyan-go/banyan/internal/meter"
)

// The metrics that reports are made of.
const (
	requestTimes  = "banyan_http_request_duration_seconds"
	requestCounts = "banyan_http_requests_total"
	callTimes     = "banyan_call_seconds"
	askedCounts   = "banyan_requests_total"
	lagTimes      = "banyan_relay_lag_seconds"
	deadCounts    = "banyan_messages_dead_total"
	retryCounts   = "banyan_messages_retried_total"
	timerCounts   = "banyan_timers_fired_total"
)

// Metrics are those that the meter has to know.
func Metrics() []string {
	return []string{requestTimes, requestCounts, callTimes, askedCounts, lagTimes, deadCounts, retryCounts, timerCounts}
}

// Report is what a rehearsal has found, as far as it has come.
type Report struct {
	Module   string        `json:"module"`
	Settings Settings      `json:"settings"`
	Began    time.Time     `json:"began"`
	Ended    *time.Time    `json:"ended,omitempty"`
	Why      string        `json:"why,omitempty"` // it has ended
	Before   time.Duration `json:"before"`        // that it is compared with
	Crossed  int64         `json:"crossed"`       // messages and questions that were delayed
	Lost     int64         `json:"lost"`          // of them
	Requests int64         `json:"requests"`      // hops of requests that were delayed
	Dropped  int64         `json:"dropped"`       // of them
	Lines    []Line        `json:"lines"`
	Counts   []Count       `json:"counts"`
}

// Line is a route, a question or the way of messages to a subscriber.
type Line struct {
	Kind   string `json:"kind"` // request, question or message
	Name   string `json:"name"`
	Before Times  `json:"before"`
	During Times  `json:"during"`
	Worse  string `json:"worse,omitempty"` // what got slower or broke, in words
}

// Times are how long something took, and how often it failed. Percentiles are those that buckets tell.
type Times struct {
	Count  float64       `json:"count"`
	P50    time.Duration `json:"p50"`
	P99    time.Duration `json:"p99"`
	Failed float64       `json:"failed"` // share
}

// Count is something that should not become more.
type Count struct {
	What   string  `json:"what"`
	Module string  `json:"module"`
	Before float64 `json:"before_per_minute"`
	During float64 `json:"during_per_minute"`
}

// Report is that of the last rehearsal of a module.
func (r *Rehearsals) Report(module string) (Report, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := r.last
	if n == nil || n.module != module {
		return Report{}, errs.New(errs.NotFound, "%s was not rehearsed since this process has started", module)
	}
	rep := Report{
		Module: module, Settings: n.settings, Began: n.began, Before: n.before.To.Sub(n.before.From).Round(time.Second),
		Crossed: n.crossed.Load(), Lost: n.lost.Load(), Requests: n.requests.Load(), Dropped: n.hops.Load(),
	}
	var during meter.Change
	if n.ended != nil {
		rep.Ended, rep.Why, during = &n.ended.at, n.ended.why, n.ended.change
	} else if at, err := r.o.Meter.Read(); err == nil {
		during = meter.Between(n.at, at)
	} else {
		return rep, err
	}
	rep.Lines, rep.Counts = Compare(n.before, during)
	return rep, nil
}

// Compare says what has changed between two times: the worst first.
func Compare(before, during meter.Change) ([]Line, []Count) {
	lines := []Line{}
	for _, k := range []struct {
		kind, metric string
		labels       []string
		name         func(map[string]string) string
		failed       func(c meter.Change, labels map[string]string) float64
	}{
		{"request", requestTimes, []string{"module", "method", "route"}, func(l map[string]string) string { return l["method"] + " " + l["route"] },
			func(c meter.Change, l map[string]string) float64 {
				return c.Of(requestCounts, "module", l["module"], "route", l["route"], "method", l["method"], "status", "5xx").Count
			}},
		{"question", callTimes, []string{"caller", "message"}, func(l map[string]string) string { return l["caller"] + " asks " + l["message"] },
			func(c meter.Change, l map[string]string) float64 {
				n := 0.0 // of all who ask: that is how it is counted
				for _, kind := range []errs.Kind{errs.Unavailable, errs.Timeout, errs.Internal, errs.OutcomeUnknown} {
					n += c.Of(askedCounts, "message", l["message"], "outcome", string(kind)).Count
				}
				return n
			}},
		{"message", lagTimes, []string{"module", "subscriber"}, func(l map[string]string) string { return l["module"] + " to " + l["subscriber"] },
			func(meter.Change, map[string]string) float64 { return 0 }},
	} {
		times := func(c meter.Change) map[string]Times {
			all := map[string]Times{}
			for _, s := range c.By(k.metric, k.labels...) {
				if name := k.name(s.Labels); s.Count > 0 {
					all[name] = Times{Count: s.Count, P50: s.Quantile(.5), P99: s.Quantile(.99), Failed: min(1, k.failed(c, s.Labels)/s.Count)}
				}
			}
			return all
		}
		then, now := times(before), times(during)
		for name, t := range now {
			lines = append(lines, Line{Kind: k.kind, Name: name, Before: then[name], During: t, Worse: worse(then[name], t)})
		}
	}
	slices.SortFunc(lines, func(a, b Line) int {
		return cmp.Or(cmp.Compare(b.During.Failed-b.Before.Failed, a.During.Failed-a.Before.Failed), cmp.Compare(b.During.P99-b.Before.P99, a.During.P99-a.Before.P99), cmp.Compare(a.Name, b.Name))
	})
	counts := []Count{}
	for _, k := range []struct{ what, metric, label string }{
		{"dead letters", deadCounts, "handler"}, {"attempts after the first", retryCounts, "handler"}, {"timers", timerCounts, "timer"},
	} {
		for _, s := range during.By(k.metric, "module", k.label) {
			was := before.Of(k.metric, "module", s.Labels["module"], k.label, s.Labels[k.label])
			counts = append(counts, Count{
				What: k.what + ": " + s.Labels[k.label], Module: s.Labels["module"], Before: 60 * before.PerSecond(was.Count), During: 60 * during.PerSecond(s.Count),
			})
		}
	}
	slices.SortFunc(counts, func(a, b Count) int {
		return cmp.Or(cmp.Compare(b.During-b.Before, a.During-a.Before), cmp.Compare(a.Module, b.Module), cmp.Compare(a.What, b.What))
	})
	return lines, counts
}

// What got so much slower is told of.
const (
	slowerBy    = 1.2
	slowerAtAll = time.Millisecond
	moreFail    = 0.001
)

func worse(before, during Times) string {
	switch more := during.Failed - before.Failed; {
	case more >= moreFail:
		return fmt.Sprintf("%.2g %% more fail", 100*more)
	case before.Count == 0:
		return ""
	case float64(during.P99) >= slowerBy*float64(before.P99) && during.P99-before.P99 >= slowerAtAll:
		return fmt.Sprintf("p99 %s slower", (during.P99 - before.P99).Round(100*time.Microsecond))
	case float64(during.P50) >= slowerBy*float64(before.P50) && during.P50-before.P50 >= slowerAtAll:
		return fmt.Sprintf("p50 %s slower", (during.P50 - before.P50).Round(100*time.Microsecond))
	}
	return ""
}
