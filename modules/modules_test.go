package modules_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/banyan-go/banyan/modules"
)

// TestRoutesBesideSKUs knows each route that a product with its name would hide behind: the catalog refuses such SKUs, in
// modules/catalog/internal/product.
func TestRoutesBesideSKUs(t *testing.T) {
	t.Parallel()
	var beside []string
	for _, d := range modules.All() {
		for _, r := range d.Routes {
			for _, prefix := range []string{"/api/products/", "/api/inventory/"} {
				if rest, ok := strings.CutPrefix(r.Path, prefix); ok && rest[0] != '{' {
					word, _, _ := strings.Cut(rest, "/")
					beside = append(beside, word)
				}
			}
		}
	}
	slices.Sort(beside)
	if diff := cmp.Diff(slices.Compact(beside), []string{"batch", "deliveries", "report", "reports", "reservations"}); diff != "" {
		t.Errorf("routes beside SKUs (-got +want): add it to reserved too:\n%s", diff)
	}
}
