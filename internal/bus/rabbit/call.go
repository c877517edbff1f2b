package rabbit

import (
	"context"
	"errors"
	"strconv"
	"sync"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/sony/gobreaker/v2"

	"github.com/banyan-go/banyan/internal/errs"
)

const (
	headerRequest  = "banyan_request"
	headerCommand  = "banyan_command_id"
	headerDeadline = "banyan_deadline"
	headerError    = "banyan_error"

	replyTo = "amq.rabbitmq.reply-to" // the broker's own: replies come straight to the channel that asked
)

// Request is a question to a module.
type Request struct {
	Name      string            // of the query or command
	CommandID string            // "" for a query
	Headers   map[string]string // correlation, trace context
	Body      []byte
	Deadline  time.Time
}

// Answered is an error that the module itself has given, as against one of the way there and back.
type Answered struct{ Err error }

// Error is that of the module.
func (a *Answered) Error() string { return a.Err.Error() }

// Unwrap gives the error as the module has sent it.
func (a *Answered) Unwrap() error { return a.Err }

// Away is an error of the broker, or of the way to it: it says nothing about the module.
type Away struct{ Err error }

// Error is what is the matter.
func (a *Away) Error() string { return a.Err.Error() }

// Unwrap gives the error with its kind.
func (a *Away) Unwrap() error { return a.Err }

// ErrUnsent is in the error of a question that was not sent because its time was over before.
var ErrUnsent = errors.New("it was not sent")

// Call asks a module and waits for its reply. An error of the module is Answered, with the kind it had there. Everything else is
// errs.Unavailable, if asking again may help (nobody answers for this module now, too many questions are open, or the broker is Away),
// or errs.Timeout, once the deadline has passed. A question may have been answered although its caller got an error; who asks
// again must use the same command id.
func (b *Broker) Call(ctx context.Context, module string, r Request) ([]byte, error) {
	if err := checkModule(module); err != nil {
		return nil, errs.New(errs.Invalid, "ask: %w", err)
	}
	if d, ok := ctx.Deadline(); ok && (r.Deadline.IsZero() || d.Before(r.Deadline)) {
		r.Deadline = d
	}
	if r.Deadline.IsZero() {
		return nil, errs.New(errs.Invalid, "question %s has no deadline", r.Name)
	}
	ctx, cancel := context.WithDeadline(ctx, r.Deadline)
	defer cancel()
	reply, err := b.caller.to(module).ask(ctx, r)
	outcome := "ok"
	if err != nil {
		outcome = string(errs.KindOf(err))
	}
	b.metrics.asked.WithLabelValues(module, outcome).Inc()
	return reply, err
}

// caller asks modules: one channel, whose replies are told apart by a number.
type caller struct {
	b        *Broker
	requests chan *question
	*presence

	mu      sync.Mutex
	modules map[string]*respondent
	open    map[string]*question // by number
	number  uint64
}

// question is a request on its way.
type question struct {
	module string
	id     string
	p      amqp.Publishing
	at     time.Time
	done   chan answer // holds one
}

type answer struct {
	body []byte
	err  error // of the transport
	far  error // of the module
}

// respondent is a module as its callers see it.
type respondent struct {
	caller  *caller
	module  string
	places  chan struct{} // bulkhead
	breaker *gobreaker.CircuitBreaker[answer]
}

func newCaller(b *Broker) *caller {
	return &caller{b: b, requests: make(chan *question), presence: newPresence(), modules: map[string]*respondent{}, open: map[string]*question{}}
}

func (c *caller) to(module string) *respondent {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := c.modules[module]
	if r == nil {
		r = &respondent{caller: c, module: module, places: make(chan struct{}, c.b.cfg.Calls)}
		if cfg := c.b.cfg.Breaker; cfg.Failures > 0 {
			r.breaker = gobreaker.NewCircuitBreaker[answer](gobreaker.Settings{
				Name: module, Timeout: cfg.Open,
				ReadyToTrip:  func(n gobreaker.Counts) bool { return int(n.ConsecutiveFailures) >= cfg.Failures },
				IsSuccessful: func(err error) bool { return err == nil },
				IsExcluded:   saysNothing,
				OnStateChange: func(_ string, from, to gobreaker.State) {
					c.b.opts.Log.Warn("circuit breaker of questions", "module", module, "from", from.String(), "to", to.String())
				},
			})
		}
		c.modules[module] = r
	}
	return r
}

// saysNothing about the module: its caller has left, or the broker is away.
func saysNothing(err error) bool {
	var away *Away
	return errors.Is(err, context.Canceled) || errors.As(err, &away)
}

