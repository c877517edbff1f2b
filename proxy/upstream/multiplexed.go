package upstream

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptrace"
	"slices"
	"sync"
)

// multiplexed carries requests over h2. The connections are net/http's, the pool is our own: net/http's sends a request
// again after any PROTOCOL_ERROR, also one that came when the request had been worked on already.
type multiplexed struct {
	endpoint *endpoint
	factory  *http.Transport

	mu      sync.Mutex
	conns   []*http.ClientConn
	dialing *dialing // the one connection that comes about; all wait for it
}

type dialing struct {
	done chan struct{}
	conn *http.ClientConn
	err  error
}

func (m *multiplexed) prepare(ctx context.Context, a *attempt) context.Context {
	a.multiple = true
	a.trace.WroteHeaders = func() { a.headers.Store(true) }
	return httptrace.WithClientTrace(ctx, &a.trace)
}

const refusals = 3 // of an endpoint; then it is another one's turn

// send sends the request, and sends it again while the endpoint says that it has not looked at it, as it does when it
// goes, or when the connection ended before anything was written.
func (m *multiplexed) send(out *http.Request, a *attempt) (*http.Response, error) {
	for n := 1; ; n++ {
		c, err := m.reserve(out.Context())
		if err != nil {
			return nil, err
		}
		a.got, a.refused = true, false
		a.headers.Store(false)
		resp, err := c.RoundTrip(out)
		if err == nil {
			return resp, nil
		}
		a.refused = refused(err)
		if a.maybeSent(out.Context()) || n > refusals || out.Context().Err() != nil {
			return nil, err
		}
		if out.Body != nil {
			if out.GetBody == nil {
				return nil, err
			}
			again := *out
			if again.Body, err = out.GetBody(); err != nil {
				return nil, err
			}
			out = &again
		}
	}
}

// refused says whether the endpoint has promised not to have looked at the request: it has reset the stream with
// REFUSED_STREAM, or gone away before it.
func refused(err error) bool {
	var reset streamError
	if errors.As(err, &reset) {
		return reset.Code == 7
	}
	// net/http ends the streams that a GOAWAY leaves out with an error that has no name. If its text changes, such requests
	// count as those that may have been received.
	return err.Error() == "http2: Transport received Server's graceful shutdown GOAWAY"
}

// streamError is what net/http's own converts itself to.
type streamError struct {
	StreamID uint32
	Code     uint32
	Cause    error
}

func (e streamError) Error() string {
	return fmt.Sprintf("stream %d was reset with code %d", e.StreamID, e.Code)
}

// reserve finds a connection with room for one more request, or makes one.
func (m *multiplexed) reserve(ctx context.Context) (*http.ClientConn, error) {
	for {
		m.mu.Lock()
		m.conns = slices.DeleteFunc(m.conns, func(c *http.ClientConn) bool { return c.Err() != nil })
		for _, c := range m.conns {
			if c.Reserve() == nil {
				m.mu.Unlock()
				return c, nil
			}
		}
		d := m.dialing
		if d == nil {
			d = &dialing{done: make(chan struct{})}
			m.dialing = d
			go m.dial(d)
		}
		m.mu.Unlock()
		select {
		case <-d.done:
			if d.err != nil {
				return nil, d.err
			}
			if err := d.conn.Err(); err != nil {
				return nil, &dialError{err}
			}
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// dial makes a connection for all who wait: it does not end with one of them.
func (m *multiplexed) dial(d *dialing) {
	d.conn, d.err = m.factory.NewClientConn(context.Background(), m.endpoint.scheme, m.endpoint.addr)
	var dial *dialError
	if d.err != nil && !errors.As(d.err, &dial) {
		d.err = &dialError{d.err}
	}
	m.mu.Lock()
	m.dialing = nil
	if d.err == nil {
		m.conns = append(m.conns, d.conn)
	}
	m.mu.Unlock()
	close(d.done)
}

// closeIdle closes the connections that nobody uses.
func (m *multiplexed) closeIdle() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.conns = slices.DeleteFunc(m.conns, func(c *http.ClientConn) bool {
		if c.InFlight() > 0 {
			return false
		}
		_ = c.Close()
		return true
	})
}
