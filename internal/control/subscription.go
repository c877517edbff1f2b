package control

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/banyan-go/banyan/internal/database"
	"github.com/banyan-go/banyan/internal/unit"
)

// Alive is how long a version of the program counts as running after one of its processes has last registered.
const Alive = 15 * time.Minute

// subscriptionLock makes replicas that register together do it one after another.
const subscriptionLock = 0x73756273 // "subs"

const subscriptionChannel = "banyan_subscriptions"

type subscription struct{ Subscriber, Message string }

type subscriptionRow struct {
	Subscriber, Message string
	PartSeenAt          *time.Time
}

// Register keeps who subscribes to what (wire name -> modules), and says what is in force. A process registers at its start and
// then again well within Alive.
//
// What is in force is what the version says that came last: what others subscribe to no more goes, so that nobody writes to a
// subscriber that will never come again. While a version is rolled out, processes of the one before may start again; they change
// nothing, or they would take away what the newer one subscribes to, and its messages would be taken for those of a subscription
// that is over. A version that nobody has run for Alive is forgotten. When it comes back, as after a rollback, it came last.
//
// list is that of the whole program. A process that knows a part of it says so: it adds its own, and takes nothing away. What it has
// added stays as long as it says so again within Alive, also where it is of a newer version than the whole program: those who publish
// then know a subscriber that they have not been built with.
func Register(ctx context.Context, store *unit.Store, list map[string][]string, whole bool) (inForce map[string][]string, err error) {
	own := map[subscription]bool{}
	for message, subscribers := range list {
		for _, s := range subscribers {
			own[subscription{s, message}] = true
		}
	}
	err = store.Do(ctx, func(_ context.Context, w *unit.Work) error {
		if w.Dialect() == database.Postgres {
			if err := w.DB.Exec("SELECT pg_advisory_xact_lock(?)", subscriptionLock).Error; err != nil {
				return err
			}
		}
		last := false
		if whole {
			var err error
			if last, err = release(w, digest(own)); err != nil {
				return err
			}
		}
		var rows []subscriptionRow
		if err := w.DB.Raw("SELECT subscriber, message, part_seen_at FROM subscription").Scan(&rows).Error; err != nil {
			return err
		}
		known, changed := map[subscription]bool{}, false
		for _, row := range rows {
			r := subscription{row.Subscriber, row.Message}
			known[r] = true
			switch ofPart := row.PartSeenAt != nil && row.PartSeenAt.After(w.Now().Add(-Alive)); {
			case last && !own[r] && !ofPart:
				delete(known, r)
				changed = true
				if err := w.DB.Exec("DELETE FROM subscription WHERE subscriber = ? AND message = ?", r.Subscriber, r.Message).Error; err != nil {
					return err
				}
			case !whole && own[r]:
				if err := w.DB.Exec("UPDATE subscription SET part_seen_at = ? WHERE subscriber = ? AND message = ?", w.Now(), r.Subscriber, r.Message).Error; err != nil {
					return err
				}
			}
		}
		var seen *time.Time
		if now := w.Now(); !whole {
			seen = &now
		}
		for r := range own {
			if known[r] || (whole && !last) {
				continue
			}
			known[r], changed = true, true
			if err := w.DB.Exec("INSERT INTO subscription (subscriber, message, since, part_seen_at) VALUES (?, ?, ?, ?)", r.Subscriber, r.Message, w.Now(), seen).Error; err != nil {
				return err
			}
		}
		inForce = map[string][]string{}
		for r := range known {
			inForce[r.Message] = append(inForce[r.Message], r.Subscriber)
		}
		if changed && w.Dialect() == database.Postgres {
			return w.DB.Exec("SELECT pg_notify(?, '')", subscriptionChannel).Error
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("subscriptions: %w", err)
	}
	for _, subscribers := range inForce {
		slices.Sort(subscribers)
	}
	return inForce, nil
}

// WatchSubscriptions calls changed when another process may have changed what is in force, until ctx ends. On SQLite nobody says so.
func WatchSubscriptions(ctx context.Context, db *database.DB, changed func()) error {
	return db.Listen(ctx, subscriptionChannel, func(string) { changed() })
}

// Registered says what is in force, and changes nothing.
func Registered(ctx context.Context, store *unit.Store) (inForce map[string][]string, err error) {
	var rows []subscription
	if err := store.Read(ctx).Raw("SELECT subscriber, message FROM subscription ORDER BY subscriber").Scan(&rows).Error; err != nil {
		return nil, fmt.Errorf("subscriptions: %w", err)
	}
	inForce = map[string][]string{}
	for _, r := range rows {
		inForce[r.Message] = append(inForce[r.Message], r.Subscriber)
	}
	return inForce, nil
}

// release notes that a version runs, and says whether it came last of those that do.
func release(w *unit.Work, id string) (last bool, err error) {
	gone, args := "seen_at < ?", []any{w.Now().Add(-Alive)}
	if w.Dialect() == database.SQLite {
		gone, args = "id <> ?", []any{id} // one process has the store: whoever had it before is gone
	}
	if err := w.DB.Exec("DELETE FROM release WHERE "+gone, args...).Error; err != nil {
		return false, err
	}
	if err := w.DB.Exec("INSERT INTO release (id, since, seen_at) VALUES (?, ?, ?) ON CONFLICT (id) DO UPDATE SET seen_at = excluded.seen_at", id, w.Now(), w.Now()).Error; err != nil {
		return false, err
	}
	var newest string
	err = w.DB.Raw("SELECT id FROM release ORDER BY since DESC, id LIMIT 1").Row().Scan(&newest)
	return newest == id, err
}

// digest tells versions apart.
func digest(list map[subscription]bool) string {
	h := sha256.New()
	for _, s := range slices.SortedFunc(maps.Keys(list), func(a, b subscription) int {
		return cmp.Or(cmp.Compare(a.Message, b.Message), cmp.Compare(a.Subscriber, b.Subscriber))
	}) {
		_, _ = fmt.Fprintf(h, "%s %s\n", s.Message, s.Subscriber)
	}
	return hex.EncodeToString(h.Sum(nil))
}
