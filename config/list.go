package config

import (
	"fmt"
	"reflect"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/banyan-go/banyan/internal/secret"
)

// Lists of groups of keys, as in gateway.upstreams, are set as a whole and in a file only. What an item does not say is the
// default of its kind, where that has one.

// groups says whether a value is a list of groups of keys.
func groups(t reflect.Type) bool {
	return t.Kind() == reflect.Slice && t.Elem().Kind() == reflect.Struct
}

// defaulter is an item that has values where nothing is said.
type defaulter interface{ WithDefaults() any }

// item reads one group of keys. Errors name the key with the number of the item.
func item(key string, n *yaml.Node, into reflect.Value) error {
	n = resolve(n)
	if n.Kind != yaml.MappingNode {
		return fmt.Errorf("%s: is not a group of keys; it takes %s", key, strings.Join(fields(into.Type()), ", "))
	}
	if d, ok := into.Interface().(defaulter); ok {
		into.Set(reflect.ValueOf(d.WithDefaults()))
	}
	seen := map[string]bool{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		name, value := resolve(n.Content[i]).Value, resolve(n.Content[i+1])
		at := key + "." + name
		field, ok := field(into, name)
		switch {
		case !ok:
			return fmt.Errorf("%s: there is no such key; it takes %s", printable(at), strings.Join(fields(into.Type()), ", "))
		case seen[name]:
			return fmt.Errorf("%s: is there twice", at)
		}
		seen[name] = true
		if field.Kind() == reflect.Struct && value.Kind == yaml.MappingNode {
			if err := item(at, value, field); err != nil {
				return err
			}
			continue
		}
		v, err := leaf{key: at, value: field, secret: field.Type() == secretType}.decode(value)
		if err != nil {
			return err
		}
		got := reflect.ValueOf(v)
		if !got.CanConvert(field.Type()) {
			return fmt.Errorf("%s: cannot be read", at)
		}
		field.Set(got.Convert(field.Type()))
	}
	return nil
}

// field finds the field of a name, in squashed structs too.
func field(v reflect.Value, name string) (reflect.Value, bool) {
	for i := range v.NumField() {
		f := v.Type().Field(i)
		tag, options, _ := strings.Cut(f.Tag.Get("mapstructure"), ",")
		switch {
		case !f.IsExported():
		case options == "squash":
			if found, ok := field(v.Field(i), name); ok {
				return found, true
			}
		case tag == name:
			return v.Field(i), true
		}
	}
	return reflect.Value{}, false
}

func fields(t reflect.Type) []string {
	var names []string
	for i := range t.NumField() {
		f := t.Field(i)
		tag, options, _ := strings.Cut(f.Tag.Get("mapstructure"), ",")
		switch {
		case !f.IsExported():
		case options == "squash":
			names = append(names, fields(f.Type)...)
		default:
			names = append(names, tag)
		}
	}
	return names
}

// listed reads a list of groups.
func (l leaf) listed(n *yaml.Node) (any, error) {
	list := reflect.MakeSlice(l.value.Type(), len(n.Content), len(n.Content))
	for i, one := range n.Content {
		if err := item(fmt.Sprintf("%s[%d]", l.key, i), one, list.Index(i)); err != nil {
			return nil, err
		}
	}
	return list.Interface(), nil
}

// shownGroup is a group as people may see it: under the names of its keys, in their order, without what is not set.
func shownGroup(v reflect.Value) *yaml.Node {
	n := &yaml.Node{Kind: yaml.MappingNode, Style: yaml.FlowStyle}
	for i := range v.NumField() {
		f := v.Type().Field(i)
		tag, options, _ := strings.Cut(f.Tag.Get("mapstructure"), ",")
		value := v.Field(i)
		switch {
		case !f.IsExported() || value.IsZero():
		case options == "squash":
			n.Content = append(n.Content, shownGroup(value).Content...)
		case value.Kind() == reflect.Struct:
			n.Content = append(n.Content, scalar(tag), shownGroup(value))
		case groups(value.Type()):
			n.Content = append(n.Content, scalar(tag), shownGroups(value))
		default:
			var shown yaml.Node
			if shown.Encode(leaf{value: value, secret: f.Type == reflect.TypeFor[secret.Text]()}.shown()) != nil {
				shown = *scalar("?")
			}
			if shown.Kind == yaml.SequenceNode {
				shown.Style = yaml.FlowStyle
			}
			n.Content = append(n.Content, scalar(tag), &shown)
		}
	}
	return n
}

func shownGroups(v reflect.Value) *yaml.Node {
	n := &yaml.Node{Kind: yaml.SequenceNode, Style: yaml.FlowStyle}
	for i := range v.Len() {
		n.Content = append(n.Content, shownGroup(v.Index(i)))
	}
	return n
}

func scalar(text string) *yaml.Node { return &yaml.Node{Kind: yaml.ScalarNode, Value: text} }
