package testinfra

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/banyan-go/banyan/internal/sandbox"
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
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	s, err := sandbox.ConnectPostgres(ctx, dsn)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", EnvPostgres, err)
	}
	return &Server{s}, nil
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
	if err := s.CreateDatabase(ctx, name); err != nil {
		tb.Fatalf("create database: %v", err)
	}
	tb.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
		defer cancel()
		if err := s.DropDatabase(ctx, name); err != nil && !s.Stopped() {
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
