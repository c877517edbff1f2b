package upstream

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/banyan-go/banyan/internal/clock"
)

// Why nothing was sent. Result.Err is one of them, or wraps what the network says.
var (
	ErrSaturated  = errors.New("upstream: too many requests are in flight")
	ErrOpen       = errors.New("upstream: the breaker is open")
	ErrDraining   = errors.New("upstream: is drained")
	ErrNoEndpoint = errors.New("upstream: there is no endpoint to send to")
)

// ErrImpatient is the cause of a request's end, where whoever bounds its time says that the client itself has: nobody who is sent such
// requests is to blame for their end.
var ErrImpatient = fmt.Errorf("upstream: the client waits no longer: %w", context.DeadlineExceeded)

// Impatient says whether the time is up that the client has given. The clock knows before the context does.
func Impatient(ctx context.Context) bool {
	if until, limited := ctx.Deadline(); !limited || time.Now().Before(until) {
		return false
	}
	<-ctx.Done()
	return errors.Is(context.Cause(ctx), ErrImpatient)
}

// What a client does wrong: the failure is ClientAbort, and nothing was sent.
var (
	ErrHandshake      = errors.New("upstream: this is no WebSocket handshake")
	ErrHeaderTooLarge = errors.New("upstream: the header of the request is too large")
)

// Options are what an upstream works with.
type Options struct {
	Name   string // the module; in logs and metrics
	Source Source // finds the endpoints; nil takes those of the configuration
	// TLS is for endpoints that speak it. GetClientCertificate and Roots are asked for each connection, so that
	// certificates can be rotated.
	TLS      *tls.Config
	Roots    func() *x509.CertPool // who is believed; nil is TLS.RootCAs
	PeerName string                // the URI or DNS name in the endpoints' certificates; "" checks that they are for their host
	Clock    clock.Clock
	Log      *slog.Logger
	Registry prometheus.Registerer // nil measures nothing
	Dial     func(ctx context.Context, network, addr string) (net.Conn, error)
	// StreamBytes is how much of an answer over h2 may come before somebody takes it; 0 is 256 KiB. Whoever wants only the
	// beginning of an answer lets less come.
	StreamBytes int
}

// Upstream is the process of a module, with one or more endpoints.
type Upstream struct {
	name     string
	cfg      Config
	source   Source
	secure   bool // of endpoints that are discovered
	tls      *tls.Config
	roots    func() *x509.CertPool
	peer     string
	clock    clock.Clock
	log      *slog.Logger
	dial     func(ctx context.Context, network, addr string) (net.Conn, error)
	ahead    int
	metrics  *metrics
	breaker  *breaker
	budget   *budget
	bulkhead *bulkhead
	choice   atomic.Pointer[choice]
	cursor   atomic.Uint64

	mu        sync.Mutex
	endpoints []*endpoint
	leaving   []*endpoint // no longer endpoints, with requests in flight
	found     bool        // the source has answered
	ended     bool        // drained or closed: no endpoint comes any more
	checks    context.Context
	checked   bool // no check begins any more
	checking  sync.WaitGroup
}

// New makes an upstream. An endpoint that is down is no error; one that makes no sense is.
func New(cfg Config, o Options) (*Upstream, error) {
	if err := cfg.Validate(o.Name); err != nil {
		return nil, fmt.Errorf("upstream: %w", err)
	}
	u := &Upstream{
		name: o.Name, cfg: cfg, source: o.Source, secure: cfg.Protocol == H2 || cfg.Protocol == H1 && cfg.Transport == Standard && o.TLS != nil,
		tls: o.TLS, roots: o.Roots, peer: o.PeerName, clock: o.Clock, log: o.Log, dial: o.Dial, budget: newBudget(cfg.Retry),
		ahead: o.StreamBytes,
	}
	if u.source == nil && len(cfg.Endpoints) == 0 {
		return nil, fmt.Errorf("upstream: %s.endpoints: is empty, and nothing discovers them", o.Name)
	}
	if o.TLS != nil && o.TLS.InsecureSkipVerify && o.PeerName == "" {
		return nil, fmt.Errorf("upstream %s: TLS that verifies nobody needs the name of the peer", o.Name)
	}
	if u.clock == nil {
		u.clock = clock.System{}
	}
	if u.log == nil {
		u.log = slog.New(slog.DiscardHandler)
	}
	u.log = u.log.With(slog.String("upstream", u.name))
	if u.ahead <= 0 {
		u.ahead = streamBytes
	}
	if u.dial == nil {
		u.dial = (&net.Dialer{KeepAlive: 15 * time.Second}).DialContext
	}
	var err error
	if u.metrics, err = newMetrics(o.Registry, o.Name); err != nil {
		return nil, err
	}
	u.breaker = &breaker{cfg: cfg.Breaker, changed: func(s state) {
		u.metrics.breaker.Set(float64(s))
		u.log.Warn("breaker", slog.String("state", s.String()))
	}}
	u.bulkhead = newBulkhead(cfg.Bulkhead, u.clock)
	if u.source == nil {
		list := make([]address, len(cfg.Endpoints))
		for i, raw := range cfg.Endpoints {
			if list[i], err = parseEndpoint(raw, cfg.Protocol); err != nil {
				return nil, err
			}
		}
		u.replace(list)
	} else {
		u.choice.Store(&choice{})
	}
	return u, nil
}

