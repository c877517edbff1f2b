package orders

import (
	"fmt"
	"testing"

	"github.com/banyan-go/banyan/internal/moduletest"
	"github.com/banyan-go/banyan/modules/catalog/catalogapi"
)

// BenchmarkCheckout is an order of 18 lines from the click to confirmed, the part of orders alone.
func BenchmarkCheckout(b *testing.B) {
	s := openShop(b, moduletest.NewSQLite)
	many := make(lines, 18)
	for i := range many {
		sku := fmt.Sprintf("p%02d", i)
		s.Deliver(b, catalogapi.ProductAdded{SKU: sku, Name: "a product with a name", Price: gbp(100), Version: 1})
		many[i] = lineAt(sku, int64(i+1), int64(100+i))
	}
	for b.Loop() {
		o := s.place(moduletest.Staff, map[string]any{"customer_id": ann.Subject, "lines": many})
		s.Deliver(b, reserved(o.ID), captured(o.ID))
	}
}
