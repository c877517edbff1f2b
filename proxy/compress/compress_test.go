package compress

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

func TestNegotiate(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		lines []string
		want  Coding
	}{
		{nil, Identity},
		{[]string{""}, Identity},
		{[]string{"gzip"}, Gzip},
		{[]string{"x-gzip"}, Gzip},
		{[]string{"GZIP"}, Gzip},
		{[]string{"zstd"}, Zstd},
		{[]string{"gzip, deflate, br, zstd"}, Zstd},
		{[]string{"gzip", "zstd"}, Zstd},
		{[]string{"gzip, zstd;q=0.9"}, Gzip},
		{[]string{"gzip;q=0.5, zstd;q=0.5"}, Zstd},
		{[]string{"gzip;q=0.001, zstd;q=0"}, Gzip},
		{[]string{"gzip;q=0"}, Identity},
		{[]string{"gzip;q=0.000"}, Identity},
		{[]string{"*"}, Zstd},
		{[]string{"*;q=0"}, Identity},
		{[]string{"*, zstd;q=0"}, Gzip},
		{[]string{"*;q=0, gzip"}, Gzip},
		{[]string{"identity"}, Identity},
		{[]string{"identity, gzip;q=0.5"}, Identity},
		{[]string{"identity;q=0.6, zstd;q=0.5, gzip;q=0.5"}, Identity},
		{[]string{"identity;q=0.5, gzip"}, Gzip},
		{[]string{"br, deflate"}, Identity},
		{[]string{"gzip ; q=0.8 , zstd ; Q=0.7"}, Gzip},
		{[]string{"gzip;q=1.0, zstd;q=1.000"}, Zstd},
		{[]string{"gzip;q=2"}, Identity},
		{[]string{"gzip;q=1.1"}, Identity},
		{[]string{"gzip;q=0.1234"}, Identity},
		{[]string{"gzip;q="}, Identity},
		{[]string{"gzip;q=-1"}, Identity},
		{[]string{"gzip;level=9"}, Identity},
		{[]string{"gzip;q=.5"}, Identity},
		{[]string{",,gzip,,"}, Gzip},
	} {
		if got := Negotiate(http.Header{"Accept-Encoding": c.lines}); got != c.want {
			t.Errorf("%q: %q, want %q", c.lines, got, c.want)
		}
	}
}

func unpack(t testing.TB, coding string, b []byte) string {
	t.Helper()
	var r io.Reader = bytes.NewReader(b)
	var err error
	switch coding {
	case "gzip":
		r, err = gzip.NewReader(r)
	case "zstd":
		r, err = zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(8<<20))
	}
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(r)
	if err != nil {
		t.Errorf("unpack %s: %v", coding, err)
	}
	return string(text)
}

func setAll(h http.Header, text string) {
	for line := range strings.Lines(text) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ": ")
		h.Add(name, value)
	}
}

var long = strings.Repeat("compressible text ", 200) // 3600 bytes

