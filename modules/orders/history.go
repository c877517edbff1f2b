package orders

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	"github.com/banyan-go/banyan/internal/errs"
	"github.com/banyan-go/banyan/internal/identity"
	"github.com/banyan-go/banyan/internal/rest"
	"github.com/banyan-go/banyan/modules/orders/internal/order"
	"github.com/banyan-go/banyan/modules/orders/ordersapi"
)

type historyInput struct {
	ByID
	rest.Page
}

// entryBody is something that happened to an order. Personal data is left out.
type entryBody struct {
	Version     int64           `json:"version"`
	Type        string          `json:"type"`
	At          time.Time       `json:"at"`
	Status      string          `json:"status" doc:"Of the order, after it"`
	Reason      string          `json:"reason,omitempty"`
	Fulfilment  string          `json:"fulfilment"`
	ReturnState string          `json:"return_state"`
	Settled     bool            `json:"settled"`
	Data        json.RawMessage `json:"data" doc:"What is known about it"`
}

// entry is what happened last to an order.
func entry(r eventRow, e order.Event, o *order.Order) (entryBody, error) {
	data, err := shown(r, e)
	return entryBody{
		Version: r.Version, Type: r.Type, At: r.At, Status: string(o.Status), Reason: o.Reason, Fulfilment: string(o.Fulfilment),
		ReturnState: string(o.ReturnState()), Settled: o.Settled(), Data: data,
	}, err
}

// shown is an event as others read it: the store keeps the prices of lines without their currency.
func shown(r eventRow, e order.Event) (data json.RawMessage, err error) {
	switch e := e.(type) {
	case order.Placed:
		data, err = json.Marshal(struct {
			order.Placed
			Lines []ordersapi.Line `json:"lines"`
		}{e, publicLines(e.Lines, e.Total.Currency)})
	case order.Returned:
		data, err = json.Marshal(struct {
			order.Returned
			Lines []ordersapi.Line `json:"lines"`
		}{e, publicLines(e.Lines, e.Refund.Currency)})
	default:
		data = json.RawMessage(r.Body)
	}
	if err != nil {
		return nil, fmt.Errorf("show event %d: %w", r.Version, err)
	}
	return data, nil
}

// tell reads the whole stream of an order that the caller may see. It starts with the first event, not with a
// snapshot: what the order was in between is asked for.
func (o *orders) tell(ctx context.Context, id string) ([]eventRow, error) {
	rows, err := readEvents(o.store.Read(ctx), id, 0)
	if err != nil {
		return nil, err
	}
	if len(rows) == 0 {
		return nil, errNoOrder()
	}
	var first order.Order
	if _, err := rows[0].apply(id, &first); err != nil {
		return nil, err
	}
	return rows, identity.NeedSelf(ctx, first.CustomerID, "order")
}

// asItWas shows an order as it was at a time, or after so many events.
func (o *orders) asItWas(ctx context.Context, in *getInput) (*rest.Answer[orderBody], error) {
	if !in.At.IsZero() && in.Version > 0 {
		return nil, errs.New(errs.Invalid, "an order is shown at a time or at a version").With("query.version", "must be left out with at")
	}
	rows, err := o.tell(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	var was order.Order
	for _, r := range rows {
		if (in.Version > 0 && r.Version > in.Version) || (!in.At.IsZero() && r.At.After(in.At)) {
			break
		}
		if _, err := r.apply(in.ID, &was); err != nil {
			return nil, err
		}
	}
	switch {
	case was.Version == 0:
		return nil, errs.New(errs.NotFound, "there was no such order at that time")
	case was.Version < in.Version:
		return nil, errs.New(errs.NotFound, "the order has only %d versions", was.Version)
	}
	return rest.Reply(bodyOf(in.ID, &was)), nil
}

// history lists what happened to an order, oldest first.
func (o *orders) history(ctx context.Context, in *historyInput) (*rest.Answer[rest.List[entryBody]], error) {
	after := int64(0)
	if in.Cursor != "" {
		var err error
		if after, err = strconv.ParseInt(in.Cursor, 10, 64); err != nil || after < 1 {
			return nil, rest.BadCursor()
		}
	}
	rows, err := o.tell(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	entries, _, err := entries(in.ID, rows, after)
	if err != nil {
		return nil, err
	}
	return rest.Reply(rest.Cut(entries, in.Limit, func(e entryBody) entryBody { return e }, func(e entryBody) string { return fmt.Sprint(e.Version) })), nil
}

// entries are the entries after a version, and what the order is after the last of them.
func entries(id string, rows []eventRow, after int64) ([]entryBody, *order.Order, error) {
	var o order.Order
	out := make([]entryBody, 0, len(rows))
	for _, r := range rows {
		e, err := r.apply(id, &o)
		if err != nil {
			return nil, nil, err
		}
		if r.Version <= after {
			continue
		}
		told, err := entry(r, e, &o)
		if err != nil {
			return nil, nil, err
		}
		out = append(out, told)
	}
	return out, &o, nil
}
