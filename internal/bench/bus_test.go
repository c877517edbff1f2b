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
		return databasetest.PostgresAt(b, s.Database(b), bustest.Modules...)
	}},
}

func each(b *testing.B, fn func(b *testing.B, e databasetest.Engine)) {
	for _, e := range engines {
		b.Run(e.name, func(b *testing.B) { fn(b, e.open(b)) })
	}
}

// BenchmarkPaced: one event each 5 ms, from its commit to its handler's commit.
func BenchmarkPaced(b *testing.B) {
	each(b, func(b *testing.B, e databasetest.Engine) {
		w := bustest.Open(b, e, bustest.Options{Real: true})
		done := make(chan time.Time, 1)
		w.Committed("count", func() { done <- time.Now() })
		var took []time.Duration
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		b.ResetTimer()
		for i := range b.N {
			<-tick.C
			var committed time.Time
			if err := w.Alpha.Do(context.Background(), func(_ context.Context, u *unit.Work) error {
				u.Publish(bustest.Other{ID: bustest.Key(i % 32), N: i})
				u.AfterCommit(func() {})
				return nil
			}); err != nil {
				b.Fatal(err)
			}
			committed = time.Now()
			took = append(took, (<-done).Sub(committed))
		}
		report(b, took)
	})
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
	each(b, func(b *testing.B, e databasetest.Engine) {
		w := bustest.Open(b, e, bustest.Options{Real: true})
		all := handled(b, w)
		b.ResetTimer()
		start := time.Now()
		produce(b, w, b.N, 64)
		produced := time.Since(start)
		<-all
		handled := time.Since(start)
		w.Settle()
		b.ReportMetric(float64(b.N)/produced.Seconds(), "produced/s")
		b.ReportMetric(float64(b.N)/handled.Seconds(), "handled/s")
	})
}

func produce(b *testing.B, w *bustest.World, n, keys int) {
	var all sync.WaitGroup
	for p := range 8 {
		all.Go(func() {
			for i := p; i < n; i += 8 {
				if err := w.Alpha.Do(context.Background(), func(_ context.Context, u *unit.Work) error {
					u.Publish(bustest.Other{ID: fmt.Sprintf("key-%d", i%keys), N: i})
					return nil
				}); err != nil {
					b.Error(err)
				}
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
	produce(b, w, b.N, 64)
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
