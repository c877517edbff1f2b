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
		g.move(ctx, p, to, decision)
	case gate.Rollback:
		g.goHome(ctx, p, decision)
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

// tripped is called in the request that showed that the remote side is bad. The next request is answered here already; the
// placement follows.
func (g *Gateway) tripped(name string, v gate.Verdict) {
	// One step: what somebody else changes meanwhile, as a pause, must not be undone.
	g.applying.Lock()
	defer g.applying.Unlock()
	list := g.Placements()
	i := slices.IndexFunc(list, func(p Placement) bool { return p.Module == name })
	p := list[i]
	if p.Held || p.Paused || p.State != Canary || !g.cfg.Gates.Automatic.Rollback {
		return // judge says what becomes of it
	}
	home := Placement{Module: name, State: Local, Epoch: p.Epoch}
	list[i] = home
	if err := g.apply(list); err != nil {
		g.log.Error("the way back is refused", "module", name, "error", err)
		return
	}
	progress, _ := g.gates.Next(g.progress[name], gate.Input{Now: time.Now(), Verdict: v})
	g.progress[name] = progress
	go g.move(context.Background(), p, home, v.Evidence)
}

// goHome takes a module back.
func (g *Gateway) goHome(ctx context.Context, p Placement, d gate.Decision) {
	g.move(ctx, p, Placement{Module: p.Module, State: Local, Epoch: p.Epoch}, d)
}

func (g *Gateway) move(ctx context.Context, from, to Placement, evidence any) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	err := g.placements.Move(ctx, from, to, evidence)
	if err != nil && !errors.Is(err, ErrMoved) {
		g.log.Error("a module could not be moved", "module", from.Module, "from", from.State, "to", to.State, "error", err)
		return
	}
	if err == nil {
		g.metrics.moves.WithLabelValues(from.Module, string(to.State)).Inc()
	}
	g.log.Warn("a module was moved by its gates", "module", from.Module, "from", from.State, "to", to.State, "reads", to.Reads, "evidence", evidence)
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