func TestServe(t *testing.T) {
	t.Parallel()
	const asJSON = "Content-Type: application/json"
	for _, c := range []struct {
		name            string
		method, path    string
		request, answer string // headers
		status          int
		body            []string // written one after another
		flush           bool     // after the first
		coding          string   // wanted
		has             string   // headers wanted, by lines
	}{
		{name: "gzip", answer: asJSON, body: []string{long}, coding: "gzip", has: "Vary: Accept-Encoding"},
		{name: "zstd", request: "Accept-Encoding: gzip, zstd", answer: asJSON, body: []string{long}, coding: "zstd", has: "Vary: Accept-Encoding"},
		{name: "a client that takes nothing", request: "Accept-Encoding: identity", answer: asJSON, body: []string{long}, has: "Vary: Accept-Encoding"},
		{name: "known length", answer: asJSON + fmt.Sprintf("\nContent-Length: %d\nAccept-Ranges: bytes", len(long)), body: []string{long}, coding: "gzip", has: "Accept-Ranges:"},
		{name: "known to be small", answer: asJSON + "\nContent-Length: 5", body: []string{"small"}, has: "Content-Length: 5\nVary: Accept-Encoding"},
		{name: "small", answer: asJSON, body: []string{"small"}, has: "Vary: Accept-Encoding"},
		{name: "just too small", answer: asJSON, body: []string{long[:1000], long[1000:1023]}},
		{name: "just large enough", answer: asJSON, body: []string{long[:1000], long[1000:1024]}, coding: "gzip"},
		{name: "many small parts", answer: asJSON, body: strings.SplitAfter(long, " "), coding: "gzip"},
		{name: "nothing", answer: asJSON},
		{name: "an error", status: 422, answer: "Content-Type: application/problem+json", body: []string{long}, coding: "gzip"},
		{name: "an image", answer: "Content-Type: image/png", body: []string{long}, has: "Vary:"},
		{name: "no type", body: []string{long}, has: "Vary:"},
		{name: "charset", answer: "Content-Type: TEXT/html; charset=utf-8", body: []string{long}, coding: "gzip"},
		{name: "svg", answer: "Content-Type: image/svg+xml", body: []string{long}, coding: "gzip"},
		{name: "events", answer: "Content-Type: text/event-stream", body: []string{long}, has: "Vary:"},
		{name: "grpc", answer: "Content-Type: application/grpc+json", body: []string{long}},
		{name: "flushed before there is enough", answer: asJSON, body: []string{"first", long}, flush: true},
		{name: "flushed after there is enough", answer: asJSON, body: []string{long, "last"}, flush: true, coding: "gzip"},
		{name: "encoded already", answer: asJSON + "\nContent-Encoding: br", body: []string{long}, coding: "br", has: "Vary:"},
		{name: "identity is no encoding", answer: asJSON + "\nContent-Encoding: identity", body: []string{long}, coding: "gzip"},
		{name: "no-transform", answer: asJSON + "\nCache-Control: public, No-Transform", body: []string{long}, has: "Vary:"},
		{name: "the client's no-transform", request: "Accept-Encoding: gzip\nCache-Control: no-transform", answer: asJSON, body: []string{long}},
		{name: "digest", answer: asJSON + "\nContent-Digest: sha-256=:AAAA:", body: []string{long}},
		{name: "a part", status: 206, answer: asJSON + "\nContent-Range: bytes 0-3599/9999", body: []string{long}},
		{name: "parts", status: 206, answer: "Content-Type: text/plain", body: []string{long}},
		{name: "ETag", answer: asJSON + "\nETag: \"7\"", body: []string{long}, coding: "gzip", has: `Etag: W/"7"`},
		{name: "weak ETag", answer: asJSON + "\nETag: W/\"7\"", body: []string{long}, coding: "gzip", has: `Etag: W/"7"`},
		{name: "ETag of what goes as it is", answer: asJSON + "\nETag: \"7\"", body: []string{"small"}, has: `Etag: "7"`},
		{name: "Vary is added to", answer: asJSON + "\nVary: Origin", body: []string{long}, coding: "gzip", has: "Vary: Origin, Accept-Encoding"},
		{name: "Vary is there", answer: asJSON + "\nVary: Origin, accept-encoding", body: []string{long}, coding: "gzip", has: "Vary: Origin, accept-encoding"},
		{name: "Vary *", answer: asJSON + "\nVary: *", body: []string{long}, coding: "gzip", has: "Vary: *"},
		{name: "204", status: 204, answer: asJSON, has: "Vary:"},
		{name: "304 for the plain form", status: 304, request: "Accept-Encoding: gzip\nIf-None-Match: \"7\"", answer: "ETag: \"7\"", has: "Etag: \"7\"\nVary: Accept-Encoding"},
		{name: "304 for the encoded form", status: 304, request: "Accept-Encoding: gzip\nIf-None-Match: \"6\", W/\"7\"", answer: "ETag: \"7\"", has: "Etag: W/\"7\""},
		{name: "HEAD of what a GET would encode", method: "HEAD", answer: asJSON + "\nContent-Length: 3600\nETag: \"7\"", body: []string{long}, has: "Content-Length:\nEtag: W/\"7\"\nVary: Accept-Encoding"},
		{name: "HEAD without a length", method: "HEAD", answer: asJSON + "\nETag: \"7\"", body: []string{long}, has: "Etag: W/\"7\""},
		{name: "HEAD of what a GET would not encode", method: "HEAD", answer: asJSON + "\nContent-Length: 5\nETag: \"7\"", body: []string{"small"}, has: "Content-Length: 5\nEtag: \"7\""},
		{name: "a cookie is set", answer: asJSON + "\nSet-Cookie: s=1", body: []string{long}, has: "Vary:"},
		{name: "a cookie came", request: "Accept-Encoding: gzip\nCookie: s=1", answer: asJSON, body: []string{long}, has: "Vary:"},
		{name: "a cookie came, for what is public", request: "Accept-Encoding: gzip\nCookie: s=1", answer: asJSON + "\nCache-Control: public", body: []string{long}, coding: "gzip"},
		{name: "tokens", path: "/api/auth/login", answer: asJSON, body: []string{long}, has: "Vary:"},
		{name: "not quite tokens", path: "/api/authors", answer: asJSON, body: []string{long}, coding: "gzip"},
		{name: "an upgrade", request: "Accept-Encoding: gzip\nUpgrade: websocket", answer: asJSON, body: []string{long}, has: "Vary:"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			method, path, request, status := c.method, c.path, c.request, c.status
			if method == "" {
				method = "GET"
			}
			if path == "" {
				path = "/api/products"
			}
			if request == "" {
				request = "Accept-Encoding: gzip"
			}
			if status == 0 {
				status = 200
			}
			// A server of its own, whose HEAD and 304 have no body.
			cfg := DefaultConfig()
			comp := New(cfg)
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				comp.Serve(w, r, func(w http.ResponseWriter, _ *http.Request) {
					setAll(w.Header(), c.answer)
					if c.status != 0 {
						w.WriteHeader(c.status)
					}
					for i, b := range c.body {
						if _, err := io.WriteString(w, b); err != nil {
							t.Error(err)
						}
						if i == 0 && c.flush {
							if err := http.NewResponseController(w).Flush(); err != nil {
								t.Error(err)
							}
						}
					}
				})
			}))
			defer server.Close()
			r, err := http.NewRequest(method, server.URL+path, nil)
			if err != nil {
				t.Fatal(err)
			}
			setAll(r.Header, request)
			transport := &http.Transport{DisableCompression: true}
			defer transport.CloseIdleConnections()
			resp, err := transport.RoundTrip(r)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = resp.Body.Close() }()
			body, err := io.ReadAll(resp.Body)
			if err != nil {
				t.Fatal(err)
			}
			coding := resp.Header.Get("Content-Encoding")
			if resp.StatusCode != status || coding != c.coding {
				t.Fatalf("%d %q, want %d %q", resp.StatusCode, coding, status, c.coding)
			}
			want := strings.Join(c.body, "")
			if method == "HEAD" || status == 304 {
				want = ""
			}
			if got := unpack(t, coding, body); got != want {
				t.Errorf("body of %d bytes, want %d", len(got), len(want))
			}
			if coding == "gzip" || coding == "zstd" {
				if len(body) > len(want)/2 {
					t.Errorf("%d bytes of %d", len(body), len(want))
				}
			}
			for line := range strings.Lines(c.has) {
				name, want, _ := strings.Cut(strings.TrimSuffix(strings.TrimSpace(line), ":"), ": ")
				if got := strings.Join(resp.Header.Values(name), ", "); got != want {
					t.Errorf("%s: %q, want %q", name, got, want)
				}
			}
		})
	}
}

