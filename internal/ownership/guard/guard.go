// Package guard brings a module home that does badly after it was moved: what the gateway's gates cannot see, because it happens between
// modules. It looks at each module for some time after each change of its placement.
//
// Only what began after the change counts, and where something of the kind happened before the change too, only what is more than that. What
// it counts are rows of the modules' stores, which survive every process, and markers of its own, which make the way of a message through the
// broker and tell how long that takes.
package guard

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/banyan-go/banyan/internal/errs"
	"github.com/banyan-go/banyan/internal/message"
	"github.com/banyan-go/banyan/internal/meter"
	"github.com/banyan-go/banyan/internal/module"
	"github.com/banyan-go/banyan/internal/ownership"
	"github.com/banyan-go/banyan/internal/unit"
)

// Options are what a guard works with.
type Options struct {
	Owners  *ownership.Owners
	Modules []module.Descriptor
	Stores  map[string]*unit.Store // of the modules that this process has open
	Shared  bool                   // the other side writes to the same stores
	Held    func(module string) bool
	// Probe sends a marker the way of the module's messages through the broker; nil if there is none.
	Probe    func(ctx context.Context, module, publisher, id string) error
	Meter    *meter.Meter // of telemetry's counters of timers and questions
	Registry prometheus.Registerer
	Log      *slog.Logger
}

// Guard watches the modules that were moved.
type Guard struct {
	cfg    Config
	o      Options
	metric *prometheus.GaugeVec
	now    func() time.Time

	mu       sync.Mutex
	verdicts map[string]Verdict
	watches  map[string]*watch
}

// watch is what is remembered of one module since its placement has changed.
type watch struct {
	placement ownership.Wish
	since     time.Time
	before    meter.Change  // until the change
	at        meter.Reading // of the change
	marker    string        // that is on its way
	sent      time.Time     // first
	again     time.Time     // last
	confirmed bool          // the broker has it
	said      string
}

// lookEvery is how often it looks.
const lookEvery = time.Second

// publisher is whose markers are the guard's: no module has this name.
const publisher = "~guard"

// New is a guard that watches nothing yet.
func New(cfg Config, o Options) *Guard {
	g := &Guard{cfg: cfg, o: o, now: time.Now, verdicts: map[string]Verdict{}, watches: map[string]*watch{}}
	if o.Log == nil {
		g.o.Log = slog.New(slog.DiscardHandler)
	}
	g.metric = prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "banyan_moved_module_bad", Help: "1 while a module that was moved does badly by ownership.gates.",
	}, []string{"module"})
	if o.Registry != nil {
		o.Registry.MustRegister(g.metric)
	}
	return g
}

// Run watches until ctx ends.
func (g *Guard) Run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(lookEvery):
		}
		for _, r := range g.o.Owners.Records() {
			g.consider(ctx, r)
		}
	}
}

// Verdicts are those on the modules that are watched just now.
func (g *Guard) Verdicts() map[string]Verdict {
	g.mu.Lock()
	defer g.mu.Unlock()
	return maps.Clone(g.verdicts)
}

func (g *Guard) consider(ctx context.Context, r ownership.Record) {
	w := g.watch(r)
	if w == nil {
		return
	}
	m := g.measure(ctx, r, w)
	if ctx.Err() != nil {
		return // what could not be measured says nothing
	}
	v := Judge(g.cfg, Case{Record: r, Since: w.since, Now: g.now(), Held: g.o.Held != nil && g.o.Held(r.Module), Measures: m})
	g.mu.Lock()
	g.verdicts[r.Module] = v
	g.mu.Unlock()
	bad := 0.0
	if len(v.Breaches) > 0 {
		bad = 1
	}
	g.metric.WithLabelValues(r.Module).Set(bad)
	switch v.Action {
	case Home:
		_, err := g.o.Owners.Replace(ctx, r.Module, r.Wish, ownership.Wish{Placement: ownership.Local}, r.Epoch, ownership.Cause{Caller: "gate", Reason: v.Reason, Evidence: v})
		switch {
		case errors.Is(err, ownership.ErrMoved):
		case err != nil:
			g.say(ctx, w, "a module does badly and could not be brought home", r, v.Reason+": "+err.Error())
		default:
			g.o.Log.WarnContext(ctx, "a module was brought home by its gates", "module", r.Module, "from", r.Wish.String(), "reason", v.Reason)
		}
	case Alarm:
		g.say(ctx, w, "a module does badly where it is, and cannot go back by itself", r, v.Reason)
	}
}

