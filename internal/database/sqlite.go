package database

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/url"
	"os"
	"runtime/debug"
	"sync"
	"time"

	"github.com/ncruces/go-sqlite3"
	"github.com/ncruces/go-sqlite3/driver"
	"github.com/ncruces/go-sqlite3/gormlite"
	"golang.org/x/sys/unix"
	"gorm.io/gorm"

	"github.com/banyan-go/banyan/internal/errs"
)

// timeLayout has a fixed width, so that times compare as text.
const timeLayout = "2006-01-02T15:04:05.000000Z"

const (
	maxGroup   = 256                   // units of work that share a commit
	lazyDelay  = 20 * time.Millisecond // how long a lazy unit of work waits for company
	lookEvery  = 20 * time.Millisecond // how soon it is noticed that another process has written
	maxReaders = 4
)

// sqliteFile is a file that this process reads, and writes while it has the lock beside it.
type sqliteFile struct {
	path, module string
	log          *slog.Logger
	reads        *sql.DB

	handing sync.Mutex   // who takes or releases the file
	mu      sync.RWMutex // of writes; held for reading by who writes
	engine  *sqliteEngine
	closed  bool
}

// sqliteEngine is the one writer of a file.
type sqliteEngine struct {
	lock   *os.File
	writer *sql.DB
	conn   *sql.Conn
	base   *gorm.DB
	log    *slog.Logger
	stmts  map[string]*statement // prepared on conn

	jobs chan *job
	quit chan struct{}
	done chan struct{}
	once sync.Once
}

// job is a unit of work on its way through the writer.
type job struct {
	ctx    context.Context
	opts   options
	fn     func(tx *gorm.DB) error
	err    error
	broke  bool // its failure rolled the whole group back
	result chan error
}

func sqliteDSN(path string, pragmas ...string) string {
	return sqliteURL(path, url.Values{"_timefmt": {timeLayout}}, pragmas)
}

func sqliteURL(path string, v url.Values, pragmas []string) string {
	for _, p := range append([]string{"busy_timeout(5000)"}, pragmas...) {
		v.Add("_pragma", p)
	}
	return (&url.URL{Scheme: "file", Opaque: (&url.URL{Path: path}).EscapedPath(), RawQuery: v.Encode()}).String()
}

// openSQLite opens a file, as its writer unless it is to stand by: then it is opened as another process has made it, to be read.
func openSQLite(ctx context.Context, path, module string, standBy bool, log *slog.Logger) (*DB, error) {
	f := &sqliteFile{path: path, module: module, log: log}
	keepPrivate(path, log)
	if standBy {
		if err := checkMade(ctx, path, module); err != nil {
			return nil, damaged(path, err)
		}
	} else if err := f.take(ctx); err != nil {
		return nil, err
	}
	reads, err := driver.Open(sqliteDSN(path, "query_only(1)", "cache_size(-512)"))
	if err != nil {
		return nil, errors.Join(err, f.release())
	}
	f.reads = reads
	f.reads.SetMaxOpenConns(maxReaders)
	f.reads.SetMaxIdleConns(1)
	f.reads.SetConnMaxIdleTime(5 * time.Second)
	reader, err := gorm.Open(gormlite.OpenDB(&preparedPool{readPool: readPool{f.reads}, stmts: map[string]*sql.Stmt{}}), gormConfig(log))
	if err != nil {
		return nil, errors.Join(err, f.close())
	}
	return &DB{name: module, dialect: SQLite, reader: reader, engine: f}, nil
}

// take makes this process the writer.
func (f *sqliteFile) take(ctx context.Context) error {
	f.handing.Lock()
	defer f.handing.Unlock()
	f.mu.RLock()
	has, closed := f.engine != nil, f.closed
	f.mu.RUnlock()
	switch {
	case closed:
		return errs.New(errs.Unavailable, "the store is closing")
	case has:
		return nil
	case f.reads != nil: // from the file that was there, which is not to be made again below
		if _, err := os.Stat(f.path); err != nil {
			return lost(f.module, err.Error())
		}
	}
	e, err := openWriter(ctx, f.path, f.module, f.log)
	if err != nil {
		return err
	}
	f.mu.Lock()
	f.engine = e
	f.mu.Unlock()
	return nil
}

