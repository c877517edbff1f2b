package upstream_test

import (
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/banyan-go/banyan/proxy/upstream"
)

func shortIdle(c *upstream.Config) { c.StreamIdle = time.Second }

// A client that does not go on with the body of a stream does not hold it for ever, whether the body is kept or passed on as it comes.
func TestStreamBodyStalls(t *testing.T) {
	t.Parallel()
	for name, body := range map[string]string{
		"kept":      "Content-Length: 10\r\n\r\nx",
		"passed on": "Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n",
		"long":      "Content-Length: 1000000\r\n\r\nx",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			each(t, func(t *testing.T, protocol string, cfg func(*upstream.Config)) {
				g := open(t, protocol, options{call: stream, cfg: func(c *upstream.Config) { cfg(c); shortIdle(c) }},
					backend(t, func(_ http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) }))
				conn, err := net.Dial("tcp", strings.TrimPrefix(g.url, "http://"))
				if err != nil {
					t.Fatal(err)
				}
				defer func() { _ = conn.Close() }()
				_, _ = io.WriteString(conn, "POST / HTTP/1.1\r\nHost: x\r\n"+body)
				if r := g.result(1); r.Failure != upstream.ClientAbort {
					t.Errorf("%+v", r)
				}
				if s := g.Status(); s.Streams != 0 || s.Breaker != "closed" {
					t.Errorf("%+v", s)
				}
			})
		})
	}
}

// A stream may be silent for longer than its client may take for a piece.
func TestStreamRests(t *testing.T) {
	t.Parallel()
	g := open(t, upstream.H2C, options{call: stream, cfg: shortIdle, h2: true}, backend(t, func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, ".")
		_ = http.NewResponseController(w).Flush()
		time.Sleep(1500 * time.Millisecond)
		_, _ = io.WriteString(w, "end")
	}))
	resp, err := client(t, true).Get(g.url)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	if all, err := io.ReadAll(resp.Body); string(all) != ".end" || err != nil {
		t.Errorf("got %q, %v", all, err)
	}
	if r := g.result(1); r.Failure != upstream.None {
		t.Errorf("%+v", r)
	}
}

// A client may be silent in the middle of its body for as long as it gets answers.
func TestStreamBodyRests(t *testing.T) {
	t.Parallel()
	g := open(t, upstream.H2C, options{call: stream, cfg: shortIdle, h2: true}, backend(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.ReadFull(r.Body, make([]byte, 1))
		for range 10 {
			_, _ = io.WriteString(w, ".")
			_ = http.NewResponseController(w).Flush()
			time.Sleep(250 * time.Millisecond)
		}
		rest, err := io.ReadAll(r.Body)
		_, _ = w.Write(rest)
		if err != nil {
			t.Error(err)
		}
	}))
	out, in := io.Pipe()
	r, err := http.NewRequestWithContext(t.Context(), "POST", g.url, out)
	if err != nil {
		t.Fatal(err)
	}
	go func() { _, _ = io.WriteString(in, "x") }()
	resp, err := client(t, true).Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	if _, err := io.ReadFull(resp.Body, make([]byte, 10)); err != nil {
		t.Fatal(err)
	}
	_, _ = io.WriteString(in, "end")
	_ = in.Close()
	if rest, err := io.ReadAll(resp.Body); string(rest) != "end" || err != nil {
		t.Errorf("got %q, %v", rest, err)
	}
}
