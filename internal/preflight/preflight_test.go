package preflight

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/banyan-go/banyan/internal/errs"
	"github.com/banyan-go/banyan/internal/message"
	"github.com/banyan-go/banyan/internal/module"
	"github.com/banyan-go/banyan/internal/ownership"
)

type named string

func (n named) MessageName() string { return string(n) }
func (n named) MessageKey() string  { return "" }

// shop: orders asks carts, which asks catalog; orders commands payments and hears of it; notifications hears of both.
func shop() Input {
	contract := func(name string, events, commands, queries []string) message.Contract {
		c := message.Contract{Module: name}
		for _, n := range events {
			c.Events = append(c.Events, named(n))
		}
		for _, n := range commands {
			c.Commands = append(c.Commands, named(n))
		}
		for _, n := range queries {
			c.Queries = append(c.Queries, message.Exchange{Query: named(n)})
		}
		return c
	}
	return Input{
		Shared: true,
		Modules: []module.Descriptor{
			{Name: "catalog", Contract: contract("catalog", nil, nil, []string{"catalog.get.v1"})},
			{Name: "carts", Contract: contract("carts", nil, nil, []string{"carts.get.v1"}), Asks: []string{"catalog.get.v1"}},
			{Name: "orders", Contract: contract("orders", []string{"orders.placed.v1", "orders.noted.v1"}, nil, nil), Asks: []string{"carts.get.v1"},
				Sends: []string{"payments.charge.v1"}, Subscriptions: []module.Subscription{{Handler: "payment", Events: []string{"payments.*"}}}},
			{Name: "payments", Contract: contract("payments", []string{"payments.charged.v1"}, []string{"payments.charge.v1"}, nil)},
			{Name: "notifications", Contract: contract("notifications", nil, nil, nil), Subscriptions: []module.Subscription{
				{Handler: "orders", Events: []string{"orders.placed.v1"}}, {Handler: "payments", Events: []string{"payments.charged.v1"}}}},
		},
		Processes: []ownership.Process{{ID: "a-1"}, {ID: "b-2", Module: "payments"}},
		Broker:    Broker{Configured: true, RoundTrip: 300 * time.Microsecond},
		Traffic: Traffic{Window: time.Minute, Requests: map[string]float64{"orders": 10, "carts": 2}, Messages: map[string]float64{"orders": 10, "payments": 10}, Calls: []Call{
			{Caller: "carts", Message: "catalog.get.v1", PerSecond: 50, P50: time.Millisecond, P99: 2 * time.Millisecond},
			{Caller: "orders", Message: "carts.get.v1", PerSecond: 10, P50: 200 * time.Microsecond},
		}},
		Stores: map[string]Store{"payments": {}},
		Limits: Limits{Pause: 5 * time.Second, Paused: 1000},
	}
}

func levels(r Report) []string {
	var all []string
	for _, f := range r.Findings {
		all = append(all, fmt.Sprintf("%s: %s", f.Level, f.What))
	}
	return all
}

func TestPlanOut(t *testing.T) {
	t.Parallel()
	r := Plan(shop(), "payments", ownership.Wish{Placement: ownership.Remote}, nil)
	if r.Blocked || len(r.Findings) > 0 {
		t.Errorf("it is blocked: %v", levels(r))
	}
	if diff := cmp.Diff(r.Ways, []Way{
		{"orders", "payments", "local", "rabbit"}, {"payments", "notifications", "local", "rabbit"}, {"payments", "orders", "local", "rabbit"},
	}); diff != "" {
		t.Errorf("ways (-got +want)\n%s", diff)
	}
	var steps []string
	for _, s := range r.Steps {
		steps = append(steps, s.Who+" | "+s.What+" | "+s.Holds+" | "+s.AtMost.String())
	}
	if diff := cmp.Diff(steps, []string{
		"control store | the record of payments says remote, owner away, epoch 2 instead of 1 |  | 0s",
		"gateway | sends all requests of payments to payments b-2; those in flight end where they began |  | 0s",
		"shop a-1 | stops relay, timers, subscriptions and answers of payments and gives back its lease | questions to payments, and what it would send | 1s",
		"payments b-2 | takes the lease by its epoch; runs relay, timers, subscriptions and answers of payments |  | 0s",
		"shop a-1 | messages of orders to payments go by the broker | these messages, in the outbox | 1s",
		"payments b-2 | messages of payments to notifications go by the broker | these messages, in the outbox | 1s",
		"payments b-2 | messages of payments to orders go by the broker | these messages, in the outbox | 1s",
		"every process | says that it follows |  | 0s",
	}); diff != "" {
		t.Errorf("steps (-got +want)\n%s", diff)
	}
}

