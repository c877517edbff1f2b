package bench

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill-amqp/v3/pkg/amqp"
	wm "github.com/ThreeDotsLabs/watermill/message"

	"github.com/banyan-go/banyan/internal/bustest"
	"github.com/banyan-go/banyan/internal/database"
	"github.com/banyan-go/banyan/internal/databasetest"
	"github.com/banyan-go/banyan/internal/testinfra"
)

// BenchmarkToBroker is a backlog in an outbox on PostgreSQL that goes to RabbitMQ, until the broker has confirmed each message and the
// outbox knows it: by our relay, and by Watermill's forwarder from watermill-sql to watermill-amqp with confirms and one channel, which
// is what keeps the order. Nobody consumes.
func BenchmarkToBroker(b *testing.B) {
	for _, keys := range []int{64, 1024} {
		b.Run(fmt.Sprintf("ours/%d keys", keys), func(b *testing.B) {
			s := testinfra.StartPostgres(b, testinfra.Options{})
			e := databasetest.PostgresAt(b, s.Database(b), append([]string{database.Control}, bustest.Modules...)...)
			w := bustest.Prepare(b, e, bustest.Options{Real: true, Apart: testinfra.Rabbit(b).URL()})
			produce(b, w.Alpha, keys)
			ctx, cancel := context.WithCancel(context.Background())
			done := make(chan error, 1)
			b.ResetTimer()
			start, used := time.Now(), cpu(b)
			go func() { done <- w.Bus.Run(ctx) }()
			w.Eventually("everything is confirmed", func() bool { idle, err := w.Bus.Idle(ctx); return err == nil && idle })
			b.ReportMetric(float64(b.N)/time.Since(start).Seconds(), "confirmed/s")
			b.ReportMetric(float64((cpu(b)-used).Microseconds())/float64(b.N), "own-cpu-us/op")
			cancel()
			if err := <-done; err != nil {
				b.Error(err)
			}
		})
	}
	b.Run("stock", func(b *testing.B) {
		s := stockTables(b)
		c := amqp.NewDurableQueueConfig(testinfra.Rabbit(b).URL())
		c.Queue.Arguments = map[string]any{"x-queue-type": "quorum"}
		c.Publish.ConfirmDelivery, c.Publish.Mandatory, c.Publish.ChannelPoolSize = true, true, 1
		to, err := amqp.NewPublisher(c, s.log)
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { closeStock(b, to) })
		// The table is made by the forwarder, which has nothing to do yet.
		confirmed := &counted{Publisher: to, left: b.N, begin: make(chan struct{}), done: make(chan struct{})}
		s.forward(b, 10*time.Millisecond, confirmed)
		for i := range b.N {
			if err := s.publish(bustest.Other{ID: fmt.Sprint(i % 64), N: i}); err != nil {
				b.Fatal(err)
			}
		}
		b.ResetTimer()
		start, used := time.Now(), cpu(b)
		close(confirmed.begin)
		<-confirmed.done
		b.ReportMetric(float64(b.N)/time.Since(start).Seconds(), "confirmed/s")
		b.ReportMetric(float64((cpu(b)-used).Microseconds())/float64(b.N), "own-cpu-us/op")
	})
}

// counted is a publisher that waits for the beginning and says when all is out. One at a time calls it.
type counted struct {
	wm.Publisher
	left        int
	begin, done chan struct{}
}

func (c *counted) Publish(topic string, messages ...*wm.Message) error {
	<-c.begin
	if err := c.Publisher.Publish(topic, messages...); err != nil {
		return err
	}
	if c.left -= len(messages); c.left == 0 {
		close(c.done)
	}
	return nil
}