// An answer that breaks off must not look whole, in any coding.
func TestBroken(t *testing.T) {
	t.Parallel()
	for name, handler := range map[string]func(w http.ResponseWriter){
		"a panic": func(w http.ResponseWriter) {
			_, _ = io.WriteString(w, long)
			panic(http.ErrAbortHandler)
		},
		"less than promised": func(w http.ResponseWriter) {
			w.Header().Set("Content-Length", "99999")
			_, _ = io.WriteString(w, long)
		},
		"more than promised": func(w http.ResponseWriter) {
			w.Header().Set("Content-Length", "2000")
			_, _ = io.WriteString(w, long)
		},
	} {
		for _, coding := range []string{"gzip", "zstd"} {
			t.Run(name+" "+coding, func(t *testing.T) {
				t.Parallel()
				comp := New(DefaultConfig())
				server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					comp.Serve(w, r, func(w http.ResponseWriter, _ *http.Request) {
						w.Header().Set("Content-Type", "text/plain")
						handler(w)
					})
				}))
				defer server.Close()
				r, err := http.NewRequest("GET", server.URL, nil)
				if err != nil {
					t.Fatal(err)
				}
				r.Header.Set("Accept-Encoding", coding)
				resp, err := http.DefaultClient.Do(r)
				if err == nil {
					defer func() { _ = resp.Body.Close() }()
					_, err = io.ReadAll(resp.Body)
				}
				if err == nil {
					t.Error("it looks whole")
				}
			})
		}
	}
}

