// Package bus connects modules: messages from each outbox to the inboxes of its subscribers, queries and their
// replies, timers. Modules see none of it; they publish in a unit of work and handle in one.
//
// Three things are kept apart, so that a subscription can move to another transport without touching a module: who
// subscribes (the contracts and descriptors, and the control store), how a message travels (a Watermill Publisher and
// Subscriber; Local within the process), and what delivery promises (packages unit, relay and inbox, the same on every
// transport): a committed message is never lost, has its effect once per handler, and keeps its order per publisher
// and key.
//
// Between processes an outage of the broker only delays: messages wait in the outbox, and a question is held while its caller has time.
// What arrives and no version of the program could keep becomes a dead letter that blocks nothing. A process that cannot reach a
// module's store leaves its queue and its questions to others. Who subscribes to a message when it is sent gets it; who subscribes
// later gets what was kept of it when an operator replays it.
package bus

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sort"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	wm "github.com/ThreeDotsLabs/watermill/message"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"
	"golang.org/x/sync/errgroup"

	"github.com/banyan-go/banyan/internal/bus/rabbit"
	"github.com/banyan-go/banyan/internal/control"
	"github.com/banyan-go/banyan/internal/database"
	"github.com/banyan-go/banyan/internal/inbox"
	"github.com/banyan-go/banyan/internal/lease"
	"github.com/banyan-go/banyan/internal/message"
	"github.com/banyan-go/banyan/internal/module"
	"github.com/banyan-go/banyan/internal/relay"
	"github.com/banyan-go/banyan/internal/telemetry"
	"github.com/banyan-go/banyan/internal/timer"
	"github.com/banyan-go/banyan/internal/unit"
)

// Config bounds the bus.
type Config struct {
	Workers          int           `mapstructure:"workers"`           // messages on their way from one module to another at a time
	Window           int           `mapstructure:"window"`            // messages of one subscriber in memory
	HandlerTimeout   time.Duration `mapstructure:"handler_timeout"`   // of one attempt
	RetryBase        time.Duration `mapstructure:"retry_base"`        // first delay
	RetryCap         time.Duration `mapstructure:"retry_cap"`         // longest delay
	GiveUpAfter      time.Duration `mapstructure:"give_up_after"`     // from the first attempt to the dead letter
	KeepUnsubscribed time.Duration `mapstructure:"keep_unsubscribed"` // messages that nobody subscribes to
	HighWaterRows    int64         `mapstructure:"high_water_rows"`   // pending deliveries that make a module refuse writes
	HighWaterAge     time.Duration `mapstructure:"high_water_age"`    // age of the oldest one, likewise; 0 for no limit
	RequestTimeout   time.Duration `mapstructure:"request_timeout"`   // of a query whose caller has no deadline; and how long a module that nobody answers for is waited for
	LeaseTTL         time.Duration `mapstructure:"lease_ttl"`         // how soon another replica takes over
	RabbitMQ         rabbit.Config `mapstructure:"rabbitmq"`          // between processes
}

// DefaultConfig suits a small machine.
func DefaultConfig() Config {
	return Config{
		Workers: 32, Window: 256, HandlerTimeout: 30 * time.Second, RetryBase: 200 * time.Millisecond, RetryCap: 5 * time.Minute,
		GiveUpAfter: 24 * time.Hour, KeepUnsubscribed: 30 * 24 * time.Hour, HighWaterRows: 1_000_000, RequestTimeout: 5 * time.Second, LeaseTTL: 3 * time.Second,
		RabbitMQ: rabbit.DefaultConfig(),
	}
}

