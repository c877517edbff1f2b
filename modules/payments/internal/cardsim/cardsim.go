package cardsim

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"
)

// Errors of the provider.
var (
	// ErrTimeout: no reply came. The charge or refund may have been applied.
	ErrTimeout = errors.New("card provider: no reply")
	// ErrUnavailable: the provider does not work at the moment. Nothing was applied by this call.
	ErrUnavailable = errors.New("card provider: unavailable")
	// ErrIDReused: the id belongs to a charge or refund of something else.
	ErrIDReused = errors.New("card provider: id was used for something else")
)

const (
	slow       = 2 * time.Second
	failsFirst = 3 // calls of tok_outage
)

// Behaviour says how well the provider works.
type Behaviour struct {
	Delay         time.Duration // before each charge and refund
	DeclineRate   float64       // share of charges that are declined
	LostReplyRate float64       // share of charges and refunds whose first reply is lost
	Outage        bool          // everything fails
	Seed          int64         // decides, with the id, which ones
}

// Provider is the simulated provider.
type Provider struct {
	behaviour Behaviour
	mu        sync.Mutex // flock excludes other processes only
	record    record
}

// New is a provider with its record in a file. Nothing is opened before the first call.
func New(file string, b Behaviour) *Provider {
	return &Provider{behaviour: b, record: record{file: file}}
}

// Result is what the provider did for an id.
type Result struct {
	ID       string
	Charge   string // of a refund: the charge it gives back
	Amount   int64
	Currency string
	Approved bool
	Code     string // why not
	At       time.Time
	Times    int // how often it was applied; more than 1 would be the provider's fault
}

// Charge takes an amount from a card.
func (p *Provider) Charge(ctx context.Context, id, card string, amount int64, currency string) (Result, error) {
	delay := p.behaviour.Delay
	if card == "tok_slow" {
		delay = max(delay, slow)
	}
	return p.call(ctx, delay, id, func(seen *history) (line, error) {
		l := line{Op: opCharge, ID: id, Card: card, Amount: amount, Currency: currency, Approved: true}
		if done := seen.result; done != nil {
			if done.Op != opCharge || done.Card != card || done.Amount != amount || done.Currency != currency {
				return line{}, ErrIDReused
			}
			l.Unheard = card == "tok_lost_twice" && seen.unheard < 2
			return l, nil
		}
		if card == "tok_outage" && seen.failed < failsFirst {
			return line{Op: opFailed, ID: id}, nil
		}
		switch {
		case card == "tok_declined":
			l.Code = "card_declined"
		case card == "tok_insufficient_funds":
			l.Code = "insufficient_funds"
		case card == "tok_expired":
			l.Code = "expired_card"
		case !testCards[card] && p.chance("decline", id) < p.behaviour.DeclineRate:
			l.Code = "card_declined"
		}
		l.Approved = l.Code == ""
		l.Unheard = card == "tok_lost_reply" || card == "tok_lost_twice" ||
			!testCards[card] && p.chance("lost", id) < p.behaviour.LostReplyRate
		return l, nil
	})
}

// testCards behave as they do whatever the rates are.
var testCards = map[string]bool{
	"tok_declined": true, "tok_insufficient_funds": true, "tok_expired": true, "tok_slow": true, "tok_lost_reply": true, "tok_lost_twice": true,
	"tok_outage": true, "tok_refund_lost": true, "tok_refund_refused": true,
}

// Refund gives a part of a charge back.
func (p *Provider) Refund(ctx context.Context, id, charge string, amount int64, currency string) (Result, error) {
	return p.call(ctx, p.behaviour.Delay, id, func(seen *history) (line, error) {
		l := line{Op: opRefund, ID: id, Charge: charge, Amount: amount, Currency: currency, Approved: true}
		if done := seen.result; done != nil {
			if done.Op != opRefund || done.Charge != charge || done.Amount != amount || done.Currency != currency {
				return line{}, ErrIDReused
			}
			return l, nil
		}
		of := p.record.seen(charge)
		switch {
		case of.result == nil || of.result.Op != opCharge || !of.result.Approved:
			l.Code = "unknown_charge"
		case of.result.Card == "tok_refund_refused":
			l.Code = "account_closed"
		case of.result.Currency != currency || amount > of.result.Amount-of.refunded:
			l.Code = "exceeds_charge"
		default:
			card := of.result.Card
			l.Unheard = card == "tok_refund_lost" || !testCards[card] && p.chance("lost", id) < p.behaviour.LostReplyRate
		}
		l.Approved = l.Code == ""
		return l, nil
	})
}

// Lookup tells what became of an id; false if the provider never applied it.
func (p *Provider) Lookup(ctx context.Context, id string) (Result, bool, error) {
	if err := p.reachable(ctx, 0); err != nil {
		return Result{}, false, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.record.open(); err != nil {
		return Result{}, false, err
	}
	defer p.record.close()
	seen := p.record.seen(id)
	if seen.result == nil {
		return Result{}, false, nil
	}
	return seen.tell(), true, nil
}

// call asks decide what a call does and keeps it: a charge or refund that is new, or that the call came to nothing.
func (p *Provider) call(ctx context.Context, delay time.Duration, id string, decide func(*history) (line, error)) (Result, error) {
	if err := p.reachable(ctx, delay); err != nil {
		return Result{}, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.record.open(); err != nil {
		return Result{}, err
	}
	defer p.record.close()
	seen := p.record.seen(id)
	l, err := decide(seen)
	if err != nil {
		return Result{}, err
	}
	l.At = time.Now().UTC()
	if seen.result != nil && l.Unheard {
		l = line{Op: opUnheard, ID: id, At: l.At}
	}
	if seen.result == nil || l.Op == opUnheard {
		if err := p.record.append(l); err != nil {
			return Result{}, err
		}
	}
	switch {
	case l.Op == opFailed:
		return Result{}, ErrUnavailable
	case l.Op == opUnheard, l.Unheard:
		return Result{}, ErrTimeout
	}
	return p.record.seen(id).tell(), nil
}

// reachable lets the delay pass; nothing is applied if the caller goes away before.
func (p *Provider) reachable(ctx context.Context, delay time.Duration) error {
	if p.behaviour.Outage {
		return ErrUnavailable
	}
	if delay > 0 {
		timer := time.NewTimer(delay)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
		}
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("%w: %w", ErrTimeout, err)
	}
	return nil
}

// chance is a number in [0, 1) for an id: the same in whatever order and however often things are asked.
func (p *Provider) chance(of, id string) float64 {
	sum := sha256.Sum256([]byte(strconv.FormatInt(p.behaviour.Seed, 10) + "/" + of + "/" + id))
	return float64(binary.BigEndian.Uint64(sum[:8])>>11) / (1 << 53)
}
