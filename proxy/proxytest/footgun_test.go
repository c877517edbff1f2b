package proxytest_test

import (
	"bufio"
	"context"
	"crypto/sha1"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/banyan-go/banyan/proxy"
	"github.com/banyan-go/banyan/proxy/upstream"
)

// The known faults of proxies, each with the outcome that is right. Where a usual building block has the fault, a test shows that
// too: it fails when that block is mended, and the gateway's own way may then be thought over.

// whyNot tries the same with a stock proxy; outcome tells what became of it, and must not be the right one.
func whyNot(t *testing.T, name string, f front, outcome func(t *testing.T, f front) string, right string) {
	t.Helper()
	t.Run("why not "+name, func(t *testing.T) {
		t.Parallel()
		if got := outcome(t, f); got == right {
			t.Errorf("%s does it right by now: %s", name, got)
		} else {
			t.Logf("%s: %s", name, got)
		}
	})
}

// footgun holds the gateway to the right outcome, and shows what the others do.
func footgun(t *testing.T, outcome func(t *testing.T, f front) string, right string, stock ...string) {
	t.Helper()
	t.Parallel()
	t.Run("gateway", func(t *testing.T) {
		t.Parallel()
		if got := outcome(t, ours); got != right {
			t.Errorf("got %s, want %s", got, right)
		}
	})
	for _, name := range stock {
		whyNot(t, name, map[string]front{"Director": withDirector, "Rewrite": withRewrite, "echo": withEcho}[name], outcome, right)
	}
}

// hostPort is where a URL leads.
func hostPort(raw string) string { return strings.TrimPrefix(raw, "http://") }

// ask sends one request as it is, through a proxy to an application that remembers, and gives what that has seen.
func ask(t *testing.T, f front, raw string) (status int, seen []view) {
	t.Helper()
	app := &recorder{}
	p := dial(t, hostPort(f(t, backend(t, app.ServeHTTP))))
	p.write(raw)
	if resp, _ := p.answer("GET"); resp != nil {
		status = resp.StatusCode
	}
	return status, app.seen()
}

func TestConnectionTakesNoHeaderOfOurs(t *testing.T) {
	told := []string{"X-Request-Id", "X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host", "X-Banyan-Assertion", "Traceparent"}
	t.Run("who asks", func(t *testing.T) {
		footgun(t, func(t *testing.T, f front) string {
			_, seen := ask(t, f, "GET /x"+top+"Connection: X-User-Id, X-Banyan-Assertion\r\n\r\n")
			if len(seen) != 1 || seen[0].Header.Get("X-User-Id")+seen[0].Header.Get("X-Banyan-Assertion") == "" {
				return "lost"
			}
			return "told"
		}, "told", "Director", "echo")
	})
	t.Run("all that we tell", func(t *testing.T) {
		t.Parallel()
		_, seen := ask(t, ours, "GET /x"+top+"Connection: "+strings.Join(told, ", ")+"\r\nConnection: close, cookie, authorization, content-length\r\nCookie: a=b\r\n\r\n")
		if len(seen) != 1 {
			t.Fatalf("%d requests", len(seen))
		}
		for _, name := range append(told[:5:5], "Cookie") {
			if seen[0].Header.Get(name) == "" {
				t.Errorf("%s is lost", name)
			}
		}
	})
}

// spoofed are headers by which a client would tell what only a proxy may tell, each spelled as somebody reads it.
var spoofed = []string{
	"Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Forwarded-Port", "X-Forwarded-Prefix", "X-Forwarded-Uri", "X-Forwarded-Method", "X-Forwarded-Ssl",
	"X-Forwarded-Server", "X-Forwarded-User", "X-Forwarded-Email", "X-Forwarded-Client-Cert", "X-Real-Ip", "X-Client-Ip", "True-Client-Ip", "X-Original-Url", "X-Original-Uri", "X-Rewrite-Url", "X-Http-Method",
	"X-Http-Method-Override", "X-Method-Override", "X-Accel-Redirect", "X-Accel-Buffering", "X-User-Id", "X-User-Role", "X-User-Email", "X-Tenant-Id", "X-Shadow", "X-Request-Timeout", "X-Banyan-Assertion",
	"X-Banyan-Route", "X-Banyan-Anything", "Proxy-Authorization", "Proxy-Connection", "Keep-Alive", "Te", "Upgrade", "Http2-Settings", "Trailer",
	"X_User_Id", "X_Forwarded_For", "X-Forwarded_For", "X_Banyan_Assertion", "X_Real_Ip", "Content_Length", "Transfer_Encoding", "X_Anything",
	"x-user-id", "X-USER-ID", "x_user_id",
}