// Validate names the wrong key and the way out.
func (c Config) Validate() error {
	for _, v := range []struct {
		key string
		ok  bool
		way string
	}{
		{"workers", c.Workers >= 1, "give at least 1"},
		{"window", c.Window >= c.Workers, "give at least as many as bus.workers"},
		{"handler_timeout", c.HandlerTimeout > 0, "give a duration as in 30s"},
		{"retry_base", c.RetryBase > 0, "give a duration as in 200ms"},
		{"retry_cap", c.RetryCap >= c.RetryBase, "give at least bus.retry_base"},
		{"give_up_after", c.GiveUpAfter > 0, "give a duration as in 24h"},
		{"keep_unsubscribed", c.KeepUnsubscribed > 0, "give a duration as in 720h"},
		{"high_water_rows", c.HighWaterRows >= 1, "give at least 1"},
		{"high_water_age", c.HighWaterAge >= 0, "give a duration, or 0s for no limit"},
		{"request_timeout", c.RequestTimeout > 0, "give a duration as in 5s"},
		{"lease_ttl", c.LeaseTTL >= 300*time.Millisecond, "give at least 300ms"},
	} {
		if !v.ok {
			return fmt.Errorf("bus.%s: is too small; %s", v.key, v.way)
		}
	}
	return c.RabbitMQ.Validate()
}

func (c Config) policy() inbox.Policy {
	return inbox.Policy{Base: c.RetryBase, Cap: c.RetryCap, GiveUpAfter: c.GiveUpAfter, Timeout: c.HandlerTimeout}
}

// Options are what the bus works with.
type Options struct {
	Replica string              // unique name of this process
	Only    string              // the module that this process serves alone; "" for the whole shop
	Broker  *rabbit.Broker      // to modules whose owner is another process; nil for none
	Control *database.DB        // where subscriptions are registered; nil for none
	Foreign []module.Descriptor // modules that are not in this process
	Heard   func(module string) // called when something that a module has announced is about to be handled here; nil for nobody
	Tracer  trace.Tracer
	Metrics *telemetry.Messages
	Log     *slog.Logger
}

// Bus connects the modules of one process.
type Bus struct {
	cfg   Config
	opts  Options
	local *Local
	parts map[string]*part

	declared map[string][]string // wire name -> modules of this process
	foreign  map[string][]string // wire name -> modules of others, as this version of the program knows them
	place    *place
	placed   bool // modules have owners; without, this process has all of its own
	boundary atomic.Pointer[Boundary]

	mu          sync.RWMutex
	subscribers map[string][]string // wire name -> modules
	ready       bool
	ends        bool // the process does
}

// part is one module on the bus.
type part struct {
	module   *module.Module
	store    *unit.Store
	inbox    *inbox.Inbox
	relay    *relay.Relay
	timers   *timer.Timers
	lease    *lease.Lease
	notifier notifier
	routes   routes
	handlers []*inbox.Handler
	events   map[string][]*inbox.Handler // wire name -> handlers
	warned   atomic.Bool                 // that messages to others wait
}

// New is a bus without modules.
func New(cfg Config, opts Options) *Bus {
	if opts.Tracer == nil {
		opts.Tracer = noop.NewTracerProvider().Tracer("")
	}
	if opts.Metrics == nil {
		opts.Metrics = telemetry.NewMessages(nil)
	}
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	if opts.Replica == "" {
		opts.Replica = message.NewID()
	}
	return &Bus{cfg: cfg, opts: opts, local: NewLocal(), parts: map[string]*part{}, subscribers: map[string][]string{}, place: newPlace()}
}

