package bus

import (
	"context"
	"sync"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/banyan-go/banyan/internal/errs"
)

// Local is the Watermill transport within a process. A topic is the queue of one subscriber module.
//
// Publish returns when the subscriber has acknowledged: nil after an Ack, an error after a Nack, so that "accepted"
// means "handled". It keeps nothing: what is not acknowledged is still in the publisher's outbox. Watermill's own
// GoChannel promises neither order nor that a message survives its Close.
type Local struct {
	mu     sync.RWMutex
	topics map[string]*topic
	closed bool
}

type topic struct {
	out  chan *message.Message
	gone chan struct{} // closed with the subscription
	busy sync.WaitGroup
	once sync.Once
}

// NewLocal is an empty transport.
func NewLocal() *Local { return &Local{topics: map[string]*topic{}} }

var errNoSubscriber = errs.New(errs.Unavailable, "nobody subscribes to this queue in this process")

// Publish hands over the messages one after another and waits for each to be acknowledged.
func (l *Local) Publish(queue string, messages ...*message.Message) error {
	for _, m := range messages {
		if err := l.publish(queue, m); err != nil {
			return err
		}
	}
	return nil
}

func (l *Local) publish(queue string, m *message.Message) error {
	l.mu.RLock()
	t := l.topics[queue]
	if t == nil || l.closed {
		l.mu.RUnlock()
		return errNoSubscriber
	}
	t.busy.Add(1)
	l.mu.RUnlock()
	defer t.busy.Done()
	ctx := m.Context()
	select {
	case t.out <- m:
	case <-t.gone:
		return errNoSubscriber
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case <-m.Acked():
		return nil
	case <-m.Nacked():
		return errs.New(errs.Unavailable, "the subscriber did not take the message")
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Subscribe makes the caller the one subscriber of a queue until ctx ends.
func (l *Local) Subscribe(ctx context.Context, queue string) (<-chan *message.Message, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, errs.New(errs.Unavailable, "the transport is closed")
	}
	if l.topics[queue] != nil {
		return nil, errs.New(errs.Conflict, "queue %s has a subscriber already", queue)
	}
	t := &topic{out: make(chan *message.Message), gone: make(chan struct{})}
	l.topics[queue] = t
	context.AfterFunc(ctx, func() { l.end(queue, t) })
	return t.out, nil
}

func (l *Local) end(queue string, t *topic) {
	t.once.Do(func() {
		l.mu.Lock()
		delete(l.topics, queue)
		l.mu.Unlock()
		close(t.gone)
		t.busy.Wait() // nobody sends any more
		close(t.out)
	})
}

// Close ends all subscriptions; messages on their way are still acknowledged.
func (l *Local) Close() error {
	l.mu.Lock()
	l.closed = true
	topics := make(map[string]*topic, len(l.topics))
	for q, t := range l.topics {
		topics[q] = t
	}
	l.mu.Unlock()
	for q, t := range topics {
		l.end(q, t)
	}
	return nil
}