func TestClientsTellNothingThatAProxyTells(t *testing.T) {
	outcome := func(names ...string) func(t *testing.T, f front) string {
		return func(t *testing.T, f front) string {
			raw := "GET /x" + top
			for _, n := range names {
				raw += n + ": forged\r\n"
			}
			_, seen := ask(t, f, raw+"\r\n")
			if len(seen) != 1 {
				return fmt.Sprintf("%d requests", len(seen))
			}
			var passed []string
			for name, values := range seen[0].Header {
				if strings.Contains(strings.Join(values, " "), "forged") {
					passed = append(passed, name)
				}
			}
			slices.Sort(passed)
			return "passed: " + strings.Join(passed, " ")
		}
	}
	t.Run("forwarding and identity", func(t *testing.T) { footgun(t, outcome(spoofed...), "passed: ", "Director", "Rewrite", "echo") })
	t.Run("client address", func(t *testing.T) { footgun(t, outcome("X-Forwarded-For"), "passed: ", "Director", "echo") })
	t.Run("underscores", func(t *testing.T) { footgun(t, outcome("X_User_Id"), "passed: ", "Director", "Rewrite", "echo") })
	t.Run("headers of the application pass", func(t *testing.T) {
		t.Parallel()
		const want = "passed: Accept-Language Authorisation Cookie X-Api-Key X-Forward X-User"
		if got := outcome("Cookie", "Accept-Language", "X-Api-Key", "Authorisation", "X-Forward", "X-User")(t, ours); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	})
	t.Run("what we tell instead", func(t *testing.T) {
		t.Parallel()
		_, seen := ask(t, ours, "GET /x"+top+"X-Forwarded-For: 6.6.6.6\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: evil.example\r\nX-Request-Id: mine-1\r\n\r\n")
		if len(seen) != 1 {
			t.Fatalf("%d requests", len(seen))
		}
		for name, want := range map[string]string{"X-Forwarded-For": "127.0.0.1", "X-Forwarded-Proto": "http", "X-Forwarded-Host": "shop.example", "X-Request-Id": "mine-1"} {
			if got := seen[0].Header.Values(name); len(got) != 1 || got[0] != want {
				t.Errorf("%s is %q, want %q", name, got, want)
			}
		}
	})
}

func TestAnswersThatBreakOffDoNotLookComplete(t *testing.T) {
	t.Parallel()
	answers := map[string]string{
		"length":               "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 5000\r\n\r\n" + strings.Repeat("[", 4000),
		"chunks":               "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n[[[[[\r\n",
		"in a chunk":           "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n50\r\n[[[[[",
		"events":               "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n5\r\ndata:\r\n",
		"wrong chunk":          "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nzz\r\n",
		"a trailer breaks off": "HTTP/1.1 200 OK\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX-S",
	}
	for name, answer := range answers {
		for _, class := range []string{"read", "stream"} {
			for _, h2 := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s of a %s, h2 %t", name, class, h2), func(t *testing.T) {
					t.Parallel()
					endpoint := wire(t, func(c net.Conn, in *bufio.Reader) {
						if _, _, err := readRequest(in); err == nil {
							_, _ = io.WriteString(c, answer)
						}
					})
					d := inFrontOf(t, legacy(endpoint, proxy.ForeignRoute{Match: "GET /x", Class: class}))
					// Compression is asked for: its end must not be written either.
					resp, err := client(t, h2).Do(request(t, "GET", d.url+"/x", "", "Accept-Encoding", "gzip"))
					if err == nil {
						_, err = io.Copy(io.Discard, resp.Body)
						_ = resp.Body.Close()
					}
					if err == nil {
						t.Error("the client takes the answer for complete")
					}
					if l := d.logged("aborted", func(l line) bool { return l.Route == "/x" }); !l.Aborted || l.Failure != string(upstream.Aborted) {
						t.Errorf("logged as %+v", l)
					}
				})
			}
		}
	}
}

