package proxy

import (
	"fmt"
	"net/http"
	"slices"
	"sort"
	"strings"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/banyan-go/banyan/internal/identity"
	"github.com/banyan-go/banyan/internal/module"
)

// table says which route a request takes and which target its module has. It never changes: a new one takes its
// place, with a greater epoch, and a request uses the one it has started with to the end.
type table struct {
	epoch  uint64
	root   node
	routes []*route
}

// node is a segment of a path.
type node struct {
	fixed   map[string]*node
	any     *node
	methods []method
	allow   string // the methods, for answers
}

type method struct {
	name  string
	route *route
}

// route is one operation with all that the gateway knows of it.
type route struct {
	module.Route
	module  string
	target  *target
	maxBody int64
	limit   *limiter // stricter limit, or nil
	metrics routeMetrics
}

// target is where a module's requests are answered. Today that is always the own process; the route does not know.
type target struct {
	placement string
	handler   http.Handler
}

type routeMetrics struct {
	classes  [6]atomic.Pointer[prometheus.Counter]
	duration prometheus.Observer
}

// RouteInfo is a line of the route table, for people.
type RouteInfo struct {
	Module    string        `json:"module"`
	ID        string        `json:"id"`
	Method    string        `json:"method"`
	Path      string        `json:"path"`
	Class     module.Class  `json:"class"`
	Auth      identity.Role `json:"auth"`
	Limit     string        `json:"limit,omitempty"`
	MaxBody   int64         `json:"max_body"`
	Placement string        `json:"placement"`
}

var methods = []string{
	http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodOptions,
}

// buildTable checks the routes of all modules and makes a table of them.
func buildTable(epoch uint64, modules []module.Descriptor, targets func(module string) *target, limits map[string]*limiter, maxBody int64) (*table, error) {
	t := &table{epoch: epoch}
	for _, m := range modules {
		for _, r := range m.Routes {
			if err := checkRoute(r, limits); err != nil {
				return nil, fmt.Errorf("module %s, route %s: %w", m.Name, r.ID, err)
			}
			entry := &route{Route: r, module: m.Name, target: targets(m.Name), maxBody: r.MaxBody, limit: limits[r.Limit]}
			if entry.maxBody == 0 {
				entry.maxBody = maxBody
			}
			if other := t.root.add(entry); other != nil {
				return nil, fmt.Errorf("module %s, route %s: %s %s is taken by route %s of module %s", m.Name, r.ID, r.Method, r.Path, other.ID, other.module)
			}
			t.routes = append(t.routes, entry)
		}
	}
	sort.SliceStable(t.routes, func(i, j int) bool {
		a, b := t.routes[i], t.routes[j]
		if a.Path != b.Path {
			return a.Path < b.Path
		}
		return a.Method < b.Method
	})
	return t, nil
}

func checkRoute(r module.Route, limits map[string]*limiter) error {
	switch {
	case r.ID == "":
		return fmt.Errorf("has no id")
	case !slices.Contains(methods, r.Method) || r.Method == http.MethodHead || r.Method == http.MethodOptions:
		return fmt.Errorf("%q is not GET, POST, PUT, PATCH or DELETE", r.Method)
	case !strings.HasPrefix(r.Path, "/api/"):
		return fmt.Errorf("%q is not below /api/", r.Path)
	case r.Class != module.Read && r.Class != module.Write && r.Class != module.Stream:
		return fmt.Errorf("class %q is not read, write or stream", r.Class)
	case r.Class == module.Write && r.Method == http.MethodGet:
		return fmt.Errorf("a GET changes nothing, so its class is not write")
	case r.Auth != identity.Anonymous && r.Auth != identity.Customer && r.Auth != identity.Staff && r.Auth != identity.Admin:
		return fmt.Errorf("auth %q is not a role", r.Auth)
	case r.MaxBody < 0:
		return fmt.Errorf("the greatest body is negative")
	}
	if _, ok := limits[r.Limit]; r.Limit != "" && !ok {
		return fmt.Errorf("there is no rate limit %q", r.Limit)
	}
	for s := range strings.SplitSeq(r.Path[1:], "/") {
		wild := strings.HasPrefix(s, "{") && strings.HasSuffix(s, "}") && len(s) > 2 && !strings.ContainsAny(s[1:len(s)-1], "{}")
		if s == "" || s[len(s)-1] == '.' || !wild && strings.ContainsAny(s, `{}*\;%`) {
			return fmt.Errorf("%q is not a path of names and {names}", r.Path)
		}
	}
	return nil
}

// add puts the route in its place; if that is taken, it returns who has it.
func (n *node) add(r *route) *route {
	for s := range strings.SplitSeq(r.Path[1:], "/") {
		if s[0] == '{' {
			if n.any == nil {
				n.any = &node{}
			}
			n = n.any
			continue
		}
		if n.fixed == nil {
			n.fixed = map[string]*node{}
		}
		if n.fixed[s] == nil {
			n.fixed[s] = &node{}
		}
		n = n.fixed[s]
	}
	if other := n.route(r.Method); other != nil {
		return other
	}
	n.methods = append(n.methods, method{r.Method, r})
	names := []string{http.MethodOptions}
	for _, m := range n.methods {
		names = append(names, m.name)
		if m.name == http.MethodGet {
			names = append(names, http.MethodHead)
		}
	}
	sort.Strings(names)
	n.allow = strings.Join(names, ", ")
	return nil
}

// find is the place of a canonical path, or nil. A name is preferred to a {name}, segment by segment; it allocates
// nothing.
func (n *node) find(path string) *node {
	if path == "" {
		return nil
	}
	segment, rest, more := strings.Cut(path[1:], "/")
	if segment == "" {
		return nil
	}
	for _, next := range [2]*node{n.fixed[segment], n.any} {
		if next == nil {
			continue
		}
		if !more {
			if len(next.methods) > 0 {
				return next
			}
			continue
		}
		if found := next.find(path[len(path)-len(rest)-1:]); found != nil {
			return found
		}
	}
	return nil
}

// route is the one of a method, or nil. HEAD is a GET whose body nobody wants.
func (n *node) route(name string) *route {
	if name == http.MethodHead {
		name = http.MethodGet
	}
	for i := range n.methods {
		if n.methods[i].name == name {
			return n.methods[i].route
		}
	}
	return nil
}

// Routes is the route table as it is in force.
func (g *Gateway) Routes() []RouteInfo {
	t := g.table.Load()
	list := make([]RouteInfo, len(t.routes))
	for i, r := range t.routes {
		list[i] = RouteInfo{
			Module: r.module, ID: r.ID, Method: r.Method, Path: r.Path, Class: r.Class, Auth: r.Auth, Limit: r.Limit,
			MaxBody: r.maxBody, Placement: r.target.placement,
		}
	}
	return list
}

// Epoch is the number of the route table that is in force.
func (g *Gateway) Epoch() uint64 { return g.table.Load().epoch }
