package upstream

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha1"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// upgrade asks the endpoint for a WebSocket. After a 101 that proves that the endpoint has read the key the two
// connections are joined; any other answer is passed on as it is, and nothing more.
func (x *exchange) upgrade(e *endpoint) verdict {
	u := x.u
	key := x.r.Header["Sec-Websocket-Key"]
	if x.r.Method != http.MethodGet || x.r.ProtoMajor != 1 || len(key) != 1 || !sixteenBytes(key[0]) {
		x.fail(ClientAbort, ErrHandshake)
		return nothing
	}
	out := x.r.WithContext(x.ctx)
	if !x.prepare(out, e, true) {
		return nothing
	}
	out.Body, out.GetBody, out.ContentLength, out.Trailer = nil, nil, 0, nil
	delete(out.Header, "Te")
	out.Header["Connection"], out.Header["Upgrade"], out.Header["Sec-Websocket-Key"] = []string{"Upgrade"}, []string{"websocket"}, key

	up, err := x.dialOwn(e)
	if err != nil {
		return x.classify(e, &attempt{}, x.ctx, err)
	}
	defer func() { _ = up.Close() }()
	// The client may go, and the endpoint too, while we wait for the answer.
	stop := context.AfterFunc(x.ctx, func() { _ = up.Close() })
	defer stop()
	_ = up.SetDeadline(time.Now().Add(u.cfg.Pool.Header))
	limit := &io.LimitedReader{R: up, N: headerBytes}
	in := bufio.NewReader(limit)
	var resp *http.Response
	if err = out.Write(up); err == nil {
		resp, err = readResponse(in, out)
	}
	if err != nil {
		return x.classify(e, &attempt{got: true, conn: connOf(up)}, x.ctx, err)
	}
	limit.N = 1<<63 - 1
	x.result.Status = resp.StatusCode
	if resp.StatusCode != http.StatusSwitchingProtocols {
		_ = up.SetDeadline(time.Time{})
		v := judge(resp)
		if resp.StatusCode >= 500 {
			x.fail(Answered5xx, nil)
		}
		if broke := x.answer(resp); broke != nothing {
			return broke
		}
		return v
	}
	if err := accepted(resp.Header, key[0], x.r.Header["Sec-Websocket-Protocol"]); err != nil {
		x.fail(MaybeSent, fmt.Errorf("upstream %s: %w", e.addr, err))
		return failed
	}
	if !stop() {
		x.fail(ClientAbort, context.Cause(x.ctx))
		return nothing
	}
	u.breaker.record(&x.permit, good, u.clock.Now())
	e.note(good)
	return x.tunnel(e, up, in, resp)
}

// dialOwn makes a connection for one WebSocket. It speaks HTTP/1.1 whatever the other requests do.
func (x *exchange) dialOwn(e *endpoint) (net.Conn, error) {
	if e.scheme == "https" {
		return e.dialTLS("http/1.1")(x.ctx, "", "")
	}
	return e.dial(x.ctx, "", "")
}

// readResponse reads an answer; those of 1xx come before it and are dropped.
func readResponse(in *bufio.Reader, out *http.Request) (*http.Response, error) {
	for range 6 {
		resp, err := http.ReadResponse(in, out)
		if err != nil || resp.StatusCode >= 200 || resp.StatusCode == http.StatusSwitchingProtocols {
			return resp, err
		}
	}
	return nil, errors.New("too many answers of 1xx")
}

func sixteenBytes(key string) bool {
	raw, err := base64.StdEncoding.DecodeString(key)
	return err == nil && len(raw) == 16
}

