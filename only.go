package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/banyan-go/banyan/config"
	"github.com/banyan-go/banyan/internal/admin"
	"github.com/banyan-go/banyan/internal/assertion"
	"github.com/banyan-go/banyan/internal/bus"
	"github.com/banyan-go/banyan/internal/certs"
	"github.com/banyan-go/banyan/internal/cli"
	"github.com/banyan-go/banyan/internal/clock"
	"github.com/banyan-go/banyan/internal/control"
	"github.com/banyan-go/banyan/internal/database"
	"github.com/banyan-go/banyan/internal/message"
	"github.com/banyan-go/banyan/internal/module"
	"github.com/banyan-go/banyan/internal/operator"
	"github.com/banyan-go/banyan/internal/ownership"
	"github.com/banyan-go/banyan/internal/rest"
	"github.com/banyan-go/banyan/internal/telemetry"
	"github.com/banyan-go/banyan/internal/unit"
	"github.com/banyan-go/banyan/modules"
	"github.com/banyan-go/banyan/proxy"
	"github.com/banyan-go/banyan/proxy/shadow"
)

// serveOnly serves one module, beside processes that run the whole shop. It follows the module's control record: while the shop owns
// the module it answers the requests that the gateway sends it, and the shop relays what they write; once it owns the module it
// does all of that itself, over the broker. It believes nobody but the gateway.
func serveOnly(ctx context.Context, cfg config.Config, name string, out, errOut io.Writer) (err error) {
	d, err := standIn(cfg, name)
	if err != nil {
		return err
	}
	log := telemetry.NewLogger(errOut, cfg.Log).With("only", name)
	started, ready := time.Now(), false
	defer func() { err = beforeReady(ctx, ready, err, log) }()
	if err := os.MkdirAll(cfg.Data, 0o700); err != nil {
		return fmt.Errorf("data: %w", err)
	}
	listener, err := net.Listen("tcp", cfg.Addr)
	if err != nil {
		return fmt.Errorf("addr: %w; give another address with --addr", err)
	}
	defer func() { _ = listener.Close() }()
	operators, err := net.Listen("tcp", cfg.AdminAddr)
	if err != nil {
		return fmt.Errorf("admin_addr: %w; give another address with --admin-addr", err)
	}
	defer func() { _ = operators.Close() }()
	tracing, err := telemetry.OpenTracing(ctx, cfg.Telemetry, version(), log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, tracing.Shutdown(context.WithoutCancel(ctx))) }()
	stores, err := database.Open(cfg.Database, cfg.Data, 2, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stores.Close()) }()
	if err := stores.Alone(name); err != nil {
		return err
	}
	p, err := openOnly(ctx, cfg, d, listener.Addr(), operators.Addr(), stores, tracing, log)
	if err != nil {
		return err
	}
	if err := p.run(ctx, cfg, listener, operators, func() {
		ready = true
		_, _ = fmt.Fprintf(out, "banyan %s is ready after %d ms: %s for the gateway on %s, operators on %s\n",
			version(), time.Since(started).Milliseconds(), name, listener.Addr(), url(operators))
	}); err != nil {
		return err
	}
	log.Info("stopped")
	return nil
}

// standIn refuses what a process of one module cannot do.
func standIn(cfg config.Config, name string) (module.Descriptor, error) {
	all := modules.All()
	i := slices.IndexFunc(all, func(d module.Descriptor) bool { return d.Name == name })
	if i < 0 {
		return module.Descriptor{}, noModule(name)
	}
	wrong := func(format string, args ...any) (module.Descriptor, error) {
		return module.Descriptor{}, usageError{fmt.Errorf(format, args...)}
	}
	switch d := all[i]; {
	case len(d.Asks) > 0 && cfg.Bus.RabbitMQ.URL == "":
		return wrong("bus.rabbitmq.url: is empty; requests of %s ask other modules (%s), and that needs a broker between the processes", name, d.Asks[0])
	case cfg.Gateway.Certs == "" && !loopback(cfg.Addr):
		return wrong("addr: %s can be reached from other machines; without gateway.certs (banyan certs create) a module listens on loopback alone, as in 127.0.0.1:9101", cfg.Addr)
	default:
		return d, nil
	}
}

func loopback(addr string) bool {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return false
	}
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// only is an opened module without the shop around it.
type only struct {
	bus      *bus.Bus
	owners   *ownership.Owners
	server   *http.Server
	operator *http.Server
	runs     []func(context.Context) error
	consul   *consul
	draining atomic.Bool
	log      *slog.Logger
}

