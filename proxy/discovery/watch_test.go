package discovery

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// answer is what a stand-in for DNS or Consul says from a moment on.
type answer struct {
	from time.Duration
	list []string // nil for none
	err  error
}

// told is an update, and when it came.
type told struct {
	At   time.Duration
	List []string
}

func endpoints(addrs ...string) []Endpoint {
	list := []Endpoint{}
	for _, addr := range addrs {
		list = append(list, Endpoint{Addr: addr, Weight: 1})
	}
	return list
}

// play runs a watcher for an hour against answers, within a bubble. With blocking they come when they change, as from
// Consul, else when they are asked for.
func play(t *testing.T, c Config, blocking bool, answers ...answer) (updates []told, asked []time.Duration, log string, err error) {
	t.Helper()
	var text bytes.Buffer
	start := time.Now()
	now := func() int {
		i := 0
		for i+1 < len(answers) && time.Since(start) >= answers[i+1].from {
			i++
		}
		return i
	}
	w := &watcher{
		target: "test://", every: c.Refresh, retry: min(c.Refresh, longPause),
		o: Options{Config: c, Log: slog.New(slog.NewTextHandler(&text, nil))},
	}
	if blocking {
		w.every, w.retry = shortPause, longPause
	}
	w.begin = func() question {
		seen := -1
		return func(ctx context.Context, wait time.Duration) ([]Endpoint, error) {
			asked = append(asked, time.Since(start))
			until := time.After(wait)
			for blocking && now() == seen {
				var next <-chan time.Time
				if seen+1 < len(answers) {
					next = time.After(time.Until(start.Add(answers[seen+1].from)))
				}
				select {
				case <-ctx.Done():
					return nil, ctx.Err()
				case <-next:
					continue
				case <-until:
				}
				break
			}
			seen = now()
			a := answers[seen]
			if a.err != nil {
				seen = -1
			}
			return endpoints(a.list...), a.err
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
	defer cancel()
	err = w.Watch(ctx, func(list []Endpoint) {
		u := told{At: time.Since(start).Round(time.Second), List: []string{}}
		for i := range list {
			u.List = append(u.List, list[i].Addr)
			list[i].Addr = "the receiver may change it"
		}
		updates = append(updates, u)
	})
	return updates, asked, text.String(), err
}

var errDown = errors.New("it is down")

func TestWatch(t *testing.T) {
	t.Parallel()
	c := DefaultConfig() // refresh 10 s, first 10 s, empty after 30 s
	at := func(s int) time.Duration { return time.Duration(s) * time.Second }
	for name, c := range map[string]struct {
		config  Config
		answers []answer
		want    []told
		near    time.Duration // how much later than asked for an update may be
		err     string
	}{
		"changes are told, and nothing else": {c, []answer{{0, []string{"b", "a"}, nil}, {at(60), []string{"a", "b"}, nil}, {at(120), []string{"c"}, nil}},
			[]told{{0, []string{"a", "b"}}, {at(120), []string{"c"}}}, at(12), ""},
		"errors change nothing": {c, []answer{{0, []string{"a"}, nil}, {at(60), nil, errDown}, {at(1800), []string{"b"}, nil}},
			[]told{{0, []string{"a"}}, {at(1800), []string{"b"}}}, at(34), ""},
		"an answer without endpoints is not believed at once": {c, []answer{{0, []string{"a"}, nil}, {at(60), []string{}, nil}, {at(80), []string{"a"}, nil}},
			[]told{{0, []string{"a"}}}, 0, ""},
		"but when it stays": {c, []answer{{0, []string{"a"}, nil}, {at(60), []string{}, nil}, {at(1800), []string{"b"}, nil}},
			[]told{{0, []string{"a"}}, {at(90), []string{}}, {at(1800), []string{"b"}}}, at(14), ""},
		"errors in between do not make it forgotten": {c, []answer{
			{0, []string{"a"}, nil}, {at(60), []string{}, nil}, {at(80), nil, errDown}, {at(100), []string{}, nil},
		},
			[]told{{0, []string{"a"}}, {at(100), []string{}}}, at(34), ""},
		"each time anew": {c, []answer{
			{0, []string{"a"}, nil}, {at(60), []string{}, nil}, {at(80), []string{"a"}, nil}, {at(100), []string{}, nil}, {at(120), []string{"b"}, nil},
		},
			[]told{{0, []string{"a"}}, {at(120), []string{"b"}}}, at(12), ""},
		"however rarely DNS is asked": {
			Config{Refresh: 10 * time.Minute, First: at(10), EmptyAfter: at(30)}, []answer{{0, []string{"a"}, nil}, {at(60), []string{}, nil}},
			[]told{{0, []string{"a"}}, {at(90), []string{}}}, at(640), ""},
		"or at once, if so configured": {Config{Refresh: at(10), First: at(10)}, []answer{{0, []string{"a"}, nil}, {at(60), []string{}, nil}},
			[]told{{0, []string{"a"}}, {at(60), []string{}}}, at(12), ""},
		"the first answer may be late": {c, []answer{{0, nil, errDown}, {at(3), []string{}, nil}, {at(6), []string{"a"}, nil}},
			[]told{{at(6), []string{"a"}}}, at(2), ""},
		"but not too late":                {c, []answer{{0, nil, errDown}, {at(11), []string{"a"}, nil}}, nil, 0, "no endpoints within 10s: it is down"},
		"nothing is no first answer":      {c, []answer{{0, []string{}, nil}}, nil, 0, "no endpoints within 10s: test://: the answer has no endpoints"},
		"the last answer is what is told": {c, []answer{{0, []string{}, nil}, {at(2), nil, errDown}}, nil, 0, "no endpoints within 10s: it is down"},
	} {
		for _, blocking := range []bool{false, true} {
			mode := map[bool]string{false: "/asked", true: "/blocking"}[blocking]
			t.Run(name+mode, func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					got, _, log, err := play(t, c.config, blocking, c.answers...)
					if c.err != "" {
						if err == nil || err.Error() != c.err || time.Since(time.Unix(946684800, 0)) > 11*time.Second {
							t.Errorf("got %v after %s, want %q", err, time.Since(time.Unix(946684800, 0)), c.err)
						}
						return
					}
					if err != nil {
						t.Fatal(err)
					}
					for i := range got {
						if late := got[i].At - c.want[min(i, len(c.want)-1)].At; late >= 0 && late <= c.near {
							got[i].At -= late
						}
					}
					if diff := cmp.Diff(c.want, got); diff != "" {
						t.Errorf("updates (-want +got):\n%s\n%s", diff, log)
					}
				})
			})
		}
	}
}

