package proxy_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/banyan-go/banyan/internal/clock"
	"github.com/banyan-go/banyan/internal/errs"
	"github.com/banyan-go/banyan/internal/identity"
	"github.com/banyan-go/banyan/internal/module"
	"github.com/banyan-go/banyan/internal/rest"
	"github.com/banyan-go/banyan/internal/telemetry"
	"github.com/banyan-go/banyan/internal/token"
	"github.com/banyan-go/banyan/proxy"
)

var noon = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

// shop is a gateway with a module behind it that says what it got.
type shop struct {
	t       *testing.T
	gate    *proxy.Gateway
	server  *httptest.Server
	clock   *clock.Simulated
	logs    *logs
	metrics *prometheus.Registry
	tokens  *tokens
	local   http.HandlerFunc // takes the place of the usual module if it is set before the request
}

// logs is a buffer for many writers.
type logs struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logs) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(b)
}

func (l *logs) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// tokens believes "<role>:<subject>" until noon plus 15 minutes, and counts how often it is asked.
type tokens struct {
	mu      sync.Mutex
	asked   int
	revoked map[string]bool
}

func (v *tokens) Verify(raw string, now time.Time) (token.Claims, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.asked++
	role, subject, found := strings.Cut(raw, ":")
	expires := noon.Add(15 * time.Minute)
	if !found {
		return token.Claims{}, errs.New(errs.Unauthenticated, "the access token is not valid")
	}
	if !now.Before(expires) {
		return token.Claims{}, errs.New(errs.Unauthenticated, "the access token has expired")
	}
	return token.Claims{Subject: subject, Role: identity.Role(role), Session: "s-" + subject, IssuedAt: noon, ExpiresAt: expires}, nil
}

func (v *tokens) Revoked(session, subject string, _ time.Time) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.revoked[session] || v.revoked[subject]
}

// seen is what the module behind the gateway got.
type seen struct {
	Method, Path, URI, Host, Remote, ClientIP, Correlation, Body string
	Header                                                       http.Header
	Identity                                                     identity.Identity
}

func routes() []module.Descriptor {
	return []module.Descriptor{{Name: "orders", Routes: []module.Route{
		{ID: "list", Method: "GET", Path: "/api/orders", Class: module.Read},
		{ID: "get", Method: "GET", Path: "/api/orders/{id}", Class: module.Read, Auth: identity.Customer},
		{ID: "place", Method: "POST", Path: "/api/orders", Class: module.Write, Auth: identity.Customer},
		{ID: "small", Method: "POST", Path: "/api/small", Class: module.Write, MaxBody: 16},
		{ID: "report", Method: "GET", Path: "/api/reports", Class: module.Read, Auth: identity.Staff},
		{ID: "wipe", Method: "DELETE", Path: "/api/orders/{id}", Class: module.Write, Auth: identity.Admin},
		{ID: "login", Method: "POST", Path: "/api/login", Class: module.Write, Limit: "login", Fresh: true},
		{ID: "follow", Method: "GET", Path: "/api/follow", Class: module.Stream},
	}}}
}

func open(t *testing.T, change func(*proxy.Config, *proxy.Options)) *shop {
	t.Helper()
	s := &shop{t: t, clock: clock.NewSimulated(noon), logs: &logs{}, metrics: prometheus.NewRegistry(), tokens: &tokens{revoked: map[string]bool{}}}
	cfg := proxy.DefaultConfig()
	options := proxy.Options{
		Modules: routes(), Verifier: s.tokens, Revocations: s.tokens, Clock: s.clock, Registry: s.metrics,
		Log: telemetry.NewLogger(s.logs, telemetry.DefaultLogConfig()),
		Local: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if s.local != nil {
				s.local(w, r)
				return
			}
			body, err := io.ReadAll(r.Body)
			if err != nil {
				t.Error(err)
			}
			_ = json.NewEncoder(w).Encode(seen{
				Method: r.Method, Path: r.URL.Path, URI: r.RequestURI, Host: r.URL.Host, Remote: r.RemoteAddr, ClientIP: rest.ClientIP(r.Context()),
				Correlation: telemetry.Correlation(r.Context()), Body: string(body), Header: r.Header, Identity: identity.From(r.Context()),
			})
		}),
	}
	if change != nil {
		change(&cfg, &options)
	}
	gate, err := proxy.New(cfg, options)
	if err != nil {
		t.Fatal(err)
	}
	s.gate = gate
	s.server = httptest.NewUnstartedServer(gate)
	s.server.Config = gate.Server()
	s.server.Start()
	t.Cleanup(s.server.Close)
	return s
}

type reply struct {
	status int
	header http.Header
	body   string
	seen   seen
}

func (s *shop) do(method, path, body string, header ...string) reply {
	s.t.Helper()
	var b io.Reader
	if body != "" {
		b = strings.NewReader(body)
	}
	r, err := http.NewRequest(method, s.server.URL+path, b)
	if err != nil {
		s.t.Fatal(err)
	}
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i < len(header); i += 2 {
		switch {
		case header[i] == "Host":
			r.Host = header[i+1]
		case header[i+1] == "":
			r.Header.Del(header[i])
		default:
			r.Header[header[i]] = append(r.Header[header[i]], header[i+1]) // as it is spelled
		}
	}
	if header := r.Header["Content-Type"]; len(header) == 2 {
		r.Header["Content-Type"] = header[1:]
	}
	answer, err := http.DefaultTransport.RoundTrip(r)
	if err != nil {
		s.t.Fatalf("%s %s: %v", method, path, err)
	}
	defer answer.Body.Close()
	return s.read(answer)
}

