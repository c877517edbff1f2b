package rest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/danielgtaylor/huma/v2"
)

// strictJSON refuses what the decoder would silently change or choose between: what is kept would not be what was
// compared with the schema.
var strictJSON = huma.Format{Marshal: huma.DefaultJSONFormat.Marshal, Unmarshal: readJSON}

// readJSON decodes a body. huma has each decoded twice: first as it is, to compare it with the schema, then into the
// input. Only the first looks closely.
func readJSON(data []byte, v any) error {
	if err := json.Unmarshal(data, v); err != nil {
		return err
	}
	decoded, first := v.(*any)
	if !first {
		return nil
	}
	keys, err := checkText(data)
	if err == nil && keys != countKeys(*decoded) {
		path, _ := twice(json.NewDecoder(bytes.NewReader(data)))
		slices.Reverse(path)
		err = errors.New("body" + strings.Join(path, "") + givenTwice)
	}
	return err
}

// givenTwice ends the error of a key that its object has twice; the path of the key comes before.
const givenTwice = ": given twice"

// countKeys is how many keys the objects have: fewer than were sent if one came twice.
func countKeys(v any) (n int) {
	switch v := v.(type) {
	case map[string]any:
		n = len(v)
		for _, inner := range v {
			n += countKeys(inner)
		}
	case []any:
		for _, inner := range v {
			n += countKeys(inner)
		}
	}
	return n
}

// twice looks for the key that an object has twice, and gives its path, last part first.
func twice(d *json.Decoder) (path []string, found bool) {
	t, _ := d.Token()
	open, _ := t.(json.Delim)
	if open == 0 {
		return nil, false
	}
	seen := map[string]bool{}
	for i := 0; d.More(); i++ {
		part := func() string { return fmt.Sprintf("[%d]", i) }
		if open == '{' {
			t, _ := d.Token()
			name, _ := t.(string)
			part = func() string { return "." + name }
			if seen[name] {
				return []string{part()}, true
			}
			seen[name] = true
		}
		if path, found := twice(d); found {
			return append(path, part()), true
		}
	}
	_, _ = d.Token() // the end of it
	return nil, false
}

// checkText counts the keys in valid JSON, and finds what the decoder turns into U+FFFD.
func checkText(data []byte) (keys int, err error) {
	if !utf8.Valid(data) {
		return 0, errors.New("is not UTF-8")
	}
	text := false
	for i := 0; i < len(data); i++ {
		switch c := data[i]; {
		case c == '"':
			text = !text
		case c == ':' && !text:
			keys++
		case c == '\\':
			i++
			r := escaped(data[i:])
			if !utf16.IsSurrogate(r) {
				break
			}
			i += len(`ud800`)
			if data[i] != '\\' || utf16.DecodeRune(r, escaped(data[i+1:])) == utf8.RuneError {
				return 0, errors.New(`contains half a character: a \ud800 to \udfff without the other one`)
			}
			i += len(`udc00`)
		}
	}
	return keys, nil
}

// escaped is the code of an escape that begins with the u of \u0000, and 0 of any other.
func escaped(s []byte) rune {
	if s[0] != 'u' {
		return 0
	}
	n, _ := strconv.ParseUint(string(s[1:5]), 16, 32) // the decoder has read it before
	return rune(n)
}
