package bus_test

import (
	"context"
	"os"
	"runtime"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/banyan-go/banyan/internal/bustest"
	"github.com/banyan-go/banyan/internal/databasetest"
)

// terminate ends all sessions of the modules in the engine's database.
func terminate(t testing.TB, e databasetest.Engine) {
	t.Helper()
	c, err := pgx.Connect(context.Background(), e.Config.Postgres.AdminDSN.Reveal())
	if err != nil {
		t.Error(err)
		return
	}
	defer func() { _ = c.Close(context.Background()) }()
	if _, err := c.Exec(context.Background(), "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"); err != nil {
		t.Error(err)
	}
}

// TestBacklog drains a backlog of 20,000 messages, with BANYAN_TEST_SOAK set of a million, or of as many as it says: memory stays bounded, and
// the last tenth is at least half as fast as the first one, or, in a few seconds beside other tests, as the middle one.
func TestBacklog(t *testing.T) {
	databasetest.Each(t, bustest.Modules, func(t *testing.T, e databasetest.Engine) {
		many, within := 20_000, 60*time.Second
		soak := os.Getenv("BANYAN_TEST_SOAK")
		if soak != "" {
			many, within = 1_000_000, 30*time.Minute
			if n, err := strconv.Atoi(soak); err == nil && n >= 1000 {
				many = n
			}
		}
		w := bustest.Prepare(t, e, bustest.Options{})
		backlog(t, w.Alpha, many, 500)
		heap := func() uint64 {
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			return m.HeapInuse
		}
		runtime.GC()
		before, peak := heap(), uint64(0)
		tenth := many / 10
		took := make([]time.Duration, 0, 10)
		start := time.Now()
		began := start
		w.Run()
		for i := 1; i <= 10; i++ {
			bustest.Eventually(t, "the next tenth is handled", within, func() bool {
				<-time.After(10 * time.Millisecond)
				peak = max(peak, heap())
				return bustest.Count(t, w.Beta, "SELECT coalesce(max(position), 0) FROM seen") >= i*tenth
			})
			took = append(took, time.Since(began))
			began = time.Now()
		}
		w.Settle()
		want(t, "handled", bustest.Count(t, w.Beta, "SELECT count(*) FROM seen"), many)
		first, last := took[0], took[9]
		t.Logf("%d messages in %s; first tenth %s, last tenth %s; heap %d MiB before, %d MiB at most", many, time.Since(start).Round(time.Millisecond), first.Round(time.Millisecond), last.Round(time.Millisecond), before>>20, peak>>20)
		if soak == "" {
			slices.Sort(took)
			first = took[5]
		}
		if last > 2*first+500*time.Millisecond { // the constant is for a busy machine
			t.Errorf("the last tenth took %s, another one %s", last, first)
		}
		if grown := int64(peak) - int64(before); grown > 96<<20 {
			t.Errorf("the heap grew by %d MiB", grown>>20)
		}
	})
}