func TestClientsThatGoAreNoFailureOfTheUpstream(t *testing.T) {
	t.Parallel()
	begun := make(chan struct{})
	d := inFrontOf(t, legacy(backend(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, "begin")
		_ = http.NewResponseController(w).Flush()
		close(begun)
		<-r.Context().Done()
	})))
	ctx, cancel := context.WithCancel(t.Context())
	r := request(t, "GET", d.url+"/x", "")
	resp, err := client(t, false).Do(r.WithContext(ctx))
	if err != nil {
		t.Fatal(err)
	}
	<-begun
	cancel()
	_ = resp.Body.Close()
	if l := d.logged("gone", func(l line) bool { return true }); l.Failure != string(upstream.ClientAbort) {
		t.Errorf("logged as %+v", l)
	}
}

// socketOrigin answers every handshake with a 101 of these headers; then it calls h.
func socketOrigin(t *testing.T, header string, h func(c net.Conn, in *bufio.Reader)) string {
	return wire(t, func(c net.Conn, in *bufio.Reader) {
		r, err := http.ReadRequest(in)
		if err != nil {
			return
		}
		answer := "HTTP/1.1 101 Switching Protocols\r\n" + strings.ReplaceAll(header, "{accept}", accept(r.Header.Get("Sec-Websocket-Key"))) + "\r\n"
		if h == nil {
			_, _ = io.WriteString(c, answer)
			return
		}
		h(&prefixed{Conn: c, prefix: answer}, in)
	})
}

// accept proves that the key of a handshake was read.
func accept(key string) string {
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	return base64.StdEncoding.EncodeToString(sum[:])
}

// prefixed writes the answer together with the first bytes that follow it.
type prefixed struct {
	net.Conn
	prefix string
}

func (p *prefixed) Write(b []byte) (int, error) {
	_, err := p.Conn.Write(append([]byte(p.prefix), b...))
	p.prefix = ""
	return len(b), err
}

const switched = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n"

func TestEarlyBytesOfASocketArrive(t *testing.T) {
	t.Run("of the client, before the 101", func(t *testing.T) {
		footgun(t, func(t *testing.T, f front) string {
			got := make(chan string, 1)
			endpoint := socketOrigin(t, switched, func(c net.Conn, in *bufio.Reader) {
				_, _ = c.Write(nil)
				first := make([]byte, 4)
				_, _ = io.ReadFull(in, first)
				got <- string(first)
			})
			p := dial(t, hostPort(f(t, endpoint)))
			p.write("GET /x" + top + socket + "\r\nsoon")
			if resp, _ := p.answer("GET"); resp == nil || resp.StatusCode != http.StatusSwitchingProtocols {
				return "no 101"
			}
			p.write("late")
			return <-got
		}, "soon", "Director", "Rewrite", "echo")
	})
	t.Run("of the origin, with the 101", func(t *testing.T) {
		footgun(t, func(t *testing.T, f front) string {
			endpoint := socketOrigin(t, switched, func(c net.Conn, in *bufio.Reader) {
				_, _ = c.Write([]byte("soon"))
				_, _ = in.ReadByte() // until the client goes
			})
			p := dial(t, hostPort(f(t, endpoint)))
			p.write("GET /x" + top + socket + "\r\n")
			if resp, _ := p.answer("GET"); resp == nil {
				return "no answer"
			}
			first := make([]byte, 4)
			_, err := io.ReadFull(p.in, first)
			return fmt.Sprintf("%s %v", first, err)
		}, "soon <nil>")
	})
}

