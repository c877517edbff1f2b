package cache

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
)

// target answers as it is told and remembers what it was asked.
type target struct {
	mu     sync.Mutex
	answer answer
	asked  []*http.Request
	delay  time.Duration
}

type answer struct {
	status int
	header string // "Name: value" by lines
	body   string
}

func (g *target) set(a answer) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.answer = a
}

func (g *target) count() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.asked)
}

func (g *target) last() *http.Request {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.asked[len(g.asked)-1]
}

func (g *target) serve(w http.ResponseWriter, r *http.Request) {
	g.mu.Lock()
	g.asked = append(g.asked, r.Clone(r.Context()))
	a, delay := g.answer, g.delay
	g.mu.Unlock()
	if delay > 0 {
		select {
		case <-time.After(delay): // simulated: tests that use it run in a bubble
		case <-r.Context().Done():
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
	}
	set := http.Header{}
	for line := range strings.Lines(a.header) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ": ")
		set.Add(name, value)
	}
	maps.Copy(w.Header(), set)
	tag := w.Header().Get("Etag")
	if tag != "" && r.Header.Get("If-None-Match") == tag || r.Header.Get("If-Modified-Since") != "" && r.Header.Get("If-Modified-Since") == w.Header().Get("Last-Modified") {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	w.WriteHeader(a.status)
	_, _ = w.Write([]byte(a.body))
}

func open(t testing.TB, change ...func(*Config)) *Cache {
	t.Helper()
	cfg := DefaultConfig()
	for _, f := range change {
		f(&cfg)
	}
	c, err := New(cfg, Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// ask sends a request as the gateway does: with headers that it has set before.
func ask(c *Cache, g *target, info Info, method, path, header string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, path, nil)
	for line := range strings.Lines(header) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ": ")
		r.Header.Add(name, value)
	}
	w := httptest.NewRecorder()
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Request-Id", "mine")
	c.Serve(w, r, info, g.serve)
	return w
}

var products = Info{Route: "/api/products"}

// step is a request, some time after the one before.
type step struct {
	after   time.Duration
	answer  *answer // from now on
	method  string
	path    string
	header  string
	subject string
	epoch   uint64
	status  int    // wanted; 200 if left out
	body    string // wanted
	asks    bool   // the target is asked
	has     string // headers wanted, by lines; "Name:" alone wants none
}

