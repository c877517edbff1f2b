package rabbit

import (
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
)

const (
	benchKeys    = 1000
	benchCallers = 512
)

// benchMessage has the size of a usual event.
func benchMessage(i int) *message.Message {
	m := ours("orders", fmt.Sprint(i%benchKeys), i/benchKeys+1)
	m.Payload = make([]byte, 330)
	return m
}

// BenchmarkPublish sends to a quorum queue, each message confirmed and known not to have come back, in order per key.
func BenchmarkPublish(b *testing.B) {
	b.Run("ours", func(b *testing.B) {
		broker := open(b, shared(b).URL())
		if err := broker.Declare(b.Context(), "payments"); err != nil {
			b.Fatal(err)
		}
		bench(b, broker.Publisher().Publish)
	})
	b.Run("stock", func(b *testing.B) { // with the pool that keeps order, one channel
		c := stockConfig(shared(b).URL())
		broker := open(b, c.Connection.AmqpURI)
		if err := broker.Declare(b.Context(), "payments"); err != nil {
			b.Fatal(err)
		}
		c.Publish.ChannelPoolSize = 1
		p := stockPublisher(b, c)
		defer func() { _ = p.Close() }()
		bench(b, p.Publish)
	})
}

func bench(b *testing.B, publish func(string, ...*message.Message) error) {
	var next atomic.Int64
	var all sync.WaitGroup
	b.ResetTimer()
	for range benchCallers {
		all.Go(func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= b.N {
					return
				}
				if err := publish("payments", benchMessage(i)); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	all.Wait()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "msg/s")
}

// BenchmarkConsume is a queue of b.N messages of 1,000 keys, given out and acknowledged.
func BenchmarkConsume(b *testing.B) {
	broker := open(b, shared(b).URL())
	if err := broker.Declare(b.Context(), "payments"); err != nil {
		b.Fatal(err)
	}
	bench(b, broker.Publisher().Publish)
	in := subscribe(b, b.Context(), broker, "payments", SubscriberOptions{})
	take(b, in).Ack()
	b.ResetTimer()
	for range b.N - 1 {
		take(b, in).Ack()
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "msg/s")
}

// BenchmarkCall is a question to another process and its answer.
func BenchmarkCall(b *testing.B) {
	host := shared(b)
	caller, answerer := open(b, host.URL()), open(b, host.URL())
	serve(b, answerer, 8, echo)
	answered(b, caller)
	took := make([]time.Duration, 0, b.N)
	b.ResetTimer()
	for range b.N {
		at := time.Now()
		if _, err := ask(caller, "x", 5*time.Second); err != nil {
			b.Fatal(err)
		}
		took = append(took, time.Since(at))
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds()), "p50-us")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "p99-us")
}
