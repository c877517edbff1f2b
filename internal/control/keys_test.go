package control_test

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"gorm.io/gorm"

	"github.com/banyan-go/banyan/internal/clock"
	"github.com/banyan-go/banyan/internal/control"
	"github.com/banyan-go/banyan/internal/database"
	"github.com/banyan-go/banyan/internal/databasetest"
	"github.com/banyan-go/banyan/internal/errs"
	"github.com/banyan-go/banyan/internal/token"
)

var start = time.Date(2026, 11, 2, 10, 0, 0, 0, time.UTC)

// shop is a control store with processes around it.
type shop struct {
	t     *testing.T
	db    *database.DB
	clock *clock.Simulated
}

func each(t *testing.T, fn func(s shop)) {
	databasetest.Each(t, nil, func(t *testing.T, e databasetest.Engine) {
		fn(shop{t: t, db: e.Store(t, database.Control), clock: clock.NewSimulated(start)})
	})
}

func (s shop) ring(change ...func(*control.RingOptions)) *control.Ring {
	s.t.Helper()
	o := control.RingOptions{Clock: s.clock}
	for _, c := range change {
		c(&o)
	}
	r, err := control.OpenRing(s.t.Context(), s.db, o)
	if err != nil {
		s.t.Fatal(err)
	}
	return r
}

func publicOnly(o *control.RingOptions) { o.PublicOnly = true }

func (s shop) issue(r *control.Ring) (signed, id string) {
	s.t.Helper()
	now := s.clock.Now()
	signed, err := r.Issue(token.Claims{Subject: "u1", Role: "customer", Session: "s1", IssuedAt: now, ExpiresAt: now.Add(token.MaxLife)})
	if err != nil {
		s.t.Fatal(err)
	}
	return signed, token.UnverifiedKeyID(signed)
}

func (s shop) believes(r *control.Ring, signed string) bool {
	_, err := r.Verify(signed, s.clock.Now())
	return err == nil
}

func (s shop) rotate(r *control.Ring, o control.RotateOptions) control.KeyInfo {
	s.t.Helper()
	info, err := r.Rotate(s.t.Context(), o)
	if err != nil {
		s.t.Fatal(err)
	}
	return info
}

// refresh lets a ring read as its Run does every half minute.
func (s shop) refresh(r *control.Ring) {
	s.t.Helper()
	s.clock.Advance(5 * time.Second)         // the pause since the last reading
	_, _ = r.Public(strings.Repeat("x", 43)) // nobody has that key: the ring looks for it
}

func (s shop) states(r *control.Ring) []control.KeyState {
	s.t.Helper()
	keys, err := r.Keys(s.t.Context())
	if err != nil {
		s.t.Fatal(err)
	}
	states := make([]control.KeyState, len(keys))
	for i, k := range keys {
		states[i] = k.State
	}
	return states
}

func TestReplicasAgreeOnTheFirstKey(t *testing.T) {
	t.Parallel()
	each(t, func(s shop) {
		ids := make([]string, 8)
		var wg sync.WaitGroup
		for i := range ids {
			wg.Go(func() {
				r, err := control.OpenRing(s.t.Context(), s.db, control.RingOptions{Clock: s.clock})
				if err != nil {
					s.t.Error(err)
					return
				}
				_, ids[i] = s.issue(r)
			})
		}
		wg.Wait()
		if slices.Sort(ids); ids[0] == "" || ids[0] != ids[len(ids)-1] {
			s.t.Errorf("keys: %q", ids)
		}
	})
}

// TestRotation follows a key through its life, seen by two replicas and a process that only verifies.
func TestRotation(t *testing.T) {
	t.Parallel()
	each(t, func(s shop) {
		one, two := s.ring(), s.ring()
		module := s.ring(publicOnly)
		old, oldID := s.issue(one)
		info := s.rotate(one, control.RotateOptions{})
		if info.State != control.KeyWaits || !info.SignsAt.Equal(start.Add(2*time.Minute)) || info.ID == oldID {
			s.t.Errorf("the new key: %+v", info)
		}
		if got := s.states(two); !slices.Equal(got, []control.KeyState{control.KeyWaits, control.KeySigns}) {
			s.t.Errorf("states after the rotation: %q", got)
		}
		if _, err := two.Rotate(s.t.Context(), control.RotateOptions{}); !errs.Is(err, errs.Conflict) {
			s.t.Errorf("a second rotation at once: %v", err)
		}

		// It is announced before it signs, for longer than it takes anybody to read it.
		if !strings.Contains(string(one.JWKS()), info.ID) {
			s.t.Error("the new key is not in the key set")
		}
		for _, r := range []*control.Ring{two, module} {
			s.refresh(r)
			if _, ok := r.Public(info.ID); !ok {
				s.t.Error("a replica that has read the keys does not know the new one")
			}
		}
		s.clock.Advance(100 * time.Second)
		s.refresh(one)
		if _, id := s.issue(one); id != oldID {
			s.t.Errorf("after %s the new key signs", s.clock.Now().Sub(start))
		}

		s.clock.Advance(10 * time.Second)
		s.refresh(one)
		fresh, id := s.issue(one)
		if id != info.ID {
			s.t.Errorf("after %s the old key still signs", s.clock.Now().Sub(start))
		}
		for name, r := range map[string]*control.Ring{"one": one, "two": two, "module": module} {
			if !s.believes(r, fresh) || !s.believes(r, old) {
				s.t.Errorf("%s believes the new key: %v, the old one: %v", name, s.believes(r, fresh), s.believes(r, old))
			}
		}
		if got := s.states(one); !slices.Equal(got, []control.KeyState{control.KeySigns, control.KeyVerifies}) {
			s.t.Errorf("states once the new key signs: %q", got)
		}

		// A replica that is late signs with the old key, and is believed as long as that token is valid.
		last, id := s.issue(two)
		if id != oldID {
			s.t.Errorf("the late replica signs with %s", id)
		}
		s.clock.Advance(token.MaxLife - 10*time.Second)
		s.refresh(one)
		if !s.believes(one, last) {
			s.t.Error("a token of the old key is refused within its time")
		}
		s.clock.Advance(15 * time.Minute)
		s.refresh(one)
		s.refresh(module)
		for name, r := range map[string]*control.Ring{"one": one, "module": module} {
			if _, ok := r.Public(oldID); ok {
				s.t.Errorf("%s still knows the old key", name)
			}
		}
		if got := s.states(one); !slices.Equal(got, []control.KeyState{control.KeySigns}) {
			s.t.Errorf("states at the end: %q", got)
		}
	})
}