// say logs something once for as long as it stays the same kind of trouble.
func (g *Guard) say(ctx context.Context, w *watch, what string, r ownership.Record, reason string) {
	if w.said != what {
		w.said = what
		g.o.Log.ErrorContext(ctx, what, "module", r.Module, "placement", r.Wish.String(), "reason", reason)
	}
}

// watch is what is remembered of a module; nil if it is at home or was moved too long ago.
func (g *Guard) watch(r ownership.Record) *watch {
	w := g.watches[r.Module]
	moved := r.Placement != ownership.Local && r.Placement != ownership.Retired
	if w != nil && moved && w.placement == r.Wish && g.now().Sub(w.since) < g.cfg.Watch {
		return w
	}
	if w != nil {
		delete(g.watches, r.Module)
		g.mu.Lock()
		delete(g.verdicts, r.Module)
		g.mu.Unlock()
		g.metric.DeleteLabelValues(r.Module)
	}
	if !moved || g.now().Sub(r.ChangedAt) >= g.cfg.Watch {
		return nil
	}
	w = &watch{placement: r.Wish, since: r.ChangedAt}
	if g.o.Meter != nil {
		if at, err := g.o.Meter.Read(); err == nil {
			w.at, w.before = at, meter.Between(g.o.Meter.Lately(compared), at)
		}
	}
	g.watches[r.Module] = w
	return w
}

// compared is how long before the change is looked at.
const compared = 5 * time.Minute

// measure finds out how the module does since it was moved.
func (g *Guard) measure(ctx context.Context, r ownership.Record, w *watch) Measures {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	m := Measures{Waiting: []Waiting{}}
	note := func(what string, err error) {
		if err != nil {
			m.Unknown = append(m.Unknown, what+": "+err.Error())
		}
	}
	for _, name := range sorted(g.o.Stores) {
		if name == r.Module && !g.mine(r) {
			continue
		}
		note("store of "+name, g.count(ctx, name, r.Module, w, &m))
	}
	note("way through the broker", g.probe(ctx, r, w, &m))
	g.counted(r.Module, w, &m)
	slices.SortFunc(m.Waiting, func(a, b Waiting) int { return cmp.Or(a.Since.Compare(b.Since), cmp.Compare(a.What, b.What)) })
	slices.Sort(m.Unknown)
	return m
}

// mine says whether this process may read the module's store.
func (g *Guard) mine(r ownership.Record) bool {
	return g.o.Shared || r.Owner == ownership.Home && !r.Held()
}

// count looks at what waits and what has failed in one store, as far as the module has to do with it.
func (g *Guard) count(ctx context.Context, name, moved string, w *watch, m *Measures) error {
	db := g.o.Stores[name].Read(ctx)
	own := name == moved
	waits := func(what, sql string, args ...any) error {
		var at []time.Time
		if err := db.Raw(sql, args...).Scan(&at).Error; err != nil {
			return err
		}
		for _, t := range at {
			m.Waiting = append(m.Waiting, Waiting{What: what, Since: t, For: g.now().Sub(t).Round(time.Millisecond)})
		}
		return nil
	}
	var failed []error
	for _, d := range g.o.Modules {
		if own == (d.Name == moved) {
			continue // only the ways to the module and from it
		}
		// One at a time, and the oldest first: an outbox may be long.
		failed = append(failed, waits("message of "+name+" to "+d.Name, `SELECT o.created_at FROM delivery d JOIN outbox o ON o.id = d.outbox_id
			WHERE d.subscriber = ? AND o.created_at > ? ORDER BY d.outbox_id LIMIT 1`, d.Name, w.since))
	}
	of := moved + "/%" // keys of what the module has sent
	if own {
		of = "%"
	}
	failed = append(failed, waits("retry in "+name, "SELECT first_at FROM parked_key WHERE next_at IS NOT NULL AND first_at > ? AND key LIKE ? ORDER BY first_at LIMIT 1", w.since, of))
	if own {
		failed = append(failed, waits("timer or effect of "+name, "SELECT first_at FROM timers WHERE attempt > 0 AND first_at > ? ORDER BY first_at LIMIT 1", w.since))
	}
	var dead, before int
	elapsed := min(g.now().Sub(w.since), g.cfg.Watch)
	err := db.Raw("SELECT count(*) FROM dead_letters WHERE died_at > ? AND key LIKE ?", w.since, of).Row().Scan(&dead)
	if err == nil {
		err = db.Raw("SELECT count(*) FROM dead_letters WHERE died_at <= ? AND died_at > ? AND key LIKE ?", w.since, w.since.Add(-elapsed), of).Row().Scan(&before)
	}
	m.Dead.Now += float64(dead)
	m.Dead.Before += float64(before)
	return errors.Join(append(failed, err)...)
}

