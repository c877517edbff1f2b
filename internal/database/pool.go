package database

import (
	"context"
	"database/sql"
	"sync"
	"time"

	"gorm.io/gorm"
)

// normal makes times comparable in every store: UTC, microseconds.
func normal(args []any) []any {
	for i, a := range args {
		switch v := a.(type) {
		case time.Time:
			args[i] = v.UTC().Truncate(time.Microsecond)
		case *time.Time:
			if v != nil {
				args[i] = v.UTC().Truncate(time.Microsecond)
			}
		case sql.NullTime:
			v.Time = v.Time.UTC().Truncate(time.Microsecond)
			args[i] = v
		}
	}
	return args
}

// readPool is a pool of connections with normal times.
type readPool struct{ *sql.DB }

func (p readPool) ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error) {
	return p.DB.ExecContext(ctx, query, normal(args)...)
}

// readAttempts is how often a query is sent that found its connection broken. After a restart of the server all of the pool are; the idle
// ones are closed when the first is found, so that only those in use at that moment are left.
const readAttempts = 6

func (p readPool) QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	for attempt := 1; ; attempt++ {
		rows, err := p.DB.QueryContext(ctx, query, normal(args)...)
		if !again(ctx, err, attempt) {
			return rows, err
		}
		renew(p.DB)
	}
}

func (p readPool) QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row {
	for attempt := 1; ; attempt++ {
		row := p.DB.QueryRowContext(ctx, query, normal(args)...)
		if !again(ctx, row.Err(), attempt) {
			return row
		}
		renew(p.DB)
	}
}

// renew closes the idle connections of a PostgreSQL pool, which keeps as many as it may open.
func renew(pool *sql.DB) {
	most := pool.Stats().MaxOpenConnections
	pool.SetMaxIdleConns(-1)
	pool.SetMaxIdleConns(most)
}

// again: reading changes nothing, so it may be done once more on another connection.
func again(ctx context.Context, err error, attempt int) bool {
	return err != nil && attempt < readAttempts && ctx.Err() == nil && transientConnection(err)
}

// GetDBConn lets GORM find the pool behind.
func (p readPool) GetDBConn() (*sql.DB, error) { return p.DB, nil }

// bind gives a GORM handle that runs on pool.
func bind(base *gorm.DB, ctx context.Context, pool gorm.ConnPool) *gorm.DB {
	tx := base.Session(&gorm.Session{NewDB: true, Context: ctx, SkipDefaultTransaction: true})
	tx.Statement.ConnPool = pool
	return tx
}

// preparedPool keeps statements prepared on each connection of the pool; SQLite's parser costs more than most of our
// queries. pgx does the same for PostgreSQL by itself.
type preparedPool struct {
	readPool
	mu    sync.RWMutex
	stmts map[string]*sql.Stmt
}

func (p *preparedPool) prepared(ctx context.Context, query string) (*sql.Stmt, error) {
	p.mu.RLock()
	s := p.stmts[query]
	p.mu.RUnlock()
	if s != nil {
		return s, nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if s := p.stmts[query]; s != nil {
		return s, nil
	}
	if len(p.stmts) >= maxPrepared {
		return nil, nil // queries built from input; those of the code are known by then
	}
	s, err := p.DB.PrepareContext(ctx, query)
	if err == nil {
		p.stmts[query] = s
	}
	return s, err
}

func (p *preparedPool) QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	s, err := p.prepared(ctx, query)
	if err != nil || s == nil {
		return p.readPool.QueryContext(ctx, query, args...)
	}
	return s.QueryContext(ctx, normal(args)...)
}

func (p *preparedPool) QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row {
	s, err := p.prepared(ctx, query)
	if err != nil || s == nil {
		return p.readPool.QueryRowContext(ctx, query, args...)
	}
	return s.QueryRowContext(ctx, normal(args)...)
}
