package upstream

import (
	"bufio"
	"context"
	"errors"
	"io"
	"math"
	"net/http"
	"slices"
	"sync"
	"syscall"
	"time"
)

// synchronous carries requests over h1 in the handler's goroutine: write the request, read the answer. net/http has two
// more goroutines for each connection, and waking them costs more than all else. The parsers are net/http's.
//
// It is for requests whose body is kept, and whose answer does not begin before they have ended; all others go the usual
// way. A connection that was closed while nobody used it is found out before it is written to, but a close that is on its
// way then is not: over h1 only leaving an upstream before it stops loses nothing.
type synchronous struct {
	endpoint *endpoint
	usual    *standard

	mu    sync.Mutex
	idle  []*lane // the one used last is last
	timer *time.Timer
}

// lane is a connection with what it takes to use it.
type lane struct {
	*conn
	in    *bufio.Reader
	out   *bufio.Writer
	left  int64 // bytes that may still be read: the header of an answer has a limit
	since time.Time
	cut   func() // closes the connection

	raw   syscall.RawConn // nil if there is no socket below
	look  func(fd uintptr) bool
	alive bool // what look has seen
}

var errHeaderTooLong = errors.New("the header of the answer is too long")

// Read counts what is read.
func (l *lane) Read(b []byte) (int, error) {
	if l.left <= 0 {
		return 0, errHeaderTooLong
	}
	n, err := l.conn.Read(b)
	l.left -= int64(n)
	return n, err
}

func newSynchronous(e *endpoint, usual *standard) *synchronous {
	return &synchronous{endpoint: e, usual: usual}
}

func (s *synchronous) prepare(ctx context.Context, _ *attempt) context.Context { return ctx }

func (s *synchronous) send(out *http.Request, a *attempt) (*http.Response, error) {
	if out.Body != nil && out.GetBody == nil {
		return s.usual.send(out.WithContext(s.usual.prepare(out.Context(), a)), a)
	}
	for {
		until := time.Now().Add(s.endpoint.up.cfg.Pool.Header)
		l := s.take(until)
		fresh := l == nil
		if fresh {
			var err error
			if l, err = s.dial(out.Context()); err != nil {
				return nil, err
			}
			_ = l.SetDeadline(until)
		}
		a.use(l.conn)
		resp, err := s.exchange(l, out)
		if err == nil {
			return resp, nil
		}
		_ = l.Close()
		if fresh || a.maybeSent(out.Context()) || out.Context().Err() != nil {
			return nil, err
		}
		if out.Body != nil {
			again := *out
			if again.Body, err = out.GetBody(); err != nil {
				return nil, err
			}
			out = &again
		}
	}
}

// exchange writes the request and reads the header of the answer.
func (s *synchronous) exchange(l *lane, out *http.Request) (*http.Response, error) {
	stop := context.AfterFunc(out.Context(), l.cut)
	l.left = headerBytes
	written := out.Write(l.out)
	if written == nil {
		written = l.out.Flush()
	}
	// An upstream may answer, and hang up, before it has read it all.
	resp, err := readResponse(l.in, out)
	if err != nil {
		stop()
		if written != nil {
			err = written
		}
		return nil, err
	}
	l.left = math.MaxInt64
	last := written != nil || resp.Close || resp.StatusCode == http.StatusSwitchingProtocols
	if resp.Body == http.NoBody {
		s.release(l, stop, last)
		return resp, nil
	}
	if resp.ContentLength < 0 || resp.ContentLength > int64(l.in.Buffered()) {
		_ = l.SetDeadline(time.Time{}) // the time was for the header
	}
	resp.Body = &laneBody{ReadCloser: resp.Body, s: s, lane: l, stop: stop, last: last}
	return resp, nil
}

// laneBody is the body of an answer. Its end gives the connection back.
type laneBody struct {
	io.ReadCloser
	s    *synchronous
	lane *lane // nil once it was given back
	stop func() bool
	last bool
}

func (b *laneBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil && b.lane != nil {
		b.s.release(b.lane, b.stop, b.last || err != io.EOF)
		b.lane = nil
	}
	return n, err
}

// Close is for an answer that nobody wants to the end: what is left of it must not be taken for the next one.
func (b *laneBody) Close() error {
	if b.lane != nil {
		b.s.release(b.lane, b.stop, true)
		b.lane = nil
	}
	return nil
}

func (s *synchronous) dial(ctx context.Context) (*lane, error) {
	raw, err := s.endpoint.dial(ctx, "", "")
	if err != nil {
		return nil, err
	}
	l := &lane{conn: connOf(raw)}
	l.in, l.out = bufio.NewReader(l), bufio.NewWriter(l.conn)
	l.cut = func() { _ = l.Close() }
	if socket, ok := l.Conn.(syscall.Conn); ok {
		if l.raw, err = socket.SyscallConn(); err == nil {
			l.look = func(fd uintptr) bool {
				l.alive = silent(fd)
				return true
			}
		}
	}
	return l, nil
}

// take finds a connection that is still good, and gives it until then.
func (s *synchronous) take(until time.Time) *lane {
	for {
		s.mu.Lock()
		n := len(s.idle)
		if n == 0 {
			s.mu.Unlock()
			return nil
		}
		l := s.idle[n-1]
		s.idle[n-1] = nil
		s.idle = s.idle[:n-1]
		s.mu.Unlock()
		// The deadline first: with one that has passed nothing could be seen.
		if l.SetDeadline(until) == nil && l.quiet() {
			return l
		}
		_ = l.Close()
	}
}

// quiet says whether the connection is open and nothing has come that nobody asked for.
func (l *lane) quiet() bool {
	if l.in.Buffered() > 0 {
		return false
	}
	if l.raw == nil {
		return true
	}
	l.alive = false
	return l.raw.Read(l.look) == nil && l.alive
}

// release gives a connection back, unless this was its last answer or the request was ended meanwhile.
func (s *synchronous) release(l *lane, stop func() bool, last bool) {
	if !stop() || last || l.in.Buffered() > 0 {
		_ = l.Close()
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.endpoint.gone.Err() != nil || len(s.idle) >= s.endpoint.up.cfg.Pool.MaxConns {
		_ = l.Close()
		return
	}
	l.since = time.Now()
	s.idle = append(s.idle, l)
	if s.timer == nil {
		s.timer = time.AfterFunc(s.endpoint.up.cfg.Pool.Idle, s.expire)
	}
}

// expire closes the connections that nobody has used for long.
func (s *synchronous) expire() {
	s.mu.Lock()
	defer s.mu.Unlock()
	limit := s.endpoint.up.cfg.Pool.Idle
	n := 0
	for n < len(s.idle) && time.Since(s.idle[n].since) >= limit {
		_ = s.idle[n].Close()
		n++
	}
	s.idle = slices.Delete(s.idle, 0, n)
	if s.timer = nil; len(s.idle) > 0 {
		s.timer = time.AfterFunc(limit-time.Since(s.idle[0].since), s.expire)
	}
}

// silent says whether a socket is open and has nothing to read. It takes nothing from it.
func silent(fd uintptr) bool {
	var one [1]byte
	_, _, err := syscall.Recvfrom(int(fd), one[:], syscall.MSG_PEEK)
	return err == syscall.EAGAIN || err == syscall.EWOULDBLOCK
}

func (s *synchronous) closeIdle() {
	s.mu.Lock()
	idle := s.idle
	s.idle = nil
	s.mu.Unlock()
	for _, l := range idle {
		_ = l.Close()
	}
	s.usual.closeIdle()
}
