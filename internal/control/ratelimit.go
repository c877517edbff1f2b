package control

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"

	"gorm.io/gorm"

	"github.com/banyan-go/banyan/internal/clock"
	"github.com/banyan-go/banyan/internal/database"
)

// Budget is a rate limit: so many tokens at once, and so many a second come back.
type Budget struct {
	Name      string // of the limit; the same client has a budget in each
	PerSecond float64
	Burst     int
}

// Charge asks for tokens of one client's budget.
type Charge struct {
	Key  string // the client; in one call no key comes twice
	Pay  int    // tokens that were given out already: they are charged, whether there are any or not
	Want int    // tokens that are wanted: as many are granted as there are after that
}

// Balance is what became of a charge.
type Balance struct {
	Granted int
	Full    time.Duration // until all tokens are back; longer than all of them take if more was given out than there was
}

// Budgets keeps the budgets that all replicas share, on PostgreSQL and by its clock alone (GCRA: a budget is one number,
// the time at which it is full again). Clients are kept as hashes.
type Budgets struct {
	db    *database.DB
	clock clock.Clock
	log   *slog.Logger
}

// OpenBudgets is nil and false on SQLite: a file has one process, and that keeps its limits in memory.
func OpenBudgets(db *database.DB, c clock.Clock, log *slog.Logger) (*Budgets, bool) {
	if db.Dialect() != database.Postgres {
		return nil, false
	}
	if c == nil {
		c = clock.System{}
	}
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Budgets{db: db, clock: c, log: log}, true
}

// chargeBudgets is one round for many keys. EXCLUDED holds the values of a budget that is full: its granted is what is wanted
// and could be had then, so that the lesser of it and of what there really is is right in both cases. The thousandth
// of a token makes up for what floating point loses. Keys are locked in one order, so that no two replicas wait for each other.
const chargeBudgets = `
WITH asked AS (
	SELECT key, pay, want, n FROM unnest(?::bytea[], ?::int[], ?::int[]) WITH ORDINALITY AS u (key, pay, want, n)
), budget AS MATERIALIZED (
	SELECT extract(epoch FROM clock_timestamp())::float8 * 1e6 AS now, ?::float8 AS step, ?::int AS burst
), charged AS (
	INSERT INTO rate_limit AS r (key, tat, at, paid, granted)
	SELECT key, now + (pay + greatest(0, least(want, burst - pay))) * step, now, pay, greatest(0, least(want, burst - pay))
	FROM asked, budget ORDER BY key
	ON CONFLICT (key) DO UPDATE SET
		(tat, granted, at, paid) = (
			SELECT paid + g * step, g, EXCLUDED.at, EXCLUDED.paid
			FROM budget, LATERAL (SELECT greatest(r.tat, EXCLUDED.at) + EXCLUDED.paid * step AS paid) AS p,
				LATERAL (SELECT greatest(0, least(EXCLUDED.granted, floor((EXCLUDED.at - paid) / step + burst + 0.001)))::int AS g) AS granted)
	RETURNING key, granted, tat - at AS debt
)
SELECT json_agg(json_build_array(n, granted, debt)) FROM charged JOIN asked USING (key)`

// Charge charges budgets of one limit and says, in the order of the charges, what there was.
func (b *Budgets) Charge(ctx context.Context, limit Budget, charges []Charge) ([]Balance, error) {
	keys, pay, want := make([][]byte, len(charges)), make([]int32, len(charges)), make([]int32, len(charges))
	for i, c := range charges {
		hash := sha256.Sum256([]byte(limit.Name + "\x00" + c.Key))
		keys[i], pay[i], want[i] = hash[:16], int32(c.Pay), int32(c.Want)
	}
	var answer []byte
	err := b.db.Write(ctx, func(tx *gorm.DB) error {
		return database.Statements(tx).Row(chargeBudgets, keys, pay, want, 1e6/limit.PerSecond, limit.Burst).Scan(&answer)
	})
	if err != nil {
		return nil, fmt.Errorf("charge rate limits: %w", err)
	}
	var rows [][3]float64
	if err := json.Unmarshal(answer, &rows); err != nil {
		return nil, fmt.Errorf("charge rate limits: %w", err)
	}
	balances := make([]Balance, len(charges))
	for _, r := range rows {
		balances[int(r[0])-1] = Balance{Granted: int(r[1]), Full: time.Duration(r[2] * float64(time.Microsecond))}
	}
	return balances, nil
}

const (
	sweepEvery = time.Minute
	sweepRows  = 5000
)

// sweepBudgets removes budgets that are full again: they say as much as none. What another replica removes or charges is left to it.
const sweepBudgets = `
DELETE FROM rate_limit WHERE key IN (
	SELECT key FROM rate_limit WHERE tat < extract(epoch FROM clock_timestamp())::float8 * 1e6 LIMIT ? FOR UPDATE SKIP LOCKED)`

// Run removes budgets that say nothing any more until ctx ends.
func (b *Budgets) Run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-b.clock.At(b.clock.Now().Add(sweepEvery + rand.N(sweepEvery/4))): // not all replicas at once
		}
		if err := b.Sweep(ctx); err != nil && ctx.Err() == nil {
			b.log.WarnContext(ctx, "rate limits are not cleaned up", "error", err)
		}
	}
}

// Sweep removes budgets that are full again.
func (b *Budgets) Sweep(ctx context.Context) error {
	for removed := int64(sweepRows); removed == sweepRows; {
		err := b.db.Write(ctx, func(tx *gorm.DB) error {
			var err error
			removed, err = database.Statements(tx).Exec(sweepBudgets, sweepRows)
			return err
		})
		if err != nil {
			return fmt.Errorf("clean up rate limits: %w", err)
		}
	}
	return nil
}
