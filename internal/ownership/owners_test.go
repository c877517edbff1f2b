package ownership_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"gorm.io/gorm"

	"github.com/banyan-go/banyan/internal/database"
	"github.com/banyan-go/banyan/internal/databasetest"
	"github.com/banyan-go/banyan/internal/errs"
	"github.com/banyan-go/banyan/internal/ownership"
)

// replica is a process in a test, that follows at once whatever it learns.
type replica struct {
	*ownership.Owners
	follower *ownership.Follower
	behind   atomic.Bool // it follows nothing
	wish     atomic.Pointer[ownership.Wish]
	broker   atomic.Pointer[string]
	stop     func()
}

const ttl = 2 * time.Second

// start runs a process of the shop, or of a module. configured is where the shop wants payments; local if nothing is said.
func start(t *testing.T, db *database.DB, id, module string, configured ...ownership.Wish) *replica {
	t.Helper()
	r := &replica{}
	r.wish.Store(&append(configured, local())[0])
	ready := ownership.BrokerReady
	r.broker.Store(&ready)
	o := ownership.Options{
		Self: ownership.Process{ID: id, Module: module}, Modules: []string{"orders", "payments"}, Shared: db.Dialect() == database.Postgres, TTL: ttl,
		Broker: func() string { return *r.broker.Load() },
	}
	if module == "" {
		o.Wishes = func() map[string]ownership.Wish { return map[string]ownership.Wish{"payments": *r.wish.Load()} }
	}
	var err error
	if r.Owners, err = ownership.Open(t.Context(), ownership.NewStore(db), o); err != nil {
		t.Fatal(err)
	}
	r.follower = r.Follow(func(records []ownership.Record) {
		for _, x := range records {
			if !r.behind.Load() {
				r.follower.Done(x.Module, x.Version)
			}
		}
	})
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = r.Run(ctx) })
	r.stop = func() { cancel(); running.Wait() }
	t.Cleanup(r.stop)
	return r
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !ok(); {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within half a minute", what)
		}
		<-time.After(2 * time.Millisecond)
	}
}

func (r *replica) settled(t *testing.T, at ownership.Placement) {
	t.Helper()
	eventually(t, "payments is "+string(at), func() bool {
		now := r.Record("payments")
		return now.Placement == at && now.Step == ownership.Settled
	})
}

func each(t *testing.T, fn func(t *testing.T, db *database.DB)) {
	t.Helper()
	t.Parallel()
	databasetest.Each(t, nil, func(t *testing.T, e databasetest.Engine) { fn(t, e.Store(t, database.Control)) })
}

var by = ownership.Cause{Caller: "a test", Reason: "because"}

func remote() ownership.Wish { return ownership.Wish{Placement: ownership.Remote} }
func local() ownership.Wish  { return ownership.Wish{Placement: ownership.Local} }

// A module goes out and comes home; everybody learns it, and the journal has each step.
func TestOutAndHome(t *testing.T) {
	each(t, func(t *testing.T, db *database.DB) {
		shop := start(t, db, "shop", "")
		if _, err := shop.Set(t.Context(), "payments", remote(), by); !errs.Is(err, errs.Unavailable) {
			t.Errorf("with nobody there: %v", err)
		}
		pay := start(t, db, "pay", "payments")
		eventually(t, "it can go", func() bool { _, err := shop.Set(t.Context(), "payments", remote(), by); return err == nil })
		shop.settled(t, ownership.Remote)
		pay.settled(t, ownership.Remote)
		if r := pay.Record("payments"); r.Owner != ownership.Away || r.Epoch != 2 {
			t.Errorf("%+v", r)
		}
		if _, err := shop.Set(t.Context(), "payments", local(), by); err != nil {
			t.Fatal(err)
		}
		shop.settled(t, ownership.Local)
		if r := shop.Record("payments"); r.Owner != ownership.Home || r.Epoch != 3 {
			t.Errorf("%+v", r)
		}
		journal, err := shop.Journal(t.Context(), "payments", 100)
		if err != nil || len(journal) < 4 {
			t.Fatalf("%v, %v", journal, err)
		}
		for i, e := range journal[:len(journal)-1] {
			if e.From != journal[i+1].To || e.To.Version != e.From.Version+1 {
				t.Errorf("step %d does not follow the one before", e.ID)
			}
		}
		if last := journal[len(journal)-1]; last.Caller != by.Caller || last.Reason != by.Reason {
			t.Errorf("%+v", last)
		}
	})
}

