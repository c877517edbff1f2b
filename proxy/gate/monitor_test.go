package gate_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/banyan-go/banyan/proxy/gate"
)

// An outage is noticed within 10 requests, in the request that proves it, whatever it looks like and whatever came before.
func TestOutage(t *testing.T) {
	t.Parallel()
	for _, kind := range []struct {
		failure string
		status  int
		rule    string
	}{
		{gate.NotSent, 0, gate.RuleTrip}, {gate.MaybeSent, 0, gate.RuleTrip}, {gate.Aborted, 200, gate.RuleTrip},
		{gate.Answered5xx, 500, gate.RuleErrors}, {gate.None, 503, gate.RuleErrors}, {"", 502, gate.RuleErrors},
		{"a name of tomorrow", 504, gate.RuleErrors},
	} {
		for _, share := range []int{10, 500, 5000, 10000} {
			for _, before := range []int{0, 20_000} {
				t.Run(fmt.Sprintf("%s %d, %d bp, after %d", kind.failure, kind.status, share, before), func(t *testing.T) {
					t.Parallel()
					tr := newTraffic(t, config(), 1).canary(share)
					if n := tr.until(before); n > 0 {
						t.Fatalf("bad after %d requests that were well: %s", n, describe(tr.bad[0]))
					}
					broken := tr.clock.Now()
					n := 0
					for len(tr.bad) == 0 && n < 20 {
						tr.clock.Advance(tr.every)
						s := tr.sample(1+tr.rng.Uint64N(tr.subjects), true)
						s.Failure, s.Status, s.Trace = kind.failure, kind.status, fmt.Sprint("trace ", n)
						tr.observe(s)
						n++
					}
					if n > 10 || len(tr.bad) == 0 {
						t.Fatalf("not noticed in 10 requests but %d", n)
					}
					e := tr.want(gate.Bad, kind.rule)
					if e.Epoch != 1 || !e.At.Equal(tr.clock.Now()) || e.Since.After(e.At) || e.Reason == "" || e.Remote.Bad < 5 || e.Remote.Requests < e.Remote.Bad {
						t.Errorf("the evidence is incomplete: %+v", e)
					}
					if e.Rule == gate.RuleTrip && !e.Since.After(broken) {
						t.Errorf("it began at %s, not before %s", e.Since, broken)
					}
					if len(e.Samples) < 5 || len(e.Traces) != len(e.Samples) || e.Traces[len(e.Traces)-1] != fmt.Sprint("trace ", n-1) {
						t.Errorf("the newest samples are to be in the evidence: %v", e.Traces)
					}
					// It stays bad, and is told once.
					tr.remote.failing = 0
					tr.until(2000)
					tr.want(gate.Bad, kind.rule)
				})
			}
		}
	}
}

// A million remote requests at 0.4 % of failures, with client errors and times that vary as they do, are never bad.
func TestNoFalseAlarm(t *testing.T) {
	t.Parallel()
	million, seeds := 1_000_000, 6
	if testing.Short() {
		million, seeds = 100_000, 2
	}
	for seed := range seeds {
		share := []int{5000, 9900, 10000}[seed%3]
		t.Run(fmt.Sprintf("seed %d, %d bp", seed, share), func(t *testing.T) {
			t.Parallel()
			tr := newTraffic(t, config(), uint64(seed)).canary(share)
			for tr.sent[1] < million {
				if n := tr.until(10_000); n > 0 {
					t.Fatalf("bad after %d remote requests: %s", tr.sent[1], describe(tr.bad[0]))
				}
			}
			v := tr.monitor.Verdict(tr.clock.Now())
			if v.State == gate.Bad || v.Remote.Requests != uint64(tr.sent[1]) || v.Remote.Failures < uint64(million)/1000*3 {
				t.Errorf("%s", describe(v))
			}
		})
	}
}

// The same with few of many requests remote, where each of them weighs much.
func TestNoFalseAlarmOfAFew(t *testing.T) {
	t.Parallel()
	n := 2_000_000
	if testing.Short() {
		n = 200_000
	}
	for _, share := range []int{10, 100} {
		t.Run(fmt.Sprint(share), func(t *testing.T) {
			t.Parallel()
			tr := newTraffic(t, config(), 11).canary(share)
			tr.subjects = 500_000
			if i := tr.until(n); i > 0 {
				t.Fatalf("bad after %d: %s", i, describe(tr.bad[0]))
			}
		})
	}
}

