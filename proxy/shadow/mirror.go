package shadow

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// UnsafeHeader in an answer of the remote side says that the request tried to write.
const UnsafeHeader = "X-Banyan-Shadow-Unsafe"

// Side is one of the two that are compared.
type Side string

// The sides.
const (
	Local  Side = "local"
	Remote Side = "remote"
)

// Again asks a side the client's request once more, for nobody but the Mirror: on connections of its own, without a retry,
// and without an effect on cookies, caches, rate limits or health. It must end when ctx does, ask for no content encoding,
// and return at most one byte more of the body than Limits.MaxBody. It may be called from several goroutines, after the
// client was answered, so it must keep nothing that belongs to the server's request.
type Again func(ctx context.Context, side Side) (Answer, error)

// Options are what a Mirror is made of.
type Options struct {
	Module string
	Routes []string     // those that read; nothing else is mirrored
	Config Config       // may be that of several modules: what it says of other routes has no effect
	Log    *slog.Logger // nil for none
}

// Mirror compares the sides of one module. Its methods may be called from any goroutine.
type Mirror struct {
	module    string
	cfg       Config
	names     []string
	differs   map[string]*Differ // by route
	log       *slog.Logger
	random    func() float64 // in [0, 1)
	state     atomic.Pointer[state]
	queue     chan job
	held      atomic.Int64 // bytes
	comparing sync.Mutex
	closed    chan struct{}
	close     sync.Once
}

// job is an answer to compare.
type job struct {
	route *route
	name  string
	local Answer
	id    string // of the client's request
	again Again
	bytes int64
}

// New makes a Mirror that takes offers at once, and compares while it runs.
func New(o Options) (*Mirror, error) {
	m := &Mirror{
		module: o.Module, cfg: o.Config, names: slices.Clone(o.Routes), differs: map[string]*Differ{}, log: o.Log, random: rand.Float64,
		queue: make(chan job, o.Config.Limits.Queue), closed: make(chan struct{}),
	}
	if m.log == nil {
		m.log = slog.New(slog.DiscardHandler)
	}
	if err := o.Config.Validate("gateway.shadow"); err != nil {
		return nil, err
	}
	for _, name := range o.Routes {
		var rules []Rule
		for _, r := range o.Config.Compare {
			if r.Route == "" || r.Route == name {
				rules = append(rules, r)
			}
		}
		d, err := NewDiffer(rules, o.Config.Headers, o.Config.Limits.MaxBody)
		if err != nil {
			return nil, err
		}
		m.differs[name] = d
	}
	m.Reset()
	return m, nil
}

// Reset forgets all that was found, as for another version of the remote side. What is being compared counts no more.
func (m *Mirror) Reset() {
	s := &state{since: time.Now().UTC(), routes: make(map[string]*route, len(m.names))}
	for _, name := range m.names {
		s.routes[name] = &route{differ: m.differs[name], paths: map[string]*PathReport{}}
	}
	m.state.Store(s)
}

// Restore goes on from a report instead of from nothing. Routes that are no more are left out.
func (m *Mirror) Restore(r Report) {
	m.Reset()
	s := m.state.Load()
	fresh := &state{since: r.Since, routes: s.routes}
	for _, found := range r.Routes {
		if known := s.routes[found.Route]; known != nil {
			known.mu.Lock()
			known.restore(found)
			known.mu.Unlock()
		}
	}
	m.state.Store(fresh)
}

// Report is what was found since the last reset.
func (m *Mirror) Report() Report { return m.state.Load().report() }

// Judge is what the gate says to it.
func (m *Mirror) Judge() Judgement { return m.cfg.Gate.Judge(m.Report()) }

// MaxBody is the length up to which bodies are compared; what is offered holds one byte more at most.
func (m *Mirror) MaxBody() int { return m.cfg.Limits.MaxBody }

// Sample draws whether the answer to a request shall be offered. It is asked first, so that answers that are not need not
// be copied. It counts what is dropped because the queue is full.
func (m *Mirror) Sample(name string) bool {
	r := m.open(name)
	if r == nil || m.random()*100 >= m.cfg.Sample {
		return false
	}
	if len(m.queue) == cap(m.queue) {
		r.dropped.Add(1)
		return false
	}
	return true
}

