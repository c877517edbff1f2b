package orders

import (
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"gorm.io/gorm"

	"github.com/banyan-go/banyan/internal/unit"
	"github.com/banyan-go/banyan/modules/orders/internal/order"
)

// viewRow is an order in the read model.
type viewRow struct {
	OrderID       string
	Version       int64
	CustomerID    string
	Status        string
	Reason        string
	Fulfilment    string
	ReturnState   string
	PlacedBy      string
	Reference     string
	ReferenceTime *time.Time
	Currency      string
	Total         int64
	Refunded      int64
	RefundRefused bool
	Lines         int64
	Units         int64
	ReturnedUnits int64
	OpenReturns   int64
	Carrier       string
	Tracking      string
	Personal      string
	PlacedAt      time.Time
	UpdatedAt     time.Time
	ConfirmedAt   *time.Time
	DeliveredAt   *time.Time
}

// viewColumns are the columns of a viewRow, in its order.
const viewColumns = "order_id, version, customer_id, status, reason, fulfilment, return_state, placed_by, reference, reference_time, currency, total, refunded, refund_refused, " +
	"lines, units, returned_units, open_returns, carrier, tracking, personal, placed_at, updated_at, confirmed_at, delivered_at"

// lineRow is a line of an order in the read model.
type lineRow struct {
	Position int64
	SKU      string `gorm:"column:sku"`
	Name     string
	Quantity int64
	Price    int64
	Returned int64
	Version  int64 // of the order, when the line was read
}

// returnRow is a return in the read model.
type returnRow struct {
	ReturnID      string
	OrderID       string
	Position      int64
	MadeBy        string
	Lines         string
	Currency      string
	Refund        int64
	Refunded      bool
	RefundRefused bool
	Restocked     bool
	Note          string
	At            time.Time
	Version       int64 // of the order, when the return was read
}

// viewOf is what the read model says of an order: a function of its events alone, so that a rebuild ends with the
// same rows.
func viewOf(id string, o *order.Order) (viewRow, error) {
	personal, err := privateJSON(o.Private)
	if err != nil {
		return viewRow{}, err
	}
	units, returned := o.Units()
	return viewRow{
		OrderID: id, Version: o.Version, CustomerID: o.CustomerID, Status: string(o.Status), Reason: o.Reason, Fulfilment: string(o.Fulfilment),
		ReturnState: string(o.ReturnState()), PlacedBy: string(o.By), Reference: o.Reference, ReferenceTime: o.ReferenceTime,
		Currency: o.Total.Currency, Total: o.Total.Amount, Refunded: o.Refunded.Amount, RefundRefused: o.RefundRefused, Lines: int64(len(o.Lines)), Units: units,
		ReturnedUnits: returned, OpenReturns: o.OpenReturns(), Carrier: o.Carrier, Tracking: o.Tracking, Personal: personal,
		PlacedAt: o.PlacedAt, UpdatedAt: o.UpdatedAt, ConfirmedAt: o.ConfirmedAt, DeliveredAt: o.DeliveredAt,
	}, nil
}

// project brings the read model from version was to the stream's. Only what the events changed is written.
func project(w *unit.Work, s *stream, was int64, events []order.Event) error {
	if was == 0 {
		return insertView(w.Later(), s.id, &s.order)
	}
	v, err := viewOf(s.id, &s.order)
	if err != nil {
		return err
	}
	done := w.DB.Exec(`UPDATE order_view SET version = ?, status = ?, reason = ?, fulfilment = ?, return_state = ?, refunded = ?, refund_refused = ?, returned_units = ?, open_returns = ?,
		carrier = ?, tracking = ?, personal = ?, updated_at = ?, confirmed_at = ?, delivered_at = ? WHERE order_id = ? AND version = ?`,
		v.Version, v.Status, v.Reason, v.Fulfilment, v.ReturnState, v.Refunded, v.RefundRefused, v.ReturnedUnits, v.OpenReturns,
		v.Carrier, v.Tracking, v.Personal, v.UpdatedAt, v.ConfirmedAt, v.DeliveredAt, v.OrderID, was)
	if done.Error != nil {
		return fmt.Errorf("view of order %s: %w", s.id, done.Error)
	}
	if done.RowsAffected == 0 {
		// The view is not what the events before were projected to: it is lost or wrong, and made anew.
		return replaceView(w.Later(), s.id, &s.order)
	}
	for _, e := range events {
		switch e := e.(type) {
		case order.Returned:
			err = projectReturn(w.DB, s, e)
		case order.ReturnRefunded:
			err = projectRefund(w.Later(), s, e.ReturnID)
		case order.ReturnRefundRefused:
			err = projectRefund(w.Later(), s, e.ReturnID)
		case order.ReturnRestocked:
			err = w.Later().Exec("UPDATE return_view SET restocked = ? WHERE return_id = ?", true, e.ReturnID).Error
		}
		if err != nil {
			return fmt.Errorf("view of order %s: %w", s.id, err)
		}
	}
	return nil
}

func projectReturn(db *gorm.DB, s *stream, e order.Returned) error {
	var lines []any
	for i, l := range s.order.Lines {
		if slices.ContainsFunc(e.Lines, func(b order.Line) bool { return b.SKU == l.SKU && b.Price == l.Price }) {
			lines = append(lines, lineArgs(s.id, i, l)...)
		}
	}
	if err := insert(db, "order_line_view ("+lineColumns+")", lineWidth, lines, " ON CONFLICT (order_id, position) DO UPDATE SET returned = excluded.returned"); err != nil {
		return err
	}
	for i, r := range s.order.Returns {
		if r.ID == e.ReturnID {
			args, err := returnArgs(s.id, i, r, s.order.Private.Notes[r.ID])
			if err != nil {
				return err
			}
			return insert(db, "return_view ("+returnColumns+")", returnWidth, args)
		}
	}
	return nil
}

