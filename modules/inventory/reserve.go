package inventory

import (
	"context"

	"github.com/banyan-go/banyan/internal/errs"
	"github.com/banyan-go/banyan/internal/unit"
	"github.com/banyan-go/banyan/modules/inventory/internal/stock"
	"github.com/banyan-go/banyan/modules/inventory/inventoryapi"
)

// timerExpire ends a reservation that nobody committed; its key is the order.
const timerExpire = "expire_reservation"

// reserve sets the units of an order aside, all or none.
func (s *service) reserve(_ context.Context, w *unit.Work, c inventoryapi.Reserve) error {
	lines, err := merge(c.Lines)
	if err != nil {
		return err
	}
	// Almost always the order is new, and its row is right as it is inserted. The insert also keeps out whoever
	// else works on the order.
	r := stock.Reservation{}
	row := reservationRow{OrderID: c.OrderID, ExpiresAt: c.ExpiresAt, CreatedAt: w.Now()}
	hopeful := stock.Reservation{State: stock.Held, Lines: lines}
	row.set(hopeful, w.Now())
	added, err := insert(w, &row)
	if err != nil {
		return err
	}
	if !added {
		if row, r, err = reservation(w, c.OrderID); err != nil {
			return err
		}
	}
	shelf, err := lock(w, skusOf(lines))
	if err != nil {
		return err
	}
	d := r.Reserve(shelf, lines)
	if d.Changed && (!added || d.Next.State != hopeful.State) {
		row.set(d.Next, w.Now())
		row.ExpiresAt, row.Reason = c.ExpiresAt, d.Reason
		if err := update(w, &row); err != nil {
			return err
		}
	}
	if err := s.move(w, shelf, d.Deltas, "", c.OrderID, ""); err != nil {
		return err
	}
	if d.Changed && d.Next.State == stock.Held {
		w.Schedule(timerExpire, c.OrderID, c.ExpiresAt, struct{}{})
	}
	answer(w, row, d)
	return nil
}

// merge checks the lines of a command. Its sender has checked them too: what is wrong here is wrong for ever.
func merge(lines []inventoryapi.Line) ([]stock.Line, error) {
	own := make([]stock.Line, len(lines))
	for i, l := range lines {
		own[i] = stock.Line(l)
	}
	merged, err := stock.Merge(own)
	if err != nil {
		return nil, errs.New(errs.Invalid, "lines: %w", err)
	}
	return merged, nil
}
