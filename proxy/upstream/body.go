package upstream

import (
	"bytes"
	"errors"
	"io"
	"maps"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// body is what a request carries, over its attempts.
type body struct {
	get      func() (io.ReadCloser, error) // as often as wanted; nil if it can be had only once
	src      io.ReadCloser                 // else; nil if there is none
	length   int64
	trailers []string // names that the client has announced
	request  *http.Request
	control  *http.ResponseController // of the client's connection
	idle     time.Duration            // the client of a stream has so long for each piece; 0 leaves the time that it has been given

	stream *stream // of the last attempt
	broken atomic.Pointer[error]
}

// newBody takes the body of r. A short one is read now: it can be sent again then, and a slow client holds nothing of the
// upstream while it sends. The caller finds it in r as if it had not been read. An error is the client's.
func newBody(w http.ResponseWriter, r *http.Request, most int, idle time.Duration) (*body, error) {
	b := &body{request: r, length: r.ContentLength, control: http.NewResponseController(w), idle: idle}
	for name := range r.Trailer {
		if trailer(name) {
			b.trailers = append(b.trailers, name)
		}
	}
	switch {
	case r.Body == nil || r.Body == http.NoBody || r.ContentLength == 0:
		b.length = 0
	case r.GetBody != nil:
		b.get = r.GetBody
	case r.ContentLength > 0 && r.ContentLength <= int64(most):
		buffer := make([]byte, r.ContentLength+1)
		whole, got := buffer[:r.ContentLength], 0
		// The end of the body comes with its trailers.
		for err := error(nil); err != io.EOF; {
			b.wait()
			var n int
			n, err = r.Body.Read(buffer[got:])
			switch got += n; {
			case got == len(buffer):
				return nil, errors.New("upstream: the body is longer than it said")
			case err == io.EOF && got < len(whole):
				return nil, io.ErrUnexpectedEOF
			case err != nil && err != io.EOF:
				return nil, err
			}
		}
		b.get = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(whole)), nil }
		r.Body, _ = b.get()
	default:
		b.src = r.Body
	}
	return b, nil
}

// wait gives the client of a stream time for its next piece. A stream has no time to end, but nobody holds it by sending nothing.
func (b *body) wait() {
	if b.idle > 0 {
		_ = b.control.SetReadDeadline(time.Now().Add(b.idle))
	}
}

// stir is for when a piece of the answer has been passed on: on the request's side of a stream may be silence then.
func (b *body) stir() {
	if b.stream != nil {
		b.stream.wait()
	}
}

// again says whether the body can be sent once more: it is kept, or nobody has begun to read it, and nobody does after this.
func (b *body) again() bool { return b.src == nil || b.stream == nil || b.stream.untouched() }

// end lets nobody read any more: net/http may still want to when the answer is complete, and the client's body is not ours
// then. A read that waits for the client is ended. It says whether the client's connection is as it was.
func (b *body) end() bool {
	if b.stream == nil || b.stream.untouched() {
		return true // net/http does with it what it always does
	}
	_ = b.stream.Close()
	// At the end of a body net/http looks already for what comes next, and must not be disturbed.
	good := b.stream.ended.Load()
	if !good && b.control.SetReadDeadline(time.Unix(1, 0)) != nil {
		return false // there is no connection that could be told
	}
	<-b.stream.done
	return good
}

// sent says whether all of it was read.
func (b *body) sent() bool { return b.src == nil || b.stream != nil && b.stream.ended.Load() }

// attach gives out the body for one attempt.
func (b *body) attach(out *http.Request, protocol string) error {
	out.Body, out.GetBody, out.ContentLength, out.Trailer, out.TransferEncoding = nil, nil, b.length, nil, nil
	switch {
	case b.get != nil:
		kept, err := b.get()
		if err != nil {
			return err
		}
		out.Body, out.GetBody = kept, b.get
		if len(b.trailers) > 0 {
			out.Trailer = http.Header{}
			b.copyTrailers(out.Trailer)
		}
	case b.src != nil:
		b.stream = newStream(b)
		out.Body = b.stream
		if len(b.trailers) > 0 {
			out.Trailer = http.Header{}
			for _, name := range b.trailers {
				out.Trailer[name] = nil
			}
			b.stream.trailers = out.Trailer
		}
	}
	if out.Trailer != nil && protocol == H1 {
		out.ContentLength = -1 // HTTP/1.1 has trailers only in chunks
	}
	return nil
}

// copyTrailers takes the values of the trailers that were announced. What was not announced the gateway has not seen, so
// it does not pass.
func (b *body) copyTrailers(to http.Header) {
	for _, name := range b.trailers {
		if values := b.request.Trailer[name]; len(values) > 0 {
			to[name] = values
		}
	}
}

// stream is a body that is read from the client while it is sent. It is read by a goroutine of its own, so that whoever
// sends it can be let go while the client is silent: net/http tells that an upstream has gone only when nobody reads the
// body any more. Closing it does not close the client's: that is the server's to do, and another attempt may need it.
type stream struct {
	body     *body
	trailers http.Header
	out      *io.PipeReader
	in       *io.PipeWriter
	done     chan struct{} // closed when the client's body is not read any more
	ended    atomic.Bool   // it was read to its end

	mu    sync.Mutex
	begun bool
	dead  bool
}

var errEnded = errors.New("upstream: the request has ended")

func newStream(b *body) *stream {
	s := &stream{body: b, done: make(chan struct{})}
	s.out, s.in = io.Pipe()
	return s
}

