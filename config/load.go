package config

import (
	"bytes"
	"crypto/sha256"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"sort"
	"strings"

	"github.com/spf13/viper"
	"go.yaml.in/yaml/v3"
)

//go:embed default.yaml
var reference []byte

// Reference is default.yaml: every key with its default and what it means.
func Reference() []byte { return bytes.Clone(reference) }

// Options say where a configuration comes from.
type Options struct {
	File    string            // "" for the one that BANYAN_CONFIG names, if it names one
	Flags   map[string]string // key -> value of the flags that were given
	Environ func() []string   // os.Environ, in programs

	text []byte // of the file, where it was read already
}

const (
	maxFile  = 1 << 20
	maxWrong = 20 // what is wrong with a file is told up to here: a file of another program is wrong all over
)

// Load reads the configuration: defaults, file, BANYAN_* variables, flags. It fails with all that is wrong, each
// naming a key.
func Load(o Options) (Config, error) {
	c, err := decode(o)
	if err != nil {
		return Config{}, err
	}
	if err := c.Validate(); err != nil {
		return Config{}, err
	}
	return c, nil
}

// setting is a value that somebody has given to a key.
type setting struct {
	value  any
	source string
}

// decode reads all but does not judge the values.
func decode(o Options) (Config, error) {
	defaults := Default()
	keys := newKnown(leaves(&defaults))
	settings := map[string]setting{}
	variables, path, wrong := fromEnvironment(keys, o.Environ)

	if o.File != "" {
		path = o.File
	}
	var file contents
	if path != "" {
		text, err := o.text, error(nil)
		if text == nil {
			text, err = readFile(path)
		}
		if err != nil {
			wrong = append(wrong, fmt.Errorf("config file: %w", err))
		} else {
			wrong = append(wrong, fromFile(keys, path, text, settings)...)
		}
		file = contents{digest: sha256.Sum256(text), keys: len(settings)}
	}
	for key, s := range variables {
		settings[key] = s
	}
	for key, text := range o.Flags {
		l, ok := keys.leaves[key]
		if !ok {
			wrong = append(wrong, keys.unknown(key))
			continue
		}
		value, err := l.parse(text)
		if err != nil {
			wrong = append(wrong, err)
			continue
		}
		settings[key] = setting{value: value, source: "flag"}
	}
	if len(wrong) > 0 {
		sort.Slice(wrong, func(i, j int) bool { return wrong[i].Error() < wrong[j].Error() })
		return Config{}, errors.Join(wrong...)
	}

	v := viper.New()
	v.SetConfigType("yaml")
	if err := v.ReadConfig(bytes.NewReader(reference)); err != nil {
		return Config{}, fmt.Errorf("default.yaml: %w", err)
	}
	c := Config{sources: map[string]string{}, file: file}
	for key, s := range settings {
		v.Set(key, s.value)
		c.sources[key] = s.source
	}
	if err := v.UnmarshalExact(&c); err != nil {
		return Config{}, fmt.Errorf("default.yaml: %w", err)
	}
	// An empty list is a list: what is loaded equals what is written in Go.
	for _, l := range leaves(&c) {
		fillLists(l.value)
	}
	return c, nil
}

// fillLists makes lists of those that are nil, in groups too.
func fillLists(v reflect.Value) {
	switch v.Kind() {
	case reflect.Slice:
		if v.IsNil() {
			v.Set(reflect.MakeSlice(v.Type(), 0, 0))
		}
		for i := range v.Len() {
			fillLists(v.Index(i))
		}
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Type().Field(i).IsExported() {
				fillLists(v.Field(i))
			}
		}
	}
}

// fromEnvironment reads the BANYAN_* variables. Those that are not keys are refused: a mistyped one would leave its
// key at the default without a word.
func fromEnvironment(keys known, environ func() []string) (settings map[string]setting, file string, wrong []error) {
	settings = map[string]setting{}
	if environ == nil {
		return settings, "", nil
	}
	byVariable := map[string]leaf{}
	for _, l := range keys.leaves {
		byVariable[variable(l.key)] = l
	}
	for _, entry := range environ() {
		name, text, _ := strings.Cut(entry, "=")
		switch {
		case !strings.HasPrefix(name, "BANYAN_"), name == passwordVariable, strings.HasPrefix(name, "BANYAN_TEST_"):
			continue
		case name == fileVariable:
			file = text
			continue
		}
		l, ok := byVariable[name]
		if !ok {
			wrong = append(wrong, keys.noVariable(name))
			continue
		}
		value, err := l.parse(text)
		if err != nil {
			wrong = append(wrong, fmt.Errorf("%w (from %s)", err, name))
			continue
		}
		settings[l.key] = setting{value: value, source: "env " + name}
	}
	return settings, file, wrong
}

// Variables that are not keys.
const (
	fileVariable     = "BANYAN_CONFIG"
	passwordVariable = "BANYAN_ADMIN_PASSWORD"
)