func TestRules(t *testing.T) {
	t.Parallel()
	const tagged = "ETag: \"1\"\nCache-Control: "
	later := func(status int, header, body string) *answer { return &answer{status, header, body} }
	for _, c := range []struct {
		name  string
		first answer
		steps []step
	}{
		{"max-age", answer{200, "Cache-Control: max-age=10", "a"}, []step{
			{body: "a", asks: true, has: "Cache-Control: max-age=10\nCache-Status: banyan; fwd=uri-miss; stored"},
			{after: 9 * time.Second, body: "a", has: "Age: 9\nDate: Sat, 01 Jan 2000 00:00:00 GMT\nCache-Status: banyan; hit; ttl=1\nX-Request-Id: mine"},
			{after: time.Second, body: "a", asks: true, has: "Cache-Status: banyan; fwd=stale; stored"},
		}},
		{"nothing said", answer{200, "", "a"}, []step{{body: "a", asks: true, has: "Cache-Control: no-store"}, {body: "a", asks: true}}},
		{"no-cache alone does not say so", answer{200, "ETag: \"1\"\nCache-Control: no-cache", "a"}, []step{{body: "a", asks: true}, {body: "a", asks: true, has: "Cache-Status: banyan; fwd=uri-miss"}}},
		{"private", answer{200, "Cache-Control: private, max-age=10", "a"}, []step{{body: "a", asks: true}, {body: "a", asks: true}}},
		{"private fields", answer{200, `Cache-Control: max-age=10, private="x-name"`, "a"}, []step{{body: "a", asks: true}, {body: "a", asks: true}}},
		{"no-store", answer{200, "Cache-Control: public, max-age=10, no-store", "a"}, []step{{body: "a", asks: true}, {body: "a", asks: true}}},
		{"no-store on a line of its own", answer{200, "Cache-Control: public, max-age=10\nCache-Control: no-store", "a"}, []step{{body: "a", asks: true}, {body: "a", asks: true}}},
		{"capitals", answer{200, "Cache-Control: Public, Max-Age=10", "a"}, []step{{body: "a", asks: true}, {body: "a"}}},
		{"quoted", answer{200, `Cache-Control: max-age="10"`, "a"}, []step{{body: "a", asks: true}, {body: "a"}}},
		{"not a number", answer{200, "Cache-Control: max-age=ten", "a"}, []step{{body: "a", asks: true}, {body: "a", asks: true}}},
		{"a fraction", answer{200, "Cache-Control: max-age=10.5", "a"}, []step{{body: "a", asks: true}, {body: "a", asks: true}}},
		{"negative", answer{200, "Cache-Control: max-age=-1", "a"}, []step{{body: "a", asks: true}, {body: "a", asks: true}}},
		{"two lifetimes", answer{200, "Cache-Control: max-age=1, max-age=1000", "a"}, []step{{body: "a", asks: true}, {body: "a", asks: true}}},
		{"a lifetime beyond all", answer{200, "Cache-Control: max-age=99999999999999999999", "a"}, []step{{body: "a", asks: true}, {after: 1000 * time.Hour, body: "a"}}},
		{"unknown directives", answer{200, "Cache-Control: x, y=2, max-age=10", "a"}, []step{{body: "a", asks: true}, {body: "a"}}},
		{"not worth keeping", answer{200, "Cache-Control: public, max-age=0", "a"}, []step{{body: "a", asks: true, has: "Cache-Status: banyan; fwd=uri-miss"}}},
		{"not worth keeping without a validator", answer{200, "Cache-Control: max-age=10, no-cache", "a"}, []step{{body: "a", asks: true, has: "Cache-Status: banyan; fwd=uri-miss"}}},
		{"Set-Cookie", answer{200, "Cache-Control: public, max-age=10\nSet-Cookie: a=b", "a"}, []step{{body: "a", asks: true}, {body: "a", asks: true}}},
		{"s-maxage over max-age", answer{200, "Cache-Control: max-age=0, s-maxage=10", "a"}, []step{{body: "a", asks: true}, {after: 9 * time.Second, body: "a"}, {after: 2 * time.Second, body: "a", asks: true}}},
		{"max-age over Expires", answer{200, "Cache-Control: max-age=10\nExpires: Thu, 01 Jan 1970 00:00:00 GMT", "a"}, []step{{body: "a", asks: true}, {body: "a"}}},
		{"Expires", answer{200, "Date: Sat, 01 Jan 2000 00:00:00 GMT\nExpires: Sat, 01 Jan 2000 00:00:10 GMT", "a"}, []step{{body: "a", asks: true}, {after: 9 * time.Second, body: "a"}, {after: time.Second, body: "a", asks: true}}},
		{"Expires 0", answer{200, "Expires: 0", "a"}, []step{{body: "a", asks: true}, {body: "a", asks: true}}},
		{"Age", answer{200, "Cache-Control: max-age=10\nAge: 7", "a"}, []step{{body: "a", asks: true}, {after: 2 * time.Second, body: "a", has: "Age: 9"}, {after: time.Second, body: "a", asks: true}}},
		{"an old Date", answer{200, "Cache-Control: max-age=3600\nDate: Fri, 31 Dec 1999 23:30:00 GMT", "a"}, []step{{body: "a", asks: true}, {after: time.Minute, body: "a", has: "Age: 1860"}, {after: 30 * time.Minute, body: "a", asks: true}}},
		{"another query", answer{200, "Cache-Control: max-age=10", "a"}, []step{{path: "/p?a=1", body: "a", asks: true}, {path: "/p?a=2", body: "a", asks: true}, {path: "/p", body: "a", asks: true}, {path: "/p?a=1", body: "a"}}},
		{"a question mark in the path is none", answer{200, "Cache-Control: max-age=10", "a"}, []step{{path: "/p%3Fa=1", body: "a", asks: true}, {path: "/p?a=1", body: "a", asks: true}}},
		{"another host", answer{200, "Cache-Control: max-age=10", "a"}, []step{
			{path: "http://a.example/p", body: "a", asks: true}, {path: "http://b.example/p", body: "a", asks: true}, {path: "http://A.example:80/p", body: "a"}, {path: "http://a.example:443/p", body: "a", asks: true}}},
		{"404 that says so", answer{404, "Cache-Control: max-age=10", "a"}, []step{{status: 404, body: "a", asks: true}, {status: 404, body: "a"}}},
		{"301 that says so", answer{301, "Cache-Control: max-age=10\nLocation: /q", ""}, []step{{status: 301, asks: true}, {status: 301, has: "Location: /q"}}},
		{"500", answer{500, "Cache-Control: public, max-age=10", "a"}, []step{{status: 500, body: "a", asks: true}, {status: 500, body: "a", asks: true}}},
		{"503", answer{503, "Cache-Control: public, max-age=10", "a"}, []step{{status: 503, body: "a", asks: true}, {status: 503, body: "a", asks: true}}},
		{"403", answer{403, "Cache-Control: public, max-age=10", "a"}, []step{{status: 403, body: "a", asks: true}, {status: 403, body: "a", asks: true}}},
		{"206", answer{206, "Cache-Control: public, max-age=10\nContent-Range: bytes 0-0/2", "a"}, []step{{status: 206, body: "a", asks: true}, {status: 206, body: "a", asks: true}}},
		{"a status nobody knows", answer{299, "Cache-Control: public, max-age=10", "a"}, []step{{status: 299, body: "a", asks: true}, {status: 299, body: "a", asks: true}}},
		{"another origin's permission", answer{200, "Cache-Control: public, max-age=10\nAccess-Control-Allow-Origin: https://a.example", "a"}, []step{{body: "a", asks: true}, {body: "a", asks: true}}},

		{"known callers: max-age alone", answer{200, "Cache-Control: max-age=10", "a"}, []step{{subject: "ann", body: "a", asks: true}, {subject: "ann", body: "a", asks: true}, {subject: "bob", body: "a", asks: true}}},
		{"known callers: public", answer{200, "Cache-Control: public, max-age=10", "a"}, []step{{subject: "ann", body: "a", asks: true}, {subject: "bob", body: "a"}, {body: "a"}}},
		{"known callers: s-maxage", answer{200, "Cache-Control: s-maxage=10", "a"}, []step{{subject: "ann", body: "a", asks: true}, {body: "a"}}},
		{"what strangers are answered is not for known callers", answer{200, "Cache-Control: max-age=10", "a"}, []step{
			{body: "a", asks: true}, {subject: "ann", body: "a", asks: true}, {header: "Authorization: x", body: "a", asks: true}, {header: "Cookie: x", body: "a", asks: true}, {body: "a"}}},
		{"an Authorization that the gateway left", answer{200, "Cache-Control: max-age=10", "a"}, []step{{header: "Authorization: Basic x", body: "a", asks: true}, {body: "a", asks: true}}},
		{"Vary: Authorization", answer{200, "Cache-Control: public, max-age=10\nVary: Authorization", "a"}, []step{
			{subject: "ann", body: "a", asks: true}, {subject: "ann", body: "a", asks: true}, {body: "a", asks: true}, {body: "a"}, {subject: "ann", body: "a", asks: true}}},
		{"Vary: Cookie", answer{200, "Cache-Control: public, max-age=10\nVary: Cookie", "a"}, []step{
			{header: "Cookie: s=1", body: "a", asks: true}, {header: "Cookie: s=1", body: "a", asks: true}, {body: "a", asks: true}, {body: "a"}}},

		{"Vary", answer{200, "Cache-Control: max-age=10\nVary: accept-language", "a"}, []step{
			{header: "Accept-Language: en", body: "a", asks: true},
			{header: "Accept-Language: de", body: "a", asks: true, has: "Cache-Status: banyan; fwd=vary-miss; stored"},
			{body: "a", asks: true}, {header: "Accept-Language: en", body: "a"}, {header: "Accept-Language: de ", body: "a"}, {body: "a"},
			{header: "Accept-Language: e\nAccept-Language: n", body: "a", asks: true}}},
		{"Vary: *", answer{200, "Cache-Control: max-age=10\nVary: Accept, *", "a"}, []step{{body: "a", asks: true}, {body: "a", asks: true}}},
		{"Vary by too much", answer{200, "Cache-Control: max-age=10\nVary: A, B, C, D, E, F, G, H, I", "a"}, []step{{body: "a", asks: true}, {body: "a", asks: true}}},

		{"no-cache asks", answer{200, tagged + "max-age=10", "a"}, []step{
			{body: "a", asks: true}, {after: 5 * time.Second, header: "Cache-Control: no-cache", body: "a", asks: true, has: "Age: 0\nCache-Status: banyan; fwd=request; fwd-status=304; stored"},
			{after: 6 * time.Second, body: "a", has: "Age: 6"}}},
		{"Pragma asks", answer{200, "Cache-Control: max-age=10", "a"}, []step{{body: "a", asks: true}, {header: "Pragma: no-cache", body: "a", asks: true}, {header: "Pragma: no-cache\nCache-Control: max-age=5", body: "a"}}},
		{"request max-age", answer{200, "Cache-Control: max-age=10", "a"}, []step{
			{body: "a", asks: true}, {after: 3 * time.Second, header: "Cache-Control: max-age=3", body: "a"}, {header: "Cache-Control: max-age=2", body: "a", asks: true}, {header: "Cache-Control: max-age=0", body: "a", asks: true}}},
		{"request min-fresh", answer{200, "Cache-Control: max-age=10", "a"}, []step{{body: "a", asks: true}, {after: 3 * time.Second, header: "Cache-Control: min-fresh=7", body: "a"}, {header: "Cache-Control: min-fresh=8", body: "a", asks: true}}},
		{"request max-stale", answer{200, "Cache-Control: max-age=10", "a"}, []step{
			{body: "a", asks: true}, {after: 15 * time.Second, header: "Cache-Control: max-stale=5", body: "a", has: "Age: 15\nCache-Status: banyan; hit; ttl=-5"},
			{header: "Cache-Control: max-stale", body: "a"}, {header: "Cache-Control: max-stale=4", body: "a", asks: true}}},
		{"max-stale against s-maxage", answer{200, "Cache-Control: s-maxage=10", "a"}, []step{{body: "a", asks: true}, {after: 11 * time.Second, header: "Cache-Control: max-stale", body: "a", asks: true}}},
		{"max-stale against must-revalidate", answer{200, "Cache-Control: max-age=10, must-revalidate", "a"}, []step{{body: "a", asks: true}, {after: 11 * time.Second, header: "Cache-Control: max-stale", body: "a", asks: true}}},
		{"request no-store", answer{200, "Cache-Control: max-age=10", "a"}, []step{{header: "Cache-Control: no-store", body: "a", asks: true, has: "Cache-Status: banyan; fwd=bypass"}, {body: "a", asks: true}, {body: "a"}}},
		{"a request that cannot be read", answer{200, "Cache-Control: max-age=10", "a"}, []step{{body: "a", asks: true}, {header: "Cache-Control: max-age=x", body: "a", asks: true}}},
		{"only-if-cached", answer{200, "Cache-Control: max-age=10", "a"}, []step{
			{header: "Cache-Control: only-if-cached", status: 504, has: "Content-Type: application/problem+json\nCache-Status: banyan; detail=only-if-cached"},
			{body: "a", asks: true}, {header: "Cache-Control: only-if-cached", body: "a"},
			{after: 11 * time.Second, header: "Cache-Control: only-if-cached", status: 504}, {header: "Cache-Control: only-if-cached, max-stale=5", body: "a"}}},
		{"Range", answer{200, "Cache-Control: max-age=10", "a"}, []step{{header: "Range: bytes=0-0", body: "a", asks: true, has: "Cache-Status: banyan; fwd=bypass"}, {body: "a", asks: true}, {header: "Range: bytes=0-0", body: "a", asks: true}}},
		{"If-Match", answer{200, "Cache-Control: max-age=10", "a"}, []step{{body: "a", asks: true}, {header: `If-Match: "1"`, body: "a", asks: true}}},

		{"a client's If-None-Match", answer{200, tagged + "max-age=10\nContent-Type: text/plain", "a"}, []step{
			{header: `If-None-Match: "1"`, status: 304, asks: true, has: "Etag: \"1\"\nContent-Type:"}, {body: "a"},
			{after: time.Second, header: `If-None-Match: W/"1"`, status: 304, has: "Cache-Control: max-age=10\nAge: 1\nContent-Length:\nContent-Type:"},
			{header: `If-None-Match: "0", "1"`, status: 304}, {header: `If-None-Match: *`, status: 304}, {header: `If-None-Match: "2"`, body: "a"},
			{header: `If-None-Match: "0"` + "\n" + `If-None-Match: "1"`, status: 304}, {header: `If-None-Match: "0,"1""`, body: "a"}, {header: `If-None-Match: 1`, body: "a"}}},
		{"a weak ETag", answer{200, "ETag: W/\"1\"\nCache-Control: max-age=10", "a"}, []step{
			{body: "a", asks: true}, {header: `If-None-Match: "1"`, status: 304}, {header: `If-None-Match: W/"1"`, status: 304, has: `Etag: W/"1"`}}},
		{"only a 200 can be not modified", answer{404, tagged + "max-age=10", "a"}, []step{{status: 404, body: "a", asks: true}, {header: "If-None-Match: *", status: 404, body: "a"}}},
		{"a client's If-Modified-Since", answer{200, "Cache-Control: max-age=10\nLast-Modified: Fri, 31 Dec 1999 00:00:00 GMT", "a"}, []step{
			{body: "a", asks: true}, {header: "If-Modified-Since: Fri, 31 Dec 1999 00:00:00 GMT", status: 304}, {header: "If-Modified-Since: Sat, 01 Jan 2000 00:00:00 GMT", status: 304},
			{header: "If-Modified-Since: Thu, 30 Dec 1999 00:00:00 GMT", body: "a"}, {header: "If-Modified-Since: yesterday", body: "a"},
			{header: "If-None-Match: \"x\"\nIf-Modified-Since: Fri, 31 Dec 1999 00:00:00 GMT", body: "a"}}},
		{"revalidation by ETag", answer{200, tagged + "max-age=10", "a"}, []step{
			{body: "a", asks: true}, {after: 11 * time.Second, body: "a", asks: true, has: "Age: 0\nEtag: \"1\"\nCache-Status: banyan; fwd=stale; fwd-status=304; stored"},
			{after: 9 * time.Second, body: "a", has: "Age: 9"},
			{after: 2 * time.Second, answer: later(200, "ETag: \"2\"\nCache-Control: max-age=10", "b"), body: "b", asks: true, has: "Etag: \"2\""}, {body: "b"}}},
		{"revalidation by Last-Modified", answer{200, "Cache-Control: max-age=10\nLast-Modified: Fri, 31 Dec 1999 00:00:00 GMT", "a"}, []step{
			{body: "a", asks: true}, {after: 11 * time.Second, body: "a", asks: true, has: "Cache-Status: banyan; fwd=stale; fwd-status=304; stored"}}},
		{"revalidation for a client that revalidates", answer{200, tagged + "max-age=10", "a"}, []step{
			{body: "a", asks: true}, {after: 11 * time.Second, header: `If-None-Match: "1"`, status: 304, asks: true}, {after: 11 * time.Second, header: `If-None-Match: "0"`, body: "a", asks: true}, {body: "a"}}},
		{"a 304 freshens the header", answer{200, tagged + "max-age=10\nX-Old: 1\nX-Both: 1", "a"}, []step{
			{body: "a", asks: true}, {after: 11 * time.Second, answer: later(200, tagged+"max-age=20\nX-Both: 2\nContent-Length: 0\nX-Request-Id: theirs", ""), body: "a", asks: true, has: "X-Old: 1\nX-Both: 2\nX-Request-Id: mine"},
			{after: 15 * time.Second, body: "a", has: "X-Old: 1\nX-Both: 2\nContent-Length: 1\nCache-Control: max-age=20"}}},
		{"a 304 that takes the permission back", answer{200, tagged + "max-age=10", "a"}, []step{
			{body: "a", asks: true}, {after: 11 * time.Second, answer: later(200, tagged+"no-store", "b"), body: "a", asks: true, has: "Cache-Control: no-store"}, {body: "b", asks: true}}},
		{"no-cache with a validator", answer{200, tagged + "public, no-cache", "a"}, []step{{body: "a", asks: true}, {body: "a", asks: true, has: "Cache-Status: banyan; fwd=stale; fwd-status=304; stored"}}},
		{"no-cache with a lifetime", answer{200, tagged + "max-age=10, no-cache", "a"}, []step{{body: "a", asks: true}, {body: "a", asks: true, has: "Cache-Status: banyan; fwd=stale; fwd-status=304; stored"}}},
		{"stale without a validator", answer{200, "Cache-Control: max-age=10", "a"}, []step{{body: "a", asks: true}, {after: 11 * time.Second, answer: later(200, "Cache-Control: max-age=10", "b"), body: "b", asks: true}, {body: "b"}}},
		{"stale, then nothing that may be kept", answer{200, "Cache-Control: max-age=10, stale-if-error=1000", "a"}, []step{
			{body: "a", asks: true}, {after: 11 * time.Second, answer: later(404, "", "gone"), status: 404, body: "gone", asks: true}, {answer: later(500, "", "x"), status: 500, body: "x", asks: true}}},

		{"stale-if-error", answer{200, "Cache-Control: max-age=10, stale-if-error=20", "a"}, []step{
			{body: "a", asks: true}, {after: 11 * time.Second, answer: later(503, "X-Error: 1", "x"), body: "a", asks: true, has: "Age: 11\nX-Error:\nCache-Status: banyan; fwd=stale; fwd-status=503"},
			{answer: later(404, "", "x"), status: 404, body: "x", asks: true}}},
		{"stale-if-error ends", answer{200, "Cache-Control: max-age=10, stale-if-error=20", "a"}, []step{{body: "a", asks: true}, {after: 31 * time.Second, answer: later(503, "", "x"), status: 503, body: "x", asks: true}}},
		{"stale-if-error of the request", answer{200, "Cache-Control: max-age=10", "a"}, []step{{body: "a", asks: true}, {after: 11 * time.Second, header: "Cache-Control: stale-if-error=5", answer: later(500, "", "x"), body: "a", asks: true}, {status: 500, body: "x", asks: true}}},
		{"stale-if-error and must-revalidate", answer{200, "Cache-Control: max-age=10, stale-if-error=20, must-revalidate", "a"}, []step{{body: "a", asks: true}, {after: 11 * time.Second, answer: later(503, "", "x"), status: 503, body: "x", asks: true}}},
		{"stale-if-error of the request and must-revalidate", answer{200, "Cache-Control: max-age=10, must-revalidate", "a"}, []step{
			{body: "a", asks: true}, {after: 11 * time.Second, header: "Cache-Control: stale-if-error=20", answer: later(503, "", "x"), status: 503, body: "x", asks: true}}},
		{"stale-if-error and s-maxage", answer{200, "Cache-Control: s-maxage=10, stale-if-error=20", "a"}, []step{{body: "a", asks: true}, {after: 11 * time.Second, answer: later(503, "", "x"), body: "a", asks: true}}},
		{"no error hides from who asks", answer{200, "Cache-Control: max-age=10, stale-if-error=20", "a"}, []step{{body: "a", asks: true}, {header: "Cache-Control: no-cache", answer: later(503, "", "x"), status: 503, body: "x", asks: true}, {body: "a"}}},
		{"stale-while-revalidate", answer{200, "Cache-Control: max-age=10, stale-while-revalidate=20", "a"}, []step{
			{body: "a", asks: true}, {after: 11 * time.Second, answer: later(200, "Cache-Control: max-age=10, stale-while-revalidate=20", "b"), body: "a", asks: true, has: "Age: 11\nCache-Status: banyan; hit; ttl=-1"},
			{body: "b", has: "Age: 0"}, {after: 31 * time.Second, body: "b", asks: true, has: "Cache-Status: banyan; fwd=stale; stored"}}},
		{"stale-while-revalidate meets an error", answer{200, "Cache-Control: max-age=10, stale-while-revalidate=20", "a"}, []step{
			{body: "a", asks: true}, {after: 11 * time.Second, answer: later(500, "", "x"), body: "a", asks: true}, {body: "a", asks: true}}},
		{"stale-while-revalidate is not for who wants it young", answer{200, "Cache-Control: max-age=10, stale-while-revalidate=20", "a"}, []step{
			{body: "a", asks: true}, {after: 11 * time.Second, header: "Cache-Control: max-age=100", answer: later(200, "", "b"), body: "b", asks: true}}},

		{"HEAD", answer{200, "Cache-Control: max-age=10", "abc"}, []step{
			{method: "HEAD", body: "abc", asks: true}, {method: "HEAD", body: "abc", asks: true}, {body: "abc", asks: true}, {method: "HEAD", body: "", has: "Content-Length: 3"}}},
		{"OPTIONS", answer{200, "Cache-Control: max-age=10", "a"}, []step{{method: "OPTIONS", body: "a", asks: true}, {body: "a", asks: true}, {method: "OPTIONS", body: "a", asks: true}, {body: "a"}}},
		{"a change forgets the path", answer{200, "Cache-Control: max-age=10", "a"}, []step{
			{path: "/p?x=1", body: "a", asks: true}, {path: "/p", body: "a", asks: true}, {path: "/p/1", body: "a", asks: true}, {path: "http://other.example/p", body: "a", asks: true},
			{method: "POST", path: "/p", body: "a", asks: true, has: "Cache-Status:"},
			{path: "/p?x=1", body: "a", asks: true}, {path: "/p", body: "a", asks: true}, {path: "/p/1", body: "a"}, {path: "http://other.example/p", body: "a", asks: true}}},
		{"a method nobody knows may change something", answer{200, "Cache-Control: max-age=10", "a"}, []step{{path: "/p", body: "a", asks: true}, {method: "MERGE", path: "/p", body: "a", asks: true}, {path: "/p", body: "a", asks: true}}},
		{"Location and Content-Location", answer{200, "Cache-Control: max-age=10", "a"}, []step{
			{path: "/p/1", body: "a", asks: true}, {path: "/p/2", body: "a", asks: true}, {path: "/p/3", body: "a", asks: true},
			{method: "POST", path: "/p", answer: later(201, "Location: /p/1\nContent-Location: http://example.com/p/2", ""), status: 201, asks: true},
			{method: "POST", path: "/p", answer: later(201, "Location: http://other.example/p/3", ""), status: 201, asks: true},
			{path: "/p/3", body: "a"}, {path: "/p/1", answer: later(200, "", "b"), body: "b", asks: true}, {path: "/p/2", body: "b", asks: true}}},
		{"a refused change forgets nothing", answer{200, "Cache-Control: max-age=10", "a"}, []step{{path: "/p", body: "a", asks: true}, {method: "DELETE", path: "/p", answer: later(409, "", "no"), status: 409, body: "no", asks: true}, {path: "/p", body: "a"}}},
		{"a change of unknown outcome forgets", answer{200, "Cache-Control: max-age=10", "a"}, []step{{path: "/p", body: "a", asks: true}, {method: "PUT", path: "/p", answer: later(503, "", "?"), status: 503, body: "?", asks: true}, {path: "/p", answer: later(200, "", "b"), body: "b", asks: true}}},

		{"headers of one request", answer{200, "Cache-Control: max-age=10\nX-Request-Id: theirs\nRateLimit-Remaining: 3\nConnection: X-Hop\nX-Hop: 1\nKeep-Alive: 5\nX-Kept: 1", "a"}, []step{
			{body: "a", asks: true}, {body: "a", has: "X-Request-Id: mine\nRateLimit-Remaining:\nX-Hop:\nKeep-Alive:\nX-Kept: 1"}}},
		{"Cache-Tag is for us", answer{200, "Cache-Control: max-age=10\nCache-Tag: a, b", "a"}, []step{
			{body: "a", asks: true, has: "Cache-Tag:"}, {body: "a", has: "Cache-Tag:"}, {header: "Range: bytes=0-0", body: "a", asks: true, has: "Cache-Tag:"}, {method: "POST", body: "a", asks: true, has: "Cache-Tag:"}}},
		{"tags that nobody could purge by", answer{200, "Cache-Control: max-age=10\nCache-Tag: " + strings.Repeat("x", 129), "a"}, []step{{body: "a", asks: true, has: "Cache-Tag:"}, {body: "a", asks: true}}},

		{"another epoch, fresh", answer{200, tagged + "max-age=10", "a"}, []step{{epoch: 1, body: "a", asks: true}, {epoch: 2, body: "a"}}},
		{"another epoch, stale: never confirmed by the other side", answer{200, tagged + "max-age=10", "a"}, []step{
			{epoch: 1, body: "a", asks: true}, {after: 11 * time.Second, epoch: 2, answer: later(200, tagged+"max-age=10", "other form"), body: "other form", asks: true},
			{after: 11 * time.Second, epoch: 2, body: "other form", asks: true, has: "Cache-Status: banyan; fwd=stale; fwd-status=304; stored"}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				g := &target{answer: c.first}
				cache := open(t)
				for i, s := range c.steps {
					time.Sleep(s.after)
					if s.answer != nil {
						g.set(*s.answer)
					}
					method, path, status, before := s.method, s.path, s.status, g.count()
					if method == "" {
						method = "GET"
					}
					if path == "" {
						path = "/api/products"
					}
					if status == 0 {
						status = 200
					}
					info := products
					info.Subject, info.Epoch = s.subject, s.epoch
					w := ask(cache, g, info, method, path, s.header)
					synctest.Wait() // for the refresh in the background
					if asked := g.count() > before; w.Code != status || asked != s.asks || status != 504 && w.Body.String() != s.body {
						t.Fatalf("step %d: status %d body %q, asked %t; want %d %q %t\n%v", i+1, w.Code, w.Body, asked, status, s.body, s.asks, w.Header())
					}
					for line := range strings.Lines(s.has) {
						name, want, _ := strings.Cut(strings.TrimSuffix(strings.TrimSpace(line), ":"), ": ")
						if got := w.Header().Get(name); got != want {
							t.Errorf("step %d: %s: %q, want %q", i+1, name, got, want)
						}
					}
				}
			})
		})
	}
}

