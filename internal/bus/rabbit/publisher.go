package rabbit

import (
	"context"
	"errors"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/banyan-go/banyan/internal/errs"
)

// Publisher is the Watermill publisher. The topic is the subscriber module.
type Publisher struct{ b *Broker }

// Publisher sends messages.
func (b *Broker) Publisher() *Publisher { return &Publisher{b} }

// Close does nothing: the connections are Run's.
func (*Publisher) Close() error { return nil }

// Publish sends messages to a subscriber and returns nil when the quorum of its queue has all of them. Any number of callers may
// publish at once; what they send is on its way together, in the order of the calls. Of one call's messages those of one key go one
// after another. A message's context bounds its wait. The error is of kind errs.Unavailable if sending again may help.
func (p *Publisher) Publish(subscriber string, messages ...*message.Message) error {
	r, err := p.b.routeTo(subscriber)
	if err != nil {
		return err
	}
	if len(messages) == 1 {
		return r.publish(messages[0].Context(), subscriber, messages[0])
	}
	last := map[string]*outgoing{}
	var sent []*outgoing
	for _, m := range messages {
		key := keyOf(m)
		if before := last[key]; before != nil && before.wait() != nil {
			break
		}
		var o *outgoing
		if o, err = r.submit(m.Context(), subscriber, m); err != nil {
			break
		}
		defer o.cancel()
		sent, last[key] = append(sent, o), o
	}
	failures := []error{err}
	for _, o := range sent {
		failures = append(failures, o.wait())
	}
	if err = errors.Join(failures...); err != nil {
		return errs.New(errs.KindOf(err), "%w", err)
	}
	return nil
}

// Barrier sends a marker: who consumes the subscriber's queue is told of it when everything before it is acknowledged.
func (p *Publisher) Barrier(ctx context.Context, subscriber, publisher, id string) error {
	r, err := p.b.routeTo(subscriber)
	if err != nil {
		return err
	}
	m := message.NewMessage("barrier:"+id, nil)
	m.Metadata = message.Metadata{headerBarrier: id, headerSource: "/" + publisher}
	return r.publish(ctx, subscriber, m)
}

// Event sends an event to whoever outside listens; nil means that the broker has taken it, even if nobody does.
func (p *Publisher) Event(ctx context.Context, m *message.Message) error {
	r, err := p.b.route("", eventsExchange, false, declareEvents)
	if err != nil {
		return err
	}
	return r.publish(ctx, short(m.Metadata[headerType]), m)
}

func (b *Broker) routeTo(subscriber string) (*route, error) {
	if err := checkModule(subscriber); err != nil {
		return nil, errs.New(errs.Invalid, "publish: %w", err)
	}
	return b.route(subscriber, exchange, true, func(c *amqp.Connection) error { return declare(c, subscriber) })
}

func (b *Broker) route(name, exchange string, mandatory bool, declare func(*amqp.Connection) error) (*route, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if r := b.routes[name]; r != nil {
		return r, nil
	}
	r := &route{b: b, name: name, exchange: exchange, mandatory: mandatory, declare: declare, requests: make(chan *outgoing), presence: newPresence()}
	if err := b.workLocked(false, func() { r.run(b.life) }); err != nil {
		return nil, err
	}
	b.routes[name] = r
	return r, nil
}

// route carries the messages to one subscriber: a confirm channel, made again with each connection. A writer sends and a settler
// waits for the confirms, in the same order.
type route struct {
	b         *Broker
	name      string // "" for the topic exchange
	exchange  string
	mandatory bool
	declare   func(*amqp.Connection) error
	requests  chan *outgoing
	*presence
}

// outgoing is one message on its way.
type outgoing struct {
	ctx    context.Context
	cancel context.CancelFunc
	key    string
	p      amqp.Publishing
	done   chan error // holds one
	result error
	asked  bool

	confirmed *amqp.DeferredConfirmation
	at        time.Time
}

