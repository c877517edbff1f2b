package proxytest_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/banyan-go/banyan/internal/clock"
	"github.com/banyan-go/banyan/internal/identity"
	"github.com/banyan-go/banyan/internal/token"
	"github.com/banyan-go/banyan/proxy"
)

// strict is a gateway with small limits before an application that remembers.
func strict(t *testing.T, change func(*proxy.Config, *proxy.Options)) (*door, *recorder) {
	t.Helper()
	app := &recorder{}
	origin := backend(t, app.ServeHTTP)
	return open(t, func(c *proxy.Config, o *proxy.Options) {
		c.Limits.HeaderBytes, c.Limits.BodyBytes, c.Limits.ReadHeader, c.Limits.ReadBody = 8<<10, 100<<10, 200*time.Millisecond, 200*time.Millisecond
		c.Upstreams = []proxy.Foreign{legacy(origin,
			proxy.ForeignRoute{Match: "/admin/{rest...}", Class: "stream", Auth: "admin"}, proxy.ForeignRoute{Match: "/mine/{rest...}", Class: "stream", Auth: "customer"},
			proxy.ForeignRoute{Match: "/scoped", Class: "read", Auth: "customer", Scope: "orders"},
			proxy.ForeignRoute{Match: "POST /write", Class: "write"}, proxy.ForeignRoute{Match: "GET /read", Class: "read"}, proxy.ForeignRoute{Match: "/stream", Class: "stream"},
		)}
		if change != nil {
			change(c, o)
		}
	}), app
}

func encode(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // what the tests write can be encoded
	}
	return base64.RawURLEncoding.EncodeToString(b)
}

type object = map[string]any

