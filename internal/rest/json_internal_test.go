package rest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"
)

// FuzzBodies: whatever passes says one thing only, and says it in characters.
func FuzzBodies(f *testing.F) {
	for _, s := range []string{`{"a":1,"a":{"b":2}}`, `[{"a":":\""},{"a":"\ud83d\ude00"}]`, `{"a":{"a":"\\u0041"}}`, `"\ud800"`, "\"\xff\""} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		var v any
		if err := readJSON([]byte(s), &v); err != nil {
			return
		}
		// The same without a decoder that chooses: each key and each text is written as often as it was sent.
		again, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		count := func(data []byte) (n, broken int) {
			for d := json.NewDecoder(bytes.NewReader(data)); ; n++ {
				token, err := d.Token()
				if err != nil {
					return n, broken
				}
				if text, ok := token.(string); ok {
					broken += strings.Count(text, string(utf8.RuneError))
				}
			}
		}
		sent, sentBroken := count([]byte(s))
		kept, _ := count(again)
		meant := strings.Count(s, string(utf8.RuneError)) + strings.Count(strings.ToLower(s), `\ufffd`)
		if sent != kept || sentBroken > meant {
			t.Fatalf("%q passes as %s", s, again)
		}
	})
}

func BenchmarkReadBody(b *testing.B) {
	type line struct {
		SKU      string `json:"sku"`
		Quantity int64  `json:"quantity"`
	}
	type order struct {
		Lines   []line            `json:"lines"`
		Card    string            `json:"card"`
		Address map[string]string `json:"address"`
	}
	for _, n := range []int{2, 200} {
		body, err := json.Marshal(order{slices.Repeat([]line{{"85123A", 6}}, n), "tok_visa", map[string]string{"name": "Ada", "street": "1 Fig Lane", "city": "London"}})
		if err != nil {
			b.Fatal(err)
		}
		// Both times that huma has a body decoded.
		for name, read := range map[string]func([]byte, any) error{"loosely": json.Unmarshal, "strictly": readJSON} {
			b.Run(fmt.Sprintf("%d lines, %s", n, name), func(b *testing.B) {
				for b.Loop() {
					var v any
					var into order
					if err := errors.Join(read(body, &v), read(body, &into)); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
