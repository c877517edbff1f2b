package payments

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/banyan-go/banyan/internal/identity"
	"github.com/banyan-go/banyan/internal/moduletest"
	"github.com/banyan-go/banyan/internal/money"
	"github.com/banyan-go/banyan/modules/payments/paymentsapi"
)

func TestReading(t *testing.T) {
	t.Parallel()
	moduletest.Each(t, func(t *testing.T, open moduletest.Opener) {
		s := openShop(t, open)
		for i := range 5 {
			s.Deliver(t, charge(fmt.Sprint("o", i), "tok_visa"))
			s.Advance(1500)
		}
		theirs := charge("x", "tok_declined")
		theirs.CustomerID = stranger
		s.Deliver(t, theirs, void("tombstone"))
		s.finish()
		list := func(as identity.Identity, query string) (orders []string) {
			t.Helper()
			orders = []string{}
			for cursor := ""; ; {
				var page struct {
					Items []paymentBody
					Next  string
				}
				s.Do("GET", "/api/payments?limit=2&cursor="+cursor+query, as, nil).Into(t, &page)
				for _, p := range page.Items {
					orders = append(orders, p.OrderID)
				}
				if cursor = page.Next; cursor == "" {
					return orders
				}
			}
		}
		for _, c := range []struct {
			name, query string
			as          identity.Identity
			want        []string
		}{
			{"one's own, newest first", "", moduletest.Customer(customer), []string{"o4", "o3", "o2", "o1", "o0"}},
			{"another's own", "", moduletest.Customer(stranger), []string{"x"}},
			{"nobody's", "", moduletest.Customer("somebody"), []string{}},
			{"others by filter", "&customer_id=" + customer, moduletest.Customer(stranger), []string{}},
			{"by customer", "&customer_id=" + stranger, moduletest.Staff, []string{"x"}},
			{"by order", "&order_id=o3", moduletest.Staff, []string{"o3"}},
			{"by state", "&state=settled", moduletest.Staff, []string{"tombstone"}},
			{"by state and order", "&state=settled&order_id=o3", moduletest.Staff, []string{}},
		} {
			if diff := cmp.Diff(list(c.as, c.query), c.want); diff != "" {
				t.Errorf("%s (-got +want):\n%s", c.name, diff)
			}
		}
		if got := len(list(moduletest.Staff, "")); got != 7 {
			t.Errorf("staff see %d payments, want 7", got)
		}
		p := s.payment("o1")
		var seen detailBody
		s.Do("GET", "/api/payments/"+p.ID, moduletest.Customer(customer), nil).Into(t, &seen)
		var entries []string
		for _, e := range seen.Entries {
			entries = append(entries, fmt.Sprintf("%s %s %d %s", e.Kind, e.Account, e.Amount.Amount, e.Amount.Currency))
		}
		if diff := cmp.Diff(entries, []string{"capture customer_card -1000 GBP", "capture shop_clearing 1000 GBP"}); diff != "" {
			t.Errorf("entries (-got +want):\n%s", diff)
		}
		if seen.Captured != gbp(1000) || seen.Refunded != gbp(0) {
			t.Errorf("got %+v", seen.paymentBody)
		}
		s.Do("GET", "/api/payments/"+p.ID, moduletest.Customer(stranger), nil).Want(t, http.StatusNotFound)
		s.Do("GET", "/api/payments/unknown", moduletest.Staff, nil).Want(t, http.StatusNotFound)
		for _, path := range []string{"", "/reports/customers", "/reports/reconciliation"} {
			s.WantCursors(t, "/api/payments"+path, moduletest.Staff)
		}
		s.Do("GET", "/api/payments?state=odd", moduletest.Staff, nil).Want(t, http.StatusUnprocessableEntity)
		if body := string(s.Do("GET", "/api/payments/"+p.ID, moduletest.Staff, nil).Body); strings.Contains(body, "tok_") {
			t.Errorf("the card token is shown: %s", body)
		}
	})
}

