package ownership

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/banyan-go/banyan/internal/errs"
)

func at(p Placement, owner Side, step Step) Record {
	return Record{Module: "payments", Wish: Wish{Placement: p}, Owner: owner, Epoch: 5, Version: 9, Step: step}
}

var (
	shopProcess = Process{ID: "shop-1", Broker: BrokerReady, Names: []string{"payments.captured.v1"}}
	ownProcess  = Process{ID: "pay-1", Module: "payments", Broker: BrokerReady, Names: []string{"payments.captured.v1", "payments.captured.v2"}}
)

func TestPlan(t *testing.T) {
	t.Parallel()
	both := situation{shared: true, broker: BrokerReady, processes: []Process{shopProcess, ownProcess}, self: shopProcess}
	file := both
	file.shared = false
	with := func(s situation, change func(*situation)) situation {
		s.processes = append([]Process(nil), s.processes...)
		change(&s)
		return s
	}
	canary := Wish{Placement: Canary, Reads: 500, Writes: 100}
	for name, c := range map[string]struct {
		in      situation
		from    Record
		to      Wish
		owner   Side
		step    Step
		epoch   uint64
		refused errs.Kind
		says    string
	}{
		"out":                                {in: both, from: at(Local, Home, Settled), to: Wish{Placement: Remote}, owner: Away, step: Settling, epoch: 6},
		"home":                               {in: both, from: at(Remote, Away, Settled), to: Wish{Placement: Local}, owner: Home, step: Settling, epoch: 6},
		"home while it goes out":             {in: both, from: at(Remote, Away, Settling), to: Wish{Placement: Local}, owner: Home, step: Settling, epoch: 6},
		"home though nobody lives there":     {in: with(both, func(s *situation) { s.processes = s.processes[:1] }), from: at(Remote, Away, Settled), to: Wish{Placement: Local}, owner: Home, step: Settling, epoch: 6},
		"home though the broker is down":     {in: with(both, func(s *situation) { s.broker = "away" }), from: at(Remote, Away, Settled), to: Wish{Placement: Local}, owner: Home, step: Settling, epoch: 6},
		"a share, the owner stays":           {in: both, from: at(Local, Home, Settled), to: canary, owner: Home, step: Settling, epoch: 5},
		"back to a share":                    {in: both, from: at(Remote, Away, Settled), to: canary, owner: Home, step: Settling, epoch: 6},
		"where it is":                        {in: both, from: at(Remote, Away, Settled), to: Wish{Placement: Remote}, owner: Away, step: Settled, epoch: 5},
		"a file out":                         {in: file, from: at(Local, Home, Settled), to: Wish{Placement: Remote}, owner: Home, step: Holding, epoch: 5},
		"a file home":                        {in: file, from: at(Remote, Away, Settled), to: Wish{Placement: Local}, owner: Away, step: Holding, epoch: 5},
		"a file back before it was given up": {in: file, from: at(Remote, Home, Holding), to: Wish{Placement: Local}, owner: Home, step: Settling, epoch: 5},
		"a file back that nobody has":        {in: file, from: at(Remote, Home, Closing), to: Wish{Placement: Local}, owner: Home, step: Opening, epoch: 5},
		"a file back that was taken":         {in: file, from: at(Remote, Away, Opening), to: Wish{Placement: Local}, owner: Away, step: Closing, epoch: 5},
		"retired":                            {in: both, from: at(Remote, Away, Settled), to: Wish{Placement: Retired}, owner: Away, step: Settling, epoch: 5},

		"out twice":                 {in: both, from: at(Local, Home, Settling), to: Wish{Placement: Remote}, refused: errs.Unavailable, says: "in the middle of a change"},
		"retired while it goes out": {in: both, from: at(Remote, Away, Settling), to: Wish{Placement: Retired}, refused: errs.Unavailable, says: "has not settled as remote"},
		"nobody there":              {in: with(both, func(s *situation) { s.processes = s.processes[:1] }), from: at(Local, Home, Settled), to: Wish{Placement: Remote}, refused: errs.Unavailable, says: "banyan serve --only payments"},
		"no broker":                 {in: with(both, func(s *situation) { s.broker = BrokerNone }), from: at(Local, Home, Settled), to: Wish{Placement: Remote}, refused: errs.Conflict, says: "bus.rabbitmq.url"},
		"broker away":               {in: with(both, func(s *situation) { s.processes[1].Broker = "no route to host" }), from: at(Local, Home, Settled), to: Wish{Placement: Remote}, refused: errs.Unavailable, says: "no route to host"},
		"a replica without broker":  {in: with(both, func(s *situation) { s.processes = append(s.processes, Process{ID: "shop-2", Names: shopProcess.Names}) }), from: at(Local, Home, Settled), to: Wish{Placement: Remote}, refused: errs.Conflict, says: "shop-2"},
		"two versions apart":        {in: with(both, func(s *situation) { s.processes[1].Names = []string{"payments.captured.v3"} }), from: at(Local, Home, Settled), to: Wish{Placement: Remote}, refused: errs.Conflict, says: "payments.captured (v1 and v3)"},
		"a replica two versions on": {in: with(both, func(s *situation) {
			s.processes = append(s.processes, Process{ID: "shop-2", Broker: BrokerReady, Names: []string{"payments.captured.v4"}})
		}), from: at(Local, Home, Settled), to: Wish{Placement: Remote}, refused: errs.Conflict, says: "payments pay-1 () and shop shop-2 () are more than one released version apart: payments.captured (v4 and v2)"},
		"a file and writes":         {in: file, from: at(Local, Home, Settled), to: canary, refused: errs.Conflict, says: "move the store to PostgreSQL"},
		"retired from the shop":     {in: both, from: at(Local, Home, Settled), to: Wish{Placement: Retired}, refused: errs.Conflict, says: "only a module that is remote"},
		"home from retired":         {in: both, from: at(Retired, Away, Settled), to: Wish{Placement: Local}, refused: errs.Conflict, says: "set it to remote"},
		"home to who was without":   {in: with(both, func(s *situation) { s.processes[0].Lacks = []string{"payments"} }), from: at(Remote, Away, Settled), to: Wish{Placement: Local}, refused: errs.Conflict, says: "start it anew"},
		"needed":                    {in: with(both, func(s *situation) { s.needed = map[string]string{"payments": "of its books"} }), from: at(Remote, Away, Settled), to: Wish{Placement: Retired}, refused: errs.Conflict, says: "of its books"},
		"nonsense":                  {in: both, from: at(Local, Home, Settled), to: Wish{Placement: "elsewhere"}, refused: errs.Invalid, says: "elsewhere"},
		"more writes than reads":    {in: both, from: at(Local, Home, Settled), to: Wish{Placement: Canary, Reads: 1, Writes: 2}, refused: errs.Invalid, says: "more writes"},
		"a share of what is not it": {in: both, from: at(Local, Home, Settled), to: Wish{Placement: Remote, Reads: 1}, refused: errs.Invalid, says: "only canary"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := plan(c.in, c.from, c.to)
			if c.refused != "" {
				if errs.KindOf(err) != c.refused || !strings.Contains(err.Error(), c.says) {
					t.Errorf("got %v, want %s with %q", err, c.refused, c.says)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			want := c.from
			want.Wish, want.Owner, want.Step, want.Epoch = c.to, c.owner, c.step, c.epoch
			if d := cmp.Diff(want, got); d != "" {
				t.Errorf("record (-want +got):\n%s", d)
			}
		})
	}
}

// Each step waits until every live process follows, and the last one for a process of the owner; a dead one is not waited for.
func TestNext(t *testing.T) {
	t.Parallel()
	follows := func(p Process, version uint64) Process {
		p.Follows = map[string]uint64{"payments": version}
		return p
	}
	for name, c := range map[string]struct {
		from Record
		live []Process
		step Step
		own  Side
		ok   bool
	}{
		"settled":              {from: at(Remote, Away, Settled), live: []Process{shopProcess}},
		"somebody is behind":   {from: at(Remote, Away, Settling), live: []Process{follows(shopProcess, 8), follows(ownProcess, 9)}},
		"the owner is dead":    {from: at(Remote, Away, Settling), live: []Process{follows(shopProcess, 9)}},
		"all follow":           {from: at(Remote, Away, Settling), live: []Process{follows(shopProcess, 9), follows(ownProcess, 9)}, step: Settled, own: Away, ok: true},
		"held":                 {from: at(Remote, Home, Holding), live: []Process{follows(shopProcess, 9), follows(ownProcess, 9)}, step: Closing, own: Home, ok: true},
		"given up":             {from: at(Remote, Home, Closing), live: []Process{follows(shopProcess, 9), follows(ownProcess, 9)}, step: Opening, own: Away, ok: true},
		"given up by the dead": {from: at(Local, Away, Closing), live: []Process{follows(shopProcess, 9)}, step: Opening, own: Home, ok: true},
		"taken back":           {from: at(Local, Home, Opening), live: []Process{follows(shopProcess, 9)}, step: Settled, own: Home, ok: true},
	} {
		got, ok := next(c.from, c.live)
		if ok != c.ok || ok && (got.Step != c.step || got.Owner != c.own) {
			t.Errorf("%s: %v, %v", name, got, ok)
		}
	}
}

func TestSkew(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		a, b []string
		want string
	}{
		{[]string{"a.x.v1"}, []string{"a.x.v1", "a.x.v2"}, ""},
		{[]string{"a.x.v1"}, []string{"a.x.v3"}, "a.x (v1 and v3)"},
		{[]string{"a.x.v1"}, nil, ""},
		{nil, []string{"a.x.v2"}, "a.x (none and v2)"},
	} {
		if got := skew(c.a, c.b); got != c.want {
			t.Errorf("%v and %v: %q, want %q", c.a, c.b, got, c.want)
		}
	}
}

