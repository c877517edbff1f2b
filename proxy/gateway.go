package proxy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace"

	"github.com/banyan-go/banyan/internal/assertion"
	"github.com/banyan-go/banyan/internal/certs"
	"github.com/banyan-go/banyan/internal/clock"
	"github.com/banyan-go/banyan/internal/errs"
	"github.com/banyan-go/banyan/internal/identity"
	"github.com/banyan-go/banyan/internal/module"
	"github.com/banyan-go/banyan/internal/rest"
	"github.com/banyan-go/banyan/internal/telemetry"
	"github.com/banyan-go/banyan/internal/token"
	"github.com/banyan-go/banyan/proxy/aggregate"
	"github.com/banyan-go/banyan/proxy/cache"
	"github.com/banyan-go/banyan/proxy/compress"
	"github.com/banyan-go/banyan/proxy/gate"
	"github.com/banyan-go/banyan/proxy/transform"
	"github.com/banyan-go/banyan/proxy/upstream"
)

// Options are what the gateway works with.
type Options struct {
	Modules     []module.Descriptor
	Local       http.Handler        // answers for the modules of this process
	Verifier    Verifier            // nil believes no token
	Revocations token.Revocations   // nil revokes none
	Placements  Placements          // nil: every module is local
	Endpoints   map[string][]string // where the second process of a module is: addresses, or one URL for discovery
	// Registered finds the processes of a module that have no configured endpoints: those that have said that they serve it. nil: there
	// are none.
	Registered func(module string) upstream.Source
	Signer     *assertion.Signer // tells other processes who asks; nil if there are none
	Identity   *certs.Identity   // for mTLS with our own processes; nil speaks plain h2c
	Budgets    Budgets           // rate limits of all replicas together; nil keeps them in this process
	Keys       func() []byte     // JWKS of our tokens and assertions; nil shows none
	// Ready says whether a module can work, and what to tell about it; "" asks for all of the process. nil is always ready.
	Ready func(ctx context.Context, module string) (ready bool, body any)
	// Hop is the way to the modules of this process, which a rehearsal makes as long, and as bad, as one to another process. nil is none.
	Hop Hop
	// Extra are handlers beside the modules, by path: "/docs" answers for all below it too, "/" for itself alone.
	Extra map[string]http.Handler
	// Reports keep what comparisons have found; nil keeps nothing beyond this process.
	Reports  Reports
	Clock    clock.Clock
	Log      *slog.Logger
	Tracer   trace.Tracer          // nil makes no spans
	Registry prometheus.Registerer // nil measures nothing
}

// Gateway is the front door.
type Gateway struct {
	cfg           Config
	log           *slog.Logger
	clock         clock.Clock
	tracer        trace.Tracer
	trusted       []netip.Prefix
	hosts         map[string]bool
	verifier      Verifier
	revocations   token.Revocations
	tokens        *tokens
	visitors      *tokens // verified cookies
	customers     *limiter
	anonymous     *limiter
	verifications *limiter
	limits        map[string]*limiter
	streams       streams
	sharing       *sharing // nil: this process is alone
	ready         func(ctx context.Context, module string) (bool, any)
	hop           Hop
	descriptors   []module.Descriptor
	modules       map[string]bool
	local         http.Handler
	extra         []extra
	signer        *assertion.Signer
	cache         *cache.Cache
	compressor    *compress.Compressor
	rules         *transform.Table
	aggregates    *aggregate.Server
	placements    Placements
	remotes       map[string]*remote // by module or foreign upstream
	doors         map[string]*door   // by module
	reports       Reports
	metrics       *metrics
	probes        map[string]*probe // by module; "" is the process

	applying sync.Mutex
	changed  chan struct{}            // is closed when another table is in force; guarded by applying
	progress map[string]gate.Progress // of the modules that move by themselves; guarded by applying
	homing   map[string]*homing       // by module; guarded by applying
	homed    chan struct{}            // there is another one
	gates    *gate.Controller
	table    atomic.Pointer[table]

	draining atomic.Bool
	drain    context.Context // ends when draining starts; streams live by it
	endDrain context.CancelFunc
}