// Add puts a module with its store on the bus; before Open.
func (b *Bus) Add(m *module.Module, store *unit.Store) error {
	if err := m.Check(); err != nil {
		return err
	}
	p := &part{module: m, store: store, events: map[string][]*inbox.Handler{}}
	p.timers = timer.New(m, store, b.cfg.policy(), b.opts.Metrics, b.opts.Log)
	p.lease = lease.New(store, b.opts.Replica, b.cfg.LeaseTTL, b.opts.Log)
	way := relay.Config{Limits: relay.Limits{Workers: b.cfg.Workers, Window: b.cfg.Window}, Sweep: time.Second, Fence: p.lease.Fence}
	if b.opts.Broker != nil {
		way.Guard = func(ctx context.Context, subscriber string, gate *relay.Way) { b.guard(ctx, p, subscriber, gate) }
	}
	p.relay = relay.New(store, way, b.send, b.opts.Metrics, b.opts.Log)
	for _, s := range append([]module.Subscription{{Handler: module.CommandHandler}}, m.Subscriptions...) {
		p.handlers = append(p.handlers, &inbox.Handler{
			Name: s.Handler, Aliases: s.Aliases, Unordered: s.Unordered, Skip: s.Skip, Group: s.Group,
			For: func(name string) module.MessageHandler { return m.MessageHandler(s.Handler, name) },
		})
	}
	p.inbox = inbox.New(store, p.handlers, b.cfg.policy(), b.opts.Metrics, b.opts.Log, p.wake,
		func(ctx context.Context, m message.Message, take inbox.Take) error { return b.resume(ctx, p, m, take) })
	store.Know(m.Payloads())
	m.Store = store
	b.parts[m.Name] = p
	return nil
}

// Open works out who subscribes to what, checks it and registers it; then units of work may publish.
func (b *Bus) Open(ctx context.Context) error {
	var contracts []message.Contract
	for _, name := range b.names() {
		contracts = append(contracts, b.parts[name].module.Contract)
	}
	names, err := wireNames(contracts)
	if err != nil {
		return err
	}
	for _, d := range b.opts.Foreign {
		names = append(names, d.Contract.Names()...)
	}
	subscribers := map[string][]string{}
	for _, name := range b.names() {
		p := b.parts[name]
		for _, c := range p.module.Contract.Commands {
			subscribers[c.MessageName()] = []string{name}
			p.events[c.MessageName()] = []*inbox.Handler{p.handlers[0]}
		}
		for i, s := range p.module.Subscriptions {
			expanded, err := expand(name, s, names)
			if err != nil {
				return err
			}
			for _, e := range expanded {
				if p.module.MessageHandler(s.Handler, e) == nil {
					return fmt.Errorf("module %s: handler %s has no function for %s", name, s.Handler, e)
				}
				p.events[e] = append(p.events[e], p.handlers[i+1])
				if !slices.Contains(subscribers[e], name) {
					subscribers[e] = append(subscribers[e], name)
				}
			}
		}
		for _, sent := range p.module.Sends {
			if _, known := b.parts[message.Module(sent)]; known && !isCommand(contracts, sent) {
				return fmt.Errorf("module %s sends %s, which is not a command of %s", name, sent, message.Module(sent))
			}
		}
	}
	b.declared = subscribers
	if b.foreign, err = foreignSubscribers(b.opts.Foreign, names); err != nil {
		return err
	}
	if err := b.register(ctx); err != nil {
		return fmt.Errorf("register: %w", err)
	}
	g, gctx := errgroup.WithContext(ctx)
	for _, name := range b.names() {
		p := b.parts[name]
		p.store.Watch(unit.Hooks{
			Subscribers: b.subscribersOf,
			Sent:        func(messages []*unit.Sent) { b.sent(p, messages) },
			Due:         func(time.Time) { b.due(p) },
			Effect:      p.timers.Effect,
		})
		taken := p.store.DB().Taken()
		if !taken && !(b.placed && b.here(name)) {
			continue // another process has the file, and the module
		}
		g.Go(func() error {
			if err := b.check(gctx, p); err != nil || !taken {
				return err
			}
			return b.openPart(gctx, p)
		})
	}
	return g.Wait()
}

// check is an error when something waits in a module's store that this version of the program does not know.
func (b *Bus) check(ctx context.Context, p *part) error {
	if err := p.inbox.Check(ctx); err != nil {
		return err
	}
	if err := relay.CheckSubscribers(ctx, p.store, append(b.targets(p), others)); err != nil {
		return err
	}
	if err := b.checkOthers(ctx, p); err != nil {
		return err
	}
	return p.timers.Check(ctx)
}

