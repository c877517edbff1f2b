package proxy_test

import (
	"context"
	"testing"

	"github.com/banyan-go/banyan/internal/errs"
	"github.com/banyan-go/banyan/proxy"
)

// lossy loses what may be lost, as often as it is told.
type lossy struct {
	losses int
	asked  []bool
}

func (l *lossy) Hop(_ context.Context, module string, losable bool) error {
	l.asked = append(l.asked, losable)
	if module == "orders" && losable && l.losses > 0 {
		l.losses--
		return errs.New(errs.Unavailable, "lost")
	}
	return nil
}

// A request that is lost on its way is sent again if that does no harm, as often as to another process; one that may not be sent again
// is never lost.
func TestHop(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		method, path string
		header       []string
		losses       int
		status       int
		asked        int
	}{
		"nothing is lost":           {"GET", "/api/orders", nil, 0, 200, 1},
		"a read, once":              {"GET", "/api/orders", nil, 1, 200, 2},
		"a read, twice":             {"GET", "/api/orders", nil, 2, 502, 2},
		"a write with a key, once":  {"POST", "/api/orders", []string{"Idempotency-Key", "k1"}, 1, 200, 2},
		"a write with a key, twice": {"POST", "/api/orders", []string{"Idempotency-Key", "k1"}, 2, 502, 2},
		"a write without a key":     {"POST", "/api/orders", nil, 1, 200, 1},
		"a removal":                 {"DELETE", "/api/orders/1", nil, 1, 200, 1},
		"a removal with a key":      {"DELETE", "/api/orders/1", []string{"Idempotency-Key", "k1"}, 1, 200, 1},
		"a login with a key":        {"POST", "/api/login", []string{"Idempotency-Key", "k1"}, 1, 200, 1},
		"a stream":                  {"GET", "/api/follow", nil, 1, 200, 1},
	} {
		hop := &lossy{losses: test.losses}
		s := open(t, func(_ *proxy.Config, o *proxy.Options) { o.Hop = hop })
		body := ""
		if test.method == "POST" {
			body = "{}"
		}
		got := s.do(test.method, test.path, body, append([]string{"Authorization", "Bearer admin:u1"}, test.header...)...)
		if got.status != test.status || len(hop.asked) != test.asked {
			t.Errorf("%s: status %d after %v, want %d after %d", name, got.status, hop.asked, test.status, test.asked)
		}
	}
}
