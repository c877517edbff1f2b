package shadow

import (
	"bytes"
	"hash/maphash"
	"maps"
	"mime"
	"net/http"
	"strconv"
	"strings"
)

// Answer is what a side has answered.
type Answer struct {
	Status int
	Header http.Header
	Body   []byte // at most one byte more than may be compared
}

// Difference is a path at which two answers differ, with the first pair of values there.
type Difference struct {
	Path   string `json:"path"`
	Local  string `json:"local"`
	Remote string `json:"remote"`
}

// most is the number of different paths that are told of two answers.
const most = 64

// further stands for all the paths beyond.
const further = "(further paths)"

// Differ compares answers.
type Differ struct {
	rules   []*rule
	headers []string
	maxBody int
	seed    maphash.Seed
}

// NewDiffer compares by these rules, whatever their routes, the named headers, and bodies up to maxBody.
func NewDiffer(rules []Rule, headers []string, maxBody int) (*Differ, error) {
	d := &Differ{maxBody: maxBody, seed: maphash.MakeSeed()}
	for _, r := range rules {
		c, err := r.compile()
		if err != nil {
			return nil, err
		}
		d.rules = append(d.rules, c)
	}
	for _, h := range headers {
		d.headers = append(d.headers, http.CanonicalHeaderKey(h))
	}
	return d, nil
}

// Diff is where two answers differ, in a fixed order, each path once.
func (d *Differ) Diff(local, remote Answer) []Difference {
	w := &walk{}
	if local.Status != remote.Status {
		// All else is another answer, and says nothing more.
		w.add("status", strconv.Itoa(local.Status), strconv.Itoa(remote.Status))
		return w.found
	}
	for _, h := range d.headers {
		l, r := local.Header.Values(h), remote.Header.Values(h)
		if h == "Content-Type" && len(l) == 1 && len(r) == 1 && sameType(l[0], r[0]) {
			continue
		}
		if a, b := strings.Join(l, ", "), strings.Join(r, ", "); a != b {
			w.add("header."+h, showHeader(a, len(l)), showHeader(b, len(r)))
		}
	}
	d.bodies(w, local, remote)
	return w.found
}

func (d *Differ) bodies(w *walk, local, remote Answer) {
	lt, rt := local.Header.Get("Content-Type"), remote.Header.Get("Content-Type")
	size := func(a Answer, kind string) string {
		if len(a.Body) > d.maxBody {
			return "more than " + strconv.Itoa(d.maxBody) + " bytes"
		}
		return strconv.Itoa(len(a.Body)) + " bytes" + kind
	}
	long := len(local.Body) > d.maxBody || len(remote.Body) > d.maxBody
	switch {
	case !long && bytes.Equal(local.Body, remote.Body):
	case long || !isJSON(lt) || !isJSON(rt):
		w.add("body", size(local, ""), size(remote, ""))
	default:
		l, lok := parse(local.Body, d.rules, d.seed)
		r, rok := parse(remote.Body, d.rules, d.seed)
		if lok && rok {
			w.path = append(w.path, "$")
			w.values(&l, &r)
			return
		}
		says := map[bool]string{true: " of JSON", false: ", not JSON"}
		w.add("body", size(local, says[lok]), size(remote, says[rok]))
	}
}

// showHeader leaves the query out, which may hold anything.
func showHeader(s string, lines int) string {
	if lines == 0 {
		return absent
	}
	s, _, _ = strings.Cut(s, "?")
	if personal(s) {
		return hidden
	}
	return strconv.Quote(cut(s, shown))
}

func sameType(a, b string) bool {
	m, p, err := mime.ParseMediaType(a)
	n, q, err2 := mime.ParseMediaType(b)
	if err != nil || err2 != nil {
		return a == b
	}
	return m == n && maps.EqualFunc(p, q, strings.EqualFold)
}

func isJSON(contentType string) bool {
	m, _, err := mime.ParseMediaType(contentType)
	return err == nil && (m == "application/json" || strings.HasSuffix(m, "+json"))
}

// walk goes through two values at once.
type walk struct {
	path    []string // segments
	private int      // how many of them are
	found   []Difference
	seen    map[string]bool
}

// add notes a difference at a path.
func (w *walk) add(path, local, remote string) {
	if w.seen[path] {
		return
	}
	if len(w.found) == most {
		path, local, remote = further, "", ""
		if w.seen[path] {
			return
		}
	}
	if w.seen == nil {
		w.seen = map[string]bool{}
	}
	w.seen[path] = true
	w.found = append(w.found, Difference{path, local, remote})
}

// here notes a difference where the walk is.
func (w *walk) here(suffix, local, remote string) {
	if w.seen[further] {
		return
	}
	var b strings.Builder
	for _, s := range w.path {
		if b.Len()+len(s) > pathBytes {
			b.WriteString("…")
			break
		}
		b.WriteString(s)
	}
	w.add(b.String()+suffix, local, remote)
}