// What is held back when a handler panics is not sent: the gateway answers with an error instead.
func TestPanicBeforeAnything(t *testing.T) {
	t.Parallel()
	w := httptest.NewRecorder()
	r := httptest.NewRequest("GET", "/", nil)
	r.Header.Set("Accept-Encoding", "gzip")
	func() {
		defer func() { _ = recover() }()
		New(DefaultConfig()).Serve(w, r, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/plain")
			_, _ = io.WriteString(w, "held back")
			panic("boom")
		})
	}()
	w.WriteHeader(http.StatusInternalServerError)
	if w.Code != http.StatusInternalServerError || w.Body.Len() > 0 {
		t.Errorf("%d %q", w.Code, w.Body)
	}
}

// The connection stays in reach: hints pass, a stream that is packed arrives part by part, a hijack works.
func TestConnection(t *testing.T) {
	t.Parallel()
	comp := New(DefaultConfig())
	next := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		comp.Serve(w, r, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "text/plain")
			if r.URL.Path == "/hijack" {
				conn, _, err := http.NewResponseController(w).Hijack()
				if err != nil {
					t.Error(err)
					return
				}
				_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\ntaken")
				_ = conn.Close()
				return
			}
			w.WriteHeader(http.StatusEarlyHints)
			w.WriteHeader(http.StatusAccepted)
			for range 3 {
				_, _ = io.WriteString(w, long)
				w.(http.Flusher).Flush()
				<-next
			}
		})
	}))
	defer server.Close()
	get := func(path string) *http.Response {
		r, err := http.NewRequest("GET", server.URL+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Accept-Encoding", "gzip")
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		return resp
	}
	resp := get("/stream")
	if resp.StatusCode != http.StatusAccepted {
		t.Errorf("status %d", resp.StatusCode)
	}
	unpacked, err := gzip.NewReader(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		part := make([]byte, len(long))
		if _, err := io.ReadFull(unpacked, part); err != nil || string(part) != long {
			t.Fatalf("part: %v", err)
		}
		next <- struct{}{}
	}
	if _, err := unpacked.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("the end: %v", err)
	}
	_ = resp.Body.Close()
	resp = get("/hijack")
	if body, err := io.ReadAll(resp.Body); err != nil || string(body) != "taken" {
		t.Errorf("%q %v", body, err)
	}
	_ = resp.Body.Close()
}

// Encoders are used again; what one answer held never shows in another, also after one broke off.
func TestPool(t *testing.T) {
	t.Parallel()
	comp := New(DefaultConfig())
	var wg sync.WaitGroup
	for i := range 200 {
		wg.Go(func() {
			coding := []string{"gzip", "zstd"}[i%2]
			want := strings.Repeat(fmt.Sprintf("answer %d ", i), 200+i*7)
			w := httptest.NewRecorder()
			r := httptest.NewRequest("GET", "/", nil)
			r.Header.Set("Accept-Encoding", coding)
			func() {
				defer func() { _ = recover() }()
				comp.Serve(w, r, func(w http.ResponseWriter, _ *http.Request) {
					w.Header().Set("Content-Type", "text/plain")
					_, _ = io.WriteString(w, want)
					if i%5 == 0 {
						panic("boom")
					}
				})
			}()
			if i%5 != 0 && unpack(t, coding, w.Body.Bytes()) != want {
				t.Errorf("answer %d is another one", i)
			}
		})
	}
	wg.Wait()
}

