package database_test

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/banyan-go/banyan/internal/database"
	"github.com/banyan-go/banyan/internal/databasetest"
)

// A file that was there once is not silently made again; what a killed first start has left is.
func TestLostFile(t *testing.T) {
	t.Parallel()
	names := []string{"alpha", "beta"}
	start := func(e databasetest.Engine, startEmpty ...string) error {
		stores, err := database.Open(e.Config, e.Dir, 3, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		defer func() {
			if err := stores.Close(); err != nil {
				t.Error(err)
			}
		}()
		if err := stores.CheckControl(names, startEmpty); err != nil {
			return err
		}
		control, err := stores.Store(t.Context(), database.Control)
		if err != nil {
			return err
		}
		if err := stores.CheckMade(t.Context(), control, names, startEmpty); err != nil {
			return err
		}
		for _, name := range names {
			if _, err := stores.Store(t.Context(), name); err != nil {
				return err
			}
		}
		return stores.NoteMade(t.Context(), control, names)
	}
	remove := func(path string) error {
		for _, beside := range []string{"-wal", "-shm"} {
			_ = os.Remove(path + beside) // is there only while it is open
		}
		return os.Remove(path)
	}
	for what, lose := range map[string]func(path string) error{"removed": remove, "emptied": func(path string) error { return os.Truncate(path, 0) }} {
		for _, name := range append([]string{database.Control}, names...) {
			e := databasetest.SQLite(t)
			for range 2 {
				if err := start(e); err != nil {
					t.Fatal(err)
				}
			}
			path := filepath.Join(e.Dir, name+".db")
			if err := lose(path); err != nil {
				t.Fatal(err)
			}
			for range 2 { // nor when it is tried again
				err := start(e)
				if !errors.Is(err, database.ErrLost) || !strings.Contains(err.Error(), path+" is missing or empty") || !strings.Contains(err.Error(), "--start-empty "+name) {
					t.Fatalf("%s was %s: %v; want a refusal with the file and the ways out", name, what, err)
				}
			}
			others := slices.DeleteFunc([]string{database.Control, "alpha", "beta"}, func(other string) bool { return other == name })
			if err := start(e, others...); !errors.Is(err, database.ErrLost) {
				t.Errorf("%s was %s and others may be made again: %v", name, what, err)
			}
			if err := start(e, name); err != nil {
				t.Errorf("%s was %s and may be made again: %v", name, what, err)
			}
			if err := start(e); err != nil {
				t.Errorf("after that: %v", err)
			}
		}
	}

	e := databasetest.SQLite(t)
	for _, name := range []string{database.Control, "alpha"} {
		if err := os.WriteFile(filepath.Join(e.Dir, name+".db"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := start(e); err != nil {
		t.Errorf("after a first start that was killed: %v", err)
	}
}

// A file that goes while the process stands by is not made again when it takes it.
func TestLostFileIsNotTaken(t *testing.T) {
	t.Parallel()
	e := databasetest.SQLite(t)
	db := e.Store(t, "alpha")
	if err := db.Release(); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(e.Dir, "alpha.db")); err != nil {
		t.Fatal(err)
	}
	if err := db.Take(t.Context()); !errors.Is(err, database.ErrLost) {
		t.Errorf("take: %v", err)
	}
}

// So with schemas of PostgreSQL, which migrating would make again.
func TestLostSchema(t *testing.T) {
	t.Parallel()
	names := []string{"alpha", "beta"}
	e := databasetest.Postgres(t, names...)
	c, err := pgx.Connect(t.Context(), e.Config.Postgres.AdminDSN.Reveal())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close(t.Context()) }()
	migrate := func(startEmpty ...string) error {
		return database.Migrate(t.Context(), e.Config.Postgres, names, slog.New(slog.DiscardHandler), startEmpty...)
	}
	for _, name := range []string{"beta", database.Control} {
		if err := migrate(); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Exec(t.Context(), "DROP SCHEMA "+name+" CASCADE"); err != nil {
			t.Fatal(err)
		}
		if err := migrate("alpha"); !errors.Is(err, database.ErrLost) || !strings.Contains(err.Error(), "the store of "+name) || !strings.Contains(err.Error(), "--start-empty "+name) {
			t.Errorf("%s was dropped: %v; want a refusal with its name and the ways out", name, err)
		}
		if err := migrate(name); err != nil {
			t.Errorf("%s may be made again: %v", name, err)
		}
	}
}
