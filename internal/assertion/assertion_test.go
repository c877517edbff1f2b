package assertion_test

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/banyan-go/banyan/internal/assertion"
	"github.com/banyan-go/banyan/internal/clock"
	"github.com/banyan-go/banyan/internal/identity"
	"github.com/banyan-go/banyan/internal/rest"
	"github.com/banyan-go/banyan/internal/telemetry"
	"github.com/banyan-go/banyan/internal/token"
)

var start = time.Date(2026, 11, 2, 10, 0, 0, 0, time.UTC)

// rig is a gateway and a module's process, with nothing but a request between them.
type rig struct {
	t      testing.TB
	clock  *clock.Simulated
	key    token.Key
	ring   *token.Keyring
	signer *assertion.Signer
	http.Handler
	calls atomic.Int32
	got   got
}

// got is what the module is given.
type got struct {
	Who         identity.Identity
	IP          string
	Correlation string
	Method      string
	Body        string
	Length      int64
	Key         string
	Remote      string
	Leftover    []string // headers that a module must not see
}

func newRig(t testing.TB, change ...func(*assertion.Options)) *rig {
	t.Helper()
	key, err := token.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	ring, err := token.NewKeyring(key)
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{t: t, clock: clock.NewSimulated(start), key: key, ring: ring}
	r.signer = assertion.NewSigner(ring, r.clock)
	o := assertion.Options{Module: "orders", Keys: ring, Clock: r.clock, Registry: prometheus.NewRegistry(), Route: route}
	for _, c := range change {
		c(&o)
	}
	v, err := assertion.NewVerifier(o)
	if err != nil {
		t.Fatal(err)
	}
	r.Handler = v.Middleware(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		r.calls.Add(1)
		content, err := io.ReadAll(req.Body)
		if err != nil {
			t.Error(err)
		}
		r.got = got{
			Who: identity.From(req.Context()), IP: rest.ClientIP(req.Context()), Correlation: telemetry.Correlation(req.Context()), Method: req.Method,
			Body: string(content), Length: req.ContentLength, Key: req.Header.Get("Idempotency-Key"), Remote: req.RemoteAddr,
		}
		for _, name := range []string{assertion.Header, "Authorization"} {
			if req.Header[name] != nil {
				r.got.Leftover = append(r.got.Leftover, name)
			}
		}
		w.WriteHeader(http.StatusNoContent)
	}))
	return r
}

func route(method, path string) (rest.Request, bool) {
	switch {
	case method == "POST" && path == "/api/orders":
		return rest.Request{Method: method, Route: path, Money: true}, true
	case method == "GET" && strings.HasPrefix(path, "/api/orders/"):
		return rest.Request{Method: method, Route: "/api/orders/{id}"}, true
	}
	return rest.Request{}, false
}

var ann = identity.Identity{Subject: "u1", Role: identity.Customer, Session: "s1", Scopes: "orders:read orders:write"}

// ask is a request for order 7, place one that makes an order.
func ask() *assertion.Request {
	return &assertion.Request{
		Module: "orders", Method: "GET", Path: "/api/orders/7", Query: "a=1", Epoch: 3, RequestID: "r1", ClientIP: "203.0.113.9", Caller: ann,
	}
}

const order = `{"sku":"a"}`

func place() *assertion.Request {
	return &assertion.Request{
		Module: "orders", Method: "POST", Path: "/api/orders", Epoch: 3, RequestID: "r2", ClientIP: "2001:db8::1", Caller: ann,
		Body: assertion.Body{Hash: sha256.Sum256([]byte(order)), Length: int64(len(order))},
	}
}

// request is the HTTP request of an assertion's request, with that assertion.
func (r *rig) request(a *assertion.Request, content string) *http.Request {
	r.t.Helper()
	signed, err := r.signer.Sign(a)
	if err != nil {
		r.t.Fatal(err)
	}
	return r.with(a, content, signed)
}

