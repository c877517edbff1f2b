package proxy

import (
	"errors"
	"fmt"
	"math"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"github.com/banyan-go/banyan/internal/certs"
	"github.com/banyan-go/banyan/internal/token"
	"github.com/banyan-go/banyan/proxy/aggregate"
	"github.com/banyan-go/banyan/proxy/cache"
	"github.com/banyan-go/banyan/proxy/compress"
	"github.com/banyan-go/banyan/proxy/discovery"
	"github.com/banyan-go/banyan/proxy/gate"
	"github.com/banyan-go/banyan/proxy/shadow"
	"github.com/banyan-go/banyan/proxy/transform"
	"github.com/banyan-go/banyan/proxy/upstream"
)

// Config is the gateway's.
type Config struct {
	Hosts          []string `mapstructure:"hosts"`           // host names that are answered; none means any
	TrustedProxies []string `mapstructure:"trusted_proxies"` // networks whose X-Forwarded-For and -Proto are believed
	AccessLog      bool     `mapstructure:"access_log"`      // one line per request
	Limits         Limits   `mapstructure:"limits"`
	Rate           Rates    `mapstructure:"rate"`
	CORS           CORS     `mapstructure:"cors"`
	Policy         []Policy `mapstructure:"policy"` // what routes ask for beside what they ask for themselves
	Pause          Pause    `mapstructure:"pause"`  // requests that wait while the owner of their module changes

	TLS       certs.Config         `mapstructure:"tls"`       // of the public port
	Certs     string               `mapstructure:"certs"`     // folder of `banyan certs`: our own processes then speak mTLS with each other
	Issuers   []token.IssuerConfig `mapstructure:"issuers"`   // of other tokens than ours that are believed
	Transform transform.Config     `mapstructure:"transform"` // paths and headers that are changed
	Cache     cache.Config         `mapstructure:"cache"`
	Compress  compress.Config      `mapstructure:"compress"`
	Aggregate aggregate.Config     `mapstructure:"aggregate"` // answers that are put together from several
	Upstreams []Foreign            `mapstructure:"upstreams"` // that are no processes of ours
	Discovery discovery.Config     `mapstructure:"discovery"`
	Remote    upstream.Config      `mapstructure:"remote"` // how the second process of a module is treated
	Shadow    shadow.Config        `mapstructure:"shadow"` // comparison of its answers
	Gates     gate.Config          `mapstructure:"gates"`  // what moves a module by itself, and back
}

// Limits bound a request.
type Limits struct {
	HeaderBytes int           `mapstructure:"header_bytes"`
	BodyBytes   int64         `mapstructure:"body_bytes"`  // unless the route says otherwise
	ReadHeader  time.Duration `mapstructure:"read_header"` // time to send the header
	ReadBody    time.Duration `mapstructure:"read_body"`   // time to send the body
	Request     time.Duration `mapstructure:"request"`     // time to be answered; 0 is without end; streams have none
	Write       time.Duration `mapstructure:"write"`       // time to take the answer; 0 is without end; streams have none
	Idle        time.Duration `mapstructure:"idle"`        // time until a connection that is not used is closed

	StreamsPerClient int `mapstructure:"streams_per_client"` // at a time, of a user, or of an address without a token; 0 is no limit
}

// Rates are the rate limits. Staff and admins have none.
type Rates struct {
	Customer  Rate `mapstructure:"customer"`  // of a user
	Anonymous Rate `mapstructure:"anonymous"` // of an address, without a token
	Login     Rate `mapstructure:"login"`     // of an address, on routes where passwords can be tried
	Clients   int  `mapstructure:"clients"`   // users and addresses remembered at most, per limit
}

// Rate is a token bucket.
type Rate struct {
	PerSecond float64 `mapstructure:"per_second"` // 0 means no limit
	Burst     int     `mapstructure:"burst"`
}

// CORS lets pages of other origins call the API.
type CORS struct {
	Origins     []string      `mapstructure:"origins"` // as in https://shop.example; none turns CORS off
	Headers     []string      `mapstructure:"headers"` // request headers that are allowed
	Credentials bool          `mapstructure:"credentials"`
	MaxAge      time.Duration `mapstructure:"max_age"`
}

