package inventory

import (
	"fmt"

	"gorm.io/gorm/clause"

	"github.com/banyan-go/banyan/internal/errs"
	"github.com/banyan-go/banyan/internal/message"
	"github.com/banyan-go/banyan/internal/unit"
	"github.com/banyan-go/banyan/modules/inventory/internal/stock"
)

// deliver puts merged lines on the shelf, once per reference; products that were not known are known from now on.
func (s *service) deliver(w *unit.Work, reference string, lines []stock.Line) (deliveryRow, error) {
	row := deliveryRow{ID: message.NewID(), Reference: reference, Lines: encode(lines), ArrivedAt: w.Now()}
	for _, l := range lines {
		row.Units += l.Quantity
	}
	added := w.DB.Clauses(clause.OnConflict{DoNothing: true}).Create(&row)
	if added.Error != nil {
		return row, fmt.Errorf("delivery: %w", added.Error)
	}
	if added.RowsAffected == 0 {
		var earlier deliveryRow
		if err := w.DB.Where("reference = ?", reference).Take(&earlier).Error; err != nil {
			return earlier, fmt.Errorf("delivery %s: %w", reference, err)
		}
		if earlier.Lines != row.Lines {
			return earlier, errs.New(errs.Conflict, "the delivery with this reference had other lines").With("body.reference", "was used for another delivery")
		}
		return earlier, nil
	}
	skus := skusOf(lines)
	if err := know(w, skus); err != nil {
		return row, fmt.Errorf("delivery: %w", err)
	}
	shelf, err := lock(w, skus)
	if err != nil {
		return row, err
	}
	return row, s.move(w, shelf, stock.Deliver(lines), byDelivery, row.ID, reference)
}
