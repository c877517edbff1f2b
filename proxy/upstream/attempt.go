package upstream

import (
	"context"
	"net/http"
	"net/http/httptrace"
	"sync/atomic"
	"time"
)

// attempt is one sending of a request: what is known of whether it can have been received.
type attempt struct {
	trace httptrace.ClientTrace
	got   bool // there was a connection to send it on

	// Over h1, where a connection carries one request at a time.
	conn    *conn
	body    *stream // what it carries, if that is read from the client meanwhile
	written int64   // what had been sent on conn before
	earlier bool    // net/http has repeated it, and the one before may have been received

	// Over h2.
	multiple bool
	headers  atomic.Bool // the header was written
	refused  bool        // the endpoint said that it has not looked at it
}

// use notes the connection that the request goes out on.
func (a *attempt) use(c *conn) {
	a.earlier = a.earlier || a.got && a.sentBytes()
	a.got, a.conn = true, c
	if c != nil {
		a.written = c.written.Load()
		c.body.Store(a.body)
	}
}

// end is for when the connection may carry another request.
func (a *attempt) end() {
	if a.conn != nil && a.body != nil {
		a.conn.body.CompareAndSwap(a.body, nil)
	}
}

func (a *attempt) sentBytes() bool { return a.conn == nil || a.conn.written.Load() != a.written }

// maybeSent says, after a failure, whether the request may have been received.
func (a *attempt) maybeSent(ctx context.Context) bool {
	switch {
	case a.earlier:
		return true
	case !a.got, a.refused:
		return false
	case a.multiple:
		// When the context ends net/http does not wait for the one who writes.
		return a.headers.Load() || ctx.Err() != nil
	}
	return a.sentBytes()
}

const (
	headerBytes = 128 << 10 // of an answer
	streamBytes = 256 << 10 // of an answer over h2 that the client has not taken yet, unless the options say otherwise
)

// newTransport makes net/http's transport for one endpoint. Zero means no limit.
func newTransport(e *endpoint, conns int, header time.Duration) *http.Transport {
	cfg := &e.up.cfg
	t := &http.Transport{
		DialContext:            e.dial,
		DialTLSContext:         e.dialTLS("http/1.1"),
		DisableCompression:     true, // what the client asked for passes, and nothing else
		MaxIdleConnsPerHost:    max(256, conns),
		MaxConnsPerHost:        conns,
		IdleConnTimeout:        cfg.Pool.Idle,
		ResponseHeaderTimeout:  header,
		MaxResponseHeaderBytes: headerBytes,
		Protocols:              new(http.Protocols),
		HTTP2: &http.HTTP2Config{
			MaxReceiveBufferPerStream: e.up.ahead,
			// A connection whose other end has vanished is found out, also while no request waits for it.
			SendPingTimeout: 5 * time.Second, PingTimeout: 5 * time.Second, WriteByteTimeout: 10 * time.Second,
		},
	}
	switch cfg.Protocol {
	case H1:
		t.Protocols.SetHTTP1(true)
	case H2C:
		t.Protocols.SetUnencryptedHTTP2(true)
	case H2:
		t.Protocols.SetHTTP2(true)
		t.DialTLSContext = e.dialTLS("h2")
	}
	return t
}

// standard carries requests over h1 with net/http's Transport.
type standard struct{ transport *http.Transport }

// prepare learns of each connection that net/http takes. It takes another one by itself where nothing was sent on the
// first, and where the request may be repeated.
func (s *standard) prepare(ctx context.Context, a *attempt) context.Context {
	a.trace.GotConn = func(info httptrace.GotConnInfo) { a.use(connOf(info.Conn)) }
	return httptrace.WithClientTrace(ctx, &a.trace)
}

func (s *standard) send(out *http.Request, _ *attempt) (*http.Response, error) {
	return s.transport.RoundTrip(out)
}

func (s *standard) closeIdle() { s.transport.CloseIdleConnections() }