// However many ask at the same time, the target is asked once; who waits longer than that is good for asks itself.
func TestSingleFlight(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name    string
		answer  answer
		delay   time.Duration
		wait    time.Duration
		headers []string // of the requests, in turn
		subject string
		asks    int
		taken   time.Duration
	}{
		{"one for all", answer{200, "Cache-Control: max-age=10", "a"}, time.Second, 2 * time.Second, nil, "", 1, time.Second},
		{"one for all known callers", answer{200, "Cache-Control: public, max-age=10", "a"}, time.Second, 2 * time.Second, nil, "ann", 1, time.Second},
		{"a target that is too slow", answer{200, "Cache-Control: max-age=10", "a"}, 5 * time.Second, 2 * time.Second, nil, "", 50, 7 * time.Second},
		{"nobody waits twice for what is not kept", answer{200, "", "a"}, time.Second, 5 * time.Second, nil, "", 50, 2 * time.Second},
		{"nor for an error", answer{500, "", "a"}, time.Second, 5 * time.Second, nil, "", 50, 2 * time.Second},
		{"nor for another variant", answer{200, "Cache-Control: max-age=10\nVary: Accept", "a"}, time.Second, 5 * time.Second, []string{"Accept: a", "Accept: b"}, "", 26, 2 * time.Second},
		{"waiting turned off", answer{200, "Cache-Control: max-age=10", "a"}, time.Second, 0, nil, "", 50, time.Second},
		{"who asks for a new one gets it", answer{200, "Cache-Control: max-age=10", "a"}, time.Second, 5 * time.Second, []string{"Cache-Control: no-cache"}, "", 50, time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				g := &target{answer: c.answer, delay: c.delay}
				cache := open(t, func(cfg *Config) { cfg.Wait = c.wait })
				start := time.Now()
				var wg sync.WaitGroup
				for i := range 50 {
					header := ""
					if len(c.headers) > 0 {
						header = c.headers[i%len(c.headers)]
					}
					wg.Go(func() {
						if i > 0 {
							time.Sleep(time.Duration(i) * time.Nanosecond) // the first one leads
						}
						info := products
						info.Subject = c.subject
						if w := ask(cache, g, info, "GET", "/p", header); w.Code != c.answer.status || w.Body.String() != "a" {
							t.Errorf("%d %s", w.Code, w.Body)
						}
					})
				}
				wg.Wait()
				if got := time.Since(start).Truncate(time.Millisecond); g.count() != c.asks || got != c.taken {
					t.Errorf("asked %d times in %s, want %d in %s", g.count(), got, c.asks, c.taken)
				}
			})
		})
	}
}

