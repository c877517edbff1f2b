package bus_test

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/banyan-go/banyan/internal/bus"
	"github.com/banyan-go/banyan/internal/bustest"
	"github.com/banyan-go/banyan/internal/database"
	"github.com/banyan-go/banyan/internal/databasetest"
	"github.com/banyan-go/banyan/internal/message"
	"github.com/banyan-go/banyan/internal/module"
	"github.com/banyan-go/banyan/internal/ownership"
	"github.com/banyan-go/banyan/internal/unit"
)

// follow has a bus follow a control store until the test ends.
func follow(t *testing.T, b *bus.Bus, registry *ownership.Store, o ownership.Options) *ownership.Owners {
	t.Helper()
	owners, err := ownership.Open(t.Context(), registry, o)
	if err != nil {
		t.Fatal(err)
	}
	b.Follow(owners)
	ctx, end := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- owners.Run(ctx) }()
	t.Cleanup(func() {
		end()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return owners
}

// An effect that a process had begun when it died is called by the next one as soon as no other lives that could be calling it, and not
// before: its row would give it half a minute.
func TestEffectsOfADeadProcess(t *testing.T) {
	t.Parallel()
	e := databasetest.Postgres(t, database.Control, "beta")
	called := make(chan time.Time, 1)
	s, err := bustest.SetStage(t, e, bustest.StageOptions{Real: true, Control: true}, bustest.Part{
		Descriptor: module.Descriptor{Name: "beta", Effects: []string{"call"}, Contract: message.Contract{Module: "beta"}},
		Bind: func(m *module.Module, _ *unit.Store) {
			module.OnEffect(m, "call", func(context.Context, string, int) error { called <- time.Now(); return nil })
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	payload, _ := json.Marshal(1)
	earlier := time.Now().Add(-time.Minute)
	s.Do("beta", func(u *unit.Work) error {
		return u.DB.Exec("INSERT INTO timers (kind, name, key, due_at, first_at, attempt, payload) VALUES (?, 'call', 'a', ?, ?, 0, ?)",
			unit.KindEffect, time.Now().Add(unit.EffectGrace), earlier, payload).Error
	})
	records := ownership.NewStore(e.Store(t, database.Control))
	const ttl = 2 * time.Second
	register := func() {
		t.Helper()
		if err := records.Register(t.Context(), ownership.Process{ID: "other", StartedAt: earlier}); err != nil {
			t.Fatal(err)
		}
	}
	register()
	follow(t, s.Bus, records, ownership.Options{Self: ownership.Process{ID: "self"}, Modules: []string{"beta"}, Shared: true, TTL: ttl})
	s.Run()
	var last time.Time
	for range 10 {
		register()
		last = time.Now()
		select {
		case <-called:
			t.Fatal("called while the other process lives")
		case <-time.After(ttl / 8):
		}
	}
	select {
	case at := <-called:
		t.Logf("called %s after the last sign of life", at.Sub(last))
	case <-time.After(unit.EffectGrace / 2):
		t.Error("not called although nobody else lives")
	}
}

// The file of a module is given up when the effects that are under way have their outcomes.
func TestEffectsEndBeforeTheFileGoes(t *testing.T) {
	t.Parallel()
	e := databasetest.SQLite(t)
	var calls atomic.Int32
	free := make(chan struct{})
	part := bustest.Part{
		Descriptor: module.Descriptor{Name: "beta", Effects: []string{"call"}, Contract: message.Contract{Module: "beta"}},
		Bind: func(m *module.Module, s *unit.Store) {
			module.OnEffect(m, "call", func(ctx context.Context, key string, n int) error {
				calls.Add(1)
				<-free
				return s.Do(ctx, func(_ context.Context, u *unit.Work) error { u.FinishEffect("call", key); return nil })
			})
		},
	}
	home, err := bustest.SetStage(t, e, bustest.StageOptions{Real: true}, part)
	if err != nil {
		t.Fatal(err)
	}
	db := e.Store(t, database.Control)
	registry := ownership.NewStore(db)
	owners := follow(t, home.Bus, registry, ownership.Options{Self: ownership.Process{ID: "home"}, Modules: []string{"beta"}})
	home.Run()
	home.Do("beta", func(u *unit.Work) error { u.Effect("call", "a", 1); return nil })
	home.Eventually("the effect is called", func() bool { return calls.Load() == 1 })
	from := owners.Record("beta")
	to := from
	to.Placement, to.Step, to.Version = ownership.Remote, ownership.Closing, from.Version+1
	if err := registry.Move(t.Context(), from, to, ownership.Cause{Caller: "a test"}); err != nil {
		t.Fatal(err)
	}
	owners.Nudge()
	time.AfterFunc(500*time.Millisecond, func() { close(free) })
	home.Eventually("the file is given up", func() bool {
		f, err := os.Open(filepath.Join(e.Dir, "beta.db.lock"))
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = f.Close() }()
		return unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil
	})
	away := bustest.OpenStage(t, e, bustest.StageOptions{Real: true}, part)
	away.Settle()
	if n := calls.Load(); n != 1 {
		t.Errorf("the effect was called %d times", n)
	}
}

// A control store that was restored from a backup has an older epoch than the lease of a module: the owner passes it, and gets the lease.
func TestLeaseOfALaterEpoch(t *testing.T) {
	t.Parallel()
	e := databasetest.Postgres(t, database.Control, "beta") // a SQLite file has no lease
	s, err := bustest.SetStage(t, e, bustest.StageOptions{Real: true, Control: true}, bustest.Part{
		Descriptor: module.Descriptor{Name: "beta", Contract: message.Contract{Module: "beta"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	s.Do("beta", func(u *unit.Work) error {
		return u.DB.Exec("INSERT INTO lease (name, holder, epoch, expires_at, term) VALUES ('owner', 'before', 9, clock_timestamp(), 5)").Error
	})
	owners := follow(t, s.Bus, ownership.NewStore(e.Store(t, database.Control)), ownership.Options{Self: ownership.Process{ID: "self"}, Modules: []string{"beta"}, Shared: true})
	s.Run()
	s.Eventually("it is the owner", func() bool {
		m, _ := s.Bus.Status(t.Context())
		return m["beta"].Owner
	})
	if epoch := owners.Record("beta").Epoch; epoch != 6 {
		t.Errorf("the epoch is %d", epoch)
	}
}
