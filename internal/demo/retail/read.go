package retail

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"time"
)

// Limits of what a row may say. They are those of a shop; they also keep every product of two of them within int64.
const (
	maxQuantity = 1_000_000
	maxPence    = 1_000_000_000_00
)

// row is a line of a file as it stands there. Its strings share memory with the reader's buffer of that line: whoever
// keeps one clones it.
type row struct {
	invoice, code, description, quantity, date, price, customer string
}

// columns are the names that the first line must have, in the order of row's fields. Others are not looked at.
var columns = [...]string{"InvoiceNo", "StockCode", "Description", "Quantity", "InvoiceDate", "UnitPrice", "CustomerID"}

// read hands each row of a file to fn, whose error is told with the place of the row. The file may be compressed with
// gzip, whatever its name.
func read(name string, r io.Reader, fn func(row) error) error {
	in := bufio.NewReaderSize(r, 64<<10)
	if magic, _ := in.Peek(2); bytes.Equal(magic, []byte{0x1f, 0x8b}) {
		z, err := gzip.NewReader(in)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		in = bufio.NewReaderSize(z, 64<<10)
	}
	if mark, _ := in.Peek(3); string(mark) == "\ufeff" {
		_, _ = in.Discard(3)
	}
	c := csv.NewReader(in)
	c.ReuseRecord = true
	c.LazyQuotes = true // descriptions hold inches
	head, err := c.Read()
	if errors.Is(err, io.EOF) {
		return fmt.Errorf("%s: the file is empty", name)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	at := map[string]int{}
	for i, column := range head {
		at[strings.TrimSpace(column)] = i
	}
	var index [len(columns)]int
	for i, column := range columns {
		n, ok := at[column]
		if !ok {
			return fmt.Errorf("%s: the first line has no column %s; it must name %s", name, column, strings.Join(columns[:], ", "))
		}
		index[i] = n
	}
	for {
		fields, err := c.Read()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		f := func(i int) string { return fields[index[i]] }
		if err := fn(row{f(0), f(1), f(2), f(3), f(4), f(5), f(6)}); err != nil {
			line, _ := c.FieldPos(0)
			return fmt.Errorf("%s: line %d: %w", name, line, err)
		}
	}
}

// parsePence reads pounds as whole pence, rounded half to even. It works on the digits: 2.675 has no exact float.
func parsePence(text string) (int64, error) {
	wrong := func() (int64, error) { return 0, fmt.Errorf("the UnitPrice %q is not an amount as in 2.55", text) }
	digits := strings.TrimSpace(text)
	negative := strings.HasPrefix(digits, "-")
	digits = strings.TrimLeft(digits, "+-")
	if len(strings.TrimSpace(text))-len(digits) > 1 {
		return wrong()
	}
	whole, fraction, _ := strings.Cut(digits, ".")
	if whole+fraction == "" || !allDigits(whole) || !allDigits(fraction) {
		return wrong()
	}
	whole = strings.TrimLeft(whole, "0")
	if len(whole) > 12 {
		return 0, fmt.Errorf("the UnitPrice %q is too large", text)
	}
	for len(fraction) < 2 {
		fraction += "0"
	}
	pence, err := strconv.ParseInt("0"+whole+fraction[:2], 10, 64)
	if err != nil {
		return wrong()
	}
	if rest := strings.TrimRight(fraction[2:], "0"); rest > "5" || (rest == "5" && pence%2 == 1) {
		pence++
	}
	if pence > maxPence {
		return 0, fmt.Errorf("the UnitPrice %q is too large", text)
	}
	if negative {
		pence = -pence
	}
	return pence, nil
}

func parseQuantity(text string) (int64, error) {
	n, err := strconv.ParseInt(strings.TrimSpace(text), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("the Quantity %q is not a whole number", text)
	}
	if n > maxQuantity || n < -maxQuantity {
		return 0, fmt.Errorf("the Quantity %q is beyond %d", text, maxQuantity)
	}
	return n, nil
}

// parseCustomer reads a customer's number, which spreadsheets like to write as 17850.0.
func parseCustomer(text string) (string, error) {
	whole, fraction, _ := strings.Cut(strings.TrimSpace(text), ".")
	n, err := strconv.ParseUint(whole, 10, 63)
	if err != nil || n > math.MaxInt64 || strings.Trim(fraction, "0") != "" {
		return "", fmt.Errorf("the CustomerID %q is not a number", text)
	}
	return strconv.FormatUint(n, 10), nil
}

// parseTime reads the time of an invoice. The files do not say of which zone it is; it is taken as UTC.
func parseTime(text string) (time.Time, error) {
	for _, layout := range []string{time.DateTime, "2006-01-02T15:04:05", "2006-01-02 15:04"} {
		if t, err := time.Parse(layout, strings.TrimSpace(text)); err == nil {
			return t, nil
		}
	}
	return time.Time{}, fmt.Errorf("the InvoiceDate %q is not a time as in 2010-12-01 08:26:00", text)
}

func allDigits(s string) bool {
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return true
}