// extra is a handler beside the modules.
type extra struct {
	path  string
	route *route // for logs and metrics
}

// New makes the gateway of a process.
func New(cfg Config, o Options) (*Gateway, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	trusted, err := networks(cfg.TrustedProxies)
	if err != nil {
		return nil, err
	}
	if o.Local == nil {
		return nil, errors.New("proxy: there is nobody to answer for the modules")
	}
	g := &Gateway{
		cfg: cfg, log: o.Log, clock: o.Clock, tracer: o.Tracer, trusted: trusted, hosts: map[string]bool{}, verifier: o.Verifier,
		revocations: o.Revocations, tokens: newTokens(cachedTokens), visitors: newTokens(cachedTokens), ready: o.Ready, hop: o.Hop, modules: map[string]bool{}, probes: map[string]*probe{"": {}},
		descriptors: o.Modules, local: o.Local, signer: o.Signer, placements: o.Placements, reports: o.Reports, remotes: map[string]*remote{},
		progress: map[string]gate.Progress{}, homing: map[string]*homing{}, homed: make(chan struct{}, 1),
		streams: streams{most: cfg.Limits.StreamsPerClient, open: map[string]int{}}, doors: map[string]*door{}, changed: make(chan struct{}),
	}
	if g.log == nil {
		g.log = slog.New(slog.DiscardHandler)
	}
	if g.clock == nil {
		g.clock = clock.System{}
	}
	if g.placements == nil {
		g.placements = NewFixed()
	}
	for _, h := range cfg.Hosts {
		g.hosts[h] = true
	}
	for _, m := range o.Modules {
		g.modules[m.Name], g.probes[m.Name] = true, &probe{}
	}
	if g.metrics, err = newMetrics(o.Registry); err != nil {
		return nil, err
	}
	for _, m := range o.Modules {
		waiting := g.metrics.waiting.WithLabelValues(m.Name)
		g.doors[m.Name] = newDoor(func(n int) { waiting.Set(float64(n)) })
	}
	if g.gates, err = gate.NewController(cfg.Gates); err != nil {
		return nil, err
	}
	if err := g.openLimits(o); err != nil {
		return nil, err
	}
	if err := g.openParts(o); err != nil {
		return nil, err
	}
	if err := g.openRemotes(o); err != nil {
		return nil, err
	}
	if err := g.Apply(g.placements.Current()); err != nil {
		return nil, err
	}
	if err := g.checkAggregates(); err != nil {
		return nil, err
	}
	if o.Registry != nil {
		if err := o.Registry.Register(verdicts{g}); err != nil {
			return nil, err
		}
	}
	if o.Keys != nil {
		extras := map[string]http.Handler{"/.well-known/jwks.json": token.JWKSHandler(o.Keys)}
		maps.Copy(extras, o.Extra)
		o.Extra = extras
	}
	for path, h := range o.Extra {
		if h == nil || !strings.HasPrefix(path, "/") || path != "/" && strings.HasSuffix(path, "/") || path == "/api" || strings.HasPrefix(path, "/api/") {
			return nil, fmt.Errorf("proxy: %q cannot be the path of a handler beside the modules", path)
		}
		r := &route{Route: module.Route{ID: path, Path: path, Class: module.Read}, target: &target{placement: Placement{State: Local}, local: h}, maxBody: cfg.Limits.BodyBytes}
		g.metrics.bind(r)
		g.extra = append(g.extra, extra{path: path, route: r})
	}
	slices.SortFunc(g.extra, func(a, b extra) int { return len(b.path) - len(a.path) })
	g.drain, g.endDrain = context.WithCancel(context.Background())
	return g, nil
}

