package bus_test

import (
	"context"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/banyan-go/banyan/internal/bustest"
	"github.com/banyan-go/banyan/internal/databasetest"
)

// A transaction that has nothing to do with a message delays nothing, however long it is open: nothing waits for the oldest
// transaction of the server. The other one stays open for the whole test, so waiting for it would never end.
func TestUnrelatedTransactionDelaysNothing(t *testing.T) {
	t.Parallel()
	e := databasetest.Postgres(t, bustest.Modules...)
	c, err := pgx.Connect(t.Context(), e.Config.Postgres.AdminDSN.Reveal())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close(context.Background()) }()
	tx, err := c.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback(context.Background()) }()
	if _, err := tx.Exec(t.Context(), "CREATE TABLE unrelated AS SELECT 1 AS one"); err != nil { // takes a transaction id
		t.Fatal(err)
	}
	w := bustest.Open(t, e, bustest.Options{})
	start := time.Now()
	w.Publish("a", bustest.Range(1, 20)...)
	w.Settle()
	if got := w.Seen(w.Beta, "count", "a"); len(got) != 20 {
		t.Errorf("%d handled, want 20", len(got))
	}
	t.Logf("20 messages within %s while the other transaction is open", time.Since(start))
}