func (r *rig) with(a *assertion.Request, content, signed string) *http.Request {
	target := a.Path
	if a.Query != "" {
		target += "?" + a.Query
	}
	var from io.Reader
	if content != "" {
		from = strings.NewReader(content)
	}
	req := httptest.NewRequest(a.Method, target, from)
	req.Header.Set(assertion.Header, signed)
	if a.IdempotencyKey != "" {
		req.Header.Set("Idempotency-Key", a.IdempotencyKey)
	}
	return req
}

// status sends the request. A refusal must say nothing but its status.
func (r *rig) status(req *http.Request) int {
	r.t.Helper()
	calls := r.calls.Load()
	w := httptest.NewRecorder()
	r.ServeHTTP(w, req)
	if w.Code == http.StatusNoContent {
		return w.Code
	}
	if r.calls.Load() != calls {
		r.t.Errorf("status %d, but the module was called", w.Code)
	}
	if w.Body.Len() > 0 || len(w.Header()) > 0 && w.Code == http.StatusUnauthorized {
		r.t.Errorf("status %d says more: %q, %v", w.Code, w.Body, w.Header())
	}
	return w.Code
}

func TestModuleGetsWhatTheGatewayKnows(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	req := r.request(ask(), "")
	req.Header.Set("Authorization", "Bearer x")
	if got := r.status(req); got != http.StatusNoContent {
		t.Fatalf("status %d", got)
	}
	want := got{Who: ann, IP: "203.0.113.9", Correlation: "r1", Method: "GET", Remote: "203.0.113.9:0"}
	if diff := cmp.Diff(r.got, want); diff != "" {
		t.Errorf("a read (-got +want):\n%s", diff)
	}
	a := place()
	a.IdempotencyKey = "k1"
	if got := r.status(r.request(a, order)); got != http.StatusNoContent {
		t.Fatalf("status %d", got)
	}
	want = got{
		Who: ann, IP: "2001:db8::1", Correlation: "r2", Method: "POST", Body: order, Length: int64(len(order)), Key: "k1", Remote: "[2001:db8::1]:0",
	}
	if diff := cmp.Diff(r.got, want); diff != "" {
		t.Errorf("a write (-got +want):\n%s", diff)
	}
	a = ask()
	a.Method = "HEAD"
	if got := r.status(r.request(a, "")); got != http.StatusNoContent || r.got.Method != "GET" {
		t.Errorf("HEAD: status %d, the module sees %s", got, r.got.Method)
	}
}

// TestOverTheWire: what was signed is what arrives, whatever is in the path, over both kinds of connection.
func TestOverTheWire(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	server := httptest.NewUnstartedServer(r)
	server.Config.Protocols = &http.Protocols{}
	server.Config.Protocols.SetHTTP1(true)
	server.Config.Protocols.SetUnencryptedHTTP2(true)
	server.Start()
	t.Cleanup(server.Close)
	for _, version := range []int{1, 2} {
		protocols := &http.Protocols{}
		protocols.SetHTTP1(version == 1)
		protocols.SetUnencryptedHTTP2(version == 2)
		transport := &http.Transport{Protocols: protocols}
		t.Cleanup(transport.CloseIdleConnections)
		for _, path := range []string{
			"/api/orders/7", "/api/orders/a b", "/api/orders/é", "/api/orders/a+b!'()*,=@:~$&", "/api/orders/a[b]", "/api/orders/a?b#c", `/api/orders/a"b<c>`, "/api/orders/{id}",
		} {
			for _, a := range []*assertion.Request{
				{Module: "orders", Method: "GET", Path: path, Query: "q=a%20b+c&q=%C3%A9&=&"},
				{Module: "orders", Method: "POST", Path: path, IdempotencyKey: "k 1", Body: place().Body},
				{Module: "orders", Method: "DELETE", Path: path},
			} {
				signed, err := r.signer.Sign(a)
				if err != nil {
					t.Fatal(err)
				}
				host := strings.TrimPrefix(server.URL, "http://")
				req := &http.Request{Method: a.Method, URL: &url.URL{Scheme: "http", Host: host, Path: a.Path, RawQuery: a.Query}, Header: http.Header{assertion.Header: {signed}}}
				if a.IdempotencyKey != "" {
					req.Header["Idempotency-Key"] = []string{a.IdempotencyKey}
				}
				if a.Body.Length > 0 {
					req.Body, req.ContentLength = io.NopCloser(strings.NewReader(order)), a.Body.Length
				}
				res, err := transport.RoundTrip(req)
				if err != nil {
					t.Fatal(err)
				}
				_ = res.Body.Close()
				if res.StatusCode != http.StatusNoContent || res.ProtoMajor != version {
					t.Errorf("%s %s over HTTP/%d: status %d", a.Method, path, res.ProtoMajor, res.StatusCode)
				}
			}
		}
	}
}

