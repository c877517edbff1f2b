package shadow

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
)

func body(s string) Answer {
	return Answer{Status: 200, Header: http.Header{"Content-Type": {"application/json"}}, Body: []byte(s)}
}

func newDiffer(t testing.TB, rules ...Rule) *Differ {
	t.Helper()
	d, err := NewDiffer(rules, []string{"Content-Type", "location"}, 256<<10)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// told is differences as text.
func told(list []Difference) []string {
	var lines []string
	for _, d := range list {
		lines = append(lines, fmt.Sprintf("%s: %s, %s", d.Path, d.Local, d.Remote))
	}
	return lines
}

func TestDiff(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name          string
		local, remote string
		rules         []Rule
		want          []string
	}{
		{name: "same", local: `{"a":1,"b":[true,null,"x"]}`, remote: "{ \"b\" : [ true , null , \"x\" ],\n\t\"a\":1 }"},
		{name: "value", local: `{"a":1}`, remote: `{"a":2}`, want: []string{"$.a: 1, 2"}},
		{name: "whole", local: `1`, remote: `"1"`, want: []string{`$: 1, "1"`}},
		{name: "bool", local: `{"a":true}`, remote: `{"a":false}`, want: []string{"$.a: true, false"}},
		{name: "null is not absent", local: `{"a":null}`, remote: `{}`, want: []string{"$.a: null, (absent)"}},
		{name: "extra", local: `{}`, remote: `{"a":{"b":1}}`, want: []string{"$.a: (absent), object of 1"}},
		{name: "kind", local: `{"a":[1]}`, remote: `{"a":{"b":1}}`, want: []string{"$.a: array of 1, object of 1"}},
		{name: "empty array is not empty object", local: `{"a":[]}`, remote: `{"a":{}}`, want: []string{"$.a: array of 0, object of 0"}},
		{name: "fields between", local: `{"a":1,"b":1,"d":1}`, remote: `{"b":2,"c":1,"d":1}`,
			want: []string{"$.a: 1, (absent)", "$.b: 1, 2", "$.c: (absent), 1"}},
		{name: "same field twice", local: `{"a":1,"a":2}`, remote: `{"a":2}`, want: []string{"$.a: 1, 2"}},
		{name: "neighbours do not run together", local: `{"a":"b","c":"d"}`, remote: `{"a":"bc","":"d"}`,
			want: []string{`$[""]: (absent), "d"`, `$.a: "b", "bc"`, `$.c: "d", (absent)`}},

		{name: "number beyond float64", local: `{"n":9007199254740993}`, remote: `{"n":9007199254740992}`, want: []string{"$.n: 9007199254740993, 9007199254740992"}},
		{name: "fraction beyond float64", local: `0.10000000000000000001`, remote: `0.1`, want: []string{"$: 0.10000000000000000001, 0.1"}},
		{name: "beyond any float", local: `1e999999999999`, remote: `1e999999999998`, want: []string{"$: 1e999999999999, 1e999999999998"}},
		{name: "exponent beyond int64", local: `1e99999999999999999999`, remote: `1e99999999999999999998`, want: []string{"$: 1e99999999999999999999, 1e99999999999999999998"}},
		{name: "same number", local: `[1.0,100,-0,1.5e1,0.001,1E+2,0e5]`, remote: `[1,1e2,0,15,1e-3,100.00,0.0]`},
		{name: "sign", local: `-1`, remote: `1`, want: []string{"$: -1, 1"}},
		{name: "size", local: `10`, remote: `1`, want: []string{"$: 10, 1"}},

		{name: "escapes", local: `"caf\u00e9\/\ud83d\ude00\""`, remote: "\"café/😀\\u0022\""},
		{name: "text", local: `"caf\u00e9"`, remote: `"cafe"`, want: []string{`$: "café", "cafe"`}},

		{name: "element", local: `{"items":[{"id":1,"n":1},{"id":2,"n":1}]}`, remote: `{"items":[{"id":1,"n":1},{"id":2,"n":2}]}`, want: []string{"$.items[*].n: 1, 2"}},
		{name: "a path is told once", local: `[{"n":1},{"n":2}]`, remote: `[{"n":3},{"n":4}]`, want: []string{"$[*].n: 1, 3"}},
		{name: "element more at the front", local: `[{"n":1},{"n":2},{"n":3}]`, remote: `[{"n":0},{"n":1},{"n":2},{"n":3}]`, want: []string{"$[*]: (absent), object of 1"}},
		{name: "element less in the middle", local: `[1,2,3,4]`, remote: `[1,2,4]`, want: []string{"$[*]: 3, (absent)"}},
		{name: "order", local: `{"items":[1,2,3]}`, remote: `{"items":[3,1,2]}`, want: []string{"$.items (order): array of 3, array of 3"}},
		{name: "order and value", local: `[{"id":1,"n":1},{"id":2,"n":1},{"id":3,"n":1}]`, remote: `[{"id":3,"n":1},{"id":2,"n":9},{"id":1,"n":1}]`,
			want: []string{"$ (order): array of 3, array of 3", "$[*].n: 1, 9"}},
		{name: "twice the same element", local: `[1,1,2]`, remote: `[1,2,2]`, want: []string{"$[*]: 1, 2"}},
		{name: "number of the same element", local: `[1,1]`, remote: `[1]`, want: []string{"$[*]: 1, (absent)"}},

		{name: "ignore", local: `{"a":1,"t":1}`, remote: `{"a":1,"t":2}`, rules: []Rule{{Path: "$.t", Ignore: true}}},
		{name: "ignore what is absent", local: `{"a":1}`, remote: `{"a":1,"t":2}`, rules: []Rule{{Path: "$.t", Ignore: true}}},
		{name: "ignore there only", local: `{"t":1,"b":{"t":1}}`, remote: `{"t":2,"b":{"t":2}}`, rules: []Rule{{Path: "$.t", Ignore: true}}, want: []string{"$.b.t: 1, 2"}},
		{name: "ignore in elements, whatever their order", local: `[{"a":1,"t":1},{"a":2,"t":2}]`, remote: `[{"a":2,"t":3},{"a":1,"t":4}]`,
			rules: []Rule{{Path: "$[*].t", Ignore: true}}, want: []string{"$ (order): array of 2, array of 2"}},
		{name: "ignore an element", local: `[1,2,3]`, remote: `[1,9,3]`, rules: []Rule{{Path: "$[1]", Ignore: true}}},
		{name: "ignore any field", local: `{"a":{"id":1},"b":{"id":2,"n":1}}`, remote: `{"a":{"id":3},"b":{"id":4,"n":2}}`, rules: []Rule{{Path: "$.*.id", Ignore: true}}, want: []string{"$.b.n: 1, 2"}},
		{name: "ignore an odd name", local: `{"a.b":1,"a":{"b":1}}`, remote: `{"a.b":2,"a":{"b":2}}`, rules: []Rule{{Path: `$["a.b"]`, Ignore: true}}, want: []string{"$.a.b: 1, 2"}},
		{name: "ignore all", local: `1`, remote: `2`, rules: []Rule{{Path: "$", Ignore: true}}},

		{name: "unordered", local: `{"items":[{"sku":"a","n":1},{"sku":"b","n":2}]}`, remote: `{"items":[{"sku":"b","n":2},{"sku":"a","n":1}]}`,
			rules: []Rule{{Path: "$.items", UnorderedBy: "sku"}}},
		{name: "unordered, another value", local: `[{"sku":"a","n":1},{"sku":"b","n":2}]`, remote: `[{"sku":"b","n":3},{"sku":"a","n":1}]`,
			rules: []Rule{{Path: "$", UnorderedBy: "sku"}}, want: []string{"$[*].n: 2, 3"}},
		{name: "unordered, another element", local: `[{"sku":"a"},{"sku":"b"}]`, remote: `[{"sku":"c"},{"sku":"a"}]`,
			rules: []Rule{{Path: "$", UnorderedBy: "sku"}}, want: []string{"$[*]: object of 1, (absent)"}},
		{name: "unordered by what lies deeper", local: `[{"p":{"sku":["a"]}},{"p":{"sku":["b"]}}]`, remote: `[{"p":{"sku":["b"]}},{"p":{"sku":["a"]}}]`,
			rules: []Rule{{Path: "$", UnorderedBy: "p.sku[0]"}}},
		{name: "unordered by itself", local: `[1,2,3,1]`, remote: `[3,1,2,1]`, rules: []Rule{{Path: "$", UnorderedBy: "$"}}},
		{name: "unordered, less often", local: `[1,2,1]`, remote: `[1,2,2]`, rules: []Rule{{Path: "$", UnorderedBy: "$"}}, want: []string{"$[*]: 1, (absent)"}},
		{name: "unordered within unordered", local: `[{"k":1,"l":[1,2]},{"k":2,"l":[3,4]}]`, remote: `[{"k":2,"l":[4,3]},{"k":1,"l":[2,1]}]`,
			rules: []Rule{{Path: "$", UnorderedBy: "k"}, {Path: "$[*].l", UnorderedBy: "$"}}},
		{name: "unordered within what has an order", local: `[{"l":[1,2]},{"l":[3]}]`, remote: `[{"l":[3]},{"l":[2,1]}]`,
			rules: []Rule{{Path: "$[*].l", UnorderedBy: "$"}}, want: []string{"$ (order): array of 2, array of 2"}},

		{name: "tolerance", local: `{"total":1.000}`, remote: `{"total":1.005}`, rules: []Rule{{Path: "$.total", Tolerance: 0.005}}},
		{name: "tolerance is exact", local: `{"total":0.3}`, remote: `{"total":0.4000000000000000001}`, rules: []Rule{{Path: "$.total", Tolerance: 0.1}},
			want: []string{"$.total: 0.3, 0.4000000000000000001"}},
		{name: "tolerance of what cannot be subtracted", local: `1e999999999`, remote: `1e999999998`, rules: []Rule{{Path: "$", Tolerance: 1}}, want: []string{"$: 1e999999999, 1e999999998"}},
		{name: "tolerance is for numbers", local: `"1"`, remote: `"2"`, rules: []Rule{{Path: "$", Tolerance: 5}}, want: []string{`$: "1", "2"`}},

		{name: "time", local: `{"at":"2026-01-01T12:00:00Z"}`, remote: `{"at":"2026-03-05T01:02:03.123456+02:00"}`, rules: []Rule{{Path: "$.at", Format: "time"}}},
		{name: "no time", local: `{"at":"2026-01-01T12:00:00Z"}`, remote: `{"at":"yesterday"}`, rules: []Rule{{Path: "$.at", Format: "time"}},
			want: []string{`$.at: "2026-01-01T12:00:00Z", "yesterday"`}},
		{name: "time in elements, whatever their order", local: `[{"a":1,"at":"2026-01-01T12:00:00Z"},{"a":2,"at":"2026-01-01T12:00:00Z"}]`,
			remote: `[{"a":2,"at":"2026-01-01T12:00:01Z"},{"a":1,"at":"2026-01-01T12:00:02Z"}]`,
			rules:  []Rule{{Path: "$[*].at", Format: "time"}, {Path: "$", UnorderedBy: "a"}}},
		{name: "time with tolerance", local: `{"at":"2026-01-01T12:00:00Z"}`, remote: `{"at":"2026-01-01T13:00:02+01:00"}`, rules: []Rule{{Path: "$.at", Format: "time", Tolerance: 2}}},
		{name: "time beyond tolerance", local: `{"at":"2026-01-01T12:00:00Z"}`, remote: `{"at":"2026-01-01T12:00:02.000001Z"}`,
			rules: []Rule{{Path: "$.at", Format: "time", Tolerance: 2}}, want: []string{`$.at: "2026-01-01T12:00:00Z", "2026-01-01T12:00:02.000001Z"`}},
		{name: "uuid", local: `{"id":"6ba7b810-9dad-11d1-80b4-00c04fd430c8"}`, remote: `{"id":"6ba7b811-9dad-11d1-80b4-00c04fd430c8"}`, rules: []Rule{{Path: "$.id", Format: "uuid"}}},
		{name: "no uuid", local: `{"id":"6ba7b810-9dad-11d1-80b4-00c04fd430c8"}`, remote: `{"id":""}`, rules: []Rule{{Path: "$.id", Format: "uuid"}},
			want: []string{`$.id: "6ba7b810-9dad-11d1-80b4-00c04fd430c8", ""`}},

		{name: "not JSON", local: `{"a":1}`, remote: `{"a":1`, want: []string{"body: 7 bytes of JSON, 6 bytes, not JSON"}},
		{name: "neither is JSON", local: `oops`, remote: `ooops`, want: []string{"body: 4 bytes, not JSON, 5 bytes, not JSON"}},
		{name: "neither is JSON, the same", local: `oops`, remote: `oops`},
		{name: "nothing", local: ``, remote: `{}`, want: []string{"body: 0 bytes, not JSON, 2 bytes of JSON"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			d := newDiffer(t, tt.rules...)
			if diff := cmp.Diff(told(d.Diff(body(tt.local), body(tt.remote))), tt.want); diff != "" {
				t.Error("(-got +want)", diff)
			}
			got, want := paths(d.Diff(body(tt.remote), body(tt.local))), paths(d.Diff(body(tt.local), body(tt.remote)))
			if diff := cmp.Diff(got, want); diff != "" {
				t.Error("the other way round (-got +want)", diff)
			}
		})
	}
}