// openPart makes a module's store ready for this version of the program, and takes up what was begun.
func (b *Bus) openPart(ctx context.Context, p *part) error {
	if err := b.checkRoutes(ctx, p); err != nil {
		return err
	}
	if err := p.inbox.Open(ctx); err != nil {
		return err
	}
	return p.timers.Open(ctx)
}

// foreignSubscribers says what modules subscribe to that are not in this process.
func foreignSubscribers(modules []module.Descriptor, names []string) (map[string][]string, error) {
	all := map[string][]string{}
	for _, d := range modules {
		for _, c := range d.Contract.Commands {
			all[c.MessageName()] = append(all[c.MessageName()], d.Name)
		}
		for _, s := range d.Subscriptions {
			expanded, err := expand(d.Name, s, names)
			if err != nil {
				return nil, err
			}
			for _, e := range expanded {
				if !slices.Contains(all[e], d.Name) {
					all[e] = append(all[e], d.Name)
				}
			}
		}
	}
	return all, nil
}

func (b *Bus) names() []string {
	names := make([]string, 0, len(b.parts))
	for n := range b.parts {
		names = append(names, n)
	}
	sort.Strings(names)
	return names
}

func wireNames(contracts []message.Contract) ([]string, error) {
	var names []string
	for _, c := range contracts {
		for _, e := range c.Events {
			names = append(names, e.MessageName())
		}
		for _, x := range c.Commands {
			if err := message.CheckName(x.MessageName()); err != nil || message.Module(x.MessageName()) != c.Module {
				return nil, fmt.Errorf("contract of %s: %q is not a command of it", c.Module, x.MessageName())
			}
		}
		for _, n := range c.Names() {
			if err := message.CheckName(n); err != nil {
				return nil, err
			}
			if message.Module(n) != c.Module {
				return nil, fmt.Errorf("contract of %s: event %s belongs to another module", c.Module, n)
			}
		}
	}
	return names, nil
}

func isCommand(contracts []message.Contract, name string) bool {
	for _, c := range contracts {
		for _, x := range c.Commands {
			if x.MessageName() == name {
				return true
			}
		}
	}
	return false
}

// expand gives the wire names that a subscription means.
func expand(module string, s module.Subscription, names []string) ([]string, error) {
	var all []string
	for _, pattern := range s.Events {
		prefix, wild := strings.CutSuffix(pattern, "*")
		found := false
		for _, n := range names {
			if n == pattern || (wild && strings.HasPrefix(n, prefix)) {
				found = true
				if !slices.Contains(all, n) {
					all = append(all, n)
				}
			}
		}
		if !found {
			return nil, fmt.Errorf("module %s: handler %s subscribes to %q, which matches no event; known are %s", module, s.Handler, pattern, strings.Join(names, ", "))
		}
	}
	return all, nil
}

