package e2e

import (
	"database/sql"
	"fmt"
	"strings"
	"testing"

	_ "github.com/jackc/pgx/v5/stdlib"
)

// sayWhatIsLeft adds, to a test that fails, what the stores still hold and what the processes have said.
func (s *shop) sayWhatIsLeft(t *testing.T, others ...*shop) {
	t.Cleanup(func() {
		if !t.Failed() {
			return
		}
		if s.server != nil {
			s.sayRows(t)
		}
		for _, p := range append([]*shop{s}, others...) {
			lines := strings.Split(p.errOut.String(), "\n")
			t.Logf("%v said:\n%s", p.args, strings.Join(lines[max(0, len(lines)-60):], "\n"))
		}
	})
}

func (s *shop) sayRows(t *testing.T) {
	db, err := sql.Open("pgx", s.server.DSN(s.dbName))
	if err != nil {
		t.Log(err)
		return
	}
	defer func() { _ = db.Close() }()
	dump := func(module, what, query string) {
		var rows []byte
		if err := db.QueryRow("SELECT coalesce(json_agg(r), '[]') FROM (" + query + ") AS r").Scan(&rows); err != nil {
			t.Logf("%s %s: %v", module, what, err)
		} else if string(rows) != "[]" {
			t.Logf("%s %s: %s", module, what, rows)
		}
	}
	for _, m := range moduleNames {
		dump(m, "delivery", fmt.Sprintf("SELECT d.subscriber, o.id, o.name, o.key, o.sequence, o.created_at FROM %[1]s.delivery d LEFT JOIN %[1]s.outbox o ON o.id = d.outbox_id LIMIT 20", m))
		dump(m, "parked", fmt.Sprintf("SELECT * FROM %s.parked_key LIMIT 20", m))
		dump(m, "dead", fmt.Sprintf("SELECT handler, key, name, reason FROM %s.dead_letters LIMIT 20", m))
		dump(m, "timers", fmt.Sprintf("SELECT kind, name, key, due_at, attempt FROM %s.timers WHERE kind <> 'schedule' LIMIT 20", m))
		dump(m, "routes", fmt.Sprintf("SELECT * FROM %s.route", m))
		dump(m, "barriers", fmt.Sprintf("SELECT * FROM %s.barrier", m))
		dump(m, "lease", fmt.Sprintf("SELECT *, clock_timestamp() AS now FROM %s.lease WHERE term > 1", m))
	}
}
