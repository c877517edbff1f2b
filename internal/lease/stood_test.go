package lease_test

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/banyan-go/banyan/internal/bustest"
	"github.com/banyan-go/banyan/internal/databasetest"
	"github.com/banyan-go/banyan/internal/lease"
	"github.com/banyan-go/banyan/internal/unit"
)

// A holder that stood still while somebody else had the lease begins anew when it has the lease again: what it knew of the store may not
// be so any more. Until its work of before has ended it has the fence of before, by which nothing is read or marked now.
func TestSomebodyElseHadIt(t *testing.T) {
	t.Parallel()
	e := databasetest.Postgres(t, "alpha")
	store := unit.New(e.Store(t, "alpha"), unit.Options{Module: "alpha"})
	l := lease.New(store, "self", 600*time.Millisecond, slog.New(slog.DiscardHandler))
	ctx, end := context.WithCancel(t.Context())
	began, ended := make(chan int64), make(chan int64)
	done := make(chan struct{})
	go func() {
		defer close(done)
		l.Run(ctx, 1, nil, func(ctx context.Context) {
			began <- l.Fence()
			<-ctx.Done()
			ended <- l.Fence()
		})
	}()
	next := func(what string, from chan int64) int64 {
		t.Helper()
		select {
		case fence := <-from:
			return fence
		case <-time.After(30 * time.Second):
			t.Fatalf("%s: not within 30 s", what)
			return 0
		}
	}
	fence := next("the lease is held", began)
	steal(t, store, "somebody else", 0) // who has ended before this one asks again
	want(t, "fence at the end of the work of before", next("the work of before ends", ended), fence)
	again := next("the work begins anew", began)
	want(t, "fence in the store", int64(bustest.Count(t, store, "SELECT epoch FROM lease")), again)
	if again <= fence+1 {
		t.Errorf("fence %d after %d, want one more than that of somebody else", again, fence)
	}
	end()
	next("the work ends", ended)
	<-done
}
