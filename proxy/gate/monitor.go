package gate

import (
	"fmt"
	"slices"
	"sync"
	"time"
)

// Monitor watches one module. It is safe for use by many goroutines.
type Monitor struct {
	cfg        Config
	need, last int // breaches
	bad        func(Verdict)

	mu    sync.Mutex
	watch *watch // nil until the first stage begins

	judging sync.Mutex // windows are judged one after the other; taken before mu
}

// NewMonitor makes a monitor that watches nothing yet: Begin starts it. bad is called once in a stage that an error, a trip
// or a client error turns bad, from Observe, in the request that made it so. It may call the monitor, and had better ask
// it for the verdict again while it holds what keeps stages from changing. nil is told nothing.
func NewMonitor(cfg Config, bad func(Verdict)) (*Monitor, error) {
	if err := cfg.Validate("gate"); err != nil {
		return nil, err
	}
	m := &Monitor{cfg: cfg, bad: bad}
	m.need, m.last, _ = parseBreaches(cfg.Latency.Breaches) // Validate has read it
	return m, nil
}

// Begin starts a stage: what was seen before counts no more, nor do requests that began before at. Each change of
// placement or share is a stage of its own. While a module is local there is nothing to watch, and Observe is cheap.
func (m *Monitor) Begin(stage Stage, at time.Time) {
	w := newWatch(m.cfg, stage, at)
	m.mu.Lock()
	m.watch = w
	m.mu.Unlock()
}

// Observe notes what became of a request, on either side.
func (m *Monitor) Observe(s Sample) {
	o := s.outcome()
	if o == nothing {
		return
	}
	m.mu.Lock()
	w := m.watch
	if w == nil || w.routes == nil || s.At.Before(w.began) || !w.add(&s, o, &m.cfg) {
		m.mu.Unlock()
		return
	}
	v := w.verdict(s.At, &m.cfg, m.need)
	m.mu.Unlock()
	if m.bad != nil {
		m.bad(v)
	}
}

// Verdict is what is to be thought of the module now; once it is bad it stays so until the next stage. Windows of latency
// end here, so it must be asked for now and then: several times in latency.window.
func (m *Monitor) Verdict(now time.Time) Verdict {
	m.judging.Lock()
	defer m.judging.Unlock()

	m.mu.Lock()
	w := m.watch
	if w == nil {
		m.mu.Unlock()
		return Verdict{At: now}
	}
	closed := w.closeWindow(now, m.cfg.Latency)
	m.mu.Unlock()

	// Requests go on while the window is judged.
	var found *breach
	if closed != nil {
		found = closed.judge(m.cfg.Latency)
	}

	m.mu.Lock()
	defer m.mu.Unlock()
	if closed != nil {
		w.judged(found, m.need, m.last)
	}
	return w.verdict(now, &m.cfg, m.need)
}

// watch is what was seen in one stage.
type watch struct {
	stage         Stage
	began         time.Time
	remote, local tally
	subjects      filter
	known         uint64 // remote subjects who have signed in
	failures      ring   // remote

	errors      cusum
	streak      int // remote requests in a row that got no answer
	streakSince time.Time

	routes  map[string]*place // nil if there is nothing to watch
	asked   filter            // who asked for what in this slice of time
	slice   time.Time         // when the next one begins
	trials  compared          // of those who have signed in
	drifted filter            // who got which status in this stage
	drift   [len(watched)]drift

	open     window
	breaches []*breach // of the last windows, newest last; nil is none

	evidence *Evidence // once it is bad
}

// place is a route.
type place struct {
	id     uint64
	trials compared
	pair   *pair // in the open window
}

// maxRoutes bounds what is kept. Routes beyond it are not compared.
const maxRoutes = 512

func newWatch(cfg Config, stage Stage, at time.Time) *watch {
	w := &watch{stage: stage, began: at, errors: newCUSUM(cfg.Errors.CUSUM), slice: at.Add(cfg.Latency.Window), open: window{from: at}}
	if stage.Placement != Local {
		w.routes = map[string]*place{}
	}
	return w
}

// add counts a request and says whether it made the stage bad.
func (w *watch) add(s *Sample, o outcome, cfg *Config) bool {
	bad := false
	if s.Remote {
		bad = w.addRemote(s, o, cfg)
	} else {
		w.local.add(o != answered)
		w.errors.addLocal(o != answered)
	}
	if o == answered && w.stage.Control && w.compare(s, cfg) {
		bad = true
	}
	return bad
}

