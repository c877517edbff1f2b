package database

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"strconv"
	"strings"
	"sync"

	"gorm.io/gorm"
)

// SQL runs statements of the platform on a GORM handle's connection, past GORM: building and scanning through
// reflection was a third of the time of a message. Placeholders are question marks on every engine.
type SQL struct {
	ctx     context.Context
	pool    gorm.ConnPool
	dialect string
}

// Statements gives direct access to the connection of a handle.
func Statements(tx *gorm.DB) SQL {
	return SQL{ctx: tx.Statement.Context, pool: tx.Statement.ConnPool, dialect: tx.Dialector.Name()}
}

// Dialect is the kind of the store.
func (s SQL) Dialect() Dialect { return Dialect(s.dialect) }

// Exec runs a statement and says how many rows it touched.
func (s SQL) Exec(query string, args ...any) (int64, error) {
	r, err := s.pool.ExecContext(s.ctx, s.bind(query), args...)
	if err != nil {
		return 0, err
	}
	return r.RowsAffected()
}

// Row is the one row of a query, which runs when it is scanned; sql.ErrNoRows if there is none.
type Row interface{ Scan(into ...any) error }

// Row asks for one row.
func (s SQL) Row(query string, args ...any) Row {
	if t, ok := s.pool.(*transaction); ok {
		return pipelined{ctx: s.ctx, t: t, query: s.bind(query), args: args}
	}
	return s.pool.QueryRowContext(s.ctx, s.bind(query), args...)
}

// Later runs a statement before the next one whose result is waited for, at the latest with the commit: on PostgreSQL both are
// one round trip. into takes the columns of its one row by then, nil if it gives none. Its failure is that of the unit of work.
func (s SQL) Later(into []any, query string, args ...any) error {
	if t, ok := s.pool.(*transaction); ok {
		t.later(s.bind(query), args, into)
		return nil
	}
	if into != nil {
		return s.Row(query, args...).Scan(into...)
	}
	_, err := s.Exec(query, args...)
	return err
}

// Expect is Later for a statement that must touch so many rows; otherwise is what the unit of work ends with if it does not. It must have no
// RETURNING.
func (s SQL) Expect(rows int64, otherwise error, query string, args ...any) error {
	_, err := deferred{s.pool, rows, otherwise}.ExecContext(s.ctx, s.bind(query), args...)
	return err
}

// ByIndex is for statements of this transaction that are to find a few rows of many by their indexes, whatever PostgreSQL's statistics
// say.
func (s SQL) ByIndex() {
	if t, ok := s.pool.(*transaction); ok {
		t.later(byIndex, nil, nil)
	}
}

// Later is a handle of the same transaction for writes whose result nobody waits for: see SQL.Later. What it says of the rows they touched is
// not to be relied on.
func Later(tx *gorm.DB) *gorm.DB { return deferring(tx, anyRows, nil) }

// Expect is Later for writes each of which must touch so many rows: see SQL.Expect.
func Expect(tx *gorm.DB, rows int64, otherwise error) *gorm.DB { return deferring(tx, rows, otherwise) }

func deferring(tx *gorm.DB, rows int64, otherwise error) *gorm.DB {
	pool := tx.Statement.ConnPool
	if d, ok := pool.(deferred); ok {
		pool = d.ConnPool
	}
	return bind(tx, tx.Statement.Context, deferred{pool, rows, otherwise})
}

const anyRows = -1

// deferred sends writes later, where that saves a round trip.
type deferred struct {
	gorm.ConnPool
	rows      int64
	otherwise error
}

func (d deferred) ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error) {
	t, ok := d.ConnPool.(*transaction)
	switch {
	case ok && d.rows == anyRows:
		t.later(query, args, nil)
		return driver.RowsAffected(0), nil
	case ok:
		t.expect(d.rows, d.otherwise, query, args)
		return driver.RowsAffected(d.rows), nil
	}
	r, err := d.ConnPool.ExecContext(ctx, query, args...)
	if err != nil || d.rows == anyRows {
		return r, err
	}
	n, err := r.RowsAffected()
	if err == nil && n != d.rows {
		err = d.otherwise
	}
	return r, err
}

// Rows runs a query; the caller closes what it gives.
func (s SQL) Rows(query string, args ...any) (*sql.Rows, error) {
	return s.pool.QueryContext(s.ctx, s.bind(query), args...)
}

func (s SQL) bind(query string) string {
	if s.dialect != "postgres" {
		return query
	}
	return numbered.get(query)
}

// rebound keeps statements whose question marks were numbered. The platform has a fixed set of them.
type rebound struct{ done sync.Map }

// numbered only saves work: the same text always gives the same result.
var numbered rebound

func (r *rebound) get(query string) string {
	if v, ok := r.done.Load(query); ok {
		return v.(string)
	}
	parts := strings.Split(query, "?")
	var b strings.Builder
	for i, part := range parts {
		if i > 0 {
			b.WriteString("$" + strconv.Itoa(i))
		}
		b.WriteString(part)
	}
	v, _ := r.done.LoadOrStore(query, b.String())
	return v.(string)
}