func (o *outgoing) finish(err error) { o.done <- err }

// wait is for the one who has submitted it; more than once gives the same.
func (o *outgoing) wait() error {
	if o.asked {
		return o.result
	}
	o.asked = true
	select {
	case o.result = <-o.done:
	case <-o.ctx.Done():
		o.result = errs.New(errs.Unavailable, "RabbitMQ did not confirm message %s in time; it may have it: %w", o.p.MessageId, o.ctx.Err())
	}
	return o.result
}

func (r *route) publish(ctx context.Context, key string, m *message.Message) error {
	o, err := r.submit(ctx, key, m)
	if err != nil {
		return err
	}
	defer o.cancel()
	return o.wait()
}

// submit hands a message to the writer.
func (r *route) submit(ctx context.Context, key string, m *message.Message) (*outgoing, error) {
	p, err := marshal(m)
	if err != nil {
		return nil, err
	}
	o := &outgoing{key: key, p: p, done: make(chan error, 1)}
	o.ctx, o.cancel = context.WithTimeout(ctx, r.b.cfg.ConfirmTimeout)
	select {
	case r.requests <- o:
		return o, nil
	case <-o.ctx.Done():
		err = errs.New(errs.Unavailable, "message %s was not sent in time: %w", m.UUID, errors.Join(o.ctx.Err(), r.why(r.b.publishing)))
	case <-r.gone():
		err = r.away(r.b.publishing)
	}
	o.cancel()
	r.count("refused")
	return nil, err
}

func (r *route) count(outcome string) { r.b.metrics.published.WithLabelValues(r.name, outcome).Inc() }

var errLost = errors.New("messages come back: the queue or its binding is gone")

// afterDelete is how long nobody makes a queue again that was deleted. If that happens within a moment, RabbitMQ 3.10 does not tell
// the consumers of the old one, and what is sent to the new one is confirmed and given to nobody.
const afterDelete = time.Second

func (r *route) run(ctx context.Context) {
	defer r.leave(errors.New("this process is stopping"))
	pause := backoff{min: r.b.cfg.RedialMin, max: r.b.cfg.RedialMax}
	for {
		conn, err := r.b.publishing.get(ctx)
		if err != nil {
			return
		}
		began := time.Now()
		err = r.session(ctx, conn)
		if ctx.Err() != nil {
			return
		}
		if time.Since(began) > r.b.cfg.RedialMax {
			pause.n = 0
		}
		if errors.Is(err, errLost) {
			r.fade()
			if !sleep(ctx, afterDelete) {
				return
			}
			continue
		}
		if err != nil && !conn.IsClosed() { // of this route alone
			r.trouble(err)
			r.leave(err)
		} else {
			r.fade()
		}
		if !sleep(ctx, pause.next()) {
			return
		}
	}
}

func (r *route) trouble(err error) {
	if r.name != "" {
		r.b.trouble(queueOf(r.name), err)
	} else {
		r.b.trouble(eventsExchange, err)
	}
}

// session sends until the channel or ctx ends.
func (r *route) session(ctx context.Context, conn *amqp.Connection) error {
	if err := r.declare(conn); err != nil {
		return err
	}
	ch, err := conn.Channel()
	if err != nil {
		return err
	}
	if err := ch.Confirm(false); err != nil {
		return errors.Join(err, ch.Close())
	}
	w := &writer{
		route: r, ch: ch, inflight: make(chan *outgoing, r.b.cfg.Window), lost: make(chan struct{}, 1),
		closed: ch.NotifyClose(make(chan *amqp.Error, 1)),
		// A return is here before its confirm is told: the client puts it in from the goroutine that tells of the confirm next, and
		// there is always room, as only what is in flight comes back.
		returns: ch.NotifyReturn(make(chan amqp.Return, r.b.cfg.Window+2)),
		broken:  make(chan struct{}),
	}
	settled := make(chan struct{})
	go func() {
		defer close(settled)
		w.settle()
	}()
	r.trouble(nil)
	r.arrive()
	err = w.write(ctx)
	close(w.inflight)
	if ctx.Err() == nil {
		r.fade()
	}
	<-settled
	go func() { _ = ch.Close() }() // may wait for a broker that does not answer
	return err
}

