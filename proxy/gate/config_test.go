package gate_test

import (
	"math"
	"strings"
	"testing"
	"time"

	"github.com/banyan-go/banyan/proxy/gate"
)

func TestConfigNamesTheKey(t *testing.T) {
	t.Parallel()
	if err := gate.DefaultConfig().Validate("modules.orders.gate"); err != nil {
		t.Error(err)
	}
	tests := []struct {
		change func(c *gate.Config)
		want   string
	}{
		{func(c *gate.Config) { c.Errors.CUSUM.P0 = 0 }, "errors.cusum.p0: 0 is not between"},
		{func(c *gate.Config) { c.Errors.CUSUM.P0 = math.NaN() }, "errors.cusum.p0"},
		{func(c *gate.Config) { c.Errors.CUSUM.P1 = 0.006 }, "errors.cusum.p1: 0.006 is not between one and a half times modules.orders.gate.errors.cusum.p0, 0.0075, and 0.9"},
		{func(c *gate.Config) { c.Errors.CUSUM.P1 = math.NaN() }, "errors.cusum.p1"},
		{func(c *gate.Config) { c.Errors.CUSUM.H = math.Inf(1) }, "errors.cusum.h"},
		{func(c *gate.Config) { c.ClientErrors.Ratio = 1 }, "client_errors.ratio: 1 is not between 1.1 and 100, or 0"},
		{func(c *gate.Config) { c.ClientErrors.Ratio = math.NaN() }, "client_errors.ratio"},
		{func(c *gate.Config) { c.ClientErrors.Min = 0 }, "client_errors.min"},
		{func(c *gate.Config) { c.Latency.P95Ratio = -1 }, "latency.p95_ratio"},
		{func(c *gate.Config) { c.Latency.P99Ratio = 1000 }, "latency.p99_ratio"},
		{func(c *gate.Config) { c.Latency.Hop = -1 }, "latency.hop"},
		{func(c *gate.Config) { c.Latency.Min = 0 }, "latency.min"},
		{func(c *gate.Config) { c.Latency.Window = 0 }, "latency.window"},
		{func(c *gate.Config) { c.Latency.Breaches = "4of3" }, `latency.breaches: "4of3" is not`},
		{func(c *gate.Config) { c.Latency.Breaches = "0of3" }, "latency.breaches"},
		{func(c *gate.Config) { c.Latency.Breaches = "2of3 " }, "latency.breaches"},
		{func(c *gate.Config) { c.Latency.Breaches = "" }, "latency.breaches"},
		{func(c *gate.Config) { c.Latency.Breaches = "2of11" }, "latency.breaches"},
		{func(c *gate.Config) { c.Trip.ConsecutiveTransport = -1 }, "trip.consecutive_transport"},
		{func(c *gate.Config) { c.Canary.Steps = nil; c.Canary.ApproveAt = nil }, "canary.steps: is empty"},
		{func(c *gate.Config) { c.Canary.Steps = []string{"10", "x"} }, `canary.steps: "x" is not a number of basis points`},
		{func(c *gate.Config) { c.Canary.Steps = []string{"0"} }, "canary.steps"},
		{func(c *gate.Config) { c.Canary.Steps = []string{"10001"} }, "canary.steps"},
		{func(c *gate.Config) { c.Canary.Steps = []string{"100", "10"} }, "canary.steps: 10 comes after 100"},
		{func(c *gate.Config) { c.Canary.Steps = []string{"100", "100"} }, "canary.steps: 100 comes after 100"},
		{func(c *gate.Config) { c.Canary.ApproveAt = []string{"77"} }, "canary.approve_at: 77 is none of modules.orders.gate.canary.steps"},
		{func(c *gate.Config) { c.Canary.ApproveAt = []string{"all"} }, "canary.approve_at"},
		{func(c *gate.Config) { c.Canary.Step.MinTime = -time.Second }, "canary.step.min_time"},
		{func(c *gate.Config) { c.Canary.Step.MinRequests = 0 }, "canary.step.min_requests"},
		{func(c *gate.Config) { c.Canary.Step.MinSubjects = 10_001 }, "canary.step.min_subjects"},
		{func(c *gate.Config) { c.Rollback.Cooldown = nil }, "rollback.cooldown: is empty"},
		{func(c *gate.Config) { c.Rollback.Cooldown = []string{"hold", "5m"} }, "rollback.cooldown: hold is not the last"},
		{func(c *gate.Config) { c.Rollback.Cooldown = []string{"-5m"} }, "rollback.cooldown"},
		{func(c *gate.Config) { c.Rollback.Cooldown = []string{"soon"} }, "rollback.cooldown"},
	}
	for _, tt := range tests {
		c := config(tt.change)
		err := c.Validate("modules.orders.gate")
		if err == nil || !strings.Contains(err.Error(), "modules.orders.gate."+tt.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("want %q, got %v", tt.want, err)
		}
		if _, err := gate.NewMonitor(c, nil); err == nil {
			t.Errorf("%s: a monitor was made", tt.want)
		}
		if _, err := gate.NewController(c); err == nil {
			t.Errorf("%s: a controller was made", tt.want)
		}
	}
}

// How soon an outage is bad follows from p0, p1 and h; the rest may be left out.
func TestConfigOfOthers(t *testing.T) {
	t.Parallel()
	for _, change := range []func(c *gate.Config){
		func(c *gate.Config) {
			c.ClientErrors.Ratio, c.Latency.P95Ratio, c.Latency.P99Ratio, c.Trip.ConsecutiveTransport = 0, 0, 0, 0
		},
		func(c *gate.Config) { c.Rollback.Cooldown = []string{"hold"}; c.Canary.ApproveAt = nil },
		func(c *gate.Config) { c.Rollback.Cooldown = []string{"1m"}; c.Canary.Steps = []string{"5000"} },
		func(c *gate.Config) { c.Latency.Breaches = "1of1" },
	} {
		if err := config(change).Validate("gate"); err != nil {
			t.Error(err)
		}
	}
}
