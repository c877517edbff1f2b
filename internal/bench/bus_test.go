package bench

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/banyan-go/banyan/internal/bus"
	"github.com/banyan-go/banyan/internal/bustest"
	"github.com/banyan-go/banyan/internal/databasetest"
	"github.com/banyan-go/banyan/internal/message"
	"github.com/banyan-go/banyan/internal/module"
	"github.com/banyan-go/banyan/internal/testinfra"
	"github.com/banyan-go/banyan/internal/unit"
)

var engines = []struct {
	name string
	open func(b *testing.B) databasetest.Engine
}{
	{"sqlite", func(b *testing.B) databasetest.Engine { return databasetest.SQLite(b) }},
	{"postgres", func(b *testing.B) databasetest.Engine {
		s := testinfra.StartPostgres(b, testinfra.Options{})
		return databasetest.PostgresAt(b, s.Database(b), append([]string{"alpha"}, subscribers...)...)
	}},
}

func each(b *testing.B, fn func(b *testing.B, e databasetest.Engine)) {
	for _, e := range engines {
		b.Run(e.name, func(b *testing.B) { fn(b, e.open(b)) })
	}
}

// subscribers are the modules that listen, of which a benchmark takes the first ones.
var subscribers = []string{"beta", "gamma", "delta", "epsilon"}

// subscribed runs fn with a publisher and one subscriber, and with four; done is called after each commit of a handler.
func subscribed(b *testing.B, done func(), fn func(b *testing.B, publisher *unit.Store, subscribers int)) {
	each(b, func(b *testing.B, e databasetest.Engine) {
		for _, n := range []int{1, len(subscribers)} {
			b.Run(fmt.Sprintf("%d subscribed", n), func(b *testing.B) {
				parts := []bustest.Part{bustest.Alpha()}
				for _, name := range subscribers[:n] {
					parts = append(parts, bustest.Listener(name, module.Subscription{Handler: "count", Events: []string{"alpha.*"}}, func(_ context.Context, u *unit.Work, m message.Message) error {
						u.AfterCommit(done)
						return u.Later().Exec("INSERT INTO seen (handler, key, n, message_id) VALUES ('count', ?, ?, ?)", m.Key, bustest.Number(m), m.ID).Error
					}))
				}
				s := bustest.OpenStage(b, e, bustest.StageOptions{Real: true}, parts...)
				fn(b, s.Stores["alpha"], n)
				s.Close()
			})
		}
	})
}

// BenchmarkPaced: one event each 5 ms, from its commit to the commit of its last handler.
func BenchmarkPaced(b *testing.B) {
	done := make(chan time.Time, len(subscribers))
	subscribed(b, func() { done <- time.Now() }, func(b *testing.B, publisher *unit.Store, subscribers int) {
		var took []time.Duration
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		b.ResetTimer()
		for i := range b.N {
			<-tick.C
			publish(b, publisher, bustest.Key(i%32), i)
			committed, last := time.Now(), time.Time{}
			for range subscribers {
				last = <-done
			}
			took = append(took, last.Sub(committed))
		}
		report(b, took)
	})
}

func publish(b *testing.B, publisher *unit.Store, key string, n int) {
	if err := publisher.Do(context.Background(), func(_ context.Context, u *unit.Work) error {
		u.Publish(bustest.Other{ID: key, N: n})
		return nil
	}); err != nil {
		b.Error(err)
	}
}

func report(b *testing.B, took []time.Duration) {
	slices.Sort(took)
	at := func(q float64) float64 {
		return float64(took[int(q*float64(len(took)-1))].Microseconds()) / 1000
	}
	b.ReportMetric(at(.5), "p50-ms")
	b.ReportMetric(at(.99), "p99-ms")
}

// BenchmarkFlood: eight producers as fast as they can; the handlers keep up with them.
func BenchmarkFlood(b *testing.B) {
	var left atomic.Int64
	all := make(chan struct{}, 1)
	subscribed(b, func() {
		if left.Add(-1) == 0 {
			all <- struct{}{}
		}
	}, func(b *testing.B, publisher *unit.Store, subscribers int) {
		left.Store(int64(b.N * subscribers))
		b.ResetTimer()
		start := time.Now()
		produce(b, publisher, 64)
		produced := time.Since(start)
		<-all
		b.ReportMetric(float64(b.N)/produced.Seconds(), "produced/s")
		b.ReportMetric(float64(b.N)/time.Since(start).Seconds(), "handled/s")
	})
}

// produce publishes b.N messages, by eight at a time.
func produce(b *testing.B, publisher *unit.Store, keys int) {
	var all sync.WaitGroup
	for p := range 8 {
		all.Go(func() {
			for i := p; i < b.N; i += 8 {
				publish(b, publisher, fmt.Sprintf("key-%d", i%keys), i)
			}
		})
	}
	all.Wait()
}

// BenchmarkDrainGrouped: the same backlog, with a handler that lets messages share a transaction.
func BenchmarkDrainGrouped(b *testing.B) {
	each(b, func(b *testing.B, e databasetest.Engine) { drain(b, e, 50) })
}

// BenchmarkDrain: a backlog that was committed before anybody listened.
func BenchmarkDrain(b *testing.B) {
	each(b, func(b *testing.B, e databasetest.Engine) { drain(b, e, 0) })
}

func drain(b *testing.B, e databasetest.Engine, group int) {
	w := bustest.Prepare(b, e, bustest.Options{Real: true, Config: func(c *bus.Config) { c.Workers = 96 }, Handler: func(s *module.Subscription) { s.Group = group }})
	produce(b, w.Alpha, 64)
	all := handled(b, w)
	b.ResetTimer()
	start, used := time.Now(), cpu(b)
	w.Run()
	<-all
	b.ReportMetric(float64(b.N)/time.Since(start).Seconds(), "handled/s")
	b.ReportMetric(float64((cpu(b)-used).Microseconds())/float64(b.N), "own-cpu-us/op")
	w.Settle()
}

// handled is closed when as many messages have been handled as there are to come.
func handled(b *testing.B, w *bustest.World) <-chan struct{} {
	all := make(chan struct{})
	var n atomic.Int64
	w.Committed("count", func() {
		if n.Add(1) == int64(b.N) {
			close(all)
		}
	})
	return all
}

// cpu is the time that this process has computed: a database server's is not in it.
func cpu(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkRequest: a query to another module and its reply, payloads encoded on both ways.
func BenchmarkRequest(b *testing.B) {
	w := bustest.Open(b, databasetest.SQLite(b), bustest.Options{Real: true})
	var took []time.Duration
	for range b.N {
		start := time.Now()
		if _, err := message.Ask[bustest.Total](b.Context(), w.Bus, bustest.Sum{ID: "a"}); err != nil {
			b.Fatal(err)
		}
		took = append(took, time.Since(start))
	}
	report(b, took)
}
