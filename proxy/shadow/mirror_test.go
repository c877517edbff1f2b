package shadow

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

const get = "get-order"

// everything is mirrored and controlled, and nothing needs to be learned first.
func everything() Config {
	c := DefaultConfig()
	c.Sample, c.ControlSample, c.Learn = 100, 100, 0
	return c
}

func newMirror(t testing.TB, c Config, routes ...string) *Mirror {
	t.Helper()
	m, err := New(Options{Module: "orders", Routes: append(routes, get), Config: c})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// start runs m until the test ends.
func start(t testing.TB, m *Mirror) {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- m.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if n := m.held.Load(); n != 0 {
			t.Errorf("%d bytes are still held", n)
		}
	})
}

// sides answer one request: each is asked for its nth answer, from 1 on; the client's is local's first.
type sides struct {
	local, remote func(n int) Answer
}

// again asks the sides, and says in which order they were asked.
func (s sides) again(asked *[]Side) Again {
	var mu sync.Mutex
	locals, remotes := 1, 0
	return func(_ context.Context, side Side) (Answer, error) {
		mu.Lock()
		defer mu.Unlock()
		if asked != nil {
			*asked = append(*asked, side)
		}
		if side == Local {
			locals++
			return s.local(locals), nil
		}
		remotes++
		return s.remote(remotes), nil
	}
}

func always(s string) func(int) Answer { return func(int) Answer { return body(s) } }

// each gives the answers one after the other, and the last one for ever.
func each(list ...string) func(int) Answer {
	return func(n int) Answer { return body(list[min(n, len(list))-1]) }
}

// fresh puts the number of the answer into it.
func fresh(format string) func(int) Answer {
	return func(n int) Answer { return body(fmt.Sprintf(format, n)) }
}

// one is the route's report without its paths and samples.
func one(m *Mirror) RouteReport {
	r := m.Report().Routes[0]
	r.Paths, r.Samples = nil, nil
	return r
}

func status(code int) Answer {
	return Answer{Status: code, Header: http.Header{"Content-Type": {"application/problem+json"}}, Body: []byte(`{}`)}
}

