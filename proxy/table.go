package proxy

import (
	"fmt"
	"net/http"
	"slices"
	"sort"
	"strings"
	"sync/atomic"
	"unicode/utf8"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/banyan-go/banyan/internal/identity"
	"github.com/banyan-go/banyan/internal/module"
)

// table says which route a request takes and which target its module has. It never changes: a new one takes its
// place, with a greater epoch, and a request uses the one it has started with to the end.
type table struct {
	epoch  uint64
	root   node
	folded node  // the places of root once more, as a reader has them that takes letters of either case for the same
	rest   *node // for what nobody else has; nil if nobody has that either
	routes []*route

	placements map[string]Placement // of the modules
	targets    map[string]*target   // of the modules and of foreign upstreams
}

// node is a segment of a path.
type node struct {
	fixed   map[string]*node
	any     *node
	rest    *node // whatever follows
	methods []method
	allow   string // the methods, for answers
	folded  *node  // the same place in table.folded; nil for table.rest
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
	scope   string   // that a token must have, or ""
	merged  bool     // answered by putting others together
	metrics routeMetrics
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
	Scope     string        `json:"scope,omitempty"`
	Limit     string        `json:"limit,omitempty"`
	MaxBody   int64         `json:"max_body"`
	Placement string        `json:"placement"`
	Target    string        `json:"target"` // local, or the upstream
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
			if other := t.add(entry); other != nil {
				return nil, fmt.Errorf("module %s, route %s: %s %s is taken by route %s of module %s", m.Name, r.ID, r.Method, r.Path, other.ID, other.module)
			}
			t.routes = append(t.routes, entry)
		}
	}
	return t, nil
}

// addForeign adds the routes of upstreams that are no processes of ours.
func (t *table) addForeign(list []Foreign, targets func(name string) *target, maxBody int64) error {
	for n, f := range list {
		for i, r := range f.Routes {
			method, path := r.split()
			entry := &route{
				Route:  module.Route{ID: fmt.Sprintf("%s-%d", f.Name, i), Method: method, Path: path, Class: module.Class(r.Class), Auth: identity.Role(r.Auth)},
				module: f.Name, target: targets(f.Name), maxBody: maxBody, scope: r.Scope,
			}
			put := t.add
			if path == catchAll {
				if t.rest == nil {
					t.rest = &node{}
				}
				put = t.rest.answer
			}
			if other := put(entry); other != nil {
				return fmt.Errorf("gateway.upstreams[%d].routes[%d].match: %s is taken by route %s of %s", n, i, r.Match, other.ID, other.module)
			}
			t.routes = append(t.routes, entry)
		}
	}
	return nil
}

// catchAll is the path of what nobody else has.
const catchAll = "/{rest...}"

