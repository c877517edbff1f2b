package upstream_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/banyan-go/banyan/internal/module"
	"github.com/banyan-go/banyan/proxy/upstream"
)

// each runs a test for the ways to carry a request.
func each(t *testing.T, test func(t *testing.T, protocol string, cfg func(*upstream.Config))) {
	for _, way := range []string{upstream.H1, upstream.H2C, upstream.Synchronous} {
		t.Run(way, func(t *testing.T) {
			t.Parallel()
			if way == upstream.Synchronous {
				test(t, upstream.H1, func(c *upstream.Config) { c.Transport = upstream.Synchronous })
				return
			}
			test(t, way, func(*upstream.Config) {})
		})
	}
}

func TestRequestArrivesAsItIs(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, protocol string, cfg func(*upstream.Config)) {
		type seen struct {
			Line, Host, Body string
			Length           int64
			Header           http.Header
		}
		var got atomic.Pointer[seen]
		at := backend(t, func(_ http.ResponseWriter, r *http.Request) {
			b, _ := io.ReadAll(r.Body)
			got.Store(&seen{r.Method + " " + r.RequestURI, r.Host, string(b), r.ContentLength, r.Header})
		})
		g := open(t, protocol, options{cfg: cfg, call: upstream.Call{Prepare: func(out *http.Request, attempt int) error {
			out.Header.Set("X-User-Id", fmt.Sprintf("alice-%d", attempt))
			return nil
		}}}, at)
		header := http.Header{"X-User-Id": {"alice-1"}}
		if protocol == upstream.H2C {
			header["Te"] = []string{"trailers"}
		}
		for _, c := range []struct {
			method, path, body string
			headers            []string
		}{
			{"GET", "/api/orders", "", nil},
			{"GET", "/a%2Fb/%C3%BC?x=1;y=%zz&&z", "", nil},
			{"GET", "/a?", "", nil},
			{"DELETE", "/api/orders/1", "", nil},
			{"POST", "/api/orders", "hello", []string{"Content-Type", "text/plain", "Idempotency-Key", "k-1"}},
			{"POST", "/api/empty", "", nil},
			{"PUT", "/api/long", strings.Repeat("0123456789", 20_000), nil},
		} {
			r := g.request(c.method, c.path, c.body, c.headers...)
			r.Host = "shop.example"
			r.Header["User-Agent"] = nil
			if reply := g.do(r); reply.err != nil || reply.status != 200 {
				t.Fatalf("%s: %+v", c.path, reply)
			}
			want := seen{c.method + " " + c.path, "shop.example", c.body, int64(len(c.body)), header.Clone()}
			for i := 0; i < len(c.headers); i += 2 {
				want.Header.Set(c.headers[i], c.headers[i+1])
			}
			have := *got.Load()
			if have.Header.Get("Content-Length") == fmt.Sprint(len(c.body)) {
				have.Header.Del("Content-Length") // net/http shows it or not, by protocol
			}
			if diff := cmp.Diff(want, have); diff != "" {
				t.Errorf("%s %s: (-want +got)\n%s", c.method, c.path, diff)
			}
		}
	})
}

// A short body can be had again by the caller, so that it may answer in another way.
func TestBodyStaysForTheCaller(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		body string
		kept bool
	}{{"short", "hello", true}, {"long", strings.Repeat("x", 100_000), false}} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			g := open(t, upstream.H1, options{}, raw(t, func(_ net.Conn, in *bufio.Reader) { _, _, _ = readRequest(in) }))
			u := g.Upstream
			at := serve(t, &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				result := u.Serve(w, r, upstream.Call{Class: module.Write})
				b, _ := io.ReadAll(r.Body)
				_, _ = fmt.Fprintf(w, "%s %t %t", result.Failure, result.BodyGone, string(b) == c.body)
			})})
			r := g.request("POST", "/", c.body)
			r.URL, _ = url.Parse(at)
			if got, want := g.do(r), fmt.Sprintf("maybe_sent %t %t", !c.kept, c.kept); got.body != want {
				t.Errorf("got %q, want %q", got.body, want)
			}
		})
	}
}

func TestAnswerHeader(t *testing.T) {
	t.Parallel()
	at := raw(t, func(c net.Conn, in *bufio.Reader) {
		for {
			if _, _, err := readRequest(in); err != nil {
				return
			}
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nConnection: keep-alive, X-Inner, Content-Type\r\nX-Inner: secret\r\nKeep-Alive: timeout=5\r\n"+
				"Proxy-Authenticate: Basic\r\nUpgrade: h2c\r\nTe: trailers\r\nProxy-Connection: close\r\nContent-Type: text/plain\r\nContent-Encoding: gzip\r\n"+
				"Set-Cookie: a=1\r\nSet-Cookie: b=2\r\nVary: Accept\r\nX-Frame-Options: SAMEORIGIN\r\nETag: \"1\"\r\nContent-Length: 2\r\n\r\nhi")
		}
	})
	for _, way := range []string{upstream.Standard, upstream.Synchronous} {
		t.Run(way, func(t *testing.T) {
			t.Parallel()
			g := open(t, upstream.H1, options{cfg: func(c *upstream.Config) { c.Transport = way }, header: func(h http.Header) {
				h["Vary"], h["Set-Cookie"], h["X-Frame-Options"], h["X-Request-Id"] = []string{"Origin"}, []string{"s=0"}, []string{"DENY"}, []string{"7"}
			}}, at)
			got := g.get("/")
			got.header.Del("Date")
			want := reply{status: 200, body: "hi", header: http.Header{
				"Content-Type": {"text/plain"}, "Content-Encoding": {"gzip"}, "Set-Cookie": {"s=0", "a=1", "b=2"}, "Vary": {"Origin", "Accept"},
				"X-Frame-Options": {"SAMEORIGIN"}, "X-Request-Id": {"7"}, "Etag": {`"1"`}, "Content-Length": {"2"},
			}}
			if diff := cmp.Diff(want, got, cmp.AllowUnexported(reply{})); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

func TestAnswersWithoutBody(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, protocol string, cfg func(*upstream.Config)) {
		g := open(t, protocol, options{cfg: cfg}, backend(t, func(w http.ResponseWriter, r *http.Request) {
			switch r.URL.Path {
			case "/head":
				w.Header().Set("Content-Length", "12345")
			case "/204":
				w.WriteHeader(204)
			case "/304":
				w.Header().Set("ETag", `"x"`)
				w.WriteHeader(304)
			case "/302":
				w.Header().Set("Location", "/elsewhere")
				w.WriteHeader(302)
			}
		}))
		for _, c := range []struct {
			method, path string
			status       int
			header       [2]string
		}{
			{"HEAD", "/head", 200, [2]string{"Content-Length", "12345"}},
			{"GET", "/204", 204, [2]string{}},
			{"GET", "/304", 304, [2]string{"Etag", `"x"`}},
			{"GET", "/302", 302, [2]string{"Location", "/elsewhere"}},
			{"GET", "/empty", 200, [2]string{"Content-Length", "0"}},
		} {
			got := g.do(g.request(c.method, c.path, ""))
			if got.status != c.status || got.body != "" || got.header.Get(c.header[0]) != c.header[1] || got.err != nil {
				t.Errorf("%s: %+v", c.path, got)
			}
		}
		if n := g.Status().InFlight; n != 0 {
			t.Errorf("%d are in flight at the end", n)
		}
	})
}

func TestInformationalAnswers(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, protocol string, cfg func(*upstream.Config)) {
		g := open(t, protocol, options{cfg: cfg}, backend(t, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Link", "</a.css>; rel=preload")
			w.WriteHeader(http.StatusEarlyHints)
			w.WriteHeader(http.StatusProcessing)
			_, _ = io.WriteString(w, "done")
		}))
		for range 3 {
			if got := g.get("/"); got.status != 200 || got.body != "done" {
				t.Fatalf("got %+v", got)
			}
		}
	})
}