func (s *shop) read(answer *http.Response) reply {
	s.t.Helper()
	raw, err := io.ReadAll(answer.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	got := reply{status: answer.StatusCode, header: answer.Header, body: string(raw)}
	if got.status == http.StatusOK {
		_ = json.Unmarshal(raw, &got.seen) // other handlers answer otherwise
	}
	if got.status >= 400 {
		var p rest.Problem
		if err := json.Unmarshal(raw, &p); err != nil || p.Status != got.status || p.Kind == "" || p.RequestID == "" ||
			got.header.Get("Content-Type") != "application/problem+json" {
			s.t.Errorf("status %d is not a problem+json: %v %s", got.status, got.header, raw)
		}
	}
	return got
}

// raw sends bytes as they are and reads one answer.
func (s *shop) raw(request string) (*http.Response, string) {
	s.t.Helper()
	conn, err := net.Dial("tcp", s.server.Listener.Addr().String())
	if err != nil {
		s.t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
	if _, err := io.WriteString(conn, request); err != nil {
		s.t.Fatal(err)
	}
	answer, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		s.t.Fatalf("%q: %v", request, err)
	}
	defer answer.Body.Close()
	body, _ := io.ReadAll(answer.Body)
	return answer, string(body)
}

const customer = "Bearer customer:u1"

func TestRequests(t *testing.T) {
	t.Parallel()
	s := open(t, nil)
	long := strings.Repeat("x", 300)
	tests := []struct {
		name, method, path, body string
		header                   []string
		want                     int
		says                     string // in the body
	}{
		{"public", "GET", "/api/orders", "", nil, 200, ""},
		{"head", "HEAD", "/api/orders", "", nil, 200, ""},
		{"unknown", "GET", "/api/nothing", "", nil, 404, "not_found"},
		{"unknown outside", "GET", "/admin", "", nil, 404, "not_found"},
		{"wrong method", "DELETE", "/api/orders", "", nil, 405, "GET, HEAD, OPTIONS, POST"},
		{"odd method", "BREW", "/api/orders", "", nil, 405, ""},
		{"ambiguous path", "GET", "/api//orders", "", nil, 400, "//"},
		{"encoded slash", "GET", "/api%2forders", "", nil, 400, "encoded slash"},
		{"dots", "GET", "/api/x/../orders", "", nil, 400, "dot"},
		{"matrix", "GET", "/api/orders;a=b", "", nil, 400, ""},
		{"NUL in query", "GET", "/api/orders?q=%00", "", nil, 400, "NUL"},
		{"no token", "GET", "/api/orders/7", "", nil, 401, "sign in first"},
		{"bad token", "GET", "/api/orders/7", "", []string{"Authorization", "Bearer forged"}, 401, "not valid"},
		{"other scheme", "GET", "/api/orders/7", "", []string{"Authorization", "Basic YTpi"}, 401, "sign in first"},
		{"two tokens", "GET", "/api/orders/7", "", []string{"Authorization", customer, "Authorization", customer}, 400, "more than one"},
		{"huge token", "GET", "/api/orders/7", "", []string{"Authorization", "Bearer " + strings.Repeat("a", 9000)}, 401, "not valid"},
		{"token", "GET", "/api/orders/7", "", []string{"Authorization", customer}, 200, ""},
		{"scheme in small letters", "GET", "/api/orders/7", "", []string{"Authorization", "bearer customer:u1"}, 200, ""},
		{"bad token on a public route", "GET", "/api/orders", "", []string{"Authorization", "Bearer forged"}, 200, ""},
		{"role too small", "GET", "/api/reports", "", []string{"Authorization", customer}, 403, "role staff"},
		{"role", "GET", "/api/reports", "", []string{"Authorization", "Bearer staff:s1"}, 200, ""},
		{"greater role", "GET", "/api/reports", "", []string{"Authorization", "Bearer admin:a1"}, 200, ""},
		{"post", "POST", "/api/orders", `{"a":1}`, []string{"Authorization", customer}, 200, ""},
		{"post without body", "POST", "/api/orders", "", []string{"Authorization", customer}, 200, ""},
		{"delete", "DELETE", "/api/orders/7", "", []string{"Authorization", "Bearer admin:a1"}, 200, ""},
		{"charset", "POST", "/api/orders", `{"a":1}`, []string{"Authorization", customer, "Content-Type", "application/json; charset=UTF-8"}, 200, ""},
		{"other charset", "POST", "/api/orders", `{"a":1}`, []string{"Authorization", customer, "Content-Type", "application/json; charset=utf-16"}, 415, ""},
		{"form", "POST", "/api/orders", `a=1`, []string{"Authorization", customer, "Content-Type", "application/x-www-form-urlencoded"}, 415, "application/json"},
		{"no content type", "POST", "/api/orders", `{}`, []string{"Authorization", customer, "Content-Type", ""}, 415, ""},
		{"gzip", "POST", "/api/orders", `{}`, []string{"Authorization", customer, "Content-Encoding", "gzip"}, 415, ""},
		{"body of a GET", "GET", "/api/orders", `{}`, nil, 400, "no body"},
		{"body of 10 MB", "POST", "/api/orders", `"` + strings.Repeat("a", 10<<20) + `"`, []string{"Authorization", customer}, 413, "too large"},
		{"body at the route's limit", "POST", "/api/small", `"` + strings.Repeat("a", 14) + `"`, nil, 200, ""},
		{"body over the route's limit", "POST", "/api/small", `"` + strings.Repeat("a", 15) + `"`, nil, 413, ""},
		{"NUL in body", "POST", "/api/orders", "{\"a\":\"\x00\"}", []string{"Authorization", customer}, 400, "NUL"},
		{"escaped NUL in body", "POST", "/api/orders", `{"a":"\u0000"}`, []string{"Authorization", customer}, 400, "NUL"},
		{"no NUL in body", "POST", "/api/orders", `{"a":"\\u0000"}`, []string{"Authorization", customer}, 200, ""},
		{"key", "POST", "/api/orders", `{}`, []string{"Authorization", customer, "Idempotency-Key", "k 1"}, 200, ""},
		{"key too long", "POST", "/api/orders", `{}`, []string{"Authorization", customer, "Idempotency-Key", long}, 400, "Idempotency-Key"},
		{"key not ASCII", "POST", "/api/orders", `{}`, []string{"Authorization", customer, "Idempotency-Key", "ü"}, 400, "Idempotency-Key"},
		{"two keys", "POST", "/api/orders", `{}`, []string{"Authorization", customer, "Idempotency-Key", "a", "Idempotency-Key", "b"}, 400, "Idempotency-Key"},
		{"options", "OPTIONS", "/api/orders", "", nil, 204, ""},
		{"options of nothing", "OPTIONS", "/api/nothing", "", nil, 404, ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got := s.do(test.method, test.path, test.body, test.header...)
			if got.status != test.want || !strings.Contains(got.body, test.says) {
				t.Errorf("got %d %s, want %d %s", got.status, got.body, test.want, test.says)
			}
			for name, want := range map[string]string{
				"X-Content-Type-Options": "nosniff", "X-Frame-Options": "DENY", "Cache-Control": "no-store", "Referrer-Policy": "no-referrer",
				"Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
			} {
				if got.header.Get(name) != want {
					t.Errorf("%s is %q, want %q", name, got.header.Get(name), want)
				}
			}
			if got.header.Get("X-Request-Id") == "" {
				t.Error("no X-Request-Id")
			}
			if (got.status == 401) != (got.header.Get("Www-Authenticate") != "") {
				t.Errorf("%d with WWW-Authenticate %q", got.status, got.header.Get("Www-Authenticate"))
			}
			if (got.status == 405 || got.status == 204) != (got.header.Get("Allow") != "") {
				t.Errorf("%d with Allow %q", got.status, got.header.Get("Allow"))
			}
			if test.method == "HEAD" && got.body != "" {
				t.Errorf("HEAD got a body: %s", got.body)
			}
			s.clock.Advance(5 * time.Second) // buckets fill again
			if s.clock.Now().Sub(noon) > 14*time.Minute {
				t.Fatal("the tokens have expired: too many cases")
			}
		})
	}
}