func paths(list []Difference) []string {
	var names []string
	for _, d := range list {
		names = append(names, d.Path)
	}
	return names
}

func TestDiffOfStatusHeadersAndBodies(t *testing.T) {
	t.Parallel()
	answer := func(status int, body string, header ...string) Answer {
		a := Answer{Status: status, Header: http.Header{}, Body: []byte(body)}
		for i := 0; i < len(header); i += 2 {
			a.Header.Add(header[i], header[i+1])
		}
		return a
	}
	long := strings.Repeat(" ", 256<<10) + "1"
	tests := []struct {
		name          string
		local, remote Answer
		want          []string
	}{
		{"same", answer(201, "x", "Location", "/a"), answer(201, "x", "Location", "/a"), nil},
		{"other headers are not looked at", answer(200, "", "X-Request-Id", "1"), answer(200, "", "X-Request-Id", "2"), nil},
		{"status says it all", answer(200, "x", "Content-Type", "text/plain"), answer(404, "y"), []string{"status: 200, 404"}},
		{"location, without its query", answer(303, "", "Location", "/a?code=secret"), answer(303, "", "Location", "/b?code=terces"), []string{`header.Location: "/a", "/b"`}},
		{"only the query", answer(303, "", "Location", "/a?code=secret"), answer(303, "", "Location", "/a?code=terces"), []string{`header.Location: "/a", "/a"`}},
		{"no location", answer(201, "", "Location", "/a"), answer(201, ""), []string{`header.Location: "/a", (absent)`}},
		{"twice", answer(201, "", "Location", "/a"), answer(201, "", "Location", "/a", "Location", "/a"), []string{`header.Location: "/a", "/a, /a"`}},
		{"same type", answer(200, "{}", "Content-Type", "application/json; charset=utf-8"), answer(200, "{ }", "Content-Type", "Application/JSON;charset=\"UTF-8\""), nil},
		{"another type", answer(200, "{}", "Content-Type", "application/json"), answer(200, "{}", "Content-Type", "text/plain"),
			[]string{`header.Content-Type: "application/json", "text/plain"`}},
		{"another type and body", answer(200, "{}", "Content-Type", "application/json"), answer(200, "{ }", "Content-Type", "text/plain"),
			[]string{`header.Content-Type: "application/json", "text/plain"`, "body: 2 bytes, 3 bytes"}},
		{"problem", answer(404, `{"a":1}`, "Content-Type", "application/problem+json"), answer(404, `{"a":2}`, "Content-Type", "application/problem+json"), []string{"$.a: 1, 2"}},
		{"text", answer(200, "a", "Content-Type", "text/plain"), answer(200, "b", "Content-Type", "text/plain"), []string{"body: 1 bytes, 1 bytes"}},
		{"too long", answer(200, "1", "Content-Type", "application/json"), answer(200, long, "Content-Type", "application/json"),
			[]string{"body: 1 bytes, more than 262144 bytes"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if diff := cmp.Diff(told(newDiffer(t).Diff(tt.local, tt.remote)), tt.want); diff != "" {
				t.Error("(-got +want)", diff)
			}
		})
	}
}

