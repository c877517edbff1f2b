package payments

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/banyan-go/banyan/internal/errs"
	"github.com/banyan-go/banyan/internal/money"
	"github.com/banyan-go/banyan/modules/payments/internal/cardsim"
)

// Provider is a card provider as payments needs it. Implementations translate the provider's own words and faults.
//
// A charge or refund is applied at most once per id; asking again with the id gives the first outcome. An
// error means that the outcome is not known: it is asked for again with the same id, unless the error is one that
// asking again cannot cure (errs.Conflict).
type Provider interface {
	Charge(ctx context.Context, r ChargeRequest) (Outcome, error)
	Refund(ctx context.Context, r RefundRequest) (Outcome, error)
	// Lookup tells what became of an id; false if the provider never applied it.
	Lookup(ctx context.Context, id string) (Outcome, bool, error)
}

// ChargeRequest asks for an amount from a card.
type ChargeRequest struct {
	ID        string // always the same for a charge
	Amount    money.Money
	CardToken string
}

// RefundRequest asks for a part of a charge to go back.
type RefundRequest struct {
	ID       string // always the same for a refund
	ChargeID string
	Amount   money.Money
}

// Outcome is what became of a charge or refund, for good.
type Outcome struct {
	Approved bool
	Reason   string // why not
	Amount   money.Money
	Times    int // how often the provider applied it; more than 1 is its fault, and found by the reconciliation
}

// simulated translates the simulated provider.
type simulated struct{ provider *cardsim.Provider }

func newSimulated(files string, cfg ProviderConfig) simulated {
	file := cfg.File
	if file == "" {
		file = filepath.Join(files, "provider.jsonl")
	}
	return simulated{cardsim.New(file, cardsim.Behaviour{
		Delay: cfg.Delay, DeclineRate: cfg.DeclineRate, LostReplyRate: cfg.LostReplyRate, Outage: cfg.Outage, Seed: cfg.Seed,
	})}
}

func (s simulated) Charge(ctx context.Context, r ChargeRequest) (Outcome, error) {
	return translate(s.provider.Charge(ctx, r.ID, r.CardToken, r.Amount.Amount, r.Amount.Currency))
}

func (s simulated) Refund(ctx context.Context, r RefundRequest) (Outcome, error) {
	return translate(s.provider.Refund(ctx, r.ID, r.ChargeID, r.Amount.Amount, r.Amount.Currency))
}

func (s simulated) Lookup(ctx context.Context, id string) (Outcome, bool, error) {
	r, found, err := s.provider.Lookup(ctx, id)
	o, err := translate(r, err)
	return o, found, err
}

func translate(r cardsim.Result, err error) (Outcome, error) {
	switch {
	case errors.Is(err, cardsim.ErrIDReused):
		return Outcome{}, errs.New(errs.Conflict, "%w", err)
	case err != nil:
		return Outcome{}, errs.Wrap(errs.Unavailable, err, "the card provider cannot be reached")
	}
	return Outcome{Approved: r.Approved, Reason: r.Code, Amount: money.Of(r.Amount, r.Currency), Times: r.Times}, nil
}

// parallelCalls is how many calls a provider gets at once. A slow one cannot pile up more.
const parallelCalls = 16

// guarded is a provider with a time limit per call and a limit of calls at once.
type guarded struct {
	provider Provider
	timeout  time.Duration
	slots    *semaphore.Weighted
}

func guard(p Provider, timeout time.Duration) *guarded {
	return &guarded{provider: p, timeout: timeout, slots: semaphore.NewWeighted(parallelCalls)}
}

func (g *guarded) Charge(ctx context.Context, r ChargeRequest) (o Outcome, err error) {
	err = g.call(ctx, func(ctx context.Context) error {
		o, err = g.provider.Charge(ctx, r)
		return err
	})
	return o, err
}

func (g *guarded) Refund(ctx context.Context, r RefundRequest) (o Outcome, err error) {
	err = g.call(ctx, func(ctx context.Context) error {
		o, err = g.provider.Refund(ctx, r)
		return err
	})
	return o, err
}

func (g *guarded) Lookup(ctx context.Context, id string) (o Outcome, found bool, err error) {
	err = g.call(ctx, func(ctx context.Context) error {
		o, found, err = g.provider.Lookup(ctx, id)
		return err
	})
	return o, found, err
}

func (g *guarded) call(ctx context.Context, fn func(ctx context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, g.timeout)
	defer cancel()
	if err := g.slots.Acquire(ctx, 1); err != nil {
		return errs.Wrap(errs.Unavailable, fmt.Errorf("wait for the card provider: %w", err), "the card provider is busy")
	}
	defer g.slots.Release(1)
	return fn(ctx)
}