func TestTheModuleGetsACleanRequest(t *testing.T) {
	t.Parallel()
	s := open(t, nil)
	got := s.do("POST", "/api/%6frders?a=1&b=%C3%A9", `{"a":1}`,
		"Authorization", customer, "X-User-Id", "evil", "X_User_Id", "evil", "X-Banyan-Route", "remote", "X-Forwarded-For", "6.6.6.6",
		"X-Forwarded-Host", "evil", "Connection", "X-Request-Id", "Accept", "application/json", "X-Http-Method-Override", "DELETE",
		"Forwarded", "for=6.6.6.6", "X-Real-Ip", "6.6.6.6", "Idempotency-Key", "k")
	if got.status != 200 {
		t.Fatalf("%d %s", got.status, got.body)
	}
	for name := range got.seen.Header {
		switch name {
		case "Accept", "Accept-Encoding", "Content-Length", "Content-Type", "Idempotency-Key", "User-Agent":
		default:
			t.Errorf("the module gets %s", name)
		}
	}
	got.seen.Header, got.seen.Remote = nil, ""
	want := seen{
		Method: "POST", Path: "/api/orders", URI: "/api/orders?a=1&b=%C3%A9", ClientIP: "127.0.0.1", Correlation: got.header.Get("X-Request-Id"), Body: `{"a":1}`,
		Identity: identity.Identity{Subject: "u1", Role: identity.Customer, Session: "s-u1"},
	}
	if diff := cmp.Diff(got.seen, want); diff != "" {
		t.Errorf("(-got +want)\n%s", diff)
	}
}

func TestRequestID(t *testing.T) {
	t.Parallel()
	s := open(t, nil)
	for _, test := range []struct {
		given string
		kept  bool
	}{
		{"abc-1._Z", true}, {strings.Repeat("a", 64), true}, {strings.Repeat("a", 65), false}, {"a b", false}, {"a\"b", false}, {"ä", false}, {"<script>", false},
	} {
		got := s.do("GET", "/api/orders", "", "X-Request-Id", test.given)
		id := got.header.Get("X-Request-Id")
		if (id == test.given) != test.kept || id == "" || got.seen.Correlation != id {
			t.Errorf("%q is answered with %q, the module got %q", test.given, id, got.seen.Correlation)
		}
	}
}

func TestTokensAreCachedAndRevoked(t *testing.T) {
	t.Parallel()
	s := open(t, nil)
	ask := func(token string) int {
		return s.do("GET", "/api/orders/7", "", "Authorization", "Bearer "+token).status
	}
	for range 3 {
		if got := ask("customer:u1"); got != 200 {
			t.Fatalf("status %d", got)
		}
	}
	if s.tokens.asked != 1 {
		t.Errorf("verified %d times, want once", s.tokens.asked)
	}
	s.tokens.mu.Lock()
	s.tokens.revoked["s-u1"] = true
	s.tokens.mu.Unlock()
	if got := ask("customer:u1"); got != 401 {
		t.Errorf("revoked: %d, want 401", got)
	}
	if got := ask("customer:u2"); got != 200 {
		t.Errorf("another session: %d, want 200", got)
	}
	s.clock.Advance(15 * time.Minute)
	if got := ask("customer:u2"); got != 401 {
		t.Errorf("expired: %d, want 401", got)
	}
}

func TestRateLimits(t *testing.T) {
	t.Parallel()
	limited := func(t *testing.T) *shop {
		return open(t, func(c *proxy.Config, _ *proxy.Options) {
			c.TrustedProxies = []string{"127.0.0.0/8", "::1"}
			c.Rate.Customer = proxy.Rate{PerSecond: 2, Burst: 3}
			c.Rate.Anonymous = proxy.Rate{PerSecond: 1, Burst: 2}
			c.Rate.Login = proxy.Rate{PerSecond: 0.1, Burst: 1}
		})
	}
	count := func(s *shop, method, path, body string, header ...string) (passed int, last reply) {
		for range 6 {
			if last = s.do(method, path, body, header...); last.status == 200 {
				passed++
			}
		}
		return passed, last
	}
	t.Run("anonymous by address", func(t *testing.T) {
		t.Parallel()
		s := limited(t)
		passed, last := count(s, "GET", "/api/orders", "", "X-Forwarded-For", "9.9.9.9")
		if passed != 2 || last.status != 429 || last.header.Get("Retry-After") != "1" || last.header.Get("Ratelimit-Limit") != "2" ||
			last.header.Get("Ratelimit-Remaining") != "0" || last.header.Get("Ratelimit-Reset") != "1" {
			t.Errorf("%d passed, last %d %v", passed, last.status, last.header)
		}
		if got := s.do("GET", "/api/orders", "", "X-Forwarded-For", "9.9.9.8"); got.status != 200 || got.header.Get("Ratelimit-Remaining") != "1" {
			t.Errorf("another address: %d %v", got.status, got.header)
		}
		s.clock.Advance(time.Second)
		if got := s.do("GET", "/api/orders", "", "X-Forwarded-For", "9.9.9.9"); got.status != 200 {
			t.Errorf("a second later: %d", got.status)
		}
	})
	t.Run("an IPv6 client is its network", func(t *testing.T) {
		t.Parallel()
		s := limited(t)
		count(s, "GET", "/api/orders", "", "X-Forwarded-For", "2001:db8::1")
		if got := s.do("GET", "/api/orders", "", "X-Forwarded-For", "2001:db8::2:1"); got.status != 429 {
			t.Errorf("the same network: %d", got.status)
		}
		if got := s.do("GET", "/api/orders", "", "X-Forwarded-For", "2001:db8:0:1::1"); got.status != 200 {
			t.Errorf("another network: %d", got.status)
		}
	})
	t.Run("unknown paths count", func(t *testing.T) {
		t.Parallel()
		s := limited(t)
		if _, last := count(s, "GET", "/api/nothing", ""); last.status != 429 {
			t.Errorf("last %d", last.status)
		}
	})
	t.Run("customer by user", func(t *testing.T) {
		t.Parallel()
		s := limited(t)
		passed, last := count(s, "GET", "/api/orders/7", "", "Authorization", customer)
		if passed != 3 || last.status != 429 || last.header.Get("Ratelimit-Limit") != "3" {
			t.Errorf("%d passed, last %d %v", passed, last.status, last.header)
		}
		if got := s.do("GET", "/api/orders/7", "", "Authorization", "Bearer customer:u2"); got.status != 200 {
			t.Errorf("another user: %d", got.status)
		}
	})
	t.Run("staff and admin are exempt", func(t *testing.T) {
		t.Parallel()
		s := limited(t)
		for _, role := range []string{"staff", "admin"} {
			if passed, _ := count(s, "POST", "/api/login", "{}", "Authorization", "Bearer "+role+":x"); passed != 6 {
				t.Errorf("%s: %d passed", role, passed)
			}
		}
	})
	t.Run("login by address", func(t *testing.T) {
		t.Parallel()
		s := limited(t)
		passed, last := count(s, "POST", "/api/login", "{}")
		if passed != 1 || last.status != 429 {
			t.Errorf("%d passed, last %d", passed, last.status)
		}
		s.clock.Advance(2 * time.Second)
		if got := s.do("POST", "/api/login", "{}"); got.status != 429 || got.header.Get("Retry-After") != "8" {
			t.Errorf("two seconds later: %d, Retry-After %s", got.status, got.header.Get("Retry-After"))
		}
	})
	t.Run("tokens that nobody knows are work", func(t *testing.T) {
		t.Parallel()
		s := limited(t)
		for i := range 10 {
			s.do("GET", "/api/orders/7", "", "Authorization", fmt.Sprintf("Bearer forged%d", i))
		}
		if s.tokens.asked > 2 {
			t.Errorf("verified %d times", s.tokens.asked)
		}
	})
}