func TestWhatADifferenceIs(t *testing.T) {
	t.Parallel()
	remotes := func(list ...Answer) func(int) Answer { return func(n int) Answer { return list[min(n, len(list))-1] } }
	counts := func(control bool, change func(*RouteReport)) RouteReport {
		r := RouteReport{Route: get, Compared: 1}
		if control {
			r.Controls = 1
		}
		change(&r)
		if r.Failed > 0 || r.TooLarge > 0 {
			r.Compared = 0
		}
		return r
	}
	both := []Side{Remote, Local}
	twice := []Side{Remote, Local, Local, Remote, Local}
	tests := []struct {
		name  string
		sides sides
		want  RouteReport
		asked []Side
		paths []PathReport
		first string // path of the sample
	}{
		{"equal", sides{always(`{"a":1}`), always(`{ "a": 1.0 }`)}, counts(true, func(r *RouteReport) { r.Equal = 1 }), both, nil, ""},
		{"noise: differs in the control too", sides{fresh(`{"id":%d}`), fresh(`{"id":-%d}`)},
			counts(true, func(r *RouteReport) { r.Noise = 1 }), both, []PathReport{{Path: "$.id", Noise: 1, Control: 1}}, ""},
		{"mismatch", sides{always(`{"a":1}`), always(`{"a":2}`)}, counts(true, func(r *RouteReport) { r.Mismatch = 1 }), twice, []PathReport{{Path: "$.a", Mismatch: 1}}, "$.a"},
		{"mismatch beside noise", sides{fresh(`{"a":1,"id":%d}`), fresh(`{"a":2,"id":-%d}`)},
			counts(true, func(r *RouteReport) { r.Mismatch = 1 }), twice, []PathReport{{Path: "$.a", Mismatch: 1}, {Path: "$.id", Noise: 1, Control: 1}}, "$.a"},
		{"mismatch with another value each time", sides{always(`{"a":0}`), fresh(`{"a":%d}`)},
			counts(true, func(r *RouteReport) { r.Mismatch = 1 }), twice, []PathReport{{Path: "$.a", Mismatch: 1}}, "$.a"},
		{"noise: local does not agree with itself the second time", sides{each(`{"a":1}`, `{"a":1}`, `{"a":1}`, `{"a":3}`), always(`{"a":2}`)},
			counts(true, func(r *RouteReport) { r.Noise = 1 }), twice, []PathReport{{Path: "$.a", Noise: 1}}, ""},
		{"noise: local has changed and differs still", sides{each(`{"a":1}`, `{"a":1}`, `{"a":3}`), always(`{"a":2}`)},
			counts(true, func(r *RouteReport) { r.Noise = 1 }), twice, []PathReport{{Path: "$.a", Noise: 1}}, ""},
		{"skew: remote was ahead", sides{each(`{"a":1}`, `{"a":1}`, `{"a":2}`), always(`{"a":2}`)},
			counts(true, func(r *RouteReport) { r.Skew = 1 }), twice, []PathReport{{Path: "$.a", Skew: 1}}, "$.a"},
		{"skew: remote lagged", sides{always(`{"a":2}`), each(`{"a":1}`, `{"a":2}`)},
			counts(true, func(r *RouteReport) { r.Skew, r.Unexplained = 1, 1 }), twice, []PathReport{{Path: "$.a", Skew: 1}}, "$.a"},
		{"skew: never the same path twice", sides{always(`{"a":1,"b":1}`), each(`{"a":2,"b":1}`, `{"a":1,"b":2}`)},
			counts(true, func(r *RouteReport) { r.Skew, r.Unexplained = 1, 1 }), twice, []PathReport{{Path: "$.a", Skew: 1}}, "$.a"},
		{"skew: not there yet", sides{always(`{}`), remotes(status(404), body(`{}`))},
			counts(true, func(r *RouteReport) { r.Skew, r.Unexplained = 1, 1 }), twice, []PathReport{{Path: "status", Skew: 1}}, "status"},
		{"an error that stays", sides{always(`{}`), remotes(status(500))},
			counts(true, func(r *RouteReport) { r.Mismatch = 1 }), twice, []PathReport{{Path: "status", Mismatch: 1}}, "status"},
		{"an error that goes away", sides{always(`{}`), remotes(status(500), body(`{}`))}, counts(true, func(r *RouteReport) { r.Failed = 1 }), twice, nil, ""},
		{"unavailable is no answer", sides{always(`{}`), remotes(status(503))}, counts(false, func(r *RouteReport) { r.Failed = 1 }), []Side{Remote}, nil, ""},
		{"unavailable the second time", sides{always(`{}`), remotes(status(404), status(503))}, counts(true, func(r *RouteReport) { r.Failed = 1 }), twice[:4], nil, ""},
		{"longer than can be compared", sides{always(`{}`), always(strings.Repeat(" ", 256<<10) + "1")},
			counts(true, func(r *RouteReport) { r.Mismatch = 1 }), twice, []PathReport{{Path: "body", Mismatch: 1}}, "body"},
		{"local is too long", sides{always(strings.Repeat(" ", 256<<10) + "1"), always(`1`)}, counts(false, func(r *RouteReport) { r.TooLarge = 1 }), nil, nil, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				m := newMirror(t, everything())
				start(t, m)
				var asked []Side
				m.Offer(get, tt.sides.local(1), tt.sides.again(&asked))
				time.Sleep(time.Second)
				synctest.Wait()
				if diff := cmp.Diff(one(m), tt.want); diff != "" {
					t.Error("(-got +want)", diff)
				}
				if diff := cmp.Diff(asked, tt.asked); diff != "" {
					t.Error("asked (-got +want)", diff)
				}
				r := m.Report().Routes[0]
				if diff := cmp.Diff(r.Paths, tt.paths); diff != "" {
					t.Error("paths (-got +want)", diff)
				}
				first := ""
				if len(r.Samples) > 0 {
					first = r.Samples[0].Differences[0].Path
				}
				if first != tt.first || len(r.Samples) > 1 {
					t.Errorf("samples: %+v, want one of %q", r.Samples, tt.first)
				}
			})
		})
	}
}

