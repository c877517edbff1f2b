package gate_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/banyan-go/banyan/internal/clock"
	"github.com/banyan-go/banyan/proxy/gate"
)

var start = time.Date(2026, 3, 1, 9, 0, 0, 0, time.UTC)

// side is how one side behaves.
type side struct {
	failing float64         // share of 5xx
	status  map[int]float64 // share of client errors
	median  time.Duration   // of a log-normal distribution
	spread  float64         // its sigma
	tail    float64         // share of answers that take 20 times as long
}

func well() side {
	return side{failing: 0.004, status: map[int]float64{404: 0.02, 409: 0.005}, median: 8 * time.Millisecond, spread: 0.8}
}

// traffic is a module's requests: subjects who stay on their side, some routes, so many requests a second.
type traffic struct {
	t        testing.TB
	clock    *clock.Simulated
	rng      *rand.Rand
	monitor  *gate.Monitor
	bad      []gate.Verdict // as it was told, or found when it asked
	stage    gate.Stage
	subjects uint64
	every    time.Duration // between requests
	remote   side
	local    side
	asked    time.Time
	sent     [2]int // local, remote
}

func newTraffic(t testing.TB, cfg gate.Config, seed uint64) *traffic {
	tr := &traffic{
		t: t, clock: clock.NewSimulated(start), rng: rand.New(rand.NewPCG(seed, 1)), subjects: 20_000, every: time.Millisecond,
		remote: well(), local: well(), asked: start,
	}
	m, err := gate.NewMonitor(cfg, func(v gate.Verdict) { tr.bad = append(tr.bad, v) })
	if err != nil {
		t.Fatal(err)
	}
	tr.monitor = m
	return tr
}

// canary begins a stage in which both sides answer.
func (tr *traffic) canary(share int) *traffic {
	tr.begin(gate.Stage{Epoch: tr.stage.Epoch + 1, Placement: gate.Canary, Share: share, Control: share < 10000})
	return tr
}

func (tr *traffic) begin(s gate.Stage) {
	tr.stage, tr.sent = s, [2]int{}
	tr.monitor.Begin(s, tr.clock.Now())
}

func (tr *traffic) bucket(subject uint64) int {
	return int(rand.New(rand.NewPCG(subject, 7)).Uint64N(10000))
}

// sample is what becomes of a request of that subject.
func (tr *traffic) sample(subject uint64, remote bool) gate.Sample {
	from := tr.local
	if remote {
		from = tr.remote
	}
	s := gate.Sample{
		At: tr.clock.Now(), Remote: remote, Route: routes[tr.rng.IntN(len(routes))], Subject: subject, Status: 200, Failure: gate.None,
		Duration: time.Duration(float64(from.median) * math.Exp(from.spread*tr.rng.NormFloat64())), Trace: "t",
	}
	if tr.rng.Float64() < from.tail {
		s.Duration *= 20
	}
	if tr.rng.Float64() < from.failing {
		s.Status, s.Failure = 500, gate.Answered5xx
		return s
	}
	x := tr.rng.Float64()
	for _, status := range []int{400, 401, 403, 404, 409, 422, 429} {
		if x -= from.status[status]; x < 0 {
			s.Status = status
			break
		}
	}
	return s
}

var routes = []string{"GET /api/orders", "GET /api/orders/{id}", "GET /api/orders/{id}/history", "POST /api/orders"}

// one is the next request; the verdict is asked for once a second.
func (tr *traffic) one() gate.Sample {
	tr.clock.Advance(tr.every)
	subject := 1 + tr.rng.Uint64N(tr.subjects)
	remote := tr.bucket(subject) < tr.stage.Share
	s := tr.sample(subject, remote)
	tr.observe(s)
	return s
}

func (tr *traffic) observe(s gate.Sample) {
	if s.Remote {
		tr.sent[1]++
	} else {
		tr.sent[0]++
	}
	tr.monitor.Observe(s)
	if now := tr.clock.Now(); now.Sub(tr.asked) >= time.Second {
		tr.asked = now
		if v := tr.monitor.Verdict(now); v.State == gate.Bad && v.Evidence.Rule == gate.RuleLatency && tr.told() == 0 {
			tr.bad = append(tr.bad, v)
		}
	}
}

// until sends so many requests at most, and says after how many it was told that the stage is bad; 0 is never.
func (tr *traffic) until(n int) int {
	before := len(tr.bad)
	for i := range n {
		tr.one()
		if len(tr.bad) > before {
			return i + 1
		}
	}
	return 0
}

// config is the default with changes.
func config(change ...func(*gate.Config)) gate.Config {
	cfg := gate.DefaultConfig()
	for _, c := range change {
		c(&cfg)
	}
	return cfg
}

func (tr *traffic) want(state gate.State, rule string) *gate.Evidence {
	tr.t.Helper()
	v := tr.monitor.Verdict(tr.clock.Now())
	got := ""
	if v.Evidence != nil {
		got = v.Evidence.Rule
	}
	if v.State != state || got != rule {
		tr.t.Fatalf("the verdict is %s by %q, wanted %s by %q: %s", v.State, got, state, rule, describe(v))
	}
	if want := map[bool]int{true: 1}[state == gate.Bad]; tr.told() != want && rule != gate.RuleLatency {
		tr.t.Fatalf("it was told %d times, wanted %d", tr.told(), want)
	}
	return v.Evidence
}

func (tr *traffic) told() int {
	n := 0
	for _, b := range tr.bad {
		if b.Stage == tr.stage {
			n++
		}
	}
	return n
}

func describe(v gate.Verdict) string {
	s := fmt.Sprintf("remote %+v local %+v", v.Remote, v.Local)
	for _, r := range v.Rules {
		s += fmt.Sprintf("\n\t%s: %s: %s", r.Name, r.State, r.Reason)
	}
	if v.Evidence != nil {
		s += fmt.Sprintf("\n\tevidence: %s since %s", v.Evidence.Reason, v.Evidence.Since)
	}
	return s
}