// Of many who change at once from the same record one wins, also where the store was restored from a backup and has an older one, or none.
func TestOneChangeWins(t *testing.T) {
	each(t, func(t *testing.T, db *database.DB) {
		store := ownership.NewStore(db)
		from := ownership.Record{Module: "payments", Wish: local(), Owner: ownership.Home, Epoch: 1}
		for _, restored := range []string{"", "", "", "UPDATE placement SET version = 1", "DELETE FROM placement"} {
			backup(t, db, restored)
			var won, moved atomic.Int32
			var all sync.WaitGroup
			for range 8 {
				all.Go(func() {
					to := from
					to.Epoch++
					switch err := store.Move(context.Background(), from, to, by); {
					case err == nil:
						won.Add(1)
					case errors.Is(err, ownership.ErrMoved):
						moved.Add(1)
					default:
						t.Error(err)
					}
				})
			}
			all.Wait()
			if won.Load() != 1 || moved.Load() != 7 {
				t.Errorf("%d won, %d were refused", won.Load(), moved.Load())
			}
			snap, err := store.Read(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if now := snap.Records["payments"]; now.Version != from.Version+1 || now.Epoch != from.Epoch+1 {
				t.Errorf("after %+v comes %+v", from, now)
			}
			from = snap.Records["payments"]
		}
		older := from
		older.Version--
		if err := store.Move(t.Context(), older, from, by); !errors.Is(err, ownership.ErrMoved) {
			t.Errorf("a change of an older record: %v", err)
		}
	})
}

// backup makes of the records what a backup has of them.
func backup(t *testing.T, db *database.DB, sql string) {
	t.Helper()
	if sql == "" {
		return
	}
	if err := db.Write(t.Context(), func(tx *gorm.DB) error { return tx.Exec(sql).Error }); err != nil {
		t.Fatal(err)
	}
}

// When a module moved is told by what is in force alone: a wish that is noted or refused later is no move, and arms no gates.
func TestChangedAt(t *testing.T) {
	each(t, func(t *testing.T, db *database.DB) {
		store := ownership.NewStore(db)
		now := ownership.Record{Module: "payments", Wish: local(), Owner: ownership.Home, Epoch: 1}
		for _, c := range []struct {
			what  string
			alter func(*ownership.Record)
			moved bool
		}{
			{"noted for the first time", func(r *ownership.Record) { r.Wished = "local" }, true},
			{"moved", func(r *ownership.Record) { r.Wish, r.Step = remote(), ownership.Holding }, true},
			{"owned by another", func(r *ownership.Record) { r.Owner, r.Epoch = ownership.Away, 2 }, true},
			{"settled", func(r *ownership.Record) { r.Step = ownership.Settled }, true},
			{"refused", func(r *ownership.Record) { r.Refused, r.Wished = "no", "retired" }, false},
			{"noted", func(r *ownership.Record) { r.Refused, r.Wished = "", "remote" }, false},
			{"a share", func(r *ownership.Record) { r.Wish = ownership.Wish{Placement: ownership.Canary, Reads: 1} }, true},
			{"another share", func(r *ownership.Record) { r.Reads = 2 }, true},
		} {
			to := now
			c.alter(&to)
			if err := store.Move(t.Context(), now, to, by); err != nil {
				t.Fatal(err)
			}
			snap, err := store.Read(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if moved := !snap.Records["payments"].ChangedAt.Equal(now.ChangedAt); moved != c.moved {
				t.Errorf("%s: moved is %v", c.what, moved)
			}
			now = snap.Records["payments"]
		}
	})
}

// A change is done when everybody who lives follows; who has died is not waited for.
func TestTheDeadAreNotWaitedFor(t *testing.T) {
	each(t, func(t *testing.T, db *database.DB) {
		shop, pay := start(t, db, "shop", ""), start(t, db, "pay", "payments")
		other := start(t, db, "other", "orders")
		other.behind.Store(true)
		eventually(t, "all have registered", func() bool { _, live := shop.Status(); return len(live) == 3 })
		eventually(t, "it can go", func() bool { _, err := shop.Set(t.Context(), "payments", remote(), by); return err == nil })
		eventually(t, "somebody is waited for", func() bool {
			list, _ := shop.Status()
			return strings.Contains(strings.Join(list[1].Waits, ";"), "orders other to follow")
		})
		if r := shop.Record("payments"); r.Step == ownership.Settled {
			t.Error("settled while somebody does not follow")
		}
		other.stop()
		shop.settled(t, ownership.Remote)
		pay.settled(t, ownership.Remote)
	})
}

// Only a change of the configured value is a wish: what an operator has set stands until it changes again.
func TestWishes(t *testing.T) {
	each(t, func(t *testing.T, db *database.DB) {
		shop := start(t, db, "shop", "")
		out := remote()
		shop.wish.Store(&out) // before anybody is there: it waits
		eventually(t, "the wish waits", func() bool {
			list, _ := shop.Status()
			return strings.Contains(strings.Join(list[1].Waits, ";"), "banyan serve --only payments")
		})
		start(t, db, "pay", "payments")
		shop.settled(t, ownership.Remote)
		if _, err := shop.Set(t.Context(), "payments", local(), by); err != nil {
			t.Fatal(err)
		}
		shop.settled(t, ownership.Local)
		shop.stop()
		again := start(t, db, "shop-2", "", out) // the same as before
		eventually(t, "it has looked at it", func() bool { _, live := again.Status(); return len(live) >= 2 })
		for range 20 {
			again.Nudge()
			<-time.After(5 * time.Millisecond)
		}
		if r := again.Record("payments"); r.Placement != ownership.Local {
			t.Errorf("an old value was taken for a wish: %+v", r)
		}
		in := local()
		again.wish.Store(&in)
		eventually(t, "the change is noted", func() bool { again.Nudge(); return again.Record("payments").Wished == "local" })
		again.wish.Store(&out)
		again.settled(t, ownership.Remote)
	})
}

// A wish that cannot be is refused with the reason, once, and changes nothing.
func TestWishRefused(t *testing.T) {
	each(t, func(t *testing.T, db *database.DB) {
		shop := start(t, db, "shop", "")
		start(t, db, "pay", "payments")
		none := ownership.BrokerNone
		shop.broker.Store(&none)
		out := remote()
		eventually(t, "the other one is there", func() bool { _, live := shop.Status(); return len(live) == 2 })
		shop.wish.Store(&out)
		eventually(t, "it is refused", func() bool { return strings.Contains(shop.Record("payments").Refused, "bus.rabbitmq.url") })
		if r := shop.Record("payments"); r.Placement != ownership.Local || r.Owner != ownership.Home {
			t.Errorf("%+v", r)
		}
	})
}

// A value that is configured while a change is running waits for the end of it, and is carried out then: the last word stands.
func TestWishDuringAChange(t *testing.T) {
	each(t, func(t *testing.T, db *database.DB) {
		shop, pay := start(t, db, "shop", ""), start(t, db, "pay", "payments")
		out, waiting := remote(), []ownership.Wish{{Placement: ownership.Canary, Reads: 500}, {Placement: ownership.Retired}}
		if db.Dialect() == database.SQLite {
			waiting = waiting[1:] // the file is held, not given up: a share can have it back at once
		}
		pay.behind.Store(true)
		shop.wish.Store(&out)
		eventually(t, "it goes out", func() bool { return shop.Record("payments").Placement == ownership.Remote })
		for _, w := range waiting {
			shop.wish.Store(&w)
			eventually(t, w.String()+" waits", func() bool {
				shop.Nudge()
				list, _ := shop.Status()
				return list[1].Configured == w.String() && strings.Contains(strings.Join(list[1].Waits, ";"), "wait for it (banyan placement status)")
			})
			if _, err := shop.Set(t.Context(), "payments", w, by); !errs.Is(err, errs.Unavailable) {
				t.Errorf("whoever asks for %s is told to wait: %v", w, err)
			}
		}
		pay.behind.Store(false)
		eventually(t, "the last word stands", func() bool {
			r := shop.Record("payments")
			pay.follower.Done("payments", pay.Record("payments").Version)
			return r.Placement == ownership.Retired && r.Step == ownership.Settled && r.Wished == "retired" && r.Refused == ""
		})
	})
}

// Replicas that are configured differently change nothing.
func TestReplicasDisagree(t *testing.T) {
	t.Parallel()
	e := databasetest.Postgres(t)
	db := e.Store(t, database.Control)
	one, two := start(t, db, "shop-1", ""), start(t, db, "shop-2", "")
	start(t, db, "pay", "payments")
	eventually(t, "they know each other", func() bool { _, live := one.Status(); return len(live) == 3 })
	out := remote()
	one.wish.Store(&out)
	eventually(t, "it is reported", func() bool {
		list, _ := one.Status()
		return strings.Contains(strings.Join(list[1].Waits, ";"), `shop-2 says "local"`)
	})
	if r := one.Record("payments"); r.Version != 0 {
		t.Errorf("%+v", r)
	}
	two.wish.Store(&out)
	one.settled(t, ownership.Remote)
}

// A change to a side of which nobody lives any more is taken back.
func TestAbandonedChange(t *testing.T) {
	each(t, func(t *testing.T, db *database.DB) {
		shop, pay := start(t, db, "shop", ""), start(t, db, "pay", "payments")
		pay.behind.Store(true)
		eventually(t, "it can go", func() bool { _, err := shop.Set(t.Context(), "payments", remote(), by); return err == nil })
		pay.stop()
		shop.settled(t, ownership.Local)
		if r := shop.Record("payments"); r.Owner != ownership.Home {
			t.Errorf("%+v", r)
		}
	})
}

// Who has not looked for long, as while the store was away, counts nobody as gone before there was time to register again.
func TestNobodyIsGoneAtFirstSight(t *testing.T) {
	each(t, func(t *testing.T, db *database.DB) {
		const ttl = 100 * time.Millisecond
		store := ownership.NewStore(db)
		o, err := ownership.Open(t.Context(), store, ownership.Options{Self: ownership.Process{ID: "shop"}, Modules: []string{"payments"}, TTL: ttl})
		if err != nil {
			t.Fatal(err)
		}
		lives := func() bool {
			t.Helper()
			if err := o.Refresh(t.Context()); err != nil {
				t.Fatal(err)
			}
			_, live := o.Status()
			return len(live) == 1
		}
		if err := store.Register(t.Context(), ownership.Process{ID: "pay", Module: "payments"}); err != nil {
			t.Fatal(err)
		}
		if !lives() {
			t.Fatal("it is not known")
		}
		eventually(t, "the registration is old", func() bool {
			snap, err := store.Read(t.Context())
			return err == nil && snap.Processes[0].Age > 2*ttl
		})
		if !lives() {
			t.Error("gone at the first look")
		}
		eventually(t, "it is gone after some more", func() bool { return !lives() })
	})
}

// A control store that was restored from a backup moves nothing in processes that run: they keep the later record, the store gets it back, and
// the way home is open.
func TestRestoredStore(t *testing.T) {
	t.Parallel()
	for name, sql := range map[string]string{
		"before it moved for the first time": "DELETE FROM placement",
		"while it was at home":               "UPDATE placement SET placement = 'local', owner = 'home', epoch = 1, version = 1, step = ''",
	} {
		t.Run(name, func(t *testing.T) {
			each(t, func(t *testing.T, db *database.DB) {
				shop, out := start(t, db, "shop", ""), start(t, db, "pay", "payments")
				eventually(t, "it can go", func() bool { _, err := shop.Set(t.Context(), "payments", remote(), by); return err == nil })
				shop.settled(t, ownership.Remote)
				out.settled(t, ownership.Remote)
				before := shop.Record("payments")
				backup(t, db, sql)
				for _, r := range []*replica{shop, out} {
					if err := r.Refresh(t.Context()); err != nil {
						t.Fatal(err)
					}
					if now := r.Record("payments"); now.Owner != ownership.Away {
						t.Errorf("it went back to %+v", now)
					}
				}
				eventually(t, "the store has the later record", func() bool {
					snap, err := ownership.NewStore(db).Read(t.Context())
					now := snap.Records["payments"]
					return err == nil && now.Version > before.Version && now.Wish == before.Wish && now.Owner == before.Owner && now.Epoch == before.Epoch
				})
				if _, err := shop.Set(t.Context(), "payments", local(), by); err != nil {
					t.Fatal(err)
				}
				shop.settled(t, ownership.Local)
				out.settled(t, ownership.Local)
			})
		})
	}
}

// A process beside the shop that knows a later record than the shop, which was started from a backup, follows the shop.
func TestShopFromABackup(t *testing.T) {
	each(t, func(t *testing.T, db *database.DB) {
		shop, out := start(t, db, "shop", ""), start(t, db, "pay", "payments")
		eventually(t, "it can go", func() bool { _, err := shop.Set(t.Context(), "payments", remote(), by); return err == nil })
		shop.settled(t, ownership.Remote)
		out.settled(t, ownership.Remote)
		later := out.Record("payments").Version
		eventually(t, "it has said that it follows", func() bool {
			snap, err := ownership.NewStore(db).Read(t.Context())
			return err == nil && len(snap.Processes) == 2 && snap.Processes[0].Follows["payments"] == later
		})
		shop.stop()
		backup(t, db, "DELETE FROM placement")
		again := start(t, db, "shop-2", "")
		eventually(t, "both are at the same record", func() bool {
			r := again.Record("payments")
			return r.Version > later && r.Placement == ownership.Local && out.Record("payments") == r
		})
	})
}

// The epoch of a record passes a term that the lease was taken by, if this side is the owner; else it is the other one's lease.
func TestOutrun(t *testing.T) {
	each(t, func(t *testing.T, db *database.DB) {
		shop, out := start(t, db, "shop", ""), start(t, db, "pay", "payments")
		for _, c := range []struct {
			who  *replica
			term uint64
			want uint64
		}{{shop, 1, 1}, {out, 7, 1}, {shop, 7, 8}, {shop, 7, 8}, {shop, 8, 8}} {
			if err := c.who.Outrun(t.Context(), "payments", c.term); err != nil {
				t.Fatal(err)
			}
			if err := shop.Refresh(t.Context()); err != nil {
				t.Fatal(err)
			}
			if got := shop.Record("payments").Epoch; got != c.want {
				t.Errorf("after a lease by %d the epoch is %d, want %d", c.term, got, c.want)
			}
		}
	})
}