// Whoever fails more than is tolerated is found, the sooner the more it fails.
func TestErrors(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name          string
		remote, local float64
		within        int // remote requests; 0 is never, in 200,000
	}{
		{"half", 0.5, 0.004, 60},
		{"a tenth", 0.1, 0.004, 400},
		{"p1", 0.03, 0.004, 3000},
		{"local is worse", 0.02, 0.05, 0},
		{"both alike, more than tolerated", 0.05, 0.05, 0},
		{"both alike, a lot more", 0.3, 0.3, 0},
		{"much more than a local side that fails itself", 0.3, 0.05, 400},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			tr := newTraffic(t, config(), 3).canary(5000)
			tr.remote.failing, tr.local.failing = 0.004, tt.local
			tr.until(10_000) // what local shows is learned from it
			tr.remote.failing = tt.remote
			before := tr.sent[1]
			tr.until(400_000)
			n := tr.sent[1] - before
			switch {
			case tt.within == 0:
				if len(tr.bad) > 0 {
					t.Fatalf("bad after %d: %s", n, describe(tr.bad[0]))
				}
			case len(tr.bad) == 0 || n > tt.within:
				t.Fatalf("not found within %d but %d requests", tt.within, n)
			default:
				tr.want(gate.Bad, gate.RuleErrors)
			}
		})
	}
}

// A few failures in a row are no outage yet, but nobody should say that all is good.
func TestSuspicionIsNotGood(t *testing.T) {
	t.Parallel()
	tr := newTraffic(t, config(), 24).canary(5000)
	tr.until(40_000)
	tr.want(gate.Good, "")
	for range 5 {
		s := tr.sample(1, true)
		s.Status, s.Failure = 500, gate.None
		tr.observe(s)
	}
	tr.want(gate.NotEnough, "")
	tr.until(5000)
	tr.want(gate.Good, "")
	for i := range 25 {
		s := tr.sample(uint64(i+1), true)
		s.Status, s.Failure = 401, gate.None
		tr.observe(s)
	}
	tr.want(gate.NotEnough, "")
}

// What is tolerated because local failed is tolerated no more when local is well again.
func TestLocalIsForgiven(t *testing.T) {
	t.Parallel()
	tr := newTraffic(t, config(), 25).canary(5000)
	tr.remote.failing, tr.local.failing = 0.1, 0.1
	tr.until(200_000)
	tr.remote.failing, tr.local.failing = 0.004, 0.004
	tr.until(40_000)
	tr.want(gate.Good, "")
	tr.remote.failing = 0.1
	tr.until(1000)
	tr.want(gate.Bad, gate.RuleErrors)
}

// When both sides fail at the same moment what they share has failed, and going home would help nobody. When local has
// recovered and remote has not it is bad at once.
func TestFaultOfBoth(t *testing.T) {
	t.Parallel()
	tr := newTraffic(t, config(), 4).canary(5000)
	tr.until(20_000)
	tr.remote.failing, tr.local.failing = 1, 1
	if n := tr.until(5000); n > 0 {
		t.Fatalf("bad after %d requests of an outage that both have: %s", n, describe(tr.bad[0]))
	}
	if v := tr.monitor.Verdict(tr.clock.Now()); v.State != gate.NotEnough {
		t.Fatalf("in an outage it is %s", v.State)
	}
	tr.local.failing = 0
	tr.until(5000)
	tr.want(gate.Bad, gate.RuleErrors)

	// Local alone fails: that says nothing against remote, also not that remote alone still finds out what is not there.
	for _, given := range []float64{0.02, 0.3} {
		tr = newTraffic(t, config(), 4).canary(5000)
		tr.remote.status, tr.local.status = map[int]float64{404: given}, map[int]float64{404: given}
		tr.until(20_000)
		tr.local.failing = 1
		if n := tr.until(50_000); n > 0 {
			t.Fatalf("bad because local fails: %s", describe(tr.bad[0]))
		}
	}
}