func (t *table) sort() {
	sort.SliceStable(t.routes, func(i, j int) bool {
		a, b := t.routes[i], t.routes[j]
		if a.Path != b.Path {
			return a.Path < b.Path
		}
		return a.Method < b.Method
	})
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
func (t *table) add(r *route) *route {
	place := t.root.at(r.Path)
	place.folded = t.folded.at(fold(r.Path))
	place.folded.methods = append(place.folded.methods, method{r.Method, r})
	return place.answer(r)
}

// ambiguous says whether an application that takes letters of either case for the same, or paths with and without a slash at their
// end, would take this path for another place's, which may ask for more than the route of its own does. "/old/" is no such path where both
// "/old" and "/old/{rest...}" have routes, if the latter asks for as much.
func (t *table) ambiguous(place *node, r *route, path string) bool {
	if r.target.exact {
		return false
	}
	path = fold(path)
	for _, p := range [2]string{path, strings.TrimSuffix(path, "/")} {
		other := t.folded.find(p)
		if other != nil && other != place.folded && (place.folded == nil || other.rest != place.folded || !r.asksFor(other)) {
			return true
		}
	}
	return false
}

// asksFor says whether the route asks for all that the other place's routes do.
func (r *route) asksFor(other *node) bool {
	return !slices.ContainsFunc(other.methods, func(m method) bool {
		return !r.Auth.Includes(m.route.Auth) || m.route.scope != "" && m.route.scope != r.scope
	})
}

// fold gives paths that differ in the case of letters alone the same form.
func fold(path string) string {
	for i := range len(path) {
		if path[i] >= utf8.RuneSelf {
			path = strings.ToUpper(path) // some letters have one upper case and two lower ones
			break
		}
	}
	return strings.ToLower(path)
}

// at is the place of a pattern, which is made if it is not there.
func (n *node) at(pattern string) *node {
	for s := range strings.SplitSeq(pattern[1:], "/") {
		if strings.HasSuffix(s, "...}") {
			if n.rest == nil {
				n.rest = &node{}
			}
			return n.rest
		}
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
	return n
}

// answer makes the route the one of its method here; if that is taken, it returns who has it.
func (n *node) answer(r *route) *route {
	for _, m := range n.methods {
		if m.name == r.Method {
			return m.route
		}
	}
	n.methods = append(n.methods, method{r.Method, r})
	names := []string{http.MethodOptions}
	for _, m := range n.methods {
		switch m.name {
		case anyMethod:
			names = append(names, methods...)
		case http.MethodGet:
			names = append(names, http.MethodGet, http.MethodHead)
		default:
			names = append(names, m.name)
		}
	}
	sort.Strings(names)
	n.allow = strings.Join(slices.Compact(names), ", ")
	return nil
}

// anyMethod is that of a route for all methods that no other route has.
const anyMethod = "*"

// find is the place of a canonical path, or nil. A name is preferred to a {name}, and that to a {name...}, segment by segment; a
// {name...} may be nothing, so that whoever guards what is below a path guards the path. It allocates nothing.
func (n *node) find(path string) *node {
	if path == "" {
		return nil
	}
	segment, rest, more := strings.Cut(path[1:], "/")
	if segment == "" {
		return n.rest
	}
	for _, next := range [2]*node{n.fixed[segment], n.any} {
		if next == nil {
			continue
		}
		if !more {
			if len(next.methods) > 0 {
				return next
			}
			if next.rest != nil {
				return next.rest
			}
			continue
		}
		if found := next.find(path[len(path)-len(rest)-1:]); found != nil {
			return found
		}
	}
	return n.rest
}

// route is the one of a method, or nil. HEAD is a GET whose body nobody wants.
func (n *node) route(name string) *route {
	var other *route
	for i := range n.methods {
		switch n.methods[i].name {
		case name:
			return n.methods[i].route
		case anyMethod:
			// CONNECT and TRACE are about the way, not about what stands at its end.
			if other == nil && name != http.MethodConnect && name != http.MethodTrace {
				other = n.methods[i].route
			}
		case http.MethodGet:
			if name == http.MethodHead {
				other = n.methods[i].route
			}
		}
	}
	return other
}

// Routes is the route table as it is in force.
func (g *Gateway) Routes() []RouteInfo {
	t := g.table.Load()
	list := make([]RouteInfo, len(t.routes))
	for i, r := range t.routes {
		list[i] = RouteInfo{
			Module: r.module, ID: r.ID, Method: r.Method, Path: r.Path, Class: r.Class, Auth: r.Auth, Limit: r.Limit,
			Scope: r.scope, MaxBody: r.maxBody, Placement: string(r.target.placement.State), Target: r.target.name(),
		}
	}
	return list
}

// Epoch is the number of the route table that is in force.
func (g *Gateway) Epoch() uint64 { return g.table.Load().epoch }

// number is the epoch of a table; 0 if the request was refused before it got one.
func (t *table) number() uint64 {
	if t == nil {
		return 0
	}
	return t.epoch
}

// Matcher finds the route of a request among those of a module, as the gateway does.
func Matcher(d module.Descriptor) (func(method, path string) (module.Route, bool), error) {
	limits := map[string]*limiter{}
	for _, r := range d.Routes {
		limits[r.Limit] = nil // the gateway has them
	}
	t, err := buildTable(1, []module.Descriptor{d}, func(string) *target { return nil }, limits, 0)
	if err != nil {
		return nil, err
	}
	return func(method, path string) (module.Route, bool) {
		place := t.root.find(path)
		if place == nil {
			return module.Route{}, false
		}
		r := place.route(method)
		if r == nil {
			return module.Route{}, false
		}
		return r.Route, true
	}, nil
}
