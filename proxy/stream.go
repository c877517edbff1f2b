package proxy

import (
	"sync"

	"github.com/banyan-go/banyan/internal/errs"
)

// streams bounds the streams that one client has open in this process: there is room for so many of all, and nobody may have it all.
type streams struct {
	most int // 0 is no limit

	mu   sync.Mutex
	open map[string]int // by client; who has none is not in it
}

// enter takes room for a stream; leave gives it back.
func (s *streams) enter(client string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.most > 0 && s.open[client] >= s.most {
		return errs.New(errs.Throttled, "there are %d streams open, and no more are allowed (gateway.limits.streams_per_client)", s.most)
	}
	s.open[client]++
	return nil
}

func (s *streams) leave(client string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open[client]--; s.open[client] == 0 {
		delete(s.open, client)
	}
}

// holder is who has a stream: a subject that is verified, or else an address.
func (x *exchange) holder() string {
	if x.who.Subject != "" {
		return "subject " + x.who.Subject
	}
	return x.client.key
}
