package preflight

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/banyan-go/banyan/internal/message"
	"github.com/banyan-go/banyan/internal/ownership"
)

// Report is what a change would do.
type Report struct {
	Module    string         `json:"module"`
	From      ownership.Wish `json:"from"`
	To        ownership.Wish `json:"to"`
	Blocked   bool           `json:"blocked"`
	Findings  []Finding      `json:"findings"` // what blocks first
	Steps     []Step         `json:"steps"`
	Ways      []Way          `json:"ways"`      // of messages that change their transport
	Questions []Question     `json:"questions"` // that go to another process then
	Window    time.Duration  `json:"window"`    // in which the rates were measured
	Broker    Broker         `json:"broker"`
	Store     Store          `json:"store"`
}

// Level is how much a finding matters.
type Level string

// The levels.
const (
	Blocks Level = "blocks" // the change is refused, or must not be made
	Warns  Level = "warns"  // it goes, and somebody should know
	Notes  Level = "notes"
)

// Finding is something that stands in the way, or that one should know, with the way out.
type Finding struct {
	Level  Level  `json:"level"`
	What   string `json:"what"`
	WayOut string `json:"way_out,omitempty"`
}

// Step is one of a change, in their order.
type Step struct {
	Who    string        `json:"who"`
	What   string        `json:"what"`
	Holds  string        `json:"holds,omitempty"`   // what waits meanwhile
	AtMost time.Duration `json:"at_most,omitempty"` // how long, if all processes live
}

// Way is that of messages from a publisher to a subscriber.
type Way struct {
	Publisher  string `json:"publisher"`
	Subscriber string `json:"subscriber"`
	From       string `json:"from"` // local or rabbit
	To         string `json:"to"`
}

// Question is one that a module asks another, with what it will cost.
type Question struct {
	Caller    string        `json:"caller"`
	Message   string        `json:"message"`
	PerSecond float64       `json:"per_second"`
	Now       time.Duration `json:"now"`   // p50, measured
	Then      time.Duration `json:"then"`  // p50, with the way between the processes
	Added     time.Duration `json:"added"` // waiting, in each second
	Chatty    bool          `json:"chatty"`
}

// chatty is how much waiting per second is too much: at a millisecond a question that is twenty questions a second.
const chatty = 20 * time.Millisecond

// Plan says what a change would do, and what stands in its way. refusal is what ownership says to it.
func Plan(in Input, name string, to ownership.Wish, refusal error) Report {
	from := in.record(name)
	after := from
	after.Wish, after.Owner = to, ownership.Home
	if to.Placement == ownership.Remote || to.Placement == ownership.Retired {
		after.Owner = ownership.Away
	}
	r := Report{
		Module: name, From: from.Wish, To: to, Findings: []Finding{}, Steps: []Step{}, Ways: []Way{}, Questions: []Question{}, Window: in.Traffic.Window,
		Broker: in.Broker, Store: in.Stores[name],
	}
	r.ways(in, after)
	r.questions(in, after)
	r.steps(in, from, after)
	home := to.Placement == ownership.Local
	if refusal != nil {
		what, wayOut, _ := strings.Cut(refusal.Error(), "; ")
		r.find(Blocks, what, wayOut)
	}
	r.brokerReady(in, after, refusal)
	if !home {
		r.boundary(in)
		r.contractGaps(in)
		r.chains(in, after)
	}
	r.backlog(in, from, after)
	if in.Held[name] {
		r.find(Notes, "modules."+name+".hold is true: no gate brings it home", "set it to false for the time after the change")
	}
	slices.SortStableFunc(r.Findings, func(a, b Finding) int { return cmp.Compare(rank(a.Level), rank(b.Level)) })
	r.Blocked = len(r.Findings) > 0 && r.Findings[0].Level == Blocks
	return r
}

func rank(l Level) int { return slices.Index([]Level{Blocks, Warns, Notes}, l) }

func (r *Report) find(l Level, what, wayOut string) {
	r.Findings = append(r.Findings, Finding{l, what, wayOut})
}

func transport(places map[string]string, a, b string) string {
	if places[a] == places[b] {
		return "local"
	}
	return "rabbit"
}

