package proxy_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/banyan-go/banyan/internal/assertion"
	"github.com/banyan-go/banyan/internal/clock"
	"github.com/banyan-go/banyan/internal/identity"
	"github.com/banyan-go/banyan/internal/rest"
	"github.com/banyan-go/banyan/internal/token"
	"github.com/banyan-go/banyan/proxy"
	"github.com/banyan-go/banyan/proxy/aggregate"
	"github.com/banyan-go/banyan/proxy/shadow"
	"github.com/banyan-go/banyan/proxy/upstream"
)

// second is the second process of the module: it believes assertions alone, and answers with what answer says.
type second struct {
	*httptest.Server
	asked  atomic.Int64
	epoch  atomic.Uint64 // the least that it believes
	answer atomic.Pointer[http.HandlerFunc]
}

func newSecond(t *testing.T, keys *token.Keyring) *second {
	t.Helper()
	s := &second{}
	match, err := proxy.Matcher(routes()[0])
	if err != nil {
		t.Fatal(err)
	}
	v, err := assertion.NewVerifier(assertion.Options{Module: "orders", Keys: keys, Clock: clock.System{}, Epoch: s.epoch.Load, Route: func(method, path string) (rest.Request, bool) {
		r, found := match(method, path)
		return rest.Request{Method: r.Method, Route: r.Path, Money: r.Money}, found
	}})
	if err != nil {
		t.Fatal(err)
	}
	s.Server = httptest.NewUnstartedServer(v.Middleware(proxy.Deadline(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.asked.Add(1)
		if answer := s.answer.Load(); answer != nil {
			(*answer)(w, r)
			return
		}
		body, _ := io.ReadAll(r.Body)
		w.Header().Set("X-Side", "remote")
		_ = json.NewEncoder(w).Encode(seen{Method: r.Method, Path: r.URL.Path, Body: string(body), Header: r.Header, Identity: identity.From(r.Context()), ClientIP: rest.ClientIP(r.Context())})
	}))))
	protocols := &http.Protocols{}
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	s.Config.Protocols = protocols
	s.Start()
	t.Cleanup(s.Close)
	return s
}

func (s *second) set(fn http.HandlerFunc) { s.answer.Store(&fn) }

// moving is a gateway whose module has a second process.
func moving(t *testing.T, p proxy.Placement, change func(*proxy.Config)) (*shop, *second, *proxy.Fixed) {
	t.Helper()
	return movingWith(t, p, change, nil)
}

