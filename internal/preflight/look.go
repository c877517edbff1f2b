package preflight

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/banyan-go/banyan/internal/database"
	"github.com/banyan-go/banyan/internal/meter"
	"github.com/banyan-go/banyan/internal/module"
	"github.com/banyan-go/banyan/internal/unit"
)

// The metrics that traffic is read from.
const (
	requestCounts   = "banyan_http_requests_total"
	callTimes       = "banyan_call_seconds"
	publishedCounts = "banyan_messages_published_total"
	handledCounts   = "banyan_messages_handled_total"
)

// Metrics are those that the meter has to know.
func Metrics() []string { return []string{requestCounts, callTimes, publishedCounts, handledCounts} }

// TrafficOf is what a process has measured between two readings.
func TrafficOf(c meter.Change) Traffic {
	t := Traffic{Window: c.To.Sub(c.From).Round(time.Second), Requests: map[string]float64{}, Messages: map[string]float64{}, Calls: []Call{}}
	for _, s := range c.By(requestCounts, "module") {
		t.Requests[s.Labels["module"]] = c.PerSecond(s.Count)
	}
	for _, metric := range []string{publishedCounts, handledCounts} {
		for _, s := range c.By(metric, "module") {
			t.Messages[s.Labels["module"]] += c.PerSecond(s.Count)
		}
	}
	for _, s := range c.By(callTimes, "caller", "message") {
		t.Calls = append(t.Calls, Call{Caller: s.Labels["caller"], Message: s.Labels["message"], PerSecond: c.PerSecond(s.Count), P50: s.Quantile(.5), P99: s.Quantile(.99)})
	}
	slices.SortFunc(t.Calls, func(a, b Call) int { return strings.Compare(a.Caller+" "+a.Message, b.Caller+" "+b.Message) })
	return t
}

// countUpTo bounds what is counted of a long outbox.
const countUpTo = 100_000

// LookAt counts what a module's store holds.
func LookAt(ctx context.Context, store *unit.Store) Store {
	var s Store
	db, now := store.Read(ctx), store.Clock().Now()
	for _, q := range []struct {
		sql  string
		args []any
		into *int64
	}{
		{"SELECT count(*) FROM (SELECT 1 FROM delivery LIMIT ?) AS counted", []any{countUpTo}, &s.Pending},
		{"SELECT count(*) FROM parked_key WHERE next_at IS NOT NULL", nil, &s.Parked},
		{"SELECT count(*) FROM dead_letters", nil, &s.Dead},
		{"SELECT count(*) FROM (SELECT 1 FROM timers WHERE kind <> ? LIMIT ?) AS counted", []any{unit.KindSchedule, countUpTo}, &s.Timers},
		{"SELECT count(*) FROM timers WHERE kind <> ? AND due_at <= ?", []any{unit.KindSchedule, now.Add(time.Minute)}, &s.Due},
		{"SELECT count(*) FROM (SELECT 1 FROM outbox WHERE unsubscribed LIMIT ?) AS counted", []any{countUpTo}, &s.Unheard},
	} {
		if err := db.Raw(q.sql, q.args...).Row().Scan(q.into); err != nil {
			return Store{Error: err.Error()}
		}
	}
	var oldest []time.Time
	if err := db.Raw("SELECT created_at FROM outbox WHERE id = (SELECT min(outbox_id) FROM delivery)").Scan(&oldest).Error; err != nil {
		return Store{Error: err.Error()}
	}
	if len(oldest) == 1 {
		s.Oldest = max(0, now.Sub(oldest[0]))
	}
	return s
}

// StoreBreaches are what the database lets a module do in the schemas of others, and what ties its tables to theirs. SQLite has a file for
// each module, so that there are none.
func StoreBreaches(ctx context.Context, store *unit.Store, modules []module.Descriptor) ([]Breach, error) {
	if store.DB().Dialect() != database.Postgres {
		return nil, nil
	}
	own := store.Module()
	var others []string
	for _, d := range modules {
		if d.Name != own {
			others = append(others, d.Name)
		}
	}
	if len(others) == 0 {
		return nil, nil
	}
	var breaches []Breach
	var tables []struct{ Schema, Name, Role string }
	err := store.Read(ctx).Raw(`SELECT n.nspname AS schema, c.relname AS name, current_user AS role FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE n.nspname IN ? AND c.relkind IN ('r', 'p', 'v', 'm') AND has_schema_privilege(n.oid, 'USAGE')
		AND has_table_privilege(c.oid, 'SELECT, INSERT, UPDATE, DELETE') ORDER BY 1, 2`, others).Scan(&tables).Error
	if err != nil {
		return nil, fmt.Errorf("grants of %s: %w", own, err)
	}
	found := map[string][]string{}
	for _, t := range tables {
		found[t.Schema] = append(found[t.Schema], t.Name)
	}
	for _, other := range others {
		if names := found[other]; len(names) > 0 {
			breaches = append(breaches, Breach{Module: own, Other: other,
				What:   fmt.Sprintf("its role %s may use tables of %s: %s", tables[0].Role, other, some(names)),
				WayOut: fmt.Sprintf("REVOKE ALL ON ALL TABLES IN SCHEMA %s FROM %s, and ask %s over the bus or keep a copy fed by its events", other, tables[0].Role, other)})
		}
	}
	var keys []struct{ Name, Source, Target string }
	err = store.Read(ctx).Raw(`SELECT k.conname AS name, c.relname AS source, fn.nspname AS target
		FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid JOIN pg_namespace n ON n.oid = c.relnamespace
		JOIN pg_class f ON f.oid = k.confrelid JOIN pg_namespace fn ON fn.oid = f.relnamespace
		WHERE k.contype = 'f' AND n.nspname = ? AND fn.nspname IN ? ORDER BY 1`, own, others).Scan(&keys).Error
	if err != nil {
		return nil, fmt.Errorf("foreign keys of %s: %w", own, err)
	}
	for _, k := range keys {
		breaches = append(breaches, Breach{Module: own, Other: k.Target, What: fmt.Sprintf("the foreign key %s of its table %s points to %s", k.Name, k.Source, k.Target),
			WayOut: fmt.Sprintf("ALTER TABLE %s.%s DROP CONSTRAINT %s; keep the id alone", own, k.Source, k.Name)})
	}
	return breaches, nil
}

// ImportBreaches are imports of other modules past their contracts, among those of a module's packages. prefix is the import path of the
// modules' folder.
func ImportBreaches(prefix, own string, imports map[string][]string) []Breach {
	var breaches []Breach
	for file, paths := range imports {
		for _, path := range paths {
			rest, ours := strings.CutPrefix(path, prefix+"/")
			other, inner, _ := strings.Cut(rest, "/")
			if ours && other != own && inner != other+"api" {
				breaches = append(breaches, Breach{Module: own, Other: other, What: fmt.Sprintf("%s imports %s", file, path),
					WayOut: fmt.Sprintf("use the contract %s/%s/%sapi, or ask over the bus", prefix, other, other)})
			}
		}
	}
	slices.SortFunc(breaches, func(a, b Breach) int { return strings.Compare(a.What, b.What) })
	return breaches
}

// some are the first of many names.
func some(names []string) string {
	if len(names) > 4 {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:3], ", "), len(names)-3)
	}
	return strings.Join(names, ", ")
}
