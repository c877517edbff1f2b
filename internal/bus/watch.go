package bus

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/banyan-go/banyan/internal/database"
	"github.com/banyan-go/banyan/internal/errs"
	"github.com/banyan-go/banyan/internal/inbox"
	"github.com/banyan-go/banyan/internal/relay"
	"github.com/banyan-go/banyan/internal/unit"
)

// notifyEvery bounds how often one process notifies the others for one module.
const notifyEvery = 50 * time.Millisecond

// channel is where replicas on one PostgreSQL database tell each other that there is something to relay.
const channel = "banyan_wake"

type notifier struct {
	busy atomic.Bool
	more atomic.Bool // something was committed since the last notification was sent
}

// notify tells the holder of a module's lease, at most once per notifyEvery. What is committed meanwhile is told after that;
// the sweep finds what gets lost.
func (b *Bus) notify(p *part) {
	p.notifier.more.Store(true)
	if !p.notifier.busy.CompareAndSwap(false, true) {
		return
	}
	go func() {
		for p.notifier.more.CompareAndSwap(true, false) {
			b.notifyOnce(p)
			<-time.After(notifyEvery)
		}
		p.notifier.busy.Store(false)
		if p.notifier.more.Load() {
			b.notify(p) // it came between the last look and the word that nobody looks
		}
	}()
}

func (b *Bus) notifyOnce(p *part) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	// A unit of work of its own: a notification inside of every one would make their commits wait for each other.
	err := p.store.Do(ctx, func(_ context.Context, w *unit.Work) error {
		return w.DB.Exec("SELECT pg_notify(?, ?)", channel, p.module.Name).Error
	})
	if err != nil {
		b.opts.Log.Warn("replicas not notified", "module", p.module.Name, "error", err)
	}
}

// notified wakes relays for what other processes have committed.
func (b *Bus) notified(ctx context.Context) {
	if b.opts.Control == nil || b.opts.Control.Dialect() != database.Postgres {
		return
	}
	err := b.opts.Control.Listen(ctx, channel, func(module string) {
		for name, p := range b.parts {
			if module == "" || module == name {
				p.relay.Wake(0)
				p.wake()
			}
		}
	})
	if err != nil {
		b.opts.Log.Warn("not listening to other replicas", "error", err)
	}
}

// housekeep removes what has had its time. It is work of the owner.
func (b *Bus) housekeep(ctx context.Context, p *part) {
	clock := p.store.Clock()
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
			return
		case <-time.After(housekeepEvery):
		}
		now := clock.Now()
		if err := p.relay.Clean(ctx, now.Add(-b.cfg.KeepUnsubscribed)); err != nil && ctx.Err() == nil {
			b.opts.Log.Warn("old messages not removed", "module", p.module.Name, "error", err)
		}
		if err := p.store.ForgetAnswers(ctx, now.Add(-30*24*time.Hour)); err != nil && ctx.Err() == nil {
			b.opts.Log.Warn("old answers not removed", "module", p.module.Name, "error", err)
		}
	}
}

const (
	housekeepEvery = 10 * time.Minute
	measureEvery   = 2 * time.Second
)

// watch measures a module in every replica: each refuses requests above the high-water mark, whoever relays.
func (b *Bus) watch(ctx context.Context, p *part) {
	failed := false
	for ctx.Err() == nil {
		err := b.measure(ctx, p)
		if err != nil && !failed && ctx.Err() == nil {
			b.opts.Log.Warn("module cannot be measured", "module", p.module.Name, "error", err)
		}
		failed = err != nil
		select {
		case <-ctx.Done():
		case <-time.After(measureEvery):
		}
	}
}

func (b *Bus) measure(ctx context.Context, p *part) error {
	name := p.module.Name
	parked, dead, err := p.inbox.Counts(ctx)
	if err != nil {
		return err
	}
	b.opts.Metrics.ParkedKeys.WithLabelValues(name).Set(float64(parked))
	b.opts.Metrics.BlockedBy.WithLabelValues(name).Set(float64(dead))
	pending, oldest, err := p.relay.Pending(ctx, b.cfg.HighWaterRows+1, b.unsent())
	if err != nil {
		return err
	}
	switch age := p.store.Clock().Now().Sub(oldest); {
	case pending > b.cfg.HighWaterRows:
		p.store.Overload(fmt.Sprintf("more than %d messages of %s wait for their subscribers", b.cfg.HighWaterRows, name))
	case pending > 0 && b.cfg.HighWaterAge > 0 && age > b.cfg.HighWaterAge:
		p.store.Overload(fmt.Sprintf("messages of %s have waited for %s", name, age.Round(time.Second)))
	default:
		p.store.Overload("")
	}
	return nil
}

