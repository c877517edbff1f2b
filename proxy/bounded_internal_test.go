package proxy

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// It is as context.WithTimeout, whether somebody waits for its end from the beginning, later, or only looks.
func TestBound(t *testing.T) {
	t.Parallel()
	type key struct{}
	for name, wait := range map[string]func(ctx context.Context){
		"nobody waits": func(context.Context) {}, "somebody waits": func(ctx context.Context) { ctx.Done() },
		"somebody derives": func(ctx context.Context) { _, cancel := context.WithCancel(ctx); cancel() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				open := func(parent context.Context, d time.Duration) (context.Context, context.CancelFunc) {
					ctx, cancel := bound(parent, d, context.DeadlineExceeded)
					wait(ctx)
					if ctx.Err() != nil {
						t.Errorf("begins with %v", ctx.Err())
					}
					return ctx, cancel
				}
				ended := func(ctx context.Context, want error) {
					t.Helper()
					if err := ctx.Err(); !errors.Is(err, want) {
						t.Errorf("got %v, want %v", err, want)
					}
					<-ctx.Done()
					if err := ctx.Err(); !errors.Is(err, want) {
						t.Errorf("got %v after its end, want %v", err, want)
					}
				}
				parent, stop := context.WithCancel(context.WithValue(t.Context(), key{}, "value"))
				ctx, cancel := open(parent, time.Second)
				if at, ok := ctx.Deadline(); !ok || !at.Equal(time.Now().Add(time.Second)) || ctx.Value(key{}) != "value" {
					t.Errorf("%v %t %v", at, ok, ctx.Value(key{}))
				}
				time.Sleep(time.Second)
				synctest.Wait()
				ended(ctx, context.DeadlineExceeded)
				cancel()
				ended(ctx, context.DeadlineExceeded)

				ctx, cancel = open(parent, time.Second)
				cancel()
				ended(ctx, context.Canceled)

				soon, cancelSoon := context.WithTimeout(parent, time.Millisecond)
				ctx, cancel = open(soon, time.Second)
				if at, _ := ctx.Deadline(); !at.Equal(time.Now().Add(time.Millisecond)) {
					t.Errorf("ends at %v, after its parent", at)
				}
				<-ctx.Done()
				ended(ctx, context.DeadlineExceeded)
				cancel()
				cancelSoon()

				ctx, cancel = open(parent, time.Second)
				child, cancelChild := context.WithCancel(ctx)
				stop()
				ended(ctx, context.Canceled)
				ended(child, context.Canceled)
				cancelChild()
				cancel()
			})
		})
	}
}