// However close they come together, the target is asked once for what can be kept: who finds nothing just before it is
// kept, and nobody to wait for just after, looks again.
func TestOnce(t *testing.T) {
	t.Parallel()
	c := open(t)
	g := &target{answer: answer{200, "Cache-Control: max-age=3600\nCache-Tag: a", "a"}}
	for round := range 500 {
		var wg sync.WaitGroup
		start := make(chan struct{})
		for range 16 {
			wg.Go(func() {
				<-start
				ask(c, g, products, "GET", "/p", "")
			})
		}
		close(start)
		wg.Wait()
		if g.count() != round+1 {
			t.Fatalf("asked %d times in %d rounds", g.count(), round+1)
		}
		c.Purge("a")
	}
}

func TestLeadLooksAgain(t *testing.T) {
	t.Parallel()
	c := open(t)
	g := &target{answer: answer{200, "Cache-Control: max-age=3600", "a"}}
	ask(c, g, products, "GET", "/p", "")
	w, r := httptest.NewRecorder(), httptest.NewRequest("GET", "/p", nil)
	x := &exchange{c: c, w: w, r: r, key: key{host: "example.com", path: "/p"}, wishes: wishesOf(r.Header), next: func(http.ResponseWriter, *http.Request) { t.Error("asked again") }}
	fk := x.flightKey(nil)
	fl, _ := c.flights.join(fk)
	x.lead(nil, &uriMiss, fl, fk)
	select {
	case <-fl.done:
	default:
		t.Error("those who wait for the flight wait for ever")
	}
	if w.Body.String() != "a" || fl.entry == nil || len(c.flights.all) != 0 {
		t.Errorf("%q, landed with %v, %d in the air", w.Body, fl.entry, len(c.flights.all))
	}
}