func (r *Report) ways(in Input, after ownership.Record) {
	now, then := in.places(in.record(r.Module)), in.places(after)
	for _, w := range in.ways() {
		if a, b := transport(now, w[0], w[1]), transport(then, w[0], w[1]); a != b {
			r.Ways = append(r.Ways, Way{w[0], w[1], a, b})
		}
	}
}

// questions are those that are answered in another process after the change.
func (r *Report) questions(in Input, after ownership.Record) {
	now, then := in.places(in.record(r.Module)), in.places(after)
	cost := in.Broker.question()
	for _, d := range in.Modules {
		for _, name := range d.Asks {
			target := message.Module(name)
			share := 1.0
			if after.Placement == ownership.Canary && d.Name == r.Module {
				share = float64(after.Reads) / 10_000 // what the second process answers, it asks from there
			} else if transport(then, d.Name, target) == "local" {
				continue
			}
			if d.Name != r.Module && target != r.Module {
				continue
			}
			q := Question{Caller: d.Name, Message: name, Then: cost}
			for _, c := range in.Traffic.Calls {
				if c.Caller == d.Name && c.Message == name {
					q.PerSecond, q.Now, q.Then = share*c.PerSecond, c.P50, c.P50+cost
				}
			}
			if transport(now, d.Name, target) == "rabbit" {
				q.Then = q.Now // it goes between processes already
			}
			q.Added = time.Duration(q.PerSecond * float64(q.Then-q.Now))
			if q.Chatty = q.Added >= chatty; q.Chatty {
				r.find(Warns, fmt.Sprintf("%s asks %s %.1f times a second; remotely each takes about %s more, %s of waiting in each second",
					q.Caller, name, q.PerSecond, short(q.Then-q.Now), short(q.Added)),
					"ask for many at once, or keep a copy in "+d.Name+" that events of "+target+" feed")
			}
			r.Questions = append(r.Questions, q)
		}
	}
	slices.SortStableFunc(r.Questions, func(a, b Question) int { return cmp.Compare(b.Added, a.Added) })
}

// handOver is after how long a lease is taken that an owner by an earlier epoch has not given back.
const handOver = time.Second

func (r *Report) steps(in Input, from, after ownership.Record) {
	if from.Wish == after.Wish {
		r.find(Notes, r.Module+" is "+from.Wish.String()+" already; nothing changes", "")
		return
	}
	step := func(who, what, holds string, atMost time.Duration) {
		r.Steps = append(r.Steps, Step{who, what, holds, atMost})
	}
	shops, theirs := in.labels("", "the shop"), in.labels(r.Module, "the process of "+r.Module)
	moves := from.Owner != after.Owner
	epoch := fmt.Sprintf("epoch %d", from.Epoch)
	if moves {
		epoch = fmt.Sprintf("epoch %d instead of %d", from.Epoch+1, from.Epoch)
	}
	step("control store", fmt.Sprintf("the record of %s says %s, owner %s, %s", r.Module, after.Wish, after.Owner, epoch), "", 0)
	requests := func() {
		switch after.Placement {
		case ownership.Local:
			step("gateway", fmt.Sprintf("sends the requests of %s to the shop", r.Module), "", 0)
		case ownership.Shadow:
			step("gateway", fmt.Sprintf("answers the requests of %s in the shop, and sends copies of some reads to %s", r.Module, theirs), "", 0)
		case ownership.Canary:
			step("gateway", fmt.Sprintf("sends the requests of %.2f %% of the users (%.2f %% for writes) to %s", float64(after.Reads)/100, float64(after.Writes)/100, theirs), "", 0)
		default:
			step("gateway", fmt.Sprintf("sends all requests of %s to %s; those in flight end where they began", r.Module, theirs), "", 0)
		}
	}
	if !moves {
		requests()
		if after.Placement == ownership.Retired {
			step(shops, "from its next start on runs without the store and the code of "+r.Module, "", 0)
		}
		step("every process", "says that it follows", "", 0)
		return
	}
	leaves, takes := shops, theirs
	if after.Owner == ownership.Home {
		leaves, takes = theirs, shops
	}
	if !in.Shared {
		step("gateway", "lets requests in flight end, and holds new ones", fmt.Sprintf("requests of %s, %d at most", r.Module, in.Limits.Paused), in.Limits.Pause)
	} else {
		requests()
	}
	step(leaves, fmt.Sprintf("stops relay, timers, subscriptions and answers of %s and gives back its lease", r.Module),
		"questions to "+r.Module+", and what it would send", handOver)
	if !in.Shared {
		step(leaves, "closes the SQLite file of "+r.Module, "", 0)
	}
	step(takes, fmt.Sprintf("takes the lease by its epoch; runs relay, timers, subscriptions and answers of %s", r.Module), "", 0)
	for _, w := range r.Ways {
		holder := shops
		if in.places(after)[w.Publisher] != "" {
			holder = in.labels(w.Publisher, "the process of "+w.Publisher)
		}
		what, holds := fmt.Sprintf("messages of %s to %s go by the broker", w.Publisher, w.Subscriber), "these messages, in the outbox"
		if w.To == "local" {
			what = fmt.Sprintf("messages of %s to %s go within the process, when what the broker holds of them is handled", w.Publisher, w.Subscriber)
		}
		step(holder, what, holds, handOver)
	}
	if !in.Shared {
		requests()
	}
	step("every process", "says that it follows", "", 0)
}

