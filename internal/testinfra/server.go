package testinfra

import (
	"errors"
	"fmt"
	"time"

	"github.com/banyan-go/banyan/internal/sandbox"
)

const (
	startTimeout = 60 * time.Second // a loaded machine, recovery after a crash
	stopTimeout  = 30 * time.Second
)

// ErrNoBinaries says that this machine has no PostgreSQL server to start.
var ErrNoBinaries = fmt.Errorf("%w, or name a running server with %s=postgres://superuser:password@host:5432/postgres", sandbox.ErrNoPostgres, EnvPostgres)

// Options say how a server is started.
type Options = sandbox.PostgresOptions

// Server is a running PostgreSQL.
type Server struct{ *sandbox.Postgres }

// Launch makes and starts a server; Close ends it.
func Launch(opts Options) (*Server, error) {
	s, err := sandbox.StartPostgres(opts)
	if errors.Is(err, sandbox.ErrNoPostgres) {
		return nil, ErrNoBinaries
	}
	return &Server{s}, err
}
