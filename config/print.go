package config

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/banyan-go/banyan/internal/secret"
)

// Print writes what is in force as YAML, in the order of default.yaml, with the source of each value. Secrets are
// masked.
func (c Config) Print(w io.Writer) error {
	var document yaml.Node
	if err := yaml.Unmarshal(reference, &document); err != nil {
		return fmt.Errorf("default.yaml: %w", err)
	}
	values := map[string]leaf{}
	for _, l := range leaves(&c) {
		values[l.key] = l
	}
	var fill func(n *yaml.Node, section string) error
	fill = func(n *yaml.Node, section string) error {
		for i := 0; i+1 < len(n.Content); i += 2 {
			name, value := n.Content[i], n.Content[i+1]
			key := section + name.Value
			name.HeadComment, name.LineComment, name.FootComment = "", "", ""
			if value.Kind == yaml.MappingNode {
				if err := fill(value, key+"."); err != nil {
					return err
				}
				continue
			}
			var shown yaml.Node
			if err := shown.Encode(values[key].shown()); err != nil {
				return fmt.Errorf("print %s: %w", key, err)
			}
			if shown.Kind == yaml.SequenceNode {
				shown.Style = yaml.FlowStyle
			}
			shown.LineComment = "# " + c.Source(key)
			n.Content[i+1] = &shown
		}
		return nil
	}
	root := document.Content[0]
	document.HeadComment, document.FootComment, root.HeadComment = "", "", ""
	if err := fill(root, ""); err != nil {
		return err
	}
	e := yaml.NewEncoder(w)
	e.SetIndent(2)
	if err := e.Encode(root); err != nil {
		return fmt.Errorf("print the configuration: %w", err)
	}
	return e.Close()
}

// Source says where the value of a key came from: default, file, env with the variable, or flag.
func (c Config) Source(key string) string {
	if s := c.sources[key]; s != "" {
		return s
	}
	return "default"
}

// shown is the value as people may see it.
func (l leaf) shown() any {
	switch v := l.value.Interface().(type) {
	case time.Duration:
		return shortDuration(v)
	case string:
		if l.secret && v != "" {
			return secret.Mask
		}
		// A password does not belong into a URL that is no secret, but if it is there it is not shown.
		if u, err := url.Parse(v); err == nil && u.User != nil {
			if _, set := u.User.Password(); set {
				u.User = url.UserPassword(u.User.Username(), "xxxxx")
				return u.String()
			}
		}
		return v
	default:
		if groups(l.value.Type()) {
			return shownGroups(l.value)
		}
		return v
	}
}

// shortDuration leaves out the parts that are zero: 720h, not 720h0m0s.
func shortDuration(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = s[:len(s)-2]
	}
	if strings.HasSuffix(s, "h0m") {
		s = s[:len(s)-2]
	}
	return s
}

// String is the configuration as YAML, secrets masked.
func (c Config) String() string {
	var b strings.Builder
	if err := c.Print(&b); err != nil {
		return err.Error()
	}
	return b.String()
}

// Format prints String whatever the verb, so that no secret gets out by %+v.
func (c Config) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, c.String()) }

// LogValue is String.
func (c Config) LogValue() slog.Value { return slog.StringValue(c.String()) }

// MarshalJSON is a flat object of keys and values, secrets masked.
func (c Config) MarshalJSON() ([]byte, error) {
	values := map[string]any{}
	for _, l := range leaves(&c) {
		if shown, ok := l.shown().(*yaml.Node); ok {
			var plain any
			if err := shown.Decode(&plain); err != nil {
				return nil, err
			}
			values[l.key] = plain
			continue
		}
		values[l.key] = l.shown()
	}
	return json.Marshal(values)
}
