package gate_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/banyan-go/banyan/proxy/gate"
)

func controller(t *testing.T, cfg gate.Config) *gate.Controller {
	t.Helper()
	c, err := gate.NewController(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func advancing(c *gate.Config) { c.Automatic.Advance = true }

// at is a verdict of a stage that began at start, with all that a step takes.
func at(placement string, share int, state gate.State) gate.Verdict {
	v := gate.Verdict{
		State: state, Stage: gate.Stage{Epoch: 3, Placement: placement, Share: share}, Began: start,
		Remote: gate.Totals{Requests: 500, Subjects: 50},
	}
	if state == gate.Bad {
		v.Evidence = &gate.Evidence{Rule: gate.RuleErrors, Reason: "it failed", Traces: []string{"t"}}
	}
	return v
}

func TestNext(t *testing.T) {
	t.Parallel()
	const passed = 5 * time.Minute
	few, strangers := at(gate.Canary, 100, gate.Good), at(gate.Canary, 100, gate.Good)
	few.Remote.Requests, strangers.Remote.Subjects = 499, 49
	type want struct {
		action    gate.Action
		placement string
		share     int
		waiting   string
		alarm     bool
	}
	stay := func(waiting string) want { return want{action: gate.Hold, waiting: waiting} }
	tests := []struct {
		name     string
		cfg      gate.Config
		progress gate.Progress
		verdict  gate.Verdict
		after    time.Duration
		input    gate.Input // held, trapped
		want     want
	}{
		{"good goes on", config(advancing), gate.Progress{}, at(gate.Canary, 100, gate.Good), passed, gate.Input{}, want{gate.Advance, gate.Canary, 500, "", false}},
		{"a share between steps goes to the next", config(advancing), gate.Progress{}, at(gate.Canary, 101, gate.Good), passed, gate.Input{}, want{gate.Advance, gate.Canary, 500, "", false}},
		{"nobody is remote yet", config(advancing), gate.Progress{}, at(gate.Canary, 0, gate.Good), passed, gate.Input{}, want{gate.Advance, gate.Canary, 10, "", false}},
		{"shadow becomes canary", config(advancing), gate.Progress{}, at(gate.Shadow, 0, gate.Good), passed, gate.Input{}, want{gate.Advance, gate.Canary, 10, "", false}},
		{"too early", config(advancing), gate.Progress{}, at(gate.Canary, 100, gate.Good), passed - 1, gate.Input{}, stay(gate.WaitTime)},
		{"too few requests", config(advancing), gate.Progress{}, few, passed, gate.Input{}, stay(gate.WaitData)},
		{"too few subjects", config(advancing), gate.Progress{}, strangers, passed, gate.Input{}, stay(gate.WaitData)},
		{"no data", config(advancing), gate.Progress{}, at(gate.Canary, 100, gate.NotEnough), 1000 * time.Hour, gate.Input{}, stay(gate.WaitData)},
		{"no data in shadow", config(advancing), gate.Progress{}, at(gate.Shadow, 0, gate.NotEnough), 1000 * time.Hour, gate.Input{}, stay(gate.WaitData)},
		{"no data in remote", config(advancing), gate.Progress{}, at(gate.Remote, 0, gate.NotEnough), 1000 * time.Hour, gate.Input{}, stay(gate.WaitData)},
		{"held by configuration", config(advancing), gate.Progress{}, at(gate.Canary, 100, gate.Good), passed, gate.Input{Held: true}, want{gate.Hold, gate.Canary, 500, gate.WaitOperator, false}},
		{"not automatic", config(), gate.Progress{}, at(gate.Canary, 100, gate.Good), passed, gate.Input{}, want{gate.Hold, gate.Canary, 500, gate.WaitOperator, false}},
		{"to be approved", config(advancing), gate.Progress{}, at(gate.Canary, 5000, gate.Good), passed, gate.Input{}, stay(gate.WaitApproval)},
		{"approved", config(advancing), gate.Progress{Approved: 5000}, at(gate.Canary, 5000, gate.Good), passed, gate.Input{}, want{gate.Advance, gate.Canary, 10000, "", false}},
		{"bad while it is to be approved", config(advancing), gate.Progress{}, at(gate.Canary, 5000, gate.Bad), passed, gate.Input{}, want{gate.Rollback, "", 0, "", false}},
		{"bad although approved", config(advancing), gate.Progress{Approved: 5000}, at(gate.Canary, 5000, gate.Bad), 0, gate.Input{}, want{gate.Rollback, "", 0, "", false}},
		{"the last step", config(advancing), gate.Progress{Rollbacks: 1}, at(gate.Canary, 10000, gate.Good), passed, gate.Input{}, want{gate.Hold, gate.Remote, 0, gate.WaitFinal, false}},
		{"bad at once", config(), gate.Progress{}, at(gate.Canary, 100, gate.Bad), 0, gate.Input{}, want{gate.Rollback, "", 0, "", false}},
		{"bad in shadow", config(), gate.Progress{}, at(gate.Shadow, 0, gate.Bad), 0, gate.Input{}, want{gate.Rollback, "", 0, "", false}},
		{"bad in remote", config(), gate.Progress{}, at(gate.Remote, 0, gate.Bad), 0, gate.Input{}, want{gate.Rollback, "", 0, "", false}},
		{"remote and good", config(advancing), gate.Progress{}, at(gate.Remote, 0, gate.Good), passed, gate.Input{}, stay("")},
		{"bad, and no way back", config(), gate.Progress{}, at(gate.Remote, 0, gate.Bad), 0, gate.Input{Trapped: true}, want{gate.Hold, "", 0, gate.WaitOperator, true}},
		{"bad, and held", config(), gate.Progress{}, at(gate.Canary, 100, gate.Bad), 0, gate.Input{Held: true}, want{gate.Hold, "", 0, gate.WaitOperator, true}},
		{"bad, and not automatic", config(func(c *gate.Config) { c.Automatic.Rollback = false }), gate.Progress{}, at(gate.Canary, 100, gate.Bad), 0, gate.Input{}, want{gate.Hold, "", 0, gate.WaitOperator, true}},
		{"bad, and retired", config(), gate.Progress{}, at(gate.Retired, 0, gate.Bad), 0, gate.Input{}, want{gate.Hold, "", 0, gate.WaitOperator, true}},
		{"local", config(advancing), gate.Progress{}, at(gate.Local, 0, gate.NotEnough), passed, gate.Input{}, stay("")},
		{"cooling down", config(advancing), gate.Progress{Rollbacks: 1, From: gate.Canary, Until: start.Add(2)}, at(gate.Local, 0, gate.NotEnough), 1, gate.Input{}, stay(gate.WaitCooldown)},
		{"has cooled down", config(advancing), gate.Progress{Rollbacks: 1, From: gate.Remote, Until: start.Add(2)}, at(gate.Local, 0, gate.NotEnough), 2, gate.Input{}, want{gate.Advance, gate.Canary, 10, "", false}},
		{"has cooled down from shadow", config(advancing), gate.Progress{Rollbacks: 1, From: gate.Shadow, Until: start.Add(2)}, at(gate.Local, 0, gate.NotEnough), 2, gate.Input{}, want{gate.Advance, gate.Shadow, 0, "", false}},
		{"has cooled down, not automatic", config(), gate.Progress{Rollbacks: 1, From: gate.Canary, Until: start.Add(2)}, at(gate.Local, 0, gate.NotEnough), 2, gate.Input{}, want{gate.Hold, gate.Canary, 10, gate.WaitOperator, false}},
		{"has cooled down, held", config(advancing), gate.Progress{Rollbacks: 1, From: gate.Canary}, at(gate.Local, 0, gate.NotEnough), 2, gate.Input{Held: true}, want{gate.Hold, gate.Canary, 10, gate.WaitOperator, false}},
		{"stays home", config(advancing), gate.Progress{Rollbacks: 3, From: gate.Canary, Held: true}, at(gate.Local, 0, gate.NotEnough), 1000 * time.Hour, gate.Input{}, stay(gate.WaitOperator)},
		{"went back to canary, and cools down", config(advancing), gate.Progress{Rollbacks: 1, From: gate.Remote, Until: start.Add(time.Hour)}, at(gate.Canary, 100, gate.Good), passed, gate.Input{}, stay(gate.WaitCooldown)},
		{"went back to canary, and is held", config(advancing), gate.Progress{Rollbacks: 3, From: gate.Remote, Held: true}, at(gate.Canary, 100, gate.Good), passed, gate.Input{}, stay(gate.WaitOperator)},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			in := tt.input
			in.Now, in.Verdict = start.Add(tt.after), tt.verdict
			c := controller(t, tt.cfg)
			after, d := c.Next(tt.progress, in)
			if got := (want{d.Action, d.Placement, d.Share, d.Waiting, d.Alarm}); got != tt.want {
				t.Errorf("got %+v (%s), want %+v", got, d.Reason, tt.want)
			}
			if d.Reason == "" {
				t.Error("there is no reason")
			}
			if tt.verdict.State == gate.Bad && (d.Verdict.Evidence != tt.verdict.Evidence || !strings.Contains(d.Reason, "errors: it failed")) {
				t.Errorf("the evidence is missing: %s", d.Reason)
			}
			// What could not be carried out is asked for again, and is not counted twice.
			again, second := c.Next(after, in)
			if diff := cmp.Diff(again, after); diff != "" || second.Action != d.Action || second.Waiting != d.Waiting {
				t.Errorf("asked again: %+v\n%s", second, diff)
			}
		})
	}
}

