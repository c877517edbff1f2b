package bus_test

import (
	"slices"
	"testing"

	"github.com/banyan-go/banyan/internal/bustest"
	"github.com/banyan-go/banyan/internal/databasetest"
	"github.com/banyan-go/banyan/internal/errs"
)

// A module that subscribes later starts with what is new, and gets what was kept when somebody replays it: once, in order, however often.
func TestLateSubscriber(t *testing.T) {
	each(t, func(t *testing.T, e databasetest.Engine) {
		o := bustest.StageOptions{Control: true}
		s := bustest.OpenStage(t, e, o, bustest.Alpha())
		const before = 600 // more than go in one step
		var all []int
		for n := range before {
			s.Announce("alpha", bustest.Counted{ID: "a", N: n})
			all = append(all, n)
		}
		s.Close()
		s = bustest.OpenStage(t, e, o, bustest.Alpha(), listener("beta"), listener("gamma"))
		s.Announce("alpha", bustest.Counted{ID: "a", N: before})
		s.Settle()
		want(t, "without a replay", s.Seen("beta", "count", "a"), []int{before})
		name := bustest.Counted{}.MessageName()
		kept, err := s.Bus.Kept(t.Context(), "alpha")
		if err != nil || len(kept) != 1 || kept[0].Number != before || !slices.Equal(kept[0].Subscribers, []string{"beta", "gamma"}) {
			t.Fatalf("kept %+v, error %v", kept, err)
		}
		if n, err := s.Bus.Replay(t.Context(), "alpha", name); n != before || err != nil {
			t.Fatalf("replayed %d, error %v", n, err)
		}
		s.Settle()
		for _, subscriber := range []string{"beta", "gamma"} {
			want(t, subscriber+" after the replay", s.Seen(subscriber, "count", "a"), append([]int{before}, all...))
		}
		if n, err := s.Bus.Replay(t.Context(), "alpha", name); n != 0 || !errs.Is(err, errs.NotFound) {
			t.Errorf("replayed %d once more, error %v", n, err)
		}
		want(t, "left in the outbox", s.Count("alpha", "SELECT count(*) FROM outbox"), 0)
	})
}