func TestHopByHopHeadersOfA101StayBehind(t *testing.T) {
	footgun(t, func(t *testing.T, f front) string {
		endpoint := socketOrigin(t, switched+"Connection: X-Internal\r\nX-Internal: a\r\nKeep-Alive: timeout=5\r\nProxy-Authenticate: Basic\r\nX-Kept: b\r\n", nil)
		p := dial(t, hostPort(f(t, endpoint)))
		p.write("GET /x" + top + socket + "\r\n")
		resp, _ := p.answer("GET")
		if resp == nil {
			return "no answer"
		}
		h := resp.Header
		return fmt.Sprintf("%d %q %q %q %q", resp.StatusCode, h["X-Internal"], h["Keep-Alive"], h["Proxy-Authenticate"], h["X-Kept"])
	}, `101 [] [] [] ["b"]`, "Director", "Rewrite", "echo")
}

// TestNoTunnelWithoutA101: what is joined to the origin is no longer looked at, so a second request would pass unseen.
func TestNoTunnelWithoutA101(t *testing.T) {
	t.Run("second request after 200", func(t *testing.T) {
		footgun(t, func(t *testing.T, f front) string {
			app := &recorder{}
			p := dial(t, hostPort(f(t, backend(t, app.ServeHTTP))))
			p.write("GET /x" + top + socket + "\r\n")
			if resp, _ := p.answer("GET"); resp == nil {
				return "no answer"
			}
			p.write("GET /admin/x" + top + "\r\n")
			_, _ = p.answer("GET")
			var paths []string
			for _, v := range app.seen() {
				paths = append(paths, v.Path)
			}
			return strings.Join(paths, " ")
		}, "/x", "echo")
	})
	for name, header := range map[string]string{
		"101 that proves nothing":   "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: AAAAAAAAAAAAAAAAAAAAAAAAAAA=\r\n",
		"101 without proof":         "Upgrade: websocket\r\nConnection: Upgrade\r\n",
		"101 for another protocol":  "Upgrade: h2c\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n",
		"101 without Connection":    "Upgrade: websocket\r\nSec-WebSocket-Accept: {accept}\r\n",
		"101 for two protocols":     switched + "Upgrade: h2c\r\n",
		"subprotocol nobody wanted": switched + "Sec-WebSocket-Protocol: x\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := dial(t, hostPort(ours(t, socketOrigin(t, header, nil))))
			p.write("GET /x" + top + socket + "\r\n")
			if resp, _ := p.answer("GET"); resp == nil || resp.StatusCode != http.StatusBadGateway {
				t.Errorf("got %+v, want 502", resp)
			}
		})
	}
}

func TestOnlyWebSocketsAreUpgraded(t *testing.T) {
	for _, protocol := range []string{"h2c", "tls/1.0", "websocket, h2c", "connect-udp", "anything"} {
		t.Run(protocol, func(t *testing.T) {
			footgun(t, func(t *testing.T, f front) string {
				asked := make(chan string, 1)
				endpoint := wire(t, func(c net.Conn, in *bufio.Reader) {
					r, err := http.ReadRequest(in)
					if err != nil {
						return
					}
					asked <- r.Header.Get("Upgrade")
					_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: "+protocol+"\r\n\r\n")
					_, _ = in.ReadByte()
				})
				p := dial(t, hostPort(f(t, endpoint)))
				p.write("GET /x" + top + "Connection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\nUpgrade: " + protocol + "\r\n\r\n")
				resp, _ := p.answer("GET")
				if resp == nil {
					return "no answer"
				}
				select {
				case protocol := <-asked: // before it was answered
					return fmt.Sprintf("asked for %q, answered %d", protocol, resp.StatusCode)
				default:
					return fmt.Sprintf("not asked, answered %d", resp.StatusCode)
				}
			}, `asked for "", answered 502`, "Director", "Rewrite", "echo")
		})
	}
}

func TestNothingIsAskedForThatTheClientDidNotAskFor(t *testing.T) {
	footgun(t, func(t *testing.T, f front) string {
		_, seen := ask(t, f, "GET /x"+top+"\r\n")
		if len(seen) != 1 {
			return "nothing seen"
		}
		return fmt.Sprintf("encoding %q, agent %q", seen[0].Header["Accept-Encoding"], seen[0].Header["User-Agent"])
	}, "encoding [], agent []", "Director", "Rewrite", "echo")
}

