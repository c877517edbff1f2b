package upstream_test

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/banyan-go/banyan/internal/module"
	"github.com/banyan-go/banyan/proxy/upstream"
)

// Frames of HTTP/2, as far as an upstream that misbehaves needs them.
const (
	data, headers, rstStream, settings, ping, goAway = 0, 1, 3, 4, 6, 7
	noError, protocolError, refusedStream            = 0, 1, 7
)

// h2conn is the upstream's end of a connection, frame by frame.
type h2conn struct {
	net.Conn
	in *bufio.Reader
}

func (c h2conn) write(kind, flags byte, id uint32, payload ...byte) {
	head := []byte{byte(len(payload) >> 16), byte(len(payload) >> 8), byte(len(payload)), kind, flags}
	_, _ = c.Conn.Write(append(binary.BigEndian.AppendUint32(head, id), payload...))
}

// request waits until a request has come in full, and gives its stream; 0 is the end.
func (c h2conn) request() uint32 {
	for {
		var head [9]byte
		if _, err := io.ReadFull(c.in, head[:]); err != nil {
			return 0
		}
		payload := make([]byte, int(head[0])<<16|int(head[1])<<8|int(head[2]))
		if _, err := io.ReadFull(c.in, payload); err != nil {
			return 0
		}
		id := binary.BigEndian.Uint32(head[5:])
		switch head[3] {
		case settings:
			if head[4] == 0 {
				c.write(settings, 1, 0)
			}
		case ping:
			if head[4] == 0 {
				c.write(ping, 1, 0, payload...)
			}
		case data, headers:
			if head[4]&1 != 0 {
				return id
			}
		}
	}
}

func (c h2conn) answer(id uint32) { c.write(headers, 5, id, 0x88) } // :status 200, and no more

func (c h2conn) reset(id, code uint32) {
	c.write(rstStream, 0, id, binary.BigEndian.AppendUint32(nil, code)...)
}

func (c h2conn) goAway(last, code uint32) {
	c.write(goAway, 0, 0, binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(nil, last), code)...)
}

// literal is a field of a header that is spelled out.
func literal(name, value string) []byte {
	b := append([]byte{0, byte(len(name))}, name...)
	return append(append(b, byte(len(value))), value...)
}

// rawH2 is raw for HTTP/2.
func rawH2(t *testing.T, h func(c h2conn)) string {
	return raw(t, func(c net.Conn, in *bufio.Reader) {
		if _, err := io.ReadFull(in, make([]byte, len("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"))); err != nil {
			return
		}
		conn := h2conn{c, in}
		conn.write(settings, 0, 0)
		h(conn)
	})
}

