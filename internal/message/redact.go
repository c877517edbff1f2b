package message

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"strings"
)

// Redactor blanks personal data in encoded messages.
type Redactor struct {
	types map[string]reflect.Type // by wire name
}

// NewRedactor knows the messages of all contracts.
func NewRedactor(contracts ...Contract) *Redactor {
	r := &Redactor{types: map[string]reflect.Type{}}
	for _, c := range contracts {
		for _, e := range c.Events {
			r.types[e.MessageName()] = reflect.TypeOf(e)
		}
		for _, e := range c.Commands {
			r.types[e.MessageName()] = reflect.TypeOf(e)
		}
	}
	return r
}

// With is a redactor that knows other payloads too, each by a name that is no wire name.
func (r *Redactor) With(payloads map[string]reflect.Type) *Redactor {
	all := &Redactor{types: maps.Clone(payloads)}
	if r != nil {
		maps.Copy(all.types, r.types)
	}
	return all
}

// Payload is body with all fields tagged `personal:"true"` emptied. A message of an unknown name is emptied whole:
// nobody can tell what it holds.
func (r *Redactor) Payload(name string, body []byte) ([]byte, error) {
	var t reflect.Type
	if r != nil {
		t = r.types[name]
	}
	if t == nil {
		return []byte("{}"), nil
	}
	var v any
	d := json.NewDecoder(bytes.NewReader(body))
	d.UseNumber() // amounts do not fit a float
	if err := d.Decode(&v); err != nil {
		return nil, fmt.Errorf("redact %s: %w", name, err)
	}
	blank(v, t)
	return json.Marshal(v)
}

// Envelope is Payload for a whole encoded Message.
func (r *Redactor) Envelope(name string, body []byte) ([]byte, error) {
	var m Message
	if err := json.Unmarshal(body, &m); err != nil {
		return nil, fmt.Errorf("redact %s: %w", name, err)
	}
	var err error
	if m.Payload, err = r.Payload(name, m.Payload); err != nil {
		return nil, err
	}
	return json.Marshal(m)
}

func blank(v any, t reflect.Type) {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch t.Kind() {
	case reflect.Slice, reflect.Array:
		if items, ok := v.([]any); ok {
			for _, item := range items {
				blank(item, t.Elem())
			}
		}
	case reflect.Map:
		if items, ok := v.(map[string]any); ok {
			for _, item := range items {
				blank(item, t.Elem())
			}
		}
	case reflect.Struct:
		fields, ok := v.(map[string]any)
		if !ok {
			return
		}
		for i := range t.NumField() {
			f := t.Field(i)
			name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
			if name == "" && f.Anonymous {
				blank(v, f.Type) // its fields stand among these
				continue
			}
			if name == "" {
				name = f.Name
			}
			value, present := fields[name]
			switch {
			case !present:
			case f.Tag.Get("personal") == "true" && f.Type.Kind() == reflect.String:
				fields[name] = ""
			case f.Tag.Get("personal") == "true":
				delete(fields, name)
			default:
				blank(value, f.Type)
			}
		}
	}
}