func TestEndlessInformationalAnswers(t *testing.T) {
	t.Parallel()
	for _, way := range []string{upstream.Standard, upstream.Synchronous} {
		t.Run(way, func(t *testing.T) {
			t.Parallel()
			g := open(t, upstream.H1, options{cfg: func(c *upstream.Config) { c.Transport = way }}, raw(t, func(c net.Conn, in *bufio.Reader) {
				_, _, _ = readRequest(in)
				for {
					if _, err := io.WriteString(c, "HTTP/1.1 103 Early Hints\r\nLink: <x>\r\n\r\n"); err != nil {
						return
					}
				}
			}))
			if got := g.post("/", "x"); got.header.Get("Failure") != "maybe_sent" {
				t.Errorf("got %+v", got)
			}
		})
	}
}

func TestHugeAnswerHeader(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, protocol string, cfg func(*upstream.Config)) {
		g := open(t, protocol, options{cfg: cfg}, backend(t, func(w http.ResponseWriter, _ *http.Request) {
			for i := range 300 {
				w.Header().Set(fmt.Sprintf("X-%d", i), strings.Repeat("x", 1024))
			}
		}))
		if got := g.post("/", "x"); got.header.Get("Failure") != "maybe_sent" {
			t.Errorf("got %d %v", got.status, got.header["Failure"])
		}
	})
}

// Nobody may speak another protocol who was not asked to.
func TestSwitchOfProtocolThatNobodyAskedFor(t *testing.T) {
	t.Parallel()
	for _, way := range []string{upstream.Standard, upstream.Synchronous} {
		t.Run(way, func(t *testing.T) {
			t.Parallel()
			g := open(t, upstream.H1, options{cfg: func(c *upstream.Config) { c.Transport = way }}, raw(t, func(c net.Conn, in *bufio.Reader) {
				_, _, _ = readRequest(in)
				_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nsecret")
				_, _ = in.ReadByte()
			}))
			got := g.get("/", "Connection", "Upgrade", "Upgrade", "h2c")
			if got.status != 502 || got.header.Get("Failure") != "maybe_sent" || strings.Contains(got.body, "secret") {
				t.Errorf("got %+v", got)
			}
		})
	}
}

func TestTrailers(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, protocol string, cfg func(*upstream.Config)) {
		for _, size := range []int{10, 200_000} { // kept, and streamed
			var got atomic.Pointer[http.Header]
			g := open(t, protocol, options{cfg: cfg}, backend(t, func(w http.ResponseWriter, r *http.Request) {
				_, _ = io.Copy(io.Discard, r.Body)
				trailer := r.Trailer.Clone()
				got.Store(&trailer)
				w.Header().Set("Trailer", "X-Sum, Set-Cookie")
				_, _ = io.WriteString(w, "body")
				w.Header().Set("X-Sum", "42")
				w.Header().Set("Set-Cookie", "evil=1")
				w.Header().Set(http.TrailerPrefix+"Grpc-Status", "7")
				w.Header().Set(http.TrailerPrefix+"Grpc-Message", "no, really")
			}))
			r := g.request("POST", "/", "x")
			r.Body, r.ContentLength = io.NopCloser(strings.NewReader(strings.Repeat("x", size))), -1
			r.Trailer = http.Header{"X-Hash": {"a", "b"}, "X-User-Id": {"mallory"}, "Authorization": {"Bearer x"}}
			answer := g.do(r)
			if diff := cmp.Diff(http.Header{"X-Sum": {"42"}, "Grpc-Status": {"7"}, "Grpc-Message": {"no, really"}}, answer.trailer); diff != "" || answer.body != "body" {
				t.Errorf("answer %+v (-want +got)\n%s", answer, diff)
			}
			if diff := cmp.Diff(http.Header{"X-Hash": {"a", "b"}}, *got.Load()); diff != "" {
				t.Errorf("request (-want +got)\n%s", diff)
			}
		}
	})
}