// TestWatchIsNeitherBusyNorLoud: an hour of failures, of changes, and of nothing.
func TestWatchIsNeitherBusyNorLoud(t *testing.T) {
	t.Parallel()
	flapping := []answer{}
	for i := range 3000 {
		flapping = append(flapping, answer{time.Duration(i) * time.Second / 100, []string{string(rune('a' + i%2))}, nil})
	}
	for name, c := range map[string]struct {
		blocking bool
		answers  []answer
		most     int
	}{
		"DNS, nothing new":     {false, []answer{{0, []string{"a"}, nil}}, 400},
		"DNS, down":            {false, []answer{{0, []string{"a"}, nil}, {time.Minute, nil, errDown}}, 410},
		"DNS, empty":           {false, []answer{{0, []string{"a"}, nil}, {time.Minute, nil, nil}}, 410},
		"Consul, nothing new":  {true, []answer{{0, []string{"a"}, nil}}, 61},
		"Consul, down":         {true, []answer{{0, []string{"a"}, nil}, {time.Minute, nil, errDown}}, 140},
		"Consul, empty":        {true, []answer{{0, []string{"a"}, nil}, {time.Minute, nil, nil}}, 64},
		"Consul, changing 30s": {true, flapping, 230},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				_, asked, log, err := play(t, DefaultConfig(), c.blocking, c.answers...)
				if err != nil || len(asked) > c.most {
					t.Errorf("%d questions in an hour, want at most %d; %v", len(asked), c.most, err)
				}
				if n := strings.Count(log, "level=WARN"); n > 1 || strings.Contains(name, "down") && n != 1 {
					t.Errorf("%d warnings: %s", n, log)
				}
				different := map[time.Duration]bool{}
				for i := range asked[:len(asked)-1] {
					different[asked[i+1]-asked[i]] = true
				}
				if len(different) < len(asked)/2 {
					t.Errorf("replicas would ask together: %d questions, %d pauses", len(asked), len(different))
				}
			})
		})
	}
}

// TestEachFailureBeginsAnew: after half an hour of failures Consul is asked twice a minute only, but not so at the next one.
func TestEachFailureBeginsAnew(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		end := 2010 * time.Second
		got, _, log, err := play(t, DefaultConfig(), true, answer{0, []string{"a"}, nil}, answer{time.Minute, nil, errDown},
			answer{1800 * time.Second, []string{"b"}, nil}, answer{2000 * time.Second, nil, errDown}, answer{end, []string{"c"}, nil})
		if err != nil || len(got) != 3 || got[2].At > end+15*time.Second {
			t.Errorf("got %v, %v: %s", got, err, log)
		}
	})
}

func TestWatchEndsWithItsContext(t *testing.T) {
	t.Parallel()
	for name, first := range map[string]answer{"while it waits for the first answer": {0, nil, errDown}, "later": {0, []string{"a"}, nil}} {
		synctest.Test(t, func(t *testing.T) {
			w := &watcher{target: "test://", every: time.Second, retry: time.Second, o: Options{Config: DefaultConfig(), Log: slog.New(slog.DiscardHandler)}}
			w.begin = func() question {
				return func(context.Context, time.Duration) ([]Endpoint, error) { return endpoints(first.list...), first.err }
			}
			ctx, cancel := context.WithCancel(context.Background())
			done := make(chan error)
			go func() { done <- w.Watch(ctx, func([]Endpoint) {}) }()
			time.Sleep(5 * time.Second)
			cancel()
			begin := time.Now()
			if err := <-done; err != nil || time.Since(begin) > 0 {
				t.Errorf("%s: got %v after %s", name, err, time.Since(begin))
			}
		})
	}
}