func TestForwardingHeadersOfTrustedProxiesOnly(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name    string
		trusted []string
		header  []string
		ip      string
		secure  bool
	}{
		{"nobody", nil, []string{"X-Forwarded-For", "9.9.9.9", "X-Forwarded-Proto", "https"}, "127.0.0.1", false},
		{"a proxy", []string{"127.0.0.0/8"}, []string{"X-Forwarded-For", "9.9.9.9", "X-Forwarded-Proto", "https"}, "9.9.9.9", true},
		{"a forged beginning", []string{"127.0.0.1"}, []string{"X-Forwarded-For", "6.6.6.6, 9.9.9.9"}, "9.9.9.9", false},
		{"two proxies", []string{"127.0.0.0/8", "10.0.0.0/8"}, []string{"X-Forwarded-For", "6.6.6.6, 9.9.9.9, 10.1.2.3"}, "9.9.9.9", false},
		{"two lines", []string{"127.0.0.0/8", "10.0.0.0/8"}, []string{"X-Forwarded-For", "6.6.6.6, 9.9.9.9", "X-Forwarded-For", "10.1.2.3"}, "9.9.9.9", false},
		{"mapped", []string{"127.0.0.0/8"}, []string{"X-Forwarded-For", "::ffff:9.9.9.9"}, "9.9.9.9", false},
		{"garbage", []string{"127.0.0.0/8"}, []string{"X-Forwarded-For", "9.9.9.9, <script>"}, "127.0.0.1", false},
		{"nothing", []string{"127.0.0.0/8"}, nil, "127.0.0.1", false},
		{"two protocols", []string{"127.0.0.0/8"}, []string{"X-Forwarded-Proto", "http", "X-Forwarded-Proto", "https"}, "127.0.0.1", false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			s := open(t, func(c *proxy.Config, _ *proxy.Options) { c.TrustedProxies = test.trusted })
			got := s.do("GET", "/api/orders", "", test.header...)
			if got.seen.ClientIP != test.ip || !strings.HasPrefix(got.seen.Remote, test.ip+":") {
				t.Errorf("the client is %s (%s), want %s", got.seen.ClientIP, got.seen.Remote, test.ip)
			}
			if secure := got.header.Get("Strict-Transport-Security") != ""; secure != test.secure {
				t.Errorf("secure: %v, want %v", secure, test.secure)
			}
		})
	}
}

func TestHosts(t *testing.T) {
	t.Parallel()
	s := open(t, func(c *proxy.Config, _ *proxy.Options) { c.Hosts = []string{"shop.example", "*.shop.example"} })
	for host, want := range map[string]int{
		"shop.example": 200, "SHOP.example:8080": 200, "www.shop.example": 200, "a.b.shop.example": 421, "evil.example": 421, "shop.example.evil": 421,
	} {
		if got := s.do("GET", "/api/orders", "", "Host", host); got.status != want {
			t.Errorf("%s: %d, want %d", host, got.status, want)
		}
	}
	for _, path := range []string{"/healthz", "/readyz"} {
		if got := s.do("GET", path, "", "Host", "10.0.0.7"); got.status != 200 {
			t.Errorf("%s: %d, want 200 for any host", path, got.status)
		}
	}
	// The absolute form sets the host that Go reports: the list is asked for that.
	answer, body := s.raw("GET http://evil.example/api/orders HTTP/1.1\r\nHost: shop.example\r\n\r\n")
	if answer.StatusCode != 421 {
		t.Errorf("absolute form: %d %s", answer.StatusCode, body)
	}
	answer, body = s.raw("GET http://shop.example/api/orders?a=1 HTTP/1.1\r\nHost: shop.example\r\n\r\n")
	if answer.StatusCode != 200 || !strings.Contains(body, `"URI":"/api/orders?a=1"`) || !strings.Contains(body, `"Host":""`) {
		t.Errorf("absolute form: %d %s", answer.StatusCode, body)
	}
}

func TestCORS(t *testing.T) {
	t.Parallel()
	off := open(t, nil)
	if got := off.do("GET", "/api/orders", "", "Origin", "https://a.example"); got.header.Get("Access-Control-Allow-Origin") != "" {
		t.Error("CORS is on by default")
	}
	s := open(t, func(c *proxy.Config, _ *proxy.Options) {
		c.CORS.Origins, c.CORS.Credentials = []string{"https://a.example"}, true
	})
	got := s.do("OPTIONS", "/api/orders", "", "Origin", "https://a.example", "Access-Control-Request-Method", "POST", "Access-Control-Request-Headers", "authorization")
	for name, want := range map[string]string{
		"Access-Control-Allow-Origin": "https://a.example", "Access-Control-Allow-Credentials": "true", "Access-Control-Max-Age": "600",
		"Access-Control-Allow-Methods": "GET, HEAD, OPTIONS, POST", "Access-Control-Allow-Headers": "Authorization, Content-Type, Idempotency-Key, X-Request-Id",
	} {
		if got.header.Get(name) != want || got.status != 204 {
			t.Errorf("preflight: %d, %s is %q, want %q", got.status, name, got.header.Get(name), want)
		}
	}
	got = s.do("GET", "/api/orders", "", "Origin", "https://a.example")
	if got.header.Get("Access-Control-Allow-Origin") != "https://a.example" || !strings.Contains(got.header.Get("Access-Control-Expose-Headers"), "Retry-After") {
		t.Errorf("request: %v", got.header)
	}
	for _, origin := range []string{"https://evil.example", "null", "https://a.example.evil", ""} {
		got := s.do("OPTIONS", "/api/orders", "", "Origin", origin, "Access-Control-Request-Method", "POST")
		if got.header.Get("Access-Control-Allow-Origin") != "" || got.header.Get("Access-Control-Allow-Methods") != "" {
			t.Errorf("%q is allowed: %v", origin, got.header)
		}
		if got.header.Get("Vary") != "Origin" {
			t.Errorf("%q: Vary is %q", origin, got.header.Get("Vary"))
		}
	}
	all := open(t, func(c *proxy.Config, _ *proxy.Options) { c.CORS.Origins = []string{"*"} })
	if got := all.do("GET", "/api/orders", "", "Origin", "https://b.example"); got.header.Get("Access-Control-Allow-Origin") != "*" {
		t.Errorf("any origin: %v", got.header)
	}
}