func projectRefund(db *gorm.DB, s *stream, returnID string) error {
	r, _ := s.order.Return(returnID)
	return db.Exec("UPDATE return_view SET refund = ?, refunded = ?, refund_refused = ? WHERE return_id = ?", r.Refund.Amount, r.Refunded, r.RefundRefused, returnID).Error
}

const (
	lineColumns   = "order_id, position, sku, name, quantity, price, returned"
	lineWidth     = 7
	returnColumns = "return_id, order_id, position, made_by, lines, currency, refund, refunded, refund_refused, restocked, note, at"
	returnWidth   = 12
	viewWidth     = 25
)

func lineArgs(id string, i int, l order.Line) []any {
	return []any{id, i + 1, l.SKU, l.Name, l.Quantity, l.Price, l.Returned}
}

func returnArgs(id string, i int, r order.Return, note string) ([]any, error) {
	lines, err := json.Marshal(r.Lines)
	if err != nil {
		return nil, fmt.Errorf("encode return %s: %w", r.ID, err)
	}
	return []any{r.ID, id, i + 1, string(r.By), string(lines), r.Refund.Currency, r.Refund.Amount, r.Refunded, r.RefundRefused, r.Restocked, note, r.At}, nil
}

// insertView writes all rows of an order.
func insertView(db *gorm.DB, id string, o *order.Order) error {
	v, err := viewOf(id, o)
	if err != nil {
		return err
	}
	err = insert(db, "order_view ("+viewColumns+")", viewWidth, []any{
		v.OrderID, v.Version, v.CustomerID, v.Status, v.Reason, v.Fulfilment, v.ReturnState, v.PlacedBy, v.Reference, v.ReferenceTime, v.Currency, v.Total, v.Refunded, v.RefundRefused,
		v.Lines, v.Units, v.ReturnedUnits, v.OpenReturns, v.Carrier, v.Tracking, v.Personal, v.PlacedAt, v.UpdatedAt, v.ConfirmedAt, v.DeliveredAt})
	if err != nil {
		return fmt.Errorf("view of order %s: %w", id, err)
	}
	lines := make([]any, 0, lineWidth*len(o.Lines))
	for i, l := range o.Lines {
		lines = append(lines, lineArgs(id, i, l)...)
	}
	if err := insert(db, "order_line_view ("+lineColumns+")", lineWidth, lines); err != nil {
		return fmt.Errorf("lines of order %s: %w", id, err)
	}
	var returns []any
	for i, r := range o.Returns {
		args, err := returnArgs(id, i, r, o.Private.Notes[r.ID])
		if err != nil {
			return err
		}
		returns = append(returns, args...)
	}
	if err := insert(db, "return_view ("+returnColumns+")", returnWidth, returns); err != nil {
		return fmt.Errorf("returns of order %s: %w", id, err)
	}
	return nil
}

// replaceView writes all rows of an order in place of what is there.
func replaceView(db *gorm.DB, id string, o *order.Order) error {
	for _, table := range []string{"return_view", "order_line_view", "order_view"} {
		if err := db.Exec("DELETE FROM "+table+" WHERE order_id = ?", id).Error; err != nil {
			return fmt.Errorf("view of order %s: %w", id, err)
		}
	}
	return insertView(db, id, o)
}

// readView is an order with its lines and returns, nil if there is none. The parts are read one after another, so
// each says of which version of the order it is; if one changed in between all are read again.
func readView(db *gorm.DB, id string) (*viewRow, []lineRow, []returnRow, error) {
	for try := 1; ; try++ {
		var v viewRow
		found := db.Raw("SELECT "+viewColumns+" FROM order_view WHERE order_id = ?", id).Scan(&v)
		if found.Error != nil {
			return nil, nil, nil, fmt.Errorf("read order %s: %w", id, found.Error)
		}
		if found.RowsAffected == 0 {
			return nil, nil, nil, nil
		}
		var lines []lineRow
		err := db.Raw(`SELECT l.position, l.sku, l.name, l.quantity, l.price, l.returned, v.version FROM order_line_view l JOIN order_view v ON v.order_id = l.order_id
			WHERE l.order_id = ? ORDER BY l.position`, id).Scan(&lines).Error
		if err != nil {
			return nil, nil, nil, fmt.Errorf("read lines of order %s: %w", id, err)
		}
		var returns []returnRow
		if v.ReturnedUnits > 0 {
			err := db.Raw(`SELECT r.return_id, r.order_id, r.position, r.made_by, r.lines, r.currency, r.refund, r.refunded, r.refund_refused, r.restocked, r.note, r.at, v.version
				FROM return_view r JOIN order_view v ON v.order_id = r.order_id WHERE r.order_id = ? ORDER BY r.position`, id).Scan(&returns).Error
			if err != nil {
				return nil, nil, nil, fmt.Errorf("read returns of order %s: %w", id, err)
			}
		}
		changed := slices.ContainsFunc(lines, func(l lineRow) bool { return l.Version != v.Version }) ||
			slices.ContainsFunc(returns, func(r returnRow) bool { return r.Version != v.Version })
		if !changed || try == 5 {
			return &v, lines, returns, nil
		}
	}
}
