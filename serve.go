package main

import (
	"cmp"
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
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/banyan-go/banyan/config"
	"github.com/banyan-go/banyan/internal/admin"
	"github.com/banyan-go/banyan/internal/assertion"
	"github.com/banyan-go/banyan/internal/bus"
	"github.com/banyan-go/banyan/internal/bus/rabbit"
	"github.com/banyan-go/banyan/internal/certs"
	"github.com/banyan-go/banyan/internal/clock"
	"github.com/banyan-go/banyan/internal/control"
	"github.com/banyan-go/banyan/internal/database"
	"github.com/banyan-go/banyan/internal/docs"
	"github.com/banyan-go/banyan/internal/message"
	"github.com/banyan-go/banyan/internal/module"
	"github.com/banyan-go/banyan/internal/operator"
	"github.com/banyan-go/banyan/internal/ownership"
	"github.com/banyan-go/banyan/internal/rest"
	"github.com/banyan-go/banyan/internal/telemetry"
	"github.com/banyan-go/banyan/internal/token"
	"github.com/banyan-go/banyan/internal/unit"
	"github.com/banyan-go/banyan/internal/wholefile"
	"github.com/banyan-go/banyan/modules"
	"github.com/banyan-go/banyan/modules/users"
	"github.com/banyan-go/banyan/proxy"
	"github.com/banyan-go/banyan/proxy/upstream"
)

// serve runs the whole shop until ctx ends, and then drains it: requests in flight are answered, messages on their way are
// handled, and only then the stores close. startEmpty names stores that may be made again after they were lost.
func serve(ctx context.Context, cfg config.Config, from config.Options, startEmpty []string, out, errOut io.Writer) (err error) {
	log := telemetry.NewLogger(errOut, cfg.Log)
	started, ready := time.Now(), false
	defer func() { err = beforeReady(ctx, ready, err, log) }()
	if err := os.MkdirAll(cfg.Data, 0o700); err != nil {
		return fmt.Errorf("data: %w", err)
	}
	// The ports come first: a second process started by mistake ends here.
	public, err := net.Listen("tcp", cfg.Addr)
	if err != nil {
		return fmt.Errorf("addr: %w; is another process running? give another address with --addr", err)
	}
	defer func() { _ = public.Close() }()
	operators, err := net.Listen("tcp", cfg.AdminAddr)
	if err != nil {
		return fmt.Errorf("admin_addr: %w; is another process running? give another address with --admin-addr", err)
	}
	defer func() { _ = operators.Close() }()
	var plain net.Listener
	if cfg.Gateway.TLS.HTTP != "" {
		if plain, err = net.Listen("tcp", cfg.Gateway.TLS.HTTP); err != nil {
			return fmt.Errorf("gateway.tls.http_addr: %w; is another process running?", err)
		}
		defer func() { _ = plain.Close() }()
	}
	tracing, err := telemetry.OpenTracing(ctx, cfg.Telemetry, version(), log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, tracing.Shutdown(context.WithoutCancel(ctx))) }()
	stores, err := database.Open(cfg.Database, cfg.Data, len(modules.All())+1, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stores.Close()) }()

	shop, err := open(ctx, cfg, operators.Addr(), stores, startEmpty, tracing, log)
	if err != nil {
		return err
	}
	shop.runs = append(shop.runs, func(ctx context.Context) error {
		return config.Watch(ctx, from, cfg, shop.wishes.change, func(err error) {
			log.Error("the changed configuration is refused; the one before stays in force", "error", err)
		})
	})
	shop.plain = plain
	if shop.consul, err = openConsul(cfg, "banyan", public.Addr(), shop.reachable, log); err != nil {
		return err
	}
	if shop.owners.Record("users").Owns(ownership.Home) {
		made, err := sayAdmin(ctx, shop.stores["users"], cfg.Data, out)
		if err != nil {
			return err
		}
		if given := os.Getenv(passwordVariable); given != "" && !made {
			shop.runs = append(shop.runs, func(ctx context.Context) error {
				warnOfPassword(ctx, shop.stores["users"], given, log)
				return nil
			})
		}
	}
	if err := admin.Announce(cfg.Data, operators.Addr()); err != nil {
		return err
	}
	if err := shop.run(ctx, cfg, public, operators, func() {
		ready = true
		_, _ = fmt.Fprintf(out, "banyan %s is ready after %d ms: the shop on %s, its documentation on %s/docs, operators on %s\n",
			version(), time.Since(started).Milliseconds(), url(public), url(public), url(operators))
	}); err != nil {
		return err
	}
	log.Info("stopped")
	return nil
}