func (f *sqliteFile) taken() bool {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return f.engine != nil
}

// release finishes units of work under way and lets another process be the writer.
func (f *sqliteFile) release() error {
	f.handing.Lock()
	defer f.handing.Unlock()
	f.mu.Lock()
	e := f.engine
	f.engine = nil
	f.mu.Unlock()
	if e == nil {
		return nil
	}
	return e.close()
}

func (f *sqliteFile) write(ctx context.Context, opts options, fn func(tx *gorm.DB) error) error {
	f.mu.RLock()
	e := f.engine
	f.mu.RUnlock()
	if e == nil {
		return errElsewhere
	}
	return e.write(ctx, opts, fn)
}

// errElsewhere: the file has another writer now.
var errElsewhere = errs.New(errs.Unavailable, "another process writes this store now").After(time.Second)

func (f *sqliteFile) ping(ctx context.Context) error {
	var one int
	return f.reads.QueryRowContext(ctx, "SELECT 1").Scan(&one)
}

// listen looks whether another process has written, which costs a look at shared memory. What this process writes it knows: the one
// writer has nothing to listen to.
func (f *sqliteFile) listen(ctx context.Context, _ string, wake func(string)) error {
	if f.taken() {
		<-ctx.Done()
		return nil
	}
	// The number means something on one and the same connection alone, so it has one of its own.
	db, err := driver.Open(sqliteDSN(f.path, "query_only(1)", "cache_size(-64)"))
	if err != nil {
		return err
	}
	defer func() { _ = db.Close() }()
	db.SetMaxOpenConns(1)
	var last int64
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(lookEvery):
		}
		var now int64
		if err := db.QueryRowContext(ctx, "PRAGMA data_version").Scan(&now); err == nil && now != last {
			last = now
			wake("")
		}
	}
}

func (f *sqliteFile) close() error {
	f.mu.Lock()
	f.closed = true
	f.mu.Unlock()
	err := f.release()
	if f.reads != nil {
		err = errors.Join(err, f.reads.Close())
	}
	return err
}

func openWriter(ctx context.Context, path, module string, log *slog.Logger) (*sqliteEngine, error) {
	lock, err := lockFile(path + ".lock")
	if err != nil {
		return nil, err
	}
	e := &sqliteEngine{lock: lock, log: log, stmts: map[string]*statement{}, jobs: make(chan *job, maxGroup), quit: make(chan struct{}), done: make(chan struct{})}
	ok := false
	defer func() {
		if !ok {
			_ = e.closeAll()
		}
	}()
	if err := makePrivate(path); err != nil {
		return nil, err
	}
	if err := migrateSQLite(ctx, path, module); err != nil {
		return nil, damaged(path, err)
	}
	if e.writer, err = driver.Open(sqliteDSN(path, "journal_mode(wal)", "synchronous(full)", "foreign_keys(1)", "recursive_triggers(1)", "cache_size(-1024)", "temp_store(memory)")); err != nil {
		return nil, err
	}
	e.writer.SetMaxOpenConns(1)
	if e.conn, err = e.writer.Conn(ctx); err != nil {
		return nil, err
	}
	if e.base, err = gorm.Open(gormlite.OpenDB(e.conn), gormConfig(log)); err != nil {
		return nil, err
	}
	ok = true
	go e.run()
	return e, nil
}

// makePrivate makes the file, unless it is there: SQLite would let everybody read it whom the umask lets. The log and the shared memory
// beside it come and go while it is open; their mode is the umask's.
func makePrivate(path string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return f.Close()
}