func TestNobodyIsVouchedForToo(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	a := ask()
	a.Caller = identity.Identity{}
	if got := r.status(r.request(a, "")); got != http.StatusNoContent {
		t.Fatalf("status %d", got)
	}
	if r.got.Who != (identity.Identity{}) {
		t.Errorf("nobody is %+v", r.got.Who)
	}
	if got := r.status(r.with(a, "", "")); got != http.StatusUnauthorized {
		t.Errorf("an empty assertion: status %d", got)
	}
}

func TestTextsThatNeedEscapes(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	for _, subject := range []string{`a"b`, `a\b`, "a\x01b", "a\x7fb", "é", "\u2028", "<&>", "corp|7"} {
		a := ask()
		a.Caller.Subject = subject
		if got := r.status(r.request(a, "")); got != http.StatusNoContent || r.got.Who != a.Caller {
			t.Errorf("%q: status %d, caller %+v", subject, got, r.got.Who)
		}
	}
}

// TestSignerFollowsTheKeys: after a rotation the new key signs.
func TestSignerFollowsTheKeys(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	newer, err := token.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	keys := &rotating{}
	signer := assertion.NewSigner(keys, r.clock)
	for _, k := range []token.Key{r.key, newer, newer} {
		keys.Key = k
		signed, err := signer.Sign(ask())
		if err != nil {
			t.Fatal(err)
		}
		if got := token.UnverifiedKeyID(signed); got != k.ID {
			t.Errorf("signed with %s, want %s", got, k.ID)
		}
	}
}

type rotating struct {
	token.Key
	others []token.Key // that are believed too
}

func (r *rotating) Signer() (token.Key, error) { return r.Key, nil }

func (r *rotating) Public(id string) (ed25519.PublicKey, bool) {
	for _, k := range append(r.others, r.Key) {
		if k.ID == id {
			return k.Private.Public().(ed25519.PublicKey), true
		}
	}
	return nil, false
}

// TestNothingIsReadOfAStranger: who is not vouched for cannot make the process read, nor one that sends another length.
func TestNothingIsReadOfAStranger(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	stranger := r.with(place(), order, "x")
	longer := r.request(place(), order+" ")
	for name, req := range map[string]*http.Request{"a stranger": stranger, "another length": longer} {
		unread := &unread{}
		req.Body = io.NopCloser(unread)
		if got := r.status(req); got != http.StatusUnauthorized || unread.reads > 0 {
			t.Errorf("%s: status %d after %d reads", name, got, unread.reads)
		}
	}
}

type unread struct{ reads int }

func (u *unread) Read([]byte) (int, error) { u.reads++; return 0, io.EOF }

