package orders

import (
	"context"
	"errors"
	"fmt"
	"time"

	"gorm.io/gorm"
	"gorm.io/gorm/clause"

	"github.com/banyan-go/banyan/internal/errs"
	"github.com/banyan-go/banyan/internal/identity"
	"github.com/banyan-go/banyan/internal/rest"
	"github.com/banyan-go/banyan/internal/unit"
	"github.com/banyan-go/banyan/modules/inventory/inventoryapi"
	"github.com/banyan-go/banyan/modules/orders/internal/order"
)

// place takes an order: of the customer's cart, of explicit lines at catalog prices, or, by staff on behalf of a
// customer, at agreed prices.
func (o *orders) place(ctx context.Context, in *placeInput) (*rest.Answer[placedBody], error) {
	// What is wrong with the request is said inside Commit: a request that was answered before gets that answer,
	// even if it would be refused now (the cart is empty after it was ordered).
	p, refusal := o.prepare(ctx, in)
	return rest.Commit(ctx, o.store, func(ctx context.Context, w *unit.Work) (placedBody, error) {
		if refusal != nil {
			return placedBody{}, refusal
		}
		if err := lockCustomer(w, p.placed.CustomerID); err != nil {
			return placedBody{}, err
		}
		if len(p.learned) > 0 {
			if err := keepPrices(w, p.learned); err != nil {
				return placedBody{}, err
			}
		}
		id := w.NewID()
		deadline := w.Now().Add(o.cfg.CheckoutTimeout)
		s, err := o.begin(w, id, p.placed, in.Body.Card, deadline)
		switch {
		case errors.Is(err, gorm.ErrDuplicatedKey) && p.placed.Reference != "":
			return placedBody{}, errs.New(errs.Conflict, "there is an order with this reference already").With("body.reference", "is taken")
		case errors.Is(err, gorm.ErrDuplicatedKey):
			return placedBody{}, errs.New(errs.Conflict, "this cart was ordered already")
		case err != nil:
			return placedBody{}, err
		}
		if err := o.append(w, s, p.placed); err != nil {
			return placedBody{}, err
		}
		w.Send(inventoryapi.Reserve{OrderID: id, Lines: stockLines(s.order.Lines), ExpiresAt: deadline.Add(o.cfg.ReservationMargin)})
		w.Schedule(checkoutTimer, id, deadline, struct{}{})
		return placedBody(bodyOf(id, &s.order)), nil
	})
}

type preparation struct {
	priced
	placed order.Placed
}

// prepare checks who orders what at which prices; it may ask other modules.
func (o *orders) prepare(ctx context.Context, in *placeInput) (preparation, error) {
	var p preparation
	who := identity.From(ctx)
	if who.Subject == "" {
		return p, identity.Need(ctx, identity.Customer)
	}
	if err := order.CheckCard(in.Body.Card); err != nil {
		return p, err
	}
	customer, by := who.Subject, order.ByCustomer
	if in.Body.CustomerID != "" && in.Body.CustomerID != who.Subject {
		if err := identity.Need(ctx, identity.Staff); err != nil {
			return p, errs.New(errs.Forbidden, "only staff orders for somebody else").With("body.customer_id", "is not you")
		}
		customer, by = in.Body.CustomerID, order.ByStaff
	}
	if by != order.ByStaff {
		if err := onlyStaff(in); err != nil {
			return p, err
		}
	}
	var err error
	switch {
	case in.Body.Cart && len(in.Body.Lines) > 0:
		return p, errs.New(errs.Invalid, "an order is made of the cart or of lines, not of both").With("body.lines", "must be left out with cart")
	case in.Body.Cart && by == order.ByStaff:
		return p, errs.New(errs.Invalid, "a cart is ordered by its owner").With("body.cart", "must be left out with customer_id")
	case in.Body.Cart:
		p.priced, err = o.priceCart(ctx, customer)
	case len(in.Body.Lines) == 0:
		return p, errs.New(errs.Invalid, "an order is made of the cart or of lines").With("body.lines", "is empty")
	default:
		p.priced, err = o.priceLines(ctx, in.Body.Lines, by == order.ByStaff)
	}
	if err != nil {
		return p, err
	}
	p.placed, err = order.Place(order.Placement{
		CustomerID: customer, By: by, Currency: p.currency, Lines: p.lines, CartVersion: p.cartVersion,
		Reference: in.Body.Reference, ReferenceTime: utc(in.Body.ReferenceTime), Address: in.Body.Address.rule(),
	})
	if err != nil {
		return p, err
	}
	if want := in.Body.ExpectedTotal; want != nil && *want != p.placed.Total {
		return p, errs.New(errs.Conflict, "the order costs %d %s now", p.placed.Total.Amount, p.placed.Total.Currency).With("body.expected_total", "is not what it costs")
	}
	return p, nil
}

// onlyStaff refuses what a customer may not say of an own order.
func onlyStaff(in *placeInput) error {
	refusal := errs.New(errs.Forbidden, "only staff says this, of an order for a customer")
	if in.Body.Reference != "" {
		refusal = refusal.With("body.reference", "needs customer_id")
	}
	if in.Body.ReferenceTime != nil {
		refusal = refusal.With("body.reference_time", "needs customer_id")
	}
	for i, l := range in.Body.Lines {
		if l.Price != nil {
			refusal = refusal.With(fmt.Sprintf("body.lines[%d].price", i), "needs customer_id")
			break
		}
	}
	if len(refusal.Fields) > 0 {
		return refusal
	}
	return nil
}

// lockCustomer refuses erased customers and holds off an erasure until the order is placed: it would miss the
// order's personal data. The copy of customers may lag, so one that it does not know is taken as it is.
func lockCustomer(w *unit.Work, id string) error {
	var erased []bool
	err := w.DB.Table("customer").Select("erased").Where("customer_id = ?", id).Clauses(clause.Locking{Strength: "SHARE"}).Scan(&erased).Error
	if err == nil && len(erased) == 0 {
		err = w.DB.Raw(`INSERT INTO customer (customer_id, erased) VALUES (?, ?)
			ON CONFLICT (customer_id) DO UPDATE SET customer_id = excluded.customer_id RETURNING erased`, id, false).Scan(&erased).Error
	}
	if err != nil {
		return fmt.Errorf("lock customer: %w", err)
	}
	if len(erased) > 0 && erased[0] {
		return errs.New(errs.Conflict, "this customer was erased")
	}
	return nil
}

func utc(t *time.Time) *time.Time {
	if t == nil {
		return nil
	}
	u := t.UTC().Truncate(time.Microsecond)
	return &u
}
