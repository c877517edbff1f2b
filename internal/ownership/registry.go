package ownership

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/banyan-go/banyan/internal/database"
	"github.com/banyan-go/banyan/internal/errs"
	"github.com/banyan-go/banyan/internal/unit"
)

// Snapshot is what the store of the records says at a moment.
type Snapshot struct {
	Records   map[string]Record // of modules that have ever been looked at
	Processes []Process         // that have registered lately, also those that are gone since

	lost map[string]uint64 // module -> latest version that this process, or one beside the shop, knows, where the store has an earlier one
	told map[string]bool   // module -> another process of the shop knows a later version than this one
}

// Registry is where the records and the registrations are.
type Registry interface {
	Read(ctx context.Context) (Snapshot, error)
	// Register says that a process runs, and what of it.
	Register(ctx context.Context, p Process) error
	// Leave says that it runs no more.
	Leave(ctx context.Context, id string) error
	// Move puts to in the place of the record with from's version (0: there is none) or an earlier one, with the version after it. It is
	// ErrMoved if there is a later one.
	Move(ctx context.Context, from Record, to Record, cause Cause) error
	// Journal is what has happened to a module, the latest first.
	Journal(ctx context.Context, module string, limit int) ([]Entry, error)
	// Watch calls changed when another process may have changed something, until ctx ends.
	Watch(ctx context.Context, changed func()) error
}

// ErrMoved: somebody else has changed the record meanwhile.
var ErrMoved error = errs.New(errs.Conflict, "the placement was changed by somebody else meanwhile; look at it again")

// channel is where processes on one PostgreSQL database tell each other of changes.
const channel = "banyan_placement"

// Store is the registry in the control store.
type Store struct {
	db    *database.DB
	store *unit.Store
}

// NewStore is the registry on the control store.
func NewStore(db *database.DB) *Store {
	return &Store{db: db, store: unit.New(db, unit.Options{Module: database.Control})}
}

type placementRow struct {
	Module, Placement, Owner, Step, Wish, Refused string
	Reads, Writes                                 int
	Epoch, Version                                int64
	ChangedAt                                     time.Time
}

func (r placementRow) record() Record {
	return Record{
		Module: r.Module, Wish: Wish{Placement: Placement(r.Placement), Reads: r.Reads, Writes: r.Writes}, Owner: Side(r.Owner),
		Epoch: uint64(r.Epoch), Version: uint64(r.Version), Step: Step(r.Step), Wished: r.Wish, Refused: r.Refused, ChangedAt: r.ChangedAt,
	}
}

// Read reads records and registrations.
func (s *Store) Read(ctx context.Context) (Snapshot, error) {
	snap := Snapshot{Records: map[string]Record{}}
	// The registrations first: what a process follows was written before, so that no version there is later than that of the record here.
	var processes []struct {
		Body   string
		SeenAt time.Time
		Age    float64
	}
	age, args := "extract(epoch FROM clock_timestamp() - seen_at)", []any(nil)
	if s.db.Dialect() == database.SQLite {
		age, args = "(julianday(?) - julianday(seen_at)) * 86400", []any{s.store.Clock().Now().Format("2006-01-02T15:04:05.000")}
	}
	if err := s.store.Read(ctx).Raw("SELECT body, seen_at, "+age+" AS age FROM process ORDER BY id", args...).Scan(&processes).Error; err != nil {
		return snap, fmt.Errorf("processes: %w", err)
	}
	for _, r := range processes {
		var p Process
		if err := json.Unmarshal([]byte(r.Body), &p); err != nil {
			return snap, fmt.Errorf("processes: %w", err)
		}
		p.SeenAt, p.Age = r.SeenAt, time.Duration(r.Age*float64(time.Second))
		snap.Processes = append(snap.Processes, p)
	}
	var rows []placementRow
	if err := s.store.Read(ctx).Raw("SELECT module, placement, reads, writes, owner, epoch, version, step, wish, refused, changed_at FROM placement").Scan(&rows).Error; err != nil {
		return snap, fmt.Errorf("placements: %w", err)
	}
	for _, r := range rows {
		snap.Records[r.Module] = r.record()
	}
	return snap, nil
}

// clock is the store's own, for those that share it.
func (s *Store) clock(w *unit.Work) (string, []any) {
	if w.Dialect() == database.Postgres {
		return "clock_timestamp()", nil
	}
	return "?", []any{w.Now()}
}

// Register writes a registration. The others are told when it says something new.
func (s *Store) Register(ctx context.Context, p Process) error {
	body, err := json.Marshal(p)
	if err != nil {
		return err
	}
	return s.store.Do(ctx, func(_ context.Context, w *unit.Work) error {
		now, at := s.clock(w)
		var before []string
		if err := w.DB.Raw("SELECT body FROM process WHERE id = ?", p.ID).Scan(&before).Error; err != nil {
			return err
		}
		args := append(append([]any{p.ID, string(body)}, at...), at...)
		err := w.DB.Exec("INSERT INTO process (id, body, seen_at) VALUES (?, ?, "+now+") ON CONFLICT (id) DO UPDATE SET body = excluded.body, seen_at = "+now, args...).Error
		if err != nil {
			return err
		}
		if len(before) == 1 && before[0] == string(body) {
			return nil
		}
		return tell(w)
	})
}

