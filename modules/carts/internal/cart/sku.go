package cart

import (
	"net/url"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/banyan-go/banyan/internal/errs"
)

// ParseSKU reads a SKU as far as the cart cares: the catalog says which ones exist. It also takes one that is still
// percent-encoded, as a path keeps its encoding when a client has encoded more than it must.
func ParseSKU(text string) (string, error) {
	if strings.Contains(text, "%") {
		if decoded, err := url.PathUnescape(text); err == nil {
			text = decoded
		}
	}
	if text == "" || utf8.RuneCountInString(text) > 64 || !utf8.ValidString(text) || strings.ContainsFunc(text, unicode.IsControl) {
		return "", errs.New(errs.NotFound, "no such product")
	}
	return text, nil
}