// TestConfirmAfter: a side that lags gets confirm_after, and not a moment less or more.
func TestConfirmAfter(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		lag  time.Duration
		want string
	}{{250 * time.Millisecond, Skew}, {251 * time.Millisecond, Mismatch}} {
		synctest.Test(t, func(t *testing.T) {
			m := newMirror(t, everything())
			start(t, m)
			written := time.Now()
			m.Offer(get, body(`{"a":2}`), func(_ context.Context, side Side) (Answer, error) {
				if side == Remote && time.Since(written) < tt.lag {
					return body(`{"a":1}`), nil
				}
				return body(`{"a":2}`), nil
			})
			time.Sleep(249 * time.Millisecond)
			synctest.Wait()
			if r := one(m); r.Compared != 0 {
				t.Errorf("decided before it was time: %+v", r)
			}
			time.Sleep(time.Millisecond)
			synctest.Wait()
			r := m.Report().Routes[0]
			if len(r.Samples) != 1 || r.Samples[0].Result != tt.want {
				t.Errorf("lag %s: %+v, want %s", tt.lag, r.Samples, tt.want)
			}
		})
	}
}

// offerAll offers n answers one after the other, as fast as there is room.
func offerAll(m *Mirror, n int, make func(i int) sides) {
	for i := range n {
		for len(m.queue) == cap(m.queue) {
			time.Sleep(time.Millisecond)
		}
		s := make(i)
		if m.Sample(get) {
			m.Offer(get, s.local(1), s.again(nil))
		}
	}
	time.Sleep(time.Minute)
}

// order is an answer with everything that is another one each time.
func order(random *rand.Rand, total int, shuffled bool) Answer {
	lines := []string{`{"sku":"a","quantity":1}`, `{"sku":"b","quantity":2}`, `{"sku":"c","quantity":3}`}
	if shuffled {
		random.Shuffle(len(lines), func(i, j int) { lines[i], lines[j] = lines[j], lines[i] })
	}
	return body(fmt.Sprintf(`{"id":7,"request_id":"%08x-9dad-11d1-80b4-00c04fd430c8","at":"2026-01-01T12:00:%02d.%06dZ","total":%d,"lines":[%s]}`,
		random.Uint32(), random.IntN(60), random.IntN(1_000_000), total, strings.Join(lines, ",")))
}

// locked is a source of chance for several goroutines.
func locked(seed uint64) (func(func(*rand.Rand) Answer) Answer, *rand.Rand) {
	var mu sync.Mutex
	random := rand.New(rand.NewPCG(seed, 1))
	return func(do func(*rand.Rand) Answer) Answer {
		mu.Lock()
		defer mu.Unlock()
		return do(random)
	}, rand.New(rand.NewPCG(seed, 2))
}

// TestBugIsFound: 0.5 % of answers are wrong, among answers that are all different in id, time and order.
func TestBugIsFound(t *testing.T) {
	t.Parallel()
	const comparisons = 5000
	for seed := range uint64(3) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				c := DefaultConfig()
				c.Sample = 100
				m := newMirror(t, c)
				chance, requests := locked(seed)
				start(t, m)
				offerAll(m, comparisons, func(int) sides {
					total := 100
					if requests.IntN(200) == 0 {
						total = 99
					}
					right := func(int) Answer { return chance(func(r *rand.Rand) Answer { return order(r, 100, true) }) }
					return sides{right, func(int) Answer { return chance(func(r *rand.Rand) Answer { return order(r, total, true) }) }}
				})
				j := m.Judge()
				if j.Verdict != Bad || !strings.Contains(strings.Join(j.Reasons, "\n"), "$.total") {
					t.Errorf("%+v", j)
				}
				r := m.Report().Routes[0]
				if len(r.Samples) == 0 || r.Samples[0].Result != Mismatch || told(r.Samples[0].Differences)[0] != "$.total: 100, 99" {
					t.Errorf("samples: %+v", r.Samples)
				}
				for _, p := range r.Paths {
					if p.Mismatch > 0 && p.Path != "$.total" {
						t.Errorf("%s is taken for a mismatch", p.Path)
					}
				}
			})
		})
	}
}

// TestFaultThatComesAndGoesIsFound: the wrong answers are not wrong again when they are asked for again. That is what a
// side looks like that lags, so it is not bad, but it is not good either.
func TestFaultThatComesAndGoesIsFound(t *testing.T) {
	t.Parallel()
	for seed := range uint64(2) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				c := DefaultConfig()
				c.Sample = 100
				m := newMirror(t, c)
				chance, _ := locked(seed)
				start(t, m)
				side := func(faults bool) func(int) Answer {
					return func(int) Answer {
						return chance(func(r *rand.Rand) Answer {
							if faults && r.IntN(200) == 0 {
								return order(r, 99, true)
							}
							return order(r, 100, true)
						})
					}
				}
				offerAll(m, 5000, func(int) sides { return sides{side(false), side(true)} })
				j := m.Judge()
				if j.Verdict != NotEnough || !strings.Contains(strings.Join(j.Reasons, "\n"), "comes and goes ($.total)") {
					t.Errorf("%+v", j)
				}
			})
		})
	}
}

