package shipping

import (
	"context"
	"time"

	"github.com/banyan-go/banyan/internal/identity"
	"github.com/banyan-go/banyan/internal/rest"
	"github.com/banyan-go/banyan/internal/unit"
	"github.com/banyan-go/banyan/modules/shipping/internal/shipment"
)

const maxCarrier = 64

// Address is where the goods go. It is empty once the customer is erased.
type Address struct {
	Name    string `json:"name,omitempty"`
	Street  string `json:"street,omitempty"`
	City    string `json:"city,omitempty"`
	Zip     string `json:"zip,omitempty"`
	Country string `json:"country,omitempty"`
}

// Shipment is the goods of an order on their way.
type Shipment struct {
	ID           string     `json:"id"`
	OrderID      string     `json:"order_id"`
	CustomerID   string     `json:"customer_id"`
	State        string     `json:"state" enum:"pending,dispatched,delivered,intercept,cancelled" doc:"intercept is shown to staff alone"`
	Address      Address    `json:"address"`
	Carrier      string     `json:"carrier,omitempty"`
	Tracking     string     `json:"tracking,omitempty"`
	CreatedAt    time.Time  `json:"created_at"`
	DispatchedAt *time.Time `json:"dispatched_at,omitempty"`
	DeliveredAt  *time.Time `json:"delivered_at,omitempty"`
}

// PersonalSubject is the customer whose address it holds.
func (s Shipment) PersonalSubject() string { return s.CustomerID }

func shown(ctx context.Context) func(shipmentRow) Shipment {
	staff := identity.From(ctx).Role.Includes(identity.Staff)
	return func(r shipmentRow) Shipment {
		state := shipment.State(r.State)
		if !staff {
			state = r.shipment().Shown()
		}
		return Shipment{
			ID: r.ID, OrderID: r.OrderID, CustomerID: r.CustomerID, State: string(state), Carrier: r.Carrier, Tracking: r.Tracking,
			Address:   Address{Name: r.Name, Street: r.Street, City: r.City, Zip: r.Zip, Country: r.Country},
			CreatedAt: r.CreatedAt, DispatchedAt: r.DispatchedAt, DeliveredAt: r.DeliveredAt,
		}
	}
}

type listInput struct {
	rest.Page
	OrderID string `query:"order_id" maxLength:"64"`
	State   string `query:"state" enum:"pending,dispatched,delivered,intercept,cancelled"`
}

func (s *service) list(ctx context.Context, in *listInput) (*rest.Answer[rest.List[Shipment]], error) {
	q := s.store.Read(ctx)
	who := identity.From(ctx)
	if !who.Role.Includes(identity.Staff) {
		q = q.Where("customer_id = ?", who.Subject)
	}
	if in.OrderID != "" {
		q = q.Where("order_id = ?", in.OrderID)
	}
	switch {
	case in.State == "":
		q = q.Where("state <> ?", string(shipment.Void))
	case who.Role.Includes(identity.Staff):
		q = q.Where("state = ?", in.State)
	default:
		q = whereShown(q, shipment.State(in.State))
	}
	after, err := in.AfterID()
	if err != nil {
		return nil, err
	}
	if after != "" {
		q = q.Where("id < ?", after)
	}
	var rows []shipmentRow
	if err := q.Order("id DESC").Limit(in.Limit + 1).Find(&rows).Error; err != nil {
		return nil, err
	}
	return rest.Reply(rest.Cut(rows, in.Limit, shown(ctx), func(r shipmentRow) string { return r.ID })), nil
}

type idInput struct {
	ID string `path:"id" maxLength:"64"`
}

// own is a shipment that the caller may see.
func (s *service) own(ctx context.Context, id string) (shipmentRow, error) {
	row, err := s.read(ctx, id)
	if err != nil {
		return row, err
	}
	return row, identity.NeedSelf(ctx, row.CustomerID, "shipment")
}

func (s *service) get(ctx context.Context, in *idInput) (*rest.Answer[Shipment], error) {
	row, err := s.own(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	return rest.Reply(shown(ctx)(row)), nil
}

// Step is something that happened to a shipment.
type Step struct {
	State string    `json:"state" enum:"pending,dispatched,delivered,intercept,cancelled"`
	At    time.Time `json:"at"`
}

// Tracking is the log of a shipment.
type Tracking struct {
	ShipmentID string `json:"shipment_id"`
	Carrier    string `json:"carrier,omitempty"`
	Tracking   string `json:"tracking,omitempty"`
	Steps      []Step `json:"steps"`
}

func (s *service) track(ctx context.Context, in *idInput) (*rest.Answer[Tracking], error) {
	row, err := s.own(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	staff := identity.From(ctx).Role.Includes(identity.Staff)
	t := Tracking{ShipmentID: row.ID, Carrier: row.Carrier, Tracking: row.Tracking, Steps: []Step{}}
	for _, step := range row.shipment().Log() {
		if step.What == shipment.Intercept && !staff {
			continue
		}
		t.Steps = append(t.Steps, Step{State: string(step.What), At: step.At})
	}
	return rest.Reply(t), nil
}

type dispatchInput struct {
	ID   string `path:"id" maxLength:"64"`
	Body struct {
		Carrier  string `json:"carrier" minLength:"1" maxLength:"64" pattern:"^\\P{Cc}*$" patternDescription:"text on one line, without control characters"`
		Tracking string `json:"tracking,omitempty" maxLength:"64" pattern:"^[A-Za-z0-9 ./-]*$" doc:"Made up if absent"`
	}
}

func (s *service) postDispatch(ctx context.Context, in *dispatchInput) (*rest.Answer[Shipment], error) {
	return rest.Commit(ctx, s.store, func(ctx context.Context, w *unit.Work) (Shipment, error) {
		row, err := s.dispatchByStaff(w, in.ID, in.Body.Carrier, in.Body.Tracking)
		if err != nil {
			return Shipment{}, err
		}
		return shown(ctx)(*row), nil
	})
}

func (s *service) postDeliver(ctx context.Context, in *idInput) (*rest.Answer[Shipment], error) {
	return rest.Commit(ctx, s.store, func(ctx context.Context, w *unit.Work) (Shipment, error) {
		row, err := s.deliver(w, in.ID)
		if err != nil {
			return Shipment{}, err
		}
		return shown(ctx)(*row), nil
	})
}
