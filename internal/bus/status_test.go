package bus_test

import (
	"database/sql"
	"testing"

	"github.com/banyan-go/banyan/internal/bustest"
	"github.com/banyan-go/banyan/internal/databasetest"
	"github.com/banyan-go/banyan/internal/unit"
)

// A store that hangs is not reachable, and makes no other one look so; whoever asks for one module asks its store alone.
func TestStatusOfAStoreThatHangs(t *testing.T) {
	t.Parallel()
	databasetest.Each(t, bustest.Modules, func(t *testing.T, e databasetest.Engine) {
		w := bustest.Prepare(t, e, bustest.Options{})
		var pools []*sql.DB
		for _, s := range []*unit.Store{w.Alpha, w.Gamma} {
			pools = append(pools, occupy(t, s))
		}
		all, _ := w.Bus.Status(t.Context())
		for name, want := range map[string]string{"alpha": "not reachable", "beta": "ok", "gamma": "not reachable"} {
			if got := all[name].Store; got != want {
				t.Errorf("of all, the store of %s is %q, want %q", name, got, want)
			}
		}
		waited := func() (n int64) {
			for _, p := range pools {
				n += p.Stats().WaitCount
			}
			return n
		}
		before := waited()
		if one, _ := w.Bus.Status(t.Context(), "beta"); len(one) != 1 || one["beta"].Store != "ok" || waited() != before {
			t.Errorf("asked for beta: %v, and %d questions to other stores", one, waited()-before)
		}
		if none, _ := w.Bus.Status(t.Context(), "delta"); len(none) != 0 {
			t.Errorf("asked for a module that is not there: %v", none)
		}
	})
}

// occupy has all connections that read the store busy, until the test ends.
func occupy(t *testing.T, s *unit.Store) *sql.DB {
	t.Helper()
	pool, err := s.Read(t.Context()).DB()
	if err != nil {
		t.Fatal(err)
	}
	for range pool.Stats().MaxOpenConnections {
		c, err := pool.Conn(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
	}
	return pool
}