// An h2 client may say how long the body is and still send trailers; the body is kept then, and chunked over HTTP/1.1.
func TestTrailersAfterKnownLength(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, protocol string, cfg func(*upstream.Config)) {
		var got atomic.Pointer[http.Header]
		g := open(t, protocol, options{cfg: cfg, h2: true}, backend(t, func(_ http.ResponseWriter, r *http.Request) {
			b, _ := io.ReadAll(r.Body)
			trailer := r.Trailer.Clone()
			trailer.Set("Body", string(b))
			got.Store(&trailer)
		}))
		r := g.request("POST", "/", "hello")
		r.Trailer = http.Header{"X-Hash": {"a"}}
		if answer := do(t, client(t, true), r); answer.status != 200 {
			t.Fatalf("answer %+v", answer)
		}
		if diff := cmp.Diff(http.Header{"X-Hash": {"a"}, "Body": {"hello"}}, *got.Load()); diff != "" {
			t.Errorf("(-want +got)\n%s", diff)
		}
	})
}

// An answer of gRPC that has trailers alone must end with its header: a client takes anything else for a broken stream.
func TestTrailersOnly(t *testing.T) {
	t.Parallel()
	g := open(t, upstream.H2C, options{h2: true, call: upstream.Call{Class: module.Stream, Flush: true}}, rawH2(t, func(c h2conn) {
		id := c.request()
		c.write(headers, 5, id, append([]byte{0x88}, literal("grpc-status", "5")...)...)
		_ = c.request()
	}))
	resp, err := client(t, true).Transport.RoundTrip(g.request("POST", "/", "x", "Content-Type", "application/grpc"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	// The client sees that the stream has ended with the header: it knows that there is no body.
	if resp.ContentLength != 0 || resp.Header.Get("Grpc-Status") != "5" {
		t.Errorf("got %v, length %d", resp.Header, resp.ContentLength)
	}
}

// Over h2 an upstream is told that trailers are welcome: gRPC insists on it.
func TestTrailersAreWelcome(t *testing.T) {
	t.Parallel()
	g := open(t, upstream.H2C, options{}, backend(t, func(w http.ResponseWriter, r *http.Request) { w.Header().Set("Got", r.Header.Get("Te")) }))
	if got := g.get("/"); got.header.Get("Got") != "trailers" {
		t.Errorf("got %v", got.header)
	}
}

func TestStreamsAreNotBuffered(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, protocol string, cfg func(*upstream.Config)) {
		for _, c := range []struct {
			name, kind string
			call       upstream.Call
		}{
			{"events", "text/event-stream", upstream.Call{Class: module.Read}},
			{"lines of unknown length", "application/x-ndjson", upstream.Call{Class: module.Read}},
			{"stream", "application/octet-stream", stream},
		} {
			next := make(chan string)
			g := open(t, protocol, options{cfg: cfg, call: c.call}, backend(t, func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", c.kind)
				_ = http.NewResponseController(w).Flush()
				for s := range next {
					_, _ = io.WriteString(w, s)
					_ = http.NewResponseController(w).Flush()
				}
			}))
			resp, err := client(t, false).Do(g.request("GET", "/", ""))
			if err != nil {
				t.Fatal(err)
			}
			// The header came before there was anything to read.
			in := bufio.NewReader(resp.Body)
			for i := range 3 {
				line := fmt.Sprintf("data: %d\n", i)
				next <- line
				if got, err := in.ReadString('\n'); got != line || err != nil {
					t.Fatalf("%s: got %q, %v", c.name, got, err)
				}
			}
			close(next)
			if _, err := in.ReadByte(); err != io.EOF {
				t.Errorf("%s: ends with %v", c.name, err)
			}
			_ = resp.Body.Close()
			if r := g.result(1); r.Failure != upstream.None {
				t.Errorf("%s: %+v", c.name, r)
			}
		}
	})
}

// Over h2 both directions flow at the same time.
func TestBothDirections(t *testing.T) {
	t.Parallel()
	g := open(t, upstream.H2C, options{h2: true, call: stream}, backend(t, func(w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).Flush()
		in := bufio.NewReader(r.Body)
		for {
			line, err := in.ReadString('\n')
			if err != nil {
				w.Header().Set(http.TrailerPrefix+"X-End", fmt.Sprint(err))
				return
			}
			_, _ = io.WriteString(w, "echo "+line)
			_ = http.NewResponseController(w).Flush()
		}
	}))
	body, send := io.Pipe()
	r := g.request("POST", "/", "x")
	r.Body, r.ContentLength = body, -1
	resp, err := client(t, true).Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	in := bufio.NewReader(resp.Body)
	for i := range 5 {
		_, _ = fmt.Fprintf(send, "%d\n", i)
		if got, err := in.ReadString('\n'); got != fmt.Sprintf("echo %d\n", i) || err != nil {
			t.Fatalf("got %q, %v", got, err)
		}
	}
	_ = send.Close()
	if _, err := in.ReadByte(); err != io.EOF || resp.Trailer.Get("X-End") != "EOF" {
		t.Errorf("ends with %v, trailer %v", err, resp.Trailer)
	}
}

func TestLongBodies(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, protocol string, cfg func(*upstream.Config)) {
		long := bytes.Repeat([]byte("0123456789abcdef"), 1<<19) // 8 MiB
		sum := fmt.Sprintf("%x", sha256.Sum256(long))
		g := open(t, protocol, options{cfg: cfg}, backend(t, func(w http.ResponseWriter, r *http.Request) {
			hash := sha256.New()
			_, _ = io.Copy(hash, r.Body)
			w.Header().Set("Sum", fmt.Sprintf("%x", hash.Sum(nil)))
			_, _ = w.Write(long)
		}))
		for _, length := range []int64{int64(len(long)), -1} {
			r := g.request("POST", "/", "x")
			r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(long)), length
			got := g.do(r)
			if got.err != nil || got.header.Get("Sum") != sum || got.body != string(long) {
				t.Errorf("length %d: %d, %v, %d bytes of answer", length, got.status, got.err, len(got.body))
			}
		}
	})
}

// What breaks off must not look complete.
func TestAnswerBreaksOff(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, protocol string, cfg func(*upstream.Config)) {
		g := open(t, protocol, options{cfg: cfg}, backend(t, func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/known" {
				w.Header().Set("Content-Length", "100000")
			}
			_, _ = io.WriteString(w, strings.Repeat("x", 50_000))
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		}))
		for i, path := range []string{"/known", "/unknown"} {
			got := g.get(path)
			if got.status != 200 || got.err == nil {
				t.Errorf("%s: status %d, %d bytes, %v", path, got.status, len(got.body), got.err)
			}
			if r := g.result(i + 1); r.Failure != upstream.Aborted || !r.Started || r.Err == nil || r.Status != 200 {
				t.Errorf("%s: %+v", path, r)
			}
		}
	})
}

