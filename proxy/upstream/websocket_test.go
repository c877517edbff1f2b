package upstream_test

import (
	"bufio"
	"bytes"
	"crypto/sha1"
	"crypto/tls"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/banyan-go/banyan/internal/module"
	"github.com/banyan-go/banyan/proxy/upstream"
)

const key = "dGhlIHNhbXBsZSBub25jZQ=="

func accept(key string) string {
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	return base64.StdEncoding.EncodeToString(sum[:])
}

// frame is one frame of WebSocket; those of a client are masked.
func frame(opcode byte, payload []byte, masked bool) []byte {
	head := []byte{0x80 | opcode}
	mask := byte(0)
	if masked {
		mask = 0x80
	}
	switch n := len(payload); {
	case n < 126:
		head = append(head, mask|byte(n))
	case n < 1<<16:
		head = binary.BigEndian.AppendUint16(append(head, mask|126), uint16(n))
	default:
		head = binary.BigEndian.AppendUint64(append(head, mask|127), uint64(n))
	}
	if !masked {
		return append(head, payload...)
	}
	with := [4]byte{1, 2, 3, 4}
	head = append(head, with[:]...)
	for i, b := range payload {
		head = append(head, b^with[i%4])
	}
	return head
}

func readFrame(in *bufio.Reader) (opcode byte, payload []byte, err error) {
	var head [2]byte
	if _, err = io.ReadFull(in, head[:]); err != nil {
		return 0, nil, err
	}
	n := uint64(head[1] & 0x7f)
	switch n {
	case 126:
		var b [2]byte
		_, err = io.ReadFull(in, b[:])
		n = uint64(binary.BigEndian.Uint16(b[:]))
	case 127:
		var b [8]byte
		_, err = io.ReadFull(in, b[:])
		n = binary.BigEndian.Uint64(b[:])
	}
	if err != nil {
		return 0, nil, err
	}
	var mask [4]byte
	if head[1]&0x80 != 0 {
		if _, err = io.ReadFull(in, mask[:]); err != nil {
			return 0, nil, err
		}
	}
	payload = make([]byte, n)
	_, err = io.ReadFull(in, payload)
	for i := range payload {
		payload[i] ^= mask[i%4]
	}
	return head[0] & 0x0f, payload, err
}

// echo is an upstream that sends every frame back, and answers a close frame.
func echo(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Upgrade") != "websocket" || r.Header.Get("Connection") != "Upgrade" {
		http.Error(w, "no websocket", http.StatusUpgradeRequired)
		return
	}
	conn, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer func() { _ = conn.Close() }()
	_, _ = fmt.Fprintf(conn, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: keep-alive, Upgrade\r\nSec-WebSocket-Accept: %s\r\n"+
		"Sec-WebSocket-Protocol: chat\r\nContent-Length: 5\r\nX-User: %s\r\n\r\n", accept(r.Header.Get("Sec-WebSocket-Key")), r.Header.Get("X-User-Id"))
	_, _ = conn.Write(frame(1, []byte("hello"), false)) // early: with the 101
	for {
		opcode, payload, err := readFrame(buffered.Reader)
		if err != nil {
			return
		}
		_, _ = conn.Write(frame(opcode, payload, false))
		if opcode == 8 {
			return
		}
	}
}

// socket is a client's end.
type socket struct {
	net.Conn
	in   *bufio.Reader
	resp *http.Response
}

// shake sends a handshake, with early bytes behind it, and reads the answer.
func (g *gate) shake(early []byte, headers ...string) socket {
	g.t.Helper()
	c, err := net.Dial("tcp", strings.TrimPrefix(g.url, "http://"))
	if err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	var b bytes.Buffer
	b.WriteString("GET /chat HTTP/1.1\r\nHost: shop.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: chat, other\r\n")
	if len(headers) == 0 {
		headers = []string{"Sec-WebSocket-Key", key}
	}
	for i := 0; i < len(headers); i += 2 {
		b.WriteString(headers[i] + ": " + headers[i+1] + "\r\n")
	}
	b.WriteString("\r\n")
	b.Write(early)
	_, _ = c.Write(b.Bytes())
	in := bufio.NewReader(c)
	resp, err := http.ReadResponse(in, nil)
	if err != nil {
		g.t.Fatal(err)
	}
	return socket{c, in, resp}
}

func (s socket) expect(t *testing.T, opcode byte, payload string) {
	t.Helper()
	got, b, err := readFrame(s.in)
	if got != opcode || string(b) != payload || err != nil {
		t.Errorf("got %d %.40q %v, want %d %.40q", got, b, err, opcode, payload)
	}
}

