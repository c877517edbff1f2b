package due_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/banyan-go/banyan/internal/clock"
	"github.com/banyan-go/banyan/internal/due"
)

// table keeps things in memory; what is done is gone.
type table struct {
	mu      sync.Mutex
	rows    map[string]time.Time
	does    func(ctx context.Context, key string) error
	running map[string]bool
	most    int
	reads   int
	log     []string
	err     error
}

func (r *table) Due(_ context.Context, now time.Time, most int) ([]due.Item, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.reads++
	var keys []string
	for k, at := range r.rows {
		if !at.After(now) {
			keys = append(keys, k)
		}
	}
	slices.SortFunc(keys, func(a, b string) int { return r.rows[a].Compare(r.rows[b]) })
	var items []due.Item
	for _, k := range keys[:min(most, len(keys))] {
		items = append(items, due.Item{Key: k, Do: func(ctx context.Context) error { return r.do(ctx, k) }})
	}
	return items, r.err
}

func (r *table) do(ctx context.Context, key string) error {
	r.mu.Lock()
	if r.running[key] {
		r.log = append(r.log, key+" twice at the same time")
	}
	r.running[key] = true
	r.most = max(r.most, len(r.running))
	r.mu.Unlock()
	err := r.does(ctx, key)
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.running, key)
	if err == nil {
		delete(r.rows, key)
		r.log = append(r.log, key)
	}
	return err
}

func (r *table) Next(_ context.Context, now time.Time) (first time.Time, some bool, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, at := range r.rows {
		if at.After(now) && (!some || at.Before(first)) {
			first, some = at, true
		}
	}
	return first, some, r.err
}

func (r *table) set(key string, at time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.rows[key] = at
}

func (r *table) done() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.log)
}

// run runs a loop over a table in a time of its own until the test ends.
func run(t *testing.T, r *table) (l *due.Loop, failures *int) {
	r.rows, r.running = map[string]time.Time{}, map[string]bool{}
	failures = new(int)
	var mu sync.Mutex
	l = due.New(r, clock.System{}, func(error) { mu.Lock(); *failures++; mu.Unlock() })
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { l.Run(ctx, time.Second) })
	t.Cleanup(func() { cancel(); running.Wait() })
	return l, failures
}

// TestOneThatHangs keeps no other waiting: neither what is due at the same time, nor what is due later, nor what is set while it hangs.
func TestOneThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &table{does: func(ctx context.Context, key string) error {
			if key == "hangs" {
				<-ctx.Done()
				return ctx.Err()
			}
			return nil
		}}
		l, _ := run(t, r)
		r.set("hangs", time.Now())
		r.set("now", time.Now())
		r.set("soon", time.Now().Add(300*time.Millisecond))
		l.Wake()
		synctest.Wait()
		if got := r.done(); !slices.Equal(got, []string{"now"}) {
			t.Errorf("done %v", got)
		}
		time.Sleep(300 * time.Millisecond)
		synctest.Wait()
		r.set("new", time.Now())
		l.Wake()
		synctest.Wait()
		if got := r.done(); !slices.Equal(got, []string{"now", "soon", "new"}) {
			t.Errorf("done %v", got)
		}
		if r.reads > 10 {
			t.Errorf("%d reads", r.reads)
		}
	})
}

// TestABacklog of more than is read at once is worked off without a pause, a bounded number at a time, the oldest first, each once.
func TestABacklog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &table{does: func(context.Context, string) error { time.Sleep(time.Millisecond); return nil }}
		l, _ := run(t, r)
		const n = 1000
		var want []string
		began := time.Now()
		for i := range n {
			want = append(want, fmt.Sprintf("%04d", i))
			r.set(want[i], began.Add(time.Duration(i-n)*time.Second))
		}
		l.Wake()
		time.Sleep(n / 8 * time.Millisecond)
		synctest.Wait()
		got := r.done()
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Errorf("%d done in %v, want each of %d once", len(got), time.Since(began), n)
		}
		if r.most != 8 {
			t.Errorf("%d at the same time", r.most)
		}
		if r.reads > n {
			t.Errorf("%d reads", r.reads)
		}
	})
}

// TestWhatFails is not tried again at once, and keeps nothing else waiting; nor does a store that cannot be read have its processor burnt.
func TestWhatFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &table{does: func(_ context.Context, key string) error {
			if key == "fails" {
				return errors.New("the store takes no writes")
			}
			return nil
		}}
		l, failures := run(t, r)
		r.set("fails", time.Now())
		r.set("works", time.Now())
		l.Wake()
		time.Sleep(990 * time.Millisecond)
		synctest.Wait()
		if got := r.done(); !slices.Equal(got, []string{"works"}) || *failures != 5 {
			t.Errorf("done %v, %d failures", got, *failures)
		}
		r.mu.Lock()
		r.err, r.reads, r.rows = errors.New("the store cannot be read"), 0, map[string]time.Time{}
		r.mu.Unlock()
		time.Sleep(time.Second)
		synctest.Wait()
		if r.reads < 4 || r.reads > 8 {
			t.Errorf("read %d times in a second", r.reads)
		}
	})
}

// TestTheEnd waits for what runs.
func TestTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ended := false
		r := &table{rows: map[string]time.Time{"a": time.Now()}, running: map[string]bool{}}
		ctx, cancel := context.WithCancel(t.Context())
		r.does = func(ctx context.Context, _ string) error {
			cancel()
			<-ctx.Done()
			time.Sleep(time.Second) // it commits
			ended = true
			return nil
		}
		due.New(r, clock.System{}, func(error) {}).Run(ctx, time.Second)
		if !ended {
			t.Error("it still runs")
		}
	})
}