func TestChunkThatBreaksOff(t *testing.T) {
	t.Parallel()
	for _, way := range []string{upstream.Standard, upstream.Synchronous} {
		for _, tail := range []string{"5\r\nhello\r\n", "5\r\nhello\r\n5\r\nhel", "5\r\nhello\r\nzz\r\n"} {
			g := open(t, upstream.H1, options{cfg: func(c *upstream.Config) { c.Transport = way }}, raw(t, func(c net.Conn, in *bufio.Reader) {
				_, _, _ = readRequest(in)
				_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"+tail)
			}))
			if got := g.get("/"); got.err == nil {
				t.Errorf("%s: %q looks complete: %+v", way, tail, got)
			}
			if r := g.result(1); r.Failure != upstream.Aborted {
				t.Errorf("%s: %q: %+v", way, tail, r)
			}
		}
	}
}

func TestNobodyListens(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, protocol string, cfg func(*upstream.Config)) {
		alone := open(t, protocol, options{cfg: cfg}, dead)
		got := alone.post("/", "x")
		if got.status != 502 || got.header.Get("Failure") != "not_sent" {
			t.Errorf("got %+v", got)
		}
		if r := alone.result(1); r.Attempts != 1 || r.Started || r.Status != 0 || r.BodyGone {
			t.Errorf("%+v", r)
		}
		// Another endpoint gets it, whatever the method, with its body and with headers of its own.
		two := open(t, protocol, options{cfg: func(c *upstream.Config) {
			cfg(c)
			c.Balance = upstream.RoundRobin
		}, call: upstream.Call{Class: module.Write, Prepare: func(out *http.Request, attempt int) error {
			out.Header.Set("Attempt", fmt.Sprint(attempt))
			return nil
		}}}, dead, backend(t, func(w http.ResponseWriter, r *http.Request) {
			b, _ := io.ReadAll(r.Body)
			_, _ = fmt.Fprintf(w, "%s %s", r.Header.Get("Attempt"), b)
		}))
		seen := map[string]bool{}
		for range 4 {
			got := two.post("/", "hello")
			if got.status != 200 {
				t.Errorf("got %+v", got)
			}
			seen[got.body] = true
		}
		if diff := cmp.Diff(map[string]bool{"1 hello": true, "2 hello": true}, seen); diff != "" {
			t.Errorf("(-want +got)\n%s", diff)
		}
		// So does a body that is streamed, as nobody has read it.
		r := two.request("POST", "/", "x")
		r.Body, r.ContentLength = io.NopCloser(strings.NewReader("streamed")), -1
		for range 2 {
			if got := two.do(r); got.status != 200 || !strings.HasSuffix(got.body, " streamed") {
				t.Errorf("got %+v", got)
			}
			r.Body = io.NopCloser(strings.NewReader("streamed"))
		}
	})
}

// reset is an HTTP/1.1 upstream that reads a request and hangs up. It counts the requests.
func reset(t *testing.T, count *atomic.Int64) string {
	return raw(t, func(_ net.Conn, in *bufio.Reader) {
		if _, _, err := readRequest(in); err == nil {
			count.Add(1)
		}
	})
}

// What may have been received is sent again only if it may be repeated.
func TestMaybeSent(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, method string
		call         upstream.Call
		again        bool
	}{
		{"GET", "GET", upstream.Call{Class: module.Read}, true},
		{"POST", "POST", upstream.Call{Class: module.Write}, false},
		{"DELETE", "DELETE", upstream.Call{Class: module.Write}, false},
		{"POST that may be repeated", "POST", upstream.Call{Class: module.Write, Repeatable: true}, true},
		{"stream", "GET", stream, false},
	} {
		for _, way := range []string{upstream.Standard, upstream.Synchronous} {
			t.Run(c.name+", "+way, func(t *testing.T) {
				t.Parallel()
				var bad, fine atomic.Int64
				g := open(t, upstream.H1, options{call: c.call, cfg: func(cfg *upstream.Config) {
					cfg.Balance, cfg.Transport, cfg.Health.Passive.Consecutive = upstream.RoundRobin, way, 0
					cfg.Breaker.Ratio = 0
				}}, reset(t, &bad), backend(t, func(http.ResponseWriter, *http.Request) { fine.Add(1) }))
				failures := 0
				for range 4 {
					got := g.do(g.request(c.method, "/", "", "Idempotency-Key", "k"))
					if got.status == 502 {
						failures++
						if got.header.Get("Failure") != "maybe_sent" {
							t.Errorf("got %+v", got)
						}
					}
				}
				// What was repeated takes turns too, so more of the others go to the bad one.
				ok := failures == 2 && bad.Load() == 2 && fine.Load() == 2
				if c.again {
					ok = failures == 0 && bad.Load() >= 2 && fine.Load() == 4
				}
				if !ok {
					t.Errorf("%d failed, %d and %d were received", failures, bad.Load(), fine.Load())
				}
			})
		}
	}
}

// stale is an HTTP/1.1 upstream that answers the first request of a connection, and hangs up after it has read the second.
// It notes the keys of all.
func stale(t *testing.T, got *list) string {
	return raw(t, func(c net.Conn, in *bufio.Reader) {
		for i := range 2 {
			r, body, err := readRequest(in)
			if err != nil {
				return
			}
			got.add(r.Header.Get("Idempotency-Key") + body)
			if i == 0 {
				_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
			}
		}
	})
}

