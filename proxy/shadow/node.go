package shadow

import (
	"cmp"
	"encoding/binary"
	"encoding/json"
	"hash/maphash"
	"slices"
	"strconv"
	"strings"
)

type kind byte

const (
	null kind = iota
	boolean
	number
	text
	array
	object
	ignored // an element that a rule ignores: it keeps its place
)

// node is a JSON value. Two are the same if and only if they have the same hash (but for 1 in 2^64), so that what is the
// same is passed over at once, and found again where the order has changed.
type node struct {
	hash  uint64
	rule  *rule  // for whatever else may be equal
	name  string // of a field
	text  string // of a string, or a number as it is written
	items []node // elements, or fields in the order of their names
	kind  kind
}

// parser reads JSON that is known to be valid, which also bounds how deep it is.
type parser struct {
	s     string
	pos   int
	sizes []int32 // of the arrays and objects, in the order in which they begin
	hash  maphash.Hash
}

func parse(body []byte, rules []*rule, seed maphash.Seed) (node, bool) {
	if !json.Valid(body) {
		return node{}, false
	}
	p := &parser{s: string(body)}
	p.hash.SetSeed(seed)
	p.count()
	return p.value(rules, 0), true
}

// count finds the sizes. A list that grows with its elements takes five times the memory, and a long answer of short
// values takes enough.
func (p *parser) count() {
	var open []int32
	for p.pos = 0; p.pos < len(p.s); {
		switch p.s[p.pos] {
		case '"':
			p.skip()
			continue
		case '[', '{':
			open = append(open, int32(len(p.sizes))) // a body is shorter than 1 MiB
			p.sizes = append(p.sizes, 1)
		case ',':
			p.sizes[open[len(open)-1]]++
		case ']', '}':
			open = open[:len(open)-1]
		}
		p.pos++
	}
	p.pos = 0
}

func (p *parser) size() int {
	size := p.sizes[0]
	p.sizes = p.sizes[1:]
	return int(size)
}

func (p *parser) space() {
	for p.pos < len(p.s) && strings.IndexByte(" \t\r\n", p.s[p.pos]) >= 0 {
		p.pos++
	}
}

func (p *parser) value(rules []*rule, depth int) node {
	p.space()
	var n node
	var format string
	for _, r := range rules {
		if len(r.steps) != depth {
			continue
		}
		if r.ignore {
			n.kind = ignored
		}
		if r.format != "" && r.tolerance == nil {
			format = r.format
		}
		if r.unordered || r.tolerance != nil {
			n.rule = r
		}
	}
	skip := n.kind == ignored
	switch p.s[p.pos] {
	case '{':
		n.kind = object
		size := p.size()
		p.pos++
		for p.next('}') {
			name := p.string()
			p.space()
			p.pos++ // :
			var inner []*rule
			if len(rules) > 0 {
				inner = narrow(rules, depth, name, -1)
			}
			field := p.value(inner, depth+1)
			if field.kind != ignored {
				field.name = name
				n.items = append(with(n.items, size), field)
			}
		}
		// Stable: of two fields with the same name the first one stays the first.
		slices.SortStableFunc(n.items, func(a, b node) int { return cmp.Compare(a.name, b.name) })
	case '[':
		n.kind = array
		size := p.size()
		p.pos++
		for p.next(']') {
			var inner []*rule
			if len(rules) > 0 {
				inner = narrow(rules, depth, "", len(n.items))
			}
			n.items = append(with(n.items, size), p.value(inner, depth+1))
		}
	case '"':
		n.kind, n.text = text, p.string()
	case 't', 'n':
		n.kind, n.text = boolean, "true"
		if p.s[p.pos] == 'n' {
			n.kind, n.text = null, "null"
		}
		p.pos += 4
	case 'f':
		n.kind, n.text = boolean, "false"
		p.pos += 5
	default:
		start := p.pos
		for p.pos < len(p.s) && strings.IndexByte("+-.0123456789Ee", p.s[p.pos]) >= 0 {
			p.pos++
		}
		n.kind, n.text = number, p.s[start:p.pos]
	}
	if skip {
		return node{kind: ignored}
	}
	p.sum(&n, format)
	return n
}