func movingWith(t *testing.T, p proxy.Placement, change func(*proxy.Config), options func(*proxy.Options)) (*shop, *second, *proxy.Fixed) {
	t.Helper()
	key, err := token.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	keys, err := token.NewKeyring(key)
	if err != nil {
		t.Fatal(err)
	}
	remote := newSecond(t, keys)
	p.Module = "orders"
	fixed := proxy.NewFixed(p)
	s := open(t, func(c *proxy.Config, o *proxy.Options) {
		c.Remote.Health.Active.Path = ""
		c.Rate.Customer.PerSecond, c.Rate.Anonymous.PerSecond = 0, 0
		o.Clock = clock.System{}
		o.Verifier = forever{}
		o.Placements, o.Signer, o.Endpoints = fixed, assertion.NewSigner(keys, clock.System{}), map[string][]string{"orders": {remote.URL}}
		if change != nil {
			change(c)
		}
		if options != nil {
			options(o)
		}
	})
	s.local = func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Side", "local")
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{"side":"local"}`)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.gate.Run(ctx) }()
	eventually(t, func() bool { return s.gate.Epoch() > 1 }) // Watch has told what there is; what a test applies comes after it
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return s, remote, fixed
}

// forever believes "<role>:<subject>" always.
type forever struct{}

func (forever) Verify(raw string, now time.Time) (token.Claims, error) {
	role, subject, _ := strings.Cut(raw, ":")
	return token.Claims{Subject: subject, Role: identity.Role(role), Session: "s", IssuedAt: now.Add(-time.Second), ExpiresAt: now.Add(time.Hour)}, nil
}

// ask sends a request as somebody.
func ask(t *testing.T, s *shop, method, path, who, body string, header ...string) (*http.Response, string) {
	t.Helper()
	r, err := http.NewRequest(method, s.server.URL+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if who != "" {
		r.Header.Set("Authorization", "Bearer "+who)
	}
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	a, err := s.server.Client().Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = a.Body.Close() }()
	got, err := io.ReadAll(a.Body)
	if err != nil {
		t.Fatal(err)
	}
	return a, string(got)
}

func TestRemoteGetsTheCleanRequestAndTheCaller(t *testing.T) {
	t.Parallel()
	s, _, _ := moving(t, proxy.Placement{State: proxy.Remote}, nil)
	a, body := ask(t, s, "POST", "/api/orders?x=1", "customer:ada", `{"a":1}`, "Idempotency-Key", "k", "X-User-Id", "eve", "X-Banyan-Role", "admin", "X_Forwarded_For", "1.1.1.1")
	var got seen
	if err := json.Unmarshal([]byte(body), &got); err != nil || a.StatusCode != 200 || a.Header.Get("X-Side") != "remote" {
		t.Fatalf("%d %s, error %v", a.StatusCode, body, err)
	}
	if got.Identity.Subject != "ada" || got.Identity.Role != identity.Customer || got.ClientIP != "127.0.0.1" || got.Body != `{"a":1}` || got.Method != "POST" {
		t.Errorf("the remote side got %+v", got)
	}
	for _, name := range []string{"X-User-Id", "X-Banyan-Role", "Authorization", "X_forwarded_for"} {
		if v := got.Header.Values(name); len(v) > 0 {
			t.Errorf("the remote side got %s: %v", name, v)
		}
	}
	if a, body = ask(t, s, "GET", "/api/orders", "", ""); a.StatusCode != 200 || a.Header.Get("X-Side") != "remote" {
		t.Errorf("nobody: %d %s", a.StatusCode, body)
	}
	if a, _ = ask(t, s, "HEAD", "/api/orders", "", ""); a.StatusCode != 200 {
		t.Errorf("HEAD: %d", a.StatusCode)
	}
}

func TestCanaryIsSticky(t *testing.T) {
	t.Parallel()
	s, _, fixed := moving(t, proxy.Placement{State: proxy.Canary, Reads: 3000, Writes: 1000}, nil)
	side := func(method, who string, header ...string) string {
		body := ""
		if method == "POST" {
			body = "{}"
		}
		a, _ := ask(t, s, method, "/api/orders", who, body, header...)
		return a.Header.Get("X-Side")
	}
	before := map[string]bool{}
	reads, writes := 0, 0
	const many = 300
	for n := range many {
		who := fmt.Sprint("customer:u", n)
		r, w := side("GET", who), side("POST", who)
		if w == "remote" {
			writes++
			if r != "remote" {
				t.Fatalf("%s writes at the remote side and reads at the local one", who)
			}
		}
		if r == "remote" {
			reads++
			before[who] = true
		}
		if again := side("GET", who); again != r {
			t.Fatalf("%s went to the %s side, and then to the %s one", who, r, again)
		}
	}
	if reads < many*20/100 || reads > many*40/100 || writes < many*5/100 || writes > many*16/100 {
		t.Errorf("%d reads and %d writes of %d went out, want 30 %% and 10 %%", reads, writes, many)
	}
	if side("GET", "") != "local" {
		t.Error("somebody who is not known is in the canary")
	}
	if side("GET", "customer:u1", "X-Banyan-Route", "remote") != side("GET", "customer:u1") {
		t.Error("a customer chooses the side")
	}
	for _, wish := range []string{"local", "remote"} {
		if got := side("GET", "admin:root", "X-Banyan-Route", wish); got != wish {
			t.Errorf("an admin asks for %s and gets %s", wish, got)
		}
	}
	// More of them: those who were there stay.
	from := fixed.Current()[0]
	to := from
	to.Reads = 6000
	if err := fixed.Move(t.Context(), from, to, nil); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() bool { return s.gate.Placements()[0].Reads == 6000 })
	for who := range before {
		if side("GET", who) != "remote" {
			t.Errorf("%s left the canary when it grew", who)
		}
	}
}

// What was on its way to the second process is taken there again only if the route keeps its answer under the key. No other route is told the
// key, wherever its module is, and one that cannot be is refused all the same.
func TestTheKeyIsForRoutesThatKeepTheirAnswer(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var caught *http.Request
	var content []byte
	var behind *httputil.ReverseProxy
	tap := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		mu.Lock()
		caught, content = r.Clone(context.Background()), body
		mu.Unlock()
		r.Body = io.NopCloser(bytes.NewReader(body))
		behind.ServeHTTP(w, r)
	}))
	t.Cleanup(tap.Close)
	s, remote, _ := movingWith(t, proxy.Placement{State: proxy.Remote}, func(c *proxy.Config) { c.Remote.Protocol = upstream.H1 }, func(o *proxy.Options) {
		o.Endpoints = map[string][]string{"orders": {tap.URL}}
	})
	location, err := url.Parse(remote.URL)
	if err != nil {
		t.Fatal(err)
	}
	behind = &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(location) }}
	keyOf := func(body string) []string {
		var got seen
		if err := json.Unmarshal([]byte(body), &got); err != nil {
			t.Fatalf("%s: %v", body, err)
		}
		return got.Header["Idempotency-Key"]
	}
	s.local = func(w http.ResponseWriter, r *http.Request) { _ = json.NewEncoder(w).Encode(seen{Header: r.Header}) }
	for _, c := range []struct {
		method, path, body string
		again              int
	}{{"POST", "/api/orders", `{}`, 200}, {"POST", "/api/login", `{}`, 401}, {"DELETE", "/api/orders/1", "", 401}} {
		name := c.method + " " + c.path
		place(t, s, proxy.Placement{State: proxy.Remote})
		a, body := ask(t, s, c.method, c.path, "admin:root", c.body, "Idempotency-Key", "k")
		if told := len(keyOf(body)) > 0; a.StatusCode != 200 || told != (c.again == 200) {
			t.Errorf("%s: %d, the second process is told the key: %v", name, a.StatusCode, told)
		}
		mu.Lock()
		r, err := http.NewRequest(c.method, remote.URL+c.path, bytes.NewReader(content))
		if err != nil {
			t.Fatal(err)
		}
		r.Header = caught.Header
		mu.Unlock()
		again, err := remote.Client().Do(r)
		if err != nil {
			t.Fatal(err)
		}
		_ = again.Body.Close()
		if again.StatusCode != c.again {
			t.Errorf("%s: sent again by somebody else it is answered %d, want %d", name, again.StatusCode, c.again)
		}
		place(t, s, proxy.Placement{State: proxy.Local})
		if _, body = ask(t, s, c.method, c.path, "admin:root", c.body, "Idempotency-Key", "k"); (len(keyOf(body)) > 0) != (c.again == 200) {
			t.Errorf("%s: this process is told the key %v", name, keyOf(body))
		}
		if a, _ = ask(t, s, c.method, c.path, "admin:root", c.body, "Idempotency-Key", strings.Repeat("k", 256)); a.StatusCode != 400 {
			t.Errorf("%s: a key that is too long is answered %d", name, a.StatusCode)
		}
	}
}

func eventually(t *testing.T, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !ok(); <-time.After(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("not within 10 s")
		}
	}
}

func TestFallBackIfNothingWasSent(t *testing.T) {
	t.Parallel()
	s, remote, _ := moving(t, proxy.Placement{State: proxy.Canary, Reads: 10_000, Writes: 10_000, Held: true}, nil)
	remote.Close()
	for range 20 {
		if a, body := ask(t, s, "POST", "/api/orders", "customer:ada", `{}`); a.StatusCode != 200 || a.Header.Get("X-Side") != "local" {
			t.Fatalf("%d %s from %s", a.StatusCode, body, a.Header.Get("X-Side"))
		}
	}
}

// A remote module that cannot be reached says so; what may have been done is told apart from what was not.
func TestRemoteThatBreaks(t *testing.T) {
	t.Parallel()
	s, remote, _ := moving(t, proxy.Placement{State: proxy.Remote, Held: true}, func(c *proxy.Config) {
		c.Remote.Breaker.Consecutive, c.Remote.Breaker.Ratio, c.Remote.Health.Passive.Consecutive = 0, 0, 0
	})
	remote.set(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
	a, body := ask(t, s, "POST", "/api/orders", "customer:ada", `{}`)
	if a.StatusCode != 502 || !strings.Contains(body, `"outcome_unknown"`) || remote.asked.Load() != 1 {
		t.Errorf("a write that broke: %d %s, sent %d times", a.StatusCode, body, remote.asked.Load())
	}
	// Only what the module keeps its answer of may be sent again for its key.
	for _, c := range []struct {
		method, path, body string
		want               int64
	}{{"POST", "/api/orders", `{}`, 2}, {"DELETE", "/api/orders/1", "", 1}, {"POST", "/api/login", `{}`, 1}} {
		remote.asked.Store(0)
		if _, body = ask(t, s, c.method, c.path, "admin:root", c.body, "Idempotency-Key", "k"); remote.asked.Load() != c.want {
			t.Errorf("%s %s with a key was sent %d times, want %d: %s", c.method, c.path, remote.asked.Load(), c.want, body)
		}
		if strings.Contains(body, "ask again") != (c.want > 1) {
			t.Errorf("%s %s: %s", c.method, c.path, body)
		}
	}
	remote.set(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "100")
		_, _ = io.WriteString(w, "half")
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	})
	r, err := s.server.Client().Get(s.server.URL + "/api/orders")
	var got []byte
	if err == nil {
		got, err = io.ReadAll(r.Body)
	}
	if err == nil {
		t.Errorf("an answer that broke off looks complete: %d %s", r.StatusCode, got)
	}
	remote.Close()
	ask(t, s, "POST", "/api/orders", "customer:ada", `{}`) // it may have been on its way over a connection that was still open
	a, body = ask(t, s, "POST", "/api/orders", "customer:ada", `{}`)
	if a.StatusCode != 503 || a.Header.Get("Retry-After") == "" || !strings.Contains(body, `"unavailable"`) {
		t.Errorf("nobody is there: %d %s", a.StatusCode, body)
	}
}

// The remote side of a canary begins to fail: within few requests everybody is answered here again, and it stays so.
func TestCanaryGoesHome(t *testing.T) {
	t.Parallel()
	s, remote, fixed := moving(t, proxy.Placement{State: proxy.Canary, Reads: 10_000}, nil)
	for n := range 50 {
		ask(t, s, "GET", "/api/orders", fmt.Sprint("customer:u", n), "")
	}
	remote.set(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500) })
	failed := 0
	for n := range 100 {
		if a, _ := ask(t, s, "GET", "/api/orders", fmt.Sprint("customer:u", n), ""); a.StatusCode == 500 {
			failed++
		}
	}
	if failed > 10 {
		t.Errorf("%d requests failed before the module went home, want 10 at most", failed)
	}
	eventually(t, func() bool { return fixed.Current()[0].State == proxy.Local })
	if !strings.Contains(s.logs.String(), "a module was moved by its gates") {
		t.Error("nobody was told")
	}
}

// A retired module is answered by the second process or by nobody: this one has no way to, whoever asks.
func TestRetired(t *testing.T) {
	t.Parallel()
	s, remote, _ := moving(t, proxy.Placement{State: proxy.Retired, Epoch: 2}, nil)
	s.local = func(http.ResponseWriter, *http.Request) { t.Error("this process answers for a module that it has not") }
	if a, body := ask(t, s, "POST", "/api/orders", "admin:root", `{}`, "X-Banyan-Route", "local"); a.StatusCode != 200 || a.Header.Get("X-Side") != "remote" {
		t.Errorf("%d %s", a.StatusCode, body)
	}
	remote.Close()
	ask(t, s, "GET", "/api/orders", "", "") // it may have been on its way over a connection that was still open
	for _, who := range []string{"", "customer:ada", "admin:root"} {
		if a, body := ask(t, s, "GET", "/api/orders", who, "", "X-Banyan-Route", "local"); a.StatusCode != 503 || a.Header.Get("Retry-After") == "" {
			t.Errorf("%q: %d %s", who, a.StatusCode, body)
		}
	}
}

// What the remote side answers otherwise is found, and no client sees any of it.
func TestShadowFindsDifferences(t *testing.T) {
	t.Parallel()
	s, remote, _ := moving(t, proxy.Placement{State: proxy.Shadow, Held: true}, func(c *proxy.Config) {
		c.Shadow.Sample, c.Shadow.ControlSample, c.Shadow.Learn, c.Shadow.ConfirmAfter = 100, 100, 1, time.Millisecond
	})
	remote.set(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-Shadow") != "1" || r.Method != "GET" {
			t.Errorf("the copy is %s with %v", r.Method, r.Header)
		}
		http.SetCookie(w, &http.Cookie{Name: "evil", Value: "1"})
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{"side":"remote"}`)
	})
	report := func() shadow.Report {
		all, err := s.gate.ShadowReport("orders")
		if err != nil {
			t.Fatal(err)
		}
		return all.(map[string]any)["report"].(shadow.Report)
	}
	eventually(t, func() bool {
		a, body := ask(t, s, "GET", "/api/orders", "customer:ada", "")
		if body != `{"side":"local"}` || len(a.Cookies()) > 0 {
			t.Fatalf("the client got %s and %v", body, a.Cookies())
		}
		for _, r := range report().Routes {
			if r.Route == "GET /api/orders" && r.Mismatch > 0 && r.Paths[0].Path == "$.side" {
				return true
			}
		}
		return false
	})
	for range 5 {
		ask(t, s, "POST", "/api/orders", "customer:ada", `{}`)
	}
	if e, err := s.gate.Explain("GET", "/api/orders", "ada", "", ""); err != nil || !e.Copied || e.Target != "local" {
		t.Errorf("explained as %+v, error %v", e, err)
	}
}

