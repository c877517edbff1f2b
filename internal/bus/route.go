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
// queue's consumer has it, all of that was handled. A marker goes ahead while messages still go by the broker: when the one behind the
// last message is sent, the consumer of this side is at work, and little is left before it. What a holder that was cut off still puts there
// is not marked as sent, so the rightful one sends it too, in its order, and the inbox keeps one effect of each.
const (
	viaLocal    = "local"
	viaRabbit   = "rabbit"
	viaDraining = "draining"
	viaNothing  = "" // the relay does not run here
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
const others = unit.Others

// tellsOthers says whether it goes there now. If not, what is left to send waits.
func (b *Bus) tellsOthers() bool { return b.opts.Broker != nil && b.cfg.RabbitMQ.Events }

// checkOthers says once that messages wait which nobody sends to others now.
func (b *Bus) checkOthers(ctx context.Context, p *part) error {
	if b.tellsOthers() {
		return nil
	}
	var n int64
	if err := p.store.Read(ctx).Raw("SELECT count(*) FROM delivery WHERE subscriber = ?", others).Row().Scan(&n); err != nil {
		return err
	}
	if n > 0 && !p.warned.Swap(true) {
		b.opts.Log.Warn("messages to services that are not ours wait until bus.rabbitmq.events is on, with a bus.rabbitmq.url", "module", p.module.Name, "number", n)
	}
	return nil
}

// unsent is whose deliveries wait for another configuration, so that nothing is to be expected of them; "" for nobody.
func (b *Bus) unsent() string {
	if b.tellsOthers() {
		return ""
	}
	return others
}

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

// ways are the transports of the routes that have one here.
func (r *routes) ways() map[string]string {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := make(map[string]string, len(r.all))
	for subscriber, w := range r.all {
		all[subscriber] = w.via
	}
	return all
}

func (r *routes) set(subscriber string, w way) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.all == nil {
		r.all = map[string]*way{}
	}
	r.all[subscriber] = &w
}

// transport is by which one messages to a subscriber should go, by its record. While its store is between two processes they wait at the
// broker.
func (b *Bus) transport(subscriber string) string {
	if subscriber != others && b.here(subscriber) {
		return viaLocal
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
		sends, end := context.WithCancel(context.WithoutCancel(ctx))
		p.routes.set(subscriber, way{via: want, sends: sends})
		gate.Open(b.limits(want))
		if !closed.IsZero() {
			b.opts.Metrics.Switched.WithLabelValues(p.module.Name, subscriber, want).Observe(time.Since(closed).Seconds())
		}
		for b.goesOn(ctx, p, subscriber, want) {
			b.await(ctx, func() bool { return b.transport(subscriber) == want })
		}
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

// limits bound an open route. What goes by the broker waits for confirms, which come in batches, and needs many on their way.
func (b *Bus) limits(via string) relay.Limits {
	l := relay.Limits{Workers: b.cfg.Workers, Window: b.cfg.Window}
	if via == viaRabbit {
		l.Workers = b.cfg.RabbitMQ.Window
		l.Window = max(l.Window, 4*l.Workers)
	}
	return l
}

// goesOn says whether an open route stays open. One that is to go within the process again goes by the broker until a marker has come
// through the queue.
func (b *Bus) goesOn(ctx context.Context, p *part, subscriber, via string) bool {
	key := [2]string{p.module.Name, subscriber}
	for ctx.Err() == nil && b.transport(subscriber) != via {
		if via != viaRabbit {
			return false
		}
		b.alter(func(pl *place) { pl.unsteady[key] = true })
		err := p.saveRoute(ctx, subscriber, viaDraining)
		if err == nil {
			err = b.drain(ctx, p, subscriber)
		}
		if err == nil {
			return false
		}
		if ctx.Err() == nil && b.transport(subscriber) != via {
			b.opts.Log.Warn("route waits", "publisher", p.module.Name, "subscriber", subscriber, "for", viaLocal, "error", err)
			pause(ctx, 200*time.Millisecond)
		}
	}
	b.wait(p, subscriber, "")
	b.alter(func(pl *place) { delete(pl.unsteady, key) })
	return ctx.Err() == nil
}

// confirmGrace is how long a process that ends waits for what the broker has not confirmed.
const confirmGrace = 2 * time.Second

// wait notes what a route waits for; empty for nothing.
func (b *Bus) wait(p *part, subscriber, what string) {
	w := p.routes.of(subscriber)
	if w.waits != what {
		w.waits, w.since = what, time.Now()
		p.routes.set(subscriber, w)
	}
}

// steer brings a closed route to a transport; nil means that it may be opened.
func (b *Bus) steer(ctx context.Context, p *part, subscriber, want string) error {
	have, err := p.loadRoute(ctx, subscriber)
	if err != nil {
		return err
	}
	if have == want {
		return nil
	}
	if want == viaRabbit {
		return p.saveRoute(ctx, subscriber, viaRabbit)
	}
	if have == viaRabbit {
		if err := p.saveRoute(ctx, subscriber, viaDraining); err != nil {
			return err
		}
	}
	if err := b.drain(ctx, p, subscriber); err != nil {
		return err
	}
	return p.saveRoute(ctx, subscriber, viaLocal)
}

// drain returns when everything was handled that this module has put into the queue of a subscriber so far, or with an error when the
// subscriber goes away again.
func (b *Bus) drain(ctx context.Context, p *part, subscriber string) error {
	id := message.NewID()
	b.wait(p, subscriber, "messages to "+subscriber+" that the broker holds")
	turned, cancel := context.WithCancel(ctx)
	defer cancel()
	go b.await(turned, func() bool { // the subscriber goes away again
		if b.transport(subscriber) == viaLocal {
			return true
		}
		cancel()
		return false
	})
	b.await(turned, func() bool { return b.placed && !b.tends(subscriber) })
	store := b.parts[subscriber].store
	for {
		if err := b.opts.Broker.Publisher().Barrier(turned, subscriber, p.module.Name, id); err != nil {
			return fmt.Errorf("marker: %w", err)
		}
		// Somebody may have emptied the queue, or put another marker behind this one: then it is sent again.
		again := time.Now().Add(markerAgain)
		for poll := barrierPoll; time.Now().Before(again); poll = min(2*poll, barrierPollMost) {
			b.place.mu.Lock()
			changed := b.place.changed
			b.place.mu.Unlock()
			var found []string
			if err := store.Read(turned).Raw("SELECT id FROM barrier WHERE publisher = ?", p.module.Name).Scan(&found).Error; err != nil {
				return err
			}
			if len(found) == 1 && found[0] == id {
				return nil
			}
			select {
			case <-turned.Done():
				return turned.Err()
			case <-changed:
			case <-time.After(poll): // another replica consumes the queue
			}
		}
	}
}

const (
	markerAgain     = 10 * time.Second
	barrierPoll     = 2 * time.Millisecond
	barrierPollMost = 50 * time.Millisecond
)

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

// saveRoute writes the transport of a route, unless somebody else has taken the lease. Which marker is waited for is not kept: whoever
// comes next sends one of its own.
func (p *part) saveRoute(ctx context.Context, subscriber, transport string) error {
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
		return w.DB.Exec("INSERT INTO route (subscriber, transport, barrier) VALUES (?, ?, '') ON CONFLICT (subscriber) DO UPDATE SET transport = excluded.transport", subscriber, transport).Error
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