// Run checks the endpoints' health and follows the source, until ctx ends.
func (u *Upstream) Run(ctx context.Context) error {
	u.mu.Lock()
	if u.checks != nil {
		u.mu.Unlock()
		return fmt.Errorf("upstream %s: runs already", u.name)
	}
	u.checks = ctx
	for _, e := range u.endpoints {
		u.check(e)
	}
	u.mu.Unlock()
	if u.source != nil {
		u.follow(ctx)
	}
	<-ctx.Done()
	u.mu.Lock()
	u.checked = true
	u.mu.Unlock()
	u.checking.Wait()
	return nil
}

// follow watches the source; if it gives up it is asked again.
func (u *Upstream) follow(ctx context.Context) {
	for pause := time.Second; ctx.Err() == nil; pause = min(2*pause, 30*time.Second) {
		err := u.source.Watch(ctx, u.update)
		if ctx.Err() != nil {
			return
		}
		u.log.Warn("discovery has ended and is started again", slog.Any("error", err), slog.Duration("in", pause))
		select {
		case <-ctx.Done():
		case <-u.clock.At(u.clock.Now().Add(pause)):
		}
	}
}

// update takes what the source has found.
func (u *Upstream) update(found []Endpoint) {
	list := make([]address, 0, len(found))
	for _, f := range found {
		if err := checkAddr(f.Addr); err != nil {
			u.log.Warn("discovery has found what is no endpoint", slog.Any("error", err))
			continue
		}
		if !slices.ContainsFunc(list, func(a address) bool { return a.addr == f.Addr }) {
			list = append(list, address{addr: f.Addr, secure: u.secure, weight: f.Weight})
		}
	}
	u.replace(list)
}

// replace makes list the endpoints. Those that stay keep what is known of them; those that go end what they have.
func (u *Upstream) replace(list []address) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.found = true
	if u.ended {
		return
	}
	gone := u.endpoints
	now := make([]*endpoint, len(list))
	for i, a := range list {
		at := slices.IndexFunc(gone, func(e *endpoint) bool { return e.addr == a.addr })
		if at >= 0 {
			now[i] = gone[at]
			now[i].weight.Store(int64(max(a.weight, 1)))
			gone = slices.Delete(slices.Clone(gone), at, at+1)
			continue
		}
		now[i] = u.newEndpoint(a.addr, a.secure, a.weight)
		if u.checks != nil {
			u.check(now[i])
		}
	}
	u.endpoints = now
	u.refreshLocked()
	u.leave(gone)
}

// leave lets endpoints go. The lock is held.
func (u *Upstream) leave(gone []*endpoint) {
	for _, e := range gone {
		u.leaving = append(u.leaving, e)
		e.retire()
		e.closeIdle()
	}
	u.sweep()
}

// sweep forgets the endpoints that have ended all they had. The lock is held.
func (u *Upstream) sweep() {
	u.leaving = slices.DeleteFunc(u.leaving, func(e *endpoint) bool {
		if e.load() > 0 {
			return false
		}
		e.closeIdle()
		return true
	})
}

// swept is for when an endpoint that goes has ended the last it had.
func (u *Upstream) swept() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.sweep()
}

// refresh works out anew who may be sent to.
func (u *Upstream) refresh() *choice {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.refreshLocked()
}

func (u *Upstream) refreshLocked() *choice {
	c := u.choose(u.clock.Now())
	u.choice.Store(c)
	u.metrics.endpoints.Set(float64(len(u.endpoints)))
	u.metrics.usable.Set(float64(c.well))
	return c
}

