package aggregate

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

// field is what is kept of a part.
type field struct {
	name   string
	count  bool
	fields []field // none keeps all of it
}

// compile reads what a part picks.
func compile(p Part) (field, error) {
	var root field
	for _, list := range []struct {
		key   string
		paths []string
		count bool
	}{{".pick", p.Pick, false}, {".count", p.Count, true}} {
		for i, path := range list.paths {
			if err := root.add(path, list.count); err != nil {
				return root, fmt.Errorf("%s[%d]: %w", list.key, i, err)
			}
		}
	}
	return root, nil
}

func (f *field) add(path string, count bool) error {
	names := strings.Split(path, ".")
	for i, name := range names {
		if !word(name) {
			return fmt.Errorf("%q is not a field, as in id or items.total", path)
		}
		last := i == len(names)-1
		at := -1
		for j := range f.fields {
			if f.fields[j].name == name {
				at = j
			}
		}
		if at < 0 {
			f.fields = append(f.fields, field{name: name})
			at = len(f.fields) - 1
		} else if last || f.fields[at].count || len(f.fields[at].fields) == 0 {
			return fmt.Errorf("%q is named twice, or within something that is kept whole or counted", path)
		}
		f = &f.fields[at]
	}
	f.count = count
	return nil
}

var errUnreadable = errors.New("not JSON of the kind that is expected")

// write adds what is kept of body.
func (f field) write(to *bytes.Buffer, body []byte) error {
	// Valid lets through bytes that no reader of the whole could decode.
	if body = bytes.TrimSpace(body); !utf8.Valid(body) || !json.Valid(body) {
		return errUnreadable
	}
	if len(f.fields) > 0 && body[0] != '{' && body[0] != '[' && string(body) != "null" {
		return errUnreadable
	}
	return f.project(to, body)
}

// project adds what is kept of a value, in the order in which it is picked. Lists are passed through: what is picked
// is picked of each of their items. A field that is not there stays away. The value is valid JSON without space around.
func (f field) project(to *bytes.Buffer, value []byte) error {
	switch {
	case len(f.fields) == 0 && !f.count:
		to.Write(value)
		return nil
	case value[0] == '[' && f.count:
		n := 0
		for rest := inner(value); len(rest) > 0; n++ {
			_, rest = element(rest)
		}
		to.WriteString(strconv.Itoa(n))
		return nil
	case value[0] == '[':
		to.WriteByte('[')
		first := true
		for rest := inner(value); len(rest) > 0; {
			var item []byte
			item, rest = element(rest)
			if !first {
				to.WriteByte(',')
			}
			first = false
			if item[0] == '[' {
				return errUnreadable // no route answers so; it would have each level read again for each one above
			}
			if err := f.project(to, item); err != nil {
				return err
			}
		}
		to.WriteByte(']')
		return nil
	case value[0] == '{' && !f.count:
		return f.members(to, value)
	case string(value) != "null":
		return errUnreadable // there is nothing to pick of a text or a number, and nothing to count but lists
	case f.count:
		to.WriteByte('0')
	default:
		to.WriteString("null")
	}
	return nil
}

// members adds the members of an object that are kept.
func (f field) members(to *bytes.Buffer, object []byte) error {
	found := make([][]byte, len(f.fields)) // the last one, where a name is there twice
	for rest := inner(object); len(rest) > 0; {
		var name, value []byte
		name, rest = scan(rest)
		value, rest = element(bytes.TrimLeft(rest, " \t\r\n:"))
		for i := range f.fields {
			if named(name, f.fields[i].name) {
				found[i] = value
			}
		}
	}
	to.WriteByte('{')
	first := true
	for i, sub := range f.fields {
		if found[i] == nil {
			continue
		}
		if !first {
			to.WriteByte(',')
		}
		first = false
		to.WriteByte('"')
		to.WriteString(sub.name) // a word: nothing to escape
		to.WriteString(`":`)
		if err := sub.project(to, found[i]); err != nil {
			return err
		}
	}
	to.WriteByte('}')
	return nil
}

// named says whether a name, as it is written in JSON, is the word.
func named(written []byte, word string) bool {
	if bytes.IndexByte(written, '\\') < 0 {
		return string(written[1:len(written)-1]) == word
	}
	var name string
	return json.Unmarshal(written, &name) == nil && name == word
}

// The functions below take valid JSON apart.

// inner is what stands between the braces or brackets of a value.
func inner(value []byte) []byte { return bytes.TrimSpace(value[1 : len(value)-1]) }

// element is the first of values with commas between them, and what comes after its comma.
func element(list []byte) (value, rest []byte) {
	value, rest = scan(list)
	return value, bytes.TrimLeft(rest, " \t\r\n,")
}

// scan is the value at the start of b, and what comes after it.
func scan(b []byte) (value, rest []byte) {
	depth := 0
	for i := 0; i < len(b); i++ {
		switch b[i] {
		case '"':
			for i++; b[i] != '"'; i++ {
				if b[i] == '\\' {
					i++
				}
			}
		case '{', '[':
			depth++
			continue
		case '}', ']':
			depth--
		default:
			// A number or a word ends where something else begins.
			if depth > 0 || i+1 < len(b) && !bytes.ContainsRune([]byte(" \t\r\n,:}]"), rune(b[i+1])) {
				continue
			}
		}
		if depth == 0 {
			return b[:i+1], b[i+1:]
		}
	}
	return b, nil
}
