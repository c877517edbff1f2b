package database

import (
	"context"
	"database/sql/driver"
	"fmt"
	"io"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/jackc/pgx/v5/stdlib"
)

// pipeliningConnector makes the connections of a pool: pgx's, each of which sends a query together with the statements that were queued before
// it. database/sql knows nothing of those.
type pipeliningConnector struct{ driver.Connector }

func (c pipeliningConnector) Connect(ctx context.Context) (driver.Conn, error) {
	conn, err := c.Connector.Connect(ctx)
	if err != nil {
		return nil, err
	}
	return &pipelining{Conn: conn.(*stdlib.Conn)}, nil
}

type pipelining struct {
	*stdlib.Conn
	before []queued // to be sent before the next query
	failed error    // of one of them
}

func (c *pipelining) QueryContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	queue := c.before
	if len(queue) == 0 {
		return c.Conn.QueryContext(ctx, query, args)
	}
	c.before = nil
	batch := &pgx.Batch{}
	for _, q := range queue {
		batch.Queue(q.query, q.args...)
	}
	values := make([]any, len(args))
	for i, a := range args {
		values[i] = a.Value
	}
	batch.Queue(query, values...)
	answers := c.Conn.Conn().SendBatch(ctx, batch)
	if _, failed, err := receive(answers, queue, false); err != nil {
		_ = answers.Close()
		c.failed = failed
		return nil, err
	}
	rows, err := answers.Query()
	if err != nil {
		_ = answers.Close()
		return nil, err
	}
	r := &batchRows{answers: answers, rows: rows, types: c.Conn.Conn().TypeMap(), columns: rows.FieldDescriptions()}
	// An error of the query comes with its first row, and belongs to whoever asked.
	if r.first = rows.Next(); !r.first && rows.Err() != nil {
		_ = r.Close()
		return nil, rows.Err()
	}
	r.ahead = true
	return r, nil
}

// batchRows are the rows of the last query of a batch.
type batchRows struct {
	answers      pgx.BatchResults
	rows         pgx.Rows
	types        *pgtype.Map
	columns      []pgconn.FieldDescription
	ahead, first bool // the first row was asked for, and is there
}

func (r *batchRows) Columns() []string {
	names := make([]string, len(r.columns))
	for i, c := range r.columns {
		names[i] = c.Name
	}
	return names
}

func (r *batchRows) Close() error {
	r.rows.Close()
	return r.answers.Close()
}

func (r *batchRows) Next(into []driver.Value) error {
	more := r.first
	if !r.ahead {
		more = r.rows.Next()
	}
	r.ahead = false
	if !more {
		if err := r.rows.Err(); err != nil {
			return err
		}
		return io.EOF
	}
	for i, raw := range r.rows.RawValues() {
		c := r.columns[i]
		known, ok := r.types.TypeForOID(c.DataTypeOID)
		switch {
		case raw == nil:
			into[i] = nil
		case ok:
			v, err := known.Codec.DecodeDatabaseSQLValue(r.types, c.DataTypeOID, c.Format, raw)
			if err != nil {
				return fmt.Errorf("column %s: %w", c.Name, err)
			}
			into[i] = v
		default:
			into[i] = string(raw)
		}
	}
	return nil
}