func (w *watch) addRemote(s *Sample, o outcome, cfg *Config) bool {
	w.remote.add(o != answered)
	if s.known() && w.subjects.first(s.Subject) {
		w.known++
	}
	if o != answered {
		w.failures.keep(s)
	}
	if o != noAnswer {
		w.streak = 0
	} else if w.streak++; w.streak == 1 {
		w.streakSince = s.At
	}
	sum := w.errors.addRemote(o != answered, s.At, w.remote, w.local)
	switch {
	case w.evidence != nil:
	case o == noAnswer && w.streak == cfg.Trip.ConsecutiveTransport:
		n := uint64(w.streak)
		w.convict(Evidence{
			Rule: RuleTrip, Reason: fmt.Sprintf("%d requests in a row got no answer", n), Since: w.streakSince, At: s.At,
			Remote: Counts{Requests: n, Bad: n}, Samples: w.failures.newest(w.streak),
		})
		return true
	case sum:
		r, l := w.errors.stretch(w.remote, w.local)
		w.convict(Evidence{
			Rule: RuleErrors, Since: w.errors.since, At: s.At, Samples: w.failures.newest(int(r.failures)),
			Reason: fmt.Sprintf("%d of %d requests failed, where %.2g %% are tolerated", r.failures, r.requests, 100*w.errors.p0),
			Remote: Counts{Requests: r.requests, Bad: r.failures}, Local: Counts{Requests: l.requests, Bad: l.failures},
		})
		return true
	}
	return false
}

// compare is for what both sides answer. It says whether it made the stage bad.
func (w *watch) compare(s *Sample, cfg *Config) bool {
	p := w.routes[s.Route]
	if p == nil {
		if len(w.routes) >= maxRoutes {
			return false
		}
		p = &place{id: mix(uint64(len(w.routes) + 1))}
		w.routes[s.Route] = p
	}
	if !s.At.Before(w.slice) {
		w.asked.clear()
		w.slice = s.At.Add(cfg.Latency.Window)
	}
	who := s.Subject
	if s.Remote {
		who = ^who // in shadow the same subject is on both sides
	}
	if s.Subject == 0 || w.asked.first(who^p.id) {
		if s.known() {
			w.trials.add(s.Remote)
			p.trials.add(s.Remote)
		}
		if s.Duration > 0 && s.Status < 400 {
			if p.pair == nil {
				p.pair = &pair{route: s.Route}
				w.open.pairs = append(w.open.pairs, p.pair)
			}
			p.pair.add(s)
		}
	}
	i := slices.Index(watched[:], s.Status)
	if i < 0 || cfg.ClientErrors.Ratio == 0 || !s.known() || !w.enoughTrials(cfg) || !w.drifted.first(who^mix(uint64(s.Status))) {
		return false
	}
	d := &w.drift[i]
	if !d.add(s, cfg.ClientErrors.Ratio, p.trials.share(w.trials), w.trials) || w.evidence != nil {
		return false
	}
	t := d.stretch(w.trials)
	w.convict(Evidence{
		Rule: RuleClientErrors, Since: d.since, At: s.At, Samples: d.samples.newest(int(d.given.remote)),
		Reason: fmt.Sprintf("status %d is given more than %v times as often as by the local side", s.Status, cfg.ClientErrors.Ratio),
		Remote: Counts{Requests: t.remote, Bad: d.given.remote}, Local: Counts{Requests: t.local, Bad: d.given.local},
	})
	return true
}

func (w *watch) enoughTrials(cfg *Config) bool {
	least := uint64(cfg.ClientErrors.Min)
	return w.trials.remote >= least && w.trials.local >= least
}

// convict is the end of the stage's good name: nothing makes it good again.
func (w *watch) convict(e Evidence) {
	e.Epoch, e.Traces = w.stage.Epoch, traces(e.Samples)
	if e.Since.After(e.At) {
		e.Since = e.At // requests end in another order than they begin
	}
	w.evidence = &e
}

// closeWindow ends the window if it is long enough and has enough; nil if it is not.
func (w *watch) closeWindow(now time.Time, cfg Latency) *window {
	if now.Sub(w.open.from) < cfg.Window || !w.open.enough(cfg.Min) {
		return nil
	}
	closed := w.open
	closed.to = now
	w.open = window{from: now}
	for _, p := range w.routes {
		p.pair = nil
	}
	return &closed
}

