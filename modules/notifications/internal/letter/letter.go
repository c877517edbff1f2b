// Package letter holds what notifications say, in each language: pure, from data to text.
package letter

import (
	"embed"
	"fmt"
	"strconv"
	"strings"
	"text/template"
	"time"
	"unicode"

	"github.com/banyan-go/banyan/internal/money"
)

// Kind is what a notification is about.
type Kind string

// The kinds.
const (
	Welcome       Kind = "welcome"
	Invitation    Kind = "invitation"
	Receipt       Kind = "receipt"
	Rejected      Kind = "rejected"
	Cancelled     Kind = "cancelled"
	Refund        Kind = "refund"
	Tracking      Kind = "tracking"
	Delivered     Kind = "delivered"
	Alert         Kind = "alert"          // stock is low; for staff, in the app alone
	RefundRefused Kind = "refund_refused" // for staff, in the app alone
)

// Kinds are all of them.
func Kinds() []Kind {
	return []Kind{Welcome, Invitation, Receipt, Rejected, Cancelled, Refund, Tracking, Delivered, Alert, RefundRefused}
}

// Languages that there are texts in; the first is for everybody else.
func Languages() []string { return []string{"en", "de"} }

// Data is what a text is made of. Each kind uses its own part.
type Data struct {
	Order     string      `json:"order,omitempty"`
	Lines     []Line      `json:"lines,omitempty"`
	Amount    money.Money `json:"amount,omitzero"`
	Reason    string      `json:"reason,omitempty"`
	Carrier   string      `json:"carrier,omitempty"`
	Tracking  string      `json:"tracking,omitempty"`
	SKU       string      `json:"sku,omitempty"`
	Available int64       `json:"available,omitempty"`
	Link      string      `json:"link,omitempty"`
	Token     string      `json:"token,omitempty"`
	Until     time.Time   `json:"until,omitzero"`
}

// Line is a line of a receipt.
type Line struct {
	Name     string      `json:"name"`
	Quantity int64       `json:"quantity"`
	Price    money.Money `json:"price"` // of one unit
}

// Letter is a text to read: Subject and Summary in the app, Subject and Body in a mail.
type Letter struct {
	Subject string
	Summary string
	Body    string
}

// Writer writes letters. It is safe for concurrent use.
type Writer struct{ texts map[string]*template.Template }

//go:embed texts/*.txt
var files embed.FS

// NewWriter reads the texts, which are part of the program: a fault in them is a bug.
func NewWriter() *Writer {
	w := &Writer{texts: map[string]*template.Template{}}
	for _, language := range Languages() {
		funcs := template.FuncMap{
			"money": func(m money.Money) string { return Money(m, language) },
			"times": func(m money.Money, n int64) (money.Money, error) { return m.Times(n) },
			"date":  func(t time.Time) string { return date(t, language) },
			"line":  OneLine,
		}
		w.texts[language] = template.Must(template.New(language).Funcs(funcs).ParseFS(files, "texts/"+language+".txt"))
	}
	return w
}

// Language is the one of Languages that suits a preference like "de-AT" best.
func Language(preference, fallback string) string {
	base, _, _ := strings.Cut(strings.ToLower(preference), "-")
	for _, l := range Languages() {
		if l == base {
			return l
		}
	}
	if fallback != "" && fallback != preference {
		return Language(fallback, "")
	}
	return Languages()[0]
}

// Write writes a letter to somebody.
func (w *Writer) Write(kind Kind, language, name string, d Data) (Letter, error) {
	texts := w.texts[language]
	if texts == nil {
		texts = w.texts[Languages()[0]]
	}
	with := struct {
		Data
		Name string
	}{d, name}
	var l Letter
	for _, part := range []struct {
		name string
		into *string
	}{{"subject", &l.Subject}, {"summary", &l.Summary}, {"body", &l.Body}} {
		var b strings.Builder
		if err := texts.ExecuteTemplate(&b, string(kind)+"."+part.name, with); err != nil {
			return l, fmt.Errorf("write %s of %s: %w", part.name, kind, err)
		}
		*part.into = b.String()
	}
	l.Subject, l.Summary = OneLine(l.Subject), OneLine(l.Summary)
	l.Body = strings.TrimSpace(l.Body) + "\n"
	return l, nil
}

// OneLine is s on one line: whatever controls a terminal or a header becomes a space.
func OneLine(s string) string {
	return strings.TrimSpace(strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || r == '\u2028' || r == '\u2029' {
			return ' '
		}
		return r
	}, s))
}

// decimals are the digits of minor units where they are not two.
var decimals = map[string]int{
	"BHD": 3, "CLP": 0, "IQD": 3, "ISK": 0, "JOD": 3, "JPY": 0, "KRW": 0, "KWD": 3, "LYD": 3, "OMR": 3, "PYG": 0, "TND": 3,
	"UGX": 0, "VND": 0, "XAF": 0, "XOF": 0, "XPF": 0,
}

// Money writes an amount as the language does: 1,234.56 GBP, or 1.234,56 GBP.
func Money(m money.Money, language string) string {
	group, point := ",", "."
	if language == "de" {
		group, point = ".", ","
	}
	places, odd := decimals[m.Currency]
	if !odd {
		places = 2
	}
	digits := strconv.FormatInt(m.Amount, 10) // the digits of the least int64 have no positive counterpart
	sign := ""
	if strings.HasPrefix(digits, "-") {
		sign, digits = "-", digits[1:]
	}
	if short := places + 1 - len(digits); short > 0 {
		digits = strings.Repeat("0", short) + digits
	}
	whole, fraction := digits[:len(digits)-places], digits[len(digits)-places:]
	var b strings.Builder
	b.WriteString(sign)
	for i, c := range whole {
		if i > 0 && (len(whole)-i)%3 == 0 {
			b.WriteString(group)
		}
		b.WriteRune(c)
	}
	if places > 0 {
		b.WriteString(point + fraction)
	}
	return b.String() + " " + m.Currency
}

func date(t time.Time, language string) string {
	if language == "de" {
		return t.UTC().Format("02.01.2006 15:04 UTC")
	}
	return t.UTC().Format("2 January 2006 15:04 UTC")
}