// Ready says why nothing should be sent, or nil. With health checks on, one of them must have succeeded.
func (u *Upstream) Ready() error {
	now := u.clock.Now()
	if _, _, _, closed := u.bulkhead.count(); closed {
		return ErrDraining
	}
	if u.breaker.at(now) == open {
		return ErrOpen
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if !u.found {
		return fmt.Errorf("%w: discovery has not answered yet", ErrNoEndpoint)
	}
	fault := "there are none"
	for _, e := range u.endpoints {
		switch {
		case u.cfg.Health.Active.Path != "" && !e.checked:
			fault = e.addr + " was not checked yet"
		case !e.well:
			fault = e.addr + ": " + e.fault
		case now.Before(e.out):
			fault = e.addr + " has failed too often"
		default:
			return nil
		}
	}
	return fmt.Errorf("%w: %s", ErrNoEndpoint, fault)
}

// Status is what people and tools are told.
type Status struct {
	Name      string           `json:"name"`
	Protocol  string           `json:"protocol"`
	Ready     bool             `json:"ready"`
	Reason    string           `json:"reason,omitempty"` // why it is not ready
	Draining  bool             `json:"draining"`
	Breaker   string           `json:"breaker"` // closed, half_open or open
	InFlight  int              `json:"in_flight"`
	Streams   int              `json:"streams"`
	Queued    int              `json:"queued"`
	All       bool             `json:"all"` // too many endpoints are unwell, so all are used
	Endpoints []EndpointStatus `json:"endpoints"`
}

// EndpointStatus is one endpoint's.
type EndpointStatus struct {
	Addr     string    `json:"addr"`
	Weight   int       `json:"weight"`
	Checked  bool      `json:"checked"` // a health check has been answered, or not
	Well     bool      `json:"well"`
	Fault    string    `json:"fault,omitempty"`
	OutUntil time.Time `json:"out_until,omitzero"` // left out because requests failed
	InFlight int       `json:"in_flight"`
	Streams  int       `json:"streams"`
	Conns    int       `json:"conns"`
	Leaving  bool      `json:"leaving"` // takes no more, and ends what it has
}

// Trust forgets failures of before: requests are sent again after a time in which nobody was, to processes that may be others.
func (u *Upstream) Trust() { u.breaker.forget() }

// Status tells how the upstream is.
func (u *Upstream) Status() Status {
	now := u.clock.Now()
	s := Status{Name: u.name, Protocol: u.cfg.Protocol, Breaker: u.breaker.at(now).String(), Endpoints: []EndpointStatus{}}
	if err := u.Ready(); err != nil {
		s.Reason = err.Error()
	}
	s.Ready = s.Reason == ""
	s.InFlight, s.Streams, s.Queued, s.Draining = u.bulkhead.count()
	u.mu.Lock()
	defer u.mu.Unlock()
	s.All = u.choose(now).all
	for i, e := range slices.Concat(u.endpoints, u.leaving) {
		e.mu.Lock()
		conns := len(e.conns)
		e.mu.Unlock()
		found := EndpointStatus{
			Addr: e.addr, Weight: int(e.weight.Load()), Checked: e.checked, Well: e.well, Fault: e.fault, InFlight: int(e.inFlight.Load()),
			Streams: int(e.streams.Load()), Conns: conns, Leaving: i >= len(u.endpoints),
		}
		if now.Before(e.out) {
			found.OutUntil = e.out
		}
		s.Endpoints = append(s.Endpoints, found)
	}
	return s
}

// Drain takes no more, waits for what is in flight, and tells streams and WebSockets to come back: not all at once. What
// is left when the time is up is cut, and told in the error.
func (u *Upstream) Drain(ctx context.Context) error {
	u.bulkhead.close()
	u.mu.Lock()
	u.ended = true
	gone := u.endpoints
	u.endpoints = nil
	u.refreshLocked()
	u.leave(gone)
	u.mu.Unlock()

	requests, cancel := context.WithTimeout(ctx, u.cfg.Drain.Requests)
	defer cancel()
	streams, cancel := context.WithTimeout(ctx, u.cfg.Drain.Streams)
	defer cancel()
	left := u.bulkhead.wait(requests, false)
	left += u.bulkhead.wait(streams, true)
	u.sever()
	if left > 0 {
		return fmt.Errorf("upstream %s: %d requests or streams had not ended and were cut", u.name, left)
	}
	return nil
}

func (u *Upstream) sever() {
	u.mu.Lock()
	leaving := slices.Clone(u.leaving)
	u.sweep()
	u.mu.Unlock()
	for _, e := range leaving {
		e.closeIdle()
		e.sever()
	}
}

// Close cuts whatever is left. Drain first, to let it end.
func (u *Upstream) Close() error {
	u.bulkhead.close()
	u.mu.Lock()
	u.ended = true
	gone := u.endpoints
	u.endpoints = nil
	u.refreshLocked()
	for _, e := range gone {
		u.leaving = append(u.leaving, e)
		e.retire()
	}
	u.mu.Unlock()
	u.sever()
	return nil
}

// jitter is a random time within what the configuration allows.
func (u *Upstream) jitter() time.Duration {
	if u.cfg.Drain.Jitter <= 0 {
		return 0
	}
	return rand.N(u.cfg.Drain.Jitter)
}
