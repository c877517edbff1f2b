package proxy

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
	"unicode"

	"github.com/banyan-go/banyan/internal/errs"
)

var paths = []struct {
	in   string
	want string // "" is refused
}{
	{"/", "/"},
	{"/api/orders", "/api/orders"},
	{"/api/orders/", "/api/orders/"},
	{"/docs/", "/docs/"},
	{"/api/%6frders", "/api/orders"},
	{"/api/products/caf%C3%A9", "/api/products/café"},
	{"/api/products/85123A", "/api/products/85123A"},
	{"/api/products/a%20b", "/api/products/a b"},
	{"/api/.hidden", "/api/.hidden"},
	{"/api/a.b", "/api/a.b"},
	{"/api/a+b:c@d", "/api/a+b:c@d"},
	{"//api/orders", ""},
	{"/api//orders", ""},
	{"/api/orders//", ""},
	{"/public/../admin", ""},
	{"/public/./admin", ""},
	{"/public/..", ""},
	{"/public/%2e%2e/admin", ""},
	{"/public/%2E./admin", ""},
	{"/public/...", ""},
	{"/api/orders.", ""},
	{"/api/orders./1", ""},
	{"/api%2forders", ""},
	{"/api%2Forders", ""},
	{"/public%2f..%2fadmin", ""},
	{"/api%5corders", ""},
	{`/api\orders`, ""},
	{"/api/orders%00", ""},
	{"/api/%0d%0aSet-Cookie:x", ""},
	{"/api/%7f", ""},
	{"/api/%c2%85", ""},
	{"/api/orders;a=b", ""},
	{"/api/orders%3ba=b", ""},
	{"/api/orders/%252e", ""},
	{"/api/orders/100%25", ""},
	{"/api/%ff", ""},
	{"*", ""},
	{"", ""},
}

func TestCanonicalPath(t *testing.T) {
	t.Parallel()
	for _, test := range paths {
		u, err := url.ParseRequestURI(test.in)
		if err != nil {
			if test.want != "" {
				t.Errorf("%q: %v", test.in, err)
			}
			continue
		}
		got, err := canonicalPath(u)
		if got != test.want || (err == nil) != (test.want != "") {
			t.Errorf("%q is %q, %v; want %q", test.in, got, err, test.want)
		}
		if err != nil && !errs.Is(err, errs.Malformed) {
			t.Errorf("%q: kind %s", test.in, errs.KindOf(err))
		}
	}
}

func TestCanonicalPathOfAnOrdinaryRequestAllocatesNothing(t *testing.T) {
	u := &url.URL{Path: "/api/orders/0192f7c2-0000-7000-8000-000000000000/history"}
	if n := testing.AllocsPerRun(100, func() { _, _ = canonicalPath(u) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// FuzzCanonicalPath: whatever passes has exactly one reading, and is the same again after it was sent on.
func FuzzCanonicalPath(f *testing.F) {
	for _, p := range paths {
		f.Add(p.in)
	}
	f.Fuzz(func(t *testing.T, in string) {
		u, err := url.ParseRequestURI(in)
		if err != nil {
			return
		}
		path, err := canonicalPath(u)
		if err != nil {
			return
		}
		for i, segment := range strings.Split(path[1:], "/") {
			last := i == strings.Count(path[1:], "/")
			if segment == "" && !last || strings.HasSuffix(segment, ".") {
				t.Fatalf("%q passes as %q", in, path)
			}
		}
		if strings.ContainsAny(path, "\\;%\x00") || strings.IndexFunc(path, unicode.IsControl) >= 0 {
			t.Fatalf("%q passes as %q", in, path)
		}
		again, err := url.ParseRequestURI((&url.URL{Path: path}).RequestURI())
		if err != nil {
			t.Fatalf("%q cannot be sent on: %v", path, err)
		}
		second, err := canonicalPath(again)
		if err != nil || second != path {
			t.Fatalf("%q becomes %q, %v when it is sent on", path, second, err)
		}
	})
}

func TestCheckQuery(t *testing.T) {
	t.Parallel()
	for _, good := range []string{"", "a=1&b=2", "q=caf%C3%A9+x", "q=café", "cursor=abc%3D%3D", "at=2026-01-01T00:00:00Z"} {
		if err := checkQuery(good); err != nil {
			t.Errorf("%q: %v", good, err)
		}
	}
	for _, bad := range []string{"a=1;b=2", "q=%00", "q=%0", "q=%", "q=%zz", "q=\x01", "q=a%00b", "q=%ff", "q=a%ffb", "%ff=a", "q=\xff", "q=%C3", "a=%C3&b=%A9", "q=%ED%A0%80"} {
		if err := checkQuery(bad); !errs.Is(err, errs.Malformed) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func TestCleanHeader(t *testing.T) {
	t.Parallel()
	h := http.Header{}
	for _, dropped := range []string{
		"X-User-Id", "X-User-Role", "X-Banyan-Epoch", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Forwarded-Port",
		"X-Forwarded-Prefix", "X-Forwarded-Uri", "X-Forwarded-Method", "X-Forwarded-Ssl", "X-Real-Ip", "X-Original-Url", "X-Rewrite-Url",
		"X-Http-Method-Override", "X-Accel-Redirect", "Forwarded", "X_User_Id", "X_forwarded_for", "Upgrade", "Te", "Trailer", "X-Named",
	} {
		h.Set(dropped, "evil")
	}
	h["Connection"] = []string{"close, X-Named", "authorization , idempotency-key"}
	kept := []string{"Authorization", "Idempotency-Key", "Content-Type", "Accept", "Traceparent", "X-Request-Id", "X-Useragent"}
	for _, name := range kept {
		h.Set(name, "good")
	}
	cleanHeader(h)
	for _, name := range kept {
		if h.Get(name) != "good" {
			t.Errorf("%s is gone", name)
		}
		h.Del(name)
	}
	if len(h) > 0 {
		t.Errorf("these are left: %v", h)
	}
}

func TestContainsNUL(t *testing.T) {
	t.Parallel()
	tests := []struct {
		body string
		want bool
	}{
		{`{"a":"b"}`, false}, {"{\"a\":\"\x00\"}", true}, {`{"a":"\u0000"}`, true}, {`{"a":"\\u0000"}`, false}, {`{"a":"\\\u0000"}`, true},
		{`{"a":"\\\\u0000 \u0000"}`, true}, {`{"a":"\u0001"}`, false}, {`\u0000`, true}, {``, false},
	}
	for _, test := range tests {
		if got := containsNUL([]byte(test.body)); got != test.want {
			t.Errorf("%s: %v", test.body, got)
		}
	}
}

// FuzzContainsNUL: what passes is decoded without a NUL.
func FuzzContainsNUL(f *testing.F) {
	for _, s := range []string{`\u0000`, `\\u0000`, `a`, `\\\u0000`, `\"\u0000`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		body := `"` + s + `"`
		decoded, ok := decode(body)
		if ok && strings.ContainsRune(decoded, 0) != containsNUL([]byte(body)) {
			t.Fatalf("%s decodes to %q", body, decoded)
		}
	})
}
