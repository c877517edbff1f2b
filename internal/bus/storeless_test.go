package bus_test

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"time"

	"github.com/banyan-go/banyan/internal/bus"
	"github.com/banyan-go/banyan/internal/bus/rabbit"
	"github.com/banyan-go/banyan/internal/bustest"
	"github.com/banyan-go/banyan/internal/database"
	"github.com/banyan-go/banyan/internal/databasetest"
	"github.com/banyan-go/banyan/internal/message"
	"github.com/banyan-go/banyan/internal/module"
	"github.com/banyan-go/banyan/internal/secret"
	"github.com/banyan-go/banyan/internal/testinfra"
	"github.com/banyan-go/banyan/internal/unit"
)

// A process that has lost its database, but not the broker, leaves the queue of its module to one that can do something with it.
func TestReplicaWithoutAStore(t *testing.T) {
	t.Parallel()
	url := testinfra.Rabbit(t).URL()
	e := databasetest.Postgres(t, append([]string{database.Control}, bustest.Modules...)...)
	w := bustest.Open(t, e, bustest.Options{Apart: url, Real: true})
	w.Publish("a", 1)
	w.Eventually("the first replica handles", func() bool { return len(w.Seen(w.Beta, "count", "a")) == 1 })
	store := secondBeta(t, e, url)
	if err := w.Beta.DB().Close(); err != nil {
		t.Fatal(err)
	}
	w.Publish("a", 2)
	w.Publish("b", 1)
	w.Eventually("the second replica handles", func() bool { return bustest.Count(t, store, "SELECT count(*) FROM seen WHERE handler = 'count'") == 3 })
}

// secondBeta is another process of beta that waits for the queue. Its store is given.
func secondBeta(t *testing.T, e databasetest.Engine, url string) *unit.Store {
	t.Helper()
	stores, err := database.Open(e.Config, e.Dir, 2, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	open := func(name string) *database.DB {
		db, err := stores.Store(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		return db
	}
	d := module.Descriptor{Name: "beta", Subscriptions: []module.Subscription{{Handler: "count", Events: []string{"alpha.*"}}}, Contract: message.Contract{Module: "beta"}}
	store := unit.New(open("beta"), d.StoreOptions())
	m := module.New(d)
	module.OnAny(m, "count", func(_ context.Context, u *unit.Work, m message.Message) error {
		return bustest.Keep(u, "count", m.Key, bustest.Number(m))
	})
	cfg := bus.DefaultConfig()
	cfg.LeaseTTL = 600 * time.Millisecond
	cfg.RabbitMQ.URL = secret.Text(url)
	broker, err := rabbit.New(cfg.RabbitMQ, rabbit.Options{})
	if err != nil {
		t.Fatal(err)
	}
	b := bus.New(cfg, bus.Options{Only: "beta", Broker: broker, Control: open(database.Control), Foreign: []module.Descriptor{
		{Name: "alpha", Contract: message.Contract{Module: "alpha", Events: []message.Event{bustest.Counted{}, bustest.Other{}}}},
	}})
	if err := b.Add(m, store); err != nil {
		t.Fatal(err)
	}
	if err := b.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, end := context.WithCancel(context.Background())
	done := make(chan error, 2)
	go func() { done <- broker.Run(ctx) }()
	go func() { done <- b.Run(ctx) }()
	t.Cleanup(func() {
		end()
		if err := errors.Join(<-done, <-done, stores.Close()); err != nil {
			t.Error(err)
		}
	})
	bustest.Eventually(t, "the second replica runs", time.Minute, func() bool { _, ready := b.Status(ctx); return ready })
	return store
}
