package proxy_test

import (
	"io"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/banyan-go/banyan/proxy"
	"github.com/banyan-go/banyan/proxy/shadow"
)

// What a comparison has found is shown as metrics, and outlives a restart; it begins anew when the module comes into shadow again.
func TestComparisonsAreShownAndKept(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	begin := func(t *testing.T, state proxy.State) (*shop, *proxy.Fixed) {
		s, remote, fixed := movingWith(t, proxy.Placement{State: state, Held: true}, func(c *proxy.Config) {
			c.Shadow.Sample, c.Shadow.ControlSample, c.Shadow.Learn, c.Shadow.ConfirmAfter = 100, 100, 1, time.Millisecond
		}, func(o *proxy.Options) { o.Reports = proxy.ReportFiles(dir) })
		remote.set(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			_, _ = io.WriteString(w, `{"side":"remote"}`)
		})
		return s, fixed
	}
	move := func(t *testing.T, s *shop, fixed *proxy.Fixed, state proxy.State) {
		if err := fixed.Move(t.Context(), fixed.Current()[0], proxy.Placement{Module: "orders", State: state, Held: true}, nil); err != nil {
			t.Fatal(err)
		}
		eventually(t, func() bool { return s.gate.Placements()[0].State == state })
	}
	mismatches := func(s *shop) (n int64, path string) {
		all, err := s.gate.ShadowReport("orders")
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range all.(map[string]any)["report"].(shadow.Report).Routes {
			if n += r.Mismatch; len(r.Paths) > 0 {
				path = r.Paths[0].Path
			}
			if r.Mismatch > 0 && len(r.Samples) == 0 {
				t.Error("there are no samples")
			}
		}
		return n, path
	}
	var before int64
	t.Run("first", func(t *testing.T) {
		s, _ := begin(t, proxy.Shadow)
		eventually(t, func() bool {
			ask(t, s, "GET", "/api/orders", "customer:ada", "")
			n, _ := mismatches(s)
			return n >= 3
		})
		for name, least := range map[string]float64{"banyan_shadow_comparisons_total": 4, "banyan_gate_verdict": -3} {
			if got := s.metric(name); got < least {
				t.Errorf("%s is %v, want %v at least", name, got, least)
			}
		}
		// One value for all, and one per rule; the comparison says bad.
		if got := s.metricOf("banyan_gate_verdict", "rule", "shadow"); got != -1 {
			t.Errorf("the comparison's verdict is %v, want -1", got)
		}
		if got := s.metricOf("banyan_shadow_comparisons_total", "result", "mismatch"); got < 3 {
			t.Errorf("%v mismatches, want 3 at least", got)
		}
		before, _ = mismatches(s)
	})
	t.Run("after a restart", func(t *testing.T) {
		s, fixed := begin(t, proxy.Shadow)
		if n, path := mismatches(s); n < before || path != "$.side" {
			t.Errorf("%d mismatches at %q, want %d at least", n, path, before)
		}
		move(t, s, fixed, proxy.Local)
		if n, _ := mismatches(s); n < before {
			t.Errorf("%d mismatches at home, want %d at least", n, before)
		}
		move(t, s, fixed, proxy.Shadow)
		if n, _ := mismatches(s); n != 0 {
			t.Errorf("%d mismatches of another time", n)
		}
	})
	t.Run("unreadable", func(t *testing.T) {
		if err := os.WriteFile(filepath.Join(dir, "shadow-orders.json"), []byte("{"), 0o600); err != nil {
			t.Fatal(err)
		}
		s, _ := begin(t, proxy.Shadow)
		if n, _ := mismatches(s); n != 0 {
			t.Errorf("%d mismatches from nowhere", n)
		}
	})
}

// metricOf is the sum of a metric where a label has a value.
func (s *shop) metricOf(name, label, value string) float64 {
	s.t.Helper()
	families, err := s.metrics.Gather()
	if err != nil {
		s.t.Fatal(err)
	}
	sum := 0.0
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			for _, l := range m.GetLabel() {
				if l.GetName() == label && l.GetValue() == value {
					sum += m.GetGauge().GetValue() + m.GetCounter().GetValue()
				}
			}
		}
	}
	return sum
}