func TestDiffHidesWhatIsPersonal(t *testing.T) {
	t.Parallel()
	local := `{"password":"hunter2","accessToken":"abc","e_mail":"a","Card-Number":4111,"customer":{"name":"Ada","id":"c1","address":{"x":{"line":"1 Main St"}}},
		"contact":"ada@example.org","jwt":"eyJhbGciOi","call":"+49 30 1234567","ada@example.org":1,"6ba7b810-9dad-11d1-80b4-00c04fd430c8":1,"4711":1,
		"ok":"visible","n":12345678901,"people":[{"surname":"Lovelace"}],"secrets":["s1"],"long":"` + strings.Repeat("é", 80) + `"}`
	remote := `{"password":"hunter3","accessToken":"abd","e_mail":"b","Card-Number":4112,"customer":{"name":"Bob","id":"c2","address":{"x":{"line":"2 Main St"}}},
		"contact":"bob@example.org","jwt":"eyJzdWIiOi","call":"+49 30 7654321","ada@example.org":2,"6ba7b810-9dad-11d1-80b4-00c04fd430c8":2,"4711":2,
		"ok":"to see","n":12345678902,"people":[{"surname":"Byron"}],"secrets":["s2"],"long":"x"}`
	got := told(newDiffer(t).Diff(body(local), body(remote)))
	want := []string{
		"$.*: 1, 2", // for three keys that are data
		"$.Card-Number: (hidden), (hidden)", "$.accessToken: (hidden), (hidden)", "$.call: (hidden), (hidden)", "$.contact: (hidden), (hidden)",
		"$.customer.address.x.line: (hidden), (hidden)", `$.customer.id: "c1", "c2"`, "$.customer.name: (hidden), (hidden)",
		"$.e_mail: (hidden), (hidden)", "$.jwt: (hidden), (hidden)",
		`$.long: "` + strings.Repeat("é", 30) + `…", "x"`, "$.n: 12345678901, 12345678902", `$.ok: "visible", "to see"`,
		"$.password: (hidden), (hidden)", "$.people[*].surname: (hidden), (hidden)", "$.secrets[*]: (hidden), (hidden)",
	}
	if diff := cmp.Diff(got, want); diff != "" {
		t.Error("(-got +want)", diff)
	}
}