// TestNoiseRaisesNothing: ids, times and order, learned or told by rules.
func TestNoiseRaisesNothing(t *testing.T) {
	t.Parallel()
	rules := []Rule{{Path: "$.request_id", Format: UUID}, {Path: "$.at", Format: Time}, {Path: "$.lines", UnorderedBy: "sku"}}
	for name, list := range map[string][]Rule{"learned": nil, "rules": rules} {
		for seed := range uint64(2) {
			t.Run(fmt.Sprint(name, seed), func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					c := DefaultConfig()
					c.Sample, c.Compare = 100, list
					m := newMirror(t, c)
					chance, _ := locked(seed)
					start(t, m)
					any := func(int) Answer { return chance(func(r *rand.Rand) Answer { return order(r, 100, true) }) }
					offerAll(m, 4000, func(int) sides { return sides{any, any} })
					r, j := m.Report().Routes[0], m.Judge()
					if j.Verdict != Good || r.Mismatch+r.Skew+r.Failed+r.Dropped > 0 || len(r.Samples) > 0 {
						t.Errorf("%+v %+v", j, r)
					}
					if name == "rules" && r.Noise > 0 || name == "learned" && r.Noise < r.Compared*9/10 {
						t.Errorf("%d of %d are noise", r.Noise, r.Compared)
					}
				})
			})
		}
	}
}

// TestDataThatChanges: answers change all the time, on both sides alike.
func TestDataThatChanges(t *testing.T) {
	t.Parallel()
	for seed := range uint64(2) {
		synctest.Test(t, func(t *testing.T) {
			c := DefaultConfig()
			c.Sample = 100
			m := newMirror(t, c)
			start(t, m)
			chance, _ := locked(seed)
			var stock int
			side := func(int) Answer {
				return chance(func(r *rand.Rand) Answer {
					if r.IntN(50) == 0 {
						stock++
					}
					return body(fmt.Sprintf(`{"stock":%d}`, stock))
				})
			}
			offerAll(m, 5000, func(int) sides { return sides{side, side} })
			r, j := m.Report().Routes[0], m.Judge()
			if j.Verdict != Good || r.Noise+r.Skew == 0 {
				t.Errorf("%+v %+v", j, r)
			}
		})
	}
}

// TestLearning: before noise is known nothing counts.
func TestLearning(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := everything()
		c.Learn, c.ControlSample, c.Limits.Concurrency = 20, 1, 1
		m := newMirror(t, c)
		m.random = func() float64 { return 0.5 } // no control but those that must be
		start(t, m)
		offerAll(m, 21, func(int) sides { return sides{always(`{"a":1}`), always(`{"a":2}`)} })
		want := RouteReport{Route: get, Compared: 1, Mismatch: 1, Learned: 20, Controls: 20}
		if diff := cmp.Diff(one(m), want); diff != "" {
			t.Error("(-got +want)", diff)
		}
	})
}

// TestRareNoise: where local once did not agree with itself, that comparison is excused, and no others.
func TestRareNoise(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := newMirror(t, everything())
		start(t, m)
		equal := sides{always(`{"a":1}`), always(`{"a":1}`)}
		offerAll(m, 150, func(int) sides { return equal })
		offerAll(m, 1, func(int) sides { return sides{each(`{"a":1}`, `{"a":2}`), always(`{"a":2}`)} })
		want := RouteReport{Route: get, Compared: 151, Equal: 150, Noise: 1, Controls: 151}
		if diff := cmp.Diff(one(m), want); diff != "" {
			t.Error("(-got +want)", diff)
		}
		offerAll(m, 1, func(int) sides { return sides{always(`{"a":1}`), always(`{"a":2}`)} })
		want.Compared, want.Mismatch, want.Controls = 152, 1, 152
		if diff := cmp.Diff(one(m), want); diff != "" {
			t.Error("(-got +want)", diff)
		}
	})
}

