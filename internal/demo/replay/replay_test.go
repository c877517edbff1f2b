package replay

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/banyan-go/banyan/internal/demo/retail"
)

// writeFiles makes two files of orders and credits, always the same.
func writeFiles(t *testing.T, orders int) (files []string, plan *retail.Plan) {
	t.Helper()
	random := rand.New(rand.NewPCG(7, 7))
	type sold struct{ customer, code, price, quantity int }
	var past []sold
	dir := t.TempDir()
	invoice := 1000
	for month := range 2 {
		var b strings.Builder
		b.WriteString("InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country\n")
		for n := range orders / 2 {
			customer := 100 + random.IntN(25)
			at := fmt.Sprintf("2011-%02d-01 %02d:%02d:00", month+1, n/60, n%60)
			row := func(no string, code, quantity, price int) {
				_, _ = fmt.Fprintf(&b, "%s,P%d,PRODUCT %d,%d,%s,%d.%02d,%d.0,UK\n", no, code, code, quantity, at, price/100, price%100, customer)
			}
			invoice++
			if random.IntN(4) > 0 || len(past) == 0 {
				for range 1 + random.IntN(8) {
					s := sold{customer, random.IntN(30), 100 + 50*random.IntN(3), 1 + random.IntN(20)}
					row(fmt.Sprint(invoice), s.code, s.quantity, s.price)
					past = append(past, s)
				}
				continue
			}
			for range 1 + random.IntN(3) {
				s := past[len(past)-1-random.IntN(min(len(past), 60))]
				customer = s.customer
				row(fmt.Sprintf("C%d", invoice), s.code, -(1 + random.IntN(s.quantity)), s.price)
			}
			row(fmt.Sprintf("C%d", invoice), 99, -1, 500) // never sold
		}
		_, _ = fmt.Fprintf(&b, "A1,B,Adjust,1,2011-01-01 00:00:00,1,100,UK\n1,P1,NOBODY,1,2011-01-01 00:00:00,1,,UK\n")
		var z bytes.Buffer
		w := gzip.NewWriter(&z)
		_, _ = w.Write([]byte(b.String()))
		_ = w.Close()
		name := filepath.Join(dir, fmt.Sprintf("2011-%02d.csv.gz", month+1))
		if err := os.WriteFile(name, z.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
		files = append(files, name)
	}
	plan, err := retail.Load(files)
	if err != nil {
		t.Fatal(err)
	}
	return files, plan
}

func check(t *testing.T, s *shop, plan *retail.Plan, got Report, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(plan.Expected(), got); diff != "" {
		t.Errorf("report (-want +got):\n%s", diff)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	want := map[string][]string{} // by customer
	credits := map[string][]string{}
	for _, step := range plan.Steps {
		if step.Order != nil {
			want[step.Customer] = append(want[step.Customer], step.Order.Invoice)
		} else {
			credits[step.Return.Order.Invoice] = append(credits[step.Return.Order.Invoice], "credit "+step.Return.Credit)
		}
	}
	numbers := map[string]string{}
	for _, u := range s.users {
		numbers[u.ID] = u.Reference
	}
	took, returned := map[string][]string{}, map[string][]string{}
	for _, o := range s.orders {
		took[numbers[o.CustomerID]] = append(took[numbers[o.CustomerID]], o.Reference)
		if len(o.log) > 0 {
			returned[o.Reference] = o.log
		}
	}
	if diff := cmp.Diff(want, took); diff != "" {
		t.Errorf("orders by customer (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(credits, returned); diff != "" {
		t.Errorf("credits by order (-want +got):\n%s", diff)
	}
}

func options(s *shop, files []string) Options {
	return Options{Target: s.url, Password: password, Files: files, Patience: 20 * time.Second}
}

func TestReplay(t *testing.T) {
	t.Parallel()
	files, plan := writeFiles(t, 200)
	for _, seed := range []uint64{1, 2, 3} {
		t.Run(fmt.Sprintf("with troubles %d", seed), func(t *testing.T) {
			t.Parallel()
			s := openShop(t, seed, 0.25)
			var timing Timing
			o := options(s, files)
			o.Timing = &timing
			got, err := Run(t.Context(), o)
			check(t, s, plan, got, err)
			for _, fault := range []string{"drop", "lost", "broken", "429", "502", "503", "504", "401"} {
				if s.faults[fault] == 0 {
					t.Errorf("the shop had no trouble %s", fault)
				}
			}
			if s.repeats == 0 || s.renewed == 0 {
				t.Errorf("got %d repeated requests and %d renewed sessions, want some of both", s.repeats, s.renewed)
			}
			if timing.Orders != len(plan.Orders) || timing.Returns == 0 || timing.OrdersPerSecond() <= 0 {
				t.Errorf("got timing %+v", timing)
			}
		})
	}
	t.Run("one client", func(t *testing.T) {
		t.Parallel()
		s := openShop(t, 4, 0)
		o := options(s, files)
		o.Clients = 1
		got, err := Run(t.Context(), o)
		check(t, s, plan, got, err)
		// Without troubles nothing is asked twice.
		if s.repeats > 0 {
			t.Errorf("got %d repeated requests, want none", s.repeats)
		}
	})
}

func TestRunAgain(t *testing.T) {
	t.Parallel()
	files, plan := writeFiles(t, 120)
	t.Run("after interruptions", func(t *testing.T) {
		t.Parallel()
		s := openShop(t, 5, 0.1)
		for n := range 6 {
			ctx, cancel := context.WithCancel(t.Context())
			s.mu.Lock()
			s.asked = func() {
				if len(s.users) > 5+n*3 && len(s.orders) >= n*15 {
					cancel()
				}
			}
			s.mu.Unlock()
			if _, err := Run(ctx, options(s, files)); !errors.Is(err, context.Canceled) {
				t.Fatalf("got %v, want that it was cancelled", err)
			}
		}
		s.mu.Lock()
		s.asked = nil
		s.mu.Unlock()
		got, err := Run(t.Context(), options(s, files))
		check(t, s, plan, got, err)
		got, err = Run(t.Context(), options(s, files))
		check(t, s, plan, got, err)
	})
	t.Run("when the shop has forgotten the keys", func(t *testing.T) {
		t.Parallel()
		s := openShop(t, 6, 0)
		got, err := Run(t.Context(), options(s, files))
		check(t, s, plan, got, err)
		clear(s.keys)
		got, err = Run(t.Context(), options(s, files))
		check(t, s, plan, got, err)
	})
	t.Run("when the reference is another order", func(t *testing.T) {
		t.Parallel()
		s := openShop(t, 7, 0)
		s.orders = append(s.orders, &shopOrder{ID: "order-x", Reference: plan.Orders[3].Invoice, CustomerID: "somebody"})
		if _, err := Run(t.Context(), options(s, files)); err == nil || !strings.Contains(err.Error(), "another order with this reference: order-x") {
			t.Errorf("got %v, want that there is another order", err)
		}
	})
}

// A shop that is down for a while is waited for; one that stays down is given up.
func TestOutage(t *testing.T) {
	t.Parallel()
	files, plan := writeFiles(t, 60)
	t.Run("for a while", func(t *testing.T) {
		t.Parallel()
		s := openShop(t, 8, 0)
		s.down = true
		time.AfterFunc(300*time.Millisecond, func() {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.down = false
		})
		got, err := Run(t.Context(), options(s, files))
		check(t, s, plan, got, err)
	})
	t.Run("for good", func(t *testing.T) {
		t.Parallel()
		s := openShop(t, 9, 0)
		s.down = true
		o := options(s, files)
		o.Patience = time.Second
		began := time.Now()
		_, err := Run(t.Context(), o)
		if err == nil || !strings.Contains(err.Error(), "nothing has succeeded for 1s") || !strings.Contains(err.Error(), "503") {
			t.Errorf("got %v, want that nothing has succeeded", err)
		}
		if took := time.Since(began); took < time.Second || took > 10*time.Second {
			t.Errorf("it took %s", took)
		}
	})
	t.Run("unreachable", func(t *testing.T) {
		t.Parallel()
		o := options(&shop{url: "http://127.0.0.1:1"}, files)
		o.Patience = time.Second
		if _, err := Run(t.Context(), o); err == nil || !strings.Contains(err.Error(), "refused") {
			t.Errorf("got %v, want that the connection is refused", err)
		}
	})
}

func TestRefused(t *testing.T) {
	t.Parallel()
	files, plan := writeFiles(t, 40)
	returned := plan.Steps[slices.IndexFunc(plan.Steps, func(s retail.Step) bool { return s.Return != nil })].Return.Order
	kept := plan.Orders[slices.IndexFunc(plan.Orders, func(o *retail.Order) bool {
		return !slices.ContainsFunc(plan.Steps, func(s retail.Step) bool { return s.Return != nil && s.Return.Order == o })
	})]
	for _, test := range []struct {
		name   string
		change func(*shop, *Options)
		says   string
	}{
		{"password", func(_ *shop, o *Options) { o.Password = "wrong" }, "does not take the password"},
		{"order to be returned", func(s *shop, _ *Options) { s.reject = returned.Invoice }, "order " + returned.Invoice + " is rejected by the shop: card_declined"},
		{"order to be kept", func(s *shop, _ *Options) { s.reject = kept.Invoice }, "order " + kept.Invoice + " is rejected by the shop: card_declined"},
		{"product", func(s *shop, _ *Options) { s.products["P1"] = "something else" }, "409 Conflict: P1 is different"},
		{"never settled", func(s *shop, o *Options) { s.stuck, o.Patience = true, time.Second }, "does not settle"},
		{"no files", func(_ *shop, o *Options) { o.Files = nil }, "no file is given"},
		{"no password", func(_ *shop, o *Options) { o.Password = "" }, "BANYAN_ADMIN_PASSWORD"},
		{"target", func(_ *shop, o *Options) { o.Target = "localhost:8080" }, `target: "localhost:8080"`},
		{"path", func(_ *shop, o *Options) { o.Target += "/elsewhere/" }, "404"},
		{"clients", func(_ *shop, o *Options) { o.Clients = 5000 }, "clients: 5000 is not between 1 and 1000"},
		{"patience", func(_ *shop, o *Options) { o.Patience = 1 }, "patience: 1ns"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			s := openShop(t, 10, 0)
			o := options(s, files)
			test.change(s, &o)
			if _, err := Run(t.Context(), o); err == nil || !strings.Contains(err.Error(), test.says) {
				t.Errorf("got %v, want %s", err, test.says)
			}
		})
	}
}

// The figures are the shop's, not those that we expect.
func TestDiffers(t *testing.T) {
	t.Parallel()
	files, plan := writeFiles(t, 40)
	s := openShop(t, 11, 0)
	s.extraPaid, s.extraSold = 1, 1
	s.stock["P1"] = 5
	got, err := Run(t.Context(), options(s, files))
	if !errors.Is(err, ErrDiffers) {
		t.Fatalf("got %v, want that the figures differ", err)
	}
	for _, figure := range []string{"paid_pence is ", "products_sold is ", "stock_sha256"} {
		if !strings.Contains(err.Error(), figure) {
			t.Errorf("got %v, want that %s differs", err, figure)
		}
	}
	if want := plan.Expected(); got.PaidPence <= want.PaidPence || got.ProductsSold != want.ProductsSold+1 {
		t.Errorf("got %d pence paid and %d products sold, want more than %d and %d", got.PaidPence, got.ProductsSold, want.PaidPence, want.ProductsSold)
	}
}

func TestProgress(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var b bytes.Buffer
		p := newProgress(&b, false)
		p.begin("orders", 100)
		time.Sleep(time.Millisecond) // so that no step falls on a tick
		for range 12 {
			p.add(5)
			time.Sleep(time.Second)
		}
		p.begin("settled orders", 0)
		p.stop()
		const want = "orders             25 of 100, 5/s, 15s left\n" +
			"orders             50 of 100, 5/s, 10s left\n" +
			"orders             60 of 100 in 12.0s, 5/s\n" +
			"settled orders     0 of 0 in 0.0s\n"
		got := b.String()
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("lines (-want +got):\n%s", diff)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		var b bytes.Buffer
		p := newProgress(&b, true)
		p.begin("orders", 48)
		time.Sleep(2100 * time.Millisecond)
		p.add(24)
		p.stop()
		if want := "\r\x1b[Korders             [############............] 24 of 48 in 2.1s, 11/s\n"; !strings.HasSuffix(b.String(), want) {
			t.Errorf("got %q at the end, want %q", b.String(), want)
		}
		for line := range strings.SplitSeq(b.String(), "\r\x1b[K") {
			if len(line) > 80 {
				t.Errorf("got a line of %d columns: %q", len(line), line)
			}
		}
	})
	p := newProgress(nil, true)
	p.begin("orders", 1)
	p.add(1)
	p.stop()
}

