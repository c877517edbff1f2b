package database_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"gorm.io/gorm"

	"github.com/banyan-go/banyan/internal/database"
	"github.com/banyan-go/banyan/internal/databasetest"
	"github.com/banyan-go/banyan/internal/errs"
	"github.com/banyan-go/banyan/internal/testinfra"
)

const columns = "id INTEGER PRIMARY KEY, who TEXT NOT NULL, n INTEGER NOT NULL"

func open(t *testing.T, e databasetest.Engine) *database.DB {
	t.Helper()
	db := e.Store(t, "alpha")
	e.Table(t, db, "thing", columns)
	return db
}

func insert(who string, n int) func(tx *gorm.DB) error {
	return func(tx *gorm.DB) error { return tx.Exec("INSERT INTO thing (who, n) VALUES (?, ?)", who, n).Error }
}

func count(t *testing.T, db *database.DB, who string) int {
	t.Helper()
	var n int
	if err := db.Read(context.Background()).Raw("SELECT count(*) FROM thing WHERE who = ?", who).Row().Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

func TestConcurrentWritersLoseNothing(t *testing.T) {
	t.Parallel()
	databasetest.Each(t, []string{"alpha"}, func(t *testing.T, e databasetest.Engine) {
		db := open(t, e)
		if err := db.Write(t.Context(), insert("counter", 0)); err != nil {
			t.Fatal(err)
		}
		var all sync.WaitGroup
		for range 16 {
			all.Go(func() {
				for range 20 {
					err := db.Write(context.Background(), func(tx *gorm.DB) error {
						var n int
						lock := ""
						if db.Dialect() == database.Postgres {
							lock = " FOR UPDATE"
						}
						if err := tx.Raw("SELECT n FROM thing WHERE who = 'counter'" + lock).Row().Scan(&n); err != nil {
							return err
						}
						return tx.Exec("UPDATE thing SET n = ? WHERE who = 'counter'", n+1).Error
					})
					if err != nil {
						t.Error(err)
					}
				}
			})
		}
		all.Wait()
		var n int
		if err := db.Read(t.Context()).Raw("SELECT n FROM thing WHERE who = 'counter'").Row().Scan(&n); err != nil || n != 320 {
			t.Errorf("counter %d, error %v, want 320", n, err)
		}
	})
}

// A request that is cancelled, fails or panics inside a group commit leaves its neighbours alone.
func TestNeighboursSurvive(t *testing.T) {
	t.Parallel()
	databasetest.Each(t, []string{"alpha"}, func(t *testing.T, e databasetest.Engine) {
		db := open(t, e)
		hold := make(chan struct{})
		var all sync.WaitGroup
		all.Go(func() { // keeps the writer busy, so that the others make one group
			_ = db.Write(context.Background(), func(tx *gorm.DB) error { <-hold; return insert("first", 1)(tx) })
		})
		var good, bad atomic.Int64
		for i := range 40 {
			all.Go(func() {
				ctx, cancel := context.WithCancel(context.Background())
				defer cancel()
				err := db.Write(ctx, func(tx *gorm.DB) error {
					if err := insert("neighbour", i)(tx); err != nil {
						return err
					}
					switch i % 4 {
					case 0:
						cancel() // between two statements
						return insert("neighbour", -1)(tx)
					case 1:
						return errs.New(errs.Conflict, "no")
					case 2:
						panic("a bug")
					}
					return nil
				})
				if err == nil {
					good.Add(1)
				} else {
					bad.Add(1)
				}
			})
		}
		close(hold)
		all.Wait()
		if good.Load() != 10 || bad.Load() != 30 {
			t.Errorf("%d succeeded, %d failed; want 10 and 30", good.Load(), bad.Load())
		}
		if n := count(t, db, "neighbour"); n != 10 {
			t.Errorf("%d rows, want 10: each success and nothing else", n)
		}
	})
}

// Disk full: who needs the room gets an error, the others are stored, and the store works again with room.
func TestDiskFull(t *testing.T) {
	t.Parallel()
	db := open(t, databasetest.SQLite(t))
	var pages int
	if err := db.Write(t.Context(), func(tx *gorm.DB) error {
		if err := tx.Raw("PRAGMA page_count").Row().Scan(&pages); err != nil {
			return err
		}
		return tx.Exec(fmt.Sprintf("PRAGMA max_page_count = %d", pages+3)).Error
	}); err != nil {
		t.Fatal(err)
	}
	hold := make(chan struct{})
	var all sync.WaitGroup
	all.Go(func() { _ = db.Write(context.Background(), func(*gorm.DB) error { <-hold; return nil }) })
	var small, large atomic.Int64
	for i := range 20 {
		all.Go(func() {
			who := "small"
			if i == 10 {
				who = strings.Repeat("large", 20_000)
			}
			err := db.Write(context.Background(), insert(who, i))
			switch {
			case err == nil && i != 10:
				small.Add(1)
			case i == 10 && errs.Is(err, errs.Unavailable):
				large.Add(1)
			default:
				t.Errorf("writer %d: %v", i, err)
			}
		})
	}
	close(hold)
	all.Wait()
	if small.Load() != 19 || large.Load() != 1 || count(t, db, "small") != 19 {
		t.Errorf("%d small ones acknowledged, %d stored, want 19; %d large refused, want 1", small.Load(), count(t, db, "small"), large.Load())
	}
	if err := db.Write(t.Context(), func(tx *gorm.DB) error { return tx.Exec("PRAGMA max_page_count = 1000000").Error }); err != nil {
		t.Fatal(err)
	}
	if err := db.Write(t.Context(), insert(strings.Repeat("large", 20_000), 1)); err != nil {
		t.Errorf("with room again: %v", err)
	}
}

func TestReadersCannotWrite(t *testing.T) {
	t.Parallel()
	db := open(t, databasetest.SQLite(t))
	if err := db.Read(t.Context()).Exec("INSERT INTO thing (who, n) VALUES ('x', 1)").Error; err == nil {
		t.Error("a write through the reader was accepted")
	}
}

func TestTimesCompareAndComeBack(t *testing.T) {
	t.Parallel()
	databasetest.Each(t, []string{"alpha"}, func(t *testing.T, e databasetest.Engine) {
		db := e.Store(t, "alpha")
		zone := time.FixedZone("far", 9*3600)
		at := []time.Time{
			time.Date(2026, 1, 2, 3, 4, 5, 100_000_000, time.UTC), time.Date(2026, 1, 2, 3, 4, 5, 150_000_000, time.UTC),
			time.Date(2026, 1, 2, 12, 4, 5, 160_000_999, zone), time.Date(2026, 1, 2, 3, 4, 6, 0, time.UTC),
		}
		for i, a := range at {
			if err := db.Write(t.Context(), func(tx *gorm.DB) error {
				return tx.Exec("INSERT INTO timers (kind, name, key, due_at, first_at, attempt, payload) VALUES ('t', 'n', ?, ?, ?, 0, ?)", fmt.Sprint(i), a, a, []byte("{}")).Error
			}); err != nil {
				t.Fatal(err)
			}
		}
		var got []time.Time
		if err := db.Read(t.Context()).Raw("SELECT due_at FROM timers WHERE due_at <= ? ORDER BY due_at DESC", at[3].In(zone)).Scan(&got).Error; err != nil {
			t.Fatal(err)
		}
		for i := range at {
			if want := at[3-i].UTC().Truncate(time.Microsecond); i >= len(got) || !got[i].Equal(want) || got[i].Location() != time.UTC && got[i].UTC() != want {
				t.Fatalf("times %v, want %v backwards", got, at)
			}
		}
	})
}

func TestOneProcessPerFile(t *testing.T) {
	t.Parallel()
	e := databasetest.SQLite(t)
	e.Store(t, "alpha")
	second, err := database.Open(e.Config, e.Dir, 1, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := second.Store(t.Context(), "alpha"); err == nil || !strings.Contains(err.Error(), "held by another process") {
		t.Errorf("second opening: %v, want a refusal that says why", err)
	}
}

// A file that is none of SQLite's, or is damaged, is named, with what to do.
func TestDamagedFile(t *testing.T) {
	t.Parallel()
	for name, damage := range map[string]func(whole []byte) []byte{
		"another file": func([]byte) []byte { return []byte(strings.Repeat("no database ", 1000)) },
		"overwritten":  func(whole []byte) []byte { clear(whole[100:8000]); return whole },
	} {
		e := databasetest.SQLite(t)
		path := filepath.Join(e.Dir, "alpha.db")
		stores, err := database.Open(e.Config, e.Dir, 1, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := stores.Store(t.Context(), "alpha"); err != nil {
			t.Fatal(err)
		}
		if err := stores.Close(); err != nil {
			t.Fatal(err)
		}
		whole, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, damage(whole), 0o600); err != nil {
			t.Fatal(err)
		}
		if stores, err = database.Open(e.Config, e.Dir, 1, slog.New(slog.DiscardHandler)); err != nil {
			t.Fatal(err)
		}
		if _, err := stores.Store(t.Context(), "alpha"); err == nil || !strings.Contains(err.Error(), path+" is damaged") || !strings.Contains(err.Error(), "backup") {
			t.Errorf("%s: %v; want the file, and the way out", name, err)
		}
		if err := stores.Close(); err != nil {
			t.Error(err)
		}
	}
}

// The database refuses what a module's handle may not do; without its roles it would be allowed.
func TestRolesAreSeparate(t *testing.T) {
	t.Parallel()
	e := databasetest.Postgres(t, "alpha", "beta")
	alpha := e.Store(t, "alpha")
	for _, c := range []struct{ name, sql string }{
		{"read another schema", "SELECT count(*) FROM beta.outbox"},
		{"write another schema", "DELETE FROM beta.inbox"},
		{"read the control schema", "SELECT count(*) FROM control.signing_key"},
		{"change its own schema", "ALTER TABLE outbox ADD COLUMN more TEXT"},
		{"switch off its own triggers", "ALTER TABLE outbox DISABLE TRIGGER ALL"},
		{"make a table in public", "CREATE TABLE public.mine (id INT)"},
		{"become an owner", `SET ROLE "` + database.Role(dbName(t, e), "alpha") + `_owner"`},
		{"become another module", `SET ROLE "` + database.Role(dbName(t, e), "beta") + `"`},
	} {
		err := alpha.Write(t.Context(), func(tx *gorm.DB) error { return tx.Exec(c.sql).Error })
		if err == nil {
			t.Errorf("%s: allowed", c.name)
		}
	}
	// The counter-check: an administrator may do the same, so the refusals above come from the role.
	c, err := pgx.Connect(t.Context(), e.Config.Postgres.AdminDSN.Reveal())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close(context.Background()) }()
	if _, err := c.Exec(t.Context(), "SELECT count(*) FROM beta.outbox"); err != nil {
		t.Errorf("the administrator: %v", err)
	}
}

func dbName(t *testing.T, e databasetest.Engine) string {
	t.Helper()
	u, err := url.Parse(e.Config.Postgres.DSN)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimPrefix(u.Path, "/")
}

func TestMigrateAgainAndAtOnce(t *testing.T) {
	t.Parallel()
	e := databasetest.Postgres(t, "alpha")
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			if err := database.Migrate(context.Background(), e.Config.Postgres, []string{"alpha", "beta"}, slog.New(slog.DiscardHandler)); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	e.Store(t, "beta")
}

func TestServeNeedsMigrations(t *testing.T) {
	t.Parallel()
	e := databasetest.Postgres(t, "alpha")
	s := e.Open(t, 1)
	_, err := s.Store(t.Context(), "orders")
	if err == nil {
		t.Error("a store without a schema was opened")
	}
}

// A query outside of units of work does not fail because all connections of its pool were terminated.
func TestReadsAfterTerminatedSessions(t *testing.T) {
	t.Parallel()
	server := testinfra.StartPostgres(t, testinfra.Options{})
	dsn := server.Database(t)
	db := open(t, databasetest.PostgresAt(t, dsn, "alpha"))
	read := func() error {
		var n int
		return errors.Join(db.Read(t.Context()).Raw("SELECT 1 FROM pg_sleep(0.02)").Row().Scan(&n),
			db.Lookup(t.Context(), "SELECT 1 FROM pg_sleep(0.02)", nil, func(r database.Row) error { return r.Scan(&n) }))
	}
	for range 5 {
		var all sync.WaitGroup
		for range 3 { // so many connections
			all.Go(func() {
				if err := read(); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		if err := server.TerminateSessions(testinfra.Name(dsn)); err != nil {
			t.Fatal(err)
		}
	}
	var rows []int
	if err := db.Read(t.Context()).Raw("SELECT 1").Scan(&rows).Error; err != nil {
		t.Error(err)
	}
}

// What a lookup is planned with holds for itself alone, and one that fails leaves its connection as it was.
func TestLookup(t *testing.T) {
	databasetest.Each(t, []string{"alpha"}, func(t *testing.T, e databasetest.Engine) {
		db := open(t, e)
		for n := range 3 {
			if err := db.Write(t.Context(), insert("a", n)); err != nil {
				t.Fatal(err)
			}
		}
		stopped := errors.New("stop")
		var ns []int
		collect := func(r database.Row) error {
			var n int
			if err := r.Scan(&n); err != nil {
				return err
			}
			if ns = append(ns, n); len(ns) == 5 {
				return stopped
			}
			return nil
		}
		const query = "SELECT n FROM thing WHERE who = ? AND n >= ? ORDER BY id"
		for range 2 {
			if err := db.Lookup(t.Context(), query, []any{"a", 1}, collect); err != nil {
				t.Fatal(err)
			}
			if err := db.Lookup(t.Context(), "SELECT n FROM nothing", nil, collect); err == nil {
				t.Error("no error from a table that does not exist")
			}
		}
		if err := db.Lookup(t.Context(), query, []any{"a", 0}, collect); !errors.Is(err, stopped) {
			t.Errorf("error %v, want that of the caller", err)
		}
		if want := []int{1, 2, 1, 2, 0}; !slices.Equal(ns, want) {
			t.Errorf("%v, want %v", ns, want)
		}
		if db.Dialect() != database.Postgres {
			return
		}
		var within, after string
		if err := db.Lookup(t.Context(), "SELECT current_setting('enable_seqscan')", nil, func(r database.Row) error { return r.Scan(&within) }); err != nil {
			t.Fatal(err)
		}
		if err := db.Read(t.Context()).Raw("SELECT current_setting('enable_seqscan')").Row().Scan(&after); err != nil {
			t.Fatal(err)
		}
		if within != "off" || after != "on" {
			t.Errorf("sequential scans are %s within and %s after it", within, after)
		}
	})
}

// Sessions that are terminated under load, during the commit too: every acknowledged row is there, none twice, and the
// pool is back at once.
func TestTerminatedSessions(t *testing.T) {
	t.Parallel()
	server := testinfra.StartPostgres(t, testinfra.Options{})
	e := databasetest.PostgresAt(t, server.Database(t), "alpha")
	db := open(t, e)
	stop := make(chan struct{})
	var acked, unknown, refused atomic.Int64
	var mu sync.Mutex
	kept := map[string]bool{}
	var all sync.WaitGroup
	for worker := range 8 {
		all.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				who := fmt.Sprintf("%d-%d", worker, i)
				err := db.Write(context.Background(), insert(who, i))
				switch {
				case err == nil:
					acked.Add(1)
					mu.Lock()
					kept[who] = true
					mu.Unlock()
				case errors.Is(err, database.ErrOutcomeUnknown):
					unknown.Add(1)
				case errs.Transient(err):
					refused.Add(1)
				default:
					t.Errorf("unexpected: %v", err)
				}
			}
		})
	}
	for range 30 {
		<-time.After(20 * time.Millisecond)
		if err := server.TerminateSessions(dbName(t, e)); err != nil {
			t.Error(err)
		}
	}
	close(stop)
	all.Wait()
	var rows []string
	if err := retry(func() error { return db.Read(context.Background()).Raw("SELECT who FROM thing").Scan(&rows).Error }); err != nil {
		t.Fatal(err)
	}
	seen := map[string]int{}
	for _, r := range rows {
		seen[r]++
		if seen[r] > 1 {
			t.Errorf("%s is stored twice", r)
		}
	}
	for who := range kept {
		if seen[who] != 1 {
			t.Errorf("%s was acknowledged and is lost", who)
		}
	}
	if acked.Load() == 0 {
		t.Error("nothing was stored at all")
	}
	if extra := int64(len(rows)) - acked.Load(); extra < 0 || extra > unknown.Load() {
		t.Errorf("%d rows beyond the acknowledged ones, with %d unknown outcomes", extra, unknown.Load())
	}
	t.Logf("%d acknowledged, %d unknown, %d refused", acked.Load(), unknown.Load(), refused.Load())
}

func retry(fn func() error) (err error) {
	for range 100 {
		if err = fn(); err == nil {
			return nil
		}
		<-time.After(20 * time.Millisecond)
	}
	return err
}

func TestConfigNamesKeyAndWayOut(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		change func(*database.Config)
		want   string
	}{
		{func(c *database.Config) { c.Driver = "mysql" }, `database.driver: "mysql" is not sqlite or postgres`},
		{func(c *database.Config) { c.Driver = "postgres" }, "database.postgres.dsn: is empty"},
		{func(c *database.Config) {
			c.Driver, c.Postgres.DSN, c.Postgres.Secret, c.Postgres.MaxConnections = "postgres", "postgres://h/d", "s", 0
		}, "database.postgres.max_connections: 0 is not at least 1"},
	} {
		cfg := database.DefaultConfig()
		c.change(&cfg)
		if err := cfg.Validate(); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("error %v, want %q", err, c.want)
		}
	}
}