// net/http repeats whatever has an Idempotency-Key, also where the upstream does not honour it.
func TestKeyAlonePermitsNothing(t *testing.T) {
	t.Parallel()
	for _, repeatable := range []bool{false, true} {
		for _, body := range []string{"", "body"} {
			for _, way := range []string{upstream.Standard, upstream.Synchronous} {
				t.Run(fmt.Sprint(repeatable, body, way), func(t *testing.T) {
					t.Parallel()
					got := &list{}
					g := open(t, upstream.H1, options{call: upstream.Call{Class: module.Write, Repeatable: repeatable},
						cfg: func(c *upstream.Config) { c.Transport = way }}, stale(t, got))
					if first := g.post("/", body, "Idempotency-Key", "1"); first.status != 200 {
						t.Fatalf("got %+v", first)
					}
					second := g.post("/", body, "Idempotency-Key", "2", "X-Idempotency-Key", "2")
					want := []string{"1" + body, "2" + body}
					if repeatable {
						want = append(want, "2"+body)
					}
					if failed := second.header.Get("Failure") == "maybe_sent"; failed == repeatable {
						t.Errorf("got %+v", second)
					}
					if diff := cmp.Diff(want, got.all()); diff != "" {
						t.Errorf("(-want +got)\n%s", diff)
					}
				})
			}
		}
	}
}

// A connection that the upstream has closed while nobody used it is no failure of a request.
func TestIdleConnectionIsClosed(t *testing.T) {
	t.Parallel()
	for _, way := range []string{upstream.Standard, upstream.Synchronous} {
		t.Run(way, func(t *testing.T) {
			t.Parallel()
			hungUp := make(chan struct{}, 100)
			g := open(t, upstream.H1, options{cfg: func(c *upstream.Config) { c.Transport = way }}, raw(t, func(c net.Conn, in *bufio.Reader) {
				_, _, _ = readRequest(in)
				_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
				_ = c.Close()
				hungUp <- struct{}{}
			}))
			for range 20 {
				if got := g.post("/", "x"); got.status != 200 {
					t.Fatalf("got %+v", got)
				}
				<-hungUp
				if way == upstream.Standard {
					// net/http learns of it in a goroutine of its own; until then it can be unlucky, and then says so.
					eventually(t, "the end of the connection", func() bool { return g.Status().Endpoints[0].Conns == 0 })
				}
			}
		})
	}
}

// What an upstream says without being asked must not become the answer to the next request.
// (net/http writes a line to the log of the process for each one that it finds.)
func TestUnsolicitedAnswer(t *testing.T) {
	t.Parallel()
	const answer, poison = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison"
	for _, way := range []string{upstream.Standard, upstream.Synchronous} {
		for _, late := range []bool{false, true} {
			t.Run(fmt.Sprint(way, late), func(t *testing.T) {
				t.Parallel()
				said := make(chan struct{}, 100)
				read := make(chan struct{})
				g := open(t, upstream.H1, options{cfg: func(c *upstream.Config) { c.Transport = way }}, raw(t, func(c net.Conn, in *bufio.Reader) {
					for {
						if _, _, err := readRequest(in); err != nil {
							return
						}
						if !late {
							_, _ = io.WriteString(c, answer+poison)
							said <- struct{}{}
							continue
						}
						_, _ = io.WriteString(c, answer)
						<-read
						_, _ = io.WriteString(c, poison)
						said <- struct{}{}
					}
				}))
				for range 10 {
					if got := g.post("/", "x"); got.body != "ok" {
						t.Errorf("got %+v", got)
					}
					if late {
						read <- struct{}{}
					}
					<-said
					if way == upstream.Standard {
						eventually(t, "the end of the connection", func() bool { return g.Status().Endpoints[0].Conns == 0 })
					}
				}
			})
		}
	}
}

// A connection that the upstream wants to end is not used again.
func TestConnectionClose(t *testing.T) {
	t.Parallel()
	for _, way := range []string{upstream.Standard, upstream.Synchronous} {
		for _, answer := range []string{
			"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok", "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", "HTTP/1.1 200 OK\r\n\r\nok",
		} {
			var conns, requests atomic.Int64
			g := open(t, upstream.H1, options{cfg: func(c *upstream.Config) { c.Transport = way }}, raw(t, func(c net.Conn, in *bufio.Reader) {
				conns.Add(1)
				for {
					if _, _, err := readRequest(in); err != nil {
						return
					}
					requests.Add(1)
					_, _ = io.WriteString(c, answer)
					if !strings.Contains(answer, "Length") {
						return // the end of the connection is the end of the answer
					}
				}
			}))
			for range 5 {
				if got := g.post("/", "x"); got.body != "ok" || got.err != nil {
					t.Errorf("%s: %q: got %+v", way, answer, got)
				}
			}
			if conns.Load() != 5 || requests.Load() != 5 {
				t.Errorf("%s: %q: %d requests over %d connections", way, answer, requests.Load(), conns.Load())
			}
		}
	}
}

// Connections that nobody uses are closed.
func TestUnusedConnections(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, protocol string, cfg func(*upstream.Config)) {
		g := open(t, protocol, options{cfg: func(c *upstream.Config) { cfg(c); c.Pool.Idle = 100 * time.Millisecond }},
			backend(t, func(http.ResponseWriter, *http.Request) {}))
		for range 3 {
			if got := g.post("/", "x"); got.status != 200 {
				t.Errorf("got %+v", got)
			}
			eventually(t, "the end of the connection", func() bool { return g.Status().Endpoints[0].Conns == 0 })
		}
	})
}

func TestServerErrors(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, protocol string, cfg func(*upstream.Config)) {
		answering := func(status int, headers ...string) string {
			return backend(t, func(w http.ResponseWriter, _ *http.Request) {
				for i := 0; i < len(headers); i += 2 {
					w.Header().Set(headers[i], headers[i+1])
				}
				w.WriteHeader(status)
				_, _ = io.WriteString(w, "sorry")
			})
		}
		for _, c := range []struct {
			name, method string
			call         upstream.Call
			bad          string
			again        bool
		}{
			{"500 of a GET", "GET", upstream.Call{}, answering(500), true},
			{"503 of a GET", "GET", upstream.Call{}, answering(503), true},
			{"503 with a time", "GET", upstream.Call{}, answering(503, "Retry-After", "1"), false},
			{"501", "GET", upstream.Call{}, answering(501), false},
			{"500 of a POST", "POST", upstream.Call{}, answering(500), false},
			{"500 of a POST that may be repeated", "POST", upstream.Call{Repeatable: true}, answering(500), true},
			{"500 of a stream", "GET", stream, answering(500), false},
		} {
			g := open(t, protocol, options{call: c.call, cfg: func(x *upstream.Config) {
				cfg(x)
				x.Balance, x.Breaker.Ratio = upstream.RoundRobin, 0
			}}, c.bad, answering(200))
			bad := 0
			for range 4 {
				got := g.do(g.request(c.method, "/", ""))
				if got.body != "sorry" {
					t.Errorf("%s: got %+v", c.name, got)
				}
				if got.status != 200 {
					bad++
				}
			}
			want := 2
			if c.again {
				want = 0
			}
			if bad != want {
				t.Errorf("%s: %d of 4 answered with an error, want %d", c.name, bad, want)
			}
			for i := range 4 {
				if r := g.result(i + 1); (r.Status >= 500) != (r.Failure == upstream.Answered5xx) || c.again && r.Failure != upstream.None {
					t.Errorf("%s: %+v", c.name, r)
				}
			}
		}
		// With nowhere else to go the answer is passed on as it is.
		alone := open(t, protocol, options{cfg: cfg}, answering(500))
		if got := alone.get("/"); got.status != 500 || got.body != "sorry" {
			t.Errorf("got %+v", got)
		}
		if r := alone.result(1); r.Attempts != 1 {
			t.Errorf("%+v", r)
		}
	})
}

