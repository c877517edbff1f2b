// Package rehearsal lets a module behave as if it were in another process while it is still in this one: what crosses its boundary takes
// longer, and now and then is lost, and it is measured what becomes of that.
//
// What is lost is what the platform gets over, or has to: a message is sent again, a question fails as one whose connection breaks, a
// request is lost only if the gateway may send it again. A rehearsal is of this process alone and ends by itself; nothing of it is written
// down, so that none survives a restart.
package rehearsal

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/banyan-go/banyan/internal/bus"
	"github.com/banyan-go/banyan/internal/errs"
	"github.com/banyan-go/banyan/internal/meter"
)

// Settings say how the way between the processes is.
type Settings struct {
	Latency time.Duration `json:"latency"` // there and back
	Errors  float64       `json:"errors"`  // share of what is lost on the way
	For     time.Duration `json:"for"`
}

// MaxFor is how long a rehearsal may last.
const MaxFor = 15 * time.Minute

// Check names what is wrong with the settings.
func (s Settings) Check() error {
	switch {
	case s.Latency < 0 || s.Latency > 5*time.Second:
		return errs.New(errs.Invalid, "a latency of %s is not between 0s and 5s", s.Latency).With("body.latency", "give a duration from 0s to 5s")
	case !(s.Errors >= 0 && s.Errors <= 0.5):
		return errs.New(errs.Invalid, "errors of %v are not a share between 0 and 0.5", s.Errors).With("body.errors", "give a share from 0 to 0.5")
	case s.Latency == 0 && s.Errors == 0:
		return errs.New(errs.Invalid, "without latency and errors there is nothing to rehearse").With("body.latency", "give a latency, or errors")
	case s.For < time.Second || s.For > MaxFor:
		return errs.New(errs.Invalid, "%s is not between 1s and %s", s.For, MaxFor).With("body.for", "give a duration from 1s to 15m")
	}
	return nil
}

// Options are what rehearsals work with.
type Options struct {
	Modules  []string
	Bus      interface{ SetBoundary(bus.Boundary) }
	Local    func(module string) bool // its requests and messages are handled in this process
	Meter    *meter.Meter             // of Metrics
	Registry prometheus.Registerer    // nil measures nothing
	Log      *slog.Logger
}

// Rehearsals are those of a process, one at a time. They are the boundary between its modules, and the hop before their routes.
type Rehearsals struct {
	o       Options
	metric  *prometheus.GaugeVec
	running atomic.Pointer[rehearsal]
	roll    func() float64

	mu   sync.Mutex // of starts and ends
	last *rehearsal
}

type rehearsal struct {
	module         string
	settings       Settings
	began, until   time.Time
	before         meter.Change
	at             meter.Reading
	timer          *time.Timer
	ended          *ending // guarded by Rehearsals.mu
	crossed, lost  atomic.Int64
	requests, hops atomic.Int64
}

type ending struct {
	at     time.Time
	why    string
	change meter.Change
}

// New is a process without a rehearsal.
func New(o Options) *Rehearsals {
	r := &Rehearsals{o: o, roll: rand.Float64}
	if o.Log == nil {
		r.o.Log = slog.New(slog.DiscardHandler)
	}
	r.metric = prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "banyan_rehearsal", Help: "1 while a module behaves as if it were in another process (banyan placement rehearse).",
	}, []string{"module"})
	if o.Registry != nil {
		o.Registry.MustRegister(r.metric)
	}
	return r
}

// Running is the module that is rehearsed; "" for none.
func (r *Rehearsals) Running() string {
	if now := r.running.Load(); now != nil {
		return now.module
	}
	return ""
}

