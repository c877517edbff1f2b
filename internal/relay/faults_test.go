package relay_test

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"gorm.io/gorm"

	"github.com/banyan-go/banyan/internal/bus"
	"github.com/banyan-go/banyan/internal/bustest"
	"github.com/banyan-go/banyan/internal/databasetest"
	"github.com/banyan-go/banyan/internal/message"
	"github.com/banyan-go/banyan/internal/module"
	"github.com/banyan-go/banyan/internal/relay"
	"github.com/banyan-go/banyan/internal/telemetry"
	"github.com/banyan-go/banyan/internal/unit"
)

func want[T any](t testing.TB, what string, got, want T) {
	t.Helper()
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("%s (-want +got):\n%s", what, d)
	}
}

func each(t *testing.T, fn func(t *testing.T, e databasetest.Engine)) {
	t.Helper()
	t.Parallel()
	databasetest.Each(t, bustest.Modules, fn)
}

// A window of any size is filled again as soon as it has room; the sweep is for what nobody has announced.
func TestSmallWindowsFlow(t *testing.T) {
	for _, window := range []int{1, 2, 3, 4, 8} {
		t.Run(string(rune('0'+window)), func(t *testing.T) {
			each(t, func(t *testing.T, e databasetest.Engine) {
				w := bustest.Prepare(t, e, bustest.Options{Config: func(c *bus.Config) { c.Workers, c.Window = window, window }})
				const many = 300
				if err := w.Alpha.Do(t.Context(), func(_ context.Context, u *unit.Work) error {
					for n := range many {
						u.Publish(bustest.Counted{ID: bustest.Key(n), N: n})
					}
					return nil
				}); err != nil {
					t.Fatal(err)
				}
				start := time.Now()
				w.Run()
				w.Settle()
				if took := time.Since(start); took > 12*time.Second {
					t.Errorf("%d messages took %s", many, took)
				}
				want(t, "handled", len(w.Seen(w.Beta, "count", "")), many)
			})
		})
	}
}

// A unit of work that commits late, by a process that dies before it can say so, has a lower id than what was read
// before. It is found although an older message is still on its way.
func TestLateCommitterBehindASlowMessage(t *testing.T) {
	t.Parallel()
	e := databasetest.Postgres(t, bustest.Modules...)
	release := make(chan struct{})
	var once sync.Once
	s := bustest.OpenStage(t, e, bustest.StageOptions{}, bustest.Alpha(),
		bustest.Listener("beta", module.Subscription{Handler: "count", Events: []string{"alpha.*"}}, func(_ context.Context, u *unit.Work, m message.Message) error {
			if m.Key == "slow" {
				<-release
			}
			return bustest.Keep(u, "count", m.Key, bustest.Number(m))
		}))
	t.Cleanup(func() { once.Do(func() { close(release) }) })
	s.Announce("alpha", bustest.Counted{ID: "slow", N: 1})
	// The late one: its rows as another process would write them, without a word to this one.
	wrote, commit := make(chan struct{}), make(chan struct{})
	var late sync.WaitGroup
	late.Go(func() {
		if err := s.Stores["alpha"].DB().Write(context.Background(), func(tx *gorm.DB) error {
			var id int64
			if err := tx.Raw(`INSERT INTO outbox (message_id, name, key, sequence, correlation_id, causation_id, traceparent, subject, created_at, unsubscribed, payload)
				VALUES (?, 'alpha.counted.v1', 'late', 1, '', '', '', '', now(), false, ?) RETURNING id`, message.NewID(), []byte(`{"id":"late","n":2}`)).Row().Scan(&id); err != nil {
				return err
			}
			if err := tx.Exec("INSERT INTO delivery (subscriber, outbox_id) VALUES ('beta', ?)", id).Error; err != nil {
				return err
			}
			close(wrote)
			<-commit
			return nil
		}); err != nil {
			t.Error(err)
		}
	})
	<-wrote
	s.Announce("alpha", bustest.Counted{ID: "quick", N: 3})
	s.Eventually("the later one is handled", func() bool { return len(s.Seen("beta", "count", "quick")) == 1 })
	close(commit)
	late.Wait()
	bustest.Eventually(t, "the late one is handled", 5*time.Second, func() bool { return len(s.Seen("beta", "count", "late")) == 1 })
	once.Do(func() { close(release) })
	s.Settle()
}

