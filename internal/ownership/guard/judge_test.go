package guard

import (
	"strings"
	"testing"
	"time"

	"github.com/banyan-go/banyan/internal/ownership"
)

func TestJudge(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 3, 1, 9, 0, 0, 0, time.UTC)
	waits := func(d time.Duration) Measures {
		return Measures{Waiting: []Waiting{{What: "message of orders to payments", Since: now.Add(-d), For: d}}}
	}
	for name, test := range map[string]struct {
		placement ownership.Placement
		after     time.Duration
		held      bool
		config    func(*Config)
		measures  Measures
		want      Action
		reason    string
	}{
		"all is well":                      {measures: waits(29 * time.Second), want: None, reason: "nothing is worse"},
		"a message waits":                  {measures: waits(30 * time.Second), want: Home, reason: "lag: message of orders to payments waits for 30s"},
		"lag is not looked at":             {measures: waits(time.Hour), config: func(c *Config) { c.Lag = 0 }, want: None},
		"in canary":                        {placement: ownership.Canary, measures: waits(time.Minute), want: Home},
		"in shadow":                        {placement: ownership.Shadow, measures: waits(time.Minute), want: Home},
		"at home":                          {placement: ownership.Local, measures: waits(time.Minute), want: None},
		"retired":                          {placement: ownership.Retired, measures: waits(time.Minute), want: Alarm, reason: "by a human alone"},
		"held":                             {held: true, measures: waits(time.Minute), want: Alarm, reason: "modules.payments.hold"},
		"not automatic":                    {config: func(c *Config) { c.Automatic = false }, measures: waits(time.Minute), want: Alarm, reason: "automatic is off"},
		"watched no more":                  {after: 15 * time.Minute, measures: waits(time.Minute), want: None, reason: "older than"},
		"the last moment of the watch":     {after: 15*time.Minute - 1, measures: waits(time.Minute), want: Home},
		"dead letters":                     {measures: Measures{Dead: Compared{3, 0}}, want: Home, reason: "dead_letters: 3 since the change, 0 in the same time before"},
		"fewer dead letters than it takes": {measures: Measures{Dead: Compared{2, 0}}, want: None},
		"as many dead letters as before":   {measures: Measures{Dead: Compared{100, 98}}, want: None},
		"questions fail":                   {measures: Measures{Asked: 20, Failed: Compared{.15, 0}}, want: Home, reason: "failed: 15.0 % of 20 questions"},
		"too few questions":                {measures: Measures{Asked: 19, Failed: Compared{1, 0}}, want: None},
		"questions failed before":          {measures: Measures{Asked: 1000, Failed: Compared{.5, .45}}, want: None},
		"time-outs":                        {measures: Measures{TimeOuts: Compared{6, 1}}, want: Home, reason: "time_outs: 6 since the change, 1.0 were"},
		"as many time-outs as before":      {measures: Measures{TimeOuts: Compared{60, 56}}, want: None},
		"nothing is known":                 {measures: Measures{Unknown: []string{"store of payments: away"}}, want: None},
		"two reasons are both told of":     {measures: Measures{Dead: Compared{3, 0}, TimeOuts: Compared{5, 0}}, want: Home, reason: "dead_letters: 3 since the change, 0 in the same time before; time_outs: 5"},
		"dead letters are not looked at":   {config: func(c *Config) { c.DeadLetters = 0 }, measures: Measures{Dead: Compared{30, 0}}, want: None},
		"questions are not looked at":      {config: func(c *Config) { c.Failed = 0 }, measures: Measures{Asked: 100, Failed: Compared{1, 0}}, want: None},
		"time-outs are not looked at":      {config: func(c *Config) { c.TimeOuts = 0 }, measures: Measures{TimeOuts: Compared{50, 0}}, want: None},
	} {
		cfg := DefaultConfig()
		if test.config != nil {
			test.config(&cfg)
		}
		if test.placement == "" {
			test.placement = ownership.Remote
		}
		r := ownership.Record{Module: "payments", Wish: ownership.Wish{Placement: test.placement}}
		v := Judge(cfg, Case{Record: r, Since: now.Add(-test.after), Now: now, Held: test.held, Measures: test.measures})
		if v.Action != test.want || !strings.Contains(v.Reason, test.reason) {
			t.Errorf("%s: %s (%s), want %s (%s)", name, v.Action, v.Reason, test.want, test.reason)
		}
	}
}

func TestConfig(t *testing.T) {
	t.Parallel()
	if err := DefaultConfig().Validate("ownership.gates"); err != nil {
		t.Error(err)
	}
	for key, break_ := range map[string]func(*Config){
		"watch": func(c *Config) { c.Watch = 0 }, "lag": func(c *Config) { c.Lag = time.Millisecond }, "dead_letters": func(c *Config) { c.DeadLetters = -1 },
		"failed": func(c *Config) { c.Failed = 2 }, "time_outs": func(c *Config) { c.TimeOuts = -1 },
	} {
		c := DefaultConfig()
		break_(&c)
		if err := c.Validate("ownership.gates"); err == nil || !strings.HasPrefix(err.Error(), "ownership.gates."+key+": ") {
			t.Errorf("%s: %v", key, err)
		}
	}
}
