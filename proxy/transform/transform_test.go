package transform

import (
	"errors"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
)

// canonical is what the gateway holds paths against, in few words.
func canonical(path string) error {
	if !strings.HasPrefix(path, "/") || !utf8.ValidString(path) || strings.ContainsAny(path, `\;%`) || strings.ContainsFunc(path, unicode.IsControl) {
		return errors.New("not a path")
	}
	parts := strings.Split(path[1:], "/")
	for i, p := range parts {
		if p == "" && i < len(parts)-1 || strings.HasSuffix(p, ".") {
			return errors.New("ambiguous")
		}
	}
	return nil
}

func table(t testing.TB, rules ...Rule) *Table {
	t.Helper()
	tab, err := New(Config{Rules: rules}, "gateway.transform", canonical)
	if err != nil {
		t.Fatal(err)
	}
	return tab
}

func TestPaths(t *testing.T) {
	t.Parallel()
	tab := table(t,
		Rule{Match: "GET /old/{id}", Path: "/api/orders/{id}"},
		Rule{Match: "POST /old/{id}", Path: "/api/orders/{id}/cancel"},
		Rule{Match: "/old/{id}", Path: "/api/any/{id}"},
		Rule{Match: "/old/mine", Path: "/api/carts/mine"},
		Rule{Match: "/old/{a}/{b}", Path: "/api/{b}/of/{a}"},
		Rule{Match: "/v1/{rest...}", Path: "/api/{rest...}"},
		Rule{Match: "/v1/{x}/special", Path: "/special/{x}/{x}"},
		Rule{Match: "/", Path: "/docs/"},
		Rule{Match: "/docs/", Path: "/"},
		Rule{Match: "GET /moved/{rest...}", Path: "/new/{rest...}", Redirect: 308},
		Rule{Match: "GET /same/{id}", Path: "/same/{id}", Redirect: 301},
		Rule{Match: "/m/{x}", Path: "/any/{x}"},
		Rule{Match: "GET /m/{y}", Path: "/get/{y}"},
		Rule{Match: "/shop", Path: "/api/products", Redirect: 301},
	)
	for _, c := range []struct{ method, in, path, location string }{
		{"GET", "/old/7", "/api/orders/7", ""},
		{"HEAD", "/old/7", "/api/orders/7", ""},
		{"POST", "/old/7", "/api/orders/7/cancel", ""},
		{"DELETE", "/old/7", "/api/any/7", ""},
		{"GET", "/old/mine", "/api/carts/mine", ""},
		{"GET", "/old/7/8", "/api/8/of/7", ""},
		{"GET", "/old/mine/8", "/api/8/of/mine", ""},
		{"GET", "/old/7/8/9", "/old/7/8/9", ""},
		{"GET", "/old/7/", "/old/7/", ""},
		{"GET", "/old/", "/old/", ""},
		{"GET", "/old", "/old", ""},
		{"GET", "/Old/7", "/Old/7", ""},
		{"GET", "/v1/orders", "/api/orders", ""},
		{"GET", "/v1/orders/7/history", "/api/orders/7/history", ""},
		{"GET", "/v1/orders/", "/api/orders/", ""},
		{"GET", "/v1/a/special", "/special/a/a", ""},
		{"GET", "/v1/a/special/more", "/api/a/special/more", ""},
		{"GET", "/v1/", "/v1/", ""},
		{"GET", "/v1", "/v1", ""},
		{"GET", "/", "/docs/", ""},
		{"GET", "/docs/", "/", ""},
		{"GET", "/docs", "/docs", ""},
		{"GET", "/old/a?b", "/api/orders/a?b", ""},
		{"GET", "/old/café", "/api/orders/café", ""},
		{"GET", "/moved/a/b", "/new/a/b", "/new/a/b?q=1"},
		{"POST", "/moved/a/b", "/moved/a/b", ""},
		{"GET", "/moved/a?b#c é", "/new/a?b#c é", "/new/a%3Fb%23c%20%C3%A9?q=1"},
		{"GET", "/same/7", "/same/7", ""},
		{"GET", "/m/1", "/get/1", ""},
		{"PUT", "/m/1", "/any/1", ""},
		{"DELETE", "/shop", "/api/products", "/api/products?q=1"},
	} {
		r := httptest.NewRequest(c.method, "/x?q=1", nil)
		o, err := tab.Apply(r, c.in)
		if err != nil || o.Path != c.path || o.Location != c.location || o.Rewrote != (c.path != c.in) || (o.Redirect != 0) != (c.location != "") {
			t.Errorf("%s %s: %+v %v, want %q %q", c.method, c.in, o, err, c.path, c.location)
		}
	}
}

