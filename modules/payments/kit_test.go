package payments

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/banyan-go/banyan/internal/errs"
	"github.com/banyan-go/banyan/internal/message"
	"github.com/banyan-go/banyan/internal/module"
	"github.com/banyan-go/banyan/internal/moduletest"
	"github.com/banyan-go/banyan/internal/money"
	"github.com/banyan-go/banyan/modules/payments/paymentsapi"
)

const (
	customer = "01900000-0000-7000-8000-00000000000c"
	stranger = "01900000-0000-7000-8000-00000000000d"
)

func gbp(amount int64) money.Money { return money.Of(amount, "GBP") }

// line is the way to the provider: it can be cut, and it can hold calls back until a test lets them go.
type line struct {
	Provider
	cut   atomic.Bool
	calls atomic.Int64
	held  chan struct{} // closed to let calls go; nil lets them go at once
}

func (l *line) pass(ctx context.Context) error {
	l.calls.Add(1)
	if l.held != nil {
		select {
		case <-l.held:
		case <-ctx.Done():
		}
	}
	if l.cut.Load() {
		return errs.New(errs.Unavailable, "the line is cut")
	}
	return ctx.Err()
}

func (l *line) Charge(ctx context.Context, r ChargeRequest) (Outcome, error) {
	if err := l.pass(ctx); err != nil {
		return Outcome{}, err
	}
	return l.Provider.Charge(ctx, r)
}

func (l *line) Refund(ctx context.Context, r RefundRequest) (Outcome, error) {
	if err := l.pass(ctx); err != nil {
		return Outcome{}, err
	}
	return l.Provider.Refund(ctx, r)
}

// shop is the module with its simulated provider.
type shop struct {
	*moduletest.Harness
	t    *testing.T
	line *line
	cfg  Config
}

func openShop(t *testing.T, open moduletest.Opener) *shop {
	s := &shop{t: t, line: &line{}, cfg: DefaultConfig()}
	var once sync.Mutex
	s.Harness = open(t, func(d module.Deps) *module.Module {
		once.Lock()
		defer once.Unlock()
		s.line.Provider = newSimulated(d.Files, s.cfg.Provider)
		return NewWith(d, s.cfg, s.line)
	})
	return s
}

// scenario is what happens to one order; after a nil step the outcomes of the steps before have come.
type scenario struct {
	order string
	steps []message.Event
}

// play takes the steps of all orders side by side, and lets all outcomes come at the end.
func (s *shop) play(scenarios ...scenario) {
	s.t.Helper()
	for more := true; more; {
		more = false
		for i := range scenarios {
			for sc := &scenarios[i]; len(sc.steps) > 0; {
				e := sc.steps[0]
				sc.steps = sc.steps[1:]
				if e == nil {
					break
				}
				if g, ok := e.(byStaff); ok {
					s.Do("POST", "/api/payments/"+s.payment(sc.order).ID+"/refunds", moduletest.Staff,
						map[string]any{"amount": g.amount, "reason": "sorry", "outside": g.outside}).Want(s.t, http.StatusAccepted)
					continue
				}
				s.Deliver(s.t, forOrder(e, sc.order))
			}
			more = more || len(scenarios[i].steps) > 0
		}
		s.finish()
	}
}

// forOrder is the command for another order.
func forOrder(e message.Event, order string) message.Event {
	switch c := e.(type) {
	case paymentsapi.Charge:
		c.OrderID = order
		return c
	case paymentsapi.Refund:
		c.OrderID = order
		return c
	case paymentsapi.Void:
		c.OrderID = order
		return c
	}
	return e
}

func charge(order, card string) paymentsapi.Charge {
	return paymentsapi.Charge{OrderID: order, CustomerID: customer, Amount: gbp(1000), Card: card}
}

func refund(order, id string, amount int64) paymentsapi.Refund {
	return paymentsapi.Refund{OrderID: order, RefundID: id, Amount: gbp(amount), Reason: "returned"}
}

// byStaff is a refund that staff give.
type byStaff struct {
	message.Event
	amount  int64
	outside bool
}

func void(order string) paymentsapi.Void {
	return paymentsapi.Void{OrderID: order, Reason: "cancelled"}
}

// finish lets enough time pass for every retry.
func (s *shop) finish() {
	s.t.Helper()
	for range 4 {
		s.Advance(10 * time.Minute)
	}
}