// An endpoint may refuse a stream, and the request then goes out again: it was certainly not worked on. With any other end
// of a stream that is not certain.
func TestStreamIsReset(t *testing.T) {
	t.Parallel()
	ends := map[string]func(c h2conn, id uint32){
		"refused": func(c h2conn, id uint32) { c.reset(id, refusedStream) },
		"went away before it": func(c h2conn, id uint32) {
			c.goAway(id-2, noError)
		},
		"PROTOCOL_ERROR":     func(c h2conn, id uint32) { c.reset(id, protocolError) },
		"went away after it": func(c h2conn, id uint32) { c.goAway(id, noError); _ = c.Close() },
		"hung up":            func(c h2conn, _ uint32) { _ = c.Close() },
	}
	for _, c := range []struct {
		name, end, method, body string
		repeatable              bool
		want                    int64 // how often it was received
		failure                 upstream.Failure
	}{
		{"refused", "refused", "POST", "body", false, 2, upstream.None},
		{"refused, without body", "refused", "DELETE", "", false, 2, upstream.None},
		{"went away before it", "went away before it", "POST", "body", false, 2, upstream.None},
		{"went away before it, without body", "went away before it", "POST", "", false, 2, upstream.None},
		{"protocol error", "PROTOCOL_ERROR", "POST", "body", false, 1, upstream.MaybeSent},
		{"protocol error, without body", "PROTOCOL_ERROR", "DELETE", "", false, 1, upstream.MaybeSent},
		{"protocol error, may be repeated", "PROTOCOL_ERROR", "POST", "body", true, 2, upstream.None},
		{"protocol error of a GET", "PROTOCOL_ERROR", "GET", "", false, 2, upstream.None},
		{"went away after it", "went away after it", "POST", "body", false, 1, upstream.MaybeSent},
		{"hung up", "hung up", "POST", "body", false, 1, upstream.MaybeSent},
		{"hung up, may be repeated", "hung up", "POST", "body", true, 2, upstream.None},
		{"hung up on a GET", "hung up", "GET", "", false, 2, upstream.None},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			var received atomic.Int64
			var begun atomic.Bool
			at := rawH2(t, func(conn h2conn) {
				for id := conn.request(); id != 0; id = conn.request() {
					if n := received.Add(1); begun.Load() && n == 2 {
						ends[c.end](conn, id)
					} else {
						conn.answer(id)
					}
				}
			})
			g := open(t, upstream.H2C, options{call: upstream.Call{Class: module.Write, Repeatable: c.repeatable}}, at)
			// The first request makes the connection; the second one finds it in use.
			if got := g.post("/", "first"); got.status != 200 {
				t.Fatalf("got %+v", got)
			}
			begun.Store(true)
			g.do(g.request(c.method, "/", c.body, "Idempotency-Key", "k"))
			if r := g.result(2); r.Failure != c.failure || received.Load()-1 != c.want {
				t.Errorf("received %d times, want %d: %+v", received.Load()-1, c.want, r)
			}
		})
	}
}

// An endpoint that refuses everything is not asked for ever.
func TestEverythingIsRefused(t *testing.T) {
	t.Parallel()
	var received atomic.Int64
	g := open(t, upstream.H2C, options{}, rawH2(t, func(conn h2conn) {
		for id := conn.request(); id != 0; id = conn.request() {
			received.Add(1)
			conn.reset(id, refusedStream)
		}
	}))
	g.post("/", "body")
	if r := g.result(1); r.Failure != upstream.NotSent || r.BodyGone || r.Attempts != 2 || received.Load() != 8 {
		t.Errorf("received %d times: %+v", received.Load(), r)
	}
}

// So is one that hangs up on every connection.
func TestEveryConnectionIsClosed(t *testing.T) {
	t.Parallel()
	var conns atomic.Int64
	g := open(t, upstream.H2C, options{}, raw(t, func(net.Conn, *bufio.Reader) { conns.Add(1) }))
	for i := range 5 {
		g.post("/", "body")
		if r := g.result(i + 1); r.Started || r.Failure == upstream.None {
			t.Errorf("%+v", r)
		}
	}
	if n := conns.Load(); n > 50 {
		t.Errorf("%d connections for 5 requests", n)
	}
}

// A process that goes can still accept a connection, to go away on it at once. What was meant for it finds the next one.
func TestNewConnectionsOfAProcessThatGoes(t *testing.T) {
	t.Parallel()
	for i := range 100 {
		var conns, received atomic.Int64
		g := open(t, upstream.H2C, options{}, raw(t, func(c net.Conn, in *bufio.Reader) {
			conn := h2conn{c, in}
			if conns.Add(1) < 3 {
				// Before it has read anything: the client finds that out at once, or only when it sends.
				conn.write(settings, 0, 0)
				conn.goAway(0, noError)
				_, _ = io.Copy(io.Discard, in)
				return
			}
			if _, err := io.ReadFull(in, make([]byte, len("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"))); err != nil {
				return
			}
			conn.write(settings, 0, 0)
			for id := conn.request(); id != 0; id = conn.request() {
				received.Add(1)
				conn.answer(id)
			}
		}))
		if got := g.post("/", "body"); got.status != 200 || received.Load() != 1 {
			t.Fatalf("try %d: received %d times over %d connections: %+v", i, received.Load(), conns.Load(), got)
		}
	}
}