func TestGoodwill(t *testing.T) {
	t.Parallel()
	moduletest.Each(t, func(t *testing.T, open moduletest.Opener) {
		s := openShop(t, open)
		s.Deliver(t, charge("o", "tok_visa"))
		s.finish()
		p := s.payment("o")
		path := "/api/payments/" + p.ID + "/refunds"
		give := func(amount any, key string) moduletest.Response {
			return s.Do("POST", path, moduletest.Staff, map[string]any{"amount": amount, "reason": "sorry"}, "Idempotency-Key", key)
		}
		var first, again refundBody
		r := give(300, "k1").Want(t, http.StatusAccepted).Into(t, &first)
		if first.Amount != gbp(300) || first.State != "pending" || first.By != "staff" || r.Header.Get("Location") != "/api/payments/"+p.ID {
			t.Errorf("got %+v at %q", first, r.Header.Get("Location"))
		}
		give(300, "k1").Want(t, http.StatusAccepted).Into(t, &again)
		if diff := cmp.Diff(again, first); diff != "" {
			t.Errorf("repeated (-got +want):\n%s", diff)
		}
		give(301, "k1").Want(t, http.StatusUnprocessableEntity)
		give(701, "k2").Want(t, http.StatusConflict)
		give(0, "k3").Want(t, http.StatusUnprocessableEntity)
		give(-5, "k4").Want(t, http.StatusUnprocessableEntity)
		give(1e18, "k5").Want(t, http.StatusUnprocessableEntity)
		give("300", "k6").Want(t, http.StatusUnprocessableEntity)
		s.Do("POST", path, moduletest.Staff, map[string]any{"amount": 1}).Want(t, http.StatusUnprocessableEntity)
		s.Do("POST", path, moduletest.Staff, map[string]any{"amount": 1, "reason": "r\x1b[31m"}).Want(t, http.StatusUnprocessableEntity)
		s.Do("POST", path, moduletest.Staff, map[string]any{"amount": 1, "reason": "r", "to": "me"}).Want(t, http.StatusUnprocessableEntity)
		s.Do("POST", "/api/payments/unknown/refunds", moduletest.Staff, map[string]any{"amount": 1, "reason": "r"}).Want(t, http.StatusNotFound)
		s.finish()
		give(700, "k7").Want(t, http.StatusAccepted)
		s.finish()
		if got := s.payment("o"); got.Refunded != gbp(1000) || len(got.Refunds) != 2 || len(got.Entries) != 6 {
			t.Errorf("got %+v", got)
		}
		if diff := cmp.Diff(len(s.told("o")), 3); diff != "" {
			t.Errorf("announced %v", s.told("o"))
		}
		s.agrees()
	})
}

// What the provider refuses to give back staff pay back in another way, and write down.
func TestOutside(t *testing.T) {
	t.Parallel()
	moduletest.Each(t, func(t *testing.T, open moduletest.Opener) {
		s := openShop(t, open)
		s.Deliver(t, charge("o", "tok_refund_refused"))
		s.finish()
		s.Deliver(t, void("o"))
		s.finish()
		path := "/api/payments/" + s.payment("o").ID + "/refunds"
		give := func(amount int64, key string) moduletest.Response {
			return s.Do("POST", path, moduletest.Staff, map[string]any{"amount": amount, "reason": "by transfer", "outside": true}, "Idempotency-Key", key)
		}
		calls := s.line.calls.Load()
		give(1001, "k0").Want(t, http.StatusConflict)
		var first, again refundBody
		give(400, "k1").Want(t, http.StatusAccepted).Into(t, &first)
		give(400, "k1").Want(t, http.StatusAccepted).Into(t, &again)
		if diff := cmp.Diff(again, first); diff != "" || first.State != "outside" || first.Amount != gbp(400) {
			t.Errorf("got %+v, repeated (-got +want):\n%s", first, diff)
		}
		give(601, "k2").Want(t, http.StatusConflict)
		if got := s.payment("o"); got.State != "voiding" || got.Refunded != gbp(400) {
			t.Errorf("after a part: %+v", got)
		}
		give(600, "k3").Want(t, http.StatusAccepted)
		give(1, "k4").Want(t, http.StatusConflict)
		s.finish()
		if got := s.payment("o"); got.State != "settled" || got.Refunded != gbp(1000) || got.Refunding != gbp(0) {
			t.Errorf("after all: %+v", got)
		}
		if diff := cmp.Diff(s.told("o"), []string{"captured 1000", "refused void 1000 account_closed", "settled 1000"}); diff != "" {
			t.Errorf("announced (-got +want):\n%s", diff)
		}
		if s.line.calls.Load() != calls {
			t.Error("the provider was asked")
		}
		if _, refunds, holds := s.seen(""); refunds != 0 || holds != 1000 {
			t.Errorf("the provider has made %d refunds and holds %d", refunds, holds)
		}
		var sum summaryBody
		s.Do("GET", "/api/payments/reports/summary", moduletest.Staff, nil).Into(t, &sum)
		if diff := cmp.Diff(sum, summaryBody{
			Payments: stateCounts{Settled: 1}, Refunds: refundCounts{Refused: 1, Outside: 2},
			Totals: []totalBody{{Currency: "GBP", Captured: 1000, Refunded: 1000, Outside: 1000}},
		}); diff != "" {
			t.Errorf("summary (-got +want):\n%s", diff)
		}
		s.agrees()
		s.Do("POST", path, moduletest.Customer(customer), map[string]any{"amount": 1, "reason": "r", "outside": true}).Want(t, http.StatusForbidden)
	})
}

