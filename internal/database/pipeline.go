package database

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// transaction is a PostgreSQL transaction that sends statements whose results nobody waits for together with the next
// one: BEGIN goes with the first statement, and what is left for the end with COMMIT. A message so takes two round trips
// in place of six, and each costs as much as the statement in it.
//
// It is the gorm.ConnPool of a unit of work. It hides Commit and Rollback from GORM, and makes times comparable.
type transaction struct {
	conn   *sql.Conn
	driver *pipelining // behind conn
	queue  []queued    // not yet sent
	failed error       // of a queued statement, whose caller could not be told; nothing is sent or committed after it
}

type queued struct {
	query string
	args  []any
	into  []any // the columns of its one row go there; nil for none
	touch *touch
}

// touch is what a statement must do.
type touch struct {
	rows      int64
	otherwise error
}

func (e *postgresEngine) begin(ctx context.Context, relaxed bool) (*transaction, error) {
	conn, err := e.db.Conn(ctx)
	if err != nil {
		return nil, err
	}
	t := &transaction{conn: conn}
	if err := conn.Raw(func(dc any) error { t.driver = dc.(*pipelining); return nil }); err != nil {
		_ = conn.Close()
		return nil, err
	}
	t.later("begin", nil, nil)
	if relaxed {
		t.later("SET LOCAL synchronous_commit = off", nil, nil)
	}
	return t, nil
}

// later queues a statement.
func (t *transaction) later(query string, args, into []any) {
	t.queue = append(t.queue, queued{query: query, args: normal(args), into: into})
}

// expect queues a statement that must touch so many rows.
func (t *transaction) expect(rows int64, otherwise error, query string, args []any) {
	t.queue = append(t.queue, queued{query: query, args: normal(args), touch: &touch{rows, otherwise}})
}

// expecting says that it is not known yet whether all statements did what they must.
func (t *transaction) expecting() bool {
	return slices.ContainsFunc(t.queue, func(q queued) bool { return q.touch != nil })
}

// send sends what is queued and gives the tag of the last statement.
func (t *transaction) send(ctx context.Context) (tag pgconn.CommandTag, err error) {
	queue := t.queue
	t.queue = nil
	if t.failed != nil || len(queue) == 0 {
		return tag, t.failed
	}
	raw := t.conn.Raw(func(any) error {
		c := t.driver.Conn.Conn()
		if len(queue) == 1 && queue[0].into == nil && queue[0].touch == nil {
			tag, err = c.Exec(ctx, queue[0].query, queue[0].args...)
			return nil
		}
		batch := &pgx.Batch{}
		for _, q := range queue {
			batch.Queue(q.query, q.args...)
		}
		answers := c.SendBatch(ctx, batch)
		tag, t.failed, err = receive(answers, queue, true)
		if closed := answers.Close(); err == nil {
			err = closed
		}
		return nil
	})
	if err == nil {
		err = raw
	}
	return tag, err
}

// receive takes the answers to a queue and gives the tag of the last one. failed is an error that nothing of the transaction outlives, and
// that nobody was told of who made the statement; the last one's own is not, if somebody waits for that.
func receive(answers pgx.BatchResults, queue []queued, waited bool) (tag pgconn.CommandTag, failed, err error) {
	for i, q := range queue {
		if q.into == nil {
			tag, err = answers.Exec()
		} else {
			err = answers.QueryRow().Scan(q.into...)
		}
		unmet := q.touch != nil && q.touch.unmet(tag, err)
		if unmet {
			err = q.touch.otherwise
		}
		if err == nil {
			continue
		}
		if unmet || refused(err) && (!waited || i < len(queue)-1) {
			failed = err
		}
		return tag, failed, err
	}
	return tag, nil, nil
}

// refused says that the server has refused a statement, and with it all that was sent behind it. It is not known when the session ends.
func refused(err error) bool {
	var p *pgconn.PgError
	return errors.As(err, &p) && p.Code[:2] != "57" && p.Code[:2] != "08"
}

// insist makes a statement fail that does not touch its rows, so that a COMMIT behind it is not executed.
func (q queued) insist() queued {
	q.query = fmt.Sprintf("WITH touched AS (%s RETURNING 1) SELECT CASE count(*) WHEN %d THEN 0 ELSE CAST('%s' || count(*) AS INTEGER) END FROM touched", q.query, q.touch.rows, touched)
	q.touch = &touch{rows: 1, otherwise: q.touch.otherwise} // the row that says 0
	return q
}

// touched is what the server says then, and a number that it cannot be.
const touched = "not as expected, rows touched: "

func (e touch) unmet(tag pgconn.CommandTag, err error) bool {
	var p *pgconn.PgError
	return err == nil && tag.RowsAffected() != e.rows || errors.As(err, &p) && strings.Contains(p.Message, touched)
}

// commitTimeout bounds the wait for the answer to a commit, which nothing else may end.
const commitTimeout = 2 * time.Minute