func TestPlanHome(t *testing.T) {
	t.Parallel()
	in := shop()
	in.Records = []ownership.Record{{Module: "payments", Wish: ownership.Wish{Placement: ownership.Remote}, Owner: ownership.Away, Epoch: 2}}
	in.Broker = Broker{Configured: true, Error: "away", Waiting: map[string]int{"payments": 7}}
	in.Breaches = []Breach{{Module: "orders", Other: "payments", What: "x"}}
	r := Plan(in, "payments", ownership.Wish{Placement: ownership.Local}, nil)
	if diff := cmp.Diff(levels(r), []string{"notes: 7 messages to payments are in its queue; they are handled before others go the short way"}); diff != "" {
		t.Errorf("nothing blocks the way home (-got +want)\n%s", diff)
	}
	if len(r.Ways) != 3 || r.Ways[0] != (Way{"orders", "payments", "rabbit", "local"}) {
		t.Errorf("ways %v", r.Ways)
	}
	if s := r.Steps[2]; s.Who != "payments b-2" || !strings.HasPrefix(s.What, "stops relay") {
		t.Errorf("who gives it up is %+v", s)
	}
	if s := r.Steps[4]; s.Who != "shop a-1" || !strings.Contains(s.What, "when what the broker holds of them is handled") {
		t.Errorf("the way back is %+v", s)
	}
}

func TestPlanOfRequestsAlone(t *testing.T) {
	t.Parallel()
	in := shop()
	in.Broker = Broker{}
	r := Plan(in, "payments", ownership.Wish{Placement: ownership.Canary, Reads: 500, Writes: 100}, nil)
	if r.Blocked || len(r.Ways) > 0 || len(r.Steps) != 3 || r.Steps[1].What != "sends the requests of 5.00 % of the users (1.00 % for writes) to payments b-2" {
		t.Errorf("%v %v %+v", levels(r), r.Ways, r.Steps)
	}
}

func TestPlanOfFile(t *testing.T) {
	t.Parallel()
	in := shop()
	in.Shared = false
	r := Plan(in, "payments", ownership.Wish{Placement: ownership.Remote}, nil)
	if s := r.Steps[1]; s.Who != "gateway" || s.Holds != "requests of payments, 1000 at most" || s.AtMost != 5*time.Second {
		t.Errorf("requests are held while the file changes hands: %+v", s)
	}
	if s := r.Steps[len(r.Steps)-2]; !strings.HasPrefix(s.What, "sends all requests of payments") {
		t.Errorf("requests go out last: %+v", s)
	}
}

