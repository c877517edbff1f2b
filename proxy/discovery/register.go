package discovery

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/consul/api"
)

// Registration is how one of our processes is found in Consul.
type Registration struct {
	Service string   // as in payments
	ID      string   // of this process among those of the service; the service and Addr if it is left out
	Addr    string   // host:port at which others reach it
	Tags    []string // as in blue
	Weight  int      // 1 if it is left out

	// One of the two: the process says that it lives, or Consul asks it.
	TTL  time.Duration // without a word for so long it counts as down
	HTTP string        // URL that Consul asks; it is up if the answer is 2xx

	Interval time.Duration               // of the check by HTTP, 10 s if it is left out
	Ready    func(context.Context) error // with TTL: whether the process is ready; always if it is left out
	Forget   time.Duration               // a process that is down for so long is forgotten; 10 min if it is left out
}

// Registrar keeps a process registered.
type Registrar struct {
	client  *api.Client
	r       Registration
	host    string
	port    int
	timeout time.Duration
	log     *slog.Logger
}

// NewRegistrar checks the registration; nobody is asked yet.
func NewRegistrar(c Config, r Registration, log *slog.Logger) (*Registrar, error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	if r.Interval == 0 {
		r.Interval = 10 * time.Second
	}
	if r.Forget == 0 {
		r.Forget = 10 * time.Minute
	}
	var wrong []error
	if r.Service == "" || strings.ContainsAny(r.Service+r.ID, "/?#% ") {
		wrong = append(wrong, fmt.Errorf("service: %q with id %q is not a name as in payments", r.Service, r.ID))
	}
	host, text, err := net.SplitHostPort(r.Addr)
	port, portErr := strconv.ParseUint(text, 10, 16)
	if ip, ipErr := netip.ParseAddr(host); err != nil || portErr != nil || port == 0 || host == "" || ipErr == nil && ip.IsUnspecified() {
		wrong = append(wrong, fmt.Errorf("addr: %q is not where others reach the process, as in 10.0.0.5:9101", r.Addr))
	}
	if (r.TTL > 0) == (r.HTTP != "") {
		wrong = append(wrong, errors.New("check: give either a TTL or a URL"))
	}
	if r.TTL != 0 && r.TTL < time.Second {
		wrong = append(wrong, fmt.Errorf("ttl: %s is less than 1s", r.TTL))
	}
	if u, err := url.Parse(r.HTTP); r.HTTP != "" && (err != nil || u.Host == "" || u.User != nil) {
		wrong = append(wrong, errors.New("check: is not a URL as in http://10.0.0.5:9101/readyz"))
	}
	if len(wrong) > 0 {
		return nil, fmt.Errorf("register in Consul: %w", errors.Join(wrong...))
	}
	if r.ID == "" {
		r.ID = r.Service + "-" + host + "-" + text
	}
	client, err := c.Consul.client(c.Timeout, log)
	if err != nil {
		return nil, err
	}
	return &Registrar{client: client, r: r, host: host, port: int(port), timeout: c.Timeout, log: log}, nil
}

// Run registers the process, again whenever the agent has forgotten it, and deregisters it when ctx ends. It never gives
// up: without Consul the process is not found, but it goes on. End it before the process stops to take requests.
func (g *Registrar) Run(ctx context.Context) error {
	known, failing := false, false
	backoff := shortPause
	for ctx.Err() == nil {
		err := g.beat(ctx, known)
		known = known || err == nil
		if ctx.Err() != nil {
			break
		}
		pause := g.r.Interval
		if g.r.TTL > 0 {
			pause = g.r.TTL / 3
		}
		if err != nil {
			pause, backoff = min(pause, backoff), min(2*backoff, longPause)
			if !failing {
				g.log.Warn("cannot be registered in Consul; it is tried again", "service", g.r.Service, "id", g.r.ID, "error", err)
			}
		} else if backoff = shortPause; failing {
			g.log.Info("registered in Consul again", "service", g.r.Service, "id", g.r.ID)
		}
		failing = err != nil
		if !sleep(ctx, pause) {
			break
		}
	}
	// Even if it was never confirmed: the last attempt may have been broken off after Consul had taken it.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), g.timeout)
	defer cancel()
	err := g.client.Agent().ServiceDeregisterOpts(g.r.ID, (&api.QueryOptions{}).WithContext(ctx))
	if err != nil && !status(err, http.StatusNotFound) {
		g.log.Warn("cannot be deregistered from Consul; its check will fail instead", "service", g.r.Service, "id", g.r.ID, "error", err)
	}
	return nil
}

// beat says how the process is, and registers it before if Consul does not know it.
func (g *Registrar) beat(ctx context.Context, known bool) error {
	ctx, cancel := context.WithTimeout(ctx, g.timeout)
	defer cancel()
	if known {
		err := g.say(ctx)
		// With any status the agent is there. That it has forgotten us is 404, in older versions 500.
		if err == nil || !status(err, 0) {
			return err
		}
		g.log.Info("Consul has forgotten the process", "service", g.r.Service, "id", g.r.ID, "error", err)
	}
	// Not left out at a start, even if Consul knows the id: a process that has died may have left another address behind.
	if err := g.register(ctx); err != nil {
		return err
	}
	return g.say(ctx)
}

func (g *Registrar) register(ctx context.Context) error {
	check := &api.AgentServiceCheck{CheckID: g.check(), DeregisterCriticalServiceAfter: g.r.Forget.String()}
	if g.r.TTL > 0 {
		check.TTL = g.r.TTL.String()
	} else {
		check.HTTP, check.Interval, check.Timeout = g.r.HTTP, g.r.Interval.String(), g.timeout.String()
	}
	weight := max(1, g.r.Weight)
	return g.client.Agent().ServiceRegisterOpts(&api.AgentServiceRegistration{
		ID: g.r.ID, Name: g.r.Service, Address: g.host, Port: g.port, Tags: g.r.Tags,
		Weights: &api.AgentWeights{Passing: weight, Warning: weight}, Check: check,
	}, api.ServiceRegisterOpts{ReplaceExistingChecks: true}.WithContext(ctx))
}

// say tells Consul how the process is, or asks whether it is known where Consul looks after that by itself.
func (g *Registrar) say(ctx context.Context) error {
	q := (&api.QueryOptions{}).WithContext(ctx)
	if g.r.TTL == 0 {
		_, _, err := g.client.Agent().Service(g.r.ID, q)
		return err
	}
	state, output := api.HealthPassing, "ready"
	if g.r.Ready != nil {
		if err := g.r.Ready(ctx); err != nil {
			state, output = api.HealthCritical, err.Error()
		}
	}
	return g.client.Agent().UpdateTTLOpts(g.check(), output, state, q)
}

func (g *Registrar) check() string { return "service:" + g.r.ID }

// status says whether err is an answer of the agent with this code, 0 being any.
func status(err error, code int) bool {
	var answer api.StatusError
	return errors.As(err, &answer) && (code == 0 || answer.Code == code)
}
