package gate

import (
	"fmt"
	"slices"
	"time"
)

// Action is what a decision asks for.
type Action string

// The actions.
const (
	Hold     Action = "hold"     // leave it as it is
	Advance  Action = "advance"  // to Decision.Placement and Decision.Share
	Rollback Action = "rollback" // to where it is safe, which the caller knows
)

// What a decision that holds waits for.
const (
	WaitNothing  = ""         // nothing is moving
	WaitData     = "data"     // more requests, or a verdict that is good
	WaitTime     = "time"     // the step's time
	WaitApproval = "approval" // somebody to approve the step
	WaitCooldown = "cooldown" // the time after a rollback
	WaitOperator = "operator" // somebody to move it: nothing is done automatically
	WaitFinal    = "final"    // somebody to make it remote: the last step is passed
)

// Progress is what a controller remembers of a module. The zero value is a fresh start: set it when somebody places the
// module by hand.
type Progress struct {
	Approved  int       `json:"approved,omitempty"`  // the step that may be left
	Rollbacks int       `json:"rollbacks,omitempty"` // one after the other
	From      string    `json:"from,omitempty"`      // the placement of the last rollback
	Left      time.Time `json:"left,omitzero"`       // when the stage began that it ended
	Until     time.Time `json:"until,omitzero"`      // cooling down
	Held      bool      `json:"held,omitempty"`      // nothing goes on by itself
}

// Input is what a controller decides from.
type Input struct {
	Now     time.Time
	Verdict Verdict // of the stage that is in force; the stage says where the module is
	Held    bool    // the configuration forbids automatic moves
	Trapped bool    // there is no safe way back, as when the store is not shared
}

// Decision is what to do with a module, and why.
type Decision struct {
	Action    Action  `json:"action"`
	Placement string  `json:"placement,omitempty"` // to advance to, or what an operator may advance to
	Share     int     `json:"share,omitempty"`     // basis points, in canary
	Waiting   string  `json:"waiting,omitempty"`
	Alarm     bool    `json:"alarm,omitempty"` // it is bad and stays where it is
	Reason    string  `json:"reason"`
	Verdict   Verdict `json:"verdict"` // with the evidence
}

// Controller decides where a module goes from its verdicts. It keeps nothing.
type Controller struct {
	steps     []int
	approve   []int
	cooldown  []time.Duration
	step      Step
	automatic Automatic
}

// NewController makes a controller.
func NewController(cfg Config) (*Controller, error) {
	if err := cfg.Validate("gate"); err != nil {
		return nil, err
	}
	c := &Controller{step: cfg.Canary.Step, automatic: cfg.Automatic}
	// Validate has read them.
	c.steps, _ = parseSteps(cfg.Canary.Steps)
	c.approve, _ = parseSteps(cfg.Canary.ApproveAt)
	c.cooldown, _ = parseCooldown(cfg.Rollback.Cooldown)
	return c, nil
}

// Approve lets a step be left that asks for it, now or when it is reached.
func (c *Controller) Approve(p Progress, share int) (Progress, error) {
	if !slices.Contains(c.approve, share) {
		return p, fmt.Errorf("%d is no step that asks for approval; those are %v", share, c.approve)
	}
	p.Approved = share
	return p, nil
}

// Next decides. Its answer to the same question is the same, so it can be asked again when a decision could not be
// carried out: only a rollback changes what is remembered, and only once per stage.
func (c *Controller) Next(p Progress, in Input) (Progress, Decision) {
	v := in.Verdict
	d := Decision{Action: Hold, Verdict: v}
	switch {
	case v.Stage.Placement == Local || v.Stage.Placement == "":
		return p, c.atHome(p, in, d)
	case v.State == Bad:
		return c.goBack(p, in, d)
	}
	if d.Waiting, d.Reason = c.unready(p, in); d.Waiting != WaitNothing {
		return p, d
	}
	switch v.Stage.Placement {
	case Shadow:
		d.Placement, d.Share = Canary, c.steps[0]
	case Canary:
		if d.Share = c.after(v.Stage.Share); d.Share > 0 {
			d.Placement = Canary
			break
		}
		d.Placement, d.Waiting, d.Reason = Remote, WaitFinal, "the last step is passed"
		return Progress{Approved: p.Approved}, d
	default:
		d.Reason = v.Stage.Placement + ", and good"
		return Progress{Approved: p.Approved}, d
	}
	switch {
	case in.Held:
		d.Waiting, d.Reason = WaitOperator, "good, and held by configuration"
	case !c.automatic.Advance:
		d.Waiting, d.Reason = WaitOperator, "good; automatic.advance is off"
	default:
		d.Action, d.Reason = Advance, "good"
	}
	return p, d
}

