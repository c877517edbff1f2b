package contracttest

import (
	"encoding"
	"encoding/json"
	"fmt"
	"reflect"
	"regexp"
	"strings"
	"time"
)

var (
	timeType = reflect.TypeFor[time.Time]()
	rawType  = reflect.TypeFor[json.RawMessage]()
	jsonName = regexp.MustCompile(`^[a-z][a-z0-9]*(_[a-z0-9]+)*$`)
)

// field is one property of a message's JSON.
type field struct {
	index    []int
	name     string
	optional bool // may be left out
	personal bool
	typ      reflect.Type
}

// fields lists the properties of a struct as encoding/json sees them, and what is wrong with them.
func fields(t reflect.Type) (list []field, wrong []string) {
	for i := range t.NumField() {
		f := t.Field(i)
		tag, tagged := f.Tag.Lookup("json")
		name, options, _ := strings.Cut(tag, ",")
		switch {
		case f.Anonymous && !tagged && f.Type.Kind() == reflect.Struct:
			inner, more := fields(f.Type)
			for _, in := range inner {
				in.index = append([]int{i}, in.index...)
				list = append(list, in)
			}
			wrong = append(wrong, more...)
			continue
		case !f.IsExported():
			wrong = append(wrong, fmt.Sprintf("field %s.%s is not exported: it is lost on the way", t.Name(), f.Name))
			continue
		case name == "-" || name == "":
			wrong = append(wrong, fmt.Sprintf("field %s.%s has no name in JSON", t.Name(), f.Name))
			continue
		case !jsonName.MatchString(name):
			wrong = append(wrong, fmt.Sprintf("field %s.%s: %q is not lower_snake", t.Name(), f.Name, name))
		}
		optional := strings.Contains(options, "omitempty") || strings.Contains(options, "omitzero")
		if strings.Contains(options, "string") {
			wrong = append(wrong, fmt.Sprintf("field %s.%s: the option string of its tag makes readers guess", t.Name(), f.Name))
		}
		list = append(list, field{index: f.Index, name: name, optional: optional, personal: f.Tag.Get("personal") == "true", typ: f.Type})
	}
	return list, wrong
}

// shape describes the JSON of a type: its properties by path, as in "lines[].price.amount", each with its type
// and a ? where it may be left out.
type shape struct {
	fields   map[string]string
	personal []string // paths of tagged fields
	wrong    []string
}

func shapeOf(t reflect.Type) shape {
	s := shape{fields: map[string]string{}}
	s.walk(t, "", "", nil)
	return s
}

func (s *shape) fault(format string, args ...any) {
	s.wrong = append(s.wrong, fmt.Sprintf(format, args...))
}

func (s *shape) walk(t reflect.Type, path, mark string, above []reflect.Type) {
	if t.Kind() == reflect.Pointer {
		t, mark = t.Elem(), strings.TrimSuffix(mark, "?")+"?"
	}
	leaf := func(kind string) { s.fields[path] = kind + mark }
	switch {
	case t == timeType:
		leaf("time")
		return
	case t == rawType:
		leaf("any")
		return
	case t.Implements(reflect.TypeFor[json.Marshaler]()) || reflect.PointerTo(t).Implements(reflect.TypeFor[json.Marshaler]()):
		s.fault("%s: %s makes its own JSON, whose shape nobody can see", place(path), t)
		return
	case t.Implements(reflect.TypeFor[encoding.TextMarshaler]()) || reflect.PointerTo(t).Implements(reflect.TypeFor[encoding.TextMarshaler]()):
		leaf("string")
		return
	}
	switch t.Kind() {
	case reflect.String:
		leaf("string")
	case reflect.Bool:
		leaf("boolean")
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64, reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		leaf("integer")
	case reflect.Float32, reflect.Float64:
		leaf("number")
	case reflect.Slice, reflect.Array:
		if t.Elem().Kind() == reflect.Uint8 {
			leaf("base64")
			return
		}
		leaf("array")
		s.walk(t.Elem(), path+"[]", "", above)
	case reflect.Map:
		if t.Key().Kind() != reflect.String {
			s.fault("%s: the keys of a map must be strings", place(path))
			return
		}
		leaf("map")
		s.walk(t.Elem(), path+"{}", "", above)
	case reflect.Struct:
		for _, outer := range above {
			if outer == t {
				leaf("recursive " + t.Name())
				return
			}
		}
		if path != "" {
			leaf("object")
		}
		list, wrong := fields(t)
		s.wrong = append(s.wrong, wrong...)
		seen := map[string]bool{}
		for _, f := range list {
			if seen[f.name] {
				s.fault("%s: two fields are called %q, so both are lost", place(path), f.name)
			}
			seen[f.name] = true
			inner := join(path, f.name)
			if f.personal {
				s.personal = append(s.personal, inner)
				if f.typ.Kind() != reflect.String {
					s.fault("%s is tagged personal but is no string: only strings can be blanked", inner)
				}
			}
			optional := ""
			if f.optional {
				optional = "?"
			}
			s.walk(f.typ, inner, optional, append(above[:len(above):len(above)], t))
		}
	default:
		s.fault("%s: a %s has no form that others can read", place(path), t)
	}
}

