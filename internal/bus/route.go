package bus

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	wm "github.com/ThreeDotsLabs/watermill/message"

	"github.com/banyan-go/banyan/internal/bus/rabbit"
	"github.com/banyan-go/banyan/internal/database"
	"github.com/banyan-go/banyan/internal/message"
	"github.com/banyan-go/banyan/internal/ownership"
	"github.com/banyan-go/banyan/internal/relay"
	"github.com/banyan-go/banyan/internal/unit"
)

// A route is the way of one module's messages to one subscriber. Its transport is a row in the publisher's store, which only the holder
// of that store's lease changes:
//
//	local ------- nothing is on its way ------> rabbit
//	  ^                                            |  both sides are one process again
//	  |                                            v
//	  +--- the marker has come through ------- draining
//
// Never both at once: a message would overtake the one before it. While a route changes, its messages wait in the outbox; no other route
// and no producer waits. The marker (barrier) goes through the queue behind everything that this publisher has ever put there, so when the
// queue's consumer has it, all of that was handled. What a holder that was cut off still puts there is not marked as sent, so the rightful
// one sends it too, in its order, and the inbox keeps one effect of each.
const (
	viaLocal    = "local"
	viaRabbit   = "rabbit"
	viaDraining = "draining"
	viaNothing  = "" // the subscriber's store is between two processes
)

// Route is how a way between two modules is, for people.
type Route struct {
	Publisher  string     `json:"publisher"`
	Subscriber string     `json:"subscriber"`
	Transport  string     `json:"transport"`
	Waits      string     `json:"waits,omitempty"` // what its messages wait for
	Since      *time.Time `json:"since,omitempty"` // they wait
}

// others stands for services that are not ours: what they may subscribe to at the broker goes there once, as to one more subscriber.
const others = "~others"

type routes struct {
	mu  sync.Mutex
	all map[string]*way
}

// way is a route that is open or about to be.
type way struct {
	via   string
	sends context.Context // of messages that go by the broker; it ends when the way closes
	waits string
	since time.Time
}

func (r *routes) of(subscriber string) way {
	r.mu.Lock()
	defer r.mu.Unlock()
	if w := r.all[subscriber]; w != nil {
		return *w
	}
	return way{via: viaLocal}
}

func (r *routes) set(subscriber string, w way) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.all == nil {
		r.all = map[string]*way{}
	}
	r.all[subscriber] = &w
}

// transport is by which one messages to a subscriber should go, by its record.
func (b *Bus) transport(subscriber string) string {
	r := b.look(subscriber)
	switch {
	case subscriber == others:
		return viaRabbit
	case b.here(subscriber):
		return viaLocal
	case r.Step == ownership.Closing:
		return viaNothing
	}
	return viaRabbit
}

// guard keeps one route of a module whose relay runs here, until ctx ends.
func (b *Bus) guard(ctx context.Context, p *part, subscriber string, gate *relay.Way) {
	key := [2]string{p.module.Name, subscriber}
	defer func() {
		gate.Close()
		b.alter(func(pl *place) { delete(pl.unsteady, key) })
		p.routes.set(subscriber, way{via: viaNothing})
	}()
	var closed time.Time // zero before it was open for the first time: messages wait for the relay then
	for ctx.Err() == nil {
		want := b.transport(subscriber)
		b.alter(func(pl *place) { pl.unsteady[key] = true })
		if err := b.steer(ctx, p, subscriber, want); err != nil {
			if ctx.Err() == nil && b.transport(subscriber) == want {
				b.opts.Log.Warn("route waits", "publisher", p.module.Name, "subscriber", subscriber, "for", want, "error", err)
				pause(ctx, 200*time.Millisecond)
			}
			continue
		}
		if want == viaNothing {
			b.wait(p, subscriber, "the store of "+subscriber+" is between two processes")
			b.alter(func(pl *place) { delete(pl.unsteady, key) })
			b.await(ctx, func() bool { return b.transport(subscriber) == want })
			continue
		}
		sends, end := context.WithCancel(context.WithoutCancel(ctx))
		p.routes.set(subscriber, way{via: want, sends: sends})
		gate.Open()
		if !closed.IsZero() {
			b.opts.Metrics.Switched.WithLabelValues(p.module.Name, subscriber, want).Observe(time.Since(closed).Seconds())
		}
		b.alter(func(pl *place) { delete(pl.unsteady, key) })
		b.await(ctx, func() bool { return b.transport(subscriber) == want })
		if ctx.Err() == nil && want == viaRabbit {
			end() // whether the broker has what is on its way does not matter: it is sent again, or dropped as a repeat
		}
		release := context.AfterFunc(ctx, func() { time.AfterFunc(confirmGrace, end) })
		closed = time.Now()
		gate.Close()
		release()
		end()
	}
}

// confirmGrace is how long a process that ends waits for what the broker has not confirmed.
const confirmGrace = 2 * time.Second

// wait notes what a route waits for.
func (b *Bus) wait(p *part, subscriber, what string) {
	w := p.routes.of(subscriber)
	if w.waits != what {
		p.routes.set(subscriber, way{via: w.via, waits: what, since: time.Now()})
	}
}