// open is the route, if it is mirrored now.
func (m *Mirror) open(name string) *route {
	select {
	case <-m.closed:
		return nil
	default:
	}
	r := m.state.Load().routes[name]
	if r == nil || r.unsafe.Load() {
		return nil
	}
	return r
}

// Offer takes what the local side has answered to a client, and asks the remote side later. It never waits; without room
// the answer is dropped. Nobody may change the body afterwards; the headers that matter are copied.
func (m *Mirror) Offer(name string, local Answer, again Again) {
	r := m.open(name)
	if r == nil {
		return
	}
	if len(local.Body) > m.cfg.Limits.MaxBody {
		r.tooLarge.Add(1)
		return
	}
	j := job{route: r, name: name, id: cut(local.Header.Get("X-Request-Id"), shown), again: again}
	j.local = Answer{Status: local.Status, Header: make(http.Header, len(r.differ.headers)+1), Body: local.Body}
	j.bytes = int64(cap(local.Body)) + overhead
	keep := func(h string) {
		if lines := local.Header[h]; len(lines) > 0 {
			j.local.Header[h] = slices.Clone(lines)
			for _, l := range lines {
				j.bytes += int64(len(l))
			}
		}
	}
	keep("Content-Type")
	for _, h := range r.differ.headers {
		if h != "Content-Type" {
			keep(h)
		}
	}
	if m.held.Add(j.bytes) > m.cfg.Limits.Bytes {
		m.held.Add(-j.bytes)
		r.dropped.Add(1)
		return
	}
	select {
	case m.queue <- j:
	default:
		m.held.Add(-j.bytes)
		r.dropped.Add(1)
	}
}

// overhead is about what an answer in the queue takes beside its text.
const overhead = 1024

// Close takes no more offers and lets Run end. What is queued or on its way is given up.
func (m *Mirror) Close() { m.close.Do(func() { close(m.closed) }) }

// Run compares until ctx ends or the Mirror is closed, and closes it. It is called once.
func (m *Mirror) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var work sync.WaitGroup
	for range m.cfg.Limits.Concurrency {
		work.Go(func() {
			for {
				select {
				case <-ctx.Done():
					return
				case j := <-m.queue:
					m.handle(ctx, j)
				}
			}
		})
	}
	select {
	case <-ctx.Done():
	case <-m.closed:
	}
	m.Close()
	cancel()
	work.Wait()
	for {
		select {
		case j := <-m.queue:
			m.held.Add(-j.bytes)
		default:
			return nil
		}
	}
}

