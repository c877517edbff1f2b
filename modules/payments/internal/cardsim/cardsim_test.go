package cardsim

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func open(t *testing.T, b Behaviour) (*Provider, string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "payments", "provider.jsonl")
	return New(file, b), file
}

func TestCards(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		card string
		want []string // of each call in turn
	}{
		{"tok_visa", []string{"approved", "approved"}},
		{"tok_anything", []string{"approved", "approved"}},
		{"tok_declined", []string{"card_declined", "card_declined"}},
		{"tok_insufficient_funds", []string{"insufficient_funds", "insufficient_funds"}},
		{"tok_expired", []string{"expired_card", "expired_card"}},
		{"tok_lost_reply", []string{"no reply", "approved", "approved"}},
		{"tok_lost_twice", []string{"no reply", "no reply", "approved", "approved"}},
		{"tok_outage", []string{"unavailable", "unavailable", "unavailable", "approved", "approved"}},
		{"tok_refund_refused", []string{"approved"}},
	} {
		for _, restarts := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s restarted %t", c.card, restarts), func(t *testing.T) {
				t.Parallel()
				p, file := open(t, Behaviour{})
				for i, want := range c.want {
					if restarts {
						p = New(file, Behaviour{})
					}
					r, err := p.Charge(t.Context(), "id", c.card, 100, "GBP")
					if got := outcome(r, err); got != want {
						t.Fatalf("call %d: got %s, want %s", i+1, got, want)
					}
				}
				r, found, err := p.Lookup(t.Context(), "id")
				if err != nil || !found || r.Times != 1 {
					t.Errorf("lookup: got %+v, %t, %v, want it applied once", r, found, err)
				}
			})
		}
	}
}

func outcome(r Result, err error) string {
	switch {
	case errors.Is(err, ErrTimeout):
		return "no reply"
	case errors.Is(err, ErrUnavailable):
		return "unavailable"
	case err != nil:
		return err.Error()
	case r.Approved:
		return "approved"
	}
	return r.Code
}

func TestSlowCard(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "record")
	synctest.Test(t, func(t *testing.T) {
		p := New(file, Behaviour{})
		begin := time.Now()
		if _, err := p.Charge(t.Context(), "a", "tok_slow", 1, "GBP"); err != nil || time.Since(begin) != 2*time.Second {
			t.Errorf("got %v after %s, want nil after 2s", err, time.Since(begin))
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := p.Charge(ctx, "b", "tok_slow", 1, "GBP"); !errors.Is(err, ErrTimeout) {
			t.Errorf("a caller that does not wait: got %v, want a time-out", err)
		}
		if _, found, err := p.Lookup(t.Context(), "b"); found || err != nil {
			t.Errorf("the charge of a caller that went away before was applied: %t, %v", found, err)
		}
	})
}

func TestRefunds(t *testing.T) {
	t.Parallel()
	type refund struct {
		id, charge string
		amount     int64
		want       string
	}
	for _, c := range []struct {
		name, card string
		refunds    []refund
	}{
		{"in parts", "tok_visa", []refund{{"r1", "c", 60, "approved"}, {"r2", "c", 40, "approved"}, {"r3", "c", 1, "exceeds_charge"}}},
		{"repeated", "tok_visa", []refund{{"r1", "c", 60, "approved"}, {"r1", "c", 60, "approved"}, {"r2", "c", 41, "exceeds_charge"}, {"r2", "c", 41, "exceeds_charge"}}},
		{"of something else", "tok_visa", []refund{{"r1", "c", 60, "approved"}, {"r1", "c", 61, ErrIDReused.Error()}, {"c", "c", 1, ErrIDReused.Error()}}},
		{"of an unknown charge", "tok_visa", []refund{{"r1", "x", 1, "unknown_charge"}}},
		{"of a declined charge", "tok_declined", []refund{{"r1", "c", 1, "unknown_charge"}}},
		{"refused", "tok_refund_refused", []refund{{"r1", "c", 1, "account_closed"}, {"r1", "c", 1, "account_closed"}}},
		{"with a lost reply", "tok_refund_lost", []refund{{"r1", "c", 60, "no reply"}, {"r1", "c", 60, "approved"}, {"r2", "c", 41, "exceeds_charge"}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			p, file := open(t, Behaviour{})
			if _, err := p.Charge(t.Context(), "c", c.card, 100, "GBP"); err != nil {
				t.Fatal(err)
			}
			for i, r := range c.refunds {
				p = New(file, Behaviour{})
				result, err := p.Refund(t.Context(), r.id, r.charge, r.amount, "GBP")
				if got := outcome(result, err); got != r.want {
					t.Fatalf("refund %d: got %s, want %s", i+1, got, r.want)
				}
			}
		})
	}
}

func TestIDReused(t *testing.T) {
	t.Parallel()
	p, _ := open(t, Behaviour{})
	if _, err := p.Charge(t.Context(), "id", "tok_visa", 100, "GBP"); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		card     string
		amount   int64
		currency string
	}{{"tok_visa", 101, "GBP"}, {"tok_visa", 100, "EUR"}, {"tok_master", 100, "GBP"}} {
		if _, err := p.Charge(t.Context(), "id", c.card, c.amount, c.currency); !errors.Is(err, ErrIDReused) {
			t.Errorf("%+v: got %v, want %v", c, err, ErrIDReused)
		}
	}
}