func TestClientErrors(t *testing.T) {
	t.Parallel()
	for _, status := range []int{401, 403, 404, 409, 422} {
		for _, share := range []int{100, 5000} {
			t.Run(fmt.Sprintf("%d at %d bp", status, share), func(t *testing.T) {
				t.Parallel()
				tr := newTraffic(t, config(), uint64(status)).canary(share)
				tr.until(50_000)
				tr.remote.status = map[int]float64{404: 0.02, 409: 0.005}
				tr.remote.status[status] += 0.1
				before := tr.sent[1]
				tr.until(100_000)
				e := tr.want(gate.Bad, gate.RuleClientErrors)
				if n := tr.sent[1] - before; n > 1500 {
					t.Errorf("found after %d remote requests", n)
				}
				if !strings.Contains(e.Reason, fmt.Sprint(status)) || len(e.Samples) == 0 || e.Remote.Bad == 0 || e.Since.Before(start.Add(40*time.Second)) {
					t.Errorf("the evidence is incomplete: %+v", e)
				}
				for _, s := range e.Samples {
					if s.Status != status || !s.Remote {
						t.Errorf("a sample that is none: %+v", s)
					}
				}
			})
		}
	}
	t.Run("of a few who ask often", func(t *testing.T) {
		t.Parallel()
		tr := newTraffic(t, config(), 20).canary(5000)
		tr.subjects = 400
		tr.until(100_000)
		tr.remote.status = map[int]float64{401: 1}
		tr.until(1000)
		tr.want(gate.Bad, gate.RuleClientErrors)
	})
	for _, tt := range []struct {
		name   string
		change func(tr *traffic)
	}{
		{"many, on both sides", func(tr *traffic) {
			tr.remote.status = map[int]float64{401: 0.1, 404: 0.3}
			tr.local.status = tr.remote.status
		}},
		{"a little more than local", func(tr *traffic) { tr.remote.status = map[int]float64{404: 0.026, 409: 0.005} }},
		{"fewer than local", func(tr *traffic) { tr.remote.status = nil }},
		{"others", func(tr *traffic) { tr.remote.status = map[int]float64{400: 0.3, 429: 0.3} }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			tr := newTraffic(t, config(), 5).canary(5000)
			tt.change(tr)
			tr.until(300_000)
			tr.want(gate.Good, "")
		})
	}
	t.Run("left out", func(t *testing.T) {
		t.Parallel()
		tr := newTraffic(t, config(func(c *gate.Config) { c.ClientErrors.Ratio = 0 }), 5).canary(5000)
		tr.remote.status = map[int]float64{401: 0.5}
		tr.until(200_000)
		tr.want(gate.Good, "")
	})
}

// One client that asks for what is not there, day and night, is no drift; nor is one whose answers are slow.
func TestOneClientIsOneWitness(t *testing.T) {
	t.Parallel()
	tr := newTraffic(t, config(), 6).canary(100)
	for i := range 400_000 {
		tr.one()
		if i%2 == 0 {
			s := tr.sample(4711, true)
			s.Status, s.Failure, s.Duration = 404, gate.None, time.Second
			if i%4 == 0 {
				s.Status = 200
			}
			tr.observe(s)
		}
	}
	if len(tr.bad) > 0 {
		t.Fatalf("%s", describe(tr.bad[0]))
	}
}

func TestLatency(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		change func(tr *traffic)
		bad    bool
	}{
		{"remote takes twice as long", func(tr *traffic) { tr.remote.median *= 2 }, true},
		{"three times", func(tr *traffic) { tr.remote.median *= 3 }, true},
		{"the slowest alone are slower", func(tr *traffic) { tr.remote.tail = 0.03 }, true},
		{"both have a tail", func(tr *traffic) { tr.remote.tail, tr.local.tail = 0.03, 0.03 }, false},
		{"alike", func(*traffic) {}, false},
		{"a fifth slower", func(tr *traffic) { tr.remote.median = tr.remote.median * 6 / 5 }, false},
		{"remote is faster", func(tr *traffic) { tr.remote.median /= 5 }, false},
		{"the way there", func(tr *traffic) {
			tr.local.median, tr.remote.median, tr.local.spread, tr.remote.spread = 200_000, 1_500_000, 0.3, 0.3
		}, false},
		{"more than the way there", func(tr *traffic) {
			tr.local.median, tr.remote.median, tr.local.spread, tr.remote.spread = 200_000, 15_000_000, 0.3, 0.3
		}, true},
		{"streams have no time", func(tr *traffic) { tr.local.median = 0 }, false},
	} {
		for _, share := range []int{500, 5000} {
			t.Run(fmt.Sprintf("%s, %d bp", tt.name, share), func(t *testing.T) {
				t.Parallel()
				tr := newTraffic(t, config(), 8).canary(share)
				tt.change(tr)
				tr.until(180_000) // 6 windows
				if !tt.bad {
					if len(tr.bad) > 0 {
						t.Fatalf("%s", describe(tr.bad[0]))
					}
					return
				}
				e := tr.want(gate.Bad, gate.RuleLatency)
				if at := e.At.Sub(start); at > 70*time.Second {
					t.Errorf("two windows of 30 seconds do, and it took %s", at)
				}
				if e.Remote.Bad == 0 || e.Remote.P99 <= e.Local.P99 || len(e.Samples) == 0 || len(e.Traces) == 0 || !e.Since.Equal(start) {
					t.Errorf("the evidence is incomplete: %+v", e)
				}
			})
		}
	}
}

