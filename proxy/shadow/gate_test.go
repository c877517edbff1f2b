package shadow

import (
	"encoding/json"
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// tail is the probability of at most k of n, summed up.
func tail(k, n int64, p float64) float64 {
	sum := 0.0
	for i := range k + 1 {
		a, _ := math.Lgamma(float64(n + 1))
		b, _ := math.Lgamma(float64(i + 1))
		c, _ := math.Lgamma(float64(n - i + 1))
		sum += math.Exp(a - b - c + float64(i)*math.Log(p) + float64(n-i)*math.Log1p(-p))
	}
	return sum
}

func TestBounds(t *testing.T) {
	t.Parallel()
	for _, n := range []int64{1, 2, 10, 51, 3000, 100_000} {
		for _, k := range []int64{0, 1, 2, 7, 50, 2000, n - 1, n} {
			if k < 0 || k > n {
				continue
			}
			for _, alpha := range []float64{confidence, sure} {
				up, low := upper(k, n, alpha), lower(k, n, alpha)
				if share := float64(k) / float64(n); low > share || up < share || low < 0 || up > 1 {
					t.Errorf("%d of %d lies outside %v to %v", k, n, low, up)
				}
				if k < n {
					if got := tail(k, n, up); math.Abs(got-alpha) > alpha/1000 {
						t.Errorf("upper(%d, %d, %v): %d or fewer are seen with %v", k, n, alpha, k, got)
					}
				}
				if k > 0 {
					if got := 1 - tail(k-1, n, low); math.Abs(got-alpha) > alpha/1000 {
						t.Errorf("lower(%d, %d, %v): %d or more are seen with %v", k, n, alpha, k, got)
					}
				}
			}
		}
	}
	// The rule of three, and none at all.
	if got := upper(0, 2995, confidence); got > 0.001 || got < 0.00099 {
		t.Error(got)
	}
	if upper(0, 0, confidence) != 1 || lower(0, 0, confidence) != 0 {
		t.Error("nothing seen says something")
	}
	for _, a := range []float64{1, 2, 40, 5000, 1e6} {
		for _, b := range []float64{1, 3, 700, 1e6} {
			for _, x := range []float64{0.00001, 0.01, 0.5, 0.93, 0.99999} {
				if got, want := incompleteBeta(a, b, x), 1-incompleteBeta(b, a, 1-x); math.Abs(got-want) > 1e-9 || got < 0 || got > 1 {
					t.Errorf("incompleteBeta(%v, %v, %v) is %v, and the other way round %v", a, b, x, got, want)
				}
			}
		}
	}
	// Numbers of years.
	if up := upper(900_000, 1_000_000_000, confidence); up < 0.0009 || up > 0.000902 {
		t.Error(up)
	}
}

func TestJudge(t *testing.T) {
	t.Parallel()
	gate := DefaultConfig().Gate
	equal := func(name string, n int64) RouteReport { return RouteReport{Route: name, Compared: n, Equal: n} }
	with := func(r RouteReport, change func(*RouteReport)) RouteReport {
		change(&r)
		return r
	}
	mismatched := func(name string, n, k int64, path string) RouteReport {
		return RouteReport{Route: name, Compared: n, Equal: n - k, Mismatch: k, Paths: []PathReport{{Path: path, Mismatch: k}}}
	}
	noisy := func(n, noise, controls, control int64) RouteReport {
		return RouteReport{Route: "r", Compared: n, Equal: n - noise, Noise: noise, Controls: controls, Paths: []PathReport{{Path: "$.id", Noise: noise, Control: control}}}
	}
	exempt := gate
	exempt.Exempt = []string{"rare"}
	tests := []struct {
		name   string
		gate   Gate
		routes []RouteReport
		want   Verdict
		says   string // part of the reasons
	}{
		{"nothing", gate, nil, NotEnough, "0 of 2000 comparisons"},
		{"too few", gate, []RouteReport{equal("r", 1999)}, NotEnough, "1999 of 2000"},
		{"enough for the number, not for the bound", gate, []RouteReport{equal("r", 2994)}, NotEnough, "up to 0.1 % may"},
		{"enough", gate, []RouteReport{equal("r", 2995)}, Good, ""},
		{"few of a route", gate, []RouteReport{equal("r", 100_000), equal("rare", 49)}, NotEnough, "route rare: 49 of 50"},
		{"none of a route", gate, []RouteReport{equal("r", 100_000), equal("rare", 0)}, NotEnough, "route rare: 0 of 50"},
		{"exempt", exempt, []RouteReport{equal("r", 100_000), equal("rare", 0)}, Good, ""},
		{"one mismatch", gate, []RouteReport{mismatched("r", 3000, 1, "$.a")}, NotEnough, "1 of 3000 differ"},
		{"one mismatch among many", gate, []RouteReport{mismatched("r", 4743, 1, "$.a")}, Good, ""},
		{"a bug", gate, []RouteReport{mismatched("r", 5000, 25, "$.total")}, Bad, "route r: 25 of 5000 differ, at least 0.348 %, and 0.1 % are allowed ($.total)"},
		{"two are too few to be sure of", gate, []RouteReport{mismatched("r", 2, 2, "$.a")}, NotEnough, "2 of 2 differ"},
		{"all are wrong", gate, []RouteReport{mismatched("r", 3, 3, "$.a")}, Bad, "3 of 3 differ"},
		{"a bug of a route that is seldom asked for", gate, []RouteReport{equal("r", 1_000_000), mismatched("rare", 60, 10, "$.a")}, Bad, "route rare: 10 of 60"},
		{"perhaps a bug of a route that is seldom asked for", gate, []RouteReport{equal("r", 1_000_000), mismatched("rare", 60, 2, "$.a")}, NotEnough, "route rare: 2 of 60"},
		{"a bug in all routes", gate, []RouteReport{mismatched("a", 2000, 5, "$.a"), mismatched("b", 2000, 5, "$.a")}, Bad, "10 of 4000 differ"},
		{"an exempt route with a bug", exempt, []RouteReport{equal("r", 100_000), mismatched("rare", 10, 5, "$.a")}, Bad, "route rare: 5 of 10"},
		{"tried to write", gate, []RouteReport{with(equal("r", 5000), func(r *RouteReport) { r.Unsafe = true })}, NotEnough, "tried to write"},
		{"tried to write, exempt", exempt, []RouteReport{equal("r", 5000), with(equal("rare", 0), func(r *RouteReport) { r.Unsafe = true })}, Good, ""},
		{"failures", gate, []RouteReport{with(equal("r", 5000), func(r *RouteReport) { r.Failed = 100 })}, NotEnough, "100 of 5100 comparisons failed"},
		{"few failures", gate, []RouteReport{with(equal("r", 5000), func(r *RouteReport) { r.Failed = 20 })}, Good, ""},
		{"skew that local explains", gate, []RouteReport{with(equal("r", 5000), func(r *RouteReport) { r.Equal, r.Skew = 4900, 100 })}, Good, ""},
		{"skew that nothing explains", gate, []RouteReport{with(equal("r", 5000), func(r *RouteReport) {
			r.Equal, r.Skew, r.Unexplained, r.Paths = 4900, 100, 100, []PathReport{{Path: "$.total", Skew: 100}}
		})}, NotEnough, "100 of 5000 differed for a moment while local did not change, at least 1.69 %, and 0.1 % are allowed: it lags, or has a fault that comes and goes ($.total)"},
		{"noise, all", gate, []RouteReport{noisy(5000, 5000, 1000, 1000)}, Good, ""},
		{"noise, half, more by chance", gate, []RouteReport{noisy(5000, 2550, 100, 30)}, Good, ""},
		{"noise, few controls", gate, []RouteReport{noisy(5000, 1000, 20, 1)}, Good, ""},
		{"remote is noisier", gate, []RouteReport{noisy(5000, 5000, 1000, 500)}, Bad, "$.id differs in 100 % of the comparisons, and local from itself in 50 %"},
		{"a bug where there is noise", gate, []RouteReport{noisy(5000, 250, 1000, 2)}, Bad, "$.id differs"},
		{"a little more, within the relative rule", gate, []RouteReport{noisy(500_000, 100_000, 100_000, 15_000)}, Good, ""},
		{"a little more, within the absolute rule", gate, []RouteReport{noisy(100_000_000, 30_000, 100_000_000, 3_000)}, Good, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got := tt.gate.Judge(Report{Routes: tt.routes})
			reasons := strings.Join(got.Reasons, "\n")
			if got.Verdict != tt.want || !strings.Contains(reasons, tt.says) || (got.Verdict == Good) != (reasons == "") {
				t.Errorf("got %s, want %s with %q:\n%s", got.Verdict, tt.want, tt.says, reasons)
			}
			if _, err := json.Marshal(got); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestConfig(t *testing.T) {
	t.Parallel()
	if err := DefaultConfig().Validate("gateway.shadow"); err != nil {
		t.Fatal(err)
	}
	nan := math.NaN()
	for key, change := range map[string]func(*Config){
		"sample":                        func(c *Config) { c.Sample = 101 },
		"control_sample":                func(c *Config) { c.ControlSample = 0 },
		"learn":                         func(c *Config) { c.Learn = -1 },
		"confirm_after":                 func(c *Config) { c.ConfirmAfter = -1 },
		"headers":                       func(c *Config) { c.Headers = []string{"a b"} },
		"headers: \"set-cookie\" holds": func(c *Config) { c.Headers = []string{"set-cookie"} },
		"compare[1]: path":              func(c *Config) { c.Compare = []Rule{{Path: "$.a", Ignore: true}, {Path: "a", Ignore: true}} },
		"compare[0]: give one of":       func(c *Config) { c.Compare = []Rule{{Path: "$.a"}} },
		"compare[0]: give one":          func(c *Config) { c.Compare = []Rule{{Path: "$.a", Ignore: true, Format: UUID}} },
		"compare[0]: give":              func(c *Config) { c.Compare = []Rule{{Path: "$.a", Tolerance: 1, Format: UUID}} },
		"compare[0]: format":            func(c *Config) { c.Compare = []Rule{{Path: "$.a", Format: "date"}} },
		"compare[0]: tolerance":         func(c *Config) { c.Compare = []Rule{{Path: "$.a", Tolerance: -1}} },
		"compare[0]: tolerance: NaN":    func(c *Config) { c.Compare = []Rule{{Path: "$.a", Tolerance: nan}} },
		"compare[0]: unordered_by":      func(c *Config) { c.Compare = []Rule{{Path: "$.a", UnorderedBy: "x..y"}} },
		"compare[0]: unordered_by: \"*": func(c *Config) { c.Compare = []Rule{{Path: "$.a", UnorderedBy: "*"}} },
		"limits.max_body":               func(c *Config) { c.Limits.MaxBody = 2 << 20 },
		"limits.queue":                  func(c *Config) { c.Limits.Queue = 0 },
		"limits.bytes":                  func(c *Config) { c.Limits.Bytes = 128 << 10 },
		"limits.concurrency":            func(c *Config) { c.Limits.Concurrency = 0 },
		"limits.timeout":                func(c *Config) { c.Limits.Timeout = 0 },
		"gate.min_compared":             func(c *Config) { c.Gate.MinCompared = 0 },
		"gate.min_per_route":            func(c *Config) { c.Gate.MinPerRoute = -1 },
		"gate.mismatch_upper95":         func(c *Config) { c.Gate.Mismatch = 0 },
		"gate.skew":                     func(c *Config) { c.Gate.Skew = -1 },
		"gate.failed":                   func(c *Config) { c.Gate.Failed = nan },
		"gate.noise_rule.relative":      func(c *Config) { c.Gate.NoiseRule.Relative = 101 },
		"gate.noise_rule.absolute":      func(c *Config) { c.Gate.NoiseRule.Absolute = -1 },
	} {
		c := DefaultConfig()
		change(&c)
		err := c.Validate("gateway.shadow")
		if err == nil || !strings.HasPrefix(err.Error(), "gateway.shadow."+key) {
			t.Errorf("%s: %v", key, err)
		}
		if _, err := New(Options{Module: "orders", Config: c}); err == nil {
			t.Errorf("%s: New takes it", key)
		}
	}
	c := DefaultConfig()
	c.Compare = []Rule{{Route: "get-orders", Path: "$.a", Ignore: true}}
	c.Gate.Exempt = []string{"get-ordres"}
	err := c.CheckRoutes("gateway.shadow", []string{"get-order"})
	for _, want := range []string{`gateway.shadow.compare[0].route: "get-orders" is not`, `gateway.shadow.gate.exempt: "get-ordres" is not`} {
		if !strings.Contains(fmt.Sprint(err), want) {
			t.Errorf("%v says nothing of %s", err, want)
		}
	}
	if err := c.CheckRoutes("gateway.shadow", []string{"get-orders", "get-ordres"}); err != nil {
		t.Error(err)
	}
}

// TestRulesOfARoute: the configuration is that of all modules, and a rule is for one route of one of them.
func TestRulesOfARoute(t *testing.T) {
	t.Parallel()
	c := DefaultConfig()
	c.Compare = []Rule{{Route: "a", Path: "$.x", Ignore: true}, {Path: "$.y", Ignore: true}, {Route: "of another module", Path: "$.z", Ignore: true}}
	c.Gate.Exempt = []string{"of another module"}
	m, err := New(Options{Module: "orders", Routes: []string{"a", "b"}, Config: c})
	if err != nil {
		t.Fatal(err)
	}
	x, y := body(`{"x":1,"y":1,"z":1}`), body(`{"x":2,"y":2,"z":2}`)
	if diff := cmp.Diff(paths(m.differs["a"].Diff(x, y)), []string{"$.z"}); diff != "" {
		t.Error("a (-got +want)", diff)
	}
	if diff := cmp.Diff(paths(m.differs["b"].Diff(x, y)), []string{"$.x", "$.z"}); diff != "" {
		t.Error("b (-got +want)", diff)
	}
}
