package proxy

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/banyan-go/banyan/internal/identity"
	"github.com/banyan-go/banyan/internal/module"
	"github.com/banyan-go/banyan/proxy/aggregate"
	"github.com/banyan-go/banyan/proxy/cache"
	"github.com/banyan-go/banyan/proxy/compress"
	"github.com/banyan-go/banyan/proxy/discovery"
	"github.com/banyan-go/banyan/proxy/gate"
	"github.com/banyan-go/banyan/proxy/shadow"
	"github.com/banyan-go/banyan/proxy/transform"
	"github.com/banyan-go/banyan/proxy/upstream"
)

func (g *Gateway) openLimits(o Options) error {
	var err error
	if o.Budgets != nil {
		if g.sharing, err = newSharing(o.Budgets, g.clock, g.log, o.Registry); err != nil {
			return err
		}
	}
	rate := g.cfg.Rate
	g.customers = newSharedLimiter("customer", rate.Customer, rate.Clients, g.sharing)
	g.anonymous = newSharedLimiter("anonymous", rate.Anonymous, rate.Clients, g.sharing)
	g.verifications = newLimiter(rate.Anonymous, rate.Clients)
	g.limits = map[string]*limiter{"login": newSharedLimiter("login", rate.Login, rate.Clients, g.sharing)}
	return nil
}

// openParts makes what stands between the client and the target.
func (g *Gateway) openParts(o Options) error {
	var err error
	if g.cfg.Cache.Enabled {
		if g.cache, err = cache.New(g.cfg.Cache, cache.Options{Registry: o.Registry, Log: g.log}); err != nil {
			return err
		}
	}
	if g.cfg.Compress.Enabled {
		g.compressor = compress.New(g.cfg.Compress)
	}
	if len(g.cfg.Transform.Rules) > 0 {
		if g.rules, err = transform.New(g.cfg.Transform, "gateway.transform", checkPath); err != nil {
			return err
		}
	}
	if len(g.cfg.Aggregate.Aggregates) > 0 {
		g.aggregates, err = aggregate.New(g.cfg.Aggregate, aggregate.Options{Registry: o.Registry, Log: g.log})
	}
	return err
}

// openRemotes makes the upstreams that are configured, whether anybody is sent there or not.
func (g *Gateway) openRemotes(o Options) error {
	var reads []string
	for _, m := range o.Modules {
		reads = append(reads, readRoutes(m)...)
	}
	if err := g.cfg.Shadow.CheckRoutes("gateway.shadow", reads); err != nil {
		return err
	}
	for _, m := range o.Modules {
		targets := o.Endpoints[m.Name]
		if len(targets) == 0 && o.Registered == nil {
			continue
		}
		r, err := g.openModule(m, targets, o)
		if err != nil {
			return fmt.Errorf("modules.%s: %w", m.Name, err)
		}
		g.remotes[m.Name] = r
	}
	for i, f := range g.cfg.Upstreams {
		key := fmt.Sprintf("gateway.upstreams[%d]", i)
		if g.remotes[f.Name] != nil || g.modules[f.Name] {
			return fmt.Errorf("%s.name: %q is taken", key, f.Name)
		}
		secure, err := f.TLS.config()
		if err != nil {
			return fmt.Errorf("%s.%w", key, err)
		}
		up, err := g.openUpstream(f.Config, f.Endpoints, upstream.Options{Name: f.Name, Registry: o.Registry, TLS: secure})
		if err != nil {
			return fmt.Errorf("%s: %w", key, err)
		}
		g.remotes[f.Name] = &remote{name: f.Name, up: up}
	}
	return nil
}

// openModule makes the way to a module's second process: connections for requests, others for copies, and what judges both.
func (g *Gateway) openModule(m module.Descriptor, targets []string, o Options) (*remote, error) {
	if g.signer == nil {
		return nil, errors.New("endpoints: there is no key to sign assertions with")
	}
	cfg, options := g.cfg.Remote, upstream.Options{Name: m.Name, Registry: o.Registry}
	if len(targets) == 0 {
		options.Source = o.Registered(m.Name)
	}
	if o.Identity != nil {
		cfg.Protocol, options.TLS = upstream.H2, o.Identity.Client(m.Name)
		options.Roots, options.PeerName = o.Identity.Roots, "banyan://"+m.Name
	}
	up, err := g.openUpstream(cfg, targets, options)
	if err != nil {
		return nil, err
	}
	copying := cfg
	copying.Retry.Attempts, copying.Health.Active.Path = 1, ""
	copying.Bulkhead.MaxInFlight, copying.Bulkhead.MaxQueue = g.cfg.Shadow.Limits.Concurrency, 0
	// Whoever floods us is cut before it has sent much.
	options.Name, options.Registry, options.StreamBytes = m.Name+" copies", nil, spareBody
	copies, err := g.openUpstream(copying, targets, options)
	if err != nil {
		return nil, err
	}
	mirror, err := shadow.New(shadow.Options{Module: m.Name, Routes: readRoutes(m), Config: g.cfg.Shadow, Log: g.log})
	if err != nil {
		return nil, err
	}
	if g.reports != nil {
		if found, err := g.reports.Load(m.Name); err != nil {
			g.log.Warn("what the comparison has found before cannot be read; it begins anew", "module", m.Name, "error", err)
		} else if found != nil {
			mirror.Restore(*found)
		}
	}
	made := &remote{name: m.Name, up: up, copies: copies, mirror: mirror}
	made.monitor, err = gate.NewMonitor(g.cfg.Gates, func(v gate.Verdict) { g.takeHome(m.Name, v) })
	return made, err
}

