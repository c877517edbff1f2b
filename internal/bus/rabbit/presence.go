package rabbit

import (
	"sync"
	"time"

	"github.com/banyan-go/banyan/internal/errs"
)

// presence says whether something that needs the broker works, has been away for a moment, or is gone. A moment is waited out.
type presence struct {
	mu    sync.Mutex
	lost  chan struct{} // closed when it is gone
	cause error
	timer *time.Timer
}

func newPresence() *presence {
	p := &presence{lost: make(chan struct{})}
	p.fade()
	return p
}

// gone is closed while there is no use in waiting.
func (p *presence) gone() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.lost
}

// arrive: it works.
func (p *presence) arrive() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stop()
	p.cause = nil
	if closed(p.lost) {
		p.lost = make(chan struct{})
	}
}

// fade: it does not, and is gone if that lasts.
func (p *presence) fade() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.timer != nil || closed(p.lost) {
		return
	}
	lost := p.lost
	p.timer = time.AfterFunc(grace, func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.timer != nil && p.lost == lost {
			p.timer = nil
			close(lost)
		}
	})
}

// leave: it is gone.
func (p *presence) leave(cause error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stop()
	p.cause = cause
	if !closed(p.lost) {
		close(p.lost)
	}
}

func (p *presence) stop() {
	if p.timer != nil {
		p.timer.Stop()
		p.timer = nil
	}
}

// why is what is known of the absence; nil if it is not away.
func (p *presence) why(l *link) error {
	p.mu.Lock()
	cause := p.cause
	p.mu.Unlock()
	v := l.view()
	switch {
	case v.conn == nil:
		return l.away(v.err)
	case cause != nil:
		return cause
	case v.blocked != "":
		return errs.New(errs.Unavailable, "%s", v.blocked)
	}
	return nil
}

func (p *presence) away(l *link) error {
	if err := p.why(l); err != nil {
		return errs.New(errs.Unavailable, "%w", err)
	}
	return l.away(nil)
}

func closed(c chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}
