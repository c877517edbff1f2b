package unit_test

import (
	"context"
	"testing"

	"github.com/banyan-go/banyan/internal/bustest"
	"github.com/banyan-go/banyan/internal/databasetest"
	"github.com/banyan-go/banyan/internal/unit"
)

// A timer of an erased user forgets what it holds, as does the reply to a command. An effect is finished as it was begun, and
// nobody else's rows change.
func TestErasureOfTimersAndReplies(t *testing.T) {
	each(t, func(t *testing.T, e databasetest.Engine) {
		w := bustest.Prepare(t, e, bustest.Options{})
		if err := w.Beta.Do(t.Context(), func(_ context.Context, u *unit.Work) error {
			for _, r := range []struct{ kind, name, subject string }{{unit.KindTimer, "unknown", "ann"}, {unit.KindEffect, "call", "ann"}, {unit.KindTimer, "unknown", "bob"}} {
				if err := u.DB.Exec("INSERT INTO timers (kind, name, key, due_at, first_at, attempt, payload, subject) VALUES (?, ?, ?, ?, ?, 0, ?, ?)",
					r.kind, r.name, r.subject, u.Now(), u.Now(), []byte(`{"card":"`+r.subject+`"}`), r.subject).Error; err != nil {
					return err
				}
			}
			for _, subject := range []string{"ann", "bob"} {
				if err := u.DB.Exec("INSERT INTO inbox (handler, message_id, handled_at, reply, subject) VALUES ('request', ?, ?, ?, ?)", subject, u.Now(), []byte(subject), subject).Error; err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		for range 2 { // again makes no difference
			if err := w.Beta.Do(t.Context(), func(_ context.Context, u *unit.Work) error { return u.Erase("ann") }); err != nil {
				t.Fatal(err)
			}
		}
		texts := func(query string) []string {
			t.Helper()
			var rows [][]byte
			if err := w.Beta.Read(t.Context()).Raw(query).Scan(&rows).Error; err != nil {
				t.Fatal(err)
			}
			var all []string
			for _, r := range rows {
				all = append(all, string(r))
			}
			return all
		}
		want(t, "timers", texts("SELECT payload FROM timers WHERE kind = 'timer' ORDER BY key"), []string{"{}", `{"card":"bob"}`})
		want(t, "effects", texts("SELECT payload FROM timers WHERE kind = 'effect'"), []string{`{"card":"ann"}`})
		want(t, "replies", texts("SELECT reply FROM inbox ORDER BY message_id"), []string{"", "bob"})
	})
}

// Erased says of whom nothing is to be kept.
func TestErased(t *testing.T) {
	each(t, func(t *testing.T, e databasetest.Engine) {
		w := bustest.Prepare(t, e, bustest.Options{})
		if err := w.Beta.Do(t.Context(), func(_ context.Context, u *unit.Work) error { return u.Erase("ann") }); err != nil {
			t.Fatal(err)
		}
		got := map[string]bool{}
		if err := w.Beta.Do(t.Context(), func(_ context.Context, u *unit.Work) error {
			for _, s := range []string{"ann", "bob", ""} {
				var err error
				if got[s], err = u.Erased(s); err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		want(t, "erased", got, map[string]bool{"ann": true, "bob": false, "": false})
	})
}