// accepted checks that the 101 is for this request: the protocol, the key, and nothing that was not offered.
func accepted(h http.Header, key string, offered []string) error {
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	switch {
	case len(h["Upgrade"]) != 1 || !strings.EqualFold(h["Upgrade"][0], "websocket"):
		return errors.New("the 101 is not for websocket")
	case !listed(h["Connection"], "upgrade"):
		return errors.New("the 101 has no Connection: Upgrade")
	case len(h["Sec-Websocket-Accept"]) != 1 || h["Sec-Websocket-Accept"][0] != base64.StdEncoding.EncodeToString(sum[:]):
		return errors.New("the 101 does not prove that the key was read")
	case len(h["Sec-Websocket-Protocol"]) > 1 || len(h["Sec-Websocket-Protocol"]) == 1 && !listed(offered, h["Sec-Websocket-Protocol"][0]):
		return errors.New("the 101 takes a subprotocol that was not offered")
	}
	return nil
}

// listed says whether a comma-separated list has the word.
func listed(lines []string, word string) bool {
	for _, line := range lines {
		for s := range strings.SplitSeq(line, ",") {
			if strings.EqualFold(strings.TrimSpace(s), word) {
				return true
			}
		}
	}
	return false
}

const goodbye = 5 * time.Second // for the other side to end what one side has ended

// tunnel joins the connections until one side ends, nothing moves any more, or the endpoint goes.
func (x *exchange) tunnel(e *endpoint, up net.Conn, in *bufio.Reader, resp *http.Response) verdict {
	h := x.w.Header()
	x.header(resp)
	delete(h, "Content-Length")
	h["Connection"], h["Upgrade"] = []string{"Upgrade"}, []string{"websocket"}
	client, early, err := http.NewResponseController(x.w).Hijack()
	if err != nil {
		x.fail(ClientAbort, fmt.Errorf("upstream: the client's connection cannot be had: %w", err))
		return nothing
	}
	defer func() { _ = client.Close() }()
	x.result.Started = true
	_ = client.SetDeadline(time.Time{})
	_ = up.SetDeadline(time.Time{})

	idle := x.u.cfg.StreamIdle
	_ = client.SetWriteDeadline(time.Now().Add(idle))
	head := bufio.NewWriter(client)
	_, _ = head.WriteString("HTTP/1.1 101 Switching Protocols\r\n")
	_ = h.Write(head)
	_, _ = head.WriteString("\r\n")
	if err := head.Flush(); err != nil {
		x.fail(ClientAbort, err)
		return nothing
	}

	t := &tunnel{client: client, up: up, idle: idle}
	t.moved.Store(time.Now().UnixNano())
	defer x.tell(e, x.ctx, t.leave)()
	defer context.AfterFunc(x.ctx, t.leave)()
	ends := make(chan error, 2)
	// What a side has sent early is in its reader, and comes first. The client's reader itself is net/http's: it would end
	// the request's context with the first deadline that passes.
	first, _ := early.Reader.Peek(early.Reader.Buffered())
	go func() { ends <- t.copy(up, io.MultiReader(bytes.NewReader(first), client), client, false) }()
	go func() { ends <- t.copy(client, in, up, true) }()
	if err := <-ends; err != nil {
		t.close()
	} else {
		end := time.AfterFunc(goodbye, t.close)
		defer end.Stop()
	}
	<-ends
	return nothing
}

// tunnel is two connections that are joined.
type tunnel struct {
	client, up net.Conn
	idle       time.Duration
	moved      atomic.Int64 // when something was read last

	mu      sync.Mutex // held while something is written to the client
	frames  frames
	leaving bool // a close frame is to be sent
	left    bool // it was
}

// copy moves what comes from a side to the other. nil is the end in good order.
func (t *tunnel) copy(to net.Conn, from io.Reader, raw net.Conn, down bool) error {
	buffer := buffers.Get().(*[32 << 10]byte)
	defer buffers.Put(buffer)
	for {
		_ = raw.SetReadDeadline(time.Now().Add(t.idle))
		n, err := from.Read(buffer[:])
		if n > 0 {
			t.moved.Store(time.Now().UnixNano())
			_ = to.SetWriteDeadline(time.Now().Add(t.idle))
			write := t.pass
			if !down {
				write = to.Write
			}
			if _, failure := write(buffer[:n]); failure != nil {
				return failure
			}
		}
		var slow net.Error
		switch {
		case err == io.EOF:
			if half, ok := netConn(to).(interface{ CloseWrite() error }); ok {
				_ = half.CloseWrite()
			}
			return nil
		case errors.As(err, &slow) && slow.Timeout() && time.Since(time.Unix(0, t.moved.Load())) < t.idle:
			// The other side is not idle.
		case err != nil:
			return err
		}
	}
}

