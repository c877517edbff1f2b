package ownership

import (
	"context"
	"maps"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/banyan-go/banyan/internal/errs"
)

// manyReads is when memory gives up, so that a loop without end ends.
const manyReads = 100_000

// memory is a registry that can be away, or whose clock can jump.
type memory struct {
	mu        sync.Mutex
	away      bool
	jumped    time.Duration
	records   map[string]Record
	processes map[string]Process
	refuses   bool // to move anything
	reads     int
}

func newMemory() *memory {
	return &memory{records: map[string]Record{}, processes: map[string]Process{}}
}

func (m *memory) do(fn func()) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.away || m.reads > manyReads {
		return errs.New(errs.Unavailable, "away")
	}
	fn()
	return nil
}

func (m *memory) now() time.Time { return time.Now().Add(m.jumped) }

func (m *memory) Read(context.Context) (s Snapshot, err error) {
	err = m.do(func() {
		m.reads++
		s.Records = maps.Clone(m.records)
		for _, p := range m.processes {
			p.Age = m.now().Sub(p.SeenAt)
			s.Processes = append(s.Processes, p)
		}
	})
	return s, err
}

func (m *memory) Register(_ context.Context, p Process) error {
	return m.do(func() {
		p.SeenAt = m.now()
		m.processes[p.ID] = p
	})
}

func (m *memory) Leave(_ context.Context, id string) error {
	return m.do(func() { delete(m.processes, id) })
}

func (m *memory) Move(_ context.Context, from, to Record, _ Cause) (err error) {
	away := m.do(func() {
		if m.refuses || m.records[from.Module].Version > from.Version {
			err = ErrMoved
			return
		}
		to.Version, to.ChangedAt = from.Version+1, m.now()
		m.records[to.Module] = to
	})
	if away != nil {
		return away
	}
	return err
}

func (m *memory) Journal(context.Context, string, int) ([]Entry, error) { return nil, nil }
func (m *memory) Watch(ctx context.Context, _ func()) error             { <-ctx.Done(); return nil }

func (m *memory) set(fn func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	fn()
}

// runs starts a process in the bubble of a test, which follows the records or none of them.
func runs(t *testing.T, m *memory, id, module string, ttl time.Duration, follows bool) *Owners {
	t.Helper()
	o, err := Open(t.Context(), m, Options{Self: Process{ID: id, Module: module}, Modules: []string{"payments"}, Shared: true, TTL: ttl, Broker: func() string { return BrokerReady }})
	if err != nil {
		t.Fatal(err)
	}
	var f *Follower
	f = o.Follow(func(records []Record) {
		for _, r := range records {
			if follows {
				f.Done(r.Module, r.Version)
			}
		}
	})
	go func() { _ = o.Run(t.Context()) }()
	return o
}

func lives(o *Owners, id string) bool {
	_, live := o.Status()
	return slices.ContainsFunc(live, func(p Process) bool { return p.ID == id })
}

// Who could not look counts nobody as gone for that, and gives up no change; who is gone for good is, in the end.
func TestBlindness(t *testing.T) {
	t.Parallel()
	for name, blind := range map[string]func(m *memory){
		"the store is away": func(m *memory) {
			m.set(func() { m.away = true })
			time.Sleep(2 * time.Hour)
			m.set(func() { m.away = false })
		},
		"its clock jumps": func(m *memory) { m.set(func() { m.jumped = 2 * time.Hour }) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				m := newMemory()
				shop := runs(t, m, "shop", "", 3*time.Second, true)
				time.Sleep(500 * time.Millisecond) // the other looks, and registers, at other moments
				pay := runs(t, m, "pay", "payments", 3*time.Second, false)
				dead := Process{ID: "dead", Module: "payments"}
				if err := m.Register(t.Context(), dead); err != nil {
					t.Fatal(err)
				}
				time.Sleep(5 * time.Second)
				if _, err := shop.Set(t.Context(), "payments", Wish{Placement: Remote}, Cause{}); err != nil {
					t.Fatal(err)
				}
				time.Sleep(5 * time.Second)
				if !lives(shop, "pay") || lives(shop, "dead") {
					t.Fatal("who lives is not known")
				}
				blind(m)
				for range 1000 {
					time.Sleep(10 * time.Millisecond)
					if !lives(shop, "pay") || !lives(pay, "shop") || lives(shop, "dead") {
						t.Fatal("who lives counts as gone, or who is gone as alive")
					}
					if r := shop.Record("payments"); r.Placement != Remote {
						t.Fatal("the change was given up")
					}
				}
				time.Sleep(forgetAfter)
				m.set(func() {
					if ids := slices.Sorted(maps.Keys(m.processes)); !slices.Equal(ids, []string{"pay", "shop"}) {
						t.Errorf("registered are %v", ids)
					}
				})
			})
		})
	}
}

// A process that dies while nobody can look is gone a while after that, also if every look takes long from then on.
func TestGoneInTheDark(t *testing.T) {
	t.Parallel()
	s, at, now := sightings{ttl: 3 * time.Second}, time.Now(), time.Now()
	look := func(after time.Duration) bool {
		now = now.Add(after)
		p := []Process{{ID: "pay", SeenAt: at, Age: now.Sub(at)}}
		s.look(p, now)
		return len(alive(p, s.ttl)) == 1
	}
	for _, after := range []time.Duration{0, time.Second, time.Hour, 2 * time.Second, 2 * time.Second} {
		if !look(after) {
			t.Errorf("gone %s after the last look", after)
		}
	}
	if look(2 * time.Second) {
		t.Error("alive for ever")
	}
}

// The shortest registration that bus.lease_ttl allows is renewed before it runs out.
func TestShortRegistration(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := newMemory()
		const ttl = 300 * time.Millisecond
		shop := runs(t, m, "shop", "", ttl, true)
		runs(t, m, "pay", "payments", ttl, true)
		time.Sleep(time.Second)
		for range 1000 {
			time.Sleep(10 * time.Millisecond)
			if !lives(shop, "pay") || !lives(shop, "shop") {
				t.Fatal("who lives counts as gone")
			}
			m.set(func() {
				for id, p := range m.processes {
					if age := m.now().Sub(p.SeenAt); age > ttl {
						t.Fatalf("%s has not registered for %s", id, age)
					}
				}
			})
		}
	})
}

// A change that somebody else was faster with is looked at again when it is time, not at once and for ever.
func TestRefusedMoves(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := newMemory()
		shop := runs(t, m, "shop", "", 3*time.Second, true)
		runs(t, m, "pay", "payments", 3*time.Second, true)
		time.Sleep(5 * time.Second)
		m.set(func() {
			m.refuses, m.reads = true, 0
			m.records["payments"] = Record{Module: "payments", Wish: Wish{Placement: Remote}, Owner: Away, Epoch: 2, Version: 1, Step: Settling}
		})
		shop.Nudge()
		time.Sleep(10 * time.Second)
		m.set(func() {
			if m.reads > 100 {
				t.Errorf("%d reads in ten seconds", m.reads)
			}
		})
	})
}