// handle compares one answer. A bug in what it calls must not end the process, which serves clients.
func (m *Mirror) handle(ctx context.Context, j job) {
	defer m.held.Add(-j.bytes)
	defer func() {
		if p := recover(); p != nil {
			m.log.Error("shadow comparison panicked", "module", m.module, "route", j.name, "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
			j.count(func(c *RouteReport) { c.Failed++ })
		}
	}()
	if j.route.unsafe.Load() || ctx.Err() != nil {
		return
	}
	found, outcome := m.first(ctx, j)
	if outcome == doubtful {
		if outcome = m.wait(ctx, m.cfg.ConfirmAfter); outcome == doubtful {
			outcome = m.second(ctx, j, found)
		}
	}
	if outcome == failed {
		j.count(func(c *RouteReport) { c.Failed++ })
	}
}

// outcome is how far a comparison has come.
type outcome int

const (
	done     outcome = iota
	doubtful         // there are differences to look at once more
	failed           // a side has not answered
	stopped          // nothing to count: the Mirror is closed, or the route is no longer mirrored
)

func (j job) count(what func(*RouteReport)) {
	j.route.mu.Lock()
	defer j.route.mu.Unlock()
	what(&j.route.counts)
}

// ask asks one side.
func (m *Mirror) ask(ctx context.Context, j job, side Side) (Answer, outcome) {
	limited, cancel := context.WithTimeout(ctx, m.cfg.Limits.Timeout)
	defer cancel()
	a, err := j.again(limited, side)
	switch {
	case ctx.Err() != nil:
		return a, stopped
	case err != nil || a.Status == 0:
		return a, failed
	case side == Remote && a.Header.Get(UnsafeHeader) != "":
		if !j.route.unsafe.Swap(true) {
			m.log.Warn("route is not shadow-safe: it tried to write when it was asked to read", "module", m.module, "route", j.name)
		}
		return a, stopped
	case side == Remote && a.Status != j.local.Status && unavailable(a.Status):
		return a, failed
	}
	return a, done
}

// unavailable says whether an answer is none: it comes from somebody on the way, or from a side that starts or stops.
func unavailable(status int) bool {
	return status == http.StatusBadGateway || status == http.StatusServiceUnavailable || status == http.StatusGatewayTimeout
}

// diff compares two answers. One comparison at a time bounds the memory. After a long one comes a longer rest, so that
// whatever the remote side answers, the processors belong to the clients.
func (m *Mirror) diff(ctx context.Context, j job, a, b Answer) []Difference {
	m.comparing.Lock()
	defer m.comparing.Unlock()
	began := time.Now()
	found := j.route.differ.Diff(a, b)
	if took := time.Since(began); took > long {
		m.wait(ctx, rest*took)
	}
	return found
}

const (
	long = 2 * time.Millisecond
	rest = 4
)

// first asks the remote side, and local for control after it: what has changed while remote was asked is noise then.
func (m *Mirror) first(ctx context.Context, j job) ([]Difference, outcome) {
	r := j.route
	r.mu.Lock()
	control := r.counts.Controls < int64(m.cfg.Learn) || m.random()*100 < m.cfg.ControlSample
	r.mu.Unlock()
	remote, o := m.ask(ctx, j, Remote)
	if o != done {
		return nil, o
	}
	var own []Difference
	if control {
		local, o := m.ask(ctx, j, Local)
		if o != done {
			return nil, o
		}
		own = m.diff(ctx, j, j.local, local)
	}
	found := m.diff(ctx, j, j.local, remote)

	r.mu.Lock()
	defer r.mu.Unlock()
	learning := r.counts.Controls < int64(m.cfg.Learn)
	if control {
		r.learn(own)
	}
	if learning {
		r.counts.Learned++
		return nil, done
	}
	if len(found) == 0 {
		r.counts.Equal++
		return nil, done
	}
	found = slices.DeleteFunc(found, func(d Difference) bool {
		if !contains(own, d.Path) && !r.noisy(d.Path) {
			return false
		}
		r.path(d.Path).Noise++
		return true
	})
	if len(found) == 0 {
		r.counts.Noise++
		return nil, done
	}
	return found, doubtful
}

func (m *Mirror) wait(ctx context.Context, d time.Duration) outcome {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return stopped
	case <-t.C:
		return doubtful
	}
}

// second asks both sides again, and local for control, and says what the differences were.
func (m *Mirror) second(ctx context.Context, j job, first []Difference) outcome {
	var answers [3]Answer
	for i, side := range [3]Side{Local, Remote, Local} {
		var o outcome
		if answers[i], o = m.ask(ctx, j, side); o != done {
			return o
		}
	}
	now := m.diff(ctx, j, answers[0], answers[1])
	own := m.diff(ctx, j, answers[0], answers[2])
	changed := m.diff(ctx, j, j.local, answers[0])

	r := j.route
	r.mu.Lock()
	defer r.mu.Unlock()
	var mismatch []Difference
	var noise []string
	for _, d := range now {
		switch {
		case !contains(first, d.Path):
		case contains(own, d.Path) || contains(changed, d.Path) || r.noisy(d.Path):
			noise = append(noise, d.Path)
		default:
			mismatch = append(mismatch, d)
		}
	}
	switch {
	case len(mismatch) > 0:
		r.counts.Mismatch++
		for _, d := range mismatch {
			r.path(d.Path).Mismatch++
		}
		r.sample(Sample{time.Now().UTC(), Mismatch, j.id, mismatch})
	case len(noise) > 0:
		r.counts.Noise++
		for _, p := range noise {
			r.path(p).Noise++
		}
	case first[0].Path == "status" && first[0].Remote[0] == '5':
		// No state that a side could lag behind with is an error of the server.
		return failed
	default:
		r.counts.Skew++
		for _, d := range first {
			r.path(d.Path).Skew++
		}
		if slices.ContainsFunc(first, func(d Difference) bool { return !contains(changed, d.Path) }) {
			r.counts.Unexplained++
		}
		r.sample(Sample{time.Now().UTC(), Skew, j.id, first})
	}
	return done
}

func contains(list []Difference, path string) bool {
	return slices.ContainsFunc(list, func(d Difference) bool { return d.Path == path })
}
