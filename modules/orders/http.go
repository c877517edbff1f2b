package orders

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/banyan-go/banyan/internal/identity"
	"github.com/banyan-go/banyan/internal/money"
	"github.com/banyan-go/banyan/internal/rest"
	"github.com/banyan-go/banyan/modules/orders/internal/order"
)

// maxLines is the most lines of a request.
const maxLines = 1000

type placeLine struct {
	SKU      string       `json:"sku" minLength:"1" maxLength:"64"`
	Quantity int64        `json:"quantity" minimum:"1" maximum:"1000000"`
	Price    *money.Money `json:"price,omitempty" doc:"Agreed price of one unit; staff only, who may sell at any price"`
}

type addressBody struct {
	Name    string `json:"name,omitempty" maxLength:"200" pattern:"^\\P{Cc}*$" patternDescription:"text on one line, without control characters"`
	Street  string `json:"street,omitempty" maxLength:"200" pattern:"^\\P{Cc}*$" patternDescription:"text on one line, without control characters"`
	City    string `json:"city,omitempty" maxLength:"200" pattern:"^\\P{Cc}*$" patternDescription:"text on one line, without control characters"`
	Zip     string `json:"zip,omitempty" maxLength:"20" pattern:"^\\P{Cc}*$" patternDescription:"text on one line, without control characters"`
	Country string `json:"country,omitempty" maxLength:"60" pattern:"^\\P{Cc}*$" patternDescription:"text on one line, without control characters"`
}

func (a *addressBody) rule() *order.Address {
	if a == nil || *a == (addressBody{}) {
		return nil
	}
	return &order.Address{Name: a.Name, Street: a.Street, City: a.City, Zip: a.Zip, Country: a.Country}
}

func addressOf(a *order.Address) *addressBody {
	if a == nil {
		return nil
	}
	return &addressBody{Name: a.Name, Street: a.Street, City: a.City, Zip: a.Zip, Country: a.Country}
}

type placeInput struct {
	Body struct {
		CustomerID    string       `json:"customer_id,omitempty" pattern:"^[A-Za-z0-9_-]{1,64}$" maxLength:"64" doc:"Staff only: for whom; the default is yourself"`
		Cart          bool         `json:"cart,omitempty" doc:"Order your cart"`
		Lines         []placeLine  `json:"lines,omitempty" maxItems:"1000" doc:"What to order, without cart"`
		ExpectedTotal *money.Money `json:"expected_total,omitempty" doc:"Refuse the order if it costs anything else"`
		Card          string       `json:"card" pattern:"^tok_[a-z0-9_]{1,64}$" maxLength:"68" doc:"Token of the card that pays" example:"tok_visa"`
		Address       *addressBody `json:"address,omitempty"`
		Reference     string       `json:"reference,omitempty" maxLength:"64" pattern:"^\\P{Cc}*$" patternDescription:"text on one line, without control characters" doc:"Staff only: number of the order in another system; no two orders have the same"`
		ReferenceTime *time.Time   `json:"reference_time,omitempty" doc:"Staff only: time of the order in another system, for information"`
	}
}

// ByID names an order in a path. It is exported because the API takes only exported structs apart.
type ByID struct {
	ID string `path:"id" minLength:"1" maxLength:"64"`
}

type cancelInput struct {
	ByID
	Body struct {
		Reason string `json:"reason,omitempty" maxLength:"500" pattern:"^[\\P{Cc}\\r\\n\\t]*$" patternDescription:"text without control characters" doc:"In your own words"`
	}
}

type returnInput struct {
	ByID
	Body struct {
		ReturnID string `json:"return_id,omitempty" pattern:"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$" maxLength:"36" doc:"Names the return, so that it happens once; made up if left out"`
		Lines    []struct {
			SKU      string      `json:"sku" minLength:"1" maxLength:"64"`
			Price    money.Money `json:"price" doc:"Of one unit, as in the order: SKU and price name its line"`
			Quantity int64       `json:"quantity" minimum:"1" maximum:"1000000"`
		} `json:"lines" minItems:"1" maxItems:"1000"`
		Reason string `json:"reason,omitempty" maxLength:"500" pattern:"^[\\P{Cc}\\r\\n\\t]*$" patternDescription:"text without control characters" doc:"In your own words"`
	}
}

