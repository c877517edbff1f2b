package testinfra

import (
	"context"
	"errors"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

func dial(t *testing.T, dsn string) *pgx.Conn {
	t.Helper()
	c, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close(context.Background()) })
	return c
}

func run(t *testing.T, c *pgx.Conn, sql string) {
	t.Helper()
	if _, err := c.Exec(t.Context(), sql); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

func TestDatabasesAreSeparateAndDropped(t *testing.T) {
	t.Parallel()
	srv := Postgres(t)
	var first string
	t.Run("made", func(t *testing.T) {
		first = srv.Database(t)
		second := srv.Database(t)
		if Name(first) == Name(second) || Name(first) == "" {
			t.Fatalf("got the names %q and %q, want two", Name(first), Name(second))
		}
		c := dial(t, first)
		run(t, c, "CREATE TABLE here (id int)")
		run(t, c, "CREATE ROLE "+Name(first)+"_orders LOGIN PASSWORD 'x'")
		run(t, c, "GRANT SELECT ON here TO "+Name(first)+"_orders")
		if _, err := dial(t, second).Exec(t.Context(), "SELECT * FROM here"); err == nil {
			t.Error("a table of one database can be read in another")
		}
	})
	if _, err := pgx.Connect(t.Context(), first); err == nil {
		t.Error("the database is still there after its test")
	}
	var left int
	row := dial(t, srv.Admin()).QueryRow(t.Context(), "SELECT count(*) FROM pg_roles WHERE starts_with(rolname, $1)", Name(first))
	if err := row.Scan(&left); err != nil || left != 0 {
		t.Errorf("got %d roles left behind (%v), want 0", left, err)
	}
}

func TestPasswordsAreChecked(t *testing.T) {
	t.Parallel()
	srv := Postgres(t)
	dsn := srv.Database(t)
	role := Name(dsn) + "_orders"
	run(t, dial(t, dsn), "CREATE ROLE "+role+" LOGIN PASSWORD 'right'")
	as := func(password string) error {
		u, err := url.Parse(dsn)
		if err != nil {
			t.Fatal(err)
		}
		u.User = url.UserPassword(role, password)
		c, err := pgx.Connect(t.Context(), u.String())
		if err == nil {
			_ = c.Close(t.Context())
		}
		return err
	}
	if err := as("right"); err != nil {
		t.Errorf("right password: %v", err)
	}
	if err := as("wrong"); err == nil {
		t.Error("the wrong password was taken: tests would not notice a wrong role password")
	}
}

func TestSettings(t *testing.T) {
	t.Parallel()
	srv := StartPostgres(t, Options{NoSync: true, Settings: map[string]string{"work_mem": "5MB"}})
	c := dial(t, srv.Admin())
	for name, want := range map[string]string{"fsync": "off", "work_mem": "5MB", "max_connections": "300", "timezone": "UTC", "server_encoding": "UTF8"} {
		var got string
		if err := c.QueryRow(t.Context(), "SELECT current_setting($1)", name).Scan(&got); err != nil || got != want {
			t.Errorf("%s: got %q (%v), want %q", name, got, err, want)
		}
	}
}

func TestFaults(t *testing.T) {
	t.Parallel()
	srv := StartPostgres(t, Options{})
	dsn := srv.Database(t)
	c := dial(t, dsn)
	run(t, c, "CREATE TABLE kept (id int)")
	run(t, c, "INSERT INTO kept VALUES (1)")

	if err := srv.TerminateSessions(Name(dsn)); err != nil {
		t.Fatal(err)
	}
	var lost *pgconn.PgError
	if _, err := c.Exec(t.Context(), "SELECT 1"); err == nil || (errors.As(err, &lost) && lost.Code != "57P01") {
		t.Errorf("got %v on a terminated session, want 57P01 or a lost connection", err)
	}
	for _, fault := range []struct {
		name  string
		cause func() error
	}{
		{"stop and start", func() error { return errors.Join(srv.Stop(), srv.Start()) }},
		{"crash and start", func() error { return errors.Join(srv.Crash(), srv.Start()) }},
		{"restart", srv.Restart},
	} {
		c := dial(t, dsn)
		if err := fault.cause(); err != nil {
			t.Fatalf("%s: %v", fault.name, err)
		}
		if _, err := c.Exec(t.Context(), "SELECT 1"); err == nil {
			t.Errorf("%s: the old connection lives on", fault.name)
		}
		var n int
		if err := dial(t, dsn).QueryRow(t.Context(), "SELECT count(*) FROM kept").Scan(&n); err != nil || n != 1 {
			t.Errorf("%s: got %d rows (%v), want 1", fault.name, n, err)
		}
	}
	if err := srv.Stop(); err != nil {
		t.Fatal(err)
	}
	if _, err := pgx.Connect(t.Context(), dsn); err == nil {
		t.Error("a stopped server takes connections")
	}
}

func TestConnectSaysWhatIsWrong(t *testing.T) {
	t.Parallel()
	for _, dsn := range []string{"127.0.0.1:5432", "host=127.0.0.1", "postgres://nobody:x@127.0.0.1:1/postgres", "://"} {
		if _, err := connect(dsn); err == nil || !strings.Contains(err.Error(), EnvPostgres) {
			t.Errorf("%q: got %v, want an error that names %s", dsn, err, EnvPostgres)
		}
	}
}

func wait(t *testing.T, what string, reached func() bool) {
	t.Helper()
	deadline, look := time.After(startTimeout), time.NewTicker(20*time.Millisecond)
	defer look.Stop()
	for !reached() { // another process: there is nothing to be woken by
		select {
		case <-look.C:
		case <-deadline:
			t.Fatalf("waited %s for %s", startTimeout, what)
		}
	}
}

// fakeTB notes how a test would end.
type fakeTB struct {
	testing.TB
	ended string
}

func (f *fakeTB) Helper()               {}
func (f *fakeTB) Skipf(string, ...any)  { f.ended = "skipped" }
func (f *fakeTB) Fatalf(string, ...any) { f.ended = "failed" }

func TestNeed(t *testing.T) {
	for _, c := range []struct {
		name, require string
		err           error
		want          string
	}{
		{"there", "", nil, ""},
		{"missing", "", ErrNoBinaries, "skipped"},
		{"missing but required", "1", ErrNoBinaries, "failed"},
		{"broken", "", errors.New("initdb: exit 1"), "failed"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Setenv(EnvRequire, c.require)
			tb := &fakeTB{TB: t}
			Need(tb, c.err)
			if tb.ended != c.want {
				t.Errorf("got %q, want %q", tb.ended, c.want)
			}
		})
	}
}
