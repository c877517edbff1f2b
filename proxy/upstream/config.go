package upstream

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// The protocols that an upstream may speak.
const (
	H1  = "h1"  // HTTP/1.1, with TLS for https:// endpoints
	H2C = "h2c" // HTTP/2 without TLS
	H2  = "h2"  // HTTP/2 over TLS
)

// The ways to choose an endpoint.
const (
	RoundRobin    = "round_robin"
	LeastInFlight = "least_in_flight" // the better one of two that are drawn
)

// The ways to carry HTTP/1.1.
const (
	Standard    = "standard"    // net/http's Transport
	Synchronous = "synchronous" // in the handler's goroutine: less work per request, for h1 without TLS
)

// Config is one upstream's.
type Config struct {
	Endpoints  []string `mapstructure:"endpoints"`   // http://host:port or https://host:port; none if they are discovered
	Protocol   string   `mapstructure:"protocol"`    // h1, h2c or h2
	Balance    string   `mapstructure:"balance"`     // round_robin or least_in_flight
	Transport  string   `mapstructure:"transport"`   // standard or synchronous
	ReplayBody int      `mapstructure:"replay_body"` // bytes; a longer body is streamed, and sent once
	// HeaderBytes bounds the header of a request as HTTP/2 counts it: names, values, and 32 for each field. Over h2 it must
	// not be more than the upstream takes: some upstreams close the connection then, with the requests of all others.
	HeaderBytes int `mapstructure:"header_bytes"`
	// StreamIdle cuts a WebSocket on which nothing moves for this long, and a stream whose client takes nothing, or sends nothing of a
	// body that it has begun while nothing comes back.
	StreamIdle time.Duration `mapstructure:"stream_idle"`
	Pool       Pool          `mapstructure:"pool"`
	Health     Health        `mapstructure:"health"`
	Breaker    Breaker       `mapstructure:"breaker"`
	Retry      Retry         `mapstructure:"retry"`
	Bulkhead   Bulkhead      `mapstructure:"bulkhead"`
	Drain      Drain         `mapstructure:"drain"`
}

// Pool is about the connections to an endpoint.
type Pool struct {
	MaxConns int           `mapstructure:"max_conns"` // requests of one endpoint at a time over h1, without streams
	Idle     time.Duration `mapstructure:"idle"`      // must be shorter than the upstream's own
	Connect  time.Duration `mapstructure:"connect"`   // to connect, with the TLS handshake
	Header   time.Duration `mapstructure:"header"`    // from the end of the request to the header of the answer; streams have none
}

// Health is how it is found out who is well.
type Health struct {
	Active  Active  `mapstructure:"active"`
	Passive Passive `mapstructure:"passive"`
	// MaxOut is the greatest share of endpoints that is left out, in percent. If more are unwell all are used.
	MaxOut int `mapstructure:"max_out"`
}

// Active asks each endpoint.
type Active struct {
	Path     string        `mapstructure:"path"` // is answered with 2xx by whoever is well; "" asks nobody
	Interval time.Duration `mapstructure:"interval"`
	Timeout  time.Duration `mapstructure:"timeout"`
	Fails    int           `mapstructure:"fails"`  // in a row, to be left out; the first answer of all decides alone
	Passes   int           `mapstructure:"passes"` // in a row, to be used again
}

// Passive watches what becomes of requests.
type Passive struct {
	Consecutive int           `mapstructure:"consecutive"` // failures in a row, to be left out; 0 leaves nobody out
	Eject       time.Duration `mapstructure:"eject"`       // for this long
}

// Breaker stops sending to a module that only fails.
type Breaker struct {
	Consecutive int           `mapstructure:"consecutive"` // requests in a row that got no answer; 0 does not count them
	Ratio       int           `mapstructure:"ratio"`       // percent of failures, 5xx among them, in the window; 0 does not look at it
	Requests    int           `mapstructure:"requests"`    // fewer in the window say nothing about the ratio
	Window      time.Duration `mapstructure:"window"`
	Open        time.Duration `mapstructure:"open"`   // until it is tried again
	Probes      int           `mapstructure:"probes"` // requests that are let through to try; all must succeed
}