func TestBadTokens(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	first, second := newKey(t), newKey(t)
	first.CreatedAt, second.CreatedAt = now.Add(-time.Hour), now.Add(-2*time.Hour)
	ring, err := token.NewKeyring(first, second)
	if err != nil {
		t.Fatal(err)
	}
	stranger := newKey(t)
	d, app := strict(t, func(_ *proxy.Config, o *proxy.Options) { o.Verifier, o.Clock = ring, clock.NewSimulated(now) })

	header := object{"alg": "EdDSA", "typ": "JWT", "kid": first.ID}
	claims := object{
		"iss": "banyan", "aud": "banyan", "jti": "1", "sub": "u1", "role": "admin", "sid": "s1", "iat": now.Add(-time.Minute).Unix(), "exp": now.Add(time.Minute).Unix(),
	}
	with := func(o object, more object) object {
		o = maps.Clone(o)
		for k, v := range more {
			if v == nil {
				delete(o, k)
			} else {
				o[k] = v
			}
		}
		return o
	}
	sign := func(h, c object, key ed25519.PrivateKey) string {
		text := encode(h) + "." + encode(c)
		return text + "." + base64.RawURLEncoding.EncodeToString(ed25519.Sign(key, []byte(text)))
	}
	mac := func(h object, secret []byte) string {
		text := encode(h) + "." + encode(claims)
		m := hmac.New(sha256.New, secret)
		m.Write([]byte(text))
		return text + "." + base64.RawURLEncoding.EncodeToString(m.Sum(nil))
	}
	unsigned := func(alg string) string { return encode(with(header, object{"alg": alg})) + "." + encode(claims) + "." }
	good := sign(header, claims, first.Private)
	parts := strings.Split(good, ".")
	jwk := object{"kty": "OKP", "crv": "Ed25519", "x": base64.RawURLEncoding.EncodeToString(stranger.Public), "kid": stranger.ID}

	bad := map[string]string{
		"alg none": unsigned("none"), "alg None": unsigned("None"), "alg NONE": unsigned("NONE"), "no alg": encode(with(header, object{"alg": nil})) + "." + encode(claims) + ".",
		"alg none with a signature": encode(with(header, object{"alg": "none"})) + "." + encode(claims) + "." + parts[2],
		"no signature":              parts[0] + "." + parts[1] + ".", "two parts": parts[0] + "." + parts[1], "four parts": good + "." + parts[2],
		"wrong key":               sign(header, claims, stranger.Private),
		"swapped kid":             sign(with(header, object{"kid": second.ID}), claims, first.Private),
		"unknown kid":             sign(with(header, object{"kid": stranger.ID}), claims, stranger.Private),
		"no kid":                  sign(with(header, object{"kid": nil}), claims, first.Private),
		"kid is a path":           sign(with(header, object{"kid": "../../dev/null"}), claims, first.Private),
		"kid is a list":           sign(with(header, object{"kid": []string{first.ID}}), claims, first.Private),
		"key within":              sign(with(header, object{"jwk": jwk, "kid": stranger.ID}), claims, stranger.Private),
		"key within, known kid":   sign(with(header, object{"jwk": jwk}), claims, stranger.Private),
		"key elsewhere":           sign(with(header, object{"jku": "http://127.0.0.1:1/keys", "x5u": "http://127.0.0.1:1/keys", "kid": stranger.ID}), claims, stranger.Private),
		"critical header":         sign(with(header, object{"crit": []string{"exp"}}), claims, first.Private),
		"HS256 by the public key": mac(with(header, object{"alg": "HS256"}), first.Public),
		"HS256 by its text":       mac(with(header, object{"alg": "HS256"}), []byte(base64.RawURLEncoding.EncodeToString(first.Public))),
		"HS256 by nothing":        mac(with(header, object{"alg": "HS256"}), nil),
		"another algorithm":       sign(with(header, object{"alg": "ES256"}), claims, first.Private),
		"expired":                 sign(header, with(claims, object{"exp": now.Unix()}), first.Private),
		"expired long ago":        sign(header, with(claims, object{"exp": 1}), first.Private),
		"no expiry":               sign(header, with(claims, object{"exp": nil}), first.Private),
		"expiry is text":          sign(header, with(claims, object{"exp": "9999999999"}), first.Private),
		"expiry beyond all":       sign(header, with(claims, object{"exp": 1e300}), first.Private),
		"wrong audience":          sign(header, with(claims, object{"aud": "other"}), first.Private),
		"no audience":             sign(header, with(claims, object{"aud": nil}), first.Private),
		"empty audience":          sign(header, with(claims, object{"aud": []string{}}), first.Private),
		"wrong issuer":            sign(header, with(claims, object{"iss": "https://evil.example"}), first.Private),
		"no issuer":               sign(header, with(claims, object{"iss": nil}), first.Private),
		"no subject":              sign(header, with(claims, object{"sub": nil}), first.Private),
		"role nobody knows":       sign(header, with(claims, object{"role": "root"}), first.Private),
		"no role":                 sign(header, with(claims, object{"role": nil}), first.Private),
		"no session":              sign(header, with(claims, object{"sid": nil}), first.Private),
		"another's claims":        parts[0] + "." + encode(with(claims, object{"sub": "u2"})) + "." + parts[2],
		"padded":                  parts[0] + "." + parts[1] + "." + parts[2] + "=", "signature cut": good[:len(good)-2], "signature of zeros": parts[0] + "." + parts[1] + "." + strings.Repeat("A", 86),
		"not base64": "a.b.c!", "not a token": "token", "empty": "", "dots": "..", "too long": good + strings.Repeat("A", token.MaxSize),
	}
	ask := func(path string, headers ...string) reply { return d.do("GET", path, "", headers...) }
	if got := ask("/admin/x", "Authorization", "Bearer "+good); got.status != 200 {
		t.Fatalf("the good token: %d %s", got.status, got.body)
	}
	counted := func() float64 {
		return d.count("banyan_http_requests_total", "route", "/admin/{rest...}", "module", "legacy", "status", "4xx")
	}
	tries := 0.0
	for _, name := range slices.Sorted(maps.Keys(bad)) {
		got := ask("/admin/x", "Authorization", "Bearer "+bad[name])
		tries++
		if got.status != http.StatusUnauthorized || !strings.Contains(got.header.Get("WWW-Authenticate"), "Bearer") {
			t.Errorf("%s: %d %s", name, got.status, got.body)
		}
		if strings.Contains(got.body, "banyan") && strings.Contains(got.body, "signature") {
			t.Errorf("%s: it is told why: %s", name, got.body)
		}
	}
	others := map[string][]string{
		"two headers": {"Authorization", "Bearer " + good, "Authorization", "Bearer " + good}, "another scheme": {"Authorization", "Basic " + good}, "no scheme": {"Authorization", good},
		"in a cookie": {"Cookie", "token=" + good + "; access_token=" + good + "; Authorization=Bearer " + good}, "in another header": {"X-Authorization", "Bearer " + good, "Proxy-Authorization", "Bearer " + good},
		"forged assertion": {"X-Banyan-Assertion", good}, "told who it is": {"X-User-Id", "u1", "X-User-Role", "admin", "X-Forwarded-User", "admin", "X-Banyan-Route", "remote"},
	}
	for name, headers := range others {
		got := ask("/admin/x?access_token="+good+"&token="+good, headers...)
		tries++
		if got.status != http.StatusUnauthorized && (name != "two headers" || got.status != http.StatusBadRequest) {
			t.Errorf("%s: %d %s", name, got.status, got.body)
		}
	}
	customer := sign(header, with(claims, object{"role": "customer"}), first.Private)
	if got := ask("/admin/x", "Authorization", "Bearer "+customer); got.status != http.StatusForbidden {
		t.Errorf("too small a role: %d", got.status)
	}
	tries++
	if got := ask("/scoped", "Authorization", "Bearer "+sign(header, with(claims, object{"role": "customer", "scope": "carts order orders2"}), first.Private)); got.status != http.StatusForbidden {
		t.Errorf("without the scope: %d", got.status)
	}
	// A HEAD, a POST and an upgrade are no way around.
	for _, method := range []string{"HEAD", "POST", "DELETE", "OPTIONS", "PROPFIND"} {
		if got := d.do(method, "/admin/x", ""); got.status != http.StatusUnauthorized {
			t.Errorf("%s: %d", method, got.status)
		}
		tries++
	}
	p := dial(t, d.addr)
	p.write("GET /admin/x" + top + socket + "\r\n")
	if resp, _ := p.answer("GET"); resp == nil || resp.StatusCode != http.StatusUnauthorized {
		t.Errorf("a socket: %+v", resp)
	}
	tries++
	eventually(t, "the count of those refused", func() bool { return counted() == tries })
	if seen := app.seen(); len(seen) != 1 || seen[0].Header.Get("Authorization") != "" || seen[0].Header.Get("X-Banyan-Assertion") == "" {
		t.Errorf("the application has seen %+v, want the good one alone, without its token", seen)
	}
	if text := d.logs.String(); strings.Contains(text, parts[2]) || strings.Contains(text, parts[1]) {
		t.Error("the log has a token")
	}
}