// ModuleStatus is how a module does, for /readyz and operators.
type ModuleStatus struct {
	Store    string     `json:"store"` // "ok" or what is wrong
	Owner    bool       `json:"owner"` // this process does the module's owner-only work
	Oldest   *time.Time `json:"oldest_pending,omitempty"`
	Parked   int64      `json:"parked_keys"`
	Dead     int64      `json:"dead_letters"`
	Overload string     `json:"overload,omitempty"`
}

// Status is how the named modules do, or all of them if none is named, and whether messages are delivered at all. Their stores are asked
// side by side, each for as long as askStore: one that hangs makes no other look unreachable.
func (b *Bus) Status(ctx context.Context, names ...string) (modules map[string]ModuleStatus, delivering bool) {
	modules = map[string]ModuleStatus{}
	var mu sync.Mutex
	var all sync.WaitGroup
	for name, p := range b.parts {
		if len(names) > 0 && !slices.Contains(names, name) {
			continue
		}
		all.Go(func() {
			s := p.status(ctx)
			mu.Lock()
			defer mu.Unlock()
			modules[name] = s
		})
	}
	all.Wait()
	b.mu.RLock()
	defer b.mu.RUnlock()
	return modules, b.ready
}

const askStore = 2 * time.Second

func (p *part) status(ctx context.Context) ModuleStatus {
	ctx, cancel := context.WithTimeout(ctx, askStore)
	defer cancel()
	s := ModuleStatus{Store: "ok", Owner: p.lease.Held(), Overload: p.store.Overloaded()}
	if at, some := p.relay.Oldest(); some {
		s.Oldest = &at
	}
	var err error
	if s.Parked, s.Dead, err = p.inbox.Counts(ctx); err != nil {
		s.Store = "not reachable"
	}
	return s
}

// Inbox is the receiving end of a module, for operators.
func (b *Bus) Inbox(module string) (*inbox.Inbox, error) {
	p := b.parts[module]
	if p == nil {
		return nil, errs.New(errs.NotFound, "there is no module %q; there are %v", module, b.names())
	}
	return p.inbox, nil
}

// Kept lists the messages of a module to which nobody subscribed when they were sent.
func (b *Bus) Kept(ctx context.Context, module string) ([]relay.Kept, error) {
	p := b.parts[module]
	if p == nil {
		return nil, errs.New(errs.NotFound, "there is no module %q; there are %v", module, b.names())
	}
	kept, err := p.relay.Kept(ctx)
	for i := range kept {
		kept[i].Subscribers = slices.DeleteFunc(append([]string{}, b.subscribersOf(kept[i].Message)...), func(s string) bool {
			return s == others // they are told when a message is sent
		})
	}
	return kept, err
}

// Replay gives the messages of a name that were kept because nobody subscribed to those who do now, and says how many they are.
func (b *Bus) Replay(ctx context.Context, module, name string) (int64, error) {
	kept, err := b.Kept(ctx, module)
	if err != nil {
		return 0, err
	}
	i := slices.IndexFunc(kept, func(k relay.Kept) bool { return k.Message == name })
	switch {
	case i < 0:
		return 0, errs.New(errs.NotFound, "module %s keeps no message %s that nobody subscribed to", module, name)
	case len(kept[i].Subscribers) == 0:
		return 0, errs.New(errs.Conflict, "nobody subscribes to %s now either; start the version that does first", name)
	case !b.parts[module].store.DB().Taken():
		return 0, errs.New(errs.Conflict, "another process writes the store of %s now; ask that one, by its --admin-addr", module)
	}
	n, err := b.parts[module].relay.Replay(ctx, name, kept[i].Subscribers)
	b.opts.Log.InfoContext(ctx, "kept messages replayed", "module", module, "message", name, "subscribers", kept[i].Subscribers, "number", n)
	return n, err
}

// Writes says whether this process may write the store of a module.
func (b *Bus) Writes(module string) bool {
	p := b.parts[module]
	return p != nil && p.store.DB().Taken()
}

// Modules are the names of the modules on the bus.
func (b *Bus) Modules() []string { return b.names() }

// Idle says whether nothing is on its way and nothing is due in any module.
func (b *Bus) Idle(ctx context.Context) (bool, error) {
	for _, p := range b.parts {
		var left bool
		now := p.store.Clock().Now()
		err := p.store.Read(ctx).Raw(`SELECT EXISTS (SELECT 1 FROM delivery WHERE subscriber <> ?) OR EXISTS (SELECT 1 FROM parked_key WHERE next_at <= ?)
			OR EXISTS (SELECT 1 FROM timers WHERE due_at <= ?)`, b.unsent(), now, now).Row().Scan(&left)
		if err != nil {
			return false, err
		}
		if left || p.store.Busy() {
			return false, nil
		}
	}
	return true, nil
}