// A client that goes away while its statement runs interrupts nobody: the connection belongs to the whole group, so the
// statement ends in its own time, and the neighbours need not run again.
func TestCancelledStatementInterruptsNobody(t *testing.T) {
	t.Parallel()
	db := open(t, databasetest.SQLite(t))
	hold := make(chan struct{})
	var all sync.WaitGroup
	all.Go(func() { _ = db.Write(context.Background(), func(*gorm.DB) error { <-hold; return nil }) })
	var runs atomic.Int64
	for i := range 40 {
		if i%10 != 5 {
			all.Go(func() {
				if err := db.Write(context.Background(), func(tx *gorm.DB) error { runs.Add(1); return insert("neighbour", i)(tx) }); err != nil {
					t.Errorf("neighbour %d: %v", i, err)
				}
			})
			continue
		}
		all.Go(func() {
			ctx, cancel := context.WithCancel(context.Background())
			err := db.Write(ctx, func(tx *gorm.DB) error {
				time.AfterFunc(5*time.Millisecond, cancel)
				if err := tx.Exec("INSERT INTO thing (who, n) WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < 100000) SELECT 'gone', n FROM c").Error; err != nil {
					return err
				}
				<-ctx.Done()
				return insert("gone", 0)(tx)
			})
			if err == nil {
				t.Error("the one that went away was stored")
			}
		})
	}
	close(hold)
	all.Wait()
	if n := count(t, db, "neighbour"); n != 36 || runs.Load() != 36 {
		t.Errorf("%d neighbours stored after %d runs, want 36 and 36", n, runs.Load())
	}
	if n := count(t, db, "gone"); n != 0 {
		t.Errorf("%d rows of the one that went away", n)
	}
}
