package users

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/banyan-go/banyan/internal/clock"
	"github.com/banyan-go/banyan/internal/database"
	"github.com/banyan-go/banyan/internal/databasetest"
	"github.com/banyan-go/banyan/internal/module"
	"github.com/banyan-go/banyan/internal/unit"
	"github.com/banyan-go/banyan/modules/users/internal/account"
)

var start = time.Date(2026, 3, 1, 9, 0, 0, 0, time.UTC)

// replica is one process of several on one store.
func replica(db *database.DB, c clock.Clock) *service {
	o := Descriptor().StoreOptions()
	o.Clock = c
	d := module.Deps{Store: unit.New(db, o), Clock: c, Log: slog.New(slog.DiscardHandler)}
	return &service{store: d.Store, clock: c, cfg: DefaultConfig(), sessions: newSessions(d)}
}

// In one process a store has one writer; two services on it are two replicas as far as memory is concerned.
func TestRevocationsReachOtherReplicas(t *testing.T) {
	t.Parallel()
	databasetest.Each(t, []string{"users"}, func(t *testing.T, e databasetest.Engine) {
		db := e.Store(t, "users")
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		// The clock of the replica that signs in is two seconds ahead.
		here, there := clock.NewSimulated(start), clock.NewSimulated(start.Add(2*time.Second))
		a, b := replica(db, here), replica(db, there)
		done := make(chan error, 1)
		go func() { done <- b.sessions.Run(ctx) }()

		var g grant
		do(t, b.store, func(_ context.Context, w *unit.Work) error {
			row := newUser(w.NewID(), account.Customer, "Ann", account.Email{}, w.Now())
			if err := add(w, row); err != nil {
				return err
			}
			var err error
			g, err = b.begin(w, *row)
			return err
		})
		c := g.claims
		if b.sessions.Revoked(c.Session, c.Subject, c.IssuedAt) {
			t.Fatal("revoked to begin with")
		}
		do(t, a.store, func(_ context.Context, w *unit.Work) error {
			_, err := a.revokeUser(w, c.Subject, "")
			return err
		})
		if !a.sessions.Revoked(c.Session, c.Subject, c.IssuedAt) {
			t.Error("the replica that revoked a session believes its token")
		}
		waitFor(t, there, time.Second, func() bool { return b.sessions.Revoked(c.Session, c.Subject, c.IssuedAt) })

		// A login at the replica whose clock is behind gives a token that is not revoked.
		do(t, a.store, func(_ context.Context, w *unit.Work) error {
			row, err := user(forUpdate(w.DB), c.Subject)
			if err != nil {
				return err
			}
			g, err = a.begin(w, row)
			return err
		})
		c = g.claims
		if a.sessions.Revoked(c.Session, c.Subject, c.IssuedAt) || b.sessions.Revoked(c.Session, c.Subject, c.IssuedAt) {
			t.Error("a login after the revocation is revoked")
		}
		// One session alone; and memory holds nothing that has expired.
		do(t, a.store, func(_ context.Context, w *unit.Work) error {
			_, err := a.revokeSession(w, c.Subject, c.Session)
			return err
		})
		waitFor(t, there, time.Second, func() bool { return b.sessions.Revoked(c.Session, c.Subject, c.IssuedAt) })
		waitFor(t, there, 2*longestAccess, func() bool {
			b.sessions.mu.RLock()
			defer b.sessions.mu.RUnlock()
			return len(b.sessions.sessions)+len(b.sessions.users) == 0
		})
		cancel()
		there.Advance(time.Second)
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func do(t *testing.T, s *unit.Store, fn func(context.Context, *unit.Work) error) {
	t.Helper()
	if err := s.Do(t.Context(), fn); err != nil {
		t.Fatal(err)
	}
}

// waitFor lets time pass on the clock, d at once, until ok: more than once, because the poll may begin to wait only after
// a step.
func waitFor(t *testing.T, c *clock.Simulated, d time.Duration, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for c.Advance(d); !ok(); c.Advance(pollEvery) {
		if time.Now().After(deadline) {
			t.Fatal("the other replica never hears of it")
		}
		<-time.After(5 * time.Millisecond)
	}
}

// A change of password keeps the session that it comes from.
func TestSessionsAreRevokedButOne(t *testing.T) {
	t.Parallel()
	s := newSessions(module.Deps{})
	s.add(revocationRow{ID: "r1", UserID: "u", IssuedUntil: start, ExceptSession: "kept", ExpiresAt: start.Add(time.Hour)})
	tests := []struct {
		name, session, subject string
		at                     time.Time
		want                   bool
	}{
		{"another session", "s", "u", start, true},
		{"the one that is kept", "kept", "u", start, false},
		{"issued later", "s", "u", start.Add(time.Microsecond), false},
		{"another user", "s", "v", start, false},
	}
	for _, tt := range tests {
		if got := s.Revoked(tt.session, tt.subject, tt.at); got != tt.want {
			t.Errorf("%s: got %v, want %v", tt.name, got, tt.want)
		}
	}
	s.add(revocationRow{ID: "r2", UserID: "u", IssuedUntil: start, ExpiresAt: start.Add(time.Hour)})
	if !s.Revoked("kept", "u", start) {
		t.Error("a later revocation of all sessions spares the one that an earlier one kept")
	}
}