// TestConnectionsAreKept: 16 requests at a time, twice.
func TestConnectionsAreKept(t *testing.T) {
	footgun(t, func(t *testing.T, f front) string {
		const n = 16
		var opened atomic.Int64
		var arrived sync.WaitGroup
		var together [2]chan struct{}
		for i := range together {
			together[i] = make(chan struct{})
		}
		s := &http.Server{
			ConnState: func(_ net.Conn, state http.ConnState) {
				if state == http.StateNew {
					opened.Add(1)
				}
			},
			Handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				// All of them at a time, so that each needs a connection.
				round := 0
				if r.URL.Path == "/1" {
					round = 1
				}
				arrived.Done()
				<-together[round]
			}),
		}
		url, c := f(t, serve(t, s)), client(t, false)
		rounds := make([]int64, 2)
		for i := range rounds {
			before := opened.Load()
			arrived.Add(n)
			var asking sync.WaitGroup
			for range n {
				r := request(t, "GET", fmt.Sprintf("%s/%d", url, i), "")
				asking.Go(func() {
					resp, err := c.Do(r)
					if err != nil {
						t.Error(err)
						return
					}
					_, _ = io.Copy(io.Discard, resp.Body)
					_ = resp.Body.Close()
				})
			}
			arrived.Wait()
			close(together[i])
			asking.Wait()
			rounds[i] = opened.Load() - before
		}
		return fmt.Sprintf("%v connections were opened", rounds)
	}, "[16 0] connections were opened", "Director", "Rewrite", "echo")
}

func TestAnUpstreamThatDoesNotAnswerIsNotWaitedForForever(t *testing.T) {
	t.Parallel()
	waiting := make(chan struct{}, 4)
	endpoint := wire(t, func(_ net.Conn, in *bufio.Reader) {
		if _, _, err := readRequest(in); err == nil {
			waiting <- struct{}{}
			_, _ = in.ReadByte() // until somebody gives up
		}
	})
	f := legacy(endpoint, proxy.ForeignRoute{Match: "POST /x", Class: "write"})
	f.Pool.Header = 200 * time.Millisecond
	d := inFrontOf(t, f)
	got := d.do("POST", "/x", "{}")
	if got.status != http.StatusGatewayTimeout && got.status != http.StatusBadGateway || len(waiting) != 1 {
		t.Errorf("got %d, and %d requests were sent", got.status, len(waiting))
	}
}

// goingAway is an origin of HTTP/2 that leaves just when a second request has come on a connection, without having looked at it.
func goingAway(t *testing.T, worked *atomic.Int64) string {
	return wire(t, func(c net.Conn, in *bufio.Reader) {
		if _, err := io.ReadFull(in, make([]byte, len(http2.ClientPreface))); err != nil {
			return
		}
		f := http2.NewFramer(c, in)
		f.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
		_ = f.WriteSettings()
		for {
			frame, err := f.ReadFrame()
			if err != nil {
				return
			}
			if s, ok := frame.(*http2.SettingsFrame); ok && !s.IsAck() {
				_ = f.WriteSettingsAck()
			}
			if !frame.Header().Flags.Has(http2.FlagDataEndStream) || frame.Header().StreamID == 0 {
				continue
			}
			if frame.Header().StreamID > 1 {
				_ = f.WriteGoAway(1, http2.ErrCodeNo, nil)
				return
			}
			worked.Add(1)
			_ = f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: []byte{0x88}, EndHeaders: true, EndStream: true})
		}
	})
}