// register says in the control store who subscribes to what, and adds the subscriptions of modules that are not in this process.
// Who knows foreign events runs a part of the program.
func (b *Bus) register(ctx context.Context) error {
	all, told := map[string][]string{}, map[string]bool{}
	for name, subs := range b.declared {
		all[name] = slices.Clone(subs)
	}
	if b.opts.Control != nil {
		store := unit.New(b.opts.Control, unit.Options{Module: database.Control})
		var inForce map[string][]string
		var err error
		if b.opts.Only != "" && b.opts.Control.Dialect() == database.SQLite {
			inForce, err = control.Registered(ctx, store) // the shop alone writes that file, and has the same modules
		} else {
			list := b.declared
			if b.opts.Only == "" { // the whole program, whatever of it is in this process
				list = maps.Clone(b.declared)
				for name, subs := range b.foreign {
					list[name] = append(slices.Clone(list[name]), subs...)
				}
			}
			inForce, err = control.Register(ctx, store, list, b.opts.Only == "")
		}
		if err != nil {
			return err
		}
		for name, subs := range inForce {
			for _, s := range subs {
				if told[s] = true; b.parts[s] == nil {
					all[name] = append(all[name], s)
				}
			}
		}
	}
	// Who has never said what it subscribes to will come: a message is not lost on it because it starts later.
	for name, subs := range b.foreign {
		for _, s := range subs {
			if !told[s] {
				all[name] = append(all[name], s)
			}
		}
	}
	if b.tellsOthers() {
		for _, p := range b.parts {
			for _, name := range p.module.Contract.Names() {
				all[name] = append(all[name], others)
			}
		}
	}
	for _, subs := range all {
		slices.Sort(subs)
	}
	b.mu.Lock()
	news := !maps.EqualFunc(b.subscribers, all, slices.Equal)
	b.subscribers = all
	b.mu.Unlock()
	if news {
		b.alter(func(*place) {}) // relays find their new subscribers
	}
	return nil
}

// stay registers again and again, so that what this version subscribes to stays in force, and notices what others have changed.
func (b *Bus) stay(ctx context.Context) {
	every, changed := registerEvery, make(chan struct{}, 1)
	var watching sync.WaitGroup
	defer watching.Wait()
	switch {
	case b.opts.Control == nil:
	case b.opts.Control.Dialect() == database.Postgres:
		watching.Go(func() { b.watchSubscriptions(ctx, changed) })
	case b.opts.Only != "":
		every = readEvery
	}
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(every):
		case <-changed:
		}
		if err := b.register(ctx); err != nil && ctx.Err() == nil {
			b.opts.Log.Warn("subscriptions not registered", "error", err)
		}
	}
}

func (b *Bus) watchSubscriptions(ctx context.Context, changed chan<- struct{}) {
	err := control.WatchSubscriptions(ctx, b.opts.Control, func() {
		select {
		case changed <- struct{}{}:
		default: // it will look
		}
	})
	if err != nil && ctx.Err() == nil {
		b.opts.Log.Warn("not told of new subscriptions, looking for them now and then", "error", err)
	}
}

const (
	registerEvery = 30 * time.Second // well within control.Alive
	readEvery     = time.Second      // beside a shop on SQLite, which tells nobody
)

func (b *Bus) subscribersOf(name string) []string {
	b.mu.RLock()
	defer b.mu.RUnlock()
	return b.subscribers[name]
}

// targets are the modules that a module's messages go to.
func (b *Bus) targets(p *part) []string {
	var all []string
	add := func(name string) {
		for _, s := range b.subscribersOf(name) {
			if !slices.Contains(all, s) {
				all = append(all, s)
			}
		}
	}
	for _, n := range p.module.Contract.Names() {
		add(n)
	}
	for _, n := range p.module.Sends {
		add(n)
	}
	sort.Strings(all)
	return all
}

// Run delivers until ctx ends; then it takes nothing new, finishes what is on its way, and returns.
func (b *Bus) Run(ctx context.Context) error {
	local := NewLocal()
	b.mu.Lock()
	b.local = local
	b.mu.Unlock()
	router, err := wm.NewRouter(wm.RouterConfig{CloseTimeout: closeTimeout}, b.watermillLogger())
	if err != nil {
		return err
	}
	for _, name := range b.names() {
		p := b.parts[name]
		router.AddConsumerHandler(name, name, local, func(msg *wm.Message) error { return b.consume(p, msg) })
	}
	routed := make(chan error, 1)
	// The router ends after the relays: it carries what they have on the way.
	go func() { routed <- router.Run(context.WithoutCancel(ctx)) }()
	select {
	case <-router.Running():
	case err := <-routed:
		return fmt.Errorf("bus: %w", err)
	}
	b.setReady(true)
	defer context.AfterFunc(ctx, func() {
		b.mu.Lock()
		b.ends = true
		b.mu.Unlock()
	})()
	var owners sync.WaitGroup
	for _, name := range b.names() {
		p := b.parts[name]
		owners.Go(func() { b.tend(ctx, p) })
		owners.Go(func() { b.watch(ctx, p) })
	}
	owners.Go(func() { b.notified(ctx) })
	if b.opts.Control != nil {
		owners.Go(func() { b.stay(ctx) })
	}
	owners.Wait()
	for _, name := range b.names() {
		b.parts[name].timers.Drain()
	}
	b.setReady(false)
	err = router.Close()
	return errors.Join(err, <-routed, local.Close())
}