// writer is a confirm channel.
type writer struct {
	*route
	ch       *amqp.Channel
	inflight chan *outgoing // in the order of sending; its room is the window
	closed   <-chan *amqp.Error
	returns  <-chan amqp.Return
	lost     chan struct{} // something came back: the queue or its binding is gone
	broken   chan struct{} // closed by the settler: no confirm comes
	back     []amqp.Return // the settler's: not matched yet
}

func (w *writer) write(ctx context.Context) error {
	for {
		v, changed := w.b.publishing.watch()
		requests := w.requests
		if v.blocked != "" {
			requests = nil // nobody reads what is written now
		}
		select {
		case o := <-requests:
			if o.ctx.Err() != nil { // nobody waits for it
				o.finish(o.ctx.Err())
				continue
			}
			var err error
			if o.confirmed, err = w.ch.PublishWithDeferredConfirm(w.exchange, o.key, w.mandatory, false, o.p); err != nil {
				o.finish(errs.New(errs.Unavailable, "send message %s: %w", o.p.MessageId, err))
				return err
			}
			o.at = time.Now()
			w.inflight <- o // the settler takes it in any case
		case <-changed:
		case <-w.lost:
			return errLost
		case err := <-w.closed:
			if err == nil {
				return errors.New("the channel was closed")
			}
			return err
		case <-w.broken:
			return errors.New("the broker does not confirm in time")
		case <-ctx.Done():
			return nil
		}
	}
}

// settle tells each message's fate.
func (w *writer) settle() {
	late := time.NewTimer(time.Hour)
	defer late.Stop()
	broken := false
	for o := range w.inflight {
		if !broken && !w.await(o, late) {
			broken = true
			close(w.broken)
		}
		switch {
		case broken:
			w.count("unknown")
			o.finish(errs.New(errs.Unavailable, "RabbitMQ did not confirm message %s within %s", o.p.MessageId, w.b.cfg.ConfirmTimeout))
		case w.returned(o):
			w.count("returned")
			select {
			case w.lost <- struct{}{}:
			default:
			}
			o.finish(errs.New(errs.Unavailable, "RabbitMQ returned message %s: no queue is bound for %q", o.p.MessageId, o.key))
		case !o.confirmed.Acked():
			w.count("unknown")
			o.finish(errs.New(errs.Unavailable, "message %s was not confirmed: RabbitMQ refused it, or the connection was lost", o.p.MessageId))
		default:
			w.count("confirmed")
			o.finish(nil)
		}
	}
}

// await waits for the confirm. What is written while the broker takes no messages is confirmed when it does again.
func (w *writer) await(o *outgoing, late *time.Timer) bool {
	select {
	case <-o.confirmed.Done():
		return true
	default:
	}
	late.Reset(time.Until(o.at.Add(w.b.cfg.ConfirmTimeout)))
	for {
		select {
		case <-o.confirmed.Done():
			return true
		case <-late.C:
			if w.b.publishing.view().blocked == "" || w.b.life.Err() != nil {
				return false
			}
			late.Reset(w.b.cfg.ConfirmTimeout)
		}
	}
}

// returned says whether a message came back. Two of one id can be under way if one who waited for the first has left; whichever of
// them is said to have come back, the other one has not.
func (w *writer) returned(o *outgoing) bool {
	for {
		select {
		case r, ok := <-w.returns:
			if ok {
				w.back = append(w.back, r)
				continue
			}
		default:
		}
		break
	}
	for i, r := range w.back {
		if r.MessageId == o.p.MessageId && r.RoutingKey == o.key {
			w.back = append(w.back[:i], w.back[i+1:]...)
			return true
		}
	}
	return false
}
