package identity_test

import (
	"testing"

	"github.com/banyan-go/banyan/internal/identity"
)

func TestScopes(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		scopes identity.Scopes
		scope  string
		want   bool
	}{
		{"orders:read orders:write", "orders:write", true},
		{"orders:read orders:write", "orders:read", true},
		{"orders:read", "orders:write", false},
		{"orders:readall", "orders:read", false},
		{"orders:read", "orders:read orders:write", false},
		{"", "orders:read", false},
		{"orders:read", "", false},
	} {
		if got := tt.scopes.Has(tt.scope); got != tt.want {
			t.Errorf("%q has %q: %v", tt.scopes, tt.scope, got)
		}
	}
}