// Drain prepares for the end: /readyz says 503 from now on, so that nobody sends more, streams end with a hint to
// come back, and answers close their connection. What is in flight goes on.
func (g *Gateway) Drain() {
	g.draining.Store(true)
	g.endDrain()
}

// ServeHTTP takes a request through the steps that the package describes.
func (g *Gateway) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	start := time.Now()
	c := g.clientOf(r)

	id := ""
	if given := r.Header["X-Request-Id"]; len(given) == 1 && saneID(given[0]) {
		id = given[0]
	} else {
		id = newID()
	}
	ctx := telemetry.WithCorrelation(r.Context(), id)
	if g.tracer != nil && len(r.Header["Traceparent"]) > 0 {
		ctx = telemetry.ExtractHeader(ctx, r.Header)
	}

	x := &exchange{answer: answer{ResponseWriter: w}, g: g, id: [1]string{id}, client: c, start: start, path: r.URL.Path, method: r.Method[:min(len(r.Method), 16)]}
	if r.ContentLength != 0 {
		// The body has its time from here on, also where net/http itself reads the rest of one that was refused.
		x.deadline(time.Now().Add(g.cfg.Limits.ReadBody))
		x.unread = r.ProtoMajor == 1
	}
	h := w.Header()
	h["X-Request-Id"] = x.id[:]
	protect(h, c.secure)
	if g.draining.Load() {
		h["Connection"] = closing
	}
	var span trace.Span
	if g.tracer != nil {
		ctx, span = g.tracer.Start(ctx, r.Method, trace.WithSpanKind(trace.SpanKindServer))
	}
	// finish comes last, also after a panic: every request is counted and logged.
	defer x.finish(ctx, span)
	x.serve(ctx, r)
}

// exchange is one request on its way.
type exchange struct {
	answer  answer
	g       *Gateway
	id      [1]string // of the request, as a header's value
	client  client
	start   time.Time
	path    string // as it came, for the log
	method  string // as it came
	route   *route // nil if there is none
	table   *table
	who     identity.Identity
	request rest.Request        // as its module sees it; it does not change any more once it is sent
	wish    string              // an admin's, for the side that answers
	guest   string              // a visitor that is sticky in a canary without being known
	limit   time.Duration       // that the client gives us to answer; 0 is none
	socket  bool                // a WebSocket is asked for
	unread  bool                // HTTP/1: a body may follow that nobody has read
	hop     atomic.Pointer[hop] // how it was answered
}

func (x *exchange) fail(ctx context.Context, err error) {
	p, retry := rest.NewProblem(ctx, err)
	if retry == 0 && p.Status == http.StatusTooManyRequests {
		retry = 1
	}
	if p.Status == http.StatusUnauthorized {
		challenge := `Bearer realm="banyan"`
		if errs.KindOf(err) == errs.Unauthenticated && err != errSignIn {
			challenge += `, error="invalid_token"`
		}
		x.answer.Header().Set("WWW-Authenticate", challenge)
	}
	x.problem(p, retry)
}

// deadline is until when the body may take; the zero time is for ever. The writers of some tests have none.
func (x *exchange) deadline(t time.Time) {
	_ = http.NewResponseController(x.answer.ResponseWriter).SetReadDeadline(t)
}

func (x *exchange) problem(p *rest.Problem, retry int) {
	if x.unread {
		// Where a body ends that nobody has read is not certain, so nothing is taken for the next request.
		x.answer.Header()["Connection"] = closing
	}
	rest.WriteProblem(&x.answer, p, retry)
}

func newProblem(ctx context.Context, status int, kind errs.Kind, detail string) *rest.Problem {
	return &rest.Problem{
		Type: "about:blank", Title: http.StatusText(status), Status: status, Kind: kind, Detail: detail, RequestID: telemetry.Correlation(ctx),
	}
}