func readRoutes(m module.Descriptor) []string {
	var reads []string
	for _, r := range m.Routes {
		if r.Class == module.Read {
			reads = append(reads, r.Method+" "+r.Path)
		}
	}
	return reads
}

// openUpstream makes an upstream of addresses, or of one URL of those that discover.
func (g *Gateway) openUpstream(cfg upstream.Config, targets []string, o upstream.Options) (*upstream.Upstream, error) {
	o.Clock, o.Log = g.clock, g.log
	if o.Source != nil {
		return upstream.New(cfg, o)
	}
	if discovered(targets) {
		source, err := discovery.Parse(targets, discovery.Options{Config: g.cfg.Discovery, Log: g.log})
		if err != nil {
			return nil, fmt.Errorf("endpoints: %w", err)
		}
		o.Source, cfg.Endpoints = found{source}, nil
	} else {
		cfg.Endpoints = targets
	}
	return upstream.New(cfg, o)
}

// found is what discovery finds, for an upstream.
type found struct{ discovery.Source }

func (f found) Watch(ctx context.Context, update func([]upstream.Endpoint)) error {
	return f.Source.Watch(ctx, func(list []discovery.Endpoint) {
		endpoints := make([]upstream.Endpoint, len(list))
		for i, e := range list {
			endpoints[i] = upstream.Endpoint(e)
		}
		update(endpoints)
	})
}

// Run keeps the upstreams, follows the placements and lets the gates decide, until ctx ends. Requests are answered without it,
// but no placement changes and nobody's health is looked at.
func (g *Gateway) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	for _, r := range g.remotes {
		group.Go(func() error { return r.up.Run(ctx) })
		if r.copies != nil {
			group.Go(func() error { return r.copies.Run(ctx) })
			group.Go(func() error { return r.mirror.Run(ctx) })
		}
	}
	if g.sharing != nil {
		group.Go(func() error { return g.sharing.Run(ctx) })
	}
	group.Go(func() error {
		return g.placements.Watch(ctx, func(list []Placement) {
			if err := g.Apply(list); err != nil {
				g.log.Error("placements refused; the ones before stay in force", "error", err)
			}
		})
	})
	group.Go(func() error { return g.judge(ctx) })
	group.Go(func() error { return g.follow(ctx) })
	if g.reports != nil {
		group.Go(func() error { return g.report(ctx) })
	}
	return group.Wait()
}

// Close ends what New has begun; after Run.
func (g *Gateway) Close(ctx context.Context) error {
	var failed []error
	for _, r := range g.remotes {
		for _, u := range []*upstream.Upstream{r.up, r.copies} {
			if u != nil {
				failed = append(failed, u.Drain(ctx), u.Close())
			}
		}
	}
	if g.cache != nil {
		g.cache.Close()
	}
	return errors.Join(failed...)
}

// Apply puts the placements in force: all of them at once, for requests that come from now on. If one cannot be, nothing changes. A canary
// that the gates have taken home stays there while it is told as it was: its record has still to follow.
func (g *Gateway) Apply(list []Placement) error {
	g.applying.Lock()
	defer g.applying.Unlock()
	return g.apply(g.keepHome(list))
}

// apply needs the lock.
func (g *Gateway) apply(list []Placement) error {
	t, err := g.build(list)
	if err != nil {
		g.metrics.refused.Inc()
		return err
	}
	for name, r := range g.remotes {
		if last := g.table.Load(); last != nil && last.placements[name].share() == 0 && t.placements[name].share() > 0 {
			r.up.Trust()
		}
	}
	before := g.table.Swap(t)
	// After the table: whoever waited at a door goes by the new one.
	for name, d := range g.doors {
		d.set(t.placements[name].Paused)
	}
	close(g.changed)
	g.changed = make(chan struct{})
	g.metrics.epoch.Set(float64(t.epoch))
	now := time.Now()
	for name, r := range g.remotes {
		if r.monitor == nil {
			continue
		}
		to := t.placements[name]
		if before != nil && to.State == Shadow && before.placements[name].State != Shadow {
			r.mirror.Reset() // it may be another version by now
		}
		if before == nil || before.placements[name].moved() != to.moved() {
			share := to.share()
			r.stage = t.epoch
			r.monitor.Begin(gate.Stage{Epoch: t.epoch, Placement: string(to.State), Share: share, Control: share < all}, now)
		}
		for _, s := range States {
			value := 0.0
			if s == to.State {
				value = 1
			}
			g.metrics.placement.WithLabelValues(name, string(s)).Set(value)
		}
	}
	return nil
}