// TestForAnotherRequest: an assertion is worth nothing for any other request, module or body.
func TestForAnotherRequest(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	change := func(of func() *assertion.Request, how func(*assertion.Request)) *assertion.Request {
		a := of()
		how(a)
		return a
	}
	signed := func(a *assertion.Request) string {
		s, err := r.signer.Sign(a)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	keyed := change(place, func(a *assertion.Request) { a.IdempotencyKey = "k1" })
	encoded := r.request(ask(), "")
	encoded.URL.RawPath = "/api%2Forders/7"
	chunked := r.request(place(), order)
	chunked.ContentLength = -1
	chunked.Body = io.NopCloser(strings.NewReader(order + "x"))
	broken := r.request(place(), order)
	broken.Body = io.NopCloser(io.MultiReader(strings.NewReader(order[:5]), &failing{}))
	hidden := r.request(ask(), "")
	hidden.ContentLength, hidden.Body = -1, io.NopCloser(strings.NewReader(order))
	negative := r.with(ask(), "", r.forge(jwt.SigningMethodEdDSA, r.key.Private, nil, map[string]any{"bl": -9}))
	negative.ContentLength, negative.Body = -1, io.NopCloser(strings.NewReader(order))
	two := r.request(ask(), "")
	two.Header.Add(assertion.Header, two.Header.Get(assertion.Header))
	tests := []struct {
		name string
		req  *http.Request
	}{
		{"another module", r.request(change(ask, func(a *assertion.Request) { a.Module = "payments" }), "")},
		{"another method", r.with(change(ask, func(a *assertion.Request) { a.Method = "DELETE" }), "", signed(ask()))},
		{"HEAD for GET", r.with(change(ask, func(a *assertion.Request) { a.Method = "HEAD" }), "", signed(ask()))},
		{"another path", r.with(change(ask, func(a *assertion.Request) { a.Path = "/api/orders/8" }), "", signed(ask()))},
		{"another query", r.with(change(ask, func(a *assertion.Request) { a.Query = "a=2" }), "", signed(ask()))},
		{"no query", r.with(change(ask, func(a *assertion.Request) { a.Query = "" }), "", signed(ask()))},
		{"the same path in other words", encoded},
		{"another key", r.with(change(place, func(a *assertion.Request) { a.IdempotencyKey = "k2" }), order, signed(keyed))},
		{"the key away", r.with(place(), order, signed(keyed))},
		{"another body", r.request(place(), `{"sku":"b"}`)},
		{"no body", r.request(place(), "")},
		{"a shorter body", r.request(place(), order[:5])},
		{"a longer body", r.request(place(), order+" ")},
		{"a longer body of unknown length", chunked},
		{"a body that breaks off", broken},
		{"a body where none was", r.request(ask(), order)},
		{"a body of unknown length where none was", hidden},
		{"a negative length", negative},
		{"a stream that moves money", r.request(change(place, func(a *assertion.Request) { a.Body = assertion.Body{Stream: true} }), order)},
		{"two assertions", two},
	}
	for _, tt := range tests {
		if got := r.status(tt.req); got != http.StatusUnauthorized {
			t.Errorf("%s: status %d", tt.name, got)
		}
	}
	if got := r.status(r.with(keyed, order, signed(keyed))); got != http.StatusNoContent {
		t.Errorf("the request that the others are made of: status %d", got)
	}
}

type failing struct{}

func (*failing) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

// TestUnsignedKeyIsDropped: a key that the gateway did not vouch for must not choose an answer.
func TestUnsignedKeyIsDropped(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	req := r.request(place(), order)
	req.Header.Set("Idempotency-Key", "k1")
	if got := r.status(req); got != http.StatusNoContent || r.got.Key != "" {
		t.Errorf("status %d, key %q", got, r.got.Key)
	}
}

// forge makes an assertion of whatever it is told.
func (r *rig) forge(method jwt.SigningMethod, key any, header, change map[string]any) string {
	r.t.Helper()
	signed, err := r.signer.Sign(ask())
	if err != nil {
		r.t.Fatal(err)
	}
	c := jwt.MapClaims{}
	parsed, _, err := jwt.NewParser().ParseUnverified(signed, c)
	if err != nil {
		r.t.Fatal(err)
	}
	tok := jwt.NewWithClaims(method, c)
	maps.Copy(tok.Header, parsed.Header)
	tok.Header["alg"] = method.Alg()
	for _, m := range []struct{ into, from map[string]any }{{tok.Header, header}, {c, change}} {
		for k, v := range m.from {
			if v == nil {
				delete(m.into, k)
				continue
			}
			m.into[k] = v
		}
	}
	s, err := tok.SignedString(key)
	if err != nil {
		r.t.Fatal(err)
	}
	return s
}

func TestForged(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	other, err := token.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	both, err := token.NewKeyring(r.key, other)
	if err != nil {
		t.Fatal(err)
	}
	two := newRig(t, func(o *assertion.Options) { o.Keys = both })
	access, err := r.ring.Issue(token.Claims{Subject: "u1", Role: "admin", Session: "s1", IssuedAt: start, ExpiresAt: start.Add(time.Hour)})
	if err != nil {
		t.Fatal(err)
	}
	own := func(header, change map[string]any) string {
		return r.forge(jwt.SigningMethodEdDSA, r.key.Private, header, change)
	}
	at := func(d time.Duration) int64 { return start.Add(d).Unix() }
	good := own(nil, nil)
	parts := strings.Split(good, ".")
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		t.Fatal(err)
	}
	admin := base64.RawURLEncoding.EncodeToString(bytes.Replace(payload, []byte("customer"), []byte("admin"), 1))
	tests := []struct{ name, signed string }{
		{"text", "hello"},
		{"dots", ".."},
		{"alg none", r.forge(jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, nil, nil)},
		{"HS256 with the public key as secret", r.forge(jwt.SigningMethodHS256, []byte(r.key.Public), nil, nil)},
		{"another key", r.forge(jwt.SigningMethodEdDSA, other.Private, nil, nil)},
		{"an unknown key", r.forge(jwt.SigningMethodEdDSA, other.Private, map[string]any{"kid": other.ID}, nil)},
		{"no kid", own(map[string]any{"kid": nil}, nil)},
		{"another type", own(map[string]any{"typ": "JWT"}, nil)},
		{"no type", own(map[string]any{"typ": nil}, nil)},
		{"a critical header", own(map[string]any{"crit": []string{"exp"}}, nil)},
		{"an access token", access},
		{"an access token's issuer", own(nil, map[string]any{"iss": "banyan"})},
		{"another audience", own(nil, map[string]any{"aud": "payments"})},
		{"no audience", own(nil, map[string]any{"aud": nil})},
		{"audiences", own(nil, map[string]any{"aud": []string{"orders", "payments"}})},
		{"expired", own(nil, map[string]any{"iat": at(-16 * time.Second), "exp": at(-6 * time.Second)})},
		{"from the future", own(nil, map[string]any{"iat": at(6 * time.Second), "exp": at(16 * time.Second)})},
		{"valid for long", own(nil, map[string]any{"exp": at(time.Hour)})},
		{"no expiry", own(nil, map[string]any{"exp": nil})},
		{"no time of issue", own(nil, map[string]any{"iat": nil})},
		{"no id", own(nil, map[string]any{"jti": nil})},
		{"no target", own(nil, map[string]any{"req": nil})},
		{"a key that is not there", own(nil, map[string]any{"ik": true})},
		{"another algorithm in the header", own(map[string]any{"alg": "RS256"}, nil)},
		{"changed payload", parts[0] + "." + admin + "." + parts[2]},
		{"no signature", parts[0] + "." + parts[1] + "."},
		{"no third part", parts[0] + "." + parts[1]},
		{"a fourth part", good + "." + parts[2]},
		{"padding", good + "="},
		{"too long", own(nil, map[string]any{"rid": strings.Repeat("x", 10_000)})},
	}
	for _, tt := range tests {
		if got := r.status(r.with(ask(), "", tt.signed)); got != http.StatusUnauthorized {
			t.Errorf("%s: status %d", tt.name, got)
		}
	}
	if got := r.status(r.with(ask(), "", good)); got != http.StatusNoContent {
		t.Errorf("the assertion that the others are made of: status %d", got)
	}
	// Both keys are good here, but each for what it has signed.
	swapped := r.forge(jwt.SigningMethodEdDSA, r.key.Private, map[string]any{"kid": other.ID}, nil)
	if got := two.status(two.with(ask(), "", swapped)); got != http.StatusUnauthorized {
		t.Errorf("swapped kid: status %d", got)
	}
	if got := two.status(two.with(ask(), "", good)); got != http.StatusNoContent {
		t.Errorf("a ring of two keys: status %d", got)
	}
}