// beforeReady is what becomes of a process that was told to stop while it started: whatever that broke off, it has done as it was told, and
// the next start goes on from there.
func beforeReady(ctx context.Context, ready bool, err error, log *slog.Logger) error {
	if ready || err == nil || ctx.Err() == nil {
		return err
	}
	if errors.Is(err, context.Canceled) {
		log.Info("stopped before it was ready")
	} else {
		log.Info("stopped before it was ready", "broken_off", err)
	}
	return nil
}

// shop is the opened modules and what is around them.
type shop struct {
	bus      *bus.Bus
	broker   *rabbit.Broker // nil for none
	owners   *ownership.Owners
	wishes   *wishes
	set      modules.Set
	stores   map[string]*unit.Store
	gateway  *proxy.Gateway
	operator *http.Server
	observers
	consul *consul
	plain  net.Listener                  // beside a public port of TLS; nil for none
	tls    *certs.Public                 // of the public port; nil for plain HTTP
	runs   []func(context.Context) error // beside the bus, until it ends
	log    *slog.Logger
}

// open wires everything; nothing runs yet.
func open(ctx context.Context, cfg config.Config, operators net.Addr, stores *database.Stores, startEmpty []string, tracing *telemetry.Tracing, log *slog.Logger) (*shop, error) {
	s := &shop{stores: map[string]*unit.Store{}, log: log}
	registry := telemetry.NewRegistry()
	if err := stores.CheckControl(modules.Names(), startEmpty); err != nil {
		return nil, err
	}
	shared, err := stores.Store(ctx, database.Control)
	if err != nil {
		return nil, err
	}
	opened := map[string]*database.DB{database.Control: shared}
	keys, err := control.OpenRing(ctx, opened[database.Control], control.RingOptions{Clock: clock.System{}, Log: log, Dropped: func() {
		if s.gateway != nil {
			s.gateway.Forget()
		}
	}})
	if err != nil {
		return nil, err
	}
	s.runs = append(s.runs, keys.Run)
	replica := message.NewID()
	if s.broker, err = openBroker(cfg, "shop", replica, registry, log); err != nil {
		return nil, err
	}
	s.wishes = newWishes(cfg)
	records := ownership.NewStore(shared)
	if s.owners, err = ownership.Open(ctx, records, ownership.Options{
		Self:    ownership.Process{ID: processName(replica), Program: version(), Names: wireNames(), Operators: operators.String()},
		Modules: modules.Names(), Asks: asking(), Shared: stores.Dialect() == database.Postgres, TTL: cfg.Bus.LeaseTTL,
		Wishes: s.wishes.current, Broker: brokerState(s.broker), Log: log,
		Needed: map[string]string{"users": "the gateway asks its store which logins are revoked"},
	}); err != nil {
		return nil, err
	}
	if err := openStores(ctx, stores, s.owners, startEmpty, opened); err != nil {
		return nil, err
	}
	var retired []module.Descriptor
	for _, d := range modules.All() {
		if s.owners.Record(d.Name).Placement == ownership.Retired {
			retired = append(retired, d)
		}
	}
	s.bus = bus.New(cfg.Bus, bus.Options{
		Heard: func(module string) {
			if s.gateway != nil {
				s.gateway.Purge(module)
			}
		},
		Replica: replica, Broker: s.broker, Foreign: retired,
		Control: opened[database.Control], Tracer: tracing.Tracer(), Metrics: telemetry.NewMessages(registry), Log: log,
	})
	s.bus.Follow(s.owners)
	var contracts []message.Contract
	for _, d := range modules.All() {
		contracts = append(contracts, d.Contract)
	}
	redactor := message.NewRedactor(contracts...)
	for _, d := range modules.All() {
		if opened[d.Name] == nil {
			continue // retired
		}
		o := d.StoreOptions()
		o.Clock, o.Tracer, o.Log, o.Personal = clock.System{}, tracing.Tracer(), log, redactor
		s.stores[d.Name] = unit.New(opened[d.Name], o)
	}
	s.set = modules.Open(ownConfig(cfg.Modules), keys, func(name string) module.Deps {
		return module.Deps{Store: s.stores[name], Caller: s.bus.CallerOf(name), Clock: clock.System{}, Log: log.With("module", name), Files: filepath.Join(cfg.Data, name)}
	})
	router := rest.NewEcho(log)
	api := rest.NewAPI("Banyan", version(), router, log)
	s.set.Modules = slices.DeleteFunc(s.set.Modules, func(m *module.Module) bool { return opened[m.Name] == nil })
	for _, m := range s.set.Modules {
		if err := s.bus.Add(m, s.stores[m.Name]); err != nil {
			return nil, err
		}
		m.Register(api, func(r module.Route) huma.Operation { return rest.Operation(m.Name, r) })
	}
	if err := s.bus.Open(ctx); err != nil {
		return nil, err
	}
	if s.broker != nil {
		s.runs = append(s.runs, s.broker.Run, declare(s.broker, modules.Names()...))
	}
	s.observe(cfg, registry)
	if err := s.openGateway(cfg, keys, opened[database.Control], router, tracing, registry); err != nil {
		return nil, err
	}
	token, err := admin.Token(cfg.Data)
	if err != nil {
		return nil, err
	}
	s.operator = admin.Server(admin.Options{
		Token: token, Hosts: cfg.AdminHosts, Registry: registry, Log: log, Quiet: []string{"/admin" + ownership.RegisterPath},
		Open: map[string]http.Handler{
			"GET /healthz": http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, `{"status":"ok"}`+"\n") }),
			"GET /readyz":  http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { s.gateway.Readyz(r.Context(), w, r.URL.Query()) }),
		},
		Guarded: map[string]http.Handler{"/admin/": operator.Handler(operator.Options{
			Bus: s.bus, Modules: modules.Names(), Where: whereabouts(s.owners), Projections: s.set.Projections,
			Spans:  func() any { return tracing.Recent() },
			More:   merged(gatewayAnswers(s.gateway, keys), placementAnswers(s.owners, records, s.bus, s.broker), s.planAnswers(cfg)),
			Config: func() string { var b strings.Builder; _ = cfg.Print(&b); return b.String() },
		})},
	})
	return s, nil
}