func (s *stream) Read(p []byte) (int, error) {
	s.mu.Lock()
	if !s.begun && !s.dead {
		s.begun = true
		go s.pump()
	}
	s.mu.Unlock()
	return s.out.Read(p)
}

func (s *stream) Close() error {
	s.mu.Lock()
	s.dead = true
	s.mu.Unlock()
	return s.out.CloseWithError(errEnded)
}

// untouched says that nobody has begun to read, and sees to it that nobody does.
func (s *stream) untouched() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.dead = s.dead || !s.begun
	return !s.begun
}

// wait is that of the body, unless the client is not waited for any more. Whoever cuts it off must not be undone.
func (s *stream) wait() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.begun && !s.dead && !s.ended.Load() {
		s.body.wait()
	}
}

// end is for a body that was read to its end. net/http listens for what comes next by then, and would take a time that somebody has
// set since for the client's end.
func (s *stream) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended.Store(true)
	if s.body.idle > 0 {
		_ = s.body.control.SetReadDeadline(time.Time{})
	}
}

func (s *stream) pump() {
	defer close(s.done)
	buffer := buffers.Get().(*[32 << 10]byte)
	defer buffers.Put(buffer)
	for {
		s.wait()
		n, err := s.body.src.Read(buffer[:])
		switch {
		case err == io.EOF:
			// Known before the last piece is sent: the upstream answers as soon as it has that.
			if s.trailers != nil {
				s.body.copyTrailers(s.trailers)
			}
			s.end()
		case err != nil:
			s.body.broken.CompareAndSwap(nil, &err)
		}
		if n > 0 {
			if _, failure := s.in.Write(buffer[:n]); failure != nil {
				return // nobody takes it any more
			}
		}
		if err != nil {
			_ = s.in.CloseWithError(err)
			return
		}
	}
}

// failed is the error that reading from the client gave, or nil.
func (b *body) failed() error {
	if err := b.broken.Load(); err != nil {
		return *err
	}
	return nil
}

// hopByHop headers belong to one connection.
var hopByHop = map[string]bool{
	"Connection": true, "Proxy-Connection": true, "Keep-Alive": true, "Proxy-Authenticate": true, "Proxy-Authorization": true, "Te": true,
	"Trailer": true, "Transfer-Encoding": true, "Upgrade": true, "Http2-Settings": true, "Proxy-Authentication-Info": true,
}

// trailer says whether a field may stand after a body. Those that say how to read it or who sent it may not: a receiver
// that merges trailers into the header would believe them.
func trailer(name string) bool {
	if name == "" || hopByHop[name] {
		return false
	}
	for _, c := range []byte(name) {
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '-' {
			return false
		}
	}
	switch name {
	case "Authorization", "Cache-Control", "Cookie", "Set-Cookie", "Expect", "Forwarded", "Host", "Location", "Range", "If-Match", "If-None-Match",
		"If-Modified-Since", "If-Unmodified-Since", "If-Range", "Idempotency-Key", "X-Real-Ip", "X-Request-Id", "Www-Authenticate",
		"X-Client-Ip", "True-Client-Ip", "X-Original-Url", "X-Original-Uri", "X-Rewrite-Url", "X-Http-Method", "X-Http-Method-Override", "X-Method-Override",
		"X-Shadow", "X-Tenant-Id", "X-Request-Timeout":
		return false
	}
	for _, p := range [...]string{"Content-", "X-Forwarded-", "X-User-", "X-Banyan-", "X-Accel-"} {
		if strings.HasPrefix(name, p) {
			return false
		}
	}
	return true
}

// copyHeader sets what an upstream has answered, without what belongs to its connection. What stands in h already gives
// way, but nobody loses a cookie or a Vary.
func copyHeader(h, from http.Header) {
	for _, line := range from["Connection"] {
		for name := range strings.SplitSeq(line, ",") {
			if name = http.CanonicalHeaderKey(strings.TrimSpace(name)); !endToEnd[name] {
				delete(from, name)
			}
		}
	}
	for name, values := range from {
		switch {
		case hopByHop[name]:
		case (name == "Set-Cookie" || name == "Vary") && len(h[name]) > 0:
			h[name] = append(h[name][:len(h[name]):len(h[name])], values...)
		default:
			h[name] = values
		}
	}
}

// endToEnd headers say how the body is to be read; an upstream must not take them away by naming them in Connection.
var endToEnd = map[string]bool{"Content-Type": true, "Content-Length": true, "Content-Encoding": true, "Content-Range": true, "Set-Cookie": true, "Cache-Control": true, "Vary": true}

// outgoing is the header of one attempt. Its values are shared with the request's: set them, do not change them.
func outgoing(from http.Header) http.Header {
	h := maps.Clone(from)
	if h == nil {
		h = http.Header{}
	}
	delete(h, "Expect") // the client is told to continue when its body is read
	if _, ok := h["User-Agent"]; !ok {
		h["User-Agent"] = noAgent // or net/http names itself
	}
	return h
}

var (
	noAgent  = []string{""}
	trailers = []string{"trailers"}
)

// calm keeps net/http from repeating a request because of its key. It looks for the usual spelling only, and on the wire
// there is no difference.
func calm(h http.Header) {
	for _, k := range [...][2]string{{"Idempotency-Key", "idempotency-key"}, {"X-Idempotency-Key", "x-idempotency-key"}} {
		if v, ok := h[k[0]]; ok {
			delete(h, k[0])
			h[k[1]] = v
		}
	}
}