func TestPanics(t *testing.T) {
	t.Parallel()
	s := open(t, nil)
	s.local = func(http.ResponseWriter, *http.Request) { panic("hunter2") }
	got := s.do("GET", "/api/orders", "")
	if got.status != 500 || strings.Contains(got.body, "hunter2") || strings.Contains(got.body, "goroutine") {
		t.Errorf("got %d %s", got.status, got.body)
	}
	if logs := s.logs.String(); !strings.Contains(logs, "hunter2") || !strings.Contains(logs, "gateway_test.go") {
		t.Errorf("the log does not tell where: %s", logs)
	}

	// A part of the answer is out: the client must see that it is not whole.
	for name, v := range map[string]any{"abort": http.ErrAbortHandler, "late": "late panic"} {
		s.local = func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "100")
			_, _ = io.WriteString(w, "half")
			_ = http.NewResponseController(w).Flush()
			panic(v)
		}
		answer, err := http.Get(s.server.URL + "/api/orders")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadAll(answer.Body); err == nil {
			t.Errorf("%s: the answer looks whole", name)
		}
		answer.Body.Close()
	}
	if !strings.Contains(s.logs.String(), `"aborted":true`) {
		t.Errorf("no aborted request in the log: %s", s.logs.String())
	}
}

func TestLogAndMetrics(t *testing.T) {
	t.Parallel()
	s := open(t, nil)
	s.do("GET", "/api/orders/7", "", "Authorization", customer, "X-Request-Id", "r-1")
	s.do("GET", "/api/secret-path", "", "X-Request-Id", "r-2")
	var line map[string]any
	if err := json.Unmarshal([]byte(strings.SplitN(s.logs.String(), "\n", 2)[0]), &line); err != nil {
		t.Fatal(err)
	}
	if ms, ok := line["duration_ms"].(float64); !ok || ms < 0 || line["bytes"].(float64) < 10 {
		t.Errorf("line %v", line)
	}
	for _, k := range []string{"time", "duration_ms", "bytes"} {
		delete(line, k)
	}
	want := map[string]any{
		"level": "INFO", "msg": "request", "method": "GET", "route": "/api/orders/{id}", "module": "orders", "placement": "local", "status": 200.0,
		"subject": "u1", "correlation_id": "r-1", "epoch": 1.0,
	}
	if diff := cmp.Diff(line, want); diff != "" {
		t.Errorf("(-got +want)\n%s", diff)
	}
	if strings.Contains(s.logs.String(), "customer:u1") {
		t.Error("the log shows a token")
	}
	families, err := s.metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			var labels []string
			for _, l := range m.GetLabel() {
				labels = append(labels, l.GetValue())
			}
			if m.GetCounter().GetValue() > 0 || m.GetHistogram().GetSampleCount() > 0 {
				found[f.GetName()+" "+strings.Join(labels, ",")] = m.GetCounter().GetValue() + float64(m.GetHistogram().GetSampleCount())
			}
		}
	}
	wantMetrics := map[string]float64{
		"banyan_http_requests_total GET,orders,/api/orders/{id},2xx":       1,
		"banyan_http_requests_total GET,,,4xx":                             1,
		"banyan_cache_requests_total miss":                                 1,
		"banyan_http_request_duration_seconds GET,orders,/api/orders/{id}": 1,
	}
	if diff := cmp.Diff(found, wantMetrics); diff != "" {
		t.Errorf("metrics (-got +want)\n%s", diff)
	}
}

func TestSpans(t *testing.T) {
	t.Parallel()
	tracing, err := telemetry.OpenTracing(t.Context(), telemetry.Config{SampleRatio: 1, RecentSpans: 10}, "1", nil)
	if err != nil {
		t.Fatal(err)
	}
	s := open(t, func(_ *proxy.Config, o *proxy.Options) { o.Tracer = tracing.Tracer() })
	inside := ""
	s.local = func(w http.ResponseWriter, r *http.Request) {
		h := http.Header{}
		telemetry.InjectHeader(r.Context(), h)
		inside = h.Get("Traceparent")
		w.WriteHeader(http.StatusServiceUnavailable)
		_ = json.NewEncoder(w).Encode(map[string]any{})
	}
	r, err := http.NewRequest("POST", s.server.URL+"/api/orders", strings.NewReader("{}"))
	if err != nil {
		t.Fatal(err)
	}
	for name, value := range map[string]string{"Content-Type": "application/json", "Authorization": customer, "Traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"} {
		r.Header.Set(name, value)
	}
	answer, err := http.DefaultTransport.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	answer.Body.Close()
	var spans []telemetry.Span
	for deadline := time.Now().Add(5 * time.Second); len(spans) == 0 && time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		spans = tracing.Recent() // the span ends after the answer is out
	}
	if len(spans) != 1 {
		t.Fatalf("%d spans", len(spans))
	}
	got := spans[0]
	if got.Name != "POST /api/orders" || got.Kind != "server" || got.TraceID != "0af7651916cd43dd8448eb211c80319c" || got.ParentID != "b7ad6b7169203331" ||
		got.Status != "error" || got.Attributes["http.route"] != "/api/orders" || got.Attributes["http.response.status_code"] != int64(503) || got.Attributes["banyan.module"] != "orders" {
		t.Errorf("span %+v", got)
	}
	if want := "00-" + got.TraceID + "-" + got.SpanID + "-01"; inside != want {
		t.Errorf("the module goes on with %q, want %q", inside, want)
	}
}

func TestProbes(t *testing.T) {
	t.Parallel()
	ready := map[string]bool{"": true, "orders": false}
	var asked atomic.Int64
	s := open(t, func(_ *proxy.Config, o *proxy.Options) {
		o.Ready = func(_ context.Context, name string) (bool, any) {
			asked.Add(1)
			return ready[name], map[string]any{"module": name}
		}
	})
	for path, want := range map[string]int{"/healthz": 200, "/readyz": 200, "/readyz?module=orders": 503} {
		if got := s.probe(path); got != want {
			t.Errorf("%s: %d, want %d", path, got, want)
		}
	}
	before := asked.Load()
	for range 200 {
		s.probe("/readyz")
	}
	if more := asked.Load() - before; more > 20 {
		t.Errorf("200 probes were %d times work for the stores", more)
	}
	if got := s.do("GET", "/readyz?module=nothing", ""); got.status != 404 {
		t.Errorf("unknown module: %d", got.status)
	}
	if got := s.do("POST", "/readyz", ""); got.status != 405 {
		t.Errorf("POST: %d", got.status)
	}
	s.gate.Drain()
	for path, want := range map[string]int{"/healthz": 200, "/readyz": 503, "/api/orders": 200} {
		if got := s.probe(path); got != want {
			t.Errorf("draining, %s: %d, want %d", path, got, want)
		}
	}
}

