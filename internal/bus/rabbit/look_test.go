package rabbit

import (
	"context"
	"testing"
	"time"

	"github.com/banyan-go/banyan/internal/errs"
)

func TestLook(t *testing.T) {
	t.Parallel()
	b := open(t, shared(t).URL())
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if took, err := b.RoundTrip(ctx); err != nil || took <= 0 || took > time.Second {
		t.Errorf("a round trip of %s, %v", took, err)
	}
	if n, err := b.Waiting(ctx, "nobody"); err != nil || n != 0 {
		t.Errorf("%d messages in a queue that is not there, %v", n, err)
	}
	for i := range 3 {
		publish(t, b, "looked", ours("a", "k", i+1))
	}
	if n, err := b.Waiting(ctx, "looked"); err != nil || n != 3 {
		t.Errorf("%d messages in a queue of 3, %v", n, err)
	}
	if _, err := b.Waiting(ctx, "No Module"); !errs.Is(err, errs.Invalid) {
		t.Errorf("a name that is none: %v", err)
	}
}

// Without a broker both say so when their time is over.
func TestLookAtNothing(t *testing.T) {
	t.Parallel()
	b := open(t, "amqp://guest:guest@127.0.0.1:1/")
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := b.RoundTrip(ctx); !errs.Is(err, errs.Unavailable) {
		t.Errorf("a round trip to nobody: %v", err)
	}
	if _, err := b.Waiting(ctx, "payments"); !errs.Is(err, errs.Unavailable) {
		t.Errorf("messages at nobody: %v", err)
	}
}
