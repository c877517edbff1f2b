package preflight_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/banyan-go/banyan/internal/database"
	"github.com/banyan-go/banyan/internal/databasetest"
	"github.com/banyan-go/banyan/internal/module"
	"github.com/banyan-go/banyan/internal/preflight"
	"github.com/banyan-go/banyan/internal/unit"
)

func TestLookAt(t *testing.T) {
	t.Parallel()
	databasetest.Each(t, []string{"alpha"}, func(t *testing.T, e databasetest.Engine) {
		store := unit.New(e.Store(t, "alpha"), unit.Options{Module: "alpha", Timers: []string{"later"}})
		if got := preflight.LookAt(t.Context(), store); got != (preflight.Store{}) {
			t.Errorf("an empty store holds %+v", got)
		}
		now := store.Clock().Now()
		if err := store.Do(t.Context(), func(_ context.Context, w *unit.Work) error {
			for _, sql := range []struct {
				text string
				args []any
			}{
				{"INSERT INTO outbox (id, message_id, name, key, sequence, correlation_id, causation_id, traceparent, subject, created_at, unsubscribed, payload) VALUES (1, 'm', 'n', 'k', 1, '', '', '', '', ?, ?, ?)", []any{now.Add(-time.Minute), false, []byte("{}")}},
				{"INSERT INTO outbox (id, message_id, name, key, sequence, correlation_id, causation_id, traceparent, subject, created_at, unsubscribed, payload) VALUES (2, 'o', 'n', 'k', 1, '', '', '', '', ?, ?, ?)", []any{now, true, []byte("{}")}},
				{"INSERT INTO delivery (subscriber, outbox_id) VALUES ('beta', 1)", nil},
				{"INSERT INTO parked_key (handler, key, next_at, attempt, first_at, delay_ms) VALUES ('h', 'a', ?, 1, ?, 1)", []any{now, now}},
				{"INSERT INTO parked_key (handler, key, next_at, attempt, first_at, delay_ms) VALUES ('h', 'b', NULL, 1, ?, 1)", []any{now}},
				{"INSERT INTO dead_letters (id, position, handler, key, message_id, name, subject, message, reason, attempts, first_at, died_at) VALUES ('d', 0, 'h', 'b', 'm', 'n', '', ?, '', 1, ?, ?)", []any{[]byte("{}"), now, now}},
				{"INSERT INTO timers (kind, name, key, due_at, first_at, attempt, payload) VALUES ('timer', 'later', '1', ?, ?, 0, ?)", []any{now, now, []byte("{}")}},
				{"INSERT INTO timers (kind, name, key, due_at, first_at, attempt, payload) VALUES ('timer', 'later', '2', ?, ?, 0, ?)", []any{now.Add(time.Hour), now, []byte("{}")}},
				{"INSERT INTO timers (kind, name, key, due_at, first_at, attempt, payload) VALUES ('schedule', 'daily', '', ?, ?, 0, ?)", []any{now, now, []byte("{}")}},
			} {
				if err := w.DB.Exec(sql.text, sql.args...).Error; err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		got := preflight.LookAt(t.Context(), store)
		if got.Oldest < time.Minute || got.Oldest > 2*time.Minute {
			t.Errorf("the oldest message waits for %s", got.Oldest)
		}
		got.Oldest = 0
		if want := (preflight.Store{Pending: 1, Parked: 1, Dead: 1, Due: 1, Timers: 2, Unheard: 1}); got != want {
			t.Errorf("got %+v, want %+v", got, want)
		}
	})
}

// What the database lets a module do beyond its schema is found; what it does not is not.
func TestStoreBreaches(t *testing.T) {
	t.Parallel()
	modules := []module.Descriptor{{Name: "alpha"}, {Name: "beta"}, {Name: "gamma"}}
	databasetest.Each(t, []string{"alpha", "beta", "gamma"}, func(t *testing.T, e databasetest.Engine) {
		stores := map[string]*unit.Store{}
		for _, d := range modules {
			stores[d.Name] = unit.New(e.Store(t, d.Name), unit.Options{Module: d.Name})
		}
		look := func(name string) string {
			t.Helper()
			found, err := preflight.StoreBreaches(t.Context(), stores[name], modules)
			if err != nil {
				t.Fatal(err)
			}
			var all []string
			for _, b := range found {
				all = append(all, b.Module+" "+b.Other+" "+b.What)
			}
			return strings.Join(all, "\n")
		}
		for name := range stores {
			if got := look(name); got != "" {
				t.Errorf("%s: %s", name, got)
			}
		}
		if e.Dialect == database.SQLite {
			return // a file for each module: there is nothing to reach into
		}
		admin, err := pgx.Connect(t.Context(), e.Config.Postgres.AdminDSN.Reveal())
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = admin.Close(context.WithoutCancel(t.Context())) }()
		exec := func(sql string) {
			t.Helper()
			if _, err := admin.Exec(t.Context(), sql); err != nil {
				t.Fatalf("%s: %v", sql, err)
			}
		}
		role := pgx.Identifier{database.Role(admin.Config().Database, "beta")}.Sanitize()
		exec("GRANT SELECT ON alpha.outbox TO " + role)
		if got := look("beta"); got != "" {
			t.Errorf("a table in a schema that cannot be used: %s", got)
		}
		exec("GRANT USAGE ON SCHEMA alpha TO " + role)
		exec("ALTER TABLE gamma.delivery ADD CONSTRAINT across FOREIGN KEY (outbox_id) REFERENCES alpha.outbox (id)")
		if got := look("beta"); !strings.HasPrefix(got, "beta alpha its role ") || !strings.HasSuffix(got, "_beta may use tables of alpha: outbox") {
			t.Errorf("a grant: %q", got)
		}
		if got := look("gamma"); got != "gamma alpha the foreign key across of its table delivery points to alpha" {
			t.Errorf("a foreign key: %q", got)
		}
		if got := look("alpha"); got != "" {
			t.Errorf("who is reached into is not to blame: %s", got)
		}
	})
}