type listInput struct {
	rest.Page
	Status     string `query:"status" enum:"placed,reserved,confirmed,rejecting,rejected,cancel_requested,cancelling,cancelled" doc:"Only orders in this state"`
	CustomerID string `query:"customer_id" maxLength:"64" doc:"Only orders of this customer"`
	Reference  string `query:"reference" maxLength:"64" doc:"Only the order with this reference"`
}

type getInput struct {
	ByID
	At      time.Time `query:"at" doc:"Show the order as it was at this time"`
	Version int64     `query:"version" minimum:"1" doc:"Show the order as it was after so many events"`
}

// Summary is an order in a list. It is exported because the API takes only exported structs apart.
type Summary struct {
	ID            string      `json:"id"`
	Version       int64       `json:"version" doc:"Number of things that happened to it"`
	CustomerID    string      `json:"customer_id"`
	Status        string      `json:"status" enum:"placed,reserved,confirmed,rejecting,rejected,cancel_requested,cancelling,cancelled"`
	Reason        string      `json:"reason,omitempty" doc:"Why it is rejected or cancelled"`
	Fulfilment    string      `json:"fulfilment" enum:"not_shipped,shipped,delivered"`
	ReturnState   string      `json:"return_state" enum:"kept,partly_returned,returned"`
	Settled       bool        `json:"settled" doc:"Nothing of it is under way: no checkout, no cancellation, no return"`
	PlacedBy      string      `json:"placed_by" enum:"customer,staff,shop"`
	Reference     string      `json:"reference,omitempty"`
	ReferenceTime *time.Time  `json:"reference_time,omitempty"`
	Total         money.Money `json:"total"`
	Refunded      money.Money `json:"refunded" doc:"Of its returns; refunds that staff give are with the payment"`
	RefundRefused bool        `json:"refund_refused,omitempty" doc:"It was rejected or cancelled, and the card provider did not give the money back: staff pay it in another way"`
	LineCount     int64       `json:"line_count"`
	Units         int64       `json:"units"`
	ReturnedUnits int64       `json:"returned_units"`
	PlacedAt      time.Time   `json:"placed_at"`
	UpdatedAt     time.Time   `json:"updated_at"`
	ConfirmedAt   *time.Time  `json:"confirmed_at,omitempty"`
	DeliveredAt   *time.Time  `json:"delivered_at,omitempty"`
}

type lineBody struct {
	SKU      string      `json:"sku"`
	Name     string      `json:"name,omitempty"`
	Quantity int64       `json:"quantity"`
	Price    money.Money `json:"price" doc:"Of one unit"`
	Returned int64       `json:"returned" doc:"Units that came back"`
}

// orderBody is an order with all there is to it.
type orderBody struct {
	Summary
	Carrier  string       `json:"carrier,omitempty"`
	Tracking string       `json:"tracking,omitempty"`
	Address  *addressBody `json:"address,omitempty"`
	Note     string       `json:"note,omitempty" doc:"What whoever cancelled it said"`
	Lines    []lineBody   `json:"lines"`
	Returns  []returnBody `json:"returns,omitempty"`
}

// PersonalSubject is whose personal data the body holds.
func (b orderBody) PersonalSubject() string { return b.CustomerID }

// placedBody is an order that was just made.
type placedBody orderBody

// PersonalSubject is whose personal data the body holds.
func (b placedBody) PersonalSubject() string { return b.CustomerID }

// Location is the path of the order.
func (b placedBody) Location() string { return "/api/orders/" + b.ID }