func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}

func place(path string) string {
	if path == "" {
		return "the message"
	}
	return path
}

// filler sets every field to something that differs from all others: strings to their own path, so that an example
// shows which field is the key.
type filler struct {
	n     int
	above []reflect.Type
}

func filled(t reflect.Type) reflect.Value {
	v := reflect.New(t).Elem()
	(&filler{}).fill(v, "")
	return v
}

func (f *filler) fill(v reflect.Value, path string) {
	t := v.Type()
	switch {
	case t.Kind() == reflect.Pointer:
		v.Set(reflect.New(t.Elem()))
		f.fill(v.Elem(), path)
		return
	case t == timeType:
		f.n++
		v.Set(reflect.ValueOf(time.Date(2026, 1, 2, 3, 4, 5, f.n*1000, time.UTC)))
		return
	case t == rawType:
		v.Set(reflect.ValueOf(json.RawMessage(fmt.Sprintf("%q", path))))
		return
	}
	switch t.Kind() {
	case reflect.String:
		v.SetString(path)
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		f.n++
		v.SetInt(int64(f.n))
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		f.n++
		v.SetUint(uint64(f.n))
	case reflect.Float32, reflect.Float64:
		f.n++
		v.SetFloat(float64(f.n) + 0.5)
	case reflect.Slice:
		v.Set(reflect.MakeSlice(t, 2, 2))
		for i := range 2 {
			f.fill(v.Index(i), fmt.Sprintf("%s[%d]", path, i))
		}
	case reflect.Array:
		for i := range v.Len() {
			f.fill(v.Index(i), fmt.Sprintf("%s[%d]", path, i))
		}
	case reflect.Map:
		if t.Key().Kind() != reflect.String {
			return // shapeOf refuses it
		}
		v.Set(reflect.MakeMap(t))
		value := reflect.New(t.Elem()).Elem()
		f.fill(value, path+"{name}")
		v.SetMapIndex(reflect.ValueOf("name").Convert(t.Key()), value)
	case reflect.Struct:
		for _, outer := range f.above {
			if outer == t {
				return // a tree: one level is enough
			}
		}
		f.above = append(f.above, t)
		list, _ := fields(t)
		for _, in := range list {
			f.fill(v.FieldByIndex(in.index), join(path, in.name))
		}
		f.above = f.above[:len(f.above)-1]
	}
}

// extend adds a property nobody knows to every object of an encoded message.
func extend(v any, t reflect.Type) {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch t.Kind() {
	case reflect.Slice, reflect.Array:
		if items, ok := v.([]any); ok {
			for _, item := range items {
				extend(item, t.Elem())
			}
		}
	case reflect.Map:
		if items, ok := v.(map[string]any); ok {
			for _, item := range items {
				extend(item, t.Elem())
			}
		}
	case reflect.Struct:
		object, ok := v.(map[string]any)
		if !ok {
			return
		}
		list, _ := fields(t)
		for _, f := range list {
			extend(object[f.name], f.typ)
		}
		object["unknown_to_all"] = map[string]any{"added": "later"}
	}
}
