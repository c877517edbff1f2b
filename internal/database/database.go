// Package database opens the store of each module: a SQLite file, or a schema of a PostgreSQL database reached
// with a role that can touch nothing else.
//
// Guarantees. A unit of work handed to Write is atomic and, once Write has returned nil, durable (SQLite with
// synchronous=FULL). It may run more than once before that. On SQLite there is one writing process per file,
// held by an OS lock beside it, and one writer goroutine, which commits units of work that wait together as
// savepoints of one transaction: nobody ever sees "database is locked". Nothing is answered before the commit
// of its group; if the group fails it is rolled back, the unit of work that broke it gets the error and the others
// run again, alone. On PostgreSQL serialization failures, deadlocks and connections lost before the commit are
// run again; a connection lost during the commit is ErrOutcomeUnknown unless the unit of work says that it finds
// its own traces. Statements there that nobody waits for travel with the next one that somebody does, or with
// COMMIT, which is not executed if one of them fails or does not touch the rows it must; the unit of work ends with
// that failure, whatever it made of it. A store that has been made and is missing is ErrLost, and not silently made
// again (made.go).
package database

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"time"

	"gorm.io/gorm"
	"gorm.io/gorm/logger"

	"github.com/banyan-go/banyan/internal/errs"
	"github.com/banyan-go/banyan/internal/secret"
)

// Dialect is the kind of database behind a store.
type Dialect string

// The dialects; their names are the folders under migrations/.
const (
	SQLite   Dialect = "sqlite"
	Postgres Dialect = "postgres"
)

// ErrOutcomeUnknown: the connection broke while the commit was under way. Whether it happened cannot be told.
var ErrOutcomeUnknown error = errs.New(errs.OutcomeUnknown, "the store broke off during the commit: outcome unknown")

// Config says where the stores are.
type Config struct {
	Driver   string         `mapstructure:"driver"` // sqlite or postgres
	Postgres PostgresConfig `mapstructure:"postgres"`
}

// PostgresConfig says how to reach PostgreSQL.
type PostgresConfig struct {
	DSN            string      `mapstructure:"dsn"`             // URL of server and database, without user and password
	Secret         secret.Text `mapstructure:"secret"`          // the module roles' passwords are derived from it
	AdminDSN       secret.Text `mapstructure:"admin_dsn"`       // for `banyan migrate` alone
	MaxConnections int         `mapstructure:"max_connections"` // of this process, over all modules
}

// DefaultConfig is SQLite.
func DefaultConfig() Config {
	return Config{Driver: string(SQLite), Postgres: PostgresConfig{MaxConnections: 40}}
}

// Validate names the wrong key and the way out.
func (c Config) Validate() error {
	switch Dialect(c.Driver) {
	case SQLite:
		return nil
	case Postgres:
	default:
		return fmt.Errorf("database.driver: %q is not sqlite or postgres", c.Driver)
	}
	if c.Postgres.DSN == "" {
		return errors.New("database.postgres.dsn: is empty; give the server as in postgres://127.0.0.1:5432/banyan")
	}
	if u, err := url.Parse(c.Postgres.DSN); err != nil || u.User != nil {
		return errors.New("database.postgres.dsn: must be a URL without user and password; the modules' roles and database.postgres.secret make those")
	}
	if c.Postgres.Secret == "" {
		return errors.New("database.postgres.secret: is empty; give the one that `banyan migrate` was run with, as BANYAN_DATABASE_POSTGRES_SECRET")
	}
	if c.Postgres.MaxConnections < 1 {
		return fmt.Errorf("database.postgres.max_connections: %d is not at least 1", c.Postgres.MaxConnections)
	}
	return nil
}

// Stores opens the stores of one process.
type Stores struct {
	cfg     Config
	dir     string
	modules int
	log     *slog.Logger

	mu    sync.Mutex
	open  []*DB
	locks []*os.File
}

// Control is the name of the store that belongs to the platform itself.
const Control = "control"

// Open prepares the stores of so many modules; dir is the data directory. Nothing is connected yet.
func Open(cfg Config, dir string, modules int, log *slog.Logger) (*Stores, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if Dialect(cfg.Driver) == SQLite {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, fmt.Errorf("data: %w", err)
		}
	}
	return &Stores{cfg: cfg, dir: dir, modules: modules, log: log}, nil
}

// Dialect is the kind of all stores of the process.
func (s *Stores) Dialect() Dialect { return Dialect(s.cfg.Driver) }

// Store opens the store of a module, migrated. A SQLite store is migrated here; a PostgreSQL one must have
// been by `banyan migrate`, because the role that serves may not change its schema.
func (s *Stores) Store(ctx context.Context, name string) (*DB, error) {
	return s.store(ctx, name, false)
}

// StandBy opens the store of a module that another process may own: a SQLite file is only read, until Take. The file must have been made
// (ErrNotMade). On PostgreSQL it is Store.
func (s *Stores) StandBy(ctx context.Context, name string) (*DB, error) {
	return s.store(ctx, name, true)
}

func (s *Stores) store(ctx context.Context, name string, standBy bool) (*DB, error) {
	var db *DB
	var err error
	if s.Dialect() == SQLite {
		db, err = openSQLite(ctx, s.file(name), name, standBy, s.log)
	} else {
		db, err = openPostgres(ctx, s.cfg.Postgres, name, s.modules, s.log)
	}
	if err != nil {
		return nil, fmt.Errorf("store of %s: %w", name, err)
	}
	s.mu.Lock()
	s.open = append(s.open, db)
	s.mu.Unlock()
	return db, nil
}