// Whoever asks how one module is, or the process, waits for no store but those.
func TestProbesOfAStoreThatHangs(t *testing.T) {
	t.Parallel()
	release, asked := make(chan struct{}), make(chan string, 30)
	s := open(t, func(_ *proxy.Config, o *proxy.Options) {
		o.Modules = append(routes(), module.Descriptor{Name: "other"})
		o.Ready = func(_ context.Context, name string) (bool, any) {
			asked <- name
			if name == "orders" {
				<-release
			}
			return name != "orders", nil
		}
	})
	var all sync.WaitGroup
	var answered atomic.Int64
	for range 20 {
		all.Go(func() {
			if got := s.probe("/readyz?module=orders"); got != 503 {
				t.Errorf("orders: %d, want 503", got)
			}
			answered.Add(1)
		})
	}
	if name := <-asked; name != "orders" {
		t.Errorf("asked is %q", name)
	}
	others := make(chan struct{})
	go func() {
		defer close(others)
		for _, path := range []string{"/readyz", "/readyz?module=other"} {
			if got := s.probe(path); got != 200 || answered.Load() > 0 {
				t.Errorf("%s: %d, want 200, before %d others were answered", path, got, answered.Load())
			}
		}
	}()
	select {
	case <-others:
	case <-time.After(10 * time.Second):
		t.Error("the others wait for the store that hangs")
	}
	close(release)
	all.Wait()
	<-others
}

func (s *shop) probe(path string) int {
	s.t.Helper()
	answer, err := http.Get(s.server.URL + path)
	if err != nil {
		s.t.Fatal(err)
	}
	answer.Body.Close()
	return answer.StatusCode
}

func TestDrainEndsStreams(t *testing.T) {
	t.Parallel()
	s := open(t, func(c *proxy.Config, _ *proxy.Options) {
		c.Limits.Write, c.Limits.ReadBody, c.Limits.Request = 50*time.Millisecond, 50*time.Millisecond, 40*time.Millisecond
	})
	later := make(chan struct{})
	s.local = func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		_, _ = io.WriteString(w, "data: first\n\n")
		w.(http.Flusher).Flush()
		<-later
		_, _ = io.WriteString(w, "data: later\n\n")
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	}
	answer, err := http.Get(s.server.URL + "/api/follow")
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	stream := bufio.NewReader(answer.Body)
	if line, err := stream.ReadString('\n'); err != nil || line != "data: first\n" {
		t.Fatalf("%q %v", line, err)
	}
	// A stream outlives the time-outs of other answers.
	time.Sleep(150 * time.Millisecond)
	close(later)
	_, _ = stream.ReadString('\n')
	if line, err := stream.ReadString('\n'); err != nil || line != "data: later\n" {
		t.Fatalf("%q %v", line, err)
	}
	s.gate.Drain()
	rest, err := io.ReadAll(stream)
	if err != nil || !strings.Contains(string(rest), "retry: ") {
		t.Errorf("the stream ends with %q, %v", rest, err)
	}
}

// A request for no path is refused as any other that is wrong, and not answered past the gateway.
func TestRequestsForTheServer(t *testing.T) {
	t.Parallel()
	s := open(t, nil)
	for _, method := range []string{"OPTIONS", "GET"} {
		answer, body := s.raw(method + " * HTTP/1.1\r\nHost: shop.example\r\n\r\n")
		if answer.StatusCode != 400 || answer.Header.Get("Content-Type") != "application/problem+json" || answer.Header.Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("%s *: %d %v %s", method, answer.StatusCode, answer.Header, body)
		}
	}
}

func TestRequestsHaveADeadline(t *testing.T) {
	t.Parallel()
	s := open(t, func(c *proxy.Config, _ *proxy.Options) { c.Limits.Request = 20 * time.Millisecond })
	s.local = func(w http.ResponseWriter, r *http.Request) {
		<-r.Context().Done()
		p, retry := rest.NewProblem(r.Context(), r.Context().Err())
		rest.WriteProblem(w, p, retry)
	}
	if got := s.do("GET", "/api/orders", ""); got.status != 504 {
		t.Errorf("got %d, want 504", got.status)
	}
}

func TestSlowBodies(t *testing.T) {
	t.Parallel()
	s := open(t, func(c *proxy.Config, _ *proxy.Options) { c.Limits.ReadBody = 100 * time.Millisecond })
	for name, request := range map[string]string{
		"declared": "POST /api/small HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 10\r\n\r\n{",
		"chunked":  "POST /api/small HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{\r\n",
	} {
		answer, body := s.raw(request)
		if answer.StatusCode != 408 || !strings.Contains(body, "in time") || !answer.Close {
			t.Errorf("%s: %d %s", name, answer.StatusCode, body)
		}
	}
	// A body that was refused unread does not hold the connection either.
	start := time.Now()
	answer, _ := s.raw("POST /api/orders HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 10\r\n\r\n{")
	if answer.StatusCode != 401 || time.Since(start) > 3*time.Second {
		t.Errorf("refused: %d after %s", answer.StatusCode, time.Since(start))
	}
	// And one that is read keeps nothing of its deadline.
	s.local = func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-r.Context().Done():
			t.Errorf("the request was cancelled: %v", r.Context().Err())
		case <-time.After(300 * time.Millisecond):
		}
		w.WriteHeader(http.StatusOK)
	}
	if got := s.do("POST", "/api/small", "{}"); got.status != 200 {
		t.Errorf("slow handler: %d", got.status)
	}
}

func TestRawRequests(t *testing.T) {
	t.Parallel()
	s := open(t, nil)
	const post = "POST /api/small HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
	tests := []struct {
		name, request string
		want          int
	}{
		{"plain", "GET /api/orders HTTP/1.1\r\nHost: x\r\n\r\n", 200},
		{"chunked", post + "Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n", 200},
		{"chunked over the limit", post + "Transfer-Encoding: chunked\r\n\r\n40\r\n" + strings.Repeat("a", 64) + "\r\n0\r\n\r\n", 413},
		{"unknown transfer encoding", post + "Transfer-Encoding: gzip\r\n\r\n2\r\n{}\r\n0\r\n\r\n", 501},
		{"two transfer encodings", post + "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n", 501},
		{"two lengths", post + "Content-Length: 2\r\nContent-Length: 3\r\n\r\n{} ", 400},
		{"negative length", post + "Content-Length: -1\r\n\r\n{}", 400},
		{"folded header", "GET /api/orders HTTP/1.1\r\nHost: x\r\nX-A: b\r\n c\r\n\r\n", 200}, // a folded line is one line for everybody
		{"space before colon", "GET /api/orders HTTP/1.1\r\nHost : x\r\n\r\n", 400},
		{"NUL in header", "GET /api/orders HTTP/1.1\r\nHost: x\r\nX-A: b\x00c\r\n\r\n", 400},
		{"CR in header", "GET /api/orders HTTP/1.1\r\nHost: x\r\nX-A: b\rX-B: c\r\n\r\n", 400},
		{"NUL in path", "GET /api/orders\x00 HTTP/1.1\r\nHost: x\r\n\r\n", 400},
		{"space in path", "GET /api/or ders HTTP/1.1\r\nHost: x\r\n\r\n", 400},
		{"no host", "GET /api/orders HTTP/1.1\r\n\r\n", 400},
		{"two hosts", "GET /api/orders HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n", 400},
		{"huge header", "GET /api/orders HTTP/1.1\r\nHost: x\r\nX-A: " + strings.Repeat("a", 70<<10) + "\r\n\r\n", 431},
		{"connect", "CONNECT evil.example:443 HTTP/1.1\r\nHost: evil.example:443\r\n\r\n", 400},
		{"upgrade", "GET /api/orders HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n", 200},
		{"expectation of a body that is too large", post + "Content-Length: 1000000\r\nExpect: 100-continue\r\n\r\n", 413},
		{"body breaks off", post + "Transfer-Encoding: chunked\r\n\r\nzz\r\n", 400},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			answer, body := s.raw(test.request)
			if answer.StatusCode != test.want {
				t.Errorf("got %d %s, want %d", answer.StatusCode, body, test.want)
			}
			if strings.Contains(body, "goroutine") || strings.Contains(body, ".go:") {
				t.Errorf("a stack: %s", body)
			}
			s.clock.Advance(5 * time.Second)
		})
	}
}