// commit sends what is left together with COMMIT. Whoever asked for it has no say any more: a commit that is cancelled half-way
// has no known outcome.
func (t *transaction) commit(ctx context.Context) error {
	if len(t.queue) > 0 && t.queue[0].query == "begin" && onlySettings(t.queue[1:]) {
		t.queue = nil
		return nil // nothing was done
	}
	for i, q := range t.queue {
		if q.touch != nil {
			t.queue[i] = q.insist()
		}
	}
	t.later("commit", nil, nil)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), commitTimeout)
	defer cancel()
	tag, err := t.send(ctx)
	if err == nil && tag.String() == "ROLLBACK" {
		return pgx.ErrTxCommitRollback
	}
	return err
}

// lookup runs a query that finds its rows by indexes only, between a begin and a commit that are sent with it.
func (e *postgresEngine) lookup(ctx context.Context, query string, args []any, each func(Row) error) (err error) {
	for attempt := 1; ; attempt++ {
		given := false
		err = e.lookupOnce(ctx, query, args, func(r Row) error {
			given = true
			return each(r)
		})
		if given || !again(ctx, err, attempt) {
			return err
		}
		renew(e.db)
	}
}

func (e *postgresEngine) lookupOnce(ctx context.Context, query string, args []any, each func(Row) error) error {
	t, err := e.begin(ctx, false)
	if err != nil {
		return err
	}
	defer t.end()
	t.later(byIndex, nil, nil)
	raw := t.conn.Raw(func(any) error {
		batch := &pgx.Batch{}
		for _, q := range t.queue {
			batch.Queue(q.query)
		}
		batch.Queue(query, normal(args)...)
		batch.Queue("commit")
		answers := t.driver.Conn.Conn().SendBatch(ctx, batch)
		err = func() error {
			for range t.queue {
				if _, err := answers.Exec(); err != nil {
					return err
				}
			}
			rows, err := answers.Query()
			if err != nil {
				return err
			}
			defer rows.Close()
			for rows.Next() {
				if err := each(rows); err != nil {
					return err
				}
			}
			return rows.Err()
		}()
		if closed := answers.Close(); err == nil {
			err = closed
		}
		return nil
	})
	if err == nil {
		err = raw
	}
	return err
}

// byIndex is for statements that are to find a few rows of many, in the order of an index: the server would read and sort a whole table
// that is small, or was when it last planned.
const byIndex = "SELECT set_config('enable_seqscan', 'off', true), set_config('enable_sort', 'off', true)"

func onlySettings(queue []queued) bool {
	for _, q := range queue {
		if q.args != nil || q.into != nil || q.query != "SET LOCAL synchronous_commit = off" {
			return false
		}
	}
	return true
}

// end gives the connection back, rolled back if nothing was committed. One that cannot be rolled back is closed.
func (t *transaction) end() {
	_ = t.conn.Raw(func(any) error {
		c := t.driver.Conn.Conn()
		if c.IsClosed() || c.PgConn().TxStatus() == 'I' {
			return nil
		}
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if _, err := c.Exec(ctx, "rollback"); err != nil {
			return driver.ErrBadConn
		}
		return nil
	})
	_ = t.conn.Close()
}

func (t *transaction) PrepareContext(ctx context.Context, query string) (*sql.Stmt, error) {
	if _, err := t.send(ctx); err != nil {
		return nil, err
	}
	return t.conn.PrepareContext(ctx, query)
}

func (t *transaction) ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error) {
	t.later(query, args, nil)
	tag, err := t.send(ctx)
	if err != nil {
		return nil, err
	}
	return driver.RowsAffected(tag.RowsAffected()), nil
}

func (t *transaction) QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	if t.failed != nil {
		return nil, t.failed
	}
	defer t.behind()()
	return t.conn.QueryContext(ctx, query, normal(args)...)
}

func (t *transaction) QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row {
	if t.failed != nil { // which a row cannot be made of: the query is not run, and the failure is what the unit of work ends with
		var cancel context.CancelFunc
		ctx, cancel = context.WithCancel(ctx)
		cancel()
	}
	defer t.behind()()
	return t.conn.QueryRowContext(ctx, query, normal(args)...)
}

// behind has the next query sent together with what is queued, until it is called back.
func (t *transaction) behind() func() {
	t.driver.before, t.queue = t.queue, nil
	return func() {
		t.queue, t.driver.before = t.driver.before, nil // none, if the query was sent
		if t.failed == nil {
			t.failed = t.driver.failed
		}
		t.driver.failed = nil
	}
}

// pipelined is a query for one row, sent together with what was queued before.
type pipelined struct {
	ctx   context.Context
	t     *transaction
	query string
	args  []any
}

func (p pipelined) Scan(into ...any) error {
	p.t.later(p.query, p.args, into)
	_, err := p.t.send(p.ctx)
	if errors.Is(err, pgx.ErrNoRows) {
		return sql.ErrNoRows
	}
	return err
}
