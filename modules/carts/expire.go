package carts

import (
	"context"
	"fmt"
	"time"

	"gorm.io/gorm"
	"gorm.io/gorm/clause"

	"github.com/banyan-go/banyan/internal/unit"
)

// expirePerRun bounds the unit of work; what is left is for the next run.
const expirePerRun = 500

// expire empties carts that nobody has touched for a long time. A cart that is being changed at this moment is not one
// of them.
func (c *carts) expire(_ context.Context, w *unit.Work, _ time.Time) error {
	var ids []string
	err := w.DB.Model(&cartRow{}).Clauses(clause.Locking{Strength: "UPDATE", Options: "SKIP LOCKED"}).
		Where("touched_at < ?", w.Now().Add(-c.expireAfter)).Order("touched_at").Limit(expirePerRun).Pluck("customer_id", &ids).Error
	if err != nil {
		return fmt.Errorf("find old carts: %w", err)
	}
	if len(ids) == 0 {
		return nil
	}
	if err := w.DB.Where("customer_id IN ?", ids).Delete(&lineRow{}).Error; err != nil {
		return fmt.Errorf("empty old carts: %w", err)
	}
	err = w.DB.Model(&cartRow{}).Where("customer_id IN ?", ids).Updates(map[string]any{"version": gorm.Expr("version + 1"), "touched_at": nil}).Error
	if err != nil {
		return fmt.Errorf("empty old carts: %w", err)
	}
	return nil
}