// A placement that cannot be leaves the table as it was.
func TestRefusedPlacements(t *testing.T) {
	t.Parallel()
	s, _, _ := moving(t, proxy.Placement{State: proxy.Local}, nil)
	epoch := s.gate.Epoch()
	for _, p := range []proxy.Placement{
		{Module: "orders", State: "remot"}, {Module: "order", State: proxy.Local}, {Module: "orders", State: proxy.Canary, Reads: 10_001},
		{Module: "orders", State: proxy.Canary, Reads: 1, Writes: 2}, {Module: "orders", State: proxy.Remote, Reads: 5},
	} {
		if err := s.gate.Apply([]proxy.Placement{p}); err == nil || !strings.HasPrefix(err.Error(), "modules."+p.Module+".placement: ") {
			t.Errorf("%+v: error %v", p, err)
		}
	}
	if s.gate.Epoch() != epoch {
		t.Errorf("the table changed from %d to %d", epoch, s.gate.Epoch())
	}
	alone := open(t, nil)
	if err := alone.gate.Apply([]proxy.Placement{{Module: "orders", State: proxy.Remote}}); err == nil || !strings.Contains(err.Error(), "modules.orders.endpoints") {
		t.Errorf("without a second process: error %v", err)
	}
}

// Tables change a hundred times a second: no request fails, and each is answered by a side that was in force.
func TestTablesChangeUnderLoad(t *testing.T) {
	t.Parallel()
	s, _, _ := moving(t, proxy.Placement{State: proxy.Local, Held: true}, nil)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	var all sync.WaitGroup
	var sides [2]atomic.Int64
	for n := range 8 {
		all.Go(func() {
			for ctx.Err() == nil {
				a, body := ask(t, s, "POST", "/api/orders", fmt.Sprint("customer:u", n), `{}`)
				if a.StatusCode != 200 {
					t.Errorf("%d %s", a.StatusCode, body)
					return
				}
				if a.Header.Get("X-Side") == "remote" {
					sides[1].Add(1)
				} else {
					sides[0].Add(1)
				}
			}
		})
	}
	changes := 0
	for tick := time.NewTicker(10 * time.Millisecond); ctx.Err() == nil; changes++ {
		p := proxy.Placement{Module: "orders", State: []proxy.State{proxy.Local, proxy.Remote}[changes%2]}
		if err := s.gate.Apply([]proxy.Placement{p}); err != nil {
			t.Error(err)
		}
		<-tick.C
	}
	all.Wait()
	if sides[0].Load() == 0 || sides[1].Load() == 0 || changes < 20 {
		t.Errorf("%d changes, %d local, %d remote", changes, sides[0].Load(), sides[1].Load())
	}
}