// errAmbiguous: an application behind might take the path for that of another route, which asks for more.
var errAmbiguous = errs.New(errs.Malformed, "the path differs from that of another route only by a slash at its end or by the case of letters")

// errSignIn: the route needs a caller and there is none.
var errSignIn = errs.New(errs.Unauthenticated, "sign in first")

func (x *exchange) serve(ctx context.Context, r *http.Request) {
	g := x.g
	path, err := canonicalPath(r.URL)
	if err == nil {
		err = checkQuery(r.URL.RawQuery)
	}
	if err == nil && !headerName(r.Method) {
		err = errs.New(errs.Malformed, "the method is no token") // HTTP/2 can carry anything
	}
	if err != nil {
		x.fail(ctx, err)
		return
	}
	// Probes ask by address, so they are answered whatever the host.
	if isProbe(path) {
		x.probe(ctx, r, path)
		return
	}
	if !g.allowsHost(r.Host) {
		x.problem(newProblem(ctx, http.StatusMisdirectedRequest, errs.Malformed, "this host is not served here"), 0)
		return
	}
	crossOrigin := g.allowOrigin(x.answer.Header(), r.Header)
	x.socket = asksForSocket(r)
	if wish := r.Header["X-Banyan-Route"]; len(wish) == 1 && (wish[0] == string(Local) || wish[0] == string(Remote)) {
		x.wish = wish[0]
	}
	x.limit = patience(r.Header)
	cleanHeader(r.Header)
	given := takeCookie(r.Header)

	var w http.ResponseWriter = &x.answer
	if g.rules != nil {
		outcome, err := g.rules.Apply(r, path)
		if err != nil {
			x.fail(ctx, err)
			return
		}
		if outcome.Redirect != 0 {
			location := outcome.Location
			if r.URL.RawQuery != "" && !strings.Contains(location, "?") {
				location += "?" + r.URL.RawQuery
			}
			x.answer.Header().Set("Location", location)
			x.answer.WriteHeader(outcome.Redirect)
			return
		}
		path, w = outcome.Path, outcome.Wrap(w)
	}
	t := g.table.Load()
	x.table = t
	place := t.root.find(path)
	if place == nil {
		if x.beside(ctx, r, path) {
			return
		}
		if place = t.rest; place == nil {
			x.unknown(ctx, errs.New(errs.NotFound, "there is nothing at this path"))
			return
		}
	}
	rt := place.route(r.Method)
	// A browser asks before it sends a token, so what it asks is not for a route of all methods, which may need one.
	if r.Method == http.MethodOptions && (rt == nil || crossOrigin && r.Header.Get("Access-Control-Request-Method") != "") {
		g.options(&x.answer, r, place.allow, crossOrigin)
		return
	}
	if rt == nil {
		x.answer.Header().Set("Allow", place.allow)
		x.problem(newProblem(ctx, http.StatusMethodNotAllowed, errs.Malformed, "this path takes "+place.allow), 0)
		return
	}
	if rt.target.foreign && t.ambiguous(place, rt, path) {
		x.unknown(ctx, errAmbiguous)
		return
	}
	x.route = rt
	if err := x.admit(ctx, r); err != nil {
		x.fail(ctx, err)
		return
	}
	if rt.Class == module.Stream {
		who := x.holder()
		if err := g.streams.enter(who); err != nil {
			x.fail(ctx, err)
			return
		}
		defer g.streams.leave(who)
	}
	if x.who.Subject == "" && x.client.secure && rt.target.placement.State == Canary && g.signer != nil {
		x.welcome(given)
	}
	request := &x.request
	*request = rest.Request{
		Method: rt.Method, Route: rt.Path, Path: path, Query: r.URL.RawQuery, Subject: x.who.Subject, ClientIP: x.client.text,
		BodyHash: noBody, Money: rt.Money,
	}
	if rt.Class == module.Write && !rt.target.foreign {
		if request.IdempotencyKey, err = idempotencyKey(r.Header); err != nil {
			x.fail(ctx, err)
			return
		}
	}
	if !rt.target.foreign && !rt.KeepsAnswer() {
		// It would make some transports send the request again, and an assertion with it may be used again.
		request.IdempotencyKey = ""
		delete(r.Header, "Idempotency-Key")
	}
	if rt.target.foreign {
		if p := x.limitBody(ctx, r); p != nil {
			x.problem(p, 0)
			return
		}
	} else {
		var p *rest.Problem
		if request.BodyHash, p = x.readBody(ctx, r); p != nil {
			x.problem(p, 0)
			return
		}
		x.unread = false
	}
	if x.who.Subject != "" {
		ctx = identity.With(ctx, x.who)
	}
	x.forward(rest.WithRequest(ctx, request), w, r, path, request)
}