// Start begins a rehearsal.
func (r *Rehearsals) Start(module string, s Settings) error {
	if !slices.Contains(r.o.Modules, module) {
		return errs.New(errs.NotFound, "there is no module %q, only %v", module, r.o.Modules)
	}
	if err := s.Check(); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if now := r.running.Load(); now != nil {
		return errs.New(errs.Conflict, "%s is being rehearsed until %s; wait for it, or end it with Ctrl-C where it was begun", now.module, now.until.Format(time.TimeOnly))
	}
	if !r.o.Local(module) {
		return errs.New(errs.Conflict, "%s does not run in this process; there is nothing to rehearse (banyan placement status)", module)
	}
	at, err := r.o.Meter.Read()
	if err != nil {
		return err
	}
	n := &rehearsal{module: module, settings: s, began: at.At, until: at.At.Add(s.For), at: at, before: meter.Between(r.o.Meter.Lately(compared), at)}
	n.timer = time.AfterFunc(s.For, func() { r.end(n, "its time was over") })
	r.last = n
	r.running.Store(n)
	r.o.Bus.SetBoundary(r)
	r.metric.WithLabelValues(module).Set(1)
	r.o.Log.Warn("rehearsal begins: a module behaves as if it were in another process", "module", module, "latency", s.Latency, "errors", s.Errors, "for", s.For)
	return nil
}

// compared is how long before a rehearsal is looked at.
const compared = 5 * time.Minute

// Stop ends the rehearsal of a module, if there is one.
func (r *Rehearsals) Stop(module string) error {
	now := r.running.Load()
	if now == nil || now.module != module {
		return errs.New(errs.NotFound, "%s is not being rehearsed", module)
	}
	r.end(now, "somebody ended it")
	return nil
}

func (r *Rehearsals) end(n *rehearsal, why string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.running.CompareAndSwap(n, nil) {
		return
	}
	n.timer.Stop()
	r.o.Bus.SetBoundary(nil)
	r.metric.DeleteLabelValues(n.module)
	n.ended = &ending{at: time.Now(), why: why}
	if at, err := r.o.Meter.Read(); err == nil {
		n.ended.change = meter.Between(n.at, at)
	}
	r.o.Log.Warn("rehearsal has ended", "module", n.module, "why", why)
}

// active is the rehearsal that concerns one of two modules. One whose module has left the process is over.
func (r *Rehearsals) active(a, b string) *rehearsal {
	n := r.running.Load()
	if n == nil || n.module != a && n.module != b {
		return nil
	}
	if !r.o.Local(n.module) {
		r.end(n, "the module has left the process")
		return nil
	}
	return n
}

// Cross delays a message or a question, and loses some: half of them on the way there, half on the way back.
func (r *Rehearsals) Cross(ctx context.Context, c bus.Crossing, pass func() error) error {
	n := r.active(c.From, c.To)
	if n == nil {
		return pass()
	}
	n.crossed.Add(1)
	if err := wait(ctx, n.settings.Latency); err != nil {
		return err
	}
	roll := r.roll()
	switch {
	case roll >= n.settings.Errors:
		return pass()
	case roll < n.settings.Errors/2:
		n.lost.Add(1)
		return errs.New(errs.Unavailable, "rehearsal: the connection was lost before %s arrived", c.Name)
	}
	n.lost.Add(1)
	if err := pass(); err != nil {
		return err
	}
	return errs.New(errs.Unavailable, "rehearsal: the connection was lost before the answer to %s came", c.Name)
}

// Hop is the way of a request from the gateway to its module. An error is a connection that broke before the module had the request.
func (r *Rehearsals) Hop(ctx context.Context, module string, losable bool) error {
	n := r.active(module, module)
	if n == nil {
		return nil
	}
	n.requests.Add(1)
	if err := wait(ctx, n.settings.Latency); err != nil {
		return err
	}
	if losable && r.roll() < n.settings.Errors {
		n.hops.Add(1)
		return errs.New(errs.Unavailable, "rehearsal: the connection was lost")
	}
	return nil
}

func wait(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// State is what /readyz tells of a rehearsal.
type State struct {
	Module  string        `json:"module"`
	Latency time.Duration `json:"latency"`
	Errors  float64       `json:"errors"`
	Until   time.Time     `json:"until"`
}

// State is that of the rehearsal that is running; false if there is none.
func (r *Rehearsals) State() (State, bool) {
	n := r.running.Load()
	if n == nil {
		return State{}, false
	}
	return State{n.module, n.settings.Latency, n.settings.Errors, n.until}, true
}

// String is the settings for people.
func (s Settings) String() string {
	return fmt.Sprintf("%s, %.3g %% lost, for %s", s.Latency, 100*s.Errors, s.For)
}