// A slow subscriber with a full window stops no other one, and everything reaches it in the end, in order.
func TestFullWindow(t *testing.T) {
	each(t, func(t *testing.T, e databasetest.Engine) {
		release := make(chan struct{})
		s := bustest.OpenStage(t, e, bustest.StageOptions{Config: func(c *bus.Config) { c.Workers, c.Window = 4, 8 }}, bustest.Alpha(),
			bustest.Listener("beta", module.Subscription{Handler: "count", Events: []string{"alpha.*"}}, func(_ context.Context, u *unit.Work, m message.Message) error {
				return bustest.Keep(u, "count", m.Key, bustest.Number(m))
			}),
			bustest.Part{Descriptor: module.Descriptor{Name: "gamma", Subscriptions: []module.Subscription{{Handler: "watch", Events: []string{"alpha.*"}}}, Contract: message.Contract{Module: "gamma"}},
				Bind: func(m *module.Module, _ *unit.Store) {
					module.OnAny(m, "watch", func(_ context.Context, u *unit.Work, m message.Message) error {
						<-release
						return bustest.Keep(u, "watch", m.Key, bustest.Number(m))
					})
				}})
		for n := range 200 {
			s.Announce("alpha", bustest.Counted{ID: bustest.Key(n % 5), N: n})
		}
		s.Eventually("the quick subscriber has everything", func() bool { return len(s.Seen("beta", "count", "")) == 200 })
		want(t, "the slow one has nothing yet", len(s.Seen("gamma", "watch", "")), 0)
		close(release)
		s.Settle()
		for k := range 5 {
			var expect []int
			for n := k; n < 200; n += 5 {
				expect = append(expect, n)
			}
			want(t, "slow "+bustest.Key(k), s.Seen("gamma", "watch", bustest.Key(k)), expect)
		}
		want(t, "rows left", s.Count("alpha", "SELECT (SELECT count(*) FROM delivery) + (SELECT count(*) FROM outbox)"), 0)
	})
}

// Delivery is stopped and started in the middle again and again: nothing is lost, nothing twice, every key in order.
func TestStoppedInTheMiddle(t *testing.T) {
	each(t, func(t *testing.T, e databasetest.Engine) {
		w := bustest.Open(t, e, bustest.Options{Config: func(c *bus.Config) { c.Workers, c.Window = 8, 16 }})
		var produced atomic.Int32
		done := make(chan struct{})
		go func() {
			defer close(done)
			for n := 1; n <= 60; n++ {
				for k := range 6 {
					w.Publish(bustest.Key(k), n)
					produced.Add(1)
				}
			}
		}()
		for range 6 {
			from := len(w.Seen(w.Beta, "count", ""))
			bustest.Eventually(t, "some more are handled", 20*time.Second, func() bool {
				select {
				case <-done:
					return true
				default:
					return len(w.Seen(w.Beta, "count", "")) > from+5
				}
			})
			w.Stop()
			w.Run()
		}
		<-done
		w.Settle()
		for k := range 6 {
			want(t, "beta "+bustest.Key(k), w.Seen(w.Beta, "count", bustest.Key(k)), bustest.Range(1, 60))
			want(t, "gamma "+bustest.Key(k), w.Seen(w.Gamma, "watch", bustest.Key(k)), bustest.Range(1, 60))
		}
	})
}

// Two processes that both believe to hold the lease relay the same rows: each effect once, every key in order.
func TestTwoRelaysAtATime(t *testing.T) {
	t.Parallel()
	e := databasetest.Postgres(t, bustest.Modules...)
	a := bustest.Prepare(t, e, bustest.Options{Replica: "same"})
	b := bustest.Prepare(t, e, bustest.Options{Replica: "same"})
	var down atomic.Int32
	for _, w := range []*bustest.World{a, b} {
		w.Fail("count", func(n int) error {
			if n%17 == 0 && down.Add(1)%2 == 1 {
				return context.DeadlineExceeded // of something below
			}
			return nil
		})
	}
	for n := 1; n <= 50; n++ {
		for k := range 8 {
			a.Publish(bustest.Key(k), n)
		}
	}
	a.Run()
	b.Run()
	for n := 51; n <= 100; n++ {
		for k := range 8 {
			[]*bustest.World{a, b}[n%2].Publish(bustest.Key(k), n)
		}
	}
	bustest.Eventually(t, "everything is handled", 30*time.Second, func() bool {
		a.Clock.Advance(10 * time.Second)
		b.Clock.Advance(10 * time.Second)
		return len(a.Seen(a.Beta, "count", "")) >= 800 && len(a.Seen(a.Gamma, "watch", "")) >= 800
	})
	a.Settle()
	for k := range 8 {
		want(t, "beta "+bustest.Key(k), a.Seen(a.Beta, "count", bustest.Key(k)), bustest.Range(1, 100))
		want(t, "gamma "+bustest.Key(k), a.Seen(a.Gamma, "watch", bustest.Key(k)), bustest.Range(1, 100))
	}
}

// Messages that their subscriber does not take hold up their own keys, however many they are.
func TestRefusedMessagesTakeNoPlaces(t *testing.T) {
	each(t, func(t *testing.T, e databasetest.Engine) {
		w := bustest.Prepare(t, e, bustest.Options{})
		const refused = 40
		for n := range refused {
			w.Publish("refused"+bustest.Key(n), n)
		}
		w.Publish("taken", 1)
		taken := make(chan string, 1)
		send := func(_ context.Context, _ string, m message.Message) error {
			if m.Key != "taken" {
				return errors.New("not now")
			}
			taken <- m.Key
			return nil
		}
		r := relay.New(w.Alpha, relay.Config{Limits: relay.Limits{Workers: 4, Window: 2 * refused}, Sweep: time.Second}, send, telemetry.NewMessages(nil), slog.New(slog.DiscardHandler))
		ctx, end := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- r.Run(ctx, []string{"beta"}) }()
		select {
		case <-taken:
		case <-time.After(20 * time.Second):
			t.Error("what is refused takes all places")
		}
		end()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}
