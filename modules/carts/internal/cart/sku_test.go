package cart

import (
	"strings"
	"testing"

	"github.com/banyan-go/banyan/internal/errs"
)

func TestParseSKU(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"85123A": "85123A", "BANK CHARGES": "BANK CHARGES", "BANK%20CHARGES": "BANK CHARGES", "a%2": "a%2", strings.Repeat("x", 64): strings.Repeat("x", 64),
		"": "", "a\x00": "", "a%00": "", "a\xff": "", "a%ff": "", "a\n": "", strings.Repeat("x", 65): "",
	} {
		got, err := ParseSKU(text)
		if got != want || (err != nil) != (want == "") || (err != nil && !errs.Is(err, errs.NotFound)) {
			t.Errorf("ParseSKU(%q) = %q, %v; want %q", text, got, err, want)
		}
	}
}
