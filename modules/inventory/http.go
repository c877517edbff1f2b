package inventory

import (
	"context"
	"errors"
	"regexp"
	"time"

	"gorm.io/gorm"

	"github.com/banyan-go/banyan/internal/errs"
	"github.com/banyan-go/banyan/internal/identity"
	"github.com/banyan-go/banyan/internal/rest"
	"github.com/banyan-go/banyan/internal/unit"
	"github.com/banyan-go/banyan/modules/inventory/internal/stock"
)

// Level is what staff see of a product's stock.
type Level struct {
	SKU       string `json:"sku"`
	OnHand    int64  `json:"on_hand"`
	Reserved  int64  `json:"reserved"`
	Available int64  `json:"available"`
}

func level(r stockRow) Level {
	return Level{SKU: r.SKU, OnHand: r.OnHand, Reserved: r.Reserved, Available: r.level().Available()}
}

type listStockInput struct {
	rest.Page
	Low bool `query:"low" doc:"Only products with fewer units available than the low mark"`
}

func (s *service) listStock(ctx context.Context, in *listStockInput) (*rest.Answer[rest.List[Level]], error) {
	q := s.store.Read(ctx)
	if in.Low {
		q = q.Where("on_hand - reserved < ?", s.cfg.LowMark)
	}
	return s.stockPage(q, in.Page)
}

type reportStockInput struct{ rest.Page }

func (s *service) reportStock(ctx context.Context, in *reportStockInput) (*rest.Answer[rest.List[Level]], error) {
	return s.stockPage(s.store.Read(ctx), in.Page)
}

