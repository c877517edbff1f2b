package password

import (
	"context"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/banyan-go/banyan/internal/errs"
)

func TestHash(t *testing.T) {
	t.Parallel()
	h := NewHasher()
	hash, err := h.Hash(t.Context(), "correct horse")
	if err != nil {
		t.Fatal(err)
	}
	if want := "$argon2id$v=19$m=19456,t=2,p=1$"; !strings.HasPrefix(hash, want) {
		t.Errorf("hash %s does not begin with %s", hash, want)
	}
	for _, tt := range []struct {
		password, hash string
		want           bool
	}{{"correct horse", hash, true}, {"correct horsf", hash, false}, {"", hash, false}, {"correct horse", "", false}} {
		got, err := h.Matches(t.Context(), tt.password, tt.hash)
		if err != nil || got != tt.want {
			t.Errorf("%q against %q: got %v, %v, want %v", tt.password, tt.hash, got, err, tt.want)
		}
	}
	if _, err := h.Matches(t.Context(), "x", "plain"); err == nil {
		t.Error("a hash of another kind is no error")
	}
}

// The work for an account that does not exist is the same as for one that does: the parameters are equal.
func TestNobodyCostsTheSame(t *testing.T) {
	t.Parallel()
	h := NewHasher()
	hash, err := h.Hash(t.Context(), "correct horse")
	if err != nil {
		t.Fatal(err)
	}
	cut := func(s string) string { return strings.Join(strings.Split(s, "$")[:4], "$") }
	if got, want := cut(h.nobody), cut(hash); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestBulkhead(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := NewHasher()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		for range atOnce {
			if err := h.enter(ctx); err != nil {
				t.Fatal(err)
			}
		}
		var group sync.WaitGroup
		results := make(chan error, maxQueue)
		for range maxQueue {
			group.Go(func() { results <- h.enter(ctx) })
		}
		synctest.Wait()
		err := h.enter(ctx)
		if e, ok := err.(*errs.Error); !ok || e.Kind != errs.Unavailable || e.RetryAfter == 0 {
			t.Errorf("a full queue: got %v, want unavailable with a time to come back", err)
		}
		h.leave()
		synctest.Wait()
		if err := <-results; err != nil {
			t.Errorf("who waits gets the place of who leaves: %v", err)
		}
		time.Sleep(time.Minute) // the deadline of all that wait
		group.Wait()
		close(results)
		for err := range results {
			if !errs.Is(err, errs.Timeout) {
				t.Errorf("got %v, want a timeout", err)
			}
		}
		if n := h.waiting.Load(); n != 0 {
			t.Errorf("%d still wait", n)
		}
	})
}

func TestRandom(t *testing.T) {
	t.Parallel()
	a, b := Random(), Random()
	if len(a) != 20 || a == b {
		t.Errorf("got %q, %q", a, b)
	}
}