// What was purged between its arrival and the look of one who waited for it is not for that one: it may have come
// after the change.
func TestPurgeMeetsFollower(t *testing.T) {
	t.Parallel()
	c := open(t)
	g := &target{answer: answer{200, "Cache-Control: max-age=3600\nCache-Tag: a", "a"}}
	ask(c, g, products, "GET", "/p", "")
	k := key{host: "example.com", path: "/p"}
	e, _, _ := c.store.get(k, nil, false)
	for _, purged := range []bool{false, true} {
		if purged {
			c.Purge("a")
		}
		w, r := httptest.NewRecorder(), httptest.NewRequest("GET", "/p", nil)
		x := &exchange{c: c, w: w, r: r, key: k, wishes: wishesOf(r.Header)}
		if got := x.follow(&flight{entry: e}, &uriMiss); got == purged {
			t.Errorf("purged %t: follows %t", purged, got)
		}
	}
}

// A route whose answers are not kept costs nobody a wait; once they can be kept again it is noticed.
func TestHabit(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := &target{answer: answer{200, "", "a"}, delay: time.Second}
		cache := open(t)
		both := func(header string) time.Duration {
			start := time.Now()
			var wg sync.WaitGroup
			for range 2 {
				wg.Go(func() { ask(cache, g, products, "GET", "/p", header) })
			}
			wg.Wait()
			return time.Since(start)
		}
		if got := both(""); got != 2*time.Second {
			t.Errorf("at first %s", got)
		}
		if got := both(`If-None-Match: "x"`); got != time.Second || g.last().Header.Get("If-None-Match") == "" {
			t.Errorf("then %s, and the client's condition is its target's to judge: %v", got, g.last().Header)
		}
		g.set(answer{200, "Cache-Control: max-age=10", "a"})
		both("")
		asked := g.count()
		both("")
		both("")
		if g.count() != asked+1 {
			t.Errorf("asked %d times after the answers could be kept again, want 1", g.count()-asked)
		}
	})
}

// When the one who leads goes, one of those who wait takes over; when it panics, too.
func TestLeaderGoes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var asked atomic.Int32
		cache := open(t, func(c *Config) { c.Wait = 10 * time.Second })
		target := func(w http.ResponseWriter, r *http.Request) {
			n := asked.Add(1)
			w.Header().Set("Cache-Control", "max-age=10")
			time.Sleep(time.Second)
			switch n {
			case 1:
				_, _ = w.Write([]byte("half"))
				panic(http.ErrAbortHandler)
			case 2:
				w.Header().Set("Content-Length", "100")
				_, _ = w.Write([]byte("half"))
			default:
				_, _ = w.Write([]byte("whole"))
			}
		}
		var whole, panics atomic.Int32
		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() {
				defer func() {
					if v := recover(); v != nil {
						panics.Add(1)
					}
				}()
				w := httptest.NewRecorder()
				cache.Serve(w, httptest.NewRequest("GET", "/p", nil), products, target)
				if w.Body.String() == "whole" {
					whole.Add(1)
				} else if w.Header().Get("Content-Length") != "100" {
					t.Errorf("what broke off looks complete: %v %q", w.Header(), w.Body)
				}
			})
		}
		wg.Wait()
		if asked.Load() != 3 || whole.Load() != 18 || panics.Load() != 1 {
			t.Errorf("asked %d, whole %d, panics %d", asked.Load(), whole.Load(), panics.Load())
		}
		if left := cache.budget.left.Load(); left != cache.cfg.Bytes/2 {
			t.Errorf("the budget has %d left", left)
		}
	})
}

// An answer that was asked for before a purge, and comes after it, tells what was before.
func TestPurgeMeetsAnswer(t *testing.T) {
	t.Parallel()
	for name, purge := range map[string]func(c *Cache, g *target){
		"tag":    func(c *Cache, _ *target) { c.Purge("other", "product:1") },
		"prefix": func(c *Cache, _ *target) { c.PurgePrefix("/api") },
		"change": func(c *Cache, _ *target) {
			ask(c, &target{answer: answer{200, "", ""}}, products, "PUT", "/api/products/1", "")
		},
		"many others": func(c *Cache, _ *target) {
			for i := range 5000 {
				c.Purge(fmt.Sprint(i))
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				g := &target{answer: answer{200, "Cache-Control: max-age=10\nCache-Tag: product:1", "old"}, delay: time.Second}
				c := open(t)
				var wg sync.WaitGroup
				wg.Go(func() { ask(c, g, products, "GET", "/api/products/1", "") })
				time.Sleep(500 * time.Millisecond)
				g.set(answer{200, "Cache-Control: max-age=10\nCache-Tag: product:1", "new"})
				purge(c, g)
				wg.Wait()
				if w := ask(c, g, products, "GET", "/api/products/1", ""); w.Body.String() != "new" {
					t.Errorf("got %q after the change", w.Body)
				}
				if w := ask(c, g, products, "GET", "/api/products/1", ""); g.count() != 2 || w.Body.String() != "new" {
					t.Errorf("the new answer is not kept: asked %d", g.count())
				}
			})
		})
	}
}

func TestPurge(t *testing.T) {
	t.Parallel()
	c := open(t)
	fill := func() {
		for path, tags := range map[string]string{"/api/products": "products", "/api/products/1": "products product:1", "/api/products/2": "products,product:2", "/api/products2": "x"} {
			g := &target{answer: answer{200, "Cache-Control: max-age=10\nCache-Tag: " + tags, path}}
			ask(c, g, products, "GET", path, "")
			ask(c, g, products, "GET", path+"?q=1", "")
		}
	}
	left := func() string {
		var paths []string
		for k := range c.store.places {
			if k.query == "" {
				paths = append(paths, strings.TrimPrefix(k.path, "/api/"))
			}
		}
		slices.Sort(paths)
		return strings.Join(paths, " ")
	}
	for _, s := range []struct {
		do   func() int
		n    int
		want string
	}{
		{func() int { return c.Purge("product:1") }, 2, "products products/2 products2"},
		{func() int { return c.Purge("product:1", "x", "product:2") }, 6, "products"},
		{func() int { return c.Purge("products") }, 6, "products2"},
		{func() int { return c.Purge() + c.Purge("nothing") }, 0, "products products/1 products/2 products2"},
		{func() int { return c.PurgePrefix("/api/products") }, 6, "products2"},
		{func() int { return c.PurgePrefix("/api/products/") }, 4, "products products2"},
		{func() int { return c.PurgePrefix("/") }, 8, ""},
	} {
		fill()
		if n := s.do(); n != s.n || left() != s.want {
			t.Errorf("forgot %d and left %q, want %d and %q", n, left(), s.n, s.want)
		}
	}
	entries, bytes, _ := c.store.usage()
	if entries != 0 || bytes != 0 || len(c.store.labels) != 0 {
		t.Errorf("left: %d entries, %d bytes, labels %v", entries, bytes, c.store.labels)
	}
}

