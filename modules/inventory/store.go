package inventory

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"gorm.io/gorm"
	"gorm.io/gorm/clause"

	"github.com/banyan-go/banyan/internal/errs"
	"github.com/banyan-go/banyan/internal/message"
	"github.com/banyan-go/banyan/internal/unit"
	"github.com/banyan-go/banyan/modules/inventory/internal/stock"
)

type stockRow struct {
	SKU      string `gorm:"column:sku;primaryKey"`
	OnHand   int64
	Reserved int64
	Low      bool
}

func (stockRow) TableName() string { return "stock" }

func (r stockRow) level() stock.Level {
	return stock.Level{OnHand: r.OnHand, Reserved: r.Reserved, Low: r.Low}
}

type reservationRow struct {
	OrderID   string `gorm:"primaryKey"`
	State     string
	Lines     string
	Returned  string
	Short     string
	Reason    string
	ExpiresAt time.Time
	CreatedAt time.Time
	UpdatedAt time.Time
}

func (reservationRow) TableName() string { return "reservations" }

type returnRow struct {
	OrderID    string `gorm:"primaryKey"`
	ReturnID   string `gorm:"primaryKey"`
	ReturnedAt time.Time
}

func (returnRow) TableName() string { return "returns" }

type deliveryRow struct {
	ID        string `gorm:"primaryKey"`
	Reference string
	Lines     string
	Units     int64
	ArrivedAt time.Time
}

func (deliveryRow) TableName() string { return "deliveries" }

type movementRow struct {
	SKU     string `gorm:"column:sku;primaryKey"`
	ID      string `gorm:"primaryKey"`
	Delta   int64
	Reason  string
	Ref     string
	Note    string
	MovedAt time.Time
}

func (movementRow) TableName() string { return "movements" }

// The reasons of movements. What is only reserved does not move.
const (
	byDelivery   = "delivery"
	byAdjustment = "adjustment"
	bySale       = "sale"
	byRelease    = "release"
	byReturn     = "return"
)

// chunk is how many products one statement names.
const chunk = 256

// padded is how many places a statement for n products has. Only few different statements come of it, so that
// the stores keep them prepared; an empty SKU in the places left over is no product.
func padded(n int) int {
	places := 1
	for places < n {
		places *= 2
	}
	return places
}

// lock reads the levels of products and keeps others from changing them until the unit of work ends. skus are sorted
// and locked in this order, so that orders with the same products cannot wait for each other in a circle.
func lock(w *unit.Work, skus []string) (stock.Shelf, error) {
	shelf := make(stock.Shelf, len(skus))
	for part := range slices.Chunk(skus, chunk) {
		places := make([]string, padded(len(part)))
		copy(places, part)
		var rows []stockRow
		err := w.DB.Clauses(clause.Locking{Strength: "UPDATE"}).Where("sku IN ?", places).Order("sku").Find(&rows).Error
		if err != nil {
			return nil, fmt.Errorf("lock stock: %w", err)
		}
		for _, r := range rows {
			shelf[r.SKU] = r.level()
		}
	}
	return shelf, nil
}

// skusOf names the products of several lists of lines, sorted.
func skusOf(lists ...[]stock.Line) []string {
	var skus []string
	for _, lines := range lists {
		for _, l := range lines {
			skus = append(skus, l.SKU)
		}
	}
	slices.Sort(skus)
	return slices.Compact(skus)
}

// know makes products known, with nothing on the shelf. It comes before lock: a row that another unit of work is
// inserting is waited for while no other row is held.
func know(w *unit.Work, skus []string) error {
	rows := make([]stockRow, len(skus))
	for i, sku := range skus {
		rows[i].SKU = sku
	}
	return w.Later().Clauses(clause.OnConflict{DoNothing: true}).CreateInBatches(rows, chunk).Error
}

