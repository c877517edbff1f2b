package proxy

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/banyan-go/banyan/internal/errs"
	"github.com/banyan-go/banyan/proxy/gate"
	"github.com/banyan-go/banyan/proxy/shadow"
)

const judgeEvery = time.Second

// judge asks the gates of the modules that are moving what to do, and does it.
func (g *Gateway) judge(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(judgeEvery):
		}
		for name, r := range g.remotes {
			if r.monitor != nil {
				g.consider(ctx, name, r)
			}
		}
	}
}

func (g *Gateway) consider(ctx context.Context, name string, r *remote) {
	p := g.table.Load().placements[name]
	if p.State == Local || p.State == Retired {
		return
	}
	now := time.Now()
	verdict := r.monitor.Verdict(now)
	if p.State == Shadow {
		verdict = gate.All(verdict, shadowVerdict(r.mirror.Judge()))
	}
	g.applying.Lock()
	progress, decision := g.gates.Next(g.progress[name], gate.Input{Now: now, Verdict: verdict, Held: p.Held || p.Paused})
	g.progress[name] = progress
	g.applying.Unlock()
	switch decision.Action {
	case gate.Advance:
		to := p
		to.State, to.Reads, to.Writes = State(decision.Placement), 0, 0
		if to.State == Canary {
			to.Reads = decision.Share
			to.Writes = min(p.Writes, to.Reads)
		}
		g.tryMove(ctx, p, to, decision)
	case gate.Rollback:
		if p.State == Canary {
			g.takeHome(name, verdict)
		} else {
			g.tryMove(ctx, p, p.home(), decision)
		}
	case gate.Hold:
		if decision.Alarm {
			g.log.ErrorContext(ctx, "a module does badly where it is, and cannot go back by itself", "module", name, "placement", p.State, "reason", decision.Reason)
		}
	}
}

func shadowVerdict(j shadow.Judgement) gate.Verdict {
	v := gate.Verdict{}
	switch j.Verdict {
	case shadow.Good:
		v.State = gate.Good
	case shadow.Bad:
		v.State = gate.Bad
	}
	rule := gate.Rule{Name: "shadow", State: v.State}
	for _, reason := range j.Reasons {
		rule.Reason += reason + "; "
	}
	v.Rules = []gate.Rule{rule}
	if v.State == gate.Bad {
		v.Evidence = &gate.Evidence{Rule: "shadow", Reason: rule.Reason}
	}
	return v
}

// homing is a module that is answered here already, while its record is still to follow.
type homing struct {
	from, to Placement
	evidence any
	said     bool // that the record does not
}

// takeHome has the next request of a canary that is bad answered here; the record follows. It is called in the request that showed it.
func (g *Gateway) takeHome(name string, v gate.Verdict) {
	// One step: what somebody else changes meanwhile, as a pause, must not be undone.
	g.applying.Lock()
	defer g.applying.Unlock()
	list := g.Placements()
	i := slices.IndexFunc(list, func(p Placement) bool { return p.Module == name })
	p := list[i]
	if v.Stage.Epoch != g.remotes[name].stage || p.Held || p.Paused || p.State != Canary || !g.cfg.Gates.Automatic.Rollback {
		return // judge says what becomes of it
	}
	list[i] = p.home()
	if err := g.apply(list); err != nil {
		g.log.Error("the way back is refused", "module", name, "error", err)
		return
	}
	g.progress[name], _ = g.gates.Next(g.progress[name], gate.Input{Now: time.Now(), Verdict: v})
	g.homing[name] = &homing{from: p, to: p.home(), evidence: v.Evidence}
	select {
	case g.homed <- struct{}{}:
	default:
	}
}

// keepHome leaves what was taken home here as long as its record has not moved on. It needs the lock.
func (g *Gateway) keepHome(list []Placement) []Placement {
	list = slices.Clone(list)
	for i, p := range list {
		h := g.homing[p.Module]
		switch {
		case h == nil:
		case p.moved() == h.from.moved():
			list[i] = p.home()
		default:
			delete(g.homing, p.Module)
		}
	}
	return list
}

// follow has the records follow what was taken home here, until ctx ends. The control store may be away for long.
func (g *Gateway) follow(ctx context.Context) error {
	for {
		g.applying.Lock()
		waiting := maps.Clone(g.homing)
		g.applying.Unlock()
		var again <-chan time.Time
		for _, h := range waiting {
			err := g.move(ctx, h.from, h.to, h.evidence)
			if errors.Is(err, ErrMoved) {
				err = g.refresh(ctx) // what is known here may be older than that
			}
			if err == nil {
				g.followed(h)
				continue
			}
			if !h.said && ctx.Err() == nil {
				h.said = true
				g.log.Error("a module was taken home here, and its record cannot follow yet", "module", h.from.Module, "from", h.from.State, "error", err)
			}
			again = time.After(judgeEvery)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-g.homed:
		case <-again:
		}
	}
}

// followed puts in force what the record says by now.
func (g *Gateway) followed(h *homing) {
	g.applying.Lock()
	defer g.applying.Unlock()
	if name := h.from.Module; g.homing[name] == h {
		delete(g.homing, name)
	}
	if err := g.apply(g.keepHome(g.placements.Current())); err != nil {
		g.log.Error("placements refused; the ones before stay in force", "error", err)
	}
}

func (g *Gateway) refresh(ctx context.Context) error {
	r, ok := g.placements.(Refresher)
	if !ok {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, moveTime)
	defer cancel()
	return r.Refresh(ctx)
}

const moveTime = 10 * time.Second

// move has the record of a module moved.
func (g *Gateway) move(ctx context.Context, from, to Placement, evidence any) error {
	ctx, cancel := context.WithTimeout(ctx, moveTime)
	defer cancel()
	err := g.placements.Move(ctx, from, to, evidence)
	switch {
	case err == nil:
		g.metrics.moves.WithLabelValues(from.Module, string(to.State)).Inc()
		g.log.Warn("a module was moved by its gates", "module", from.Module, "from", from.State, "to", to.State, "reads", to.Reads, "evidence", evidence)
	case errors.Is(err, ErrMoved):
		g.log.Warn("a module was to be moved by its gates, and somebody else has moved it meanwhile", "module", from.Module, "from", from.State, "to", to.State, "reads", to.Reads, "evidence", evidence)
	}
	return err
}

// tryMove moves a module that stays where it is if that fails, and is asked about again.
func (g *Gateway) tryMove(ctx context.Context, from, to Placement, evidence any) {
	if err := g.move(ctx, from, to, evidence); err != nil && !errors.Is(err, ErrMoved) {
		g.log.Error("a module could not be moved", "module", from.Module, "from", from.State, "to", to.State, "error", err)
	}
}

// Gates are the verdicts on the modules that have a second process, for people.
func (g *Gateway) Gates() map[string]gate.Verdict {
	verdicts := map[string]gate.Verdict{}
	for name, r := range g.remotes {
		if r.monitor != nil {
			verdicts[name] = r.monitor.Verdict(time.Now())
		}
	}
	return verdicts
}

// ShadowReport is what the comparison of a module's answers has found.
func (g *Gateway) ShadowReport(name string) (any, error) {
	r := g.remotes[name]
	if r == nil || r.mirror == nil {
		return nil, errs.New(errs.NotFound, "module %s has no second process to compare with; say where it is in modules.%s.endpoints", name, name)
	}
	return map[string]any{"module": name, "judgement": r.mirror.Judge(), "report": r.mirror.Report()}, nil
}

func sortedKeys[K cmp.Ordered, V any](m map[K]V) []K { return slices.Sorted(maps.Keys(m)) }