// admit finds out who asks, and whether it may, and whether it asks too often.
func (x *exchange) admit(ctx context.Context, r *http.Request) error {
	g, rt := x.g, x.route
	now := g.clock.Now()
	var err error
	if x.who, err = g.authenticate(r.Header, x.client, now); err != nil {
		// A public route works without a token, so it works with one that proves nothing: a client whose token has
		// expired must be able to renew it.
		if !errs.Is(err, errs.Unauthenticated) || rt.Auth != identity.Anonymous || rt.scope != "" {
			return err
		}
	}
	// The module learns who asks from the context alone.
	if !rt.target.token {
		delete(r.Header, "Authorization")
	}

	h := x.answer.Header()
	exempt := x.who.Role.Includes(identity.Staff)
	switch {
	case exempt:
	case x.who.Subject != "":
		if g.customers != nil {
			err = g.customers.check(h, x.who.Subject, now)
		} else {
			err = nil
		}
	default:
		err = nil
		if g.anonymous != nil {
			err = g.anonymous.check(h, x.client.key, now)
		}
	}
	if err != nil {
		return err
	}
	if rt.limit != nil && !exempt {
		if err := rt.limit.check(h, x.client.key, now); err != nil {
			return err
		}
	}
	return rt.permit(x.who)
}

// unknown answers for what is not there. It counts as anonymous use, so that paths cannot be tried at will.
func (x *exchange) unknown(ctx context.Context, err error) {
	if x.g.anonymous != nil {
		if limited := x.g.anonymous.check(x.answer.Header(), x.client.key, x.g.clock.Now()); limited != nil {
			err = limited
		}
	}
	x.fail(ctx, err)
}

// beside answers what no module does; false if it is not there either.
func (x *exchange) beside(ctx context.Context, r *http.Request, path string) bool {
	rt := x.g.extraAt(path)
	if rt == nil {
		return false
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		x.answer.Header().Set("Allow", readOnly)
		x.problem(newProblem(ctx, http.StatusMethodNotAllowed, errs.Malformed, "this path takes "+readOnly), 0)
		return true
	}
	x.route = rt
	if x.g.anonymous != nil {
		if err := x.g.anonymous.check(x.answer.Header(), x.client.key, x.g.clock.Now()); err != nil {
			x.fail(ctx, err)
			return true
		}
	}
	delete(r.Header, "Authorization")
	x.forward(ctx, &x.answer, r, path, &rest.Request{Method: http.MethodGet, Path: path, Query: r.URL.RawQuery, BodyHash: noBody})
	return true
}

// readOnly are the methods of what is answered beside the modules.
const readOnly = "GET, HEAD"

// extraAt is the handler beside the modules that has the path, or nil.
func (g *Gateway) extraAt(path string) *route {
	if strings.HasPrefix(path, "/api/") {
		return nil
	}
	for _, e := range g.extra {
		if path == e.path || e.path != "/" && strings.HasPrefix(path, e.path) && path[len(e.path)] == '/' {
			return e.route
		}
	}
	return nil
}