// A canary of reads has no writes; they are slower, and must not hide that reads have become so. Nor is a route bad that
// only one side answers.
func TestLikeIsComparedWithLike(t *testing.T) {
	t.Parallel()
	send := func(tr *traffic, remote bool, route string, took time.Duration) {
		s := tr.sample(1+tr.rng.Uint64N(tr.subjects), remote)
		s.Route, s.Duration, s.Status, s.Failure = route, took+time.Duration(tr.rng.Int64N(int64(took/2))), 200, gate.None
		tr.observe(s)
	}
	const read, write, report = "GET /api/orders", "POST /api/orders", "GET /api/orders/report"
	tr := newTraffic(t, config(), 9).canary(5000)
	for range 40_000 {
		tr.clock.Advance(2 * time.Millisecond)
		send(tr, false, read, 10*time.Millisecond)
		send(tr, false, write, 200*time.Millisecond)
		send(tr, true, read, 30*time.Millisecond)
	}
	if e := tr.want(gate.Bad, gate.RuleLatency); e.Local.Requests > e.Remote.Requests*5/4 {
		t.Errorf("writes were compared: %+v", e)
	}

	tr = newTraffic(t, config(), 9).canary(5000)
	for i := range 60_000 {
		tr.clock.Advance(2 * time.Millisecond)
		send(tr, false, read, 10*time.Millisecond)
		send(tr, true, read, 10*time.Millisecond)
		send(tr, true, report, 3*time.Second)
		// Only answers that are a success are compared.
		if i%5 == 0 {
			for _, remote := range []bool{false, true} {
				s := tr.sample(1+tr.rng.Uint64N(tr.subjects), remote)
				s.Route, s.Status, s.Failure, s.Duration = read, 404, gate.None, time.Millisecond
				if remote {
					s.Duration = time.Second
				}
				tr.observe(s)
			}
		}
	}
	tr.want(gate.Good, "")
}

// A window has as many answers of each side as it takes, or goes on.
func TestWindowNeedsAnswers(t *testing.T) {
	t.Parallel()
	tr := newTraffic(t, config(func(c *gate.Config) { c.Latency.Breaches = "1of1" }), 26).canary(5000)
	for i := range 200 {
		tr.want(gate.NotEnough, "")
		tr.clock.Advance(time.Minute)
		for _, remote := range []bool{false, true} {
			s := tr.sample(uint64(i+1), remote)
			s.Status, s.Failure, s.Route = 200, gate.None, routes[0]
			if remote {
				s.Duration *= 50
			}
			tr.monitor.Observe(s)
			if s.Route = routes[1]; remote {
				s.Route = routes[2] // only one of them answers it
			}
			tr.monitor.Observe(s)
		}
	}
	if e := tr.want(gate.Bad, gate.RuleLatency); e.Remote.Requests != 200 || e.Local.Requests != 200 {
		t.Errorf("%+v", e)
	}
}

// A stall that is over before the next window is not bad, and it is not good either while it is the last that was seen.
func TestOneBreachIsNotBad(t *testing.T) {
	t.Parallel()
	tr := newTraffic(t, config(), 10).canary(5000)
	tr.until(31_000)
	tr.want(gate.Good, "")
	tr.remote.median *= 4
	tr.until(30_000)
	tr.want(gate.NotEnough, "")
	tr.remote.median /= 4
	tr.until(30_000)
	tr.want(gate.Good, "")
	tr.until(210_000)
	tr.want(gate.Good, "")
	tr.remote.median *= 4
	tr.until(30_000) // long after the first one
	tr.remote.median /= 4
	tr.until(30_000)
	tr.want(gate.Good, "")
}