func (w *walk) values(a, b *node) {
	switch {
	case a.hash == b.hash || a.kind == ignored || b.kind == ignored:
	case a.kind != b.kind:
		w.here("", a.show(w.private > 0), b.show(w.private > 0))
	case a.kind == object:
		w.objects(a.items, b.items)
	case a.kind == array && a.rule != nil && a.rule.unordered:
		w.unordered(a, b)
	case a.kind == array:
		w.arrays(a.items, b.items)
	case !a.rule.within(a, b):
		w.here("", a.show(w.private > 0), b.show(w.private > 0))
	}
}

// at does something one step further.
func (w *walk) at(segment string, hide bool, do func()) {
	w.path = append(w.path, segment)
	if hide {
		w.private++
	}
	do()
	if hide {
		w.private--
	}
	w.path = w.path[:len(w.path)-1]
}

// pair compares two fields or elements of which one may be missing.
func (w *walk) pair(a, b *node) {
	switch {
	case a != nil && b != nil:
		w.values(a, b)
	case a != nil && a.kind != ignored:
		w.here("", a.show(w.private > 0), absent)
	case b != nil && b.kind != ignored:
		w.here("", absent, b.show(w.private > 0))
	}
}

// objects compares fields, which stand in the order of their names.
func (w *walk) objects(a, b []node) {
	for len(a) > 0 || len(b) > 0 {
		var x, y *node
		if len(a) > 0 && (len(b) == 0 || a[0].name <= b[0].name) {
			x = &a[0]
		}
		if len(b) > 0 && (len(a) == 0 || b[0].name <= a[0].name) {
			y = &b[0]
		}
		switch {
		case y == nil:
			a = a[1:]
		case x == nil:
			b = b[1:]
		default:
			a, b = a[1:], b[1:]
		}
		if x != nil && y != nil && x.hash == y.hash {
			continue
		}
		name := ""
		if x != nil {
			name = x.name
		} else {
			name = y.name
		}
		w.at(segment(name), isPrivate(name), func() { w.pair(x, y) })
	}
}

// arrays compares elements in their order. Those that are found at another place are the same elements in another order;
// the rest are compared one by one. So an element more or less is one difference, and not one of all that follow it.
func (w *walk) arrays(a, b []node) {
	for len(a) > 0 && len(b) > 0 && a[0].hash == b[0].hash {
		a, b = a[1:], b[1:]
	}
	for len(a) > 0 && len(b) > 0 && a[len(a)-1].hash == b[len(b)-1].hash {
		a, b = a[:len(a)-1], b[:len(b)-1]
	}
	x, y := make([]*node, 0, len(a)), make([]*node, 0, len(b)) // those without an equal
	moved, last := false, -1
	match(a, b, func(n *node) uint64 { return n.hash }, func(i, j int) {
		switch {
		case j < 0:
			x = append(x, &a[i])
		case i < 0:
			y = append(y, &b[j])
		default:
			moved, last = moved || j < last, j
		}
	})
	if moved {
		w.here(" (order)", "array of "+strconv.Itoa(len(a)), "array of "+strconv.Itoa(len(b)))
	}
	w.at("[*]", false, func() {
		for i := range max(len(x), len(y)) {
			var l, r *node
			if i < len(x) {
				l = x[i]
			}
			if i < len(y) {
				r = y[i]
			}
			w.pair(l, r)
		}
	})
}

// unordered compares elements by what names them.
func (w *walk) unordered(a, b *node) {
	named := func(n *node) uint64 { return a.rule.name(n) }
	w.at("[*]", false, func() {
		match(a.items, b.items, named, func(i, j int) {
			var l, r *node
			if i >= 0 {
				l = &a.items[i]
			}
			if j >= 0 {
				r = &b.items[j]
			}
			w.pair(l, r)
		})
	})
}

// name is the hash of what names an element, or 0 of one without a name.
func (r *rule) name(n *node) uint64 {
next:
	for _, s := range r.by {
		if n.kind == array && s.element() && s.index < len(n.items) {
			n = &n.items[s.index]
			continue
		}
		if n.kind == object && !s.element() {
			for i := range n.items {
				if n.items[i].name == s.name {
					n = &n.items[i]
					continue next
				}
			}
		}
		return 0
	}
	return n.hash
}

// match pairs elements with the same key, the first with the first, and tells of those without a partner with -1 in its
// place: first in the order of a, then what is left of b in its order.
func match(a, b []node, key func(*node) uint64, do func(i, j int)) {
	places := make(map[uint64][]int, len(b))
	for j := range b {
		k := key(&b[j])
		places[k] = append(places[k], j)
	}
	taken := make([]bool, len(b))
	for i := range a {
		k := key(&a[i])
		if p := places[k]; len(p) > 0 {
			places[k], taken[p[0]] = p[1:], true
			do(i, p[0])
		} else {
			do(i, -1)
		}
	}
	for j := range b {
		if !taken[j] {
			do(-1, j)
		}
	}
}