func openOnly(ctx context.Context, cfg config.Config, d module.Descriptor, addr, operators net.Addr, stores *database.Stores, tracing *telemetry.Tracing, log *slog.Logger) (*only, error) {
	p := &only{log: log}
	registry, system := telemetry.NewRegistry(), clock.System{}
	shared, own, err := awaitStores(ctx, stores, d.Name, log)
	if err != nil {
		return nil, err
	}
	sqlite := stores.Dialect() == database.SQLite
	// Users signs tokens; every other module believes them, and the gateway's assertions, without a key that signs.
	keys, err := awaitKeys(ctx, shared, control.RingOptions{PublicOnly: d.Name != "users", ReadOnly: sqlite, Clock: system, Log: log})
	if err != nil {
		return nil, err
	}
	p.runs = append(p.runs, keys.Run)
	var contracts []message.Contract
	var foreign []module.Descriptor
	for _, other := range modules.All() {
		contracts = append(contracts, other.Contract)
		if other.Name != d.Name {
			foreign = append(foreign, other)
		}
	}
	replica := message.NewID()
	broker, err := openBroker(cfg, d.Name, replica, registry, log)
	if err != nil {
		return nil, err
	}
	if broker != nil {
		p.runs = append(p.runs, broker.Run, declare(broker, d.Name))
	}
	advertised, err := cfg.Advertised(addr)
	if err != nil {
		return nil, err
	}
	var records ownership.Registry = ownership.NewStore(shared)
	if sqlite {
		records = ownership.NewBeside(ownership.NewStore(shared), tellShop(cfg.Data))
	}
	if p.owners, err = ownership.Open(ctx, records, ownership.Options{
		Self:    ownership.Process{ID: processName(replica), Module: d.Name, Program: version(), Names: wireNames(), Address: advertised, Operators: operators.String()},
		Modules: modules.Names(), Shared: stores.Dialect() == database.Postgres, TTL: cfg.Bus.LeaseTTL, Broker: brokerState(broker), Log: log,
	}); err != nil {
		return nil, err
	}
	p.runs = append(p.runs, p.owners.Run)
	p.bus = bus.New(cfg.Bus, bus.Options{
		Replica: replica, Only: d.Name, Broker: broker, Control: shared, Foreign: foreign,
		Tracer: tracing.Tracer(), Metrics: telemetry.NewMessages(registry), Log: log,
	})
	p.bus.Follow(p.owners)
	options := d.StoreOptions()
	options.Clock, options.Tracer, options.Log, options.Personal = system, tracing.Tracer(), log, message.NewRedactor(contracts...)
	store := unit.New(own, options)
	set := modules.Open(ownConfig(cfg.Modules), keys, func(name string) module.Deps {
		if name != d.Name {
			return module.Deps{}
		}
		return module.Deps{Store: store, Caller: p.bus.CallerOf(name), Clock: system, Log: log.With("module", name), Files: filepath.Join(cfg.Data, name)}
	})
	m := set.Modules[slices.IndexFunc(set.Modules, func(m *module.Module) bool { return m.Name == d.Name })]
	if d.Name == "users" {
		p.runs = append(p.runs, set.Sessions.Run)
	}
	if err := p.bus.Add(m, store); err != nil {
		return nil, err
	}
	if err := p.bus.Open(ctx); err != nil {
		return nil, err
	}
	router := rest.NewEcho(log)
	api := rest.NewAPI("Banyan "+d.Name, version(), router, log)
	m.Register(api, func(r module.Route) huma.Operation { return rest.Operation(m.Name, r) })
	match, err := proxy.Matcher(d)
	if err != nil {
		return nil, err
	}
	verifier, err := assertion.NewVerifier(assertion.Options{
		Module: d.Name, Keys: keys, Clock: system, Log: log, Registry: registry,
		Route: func(method, path string) (rest.Request, bool) {
			r, found := match(method, path)
			return rest.Request{Method: r.Method, Route: r.Path, Money: r.Money}, found
		},
		Epoch: func() uint64 { return p.owners.Record(d.Name).Epoch },
	})
	if err != nil {
		return nil, err
	}
	if p.consul, err = openConsul(cfg, d.Name, addr, own.Ping, log); err != nil {
		return nil, err
	}
	p.server, err = p.newServer(cfg, d.Name, verifier.Middleware(proxy.Deadline(readOnlyCopies(router))), own, registry)
	if err != nil {
		return nil, err
	}
	token, err := admin.Token(cfg.Data)
	if err != nil {
		return nil, err
	}
	p.operator = admin.Server(admin.Options{Token: token, Hosts: cfg.AdminHosts, Registry: registry, Log: log, Open: map[string]http.Handler{
		"GET /healthz": http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, `{"status":"ok"}`+"\n") }),
		"GET /readyz":  p.readiness(own),
	}, Guarded: map[string]http.Handler{"/admin/": operator.Handler(operator.Options{
		Bus: p.bus, Modules: modules.Names(), Where: whereabouts(p.owners), Projections: set.Projections,
		Spans:  func() any { return tracing.Recent() },
		Config: func() string { var b strings.Builder; _ = cfg.Print(&b); return b.String() },
	})}})
	return p, nil
}