func TestARestartOfTheUpstreamLosesNoWrite(t *testing.T) {
	t.Parallel()
	post := func(t *testing.T, url string) string {
		t.Helper()
		c := client(t, false)
		first := send(t, c, request(t, "POST", url+"/x", "{}"))
		second := send(t, c, request(t, "POST", url+"/x", "{}"))
		return fmt.Sprint(first.status, second.status)
	}
	t.Run("gateway", func(t *testing.T) {
		t.Parallel()
		var worked atomic.Int64
		f := legacy(goingAway(t, &worked), proxy.ForeignRoute{Match: "POST /x", Class: "write"})
		f.Protocol = upstream.H2C
		if got := post(t, inFrontOf(t, f).url); got != "200 200" || worked.Load() != 2 {
			t.Errorf("got %s, and %d were worked on", got, worked.Load())
		}
	})
	t.Run("why not Rewrite", func(t *testing.T) {
		t.Parallel()
		var worked atomic.Int64
		origin := location(t, goingAway(t, &worked))
		p := &httputil.ReverseProxy{ErrorLog: quiet, Transport: &http.Transport{Protocols: protocols(false, true)}, Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(origin) }}
		if got := post(t, serve(t, &http.Server{Handler: p})); got == "200 200" {
			t.Error("ReverseProxy does it right by now")
		} else {
			t.Log(got)
		}
	})
}

// TestAWriteIsSentOnce: the connection ends after the request was read. net/http sends it again if it has a key, most times.
func TestAWriteIsSentOnce(t *testing.T) {
	for _, name := range []string{"Idempotency-Key", "X-Idempotency-Key", "X-Anything"} {
		t.Run(name, func(t *testing.T) {
			stock := []string{"Director", "Rewrite", "echo"}
			if name == "X-Anything" {
				stock = nil
			}
			footgun(t, func(t *testing.T, f front) string {
				var posts atomic.Int64
				endpoint := wire(t, func(c net.Conn, in *bufio.Reader) {
					for {
						r, _, err := readRequest(in)
						if err != nil {
							return
						}
						if r.Method == "POST" {
							posts.Add(1)
							return
						}
						_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
					}
				})
				url, c := f(t, endpoint), client(t, false)
				const tries = 20
				for range tries {
					send(t, c, request(t, "GET", url+"/x", "")) // its connection is used again
					if got := send(t, c, request(t, "POST", url+"/x", "", name, "k")); got.status != http.StatusBadGateway {
						return fmt.Sprintf("answered with %d", got.status)
					}
				}
				if posts.Load() != tries {
					return "some are sent again"
				}
				return "each is sent once"
			}, "each is sent once", stock...)
		})
	}
}

func TestTrailersOfARequestKeepTheirValues(t *testing.T) {
	outcome := func(h2 bool, length int64) func(t *testing.T, f front) string {
		return func(t *testing.T, f front) string {
			got := make(chan string, 1)
			url := f(t, backend(t, func(_ http.ResponseWriter, r *http.Request) {
				body, err := io.ReadAll(r.Body)
				got <- fmt.Sprintf("%s %v %q", body, err, r.Trailer["X-Sum"])
			}))
			r := request(t, "POST", url+"/x", "hello")
			r.ContentLength, r.Trailer = length, http.Header{"X-Sum": {"42"}}
			send(t, client(t, h2), r)
			return <-got
		}
	}
	const right = `hello <nil> ["42"]`
	t.Run("h1", func(t *testing.T) { footgun(t, outcome(false, -1), right, "Director", "Rewrite", "echo") })
	t.Run("h2", func(t *testing.T) { footgun(t, outcome(true, -1), right) })
	t.Run("h2 after a known length", func(t *testing.T) { footgun(t, outcome(true, 5), right) })
}

// goingAwayFrame closes a WebSocket with 1001, "going away".
const goingAwayFrame = "\x88\x02\x03\xe9"

