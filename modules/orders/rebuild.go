package orders

import (
	"context"
	"fmt"
	"sync"

	"golang.org/x/sync/errgroup"
	"gorm.io/gorm/clause"

	"github.com/banyan-go/banyan/internal/unit"
	"github.com/banyan-go/banyan/modules/orders/internal/order"
)

const (
	rebuildPage = 500
	// rebuildWorkers share commits on SQLite, and leave connections to the others on PostgreSQL.
	rebuildWorkers = 4
)

// Projections is the read model of orders, for those who want it made anew.
type Projections struct {
	store *unit.Store
}

// Rebuild makes the read model anew from the streams while the module runs: each order in a unit of work of its own
// that holds the head of its stream, so that the order's own changes come before or after. progress, which may be
// nil, is told how far it is.
func (p *Projections) Rebuild(ctx context.Context, progress func(done, total int)) error {
	var total, done int
	if err := p.store.Read(ctx).Raw("SELECT count(*) FROM stream").Scan(&total).Error; err != nil {
		return fmt.Errorf("rebuild orders: %w", err)
	}
	var mu sync.Mutex
	step := func() {
		mu.Lock()
		defer mu.Unlock()
		done++
		total = max(total, done) // orders placed meanwhile count too
		if progress != nil {
			progress(done, total)
		}
	}
	for after := ""; ; {
		var ids []string
		err := p.store.Read(ctx).Raw("SELECT order_id FROM stream WHERE order_id > ? ORDER BY order_id LIMIT ?", after, rebuildPage).Scan(&ids).Error
		if err != nil {
			return fmt.Errorf("rebuild orders: %w", err)
		}
		if len(ids) == 0 {
			break
		}
		group, ctx := errgroup.WithContext(ctx)
		group.SetLimit(rebuildWorkers)
		for _, id := range ids {
			group.Go(func() error {
				if err := p.rebuild(ctx, id); err != nil {
					return err
				}
				step()
				return nil
			})
		}
		if err := group.Wait(); err != nil {
			return fmt.Errorf("rebuild orders: %w", err)
		}
		after = ids[len(ids)-1]
	}
	return p.sweep(ctx)
}

// rebuild makes the view of one order from all of its events; a snapshot could carry a fault along.
func (p *Projections) rebuild(ctx context.Context, id string) error {
	return p.store.Do(ctx, func(_ context.Context, w *unit.Work) error {
		var version []int64
		err := w.DB.Table("stream").Select("version").Where("order_id = ?", id).Clauses(clause.Locking{Strength: "UPDATE"}).Scan(&version).Error
		if err != nil {
			return fmt.Errorf("lock order %s: %w", id, err)
		}
		rows, err := readEvents(w.DB, id, 0)
		if err != nil {
			return err
		}
		var o order.Order
		for _, r := range rows {
			if _, err := r.apply(id, &o); err != nil {
				return err
			}
		}
		return replaceView(w.DB, id, &o)
	})
}

// sweep removes views that no stream stands behind.
func (p *Projections) sweep(ctx context.Context) error {
	return p.store.Do(ctx, func(_ context.Context, w *unit.Work) error {
		for _, table := range []string{"return_view", "order_line_view", "order_view"} {
			err := w.DB.Exec("DELETE FROM " + table + " WHERE NOT EXISTS (SELECT 1 FROM stream WHERE stream.order_id = " + table + ".order_id)").Error
			if err != nil {
				return fmt.Errorf("rebuild orders: %w", err)
			}
		}
		return nil
	})
}
