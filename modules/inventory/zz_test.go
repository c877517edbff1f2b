package inventory

import (
	"context"
	"fmt"
	"testing"
"sync"
"github.com/banyan-go/banyan/internal/message"
	"time"
	"strings"

	"github.com/banyan-go/banyan/internal/moduletest"
	"github.com/banyan-go/banyan/internal/unit"
	"github.com/banyan-go/banyan/modules/inventory/inventoryapi"
)

func TestZZ(t *testing.T) {
	moduletest.Each(t, func(t *testing.T, open moduletest.Opener) {
		h := open(t, build)
		for p := range 4 {
			var ls []DeliveryLine
			for i := range 900 {
				ls = append(ls, DeliveryLine{fmt.Sprintf("%05d", p*900+i), 100000})
			}
			start := time.Now()
			deliver(t, h, ls...)
			t.Log("delivery 900", time.Since(start))
		}
		explain := "EXPLAIN "
		if strings.Contains(h.String(), "sqlite") {
			explain = "EXPLAIN QUERY PLAN "
		}
		args := []any{}
		for i := range 32 {
			args = append(args, fmt.Sprintf("%05d", i), 0, 0, false)
		}
		h.Store.Do(context.Background(), func(ctx context.Context, w *unit.Work) error {
			rows, err := w.DB.Raw(explain+updateStock(32), args...).Rows()
			if err != nil {
				t.Error(err)
				return err
			}
			defer rows.Close()
			cols, _ := rows.Columns()
			for rows.Next() {
				v := make([]any, len(cols))
				for i := range v {
					v[i] = new(any)
				}
				rows.Scan(v...)
				t.Log(*v[len(v)-1].(*any))
			}
			return nil
		})
		const n = 1600
		run := func(name string, mk func(i int) message.Event) {
			ms := make(chan message.Message, n)
			for i := range n {
				ms <- h.Envelope(t, mk(i))
			}
			close(ms)
			start := time.Now()
			var all sync.WaitGroup
			for range 16 {
				all.Go(func() { for m := range ms { h.DeliverMessage(t, m) } })
			}
			all.Wait()
			t.Log(name, time.Since(start)/n)
		}
		run("reserve", func(i int) message.Event {
			var lines []inventoryapi.Line
			for j := range 20 {
				lines = append(lines, inventoryapi.Line{SKU: fmt.Sprintf("%05d", (i*37+j*101)%3600), Quantity: 1})
			}
			return inventoryapi.Reserve{OrderID: fmt.Sprint(i), Lines: lines, ExpiresAt: moduletest.Start.Add(time.Hour)}
		})
		run("commit", func(i int) message.Event { return inventoryapi.Commit{OrderID: fmt.Sprint(i)} })
	})
}