// next goes to the next field or element, or past the end.
func (p *parser) next(end byte) bool {
	p.space()
	if p.s[p.pos] == ',' {
		p.pos++
		p.space()
	}
	if p.s[p.pos] == end {
		p.pos++
		return false
	}
	return true
}

// with makes room for all when the first one comes.
func with(items []node, size int) []node {
	if items == nil {
		return make([]node, 0, size)
	}
	return items
}

// skip goes past a string, and says whether there are escapes in it.
func (p *parser) skip() (escaped bool) {
	for p.pos++; p.s[p.pos] != '"'; p.pos++ {
		if p.s[p.pos] == '\\' {
			escaped = true
			p.pos++
		}
	}
	p.pos++
	return escaped
}

func (p *parser) string() string {
	start := p.pos
	escaped := p.skip()
	raw := p.s[start+1 : p.pos-1]
	if !escaped {
		return raw
	}
	var s string
	if err := json.Unmarshal([]byte(p.s[start:p.pos]), &s); err != nil {
		return raw
	}
	return s
}

// sum sets the hash.
func (p *parser) sum(n *node, format string) {
	h := &p.hash
	h.Reset()
	if n.kind == text && format != "" && has(format, n.text) {
		_ = h.WriteByte(0xff) // no kind: like no value of another kind; a Hash takes everything
		_, _ = h.WriteString(format)
		n.hash = h.Sum64()
		return
	}
	_ = h.WriteByte(byte(n.kind))
	switch n.kind {
	case number:
		negative, digits, exponent := decimal(n.text)
		_, _ = h.WriteString(digits)
		_ = h.WriteByte('e')
		_, _ = h.WriteString(exponent)
		if negative {
			_ = h.WriteByte('-')
		}
	case array, object:
		var order []uint64 // of elements without an order: theirs does not matter
		if n.kind == array && n.rule != nil && n.rule.unordered {
			for i := range n.items {
				order = append(order, n.items[i].hash)
			}
			slices.Sort(order)
		}
		var b [8]byte
		for i := range n.items {
			sum := n.items[i].hash
			if order != nil {
				sum = order[i]
			}
			if n.kind == object {
				_, _ = h.WriteString(n.items[i].name) // where it ends nobody can forge, who does not know the hash that follows
			}
			binary.LittleEndian.PutUint64(b[:], sum)
			_, _ = h.Write(b[:])
		}
	default:
		_, _ = h.WriteString(n.text)
	}
	n.hash = h.Sum64()
}

// decimal is the one form of all that write the same number, as digits * 10^exponent, with no zero at either end.
func decimal(s string) (negative bool, digits, exponent string) {
	s, negative = strings.CutPrefix(s, "-")
	mantissa, e := s, ""
	if i := strings.IndexAny(s, "eE"); i >= 0 {
		mantissa, e = s[:i], s[i+1:]
	}
	whole, fraction, _ := strings.Cut(mantissa, ".")
	digits = strings.TrimLeft(whole+fraction, "0")
	if digits == "" {
		return false, "0", "0" // -0 too
	}
	trimmed := strings.TrimRight(digits, "0")
	// An exponent that does not fit is left as it is written: two such numbers are equal only if they are written alike.
	shift := int64(len(digits)-len(trimmed)) - int64(len(fraction))
	if e == "" {
		return negative, trimmed, strconv.FormatInt(shift, 10)
	}
	n, err := strconv.ParseInt(e, 10, 62)
	if err != nil {
		return negative, digits, "e" + e
	}
	return negative, trimmed, strconv.FormatInt(n+shift, 10)
}