func newKey(t *testing.T) token.Key {
	t.Helper()
	k, err := token.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// TestATokenPassesOnlyToWhoIsMeantToHaveIt: an application that checks tokens itself gets the client's, and no other one does.
func TestATokenPassesOnlyToWhoIsMeantToHaveIt(t *testing.T) {
	t.Parallel()
	for _, pass := range []bool{false, true} {
		app := &recorder{}
		f := legacy(backend(t, app.ServeHTTP))
		f.Token = pass
		d := inFrontOf(t, f)
		d.do("GET", "/x", "", "Authorization", "Bearer "+d.token(identity.Customer))
		if seen := app.seen(); len(seen) != 1 || (seen[0].Header.Get("Authorization") != "") != pass {
			t.Errorf("token %t: seen %+v", pass, seen)
		}
	}
}

func TestOversizedRequests(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("a", 200<<10)
	const body = "POST /write" + top
	tests := []struct {
		name, raw  string
		want       int
		counted    bool // by us; net/http refuses some before we see them
		incomplete bool // a body whose length nobody knows is found too long when a part of it is away
	}{
		{name: "header", raw: "GET /stream" + top + "X-A: " + long + "\r\n\r\n", want: 431},
		{name: "headers", raw: "GET /stream" + top + strings.Repeat("X-A: b\r\n", 30_000) + "\r\n", want: 431},
		{name: "target", raw: "GET /stream?" + long + top + "\r\n", want: 431},
		{name: "method", raw: strings.Repeat("A", 200<<10) + " /stream" + top + "\r\n", want: 431},
		{name: "cookie", raw: "GET /stream" + top + "Cookie: a=" + long + "\r\n\r\n", want: 431},
		{name: "token", raw: "GET /mine/x" + top + "Authorization: Bearer " + long[:10<<10] + "\r\n\r\n", want: 401, counted: true},
		{name: "declared body", raw: body + "Content-Length: 204800\r\n\r\n" + long, want: 413, counted: true},
		{name: "declared body that is expected", raw: body + "Content-Length: 204800\r\nExpect: 100-continue\r\n\r\n", want: 413, counted: true},
		{name: "body in chunks", raw: body + "Transfer-Encoding: chunked\r\n\r\n32000\r\n" + long + "\r\n0\r\n\r\n", want: 413, counted: true, incomplete: true},
		{name: "trailer", raw: body + "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX-A: " + long + "\r\n\r\n", want: 400, counted: true, incomplete: true},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			d, app := strict(t, nil)
			p := dial(t, d.addr)
			go p.write(test.raw) // the gateway may stop reading
			status := 0
			if resp, _ := p.answer("GET"); resp != nil {
				status = resp.StatusCode
			}
			_ = p.Close()
			d.stop()
			var wrong []string
			if status != test.want {
				wrong = append(wrong, fmt.Sprintf("got %d, want %d", status, test.want))
			}
			for _, v := range app.seen() {
				if !test.incomplete || !v.Broken {
					wrong = append(wrong, "the application has seen "+v.request())
				}
			}
			if n := d.count("banyan_http_requests_total", "status", "4xx"); (n == 1) != test.counted {
				wrong = append(wrong, fmt.Sprintf("%v are counted", n))
			}
			if len(wrong) > 0 {
				t.Error(wrong)
			}
		})
	}
}