// The last cooldown holds for all that follow.
func TestCooldowns(t *testing.T) {
	t.Parallel()
	c := controller(t, config(func(c *gate.Config) { c.Rollback.Cooldown = []string{"1m", "2m"} }))
	var p gate.Progress
	for i, want := range []time.Duration{time.Minute, 2 * time.Minute, 2 * time.Minute, 2 * time.Minute} {
		v := at(gate.Canary, 100, gate.Bad)
		v.Began = start.Add(time.Duration(i) * time.Hour)
		now := v.Began.Add(time.Second)
		p, _ = c.Next(p, gate.Input{Now: now, Verdict: v})
		if p.Rollbacks != i+1 || p.Until.Sub(now) != want || p.Held || p.From != gate.Canary {
			t.Errorf("rollback %d: %+v", i+1, p)
		}
	}
}

// Who has come to the end starts from nothing when it turns bad later.
func TestRollbacksAreForgotten(t *testing.T) {
	t.Parallel()
	c := controller(t, config(advancing))
	for _, v := range []gate.Verdict{at(gate.Canary, 10000, gate.Good), at(gate.Remote, 0, gate.Good)} {
		p, d := c.Next(gate.Progress{Rollbacks: 2, From: gate.Canary, Approved: 5000}, gate.Input{Now: start.Add(time.Hour), Verdict: v})
		if p != (gate.Progress{Approved: 5000}) {
			t.Errorf("%s: %+v", d.Reason, p)
		}
	}
}

