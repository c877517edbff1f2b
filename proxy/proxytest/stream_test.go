package proxytest_test

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/banyan-go/banyan/proxy"
	"github.com/banyan-go/banyan/proxy/upstream"
)

// ways are the protocols of a client and of an upstream.
func ways(t *testing.T, try func(t *testing.T, h2 bool, protocol, transport string)) {
	for _, h2 := range []bool{false, true} {
		for _, up := range [][2]string{{upstream.H1, upstream.Standard}, {upstream.H1, upstream.Synchronous}, {upstream.H2C, upstream.Standard}} {
			t.Run(fmt.Sprintf("client h2 %t, upstream %s %s", h2, up[0], up[1]), func(t *testing.T) {
				t.Parallel()
				try(t, h2, up[0], up[1])
			})
		}
	}
}

// TestPiecesArriveOneByOne: the origin writes a piece only when the client has got the one before, so whoever keeps a piece back
// ends the test.
func TestPiecesArriveOneByOne(t *testing.T) {
	t.Parallel()
	for _, kind := range []struct{ name, class, contentType string }{
		{"events of a stream", "stream", "text/event-stream"}, {"events of a read", "read", "text/event-stream; charset=utf-8"}, {"lines of a stream", "stream", "application/x-ndjson"},
		{"lines of a read", "read", "application/octet-stream"},
	} {
		t.Run(kind.name, func(t *testing.T) {
			t.Parallel()
			ways(t, func(t *testing.T, h2 bool, protocol, transport string) {
				got := make(chan struct{})
				f := legacy(backend(t, func(w http.ResponseWriter, r *http.Request) {
					w.Header().Set("Content-Type", kind.contentType)
					for i := range 5 {
						_, _ = fmt.Fprintf(w, "data: %d\n\n", i)
						_ = http.NewResponseController(w).Flush()
						select {
						case <-got:
						case <-r.Context().Done():
							return
						}
					}
				}), proxy.ForeignRoute{Match: "GET /events", Class: kind.class})
				f.Protocol, f.Transport = protocol, transport
				d := inFrontOf(t, f)
				resp, err := client(t, h2).Do(request(t, "GET", d.url+"/events", "", "Accept-Encoding", "gzip, zstd"))
				if err != nil {
					t.Fatal(err)
				}
				defer func() { _ = resp.Body.Close() }()
				if e := resp.Header.Get("Content-Encoding"); e != "" {
					t.Errorf("a stream is encoded as %s", e)
				}
				in := bufio.NewReader(resp.Body)
				for i := range 5 {
					line, err := in.ReadString('\n')
					if want := fmt.Sprintf("data: %d\n", i); err != nil || line != want {
						t.Fatalf("got %q, %v, want %q", line, err, want)
					}
					_, _ = in.ReadString('\n')
					got <- struct{}{}
				}
				if rest, err := io.ReadAll(in); err != nil || len(rest) > 0 {
					t.Errorf("the stream ends with %q, %v", rest, err)
				}
			})
		})
	}
}

// TestBodiesGoBothWays: the client sends a piece only when the answer to the one before is there.
func TestBodiesGoBothWays(t *testing.T) {
	t.Parallel()
	ways(t, func(t *testing.T, h2 bool, protocol, transport string) {
		f := legacy(backend(t, func(w http.ResponseWriter, r *http.Request) {
			_ = http.NewResponseController(w).EnableFullDuplex()
			in := bufio.NewReader(r.Body)
			for {
				line, err := in.ReadString('\n')
				if err != nil {
					return
				}
				_, _ = io.WriteString(w, strings.ToUpper(line))
				_ = http.NewResponseController(w).Flush()
			}
		}))
		f.Protocol, f.Transport = protocol, transport
		d := inFrontOf(t, f)
		body, send := io.Pipe()
		r := request(t, "POST", d.url+"/talk", "")
		r.Body, r.ContentLength = body, -1
		type opened struct {
			resp *http.Response
			err  error
		}
		begun := make(chan opened, 1)
		go func() {
			resp, err := client(t, h2).Do(r)
			begun <- opened{resp, err}
		}()
		_, _ = io.WriteString(send, "a\n")
		o := <-begun
		if o.err != nil {
			t.Fatal(o.err)
		}
		defer func() { _ = o.resp.Body.Close() }()
		in := bufio.NewReader(o.resp.Body)
		for _, want := range []string{"A\n", "B\n", "C\n"} {
			if got, err := in.ReadString('\n'); got != want || err != nil {
				t.Fatalf("got %q, %v, want %q", got, err, want)
			}
			if want != "C\n" {
				_, _ = io.WriteString(send, strings.ToLower(string(want[0]+1))+"\n")
			}
		}
		_ = send.Close()
		if rest, err := io.ReadAll(in); err != nil || len(rest) > 0 {
			t.Errorf("it ends with %q, %v", rest, err)
		}
	})
}

// pattern is n bytes that no two places have alike, and their hash when they were read.
func pattern(n int64) io.Reader {
	return io.LimitReader(&counting{}, n)
}

type counting struct{ n uint32 }

func (c *counting) Read(b []byte) (int, error) {
	for i := range b {
		c.n = c.n*1664525 + 1013904223
		b[i] = byte(c.n >> 24)
	}
	return len(b), nil
}