// Two lengths of one body are the old way to hide a request in another. Chunks win and what follows them is read as
// the next request, so nobody in front of us may pass both on; the hidden one is answered like any other.
func TestLengthAndChunks(t *testing.T) {
	t.Parallel()
	s := open(t, nil)
	var mu sync.Mutex
	var bodies []string
	s.local = func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		mu.Lock()
		bodies = append(bodies, r.Method+" "+r.URL.Path+" "+string(body))
		mu.Unlock()
	}
	conn, err := net.Dial("tcp", s.server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_, _ = io.WriteString(conn, "POST /api/small HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n"+
		"2\r\n{}\r\n0\r\n\r\n"+"GET /api/reports HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
	reader := bufio.NewReader(conn)
	first, err := http.ReadResponse(reader, nil)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = io.Copy(io.Discard, first.Body)
	if first.StatusCode != 200 {
		t.Errorf("first: %d", first.StatusCode)
	}
	second, err := http.ReadResponse(reader, nil)
	switch {
	case err == nil && second.StatusCode != 401:
		t.Errorf("the hidden request is not checked: %d", second.StatusCode)
	case err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF):
		t.Errorf("second: %v", err)
	}
	mu.Lock()
	defer mu.Unlock()
	if diff := cmp.Diff(bodies, []string{"POST /api/small {}"}); diff != "" {
		t.Errorf("the module got (-got +want)\n%s", diff)
	}
}

func TestExtraHandlers(t *testing.T) {
	t.Parallel()
	page := func(name string) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Security-Policy", "default-src 'self'")
			_, _ = fmt.Fprintf(w, "%s %s %s", name, r.Method, r.URL.Path)
		})
	}
	s := open(t, func(_ *proxy.Config, o *proxy.Options) {
		o.Extra = map[string]http.Handler{"/docs": page("docs"), "/": page("root"), "/docs/deep": page("deep")}
	})
	for path, want := range map[string]string{
		"/": "root GET /", "/docs": "docs GET /docs", "/docs/": "docs GET /docs/", "/docs/x/y": "docs GET /docs/x/y", "/docs/deep/x": "deep GET /docs/deep/x",
	} {
		got := s.do("GET", path, "")
		if got.body != want || got.header.Get("Content-Security-Policy") != "default-src 'self'" {
			t.Errorf("%s: %d %q, want %q", path, got.status, got.body, want)
		}
	}
	if got := s.do("GET", "/docsx", ""); got.status != 404 {
		t.Errorf("/docsx: %d", got.status)
	}
	if got := s.do("POST", "/docs", "{}"); got.status != 405 || got.header.Get("Allow") != "GET, HEAD" {
		t.Errorf("POST: %d", got.status)
	}
	for _, path := range []string{"docs", "/docs/", "/api", "/api/x", ""} {
		if _, err := proxy.New(proxy.DefaultConfig(), proxy.Options{Local: page(""), Extra: map[string]http.Handler{path: page("")}}); err == nil {
			t.Errorf("%q is taken", path)
		}
	}
}

func TestRoutes(t *testing.T) {
	t.Parallel()
	s := open(t, nil)
	list := s.gate.Routes()
	if len(list) != 8 || s.gate.Epoch() != 1 {
		t.Fatalf("%d routes, epoch %d", len(list), s.gate.Epoch())
	}
	want := proxy.RouteInfo{Module: "orders", ID: "small", Method: "POST", Path: "/api/small", Class: module.Write, MaxBody: 16, Placement: "local", Target: "local"}
	if diff := cmp.Diff(list[7], want); diff != "" {
		t.Errorf("(-got +want)\n%s", diff)
	}
	if _, err := proxy.New(proxy.DefaultConfig(), proxy.Options{Modules: routes()}); err == nil {
		t.Error("a gateway without a target is made")
	}
}

