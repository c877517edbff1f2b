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
	return look(ctx, b, func(ch *amqp.Channel) (best time.Duration, err error) {
		for i := range 5 {
			began := time.Now()
			if err := ch.Qos(1, 0, false); err != nil {
				return 0, err
			}
			if took := time.Since(began); i == 0 || took < best {
				best = took
			}
		}
		return best, nil
	})
}

// Waiting are the messages in the queue of a module that nobody has taken yet.
func (b *Broker) Waiting(ctx context.Context, module string) (int, error) {
	if err := checkModule(module); err != nil {
		return 0, errs.New(errs.Invalid, "%w", err)
	}
	n, err := look(ctx, b, func(ch *amqp.Channel) (int, error) {
		q, err := ch.QueueDeclarePassive(queueOf(module), true, false, false, false, nil)
		return q.Messages, err
	})
	if is(err, amqp.NotFound) {
		return 0, nil // nobody has ever sent it anything
	}
	return n, err
}

// look asks the broker something on a channel of its own, as long as ctx allows: the client itself waits without an end.
func look[T any](ctx context.Context, b *Broker, ask func(*amqp.Channel) (T, error)) (T, error) {
	type found struct {
		value T
		err   error
	}
	conn, err := b.asking.get(ctx)
	if err != nil {
		return *new(T), err
	}
	done := make(chan found, 1)
	go func() {
		var f found
		f.err = on(conn, func(ch *amqp.Channel) (err error) {
			f.value, err = ask(ch)
			return err
		})
		done <- f
	}()
	select {
	case f := <-done:
		return f.value, f.err
	case <-ctx.Done():
		return *new(T), errs.New(errs.Unavailable, "RabbitMQ did not answer in time: %w", ctx.Err())
	}
}
