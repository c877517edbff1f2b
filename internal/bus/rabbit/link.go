package rabbit

import (
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"regexp"
	"sync"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/banyan-go/banyan/internal/errs"
)

// link is one connection, made again whenever it is lost.
type link struct {
	b      *Broker
	name   string
	socket net.Conn // under the connection; run's own

	mu      sync.Mutex
	state   linkState
	changed chan struct{} // closed with each change
}

// linkState is the state of a link at one moment.
type linkState struct {
	conn    *amqp.Connection // nil while away
	err     error            // why it is away
	blocked string           // why the broker does not read from it
	since   time.Time        // when it came or went
}

func newLink(b *Broker, name string) *link {
	return &link{b: b, name: name, state: linkState{since: time.Now()}, changed: make(chan struct{})}
}

func (l *link) view() linkState {
	v, _ := l.watch()
	return v
}

// watch is the state, and a channel that is closed when it is another one.
func (l *link) watch() (linkState, <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.state, l.changed
}

func (l *link) change(f func(*linkState)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f(&l.state)
	close(l.changed)
	l.changed = make(chan struct{})
}

// get is the connection; it waits for it while ctx lasts.
func (l *link) get(ctx context.Context) (*amqp.Connection, error) {
	for {
		v, changed := l.watch()
		if v.conn != nil && !v.conn.IsClosed() {
			return v.conn, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, l.away(v.err)
		}
	}
}

func (l *link) away(cause error) error {
	if cause == nil {
		return errs.New(errs.Unavailable, "RabbitMQ is not connected")
	}
	return errs.New(errs.Unavailable, "RabbitMQ is not connected: %w", cause)
}

var numbers = regexp.MustCompile(`\d+`) // the ports of an attempt

// run connects again and again until ctx ends.
func (l *link) run(ctx context.Context) {
	pause := backoff{min: l.b.cfg.RedialMin, max: l.b.cfg.RedialMax}
	logged := map[string]bool{} // causes, in this outage
	for ctx.Err() == nil {
		conn, err := l.dial(ctx)
		if err == nil {
			began := time.Now()
			clear(logged)
			l.b.opts.Log.Info("connected to RabbitMQ", "connection", l.name, "version", version(conn))
			err = l.keep(ctx, conn)
			if time.Since(began) > l.b.cfg.RedialMax {
				pause.n = 0
			}
		}
		if ctx.Err() != nil {
			break
		}
		if cause := numbers.ReplaceAllString(err.Error(), ""); !logged[cause] {
			logged[cause] = true
			l.b.opts.Log.Warn("RabbitMQ is away", "connection", l.name, "error", err)
		}
		l.change(func(v *linkState) {
			if v.conn != nil {
				v.since = time.Now()
			}
			v.conn, v.err, v.blocked = nil, err, ""
		})
		if !sleep(ctx, pause.next()) {
			break
		}
	}
	l.change(func(v *linkState) { *v = linkState{err: errors.New("this process is stopping"), since: time.Now()} })
}

// keep offers the connection until it is lost or ctx ends.
func (l *link) keep(ctx context.Context, conn *amqp.Connection) error {
	closed, blocked := conn.NotifyClose(make(chan *amqp.Error, 1)), conn.NotifyBlocked(make(chan amqp.Blocking, 16))
	l.change(func(v *linkState) { *v = linkState{conn: conn, since: time.Now()} })
	l.b.metrics.connected.WithLabelValues(l.name).Set(1)
	defer l.b.metrics.connected.WithLabelValues(l.name).Set(0)
	defer l.b.metrics.blocked.WithLabelValues(l.name).Set(0)
	for {
		select {
		case b, ok := <-blocked:
			if !ok {
				blocked = nil
				continue
			}
			reason := ""
			if b.Active {
				reason = "the broker takes no messages: " + b.Reason
				l.b.metrics.blocked.WithLabelValues(l.name).Set(1)
				l.b.opts.Log.Warn("RabbitMQ takes no messages", "connection", l.name, "reason", b.Reason)
			} else {
				l.b.metrics.blocked.WithLabelValues(l.name).Set(0)
				l.b.opts.Log.Info("RabbitMQ takes messages again", "connection", l.name)
			}
			l.change(func(v *linkState) { v.blocked = reason })
		case err := <-closed:
			if err == nil {
				return errors.New("the connection was closed")
			}
			return err
		case <-ctx.Done():
			// A broker that does not read does not answer either, and its heartbeats undo the client's own deadline.
			cut := time.AfterFunc(l.b.cfg.Heartbeat, func() { _ = l.socket.Close() })
			_ = conn.Close() // it is not used any more
			cut.Stop()
			return ctx.Err()
		}
	}
}

func (l *link) dial(ctx context.Context) (*amqp.Connection, error) {
	properties := amqp.NewConnectionProperties()
	properties.SetClientConnectionName(l.b.opts.Name + " " + l.name)
	cfg := amqp.Config{Heartbeat: l.b.cfg.Heartbeat, Properties: properties, Locale: "en_US"}
	if l.b.cfg.TLS != (TLSConfig{}) {
		t, err := l.b.cfg.TLS.client()
		if err != nil {
			return nil, err
		}
		cfg.TLSClientConfig = t
	}
	patience := 3 * l.b.cfg.Heartbeat
	handshaken := func() bool { return true }
	cfg.Dial = func(network, addr string) (net.Conn, error) {
		dialer := net.Dialer{Timeout: patience}
		c, err := dialer.DialContext(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		// For the handshakes; the client takes it away after them.
		if err := c.SetDeadline(time.Now().Add(2 * patience)); err != nil {
			return nil, errors.Join(err, c.Close())
		}
		handshaken = context.AfterFunc(ctx, func() { _ = c.Close() })
		l.socket = c
		return &impatient{c, patience}, nil
	}
	conn, err := amqp.DialConfig(l.b.cfg.URL.Reveal(), cfg)
	handshaken()
	return conn, err
}

// impatient gives a write up that the other side does not take: the client has no bound for it, and would hold its locks for ever.
type impatient struct {
	net.Conn
	patience time.Duration
}

func (c *impatient) Write(p []byte) (int, error) {
	if err := c.SetWriteDeadline(time.Now().Add(c.patience)); err != nil {
		return 0, err
	}
	return c.Conn.Write(p)
}

// backoff doubles from min to max; each pause is a random part of it, at least half, so that many processes do not come at once.
type backoff struct {
	min, max time.Duration
	n        int
}

func (b *backoff) next() time.Duration {
	d := b.max
	if b.n < 30 && b.min<<b.n < b.max {
		d = b.min << b.n
		b.n++
	}
	return d/2 + rand.N(d/2+1)
}

// sleep says whether ctx still lasts after it.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

func version(c *amqp.Connection) string {
	v, _ := c.Properties["version"].(string)
	return v
}