func TestShutdownTellsSockets(t *testing.T) {
	t.Parallel()
	echoing := func(t *testing.T) string {
		return socketOrigin(t, switched, func(c net.Conn, in *bufio.Reader) {
			_, _ = c.Write(nil)
			_, _ = io.Copy(c, in)
		})
	}
	connect := func(t *testing.T, url string) *peer {
		t.Helper()
		p := dial(t, hostPort(url))
		p.write("GET /x" + top + socket + "\r\n")
		if resp, _ := p.answer("GET"); resp == nil || resp.StatusCode != http.StatusSwitchingProtocols {
			t.Fatalf("got %+v", resp)
		}
		return p
	}
	t.Run("gateway", func(t *testing.T) {
		t.Parallel()
		d := inFrontOf(t, legacy(echoing(t)))
		p := connect(t, d.url)
		d.gate.Drain()
		if rest, err := io.ReadAll(io.LimitReader(p.in, 4)); string(rest) != goingAwayFrame {
			t.Errorf("got %q (%v), want close 1001", rest, err)
		}
		_ = p.Close()
		d.logged("the end", func(l line) bool { return l.Route != "" })
	})
	t.Run("why not Rewrite", func(t *testing.T) {
		t.Parallel()
		origin := location(t, echoing(t))
		s := &http.Server{Handler: &httputil.ReverseProxy{ErrorLog: quiet, Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(origin) }}}
		p := connect(t, serve(t, s))
		if err := s.Shutdown(t.Context()); err != nil {
			t.Fatal(err)
		}
		p.write("soon")
		first := make([]byte, 4)
		if _, err := io.ReadFull(p.in, first); err != nil || string(first) != "soon" {
			t.Errorf("a socket is told of Shutdown by now: %q %v", first, err)
		}
	})
}

func TestSlowClientsAreCut(t *testing.T) {
	t.Parallel()
	app := &recorder{}
	origin := backend(t, app.ServeHTTP)
	d := open(t, func(c *proxy.Config, _ *proxy.Options) {
		c.Upstreams = []proxy.Foreign{legacy(origin)}
		c.Limits.ReadHeader = 100 * time.Millisecond
	})
	ours, theirs := dial(t, d.addr), dial(t, hostPort(withRewrite(t, origin)))
	for _, p := range []*peer{ours, theirs} {
		p.write("GET /x HTTP/1.1\r\nHost: shop.example\r\nX-A: ")
	}
	if rest, err := io.ReadAll(ours.in); err != nil && !errors.Is(err, io.ErrUnexpectedEOF) || len(rest) > 0 {
		t.Errorf("got %q, %v", rest, err)
	}
	theirs.write("b\r\n\r\n")
	if resp, _ := theirs.answer("GET"); resp == nil || resp.StatusCode != 200 {
		t.Errorf("why not http.Server as it is: it cuts slow clients by now: %+v", resp)
	}
	if seen := app.seen(); len(seen) != 1 {
		t.Errorf("%d requests were sent on", len(seen))
	}
}

func TestPathsAreJudgedAsTheyAreSent(t *testing.T) {
	for _, target := range []string{"/public/../admin/x", "/public%2F..%2Fadmin/x", "//admin/x", `/public/..\admin/x`, "/public/%2e%2e/admin/x", "/public/..;/admin/x"} {
		t.Run(target, func(t *testing.T) {
			footgun(t, func(t *testing.T, f front) string {
				status, seen := ask(t, f, "GET "+target+top+"\r\n")
				return fmt.Sprintf("%d, %d sent on", status, len(seen))
			}, "400, 0 sent on", "Director", "Rewrite")
		})
	}
}

func TestTheHostIsTheOneThatCounts(t *testing.T) {
	t.Parallel()
	app := &recorder{}
	origin := backend(t, app.ServeHTTP)
	d := open(t, func(c *proxy.Config, _ *proxy.Options) {
		c.Hosts, c.Upstreams = []string{"shop.example"}, []proxy.Foreign{legacy(origin)}
	})
	p := dial(t, d.addr)
	p.write("GET http://evil.example/x" + top + "\r\n")
	if resp, _ := p.answer("GET"); resp == nil || resp.StatusCode != http.StatusMisdirectedRequest || len(app.seen()) != 0 {
		t.Errorf("got %+v, and %d were sent on", resp, len(app.seen()))
	}
	p.write("GET http://shop.example/x HTTP/1.1\r\nHost: evil.example\r\n\r\n")
	if resp, _ := p.answer("GET"); resp == nil || resp.StatusCode != 200 || app.seen()[0].Host != "shop.example" || app.seen()[0].Header.Get("X-Forwarded-Host") != "shop.example" {
		t.Errorf("got %+v, and %+v was seen", resp, app.seen())
	}
	t.Run("why not Director", func(t *testing.T) {
		_, seen := ask(t, withDirector, "GET http://evil.example/x"+top+"\r\n")
		if len(seen) != 1 || seen[0].Host != "evil.example" {
			t.Errorf("it does it right by now: %+v", seen)
		}
	})
}