// Whatever else is so, no data moves nothing.
func TestNoDataMovesNothing(t *testing.T) {
	t.Parallel()
	for _, placement := range []string{gate.Shadow, gate.Canary, gate.Remote, gate.Retired} {
		for _, share := range []int{0, 10, 5000, 10000} {
			for mask := range 16 {
				cfg := config(func(c *gate.Config) { c.Automatic.Advance = true })
				p := gate.Progress{}
				if mask&1 != 0 {
					p.Approved = share
				}
				if mask&2 != 0 {
					p.Rollbacks, p.From = 1, placement
				}
				in := gate.Input{Now: start.Add(10_000 * time.Hour), Verdict: at(placement, share, gate.NotEnough), Held: mask&4 != 0, Trapped: mask&8 != 0}
				after, d := controller(t, cfg).Next(p, in)
				if d.Action != gate.Hold || d.Alarm || after != p {
					t.Errorf("%s %d %04b: %+v", placement, share, mask, d)
				}
			}
		}
	}
}

func TestApprove(t *testing.T) {
	t.Parallel()
	c := controller(t, config())
	p, err := c.Approve(gate.Progress{Rollbacks: 1}, 5000)
	if err != nil || p.Approved != 5000 || p.Rollbacks != 1 {
		t.Errorf("%+v, %v", p, err)
	}
	if same, err := c.Approve(p, 2500); err == nil || same != p || !strings.Contains(err.Error(), "5000") {
		t.Errorf("%+v, %v", same, err)
	}
	// An approval is for this time: after a rollback it is asked for again.
	p, _ = c.Next(p, gate.Input{Now: start, Verdict: at(gate.Canary, 5000, gate.Bad)})
	if p.Approved != 0 {
		t.Errorf("still approved after a rollback: %+v", p)
	}
}