// Streams and what is too large pass as they come, and nobody else waits for their end.
func TestStreamsPass(t *testing.T) {
	t.Parallel()
	for name, stream := range map[string]func(w http.ResponseWriter){
		"flush": func(w http.ResponseWriter) {
			_, _ = w.Write([]byte("first "))
			if err := http.NewResponseController(w).Flush(); err != nil {
				panic(err)
			}
		},
		"too large":               func(w http.ResponseWriter) { _, _ = w.Write([]byte("first " + strings.Repeat("x", 2000))) },
		"said to be too large":    func(w http.ResponseWriter) { w.Header().Set("Content-Length", "3000"); w.WriteHeader(200) },
		"not to be kept anyway":   func(w http.ResponseWriter) { w.Header().Del("Cache-Control"); w.WriteHeader(200) },
		"with trailers to follow": func(w http.ResponseWriter) { w.Header().Set("Trailer", "X-Sum"); w.WriteHeader(200) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				c := open(t, func(c *Config) { c.MaxBody = 1024; c.Wait = time.Minute })
				end := make(chan struct{})
				var asked atomic.Int32
				next := func(w http.ResponseWriter, _ *http.Request) {
					w.Header().Set("Cache-Control", "max-age=10")
					if asked.Add(1) > 1 {
						_, _ = w.Write([]byte("other"))
						return
					}
					stream(w)
					<-end
					_, _ = w.Write([]byte("last"))
					w.Header().Set("X-Sum", "7")
				}
				first := httptest.NewRecorder()
				var wg sync.WaitGroup
				wg.Go(func() { c.Serve(first, httptest.NewRequest("GET", "/p", nil), products, next) })
				synctest.Wait()
				if !first.Flushed && name == "flush" || !strings.HasPrefix(first.Body.String(), "first") && (name == "flush" || name == "too large") {
					t.Errorf("%s: the client has %q so far", name, first.Body)
				}
				start, w := time.Now(), httptest.NewRecorder()
				c.Serve(w, httptest.NewRequest("GET", "/p", nil), products, next)
				if w.Body.String() != "other" || time.Since(start) != 0 {
					t.Errorf("somebody else got %q after %s", w.Body, time.Since(start))
				}
				close(end)
				wg.Wait()
				if !strings.HasSuffix(first.Body.String(), "last") {
					t.Errorf("the client got %q", first.Body)
				}
				if name == "with trailers to follow" && first.Result().Trailer.Get("X-Sum") != "7" {
					t.Errorf("trailers %v", first.Result().Trailer)
				}
				if left := c.budget.left.Load(); left != c.cfg.Bytes/2 {
					t.Errorf("the budget has %d left", left)
				}
			})
		})
	}
}

// What is on its way into the cache is bounded too.
func TestBudget(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := open(t, func(c *Config) { c.Bytes, c.MaxBody = 1<<20, 128<<10 })
		// answers gives as many answers at once, each in two parts, the second of them when end is closed.
		answers := func(wg *sync.WaitGroup, path string, n, first, second int, end chan struct{}) {
			for i := range n {
				wg.Go(func() {
					w := httptest.NewRecorder()
					c.Serve(w, httptest.NewRequest("GET", fmt.Sprintf("/%s/%d", path, i), nil), products, func(w http.ResponseWriter, _ *http.Request) {
						w.Header().Set("Cache-Control", "max-age=10")
						_, _ = w.Write(make([]byte, first))
						<-end
						_, _ = w.Write(make([]byte, second))
					})
					if w.Body.Len() != first+second {
						t.Errorf("got %d bytes", w.Body.Len())
					}
				})
			}
			synctest.Wait()
		}
		kept := func() int { n, _, _ := c.store.usage(); return n }
		var many, more sync.WaitGroup
		end, soon := make(chan struct{}), make(chan struct{})
		answers(&many, "many", 20, 100<<10, 1<<10, end) // 5 have room
		if left := c.budget.left.Load(); left != 12<<10 {
			t.Errorf("the budget has %d left", left)
		}
		answers(&more, "more", 1, 10<<10, 10<<10, soon) // its first part alone has room
		close(soon)
		more.Wait()
		if left := c.budget.left.Load(); left != 12<<10 || kept() != 0 {
			t.Errorf("the budget has %d left, and %d answers are kept that outgrew it", left, kept())
		}
		close(end)
		many.Wait()
		if left := c.budget.left.Load(); left != 512<<10 {
			t.Errorf("the budget has %d left in the end", left)
		}
		if kept() != 5 {
			t.Errorf("%d answers are kept", kept())
		}
	})
}

// Questions made up to be new do not push out what is asked for again and again; the memory stays bounded.
func TestStore(t *testing.T) {
	t.Parallel()
	c := open(t, func(c *Config) { c.Bytes, c.MaxBody = 1<<20, 64<<10 })
	g := &target{answer: answer{200, "Cache-Control: max-age=3600", strings.Repeat("x", 1000)}}
	for range 2 {
		for i := range 100 {
			ask(c, g, products, "GET", fmt.Sprintf("/wanted/%d", i), "")
		}
	}
	for i := range 5000 {
		ask(c, g, products, "GET", fmt.Sprintf("/p?q=%d", i), "")
	}
	entries, bytes, evicted := c.store.usage()
	if bytes > 1<<20 || bytes < 900_000 || evicted != uint64(5100-entries) {
		t.Errorf("%d entries of %d bytes, %d evicted", entries, bytes, evicted)
	}
	before := g.count()
	for i := range 100 {
		ask(c, g, products, "GET", fmt.Sprintf("/wanted/%d", i), "")
	}
	if g.count() != before {
		t.Errorf("%d of what is wanted was pushed out", g.count()-before)
	}
	for range 2 {
		for i := range 800 {
			ask(c, g, products, "GET", fmt.Sprintf("/p?q=%d", 4999-i), "")
		}
	}
	if got := c.store.old.bytes; got > c.store.max/5*4 {
		t.Errorf("%d bytes are for what was asked for again", got)
	}
	// What was wanted gives way to what is wanted now.
	for range 2 {
		for i := range 200 {
			ask(c, g, products, "GET", fmt.Sprintf("/new/%d", i), "")
		}
	}
	var young, old int64
	for e := c.store.young.front; e != nil; e = e.next {
		young += e.size
	}
	for e := c.store.old.front; e != nil; e = e.next {
		old += e.size
	}
	if young != c.store.young.bytes || old != c.store.old.bytes || young+old > 1<<20 {
		t.Errorf("young %d of %d, old %d of %d", young, c.store.young.bytes, old, c.store.old.bytes)
	}
	// The variants of one place are bounded.
	g.set(answer{200, "Cache-Control: max-age=3600\nVary: User-Agent", "x"})
	for i := range 100 {
		ask(c, g, products, "GET", "/varies", fmt.Sprintf("User-Agent: %d", i))
	}
	if n := len(c.store.places[key{host: "example.com", path: "/varies"}]); n != maxVariants {
		t.Errorf("%d variants are kept", n)
	}
}

func TestOlderEpochReplacesNothing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := open(t, func(c *Config) { c.Wait = 0 })
		slow := &target{answer: answer{200, "Cache-Control: max-age=10", "old"}, delay: time.Second}
		quick := &target{answer: answer{200, "Cache-Control: max-age=10", "new"}}
		var wg sync.WaitGroup
		wg.Go(func() { ask(c, slow, Info{Epoch: 1}, "GET", "/p", "") })
		synctest.Wait()
		ask(c, quick, Info{Epoch: 2}, "GET", "/p", "")
		wg.Wait()
		if w := ask(c, quick, Info{Epoch: 2}, "GET", "/p", ""); w.Body.String() != "new" || quick.count() != 1 {
			t.Errorf("got %q", w.Body)
		}
	})
}

