package proxy_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/banyan-go/banyan/internal/identity"
	"github.com/banyan-go/banyan/internal/token"
	"github.com/banyan-go/banyan/proxy"
	"github.com/banyan-go/banyan/proxy/aggregate"
)

// scoped believes "<role>:<subject>:<scopes, with + between>".
type scoped struct{}

func (scoped) Verify(raw string, now time.Time) (token.Claims, error) {
	parts := strings.SplitN(raw+"::", ":", 4)
	return token.Claims{
		Subject: parts[1], Role: identity.Role(parts[0]), Session: "s", IssuedAt: now.Add(-time.Second), ExpiresAt: now.Add(time.Hour),
		Scopes: identity.Scopes(strings.ReplaceAll(parts[2], "+", " ")),
	}, nil
}

// A policy asks for more, also of those who get a route's answer as a part of another.
func TestPolicy(t *testing.T) {
	t.Parallel()
	s := open(t, func(c *proxy.Config, o *proxy.Options) {
		o.Verifier = scoped{}
		c.Policy = []proxy.Policy{{Route: "GET /api/orders", Scope: "orders.read"}, {Route: "GET /api/orders/{id}", Role: "staff"}, {Route: "POST /api/orders", Role: "customer", Scope: "orders.write"}}
		c.Aggregate.Aggregates = []aggregate.Aggregate{{Path: "/api/both", Auth: "customer", Timeout: 5 * time.Second, Parts: []aggregate.Part{
			{Name: "list", Get: "/api/orders"}, {Name: "one", Get: "/api/orders/1"},
		}}}
	})
	for _, tt := range []struct {
		method, path, who string
		want              int
	}{
		{"GET", "/api/orders", "", 401}, {"GET", "/api/orders", "customer:ada", 403}, {"GET", "/api/orders", "admin:root", 403},
		{"GET", "/api/orders", "customer:ada:orders.readall", 403}, {"GET", "/api/orders", "customer:ada:x+orders.read", 200},
		{"GET", "/api/orders/1", "customer:ada", 403}, {"GET", "/api/orders/1", "staff:sam", 200},
		{"POST", "/api/orders", "customer:ada:orders.read", 403}, {"POST", "/api/orders", "customer:ada:orders.write", 200},
		{"GET", "/api/reports", "staff:sam", 200},
	} {
		header := []string{}
		if tt.who != "" {
			header = append(header, "Authorization", "Bearer "+tt.who)
		}
		if got := s.do(tt.method, tt.path, map[string]string{"POST": "{}"}[tt.method], header...); got.status != tt.want {
			t.Errorf("%s %s as %q: %d, want %d", tt.method, tt.path, tt.who, got.status, tt.want)
		}
	}
	for who, want := range map[string][]int{"customer:ada": {403, 403}, "customer:ada:orders.read": {403}, "staff:sam:orders.read": nil} {
		var got struct{ Missing []aggregate.Missing }
		a := s.do("GET", "/api/both", "", "Authorization", "Bearer "+who)
		if err := json.Unmarshal([]byte(a.body), &got); err != nil || a.status != 200 || len(got.Missing) != len(want) {
			t.Fatalf("%s: %d %s, error %v", who, a.status, a.body, err)
		}
		for i, m := range got.Missing {
			if m.Status != want[i] {
				t.Errorf("%s: %s is missing with %d, want %d", who, m.Part, m.Status, want[i])
			}
		}
	}
	for _, r := range s.gate.Routes() {
		if r.ID == "place" && (r.Auth != identity.Customer || r.Scope != "orders.write") {
			t.Errorf("the table shows %+v", r)
		}
	}
}

// A policy that guards nothing stops the start.
func TestPolicyIsChecked(t *testing.T) {
	t.Parallel()
	for want, list := range map[string][]proxy.Policy{
		"gateway.policy[0].route: there is no route": {{Route: "GET /api/orders/{order}", Scope: "x"}},
		"gateway.policy[1].route: ":                  {{Route: "GET /api/orders", Scope: "x"}, {Route: "GET /api/orders", Scope: "y"}},
		"gateway.policy[0].role: customer is less":   {{Route: "DELETE /api/orders/{id}", Role: "customer"}},
		"gateway.policy[0].role: \"boss\" is not":    {{Route: "GET /api/orders", Role: "boss"}},
		"gateway.policy[0]: asks for nothing":        {{Route: "GET /api/orders"}},
		"gateway.policy[0].scope: ":                  {{Route: "GET /api/orders", Scope: "a b"}},
		"gateway.policy[0].route: is empty":          {{Scope: "a"}},
	} {
		cfg := proxy.DefaultConfig()
		cfg.Policy = list
		if _, err := proxy.New(cfg, proxy.Options{Modules: routes(), Local: nothing{}}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: error %v, want one with %q", list, err, want)
		}
	}
}

type nothing struct{}

func (nothing) ServeHTTP(http.ResponseWriter, *http.Request) {}