func TestConfigNamesTheKey(t *testing.T) {
	t.Parallel()
	tests := []struct {
		change func(*proxy.Config)
		want   string
	}{
		{func(c *proxy.Config) { c.Hosts = []string{"Shop.example"} }, `gateway.hosts: "Shop.example" is not`},
		{func(c *proxy.Config) { c.Hosts = []string{"shop.example:80"} }, "gateway.hosts:"},
		{func(c *proxy.Config) { c.TrustedProxies = []string{"proxy"} }, `gateway.trusted_proxies: "proxy" is not a network`},
		{func(c *proxy.Config) { c.Limits.HeaderBytes = 1 }, "gateway.limits.header_bytes: 1 is not between"},
		{func(c *proxy.Config) { c.Limits.BodyBytes = 1 << 40 }, "gateway.limits.body_bytes:"},
		{func(c *proxy.Config) { c.Limits.Idle = 0 }, "gateway.limits.idle: 0s is not between"},
		{func(c *proxy.Config) { c.Limits.Write = time.Second }, "gateway.limits.write: 1s is less than gateway.limits.read_body"},
		{func(c *proxy.Config) { c.Limits.Write = -1 }, "gateway.limits.write: -1ns is not between"},
		{func(c *proxy.Config) { c.Limits.Request = c.Limits.Write }, "gateway.limits.request: 1m30s is not less than gateway.limits.write"},
		{func(c *proxy.Config) { c.Limits.Request = 0 }, "gateway.limits.request: 0s is not less than gateway.limits.write, 1m30s, after which nothing can be answered; make it less, or gateway.limits.write more"},
		{func(c *proxy.Config) { c.Limits.StreamsPerClient = -1 }, "gateway.limits.streams_per_client: -1 is not 0"},
		{func(c *proxy.Config) {
			c.Upstreams = []proxy.Foreign{foreign("", proxy.ForeignRoute{Match: "/old", Class: "read"})}
			c.Upstreams[0].Endpoints = nil
		}, "gateway.upstreams[0].endpoints: is empty"},
		{func(c *proxy.Config) {
			c.Upstreams = []proxy.Foreign{foreign("dns://legacy.internal", proxy.ForeignRoute{Match: "/old", Class: "read"})}
		}, `gateway.upstreams[0].endpoints: "dns://legacy.internal"`},
		{func(c *proxy.Config) {
			c.Upstreams = []proxy.Foreign{foreign("consul://legacy", proxy.ForeignRoute{Match: "/old", Class: "read"})}
			c.Upstreams[0].Protocol = "h2"
		}, "gateway.upstreams[0].tls.name: is empty: h2 is over TLS"},
		{func(c *proxy.Config) {
			c.Upstreams = []proxy.Foreign{foreign("consul://legacy", proxy.ForeignRoute{Match: "/old", Class: "read"})}
			c.Upstreams[0].TLS.Roots = "ca.pem"
		}, "gateway.upstreams[0].tls.name: is empty: consul://legacy finds"},
		{func(c *proxy.Config) {
			c.Upstreams = []proxy.Foreign{foreign("consul://legacy", proxy.ForeignRoute{Match: "/old", Class: "read"})}
			c.Upstreams[0].TLS.Name, c.Upstreams[0].Transport = "legacy.internal", "synchronous"
		}, "gateway.upstreams[0].transport: synchronous speaks no TLS"},
		{func(c *proxy.Config) {
			c.Upstreams = []proxy.Foreign{foreign("consul://legacy", proxy.ForeignRoute{Match: "/old", Class: "read"})}
			c.Upstreams[0].TLS.Name, c.Upstreams[0].Protocol = "legacy.internal", "h2c"
		}, "gateway.upstreams[0].protocol: h2c has no TLS"},
		{func(c *proxy.Config) {
			c.Upstreams = []proxy.Foreign{foreign("http://127.0.0.1:1", proxy.ForeignRoute{Match: "/old", Class: "read"})}
			c.Upstreams[0].TLS.Name = "legacy.internal"
		}, "gateway.upstreams[0].tls: is for endpoints as in https://"},
		{func(c *proxy.Config) { c.Rate.Login.PerSecond = -1 }, "gateway.rate.login.per_second: -1"},
		{func(c *proxy.Config) { c.Rate.Customer.Burst = 0 }, "gateway.rate.customer.burst: 0 lets nothing pass"},
		{func(c *proxy.Config) { c.Rate.Clients = 0 }, "gateway.rate.clients: 0"},
		{func(c *proxy.Config) { c.CORS.Origins = []string{"shop.example"} }, `gateway.cors.origins: "shop.example" is not an origin`},
		{func(c *proxy.Config) { c.CORS.Origins, c.CORS.Credentials = []string{"*"}, true }, "gateway.cors.origins: * cannot"},
		{func(c *proxy.Config) { c.CORS.Headers = []string{"a b"} }, `gateway.cors.headers: "a b"`},
		{func(c *proxy.Config) { c.CORS.MaxAge = -1 }, "gateway.cors.max_age:"},
	}
	for _, test := range tests {
		c := proxy.DefaultConfig()
		test.change(&c)
		if err := c.Validate(); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("got %v, want %s", err, test.want)
		}
		if _, err := proxy.New(c, proxy.Options{Local: http.NotFoundHandler()}); err == nil {
			t.Errorf("made with %s", test.want)
		}
	}
	endless := proxy.DefaultConfig()
	endless.Limits.Request, endless.Limits.Write = 0, 0
	for _, c := range []proxy.Config{proxy.DefaultConfig(), endless} {
		if err := c.Validate(); err != nil {
			t.Error(err)
		}
	}
	c := proxy.DefaultConfig()
	c.Upstreams = []proxy.Foreign{foreign("https://127.0.0.1:1", proxy.ForeignRoute{Match: "/old", Class: "read"})}
	c.Upstreams[0].TLS.Roots = "nobody.pem"
	if _, err := proxy.New(c, proxy.Options{Local: http.NotFoundHandler()}); err == nil || !strings.Contains(err.Error(), "gateway.upstreams[0].tls.roots: open nobody.pem") {
		t.Errorf("got %v", err)
	}
	for match, want := range map[string]string{
		"/old":            "gateway.upstreams[0].routes[1].match: /old is taken by route legacy-0 of legacy",
		"/{rest...}":      "gateway.upstreams[0].routes[1].match: /{rest...} is taken by route legacy-0 of legacy",
		"GET /api/orders": "gateway.upstreams[0].routes[0].match: GET /api/orders is taken by route list of orders",
	} {
		c := proxy.DefaultConfig()
		route := proxy.ForeignRoute{Match: match, Class: "read"}
		c.Upstreams = []proxy.Foreign{foreign("http://127.0.0.1:1", route, route)}
		if _, err := proxy.New(c, proxy.Options{Local: http.NotFoundHandler(), Modules: routes()}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}

// BenchmarkGateway is what the gateway adds to a handler: compare with the last, which has none.
func BenchmarkGateway(b *testing.B) {
	ok := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusOK) })
	gate := func(change func(*proxy.Config)) http.Handler {
		cfg := proxy.DefaultConfig()
		cfg.AccessLog = false
		change(&cfg)
		g, err := proxy.New(cfg, proxy.Options{
			Modules: routes(), Local: ok, Verifier: &tokens{}, Log: slog.New(slog.DiscardHandler), Registry: prometheus.NewRegistry(), Clock: clock.NewSimulated(noon),
		})
		if err != nil {
			b.Fatal(err)
		}
		return g
	}
	bare := gate(func(c *proxy.Config) {
		c.Rate.Anonymous.PerSecond, c.Limits.Request, c.Limits.Write, c.Cache.Enabled, c.Compress.Enabled = 0, 0, 0, false, false
	})
	full := gate(func(c *proxy.Config) { c.Rate.Anonymous = proxy.Rate{PerSecond: 1e9, Burst: 1e9} })
	for _, bench := range []struct {
		name, path, token string
		handler           http.Handler
	}{
		{"routing and hygiene", "/api/orders", "", bare}, {"with deadline, rate limit, cache, compression", "/api/orders", "", full},
		{"with a token", "/api/orders/7", "staff:s1", full}, {"handler alone", "/api/orders", "", ok},
	} {
		b.Run(bench.name, func(b *testing.B) {
			b.ReportAllocs()
			w := &discard{header: http.Header{}}
			template := httptest.NewRequest("GET", bench.path, nil)
			for b.Loop() {
				r := *template
				r.Header = http.Header{"Accept": {"*/*"}, "User-Agent": {"bench"}}
				if bench.token != "" {
					r.Header["Authorization"] = []string{"Bearer " + bench.token}
				}
				clear(w.header)
				bench.handler.ServeHTTP(w, &r)
				if w.status != http.StatusOK {
					b.Fatal(w.status)
				}
			}
		})
	}
}

type discard struct {
	header http.Header
	status int
}

func (d *discard) Header() http.Header         { return d.header }
func (d *discard) WriteHeader(status int)      { d.status = status }
func (d *discard) Write(b []byte) (int, error) { return len(b), nil }