// A preflight goes where the request that it asks for will go.
func TestPreflight(t *testing.T) {
	t.Parallel()
	tab := table(t, Rule{Match: "PUT /old/{id}", Path: "/api/{id}"})
	r := httptest.NewRequest("OPTIONS", "/old/7", nil)
	if o, err := tab.Apply(r, "/old/7"); err != nil || o.Path != "/old/7" {
		t.Errorf("%+v %v", o, err)
	}
	r.Header.Set("Access-Control-Request-Method", "PUT")
	if o, err := tab.Apply(r, "/old/7"); err != nil || o.Path != "/api/7" {
		t.Errorf("%+v %v", o, err)
	}
}

// What a rule makes is checked: a path that only the gateway's check knows to be wrong is not routed.
func TestNewPathIsChecked(t *testing.T) {
	t.Parallel()
	refused := errors.New("refused")
	tab, err := New(Config{Rules: []Rule{{Match: "/a/{id}", Path: "/b/{id}"}}}, "", func(path string) error {
		if path == "/b/7" {
			return refused
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if o, err := tab.Apply(httptest.NewRequest("GET", "/a/7", nil), "/a/7"); !errors.Is(err, refused) || o.Path != "/a/7" || o.Rewrote {
		t.Errorf("%+v %v", o, err)
	}
}

func TestHeaders(t *testing.T) {
	t.Parallel()
	tab := table(t, Rule{Match: "/silent", Path: "/c"}, Rule{
		Match:           "/a",
		RequestHeaders:  Headers{Remove: []string{"x-gone"}, Set: []string{"x-set: one", "X-New:two: three "}, Add: []string{"X-Add: b", "X-Add: c"}},
		ResponseHeaders: Headers{Remove: []string{"Server"}, Set: []string{"Deprecation: true"}, Add: []string{"Vary: X-Set"}},
	})
	r := httptest.NewRequest("GET", "/a", nil)
	shared := []string{"a", "spare"}[:1]
	r.Header = http.Header{"X-Gone": {"1"}, "X-Set": {"old", "older"}, "X-Add": shared, "X-Stays": {"1"}}
	o, err := tab.Apply(r, "/a")
	if err != nil || o.Rewrote || o.Path != "/a" {
		t.Fatalf("%+v %v", o, err)
	}
	want := http.Header{"X-Set": {"one"}, "X-New": {"two: three"}, "X-Add": {"a", "b", "c"}, "X-Stays": {"1"}}
	if d := cmp.Diff(want, r.Header); d != "" {
		t.Error(d)
	}
	if shared[:2][1] != "spare" {
		t.Error("a header that others may hold was written into")
	}
	// What the next request adds does not show in the rule.
	r.Header["X-Set"] = append(r.Header["X-Set"], "more")
	again := httptest.NewRequest("GET", "/a", nil)
	if _, err := tab.Apply(again, "/a"); err != nil || len(again.Header["X-Set"]) != 1 {
		t.Errorf("%v %v", again.Header, err)
	}
	again.Header["X-Set"] = append(again.Header["X-Set"], "other")
	if r.Header["X-Set"][1] != "more" {
		t.Error("two requests share what is added to a header of the rule")
	}
	for name, answer := range map[string]func(w http.ResponseWriter){
		"status": func(w http.ResponseWriter) { w.WriteHeader(404) },
		"body":   func(w http.ResponseWriter) { _, _ = io.WriteString(w, "x") },
		"flush":  func(w http.ResponseWriter) { _ = http.NewResponseController(w).Flush() },
	} {
		rec := httptest.NewRecorder()
		rec.Header().Set("Server", "theirs")
		w := o.Wrap(rec)
		w.Header().Set("Vary", "Origin")
		answer(w)
		got := maps.Clone(rec.Result().Header)
		delete(got, "Content-Type")
		if d := cmp.Diff(http.Header{"Vary": {"Origin", "X-Set"}, "Deprecation": {"true"}}, got); d != "" {
			t.Errorf("%s: %s", name, d)
		}
	}
	rec := httptest.NewRecorder()
	for _, path := range []string{"/b", "/silent"} {
		if none, err := tab.Apply(r, path); err != nil || none.Wrap(rec) != http.ResponseWriter(rec) {
			t.Errorf("%s: an answer that no rule changes has a writer of its own; %v", path, err)
		}
	}
}

// Hints come before the answer, and a connection that is handed over is in reach.
func TestConnection(t *testing.T) {
	t.Parallel()
	tab := table(t, Rule{Match: "/{x}", ResponseHeaders: Headers{Set: []string{"X-Rule: 1"}}})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		o, err := tab.Apply(r, r.URL.Path)
		if err != nil {
			t.Error(err)
		}
		w = o.Wrap(w)
		if r.URL.Path == "/hints" {
			w.WriteHeader(http.StatusEarlyHints)
			w.Header().Set("X-Rule", "handler")
			_, _ = io.WriteString(w, "hinted")
			return
		}
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nX-Rule: raw\r\nContent-Length: 5\r\n\r\ntaken")
		_ = conn.Close()
	}))
	defer server.Close()
	for path, want := range map[string]string{"/hints": "1 hinted", "/hijack": "raw taken"} {
		resp, err := http.Get(server.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		if got := resp.Header.Get("X-Rule") + " " + string(body); err != nil || got != want {
			t.Errorf("%s: %q %v, want %q", path, got, err, want)
		}
		_ = resp.Body.Close()
	}
}

func TestValidate(t *testing.T) {
	t.Parallel()
	if err := DefaultConfig().Validate("gateway.transform", canonical); err != nil {
		t.Error(err)
	}
	path := func(match, path string) Rule { return Rule{Match: match, Path: path} }
	request := func(h Headers) Rule { return Rule{Match: "/a", RequestHeaders: h} }
	response := func(h Headers) Rule { return Rule{Match: "/a", ResponseHeaders: h} }
	cases := []struct {
		want  string
		rules []Rule
	}{
		{`rules[0].match: "" does not start with /`, []Rule{path("", "/b")}},
		{`rules[0].match: "a" does not start with /`, []Rule{path("a", "/b")}},
		{`rules[0].match: "FETCH" is not one of`, []Rule{path("FETCH /a", "/b")}},
		{`rules[0].match: "HEAD" is not one of`, []Rule{path("HEAD /a", "/b")}},
		{`rules[0].match: "/a/{id": "{id" is not a name`, []Rule{path("/a/{id", "/b")}},
		{`"{i-d}" is not a name`, []Rule{path("/a/{i-d}", "/b")}},
		{`"x{id}" is not a name`, []Rule{path("/a/x{id}", "/b")}},
		{`"{}" is not a name`, []Rule{path("/a/{}", "/b")}},
		{`"*" is not a name`, []Rule{path("/a/*", "/b")}},
		{`has two parts with the name id`, []Rule{path("/a/{id}/{id...}", "/b")}},
		{`{all...} must come last`, []Rule{path("/a/{all...}/b", "/b")}},
		{`has a query`, []Rule{path("/a?x=1", "/b")}},
		{`rules[0].match: "/a//b": ambiguous`, []Rule{path("/a//b", "/b")}},
		{`rules[0].match: "/a/../b": ambiguous`, []Rule{path("/a/../b", "/b")}},
		{`rules[0].match: "/a%2fb": not a path`, []Rule{path("/a%2fb", "/b")}},
		{`rules[0].path: "b" does not start with /`, []Rule{path("/a", "b")}},
		{`rules[0].path: "//evil.example": ambiguous`, []Rule{path("/a", "//evil.example")}},
		{`rules[0].path: "https://evil.example" does not start`, []Rule{path("/a", "https://evil.example")}},
		{`rules[0].path: {id} is not in match, "/a"`, []Rule{path("/a", "/b/{id}")}},
		{`rules[0].path: {id...} is not in match`, []Rule{path("/a/{id}", "/b/{id...}")}},
		{`rules[0].path: is empty`, []Rule{{Match: "/a", Redirect: 301}}},
		{`rules[0].redirect: 200 is not`, []Rule{{Match: "/a", Path: "/b", Redirect: 200}}},
		{`rules[0].request_headers: nobody`, []Rule{{Match: "/a", Path: "/b", Redirect: 301, RequestHeaders: Headers{Set: []string{"X-A: 1"}}}}},
		{`rules[0]: changes nothing`, []Rule{{Match: "/a"}}},
		{`rules[1].match: "GET /a/{y}" is taken by gateway.transform.rules[0]`, []Rule{path("GET /a/{x}", "/b"), path("GET /a/{y}", "/c")}},
		{`rules[1].match: "/a/{y...}" is taken by`, []Rule{path("/a/{x...}", "/b"), path("/a/{y...}", "/c")}},
		{`rules[0].request_headers.set[0]: "X-A" is not a header as in`, []Rule{request(Headers{Set: []string{"X-A"}})}},
		{`rules[0].request_headers.set[1]: "X A" is not the name of a header`, []Rule{request(Headers{Set: []string{"X-A: 1", "X A: 1"}})}},
		{`rules[0].request_headers.remove[0]: "" is not the name`, []Rule{request(Headers{Remove: []string{""}})}},
		{`rules[0].request_headers.add[0]: "X_A" has an underscore`, []Rule{request(Headers{Add: []string{"X_A: 1"}})}},
		{`rules[0].request_headers.set[1]: "x-a" is set twice`, []Rule{request(Headers{Set: []string{"X-A: 1", "x-a: 2"}})}},
		{`rules[0].response_headers.set[0]: the value of "X-A" has control characters or line breaks`, []Rule{response(Headers{Set: []string{"X-A: 1\r\nSet-Cookie: a=b"}})}},
		{`rules[0].response_headers.add[0]: the value of "X-A" has control`, []Rule{response(Headers{Add: []string{"X-A: 1\nX"}})}},
		{`rules[0].response_headers.add[0]: the value of "X-A" has control`, []Rule{response(Headers{Add: []string{"X-A: 1\x00"}})}},
		{`rules[0].response_headers.set[0]: "Vary" tells caches`, []Rule{response(Headers{Set: []string{"Vary: X"}})}},
		{`rules[0].response_headers.remove[0]: "Vary" tells caches`, []Rule{response(Headers{Remove: []string{"Vary"}})}},
	}
	for _, name := range []string{
		"Authorization", "authorization", "Cookie", "X-User-Id", "x-user-roles", "X-Banyan-Route", "X-Tenant-Id", "X-Shadow", "Idempotency-Key",
		"Forwarded", "X-Forwarded-For", "x-forwarded-proto", "X-Real-Ip", "Via", "X-Original-Url", "X-Http-Method-Override", "X-Accel-Redirect",
		"Connection", "Keep-Alive", "TE", "Trailer", "Transfer-Encoding", "Upgrade", "Proxy-Authorization", "Host", "Content-Length", "Content-Encoding",
		"X-Request-Id", "Traceparent", "Set-Cookie", "WWW-Authenticate", "Access-Control-Allow-Origin", "RateLimit-Limit", "Sec-WebSocket-Key", "Origin",
	} {
		cases = append(cases, []struct {
			want  string
			rules []Rule
		}{
			{`request_headers.set[0]: "` + name + `"`, []Rule{request(Headers{Set: []string{name + ": 1"}})}},
			{`request_headers.add[0]: "` + name + `"`, []Rule{request(Headers{Add: []string{name + ": 1"}})}},
			{`request_headers.remove[0]: "` + name + `"`, []Rule{request(Headers{Remove: []string{name}})}},
			{`response_headers.set[0]: "` + name + `"`, []Rule{response(Headers{Set: []string{name + ": 1"}})}},
			{`response_headers.remove[0]: "` + name + `"`, []Rule{response(Headers{Remove: []string{name}})}},
		}...)
	}
	for _, c := range cases {
		err := Config{Rules: c.rules}.Validate("gateway.transform", canonical)
		if err == nil || !strings.Contains(err.Error(), c.want) || !strings.HasPrefix(err.Error(), "gateway.transform.rules[") {
			t.Errorf("%+v: %v, want %s", c.rules, err, c.want)
		}
	}
	// All that is wrong is told at once.
	err := Config{Rules: []Rule{path("a", "b"), path("/a", "/b"), path("/a", "/c")}}.Validate("p", canonical)
	if n := strings.Count(err.Error(), "\n"); n != 2 {
		t.Errorf("%v", err)
	}
}

// Whatever the path, what comes out is canonical, and comes out the same way each time.
func FuzzApply(f *testing.F) {
	for _, s := range []string{"/old/7", "/v1/a/b/", "/moved/x", "/", "//", "/old/..", "/v1/%2e", "", "old", "/v1/\x00", "/moved//evil.example", "/v1/a//b"} {
		f.Add("GET", s)
	}
	tab := table(f,
		Rule{Match: "GET /old/{id}", Path: "/api/orders/{id}"}, Rule{Match: "/v1/{rest...}", Path: "/{rest...}"}, Rule{Match: "/{a}/{b}/{c}", Path: "/{c}/x/{a}"},
		Rule{Match: "/moved/{rest...}", Path: "/{rest...}", Redirect: 301}, Rule{Match: "/{a}/", Path: "/x/{a}/"}, Rule{Match: "/old/{id}/x", Path: "/{id}"})
	f.Fuzz(func(t *testing.T, method, path string) {
		r := &http.Request{Method: method, Header: http.Header{}, URL: &url.URL{Path: path}}
		o, err := tab.Apply(r, path)
		if err != nil {
			if o.Path != path || o.Redirect != 0 {
				t.Errorf("an error, and %+v", o)
			}
			if canonical(path) == nil {
				t.Errorf("%q is canonical, but %v", path, err)
			}
			return
		}
		if canonical(path) == nil && canonical(o.Path) != nil || o.Rewrote && canonical(o.Path) != nil {
			t.Errorf("%q became %q", path, o.Path)
		}
		if o.Redirect != 0 {
			u, err := url.Parse(o.Location)
			if err != nil || u.Host != "" || u.Path != o.Path || strings.HasPrefix(o.Location, "//") || strings.ContainsAny(o.Location, "\r\n") {
				t.Errorf("%q redirects to %q", path, o.Location)
			}
		}
		if canonical(path) == nil && o.Rewrote {
			// Nothing is made up: each segment was there, or stands in the rule.
			was := strings.Split(path, "/")
			for _, s := range strings.Split(o.Path, "/") {
				if !slices.Contains(was, s) && !slices.Contains([]string{"api", "orders", "x"}, s) {
					t.Errorf("%q became %q", path, o.Path)
				}
			}
		}
	})
}

// Whatever is configured is refused with a reason or works, and nothing that is accepted can split a message or speak
// for the gateway.
func FuzzRules(f *testing.F) {
	f.Add("GET /old/{id}", "/new/{id}", 0, "X-A: 1", "/old/7")
	f.Add("/v1/{rest...}", "/{rest...}", 301, "X-A: 1\r\nX-B: 2", "/v1/a/b")
	f.Add("/", "/a", 308, "X-Forwarded-For: 1", "/")
	f.Add("/{a}/{b...}", "/{b...}/{a}", 302, "authorization:x", "/a/b")
	f.Fuzz(func(t *testing.T, match, path string, redirect int, line, in string) {
		cfg := Config{Rules: []Rule{{Match: match, Path: path, Redirect: redirect, ResponseHeaders: Headers{Set: []string{line}}}}}
		tab, err := New(cfg, "p", canonical)
		if err != nil {
			if !strings.HasPrefix(err.Error(), "p.rules[0]") {
				t.Errorf("%v", err)
			}
			return
		}
		r := &http.Request{Method: "GET", Header: http.Header{}, URL: &url.URL{Path: in}}
		o, err := tab.Apply(r, in)
		if err == nil && o.Rewrote && canonical(o.Path) != nil {
			t.Errorf("%q became %q", in, o.Path)
		}
		rec := httptest.NewRecorder()
		o.Wrap(rec).WriteHeader(200)
		for name, lines := range rec.Header() {
			if refusedResponse(name, "set") != "" || name != http.CanonicalHeaderKey(name) || !token(name) || strings.ContainsAny(strings.Join(lines, ""), "\r\n\x00") {
				t.Errorf("%q: %q", name, lines)
			}
		}
	})
}

func BenchmarkApply(b *testing.B) {
	tab := table(b, Rule{Match: "GET /old/{id}", Path: "/api/orders/{id}", RequestHeaders: Headers{Set: []string{"X-Version: 1"}}},
		Rule{Match: "/v1/{rest...}", Path: "/api/{rest...}"}, Rule{Match: "/api/orders/{id}/legacy", Path: "/api/orders/{id}"})
	for name, path := range map[string]string{"no rule": "/api/orders/7", "rewrite": "/old/7", "all below": "/v1/orders/7/history"} {
		b.Run(name, func(b *testing.B) {
			r := httptest.NewRequest("GET", path, nil)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := tab.Apply(r, path); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