// netConn is what is below the counting, unless there is TLS.
func netConn(c net.Conn) net.Conn {
	if counting, ok := c.(*conn); ok {
		return counting.Conn
	}
	return c
}

// pass writes to the client what the upstream has sent. Once a close frame was put between, nothing may follow.
func (t *tunnel) pass(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for rest := b; len(rest) > 0 && !t.left; {
		n := len(rest)
		if t.leaving {
			n = t.frames.step(rest) // up to the end of the frame
		} else {
			t.frames.skip(rest)
		}
		if _, err := t.client.Write(rest[:n]); err != nil {
			return 0, err
		}
		if rest = rest[n:]; t.leaving && t.frames.between() {
			if err := t.sayGoodbye(); err != nil {
				return 0, err
			}
		}
	}
	return len(b), nil
}

// leave tells the client to come back: close 1001 at the end of the frame that is on its way. The client answers, the
// answer passes to the upstream, and both end; whoever does not is cut.
func (t *tunnel) leave() {
	time.AfterFunc(goodbye, t.close) // first: a client that does not read holds the lock
	t.mu.Lock()
	defer t.mu.Unlock()
	t.leaving = true
	if t.frames.between() {
		_ = t.client.SetWriteDeadline(time.Now().Add(goodbye))
		_ = t.sayGoodbye()
	}
}

// sayGoodbye is for between two frames. The lock is held.
func (t *tunnel) sayGoodbye() error {
	if t.left {
		return nil
	}
	t.left = true
	if t.frames.closed {
		return nil
	}
	_, err := t.client.Write([]byte{0x88, 2, 1001 >> 8, 1001 & 0xff})
	return err
}

func (t *tunnel) close() {
	_ = t.client.Close()
	_ = t.up.Close()
}

// frames follows where WebSocket frames begin and end.
type frames struct {
	head   [14]byte
	have   int    // bytes of the head
	left   uint64 // bytes of the payload
	closed bool   // a close frame has passed
}

func (f *frames) between() bool { return f.have == 0 && f.left == 0 }

// skip takes all of b.
func (f *frames) skip(b []byte) {
	for len(b) > 0 {
		b = b[f.step(b):]
	}
}

// step takes b up to the end of the frame at most, and says how much that was.
func (f *frames) step(b []byte) int {
	taken := 0
	for f.left == 0 {
		if taken == len(b) {
			return taken
		}
		f.head[f.have] = b[taken]
		f.have++
		taken++
		if f.have < f.needs() {
			continue
		}
		f.left = f.payload()
		f.closed = f.closed || f.head[0]&0x0f == 8
		if f.have = 0; f.left == 0 {
			return taken
		}
	}
	n := min(uint64(len(b)-taken), f.left)
	f.left -= n
	return taken + int(n)
}

// needs is how long the head is, as far as it is known.
func (f *frames) needs() int {
	if f.have < 2 {
		return 2
	}
	n := 2
	switch f.head[1] & 0x7f {
	case 126:
		n += 2
	case 127:
		n += 8
	}
	if f.head[1]&0x80 != 0 {
		n += 4
	}
	return n
}

func (f *frames) payload() uint64 {
	length := uint64(f.head[1] & 0x7f)
	extra := 0
	switch length {
	case 126:
		extra = 2
	case 127:
		extra = 8
	default:
		return length
	}
	length = 0
	for _, b := range f.head[2 : 2+extra] {
		length = length<<8 | uint64(b)
	}
	return length
}