func (s socket) expectEnd(t *testing.T) {
	t.Helper()
	if b, err := s.in.ReadByte(); err == nil {
		t.Errorf("got %x, want the end", b)
	}
}

var socketCall = upstream.Call{Class: module.Stream, Upgrade: true, Prepare: func(out *http.Request, _ int) error {
	out.Header.Set("X-User-Id", "alice")
	return nil
}}

func TestWebSocket(t *testing.T) {
	t.Parallel()
	for _, protocol := range []string{upstream.H1, upstream.H2C} {
		t.Run(protocol, func(t *testing.T) {
			t.Parallel()
			g := open(t, protocol, options{call: socketCall, header: func(h http.Header) { h["X-Request-Id"] = []string{"7"} }}, backend(t, echo))
			// The client's first frame comes with the handshake, the upstream's with the 101: neither is lost.
			s := g.shake(frame(1, []byte("early"), true))
			h := s.resp.Header
			if s.resp.StatusCode != 101 || h.Get("Sec-WebSocket-Accept") != accept(key) || h.Get("Upgrade") != "websocket" || h.Get("Connection") != "Upgrade" ||
				h.Get("X-User") != "alice" || h.Get("X-Request-Id") != "7" || h.Get("Sec-WebSocket-Protocol") != "chat" || h.Get("Content-Length") != "" {
				t.Fatalf("%d %v", s.resp.StatusCode, h)
			}
			s.expect(t, 1, "hello")
			s.expect(t, 1, "early")
			for _, n := range []int{0, 1, 125, 126, 70_000, 1 << 20} {
				text := strings.Repeat("x", n)
				go func() { _, _ = s.Write(frame(2, []byte(text), true)) }()
				s.expect(t, 2, text)
			}
			if st := g.Status(); st.Streams != 1 || st.InFlight != 0 {
				t.Errorf("%+v", st)
			}
			_, _ = s.Write(frame(8, []byte{0x03, 0xe8}, true))
			s.expect(t, 8, "\x03\xe8")
			s.expectEnd(t)
			_ = s.Close()
			if r := g.result(1); r.Failure != upstream.None || r.Status != 101 || !r.Started {
				t.Errorf("%+v", r)
			}
			eventually(t, "no connection", func() bool { st := g.Status(); return st.Streams == 0 && st.Endpoints[0].Conns == 0 })
		})
	}
}

func TestWebSocketOverTLS(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	cert := ca.issue(dns("chat"))
	p := new(http.Protocols)
	p.SetHTTP1(true)
	p.SetHTTP2(true)
	at := serve(t, &http.Server{Handler: http.HandlerFunc(echo), Protocols: p, TLSConfig: &tls.Config{Certificates: []tls.Certificate{*cert}}})
	g := open(t, upstream.H2, options{call: socketCall, opts: upstream.Options{PeerName: "chat", TLS: &tls.Config{RootCAs: ca.pool()}}},
		strings.Replace(at, "http", "https", 1))
	s := g.shake(nil)
	s.expect(t, 1, "hello")
	_, _ = s.Write(frame(1, []byte("x"), true))
	s.expect(t, 1, "x")
}

