package discovery

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/banyan-go/banyan/internal/secret"
)

// Endpoint is a process that can be reached.
type Endpoint struct {
	Addr   string // host:port
	Weight int    // its share compared with the others, at least 1
}

// Source tells where the endpoints are.
type Source interface {
	// Watch calls update with the first answer, which has at least one endpoint, and then with each that differs from the
	// one before, until ctx ends; then it returns nil. It returns an error if there is no first answer in time, and for
	// no other reason. The endpoints are sorted by address, update is called by one goroutine and may keep them.
	Watch(ctx context.Context, update func([]Endpoint)) error
}

// Config is that of all upstreams.
type Config struct {
	Refresh    time.Duration `mapstructure:"refresh"`     // how often DNS is asked
	Timeout    time.Duration `mapstructure:"timeout"`     // of a question
	First      time.Duration `mapstructure:"first"`       // until there has to be a first answer
	EmptyAfter time.Duration `mapstructure:"empty_after"` // how long an answer without endpoints has to stay until it is believed
	Consul     Consul        `mapstructure:"consul"`
}

// Consul is the agent that is asked, and that our own processes register with.
type Consul struct {
	Addr  string      `mapstructure:"addr"` // URL, as in http://127.0.0.1:8500
	Token secret.Text `mapstructure:"token"`
	Roots string      `mapstructure:"roots"` // PEM file of the roots for https; empty for those of the system

	Register bool     `mapstructure:"register"` // our own process, while it takes requests
	Service  string   `mapstructure:"service"`  // its name there; empty for the module's, or banyan for the whole shop
	Tags     []string `mapstructure:"tags"`     // of it
}

// DefaultConfig asks the machine's resolver, and a Consul agent on the same machine.
func DefaultConfig() Config {
	return Config{
		Refresh: 10 * time.Second, Timeout: 3 * time.Second, First: 10 * time.Second, EmptyAfter: 30 * time.Second,
		Consul: Consul{Addr: "http://127.0.0.1:8500", Tags: []string{}},
	}
}

// Validate names the wrong key, with prefix before it as in "gateway.discovery.", and the way out.
func (c Config) Validate(prefix string) error {
	var wrong []error
	for _, d := range []struct {
		key                string
		value, least, most time.Duration
	}{
		{"refresh", c.Refresh, 100 * time.Millisecond, time.Hour}, {"timeout", c.Timeout, 100 * time.Millisecond, time.Minute},
		{"first", c.First, time.Second, 10 * time.Minute}, {"empty_after", c.EmptyAfter, 0, time.Hour},
	} {
		if d.value < d.least || d.value > d.most {
			wrong = append(wrong, fmt.Errorf("%s%s: %s is not between %s and %s", prefix, d.key, d.value, d.least, d.most))
		}
	}
	// Not quoted: what is wrong with it may be that there is a password in it.
	u, err := url.Parse(c.Consul.Addr)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" || u.User != nil || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" {
		wrong = append(wrong, fmt.Errorf("%sconsul.addr: is not a URL as in http://127.0.0.1:8500, without user, path or query; a token is for %sconsul.token",
			prefix, prefix))
	} else if c.Consul.Roots != "" && u.Scheme != "https" {
		wrong = append(wrong, fmt.Errorf("%sconsul.roots: is for https, and %sconsul.addr is not https", prefix, prefix))
	}
	return errors.Join(wrong...)
}

// Options are what sources have in common.
type Options struct {
	Config
	Resolver *net.Resolver // nil for the machine's
	Log      *slog.Logger
}

const example = "give addresses as in 127.0.0.1:9101, or dns://name:port, srv://_http._tcp.name, consul://service"

