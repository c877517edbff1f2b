package rabbit

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/banyan-go/banyan/internal/errs"
)

// Serve answers the questions to a module until ctx ends, so many at a time; others may serve the same module beside it. A question
// whose deadline has passed is refused unseen; one that was not answered when the connection was lost is given to whoever serves
// then. At the end no question is taken, those that were taken are answered, and then the channel is closed.
func (b *Broker) Serve(ctx context.Context, module string, concurrency int, fn func(context.Context, Request) ([]byte, error)) error {
	if err := checkModule(module); err != nil {
		return errs.New(errs.Invalid, "serve: %w", err)
	}
	if concurrency < 1 {
		return errs.New(errs.Invalid, "serve %s: %d questions at a time are too few", module, concurrency)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(b.life, cancel)()
	working, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	s := &server{b: b, module: module, concurrency: concurrency, fn: fn, working: working, stop: stop}
	done := make(chan struct{})
	if err := b.work(true, func() { defer close(done); s.run(ctx) }); err != nil {
		return err
	}
	<-done
	return nil
}

type server struct {
	b           *Broker
	module      string
	concurrency int
	fn          func(context.Context, Request) ([]byte, error)
	working     context.Context // of the questions that were taken
	stop        context.CancelFunc
	busy        sync.WaitGroup
}

func (s *server) run(ctx context.Context) {
	defer s.finish()
	pause := backoff{min: s.b.cfg.RedialMin, max: s.b.cfg.RedialMax}
	for {
		conn, err := s.b.asking.get(ctx)
		if err != nil {
			return
		}
		began := time.Now()
		err = s.session(ctx, conn)
		if ctx.Err() != nil {
			return
		}
		if err != nil && !conn.IsClosed() {
			s.b.trouble(requestsOf(s.module), err)
		}
		if time.Since(began) > s.b.cfg.RedialMax {
			pause.n = 0
		}
		if !sleep(ctx, pause.next()) {
			return
		}
	}
}

func (s *server) session(ctx context.Context, conn *amqp.Connection) error {
	if err := declare(conn, s.module); err != nil {
		return err
	}
	ch, err := conn.Channel()
	if err != nil {
		return err
	}
	defer s.b.patiently(func() { _ = ch.Close() })
	if err := ch.Qos(s.concurrency, 0, false); err != nil {
		return err
	}
	tag := "serve-" + s.module
	deliveries, err := ch.Consume(requestsOf(s.module), tag, false, false, false, false, nil)
	if err != nil {
		return fmt.Errorf("consume %s: %w", requestsOf(s.module), err)
	}
	s.b.trouble(requestsOf(s.module), nil)
	for {
		select {
		case d, ok := <-deliveries:
			if !ok {
				return errors.New("no more questions: the queue or the channel is gone") // the answers to those that were taken go nowhere
			}
			s.busy.Go(func() { s.answer(ch, &d) })
		case <-ctx.Done():
			// Their order does not matter: what came meanwhile goes back at once, to whoever else serves.
			s.b.patiently(func() {
				if err := ch.Cancel(tag, false); err == nil {
					for d := range deliveries {
						_ = d.Nack(false, true)
					}
				}
			})
			s.finish()
			return nil
		}
	}
}

// finish waits for the questions that were taken.
func (s *server) finish() {
	defer time.AfterFunc(s.b.cfg.CloseTimeout, s.stop).Stop()
	s.busy.Wait()
}

// answer runs one question and sends the reply; it is acknowledged then, so that nobody else answers it.
func (s *server) answer(ch *amqp.Channel, d *amqp.Delivery) {
	body, err := s.ask(d)
	outcome := "ok"
	p := amqp.Publishing{CorrelationId: d.CorrelationId, Body: body, DeliveryMode: amqp.Transient}
	if err == nil {
		err = fits("the answer", 0, len(body))
	}
	if err != nil {
		outcome = string(errs.KindOf(err))
		p.Headers, p.Body = amqp.Table{headerError: outcome}, errs.Encode(err)
	}
	s.b.metrics.answered.WithLabelValues(s.module, outcome).Inc()
	if d.ReplyTo != "" {
		// An error means that the channel is lost, and so is the asker's place; it asks again.
		_ = ch.Publish("", d.ReplyTo, false, false, p)
	}
	_ = ch.Ack(d.DeliveryTag, false)
}

func (s *server) ask(d *amqp.Delivery) (body []byte, err error) {
	r, err := unmarshalRequest(d)
	if err != nil {
		return nil, err
	}
	if !time.Now().Before(r.Deadline) {
		return nil, errs.New(errs.Timeout, "the deadline of %s has passed", r.Name)
	}
	ctx, cancel := context.WithDeadline(s.working, r.Deadline)
	defer cancel()
	defer func() {
		if p := recover(); p != nil {
			s.b.opts.Log.Error("answering a question panicked", "module", s.module, "request", r.Name, "panic", p, "stack", string(debug.Stack()))
			body, err = nil, errs.New(errs.Internal, "internal error")
		}
	}()
	return s.fn(ctx, r)
}