// told is what was announced of an order, in order: the short name and the amount or reason.
func (s *shop) told(order string) []string {
	s.t.Helper()
	list := []string{}
	for _, m := range s.Announced("") {
		if m.Key != order {
			continue
		}
		switch m.Name {
		case "payments.payment_captured.v1":
			list = append(list, fmt.Sprintf("captured %d", moduletest.Decode[paymentsapi.PaymentCaptured](s.t, m).Amount.Amount))
		case "payments.payment_declined.v1":
			list = append(list, "declined "+moduletest.Decode[paymentsapi.PaymentDeclined](s.t, m).Reason)
		case "payments.payment_refunded.v1":
			e := moduletest.Decode[paymentsapi.PaymentRefunded](s.t, m)
			list = append(list, fmt.Sprintf("refunded %s %d", refundID(e.RefundID), e.Amount.Amount))
		case "payments.refund_refused.v1":
			e := moduletest.Decode[paymentsapi.RefundRefused](s.t, m)
			list = append(list, fmt.Sprintf("refused %s %d %s", refundID(e.RefundID), e.Amount.Amount, e.Reason))
		case "payments.payment_settled.v1":
			list = append(list, fmt.Sprintf("settled %d", moduletest.Decode[paymentsapi.PaymentSettled](s.t, m).Refunded.Amount))
		}
	}
	return list
}

// refundID is the id of a refund, or "staff" for one that staff gave: its id is made up.
func refundID(id string) string {
	if len(id) == 36 {
		return "staff"
	}
	return id
}

// seen is what the provider's own record says of a payment ("" for all): how many charges and refunds it approved, and
// what it holds after them.
func (s *shop) seen(paymentID string) (charges, refunds int, holds int64) {
	s.t.Helper()
	body, err := os.ReadFile(filepath.Join(s.Files, "provider.jsonl"))
	if err != nil && !os.IsNotExist(err) {
		s.t.Fatal(err)
	}
	for lines := bufio.NewScanner(bytes.NewReader(body)); lines.Scan(); {
		var l struct {
			Op, ID, Charge string
			Amount         int64
			Approved       bool
		}
		if err := json.Unmarshal(lines.Bytes(), &l); err != nil {
			s.t.Fatal(err)
		}
		switch {
		case paymentID != "" && l.ID != paymentID && l.Charge != paymentID:
		case l.Op == "charge" && l.Approved:
			charges++
			holds += l.Amount
		case l.Op == "refund" && l.Approved:
			refunds++
			holds -= l.Amount
		}
	}
	return charges, refunds, holds
}

// payment is the payment of an order as staff see it.
func (s *shop) payment(order string) detailBody {
	s.t.Helper()
	var list struct{ Items []paymentBody }
	s.Do("GET", "/api/payments?order_id="+url.QueryEscape(order), moduletest.Staff, nil).Into(s.t, &list)
	if len(list.Items) != 1 {
		s.t.Fatalf("%d payments of order %s", len(list.Items), order)
	}
	var detail detailBody
	s.Do("GET", "/api/payments/"+list.Items[0].ID, moduletest.Staff, nil).Into(s.t, &detail)
	return detail
}

// agrees checks that ledger, provider and payments tell the same and that nothing is left over.
func (s *shop) agrees() {
	s.t.Helper()
	var sum summaryBody
	s.Do("GET", "/api/payments/reports/summary", moduletest.Staff, nil).Into(s.t, &sum)
	if sum.Unbalanced != 0 {
		s.t.Errorf("%d transactions do not sum to zero", sum.Unbalanced)
	}
	var clearing int64
	for _, c := range sum.Totals {
		if c.LedgerSum != 0 || c.Clearing != c.Captured-c.Refunded {
			s.t.Errorf("the ledger does not agree with the payments: %+v", c)
		}
		clearing += c.Clearing + c.Outside // paid back outside the card: the provider holds it still
	}
	if _, _, holds := s.seen(""); holds != clearing && sum.Unsettled == 0 {
		s.t.Errorf("the provider holds %d, the ledger %d", holds, clearing)
	}
	var r reconciliationBody
	s.Do("GET", "/api/payments/reports/reconciliation?limit=500", moduletest.Staff, nil).Into(s.t, &r)
	if len(r.Differences) > 0 {
		s.t.Errorf("differences: %+v", r.Differences)
	}
	if n := s.DeadLetters(); n > 0 {
		s.t.Errorf("%d dead letters", n)
	}
}

// deliverBad delivers what cannot be handled and checks that it ends as a dead letter.
func (s *shop) deliverBad(t *testing.T, e message.Event) {
	t.Helper()
	before := s.DeadLetters()
	s.DeliverMessage(t, s.Envelope(t, e))
	s.Settle()
	if got := s.DeadLetters(); got != before+1 {
		t.Errorf("%s: got %d dead letters, want %d", e.MessageName(), got, before+1)
	}
}