// build makes the next table.
func (g *Gateway) build(list []Placement) (*table, error) {
	placements := map[string]Placement{}
	for _, d := range g.descriptors {
		placements[d.Name] = Placement{Module: d.Name, State: Local}
	}
	for _, p := range list {
		if _, known := placements[p.Module]; !known {
			return nil, fmt.Errorf("modules.%s.placement: there is no such module", p.Module)
		}
		if err := p.check(); err != nil {
			return nil, fmt.Errorf("modules.%s.placement: %w", p.Module, err)
		}
		if p.State != Local && g.remotes[p.Module] == nil {
			return nil, fmt.Errorf("modules.%s.placement: %s needs a second process; say where it is in modules.%s.endpoints, as in http://127.0.0.1:9101", p.Module, p.State, p.Module)
		}
		placements[p.Module] = p
	}
	before, epoch := g.table.Load(), uint64(1)
	if before != nil {
		epoch = before.epoch + 1
	}
	targets := map[string]*target{}
	for name, p := range placements {
		t := &target{placement: p, door: g.doors[name], remote: g.remotes[name], here: epoch, there: epoch}
		if before != nil {
			last := before.targets[name]
			if last.placement.answers(false) {
				t.here = last.here
			}
			if last.placement.answers(true) {
				t.there = last.there
			}
		}
		if p.State != Retired {
			t.local = g.local
		}
		targets[name] = t
	}
	for _, f := range g.cfg.Upstreams {
		targets[f.Name] = &target{placement: Placement{Module: f.Name, State: Remote}, remote: g.remotes[f.Name], foreign: true, token: f.Token, exact: f.Exact}
	}
	of := func(name string) *target { return targets[name] }
	t, err := buildTable(epoch, g.descriptors, of, g.limits, g.cfg.Limits.BodyBytes)
	if err != nil {
		return nil, err
	}
	if err := t.addForeign(g.cfg.Upstreams, of, g.cfg.Limits.BodyBytes); err != nil {
		return nil, err
	}
	for i, a := range g.cfg.Aggregate.Aggregates {
		r := &route{
			Route:  module.Route{ID: fmt.Sprintf("aggregate-%d", i), Method: http.MethodGet, Path: a.Path, Class: module.Read, Auth: identity.Role(a.Auth)},
			target: &target{placement: Placement{State: Local}}, maxBody: g.cfg.Limits.BodyBytes, merged: true,
		}
		if other := t.add(r); other != nil {
			return nil, fmt.Errorf("gateway.aggregate.aggregates[%d].path: %s is taken by route %s of %s", i, a.Path, other.ID, other.module)
		}
		t.routes = append(t.routes, r)
	}
	if err := t.demand(g.cfg.Policy); err != nil {
		return nil, err
	}
	t.placements, t.targets = placements, targets
	t.sort()
	for _, r := range t.routes {
		g.metrics.bind(r)
	}
	return t, nil
}

// checkAggregates refuses parts that nobody answers.
func (g *Gateway) checkAggregates() error {
	t := g.table.Load()
	return g.cfg.Aggregate.Validate("gateway.aggregate", func(method, path string) bool {
		place := t.root.find(path)
		if place == nil {
			return false
		}
		r := place.route(method)
		return r != nil && r.Class == module.Read && !r.merged && !r.target.foreign
	})
}

// Purge forgets kept answers by what they were made of: the name of a module stands for all that it has answered, other tags are those
// that it has set (Cache-Tag). Answers that are on their way are not kept either. Call it when somebody else has changed something: what
// is changed by requests through this gateway is forgotten before they are answered.
func (g *Gateway) Purge(tags ...string) {
	if g.cache != nil {
		g.cache.Purge(tags...)
	}
}

// Upstreams are how the processes behind are, for people.
func (g *Gateway) Upstreams() []upstream.Status {
	list := []upstream.Status{}
	for _, name := range sortedKeys(g.remotes) {
		list = append(list, g.remotes[name].up.Status())
	}
	return list
}

// Placements are those in force here.
func (g *Gateway) Placements() []Placement {
	t := g.table.Load()
	list := []Placement{}
	for _, name := range sortedKeys(t.placements) {
		list = append(list, t.placements[name])
	}
	return list
}