// TestAccessTokenIsAnotherThing: what passes from the gateway to a module must not open the gateway.
func TestAccessTokenIsAnotherThing(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	signed, err := r.signer.Sign(ask())
	if err != nil {
		t.Fatal(err)
	}
	if c, err := r.ring.Verify(signed, start); err == nil {
		t.Errorf("an assertion is taken for an access token of %s", c.Subject)
	}
}

func TestTimes(t *testing.T) {
	t.Parallel()
	const edge = assertion.Life + assertion.Skew
	for _, tt := range []struct {
		after time.Duration
		want  int
	}{
		{-assertion.Skew - time.Second, http.StatusUnauthorized}, {-assertion.Skew, http.StatusNoContent}, {0, http.StatusNoContent},
		{edge, http.StatusNoContent}, {edge + time.Second, http.StatusUnauthorized},
	} {
		r := newRig(t)
		signer := assertion.NewSigner(r.ring, clock.NewSimulated(start.Add(-tt.after)))
		signed, err := signer.Sign(ask())
		if err != nil {
			t.Fatal(err)
		}
		if got := r.status(r.with(ask(), "", signed)); got != tt.want {
			t.Errorf("%s after signing: status %d, want %d", tt.after, got, tt.want)
		}
	}
}

func TestStaleEpochIsSentBack(t *testing.T) {
	t.Parallel()
	var epoch atomic.Uint64
	epoch.Store(3)
	r := newRig(t, func(o *assertion.Options) { o.Epoch = epoch.Load })
	req := r.request(place(), order)
	again := req.Clone(t.Context())
	epoch.Store(4)
	if got := r.status(req); got != assertion.StatusStale {
		t.Errorf("an older epoch: status %d", got)
	}
	// It was not used: whoever has not seen the change yet may still take it.
	epoch.Store(3)
	again.Body = io.NopCloser(strings.NewReader(order))
	if got := r.status(again); got != http.StatusNoContent {
		t.Errorf("the epoch of now: status %d", got)
	}
	// The epoch tells nothing to somebody whom nobody vouches for.
	epoch.Store(9)
	if got := r.status(r.with(ask(), "", "x")); got != http.StatusUnauthorized {
		t.Errorf("no assertion: status %d", got)
	}
}