// steer brings a closed route to a transport; nil means that it may be opened.
func (b *Bus) steer(ctx context.Context, p *part, subscriber, want string) error {
	if want == viaNothing {
		return nil
	}
	have, err := p.loadRoute(ctx, subscriber)
	if err != nil {
		return err
	}
	if have == want {
		return nil
	}
	if want == viaRabbit {
		return p.saveRoute(ctx, subscriber, viaRabbit, "")
	}
	// Everything that this module has ever put into the queue comes before what goes the short way.
	id := message.NewID()
	if err := p.saveRoute(ctx, subscriber, viaDraining, id); err != nil {
		return err
	}
	b.wait(p, subscriber, "messages to "+subscriber+" that the broker holds")
	turned, cancel := context.WithCancel(ctx)
	defer cancel()
	go b.await(turned, func() bool { // the subscriber goes away again
		if b.transport(subscriber) == want {
			return true
		}
		cancel()
		return false
	})
	if err := b.opts.Broker.Publisher().Barrier(turned, subscriber, p.module.Name, id); err != nil {
		return fmt.Errorf("marker: %w", err)
	}
	store := b.parts[subscriber].store
	for {
		b.place.mu.Lock()
		changed := b.place.changed
		b.place.mu.Unlock()
		var found []string
		if err := store.Read(turned).Raw("SELECT id FROM barrier WHERE publisher = ?", p.module.Name).Scan(&found).Error; err != nil {
			return err
		}
		if len(found) == 1 && found[0] == id {
			return p.saveRoute(ctx, subscriber, viaLocal, "")
		}
		select {
		case <-turned.Done():
			return turned.Err()
		case <-changed:
		case <-time.After(barrierPoll): // another replica consumes the queue
		}
	}
}

const barrierPoll = 50 * time.Millisecond

// barriers says what becomes of markers in the queue of a module.
func (b *Bus) barriers(p *part) rabbit.SubscriberOptions {
	return rabbit.SubscriberOptions{Barrier: func(ctx context.Context, _, publisher, id string) error {
		err := p.store.Do(ctx, func(_ context.Context, w *unit.Work) error {
			return w.DB.Exec("INSERT INTO barrier (publisher, id) VALUES (?, ?) ON CONFLICT (publisher) DO UPDATE SET id = excluded.id", publisher, id).Error
		})
		if err == nil {
			b.alter(func(*place) {})
		}
		return err
	}}
}

// loadRoute is the transport of a route, as its row says.
func (p *part) loadRoute(ctx context.Context, subscriber string) (string, error) {
	var found []string
	if err := p.store.Read(ctx).Raw("SELECT transport FROM route WHERE subscriber = ?", subscriber).Scan(&found).Error; err != nil {
		return "", fmt.Errorf("route to %s: %w", subscriber, err)
	}
	if len(found) == 0 {
		return viaLocal, nil
	}
	return found[0], nil
}

// saveRoute writes the transport of a route, unless somebody else has taken the lease.
func (p *part) saveRoute(ctx context.Context, subscriber, transport, barrier string) error {
	return p.store.Do(ctx, func(_ context.Context, w *unit.Work) error {
		if w.Dialect() == database.Postgres {
			var mine []int64
			if err := w.DB.Raw("SELECT epoch FROM lease WHERE name = 'owner' AND epoch = ? FOR SHARE", p.lease.Fence()).Scan(&mine).Error; err != nil {
				return err
			}
			if len(mine) == 0 {
				return fmt.Errorf("route to %s: the lease was lost", subscriber)
			}
		}
		return w.DB.Exec("INSERT INTO route (subscriber, transport, barrier) VALUES (?, ?, ?) ON CONFLICT (subscriber) DO UPDATE SET transport = excluded.transport, barrier = excluded.barrier",
			subscriber, transport, barrier).Error
	})
}

// checkRoutes refuses to start without a broker when one may hold messages of a module, or for it.
func (b *Bus) checkRoutes(ctx context.Context, p *part) error {
	if b.opts.Broker != nil {
		return nil
	}
	var by []string
	if err := p.store.Read(ctx).Raw("SELECT subscriber FROM route WHERE transport <> ? AND subscriber <> ? ORDER BY subscriber", viaLocal, others).Scan(&by).Error; err != nil {
		return fmt.Errorf("routes of %s: %w", p.module.Name, err)
	}
	if len(by) > 0 {
		return fmt.Errorf("bus.rabbitmq.url: is empty, but messages of %s to %s may still be in RabbitMQ; set it, and bring the modules home (banyan placement set) before it is taken away", p.module.Name, strings.Join(by, ", "))
	}
	return nil
}

// Routes are the ways of the modules whose relays run here.
func (b *Bus) Routes() []Route {
	list := []Route{}
	for _, name := range b.names() {
		p := b.parts[name]
		if !p.lease.Held() {
			continue
		}
		for _, s := range b.targets(p) {
			w := p.routes.of(s)
			r := Route{Publisher: name, Subscriber: s, Transport: w.via, Waits: w.waits}
			if w.waits != "" {
				r.Since = &w.since
			}
			list = append(list, r)
		}
	}
	return list
}

// carry sends a message the way that its route has now.
func (b *Bus) carry(ctx context.Context, p *part, subscriber string, w *wm.Message) error {
	route := way{via: viaLocal}
	if p != nil { // else somebody delivers for a module that is not here
		route = p.routes.of(subscriber)
	}
	if route.via != viaRabbit {
		w.SetContext(ctx)
		b.mu.RLock()
		local := b.local
		b.mu.RUnlock()
		return local.Publish(subscriber, w)
	}
	w.SetContext(route.sends)
	if subscriber == others {
		return b.opts.Broker.Publisher().Event(route.sends, w)
	}
	return b.opts.Broker.Publisher().Publish(subscriber, w)
}