func (r *respondent) ask(ctx context.Context, q Request) ([]byte, error) {
	select {
	case r.places <- struct{}{}:
		defer func() { <-r.places }()
	default:
		return nil, errs.New(errs.Unavailable, "module %s has %d questions open", r.module, cap(r.places))
	}
	var a answer
	var err error
	if r.breaker == nil {
		a = r.caller.ask(ctx, r.module, q)
		err = a.err
	} else {
		a, err = r.breaker.Execute(func() (answer, error) {
			a := r.caller.ask(ctx, r.module, q)
			return a, a.err
		})
		if errors.Is(err, gobreaker.ErrOpenState) || errors.Is(err, gobreaker.ErrTooManyRequests) {
			refused := errs.New(errs.Unavailable, "module %s does not answer; it is asked again in a moment", r.module)
			refused.RetryAfter = r.caller.b.cfg.Breaker.Open
			return nil, refused
		}
	}
	if err != nil {
		return nil, err
	}
	return a.body, a.far
}

func (c *caller) ask(ctx context.Context, module string, r Request) answer {
	p, err := marshalRequest(r)
	if err != nil {
		return answer{far: err} // says nothing about the module
	}
	q := &question{module: module, p: p, at: time.Now(), done: make(chan answer, 1)}
	c.mu.Lock()
	c.number++
	q.id = strconv.FormatUint(c.number, 10)
	c.open[q.id] = q
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		delete(c.open, q.id)
		c.mu.Unlock()
	}()
	q.p.CorrelationId = q.id
	select {
	case c.requests <- q:
	case <-ctx.Done():
		if why := c.why(c.b.asking); why != nil && !errors.Is(ctx.Err(), context.Canceled) {
			return answer{err: &Away{errs.New(errs.Unavailable, "%s was not asked in time: %w", r.Name, why)}}
		}
		return answer{err: &Away{late(ctx, r.Name)}}
	case <-c.gone():
		return answer{err: &Away{c.away(c.b.asking)}}
	}
	select {
	case a := <-q.done:
		return a
	case <-ctx.Done():
		return answer{err: late(ctx, r.Name)}
	}
}

func late(ctx context.Context, name string) error {
	if errors.Is(ctx.Err(), context.Canceled) {
		return errs.New(errs.Timeout, "nobody waits for the answer to %s any more: %w", name, ctx.Err())
	}
	return errs.New(errs.Timeout, "%s was not answered in time", name)
}

// settle gives the answer to whoever still waits for it.
func (c *caller) settle(id string, a answer) {
	c.mu.Lock()
	q := c.open[id]
	delete(c.open, id)
	c.mu.Unlock()
	if q != nil {
		q.done <- a
	}
}

func (c *caller) run(ctx context.Context) {
	defer c.leave(errors.New("this process is stopping"))
	pause := backoff{min: c.b.cfg.RedialMin, max: c.b.cfg.RedialMax}
	for {
		conn, err := c.b.asking.get(ctx)
		if err != nil {
			return
		}
		began := time.Now()
		err = c.session(ctx, conn)
		if ctx.Err() != nil {
			return
		}
		if !conn.IsClosed() { // it is not the connection
			c.b.trouble(replyTo, err)
			c.leave(err)
		} else {
			c.fade()
		}
		if time.Since(began) > c.b.cfg.RedialMax {
			pause.n = 0
		}
		if !sleep(ctx, pause.next()) {
			return
		}
	}
}