// Leave removes a registration.
func (s *Store) Leave(ctx context.Context, id string) error {
	return s.store.Do(ctx, func(_ context.Context, w *unit.Work) error {
		if err := w.DB.Exec("DELETE FROM process WHERE id = ?", id).Error; err != nil {
			return err
		}
		return tell(w)
	})
}

func tell(w *unit.Work) error {
	if w.Dialect() != database.Postgres {
		return nil
	}
	return w.DB.Exec("SELECT pg_notify(?, '')", channel).Error
}

// Move changes a record, and writes it in the journal.
func (s *Store) Move(ctx context.Context, from, to Record, cause Cause) error {
	was, err := json.Marshal(from)
	if err != nil {
		return err
	}
	evidence := []byte("null")
	if cause.Evidence != nil {
		if evidence, err = json.Marshal(cause.Evidence); err != nil {
			return fmt.Errorf("evidence: %w", err)
		}
	}
	return s.store.Do(ctx, func(_ context.Context, w *unit.Work) error {
		to := to
		to.Version, to.ChangedAt = from.Version+1, from.ChangedAt
		if from.ChangedAt.IsZero() || to.Wish != from.Wish || to.Owner != from.Owner || to.Step != from.Step {
			to.ChangedAt = w.Now()
		}
		is, err := json.Marshal(to)
		if err != nil {
			return err
		}
		values := []any{string(to.Placement), to.Reads, to.Writes, string(to.Owner), int64(to.Epoch), int64(to.Version), string(to.Step), to.Wished, to.Refused, to.ChangedAt}
		// A record that is older than from, or gone, is one of a store that was restored from a backup: nobody made from of it who could still
		// be asked. Whoever is second finds what the first has written, which is later than from.
		r := w.DB.Exec(`INSERT INTO placement (placement, reads, writes, owner, epoch, version, step, wish, refused, changed_at, module) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
			ON CONFLICT (module) DO UPDATE SET placement = excluded.placement, reads = excluded.reads, writes = excluded.writes, owner = excluded.owner, epoch = excluded.epoch,
				version = excluded.version, step = excluded.step, wish = excluded.wish, refused = excluded.refused, changed_at = excluded.changed_at
			WHERE placement.version <= ?`, append(values, to.Module, int64(from.Version))...)
		if r.Error != nil {
			return r.Error
		}
		if r.RowsAffected == 0 {
			return ErrMoved
		}
		err = w.DB.Exec(`INSERT INTO placement_journal (module, at, caller, reason, "from", "to", evidence) VALUES (?, ?, ?, ?, ?, ?, ?)`,
			to.Module, w.Now(), cause.Caller, cause.Reason, string(was), string(is), string(evidence)).Error
		if err != nil {
			return err
		}
		return tell(w)
	})
}

// Journal reads the latest entries of a module, or of all with "".
func (s *Store) Journal(ctx context.Context, module string, limit int) ([]Entry, error) {
	var rows []struct {
		ID                     int64
		Module, Caller, Reason string
		At                     time.Time
		From, To, Evidence     string
	}
	err := s.store.Read(ctx).Raw(`SELECT id, module, at, caller, reason, "from", "to", evidence FROM placement_journal WHERE ? = '' OR module = ? ORDER BY id DESC LIMIT ?`, module, module, limit).Scan(&rows).Error
	if err != nil {
		return nil, fmt.Errorf("journal: %w", err)
	}
	entries := []Entry{}
	for _, r := range rows {
		e := Entry{ID: r.ID, Module: r.Module, At: r.At, Caller: r.Caller, Reason: r.Reason}
		if r.Evidence != "null" {
			e.Evidence = json.RawMessage(r.Evidence)
		}
		for text, into := range map[string]*Record{r.From: &e.From, r.To: &e.To} {
			if err := json.Unmarshal([]byte(text), into); err != nil {
				return nil, fmt.Errorf("journal entry %d: %w", r.ID, err)
			}
		}
		entries = append(entries, e)
	}
	return entries, nil
}

// Watch waits for notifications.
func (s *Store) Watch(ctx context.Context, changed func()) error {
	return s.db.Listen(ctx, channel, func(string) { changed() })
}

// Beside is the registry of a process that reads the control store and may not write it: one beside a shop on SQLite. It registers with
// the shop; while no shop runs nothing changes.
type Beside struct {
	*Store
	post func(ctx context.Context, path string, body any) error
}

// Paths below /admin at which the shop takes registrations.
const (
	RegisterPath = "/process"
	LeavePath    = "/process/leave"
)

// NewBeside reads from a store, and posts to the admin port of the shop that writes it.
func NewBeside(store *Store, post func(ctx context.Context, path string, body any) error) *Beside {
	return &Beside{Store: store, post: post}
}

// Register registers with the shop.
func (r *Beside) Register(ctx context.Context, p Process) error {
	return r.post(ctx, RegisterPath, p)
}

// Leave tells the shop.
func (r *Beside) Leave(ctx context.Context, id string) error {
	return r.post(ctx, LeavePath, Process{ID: id})
}

// Move is for the shop alone.
func (r *Beside) Move(context.Context, Record, Record, Cause) error {
	return errs.New(errs.Conflict, "only a process of the shop changes placements")
}