// Only so many requests are sent again.
func TestBudget(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, protocol string, cfg func(*upstream.Config)) {
		var n atomic.Int64
		bad := func() string {
			return backend(t, func(w http.ResponseWriter, _ *http.Request) { n.Add(1); w.WriteHeader(500) })
		}
		g := open(t, protocol, options{cfg: func(c *upstream.Config) {
			cfg(c)
			c.Retry.Reserve, c.Retry.Budget, c.Breaker.Ratio, c.Health.Passive.Consecutive = 5, 10, 0, 0
		}}, bad(), bad())
		for range 100 {
			if got := g.get("/"); got.status != 500 {
				t.Fatalf("got %+v", got)
			}
		}
		if again := n.Load() - 100; again < 10 || again > 15 {
			t.Errorf("%d of 100 were sent again", again)
		}
		// What could not be sent is not charged, unless nothing is to be sent again.
		for budget, charged := range map[int]bool{1: false, 0: true} {
			g := open(t, protocol, options{cfg: func(c *upstream.Config) {
				cfg(c)
				c.Balance, c.Retry.Reserve, c.Retry.Budget = upstream.RoundRobin, 1, budget
				c.Breaker.Consecutive, c.Breaker.Ratio, c.Health.Passive.Consecutive = 0, 0, 0
			}}, backend(t, func(http.ResponseWriter, *http.Request) {}), "http://127.0.0.1:1")
			failed := 0
			for range 40 {
				if got := g.get("/"); got.status != 200 {
					failed++
				}
			}
			if charged != (failed > 10) || !charged && failed > 0 {
				t.Errorf("with a budget of %d %d of 40 failed", budget, failed)
			}
		}
	})
}

func TestTimeToAnswer(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, protocol string, cfg func(*upstream.Config)) {
		at := backend(t, func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/body" {
				_, _ = io.WriteString(w, "begun")
				_ = http.NewResponseController(w).Flush()
			}
			<-r.Context().Done()
		})
		g := open(t, protocol, options{cfg: func(c *upstream.Config) { cfg(c); c.Pool.Header = 50 * time.Millisecond }}, at)
		if got := g.post("/header", "x"); got.header.Get("Failure") != "maybe_sent" {
			t.Errorf("got %+v", got)
		}
		// The request's own time, over all.
		u := g.Upstream
		own := serve(t, &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			ctx, cancel := context.WithTimeout(r.Context(), 20*time.Millisecond)
			defer cancel()
			result := u.Serve(w, r.WithContext(ctx), upstream.Call{})
			if result.Started {
				if result.Failure != upstream.Aborted || !errors.Is(result.Err, context.DeadlineExceeded) {
					t.Errorf("%+v", result)
				}
				panic(http.ErrAbortHandler)
			}
			_, _ = fmt.Fprint(w, result.Failure, " ", errors.Is(result.Err, context.DeadlineExceeded))
		})})
		r := g.request("POST", "/header", "x")
		r.URL, _ = url.Parse(own + "/header")
		if got := g.do(r); got.body != "maybe_sent true" {
			t.Errorf("got %+v", got)
		}
		r = g.request("GET", "/body", "")
		r.URL, _ = url.Parse(own + "/body")
		if got := g.do(r); got.err == nil {
			t.Errorf("got %+v", got)
		}
		// The time is for the header alone: neither for a client that sends slowly, nor for the body of the answer.
		late := open(t, protocol, options{cfg: func(c *upstream.Config) { cfg(c); c.Pool.Header = 300 * time.Millisecond }},
			backend(t, func(w http.ResponseWriter, r *http.Request) {
				b, _ := io.ReadAll(r.Body)
				w.Header().Set("Content-Length", "8")
				_, _ = w.Write(b)
				_ = http.NewResponseController(w).Flush()
				time.Sleep(500 * time.Millisecond)
				_, _ = io.WriteString(w, "late")
			}))
		body, send := io.Pipe()
		r = late.request("POST", "/", "x")
		r.Body, r.ContentLength = body, -1
		go func() {
			_, _ = io.WriteString(send, "sl")
			time.Sleep(500 * time.Millisecond)
			_, _ = io.WriteString(send, "ow")
			_ = send.Close()
		}()
		if got := late.do(r); got.body != "slowlate" {
			t.Errorf("got %+v", got)
		}
		if got := late.post("/", "slow"); got.body != "slowlate" || got.err != nil {
			t.Errorf("got %+v", got)
		}
		// A stream may take its time.
		slow := open(t, protocol, options{call: stream, cfg: func(c *upstream.Config) { cfg(c); c.Pool.Header = 20 * time.Millisecond }},
			backend(t, func(w http.ResponseWriter, _ *http.Request) {
				time.Sleep(100 * time.Millisecond) // longer than the header may take
				_, _ = io.WriteString(w, "late")
			}))
		if got := slow.get("/"); got.body != "late" {
			t.Errorf("got %+v", got)
		}
	})
}