// While a refresh is under way all get what is stale at once, and one refresh is enough. Its panic ends nothing, and
// Close waits for it.
func TestRefresh(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := open(t)
		g := &target{answer: answer{200, "Cache-Control: max-age=10, stale-while-revalidate=100", "a"}}
		ask(c, g, products, "GET", "/p", "")
		time.Sleep(20 * time.Second)
		g.delay = 5 * time.Second
		start := time.Now()
		for range 10 {
			ctx, cancel := context.WithCancel(t.Context())
			r, w := httptest.NewRequest("GET", "/p", nil).WithContext(ctx), httptest.NewRecorder()
			r.Header = http.Header{"If-None-Match": {`"x"`}, "X-Own": {"1"}}
			c.Serve(w, r, products, g.serve)
			if w.Body.String() != "a" || w.Header().Get("Age") != "20" {
				t.Errorf("got %q %v", w.Body, w.Header())
			}
			cancel() // as a server does with requests that are answered
			clear(r.Header)
		}
		if !time.Now().Equal(start) {
			t.Errorf("somebody waited %s", time.Since(start))
		}
		synctest.Wait()
		if g.count() != 2 || g.last().Header.Get("If-None-Match") != "" || g.last().Header.Get("X-Own") != "1" {
			t.Errorf("asked %d times, the last time with %v", g.count(), g.last().Header)
		}
		time.Sleep(6 * time.Second)
		if w := ask(c, g, products, "GET", "/p", ""); w.Header().Get("Age") != "6" || g.count() != 2 {
			t.Errorf("asked %d times, age %s", g.count(), w.Header().Get("Age"))
		}
		if len(c.refreshing) != 0 {
			t.Errorf("%d refreshes are under way", len(c.refreshing))
		}

		time.Sleep(20 * time.Second)
		r := httptest.NewRequest("GET", "/p", nil)
		c.Serve(httptest.NewRecorder(), r, products, func(http.ResponseWriter, *http.Request) { panic("boom") })
		synctest.Wait()
		ended := make(chan struct{})
		c.Serve(httptest.NewRecorder(), r, products, func(_ http.ResponseWriter, r *http.Request) {
			<-r.Context().Done()
			close(ended)
		})
		start = time.Now()
		c.Close()
		select {
		case <-ended:
		default:
			t.Error("Close did not wait")
		}
		if !time.Now().Equal(start) {
			t.Errorf("Close let it go on for %s", time.Since(start))
		}
		c.Serve(httptest.NewRecorder(), r, products, func(http.ResponseWriter, *http.Request) { t.Error("refreshed after Close") })
		synctest.Wait()
	})
}

func TestPanicOfChange(t *testing.T) {
	t.Parallel()
	c := open(t)
	g := &target{answer: answer{200, "Cache-Control: max-age=10", "a"}}
	ask(c, g, products, "GET", "/p", "")
	func() {
		defer func() { _ = recover() }()
		c.Serve(httptest.NewRecorder(), httptest.NewRequest("POST", "/p", nil), products, func(http.ResponseWriter, *http.Request) { panic("after the commit") })
	}()
	if ask(c, g, products, "GET", "/p", ""); g.count() != 2 {
		t.Error("nobody knows how far it came, and yet the old answer is given")
	}
}

// The change is forgotten before its client is answered: it may ask again at once.
func TestChangeIsSeenByItsClient(t *testing.T) {
	t.Parallel()
	c := open(t)
	g := &target{answer: answer{200, "Cache-Control: max-age=10", "old"}}
	ask(c, g, products, "GET", "/p", "")
	g.set(answer{200, "Cache-Control: max-age=10", "new"})
	c.Serve(&hooked{ResponseWriter: httptest.NewRecorder(), hook: func() {
		if w := ask(c, g, products, "GET", "/p", ""); w.Body.String() != "new" {
			t.Errorf("got %q", w.Body)
		}
	}}, httptest.NewRequest("PUT", "/p", nil), products, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(200) })
}

type hooked struct {
	http.ResponseWriter
	hook func()
}

func (h *hooked) WriteHeader(status int) {
	h.hook()
	h.ResponseWriter.WriteHeader(status)
}

// Through a real server: early hints, trailers, the connection itself.
func TestServer(t *testing.T) {
	t.Parallel()
	c := open(t)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Gateway", "1")
		c.Serve(w, r, Info{Route: r.URL.Path}, func(w http.ResponseWriter, r *http.Request) {
			switch r.URL.Path {
			case "/hints":
				w.Header().Set("Link", "</a.css>")
				w.WriteHeader(http.StatusEarlyHints)
				w.Header().Del("Link")
				w.Header().Set("Cache-Control", "max-age=10")
				_, _ = w.Write([]byte("hinted"))
			case "/trailers":
				_, _ = w.Write([]byte("body"))
				_ = http.NewResponseController(w).Flush()
				w.Header().Set(http.TrailerPrefix+"X-Sum", "7")
			case "/hijack":
				conn, buffer, err := http.NewResponseController(w).Hijack()
				if err != nil {
					t.Error(err)
					return
				}
				defer func() { _ = conn.Close() }()
				_, _ = buffer.WriteString("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\ntaken")
				_ = buffer.Flush()
			case "/short":
				w.Header().Set("Cache-Control", "max-age=10")
				w.Header().Set("Content-Length", "100")
				_, _ = w.Write([]byte("half"))
			}
		})
	}))
	defer server.Close()
	for _, test := range []struct{ path, body, trailer, gateway string }{{"/hints", "hinted", "", "1"}, {"/hints", "hinted", "", "1"}, {"/trailers", "body", "7", "1"}, {"/hijack", "taken", "", ""}} {
		resp, err := http.Get(server.URL + test.path)
		if err != nil {
			t.Fatal(err)
		}
		body := make([]byte, 100)
		n := 0
		for {
			m, err := resp.Body.Read(body[n:])
			n += m
			if err != nil {
				break
			}
		}
		_ = resp.Body.Close()
		if string(body[:n]) != test.body || resp.Trailer.Get("X-Sum") != test.trailer || resp.Header.Get("X-Gateway") != test.gateway || resp.Header.Get("Link") != "" {
			t.Errorf("%s: %q %v %v", test.path, body[:n], resp.Header, resp.Trailer)
		}
	}
	for range 2 {
		resp, err := http.Get(server.URL + "/short")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := resp.Body.Read(make([]byte, 4)); err == nil {
			_, err = resp.Body.Read(make([]byte, 4))
			if err == nil {
				t.Error("half an answer looks complete")
			}
		}
		_ = resp.Body.Close()
		if strings.Contains(resp.Header.Get("Cache-Status"), "stored") {
			t.Error("half an answer is kept")
		}
	}
}

func TestMetrics(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		registry := prometheus.NewRegistry()
		c, err := New(DefaultConfig(), Options{Registry: registry})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		g := &target{answer: answer{200, "Cache-Control: max-age=10, stale-while-revalidate=10, stale-if-error=100\nCache-Tag: a\nETag: \"1\"", "a"}}
		ask(c, g, products, "GET", "/p", "")                        // miss
		ask(c, g, products, "GET", "/p", "")                        // hit
		ask(c, g, products, "GET", "/p", "Range: bytes=0-0")        // bypass
		ask(c, g, products, "GET", "/p", "Cache-Control: no-cache") // revalidated
		time.Sleep(11 * time.Second)
		ask(c, g, products, "GET", "/p", "") // stale; the refresh is nobody's request
		synctest.Wait()
		time.Sleep(21 * time.Second)
		g.set(answer{503, "", ""})
		ask(c, g, products, "GET", "/p", "") // stale on error
		c.Purge("a")
		got := map[string]float64{}
		families, err := registry.Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range families {
			for _, m := range f.GetMetric() {
				name := strings.TrimPrefix(f.GetName(), "banyan_cache_")
				for _, l := range m.GetLabel() {
					name += " " + l.GetValue()
				}
				got[name] = m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
		want := map[string]float64{
			"requests_total miss": 1, "requests_total hit": 1, "requests_total bypass": 1, "requests_total revalidated": 1, "requests_total stale": 1,
			"requests_total stale_on_error": 1, "requests_total collapsed": 0, "entries": 0, "bytes": 0, "evicted_total": 0, "purged_total": 1,
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Error(d)
		}
	})
}