// DefaultConfig suits a shop that is reached directly.
func DefaultConfig() Config {
	together := aggregate.DefaultConfig()
	together.Aggregates = []aggregate.Aggregate{} // whoever knows the modules says what goes together
	return Config{
		Hosts: []string{}, TrustedProxies: []string{}, AccessLog: true,
		Limits: Limits{
			HeaderBytes: 64 << 10, BodyBytes: 1 << 20, ReadHeader: 5 * time.Second, ReadBody: 30 * time.Second,
			Request: 30 * time.Second, Write: 90 * time.Second, Idle: 90 * time.Second,
			StreamsPerClient: 64,
		},
		Rate: Rates{
			Customer: Rate{PerSecond: 50, Burst: 100}, Anonymous: Rate{PerSecond: 20, Burst: 60}, Login: Rate{PerSecond: 1, Burst: 10},
			Clients: 100_000,
		},
		CORS: CORS{
			Origins: []string{}, Headers: []string{"Authorization", "Content-Type", "Idempotency-Key", "X-Request-Id"}, MaxAge: 10 * time.Minute,
		},
		Policy: []Policy{}, Pause: Pause{Requests: 1000, Bytes: 64 << 20, Time: 5 * time.Second},
		TLS: certs.DefaultConfig(), Issuers: []token.IssuerConfig{}, Transform: transform.DefaultConfig(), Cache: cache.DefaultConfig(), Compress: compress.DefaultConfig(),
		Aggregate: together, Upstreams: []Foreign{}, Discovery: discovery.DefaultConfig(), Remote: upstream.DefaultConfig(),
		Shadow: shadow.DefaultConfig(), Gates: gate.DefaultConfig(),
	}
}