// Retry is about sending a request again.
type Retry struct {
	Attempts int `mapstructure:"attempts"` // of a request, with the first one; 1 sends nothing again
	Budget   int `mapstructure:"budget"`   // percent of requests that may be sent again, beside those that were not sent at all; 0 sends nothing again
	Reserve  int `mapstructure:"reserve"`  // that may be sent again before the budget has grown
}

// Bulkhead bounds what a module takes of the gateway.
type Bulkhead struct {
	MaxInFlight int           `mapstructure:"max_in_flight"` // requests, over all endpoints
	MaxQueue    int           `mapstructure:"max_queue"`     // that wait for room
	QueueWait   time.Duration `mapstructure:"queue_wait"`    // at most
	MaxStreams  int           `mapstructure:"max_streams"`   // streams and WebSockets; they do not wait and take no room of requests
}

// Drain is about leaving an upstream.
type Drain struct {
	Requests time.Duration `mapstructure:"requests"` // requests have this long to end
	Streams  time.Duration `mapstructure:"streams"`  // so have streams and WebSockets, which are told to come back
	Jitter   time.Duration `mapstructure:"jitter"`   // they are told at random moments within this time
}

// DefaultConfig suits a module of our own on the same network.
func DefaultConfig() Config {
	return Config{
		Endpoints: []string{}, Protocol: H2C, Balance: LeastInFlight, Transport: Standard, ReplayBody: 64 << 10, HeaderBytes: 64 << 10, StreamIdle: 10 * time.Minute,
		Pool: Pool{MaxConns: 256, Idle: time.Minute, Connect: 500 * time.Millisecond, Header: 30 * time.Second},
		Health: Health{
			Active:  Active{Path: "/readyz", Interval: 2 * time.Second, Timeout: time.Second, Fails: 3, Passes: 2},
			Passive: Passive{Consecutive: 5, Eject: 10 * time.Second}, MaxOut: 50,
		},
		Breaker:  Breaker{Consecutive: 5, Ratio: 50, Requests: 20, Window: 10 * time.Second, Open: 5 * time.Second, Probes: 3},
		Retry:    Retry{Attempts: 2, Budget: 10, Reserve: 50},
		Bulkhead: Bulkhead{MaxInFlight: 256, MaxQueue: 256, QueueWait: 100 * time.Millisecond, MaxStreams: 1024},
		Drain:    Drain{Requests: 30 * time.Second, Streams: time.Minute, Jitter: 5 * time.Second},
	}
}