func TestSample(t *testing.T) {
	t.Parallel()
	c := everything()
	c.Sample, c.Limits.Queue = 10, 2
	m := newMirror(t, c)
	taken := 0
	for range 100_000 {
		if m.Sample(get) {
			taken++
		}
	}
	if taken < 9_500 || taken > 10_500 {
		t.Errorf("%d of 100000 are taken, want 10 %%", taken)
	}
	if m.Sample("place-order") {
		t.Error("a route that does not read is mirrored")
	}
	m.random = func() float64 { return 0 }
	for range 5 {
		if m.Sample(get) {
			m.Offer(get, body("1"), nil)
		}
	}
	m.Offer(get, body("1"), nil)
	m.Offer("place-order", body("1"), nil)
	if r := one(m); r.Dropped != 4 || len(m.queue) != 2 {
		t.Errorf("%+v, and %d are queued", r, len(m.queue))
	}
}

// TestOfferKeepsNoHeader: the server may use them again.
func TestOfferKeepsNoHeader(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := newMirror(t, everything())
		a := Answer{Status: 201, Header: http.Header{"Location": {"/a"}, "X-Request-Id": {"r1"}, "Set-Cookie": {"secret"}}}
		m.Offer(get, a, sides{nil, func(int) Answer { return Answer{Status: 201, Header: http.Header{"Location": {"/b"}}} }}.again(nil))
		a.Header["Location"][0] = "/b"
		a.Header.Set("X-Request-Id", "r2")
		j := <-m.queue
		if diff := cmp.Diff(j.local.Header, http.Header{"Location": {"/a"}}); diff != "" || j.id != "r1" {
			t.Error(j.id, diff)
		}
	})
}

func TestNotShadowSafe(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := everything()
		c.Limits.Concurrency = 1
		m := newMirror(t, c, "list-orders")
		unsafe := status(500)
		unsafe.Header.Set(UnsafeHeader, "1")
		asked := 0
		again := func(context.Context, Side) (Answer, error) {
			asked++
			return unsafe, nil
		}
		m.Offer(get, body(`{}`), again)
		m.Offer(get, body(`{}`), again) // is in the queue when the route is found out
		start(t, m)
		synctest.Wait()
		if m.Sample(get) || !m.Sample("list-orders") {
			t.Error("the route is mirrored still, or the other is not")
		}
		m.Offer(get, body(`{}`), again)
		synctest.Wait()
		if diff := cmp.Diff(one(m), RouteReport{Route: get, Unsafe: true}); diff != "" || asked != 1 {
			t.Errorf("asked %d times (-got +want) %s", asked, diff)
		}
		m.Reset()
		if !m.Sample(get) {
			t.Error("another version gets no chance")
		}
	})
}

// TestReset: what another version of the remote side has answered counts for nothing.
func TestReset(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := newMirror(t, everything())
		start(t, m)
		s := sides{always(`{"a":1}`), always(`{"a":2}`)}
		m.Offer(get, s.local(1), s.again(nil))
		time.Sleep(time.Second)
		m.Offer(get, s.local(1), s.again(nil))
		synctest.Wait() // it waits to be confirmed
		m.Reset()
		time.Sleep(time.Second)
		synctest.Wait()
		r := m.Report()
		if diff := cmp.Diff(r.Routes, []RouteReport{{Route: get}}); diff != "" || !r.Since.Equal(time.Now().Add(-time.Second)) {
			t.Errorf("since %s (-got +want) %s", r.Since, diff)
		}
	})
}

func TestFailures(t *testing.T) {
	t.Parallel()
	broken := errors.New("connection refused")
	for name, again := range map[string]Again{
		"remote fails": func(_ context.Context, side Side) (Answer, error) {
			if side == Remote {
				return Answer{}, broken
			}
			return body(`{}`), nil
		},
		"local fails": func(_ context.Context, side Side) (Answer, error) {
			if side == Local {
				return Answer{}, broken
			}
			return body(`{}`), nil
		},
		"no answer": func(context.Context, Side) (Answer, error) { return Answer{}, nil },
		"panic":     func(context.Context, Side) (Answer, error) { panic(http.ErrAbortHandler) },
		"slow": func(ctx context.Context, _ Side) (Answer, error) {
			<-ctx.Done()
			return Answer{}, ctx.Err()
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				var logged bytes.Buffer
				m, err := New(Options{Module: "orders", Routes: []string{get}, Config: everything(), Log: slog.New(slog.NewTextHandler(&logged, nil))})
				if err != nil {
					t.Fatal(err)
				}
				start(t, m)
				began := time.Now()
				m.Offer(get, body(`{}`), again)
				m.Offer(get, body(`{}`), again)
				for one(m).Failed < 2 && time.Since(began) < time.Minute {
					time.Sleep(10 * time.Millisecond)
				}
				if diff := cmp.Diff(one(m), RouteReport{Route: get, Failed: 2}); diff != "" {
					t.Error("(-got +want)", diff)
				}
				if took := time.Since(began); name == "slow" && (took < 2*time.Second || took > 2100*time.Millisecond) {
					t.Errorf("took %s, and the time is 2s", took)
				}
				if panicked := strings.Contains(logged.String(), "panicked"); panicked != (name == "panic") {
					t.Error(logged.String())
				}
			})
		})
	}
}