// Alone makes this process the only one that serves a module alone from a SQLite file: of two, one could never write. On PostgreSQL there
// may be many.
func (s *Stores) Alone(module string) error {
	if s.Dialect() != SQLite {
		return nil
	}
	lock, err := lockFile(filepath.Join(s.dir, module+".only.lock"))
	if errors.Is(err, ErrHeld) {
		return fmt.Errorf("another process serves %s alone from the files in %s; stop it first", module, s.dir)
	}
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.locks = append(s.locks, lock)
	s.mu.Unlock()
	return nil
}

// Close closes all stores; units of work under way are finished.
func (s *Stores) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []error
	for _, db := range s.open {
		all = append(all, db.Close())
	}
	for _, l := range s.locks {
		all = append(all, l.Close())
	}
	s.open, s.locks = nil, nil
	return errors.Join(all...)
}

// DB is one store.
type DB struct {
	name    string
	dialect Dialect
	reader  *gorm.DB
	engine  engine
}

type engine interface {
	write(ctx context.Context, opts options, fn func(tx *gorm.DB) error) error
	ping(ctx context.Context) error
	listen(ctx context.Context, channel string, wake func(payload string)) error
	close() error
}

type options struct {
	repeatable bool // finds its own traces, so it may run again after a lost commit
	lazy       bool // may wait for another unit of work to share its commit
	relaxed    bool // PostgreSQL: commit without waiting for the disk
	committed  func()
}

// Option says something about a unit of work.
type Option func(*options)

// Repeatable: the unit of work begins with a row of its own (an inbox row, an idempotency key) and does nothing
// when that is there already, so it may run again after a commit whose outcome is unknown.
func Repeatable(o *options) { o.repeatable = true }

// Lazy: losing the unit of work in a crash does no harm and nobody waits for it. It shares the commit of
// another one, or comes a little later.
func Lazy(o *options) { o.lazy, o.relaxed = true, true }

// Committed calls fn once the unit of work is durable, before Write returns. On SQLite the calls come one after another in
// the order of the commits; fn must be quick and must not write.
func Committed(fn func()) Option { return func(o *options) { o.committed = fn } }

// Name is the module whose store it is.
func (d *DB) Name() string { return d.name }

// Dialect is the kind of the store.
func (d *DB) Dialect() Dialect { return d.dialect }

// Write runs fn in a transaction; see the package comment. fn may run more than once.
func (d *DB) Write(ctx context.Context, fn func(tx *gorm.DB) error, opts ...Option) error {
	var o options
	for _, opt := range opts {
		opt(&o)
	}
	if err := ctx.Err(); err != nil {
		return contextError(err)
	}
	return d.engine.write(ctx, o, fn)
}

// Read is a handle for queries outside of transactions; the database refuses writes through it.
func (d *DB) Read(ctx context.Context) *gorm.DB {
	return d.reader.Session(&gorm.Session{NewDB: true, Context: ctx})
}

// Lookup runs a query that is to find a few rows of many by their indexes, whatever PostgreSQL's statistics say. each is called with
// one row after another.
func (d *DB) Lookup(ctx context.Context, query string, args []any, each func(Row) error) error {
	if e, ok := d.engine.(*postgresEngine); ok {
		return e.lookup(ctx, numbered.get(query), args, each)
	}
	rows, err := Statements(d.Read(ctx)).Rows(query, args...)
	if err != nil {
		return err
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		if err := each(rows); err != nil {
			return err
		}
	}
	return rows.Err()
}

// Take makes this process the one that writes the store: it fails while another one has it (SQLite). On PostgreSQL all may write.
func (d *DB) Take(ctx context.Context) error {
	if f, ok := d.engine.(*sqliteFile); ok {
		return f.take(ctx)
	}
	return nil
}

// Taken says whether this process may write the store.
func (d *DB) Taken() bool {
	f, ok := d.engine.(*sqliteFile)
	return !ok || f.taken()
}

// Release finishes units of work under way and lets another process write the store. Reading goes on; writes fail until Take.
func (d *DB) Release() error {
	if f, ok := d.engine.(*sqliteFile); ok {
		return f.release()
	}
	return nil
}

// Ping says whether the store answers.
func (d *DB) Ping(ctx context.Context) error { return d.engine.ping(ctx) }

// Listen calls wake for each notification that another process sends about this store, until ctx ends. On
// SQLite there is no other process, and it only waits.
func (d *DB) Listen(ctx context.Context, channel string, wake func(payload string)) error {
	return d.engine.listen(ctx, channel, wake)
}

// Close finishes units of work under way and closes the store.
func (d *DB) Close() error { return d.engine.close() }

func contextError(err error) error {
	if errors.Is(err, context.DeadlineExceeded) {
		return errs.Wrap(errs.Timeout, err, "the deadline has passed")
	}
	return err
}

func gormConfig(log *slog.Logger) *gorm.Config {
	return &gorm.Config{
		SkipDefaultTransaction: true, // a unit of work is the transaction
		DisableAutomaticPing:   true,
		TranslateError:         true,
		NowFunc:                func() time.Time { return time.Now().UTC().Truncate(time.Microsecond) },
		Logger:                 logger.Discard, // an error is returned, and said once by who handles it
	}
}