func TestDiffHasABound(t *testing.T) {
	t.Parallel()
	d := newDiffer(t)
	many := func(value int) string {
		var b strings.Builder
		for i := range 5000 {
			fmt.Fprintf(&b, `,"k%d":%d`, i, value)
		}
		return "{" + b.String()[1:] + "}"
	}
	deep := func(inner string) string {
		const n = 4900
		return strings.Repeat(`{"field":[`, n) + inner + strings.Repeat(`]}`, n)
	}
	wide := func(first int) string { return fmt.Sprintf("[%d%s]", first, strings.Repeat(",1", 100_000)) }
	for _, tt := range []struct {
		name          string
		local, remote string
		want          int
	}{
		{"many paths", many(1), many(2), most + 1},
		{"deep", deep("1"), deep("2"), 1},
		{"wide", wide(1), wide(2), 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got := d.Diff(body(tt.local), body(tt.remote))
			if len(got) != tt.want {
				t.Errorf("got %d paths, want %d", len(got), tt.want)
			}
			for _, g := range got {
				if len(g.Path) > pathBytes+16 || len(g.Local) > shown+2 || len(g.Remote) > shown+2 {
					t.Errorf("%q %q %q is too long", g.Path, g.Local, g.Remote)
				}
			}
		})
	}
}