// TestClose: what is on its way is given up at once, counted for nothing, and nothing more is taken.
func TestClose(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(m *Mirror, cancel func()){
		"close":        func(m *Mirror, _ func()) { m.Close(); m.Close() },
		"context ends": func(_ *Mirror, cancel func()) { cancel() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				c := everything()
				c.Limits.Concurrency = 2
				m := newMirror(t, c)
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				ended := make(chan error, 1)
				go func() { ended <- m.Run(ctx) }()
				different := sides{always(`1`), always(`2`)}
				m.Offer(get, body(`1`), different.again(nil)) // will wait to be confirmed
				synctest.Wait()
				for range 5 {
					m.Offer(get, body(`1`), func(ctx context.Context, _ Side) (Answer, error) {
						<-ctx.Done()
						return Answer{}, ctx.Err()
					})
				}
				synctest.Wait()
				now := time.Now()
				end(m, cancel)
				if err := <-ended; err != nil || time.Since(now) > 0 {
					t.Errorf("%v after %s", err, time.Since(now))
				}
				if m.Sample(get) {
					t.Error("a closed mirror takes more")
				}
				m.Offer(get, body(`1`), nil)
				if len(m.queue) != 0 || m.held.Load() != 0 {
					t.Errorf("%d are queued, %d bytes are held", len(m.queue), m.held.Load())
				}
				if diff := cmp.Diff(one(m), RouteReport{Route: get, Controls: 1}); diff != "" {
					t.Error("(-got +want)", diff)
				}
			})
		})
	}
}

// TestConcurrency: never more requests on their way than allowed.
func TestConcurrency(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := everything()
		c.Limits.Concurrency = 4
		m := newMirror(t, c)
		start(t, m)
		var now, most atomic.Int64
		for range 200 {
			m.Offer(get, body(`1`), func(context.Context, Side) (Answer, error) {
				n := now.Add(1)
				defer now.Add(-1)
				for old := most.Load(); n > old && !most.CompareAndSwap(old, n); old = most.Load() {
				}
				time.Sleep(10 * time.Millisecond)
				return body(`1`), nil
			})
		}
		time.Sleep(10 * time.Second)
		if r := one(m); most.Load() != 4 || r.Equal != 200 {
			t.Errorf("%d at a time, %+v", most.Load(), r)
		}
	})
}

// TestReportHasABound: whatever the remote side makes up, so many paths and samples are kept.
func TestReportHasABound(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := newMirror(t, everything())
		start(t, m)
		offerAll(m, 100, func(i int) sides {
			return sides{always(`{}`), func(n int) Answer {
				var b strings.Builder
				for k := range 200 {
					fmt.Fprintf(&b, `,"odd%dx%d":%d`, i, k, n)
				}
				if i < 30 && n > 1 {
					return body(`{}`) // skew comes first
				}
				return body("{" + b.String()[1:] + "}")
			}}
		})
		r := m.Report().Routes[0]
		if len(r.Paths) > maxPaths+1 || len(r.Samples) != maxSamples || r.Mismatch != 70 || r.Skew != 30 {
			t.Errorf("%d paths, %d samples, %d mismatches, %d skew", len(r.Paths), len(r.Samples), r.Mismatch, r.Skew)
		}
		for _, s := range r.Samples {
			if len(s.Differences) > maxShown || s.Result != Mismatch {
				t.Errorf("%+v", s)
			}
		}
		encoded, err := json.Marshal(m.Report())
		if err != nil || len(encoded) > 128<<10 {
			t.Errorf("%d bytes, %v", len(encoded), err)
		}
	})
}

