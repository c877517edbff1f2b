package orders

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/banyan-go/banyan/internal/moduletest"
	"github.com/banyan-go/banyan/internal/unit"
	"github.com/banyan-go/banyan/modules/inventory/inventoryapi"
	"github.com/banyan-go/banyan/modules/payments/paymentsapi"
)

var views = []string{"order_view", "order_line_view", "return_view"}

func TestRebuild(t *testing.T) {
	t.Parallel()
	moduletest.Each(t, func(t *testing.T, open moduletest.Opener) {
		s := openShop(t, open, func(c *Config) { c.SnapshotEvery = 3 })
		var ids []string
		for i := range 6 {
			o := s.jars()
			ids = append(ids, o.ID)
			if i%2 == 0 {
				s.confirm(o.ID)
				s.giveBack(o.ID, 2)
			}
		}
		before := map[string][]string{}
		for _, v := range views {
			before[v] = s.rows(v)
		}
		// The read model is spoiled: a row is wrong, one is lost, one belongs to nobody.
		err := s.Store.Do(t.Context(), func(_ context.Context, w *unit.Work) error {
			for _, sql := range []string{
				"UPDATE order_view SET status = 'rejected', total = 1 WHERE order_id = '" + ids[0] + "'",
				"UPDATE order_line_view SET returned = 9 WHERE order_id = '" + ids[1] + "'",
				"DELETE FROM order_view WHERE order_id = '" + ids[2] + "'",
				"DELETE FROM return_view WHERE order_id = '" + ids[4] + "'",
				"INSERT INTO order_line_view (order_id, position, sku, name, quantity, price, returned) VALUES ('ghost', 1, 'x', 'x', 1, 1, 0)",
			} {
				if err := w.DB.Exec(sql).Error; err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		var last, of int
		if err := s.projections.Rebuild(t.Context(), func(done, total int) { last, of = done, total }); err != nil {
			t.Fatal(err)
		}
		if last != 6 || of != 6 {
			t.Errorf("progress ended at %d of %d", last, of)
		}
		for _, v := range views {
			if diff := cmp.Diff(s.rows(v), before[v]); diff != "" {
				t.Errorf("%s after the rebuild (-got +want):\n%s", v, diff)
			}
		}
	})
}

// TestRebuildWhileRunning rebuilds again and again while orders go on, and rebuilds once more in the quiet: nothing
// may change any more.
func TestRebuildWhileRunning(t *testing.T) {
	t.Parallel()
	moduletest.Each(t, func(t *testing.T, open moduletest.Opener) {
		s := openShop(t, open)
		for range 10 {
			s.jars()
		}
		stop := make(chan struct{})
		var wg sync.WaitGroup
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if err := s.projections.Rebuild(t.Context(), nil); err != nil {
					t.Errorf("rebuild: %v", err)
					return
				}
			}
		})
		for range 8 {
			o := s.jars()
			s.confirm(o.ID)
			s.giveBack(o.ID, 3)
		}
		close(stop)
		wg.Wait()
		live := map[string][]string{}
		for _, v := range views {
			live[v] = s.rows(v)
		}
		if err := s.projections.Rebuild(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
		for _, v := range views {
			if diff := cmp.Diff(live[v], s.rows(v)); diff != "" {
				t.Errorf("%s (-live +rebuilt):\n%s", v, diff)
			}
		}
		if n := len(live["order_view"]); n != 18 {
			t.Errorf("%d orders, want 18", n)
		}
	})
}

// giveBack returns jars of an order, in full.
func (s *shop) giveBack(id string, quantity int64) {
	s.t.Helper()
	var r returnReply
	s.Do("POST", "/api/orders/"+id+"/returns", moduletest.Staff, map[string]any{"lines": lines{lineAt("jar", quantity, 104)}, "reason": "too many"}).Want(s.t, 201).Into(s.t, &r)
	s.Clock.Advance(time.Second)
	s.Deliver(s.t, paymentsapi.PaymentRefunded{OrderID: id, RefundID: r.ID, Amount: r.Refund}, inventoryapi.StockReturned{OrderID: id, ReturnID: r.ID})
}