// noVariable is the error for a variable that is no key's: with the one that is probably meant, or those of the keys below a section.
func (k known) noVariable(name string) error {
	candidates, key := []string{fileVariable, passwordVariable}, map[string]string{}
	for _, l := range k.keys {
		v := variable(l)
		candidates, key[v] = append(candidates, v), l
		for section := l; strings.Contains(section, "."); {
			section = section[:strings.LastIndexByte(section, '.')]
			if variable(section) == name {
				var below []string
				for _, n := range k.below(section) {
					below = append(below, variable(section+"."+n))
				}
				return fmt.Errorf("%s: no key has this variable; %s has %s", name, section, strings.Join(below, ", "))
			}
		}
	}
	best := nearest(name, candidates)
	switch {
	case best == "":
		return fmt.Errorf("%s: no key has this variable; `banyan config` prints the keys", printable(name))
	case key[best] == "":
		return fmt.Errorf("%s: no key has this variable; did you mean %s?", printable(name), best)
	}
	return fmt.Errorf("%s: no key has this variable; did you mean %s (%s)?", printable(name), best, key[best])
}

// readFile reads a file as far as it matters: one that is too large is known by a byte too many.
func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // it is only read
	return io.ReadAll(io.LimitReader(f, maxFile+1))
}

func fromFile(keys known, path string, text []byte, settings map[string]setting) []error {
	if len(text) > maxFile {
		return []error{fmt.Errorf("config file %s: is larger than 1 MiB", path)}
	}
	return read(keys, path, text, settings)
}

// read takes the settings of a file. It walks the document itself, so that each error names its key, and numbers and
// words keep the spelling that they have in the file.
func read(keys known, path string, text []byte, settings map[string]setting) (wrong []error) {
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	var document yaml.Node
	if err := decoder.Decode(&document); err != nil {
		if errors.Is(err, io.EOF) {
			return nil // an empty file sets nothing
		}
		return []error{fmt.Errorf("config file %s: %w", path, err)}
	}
	if err := decoder.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return []error{fmt.Errorf("config file %s: holds more than one document", path)}
	}
	note := func(n *yaml.Node, err error) {
		wrong = append(wrong, fmt.Errorf("%w (%s, line %d)", err, path, n.Line))
	}
	var walk func(n *yaml.Node, section string)
	walk = func(n *yaml.Node, section string) {
		n = resolve(n)
		if empty(n) {
			return
		}
		if n.Kind != yaml.MappingNode {
			where := section
			if where == "" {
				where = "the file"
			}
			note(n, fmt.Errorf("%s: is not a value; it has %s below it", where, strings.Join(keys.below(section), ", ")))
			return
		}
		seen := map[string]bool{}
		for i := 0; i+1 < len(n.Content) && len(wrong) < maxWrong; i += 2 {
			name, value := n.Content[i], resolve(n.Content[i+1])
			key := resolve(name).Value
			if section != "" {
				key = section + "." + key
			}
			l, isLeaf := keys.leaves[key]
			// Names with dots would be a second way to write the same key.
			valid := resolve(name).Kind == yaml.ScalarNode && !strings.Contains(resolve(name).Value, ".")
			switch {
			case !valid && (isLeaf || keys.section(key)) && resolve(name).Kind == yaml.ScalarNode:
				note(name, keys.dotted(key))
			case !valid || !isLeaf && (resolve(name).Value == "" || !keys.section(key)):
				note(name, keys.unknown(key))
			case seen[key]:
				note(name, fmt.Errorf("%s: is there twice", key))
			case !isLeaf:
				walk(value, key)
			default:
				v, err := l.decode(value)
				if err != nil {
					note(value, err)
					continue
				}
				settings[key] = setting{value: v, source: "file"}
			}
			seen[key] = true
		}
	}
	if len(document.Content) == 1 {
		walk(document.Content[0], "")
	}
	return wrong
}

func (l leaf) decode(n *yaml.Node) (any, error) {
	switch {
	case empty(n):
		return nil, fmt.Errorf("%s: has no value; remove the key to have its default", l.key)
	case n.Kind == yaml.ScalarNode:
		return l.parse(n.Value)
	case n.Kind == yaml.SequenceNode && groups(l.value.Type()):
		return l.listed(n)
	case n.Kind == yaml.SequenceNode && l.value.Kind() == reflect.Slice:
		list := make([]string, len(n.Content))
		for i, item := range n.Content {
			if item = resolve(item); item.Kind != yaml.ScalarNode || empty(item) {
				return nil, fmt.Errorf("%s: item %d of the list is not text", l.key, i+1)
			}
			list[i] = item.Value
		}
		return list, nil
	case n.Kind == yaml.SequenceNode:
		return nil, fmt.Errorf("%s: takes one value, not a list", l.key)
	}
	return nil, fmt.Errorf("%s: takes a value; there are no keys below it", l.key)
}

// resolve follows aliases; one that points to itself ends soon.
func resolve(n *yaml.Node) *yaml.Node {
	for range 10 {
		if n.Kind != yaml.AliasNode || n.Alias == nil {
			break
		}
		n = n.Alias
	}
	return n
}

// empty says whether there is nothing: a key without a value.
func empty(n *yaml.Node) bool {
	return n.Kind == 0 || n.Kind == yaml.ScalarNode && n.Tag == "!!null"
}