// TestUnknownKeyIsLookedFor: a replica that has not read the keys since finds a new one when it is used, but whoever makes
// up ids does not make it read each time.
func TestUnknownKeyIsLookedFor(t *testing.T) {
	t.Parallel()
	each(t, func(s shop) {
		one, two := s.ring(), s.ring()
		s.rotate(one, control.RotateOptions{Compromised: true})
		fresh, id := s.issue(one)
		if !s.believes(two, fresh) {
			s.t.Error("the new key is not found")
		}
		if got, ok := two.Public(id); !ok || len(got) == 0 {
			s.t.Error("the new key is not found by its id")
		}
		s.clock.Advance(time.Minute)
		_, _ = two.Public(strings.Repeat("x", 43)) // a made-up id makes it read
		s.rotate(one, control.RotateOptions{Compromised: true})
		fresh, _ = s.issue(one)
		if s.believes(two, fresh) {
			s.t.Error("it was read again within the pause")
		}
		s.clock.Advance(5 * time.Second)
		if !s.believes(two, fresh) {
			s.t.Error("the new key is not found after the pause")
		}
	})
}

func TestCompromisedKeysAreDropped(t *testing.T) {
	t.Parallel()
	each(t, func(s shop) {
		var dropped atomic.Int32
		one := s.ring()
		two := s.ring(func(o *control.RingOptions) { o.Dropped = func() { dropped.Add(1) } })
		old, _ := s.issue(one)
		s.rotate(one, control.RotateOptions{})
		s.refresh(two)
		if dropped.Load() != 0 {
			s.t.Error("a key that was added is told as dropped")
		}
		info := s.rotate(one, control.RotateOptions{Compromised: true})
		if info.State != control.KeySigns {
			s.t.Errorf("the new key: %+v", info)
		}
		if s.believes(one, old) {
			s.t.Error("a token of the compromised key is believed")
		}
		s.refresh(two)
		if s.believes(two, old) || dropped.Load() != 1 {
			s.t.Errorf("another replica: believed %v, told %d times", s.believes(two, old), dropped.Load())
		}
		if got := s.states(two); !slices.Equal(got, []control.KeyState{control.KeySigns}) {
			s.t.Errorf("states: %q", got)
		}
	})
}

func TestPublicOnlyCannotSign(t *testing.T) {
	t.Parallel()
	each(t, func(s shop) {
		if _, err := control.OpenRing(s.t.Context(), s.db, control.RingOptions{PublicOnly: true}); err == nil || !strings.Contains(err.Error(), "banyan serve") {
			s.t.Errorf("without any key: %v", err)
		}
		full := s.ring()
		r := s.ring(publicOnly)
		if _, err := r.Signer(); err == nil {
			s.t.Error("it has a key that signs")
		}
		signed, _ := s.issue(full)
		if !s.believes(r, signed) {
			s.t.Error("it believes nothing")
		}
		var set struct{ Keys []map[string]string }
		if err := json.Unmarshal(r.JWKS(), &set); err != nil || len(set.Keys) != 1 || set.Keys[0]["d"] != "" {
			s.t.Errorf("key set %s, %v", r.JWKS(), err)
		}
	})
}

// TestKeysOfBefore: keys that were stored without their public half and a time go on.
func TestKeysOfBefore(t *testing.T) {
	t.Parallel()
	each(t, func(s shop) {
		k, err := token.NewKey()
		if err != nil {
			s.t.Fatal(err)
		}
		b, err := k.Marshal()
		if err != nil {
			s.t.Fatal(err)
		}
		if err := s.db.Write(s.t.Context(), func(tx *gorm.DB) error {
			return tx.Exec("INSERT INTO signing_key (id, private_key, created_at) VALUES (?, ?, ?)", k.ID, b, start.Add(-time.Hour)).Error
		}); err != nil {
			s.t.Fatal(err)
		}
		if _, id := s.issue(s.ring()); id != k.ID {
			s.t.Errorf("it signs with %s", id)
		}
		if _, ok := s.ring(publicOnly).Public(k.ID); !ok {
			s.t.Error("its public half is not stored")
		}
	})
}

func TestRingRuns(t *testing.T) {
	t.Parallel()
	each(t, func(s shop) {
		one, two := s.ring(), s.ring()
		ctx, cancel := context.WithCancel(s.t.Context())
		done := make(chan error, 1)
		go func() { done <- two.Run(ctx) }()
		info := s.rotate(one, control.RotateOptions{})
		until := time.Now().Add(30 * time.Second)
		for !strings.Contains(string(two.JWKS()), info.ID) {
			if time.Now().After(until) {
				s.t.Fatal("the other replica does not read the keys")
			}
			s.clock.Advance(30 * time.Second)
			time.Sleep(time.Millisecond)
		}
		cancel()
		if err := <-done; err != nil {
			s.t.Error(err)
		}
	})
}