// Validate names the wrong key and the way out. prefix is where the configuration stands, as in modules.payments.target.
func (c Config) Validate(prefix string) error {
	var wrong []error
	note := func(key, format string, args ...any) {
		wrong = append(wrong, fmt.Errorf("%s.%s: %w", prefix, key, fmt.Errorf(format, args...)))
	}
	oneOf := func(key, value string, allowed ...string) {
		for _, a := range allowed {
			if value == a {
				return
			}
		}
		note(key, "%q is not %s", value, strings.Join(allowed, " or "))
	}
	within := func(key string, value, least, most int) {
		if value < least || value > most {
			note(key, "%d is not between %d and %d", value, least, most)
		}
	}
	lasts := func(key string, value, least, most time.Duration) {
		if value < least || value > most {
			note(key, "%s is not between %s and %s", value, least, most)
		}
	}
	oneOf("protocol", c.Protocol, H1, H2C, H2)
	oneOf("balance", c.Balance, RoundRobin, LeastInFlight)
	oneOf("transport", c.Transport, Standard, Synchronous)
	seen := map[string]bool{}
	for _, raw := range c.Endpoints {
		e, err := parseEndpoint(raw, c.Protocol)
		switch {
		case err != nil:
			note("endpoints", "%w", err)
		case seen[e.addr]:
			note("endpoints", "%q is named twice", raw)
		case c.Transport == Synchronous && e.secure:
			note("transport", "synchronous is for http:// endpoints, and %q is none; set it to standard", raw)
		}
		seen[e.addr] = true
	}
	if c.Transport == Synchronous && c.Protocol != H1 {
		note("transport", "synchronous is for %s.protocol h1, not %s; set it to standard", prefix, c.Protocol)
	}
	within("replay_body", c.ReplayBody, 0, 16<<20)
	within("header_bytes", c.HeaderBytes, 1024, 1<<20)
	lasts("stream_idle", c.StreamIdle, time.Second, 24*time.Hour)
	within("pool.max_conns", c.Pool.MaxConns, 1, 65536)
	lasts("pool.idle", c.Pool.Idle, 100*time.Millisecond, time.Hour)
	lasts("pool.connect", c.Pool.Connect, time.Millisecond, time.Minute)
	lasts("pool.header", c.Pool.Header, time.Millisecond, 10*time.Minute)
	if a := c.Health.Active; a.Path != "" {
		if u, err := url.ParseRequestURI(a.Path); err != nil || !strings.HasPrefix(a.Path, "/") || u.Host != "" {
			note("health.active.path", `%q is not a path as in /readyz, or "" to ask nobody`, a.Path)
		}
		lasts("health.active.interval", a.Interval, 10*time.Millisecond, time.Hour)
		lasts("health.active.timeout", a.Timeout, time.Millisecond, time.Minute)
		within("health.active.fails", a.Fails, 1, 1000)
		within("health.active.passes", a.Passes, 1, 1000)
	}
	within("health.passive.consecutive", c.Health.Passive.Consecutive, 0, 1_000_000)
	lasts("health.passive.eject", c.Health.Passive.Eject, time.Millisecond, time.Hour)
	within("health.max_out", c.Health.MaxOut, 0, 100)
	within("breaker.consecutive", c.Breaker.Consecutive, 0, 1_000_000)
	within("breaker.ratio", c.Breaker.Ratio, 0, 100)
	within("breaker.requests", c.Breaker.Requests, 1, 1_000_000)
	lasts("breaker.window", c.Breaker.Window, 100*time.Millisecond, time.Hour)
	lasts("breaker.open", c.Breaker.Open, time.Millisecond, time.Hour)
	within("breaker.probes", c.Breaker.Probes, 1, 1000)
	within("retry.attempts", c.Retry.Attempts, 1, 5)
	within("retry.budget", c.Retry.Budget, 0, 100)
	within("retry.reserve", c.Retry.Reserve, 0, 100_000)
	within("bulkhead.max_in_flight", c.Bulkhead.MaxInFlight, 1, 1_000_000)
	within("bulkhead.max_queue", c.Bulkhead.MaxQueue, 0, 1_000_000)
	lasts("bulkhead.queue_wait", c.Bulkhead.QueueWait, 0, time.Minute)
	within("bulkhead.max_streams", c.Bulkhead.MaxStreams, 0, 1_000_000)
	lasts("drain.requests", c.Drain.Requests, 0, time.Hour)
	lasts("drain.streams", c.Drain.Streams, 0, time.Hour)
	lasts("drain.jitter", c.Drain.Jitter, 0, time.Hour)
	if c.Drain.Jitter > c.Drain.Streams {
		note("drain.jitter", "%s is more than %s.drain.streams, %s: some would be cut before they are told", c.Drain.Jitter, prefix, c.Drain.Streams)
	}
	return errors.Join(wrong...)
}

// address is an endpoint as it is configured.
type address struct {
	addr   string // host:port
	secure bool
	weight int
}

// parseEndpoint reads http://host:port. The scheme must suit the protocol, so that nobody believes that TLS is spoken
// where it is not.
func parseEndpoint(raw, protocol string) (address, error) {
	u, err := url.Parse(raw)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || raw != u.Scheme+"://"+u.Host {
		return address{}, fmt.Errorf("%q is not an endpoint as in http://127.0.0.1:9101 or https://payments.internal:9101", raw)
	}
	if err := checkAddr(u.Host); err != nil {
		return address{}, err
	}
	a := address{addr: u.Host, secure: u.Scheme == "https"}
	switch {
	case protocol == H2C && a.secure:
		return a, fmt.Errorf("%q speaks TLS, and h2c has none; set the protocol to h2", raw)
	case protocol == H2 && !a.secure:
		return a, fmt.Errorf("%q speaks no TLS, and h2 needs it; set the protocol to h2c", raw)
	}
	return a, nil
}

func checkAddr(addr string) error {
	host, port, err := net.SplitHostPort(addr)
	if n, perr := strconv.Atoi(port); err != nil || host == "" || perr != nil || n < 1 || n > 65535 || strings.ContainsAny(host, " /@?#") {
		return fmt.Errorf("%q is not host:port", addr)
	}
	return nil
}
