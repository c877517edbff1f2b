package relay

import (
	"testing"

	"github.com/jackc/pgx/v5"
	"gorm.io/gorm"

	"github.com/banyan-go/banyan/internal/database"
	"github.com/banyan-go/banyan/internal/databasetest"
)

// What a backlog costs must not depend on what the server knows of it: it may have grown since the tables were last analyzed and the
// statements planned, or they never were. Reading a window and marking it touches about as many rows as are in it.
func TestBacklogIsNotReadWhole(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"force_custom_plan", "force_generic_plan"} {
		t.Run(mode+", never analyzed", func(t *testing.T) { readAndMark(t, mode, 0) })
		t.Run(mode+", analyzed when it was small", func(t *testing.T) { readAndMark(t, mode, 4) })
	}
}

// readAndMark does it once on a backlog that grows after the tables were analyzed with so many rows, and the statements planned.
func readAndMark(t *testing.T, mode string, analyzed int) {
	const backlog, window, most = 20_000, 100, 10 * 100
	e := databasetest.Postgres(t, "alpha")
	db := e.Store(t, "alpha")
	write := func(fn func(tx *gorm.DB) error) {
		t.Helper()
		if err := db.Write(t.Context(), fn); err != nil {
			t.Fatal(err)
		}
	}
	grow := func(tx *gorm.DB, from, to int) error {
		if err := tx.Exec(`INSERT INTO outbox (id, message_id, name, key, sequence, correlation_id, causation_id, traceparent, subject, created_at, unsubscribed, payload)
			SELECT n, 'm' || n, 'alpha.counted.v1', 'a', n, '', '', '', '', now(), false, '{}' FROM generate_series(CAST(? AS BIGINT), ?) AS n`, from, to).Error; err != nil {
			return err
		}
		return tx.Exec("INSERT INTO delivery (subscriber, outbox_id) SELECT 'beta', n FROM generate_series(CAST(? AS BIGINT), ?) AS n", from, to).Error
	}
	if analyzed > 0 {
		write(func(tx *gorm.DB) error { return grow(tx, 1, analyzed) })
		admin, err := pgx.Connect(t.Context(), e.Config.Postgres.AdminDSN.Reveal())
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = admin.Close(t.Context()) }()
		if _, err := admin.Exec(t.Context(), "ANALYZE alpha.outbox, alpha.delivery"); err != nil {
			t.Fatal(err)
		}
	}
	var read, marked int
	write(func(tx *gorm.DB) error {
		if err := tx.Exec("SET LOCAL plan_cache_mode = " + mode).Error; err != nil {
			return err
		}
		if _, _, _, err := both(tx, window); err != nil {
			return err
		}
		if err := grow(tx, analyzed+1, backlog); err != nil {
			return err
		}
		var batch []mark
		var err error
		if batch, read, marked, err = both(tx, window); err != nil {
			return err
		}
		if len(batch) != window || batch[window-1].id-batch[0].id != window-1 {
			t.Errorf("%d rows read, want %d one after another", len(batch), window)
		}
		return nil
	})
	if read > most || marked > most {
		t.Errorf("%d rows touched to read %d of %d, then %d to mark them; want at most %d each", read, window, backlog, marked, most)
	}
}

// both reads a window behind three known messages and marks it, and says how many rows and index entries that touched.
func both(tx *gorm.DB, window int) (batch []mark, read, marked int, err error) {
	before, err := touched(tx)
	if err != nil {
		return nil, 0, 0, err
	}
	db := database.Statements(tx)
	db.ByIndex()
	rows, err := db.Rows(readNext[database.Postgres], "beta", int64(0), []int64{1, 2, 3}, window)
	if err != nil {
		return nil, 0, 0, err
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		var r row
		if err := rows.Scan(&r.ID, &r.MessageID, &r.Name, &r.Key, &r.Sequence, &r.CorrelationID, &r.CausationID, &r.Traceparent, &r.Subject, &r.CreatedAt, &r.Payload); err != nil {
			return nil, 0, 0, err
		}
		batch = append(batch, mark{leg: &leg{subscriber: "beta"}, id: r.ID})
	}
	if err := rows.Err(); err != nil {
		return nil, 0, 0, err
	}
	if read, err = touched(tx); err != nil {
		return nil, 0, 0, err
	}
	if err := deleteTaken(tx, batch, 0); err != nil {
		return nil, 0, 0, err
	}
	marked, err = touched(tx)
	return batch, read - before, marked - read, err
}

// touched is how many rows and index entries of the outbox the transaction has looked at.
func touched(tx *gorm.DB) (n int, err error) {
	err = tx.Raw(`SELECT (SELECT sum(seq_tup_read + idx_tup_fetch) FROM pg_stat_xact_user_tables WHERE relname IN ('outbox', 'delivery'))
		+ (SELECT sum(pg_stat_get_xact_tuples_returned(indexrelid)) FROM pg_index WHERE indrelid IN ('outbox'::regclass, 'delivery'::regclass))`).Row().Scan(&n)
	return n, err
}