func TestDisabled(t *testing.T) {
	t.Parallel()
	cfg := DefaultConfig()
	cfg.Enabled = false
	w := httptest.NewRecorder()
	r := httptest.NewRequest("GET", "/", nil)
	r.Header.Set("Accept-Encoding", "gzip")
	New(cfg).Serve(w, r, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain")
		_, _ = io.WriteString(w, long)
	})
	if w.Body.String() != long || len(w.Header()) != 1 {
		t.Errorf("%v", w.Header())
	}
}

func TestValidate(t *testing.T) {
	t.Parallel()
	if err := DefaultConfig().Validate("gateway.compress"); err != nil {
		t.Error(err)
	}
	for want, change := range map[string]func(*Config){
		"gateway.compress.min_size": func(c *Config) { c.MinSize = 1 },
		`"json"`:                    func(c *Config) { c.Types = []string{"json"} },
		`"*/*"`:                     func(c *Config) { c.Types = []string{"*/*"} },
		`"*+"`:                      func(c *Config) { c.Types = []string{"*+"} },
		`"text/x*"`:                 func(c *Config) { c.Types = []string{"text/x*"} },
		`"Text/html"`:               func(c *Config) { c.Types = []string{"Text/html"} },
		`"text/html; charset=x"`:    func(c *Config) { c.Types = []string{"text/html; charset=x"} },
		`"api"`:                     func(c *Config) { c.Except = []string{"api"} },
		`"/api/"`:                   func(c *Config) { c.Except = []string{"/api/"} },
	} {
		cfg := DefaultConfig()
		change(&cfg)
		if err := cfg.Validate("gateway.compress"); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
}

// list is like a page of products.
func list(bytesWanted int) []byte {
	type item struct {
		SKU         string   `json:"sku"`
		Name        string   `json:"name"`
		Description string   `json:"description"`
		Categories  []string `json:"categories"`
		Amount      int      `json:"amount"`
		Version     int      `json:"version"`
	}
	var items []item
	names := []string{"WHITE HANGING HEART T-LIGHT HOLDER", "JUMBO BAG RED RETROSPOT", "REGENCY CAKESTAND 3 TIER", "PARTY BUNTING", "LUNCH BAG BLACK SKULL"}
	for i := 0; ; i++ {
		items = append(items, item{fmt.Sprintf("%d%c", 20000+i*7919%79999, 'A'+i%26), names[i*13%len(names)], "A thing for the home", []string{"home", "gifts"}, 100 + i*37%9000, i % 9})
		if b, _ := json.Marshal(items); len(b) >= bytesWanted {
			return b
		}
	}
}

func BenchmarkServe(b *testing.B) {
	for _, size := range []int{100, 1 << 10, 8 << 10, 64 << 10} {
		for _, coding := range []string{"identity", "gzip", "zstd"} {
			b.Run(fmt.Sprintf("%s/%d", coding, size), func(b *testing.B) {
				comp := New(DefaultConfig())
				body := list(size)
				r := httptest.NewRequest("GET", "/api/products", nil)
				r.Header.Set("Accept-Encoding", coding)
				w := &counter{header: http.Header{}}
				b.ReportAllocs()
				for b.Loop() {
					clear(w.header)
					w.n = 0
					comp.Serve(w, r, func(w http.ResponseWriter, _ *http.Request) {
						w.Header()["Content-Type"] = []string{"application/json"}
						_, _ = w.Write(body)
					})
				}
				b.ReportMetric(float64(w.n)/float64(len(body)), "ratio")
			})
		}
	}
}

type counter struct {
	header http.Header
	n      int
}

func (c *counter) Header() http.Header { return c.header }
func (c *counter) WriteHeader(int)     {}
func (c *counter) Write(b []byte) (int, error) {
	c.n += len(b)
	return len(b), nil
}