// judged notes what a window has shown.
func (w *watch) judged(b *breach, need, last int) {
	w.breaches = append(w.breaches, b)
	if len(w.breaches) > last {
		w.breaches = w.breaches[1:]
	}
	n := w.breached()
	if b == nil || n < need || w.evidence != nil {
		return
	}
	var first *breach
	for _, x := range w.breaches {
		if x != nil {
			first = x
			break
		}
	}
	samples := make([]Sample, 0, len(b.worst.slowest))
	for _, s := range b.worst.slowest {
		if s.Duration > 0 {
			samples = append(samples, s)
		}
	}
	w.convict(Evidence{
		Rule: RuleLatency, Since: first.from, At: b.to, Remote: b.remote, Local: b.local, Samples: samples,
		Reason: fmt.Sprintf("%d of the last %d windows are breached; in the last one the %s of %s is %s, where the local side has %s",
			n, len(w.breaches), b.quantile, b.worst.route, b.remote.at(b.quantile), b.local.at(b.quantile)),
	})
}

func (w *watch) breached() int {
	n := 0
	for _, b := range w.breaches {
		if b != nil {
			n++
		}
	}
	return n
}

// verdict puts together what the rules say.
func (w *watch) verdict(now time.Time, cfg *Config, need int) Verdict {
	v := Verdict{
		Stage: w.stage, Began: w.began, At: now,
		Remote: Totals{Requests: w.remote.requests, Failures: w.remote.failures, Subjects: w.known},
		Local:  Totals{Requests: w.local.requests, Failures: w.local.failures},
	}
	if w.routes == nil {
		return v
	}
	v.Rules = w.rules(cfg, need)
	if w.evidence != nil {
		v.State, v.Evidence = Bad, w.evidence
		for i := range v.Rules {
			if v.Rules[i].Name == w.evidence.Rule {
				v.Rules[i].State, v.Rules[i].Reason = Bad, w.evidence.Reason
			}
		}
		return v
	}
	v.State = Good
	for _, r := range v.Rules {
		if r.State != Good {
			v.State = NotEnough
		}
	}
	return v
}

// rules says what each rule that applies has found, but for the one that is bad.
func (w *watch) rules(cfg *Config, need int) []Rule {
	rules := make([]Rule, 0, 4)
	rules = append(rules, Rule{RuleErrors, w.errors.state(), fmt.Sprintf("%d of %d requests failed; evidence %.1f of %v",
		w.remote.failures, w.remote.requests, w.errors.sum, cfg.Errors.CUSUM.H)})
	if cfg.Trip.ConsecutiveTransport > 0 {
		r := Rule{RuleTrip, NotEnough, "no request yet"}
		switch {
		case w.streak > 0:
			r.Reason = fmt.Sprintf("the last %d requests got no answer", w.streak)
		case w.remote.requests > 0:
			r.State, r.Reason = Good, "the last request got an answer"
		}
		rules = append(rules, r)
	}
	if !w.stage.Control {
		return rules
	}
	if cfg.ClientErrors.Ratio > 0 {
		r := Rule{RuleClientErrors, NotEnough, fmt.Sprintf("%d remote and %d local requests compared, %d are needed",
			w.trials.remote, w.trials.local, cfg.ClientErrors.Min)}
		if w.enoughTrials(cfg) {
			r.State, r.Reason = Good, "no status stands out"
			for i := range w.drift {
				if w.drift[i].sum >= driftEvidence/2.0 {
					r.State, r.Reason = NotEnough, fmt.Sprintf("status %d stands out; evidence %.1f of %d", watched[i], w.drift[i].sum, driftEvidence)
				}
			}
		}
		rules = append(rules, r)
	}
	if cfg.Latency.P95Ratio > 0 || cfg.Latency.P99Ratio > 0 {
		r := Rule{RuleLatency, NotEnough, fmt.Sprintf("no window yet; %d remote and %d local answers in the first, %d are needed",
			w.open.counts().remote, w.open.counts().local, cfg.Latency.Min)}
		if n := len(w.breaches); n > 0 {
			r.Reason = fmt.Sprintf("%d of the last %d windows are breached, %d are bad", w.breached(), n, need)
			if w.breaches[n-1] == nil && w.breached() < need {
				r.State = Good
			}
		}
		rules = append(rules, r)
	}
	return rules
}
