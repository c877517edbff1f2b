package shadow

import (
	"bytes"
	"encoding/json"
	"maps"
	"math/big"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
)

// reference says whether two JSON texts mean the same, the slow way. It cannot judge fields that are there twice and
// numbers that take much memory.
func reference(t *testing.T, a, b []byte) (same, judges bool) {
	judges = utf8.Valid(a) && utf8.Valid(b)
	read := func(s []byte) any {
		d := json.NewDecoder(bytes.NewReader(s))
		d.UseNumber()
		var v any
		if err := d.Decode(&v); err != nil {
			t.Fatal(err)
		}
		return v
	}
	var equal func(a, b any) bool
	equal = func(a, b any) bool {
		switch a := a.(type) {
		case json.Number:
			b, ok := b.(json.Number)
			if !ok {
				return false
			}
			x, y := rational(a.String()), rational(b.String())
			if x == nil || y == nil {
				judges = false
				return false
			}
			return x.Cmp(y) == 0
		case []any:
			b, ok := b.([]any)
			return ok && slices.EqualFunc(a, b, equal)
		case map[string]any:
			b, ok := b.(map[string]any)
			return ok && maps.EqualFunc(a, b, equal)
		}
		return a == b
	}
	for _, s := range [][]byte{a, b} {
		d := json.NewDecoder(bytes.NewReader(s))
		if twice(d) {
			judges = false
		}
	}
	return equal(read(a), read(b)), judges
}

// twice says whether a field is there twice in an object.
func twice(d *json.Decoder) bool {
	d.UseNumber()
	var value func() bool
	value = func() bool {
		token, err := d.Token()
		if err != nil {
			return true
		}
		found := false
		switch token {
		case json.Delim('['):
			for d.More() {
				found = value() || found
			}
			_, _ = d.Token()
		case json.Delim('{'):
			names := map[any]bool{}
			for d.More() {
				name, _ := d.Token()
				found = found || names[name]
				names[name] = true
				found = value() || found
			}
			_, _ = d.Token()
		}
		return found
	}
	return value()
}

func FuzzDiff(f *testing.F) {
	for _, s := range [][2]string{
		{`{"a":1.0,"b":[1,2,{"c":"x"}]}`, `{"b":[1,{"c":"x"},2],"a":1}`}, {`[1,1e400,-0]`, `[1,1e-400,0]`}, {`{"a":1,"a":2}`, `{"a":2}`},
		{`"\ud800"`, `"\ufffd"`}, {`"\u0041\n"`, `"A\n"`}, {`[]`, `{}`}, {`[[1],[2]]`, `[[2],[1]]`}, {`null`, `nul`}, {` 1 `, "\t1\n"},
		{`{"items":[{"sku":"a","t":1,"at":"2026-01-01T00:00:00Z"}]}`, `{"items":[{"sku":"b","t":2,"at":"x"}]}`},
	} {
		f.Add([]byte(s[0]), []byte(s[1]))
	}
	plain := newDiffer(f)
	ruled := newDiffer(f, Rule{Path: "$.items", UnorderedBy: "sku"}, Rule{Path: "$[*]", UnorderedBy: "$"}, Rule{Path: "$.*.t", Ignore: true}, Rule{Path: "$.items[*].t", Tolerance: 1},
		Rule{Path: "$.items[*].at", Format: Time}, Rule{Path: "$[1]", Ignore: true})
	f.Fuzz(func(t *testing.T, a, b []byte) {
		if len(a) > 4096 || len(b) > 4096 {
			return
		}
		x, y := body(string(a)), body(string(b))
		for name, d := range map[string]*Differ{"plain": plain, "ruled": ruled} {
			there, back := d.Diff(x, y), d.Diff(y, x)
			if diff := cmp.Diff(paths(there), paths(back)); diff != "" {
				t.Errorf("%s: %q and %q differ elsewhere the other way round: %s", name, a, b, diff)
			}
			for i := range there {
				if !utf8.ValidString(there[i].Path + there[i].Local + there[i].Remote) {
					t.Errorf("%s: %q is no text", name, there[i])
				}
			}
			if again := d.Diff(x, x); len(again) > 0 {
				t.Errorf("%s: %q differs from itself: %v", name, a, again)
			}
			if len(there) > 0 && name == "ruled" && len(plain.Diff(x, y)) == 0 {
				t.Errorf("rules make %q and %q differ: %v", a, b, there)
			}
		}
		if !json.Valid(a) || !json.Valid(b) {
			return
		}
		if same, judges := reference(t, a, b); judges && same != (len(plain.Diff(x, y)) == 0) {
			t.Errorf("%q and %q: same is %v, and %v is found", a, b, same, plain.Diff(x, y))
		}
		// The form of the text does not matter.
		var compact bytes.Buffer
		if err := json.Compact(&compact, a); err == nil {
			if found := ruled.Diff(x, body(compact.String())); len(found) > 0 {
				t.Errorf("%q differs from its compact form: %v", a, found)
			}
		}
	})
}

// FuzzDecimal: two numbers have one form if and only if they are equal.
func FuzzDecimal(f *testing.F) {
	for _, s := range [][2]string{{"1.0", "1"}, {"-0", "0e9"}, {"100", "1E+2"}, {"0.001", "1e-3"}, {"10", "1"}, {"1e99999999999999999999", "1"}} {
		f.Add(s[0], s[1])
	}
	f.Fuzz(func(t *testing.T, a, b string) {
		valid := func(s string) bool {
			return json.Valid([]byte(s)) && strings.Trim(s, "+-.0123456789eE") == "" && len(s) < 200
		}
		if !valid(a) || !valid(b) {
			return
		}
		x, y := rational(a), rational(b)
		if x == nil || y == nil {
			return
		}
		form := func(s string) string {
			negative, digits, exponent := decimal(s)
			if negative {
				digits = "-" + digits
			}
			return digits + "e" + exponent
		}
		if (form(a) == form(b)) != (x.Cmp(y) == 0) {
			t.Errorf("%s is %s, %s is %s, and they compare as %d", a, form(a), b, form(b), x.Cmp(y))
		}
		if back, ok := new(big.Rat).SetString(form(a)); !ok || back.Cmp(x) != 0 {
			t.Errorf("%s became %s", a, form(a))
		}
	})
}