func TestReports(t *testing.T) {
	t.Parallel()
	moduletest.Each(t, func(t *testing.T, open moduletest.Opener) {
		s := openShop(t, open)
		for i, c := range []struct {
			customer, currency, card string
			amount                   int64
		}{{"a", "GBP", "tok_visa", 100}, {"a", "GBP", "tok_visa", 50}, {"a", "EUR", "tok_visa", 7}, {"b", "GBP", "tok_declined", 9}, {"c", "GBP", "tok_visa", 30}} {
			s.Deliver(t, paymentsapi.Charge{OrderID: fmt.Sprint("o", i), CustomerID: c.customer, Card: c.card, Amount: money.Of(c.amount, c.currency)})
		}
		s.finish()
		s.Deliver(t, paymentsapi.Refund{OrderID: "o0", RefundID: "r", Amount: gbp(40), Reason: "returned"}, void("o4"), void("never"))
		s.finish()
		var rows []customerBody
		for cursor := ""; ; {
			var page struct {
				Items []customerBody
				Next  string
			}
			s.Do("GET", "/api/payments/reports/customers?limit=2&cursor="+cursor, moduletest.Staff, nil).Into(t, &page)
			rows = append(rows, page.Items...)
			if cursor = page.Next; cursor == "" {
				break
			}
		}
		want := []customerBody{{"a", "EUR", 1, 7, 0}, {"a", "GBP", 2, 150, 40}, {"b", "GBP", 1, 0, 0}, {"c", "GBP", 1, 30, 30}}
		if diff := cmp.Diff(rows, want); diff != "" {
			t.Errorf("customers (-got +want):\n%s", diff)
		}
		var sum summaryBody
		s.Do("GET", "/api/payments/reports/summary", moduletest.Staff, nil).Into(t, &sum)
		wanted := summaryBody{
			Payments: stateCounts{Captured: 3, Declined: 1, Settled: 2}, Refunds: refundCounts{Done: 2},
			Totals: []totalBody{{Currency: "EUR", Captured: 7, Clearing: 7}, {Currency: "GBP", Captured: 180, Refunded: 70, Clearing: 110}},
		}
		if diff := cmp.Diff(sum, wanted); diff != "" {
			t.Errorf("summary (-got +want):\n%s", diff)
		}
		s.agrees()
	})
}

