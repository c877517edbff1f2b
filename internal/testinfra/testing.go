package testinfra

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net/url"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// The environment of a test run.
const (
	EnvPostgres = "BANYAN_TEST_POSTGRES" // DSN of a superuser: use this server
	EnvRequire  = "BANYAN_TEST_REQUIRE"  // fail where a test would be skipped for want of a server
)

// shared is the server of this process. It is started once and ends with the process (see watcher): testing
// offers no moment at which the last test of a package is known to be over.
var shared = sync.OnceValues(func() (*Server, error) {
	if dsn := os.Getenv(EnvPostgres); dsn != "" {
		return connect(dsn)
	}
	return Launch(Options{})
})

func connect(dsn string) (*Server, error) {
	u, err := url.Parse(dsn)
	if err != nil || (u.Scheme != "postgres" && u.Scheme != "postgresql") || u.Host == "" {
		return nil, fmt.Errorf("%s cannot be read; give it as in postgres://postgres:password@127.0.0.1:5432/postgres", EnvPostgres)
	}
	s := &Server{admin: u}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := s.exec(ctx, "SELECT 1"); err != nil {
		return nil, fmt.Errorf("%s: %w", EnvPostgres, err)
	}
	return s, nil
}

// Postgres is the server that the tests of this process share.
func Postgres(tb testing.TB) *Server {
	tb.Helper()
	s, err := shared()
	Need(tb, err)
	return s
}

// StartPostgres starts a server for one test, which may stop it; it is gone when the test ends.
func StartPostgres(tb testing.TB, opts Options) *Server {
	tb.Helper()
	s, err := Launch(opts)
	Need(tb, err)
	tb.Cleanup(func() {
		if err := s.Close(); err != nil {
			tb.Errorf("close PostgreSQL: %v", err)
		}
	})
	return s
}

// Need ends the test if something it needs is not there: skipped where that is allowed, failed where it is not or
// where err is not about missing software.
func Need(tb testing.TB, err error) {
	tb.Helper()
	switch {
	case err == nil:
	case errors.Is(err, ErrNoBinaries) && os.Getenv(EnvRequire) == "":
		tb.Skipf("skipped: %v", err)
	default:
		tb.Fatalf("PostgreSQL for the test: %v", err)
	}
}

// Database makes an empty database and gives the superuser's DSN for it. When the test ends it is dropped with
// its sessions, and so are the roles whose names begin with its name: roles belong to the whole server.
func (s *Server) Database(tb testing.TB) string {
	tb.Helper()
	random := make([]byte, 6)
	_, _ = rand.Read(random) // never fails: see crypto/rand
	name := "t" + hex.EncodeToString(random)
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	if err := s.createDatabase(ctx, name); err != nil {
		tb.Fatalf("create database: %v", err)
	}
	tb.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
		defer cancel()
		if err := s.dropDatabase(ctx, name); err != nil && !s.stopped() {
			tb.Errorf("drop database: %v", err)
		}
	})
	return s.DSN(name)
}

// Name is the database in a DSN that Database gave.
func Name(dsn string) string {
	cfg, err := pgx.ParseConfig(dsn)
	if err != nil {
		return ""
	}
	return cfg.Database
}

func (s *Server) stopped() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.dir != "" && s.cmd == nil
}

func (s *Server) createDatabase(ctx context.Context, name string) error {
	for {
		err := s.exec(ctx, "CREATE DATABASE "+pgx.Identifier{name}.Sanitize())
		var refused *pgconn.PgError
		if !errors.As(err, &refused) || refused.Code != "55006" {
			return err
		}
		// 55006: somebody else makes a database of the same template just now.
		select {
		case <-ctx.Done():
			return err
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func (s *Server) dropDatabase(ctx context.Context, name string) error {
	c, err := pgx.Connect(ctx, s.Admin())
	if err != nil {
		return err
	}
	defer func() { _ = c.Close(context.WithoutCancel(ctx)) }()
	if _, err := c.Exec(ctx, "DROP DATABASE IF EXISTS "+pgx.Identifier{name}.Sanitize()+" WITH (FORCE)"); err != nil {
		return err
	}
	rows, err := c.Query(ctx, "SELECT rolname FROM pg_roles WHERE starts_with(rolname, $1)", name+"_")
	if err != nil {
		return err
	}
	roles, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return err
	}
	for _, role := range roles {
		if _, err := c.Exec(ctx, "DROP ROLE IF EXISTS "+pgx.Identifier{role}.Sanitize()); err != nil {
			return err
		}
	}
	return nil
}