func TestAQueryIsSentAsItIsOrNotAtAll(t *testing.T) {
	for _, query := range []string{"x=1;y=2", "x=%", "x=%zz&y=1"} {
		t.Run(query, func(t *testing.T) {
			footgun(t, func(t *testing.T, f front) string {
				status, seen := ask(t, f, "GET /a?"+query+top+"\r\n")
				if status == 200 && seen[0].Target == "/a?"+query || status == 400 && len(seen) == 0 {
					return "as it is or not at all"
				}
				return fmt.Sprintf("%d %+v", status, seen)
			}, "as it is or not at all", "Rewrite")
		})
	}
	t.Run("what is in order stays as it is", func(t *testing.T) {
		t.Parallel()
		const target = "/a?b=%2F&a=+&a=%20&=&c"
		if status, seen := ask(t, ours, "GET "+target+top+"\r\n"); status != 200 || len(seen) != 1 || seen[0].Target != target {
			t.Errorf("%d %+v", status, seen)
		}
	})
}

// TestABodySurvivesADeadEndpoint: the first of two endpoints cannot be reached.
func TestABodySurvivesADeadEndpoint(t *testing.T) {
	for _, size := range []int{5, 100 << 10} {
		t.Run(fmt.Sprintf("%d bytes", size), func(t *testing.T) {
			footgun(t, func(t *testing.T, f front) string {
				app := &recorder{}
				const dead = "http://127.0.0.1:1" // nobody listens on a port as low as this
				url, c := f(t, dead, backend(t, app.ServeHTTP)), client(t, false)
				answers := map[int]int{}
				for range 8 {
					answers[send(t, c, request(t, "POST", url+"/x", strings.Repeat("a", size))).status]++
				}
				whole := 0
				for _, v := range app.seen() {
					if len(v.Body) == size {
						whole++
					}
				}
				return fmt.Sprintf("%v, %d whole", answers, whole)
			}, "map[200:8], 8 whole")
		})
	}
}

func TestTheClientsAddressIsNotTheClientsToSay(t *testing.T) {
	t.Parallel()
	_, seen := ask(t, ours, "GET /x"+top+"X-Forwarded-For: 6.6.6.6\r\nX-Real-IP: 6.6.6.6\r\n\r\n")
	if len(seen) != 1 || seen[0].Header.Get("X-Forwarded-For") != "127.0.0.1" || seen[0].Header.Get("X-Real-Ip") != "" {
		t.Errorf("got %+v", seen)
	}
	t.Run("why not echo", func(t *testing.T) {
		_, seen := ask(t, withEcho, "GET /x"+top+"X-Forwarded-For: 6.6.6.6\r\nX-Real-IP: 6.6.6.6\r\n\r\n")
		if len(seen) != 1 || !strings.HasPrefix(seen[0].Header.Get("X-Forwarded-For"), "6.6.6.6") {
			t.Errorf("it does it right by now: %+v", seen)
		}
	})
}

// TestLengthAndChunksTogether: net/http takes the chunks and forgets the length, so that nobody behind us sees both.
func TestLengthAndChunksTogether(t *testing.T) {
	t.Parallel()
	app := &recorder{}
	p := dial(t, hostPort(ours(t, backend(t, app.ServeHTTP))))
	p.write("POST /x" + top + "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n")
	if resp, _ := p.answer("POST"); resp == nil || resp.StatusCode != 200 {
		t.Fatalf("got %+v", resp)
	}
	if seen := app.seen(); len(seen) != 1 || seen[0].Body != "hello" || seen[0].Length != "" || seen[0].Coding != "chunked" {
		t.Errorf("seen %+v", seen)
	}
}