// Parse makes a source of a list of addresses, or of one URL. Nobody is asked yet.
func Parse(targets []string, o Options) (Source, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Resolver == nil {
		o.Resolver = &net.Resolver{PreferGo: true}
	}
	if len(targets) == 0 {
		return nil, errors.New("there are no endpoints; " + example)
	}
	if !slices.ContainsFunc(targets, func(s string) bool { return strings.Contains(s, "://") }) {
		return parseList(targets)
	}
	if len(targets) > 1 {
		return nil, fmt.Errorf("%q: a URL says where all endpoints are, so it stands alone", targets)
	}
	target := targets[0]
	u, err := url.Parse(target)
	if err != nil {
		return nil, fmt.Errorf("%q is no URL; %s", target, example)
	}
	if u.User != nil || u.Path != "" || u.Fragment != "" || u.Hostname() == "" {
		return nil, fmt.Errorf("%q has more or less than a name; %s", target, example)
	}
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return nil, fmt.Errorf("%q: what follows the ? cannot be read", target)
	}
	for key := range query {
		if u.Scheme != "consul" || (key != "tag" && key != "dc") {
			return nil, fmt.Errorf("%q: there is no %q; consul:// has tag and dc, the others have nothing after a ?", target, key)
		}
	}
	switch u.Scheme {
	case "dns":
		if _, err := netip.ParseAddr(u.Hostname()); err == nil {
			return nil, fmt.Errorf("%q is an address, not a name; write %s", target, u.Host)
		}
		if err := checkPort(u.Port()); err != nil {
			return nil, fmt.Errorf("%q: %w; DNS does not tell it, as in dns://payments.internal:9101", target, err)
		}
		return addresses(u.Hostname(), u.Port(), o), nil
	case "srv":
		if u.Port() != "" {
			return nil, fmt.Errorf("%q: SRV records tell the ports; leave %s out", target, u.Port())
		}
		return services(u.Hostname(), o), nil
	case "consul":
		if u.Port() != "" || len(query["dc"]) > 1 {
			return nil, fmt.Errorf("%q: consul:// takes the name of a service, tags and one dc, as in consul://payments?tag=blue", target)
		}
		return instances(u.Hostname(), query["tag"], query.Get("dc"), o)
	case "http", "https":
		return nil, fmt.Errorf("%q: leave %s:// out; the protocol is configured beside the endpoints", target, u.Scheme)
	}
	return nil, fmt.Errorf("%q: %s:// is not known; %s", target, u.Scheme, example)
}

// list is a source that never changes.
type list []Endpoint

func parseList(targets []string) (Source, error) {
	var l list
	for _, target := range targets {
		addr, parameters, weighted := strings.Cut(target, "?")
		e := Endpoint{Addr: addr, Weight: 1}
		if weighted {
			text, found := strings.CutPrefix(parameters, "weight=")
			n, err := strconv.Atoi(text)
			if !found || err != nil || n < 1 || n > 1000 {
				return nil, fmt.Errorf("%q: after the ? there may be a weight from 1 to 1000, as in 127.0.0.1:9101?weight=2", target)
			}
			e.Weight = n
		}
		host, port, err := net.SplitHostPort(addr)
		if err != nil || host == "" || strings.ContainsAny(host, "/@ ") {
			return nil, fmt.Errorf("%q is not host:port; %s", target, example)
		}
		if err := checkPort(port); err != nil {
			return nil, fmt.Errorf("%q: %w", target, err)
		}
		if slices.ContainsFunc(l, func(other Endpoint) bool { return other.Addr == addr }) {
			return nil, fmt.Errorf("%q is there twice; give it a weight instead, as in %s?weight=2", target, addr)
		}
		l = append(l, e)
	}
	return list(sorted(l)), nil
}

// Watch tells the list, and then nothing more.
func (l list) Watch(ctx context.Context, update func([]Endpoint)) error {
	update(slices.Clone(l))
	<-ctx.Done()
	return nil
}

func checkPort(port string) error {
	if port == "" {
		return errors.New("has no port")
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return fmt.Errorf("%s is not a port", port)
	}
	return nil
}

// sorted is the list by address, each once, with its highest weight.
func sorted(list []Endpoint) []Endpoint {
	slices.SortFunc(list, func(a, b Endpoint) int { return cmp.Or(strings.Compare(a.Addr, b.Addr), b.Weight-a.Weight) })
	return slices.CompactFunc(list, func(a, b Endpoint) bool { return a.Addr == b.Addr })
}