// No data is neither good nor bad, however long there is none.
func TestNoDataSaysNothing(t *testing.T) {
	t.Parallel()
	years := func(tr *traffic) {
		for range 100 {
			tr.clock.Advance(30 * 24 * time.Hour)
			tr.want(gate.NotEnough, "")
		}
	}
	tests := map[string]func(tr *traffic){
		"nobody asks": func(*traffic) {},
		"four failures": func(tr *traffic) {
			for range 4 {
				s := tr.sample(1, true)
				s.Status, s.Failure = 0, gate.NotSent
				tr.observe(s)
			}
		},
		"fifty that are well": func(tr *traffic) {
			for i := range 50 {
				s := tr.sample(uint64(i+1), true)
				s.Status, s.Failure = 200, gate.None
				tr.observe(s)
			}
		},
		"local alone": func(tr *traffic) {
			for i := range 100_000 {
				tr.clock.Advance(tr.every)
				tr.observe(tr.sample(uint64(i+1), false))
			}
		},
		"clients that go away": func(tr *traffic) {
			for i := range 100_000 {
				s := tr.sample(uint64(i+1), true)
				s.Status, s.Failure = []int{0, 499, 502, 499}[i%4], []string{gate.ClientAbort, gate.None, gate.Overload, gate.ClientAbort}[i%4]
				tr.observe(s)
			}
			if v := tr.monitor.Verdict(tr.clock.Now()); v.Remote.Requests != 0 {
				tr.t.Errorf("they were counted: %s", describe(v))
			}
		},
		"too few to compare": func(tr *traffic) {
			for i := range 199 {
				for _, remote := range []bool{false, true} {
					s := tr.sample(uint64(i+1), remote)
					s.Status, s.Failure = 200, gate.None
					if remote {
						s.Duration = time.Minute
						if i >= 100 {
							s.Status = 401
						}
					}
					tr.observe(s)
				}
			}
		},
		"remote alone, where both should answer": func(tr *traffic) {
			for i := range 100_000 {
				tr.clock.Advance(tr.every)
				tr.observe(tr.sample(uint64(i+1), true))
			}
		},
	}
	for name, send := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tr := newTraffic(t, config(), 12).canary(5000)
			send(tr)
			years(tr)
		})
	}
	t.Run("before the first stage", func(t *testing.T) {
		t.Parallel()
		tr := newTraffic(t, config(), 12)
		for range 100 {
			s := tr.sample(1, true)
			s.Status, s.Failure = 0, gate.NotSent
			tr.observe(s)
		}
		tr.want(gate.NotEnough, "")
	})
	t.Run("local", func(t *testing.T) {
		t.Parallel()
		tr := newTraffic(t, config(), 12)
		tr.begin(gate.Stage{Epoch: 1, Placement: gate.Local, Share: 5000})
		tr.remote.failing = 1 // requests that were on their way
		tr.until(10_000)
		tr.want(gate.NotEnough, "")
	})
}

// Failures between those that are not counted are still in a row.
func TestWhatIsNotCountedHidesNothing(t *testing.T) {
	t.Parallel()
	tr := newTraffic(t, config(), 13).canary(5000)
	for range 5 {
		for _, failure := range []string{gate.ClientAbort, gate.Overload, gate.NotSent} {
			s := tr.sample(1, true)
			s.Status, s.Failure = 0, failure
			tr.observe(s)
		}
	}
	tr.want(gate.Bad, gate.RuleTrip)
}

// Only what follows one after the other trips.
func TestTripIsInARow(t *testing.T) {
	t.Parallel()
	tr := newTraffic(t, config(func(c *gate.Config) { c.Errors.CUSUM.H = 100 }), 22).canary(5000)
	for i := range 40 {
		s := tr.sample(1, true)
		s.Status, s.Failure = 0, gate.MaybeSent
		if i%5 == 4 {
			s.Status, s.Failure = []int{200, 500}[i%2], gate.None
		}
		tr.observe(s)
		s = tr.sample(2, false) // what local does is nothing to it
		s.Status, s.Failure = []int{0, 200}[i%2], []string{gate.Aborted, gate.None}[i%2]
		tr.observe(s)
	}
	tr.want(gate.NotEnough, "")
}