// A client that goes says nothing of the upstream, however often it does so.
func TestClientGoes(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, protocol string, cfg func(*upstream.Config)) {
		begun, ended := make(chan struct{}, 1), make(chan struct{}, 1)
		g := open(t, protocol, options{cfg: cfg}, backend(t, func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/body" {
				_, _ = io.WriteString(w, "begun")
				_ = http.NewResponseController(w).Flush()
			}
			begun <- struct{}{}
			<-r.Context().Done()
			ended <- struct{}{}
		}))
		for i := range 30 {
			ctx, cancel := context.WithCancel(t.Context())
			path := [...]string{"/header", "/body"}[i%2]
			gone := make(chan struct{})
			go func() {
				defer close(gone)
				_ = do(t, client(t, false), g.request("GET", path, "").WithContext(ctx))
			}()
			<-begun
			cancel()
			<-gone
			<-ended // the upstream learns of it
			if r := g.result(i + 1); r.Failure != upstream.ClientAbort || r.Started != (path == "/body") && path == "/header" {
				t.Fatalf("%s: %+v", path, r)
			}
		}
		if s := g.Status(); s.Breaker != "closed" || !s.Ready || s.InFlight != 0 || !s.Endpoints[0].OutUntil.IsZero() {
			t.Errorf("%+v", s)
		}
	})
}

// So is a body that the gateway does not take: too long, or framed wrongly. The client is still there, and can be told.
func TestBodyThatCannotBeRead(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, protocol string, cfg func(*upstream.Config)) {
		g := open(t, protocol, options{cfg: cfg}, backend(t, func(_ http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) }))
		u := g.Upstream
		at := serve(t, &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			r.Body = http.MaxBytesReader(w, r.Body, 1000)
			result := u.Serve(w, r, upstream.Call{Class: module.Write})
			var large *http.MaxBytesError
			_, _ = fmt.Fprint(w, result.Failure, " ", errors.As(result.Err, &large), " ", result.BodyGone)
		})})
		for _, c := range []struct{ head, want string }{
			{"Transfer-Encoding: chunked\r\n\r\n1000\r\n" + strings.Repeat("x", 4096), "client_abort true true"},
			{"Content-Length: 4096\r\n\r\n" + strings.Repeat("x", 4096), "client_abort true true"},
			{"Transfer-Encoding: chunked\r\n\r\n5\r\nhelloX\r\n0\r\n\r\n", "client_abort false true"},
		} {
			for range 6 { // more than a breaker takes
				conn, err := net.Dial("tcp", strings.TrimPrefix(at, "http://"))
				if err != nil {
					t.Fatal(err)
				}
				_, _ = io.WriteString(conn, "POST / HTTP/1.1\r\nHost: x\r\n"+c.head)
				resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
				if err != nil {
					t.Fatal(err)
				}
				if b, _ := io.ReadAll(resp.Body); string(b) != c.want {
					t.Errorf("%.40q: got %q, want %q", c.head, b, c.want)
				}
				_ = conn.Close()
			}
		}
		if s := g.Status(); s.Breaker != "closed" || !s.Endpoints[0].OutUntil.IsZero() {
			t.Errorf("%+v", s)
		}
	})
}

// A body that breaks off is the client's fault, short or streamed.
func TestClientBreaksItsBody(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, protocol string, cfg func(*upstream.Config)) {
		g := open(t, protocol, options{cfg: cfg}, backend(t, func(_ http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) }))
		for i, head := range []string{"Content-Length: 100\r\n\r\nabc", "Content-Length: 1000000\r\n\r\nabc", "Transfer-Encoding: chunked\r\n\r\n5\r\nabc"} {
			for j := range 6 {
				c, err := net.Dial("tcp", strings.TrimPrefix(g.url, "http://"))
				if err != nil {
					t.Fatal(err)
				}
				_, _ = io.WriteString(c, "POST / HTTP/1.1\r\nHost: x\r\n"+head)
				_ = c.Close()
				if r := g.result(i*6 + j + 1); r.Failure != upstream.ClientAbort || !r.BodyGone || r.Started {
					t.Errorf("%q: %+v", head, r)
				}
			}
		}
		if s := g.Status(); s.Breaker != "closed" || !s.Endpoints[0].OutUntil.IsZero() {
			t.Errorf("%+v", s)
		}
	})
}

// The client is told to continue by us; the upstream hears nothing of it, and may answer without reading the body.
func TestExpectContinue(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, protocol string, cfg func(*upstream.Config)) {
		g := open(t, protocol, options{cfg: cfg}, backend(t, func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Expect") != "" {
				t.Errorf("expect: %q", r.Header["Expect"])
			}
			if r.URL.Path == "/refuse" {
				w.WriteHeader(http.StatusRequestEntityTooLarge)
				return
			}
			b, _ := io.ReadAll(r.Body)
			_, _ = fmt.Fprint(w, len(b))
		}))
		for _, size := range []int{10, 300_000} {
			for _, path := range []string{"/", "/refuse", "/"} {
				got := g.post(path, strings.Repeat("x", size), "Expect", "100-continue")
				switch {
				case path == "/refuse" && got.status != 413 && size == 10: // a long body may be cut while it is sent
					t.Errorf("%d: got %+v", size, got)
				case path == "/" && got.body != fmt.Sprint(size):
					t.Errorf("%d: got %+v", size, got)
				}
			}
		}
	})
}

// Headers that are too long are the client's fault too. Over h2 they must not even be sent: the upstream closes the
// connection then, with the requests of all others.
func TestRequestHeaderTooLong(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, protocol string, cfg func(*upstream.Config)) {
		var conns atomic.Int64
		at := serve(t, &http.Server{
			Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}), Protocols: protocols(true, true), MaxHeaderBytes: 4096,
			ConnState: func(_ net.Conn, s http.ConnState) {
				if s == http.StateNew {
					conns.Add(1)
				}
			},
		})
		g := open(t, protocol, options{cfg: func(c *upstream.Config) { cfg(c); c.HeaderBytes = 4096 }}, at)
		for i := range 20 {
			header := []string{"X-Long", strings.Repeat("x", 60<<10)}
			if i%2 == 1 {
				header = nil
				for j := range 300 { // few bytes, and many fields
					header = append(header, fmt.Sprintf("X-%d", j), "")
				}
			}
			got := g.post("/", "x", header...)
			if r := g.result(i + 1); got.status != 502 || r.Failure != upstream.ClientAbort || !errors.Is(r.Err, upstream.ErrHeaderTooLarge) {
				t.Fatalf("%+v", r)
			}
		}
		if got := g.post("/", "x", "X-Long", strings.Repeat("x", 3500)); got.status != 200 {
			t.Errorf("got %+v", got)
		}
		if s := g.Status(); s.Breaker != "closed" || !s.Endpoints[0].OutUntil.IsZero() || conns.Load() != 1 {
			t.Errorf("%+v, %d connections", s, conns.Load())
		}
	})
}