// keepPrivate closes files that were left there open: control.db has the signing keys, and all have what customers trust us with.
func keepPrivate(path string, log *slog.Logger) {
	for _, name := range []string{path, path + "-wal", path + "-shm", path + ".lock"} {
		info, err := os.Stat(name)
		if err != nil || info.Mode().Perm()&0o077 == 0 {
			continue
		}
		if err := os.Chmod(name, 0o600); err != nil {
			log.Warn("others on this machine can open a file of the store, and that cannot be changed", "file", name, "mode", info.Mode().String(), "error", err)
			continue
		}
		log.Warn("others on this machine could open a file of the store; its mode is 0600 now", "file", name, "mode", info.Mode().String())
	}
}

// damaged says of a file that SQLite cannot read which one it is, and what to do.
func damaged(path string, err error) error {
	if errors.Is(err, sqlite3.NOTADB) || errors.Is(err, sqlite3.CORRUPT) {
		return fmt.Errorf("%s is damaged, or is no SQLite file; stop every process that uses it and put its last backup in its place: %w", path, err)
	}
	return err
}

// ErrHeld: another process writes the file.
var ErrHeld = errors.New("is held by another process")

func lockFile(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("%s %w; stop it, or give this one another data directory with --data", path, ErrHeld)
	}
	return f, nil
}

func (e *sqliteEngine) write(ctx context.Context, opts options, fn func(tx *gorm.DB) error) error {
	j := &job{ctx: ctx, opts: opts, fn: fn, result: make(chan error, 1)}
	select {
	case <-e.quit:
		return errs.New(errs.Unavailable, "the store is closing").After(time.Second)
	default:
	}
	select {
	case e.jobs <- j:
	case <-ctx.Done():
		return contextError(ctx.Err())
	case <-e.quit:
		return errs.New(errs.Unavailable, "the store is closing").After(time.Second)
	}
	// Once handed over it is waited for, cancelled or not: it may be part of a commit by now.
	select {
	case err := <-j.result:
		return err
	case <-e.done:
		select {
		case err := <-j.result:
			return err
		default:
			return errs.New(errs.Unavailable, "the store is closing").After(time.Second)
		}
	}
}

// run is the one writer of the file.
func (e *sqliteEngine) run() {
	defer close(e.done)
	var waiting []*job // lazy ones
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		var first *job
		select {
		case first = <-e.jobs:
		case <-timer.C:
			if len(waiting) == 0 {
				timer.Reset(time.Hour)
				continue
			}
		case <-e.quit:
			for {
				select {
				case j := <-e.jobs:
					waiting = append(waiting, j)
					continue
				default:
				}
				break
			}
			e.commit(waiting)
			return
		}
		if first != nil && first.opts.lazy && len(waiting) < maxGroup/2 {
			if len(waiting) == 0 {
				timer.Reset(lazyDelay)
			}
			waiting = append(waiting, first)
			continue
		}
		group := waiting
		waiting = nil
		if first != nil {
			group = append(group, first)
		}
		e.commit(e.gather(group))
	}
}

// gather adds what waits already; it does not wait for more: while one group is written to disk the next one collects.
func (e *sqliteEngine) gather(group []*job) []*job {
	for len(group) < maxGroup {
		select {
		case j := <-e.jobs:
			group = append(group, j)
		default:
			return group
		}
	}
	return group
}

// commit runs a group as savepoints of one transaction and answers its members.
func (e *sqliteEngine) commit(group []*job) {
	for len(group) > 0 {
		again, err := e.attempt(group)
		switch {
		case err == nil:
			for _, j := range group {
				j.result <- j.err
			}
			return
		case len(group) == 1:
			if group[0].err == nil {
				group[0].err = err
			}
			group[0].result <- group[0].err
			return
		case len(again) == len(group):
			// The commit itself failed: nobody is to blame more than another, so each runs alone.
			for _, j := range group {
				e.commit([]*job{j})
			}
			return
		}
		// One broke the group: it has its error, the others run again.
		for _, j := range group {
			if j.broke {
				j.result <- j.err
			}
		}
		group = again
	}
}

