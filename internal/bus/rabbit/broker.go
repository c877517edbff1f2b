package rabbit

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/banyan-go/banyan/internal/errs"
)

// grace is how long an absence of the broker is waited out; after it, what needs the broker is refused at once.
const grace = time.Second

// Options are what a Broker works with.
type Options struct {
	Name    string // of this process, shown at the broker
	Log     *slog.Logger
	Metrics prometheus.Registerer // nil for none
}

// Broker is the connection of this process to RabbitMQ. It may be used before Run and while the broker is away: what needs it then
// waits a moment and is refused with errs.Unavailable.
type Broker struct {
	cfg     Config
	opts    Options
	metrics *metrics

	publishing, consuming, asking *link

	life context.Context // of what works with the connections; ends with Run
	end  context.CancelFunc

	mu      sync.Mutex
	began   bool
	waiting []func() // begin with Run
	routes  map[string]*route
	caller  *caller
	troubles
	working sync.WaitGroup // routes, subscriptions and servers
}

// troubles are what is wrong now, by what it is wrong with.
type troubles struct {
	mu  sync.Mutex
	all map[string]string
}

// Status is what is known of the broker.
type Status struct {
	Connected bool              `json:"connected"`
	Blocked   string            `json:"blocked,omitempty"` // why the broker takes no messages (memory, disk); known once one was sent
	Version   string            `json:"version,omitempty"` // of the server
	Error     string            `json:"error,omitempty"`   // why it is not connected, or which queue is wrong
	Queues    map[string]string `json:"queues,omitempty"`  // what is wrong with a queue
	Since     time.Time         `json:"since"`             // when Connected changed
}

// New is a Broker that is not connected yet.
func New(cfg Config, opts Options) (*Broker, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if cfg.URL == "" {
		return nil, errors.New("bus.rabbitmq.url: is missing; give it as in amqp://user:password@host:5672/vhost")
	}
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	if opts.Name == "" {
		opts.Name = "banyan"
	}
	b := &Broker{cfg: cfg, opts: opts, metrics: newMetrics(opts.Metrics), routes: map[string]*route{}, troubles: troubles{all: map[string]string{}}}
	b.life, b.end = context.WithCancel(context.Background())
	b.publishing, b.consuming, b.asking = newLink(b, "publish"), newLink(b, "consume"), newLink(b, "ask")
	b.caller = newCaller(b)
	return b, nil
}

// Run keeps the connections until ctx ends; then it ends all subscriptions, waits for what is on its way, and closes them.
func (b *Broker) Run(ctx context.Context) error {
	b.mu.Lock()
	if b.began {
		b.mu.Unlock()
		return errors.New("the connection to RabbitMQ runs already, or has ended")
	}
	b.began = true
	links, disconnect := context.WithCancel(context.WithoutCancel(ctx))
	defer disconnect()
	var connected sync.WaitGroup
	for _, l := range b.links() {
		connected.Go(func() { l.run(links) })
	}
	for _, begin := range b.waiting {
		b.working.Go(begin)
	}
	b.waiting = nil
	b.working.Go(func() { b.caller.run(b.life) })
	b.mu.Unlock()

	<-ctx.Done()
	b.mu.Lock()
	b.end()
	b.mu.Unlock()
	ended := make(chan struct{})
	go func() { defer close(ended); b.working.Wait() }()
	select {
	case <-ended:
	case <-time.After(max(b.cfg.CloseTimeout, b.cfg.ConfirmTimeout) + grace):
		// A broker that takes no messages does not read from us either; whoever waits for it is freed with the connection.
	}
	disconnect()
	<-ended
	connected.Wait()
	return nil
}

// patiently does something that waits for the broker, and goes on without it if that takes too long.
func (b *Broker) patiently(f func()) {
	done := make(chan struct{})
	go func() { defer close(done); f() }()
	t := time.NewTimer(3 * b.cfg.Heartbeat)
	defer t.Stop()
	select {
	case <-done:
	case <-t.C:
	}
}

func (b *Broker) links() []*link { return []*link{b.publishing, b.consuming, b.asking} }

// work runs fn until the end of Run, which waits for it. With early it begins even before Run; else Run begins it.
func (b *Broker) work(early bool, fn func()) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.workLocked(early, fn)
}

func (b *Broker) workLocked(early bool, fn func()) error {
	switch {
	case b.life.Err() != nil:
		return errs.New(errs.Unavailable, "the connection to RabbitMQ has ended")
	case b.began || early:
		b.working.Go(fn)
	default:
		b.waiting = append(b.waiting, fn)
	}
	return nil
}

// Status is the present state.
func (b *Broker) Status() Status {
	s := Status{Connected: true}
	for _, l := range b.links() {
		v := l.view()
		s.Connected = s.Connected && v.conn != nil
		if v.since.After(s.Since) {
			s.Since = v.since
		}
		if s.Blocked == "" {
			s.Blocked = v.blocked
		}
		if s.Version == "" && v.conn != nil {
			s.Version = version(v.conn)
		}
		if s.Error == "" && v.err != nil {
			s.Error = v.err.Error()
		}
	}
	if !s.Connected && s.Error == "" {
		s.Error = "not connected yet"
	}
	b.troubles.mu.Lock()
	defer b.troubles.mu.Unlock()
	if len(b.all) > 0 {
		s.Queues = maps.Clone(b.all)
		if s.Error == "" {
			s.Error = strings.Join(slices.Sorted(maps.Values(b.all)), "; ")
		}
	}
	return s
}

// trouble notes what is wrong with a queue, nil for nothing, and logs it once for as long as it stays the same.
func (b *Broker) trouble(queue string, err error) {
	b.troubles.mu.Lock()
	before := b.all[queue]
	now := ""
	if err == nil {
		delete(b.all, queue)
	} else {
		now = err.Error()
		b.all[queue] = now
	}
	b.troubles.mu.Unlock()
	switch {
	case now == before:
	case now == "":
		b.opts.Log.Info("queue of RabbitMQ is well again", "queue", queue)
	default:
		b.opts.Log.Error("queue of RabbitMQ cannot be used", "queue", queue, "error", now)
	}
}

// Declare makes the exchanges, and the queues of these subscribers with their bindings, or checks that they are there, and does it
// again on each new connection before the first message to them.
func (b *Broker) Declare(ctx context.Context, modules ...string) error {
	for _, m := range modules {
		if err := checkModule(m); err != nil {
			return errs.New(errs.Invalid, "declare: %w", err)
		}
		if _, err := b.routeTo(m); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, b.cfg.ConfirmTimeout)
	defer cancel()
	conn, err := b.publishing.get(ctx)
	if err != nil {
		return err
	}
	for _, m := range modules {
		done := make(chan error, 1)
		go func() { done <- declare(conn, m) }()
		select {
		case err := <-done:
			b.trouble(queueOf(m), err)
			if err != nil {
				return errs.New(errs.Unavailable, "%w", err)
			}
		case <-ctx.Done():
			return errs.New(errs.Unavailable, "RabbitMQ did not answer in time: %w", ctx.Err())
		}
	}
	return nil
}
