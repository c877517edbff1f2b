package control_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"gorm.io/gorm"

	"github.com/banyan-go/banyan/internal/control"
	"github.com/banyan-go/banyan/internal/database"
	"github.com/banyan-go/banyan/internal/databasetest"
)

func budgets(t testing.TB) (*control.Budgets, *database.DB) {
	t.Helper()
	db := databasetest.Postgres(t).Store(t, database.Control)
	b, ok := control.OpenBudgets(db, nil, nil)
	if !ok {
		t.Fatal("there are no budgets on PostgreSQL")
	}
	return b, db
}

func charge(t testing.TB, b *control.Budgets, limit control.Budget, charges ...control.Charge) []control.Balance {
	t.Helper()
	balances, err := b.Charge(t.Context(), limit, charges)
	if err != nil {
		t.Fatal(err)
	}
	return balances
}

func TestBudgetsAreOnPostgresAlone(t *testing.T) {
	t.Parallel()
	if b, ok := control.OpenBudgets(databasetest.SQLite(t).Store(t, database.Control), nil, nil); ok || b != nil {
		t.Error("there are budgets on SQLite")
	}
}

func TestCharge(t *testing.T) {
	t.Parallel()
	b, _ := budgets(t)
	// One token comes back in 100 seconds: none does within the test.
	slow := control.Budget{Name: "slow", PerSecond: 0.01, Burst: 10}
	about := func(got time.Duration, tokens float64) bool {
		return got <= time.Duration(tokens*100)*time.Second+time.Second && got >= time.Duration(tokens*100)*time.Second-50*time.Second
	}
	for i, tt := range []struct {
		pay, want, granted int
		out                float64 // tokens that are out after it
	}{
		{0, 3, 3, 3}, {2, 0, 0, 5}, {1, 1, 1, 7}, {0, 9, 3, 10}, {0, 1, 0, 10}, {4, 1, 0, 14}, {0, 1, 0, 14},
	} {
		got := charge(t, b, slow, control.Charge{Key: "a", Pay: tt.pay, Want: tt.want})[0]
		if got.Granted != tt.granted || !about(got.Full, tt.out) {
			t.Errorf("charge %d: got %+v, want %d granted and %v tokens out", i, got, tt.granted, tt.out)
		}
	}
	// The first charge of a client may be of any kind.
	if got := charge(t, b, slow, control.Charge{Key: "b", Pay: 12, Want: 1})[0]; got.Granted != 0 || !about(got.Full, 12) {
		t.Errorf("more than there is: %+v", got)
	}
	if got := charge(t, b, slow, control.Charge{Key: "c", Want: 99})[0]; got.Granted != 10 {
		t.Errorf("everything: %+v", got)
	}
	// Clients and limits are apart, and the answers come in the order of the charges.
	got := charge(t, b, slow, control.Charge{Key: "z", Want: 1}, control.Charge{Key: "a", Want: 1}, control.Charge{Key: "y", Want: 2})
	if got[0].Granted != 1 || got[1].Granted != 0 || got[2].Granted != 2 {
		t.Errorf("several: %+v", got)
	}
	other := slow
	other.Name = "other"
	if got := charge(t, b, other, control.Charge{Key: "a", Want: 1})[0]; got.Granted != 1 {
		t.Errorf("the same client in another limit: %+v", got)
	}
}

func TestTokensComeBack(t *testing.T) {
	t.Parallel()
	b, _ := budgets(t)
	fast := control.Budget{Name: "fast", PerSecond: 1000, Burst: 100}
	started := time.Now()
	granted := 0
	for granted < 500 {
		granted += charge(t, b, fast, control.Charge{Key: "a", Want: 50})[0].Granted
	}
	if took := time.Since(started); took < 390*time.Millisecond {
		t.Errorf("%d tokens within %s", granted, took)
	}
}

// TestABudgetIsFullAtMost: a client that was away for long has what the limit says, not all that came back meanwhile.
func TestABudgetIsFullAtMost(t *testing.T) {
	t.Parallel()
	b, db := budgets(t)
	limit := control.Budget{Name: "slow", PerSecond: 0.01, Burst: 10}
	charge(t, b, limit, control.Charge{Key: "a", Want: 1})
	if err := db.Write(t.Context(), func(tx *gorm.DB) error {
		return tx.Exec("UPDATE rate_limit SET tat = tat - 86400e6, at = at - 86400e6").Error
	}); err != nil {
		t.Fatal(err)
	}
	if got := charge(t, b, limit, control.Charge{Key: "a", Want: 99})[0]; got.Granted != 10 {
		t.Errorf("after a day: %+v", got)
	}
	if got := charge(t, b, limit, control.Charge{Key: "a", Want: 1})[0]; got.Granted != 0 {
		t.Errorf("after all of it was taken: %+v", got)
	}
}

