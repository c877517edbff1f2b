package rabbit

import (
	"context"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/banyan-go/banyan/internal/errs"
)

// RoundTrip is how long the broker takes to answer the least that can be asked of it, the best of a few. A question to a module in another
// process makes the way twice.
func (b *Broker) RoundTrip(ctx context.Context) (time.Duration, error) {
	best := time.Duration(-1)
	err := b.look(ctx, func(ch *amqp.Channel) error {
		for range 5 {
			began := time.Now()
			if err := ch.Qos(1, 0, false); err != nil {
				return err
			}
			if took := time.Since(began); best < 0 || took < best {
				best = took
			}
		}
		return nil
	})
	return max(best, 0), err
}

// Waiting are the messages in the queue of a module that nobody has taken yet, and those who consume it.
func (b *Broker) Waiting(ctx context.Context, module string) (messages, consumers int, err error) {
	if err := checkModule(module); err != nil {
		return 0, 0, errs.New(errs.Invalid, "%w", err)
	}
	err = b.look(ctx, func(ch *amqp.Channel) error {
		q, err := ch.QueueDeclarePassive(queueOf(module), true, false, false, false, nil)
		messages, consumers = q.Messages, q.Consumers
		return err
	})
	if is(err, amqp.NotFound) {
		return 0, 0, nil // nobody has ever sent it anything
	}
	return messages, consumers, err
}

// look asks the broker something on a channel of its own, as long as ctx allows. The client itself waits without an end.
func (b *Broker) look(ctx context.Context, ask func(*amqp.Channel) error) error {
	conn, err := b.asking.get(ctx)
	if err != nil {
		return err
	}
	done := make(chan error, 1)
	go func() { done <- on(conn, ask) }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return errs.New(errs.Unavailable, "RabbitMQ did not answer in time: %w", ctx.Err())
	}
}