// Parts come through the same routes, with the caller's identity, wherever their module is.
func TestAggregate(t *testing.T) {
	t.Parallel()
	s, remote, _ := moving(t, proxy.Placement{State: proxy.Remote}, func(c *proxy.Config) {
		c.Aggregate.Aggregates = []aggregate.Aggregate{{Path: "/api/dashboard", Auth: "customer", Timeout: 5 * time.Second, Parts: []aggregate.Part{
			{Name: "orders", Get: "/api/orders"}, {Name: "one", Get: "/api/orders/1"}, {Name: "report", Get: "/api/reports"},
		}}}
	})
	remote.set(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = fmt.Fprintf(w, `{"path":%q,"who":%q}`, r.URL.Path, identity.From(r.Context()).Subject)
	})
	a, body := ask(t, s, "GET", "/api/dashboard", "customer:ada", "")
	var got struct {
		Orders, One struct{ Path, Who string }
		Report      any
		Missing     []aggregate.Missing
	}
	if err := json.Unmarshal([]byte(body), &got); err != nil || a.StatusCode != 200 {
		t.Fatalf("%d %s, error %v", a.StatusCode, body, err)
	}
	if got.Orders.Who != "ada" || got.One.Path != "/api/orders/1" || got.Report != nil || len(got.Missing) != 1 || got.Missing[0].Part != "report" || got.Missing[0].Status != 403 {
		t.Errorf("merged to %s", body)
	}
	if a, _ = ask(t, s, "GET", "/api/dashboard", "", ""); a.StatusCode != 401 {
		t.Errorf("nobody gets %d", a.StatusCode)
	}
}
