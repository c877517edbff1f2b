package bus_test

import (
	"context"
	"slices"
	"sync"
	"testing"

	"github.com/banyan-go/banyan/internal/bus"
	"github.com/banyan-go/banyan/internal/bustest"
	"github.com/banyan-go/banyan/internal/databasetest"
	"github.com/banyan-go/banyan/internal/errs"
	"github.com/banyan-go/banyan/internal/message"
)

// lossy loses every other crossing: in turn on its way there and on its way back.
type lossy struct {
	mu   sync.Mutex
	n    int
	seen map[bus.Crossing]int
}

func (l *lossy) Cross(_ context.Context, c bus.Crossing, pass func() error) error {
	l.mu.Lock()
	l.n++
	n := l.n
	l.seen[c]++
	l.mu.Unlock()
	if n%4 == 1 {
		return errs.New(errs.Unavailable, "lost on its way")
	}
	err := pass()
	if n%4 == 3 && err == nil {
		return errs.New(errs.Unavailable, "the answer was lost")
	}
	return err
}

// What is lost at a boundary between modules comes again, once and in order; a question that is lost fails, and a command that is asked
// again has its first reply. Without the boundary nothing goes through it.
func TestBoundary(t *testing.T) {
	t.Parallel()
	w := bustest.Open(t, databasetest.SQLite(t), bustest.Options{Real: true})
	boundary := &lossy{seen: map[bus.Crossing]int{}}
	w.Bus.SetBoundary(boundary)
	w.Publish("a", bustest.Range(1, 20)...)
	w.Settle()
	if got, want := w.Seen(w.Beta, "count", "a"), bustest.Range(1, 20); !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if n := boundary.seen[bus.Crossing{From: "alpha", To: "beta", Name: "alpha.counted.v1"}]; n <= 20 {
		t.Errorf("%d crossings of 20 messages of which some are lost", n)
	}
	caller := w.Bus.CallerOf("alpha")
	answered, lost := 0, 0
	for range 8 {
		switch _, err := message.Ask[bustest.Total](t.Context(), caller, bustest.Sum{ID: "a"}); {
		case err == nil:
			answered++
		case errs.Is(err, errs.Unavailable):
			lost++
		default:
			t.Error(err)
		}
	}
	if answered != 4 || lost != 4 || boundary.seen[bus.Crossing{From: "alpha", To: "beta", Name: "beta.sum.v1"}] != 8 {
		t.Errorf("%d questions were answered and %d lost of %v", answered, lost, boundary.seen)
	}
	id := message.NewID()
	for range 8 {
		if total, err := message.Request[bustest.Total](t.Context(), caller, bustest.Bump{ID: "b"}, id); err == nil && total.N != 1 {
			t.Errorf("a command that was repeated has the reply %d, want that of the first time", total.N)
		}
	}
	w.Bus.SetBoundary(nil)
	before := boundary.n
	w.Publish("a", 21)
	w.Settle()
	if _, err := message.Ask[bustest.Total](t.Context(), caller, bustest.Sum{ID: "a"}); err != nil || boundary.n != before {
		t.Errorf("%d crossings of a boundary that was taken away (%v)", boundary.n-before, err)
	}
}