func TestRates(t *testing.T) {
	t.Parallel()
	count := func(seed int64) (declined, lost int, ids string) {
		p, _ := open(t, Behaviour{DeclineRate: 0.2, LostReplyRate: 0.3, Seed: seed})
		for i := range 500 {
			id := fmt.Sprint("id", i)
			r, err := p.Charge(t.Context(), id, "tok_visa", 1, "GBP")
			if errors.Is(err, ErrTimeout) {
				lost++
				ids += "L"
				if r, err = p.Charge(t.Context(), id, "tok_visa", 1, "GBP"); err != nil {
					t.Fatalf("the reply was lost twice: %v", err)
				}
			}
			if !r.Approved {
				declined++
				ids += "D"
			}
			ids += "."
		}
		return declined, lost, ids
	}
	declined, lost, first := count(1)
	if declined < 70 || declined > 130 || lost < 115 || lost > 185 {
		t.Errorf("got %d declined and %d lost of 500, want about 100 and 150", declined, lost)
	}
	if _, _, again := count(1); again != first {
		t.Error("the same seed gives other outcomes")
	}
	if _, _, other := count(2); other == first {
		t.Error("another seed gives the same outcomes")
	}
}

func TestOutage(t *testing.T) {
	t.Parallel()
	p, file := open(t, Behaviour{Outage: true})
	_, charged := p.Charge(t.Context(), "id", "tok_visa", 1, "GBP")
	_, refunded := p.Refund(t.Context(), "r", "id", 1, "GBP")
	_, _, asked := p.Lookup(t.Context(), "id")
	for _, err := range []error{charged, refunded, asked} {
		if !errors.Is(err, ErrUnavailable) {
			t.Errorf("got %v, want %v", err, ErrUnavailable)
		}
	}
	if _, err := os.Stat(file); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("an outage left a record: %v", err)
	}
}

func TestTornLine(t *testing.T) {
	t.Parallel()
	p, file := open(t, Behaviour{})
	if _, err := p.Charge(t.Context(), "a", "tok_visa", 1, "GBP"); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, user := range []*Provider{p, New(file, Behaviour{})} {
		if err := os.WriteFile(file, append(whole[:len(whole):len(whole)], `{"op":"charge","id":"b","amo`...), 0o600); err != nil {
			t.Fatal(err)
		}
		if r, err := user.Charge(t.Context(), "b", "tok_declined", 1, "GBP"); outcome(r, err) != "card_declined" {
			t.Errorf("after a torn line: got %s", outcome(r, err))
		}
		if r, err := New(file, Behaviour{}).Charge(t.Context(), "b", "tok_declined", 1, "GBP"); outcome(r, err) != "card_declined" || r.Times != 1 {
			t.Errorf("after a mended line: got %+v, %v", r, err)
		}
		if err := os.WriteFile(file, whole, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func TestUnreadableRecord(t *testing.T) {
	t.Parallel()
	p, file := open(t, Behaviour{})
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte("not a record\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Charge(t.Context(), "a", "tok_visa", 1, "GBP"); err == nil || !strings.Contains(err.Error(), "line 1 of") {
		t.Errorf("got %v, want the line that cannot be read", err)
	}
}

func TestRecordTakenAway(t *testing.T) {
	t.Parallel()
	p, file := open(t, Behaviour{})
	for _, card := range []string{"tok_visa", "tok_declined"} {
		r, err := p.Charge(t.Context(), "id", card, 1, "GBP")
		if err != nil || r.Approved != (card == "tok_visa") {
			t.Fatalf("%s on a fresh record: got %+v, %v", card, r, err)
		}
		if err := os.Remove(file); err != nil {
			t.Fatal(err)
		}
	}
}

// TestProcesses lets several processes, with several users each, charge the same ids.
func TestProcesses(t *testing.T) {
	if file := os.Getenv("CARDSIM_FILE"); file != "" {
		hammer(t, file)
		return
	}
	t.Parallel()
	file := filepath.Join(t.TempDir(), "record")
	var group sync.WaitGroup
	for range 3 {
		group.Go(func() {
			c := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestProcesses$")
			c.Env = append(os.Environ(), "CARDSIM_FILE="+file)
			if out, err := c.CombinedOutput(); err != nil {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
	group.Wait()
	p := New(file, Behaviour{})
	for i := range 100 {
		r, found, err := p.Lookup(t.Context(), fmt.Sprint("id", i))
		if err != nil || !found || r.Times != 1 {
			t.Fatalf("id%d: got %+v, %t, %v, want it applied once", i, r, found, err)
		}
	}
	body, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if lines := strings.Count(string(body), "\n"); lines != 200 {
		t.Errorf("got %d lines, want 100 charges and 100 second lost replies", lines)
	}
}

func hammer(t *testing.T, file string) {
	var group sync.WaitGroup
	for range 2 {
		p := New(file, Behaviour{})
		for range 2 {
			group.Go(func() {
				for i := range 100 {
					_, err := p.Charge(t.Context(), fmt.Sprint("id", i), "tok_lost_twice", 1, "GBP")
					if err != nil && !errors.Is(err, ErrTimeout) {
						t.Error(err)
					}
				}
			})
		}
	}
	group.Wait()
}

func BenchmarkCharge(b *testing.B) {
	p := New(filepath.Join(b.TempDir(), "record"), Behaviour{})
	for i := 0; b.Loop(); i++ {
		if _, err := p.Charge(b.Context(), fmt.Sprint("id", i), "tok_visa", 1, "GBP"); err != nil {
			b.Fatal(err)
		}
	}
}