// TestReconciliation breaks each thing that the reconciliation is there to find.
func TestReconciliation(t *testing.T) {
	t.Parallel()
	moduletest.Each(t, func(t *testing.T, open moduletest.Opener) {
		s := openShop(t, open)
		orders := []string{"missing", "doubled", "different", "fine", "refund", "declined"}
		ids := map[string]string{}
		for _, o := range orders {
			card := "tok_visa"
			if o == "declined" {
				card = "tok_declined"
			}
			s.Deliver(t, charge(o, card))
		}
		s.finish()
		s.Deliver(t, refund("refund", "r1", 10))
		s.finish()
		for _, o := range orders {
			ids[o] = s.payment(o).ID
		}
		s.agrees()
		s.line.Provider = tampered{s.line.Provider, map[string]func(Outcome, bool) (Outcome, bool){
			ids["missing"]:        func(Outcome, bool) (Outcome, bool) { return Outcome{}, false },
			ids["doubled"]:        func(o Outcome, f bool) (Outcome, bool) { o.Times = 2; return o, f },
			ids["different"]:      func(o Outcome, f bool) (Outcome, bool) { o.Amount.Amount++; return o, f },
			ids["refund"] + ":r1": func(o Outcome, f bool) (Outcome, bool) { o.Approved = false; return o, f },
			ids["declined"]:       func(o Outcome, f bool) (Outcome, bool) { o.Approved = true; return o, f },
		}}
		s.line.cut.Store(true)
		s.Deliver(t, charge("open", "tok_visa"))
		s.Settle()
		got := map[string]string{}
		checked, underWay := 0, 0
		for cursor := ""; ; {
			var page reconciliationBody
			s.Do("GET", "/api/payments/reports/reconciliation?limit=3&cursor="+cursor, moduletest.Staff, nil).Into(t, &page)
			checked += page.Checked
			underWay += page.UnderWay
			for _, d := range page.Differences {
				for order, id := range ids {
					if id == d.PaymentID {
						got[order+d.RefundID] = d.Problem
					}
				}
			}
			if cursor = page.Next; cursor == "" {
				break
			}
		}
		want := map[string]string{"missing": missingAtProvider, "doubled": doubled, "different": different, "refundr1": missingAtProvider, "declined": missingInLedger}
		if diff := cmp.Diff(got, want); diff != "" {
			t.Errorf("problems (-got +want):\n%s", diff)
		}
		if checked != 7 || underWay != 1 {
			t.Errorf("got %d checked and %d under way, want 7 and 1", checked, underWay)
		}
	})
}

func TestReconciliationWithoutProvider(t *testing.T) {
	t.Parallel()
	moduletest.Each(t, func(t *testing.T, open moduletest.Opener) {
		s := openShop(t, open)
		s.Deliver(t, charge("o", "tok_visa"))
		s.finish()
		s.cfg.Provider.Outage = true
		s.Restart()
		s.Do("GET", "/api/payments/reports/reconciliation", moduletest.Staff, nil).Want(t, http.StatusServiceUnavailable)
	})
}

// tampered is a provider whose record says something else.
type tampered struct {
	Provider
	change map[string]func(Outcome, bool) (Outcome, bool)
}

func (p tampered) Lookup(ctx context.Context, id string) (Outcome, bool, error) {
	o, found, err := p.Provider.Lookup(ctx, id)
	if change := p.change[id]; change != nil {
		o, found = change(o, found)
	}
	return o, found, err
}

// TestGoodwillTogether lets ten of the staff refund a payment that has enough for three.
func TestGoodwillTogether(t *testing.T) {
	t.Parallel()
	moduletest.Each(t, func(t *testing.T, open moduletest.Opener) {
		s := openShop(t, open)
		s.Deliver(t, charge("o", "tok_visa"))
		s.finish()
		path := "/api/payments/" + s.payment("o").ID + "/refunds"
		statuses := make(chan int, 10)
		for range cap(statuses) {
			go func() {
				statuses <- s.Do("POST", path, moduletest.Staff, map[string]any{"amount": 300, "reason": "sorry"}).Status
			}()
		}
		got := map[int]int{}
		for range cap(statuses) {
			got[<-statuses]++
		}
		if diff := cmp.Diff(got, map[int]int{http.StatusAccepted: 3, http.StatusConflict: 7}); diff != "" {
			t.Errorf("answers by status (-got +want):\n%s", diff)
		}
		s.finish()
		if got := s.payment("o"); got.Refunded != gbp(900) || got.Refunding != gbp(0) {
			t.Errorf("got %v refunded and %v under way", got.Refunded, got.Refunding)
		}
		s.agrees()
	})
}