// returnBody is a return.
type returnBody struct {
	ID        string      `json:"id"`
	OrderID   string      `json:"order_id"`
	By        string      `json:"by" enum:"customer,staff,shop"`
	Lines     []lineBody  `json:"lines"`
	Refund    money.Money `json:"refund" doc:"What goes back: the price of the units; less if staff have paid back a part of the payment before"`
	Refunded  bool        `json:"refunded" doc:"The money went back"`
	Refused   bool        `json:"refund_refused" doc:"The card provider did not give it back: staff pay it in another way"`
	Restocked bool        `json:"restocked" doc:"The units are on the shelf"`
	Settled   bool        `json:"settled" doc:"The units are on the shelf, and the money went back or was refused"`
	Note      string      `json:"note,omitempty"`
	At        time.Time   `json:"at"`
	customer  string
}

// Location is where the return can be seen.
func (b returnBody) Location() string { return "/api/orders/" + b.OrderID + "/returns" }

// PersonalSubject is whose personal data the body holds.
func (b returnBody) PersonalSubject() string { return b.customer }

// bodyOf is an order that was just told from its events.
func bodyOf(id string, o *order.Order) orderBody {
	units, returned := o.Units()
	b := orderBody{
		Summary: Summary{
			ID: id, Version: o.Version, CustomerID: o.CustomerID, Status: string(o.Status), Reason: o.Reason, Fulfilment: string(o.Fulfilment),
			ReturnState: string(o.ReturnState()), Settled: o.Settled(), PlacedBy: string(o.By), Reference: o.Reference, ReferenceTime: o.ReferenceTime,
			Total: o.Total, Refunded: o.Refunded, RefundRefused: o.RefundRefused, LineCount: int64(len(o.Lines)), Units: units, ReturnedUnits: returned,
			PlacedAt: o.PlacedAt, UpdatedAt: o.UpdatedAt, ConfirmedAt: o.ConfirmedAt, DeliveredAt: o.DeliveredAt,
		},
		Carrier: o.Carrier, Tracking: o.Tracking, Address: addressOf(o.Private.Address), Note: o.Private.Notes[""],
		Lines: linesOf(o.Lines, o.Total.Currency),
	}
	for _, r := range o.Returns {
		b.Returns = append(b.Returns, returnBodyOf(id, o.CustomerID, r, o.Private.Notes[r.ID]))
	}
	return b
}

func linesOf(lines []order.Line, currency string) []lineBody {
	out := make([]lineBody, len(lines))
	for i, l := range lines {
		out[i] = lineBody{SKU: l.SKU, Name: l.Name, Quantity: l.Quantity, Price: money.Of(l.Price, currency), Returned: l.Returned}
	}
	return out
}

func returnBodyOf(orderID, customer string, r order.Return, note string) returnBody {
	return returnBody{
		ID: r.ID, OrderID: orderID, By: string(r.By), Lines: linesOf(r.Lines, r.Refund.Currency), Refund: r.Refund,
		Refunded: r.Refunded, Refused: r.RefundRefused, Restocked: r.Restocked, Settled: r.Settled(), Note: note, At: r.At, customer: customer,
	}
}

// settledRow says the same of a row as order.Settled of an order.
func (v viewRow) settled() bool {
	switch order.Status(v.Status) {
	case order.StatusConfirmed, order.StatusRejected, order.StatusCancelled:
		return v.OpenReturns == 0
	}
	return false
}

func (v viewRow) summary() Summary {
	return Summary{
		ID: v.OrderID, Version: v.Version, CustomerID: v.CustomerID, Status: v.Status, Reason: v.Reason, Fulfilment: v.Fulfilment, ReturnState: v.ReturnState,
		Settled: v.settled(), PlacedBy: v.PlacedBy, Reference: v.Reference, ReferenceTime: v.ReferenceTime, Total: money.Of(v.Total, v.Currency),
		Refunded: money.Of(v.Refunded, v.Currency), RefundRefused: v.RefundRefused, LineCount: v.Lines, Units: v.Units, ReturnedUnits: v.ReturnedUnits,
		PlacedAt: v.PlacedAt, UpdatedAt: v.UpdatedAt, ConfirmedAt: v.ConfirmedAt, DeliveredAt: v.DeliveredAt,
	}
}

