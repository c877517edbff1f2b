package shadow

import (
	"errors"
	"fmt"
	"math/big"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
)

// step leads from a value to one within it.
type step struct {
	any   bool   // [*] or .*
	index int    // of an element; -1 if it is a field
	name  string // of a field
}

func (s step) element() bool { return s.index >= 0 }

// rule is a Rule, read.
type rule struct {
	steps     []step
	ignore    bool
	unordered bool
	by        []step // to what names an element
	tolerance *big.Rat
	format    string
}

func (r Rule) compile() (*rule, error) {
	steps, err := parsePath(r.Path)
	if err != nil {
		return nil, fmt.Errorf("path: %w", err)
	}
	c := &rule{steps: steps, ignore: r.Ignore, unordered: r.UnorderedBy != "", format: r.Format}
	ways := 0
	for _, set := range []bool{r.Ignore, r.UnorderedBy != "", r.Tolerance != 0, r.Format != ""} {
		if set {
			ways++
		}
	}
	if r.Format == Time && r.Tolerance != 0 {
		ways--
	}
	if ways != 1 {
		return nil, errors.New("give one of ignore, unordered_by, tolerance and format (time may have a tolerance too)")
	}
	if r.Format != "" && r.Format != Time && r.Format != UUID {
		return nil, fmt.Errorf("format: %q is not time or uuid", r.Format)
	}
	if r.Tolerance != 0 {
		if !(r.Tolerance > 0) || !finite(r.Tolerance) {
			return nil, fmt.Errorf("tolerance: %v is not more than 0", r.Tolerance)
		}
		// As it is written in decimal: a tolerance of 0.1 allows exactly 0.1.
		c.tolerance, _ = new(big.Rat).SetString(strconv.FormatFloat(r.Tolerance, 'g', -1, 64))
	}
	if by := r.UnorderedBy; by != "" {
		if !strings.HasPrefix(by, "$") {
			by = "$." + by
		}
		if c.by, err = parsePath(by); err != nil {
			return nil, fmt.Errorf("unordered_by: %w", err)
		}
		for _, s := range c.by {
			if s.any {
				return nil, fmt.Errorf("unordered_by: %q has a wildcard, and must name one value of an element", r.UnorderedBy)
			}
		}
	}
	return c, nil
}

// parsePath reads $.name, $.*, $[0], $[*] and $["name"], one after the other.
func parsePath(path string) ([]step, error) {
	wrong := fmt.Errorf(`%q is not a path as in $.items[*].price, $.*.id or $["odd name"]`, path)
	rest, ok := strings.CutPrefix(path, "$")
	if !ok {
		return nil, wrong
	}
	steps := []step{}
	for rest != "" {
		switch {
		case rest[0] == '.':
			end := strings.IndexAny(rest[1:], ".[") + 1
			if end == 0 {
				end = len(rest)
			}
			name := rest[1:end]
			if name == "" {
				return nil, wrong
			}
			steps, rest = append(steps, step{any: name == "*", index: -1, name: name}), rest[end:]
		case strings.HasPrefix(rest, `["`):
			quoted, err := strconv.QuotedPrefix(rest[1:])
			if err != nil || !strings.HasPrefix(rest[1+len(quoted):], "]") {
				return nil, wrong
			}
			name, err := strconv.Unquote(quoted)
			if err != nil {
				return nil, wrong
			}
			steps, rest = append(steps, step{index: -1, name: name}), rest[len(quoted)+2:]
		case rest[0] == '[':
			inner, after, ok := strings.Cut(rest[1:], "]")
			if !ok {
				return nil, wrong
			}
			s := step{any: inner == "*"}
			if !s.any {
				n, err := strconv.ParseUint(inner, 10, 31)
				if err != nil {
					return nil, wrong
				}
				s.index = int(n)
			}
			steps, rest = append(steps, s), after
		default:
			return nil, wrong
		}
	}
	return steps, nil
}

// narrow keeps the rules whose next step leads to the field or element.
func narrow(rules []*rule, depth int, name string, index int) []*rule {
	var kept []*rule
	for _, r := range rules {
		if len(r.steps) <= depth {
			continue
		}
		s := r.steps[depth]
		if s.element() == (index >= 0) && (s.any || s.index == index && s.name == name) {
			kept = append(kept, r)
		}
	}
	return kept
}

// has says whether s has the format.
func has(format, s string) bool {
	if format == UUID {
		return uuid.Validate(s) == nil
	}
	_, err := time.Parse(time.RFC3339, s)
	return err == nil
}

// within says whether two values that are not equal are close enough.
func (r *rule) within(a, b *node) bool {
	switch {
	case r == nil || r.tolerance == nil || a.kind != b.kind:
		return false
	case r.format == Time:
		if a.kind != text {
			return false
		}
		s, err := time.Parse(time.RFC3339, a.text)
		t, err2 := time.Parse(time.RFC3339, b.text)
		apart := new(big.Rat).SetFrac64(int64(s.Sub(t).Abs()), int64(time.Second))
		return err == nil && err2 == nil && apart.Cmp(r.tolerance) <= 0
	case a.kind == number:
		x, y := rational(a.text), rational(b.text)
		return x != nil && y != nil && x.Sub(x, y).Abs(x).Cmp(r.tolerance) <= 0
	}
	return false
}

// rational is the number as a fraction, or nil if that would take much memory: 1e999999999 is ten bytes long.
func rational(s string) *big.Rat {
	_, exponent, _ := strings.Cut(strings.ToLower(s), "e")
	if e, err := strconv.Atoi(exponent); len(s) > 400 || exponent != "" && (err != nil || e > 400 || e < -400) {
		return nil
	}
	r, ok := new(big.Rat).SetString(s)
	if !ok {
		return nil
	}
	return r
}
