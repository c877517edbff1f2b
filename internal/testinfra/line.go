package testinfra

import (
	"io"
	"net"
	"net/url"
	"sync"
	"testing"
)

// Line is a way to a server that can be cut, and shut.
type Line struct {
	tb     testing.TB
	target string
	l      net.Listener

	mu    sync.Mutex
	conns map[net.Conn]bool
	shut  bool
}

// NewLine leads to target, as host:port.
func NewLine(tb testing.TB, target string) *Line {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	return NewLineOn(tb, l, target)
}

// NewLineOn is NewLine for a listener of the caller, as one of TLS.
func NewLineOn(tb testing.TB, l net.Listener, target string) *Line {
	p := &Line{tb: tb, target: target, l: l, conns: map[net.Conn]bool{}}
	tb.Cleanup(func() { _ = l.Close(); p.Cut() })
	go func() {
		for {
			near, err := l.Accept()
			if err != nil {
				return
			}
			far, err := net.Dial("tcp", target)
			if err != nil || !p.enter(near, far) {
				_ = near.Close()
				if err == nil {
					_ = far.Close()
				}
				continue
			}
			go p.pipe(near, far)
			go p.pipe(far, near)
		}
	}()
	return p
}

func (p *Line) enter(near, far net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.shut {
		return false
	}
	p.conns[near], p.conns[far] = true, true
	return true
}

func (p *Line) pipe(to, from net.Conn) {
	_, _ = io.Copy(to, from)
	_ = to.Close()
	_ = from.Close()
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.conns, from)
}

// Cut ends all connections in the middle of whatever they do.
func (p *Line) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		_ = c.Close()
	}
}

// Shut cuts the line and lets nobody in until it is opened.
func (p *Line) Shut() {
	p.mu.Lock()
	p.shut = true
	p.mu.Unlock()
	p.Cut()
}

// Open lets everybody in again.
func (p *Line) Open() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.shut = false
}

// URL is that of the server through the line.
func (p *Line) URL(server string) string {
	u, err := url.Parse(server)
	if err != nil {
		p.tb.Fatal(err)
	}
	u.Host = p.l.Addr().String()
	return u.String()
}