// awaitStores opens the control store and the module's. On SQLite the shop makes the files: it does not matter who is started first.
func awaitStores(ctx context.Context, stores *database.Stores, module string, log *slog.Logger) (shared, own *database.DB, err error) {
	for said := false; ; said = true {
		err = nil
		if shared == nil {
			shared, err = stores.StandBy(ctx, database.Control)
		}
		if err == nil {
			own, err = stores.StandBy(ctx, module)
		}
		if shared != nil && err != nil {
			if lost := stores.CheckMade(ctx, shared, []string{module}, nil); errors.Is(lost, database.ErrLost) {
				return nil, nil, lost
			}
		}
		if !errors.Is(err, database.ErrNotMade) {
			return shared, own, err
		}
		if !said {
			log.Warn("waiting for the first start of the shop, which makes the stores")
		}
		select {
		case <-ctx.Done():
			return nil, nil, ctx.Err()
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// tellShop posts to the admin port of the shop with this data directory.
func tellShop(data string) func(ctx context.Context, path string, body any) error {
	return func(ctx context.Context, path string, body any) error {
		addr, err := admin.Announced(data)
		if err != nil {
			return err
		}
		shop, err := cli.Dial(data, addr)
		if err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		return shop.Post(ctx, cli.Path(path[1:]), body, &struct{}{})
	}
}

// awaitKeys waits for the first start of the shop, which makes the keys: it does not matter who is started first.
func awaitKeys(ctx context.Context, store *database.DB, o control.RingOptions) (*control.Ring, error) {
	for said := false; ; said = true {
		keys, err := control.OpenRing(ctx, store, o)
		if !errors.Is(err, control.ErrNoKeys) {
			return keys, err
		}
		if !said {
			o.Log.Warn("waiting for the first start of the shop, which makes the signing keys")
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// newServer is the port that the gateway reaches. Nothing is answered there without an assertion but how the process is.
func (p *only) newServer(cfg config.Config, name string, next http.Handler, store *database.DB, registry *prometheus.Registry) (*http.Server, error) {
	ready, module := p.readiness(store), rest.Recover(p.log, http.MaxBytesHandler(next, 16<<20)) // the gateway has the limits of the routes
	// No ServeMux, and nothing that net/http answers by itself: they tell strangers more than 401, and count none.
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/readyz" && (r.Method == http.MethodGet || r.Method == http.MethodHead) {
			ready.ServeHTTP(w, r)
			return
		}
		module.ServeHTTP(w, r)
	})
	protocols := &http.Protocols{}
	protocols.SetHTTP1(true)
	limits := cfg.Gateway.Limits
	s := &http.Server{
		Handler: p.sayGoodbye(handler), Protocols: protocols, ReadHeaderTimeout: limits.ReadHeader, IdleTimeout: 2 * limits.Idle, MaxHeaderBytes: 2 * limits.HeaderBytes,
		DisableGeneralOptionsHandler: true, ErrorLog: slog.NewLogLogger(p.log.Handler(), slog.LevelDebug),
	}
	if cfg.Gateway.Certs == "" {
		protocols.SetUnencryptedHTTP2(true)
		return s, nil
	}
	identity, err := certs.Open(cfg.Gateway.Certs, name, certs.Options{Log: p.log, Metrics: certs.NewMetrics(registry)})
	if err != nil {
		return nil, fmt.Errorf("gateway.certs: %w", err)
	}
	protocols.SetHTTP2(true)
	s.TLSConfig = identity.Server(gatewayName)
	return s, nil
}

// sayGoodbye has the other end leave the connection with each answer while the process drains: net/http's Shutdown does not reach an
// HTTP/2 connection that comes about at that moment, and one that is always busy would never end.
func (p *only) sayGoodbye(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if p.draining.Load() {
			w.Header().Set("Connection", "close")
		}
		next.ServeHTTP(w, r)
	})
}

func (p *only) readiness(store *database.DB) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), 2*time.Second)
		defer cancel()
		status := "ready"
		switch {
		case p.draining.Load():
			status = "draining"
		case store.Ping(ctx) != nil:
			status = "unavailable"
		}
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Cache-Control", "no-store")
		if status != "ready" {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		_, _ = fmt.Fprintf(w, "{\"status\":%q}\n", status)
	})
}

// readOnlyCopies lets requests that are only compared change nothing, and says so of those that try.
func readOnlyCopies(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-Shadow") == "1" {
			r = r.WithContext(unit.ReadOnly(r.Context(), func() { w.Header().Set(shadow.UnsafeHeader, "1") }))
		}
		next.ServeHTTP(w, r)
	})
}

func (p *only) run(ctx context.Context, cfg config.Config, listener, operators net.Listener, ready func()) error {
	work, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	g, gctx := errgroup.WithContext(work)
	g.Go(func() error { return p.bus.Run(gctx) })
	for _, run := range p.runs {
		g.Go(func() error { return run(gctx) })
	}
	if p.server.TLSConfig != nil {
		listener = tls.NewListener(listener, p.server.TLSConfig)
	}
	for s, l := range map[*http.Server]net.Listener{p.server: listener, p.operator: operators} {
		g.Go(func() error {
			if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
				return err
			}
			return nil
		})
	}
	ready()
	leave := p.consul.begin(work)
	select {
	case <-ctx.Done():
	case <-gctx.Done():
	}
	p.log.Info("draining")
	leave()
	p.draining.Store(true)
	until, cancel := context.WithTimeout(work, cfg.ShutdownTimeout)
	defer cancel()
	err := p.server.Shutdown(until)
	end()
	return errors.Join(err, endOperators(p.operator), g.Wait())
}
