package transform

import (
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// Table is the rules, ready to be applied. It never changes.
type Table struct {
	root  node
	check func(path string) error
}

// node is a place in a path.
type node struct {
	fixed map[string]*node
	one   *node
	rest  *node // nothing lies below it
	rules []*rule
}

type rule struct {
	key      string
	method   string // "" for any
	pattern  string
	names    []segment // of the match
	target   []segment // nil leaves the path
	redirect int
	request  headers
	response headers
}

type segment struct {
	kind kind
	text string
}

type kind byte

const (
	fixed kind = iota
	one        // {name}
	rest       // {name...}
)

// String is the segment as it is written.
func (s segment) String() string {
	switch s.kind {
	case one:
		return "{" + s.text + "}"
	case rest:
		return "{" + s.text + "...}"
	}
	return s.text
}

type header struct {
	name  string
	value []string
}

type headers struct {
	remove   []string
	set, add []header
}

func (h headers) empty() bool { return len(h.remove)+len(h.set)+len(h.add) == 0 }

func (h headers) apply(to http.Header) {
	for _, name := range h.remove {
		delete(to, name)
	}
	for _, s := range h.set {
		to[s.name] = s.value
	}
	for _, a := range h.add {
		if before := to[a.name]; len(before) > 0 {
			to[a.name] = slices.Concat(before, a.value) // what is there may be shared
		} else {
			to[a.name] = a.value
		}
	}
}

// New makes a table of the rules. check is what the gateway holds every path against; it judges what rules make, too.
func New(cfg Config, prefix string, check func(path string) error) (*Table, error) {
	t, err := cfg.compile(prefix, check)
	if err != nil {
		return nil, err
	}
	return t, nil
}

// add puts a rule in its place; if that is taken, it returns the key of the rule that has it.
func (t *Table) add(r *rule) (taken string) {
	n := &t.root
	list, _ := segments(r.pattern, t.check)
	for _, s := range list {
		var next **node
		switch s.kind {
		case one:
			next = &n.one
		case rest:
			next = &n.rest
		default:
			if n.fixed == nil {
				n.fixed = map[string]*node{}
			}
			if n.fixed[s.text] == nil {
				n.fixed[s.text] = &node{}
			}
			n = n.fixed[s.text]
			continue
		}
		if *next == nil {
			*next = &node{}
		}
		n = *next
	}
	for _, o := range n.rules {
		if o.method == r.method {
			return o.key
		}
	}
	n.rules = append(n.rules, r)
	// One for the method is preferred to one for all.
	slices.SortStableFunc(n.rules, func(a, b *rule) int { return strings.Compare(b.method, a.method) })
	return ""
}

// find is the rule for a canonical path, or nil. It allocates nothing.
func (n *node) find(method, path string) *rule {
	if path == "" {
		return n.rule(method)
	}
	if path[0] != '/' {
		return nil
	}
	segment, _, _ := strings.Cut(path[1:], "/")
	after := path[1+len(segment):]
	if next := n.fixed[segment]; next != nil {
		if found := next.find(method, after); found != nil {
			return found
		}
	}
	if n.one != nil && segment != "" {
		if found := n.one.find(method, after); found != nil {
			return found
		}
	}
	if n.rest != nil && segment != "" {
		return n.rest.rule(method)
	}
	return nil
}

func (n *node) rule(method string) *rule {
	if method == http.MethodHead {
		method = http.MethodGet
	}
	for _, r := range n.rules {
		if r.method == "" || r.method == method {
			return r
		}
	}
	return nil
}

// Outcome is what the rules make of a request.
type Outcome struct {
	Path     string // where it goes, canonical; what came in, if no rule changes it
	Rewrote  bool   // Path is not what came in
	Redirect int    // the status that sends the client to Location, or 0
	Location string
	rule     *rule
}

// Apply applies the rule for a request with this canonical path, if there is one: it changes the headers of the
// request and says where it goes. An error means that the new path is none; it is one of the client's.
func (t *Table) Apply(r *http.Request, path string) (Outcome, error) {
	o := Outcome{Path: path}
	method := r.Method
	if asked := r.Header["Access-Control-Request-Method"]; method == http.MethodOptions && len(asked) == 1 {
		method = asked[0] // a preflight goes where the request will go
	}
	rule := t.root.find(method, path)
	if rule == nil {
		return o, nil
	}
	o.rule = rule
	rule.request.apply(r.Header)
	if rule.target == nil {
		return o, nil
	}
	o.Path = rule.expand(path)
	o.Rewrote = o.Path != path
	if err := t.check(o.Path); err != nil {
		return Outcome{Path: path}, err
	}
	if rule.redirect != 0 && o.Rewrote {
		o.Redirect = rule.redirect
		o.Location = (&url.URL{Path: o.Path, RawQuery: r.URL.RawQuery}).RequestURI()
	}
	return o, nil
}

// expand makes the new path out of parts of the one that matched.
func (r *rule) expand(path string) string {
	var b strings.Builder
	b.Grow(len(path) + 32)
	for _, s := range r.target {
		b.WriteByte('/')
		if s.kind == fixed {
			b.WriteString(s.text)
		} else {
			b.WriteString(r.part(path, s))
		}
	}
	return b.String()
}

// part is what a segment of the match stands for in a path.
func (r *rule) part(path string, s segment) string {
	for _, n := range r.names {
		path = path[1:]
		if n.kind == rest {
			return path
		}
		text, _, _ := strings.Cut(path, "/")
		if n == s {
			return text
		}
		path = path[len(text):]
	}
	return ""
}

// Wrap is a writer that changes the headers of the answer as the rule says, when it is sent; w itself if the rule says
// nothing.
func (o Outcome) Wrap(w http.ResponseWriter) http.ResponseWriter {
	if o.rule == nil || o.rule.response.empty() {
		return w
	}
	return &writer{ResponseWriter: w, headers: o.rule.response}
}

type writer struct {
	http.ResponseWriter
	headers headers
	done    bool
}

// Unwrap lets http.ResponseController reach the connection.
func (w *writer) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// WriteHeader changes the headers of the answer, once; those of 1xx come before.
func (w *writer) WriteHeader(status int) {
	if !w.done && (status >= 200 || status == http.StatusSwitchingProtocols) {
		w.done = true
		w.headers.apply(w.Header())
	}
	w.ResponseWriter.WriteHeader(status)
}

// Write takes a part of the body.
func (w *writer) Write(b []byte) (int, error) {
	if !w.done {
		w.WriteHeader(http.StatusOK)
	}
	return w.ResponseWriter.Write(b)
}

// Flush sends what there is.
func (w *writer) Flush() { _ = w.FlushError() }

// FlushError sends what there is.
func (w *writer) FlushError() error {
	if !w.done {
		w.WriteHeader(http.StatusOK)
	}
	return http.NewResponseController(w.ResponseWriter).Flush()
}
