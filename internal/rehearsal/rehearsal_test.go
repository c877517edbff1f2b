package rehearsal

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/banyan-go/banyan/internal/bus"
	"github.com/banyan-go/banyan/internal/errs"
	"github.com/banyan-go/banyan/internal/meter"
	"github.com/banyan-go/banyan/internal/telemetry"
)

type fakeBus struct{ boundary bus.Boundary }

func (b *fakeBus) SetBoundary(x bus.Boundary) { b.boundary = x }

func open(t *testing.T) (*Rehearsals, *fakeBus, *telemetry.Messages, map[string]bool) {
	t.Helper()
	registry := prometheus.NewRegistry()
	messages, b, here := telemetry.NewMessages(registry), &fakeBus{}, map[string]bool{"payments": true, "orders": true}
	return New(Options{
		Modules: []string{"orders", "payments", "stock"}, Bus: b, Local: func(m string) bool { return here[m] }, Meter: meter.New(registry, Metrics()...), Registry: registry,
	}), b, messages, here
}

func TestCrossing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, b, _, _ := open(t)
		if b.boundary != nil {
			t.Fatal("there is a boundary without a rehearsal")
		}
		if err := r.Start("payments", Settings{Latency: 5 * time.Millisecond, Errors: .1, For: time.Minute}); err != nil {
			t.Fatal(err)
		}
		roll := 1.0
		r.roll = func() float64 { return roll }
		cross := func(c bus.Crossing) (passed bool, took time.Duration, err error) {
			began := time.Now()
			err = b.boundary.Cross(t.Context(), c, func() error { passed = true; return nil })
			return passed, time.Since(began), err
		}
		for name, test := range map[string]struct {
			from, to string
			roll     float64
			passed   bool
			took     time.Duration
			lost     bool
		}{
			"of others":         {"orders", "stock", 0, true, 0, false},
			"to it":             {"orders", "payments", .1, true, 5 * time.Millisecond, false},
			"from it":           {"payments", "orders", .1, true, 5 * time.Millisecond, false},
			"lost on its way":   {"orders", "payments", .049, false, 5 * time.Millisecond, true},
			"the answer lost":   {"orders", "payments", .051, true, 5 * time.Millisecond, true},
			"of nobody we know": {"", "payments", .5, true, 5 * time.Millisecond, false},
		} {
			roll = test.roll
			passed, took, err := cross(bus.Crossing{From: test.from, To: test.to, Name: "x"})
			if passed != test.passed || took != test.took || errs.Is(err, errs.Unavailable) != test.lost {
				t.Errorf("%s: passed %v after %s with %v", name, passed, took, err)
			}
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		if err := b.boundary.Cross(ctx, bus.Crossing{To: "payments"}, func() error { t.Error("it passes after its time"); return nil }); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a way that takes longer than its time: %v", err)
		}
		roll = 0
		for losable, lost := range map[bool]bool{true: true, false: false} {
			began := time.Now()
			if err := r.Hop(t.Context(), "payments", losable); errs.Is(err, errs.Unavailable) != lost || time.Since(began) != 5*time.Millisecond {
				t.Errorf("a request (may be lost: %v): %v after %s", losable, err, time.Since(began))
			}
		}
		if err := r.Hop(t.Context(), "orders", true); err != nil {
			t.Errorf("a request to another module: %v", err)
		}
	})
}

func TestEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, b, _, here := open(t)
		settings := Settings{Latency: time.Millisecond, For: time.Minute}
		for name, test := range map[string]struct {
			module string
			s      Settings
			kind   errs.Kind
		}{
			"no such module":  {"payment", settings, errs.NotFound},
			"not here":        {"stock", settings, errs.Conflict},
			"nothing to do":   {"payments", Settings{For: time.Minute}, errs.Invalid},
			"too long":        {"payments", Settings{Latency: time.Millisecond, For: MaxFor + 1}, errs.Invalid},
			"no time":         {"payments", Settings{Latency: time.Millisecond}, errs.Invalid},
			"too many errors": {"payments", Settings{Errors: .6, For: time.Minute}, errs.Invalid},
			"too slow":        {"payments", Settings{Latency: time.Minute, For: time.Minute}, errs.Invalid},
		} {
			if err := r.Start(test.module, test.s); !errs.Is(err, test.kind) {
				t.Errorf("%s: %v, want %s", name, err, test.kind)
			}
		}
		begin := func() {
			t.Helper()
			if err := r.Start("payments", settings); err != nil {
				t.Fatal(err)
			}
			if s, on := r.State(); !on || s.Module != "payments" || b.boundary == nil {
				t.Errorf("a rehearsal is not to be seen: %+v, %v", s, on)
			}
		}
		over := func(why string) {
			t.Helper()
			rep, err := r.Report("payments")
			if r.Running() != "" || b.boundary != nil || err != nil || rep.Ended == nil || rep.Why != why {
				t.Errorf("it should be over because %s: %+v, %v", why, rep, err)
			}
		}
		begin()
		if err := r.Start("orders", settings); !errs.Is(err, errs.Conflict) {
			t.Errorf("a second one at a time: %v", err)
		}
		time.Sleep(time.Minute - 1)
		if r.Running() != "payments" {
			t.Error("it ends too soon")
		}
		time.Sleep(time.Second)
		over("its time was over")
		begin()
		if err := r.Stop("orders"); !errs.Is(err, errs.NotFound) {
			t.Errorf("the end of another one: %v", err)
		}
		if err := r.Stop("payments"); err != nil {
			t.Error(err)
		}
		over("somebody ended it")
		begin()
		here["payments"] = false
		if err := b.boundary.Cross(t.Context(), bus.Crossing{To: "payments"}, func() error { return nil }); err != nil {
			t.Error(err)
		}
		over("the module has left the process")
	})
}

func TestReport(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, _, messages, _ := open(t)
		call := func(n int, took float64, outcome string) {
			for range n {
				messages.Calls.WithLabelValues("orders", "payments.get.v1").Observe(took)
				messages.Asked.WithLabelValues("payments", "payments.get.v1", outcome).Inc()
			}
		}
		call(100, .0004, "ok")
		messages.Lag.WithLabelValues("orders", "stock").Observe(.001)
		time.Sleep(time.Minute)
		if _, err := r.Report("payments"); !errs.Is(err, errs.NotFound) {
			t.Errorf("a report without a rehearsal: %v", err)
		}
		if err := r.Start("payments", Settings{Latency: 5 * time.Millisecond, Errors: .1, For: time.Minute}); err != nil {
			t.Fatal(err)
		}
		call(90, .006, "ok")
		call(10, .006, "unavailable")
		messages.Lag.WithLabelValues("orders", "stock").Observe(.001)
		messages.Dead.WithLabelValues("payments", "orders").Inc()
		time.Sleep(30 * time.Second)
		rep, err := r.Report("payments")
		if err != nil || rep.Ended != nil || rep.Before != time.Minute || len(rep.Lines) != 2 {
			t.Fatalf("%+v, %v", rep, err)
		}
		l := rep.Lines[0]
		if l.Kind != "question" || l.Name != "orders asks payments.get.v1" || l.Before.Count != 100 || l.During.Count != 100 ||
			l.Before.P99 > time.Millisecond || l.During.P50 < 5*time.Millisecond || l.During.Failed != .1 || l.Worse != "10 % more fail" {
			t.Errorf("%+v", l)
		}
		if l := rep.Lines[1]; l.Kind != "message" || l.Name != "orders to stock" || l.Worse != "" {
			t.Errorf("%+v", l)
		}
		if len(rep.Counts) != 1 || rep.Counts[0] != (Count{"dead letters: orders", "payments", 0, 2}) {
			t.Errorf("%+v", rep.Counts)
		}
		time.Sleep(time.Minute)
		call(1000, 1, "ok") // after its end
		if rep, _ = r.Report("payments"); rep.Lines[0].During.Count != 100 {
			t.Errorf("what came after the end is in the report: %+v", rep.Lines[0])
		}
	})
}

func TestWorse(t *testing.T) {
	t.Parallel()
	ms := func(p50, p99 time.Duration, failed float64) Times {
		return Times{Count: 100, P50: p50 * time.Millisecond, P99: p99 * time.Millisecond, Failed: failed}
	}
	for name, test := range map[string]struct {
		before, during Times
		want           string
	}{
		"the same":       {ms(5, 10, 0), ms(5, 10, 0), ""},
		"a little":       {ms(5, 10, 0), ms(5, 11, 0), ""},
		"p99":            {ms(5, 10, 0), ms(5, 15, 0), "p99 5ms slower"},
		"p50":            {ms(5, 100, 0), ms(10, 100, 0), "p50 5ms slower"},
		"failures first": {ms(5, 10, 0), ms(5, 15, .02), "2 % more fail"},
		"new":            {Times{}, ms(5, 10, 0), ""},
	} {
		if got := worse(test.before, test.during); got != test.want {
			t.Errorf("%s: %q, want %q", name, got, test.want)
		}
	}
}