// Only a 101 that proves that the key was read makes a tunnel. After anything else what the client sends reaches nobody.
func TestNoTunnel(t *testing.T) {
	t.Parallel()
	good := "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: " + accept(key) + "\r\n"
	for _, c := range []struct {
		name, answer string
		status       int
		failure      upstream.Failure
	}{
		{"426", "HTTP/1.1 426 Upgrade Required\r\nContent-Length: 2\r\n\r\nno", 426, upstream.None},
		{"200", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nno", 200, upstream.None},
		{"200 that claims an upgrade", "HTTP/1.1 200 OK\r\n" + good + "Content-Length: 2\r\n\r\nno", 200, upstream.None},
		{"500", "HTTP/1.1 500 Oops\r\nContent-Length: 2\r\n\r\nno", 500, upstream.Answered5xx},
		{"another protocol", "HTTP/1.1 101 Switching Protocols\r\n" + strings.Replace(good, "websocket", "h2c", 1) + "\r\n", 502, upstream.MaybeSent},
		{"another key", "HTTP/1.1 101 Switching Protocols\r\n" + strings.Replace(good, accept(key), accept("other"), 1) + "\r\n", 502, upstream.MaybeSent},
		{"no proof", "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n", 502, upstream.MaybeSent},
		{"no Connection", "HTTP/1.1 101 Switching Protocols\r\n" + strings.Replace(good, "Connection: Upgrade", "Connection: close", 1) + "\r\n", 502, upstream.MaybeSent},
		{"subprotocol that was not offered", "HTTP/1.1 101 Switching Protocols\r\n" + good + "Sec-WebSocket-Protocol: admin\r\n\r\n", 502, upstream.MaybeSent},
		{"no HTTP", "SSH-2.0-OpenSSH_9.9\r\n\r\n", 502, upstream.MaybeSent},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			leaked := make(chan string, 1)
			g := open(t, upstream.H1, options{call: socketCall}, raw(t, func(conn net.Conn, in *bufio.Reader) {
				if _, _, err := readRequest(in); err != nil {
					return
				}
				_, _ = io.WriteString(conn, c.answer)
				rest, _ := io.ReadAll(in)
				leaked <- string(rest)
			}))
			const inner = "GET /admin HTTP/1.1\r\nHost: inner\r\n\r\n"
			s := g.shake([]byte(inner))
			if s.resp.StatusCode != c.status {
				t.Errorf("got %d", s.resp.StatusCode)
			}
			if b, _ := io.ReadAll(s.resp.Body); c.status != 502 && string(b) != "no" {
				t.Errorf("got body %q", b)
			}
			_ = s.Close()
			if r := g.result(1); r.Failure != c.failure {
				t.Errorf("%+v", r)
			}
			if got := <-leaked; got != "" {
				t.Errorf("the upstream got %q", got)
			}
		})
	}
}

func TestHandshakeThatIsNone(t *testing.T) {
	t.Parallel()
	g := open(t, upstream.H1, options{call: socketCall}, backend(t, func(http.ResponseWriter, *http.Request) { t.Error("was sent") }))
	for i, headers := range [][]string{
		{"X", "y"}, {"Sec-WebSocket-Key", "short"}, {"Sec-WebSocket-Key", key, "Sec-WebSocket-Key", key},
	} {
		s := g.shake(nil, headers...)
		if r := g.result(i + 1); s.resp.StatusCode != 502 || r.Failure != upstream.ClientAbort || !errors.Is(r.Err, upstream.ErrHandshake) {
			t.Errorf("%q: %d %+v", headers, s.resp.StatusCode, r)
		}
	}
}

func TestWebSocketNobodyListens(t *testing.T) {
	t.Parallel()
	g := open(t, upstream.H1, options{call: socketCall, cfg: func(c *upstream.Config) { c.Balance = upstream.RoundRobin }}, dead, backend(t, echo))
	for range 2 {
		s := g.shake(nil)
		s.expect(t, 1, "hello")
	}
}

// An upstream that goes tells its clients to come back, between two frames.
func TestWebSocketIsToldToLeave(t *testing.T) {
	t.Parallel()
	long := bytes.Repeat([]byte("x"), 100_000)
	for _, c := range []struct {
		name  string
		sends [2][]byte // before and after the drain begins
		want  string    // payload of what comes before the close frame
	}{
		{"idle", [2][]byte{}, ""},
		{"in the middle of a frame", [2][]byte{frame(2, long, false)[:50_000], append(frame(2, long, false)[50_000:], frame(1, []byte("too late"), false)...)}, string(long)},
		{"in the head of a frame", [2][]byte{frame(2, long, false)[:5], frame(2, long, false)[5:]}, string(long)},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			more := make(chan struct{})
			heard := make(chan []byte, 1)
			g := open(t, upstream.H1, options{call: socketCall, cfg: func(cfg *upstream.Config) { cfg.Drain.Jitter = 0 }}, raw(t, func(conn net.Conn, in *bufio.Reader) {
				r, _, err := readRequest(in)
				if err != nil {
					return
				}
				_, _ = fmt.Fprintf(conn, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n\r\n", accept(r.Header.Get("Sec-WebSocket-Key")))
				_, _ = conn.Write(c.sends[0])
				<-more
				_, _ = conn.Write(c.sends[1])
				_, payload, _ := readFrame(in)
				heard <- payload
			}))
			s := g.shake(nil)
			if n := len(c.sends[0]); n > 0 {
				_, _ = s.in.Peek(min(n, 4096)) // it has come through
			}
			drained := make(chan error, 1)
			go func() { drained <- g.Drain(t.Context()) }()
			eventually(t, "the drain", func() bool { return g.Status().Draining })
			close(more)
			if c.want != "" {
				s.expect(t, 2, c.want)
			}
			s.expect(t, 8, "\x03\xe9")
			_, _ = s.Write(frame(8, []byte{0x03, 0xe9}, true))
			if got := <-heard; string(got) != "\x03\xe9" {
				t.Errorf("the upstream heard %x", got)
			}
			s.expectEnd(t)
			_ = s.Close()
			if err := <-drained; err != nil {
				t.Errorf("drain: %v", err)
			}
		})
	}
}