// In shadow the same subjects are on both sides.
func TestShadow(t *testing.T) {
	t.Parallel()
	for _, forbidden := range []float64{0, 0.1} {
		tr := newTraffic(t, config(), 23)
		tr.subjects = 2000
		tr.begin(gate.Stage{Placement: gate.Shadow, Control: true})
		tr.remote.status = map[int]float64{403: forbidden, 404: 0.02, 409: 0.005}
		for range 40_000 {
			s := tr.one()
			copied := tr.sample(s.Subject, true)
			copied.Route = s.Route
			tr.observe(copied)
		}
		if forbidden == 0 {
			tr.want(gate.Good, "")
		} else {
			tr.want(gate.Bad, gate.RuleClientErrors)
		}
	}
}

// With no local side there is nothing to compare with: the rest judges alone.
func TestWithoutControl(t *testing.T) {
	t.Parallel()
	tr := newTraffic(t, config(), 14)
	tr.begin(gate.Stage{Epoch: 1, Placement: gate.Remote, Share: 10000})
	for i := range 100 {
		s := tr.sample(uint64(i+1), true)
		s.Status, s.Failure = 200, gate.None
		tr.observe(s)
	}
	tr.want(gate.NotEnough, "") // a hundred that are well are many at 3 % of failures too
	tr.until(5000)
	tr.want(gate.Good, "")
	if v := tr.monitor.Verdict(tr.clock.Now()); len(v.Rules) != 2 {
		t.Errorf("%s", describe(v))
	}
	tr.remote.failing = 0.3
	tr.until(1000)
	tr.want(gate.Bad, gate.RuleErrors)

	// What local still answers is not what remote does.
	tr.remote.failing, tr.remote.status = 0.004, map[int]float64{401: 0.5}
	tr.begin(gate.Stage{Epoch: 2, Placement: gate.Remote, Share: 5000})
	tr.until(20_000)
	tr.want(gate.Good, "")
}

// A stage begins with nothing, and what began before it does not count.
func TestStagesAreApart(t *testing.T) {
	t.Parallel()
	tr := newTraffic(t, config(), 15).canary(5000)
	before := tr.clock.Now()
	tr.remote.failing = 1
	tr.until(100)
	tr.want(gate.Bad, gate.RuleErrors)
	tr.clock.Advance(time.Second)
	tr.canary(5000)
	tr.want(gate.NotEnough, "")
	for range 100 {
		s := tr.sample(1, true)
		s.At, s.Failure, s.Status = before, gate.NotSent, 0
		tr.observe(s)
	}
	tr.want(gate.NotEnough, "")
	if v := tr.monitor.Verdict(tr.clock.Now()); v.Remote.Requests != 0 {
		t.Errorf("%s", describe(v))
	}
	tr.until(100)
	tr.want(gate.Bad, gate.RuleErrors)
}

// The first request of a stage that is bad says so, once, whoever else is asking and observing.
func TestManyAtOnce(t *testing.T) {
	t.Parallel()
	var told atomic.Int64
	m, err := gate.NewMonitor(config(func(c *gate.Config) { c.Latency.Window, c.Latency.Min = 10*time.Millisecond, 10 }), func(gate.Verdict) { told.Add(1) })
	if err != nil {
		t.Fatal(err)
	}
	const stages = 20
	for stage := range stages {
		m.Begin(gate.Stage{Epoch: uint64(stage), Placement: gate.Canary, Share: 5000, Control: true}, start)
		var wg sync.WaitGroup
		for g := range 4 {
			wg.Go(func() {
				for i := range 2000 {
					s := gate.Sample{At: start.Add(time.Duration(i) * time.Millisecond), Remote: i%2 == 0, Route: routes[i%4], Subject: uint64(i), Status: 200, Duration: time.Millisecond}
					if g == 3 && i > 1000 && s.Remote {
						s.Status = 500
					}
					m.Observe(s)
					if g == 0 && i%50 == 0 {
						m.Verdict(s.At)
					}
				}
			})
		}
		wg.Wait()
		if v := m.Verdict(start.Add(time.Hour)); v.State != gate.Bad || v.Remote.Requests != 4000 || v.Local.Requests != 4000 {
			t.Fatalf("%s", describe(v))
		}
	}
	if told.Load() != stages {
		t.Errorf("told %d times in %d stages", told.Load(), stages)
	}
}