// The whole way on a simulated clock, with a monitor that sees the requests: up step by step, home when it turns bad, up
// again after 5 minutes, home, up again after 30, home, and there it stays.
func TestTheWholeWay(t *testing.T) {
	t.Parallel()
	cfg := config(advancing, func(c *gate.Config) { c.Canary.Steps = []string{"100", "1000", "5000", "10000"} })
	c := controller(t, cfg)
	tr := newTraffic(t, cfg, 21)
	tr.every = 8 * time.Millisecond
	tr.begin(gate.Stage{Placement: gate.Canary, Share: 100, Control: true})
	var p gate.Progress
	type event struct {
		action gate.Action
		share  int
		rule   string
	}
	var got []event
	var times []time.Duration
	step := func() gate.Decision {
		var d gate.Decision
		p, d = c.Next(p, gate.Input{Now: tr.clock.Now(), Verdict: tr.monitor.Verdict(tr.clock.Now())})
		if d.Action == gate.Hold {
			return d
		}
		e := event{action: d.Action, share: d.Share}
		next := gate.Stage{Epoch: tr.stage.Epoch + 1, Placement: d.Placement, Share: d.Share, Control: d.Share < 10000}
		if d.Action == gate.Rollback {
			e.rule = d.Verdict.Evidence.Rule
			next.Placement, next.Control = gate.Local, false
		}
		got, times = append(got, e), append(times, tr.clock.Now().Sub(start))
		tr.begin(next)
		return d
	}
	run := func(long time.Duration) (last gate.Decision) {
		for end := tr.clock.Now().Add(long); tr.clock.Now().Before(end); {
			for range 50 {
				told := len(tr.bad)
				tr.one()
				if len(tr.bad) > told {
					step()
				}
			}
			last = step()
		}
		return last
	}

	if d := run(time.Hour); d.Waiting != gate.WaitApproval || tr.stage.Share != 5000 {
		t.Fatalf("after an hour it waits for %q at %d: %s; %s", d.Waiting, tr.stage.Share, d.Reason, describe(d.Verdict))
	}
	// The gates go on while it waits.
	tr.remote.failing = 1
	before := tr.clock.Now()
	run(time.Minute)
	if home := start.Add(times[len(times)-1]).Sub(before); home > time.Second {
		t.Errorf("home %s after it turned bad", home)
	}
	// It is still bad when it tries again.
	run(2 * time.Hour)
	if d := run(time.Hour); d.Waiting != gate.WaitOperator || tr.stage.Placement != gate.Local || !p.Held {
		t.Fatalf("it waits for %q in %s: %s", d.Waiting, tr.stage.Placement, d.Reason)
	}
	want := []event{
		{gate.Advance, 1000, ""}, {gate.Advance, 5000, ""}, {gate.Rollback, 0, gate.RuleErrors},
		{gate.Advance, 100, ""}, {gate.Rollback, 0, gate.RuleErrors},
		{gate.Advance, 100, ""}, {gate.Rollback, 0, gate.RuleErrors},
	}
	if diff := cmp.Diff(got, want, cmp.AllowUnexported(event{})); diff != "" {
		t.Fatalf("(-got +want)\n%s", diff)
	}
	for i, least := range map[int]time.Duration{0: 5 * time.Minute, 1: 5 * time.Minute, 3: 5 * time.Minute, 5: 30 * time.Minute} {
		from := time.Duration(0)
		if i > 0 {
			from = times[i-1]
		}
		if took := times[i] - from; took < least || took > least+10*time.Minute {
			t.Errorf("step %d took %s, wanted %s or somewhat more", i, took, least)
		}
	}
	// Somebody mends it and begins anew.
	tr.remote.failing = 0.004
	p = gate.Progress{}
	tr.begin(gate.Stage{Epoch: 100, Placement: gate.Canary, Share: 5000, Control: true})
	p, err := c.Approve(p, 5000)
	if err != nil {
		t.Fatal(err)
	}
	if d := run(30 * time.Minute); d.Waiting != gate.WaitFinal || d.Placement != gate.Remote || tr.stage.Share != 10000 {
		t.Errorf("it waits for %q at %d: %s", d.Waiting, tr.stage.Share, d.Reason)
	}
}