// Whoever does not answer is cut, so that nobody holds up a drain.
func TestWebSocketDoesNotLeave(t *testing.T) {
	t.Parallel()
	g := open(t, upstream.H1, options{call: socketCall, cfg: func(cfg *upstream.Config) {
		cfg.Drain.Jitter, cfg.Drain.Streams = 0, 100*time.Millisecond
	}}, backend(t, echo))
	s := g.shake(nil)
	s.expect(t, 1, "hello")
	if err := g.Drain(t.Context()); err == nil {
		t.Error("says that all have left")
	}
	s.expect(t, 8, "\x03\xe9")
	s.expectEnd(t)
}

// What moves in one direction is not idle.
func TestWebSocketIsIdle(t *testing.T) {
	t.Parallel()
	g := open(t, upstream.H1, options{call: socketCall, cfg: func(cfg *upstream.Config) { cfg.StreamIdle = time.Second }},
		raw(t, func(conn net.Conn, in *bufio.Reader) {
			r, _, err := readRequest(in)
			if err != nil {
				return
			}
			_, _ = fmt.Fprintf(conn, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n\r\n", accept(r.Header.Get("Sec-WebSocket-Key")))
			for range 25 {
				_, _ = conn.Write(frame(1, []byte("x"), false))
				time.Sleep(100 * time.Millisecond)
			}
			_, _ = in.ReadByte()
		}))
	s := g.shake(nil)
	for range 25 {
		s.expect(t, 1, "x")
	}
	s.expectEnd(t)
	if r := g.result(1); r.Failure != upstream.None {
		t.Errorf("%+v", r)
	}
}

// Whoever has said all may still listen.
func TestWebSocketHalfClosed(t *testing.T) {
	t.Parallel()
	g := open(t, upstream.H1, options{call: socketCall}, raw(t, func(conn net.Conn, in *bufio.Reader) {
		r, _, err := readRequest(in)
		if err != nil {
			return
		}
		_, _ = fmt.Fprintf(conn, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n\r\n", accept(r.Header.Get("Sec-WebSocket-Key")))
		_, _ = io.Copy(io.Discard, in)
		_, _ = conn.Write(frame(1, []byte("last words"), false))
	}))
	s := g.shake(nil)
	_ = s.Conn.(*net.TCPConn).CloseWrite()
	s.expect(t, 1, "last words")
	s.expectEnd(t)
}

// An upstream that does not answer a handshake holds nobody.
func TestHandshakeIsNotAnswered(t *testing.T) {
	t.Parallel()
	g := open(t, upstream.H1, options{call: socketCall, cfg: func(c *upstream.Config) { c.Pool.Header = 50 * time.Millisecond }},
		raw(t, func(_ net.Conn, in *bufio.Reader) { _, _ = io.Copy(io.Discard, in) }))
	if s := g.shake(nil); s.resp.StatusCode != 502 || s.resp.Header.Get("Failure") != "maybe_sent" {
		t.Errorf("got %d %v", s.resp.StatusCode, s.resp.Header)
	}
}

// Each end may go without a word.
func TestWebSocketBreaksOff(t *testing.T) {
	t.Parallel()
	conns := make(chan net.Conn, 2)
	g := open(t, upstream.H1, options{call: socketCall}, raw(t, func(conn net.Conn, in *bufio.Reader) {
		r, _, err := readRequest(in)
		if err != nil {
			return
		}
		_, _ = fmt.Fprintf(conn, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n\r\n", accept(r.Header.Get("Sec-WebSocket-Key")))
		conns <- conn
		_, _ = io.Copy(io.Discard, in)
	}))
	s := g.shake(nil)
	_ = (<-conns).Close()
	s.expectEnd(t)
	_ = s.Close()
	s = g.shake(nil)
	up := <-conns
	_ = s.Close()
	if _, err := up.Read(make([]byte, 1)); err == nil {
		t.Error("the upstream does not learn of it")
	}
	g.result(2)
	if st := g.Status(); st.Breaker != "closed" || st.Streams != 0 {
		t.Errorf("%+v", st)
	}
}
