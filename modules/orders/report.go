package orders

import (
	"context"
	"fmt"
	"strings"

	"github.com/banyan-go/banyan/internal/errs"
	"github.com/banyan-go/banyan/internal/identity"
	"github.com/banyan-go/banyan/internal/money"
	"github.com/banyan-go/banyan/internal/rest"
	"github.com/banyan-go/banyan/modules/orders/internal/order"
)

type summaryInput struct {
	Currency string `query:"currency" minLength:"3" maxLength:"3" doc:"Only orders in this currency; needed where there are several"`
}

// reportBody are figures over all orders. All but by_status and unsettled are over confirmed orders.
type reportBody struct {
	Orders            int64            `json:"orders" doc:"Confirmed orders. Those that were rejected or cancelled, or are under way, count in by_status and unsettled alone"`
	Lines             int64            `json:"lines" doc:"Of confirmed orders"`
	LargestOrderLines int64            `json:"largest_order_lines" doc:"Lines of the confirmed order that has the most"`
	ProductsSold      int64            `json:"products_sold" doc:"Different SKUs on the lines of confirmed orders, whether or not their units came back"`
	Units             int64            `json:"units" doc:"Of confirmed orders, with those that came back"`
	Total             money.Money      `json:"total" doc:"Of confirmed orders, with what was refunded"`
	ReturnedUnits     int64            `json:"returned_units"`
	Refunded          money.Money      `json:"refunded" doc:"Of returns"`
	Unsettled         int64            `json:"unsettled" doc:"Orders whose checkout, cancellation or return is still under way"`
	ByStatus          map[string]int64 `json:"by_status" doc:"Number of all orders by status"`
	OrdersByReturn    map[string]int64 `json:"orders_by_return" doc:"Number of confirmed orders by return_state"`
}

// summary adds up all orders.
func (o *orders) summary(ctx context.Context, in *summaryInput) (*rest.Answer[reportBody], error) {
	if err := identity.Need(ctx, identity.Staff); err != nil {
		return nil, err
	}
	var rows []struct {
		Status, ReturnState, Currency                            string
		Orders, Lines, Largest, Units, Total, Returned, Refunded int64
		Open                                                     int64
	}
	err := o.store.Read(ctx).Raw(`SELECT status, return_state, currency, count(*) AS orders, CAST(sum(lines) AS BIGINT) AS lines, max(lines) AS largest,
		CAST(sum(units) AS BIGINT) AS units, CAST(sum(total) AS BIGINT) AS total, CAST(sum(returned_units) AS BIGINT) AS returned,
		CAST(sum(refunded) AS BIGINT) AS refunded, CAST(sum(CASE WHEN open_returns > 0 THEN 1 ELSE 0 END) AS BIGINT) AS open
		FROM order_view WHERE ? = '' OR currency = ? GROUP BY status, return_state, currency`, in.Currency, in.Currency).Scan(&rows).Error
	if err != nil {
		return nil, fmt.Errorf("summary of orders: %w", err)
	}
	b := reportBody{ByStatus: map[string]int64{}, OrdersByReturn: map[string]int64{
		string(order.Kept): 0, string(order.PartlyReturned): 0, string(order.AllReturned): 0,
	}}
	for _, r := range rows {
		b.ByStatus[r.Status] += r.Orders
		switch order.Status(r.Status) {
		case order.StatusConfirmed:
			if b.Total, err = b.Total.Add(money.Of(r.Total, r.Currency)); err == nil {
				b.Refunded, err = b.Refunded.Add(money.Of(r.Refunded, r.Currency))
			}
			if err != nil {
				return nil, errs.New(errs.Invalid, "there are orders in several currencies").With("query.currency", "is needed")
			}
			b.Orders += r.Orders
			b.Lines += r.Lines
			b.LargestOrderLines = max(b.LargestOrderLines, r.Largest)
			b.Units += r.Units
			b.ReturnedUnits += r.Returned
			b.Unsettled += r.Open
			b.OrdersByReturn[r.ReturnState] += r.Orders
		case order.StatusRejected, order.StatusCancelled:
			b.Unsettled += r.Open
		default:
			b.Unsettled += r.Orders
		}
	}
	err = o.store.Read(ctx).Raw(`SELECT count(*) FROM (SELECT l.sku FROM order_line_view l JOIN order_view v ON v.order_id = l.order_id
		WHERE v.status = ? AND (? = '' OR v.currency = ?) GROUP BY l.sku) AS sold`, order.StatusConfirmed, in.Currency, in.Currency).Scan(&b.ProductsSold).Error
	if err != nil {
		return nil, fmt.Errorf("summary of orders: %w", err)
	}
	return rest.Reply(b), nil
}

// customerBody are the figures of one customer in one currency.
type customerBody struct {
	CustomerID string      `json:"customer_id"`
	Orders     int64       `json:"orders" doc:"Confirmed ones"`
	Paid       money.Money `json:"paid" doc:"For them, with what was refunded"`
	Refunded   money.Money `json:"refunded" doc:"Of returns"`
}

type byCustomerInput struct{ rest.Page }

type customerRow struct {
	CustomerID, Currency   string
	Orders, Paid, Refunded int64
}

// byCustomer adds up confirmed orders by customer and currency. The sums are made of the orders' rows when they are
// asked for: a table of its own would make every order of a customer wait for the one before.
func (o *orders) byCustomer(ctx context.Context, in *byCustomerInput) (*rest.Answer[rest.List[customerBody]], error) {
	if err := identity.Need(ctx, identity.Staff); err != nil {
		return nil, err
	}
	customer, currency, _ := strings.Cut(in.Cursor, "/")
	if in.Cursor != "" && (customer == "" || len(currency) != 3) {
		return nil, rest.BadCursor()
	}
	var rows []customerRow
	err := o.store.Read(ctx).Raw(`SELECT customer_id, currency, count(*) AS orders, CAST(sum(total) AS BIGINT) AS paid, CAST(sum(refunded) AS BIGINT) AS refunded
		FROM order_view WHERE status = ? AND customer_id >= ? AND (customer_id > ? OR currency > ?)
		GROUP BY customer_id, currency ORDER BY customer_id, currency LIMIT ?`, order.StatusConfirmed, customer, customer, currency, in.Limit+1).Scan(&rows).Error
	if err != nil {
		return nil, fmt.Errorf("orders by customer: %w", err)
	}
	return rest.Reply(rest.Cut(rows, in.Limit, func(r customerRow) customerBody {
		return customerBody{CustomerID: r.CustomerID, Orders: r.Orders, Paid: money.Of(r.Paid, r.Currency), Refunded: money.Of(r.Refunded, r.Currency)}
	}, func(r customerRow) string { return r.CustomerID + "/" + r.Currency })), nil
}
