package shipping

import (
	"context"
	"errors"
	"fmt"
	"time"

	"gorm.io/gorm"
	"gorm.io/gorm/clause"

	"github.com/banyan-go/banyan/internal/errs"
	"github.com/banyan-go/banyan/internal/unit"
	"github.com/banyan-go/banyan/modules/shipping/internal/shipment"
)

type shipmentRow struct {
	ID           string `gorm:"primaryKey"`
	OrderID      string
	CustomerID   string
	State        string
	Name         string
	Street       string
	City         string
	Zip          string
	Country      string
	Carrier      string
	Tracking     string
	CreatedAt    time.Time
	DispatchedAt *time.Time
	DeliveredAt  *time.Time
	CancelledAt  *time.Time
}

func (shipmentRow) TableName() string { return "shipments" }

func (r shipmentRow) shipment() shipment.Shipment {
	return shipment.Shipment{
		State: shipment.State(r.State), Carrier: r.Carrier, Tracking: r.Tracking, CreatedAt: r.CreatedAt,
		DispatchedAt: orZero(r.DispatchedAt), DeliveredAt: orZero(r.DeliveredAt), CancelledAt: orZero(r.CancelledAt),
	}
}

func orZero(t *time.Time) time.Time {
	if t == nil {
		return time.Time{}
	}
	return *t
}

func orNil(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

type erasedRow struct {
	CustomerID string `gorm:"primaryKey"`
	ErasedAt   time.Time
}

func (erasedRow) TableName() string { return "erased_customers" }

// locked reads a shipment and keeps others from changing it until the unit of work ends; nil if there is none.
func locked(w *unit.Work, column, value string) (*shipmentRow, error) {
	var row shipmentRow
	err := w.DB.Clauses(clause.Locking{Strength: "UPDATE"}).Where(clause.Eq{Column: column, Value: value}).Take(&row).Error
	if errors.Is(err, gorm.ErrRecordNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("shipment with %s %s: %w", column, value, err)
	}
	return &row, nil
}

// set writes what has become of a locked shipment.
func (r *shipmentRow) set(w *unit.Work, s shipment.Shipment) error {
	r.State, r.Carrier, r.Tracking = string(s.State), s.Carrier, s.Tracking
	r.DispatchedAt, r.DeliveredAt, r.CancelledAt = orNil(s.DispatchedAt), orNil(s.DeliveredAt), orNil(s.CancelledAt)
	err := w.Later().Model(r).Select("state", "carrier", "tracking", "dispatched_at", "delivered_at", "cancelled_at").Updates(r).Error
	if err != nil {
		return fmt.Errorf("shipment %s: %w", r.ID, err)
	}
	return nil
}

// insert adds the shipment of an order; false if the order has one.
func insert(w *unit.Work, r *shipmentRow) (bool, error) {
	added := w.DB.Clauses(clause.OnConflict{DoNothing: true}).Create(r)
	if added.Error != nil {
		return false, fmt.Errorf("shipment of order %s: %w", r.OrderID, added.Error)
	}
	return added.RowsAffected == 1, nil
}

// read is a shipment outside of units of work. A tombstone is none.
func (s *service) read(ctx context.Context, id string) (shipmentRow, error) {
	var row shipmentRow
	err := s.store.Read(ctx).Where("id = ? AND state <> ?", id, string(shipment.Void)).Take(&row).Error
	if errors.Is(err, gorm.ErrRecordNotFound) {
		return row, errs.New(errs.NotFound, "no such shipment")
	}
	return row, err
}

// whereShown finds the shipments that a customer sees in a state; see shipment.Shown.
func whereShown(q *gorm.DB, state shipment.State) *gorm.DB {
	switch state {
	case shipment.Dispatched:
		return q.Where("(state = ? OR (state = ? AND delivered_at IS NULL))", string(state), string(shipment.Intercept))
	case shipment.Delivered:
		return q.Where("(state = ? OR (state = ? AND delivered_at IS NOT NULL))", string(state), string(shipment.Intercept))
	case shipment.Intercept:
		return q.Where("1 = 0")
	}
	return q.Where("state = ?", string(state))
}