// A long body is streamed and cannot be sent again: the client is told, and nothing is made up.
func TestStreamedBodyIsNotSentAgain(t *testing.T) {
	t.Parallel()
	var received atomic.Int64
	g := open(t, upstream.H2C, options{cfg: func(c *upstream.Config) { c.ReplayBody = 3 }}, rawH2(t, func(conn h2conn) {
		for id := conn.request(); id != 0; id = conn.request() {
			received.Add(1)
			conn.reset(id, refusedStream)
		}
	}))
	g.post("/", "body")
	if r := g.result(1); r.Failure != upstream.NotSent || !r.BodyGone || received.Load() != 1 {
		t.Errorf("received %d times: %+v", received.Load(), r)
	}
}

// Requests share a connection, and what becomes of one says nothing of the others.
func TestRequestsShareAConnection(t *testing.T) {
	t.Parallel()
	arrived := make(chan uint32, 16)
	conns := make(chan h2conn, 16)
	g := open(t, upstream.H2C, options{}, rawH2(t, func(conn h2conn) {
		conns <- conn
		for id := conn.request(); id != 0; id = conn.request() {
			if id == 1 {
				conn.answer(id)
				continue
			}
			arrived <- id
		}
	}))
	if got := g.post("/", "x"); got.status != 200 {
		t.Fatalf("got %+v", got)
	}
	conn := <-conns
	answers := make(chan int, 2)
	for range 2 {
		r := g.request(http.MethodPost, "/", "x")
		go func() { answers <- do(t, client(t, false), r).status }()
	}
	one, two := <-arrived, <-arrived
	conn.reset(one, 2) // INTERNAL_ERROR
	if got := <-answers; got != 502 {
		t.Errorf("got %d", got)
	}
	conn.answer(two)
	if got := <-answers; got != 200 {
		t.Errorf("got %d", got)
	}
	if diff := cmp.Diff(1, g.Status().Endpoints[0].Conns); diff != "" {
		t.Errorf("connections (-want +got)\n%s", diff)
	}
}

// stuck takes nothing of an answer until it is let go.
type stuck struct {
	http.ResponseWriter
	let chan struct{}
}

func (s stuck) Write([]byte) (int, error) {
	<-s.let
	return 0, io.ErrShortWrite
}

// However fast an upstream sends, what nobody takes does not come.
func TestAnswerThatNobodyTakes(t *testing.T) {
	t.Parallel()
	for bytes, most := range map[int]int64{0: 512 << 10, 16 << 10: 128 << 10} {
		t.Run(fmt.Sprint(bytes), func(t *testing.T) {
			t.Parallel()
			var sent atomic.Int64
			g := open(t, upstream.H2C, options{opts: upstream.Options{StreamBytes: bytes}}, backend(t, func(w http.ResponseWriter, _ *http.Request) {
				piece := make([]byte, 1<<10)
				for {
					n, err := w.Write(piece)
					if err != nil {
						return
					}
					sent.Add(int64(n))
				}
			}))
			let := make(chan struct{})
			done := make(chan upstream.Result, 1)
			go func() {
				done <- g.Serve(stuck{httptest.NewRecorder(), let}, httptest.NewRequest(http.MethodGet, "/", nil), upstream.Call{})
			}()
			eventually(t, "an answer that stops", func() bool {
				before := sent.Load()
				time.Sleep(100 * time.Millisecond)
				return before > 0 && sent.Load() == before
			})
			if n := sent.Load(); n > most || bytes == 0 && n < 256<<10 {
				t.Errorf("%d bytes have come", n)
			}
			close(let)
			if r := <-done; r.Failure != upstream.ClientAbort {
				t.Errorf("%+v", r)
			}
		})
	}
}
