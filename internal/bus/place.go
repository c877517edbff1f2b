package bus

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	wm "github.com/ThreeDotsLabs/watermill/message"

	"github.com/banyan-go/banyan/internal/database"
	"github.com/banyan-go/banyan/internal/ownership"
	"github.com/banyan-go/banyan/internal/unit"
)

// place is where the modules are, as far as this process puts it in force.
//
// Each module of the process has somebody who tends it: while this side owns it, its relay, timers and retries run by its lease, its
// queue is consumed and its requests are answered; when it does not, all of that has ended. Routes to other modules follow by
// themselves (route.go).
type place struct {
	mu       sync.Mutex
	records  map[string]ownership.Record
	changed  chan struct{}      // closed when anything below or above changes
	tended   map[string]uint64  // module -> version of its record that the process has put in force
	unsteady map[[2]string]bool // routes that change their transport: publisher, subscriber
	follower *ownership.Follower
	owners   *ownership.Owners // nil without placements
}

func newPlace() *place {
	return &place{records: map[string]ownership.Record{}, changed: make(chan struct{}), tended: map[string]uint64{}, unsteady: map[[2]string]bool{}}
}

// look is the record of a module.
func (b *Bus) look(module string) ownership.Record {
	b.place.mu.Lock()
	defer b.place.mu.Unlock()
	return b.place.records[module]
}

// alter changes something of the place and tells everybody who waits.
func (b *Bus) alter(fn func(*place)) {
	b.place.mu.Lock()
	fn(b.place)
	close(b.place.changed)
	b.place.changed = make(chan struct{})
	b.place.mu.Unlock()
	b.settled()
}

// Follow puts the records in force, from now on and as they change. Before Run.
func (b *Bus) Follow(owners *ownership.Owners) {
	b.placed = true
	b.place.owners = owners
	b.place.follower = owners.Follow(func(records []ownership.Record) {
		b.alter(func(p *place) {
			for _, r := range records {
				p.records[r.Module] = r
			}
		})
	})
	records := owners.Records()
	b.alter(func(p *place) {
		for _, r := range records {
			p.records[r.Module] = r
		}
	})
}

// settled says which versions are in force here: the module is tended by it, and no route to or from it is on its way from one transport
// to another.
func (b *Bus) settled() {
	b.place.mu.Lock()
	done := map[string]uint64{}
	for m, r := range b.place.records {
		version := r.Version
		if b.parts[m] != nil {
			version = b.place.tended[m]
		}
		for route := range b.place.unsteady {
			if route[0] == m || route[1] == m {
				version = 0
			}
		}
		done[m] = version
	}
	follower := b.place.follower
	b.place.mu.Unlock()
	if follower == nil {
		return
	}
	for name, p := range b.parts { // a route may not have noticed yet
		for subscriber, via := range p.routes.ways() {
			if via != viaNothing && via != b.transport(subscriber) {
				done[name], done[subscriber] = 0, 0
			}
		}
	}
	for m, version := range done {
		if version > 0 {
			follower.Done(m, version)
		}
	}
}

// owns says whether this process is of the side that owns a module by its record.
func (b *Bus) owns(r ownership.Record) bool {
	side := ownership.Home
	if b.opts.Only != "" {
		side = ownership.Away
	}
	return b.parts[r.Module] != nil && r.Owns(side)
}

// here says whether a module's messages and requests are handled in this process.
func (b *Bus) here(module string) bool {
	if !b.placed {
		return b.parts[module] != nil
	}
	return b.owns(b.look(module))
}

// tends says whether this process does what a module's record wants of it, its store taken.
func (b *Bus) tends(module string) bool {
	b.place.mu.Lock()
	defer b.place.mu.Unlock()
	return b.place.tended[module] == b.place.records[module].Version
}

// tend does the owner-only work of a module whenever this side owns it.
func (b *Bus) tend(ctx context.Context, p *part) {
	if !b.placed {
		b.lead(ctx, p, 0)
		return
	}
	name := p.module.Name
	for ctx.Err() == nil {
		r := b.look(name)
		same := func() bool { return b.look(name).Version == r.Version }
		if !b.owns(r) {
			b.finish(p)
			if err := p.store.DB().Release(); err != nil {
				b.opts.Log.Error("store given up with an error", "module", name, "error", err)
			}
			b.alter(func(pl *place) { pl.tended[name] = r.Version })
			b.await(ctx, same)
			continue
		}
		if !b.take(ctx, p, same) {
			continue
		}
		b.opts.Log.Log(ctx, level(r), "the owner now", "module", name, "owner", r.Owner, "epoch", r.Epoch)
		owned, end := context.WithCancel(ctx)
		var work sync.WaitGroup
		epoch := r.Epoch
		work.Go(func() { b.lead(owned, p, epoch) })
		work.Go(func() {
			if err := b.check(owned, p); err != nil && owned.Err() == nil {
				b.opts.Log.Warn("what this version of the program does not know is left to the one that does", "module", name, "error", err)
			}
		})
		b.alter(func(pl *place) { pl.tended[name] = r.Version })
		for {
			b.await(ctx, same)
			now := b.look(name)
			if ctx.Err() != nil || !b.owns(now) || now.Epoch != epoch {
				break
			}
			r = now // another share of requests, say: the owner stays
			b.alter(func(pl *place) { pl.tended[name] = r.Version })
		}
		end()
		work.Wait()
		b.opts.Log.Log(ctx, level(b.look(name)), "the owner no more", "module", name)
	}
}