// labels are the processes that serve a module alone, or the whole shop.
func (in Input) labels(module, none string) string {
	var names []string
	for _, p := range in.Processes {
		if p.Module == module {
			names = append(names, p.Label())
		}
	}
	if len(names) == 0 {
		return none
	}
	slices.Sort(names)
	return strings.Join(names, ", ")
}

// brokerReady says what is wrong with the broker, if the change needs it and the refusal has not said so.
func (r *Report) brokerReady(in Input, after ownership.Record, refusal error) {
	if after.Owner == ownership.Home || refusal != nil && strings.Contains(refusal.Error(), "broker") {
		return
	}
	switch {
	case !in.Broker.Configured:
		r.find(Blocks, r.Module+" needs a broker between the processes, and there is none", "set bus.rabbitmq.url")
	case in.Broker.Error != "":
		r.find(Blocks, "the broker cannot be used: "+in.Broker.Error, "see broker in banyan placement status --json")
	}
}

func (r *Report) boundary(in Input) {
	for _, b := range in.Breaches {
		if b.Module == r.Module || b.Other == r.Module {
			r.find(Blocks, b.Module+": "+b.What, b.WayOut)
		}
	}
}

// contractGaps are what modules want of each other that no contract has, and events that nobody hears.
func (r *Report) contractGaps(in Input) {
	kinds := in.contracts()
	for _, d := range in.Modules {
		for _, use := range []struct {
			verb, kind string
			names      []string
		}{{"asks", "query", d.Asks}, {"sends", "command", d.Sends}} {
			for _, n := range use.names {
				if (d.Name == r.Module || message.Module(n) == r.Module) && kinds[n] != use.kind {
					r.find(Blocks, fmt.Sprintf("%s %s %s, which is no %s of the contract of %s", d.Name, use.verb, n, use.kind, message.Module(n)),
						"add it to that contract, or take it out of "+d.Name)
				}
			}
		}
		for _, s := range d.Subscriptions {
			for _, pattern := range s.Events {
				if d.Name != r.Module && message.Module(pattern) != r.Module {
					continue
				}
				found := false
				for n, kind := range kinds {
					found = found || kind == "event" && matches(pattern, n)
				}
				if !found {
					r.find(Blocks, fmt.Sprintf("%s listens to %s, and no contract has such an event", d.Name, pattern), "add it to that contract, or take it out of "+d.Name)
				}
			}
		}
		if d.Name != r.Module {
			continue
		}
		var unheard []string
		for _, n := range d.Contract.Names() {
			heard := false
			for _, other := range in.Modules {
				for _, s := range other.Subscriptions {
					heard = heard || hears(s, n)
				}
			}
			if !heard {
				unheard = append(unheard, n)
			}
		}
		if len(unheard) > 0 {
			r.find(Notes, "nobody subscribes to "+strings.Join(unheard, ", "), "they are kept for bus.keep_unsubscribed and go nowhere; nothing of them waits for the change")
		}
	}
}