// attempt runs the group once. With an error nothing of it is in the file, and the jobs that it returns are to
// run again.
func (e *sqliteEngine) attempt(group []*job) (again []*job, err error) {
	if err := e.exec("BEGIN IMMEDIATE"); err != nil {
		return group, sqliteError(err)
	}
	wrote := false
	for i, j := range group {
		j.err, j.broke = nil, false
		if err := j.ctx.Err(); err != nil {
			j.err = contextError(err)
			continue
		}
		// The only one of a group needs no savepoint: the transaction is its own.
		if len(group) > 1 {
			if err := e.exec("SAVEPOINT u"); err != nil {
				e.rollback()
				return group, sqliteError(err)
			}
		}
		j.err = e.runJob(j)
		if e.gone() {
			// SQLite has rolled everything back by itself (disk full, I/O error, interrupt).
			if j.err == nil {
				j.err = errs.New(errs.Unavailable, "the store rolled back")
			}
			j.broke = true
			rest := make([]*job, 0, len(group)-1)
			rest = append(append(rest, group[:i]...), group[i+1:]...)
			return rest, j.err
		}
		wrote = wrote || j.err == nil
		if len(group) == 1 {
			continue
		}
		if err := e.endSavepoint(j.err != nil); err != nil {
			e.rollback()
			return group, sqliteError(err)
		}
	}
	if !wrote {
		e.rollback()
		return nil, nil
	}
	if err := e.exec("COMMIT"); err != nil {
		e.rollback()
		return group, sqliteError(err)
	}
	for _, j := range group {
		if j.err == nil && j.opts.committed != nil {
			j.opts.committed()
		}
	}
	return nil, nil
}

func (e *sqliteEngine) endSavepoint(undo bool) error {
	if undo {
		if err := e.exec("ROLLBACK TO u"); err != nil {
			return err
		}
	}
	return e.exec("RELEASE u")
}

func (e *sqliteEngine) runJob(j *job) (err error) {
	defer func() {
		if p := recover(); p != nil {
			e.log.ErrorContext(j.ctx, "unit of work panicked", "panic", p, "stack", string(debug.Stack()))
			err = errs.New(errs.Internal, "internal error")
		}
	}()
	pool := &writePool{engine: e, ctx: j.ctx}
	defer pool.close()
	return sqliteError(j.fn(bind(e.base, j.ctx, pool)))
}

// gone says whether the transaction is over although nobody ended it.
func (e *sqliteEngine) gone() bool {
	auto := false
	_ = e.conn.Raw(func(c any) error {
		auto = c.(driver.Conn).Raw().GetAutocommit()
		return nil
	})
	return auto
}

func (e *sqliteEngine) rollback() {
	if !e.gone() {
		if err := e.exec("ROLLBACK"); err != nil {
			e.log.Error("rollback", "error", err)
		}
	}
}

func (e *sqliteEngine) close() error {
	e.once.Do(func() { close(e.quit) })
	<-e.done
	return e.closeAll()
}

func (e *sqliteEngine) closeAll() error {
	var all []error
	if e.conn != nil {
		for _, s := range e.stmts {
			all = append(all, s.Close())
		}
		all = append(all, e.conn.Close())
	}
	if e.writer != nil {
		all = append(all, e.writer.Close())
	}
	all = append(all, e.lock.Close())
	return errors.Join(all...)
}

// sqliteError gives what the machine below refuses the kind Unavailable: it is tried again, and shown as 503.
func sqliteError(err error) error {
	if err == nil {
		return nil
	}
	var known *errs.Error
	if errors.As(err, &known) {
		return err
	}
	for _, code := range []sqlite3.ErrorCode{sqlite3.FULL, sqlite3.IOERR, sqlite3.BUSY, sqlite3.LOCKED, sqlite3.NOMEM, sqlite3.CANTOPEN, sqlite3.READONLY} {
		if errors.Is(err, code) {
			return errs.Wrap(errs.Unavailable, err, "the store cannot take writes now").After(2 * time.Second)
		}
	}
	return err
}