func (c *caller) session(ctx context.Context, conn *amqp.Connection) error {
	if err := declareExchange(conn, exchange, amqp.ExchangeDirect); err != nil { // else the first question would end the channel
		return err
	}
	ch, err := conn.Channel()
	if err != nil {
		return err
	}
	replies, err := ch.Consume(replyTo, "", true, false, false, false, nil)
	if err != nil {
		return errors.Join(err, ch.Close())
	}
	returns, closed := ch.NotifyReturn(make(chan amqp.Return, c.b.cfg.Calls)), ch.NotifyClose(make(chan *amqp.Error, 1))
	sent := map[string]*question{} // of this session
	probed := make(chan map[string]bool, 1)
	probing := false
	look := time.NewTicker(lookEvery)
	defer look.Stop()
	defer func() {
		go func() { _ = ch.Close() }() // may wait for a broker that does not answer
		for id := range sent {
			c.settle(id, answer{err: &Away{errs.New(errs.Unavailable, "the connection to RabbitMQ was lost before the answer came")}})
		}
	}()
	c.b.trouble(replyTo, nil)
	c.arrive()
	for {
		v, changed := c.b.asking.watch()
		select {
		case q := <-c.requests:
			if v.blocked != "" {
				c.settle(q.id, answer{err: &Away{errs.New(errs.Unavailable, "%s", v.blocked)}})
				break
			}
			if err := ch.Publish(exchange, q.module+".requests", true, false, q.p); err != nil {
				c.settle(q.id, answer{err: &Away{errs.New(errs.Unavailable, "ask module %s: %w", q.module, err)}})
				return err
			}
			sent[q.id] = q
		case d, ok := <-replies:
			if !ok {
				return errors.New("no more replies")
			}
			delete(sent, d.CorrelationId)
			c.settle(d.CorrelationId, read(&d))
		case r, ok := <-returns:
			if !ok {
				returns = nil
				break
			}
			delete(sent, r.CorrelationId)
			c.settle(r.CorrelationId, answer{err: errs.New(errs.Unavailable, "nobody answers for %q: there is no queue", r.RoutingKey)})
		case <-look.C:
			c.prune(sent)
			if modules := overdue(sent); len(modules) > 0 && !probing {
				probing = true
				go func() { probed <- deserted(conn, modules) }()
			}
		case empty := <-probed:
			probing = false
			for id, q := range sent {
				if empty[q.module] && time.Since(q.at) > lookAfter {
					delete(sent, id)
					c.settle(id, answer{err: errs.New(errs.Unavailable, "nobody answers for module %s now", q.module)})
				}
			}
		case <-changed:
		case err := <-closed:
			if err == nil {
				return errors.New("the channel was closed")
			}
			return err
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// A question that is not answered at once may be in a queue that nobody consumes: the broker does not say so by itself.
const (
	lookAfter = 200 * time.Millisecond
	lookEvery = 100 * time.Millisecond
)

// prune forgets the questions whose callers have left.
func (c *caller) prune(sent map[string]*question) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for id := range sent {
		if c.open[id] == nil {
			delete(sent, id)
		}
	}
}

func overdue(sent map[string]*question) map[string]bool {
	modules := map[string]bool{}
	for _, q := range sent {
		if time.Since(q.at) > lookAfter {
			modules[q.module] = true
		}
	}
	return modules
}

// deserted are the modules whose queue has no consumer.
func deserted(conn *amqp.Connection, modules map[string]bool) map[string]bool {
	empty := map[string]bool{}
	for m := range modules {
		err := on(conn, func(ch *amqp.Channel) error {
			q, err := ch.QueueDeclarePassive(requestsOf(m), true, false, false, false, nil)
			empty[m] = err == nil && q.Consumers == 0
			return err
		})
		if is(err, amqp.NotFound) {
			empty[m] = true
		}
	}
	return empty
}

func marshalRequest(r Request) (amqp.Publishing, error) {
	left := time.Until(r.Deadline)
	if left <= 0 {
		return amqp.Publishing{}, errs.New(errs.Timeout, "the deadline of %s has passed: %w", r.Name, ErrUnsent)
	}
	p := amqp.Publishing{
		Headers: amqp.Table{headerRequest: r.Name, headerCommand: r.CommandID, headerDeadline: r.Deadline.UTC().Format(time.RFC3339Nano)},
		Body:    r.Body, DeliveryMode: amqp.Transient, Type: short(r.Name), ReplyTo: replyTo,
		Expiration: strconv.FormatInt(max(1, left.Milliseconds()), 10),
	}
	size := len(r.Name) + len(r.CommandID)
	for k, v := range r.Headers {
		if k == "" || len(k) > maxShort {
			return p, errs.New(errs.Invalid, "question %s: the name of a header has %d bytes, not 1 to %d", r.Name, len(k), maxShort)
		}
		if _, ours := p.Headers[k]; !ours {
			p.Headers[k] = v
			size += len(k) + len(v) + 8
		}
	}
	return p, fits(r.Name, size, len(r.Body))
}

func read(d *amqp.Delivery) answer {
	if _, failed := d.Headers[headerError]; failed {
		return answer{far: &Answered{errs.Decode(d.Body)}}
	}
	return answer{body: d.Body}
}

func unmarshalRequest(d *amqp.Delivery) (Request, error) {
	r := Request{Headers: map[string]string{}, Body: d.Body}
	for k, v := range d.Headers {
		s, ok := text(v)
		switch {
		case !ok:
		case k == headerRequest:
			r.Name = s
		case k == headerCommand:
			r.CommandID = s
		case k == headerDeadline:
			t, err := time.Parse(time.RFC3339Nano, s)
			if err != nil {
				return r, errs.New(errs.Malformed, "header %s: %q is not a time", headerDeadline, s)
			}
			r.Deadline = t
		default:
			r.Headers[k] = s
		}
	}
	if r.Name == "" || r.Deadline.IsZero() {
		return r, errs.New(errs.Malformed, "a question needs the headers %s and %s", headerRequest, headerDeadline)
	}
	return r, nil
}