// TestLongHeadersOfHTTP2: the server announces its limit, and ends the stream or the connection of whoever does not keep to it.
func TestLongHeadersOfHTTP2(t *testing.T) {
	t.Parallel()
	d, app := strict(t, nil)
	fields := with(":path", "/stream")
	for i := range 40 {
		fields = append(fields, [2]string{fmt.Sprintf("x-%d", i), strings.Repeat("a", 1000)})
	}
	if got, _ := dialH2(t, d.addr).ask(fields, ""); got == 200 || len(app.seen()) > 0 {
		t.Errorf("got %d, and %d have passed", got, len(app.seen()))
	}
}

// TestSlowRequests: whoever does not send in time is cut, and nobody behind waits for it.
func TestSlowRequests(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, raw string
		want      []int // any of them; 0 is that the connection is closed without a word
	}{
		{"nothing", "", []int{0}},
		{"half a line", "GET /str", []int{0, 400, 408}},
		{"half a header", "GET /stream" + top + "X-A: ", []int{0, 400, 408}},
		{"no body", "POST /write" + top + "Content-Length: 5\r\n\r\n", []int{400, 408}},
		{"half a body", "POST /write" + top + "Content-Length: 5\r\n\r\nhe", []int{400, 408}},
		{"body of a refused request", "POST /admin/x" + top + "Content-Length: 5\r\n\r\nhe", []int{401}},
		{"half a second request", "GET /stream" + top + "\r\nGET /str", []int{200}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			d, app := strict(t, nil)
			p := dial(t, d.addr)
			p.write(test.raw)
			status := 0
			if resp, _ := p.answer("GET"); resp != nil {
				status = resp.StatusCode
			}
			if !slices.Contains(test.want, status) {
				t.Errorf("got %d, want one of %v", status, test.want)
			}
			if rest, err := io.ReadAll(p.in); errors.Is(err, context.DeadlineExceeded) || bytes.HasPrefix(rest, []byte("HTTP/1.1 2")) {
				t.Errorf("and then %q, %v", rest, err)
			}
			d.stop()
			want := 0
			if status == 200 {
				want = 1
			}
			if seen := app.seen(); len(seen) != want {
				t.Errorf("the application has seen %+v", seen)
			}
			if status >= 400 && strings.Contains(test.raw, "\r\n\r\n") && d.count("banyan_http_requests_total", "status", "4xx") != 1 {
				t.Error("it is not counted")
			}
		})
	}
	t.Run("chunks that stop", func(t *testing.T) {
		t.Parallel()
		d, app := strict(t, nil)
		p := dial(t, d.addr)
		p.write("POST /write" + top + "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
		if resp, _ := p.answer("POST"); resp == nil || resp.StatusCode < 400 || resp.StatusCode >= 500 {
			t.Errorf("got %+v", resp)
		}
		d.stop()
		for _, v := range app.seen() {
			if !v.Broken {
				t.Errorf("the application takes it for complete: %+v", v)
			}
		}
	})
}