// TestRational: a number of few bytes must not take much memory.
func TestRational(t *testing.T) {
	t.Parallel()
	for s, can := range map[string]bool{
		"1": true, "-1.5e-3": true, "1e400": true, "1E-400": true, "1e401": false, "1e-401": false, "1e99999999999999999999": false,
		strings.Repeat("1", 400): true, strings.Repeat("1", 401): false,
	} {
		if got := rational(s); (got != nil) != can {
			t.Errorf("%s: %v", s, got)
		}
	}
}

func TestParsePath(t *testing.T) {
	t.Parallel()
	for path, want := range map[string][]step{
		"$":                  {},
		"$.a":                {{index: -1, name: "a"}},
		"$.items[*].id":      {{index: -1, name: "items"}, {any: true}, {index: -1, name: "id"}},
		"$[3][0]":            {{index: 3}, {index: 0}},
		"$.*":                {{any: true, index: -1, name: "*"}},
		`$["a.b]"].x-y`:      {{index: -1, name: "a.b]"}, {index: -1, name: "x-y"}},
		`$["*"]["\u00e9\""]`: {{index: -1, name: "*"}, {index: -1, name: `é"`}},
	} {
		got, err := parsePath(path)
		if diff := cmp.Diff(got, want, cmp.AllowUnexported(step{})); err != nil || diff != "" {
			t.Errorf("%s: %v (-got +want) %s", path, err, diff)
		}
	}
	for _, path := range []string{"", "a", ".a", "$a", "$.", "$..a", "$.a.", "$[", "$[]", "$[-1]", "$[a]", `$["a`, `$["a"`, `$['a']`, "$[99999999999]"} {
		if got, err := parsePath(path); err == nil {
			t.Errorf("%q is taken as %v", path, got)
		}
	}
}

