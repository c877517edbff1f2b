package e2e

import (
	"database/sql"
	"math/rand/v2"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// Two replicas on one database under load, one of them killed and started again: the books agree.
func TestTwoReplicas(t *testing.T) {
	t.Parallel()
	a := postgres(t, false)
	a.env = append(a.env, "BANYAN_MODULES_PAYMENTS_PROVIDER_FILE="+filepath.Join(a.dir, "payments", "provider.jsonl"))
	b := a.replica()
	a.start()
	b.start()
	l := newLedger(t, a)
	l.any = func() *shop {
		if rand.IntN(2) == 0 {
			return b
		}
		return a
	}
	l.run(6, 40, func(n int) {
		if n == 100 {
			b.kill()
			b.start()
		}
	})
	l.any = func() *shop { return a }
	l.check()
	a.checkDeadlocks()
}

// checkDeadlocks finds transactions that the server ended because they waited for each other in a circle.
func (s *shop) checkDeadlocks() {
	s.t.Helper()
	db, err := sql.Open("pgx", s.server.DSN(s.dbName))
	if err != nil {
		s.t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	var n int
	if err := db.QueryRow("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()").Scan(&n); err != nil || n != 0 {
		s.t.Errorf("%d times transactions waited for each other in a circle (%v)", n, err)
	}
}

// The database's sessions are terminated again and again, and the server is restarted, while orders come: every one that
// was acknowledged is there once, and nobody has to restart the shop.
func TestDatabaseGoesAway(t *testing.T) {
	t.Parallel()
	s := postgres(t, true)
	s.start()
	l := newLedger(t, s)
	stop := make(chan struct{})
	var faults sync.WaitGroup
	faults.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			case <-time.After(300 * time.Millisecond):
			}
			if i == 8 {
				if err := s.server.Restart(); err != nil {
					t.Error(err)
				}
				continue
			}
			if err := s.server.TerminateSessions(s.dbName); err != nil {
				t.Error(err)
			}
		}
	})
	end := sync.OnceFunc(func() {
		close(stop)
		faults.Wait()
	})
	defer end()
	l.run(6, 30, nil)
	end()
	l.check()
}