// atHome is for a module that is local: it may be there after a rollback.
func (c *Controller) atHome(p Progress, in Input, d Decision) Decision {
	switch {
	case p.Rollbacks == 0:
		d.Reason = "local"
		return d
	case p.Held:
		d.Waiting, d.Reason = WaitOperator, fmt.Sprintf("went home %d times", p.Rollbacks)
		return d
	case in.Now.Before(p.Until):
		d.Waiting, d.Reason = WaitCooldown, fmt.Sprintf("cools down until %s", p.Until.Format(time.RFC3339))
		return d
	}
	if d.Placement = Canary; p.From == Shadow {
		d.Placement = Shadow
	} else {
		d.Share = c.steps[0]
	}
	if in.Held || !c.automatic.Advance {
		d.Waiting, d.Reason = WaitOperator, "has cooled down"
		return d
	}
	d.Action, d.Reason = Advance, "has cooled down"
	return d
}

func (c *Controller) goBack(p Progress, in Input, d Decision) (Progress, Decision) {
	v := in.Verdict
	d.Reason = "bad"
	if v.Evidence != nil {
		d.Reason = v.Evidence.Rule + ": " + v.Evidence.Reason
	}
	if reason := c.stays(in); reason != "" {
		d.Alarm, d.Waiting, d.Reason = true, WaitOperator, d.Reason+"; "+reason
		return p, d
	}
	d.Action = Rollback
	if p.Rollbacks > 0 && p.Left.Equal(v.Began) {
		return p, d // the same one again: it was not carried out yet
	}
	p = Progress{Rollbacks: p.Rollbacks + 1, From: v.Stage.Placement, Left: v.Began}
	if wait := c.cooldown[min(p.Rollbacks, len(c.cooldown))-1]; wait == untilTold {
		p.Held = true
	} else {
		p.Until = in.Now.Add(wait)
	}
	return p, d
}

// stays says why a module that is bad is left where it is; "" if it is not.
func (c *Controller) stays(in Input) string {
	switch {
	case in.Verdict.Stage.Placement == Retired:
		return "retired is left by a human alone"
	case in.Trapped:
		return "there is no safe way back"
	case in.Held:
		return "held by configuration"
	case !c.automatic.Rollback:
		return "automatic.rollback is off"
	}
	return ""
}

// unready says what is missing before the stage may be left.
func (c *Controller) unready(p Progress, in Input) (waiting, reason string) {
	v := in.Verdict
	switch passed := in.Now.Sub(v.Began); {
	case p.Held:
		return WaitOperator, fmt.Sprintf("went back %d times", p.Rollbacks)
	case in.Now.Before(p.Until):
		return WaitCooldown, fmt.Sprintf("cools down until %s", p.Until.Format(time.RFC3339))
	case v.State != Good:
		return WaitData, undecided(v)
	case passed < c.step.MinTime:
		return WaitTime, fmt.Sprintf("%s of %s have passed", passed.Truncate(time.Second), c.step.MinTime)
	case v.Remote.Requests < uint64(c.step.MinRequests):
		return WaitData, fmt.Sprintf("%d of %d remote requests", v.Remote.Requests, c.step.MinRequests)
	case v.Remote.Subjects < uint64(c.step.MinSubjects):
		return WaitData, fmt.Sprintf("%d of %d remote subjects", v.Remote.Subjects, c.step.MinSubjects)
	case v.Stage.Placement == Canary && slices.Contains(c.approve, v.Stage.Share) && p.Approved != v.Stage.Share:
		return WaitApproval, fmt.Sprintf("%d basis points are good, and are to be approved", v.Stage.Share)
	}
	return WaitNothing, ""
}

// undecided names the first rule that is not good.
func undecided(v Verdict) string {
	for _, r := range v.Rules {
		if r.State != Good {
			return r.Name + ": " + r.Reason
		}
	}
	return "nothing is known yet"
}

// after is the step that follows a share; 0 if none does.
func (c *Controller) after(share int) int {
	for _, s := range c.steps {
		if s > share {
			return s
		}
	}
	return 0
}