// probe sends markers the way of the module's messages, one at a time, and looks how long they take. A marker comes through when everything
// before it was handled. Ids grow with time, so that of several processes which do this each sees the markers of the others as well.
func (g *Guard) probe(ctx context.Context, r ownership.Record, w *watch, m *Measures) error {
	store := g.o.Stores[r.Module]
	if g.o.Probe == nil || store == nil || !g.o.Shared || r.Owner != ownership.Away || r.Step != ownership.Settled {
		w.marker = ""
		return nil
	}
	if w.marker != "" {
		var last []string
		if err := store.Read(ctx).Raw("SELECT id FROM barrier WHERE publisher = ?", publisher).Scan(&last).Error; err != nil {
			return err
		}
		if len(last) == 1 && last[0] >= w.marker {
			w.marker = ""
		} else {
			m.Waiting = append(m.Waiting, Waiting{What: "way through the broker to " + r.Module, Since: w.sent, For: g.now().Sub(w.sent).Round(time.Millisecond)})
		}
	}
	now := g.now()
	switch {
	case w.marker == "":
		w.marker, w.sent, w.confirmed = message.NewID(), now, false
	case w.confirmed && now.Sub(w.again) < sendAgain:
		return nil
	}
	w.again = now
	err := g.o.Probe(ctx, r.Module, publisher, w.marker)
	w.confirmed = err == nil
	return err
}

// sendAgain is after how long a marker is sent once more: somebody may have emptied the queue.
const sendAgain = 10 * time.Second

// The metrics that the guard looks at.
const (
	timersMetric = "banyan_timers_fired_total"
	askedMetric  = "banyan_requests_total"
)

// Metrics are those that the meter has to know.
func Metrics() []string { return []string{timersMetric, askedMetric} }

// counted takes what the process itself has counted: questions to the module that were not answered, and time-outs of those who send it
// commands. A timer of theirs that fires is an answer that did not come.
func (g *Guard) counted(moved string, w *watch, m *Measures) {
	if g.o.Meter == nil {
		return
	}
	at, err := g.o.Meter.Read()
	if err != nil {
		m.Unknown = append(m.Unknown, err.Error())
		return
	}
	since := meter.Between(w.at, at)
	as := since.Seconds()
	for _, d := range g.o.Modules {
		if !slices.ContainsFunc(d.Sends, func(name string) bool { return message.Module(name) == moved }) {
			continue
		}
		for _, timer := range d.Timers {
			m.TimeOuts.Now += since.Of(timersMetric, "module", d.Name, "timer", timer).Count
			m.TimeOuts.Before += w.before.PerSecond(w.before.Of(timersMetric, "module", d.Name, "timer", timer).Count) * as
		}
	}
	share := func(c meter.Change) (asked, failed float64) {
		asked = c.Of(askedMetric, "module", moved).Count
		for _, kind := range []errs.Kind{errs.Unavailable, errs.Timeout, errs.Internal, errs.OutcomeUnknown} {
			failed += c.Of(askedMetric, "module", moved, "outcome", string(kind)).Count
		}
		return asked, failed
	}
	var failed float64
	if m.Asked, failed = share(since); m.Asked > 0 {
		m.Failed.Now = failed / m.Asked
	}
	if asked, failed := share(w.before); asked > 0 {
		m.Failed.Before = failed / asked
	}
}

func sorted(stores map[string]*unit.Store) []string {
	return slices.Sorted(maps.Keys(stores))
}