// Validate names the wrong key and the way out.
func (c Config) Validate() error {
	var wrong []error
	note := func(format string, args ...any) { wrong = append(wrong, fmt.Errorf(format, args...)) }
	for _, h := range c.Hosts {
		if name := strings.TrimPrefix(h, "*."); name == "" || h != strings.ToLower(h) || strings.ContainsAny(name, "*/:@ ") {
			note(`gateway.hosts: %q is not a host name in lower case without port, as in shop.example or *.shop.example`, h)
		}
	}
	if _, err := networks(c.TrustedProxies); err != nil {
		wrong = append(wrong, err)
	}
	if c.Limits.HeaderBytes < 4096 || c.Limits.HeaderBytes > 1<<20 {
		note("gateway.limits.header_bytes: %d is not between 4096 and 1048576", c.Limits.HeaderBytes)
	}
	if c.Limits.BodyBytes < 1024 || c.Limits.BodyBytes > 64<<20 {
		note("gateway.limits.body_bytes: %d is not between 1024 and 67108864", c.Limits.BodyBytes)
	}
	if c.Limits.StreamsPerClient < 0 {
		note("gateway.limits.streams_per_client: %d is not 0 (no limit) or more", c.Limits.StreamsPerClient)
	}
	for _, d := range []struct {
		key   string
		value time.Duration
	}{
		{"read_header", c.Limits.ReadHeader}, {"read_body", c.Limits.ReadBody}, {"request", c.Limits.Request},
		{"write", c.Limits.Write}, {"idle", c.Limits.Idle},
	} {
		if (d.key == "request" || d.key == "write") && d.value == 0 {
			continue
		}
		if d.value < time.Millisecond || d.value > time.Hour {
			note("gateway.limits.%s: %s is not between 1ms and 1h", d.key, d.value)
		}
	}
	if c.Limits.Write >= time.Millisecond && c.Limits.Write < c.Limits.ReadBody {
		note("gateway.limits.write: %s is less than gateway.limits.read_body, %s, and is counted from the same moment", c.Limits.Write, c.Limits.ReadBody)
	}
	if w := c.Limits.Write; w > 0 && (c.Limits.Request == 0 || c.Limits.Request >= w) {
		// The connection is cut then, and a good answer with it.
		note("gateway.limits.request: %s is not less than gateway.limits.write, %s, after which nothing can be answered; make it less, or gateway.limits.write more (0s is without end)", c.Limits.Request, w)
	}
	for _, r := range []struct {
		key   string
		value Rate
	}{{"customer", c.Rate.Customer}, {"anonymous", c.Rate.Anonymous}, {"login", c.Rate.Login}} {
		if !(r.value.PerSecond >= 0) || math.IsInf(r.value.PerSecond, 0) {
			note("gateway.rate.%s.per_second: %v is not 0 (no limit) or more", r.key, r.value.PerSecond)
		}
		if r.value.PerSecond > 0 && r.value.Burst < 1 {
			note("gateway.rate.%s.burst: %d lets nothing pass; give at least 1, or set per_second to 0 for no limit", r.key, r.value.Burst)
		}
	}
	if c.Rate.Clients < 100 || c.Rate.Clients > 10_000_000 {
		note("gateway.rate.clients: %d is not between 100 and 10000000", c.Rate.Clients)
	}
	for _, o := range c.CORS.Origins {
		if o == "*" {
			if c.CORS.Credentials {
				note("gateway.cors.origins: * cannot be had together with gateway.cors.credentials; name the origins")
			}
			continue
		}
		if u, err := url.Parse(o); err != nil || (u.Scheme != "https" && u.Scheme != "http") || u.Host == "" || o != u.Scheme+"://"+u.Host || o != strings.ToLower(o) {
			note("gateway.cors.origins: %q is not an origin as in https://shop.example, or *", o)
		}
	}
	for _, h := range c.CORS.Headers {
		if !headerName(h) {
			note("gateway.cors.headers: %q is not the name of a header", h)
		}
	}
	if c.CORS.MaxAge < 0 || c.CORS.MaxAge > 24*time.Hour {
		note("gateway.cors.max_age: %s is not between 0s and 24h", c.CORS.MaxAge)
	}
	if len(c.Remote.Endpoints) > 0 {
		note("gateway.remote.endpoints: is not empty; each module has its own, in modules.NAME.endpoints")
	}
	remote := c.Remote
	remote.Endpoints = []string{"http://127.0.0.1:1"} // each module has its own
	add := func(err error) {
		if err != nil {
			wrong = append(wrong, err)
		}
	}
	add(c.Pause.check())
	for i, p := range c.Policy {
		add(p.check(fmt.Sprintf("gateway.policy[%d]", i)))
	}
	add(c.TLS.Validate("gateway.tls."))
	add(token.ValidateIssuers("gateway.issuers", c.Issuers))
	add(c.Transform.Validate("gateway.transform", checkPath))
	add(c.Cache.Validate("gateway.cache"))
	add(c.Compress.Validate("gateway.compress"))
	add(c.Discovery.Validate("gateway.discovery."))
	add(remote.Validate("gateway.remote"))
	add(c.Shadow.Validate("gateway.shadow"))
	add(c.Gates.Validate("gateway.gates"))
	for i, f := range c.Upstreams {
		add(f.check(fmt.Sprintf("gateway.upstreams[%d]", i)))
	}
	return errors.Join(wrong...)
}

// checkPath is what every path is held against.
func checkPath(path string) error {
	_, err := canonicalPath(&url.URL{Path: path})
	return err
}

// headerName says whether s can be the name of a header.
func headerName(s string) bool {
	for _, c := range []byte(s) {
		if c <= ' ' || c >= 0x7f || strings.IndexByte(`"(),/:;<=>?@[\]{}`, c) >= 0 {
			return false
		}
	}
	return s != ""
}

// networks reads networks and single addresses.
func networks(list []string) ([]netip.Prefix, error) {
	prefixes := make([]netip.Prefix, 0, len(list))
	for _, s := range list {
		p, err := netip.ParsePrefix(s)
		if err != nil {
			a, err := netip.ParseAddr(s)
			if err != nil || a.Zone() != "" {
				return nil, fmt.Errorf("gateway.trusted_proxies: %q is not a network as in 10.0.0.0/8, or an address", s)
			}
			p = netip.PrefixFrom(a.Unmap(), a.Unmap().BitLen())
		}
		if p.Addr().Is4In6() {
			return nil, fmt.Errorf("gateway.trusted_proxies: write %q as an IPv4 network", s)
		}
		prefixes = append(prefixes, p.Masked())
	}
	return prefixes, nil
}