// listed is what a SKU in the list looks like, also one from before SKUs could not end with a blank or a dot.
var listed = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9 ._-]{0,63}$`)

func (s *service) stockPage(q *gorm.DB, page rest.Page) (*rest.Answer[rest.List[Level]], error) {
	if page.Cursor != "" && !listed.MatchString(page.Cursor) {
		return nil, rest.BadCursor()
	}
	var rows []stockRow
	if err := q.Where("sku > ?", page.Cursor).Order("sku").Limit(page.Limit + 1).Find(&rows).Error; err != nil {
		return nil, err
	}
	return rest.Reply(rest.Cut(rows, page.Limit, level, func(r stockRow) string { return r.SKU })), nil
}

// Availability is what everybody may know of a product's stock; the numbers are for staff.
type Availability struct {
	SKU       string `json:"sku"`
	Status    string `json:"status" enum:"in_stock,low,out"`
	OnHand    *int64 `json:"on_hand,omitempty" doc:"Staff only"`
	Reserved  *int64 `json:"reserved,omitempty" doc:"Staff only"`
	Available *int64 `json:"available,omitempty" doc:"Staff only"`
}

type skuInput struct {
	SKU string `path:"sku" maxLength:"64" pattern:"^[A-Za-z0-9]([A-Za-z0-9 ._-]{0,62}[A-Za-z0-9_-])?$"`
}

func (s *service) getStock(ctx context.Context, in *skuInput) (*rest.Answer[Availability], error) {
	var row stockRow
	if err := s.store.Read(ctx).Where("sku = ?", in.SKU).Take(&row).Error; err != nil {
		return nil, missing(err, "product")
	}
	l := level(row)
	body := Availability{SKU: row.SKU, Status: row.level().Word(s.cfg.LowMark)}
	if identity.From(ctx).Role.Includes(identity.Staff) {
		body.OnHand, body.Reserved, body.Available = &l.OnHand, &l.Reserved, &l.Available
	}
	return rest.Reply(body), nil
}

func missing(err error, thing string) error {
	if errors.Is(err, gorm.ErrRecordNotFound) {
		return errs.New(errs.NotFound, "no such %s", thing)
	}
	return err
}

// DeliveryLine is a number of units of a product that arrived.
type DeliveryLine struct {
	SKU      string `json:"sku" minLength:"1" maxLength:"64" pattern:"^[A-Za-z0-9]([A-Za-z0-9 ._-]{0,62}[A-Za-z0-9_-])?$"`
	Quantity int64  `json:"quantity" minimum:"1" maximum:"1000000"`
}

type deliveryInput struct {
	Body struct {
		Reference string         `json:"reference,omitempty" maxLength:"100" pattern:"^\\P{Cc}*$" patternDescription:"text on one line, without control characters" doc:"The supplier's number; a delivery counts once per reference"`
		Lines     []DeliveryLine `json:"lines" minItems:"1" maxItems:"1000" doc:"Lines of the same product are added up"`
	}
}

// Delivery is what arrived.
type Delivery struct {
	ID        string    `json:"id"`
	Reference string    `json:"reference,omitempty"`
	Products  int       `json:"products"`
	Units     int64     `json:"units"`
	ArrivedAt time.Time `json:"arrived_at"`
}

func (s *service) postDelivery(ctx context.Context, in *deliveryInput) (*rest.Answer[Delivery], error) {
	lines := make([]stock.Line, len(in.Body.Lines))
	for i, l := range in.Body.Lines {
		lines[i] = stock.Line(l)
	}
	merged, err := stock.Merge(lines)
	if err != nil {
		return nil, err
	}
	return rest.Commit(ctx, s.store, func(_ context.Context, w *unit.Work) (Delivery, error) {
		row, err := s.deliver(w, in.Body.Reference, merged)
		return Delivery{ID: row.ID, Reference: row.Reference, Products: len(merged), Units: row.Units, ArrivedAt: row.ArrivedAt}, err
	})
}

type adjustmentInput struct {
	SKU  string `path:"sku" maxLength:"64" pattern:"^[A-Za-z0-9]([A-Za-z0-9 ._-]{0,62}[A-Za-z0-9_-])?$"`
	Body struct {
		Delta  int64  `json:"delta" minimum:"-1000000" maximum:"1000000" doc:"Units found (positive) or missing (negative); not 0"`
		Reason string `json:"reason" minLength:"1" maxLength:"200" pattern:"^[\\P{Cc}\\r\\n\\t]*$" patternDescription:"text without control characters"`
	}
}

func (s *service) postAdjustment(ctx context.Context, in *adjustmentInput) (*rest.Answer[Level], error) {
	staff := identity.From(ctx).Subject
	return rest.Commit(ctx, s.store, func(_ context.Context, w *unit.Work) (Level, error) {
		l, err := s.adjust(w, in.SKU, in.Body.Delta, in.Body.Reason, staff)
		return Level{SKU: in.SKU, OnHand: l.OnHand, Reserved: l.Reserved, Available: l.Available()}, err
	})
}

// Movement is units of a product that came to the shelf or left it.
type Movement struct {
	ID     string    `json:"id"`
	Delta  int64     `json:"delta"`
	Reason string    `json:"reason" enum:"delivery,adjustment,sale,release,return"`
	Ref    string    `json:"ref,omitempty" doc:"Id of the delivery, the order or the return, or of who adjusted"`
	Note   string    `json:"note,omitempty" doc:"Reference of the delivery, or reason of the adjustment"`
	At     time.Time `json:"at"`
}

type movementsInput struct {
	SKU string `path:"sku" maxLength:"64" pattern:"^[A-Za-z0-9]([A-Za-z0-9 ._-]{0,62}[A-Za-z0-9_-])?$"`
	rest.Page
}

func (s *service) listMovements(ctx context.Context, in *movementsInput) (*rest.Answer[rest.List[Movement]], error) {
	after, err := in.AfterID()
	if err != nil {
		return nil, err
	}
	q := s.store.Read(ctx).Where("sku = ?", in.SKU)
	if after != "" {
		q = q.Where("id < ?", after)
	}
	var rows []movementRow
	if err := q.Order("id DESC").Limit(in.Limit + 1).Find(&rows).Error; err != nil {
		return nil, err
	}
	return rest.Reply(rest.Cut(rows, in.Limit, func(r movementRow) Movement {
		return Movement{ID: r.ID, Delta: r.Delta, Reason: r.Reason, Ref: r.Ref, Note: r.Note, At: r.MovedAt}
	}, func(r movementRow) string { return r.ID })), nil
}

// Reservation is what an order holds or held.
type Reservation struct {
	OrderID   string       `json:"order_id"`
	State     string       `json:"state" enum:"refused,held,committed,expired,released"`
	Reason    string       `json:"reason,omitempty" doc:"Of a refusal"`
	Lines     []stock.Line `json:"lines"`
	Returned  []stock.Line `json:"returned,omitempty" doc:"What came back since it was sold"`
	Short     []stock.Line `json:"short,omitempty" doc:"What was missing: at the refusal, or at a commit that came after the expiry"`
	ExpiresAt time.Time    `json:"expires_at"`
	CreatedAt time.Time    `json:"created_at"`
	UpdatedAt time.Time    `json:"updated_at"`
}

type reservationInput struct {
	OrderID string `path:"order_id" maxLength:"64"`
}

func (s *service) getReservation(ctx context.Context, in *reservationInput) (*rest.Answer[Reservation], error) {
	var row reservationRow
	if err := s.store.Read(ctx).Where("order_id = ?", in.OrderID).Take(&row).Error; err != nil {
		return nil, missing(err, "reservation")
	}
	r, err := row.reservation()
	if err != nil {
		return nil, err
	}
	if r.Lines == nil {
		r.Lines = []stock.Line{}
	}
	return rest.Reply(Reservation{
		OrderID: row.OrderID, State: row.State, Reason: row.Reason, Lines: r.Lines, Returned: r.Returned, Short: r.Short,
		ExpiresAt: row.ExpiresAt, CreatedAt: row.CreatedAt, UpdatedAt: row.UpdatedAt,
	}), nil
}

// Summary is the totals of the inventory.
type Summary struct {
	Products         int64 `json:"products"`
	OnHand           int64 `json:"on_hand"`
	Reserved         int64 `json:"reserved"`
	OpenReservations int64 `json:"open_reservations"`
}

func (s *service) reportSummary(ctx context.Context, _ *struct{}) (*rest.Answer[Summary], error) {
	var sum Summary
	err := s.store.Read(ctx).Raw(`SELECT COUNT(*) AS products, CAST(COALESCE(SUM(on_hand), 0) AS BIGINT) AS on_hand,
		CAST(COALESCE(SUM(reserved), 0) AS BIGINT) AS reserved,
		(SELECT COUNT(*) FROM reservations WHERE state = 'held') AS open_reservations FROM stock`).Scan(&sum).Error
	if err != nil {
		return nil, err
	}
	return rest.Reply(sum), nil
}