// move applies deltas to the locked shelf and to the store, writes the journal of what came to the shelf or left it,
// and announces the products that crossed their low mark.
func (s *service) move(w *unit.Work, shelf stock.Shelf, deltas []stock.Delta, reason, ref, note string) error {
	crossed, err := shelf.Apply(deltas, s.cfg.LowMark)
	if err != nil {
		return err
	}
	for part := range slices.Chunk(deltas, chunk) {
		places := padded(len(part))
		args := make([]any, 0, 4*places)
		for _, d := range part {
			args = append(args, d.SKU, d.OnHand, d.Reserved, shelf[d.SKU].Low)
		}
		for range places - len(part) {
			args = append(args, "", 0, 0, false)
		}
		missing := fmt.Errorf("change stock: not all of %d products changed", len(part))
		if err := w.Expect(int64(len(part)), missing).Exec(updateStock(places), args...).Error; err != nil {
			return fmt.Errorf("change stock: %w", err)
		}
	}
	var moved []movementRow
	for _, d := range deltas {
		if d.OnHand != 0 {
			moved = append(moved, movementRow{SKU: d.SKU, ID: message.NewID(), Delta: d.OnHand, Reason: reason, Ref: ref, Note: note, MovedAt: w.Now()})
		}
	}
	if len(moved) > 0 {
		if err := w.Later().CreateInBatches(moved, chunk).Error; err != nil {
			return fmt.Errorf("journal: %w", err)
		}
	}
	for _, c := range crossed {
		w.Publish(levelChanged(c, w.Now()))
	}
	return nil
}

func updateStock(places int) string {
	const place = "(CAST(? AS TEXT), CAST(? AS BIGINT), CAST(? AS BIGINT), CAST(? AS BOOLEAN))"
	return "WITH v(id, on_hand_by, reserved_by, now_low) AS (VALUES " + strings.Repeat(place+", ", places-1) + place + `)
		UPDATE stock SET on_hand = stock.on_hand + v.on_hand_by, reserved = stock.reserved + v.reserved_by, low = v.now_low
		FROM v WHERE stock.sku = v.id`
}

// reservation reads and locks what an order holds; the zero row if it never asked.
func reservation(w *unit.Work, orderID string) (reservationRow, stock.Reservation, error) {
	var row reservationRow
	err := w.DB.Clauses(clause.Locking{Strength: "UPDATE"}).Where("order_id = ?", orderID).Take(&row).Error
	if errors.Is(err, gorm.ErrRecordNotFound) {
		return reservationRow{}, stock.Reservation{}, nil
	}
	if err != nil {
		return row, stock.Reservation{}, fmt.Errorf("reservation of order %s: %w", orderID, err)
	}
	r, err := row.reservation()
	return row, r, err
}

func (row reservationRow) reservation() (stock.Reservation, error) {
	r := stock.Reservation{State: stock.State(row.State)}
	for _, f := range []struct {
		text string
		into *[]stock.Line
	}{{row.Lines, &r.Lines}, {row.Returned, &r.Returned}, {row.Short, &r.Short}} {
		if f.text == "" {
			continue
		}
		if err := json.Unmarshal([]byte(f.text), f.into); err != nil {
			return r, errs.New(errs.Internal, "reservation of order %s: %w", row.OrderID, err)
		}
	}
	return r, r.Check()
}

// set puts r into the row.
func (row *reservationRow) set(r stock.Reservation, at time.Time) {
	row.State, row.UpdatedAt = string(r.State), at
	row.Lines, row.Returned, row.Short = encode(r.Lines), encode(r.Returned), encode(r.Short)
}

func encode(lines []stock.Line) string {
	if len(lines) == 0 {
		return ""
	}
	b, _ := json.Marshal(lines) // strings and integers only: it cannot fail
	return string(b)
}

// insert adds the row of an order; false if there is one already.
func insert(w *unit.Work, row *reservationRow) (bool, error) {
	added := w.DB.Clauses(clause.OnConflict{DoNothing: true}).Create(row)
	if added.Error != nil {
		return false, fmt.Errorf("reservation of order %s: %w", row.OrderID, added.Error)
	}
	return added.RowsAffected == 1, nil
}

func update(w *unit.Work, row *reservationRow) error {
	err := w.Later().Model(row).Select("state", "lines", "returned", "short", "reason", "expires_at", "updated_at").Updates(row).Error
	if err != nil {
		return fmt.Errorf("reservation of order %s: %w", row.OrderID, err)
	}
	return nil
}