func TestRepeats(t *testing.T) {
	t.Parallel()
	keyed := func() *assertion.Request {
		a := place()
		a.IdempotencyKey = "k1"
		return a
	}
	remove := func() *assertion.Request {
		a := ask()
		a.Method = "DELETE"
		a.IdempotencyKey = "k1"
		return a
	}
	for _, tt := range []struct {
		name    string
		of      func() *assertion.Request
		content string
		want    int
	}{
		{"a read", ask, "", http.StatusNoContent},
		{"a write", place, order, http.StatusUnauthorized},
		{"a write with a key", keyed, order, http.StatusNoContent},
		{"a removal, whose key nobody keeps", remove, "", http.StatusUnauthorized},
	} {
		r := newRig(t)
		signed, err := r.signer.Sign(tt.of())
		if err != nil {
			t.Fatal(err)
		}
		if got := r.status(r.with(tt.of(), tt.content, signed)); got != http.StatusNoContent {
			t.Fatalf("%s: status %d", tt.name, got)
		}
		for _, wait := range []time.Duration{0, assertion.Life, assertion.Skew} {
			r.clock.Advance(wait)
			if got := r.status(r.with(tt.of(), tt.content, signed)); got != tt.want {
				t.Errorf("%s, sent again: status %d, want %d", tt.name, got, tt.want)
			}
		}
		// A new attempt of the gateway has an assertion of its own.
		if got := r.status(r.request(tt.of(), tt.content)); got != http.StatusNoContent {
			t.Errorf("%s, signed again: status %d", tt.name, got)
		}
	}
}