// TestSegment: a path must lead an operator to the field, and must not carry data.
func TestSegment(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]string{
		"total": ".total", "created_at": ".created_at", "Card-Number": ".Card-Number", "$ref": ".$ref", "@type": `["@type"]`, "a b": `["a b"]`, "naïve": `["naïve"]`,
		"": `[""]`, "*": ".*", "17": ".*", "2026-01-01": ".*", "a@b": ".*", "6ba7b810-9dad-11d1-80b4-00c04fd430c8": ".*", "aba7b810-9dad-11d1-80b4-00c04fd430c8": ".*", strings.Repeat("x", 41): ".*", "a\nb": ".*", "a\xff": ".*",
	} {
		if got := segment(name); got != want {
			t.Errorf("%q: got %s, want %s", name, got, want)
		}
	}
}

func TestCut(t *testing.T) {
	t.Parallel()
	for n := range 20 {
		s := cut(strings.Repeat("aé😀\xff", 20), n+3)
		if len(s) > n+3 || !utf8.ValidString(s) || !strings.HasSuffix(s, "…") {
			t.Errorf("%d: %q", n+3, s)
		}
	}
	if got := cut("short", 64); got != "short" {
		t.Error(got)
	}
}

func BenchmarkDiff(b *testing.B) {
	item := `{"id":"%d","sku":"sku-%d","name":"thing","quantity":3,"price":{"amount":1299,"currency":"EUR"},"at":"2026-01-01T12:00:0%dZ"}`
	page := func(last int) Answer {
		var list []string
		for i := range 50 {
			list = append(list, fmt.Sprintf(item, i, i, last))
		}
		return body(`{"items":[` + strings.Join(list, ",") + `]}`)
	}
	x, y := page(1), page(2)
	for name, rules := range map[string][]Rule{"plain": nil, "rules": {{Path: "$.items[*].at", Format: Time}, {Path: "$.items", UnorderedBy: "sku"}}} {
		b.Run(name, func(b *testing.B) {
			d := newDiffer(b, rules...)
			b.SetBytes(int64(len(x.Body)))
			b.ReportAllocs()
			for b.Loop() {
				d.Diff(x, y)
			}
		})
	}
}
