package relay_test

import (
	"log/slog"
	"testing"

	"github.com/banyan-go/banyan/internal/bustest"
	"github.com/banyan-go/banyan/internal/databasetest"
	"github.com/banyan-go/banyan/internal/relay"
	"github.com/banyan-go/banyan/internal/telemetry"
)

// What waits can be counted on every engine: the high-water mark rests on it.
func TestPendingIsCounted(t *testing.T) {
	each(t, func(t *testing.T, e databasetest.Engine) {
		w := bustest.Prepare(t, e, bustest.Options{})
		w.Publish("a", 1, 2, 3)
		r := relay.New(w.Alpha, relay.Config{Limits: relay.Limits{Workers: 1, Window: 1}}, nil, telemetry.NewMessages(nil), slog.New(slog.DiscardHandler))
		for limit, expect := range map[int64]int64{2: 2, 100: 6} {
			n, oldest, err := r.Pending(t.Context(), limit, "")
			if err != nil || n != expect || oldest.IsZero() {
				t.Errorf("up to %d: %d since %s, error %v, want %d", limit, n, oldest, err, expect)
			}
		}
		if n, _, err := r.Pending(t.Context(), 100, "beta"); err != nil || n != 3 {
			t.Errorf("but for those to beta: %d, error %v, want 3", n, err)
		}
	})
}
