package aggregate

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/banyan-go/banyan/internal/identity"
)

// Config says what is put together.
type Config struct {
	Parallel   int         `mapstructure:"parallel"`  // parts asked for at once, over all requests
	MaxPart    int64       `mapstructure:"max_part"`  // bytes of what a route answers
	MaxBytes   int64       `mapstructure:"max_bytes"` // of the whole
	Aggregates []Aggregate `mapstructure:"aggregates"`
}

// Aggregate is a path whose answer is put together.
type Aggregate struct {
	Path    string        `mapstructure:"path"`
	Auth    string        `mapstructure:"auth"` // least role; empty lets everybody in
	Timeout time.Duration `mapstructure:"timeout"`
	Parts   []Part        `mapstructure:"parts"`
}

// Part is what one route says.
type Part struct {
	Name     string        `mapstructure:"name"` // in the answer
	Get      string        `mapstructure:"get"`  // path and query
	Required bool          `mapstructure:"required"`
	Pick     []string      `mapstructure:"pick"`    // fields to keep, as in id or items.total; none keeps all
	Count    []string      `mapstructure:"count"`   // lists to keep the length of
	Timeout  time.Duration `mapstructure:"timeout"` // 0 is that of the whole
}

// maxParts of an aggregate.
const maxParts = 16

// DefaultConfig has a page for the web and a lean one for phones.
func DefaultConfig() Config {
	const most = 800 * time.Millisecond
	return Config{
		Parallel: 256, MaxPart: 256 << 10, MaxBytes: 1 << 20,
		Aggregates: []Aggregate{
			{Path: "/api/dashboard", Auth: string(identity.Customer), Timeout: time.Second, Parts: []Part{
				{Name: "profile", Get: "/api/auth/me", Pick: []string{"id", "name", "email", "role", "preferences"}, Count: []string{}, Timeout: most},
				{Name: "recent_orders", Get: "/api/orders?limit=5", Pick: []string{
					"items.id", "items.status", "items.reason", "items.fulfilment", "items.return_state", "items.total", "items.units",
					"items.placed_at", "items.updated_at", "next",
				}, Count: []string{}, Timeout: most},
				{Name: "cart", Get: "/api/carts/mine", Pick: []string{}, Count: []string{}, Timeout: most},
				{Name: "unread_notifications", Get: "/api/notifications?unread=true&limit=10", Pick: []string{}, Count: []string{}, Timeout: most},
				{Name: "shipments", Get: "/api/shipments?limit=5", Pick: []string{
					"items.id", "items.order_id", "items.state", "items.carrier", "items.tracking", "items.created_at", "items.dispatched_at", "items.delivered_at", "next",
				}, Count: []string{}, Timeout: most},
			}},
			{Path: "/api/mobile/dashboard", Auth: string(identity.Customer), Timeout: time.Second, Parts: []Part{
				{Name: "profile", Get: "/api/auth/me", Pick: []string{"id", "name"}, Count: []string{}, Timeout: most},
				{Name: "recent_orders", Get: "/api/orders?limit=3", Pick: []string{
					"items.id", "items.status", "items.fulfilment", "items.total",
				}, Count: []string{}, Timeout: most},
				{Name: "cart", Get: "/api/carts/mine", Pick: []string{"total"}, Count: []string{"lines", "problems"}, Timeout: most},
				{Name: "unread_notifications", Get: "/api/notifications/unread", Pick: []string{}, Count: []string{}, Timeout: most},
				{Name: "shipments", Get: "/api/shipments?state=dispatched&limit=3", Pick: []string{
					"items.order_id", "items.carrier", "items.tracking",
				}, Count: []string{}, Timeout: most},
			}},
		},
	}
}

// Validate names the wrong key, which lies below prefix, and the way out. known says whether a route answers a
// method and a path, and answers at once: a stream has no end to wait for.
func (c Config) Validate(prefix string, known func(method, path string) bool) error {
	var wrong []error
	note := func(format string, args ...any) { wrong = append(wrong, fmt.Errorf(prefix+format, args...)) }
	if c.Parallel < 1 || c.Parallel > 100_000 {
		note(".parallel: %d is not between 1 and 100000", c.Parallel)
	}
	if c.MaxPart < 1024 || c.MaxPart > 64<<20 {
		note(".max_part: %d is not between 1024 and 67108864", c.MaxPart)
	}
	if c.MaxBytes < 1024 || c.MaxBytes > 64<<20 {
		note(".max_bytes: %d is not between 1024 and 67108864", c.MaxBytes)
	}
	for i, a := range c.Aggregates {
		key := fmt.Sprintf("%s.aggregates[%d]", prefix, i)
		wrong = append(wrong, a.validate(key, known, c.Aggregates))
		if at := slices.IndexFunc(c.Aggregates, func(o Aggregate) bool { return o.Path == a.Path }); at < i {
			wrong = append(wrong, fmt.Errorf("%s.path: %q is that of aggregates[%d]", key, a.Path, at))
		}
	}
	return errors.Join(wrong...)
}

func (a Aggregate) validate(key string, known func(method, path string) bool, all []Aggregate) error {
	var wrong []error
	note := func(format string, args ...any) { wrong = append(wrong, fmt.Errorf(key+format, args...)) }
	if !strings.HasPrefix(a.Path, "/api/") || strings.HasSuffix(a.Path, "/") || strings.ContainsAny(a.Path, `{}*?#;%\ `) || strings.Contains(a.Path, "//") {
		note(".path: %q is not a path below /api/ without {names}, as in /api/dashboard", a.Path)
	}
	switch identity.Role(a.Auth) {
	case identity.Anonymous, identity.Customer, identity.Staff, identity.Admin:
	default:
		note(".auth: %q is not customer, staff, admin or empty for everybody", a.Auth)
	}
	if a.Timeout < time.Millisecond || a.Timeout > time.Minute {
		note(".timeout: %s is not between 1ms and 1m", a.Timeout)
	}
	if len(a.Parts) == 0 || len(a.Parts) > maxParts {
		note(".parts: there are %d, not 1 to %d", len(a.Parts), maxParts)
	}
	for i, p := range a.Parts {
		note := func(format string, args ...any) { note(".parts[%d]"+format, append([]any{i}, args...)...) }
		if !word(p.Name) || p.Name == missingName {
			note(".name: %q is not a name of letters, digits and _; %s is taken", p.Name, missingName)
		}
		if at := slices.IndexFunc(a.Parts, func(o Part) bool { return o.Name == p.Name }); at < i {
			note(".name: %q is that of parts[%d]", p.Name, at)
		}
		path, query, _ := strings.Cut(p.Get, "?")
		_, queryErr := url.ParseQuery(query)
		_, err := url.ParseRequestURI(p.Get)
		switch {
		case err != nil, queryErr != nil, !strings.HasPrefix(path, "/"), strings.ContainsAny(p.Get, "# {}"):
			note(".get: %q is not a path with its query, as in /api/orders?limit=5", p.Get)
		case slices.ContainsFunc(all, func(o Aggregate) bool { return o.Path == path }):
			note(".get: %q is put together itself", path)
		case known != nil && !known("GET", path):
			note(".get: no route answers GET %s, or it is a stream", path)
		}
		if p.Timeout < 0 || p.Timeout > a.Timeout {
			note(".timeout: %s is not between 0s, which is that of the whole, and %s", p.Timeout, a.Timeout)
		}
		if _, err := compile(p); err != nil {
			note("%w", err)
		}
	}
	return errors.Join(wrong...)
}

func word(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(r rune) bool {
		return r != '_' && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9')
	})
}