func sum(t *testing.T, r io.Reader) string {
	t.Helper()
	h := sha256.New()
	n, err := io.Copy(h, r)
	if err != nil {
		return err.Error()
	}
	return fmt.Sprintf("%d %s", n, hex.EncodeToString(h.Sum(nil)))
}

func TestLongBodiesArriveWhole(t *testing.T) {
	t.Parallel()
	const size = 8 << 20
	want := sum(t, pattern(size))
	ways(t, func(t *testing.T, h2 bool, protocol, transport string) {
		f := legacy(backend(t, func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodGet {
				if r.URL.RawQuery == "known" {
					w.Header().Set("Content-Length", fmt.Sprint(size))
				}
				_, _ = io.Copy(w, pattern(size))
				return
			}
			_, _ = io.WriteString(w, sum(t, r.Body))
		}))
		f.Protocol, f.Transport = protocol, transport
		d, c := inFrontOf(t, f), client(t, h2)
		for _, length := range []int64{-1, size} {
			r := request(t, "POST", d.url+"/up", "")
			r.Body, r.ContentLength = io.NopCloser(pattern(size)), length
			if got := send(t, c, r); got.body != want {
				t.Errorf("up, length %d: got %d %s, want %s", length, got.status, got.body, want)
			}
		}
		for _, query := range []string{"", "?known"} {
			resp, err := c.Do(request(t, "GET", d.url+"/down"+query, ""))
			if err != nil {
				t.Fatal(err)
			}
			if got := sum(t, resp.Body); got != want || (resp.ContentLength == size) != (query != "") {
				t.Errorf("down%s: got %s of %d, want %s", query, got, resp.ContentLength, want)
			}
			_ = resp.Body.Close()
		}
	})
}

func TestTrailersOfAnAnswerKeepTheirValues(t *testing.T) {
	t.Parallel()
	ways(t, func(t *testing.T, h2 bool, protocol, transport string) {
		f := legacy(backend(t, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Trailer", "X-Sum, Grpc-Status")
			_, _ = io.WriteString(w, "hello")
			_ = http.NewResponseController(w).Flush()
			w.Header().Set("X-Sum", "42")
			w.Header().Set("Grpc-Status", "0")
			w.Header().Set(http.TrailerPrefix+"X-Late", "1")
		}))
		f.Protocol, f.Transport = protocol, transport
		got := send(t, client(t, h2), request(t, "GET", inFrontOf(t, f).url+"/x", "", "Te", "trailers"))
		if got.body != "hello" || got.err != nil || got.trailer.Get("X-Sum") != "42" || got.trailer.Get("Grpc-Status") != "0" || got.trailer.Get("X-Late") != "1" {
			t.Errorf("got %+v", got)
		}
	})
}

// TestTrailersSayNothingThatHeadersMustNot: an application that takes trailers for headers would believe them.
func TestTrailersSayNothingThatHeadersMustNot(t *testing.T) {
	t.Parallel()
	names := strings.Fields("Authorization Cookie Host Content-Type Forwarded X-Real-Ip X-User-Id X-Banyan-Assertion X_User_Id X-Anything X-Client-Ip True-Client-Ip X-Original-Url X-Original-Uri " +
		"X-Rewrite-Url X-Http-Method X-Http-Method-Override X-Method-Override X-Shadow X-Tenant-Id X-Request-Timeout")
	got := make(chan http.Header, 1)
	d := inFrontOf(t, legacy(backend(t, func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		got <- r.Trailer.Clone()
	})))
	raw := post + "Trailer: " + strings.Join(names, ", ") + "\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n"
	for _, n := range names {
		raw += n + ": forged\r\n"
	}
	p := dial(t, d.addr)
	p.write(raw + "\r\n")
	if resp, _ := p.answer("POST"); resp == nil || resp.StatusCode != 200 {
		t.Fatalf("got %+v", resp)
	}
	var passed []string
	for name, values := range <-got {
		if len(values) > 0 {
			passed = append(passed, name)
		}
	}
	if len(passed) != 1 || passed[0] != "X-Anything" {
		t.Errorf("%v have passed, want X-Anything alone", passed)
	}
}

func TestHeadersOfAnAnswer(t *testing.T) {
	t.Parallel()
	endpoint := wire(t, func(c net.Conn, in *bufio.Reader) {
		if _, _, err := readRequest(in); err == nil {
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nConnection: X-Internal\r\nX-Internal: a\r\nKeep-Alive: timeout=5\r\nProxy-Authenticate: Basic\r\nUpgrade: h2c\r\n"+
				"Set-Cookie: a=b\r\nSet-Cookie: c=d\r\nX-Kept: e\r\nX-Request-Id: forged\r\nStrict-Transport-Security: max-age=1\r\nContent-Length: 2\r\n\r\nok")
		}
	})
	got := inFrontOf(t, legacy(endpoint)).do("GET", "/x", "")
	for _, name := range []string{"X-Internal", "Keep-Alive", "Proxy-Authenticate", "Upgrade"} {
		if got.header.Get(name) != "" {
			t.Errorf("%s has passed", name)
		}
	}
	if got.body != "ok" || got.header.Get("X-Kept") != "e" || len(got.header["Set-Cookie"]) != 2 {
		t.Errorf("got %+v", got)
	}
}