// TestChargesLockInOneOrder: replicas that charge the same clients wait for each other in a line, never in a circle.
func TestChargesLockInOneOrder(t *testing.T) {
	t.Parallel()
	b, db := budgets(t)
	limit := control.Budget{Name: "slow", PerSecond: 0.01, Burst: 10}
	hash := func(key string) []byte {
		sum := sha256.Sum256([]byte(limit.Name + "\x00" + key))
		return sum[:16]
	}
	first, last := "a", "b"
	if bytes.Compare(hash(first), hash(last)) > 0 {
		first, last = last, first
	}
	charge(t, b, limit, control.Charge{Key: first, Want: 1}, control.Charge{Key: last, Want: 1})
	const lock = "SELECT 1 FROM rate_limit WHERE key = ? FOR UPDATE "
	charged := make(chan error, 1)
	err := db.Write(t.Context(), func(tx *gorm.DB) error {
		if err := tx.Exec(lock, hash(first)).Error; err != nil {
			return err
		}
		go func() {
			_, err := b.Charge(context.Background(), limit, []control.Charge{{Key: last, Want: 1}, {Key: first, Want: 1}})
			charged <- err
		}()
		for waits := int64(0); waits == 0; {
			if err := db.Read(t.Context()).Raw("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%rate_limit%'").
				Scan(&waits).Error; err != nil {
				return err
			}
		}
		return tx.Exec(lock+"NOWAIT", hash(last)).Error
	})
	if err != nil {
		t.Errorf("the last one is locked before the first one: %v", err)
	}
	if err := <-charged; err != nil {
		t.Error(err)
	}
}

// TestChargesAtTheSameTime: however many ask at once, nobody gets a token that another one has, and none is lost.
func TestChargesAtTheSameTime(t *testing.T) {
	t.Parallel()
	b, _ := budgets(t)
	limit := control.Budget{Name: "slow", PerSecond: 0.001, Burst: 50}
	var granted [3]atomic.Int64
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			for range 25 {
				charges := make([]control.Charge, len(granted))
				for i := range charges {
					charges[i] = control.Charge{Key: strconv.Itoa((i + w) % len(granted)), Want: 1}
				}
				got, err := b.Charge(t.Context(), limit, charges)
				if err != nil {
					t.Error(err)
					return
				}
				for i, g := range got {
					granted[(i+w)%len(granted)].Add(int64(g.Granted))
				}
			}
		})
	}
	wg.Wait()
	for i := range granted {
		if n := granted[i].Load(); n != 50 {
			t.Errorf("client %d: %d tokens of 50", i, n)
		}
	}
}

func TestSweep(t *testing.T) {
	t.Parallel()
	b, db := budgets(t)
	slow := control.Budget{Name: "slow", PerSecond: 0.001, Burst: 10}
	fast := control.Budget{Name: "fast", PerSecond: 1e6, Burst: 10}
	charge(t, b, slow, control.Charge{Key: "a", Want: 10})
	charge(t, b, fast, control.Charge{Key: "a", Want: 1}, control.Charge{Key: "b", Want: 1})
	// More than go in one round.
	if err := db.Write(t.Context(), func(tx *gorm.DB) error {
		return tx.Exec("INSERT INTO rate_limit SELECT sha256(i::text::bytea), 0, 0, 0, 0 FROM generate_series(1, 12000) AS i").Error
	}); err != nil {
		t.Fatal(err)
	}
	if err := b.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	var left int64
	if err := db.Read(t.Context()).Raw("SELECT count(*) FROM rate_limit").Scan(&left).Error; err != nil || left != 1 {
		t.Errorf("%d budgets are left, %v", left, err)
	}
	if got := charge(t, b, slow, control.Charge{Key: "a", Want: 1})[0]; got.Granted != 0 {
		t.Errorf("the budget that is used: %+v", got)
	}
}

func BenchmarkCharge(b *testing.B) {
	budgets, _ := budgets(b)
	limit := control.Budget{Name: "customer", PerSecond: 50, Burst: 100}
	for _, keys := range []int{1, 100} {
		charges := make([]control.Charge, keys)
		for i := range charges {
			charges[i] = control.Charge{Key: strconv.Itoa(i), Pay: 5}
		}
		b.Run(strconv.Itoa(keys), func(b *testing.B) {
			for b.Loop() {
				charge(b, budgets, limit, charges...)
			}
		})
	}
}
