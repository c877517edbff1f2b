package rabbit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/banyan-go/banyan/internal/errs"
)

// SubscriberOptions are what a Subscriber works with.
type SubscriberOptions struct {
	// Barrier is called when every message before a barrier is acknowledged; it is called again until it gives nil, and after a lost
	// connection perhaps once more. Without it barriers are given out as messages.
	Barrier func(ctx context.Context, subscriber, publisher, id string) error
}

// Subscriber is the Watermill subscriber. The topic is the module whose queue is consumed.
type Subscriber struct {
	b    *Broker
	opts SubscriberOptions
	life context.Context
	end  context.CancelFunc
	all  sync.WaitGroup
	mu   sync.Mutex
}

// Subscriber consumes queues.
func (b *Broker) Subscriber(o SubscriberOptions) *Subscriber {
	s := &Subscriber{b: b, opts: o}
	s.life, s.end = context.WithCancel(b.life)
	return s
}

// Subscribe gives out the messages of a module's queue until ctx ends, those of one key one after another. It returns at once; the
// messages come when the broker does. An acknowledged message leaves the queue; a message that is not acknowledged is given out
// again after a while, and those of its key behind it wait. At the end nothing new is given out, what is out is waited for, and then
// the channel is closed, which leaves the rest in order to the next consumer.
func (s *Subscriber) Subscribe(ctx context.Context, module string) (<-chan *message.Message, error) {
	if err := checkModule(module); err != nil {
		return nil, errs.New(errs.Invalid, "subscribe: %w", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	release := context.AfterFunc(s.life, cancel)
	c := &consumer{
		b: s.b, opts: s.opts, module: module, out: make(chan *message.Message), events: make(chan event, s.b.cfg.Prefetch),
		finished: make(chan struct{}), lines: map[string]*line{},
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	err := errs.New(errs.Unavailable, "the subscriber is closed")
	if s.life.Err() == nil {
		s.all.Add(1)
		if failed := s.b.work(true, func() {
			defer s.all.Done()
			defer release()
			defer cancel()
			c.run(ctx)
		}); failed == nil {
			return c.out, nil
		}
		s.all.Done()
	}
	release()
	cancel()
	return nil, err
}

// Close ends all subscriptions and waits for them.
func (s *Subscriber) Close() error {
	s.mu.Lock()
	s.end()
	s.mu.Unlock()
	s.all.Wait()
	return nil
}

// consumer is one subscription. One goroutine owns its state; handlers, timers and barriers report to it.
type consumer struct {
	b        *Broker
	opts     SubscriberOptions
	module   string
	out      chan *message.Message
	events   chan event
	finished chan struct{} // closed at the end: nobody takes events any more

	stream   *stream // nil while there is no channel
	lines    map[string]*line
	ready    []*item // to be given out
	busy     int     // with handlers and barriers
	ending   bool
	barriers []*item // of this stream
}

// stream is a channel with a consumer.
type stream struct {
	ch         *amqp.Channel
	deliveries <-chan amqp.Delivery
	unacked    []*item // as they came
	acked      []*item // to be told to the broker
}

// line are the messages of one key. One of them is the turn's: given out, about to be, or waiting for another attempt.
type line struct {
	key     string
	turn    *item
	waiting []*item
}

type item struct {
	stream   *stream
	tag      uint64
	message  *message.Message
	line     *line // nil for a barrier
	out      bool  // with a handler
	acked    bool  // by the handler
	told     bool  // to the broker
	attempts int
}

// event is the end of an attempt, or of the pause after one.
type event struct {
	item  *item
	what  what
	cause error // of a barrier
}

type what int

const (
	taken what = iota
	refused
	again
)

func (c *consumer) run(ctx context.Context) {
	defer close(c.out)
	defer close(c.finished)
	opened := make(chan *stream)
	opening := c.open(ctx, opened)
	done := ctx.Done()
	var patience <-chan time.Time
	for {
		var out chan<- *message.Message
		var next *message.Message
		if len(c.ready) > 0 && !c.ending {
			out, next = c.out, c.ready[0].message
		}
		var deliveries <-chan amqp.Delivery
		if c.stream != nil && !c.ending {
			deliveries = c.stream.deliveries
		}
		select {
		case s := <-opened:
			c.stream = s
		case d, ok := <-deliveries:
			if ok {
				c.arrive(&d)
				break
			}
			s := c.stream
			c.lose()
			opening = c.open(ctx, opened, s.ch)
		case out <- next:
			c.give()
		case e := <-c.events:
			c.settle(e)
			for more := true; more; { // one acknowledgement for as many as there are
				select {
				case e := <-c.events:
					c.settle(e)
				default:
					more = false
				}
			}
			c.tell()
		case <-done:
			done, c.ending = nil, true
			t := time.NewTimer(c.b.cfg.CloseTimeout)
			defer t.Stop()
			patience = t.C
		case <-patience:
			c.b.opts.Log.Warn("messages are still being handled at the end of a subscription", "module", c.module, "messages", c.busy)
			c.busy = 0
		}
		if c.ending && c.busy == 0 {
			break
		}
		c.raise(ctx)
	}
	select {
	case s := <-opened: // there is no other way to learn of it
		c.stream = s
	case <-opening:
	}
	if c.stream != nil {
		// Never by basic.cancel: the broker would give what comes next to the next consumer before what is unacknowledged here.
		if err := c.stream.ch.Close(); err != nil && !errors.Is(err, amqp.ErrClosed) {
			c.b.opts.Log.Debug("channel not closed in order", "module", c.module, "error", err)
		}
	}
}

// open makes a channel that consumes, as often as it takes, and closes old ones before. The channel it gives is closed at its end.
func (c *consumer) open(ctx context.Context, opened chan<- *stream, old ...*amqp.Channel) <-chan struct{} {
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for _, ch := range old {
			if !ch.IsClosed() { // the broker has ended the consumer alone, as its queue is gone
				_ = ch.Close()
				if !sleep(ctx, afterDelete) {
					return
				}
			}
		}
		pause := backoff{min: c.b.cfg.RedialMin, max: c.b.cfg.RedialMax}
		for i := 0; ; i++ {
			if (i > 0 || len(old) > 0) && !sleep(ctx, pause.next()) {
				return
			}
			conn, err := c.b.consuming.get(ctx)
			if err != nil {
				return
			}
			s, err := c.consume(conn)
			if err != nil {
				if !conn.IsClosed() {
					c.b.trouble(queueOf(c.module), err)
				}
				continue
			}
			c.b.trouble(queueOf(c.module), nil)
			select {
			case opened <- s:
			case <-ctx.Done():
				_ = s.ch.Close()
			}
			return
		}
	}()
	return ended
}

func (c *consumer) consume(conn *amqp.Connection) (*stream, error) {
	if err := declare(conn, c.module); err != nil {
		return nil, err
	}
	ch, err := conn.Channel()
	if err != nil {
		return nil, err
	}
	if err := ch.Qos(c.b.cfg.Prefetch, 0, false); err != nil {
		return nil, errors.Join(err, ch.Close())
	}
	deliveries, err := ch.Consume(queueOf(c.module), "", false, false, false, false, nil)
	if err != nil {
		return nil, fmt.Errorf("consume %s: %w", queueOf(c.module), err)
	}
	return &stream{ch: ch, deliveries: deliveries}, nil
}

// arrive puts a delivery into the line of its key.
func (c *consumer) arrive(d *amqp.Delivery) {
	i := &item{stream: c.stream, tag: d.DeliveryTag, message: unmarshal(d)}
	c.stream.unacked = append(c.stream.unacked, i)
	if c.opts.Barrier != nil && i.message.Metadata[headerBarrier] != "" {
		c.barriers = append(c.barriers, i)
		return
	}
	key := keyOf(i.message)
	l := c.lines[key]
	if l == nil {
		l = &line{key: key}
		c.lines[key] = l
	}
	i.line = l
	l.waiting = append(l.waiting, i)
	c.advance(l)
}

func (c *consumer) advance(l *line) {
	switch {
	case l.turn != nil:
	case len(l.waiting) > 0:
		l.turn = l.waiting[0]
		l.waiting = l.waiting[1:]
		c.ready = append(c.ready, l.turn)
	default:
		delete(c.lines, l.key)
	}
}

// give notes that the first of ready is with a handler.
func (c *consumer) give() {
	i := c.ready[0]
	c.ready[0] = nil
	c.ready = c.ready[1:]
	i.out = true
	c.busy++
	c.b.metrics.given.WithLabelValues(c.module).Inc()
	m := i.message
	go func() {
		select {
		case <-m.Acked():
			c.report(event{item: i, what: taken})
		case <-m.Nacked():
			c.report(event{item: i, what: refused})
		}
	}()
}

func (c *consumer) report(e event) {
	select {
	case c.events <- e:
	case <-c.finished:
	}
}

func (c *consumer) settle(e event) {
	i := e.item
	current := i.stream == c.stream
	if e.what == again {
		if current && !c.ending && !i.out && !i.acked {
			if i.line != nil {
				c.ready = append(c.ready, i)
			} else {
				c.barriers = append([]*item{i}, c.barriers...) // it is still the first
			}
		}
		return
	}
	i.out = false
	if c.busy > 0 {
		c.busy--
	}
	switch {
	case e.what == taken:
		i.acked = true
		if current {
			c.stream.acked = append(c.stream.acked, i)
		}
	case current && !c.ending:
		c.b.metrics.repeated.WithLabelValues(c.module).Inc()
		if e.cause != nil {
			c.b.opts.Log.Warn("barrier not taken", "module", c.module, "error", e.cause)
		}
		pause := backoff{min: 20 * time.Millisecond, max: 5 * time.Second, n: i.attempts}
		i.attempts++
		i.message = copyOf(i.message) // one that was refused cannot be used again
		time.AfterFunc(pause.next(), func() { c.report(event{item: i, what: again}) })
		return // its key waits
	}
	if i.line != nil && i.line.turn == i {
		i.line.turn = nil
		if !c.ending {
			c.advance(i.line)
		}
	}
}

func copyOf(m *message.Message) *message.Message {
	n := message.NewMessage(m.UUID, bytes.Clone(m.Payload))
	n.Metadata = maps.Clone(m.Metadata)
	return n
}

// tell acknowledges at the broker: all up to the first that is being handled at once, others each, so that a slow one does not fill
// the window.
func (c *consumer) tell() {
	s := c.stream
	if s == nil {
		return
	}
	var last *item
	n := 0
	for n < len(s.unacked) && s.unacked[n].acked {
		if !s.unacked[n].told {
			last = s.unacked[n]
			last.told = true
		}
		n++
	}
	s.unacked = s.unacked[n:]
	// An error means that the channel is lost: the broker gives out again what it was not told of.
	if last != nil {
		_ = s.ch.Ack(last.tag, true)
	}
	for _, i := range s.acked {
		_ = i
	}
	s.acked = s.acked[:0]
}

// raise calls for the first barrier if nothing is before it.
func (c *consumer) raise(ctx context.Context) {
	if c.stream == nil || c.ending || len(c.barriers) == 0 || c.stream.unacked[0] != c.barriers[0] {
		return
	}
	i := c.barriers[0]
	c.barriers = c.barriers[1:]
	i.out = true
	c.busy++
	source := i.message.Metadata[headerSource]
	go func() {
		err := c.opts.Barrier(context.WithoutCancel(ctx), c.module, source[min(1, len(source)):], i.message.Metadata[headerBarrier])
		if err != nil {
			c.report(event{item: i, what: refused, cause: err})
			return
		}
		c.report(event{item: i, what: taken})
	}()
}

// lose forgets what the broker will give out again; only what is with handlers stays, and what comes of its keys waits for it.
func (c *consumer) lose() {
	c.stream, c.ready, c.barriers = nil, nil, nil
	for key, l := range c.lines {
		l.waiting = nil
		if l.turn != nil && !l.turn.out {
			l.turn = nil
		}
		if l.turn == nil {
			delete(c.lines, key)
		}
	}
}
