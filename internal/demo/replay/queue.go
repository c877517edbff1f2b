package replay

import (
	"container/heap"
	"context"
	"sync"
	"time"

	"github.com/banyan-go/banyan/internal/demo/retail"
)

// queue hands out steps: those of one customer one after another, and otherwise the one that stands first in the files.
// So an order has had time to be confirmed when something of it is returned, and no client waits for it.
type queue struct {
	mu      sync.Mutex
	changed sync.Cond
	ready   ready // customers whose next step can be taken
	open    int   // customers with steps left
	stopped bool
}

// line is the steps of one customer that are not done. While somebody works on the first it is not in the queue.
type line struct {
	steps []placedStep
}

type placedStep struct {
	retail.Step
	place int // in the files
}

func newQueue(steps []retail.Step) *queue {
	q := &queue{}
	q.changed.L = &q.mu
	lines := map[string]*line{}
	for i, s := range steps {
		l := lines[s.Customer]
		if l == nil {
			l = &line{}
			lines[s.Customer] = l
			q.ready = append(q.ready, l)
		}
		l.steps = append(l.steps, placedStep{s, i})
	}
	q.open = len(q.ready)
	heap.Init(&q.ready)
	return q
}

// next is the customer to serve; nil when all is done or ctx has ended.
func (q *queue) next(ctx context.Context) *line {
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.ready) == 0 && q.open > 0 && !q.stopped && ctx.Err() == nil {
		q.changed.Wait()
	}
	if len(q.ready) == 0 || q.stopped || ctx.Err() != nil {
		return nil
	}
	l, _ := heap.Pop(&q.ready).(*line)
	return l
}

// done ends the customer's step.
func (q *queue) done(l *line) {
	l.steps = l.steps[1:]
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(l.steps) == 0 {
		q.open--
		q.changed.Broadcast()
		return
	}
	heap.Push(&q.ready, l)
	q.changed.Signal()
}

// later puts the customer back, with the same step, after a while.
func (q *queue) later(l *line, after time.Duration) {
	time.AfterFunc(after, func() {
		q.mu.Lock()
		defer q.mu.Unlock()
		heap.Push(&q.ready, l)
		q.changed.Signal()
	})
}

// stop wakes all that wait and gives them nothing.
func (q *queue) stop() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.stopped = true
	q.changed.Broadcast()
}

// ready is a heap by the place of the first step.
type ready []*line

func (r ready) Len() int           { return len(r) }
func (r ready) Less(i, j int) bool { return r[i].steps[0].place < r[j].steps[0].place }
func (r ready) Swap(i, j int)      { r[i], r[j] = r[j], r[i] }
func (r *ready) Push(x any) {
	if l, ok := x.(*line); ok {
		*r = append(*r, l)
	}
}
func (r *ready) Pop() any {
	last := len(*r) - 1
	l := (*r)[last]
	(*r)[last] = nil
	*r = (*r)[:last]
	return l
}