func TestAbandoned(t *testing.T) {
	t.Parallel()
	if !abandoned(at(Remote, Away, Opening), []Process{shopProcess}) || abandoned(at(Remote, Away, Settled), nil) || abandoned(at(Remote, Away, Opening), []Process{ownProcess}) {
		t.Error("a change is abandoned while it is not settled and nobody lives to take it")
	}
	if n := len(alive([]Process{{Age: time.Second}, {Age: time.Minute}}, 6*time.Second)); n != 1 {
		t.Errorf("%d live", n)
	}
}

// A changed value is in the registration of its own process a moment later: that is no disagreement.
func TestDisagreement(t *testing.T) {
	t.Parallel()
	wishes := func(p Process, placement string) Process {
		p.Wishes = map[string]string{"payments": placement}
		return p
	}
	other := Process{ID: "shop-2"}
	for _, c := range []struct {
		live []Process
		want string
	}{
		{[]Process{wishes(shopProcess, "local"), ownProcess}, ""},
		{[]Process{wishes(shopProcess, "local"), wishes(other, "remote")}, ""},
		{[]Process{wishes(shopProcess, "remote"), wishes(other, "local")}, `shop-2 says "local"`},
	} {
		if got := disagreement("payments", "remote", c.live, shopProcess.ID); got != c.want {
			t.Errorf("%v: %q, want %q", c.live, got, c.want)
		}
	}
}