// What the gateway has said of this client stays beside what is kept, and is not kept.
func TestGatewayHeaders(t *testing.T) {
	t.Parallel()
	c := open(t)
	g := &target{answer: answer{200, "Cache-Control: max-age=10\nVary: Accept\nX-Frame-Options: SAMEORIGIN", "a"}}
	for i, want := range []string{"https://a.example", "https://b.example"} {
		w := httptest.NewRecorder()
		w.Header().Set("Vary", "Origin")
		w.Header().Set("X-Frame-Options", "DENY")
		w.Header().Set("Access-Control-Allow-Origin", want)
		c.Serve(w, httptest.NewRequest("GET", "/p", nil), products, g.serve)
		h := w.Header()
		if d := cmp.Diff([]string{"Origin", "Accept"}, h["Vary"]); d != "" || h.Get("Access-Control-Allow-Origin") != want || h.Get("X-Frame-Options") != "SAMEORIGIN" || g.count() != 1 {
			t.Errorf("request %d: %v %s", i+1, h, d)
		}
		// Others add to a header of this answer; the next one must not have it.
		h["X-Frame-Options"] = append(h["X-Frame-Options"], "more")
	}
}

// A client that goes while the answer comes leaves half of it: nothing to keep.
func TestClientGoes(t *testing.T) {
	t.Parallel()
	c := open(t)
	ctx, cancel := context.WithCancel(t.Context())
	next := func(body string, do func()) func(http.ResponseWriter, *http.Request) {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Cache-Control", "max-age=10")
			_, _ = w.Write([]byte(body))
			do()
		}
	}
	c.Serve(httptest.NewRecorder(), httptest.NewRequest("GET", "/p", nil).WithContext(ctx), products, next("half", cancel))
	w := httptest.NewRecorder()
	c.Serve(w, httptest.NewRequest("GET", "/p", nil), products, next("whole", func() {}))
	if w.Body.String() != "whole" {
		t.Errorf("got %q", w.Body)
	}
}

// A 304 that speaks of another version than ours confirms nothing: the whole is asked for.
func TestWrong304(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := open(t)
		g := &target{answer: answer{200, "ETag: \"1\"\nCache-Control: max-age=10", "a"}}
		ask(c, g, products, "GET", "/p", "")
		time.Sleep(11 * time.Second)
		asked := 0
		w := httptest.NewRecorder()
		c.Serve(w, httptest.NewRequest("GET", "/p", nil), products, func(w http.ResponseWriter, r *http.Request) {
			asked++
			w.Header().Set("Etag", `"2"`)
			w.Header().Set("Cache-Control", "max-age=10")
			if r.Header.Get("If-None-Match") != "" {
				w.WriteHeader(http.StatusNotModified)
				return
			}
			_, _ = w.Write([]byte("b"))
		})
		if asked != 2 || w.Code != 200 || w.Body.String() != "b" {
			t.Errorf("asked %d times: %d %q", asked, w.Code, w.Body)
		}
		if w := ask(c, g, products, "GET", "/p", ""); w.Body.String() != "b" {
			t.Errorf("kept: %q", w.Body)
		}
	})
}

func TestDisabled(t *testing.T) {
	t.Parallel()
	c := open(t, func(c *Config) { c.Enabled = false })
	g := &target{answer: answer{200, "Cache-Control: max-age=10\nCache-Tag: a", "a"}}
	for range 2 {
		if w := ask(c, g, products, "GET", "/p", ""); w.Header().Get("Cache-Tag") != "" || w.Header().Get("Cache-Status") != "" || w.Body.String() != "a" {
			t.Errorf("%v", w.Header())
		}
	}
	if g.count() != 2 {
		t.Errorf("asked %d times", g.count())
	}
}

func TestValidate(t *testing.T) {
	t.Parallel()
	if err := DefaultConfig().Validate("gateway.cache"); err != nil {
		t.Error(err)
	}
	for want, change := range map[string]func(*Config){
		"gateway.cache.bytes":    func(c *Config) { c.Bytes = 1 },
		"gateway.cache.max_body": func(c *Config) { c.MaxBody = 0 },
		"an eighth":              func(c *Config) { c.MaxBody = c.Bytes },
		"gateway.cache.wait":     func(c *Config) { c.Wait = -1 },
		"gateway.cache.refresh":  func(c *Config) { c.Refresh = 0 },
	} {
		cfg := DefaultConfig()
		change(&cfg)
		if err := cfg.Validate("gateway.cache"); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
}

// Requests, changes and purges at once: nobody sees what was before a change that had been answered.
func TestConcurrent(t *testing.T) {
	t.Parallel()
	c := open(t, func(c *Config) { c.Bytes, c.MaxBody = 1<<20, 1024 })
	var versions [8]atomic.Int64
	next := func(w http.ResponseWriter, r *http.Request) {
		v := &versions[r.URL.Path[1]-'0']
		if r.Method == "PUT" {
			v.Add(1)
			return
		}
		w.Header().Set("Cache-Control", "max-age=3600, stale-while-revalidate=10")
		w.Header().Set("Cache-Tag", "tag"+r.URL.Path[1:])
		w.Header().Set("Etag", fmt.Sprintf(`"%d"`, v.Load()))
		_, _ = fmt.Fprint(w, v.Load())
	}
	var wg sync.WaitGroup
	for worker := range 8 {
		wg.Go(func() {
			for i := range 1000 {
				n := (worker + i*7) % len(versions)
				path := fmt.Sprintf("/%d", n)
				switch i % 10 {
				case 3:
					c.Serve(httptest.NewRecorder(), httptest.NewRequest("PUT", path, nil), products, next)
				case 6:
					versions[n].Add(1)
					c.Purge("tag" + path[1:])
				default:
					before, w := versions[n].Load(), httptest.NewRecorder()
					// What was raised may not be told yet; what the one before was raised to, it must be.
					c.Serve(w, httptest.NewRequest("GET", fmt.Sprintf("%s?q=%d", path, i%3), nil), products, next)
					var got int64
					_, _ = fmt.Sscan(w.Body.String(), &got)
					if got < before-8 {
						t.Errorf("version %d after %d", got, before)
					}
				}
			}
		})
	}
	wg.Wait()
	for n := range versions {
		for q := range 3 {
			w := httptest.NewRecorder()
			c.Serve(w, httptest.NewRequest("GET", fmt.Sprintf("/%d?q=%d", n, q), nil), products, next)
			if got, want := w.Body.String(), fmt.Sprint(versions[n].Load()); got != want {
				t.Errorf("/%d: %s in the end, want %s", n, got, want)
			}
		}
	}
}

func BenchmarkServe(b *testing.B) {
	for _, bench := range []struct{ name, header, request string }{
		{"hit", "Cache-Control: max-age=3600\nContent-Type: application/json\nETag: \"1\"", ""},
		{"not modified", "Cache-Control: max-age=3600\nContent-Type: application/json\nETag: \"1\"", `If-None-Match: "1"`},
		{"hit with Vary", "Cache-Control: max-age=3600\nContent-Type: application/json\nVary: Accept", "Accept: */*"},
		{"never kept", "Content-Type: application/json", ""},
	} {
		b.Run(bench.name, func(b *testing.B) {
			c := open(b)
			g := &target{answer: answer{200, bench.header, strings.Repeat("x", 2000)}}
			ask(c, g, products, "GET", "/api/products", bench.request)
			r := httptest.NewRequest("GET", "/api/products", nil)
			if name, value, ok := strings.Cut(bench.request, ": "); ok {
				r.Header.Set(name, value)
			}
			header := http.Header{}
			next := func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(200) }
			b.ReportAllocs()
			for b.Loop() {
				clear(header)
				c.Serve(nowhere(header), r, products, next)
			}
		})
	}
	b.Run("without", func(b *testing.B) {
		r := httptest.NewRequest("GET", "/api/products", nil)
		header := http.Header{}
		next := func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(200) }
		b.ReportAllocs()
		for b.Loop() {
			clear(header)
			next(nowhere(header), r)
		}
	})
}
