package replay

import (
	"context"
	"fmt"
	"time"

	"github.com/banyan-go/banyan/internal/demo/retail"
)

// ordersSummary are the shop's figures over all orders.
type ordersSummary struct {
	Orders            int64            `json:"orders"`
	Lines             int64            `json:"lines"`
	LargestOrderLines int64            `json:"largest_order_lines"`
	ProductsSold      int64            `json:"products_sold"`
	Units             int64            `json:"units"`
	ReturnedUnits     int64            `json:"returned_units"`
	Unsettled         int64            `json:"unsettled"`
	ByStatus          map[string]int64 `json:"by_status"`
	OrdersByReturn    map[string]int64 `json:"orders_by_return"`
}

// underway is what the modules of the shop still have to do.
type underway struct{ orders, payments, reservations, reserved int64 }

func (u underway) String() string {
	return fmt.Sprintf("%d orders, %d payments and refunds, %d reservations", u.orders, u.payments, u.reservations)
}

// settle waits until nothing is under way: orders settle before their goods have left the shelf, so stock is asked too.
func (r *replay) settle(ctx context.Context) error {
	r.progress.begin("settled orders", len(r.plan.Orders))
	var before underway
	moved := time.Now()
	for pause := shortestLook; ; pause = min(2*pause, longestLook) {
		now, err := r.underway(ctx)
		if err != nil {
			return err
		}
		r.progress.set(len(r.plan.Orders) - int(min(now.orders, int64(len(r.plan.Orders)))))
		if now == (underway{}) {
			return r.allKept(ctx)
		}
		if now != before {
			before, moved = now, time.Now()
		}
		if time.Since(moved) > r.patience {
			return fmt.Errorf("the shop does not settle: %s are under way and nothing has moved for %s; see its dead letters", now, r.patience)
		}
		if err := sleep(ctx, pause); err != nil {
			return err
		}
	}
}

func (r *replay) underway(ctx context.Context) (underway, error) {
	var u underway
	var o ordersSummary
	if err := r.client.get(ctx, "/api/orders/reports/summary?currency="+currency, &o); err != nil {
		return u, err
	}
	if u.orders = o.Unsettled; u.orders > 0 {
		return u, nil // the others cannot be done before
	}
	var p struct {
		Unsettled int64 `json:"unsettled"`
	}
	if err := r.client.get(ctx, "/api/payments/reports/summary", &p); err != nil {
		return u, err
	}
	var i struct {
		Reserved         int64 `json:"reserved"`
		OpenReservations int64 `json:"open_reservations"`
	}
	if err := r.client.get(ctx, "/api/inventory/reports/summary", &i); err != nil {
		return u, err
	}
	u.payments, u.reservations, u.reserved = p.Unsettled, i.OpenReservations, i.Reserved
	return u, nil
}

// allKept says which orders of ours the shop has not kept, if there are any.
func (r *replay) allKept(ctx context.Context) error {
	var o ordersSummary
	if err := r.client.get(ctx, "/api/orders/reports/summary?currency="+currency, &o); err != nil {
		return err
	}
	for _, status := range []string{"rejected", "cancelled"} {
		if o.ByStatus[status] == 0 {
			continue
		}
		invoices := make(map[string]bool, len(r.plan.Orders))
		for _, order := range r.plan.Orders {
			invoices[order.Invoice] = true
		}
		type item struct {
			Reference string `json:"reference"`
			Reason    string `json:"reason"`
		}
		var lost error
		more := 0
		err := all(ctx, r.client, "/api/orders?status="+status, func(i item) {
			switch {
			case !invoices[i.Reference]:
			case lost == nil:
				lost = notKept(i.Reference, status, i.Reason)
			default:
				more++
			}
		})
		if err != nil {
			return err
		}
		if more > 0 {
			return fmt.Errorf("%w; so are %d more", lost, more)
		}
		if lost != nil {
			return lost
		}
	}
	return nil
}

// readBack asks the shop for its figures.
func (r *replay) readBack(ctx context.Context) (Report, error) {
	report := r.plan.FileReport()
	var o ordersSummary
	if err := r.client.get(ctx, "/api/orders/reports/summary?currency="+currency, &o); err != nil {
		return Report{}, err
	}
	report.Orders, report.Lines, report.LargestOrderLines = o.Orders, o.Lines, o.LargestOrderLines
	report.ProductsSold, report.UnitsSold, report.RefundedUnits = o.ProductsSold, o.Units, o.ReturnedUnits
	report.OrdersByReturn = map[string]int64{}
	for state, n := range o.OrdersByReturn {
		if n > 0 {
			report.OrdersByReturn[state] = n
		}
	}
	var products struct {
		Products int64 `json:"products"`
	}
	if err := r.client.get(ctx, "/api/products/report", &products); err != nil {
		return Report{}, err
	}
	report.Products = products.Products
	if err := r.readCustomers(ctx, &report); err != nil {
		return Report{}, err
	}
	return report, r.readStock(ctx, &report)
}

func (r *replay) readCustomers(ctx context.Context, report *Report) error {
	customers := map[string]*retail.CustomerFigures{} // by user id
	err := all(ctx, r.client, "/api/users", func(u user) {
		if u.Reference != "" {
			customers[u.ID] = &retail.CustomerFigures{Number: u.Reference}
		}
	})
	if err != nil {
		return err
	}
	type orders struct {
		CustomerID string `json:"customer_id"`
		Orders     int64  `json:"orders"`
		Paid       price  `json:"paid"`
	}
	err = all(ctx, r.client, "/api/orders/reports/customers", func(i orders) {
		if c := customers[i.CustomerID]; c != nil && i.Paid.Currency == currency {
			c.Orders += i.Orders
		}
	})
	if err != nil {
		return err
	}
	type payments struct {
		CustomerID string `json:"customer_id"`
		Currency   string `json:"currency"`
		Captured   int64  `json:"captured"`
		Refunded   int64  `json:"refunded"`
	}
	err = all(ctx, r.client, "/api/payments/reports/customers", func(i payments) {
		if i.Currency != currency {
			return
		}
		report.PaidPence += i.Captured
		report.RefundedPence += i.Refunded
		if c := customers[i.CustomerID]; c != nil {
			c.Paid += i.Captured
			c.Refunded += i.Refunded
		}
	})
	if err != nil {
		return err
	}
	figures := make([]retail.CustomerFigures, 0, len(customers))
	for _, c := range customers {
		figures = append(figures, *c)
	}
	report.Customers = int64(len(figures))
	report.CustomersSHA256 = retail.CustomersDigest(figures)
	return nil
}

// readStock reads the shelves of what the files sell. Products that they only take back have a shelf too, an empty one.
func (r *replay) readStock(ctx context.Context, report *Report) error {
	sold := make(map[string]bool, len(r.plan.Products))
	for _, p := range r.plan.Products {
		sold[p.Code] = p.Sold > 0
	}
	type level struct {
		SKU    string `json:"sku"`
		OnHand int64  `json:"on_hand"`
	}
	var shelves []retail.Shelf
	err := all(ctx, r.client, "/api/inventory/reports/stock", func(l level) {
		if sold[l.SKU] {
			shelves = append(shelves, retail.Shelf{Code: l.SKU, Units: l.OnHand})
		}
	})
	if err != nil {
		return err
	}
	report.StockSHA256 = retail.StockDigest(shelves)
	return nil
}