// TestRepeatsAreRemembered: for as long as an assertion is valid, whatever else comes meanwhile.
func TestRepeatsAreRemembered(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	next := func() {
		r.clock.Advance(time.Second)
		if got := r.status(r.request(place(), order)); got != http.StatusNoContent {
			t.Fatalf("status %d", got)
		}
	}
	for range 19 {
		next()
	}
	signed, err := r.signer.Sign(place())
	if err != nil {
		t.Fatal(err)
	}
	if got := r.status(r.with(place(), order, signed)); got != http.StatusNoContent {
		t.Fatalf("status %d", got)
	}
	for i := range 60 {
		next()
		if got := r.status(r.with(place(), order, signed)); got != http.StatusUnauthorized {
			t.Errorf("%d s later: status %d", i+1, got)
		}
	}
}

// TestRefusedOnceIsNotUsed: somebody who has the assertion but not the body must not spoil it for the gateway.
func TestRefusedOnceIsNotUsed(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	signed, err := r.signer.Sign(place())
	if err != nil {
		t.Fatal(err)
	}
	if got := r.status(r.with(place(), `{"sku":"b"}`, signed)); got != http.StatusUnauthorized {
		t.Errorf("another body: status %d", got)
	}
	if got := r.status(r.with(place(), order, signed)); got != http.StatusNoContent {
		t.Errorf("status %d", got)
	}
}

func TestRepeatsAtTheSameTime(t *testing.T) {
	t.Parallel()
	var calls atomic.Int32
	r := newRig(t)
	v, err := assertion.NewVerifier(assertion.Options{Module: "orders", Keys: r.ring, Clock: r.clock, Route: route})
	if err != nil {
		t.Fatal(err)
	}
	h := v.Middleware(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { calls.Add(1) }))
	signed, err := r.signer.Sign(place())
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() { h.ServeHTTP(httptest.NewRecorder(), r.with(place(), order, signed)) })
	}
	wg.Wait()
	if n := calls.Load(); n != 1 {
		t.Errorf("it worked %d times", n)
	}
}

// TestMemoryOfRepeatsIsBounded: nothing is forgotten that could come again, so with no room left nothing more is taken.
func TestMemoryOfRepeatsIsBounded(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(o *assertion.Options) { o.Remember = 10 })
	for i := range 10 {
		if got := r.status(r.request(place(), order)); got != http.StatusNoContent {
			t.Fatalf("request %d: status %d", i, got)
		}
	}
	if got := r.status(r.request(place(), order)); got != http.StatusServiceUnavailable {
		t.Errorf("no room: status %d", got)
	}
	if got := r.status(r.request(ask(), "")); got != http.StatusNoContent {
		t.Errorf("a read: status %d", got)
	}
	r.clock.Advance(assertion.Life + 2*assertion.Skew + time.Second)
	if got := r.status(r.request(place(), order)); got != http.StatusServiceUnavailable {
		t.Errorf("the older ones are still needed: status %d", got)
	}
	r.clock.Advance(assertion.Life + 2*assertion.Skew + time.Second)
	if got := r.status(r.request(place(), order)); got != http.StatusNoContent {
		t.Errorf("after all have expired: status %d", got)
	}
}