// remotes that are in trouble: nothing listens, everything takes 30 s, or everything is as long as can be.
var remotes = map[string]func(ctx context.Context) (Answer, error){
	"dead": func(context.Context) (Answer, error) { return Answer{}, errors.New("connection refused") },
	"slow": func(ctx context.Context) (Answer, error) {
		select {
		case <-time.After(30 * time.Second):
			return body(`{}`), nil
		case <-ctx.Done():
			return Answer{}, ctx.Err()
		}
	},
	"flooding": func(context.Context) (Answer, error) {
		return body("[" + strings.Repeat("[],", 85_000) + "1]"), nil
	},
}

// TestMemoryHasABound offers more than could be held, as fast as it goes.
func TestMemoryHasABound(t *testing.T) {
	local := body(`{"text":"` + strings.Repeat("x", 100_000) + `"}`)
	for name, remote := range remotes {
		t.Run(name, func(t *testing.T) {
			c := everything()
			c.ConfirmAfter = time.Millisecond
			m := newMirror(t, c)
			start(t, m)
			again := func(ctx context.Context, side Side) (Answer, error) {
				if side == Remote {
					return remote(ctx)
				}
				return local, nil
			}
			runtime.GC()
			var before, now runtime.MemStats
			runtime.ReadMemStats(&before)
			var most uint64
			for i := range 3_000 {
				if m.Sample(get) {
					a := local
					a.Body = bytes.Clone(local.Body)
					m.Offer(get, a, again)
				}
				if held := m.held.Load(); held > c.Limits.Bytes+int64(cap(local.Body))+overhead {
					t.Fatalf("%d bytes are held", held)
				}
				if i%300 == 0 {
					runtime.GC()
					runtime.ReadMemStats(&now)
					most = max(most, now.HeapAlloc-min(now.HeapAlloc, before.HeapAlloc))
				}
			}
			r := one(m)
			t.Logf("%d MiB at most; %+v", most>>20, r)
			// Answers that wait, those on their way, and what one comparison takes.
			bound := uint64(c.Limits.Bytes) + 3*uint64(c.Limits.Concurrency*c.Limits.MaxBody) + 32<<20
			if most > bound {
				t.Errorf("%d bytes, and at most %d are allowed", most, bound)
			}
			if r.Dropped == 0 && name != "dead" {
				t.Error("nothing was dropped: the test shows nothing")
			}
		})
	}
}

// TestLongComparisonsRest: a remote side that answers what takes long to compare must not take a processor for itself.
func TestLongComparisonsRest(t *testing.T) {
	m := newMirror(t, everything())
	a, b := body("["+strings.Repeat("[1],", 60_000)+"1]"), body("["+strings.Repeat("[2],", 60_000)+"1]")
	with, without := time.Hour, time.Hour // the shortest in turns: a busy machine makes either longer
	for range 5 {
		began := time.Now()
		m.differs[get].Diff(a, b)
		without = min(without, time.Since(began))
		began = time.Now()
		m.diff(t.Context(), job{route: m.state.Load().routes[get]}, a, b)
		with = min(with, time.Since(began))
	}
	if with < 2*without {
		t.Errorf("%s with a rest, and %s without", with, without)
	}
}

// BenchmarkOffer is what a client's request pays, while the remote side is in trouble.
func BenchmarkOffer(b *testing.B) {
	local := body(`{"text":"` + strings.Repeat("x", 4000) + `"}`)
	for name, remote := range remotes {
		b.Run(name, func(b *testing.B) {
			m := newMirror(b, everything())
			start(b, m)
			again := func(ctx context.Context, side Side) (Answer, error) {
				if side == Remote {
					return remote(ctx)
				}
				return local, nil
			}
			b.ReportAllocs()
			for b.Loop() {
				if m.Sample(get) {
					m.Offer(get, local, again)
				}
			}
		})
	}
}

// BenchmarkOfferTaken is the longest way: there is room.
func BenchmarkOfferTaken(b *testing.B) {
	m := newMirror(b, everything())
	local := body(`{"text":"` + strings.Repeat("x", 4000) + `"}`)
	local.Header.Set("X-Request-Id", "0192f0c0")
	b.ReportAllocs()
	for b.Loop() {
		if !m.Sample(get) {
			b.Fatal("not taken")
		}
		m.Offer(get, local, nil)
		j := <-m.queue
		m.held.Add(-j.bytes)
	}
}
