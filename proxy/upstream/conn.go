package upstream

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"sync/atomic"
)

// conn is a connection to an endpoint. It counts what it has sent: that tells whether a request can have been received.
type conn struct {
	net.Conn
	endpoint *endpoint
	written  atomic.Int64
	body     atomic.Pointer[stream] // what is sent on it, over h1; its end ends this
}

func (c *conn) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	c.written.Add(int64(n))
	return n, err
}

func (c *conn) Close() error {
	c.endpoint.forget(c)
	err := c.Conn.Close()
	if s := c.body.Swap(nil); s != nil {
		_ = s.Close()
	}
	return err
}

// connOf is the counting connection within what net/http shows.
func connOf(c net.Conn) *conn {
	if secure, ok := c.(*tls.Conn); ok {
		c = secure.NetConn()
	}
	counting, _ := c.(*conn)
	return counting
}

// dialError is a connection that did not come about: nothing was sent on it.
type dialError struct{ err error }

func (e *dialError) Error() string { return e.err.Error() }
func (e *dialError) Unwrap() error { return e.err }

// dial connects to the endpoint, whatever net/http asks for.
func (e *endpoint) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, e.up.cfg.Pool.Connect)
	defer cancel()
	return e.connect(ctx)
}

func (e *endpoint) connect(ctx context.Context) (net.Conn, error) {
	raw, err := e.up.dial(ctx, "tcp", e.addr)
	if err != nil {
		return nil, &dialError{err}
	}
	c := &conn{Conn: raw, endpoint: e}
	if !e.keep(c) {
		_ = raw.Close()
		return nil, &dialError{ErrDraining}
	}
	return c, nil
}

// dialTLS connects and shakes hands, so that net/http gets a connection whose other end is known.
func (e *endpoint) dialTLS(protocol string) func(ctx context.Context, _, _ string) (net.Conn, error) {
	return func(ctx context.Context, _, _ string) (net.Conn, error) {
		ctx, cancel := context.WithTimeout(ctx, e.up.cfg.Pool.Connect)
		defer cancel()
		raw, err := e.connect(ctx)
		if err != nil {
			return nil, err
		}
		secure := tls.Client(raw, e.up.tlsConfig(e.addr, protocol))
		if err := secure.HandshakeContext(ctx); err != nil {
			_ = raw.Close()
			return nil, &dialError{err}
		}
		return secure, nil
	}
}

// tlsConfig is for one connection, so that what was rotated meanwhile is used.
func (u *Upstream) tlsConfig(addr, protocol string) *tls.Config {
	var cfg *tls.Config
	if u.tls != nil {
		cfg = u.tls.Clone()
	} else {
		cfg = &tls.Config{}
	}
	if u.roots != nil {
		cfg.RootCAs = u.roots()
	}
	cfg.NextProtos = []string{protocol}
	host, _, _ := net.SplitHostPort(addr)
	if cfg.ServerName == "" {
		cfg.ServerName = host
	}
	if u.peer != "" {
		// The name is not the host's but the module's, so crypto/tls cannot check it; checkPeer does all that it would.
		cfg.InsecureSkipVerify = true
	}
	also := cfg.VerifyConnection
	cfg.VerifyConnection = func(s tls.ConnectionState) error {
		if protocol == "h2" && s.NegotiatedProtocol != protocol {
			return fmt.Errorf("%s speaks no HTTP/2", addr)
		}
		if u.peer != "" {
			if err := checkPeer(s, cfg, u.peer); err != nil {
				return err
			}
		}
		if also != nil {
			return also(s)
		}
		return nil
	}
	return cfg
}

// checkPeer verifies the chain, and that the certificate is for the name: as a URI or as a DNS name, to the letter.
func checkPeer(s tls.ConnectionState, cfg *tls.Config, name string) error {
	if len(s.PeerCertificates) == 0 {
		return errors.New("the upstream shows no certificate")
	}
	leaf := s.PeerCertificates[0]
	options := x509.VerifyOptions{Roots: cfg.RootCAs, Intermediates: x509.NewCertPool(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	if cfg.Time != nil {
		options.CurrentTime = cfg.Time()
	}
	for _, c := range s.PeerCertificates[1:] {
		options.Intermediates.AddCert(c)
	}
	if _, err := leaf.Verify(options); err != nil {
		return err
	}
	for _, u := range leaf.URIs {
		if u.String() == name {
			return nil
		}
	}
	for _, n := range leaf.DNSNames {
		if n == name {
			return nil
		}
	}
	return fmt.Errorf("the certificate of the upstream is not for %q", name)
}