// finish waits for the effects under way before a file is given up: who takes it calls at once what has no outcome. One that takes
// longer is called by both for a moment, and its outcome here is refused.
func (b *Bus) finish(p *part) {
	if p.store.DB().Dialect() != database.SQLite || !p.store.DB().Taken() {
		return
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		p.timers.Drain()
	}()
	select {
	case <-done:
	case <-time.After(effectsEnd):
		b.opts.Log.Warn("the file is given up while effects run: its next owner calls them too", "module", p.module.Name)
	}
}

const effectsEnd = 3 * time.Second // less than gateways hold requests for the file

// take makes this process the one that writes a module's store, as long as something holds. On SQLite whoever had it before gives it up
// first, or dies; what it has begun is taken up here. A file that cannot be used is free until the next try.
func (b *Bus) take(ctx context.Context, p *part, holds func() bool) bool {
	said, name, db := "", p.module.Name, p.store.DB()
	defer b.place.follower.Waits(name, "")
	for ctx.Err() == nil && holds() {
		err := db.Take(ctx)
		if err == nil && db.Dialect() == database.SQLite {
			if err = b.openPart(ctx, p); err != nil {
				err = errors.Join(err, db.Release())
			}
		}
		if err == nil {
			return true
		}
		if text := err.Error(); text != said && ctx.Err() == nil {
			b.opts.Log.Warn("the store of the module cannot be taken yet", "module", name, "error", err)
			said = text
		}
		again := takeAgain
		if !errors.Is(err, database.ErrHeld) {
			again = takeAgainBroken
			b.place.follower.Waits(name, err.Error())
		}
		until, end := context.WithTimeout(ctx, again)
		b.await(until, holds)
		end()
	}
	return false
}

const (
	takeAgain       = 10 * time.Millisecond // while another process has it
	takeAgainBroken = time.Second
)

// level is that of what is said of an owner: one that was never another is no news.
func level(r ownership.Record) slog.Level {
	if r.Epoch <= 1 {
		return slog.LevelDebug
	}
	return slog.LevelInfo
}

// takeUp takes up the effects of processes that are gone, which their rows would give some more time: as soon as no other process lives
// that can have begun one.
func (b *Bus) takeUp(ctx context.Context, p *part) {
	if b.place.owners == nil {
		return
	}
	for until := time.Now().Add(unit.EffectGrace); ctx.Err() == nil && time.Now().Before(until); pause(ctx, 200*time.Millisecond) {
		if b.place.owners.Alone(p.module.Name) {
			if err := p.timers.TakeUp(ctx); err != nil {
				b.opts.Log.Warn("effects of the process before are not taken up yet", "module", p.module.Name, "error", err)
				continue
			}
			return
		}
	}
}

// await waits as long as something holds, or until ctx ends.
func (b *Bus) await(ctx context.Context, holds func() bool) {
	for ctx.Err() == nil {
		b.place.mu.Lock()
		changed := b.place.changed
		b.place.mu.Unlock()
		if !holds() {
			return
		}
		select {
		case <-ctx.Done():
		case <-changed:
		}
	}
}

// lead is the work of the owner until ctx ends: relay, timers and retries by the lease, and, with a broker and a store that answers, what
// others send.
func (b *Bus) lead(ctx context.Context, p *part, epoch uint64) {
	var all sync.WaitGroup
	if b.opts.Broker != nil {
		all.Go(func() {
			p.lease.WhileAnswering(ctx, func(ctx context.Context) {
				var ways sync.WaitGroup
				ways.Go(func() { b.listen(ctx, p) })
				ways.Go(func() { b.answerOthers(ctx, p) })
				ways.Wait()
			})
		})
	}
	p.lease.Run(ctx, epoch, b.outrun(p.module.Name), func(owned context.Context) {
		b.own(owned, p)
		if b.ending() {
			p.timers.Stop() // before the lease is given back: who has it next calls the effects that have not begun
		}
	})
	all.Wait()
}

// outrun has the epoch of a module's record pass a term that its lease has, and the record does not know.
func (b *Bus) outrun(module string) func(context.Context, uint64) {
	if b.place.owners == nil {
		return nil
	}
	return func(ctx context.Context, term uint64) {
		if err := b.place.owners.Outrun(ctx, module, term); err != nil && ctx.Err() == nil {
			b.opts.Log.Warn("the lease has a later epoch than the module's record, which cannot be changed", "module", module, "epoch", term, "error", err)
		}
	}
}

func (b *Bus) ending() bool {
	b.mu.RLock()
	defer b.mu.RUnlock()
	return b.ends
}

// listen consumes the queue of a module until ctx ends.
func (b *Bus) listen(ctx context.Context, p *part) {
	for ctx.Err() == nil {
		router, err := wm.NewRouter(wm.RouterConfig{CloseTimeout: closeTimeout}, b.watermillLogger())
		if err == nil {
			subscriber := b.opts.Broker.Subscriber(b.barriers(p))
			router.AddConsumerHandler(p.module.Name, p.module.Name, subscriber, func(msg *wm.Message) error { return b.consume(p, msg) })
			err = router.Run(ctx)
		}
		if ctx.Err() == nil {
			b.opts.Log.Error("queue is not consumed, will try again", "module", p.module.Name, "error", err)
			pause(ctx, time.Second)
		}
	}
}

const closeTimeout = 20 * time.Second

func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
