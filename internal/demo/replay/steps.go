package replay

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"

	"github.com/banyan-go/banyan/internal/demo/retail"
)

// card is the card of all customers: the shop's simulated provider takes it.
const card = "tok_visa"

const (
	shortestLook = 10 * time.Millisecond // between looks at something that is under way
	longestLook  = 500 * time.Millisecond
)

// takenOrder is what we know of an order that the shop has taken. One client at a time works for a customer, so it needs
// no lock.
type takenOrder struct {
	id        string
	confirmed bool
	waiting   time.Time     // since when something to be returned waits for the confirmation
	pause     time.Duration // until the next look
}

// steps takes the plan's steps.
type steps struct {
	*replay
	queue    *queue
	taken    []takenOrder // by Order.Index
	advanced atomic.Int64 // Unix nanoseconds of the last step that was done
}

func (r *replay) takeSteps(ctx context.Context) error {
	r.progress.begin("orders and returns", len(r.plan.Steps))
	s := &steps{replay: r, queue: newQueue(r.plan.Steps), taken: make([]takenOrder, len(r.plan.Orders))}
	group, inGroup := errgroup.WithContext(ctx)
	defer context.AfterFunc(inGroup, s.queue.stop)()
	for range r.clients {
		group.Go(func() error { return s.work(inGroup) })
	}
	if err := group.Wait(); err != nil {
		return err
	}
	return context.Cause(ctx)
}

func (s *steps) work(ctx context.Context) error {
	for {
		l := s.queue.next(ctx)
		if l == nil {
			return nil
		}
		step := l.steps[0]
		var again time.Duration
		var err error
		if step.Order != nil {
			err = s.place(ctx, step.Order)
		} else {
			again, err = s.takeBack(ctx, step.Return)
		}
		switch {
		case err != nil:
			return err
		case again > 0:
			s.queue.later(l, again)
		default:
			s.advanced.Store(time.Now().UnixNano())
			s.progress.add(1)
			s.queue.done(l)
		}
	}
}

// Lines of orders and returns look the same in the API.
type orderLine struct {
	SKU      string `json:"sku"`
	Quantity int64  `json:"quantity"`
	Price    price  `json:"price"`
}

func orderLines(lines []retail.Line) []orderLine {
	out := make([]orderLine, len(lines))
	for i, l := range lines {
		out[i] = orderLine{SKU: l.Code, Quantity: l.Quantity, Price: price{l.Price, currency}}
	}
	return out
}

// order is what we read of an order.
type order struct {
	ID         string `json:"id"`
	CustomerID string `json:"customer_id"`
	Status     string `json:"status"`
	Reason     string `json:"reason"`
	Total      price  `json:"total"`
}

// place places an order. Its invoice number is its reference, so it is made once whatever becomes of the key.
func (s *steps) place(ctx context.Context, o *retail.Order) error {
	in := struct {
		CustomerID    string      `json:"customer_id"`
		Reference     string      `json:"reference"`
		ReferenceTime time.Time   `json:"reference_time"`
		Lines         []orderLine `json:"lines"`
		Card          string      `json:"card"`
	}{s.users[o.Customer], o.Invoice, o.Time, orderLines(o.Lines), card}
	var made order
	err := s.client.post(ctx, "/api/orders", key("order", o.Invoice), in, &made)
	if refused(err, http.StatusConflict) {
		made, err = s.find(ctx, o, in.CustomerID, err)
	}
	if err != nil {
		return fmt.Errorf("order %s: %w", o.Invoice, err)
	}
	s.taken[o.Index] = takenOrder{id: made.ID, confirmed: made.Status == "confirmed"}
	return nil
}

// find is the order that the shop has under the reference already: one of ours, made under another key.
func (s *steps) find(ctx context.Context, o *retail.Order, customer string, conflict error) (order, error) {
	var found struct{ Items []order }
	if err := s.client.get(ctx, "/api/orders?reference="+url.QueryEscape(o.Invoice), &found); err != nil {
		return order{}, err
	}
	if len(found.Items) != 1 {
		return order{}, conflict
	}
	var total int64
	for _, l := range o.Lines {
		total += l.Price * l.Quantity
	}
	if f := found.Items[0]; f.CustomerID != customer || f.Total != (price{total, currency}) {
		return order{}, fmt.Errorf("the shop has another order with this reference: %s", f.ID)
	}
	return found.Items[0], nil
}

// takeBack returns units of an order, or says when to try again if the order is not confirmed yet.
func (s *steps) takeBack(ctx context.Context, r *retail.Return) (again time.Duration, err error) {
	t := &s.taken[r.Order.Index]
	if !t.confirmed {
		again, err := s.look(ctx, r.Order, t)
		if again > 0 || err != nil {
			return again, err
		}
	}
	in := struct {
		ReturnID string      `json:"return_id"`
		Lines    []orderLine `json:"lines"`
		Reason   string      `json:"reason"`
	}{returnID(r), orderLines(r.Lines), "credit " + r.Credit}
	if err := s.client.post(ctx, "/api/orders/"+url.PathEscape(t.id)+"/returns", key("return", r.Credit, r.Order.Invoice), in, nil); err != nil {
		return 0, fmt.Errorf("credit %s of order %s: %w", r.Credit, r.Order.Invoice, err)
	}
	return 0, nil
}

// returnID is always the same for a credit of an order, so the shop knows the return whatever becomes of the key.
func returnID(r *retail.Return) string {
	return uuid.NewSHA1(uuid.NameSpaceOID, []byte("banyan replay\x00"+r.Credit+"\x00"+r.Order.Invoice)).String()
}

// look finds out whether an order is confirmed, and when to look again if it is under way.
func (s *steps) look(ctx context.Context, o *retail.Order, t *takenOrder) (again time.Duration, err error) {
	var now order
	if err := s.client.get(ctx, "/api/orders/"+url.PathEscape(t.id), &now); err != nil {
		return 0, fmt.Errorf("order %s: %w", o.Invoice, err)
	}
	switch now.Status {
	case "confirmed":
		t.confirmed = true
		return 0, nil
	case "placed", "reserved":
	default:
		return 0, notKept(o.Invoice, now.Status, now.Reason)
	}
	if t.waiting.IsZero() {
		t.waiting, t.pause = time.Now(), shortestLook
	}
	since := t.waiting
	if last := time.Unix(0, s.advanced.Load()); last.After(since) {
		since = last
	}
	if time.Since(since) > s.patience {
		return 0, fmt.Errorf("order %s: it is %s and nothing has moved for %s; run the replay again to go on", o.Invoice, now.Status, s.patience)
	}
	again = t.pause
	t.pause = min(2*t.pause, longestLook)
	return again, nil
}

func notKept(invoice, status, reason string) error {
	if reason == "" {
		reason = "no reason is given"
	}
	return fmt.Errorf("order %s is %s by the shop: %s", invoice, status, reason)
}