// Stand lets units of work of this process run until ctx ends, and delivers nothing: another process owns the modules. It measures
// them, and at the end waits for the effects that were begun here.
func (b *Bus) Stand(ctx context.Context) error {
	var all sync.WaitGroup
	for _, p := range b.parts {
		all.Go(func() { b.watch(ctx, p) })
	}
	if b.opts.Control != nil {
		all.Go(func() { b.stay(ctx) })
	}
	all.Wait()
	for _, p := range b.parts {
		p.timers.Drain()
	}
	return nil
}

func (b *Bus) setReady(ready bool) {
	b.mu.Lock()
	b.ready = ready
	b.mu.Unlock()
}

// own does the owner-only work of a module.
func (b *Bus) own(ctx context.Context, p *part) {
	var all sync.WaitGroup
	all.Go(func() {
		for ctx.Err() == nil {
			targets := b.targets(p)
			until, end := context.WithCancel(ctx)
			go func() {
				b.await(until, func() bool { return slices.Equal(b.targets(p), targets) })
				end()
			}()
			if err := p.relay.Run(until, targets); err != nil {
				b.opts.Log.Error("relay ended", "module", p.module.Name, "error", err)
			}
			end()
		}
	})
	all.Go(func() {
		b.recall(ctx, p)
		p.inbox.Run(ctx, time.Second)
	})
	all.Go(func() { p.timers.Run(ctx, time.Second) })
	all.Go(func() { b.takeUp(ctx, p) })
	all.Go(func() { b.housekeep(ctx, p) })
	all.Wait()
}