func TestFindings(t *testing.T) {
	t.Parallel()
	remote := ownership.Wish{Placement: ownership.Remote}
	for name, test := range map[string]struct {
		module  string
		change  func(*Input)
		refusal error
		want    []string // beginnings
	}{
		"ownership refuses": {"payments", nil, errs.New(errs.Unavailable, "no process serves payments alone; start one with `banyan serve --only payments`"),
			[]string{"blocks: no process serves payments alone"}},
		"no broker":            {"payments", func(in *Input) { in.Broker = Broker{} }, nil, []string{"blocks: payments needs a broker"}},
		"no broker, said once": {"payments", func(in *Input) { in.Broker = Broker{} }, errors.New("payments needs a broker; set it"), []string{"blocks: payments needs a broker"}},
		"the broker is away":   {"payments", func(in *Input) { in.Broker.Error = "refused" }, nil, []string{"blocks: the broker cannot be used: refused"}},
		"somebody reads its tables": {"payments", func(in *Input) {
			in.Breaches = []Breach{{Module: "orders", Other: "payments", What: "reads", WayOut: "do not"}, {Module: "carts", Other: "catalog", What: "reads"}}
		}, nil, []string{"blocks: orders: reads"}},
		"a query that no contract has": {"payments", func(in *Input) { in.Modules[0].Asks = []string{"payments.get.v1"} }, nil, []string{"blocks: catalog asks payments.get.v1, which is no query of the contract of payments", "warns: orders asks carts asks catalog asks payments"}},
		"a command that is a query":    {"catalog", func(in *Input) { in.Modules[3].Sends = []string{"catalog.get.v1"}; in.Modules[1].Asks = nil }, nil, []string{"blocks: payments sends catalog.get.v1, which is no command"}},
		"an event that no contract has": {"payments", func(in *Input) {
			in.Modules[3].Subscriptions = []module.Subscription{{Handler: "x", Events: []string{"orders.gone.v1"}}}
		}, nil, []string{"blocks: payments listens to orders.gone.v1"}},
		"a prefix that no contract has": {"payments", func(in *Input) {
			in.Modules[0].Subscriptions = []module.Subscription{{Handler: "x", Events: []string{"payments.lost*"}}}
		}, nil, []string{"blocks: catalog listens to payments.lost*"}},
		"events that nobody hears": {"orders", func(in *Input) { in.Modules[2].Asks = nil }, nil, []string{"notes: nobody subscribes to orders.noted.v1"}},
		"chatty, and in a chain":   {"catalog", nil, nil, []string{"warns: carts asks catalog.get.v1 50.0 times a second; remotely each takes about 600µs more, 30ms of waiting", "warns: orders asks carts asks catalog: a chain of questions, 1 of them between processes, 10.0 times a second; it takes about 600µs more"}},
		"in the middle of a chain": {"carts", nil, nil, []string{"warns: carts asks catalog.get.v1 50.0", "warns: orders asks carts asks catalog: a chain of questions, 2 of them between processes, 10.0 times a second; it takes about 1.2ms more"}},
		"not measured":             {"carts", func(in *Input) { in.Broker.RoundTrip = 0; in.Modules[2].Asks = nil }, nil, []string{"warns: carts asks catalog.get.v1 50.0 times a second; remotely each takes about 1ms more, 50ms of waiting"}},
		"dead letters, retries, backlog": {"payments", func(in *Input) {
			in.Stores["payments"] = Store{Dead: 1, Parked: 2, Pending: 3, Oldest: time.Minute, Due: 4, Timers: 9}
		}, nil,
			[]string{"warns: 1 dead letters of payments", "warns: 3 messages of payments are on their way, the oldest for 1m0s", "notes: 2 keys of payments", "notes: 4 of 9 timers"}},
		"messages just sent":   {"payments", func(in *Input) { in.Stores["payments"] = Store{Pending: 3, Oldest: time.Second} }, nil, []string{"notes: 3 messages of payments"}},
		"a store that is away": {"payments", func(in *Input) { in.Stores["payments"] = Store{Error: "away", Dead: 1} }, nil, []string{"warns: the store of payments cannot be looked at: away"}},
		"a file that is away": {"payments", func(in *Input) {
			in.Shared, in.Stores["payments"] = false, Store{Error: "away"}
			in.Records = []ownership.Record{{Module: "payments", Wish: remote, Owner: ownership.Away}}
		}, nil, []string{"notes: payments is remote already"}},
		"held by configuration": {"payments", func(in *Input) { in.Held = map[string]bool{"payments": true} }, nil, []string{"notes: modules.payments.hold is true"}},
		"what blocks comes first": {"payments", func(in *Input) { in.Stores["payments"] = Store{Dead: 1}; in.Held = map[string]bool{"payments": true} }, errors.New("no; wait"),
			[]string{"blocks: no", "warns: 1 dead", "notes: modules"}},
	} {
		in := shop()
		if test.change != nil {
			test.change(&in)
		}
		r := Plan(in, test.module, remote, test.refusal)
		got := levels(r)
		ok := len(got) == len(test.want) && r.Blocked == strings.HasPrefix(test.want[0], "blocks")
		for i := range test.want {
			ok = ok && strings.HasPrefix(got[i], test.want[i])
		}
		if !ok {
			t.Errorf("%s: blocked %v by\n  %s\nwant\n  %s", name, r.Blocked, strings.Join(got, "\n  "), strings.Join(test.want, "\n  "))
		}
		for _, f := range r.Findings {
			if f.Level != Notes && f.WayOut == "" && !strings.Contains(f.What, "on their way") {
				t.Errorf("%s: no way out of %q", name, f.What)
			}
		}
	}
}