func TestStream(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	a := ask()
	a.Method, a.Path, a.Body = "PUT", "/api/orders/7/file", assertion.Body{Stream: true}
	if got := r.status(r.request(a, "whatever comes")); got != http.StatusNoContent || r.got.Body != "whatever comes" {
		t.Errorf("status %d, body %q", got, r.got.Body)
	}
}

// TestOthersCanVerify: the form is a JWT that a common library checks with our key set.
func TestOthersCanVerify(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	signed, err := r.signer.Sign(ask())
	if err != nil {
		t.Fatal(err)
	}
	c := jwt.MapClaims{}
	_, err = jwt.NewParser(jwt.WithValidMethods([]string{"EdDSA"}), jwt.WithAudience("orders"), jwt.WithIssuer("banyan-gateway"),
		jwt.WithExpirationRequired(), jwt.WithTimeFunc(r.clock.Now)).ParseWithClaims(signed, c, func(t *jwt.Token) (any, error) {
		key, _ := r.ring.Public(t.Header["kid"].(string))
		return ed25519.PublicKey(key), nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if c["sub"] != "u1" || c["role"] != "customer" || c["epo"] != float64(3) {
		t.Errorf("claims: %v", c)
	}
}

func TestSignRefuses(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	for name, spoil := range map[string]func(*assertion.Request){
		"no module": func(a *assertion.Request) { a.Module = "" },
		"no method": func(a *assertion.Request) { a.Method = "" },
		"no path":   func(a *assertion.Request) { a.Path = "" },
		"too long":  func(a *assertion.Request) { a.Caller.Subject = strings.Repeat("u", 10_000) },
	} {
		a := ask()
		spoil(a)
		if _, err := r.signer.Sign(a); err == nil {
			t.Errorf("%s: signed", name)
		}
	}
	public, err := token.NewKeyring(r.key.Verifying())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := assertion.NewSigner(public, nil).Sign(ask()); err == nil {
		t.Error("signed without a key that signs")
	}
}

// FuzzVerify: whatever is sent, only what the signer has made is believed, byte for byte.
func FuzzVerify(f *testing.F) {
	r := newRig(f)
	signed, err := r.signer.Sign(ask())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(signed)
	f.Add(signed[:len(signed)-1])
	f.Add(strings.ToLower(signed))
	f.Add("..")
	f.Add("e30.e30.")
	f.Fuzz(func(t *testing.T, s string) {
		w := httptest.NewRecorder()
		r.ServeHTTP(w, r.with(ask(), "", s))
		if (w.Code == http.StatusNoContent) != (s == signed) {
			t.Fatalf("status %d of %q", w.Code, s)
		}
	})
}

func BenchmarkSign(b *testing.B) {
	r := newRig(b)
	for name, a := range map[string]*assertion.Request{"read": ask(), "write": place()} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := r.signer.Sign(a); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkEd25519 is the least that Sign and Verify can take.
func BenchmarkEd25519(b *testing.B) {
	r := newRig(b)
	m := make([]byte, 480)
	b.Run("sign", func(b *testing.B) {
		for b.Loop() {
			ed25519.Sign(r.key.Private, m)
		}
	})
	signature := ed25519.Sign(r.key.Private, m)
	b.Run("verify", func(b *testing.B) {
		for b.Loop() {
			ed25519.Verify(r.key.Public, m, signature)
		}
	})
}

func BenchmarkVerify(b *testing.B) {
	r := newRig(b)
	signed, err := r.signer.Sign(ask())
	if err != nil {
		b.Fatal(err)
	}
	v, err := assertion.NewVerifier(assertion.Options{Module: "orders", Keys: r.ring, Clock: r.clock, Route: route})
	if err != nil {
		b.Fatal(err)
	}
	h := v.Middleware(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	req := r.with(ask(), "", signed)
	w := httptest.NewRecorder()
	b.ReportAllocs()
	for b.Loop() {
		req.Header[assertion.Header] = []string{signed}
		h.ServeHTTP(w, req)
	}
	if w.Code != http.StatusOK {
		b.Fatal(w.Code)
	}
}