func TestKey(t *testing.T) {
	t.Parallel()
	if got := key("order", "536365"); got != "replay-order-536365" {
		t.Errorf("got %q", got)
	}
	seen := map[string]bool{}
	for _, parts := range [][]string{{"order", "1 2"}, {"order", "1", "2"}, {"order", "ü"}, {"order", strings.Repeat("1", 300)}, {"order", "1\n"}} {
		k := key(parts...)
		if len(k) > 255 || strings.ContainsFunc(k, func(c rune) bool { return c <= ' ' || c > '~' }) {
			t.Errorf("got %q for %q", k, parts)
		}
		if seen[k] {
			t.Errorf("got %q twice", k)
		}
		seen[k] = true
	}
}

func TestRetryAfter(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		for text, want := range map[string]time.Duration{
			"": 0, "0": 0, "3": 3 * time.Second, "-1": 0, "soon": 0, "99999999": 24 * time.Hour,
			time.Now().Add(90 * time.Second).UTC().Format("Mon, 02 Jan 2006 15:04:05 GMT"): 90 * time.Second,
			"Mon, 02 Jan 1990 15:04:05 GMT": 0,
		} {
			if got := retryAfter(map[string][]string{"Retry-After": {text}}); got != want {
				t.Errorf("%q: got %s, want %s", text, got, want)
			}
		}
	})
}

func TestTargetPath(t *testing.T) {
	t.Parallel()
	o := Options{Target: "https://shop.example/base/", Password: "x", Clients: 1, Patience: time.Second}
	u, err := o.validate()
	if want := (&url.URL{Scheme: "https", Host: "shop.example", Path: "/base"}); err != nil || u.String() != want.String() {
		t.Errorf("got %v, %v, want %s", u, err, want)
	}
}