// Questions that go between processes already cost nothing more, and those that come home cost less.
func TestQuestions(t *testing.T) {
	t.Parallel()
	in := shop()
	in.Records = []ownership.Record{{Module: "catalog", Wish: ownership.Wish{Placement: ownership.Remote}, Owner: ownership.Away, Epoch: 2}}
	r := Plan(in, "carts", ownership.Wish{Placement: ownership.Remote}, nil)
	if diff := cmp.Diff(r.Questions, []Question{
		{Caller: "orders", Message: "carts.get.v1", PerSecond: 10, Now: 200 * time.Microsecond, Then: 800 * time.Microsecond, Added: 6 * time.Millisecond},
		{Caller: "carts", Message: "catalog.get.v1", PerSecond: 50, Now: time.Millisecond, Then: time.Millisecond},
	}); diff != "" {
		t.Errorf("(-got +want)\n%s", diff)
	}
	in.Records = nil
	r = Plan(in, "carts", ownership.Wish{Placement: ownership.Canary, Reads: 1000}, nil)
	if diff := cmp.Diff(r.Questions, []Question{
		{Caller: "carts", Message: "catalog.get.v1", PerSecond: 5, Now: time.Millisecond, Then: 1600 * time.Microsecond, Added: 3 * time.Millisecond},
	}); diff != "" {
		t.Errorf("a tenth of the users (-got +want)\n%s", diff)
	}
}

func TestScore(t *testing.T) {
	t.Parallel()
	in := shop()
	in.Breaches = []Breach{{Module: "carts", Other: "catalog", What: "reads"}}
	list := Table(in)
	score := func(changes map[string]int) map[string]int {
		scores := map[string]int{}
		for _, r := range Score(list, changes) {
			scores[r.Module] = r.Score
		}
		return scores
	}
	if diff := cmp.Diff(score(nil), map[string]int{
		"orders":        50 + 20 + 20, // asks 10 times for 20 requests and messages: 30 / 1.5; the busiest
		"payments":      50 + 30 + 10, // no questions; half of the load
		"notifications": 50 + 30,
		"catalog":       15,    // a breach; nothing goes on, and one kind of question is asked of it
		"carts":         1 + 2, // a breach; asks 50 and is asked 10 times for 2 requests: 30 / 31; a tenth of the load
	}); diff != "" {
		t.Errorf("without a history (-got +want)\n%s", diff)
	}
	if diff := cmp.Diff(score(map[string]int{"payments": 4, "orders": 1}), map[string]int{
		"orders": 50 + 20 + 13, "payments": 50 + 30 + 15, "notifications": 80, "catalog": 15, "carts": 2,
	}); diff != "" {
		t.Errorf("with a history (-got +want)\n%s", diff)
	}
	first := Score(list, map[string]int{"payments": 4, "orders": 1})[0]
	if first.Module != "payments" || *first.Changes != 4 || first.HearsFrom != 1 || first.HeardBy != 2 || first.Asks != 0 {
		t.Errorf("the readiest is %+v", first)
	}
}

func TestImports(t *testing.T) {
	t.Parallel()
	got := ImportBreaches("example.org/x/modules", "orders", map[string][]string{
		"modules/orders/a.go": {"fmt", "example.org/x/modules/orders/internal/order", "example.org/x/modules/payments/paymentsapi", "example.org/x/internal/unit"},
		"modules/orders/b.go": {"example.org/x/modules/payments", "example.org/x/modules/stock/internal/thing"},
	})
	if len(got) != 2 || got[0].Other != "payments" || got[1].Other != "stock" || got[0].What != "modules/orders/b.go imports example.org/x/modules/payments" {
		t.Errorf("%+v", got)
	}
}