// What net/http refuses to send says nothing of the upstream.
func TestRequestThatCannotBeSent(t *testing.T) {
	t.Parallel()
	for _, protocol := range []string{upstream.H1, upstream.H2C} {
		g := open(t, protocol, options{call: upstream.Call{Prepare: func(out *http.Request, _ int) error {
			out.Header["X-Wrong"] = []string{"a\r\nb: c"}
			return nil
		}}}, backend(t, func(http.ResponseWriter, *http.Request) { t.Error("was sent") }))
		for range 10 {
			if got := g.post("/", "x"); got.header.Get("Failure") != "not_sent" {
				t.Errorf("got %+v", got)
			}
		}
		if s := g.Status(); s.Breaker != "closed" || !s.Endpoints[0].OutUntil.IsZero() {
			t.Errorf("%+v", s)
		}
	}
}

func TestPrepareFails(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, protocol string, cfg func(*upstream.Config)) {
		g := open(t, protocol, options{cfg: cfg, call: upstream.Call{Prepare: func(*http.Request, int) error { return errors.New("no key to sign with") }}},
			backend(t, func(http.ResponseWriter, *http.Request) { t.Error("was sent") }))
		got := g.post("/", "x")
		if got.header.Get("Failure") != "not_sent" || !strings.Contains(got.header.Get("Error"), "no key to sign with") {
			t.Errorf("got %+v", got)
		}
		if s := g.Status(); s.InFlight != 0 || s.Endpoints[0].InFlight != 0 {
			t.Errorf("%+v", s)
		}
	})
}

func TestBulkhead(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, protocol string, cfg func(*upstream.Config)) {
		begun, end := make(chan struct{}, 10), make(chan struct{})
		g := open(t, protocol, options{callOf: func(r *http.Request) upstream.Call {
			if r.URL.Path == "/stream" {
				return stream
			}
			return upstream.Call{}
		}, cfg: func(c *upstream.Config) {
			cfg(c)
			c.Bulkhead = upstream.Bulkhead{MaxInFlight: 2, MaxQueue: 1, QueueWait: 20 * time.Second, MaxStreams: 1}
		}}, backend(t, func(_ http.ResponseWriter, r *http.Request) {
			begun <- struct{}{}
			<-end
		}))
		answers := make(chan reply, 10)
		ask := func(path string) {
			r := g.request("POST", path, "x")
			go func() { answers <- do(t, client(t, false), r) }()
		}
		ask("/")
		ask("/")
		<-begun
		<-begun
		ask("/") // waits
		eventually(t, "one that waits", func() bool { return g.Status().Queued == 1 })
		ask("/stream") // streams take no room of requests
		<-begun
		for _, path := range []string{"/", "/stream"} {
			got := g.post(path, "x")
			if got.status != 502 || got.header.Get("Failure") != "overload" || !strings.Contains(got.header.Get("Error"), upstream.ErrSaturated.Error()) {
				t.Errorf("%s: got %+v", path, got)
			}
		}
		if s := g.Status(); s.InFlight != 2 || s.Streams != 1 || s.Breaker != "closed" {
			t.Errorf("%+v", s)
		}
		close(end)
		for range 4 {
			if got := <-answers; got.status != 200 {
				t.Errorf("got %+v", got)
			}
		}
		eventually(t, "the end of all", func() bool { s := g.Status(); return s.InFlight == 0 && s.Streams == 0 })
	})
}

// Over h1 an endpoint gets no more requests at a time than there may be connections.
func TestPoolIsFull(t *testing.T) {
	t.Parallel()
	for _, way := range []string{upstream.Standard, upstream.Synchronous} {
		t.Run(way, func(t *testing.T) {
			t.Parallel()
			begun, end := make(chan struct{}, 10), make(chan struct{})
			h := func(http.ResponseWriter, *http.Request) {
				begun <- struct{}{}
				<-end
			}
			g := open(t, upstream.H1, options{cfg: func(c *upstream.Config) { c.Pool.MaxConns, c.Transport = 1, way }}, backend(t, h), backend(t, h))
			answers := make(chan reply, 10)
			for range 2 {
				r := g.request("POST", "/", "x")
				go func() { answers <- do(t, client(t, false), r) }()
				<-begun
			}
			for _, e := range g.Status().Endpoints {
				if e.InFlight != 1 {
					t.Errorf("%+v", e)
				}
			}
			if got := g.post("/", "x"); got.header.Get("Failure") != "overload" {
				t.Errorf("got %+v", got)
			}
			close(end)
			for range 2 {
				if got := <-answers; got.status != 200 {
					t.Errorf("got %+v", got)
				}
			}
		})
	}
}

// Whoever asks for nothing gets nothing: no connection, no goroutine, no place stays behind.
func TestNothingIsLeft(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, protocol string, cfg func(*upstream.Config)) {
		g := open(t, protocol, options{cfg: cfg}, backend(t, func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(w, r.Body)
		}))
		for range 20 {
			_ = g.post("/", "hello")
		}
		if s := g.Status().Endpoints[0]; s.Conns != 1 {
			t.Errorf("20 requests one after another took %d connections", s.Conns)
		}
		if err := g.Close(); err != nil {
			t.Fatal(err)
		}
		if got := g.post("/", "hello"); got.header.Get("Failure") != "overload" {
			t.Errorf("after Close: %+v", got)
		}
		if s := g.Status(); len(s.Endpoints) != 0 || s.Ready {
			t.Errorf("after Close: %+v", s)
		}
	})
}