// recall has a new owner look at what waits for another version.
func (b *Bus) recall(ctx context.Context, p *part) {
	for ctx.Err() == nil {
		err := p.inbox.Recall(ctx)
		if err == nil {
			return
		}
		if ctx.Err() == nil {
			b.opts.Log.Warn("messages for another version not recalled", "module", p.module.Name, "error", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(time.Second):
		}
	}
}

// sent wakes the relay: this process's if it holds the lease, else the holder's by a notification.
func (b *Bus) sent(p *part, messages []*unit.Sent) {
	p.relay.Sent(messages)
	subscribed := func(m *unit.Sent) bool { return len(m.Subscribers) > 0 }
	if p.store.DB().Dialect() == database.Postgres && !p.lease.Held() && slices.ContainsFunc(messages, subscribed) {
		b.notify(p)
	}
}

// wake looks for what is due now.
func (p *part) wake() {
	p.timers.Wake()
	p.inbox.Wake()
}

// due wakes the timers: of this process if it holds the lease, else the holder's.
func (b *Bus) due(p *part) {
	p.timers.Wake()
	if p.store.DB().Dialect() == database.Postgres && !p.lease.Held() {
		b.notify(p)
	}
}

// send is how a relay's message reaches a subscriber.
func (b *Bus) send(ctx context.Context, subscriber string, m message.Message) error {
	ctx = propagation.TraceContext{}.Extract(ctx, propagation.MapCarrier{headerTraceparent: m.Traceparent})
	ctx, span := b.opts.Tracer.Start(ctx, "send "+m.Name, trace.WithSpanKind(trace.SpanKindProducer), trace.WithAttributes(attribute.String("banyan.subscriber", subscriber)))
	defer span.End()
	if parent := unit.Traceparent(ctx); parent != "" {
		m.Traceparent = parent
	}
	p := b.parts[m.Source]
	if x := b.boundary.Load(); x != nil && (p == nil || p.routes.of(subscriber).via != viaRabbit) {
		return (*x).Cross(ctx, Crossing{m.Source, subscriber, m.Name}, func() error { return b.carry(ctx, p, subscriber, encode(m)) })
	}
	return b.carry(ctx, p, subscriber, encode(m))
}

func (b *Bus) watermillLogger() watermill.LoggerAdapter {
	return watermill.NewSlogLoggerWithLevelMapping(b.opts.Log, map[slog.Level]slog.Level{slog.LevelInfo: slog.LevelDebug})
}

// Deliver hands a message to a module as its relay would; nil means that the module has durably taken it.
func (b *Bus) Deliver(ctx context.Context, subscriber string, m message.Message) error {
	return b.send(ctx, subscriber, m)
}

// consume hands a message to the handlers of a module. An error nacks it: nothing could be kept of the attempt.
func (b *Bus) consume(p *part, msg *wm.Message) error {
	m, err := decode(msg)
	if err != nil {
		// It is not ours, as nothing is sent that cannot be read. If it stayed in the queue nothing behind it would come through, the
		// marker of a change of the route neither.
		return p.inbox.Bury(context.Background(), legible(msg), err.Error())
	}
	ctx := propagation.TraceContext{}.Extract(context.Background(), propagation.MapCarrier(msg.Metadata))
	ctx = telemetry.WithCorrelation(ctx, m.CorrelationID)
	if b.opts.Heard != nil {
		b.opts.Heard(m.Source)
	}
	if len(p.events[m.Name]) > 0 {
		return b.handle(ctx, p, m, p.inbox.Handle)
	}
	switch known, err := b.known(ctx, p, m); {
	case err != nil:
		return err
	case known:
		return p.inbox.KeepForAnotherVersion(ctx, m)
	default:
		return p.inbox.Over(ctx, m)
	}
}

// resume handles a message that was kept for another version; it fails while this one is not that.
func (b *Bus) resume(ctx context.Context, p *part, m message.Message, take inbox.Take) error {
	if len(p.events[m.Name]) > 0 {
		return b.handle(ctx, p, m, take)
	}
	switch known, err := b.known(ctx, p, m); {
	case err != nil:
		return err
	case known:
		return fmt.Errorf("module %s has no handler of %s in this version of the program", p.module.Name, m.Name)
	default:
		return inbox.ErrOver
	}
}

// handle has each handler of a message take it.
func (b *Bus) handle(ctx context.Context, p *part, m message.Message, take inbox.Take) error {
	for _, h := range p.events[m.Name] {
		hctx, span := b.opts.Tracer.Start(ctx, "handle "+m.Name, trace.WithSpanKind(trace.SpanKindConsumer))
		own := m
		own.Payload = bytes.Clone(m.Payload) // a handler that changes it changes nobody else's
		outcome, err := take(hctx, h, own)
		if err != nil {
			span.RecordError(err)
		}
		span.SetName("handle " + m.Name + " " + string(outcome))
		span.End()
		if err != nil {
			return err
		}
	}
	return nil
}

// known says whether another version of the program handles a message that this one does not know: the control store says that its
// module subscribes to it. A subscription that exists no more is over for what was sent before, too.
func (b *Bus) known(ctx context.Context, p *part, m message.Message) (bool, error) {
	if b.opts.Control == nil {
		return false, nil
	}
	var n int64
	err := b.opts.Control.Read(ctx).Raw("SELECT count(*) FROM subscription WHERE subscriber = ? AND message = ?", p.module.Name, m.Name).Row().Scan(&n)
	return n > 0, err
}