// chains are questions that make another module ask in turn, where the way between processes comes in.
func (r *Report) chains(in Input, after ownership.Record) {
	places := in.places(after)
	asks := map[string][]string{}
	for _, d := range in.Modules {
		asks[d.Name] = d.Asks
	}
	cost := in.Broker.question()
	type chain struct {
		path   []string
		remote int
	}
	var found []chain
	var walk func(c chain)
	walk = func(c chain) {
		last, longer := c.path[len(c.path)-1], false
		for _, n := range asks[last] {
			to := message.Module(n)
			if slices.Contains(c.path, to) {
				continue // it would ask itself
			}
			next := chain{append(slices.Clone(c.path), to), c.remote}
			if transport(places, last, to) == "rabbit" {
				next.remote++
			}
			longer = true
			walk(next)
		}
		if !longer && len(c.path) > 2 && c.remote > 0 && slices.Contains(c.path, r.Module) {
			found = append(found, c)
		}
	}
	for _, d := range in.Modules {
		walk(chain{path: []string{d.Name}})
	}
	for _, c := range found {
		if slices.ContainsFunc(found, func(o chain) bool {
			return len(o.path) > len(c.path) && slices.Equal(o.path[len(o.path)-len(c.path):], c.path)
		}) {
			continue // the end of a longer one
		}
		r.find(Warns, fmt.Sprintf("%s: a chain of questions, %d of them between processes, %.1f times a second; it takes about %s more, and fails if one of them is away",
			strings.Join(c.path, " asks "), c.remote, in.Traffic.rate(c.path[0], c.path[1]), short(time.Duration(c.remote)*cost)),
			"let "+c.path[0]+" keep what it needs of "+c.path[len(c.path)-1]+" itself, fed by events")
	}
}

// rate is how often a module asks another.
func (t Traffic) rate(caller, target string) float64 {
	sum := 0.0
	for _, c := range t.Calls {
		if c.Caller == caller && message.Module(c.Message) == target {
			sum += c.PerSecond
		}
	}
	return sum
}

// backlog is what lies in the module's store, and in its queue.
func (r *Report) backlog(in Input, from, after ownership.Record) {
	s, known := in.Stores[r.Module]
	if !known {
		return
	}
	moves := from.Owner != after.Owner
	if s.Error != "" && !in.Shared && from.Owner == ownership.Away {
		return // the file is with the other process
	}
	if s.Error != "" {
		r.find(Warns, "the store of "+r.Module+" cannot be looked at: "+s.Error, "look again when it can be reached")
		return
	}
	if s.Dead > 0 {
		r.find(Warns, fmt.Sprintf("%d dead letters of %s block their keys, here and there", s.Dead, r.Module), "banyan deadletters list --module "+r.Module)
	}
	if s.Parked > 0 {
		r.find(Notes, fmt.Sprintf("%d keys of %s wait for another attempt; they move with it", s.Parked, r.Module), "")
	}
	if moves && s.Pending > 0 {
		level := Notes
		if s.Oldest > 10*time.Second {
			level = Warns
		}
		r.find(level, fmt.Sprintf("%d messages of %s are on their way, the oldest for %s; those of a way that changes wait for the change", s.Pending, r.Module, short(s.Oldest)), "")
	}
	if n := in.Broker.Waiting[r.Module]; moves && n > 0 {
		r.find(Notes, fmt.Sprintf("%d messages to %s are in its queue; they are handled before others go the short way", n, r.Module), "")
	}
	if moves && s.Due > 0 {
		r.find(Notes, fmt.Sprintf("%d of %d timers of %s are due within a minute; each fires once, on the side that owns it then", s.Due, s.Timers, r.Module), "")
	}
}

// short is a duration for people.
func short(d time.Duration) string {
	switch {
	case d >= time.Second:
		return d.Round(100 * time.Millisecond).String()
	case d >= 10*time.Millisecond:
		return d.Round(time.Millisecond).String()
	}
	return d.Round(10 * time.Microsecond).String()
}