// TestAClientThatDoesNotReadIsCut: the answer is larger than what the network holds.
func TestAClientThatDoesNotReadIsCut(t *testing.T) {
	t.Parallel()
	ended := make(chan error, 1)
	origin := backend(t, func(w http.ResponseWriter, _ *http.Request) {
		_, err := io.Copy(w, pattern(64<<20))
		ended <- err
	})
	d := open(t, func(c *proxy.Config, _ *proxy.Options) {
		c.Limits.ReadBody, c.Limits.Request, c.Limits.Write = 200*time.Millisecond, 900*time.Millisecond, time.Second
		c.Upstreams = []proxy.Foreign{legacy(origin, proxy.ForeignRoute{Match: "GET /x", Class: "read"})}
	})
	p := dial(t, d.addr)
	_ = p.Conn.(*net.TCPConn).SetReadBuffer(4 << 10)
	p.write("GET /x" + top + "\r\n")
	if l := d.logged("cut", func(l line) bool { return l.Route == "/x" }); !l.Aborted || l.Failure != "client_abort" {
		t.Errorf("logged as %+v", l)
	}
	if err := <-ended; err == nil {
		t.Error("the upstream has sent it all: it waits somewhere")
	}
}

// TestWhatNetHTTPRefusesIsCounted: it never is a request to us.
func TestWhatNetHTTPRefusesIsCounted(t *testing.T) {
	t.Parallel()
	d, app := strict(t, nil)
	for _, raw := range []string{"nonsense\r\n\r\n", "GET /stream HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", "GET /stream" + top + "X-A: " + strings.Repeat("a", 20<<10) + "\r\n\r\n"} {
		p := dial(t, d.addr)
		p.write(raw)
		if resp, _ := p.answer("GET"); resp == nil || resp.StatusCode < 400 {
			t.Errorf("%.40q: got %+v", raw, resp)
		}
		_ = p.Close()
	}
	d.stop()
	if len(app.seen()) > 0 {
		t.Errorf("seen %+v", app.seen())
	}
	if d.count("banyan_http_requests_total") == 0 {
		fault(t, "requests that net/http refuses itself (malformed, too long, too slow to send their header) are counted nowhere")
	}
	t.Error(mended)
}