// openGateway makes the front door.
func (s *shop) openGateway(cfg config.Config, keys *control.Ring, store *database.DB, router http.Handler, tracing *telemetry.Tracing, registry *prometheus.Registry) error {
	system := clock.System{}
	verifier, err := token.NewVerifier(keys, cfg.Gateway.Issuers, system, s.log)
	if err != nil {
		return err
	}
	metrics := certs.NewMetrics(registry)
	options := proxy.Options{
		Modules: modules.All(), Local: router, Verifier: verifier, Revocations: s.set.Sessions, Ready: s.ready, Hop: s.rehearsals, Keys: keys.JWKS,
		Extra:  map[string]http.Handler{"/docs": documentation(s.log)},
		Signer: assertion.NewSigner(keys, system), Endpoints: map[string][]string{},
		Reports: proxy.ReportFiles(cfg.Data), Clock: system, Log: s.log, Tracer: tracing.Tracer(), Registry: registry,
	}
	for name, m := range cfg.Modules.Each() {
		options.Endpoints[name] = m.Endpoints
	}
	places := newPlacements(s.owners, s.wishes)
	options.Placements, options.Registered = places, func(name string) upstream.Source { return registered{s.owners, name} }
	if cfg.Gateway.Certs != "" {
		if options.Identity, err = certs.Open(cfg.Gateway.Certs, gatewayName, certs.Options{Log: s.log, Metrics: metrics}); err != nil {
			return fmt.Errorf("gateway.certs: %w", err)
		}
	}
	if budgets, shared := control.OpenBudgets(store, system, s.log); shared {
		options.Budgets = budgets
		s.runs = append(s.runs, budgets.Run)
	}
	if cfg.Gateway.TLS.Enabled() {
		if s.tls, err = certs.OpenPublic(cfg.Gateway.TLS.In(cfg.Data), certs.Options{Log: s.log, Metrics: metrics}); err != nil {
			return fmt.Errorf("gateway.tls: %w", err)
		}
		s.runs = append(s.runs, s.tls.Run)
	}
	if s.gateway, err = proxy.New(cfg.Gateway, options); err != nil {
		return err
	}
	places.gateway = s.gateway
	s.runs = append(s.runs, verifier.Run, s.gateway.Run, s.owners.Run)
	return nil
}

// gatewayName is the gateway's in certificates.
const gatewayName = "gateway"