// What a verdict says can be stored, and is not long.
func TestStorable(t *testing.T) {
	t.Parallel()
	tr := newTraffic(t, config(), 16).canary(5000)
	for i := range 100_000 {
		s := tr.sample(uint64(i+1), i%2 == 0)
		s.Route = fmt.Sprint(i)
		tr.observe(s)
	}
	for range 10 {
		s := tr.sample(1, true)
		s.Failure = gate.NotSent
		tr.observe(s)
	}
	v := tr.monitor.Verdict(tr.clock.Now())
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	var back gate.Verdict
	if err := json.Unmarshal(text, &back); err != nil || back.State != gate.Bad || back.Evidence.Rule != gate.RuleTrip {
		t.Errorf("%v: %s", err, text)
	}
	if len(text) > 10_000 {
		t.Errorf("the verdict takes %d bytes", len(text))
	}
}

func TestAll(t *testing.T) {
	t.Parallel()
	good, none, bad := gate.Verdict{State: gate.Good}, gate.Verdict{}, gate.Verdict{State: gate.Bad, Evidence: &gate.Evidence{Rule: "shadow"}}
	for _, tt := range []struct {
		of   []gate.Verdict
		want gate.State
	}{
		{[]gate.Verdict{good}, gate.Good}, {[]gate.Verdict{good, good}, gate.Good}, {[]gate.Verdict{good, none}, gate.NotEnough},
		{[]gate.Verdict{none, good}, gate.NotEnough}, {[]gate.Verdict{none, bad}, gate.Bad}, {[]gate.Verdict{bad, none, good}, gate.Bad},
	} {
		got := gate.All(tt.of[0], tt.of[1:]...)
		if got.State != tt.want || (got.Evidence != nil) != (tt.want == gate.Bad) {
			t.Errorf("%v: %s", tt.of, got.State)
		}
	}
}

func TestObserveAllocatesNothing(t *testing.T) {
	for _, remote := range []bool{false, true} {
		tr := newTraffic(t, config(), 17).canary(5000)
		samples := make([]gate.Sample, 5000)
		for i := range samples {
			samples[i] = tr.sample(uint64(i+1), remote)
			tr.monitor.Observe(tr.sample(uint64(i+1), !remote))
			tr.monitor.Observe(samples[i])
		}
		i := 0
		if n := testing.AllocsPerRun(4000, func() { tr.monitor.Observe(samples[i%len(samples)]); i++ }); n > 0 {
			t.Errorf("%v allocations", n)
		}
	}
}

// Routes beyond the limit take no memory.
func TestRoutesAreBounded(t *testing.T) {
	tr := newTraffic(t, config(), 16).canary(5000)
	names := make([]string, 20_000)
	for i := range names {
		names[i] = fmt.Sprint(i)
	}
	i := 0
	more := func() {
		s := tr.sample(uint64(i+1), i%2 == 0)
		s.Route = names[i]
		tr.monitor.Observe(s)
		i++
	}
	for range 10_000 {
		more()
	}
	if n := testing.AllocsPerRun(5000, more); n > 0 {
		t.Errorf("%v allocations per route", n)
	}
}

func BenchmarkObserve(b *testing.B) {
	for _, kind := range []string{"local", "remote", "mixed"} {
		b.Run(kind, func(b *testing.B) {
			m, samples := observed(b, kind)
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				m.Observe(samples[i%len(samples)])
			}
		})
	}
	b.Run("parallel", func(b *testing.B) {
		m, samples := observed(b, "mixed")
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			for i := 0; pb.Next(); i++ {
				m.Observe(samples[i%len(samples)])
			}
		})
	})
}

func observed(b *testing.B, kind string) (*gate.Monitor, []gate.Sample) {
	tr := newTraffic(b, config(), 18).canary(5000)
	samples := make([]gate.Sample, 1<<14)
	for i := range samples {
		tr.clock.Advance(tr.every)
		samples[i] = tr.sample(1+tr.rng.Uint64N(tr.subjects), kind == "remote" || kind == "mixed" && i%2 == 0)
	}
	return tr.monitor, samples
}