func (r returnRow) body(customer string) (returnBody, error) {
	var lines []order.Line
	if err := json.Unmarshal([]byte(r.Lines), &lines); err != nil {
		return returnBody{}, fmt.Errorf("read return %s: %w", r.ReturnID, err)
	}
	return returnBodyOf(r.OrderID, customer, order.Return{
		ID: r.ReturnID, By: order.Actor(r.MadeBy), Lines: lines, Refund: money.Of(r.Refund, r.Currency), Refunded: r.Refunded, RefundRefused: r.RefundRefused,
		Restocked: r.Restocked, At: r.At,
	}, r.Note), nil
}

// detail is an order as the read model has it, if the caller may see it.
func (o *orders) detail(ctx context.Context, id string) (orderBody, error) {
	v, lines, returns, err := readView(o.store.Read(ctx), id)
	if err != nil {
		return orderBody{}, err
	}
	if v == nil {
		return orderBody{}, errNoOrder()
	}
	if err := identity.NeedSelf(ctx, v.CustomerID, "order"); err != nil {
		return orderBody{}, err
	}
	var private order.Private
	if v.Personal != "" {
		if err := json.Unmarshal([]byte(v.Personal), &private); err != nil {
			return orderBody{}, fmt.Errorf("read order %s: %w", id, err)
		}
	}
	b := orderBody{Summary: v.summary(), Carrier: v.Carrier, Tracking: v.Tracking, Address: addressOf(private.Address), Note: private.Notes[""], Lines: make([]lineBody, len(lines))}
	for i, l := range lines {
		b.Lines[i] = lineBody{SKU: l.SKU, Name: l.Name, Quantity: l.Quantity, Price: money.Of(l.Price, v.Currency), Returned: l.Returned}
	}
	for _, r := range returns {
		body, err := r.body(v.CustomerID)
		if err != nil {
			return orderBody{}, err
		}
		b.Returns = append(b.Returns, body)
	}
	return b, nil
}

// get shows an order, now or as it was.
func (o *orders) get(ctx context.Context, in *getInput) (*rest.Answer[orderBody], error) {
	if !in.At.IsZero() || in.Version > 0 {
		return o.asItWas(ctx, in)
	}
	b, err := o.detail(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	return rest.Reply(b), nil
}

// returns lists the returns of an order. There are never many: each takes at least one unit.
func (o *orders) returns(ctx context.Context, in *ByID) (*rest.Answer[rest.List[returnBody]], error) {
	b, err := o.detail(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	list := rest.List[returnBody]{Items: b.Returns}
	if list.Items == nil {
		list.Items = []returnBody{}
	}
	return rest.Reply(list), nil
}

// list shows orders, newest first; to customers their own.
func (o *orders) list(ctx context.Context, in *listInput) (*rest.Answer[rest.List[Summary]], error) {
	who := identity.From(ctx)
	if err := identity.Need(ctx, identity.Customer); err != nil {
		return nil, err
	}
	customer := in.CustomerID
	if !who.Role.Includes(identity.Staff) {
		if customer != "" && customer != who.Subject {
			return rest.Reply(rest.List[Summary]{Items: []Summary{}}), nil
		}
		customer = who.Subject
	}
	q := o.store.Read(ctx).Table("order_view").Select(viewColumns)
	if customer != "" {
		q = q.Where("customer_id = ?", customer)
	}
	if in.Status != "" {
		q = q.Where("status = ?", in.Status)
	}
	if in.Reference != "" {
		q = q.Where("reference = ? AND reference <> ''", in.Reference)
	}
	after, err := in.AfterID()
	if err != nil {
		return nil, err
	}
	if after != "" {
		q = q.Where("order_id < ?", after)
	}
	var rows []viewRow
	if err := q.Order("order_id DESC").Limit(in.Limit + 1).Scan(&rows).Error; err != nil {
		return nil, fmt.Errorf("list orders: %w", err)
	}
	return rest.Reply(rest.Cut(rows, in.Limit, viewRow.summary, func(v viewRow) string { return v.OrderID })), nil
}