// writePool runs the statements of one unit of work on the writer's connection. The unit's context is checked
// between statements and never handed to the connection: an interrupt there would roll back its neighbours.
type writePool struct {
	engine *sqliteEngine
	ctx    context.Context
	rows   []*sql.Rows
}

func (p *writePool) check() error {
	if err := p.ctx.Err(); err != nil {
		return contextError(err)
	}
	return nil
}

func (p *writePool) PrepareContext(_ context.Context, query string) (*sql.Stmt, error) {
	if err := p.check(); err != nil {
		return nil, err
	}
	return p.engine.conn.PrepareContext(context.Background(), query)
}

// ExecContext keeps the statement prepared: the same few come again with every unit of work.
func (p *writePool) ExecContext(_ context.Context, query string, args ...any) (sql.Result, error) {
	if err := p.check(); err != nil {
		return nil, err
	}
	stmt, err := p.engine.prepared(query)
	if err != nil {
		return nil, err
	}
	return stmt.ExecContext(context.Background(), normal(args)...)
}

// QueryContext keeps the statement prepared too, unless an earlier run of it is still being read.
func (p *writePool) QueryContext(_ context.Context, query string, args ...any) (*sql.Rows, error) {
	if err := p.check(); err != nil {
		return nil, err
	}
	stmt, err := p.engine.prepared(query)
	if err != nil {
		return nil, err
	}
	if stmt.reading() {
		rows, err := p.engine.conn.QueryContext(context.Background(), query, normal(args)...)
		if err == nil {
			p.rows = append(p.rows, rows)
		}
		return rows, err
	}
	if stmt.rows, err = stmt.QueryContext(context.Background(), normal(args)...); err == nil {
		p.rows = append(p.rows, stmt.rows)
	}
	return stmt.rows, err
}

func (p *writePool) QueryRowContext(_ context.Context, query string, args ...any) *sql.Row {
	if p.check() != nil {
		return p.engine.conn.QueryRowContext(p.ctx, query) // the row carries the error, and nothing reaches the connection
	}
	stmt, err := p.engine.prepared(query)
	if err != nil || stmt.reading() {
		return p.engine.conn.QueryRowContext(context.Background(), query, normal(args)...)
	}
	return stmt.QueryRowContext(context.Background(), normal(args)...)
}

// close ends what a unit of work forgot to end.
func (p *writePool) close() {
	for _, r := range p.rows {
		_ = r.Close()
	}
}

const maxPrepared = 256

// statement is prepared on the writer's connection.
type statement struct {
	*sql.Stmt
	rows *sql.Rows // of its last run
}

// reading says whether the rows of the last run are still open: running it again would end them.
func (s *statement) reading() bool {
	if s.rows == nil {
		return false
	}
	if _, err := s.rows.Columns(); err != nil {
		s.rows = nil
		return false
	}
	return true
}

func (e *sqliteEngine) prepared(query string) (*statement, error) {
	if s := e.stmts[query]; s != nil {
		return s, nil
	}
	s, err := e.conn.PrepareContext(context.Background(), query)
	if err != nil {
		return nil, err
	}
	if len(e.stmts) >= maxPrepared {
		for q, old := range e.stmts { // any will do: what is used often comes back
			if old.reading() {
				continue
			}
			_ = old.Close()
			delete(e.stmts, q)
			break
		}
	}
	e.stmts[query] = &statement{Stmt: s}
	return e.stmts[query], nil
}

// exec runs a statement of the writer itself.
func (e *sqliteEngine) exec(query string) error {
	s, err := e.prepared(query)
	if err != nil {
		return err
	}
	_, err = s.ExecContext(context.Background())
	return err
}