// documentation is made when somebody asks for it: a start need not wait for it.
func documentation(log *slog.Logger) http.Handler {
	handler := sync.OnceValue(func() http.Handler {
		openapi, asyncapi, err := documents()
		if err != nil {
			log.Error("documentation cannot be made", "error", err)
			return http.NotFoundHandler()
		}
		return docs.Handler(openapi, asyncapi)
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { handler().ServeHTTP(w, r) })
}

// openStores opens and migrates the stores of all modules at the same time. The file of one that another process owns is only read. One
// that the shop has had and that was lost is made again only if startEmpty names it.
func openStores(ctx context.Context, stores *database.Stores, owners *ownership.Owners, startEmpty []string, opened map[string]*database.DB) error {
	names := slices.DeleteFunc(modules.Names(), func(name string) bool { return owners.Record(name).Placement == ownership.Retired })
	shared := opened[database.Control]
	if err := stores.CheckMade(ctx, shared, names, startEmpty); err != nil {
		return err
	}
	var mu sync.Mutex
	g, gctx := errgroup.WithContext(ctx)
	for _, name := range names {
		g.Go(func() error {
			db, err := openStore(gctx, stores, name, owners.Record(name).Owns(ownership.Home), slices.Contains(startEmpty, name))
			mu.Lock()
			defer mu.Unlock()
			opened[name] = db
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	return stores.NoteMade(ctx, shared, names)
}

func openStore(ctx context.Context, stores *database.Stores, name string, ours, startEmpty bool) (*database.DB, error) {
	if !ours {
		db, err := stores.StandBy(ctx, name)
		if !startEmpty || !errors.Is(err, database.ErrNotMade) {
			return db, err
		}
	}
	db, err := stores.Store(ctx, name)
	switch {
	case errors.Is(err, database.ErrHeld): // by the module's own process, which has not heard yet that it came home
		return stores.StandBy(ctx, name)
	case err == nil && !ours:
		return db, db.Release() // made for the module's own process
	}
	return db, err
}

// ownConfig is each module's own part of the configuration.
func ownConfig(m config.Modules) modules.Config {
	return modules.Config{
		Users: m.Users.Config, Catalog: m.Catalog.Config, Carts: m.Carts.Config, Orders: m.Orders.Config,
		Payments: m.Payments.Config, Inventory: m.Inventory.Config, Shipping: m.Shipping.Config, Notifications: m.Notifications.Config,
	}
}

// adminPassword is the file in the data directory that has a made-up password until it has been said: whenever a first start is killed,
// the next one says it.
const adminPassword = "admin.password"

// passwordVariable gives the first admin's password.
const passwordVariable = "BANYAN_ADMIN_PASSWORD"

// warnOfPassword tells whoever gives a password for the first admin, and has an admin already, that it is not used. It takes tens of
// milliseconds of a processor, for which no start waits.
func warnOfPassword(ctx context.Context, store *unit.Store, given string, log *slog.Logger) {
	his, err := users.AdminSignsInWith(ctx, store, given)
	if err == nil && !his {
		log.Warn(passwordVariable + " is not used: there is an admin already, and it is not the password of " + users.AdminEmail +
			"; leave it out, or start a shop of its own with another --data")
	}
	debug.FreeOSMemory() // what a hash takes is more than the shop does
}

// sayAdmin makes the first admin, if there is none, and says a password that was made up: once, and nowhere else.
func sayAdmin(ctx context.Context, store *unit.Store, dataDir string, out io.Writer) (made bool, err error) {
	file := filepath.Join(dataDir, adminPassword)
	kept, err := os.ReadFile(file)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return made, err
	}
	madeUp := strings.TrimSpace(string(kept))
	has, err := users.HasAdmin(ctx, store)
	if err != nil {
		return made, fmt.Errorf("first admin: %w", err)
	}
	secret := os.Getenv(passwordVariable)
	if !has {
		if secret == "" {
			if madeUp == "" {
				madeUp = users.MadeUpPassword()
				if err := wholefile.Replace(file, []byte(madeUp+"\n")); err != nil {
					return made, fmt.Errorf("first admin: %w", err)
				}
			}
			secret = madeUp
		}
		if made, err = users.Bootstrap(ctx, store, secret); err != nil {
			return made, fmt.Errorf("first admin: %w", err)
		}
	}
	if madeUp == "" {
		return made, nil
	}
	his := made && secret == madeUp
	if !made { // an earlier start of this process has made him, or another replica, whose password is the one
		if his, err = users.AdminSignsInWith(ctx, store, madeUp); err != nil {
			return made, fmt.Errorf("first admin: %w", err)
		}
	}
	if his {
		if _, err := fmt.Fprintf(out, "The admin is %s, the password %s (said this once; change it after signing in)\n", users.AdminEmail, madeUp); err != nil {
			return made, fmt.Errorf("first admin: the password could not be said and is in %s: %w", file, err)
		}
	}
	if err := os.Remove(file); err != nil && !errors.Is(err, os.ErrNotExist) {
		return made, err
	}
	return made, nil
}

// run starts everything in order and, when ctx ends, ends it in reverse.
func (s *shop) run(ctx context.Context, cfg config.Config, public, operators net.Listener, ready func()) error {
	work, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	server, plain := s.gateway.Server(), s.gateway.Server()
	if s.plain != nil {
		// Before the certificates are asked for: without the port the CA is not to ask there.
		plain.Handler = s.tls.Challenges(s.gateway.ToTLS(portOf(public)))
	}
	if s.tls != nil {
		server.TLSConfig = s.tls.TLS()
		public = tls.NewListener(public, server.TLSConfig)
	}
	g, gctx := errgroup.WithContext(work)
	g.Go(func() error { return s.bus.Run(gctx) })
	g.Go(func() error { return s.set.Sessions.Run(gctx) })
	for _, run := range s.runs {
		g.Go(func() error { return run(gctx) })
	}
	for _, m := range s.set.Modules {
		if err := m.Start(gctx); err != nil {
			end()
			return errors.Join(err, g.Wait())
		}
	}
	serveOn := func(server *http.Server, l net.Listener) {
		g.Go(func() error {
			if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
				return err
			}
			return nil
		})
	}
	serveOn(server, public)
	if s.plain != nil {
		serveOn(plain, s.plain)
	}
	serveOn(s.operator, operators)
	ready()
	leave := s.consul.begin(work)
	select {
	case <-ctx.Done():
	case <-gctx.Done(): // something ended that should not
	}
	s.log.Info("draining")
	leave()
	s.gateway.Drain()
	until, cancel := context.WithTimeout(work, cfg.ShutdownTimeout)
	defer cancel()
	err := server.Shutdown(until)
	err = errors.Join(err, plain.Shutdown(until), s.gateway.Close(until))
	end() // the bus finishes what is on its way
	err = errors.Join(err, endOperators(s.operator), g.Wait())
	if errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("not drained within %s (shutdown_timeout); what was left is done after the next start: %w", cfg.ShutdownTimeout, err)
	}
	return err
}

// operatorsGrace is how long a process that ends waits for what its operators ask: it has drained already.
const operatorsGrace = 3 * time.Second

// endOperators lets requests of operators that are short end, and cuts those that are not, and connections that ask nothing.
func endOperators(server *http.Server) error {
	ctx, cancel := context.WithTimeout(context.Background(), operatorsGrace)
	defer cancel()
	err := server.Shutdown(ctx)
	if errors.Is(err, context.DeadlineExceeded) {
		return server.Close()
	}
	return err
}

// ready is 200 as long as a store can be reached; trouble behind it is told, not shown as an outage.
func (s *shop) ready(ctx context.Context, name string) (bool, any) {
	var names []string
	if name != "" {
		names = []string{name}
	}
	states, delivering := s.bus.Status(ctx, names...)
	reachable := 0
	status := "ready"
	for _, state := range states {
		if state.Store == "ok" {
			reachable++
		}
		if state.Store != "ok" || state.Dead > 0 || state.Overload != "" {
			status = "degraded"
		}
	}
	if !delivering {
		status = "degraded"
	}
	body := map[string]any{"delivering": delivering, "modules": states}
	if rehearsed, on := s.rehearsals.State(); on {
		status, body["rehearsal"] = "degraded", rehearsed
	}
	if s.broker != nil {
		if b := s.broker.Status(); !b.Connected || b.Blocked != "" {
			status, body["broker"] = "degraded", cmp.Or(b.Blocked, b.Error)
		}
	}
	if reachable == 0 {
		status = "unavailable"
	}
	body["status"] = status
	return reachable > 0, body
}

// reachable is ready for Consul.
func (s *shop) reachable(ctx context.Context) error {
	if ready, _ := s.ready(ctx, ""); !ready {
		return errors.New("no store can be reached")
	}
	return nil
}

func portOf(l net.Listener) string {
	_, port, _ := net.SplitHostPort(l.Addr().String())
	return port
}

func url(l net.Listener) string {
	host, port, _ := net.SplitHostPort(l.Addr().String())
	if ip := net.ParseIP(host); ip == nil || ip.IsUnspecified() {
		host = "localhost"
	}
	return "http://" + net.JoinHostPort(host, port)
}
