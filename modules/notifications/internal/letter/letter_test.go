package letter

import (
	"math"
	"strings"
	"testing"
	"time"

	"github.com/banyan-go/banyan/internal/money"
)

func TestMoney(t *testing.T) {
	t.Parallel()
	tests := []struct {
		amount   int64
		currency string
		en, de   string
	}{
		{0, "GBP", "0.00 GBP", "0,00 GBP"},
		{5, "GBP", "0.05 GBP", "0,05 GBP"},
		{255, "EUR", "2.55 EUR", "2,55 EUR"},
		{100000, "GBP", "1,000.00 GBP", "1.000,00 GBP"},
		{123456789, "GBP", "1,234,567.89 GBP", "1.234.567,89 GBP"},
		{-123456, "GBP", "-1,234.56 GBP", "-1.234,56 GBP"},
		{1234567, "JPY", "1,234,567 JPY", "1.234.567 JPY"},
		{0, "JPY", "0 JPY", "0 JPY"},
		{1234, "KWD", "1.234 KWD", "1,234 KWD"},
		{math.MinInt64, "GBP", "-92,233,720,368,547,758.08 GBP", "-92.233.720.368.547.758,08 GBP"},
	}
	for _, tt := range tests {
		m := money.Of(tt.amount, tt.currency)
		if got := Money(m, "en"); got != tt.en {
			t.Errorf("got %s, want %s", got, tt.en)
		}
		if got := Money(m, "de"); got != tt.de {
			t.Errorf("got %s, want %s", got, tt.de)
		}
	}
}

func TestLanguage(t *testing.T) {
	t.Parallel()
	for _, tt := range [][3]string{{"de", "en", "de"}, {"de-AT", "en", "de"}, {"EN-us", "de", "en"}, {"", "de", "de"}, {"fr", "de", "de"}, {"fr", "it", "en"}, {"fr", "fr", "en"}, {"", "", "en"}} {
		if got := Language(tt[0], tt[1]); got != tt[2] {
			t.Errorf("%q with fallback %q: got %s, want %s", tt[0], tt[1], got, tt[2])
		}
	}
}

func data() Data {
	return Data{
		Order: "0190-1", Lines: []Line{{"PINK £1 JAR", 3, money.Of(255, "GBP")}, {"Post", 1, money.Of(1800, "GBP")}},
		Amount: money.Of(2565, "GBP"), Reason: "out_of_stock", Carrier: "DHL", Tracking: "JD014", SKU: "85123A", Available: 4,
		Link: "https://shop.example/join?token=t0k", Token: "t0k", Until: time.Date(2026, 3, 1, 9, 0, 0, 0, time.UTC),
	}
}

// TestEveryText writes every kind in every language and looks for what it must tell.
func TestEveryText(t *testing.T) {
	t.Parallel()
	tells := map[Kind][]string{
		Welcome: {"Ada"}, Invitation: {"https://shop.example/join?token=t0k", "t0k", "2026"}, Receipt: {"0190-1", "PINK £1 JAR", "3 x", "GBP"},
		Rejected: {"0190-1"}, Cancelled: {"0190-1"}, Refund: {"0190-1", "GBP"}, Tracking: {"0190-1", "DHL", "JD014"}, Delivered: {"0190-1"}, Alert: {"85123A", "4"},
		RefundRefused: {"0190-1", "25", "GBP", "out_of_stock"},
	}
	w := NewWriter()
	seen := map[string]bool{}
	for _, language := range Languages() {
		for _, kind := range Kinds() {
			l, err := w.Write(kind, language, "Ada", data())
			if err != nil {
				t.Fatal(err)
			}
			if l.Subject == "" || l.Summary == "" || strings.Contains(l.Body, "<no value>") || seen[l.Body] {
				t.Errorf("%s in %s: got %+v", kind, language, l)
			}
			seen[l.Body] = true
			for _, want := range append(tells[kind], "Ada") {
				if !strings.Contains(l.Body, want) {
					t.Errorf("%s in %s does not tell %s:\n%s", kind, language, want, l.Body)
				}
			}
		}
	}
	if _, err := w.Write("gossip", "en", "", Data{}); err == nil {
		t.Error("wrote a letter of an unknown kind")
	}
}

func TestReceipt(t *testing.T) {
	t.Parallel()
	l, err := NewWriter().Write(Receipt, "de", "Ada", data())
	if err != nil {
		t.Fatal(err)
	}
	want := `Guten Tag Ada,

vielen Dank für Ihre Bestellung. Sie ist bestätigt und bezahlt.

Bestellung 0190-1

3 x PINK £1 JAR
    je 2,55 GBP, zusammen 7,65 GBP
1 x Post
    je 18,00 GBP, zusammen 18,00 GBP

Summe: 25,65 GBP

Wir melden uns, sobald sie unterwegs ist.

Ihr Banyan-Shop
`
	if l.Body != want {
		t.Errorf("got\n%s\nwant\n%s", l.Body, want)
	}
}

// TestNothingBreaksOut feeds text that tries to become another line, or another template.
func TestNothingBreaksOut(t *testing.T) {
	t.Parallel()
	w := NewWriter()
	evil := "x\r\nBcc: all@example.com\x00\u2028{{.Token}}"
	l, err := w.Write(Alert, "en", evil, Data{SKU: evil, Token: "secret"})
	if err != nil {
		t.Fatal(err)
	}
	if strings.ContainsAny(l.Subject+l.Summary, "\r\n\x00\u2028") || strings.Contains(l.Body, "\nBcc") || strings.Contains(l.Body, "secret") {
		t.Errorf("got %+q", l)
	}
	if l, err = w.Write(Tracking, "en", "", Data{Order: evil}); err != nil || strings.ContainsAny(l.Subject, "\r\n\x00") {
		t.Errorf("got %+q, %v", l, err)
	}
}
