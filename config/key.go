package config

import (
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/banyan-go/banyan/internal/secret"
)

// leaf is a key that has a value, not others below it.
type leaf struct {
	key    string
	value  reflect.Value
	secret bool
}

var (
	durationType = reflect.TypeFor[time.Duration]()
	secretType   = reflect.TypeFor[secret.Text]()
)

// secrets are the keys whose values are masked although their type does not say so.
var secrets = []string{"database.postgres.secret", "database.postgres.admin_dsn", "modules.notifications.smtp.password"}

// leaves are the keys of a configuration, in the order of the structs.
func leaves(c *Config) []leaf {
	var list []leaf
	var walk func(v reflect.Value, prefix string)
	walk = func(v reflect.Value, prefix string) {
		for i := range v.NumField() {
			field := v.Type().Field(i)
			name, options, _ := strings.Cut(field.Tag.Get("mapstructure"), ",")
			switch {
			case !field.IsExported():
			case options == "squash":
				walk(v.Field(i), prefix)
			case field.Type.Kind() == reflect.Struct:
				walk(v.Field(i), prefix+name+".")
			default:
				key := prefix + name
				list = append(list, leaf{key: key, value: v.Field(i), secret: field.Type == secretType || slices.Contains(secrets, key)})
			}
		}
	}
	walk(reflect.ValueOf(c).Elem(), "")
	return list
}

// variable is the environment variable of a key.
func variable(key string) string {
	return "BANYAN_" + strings.ToUpper(strings.ReplaceAll(key, ".", "_"))
}

// parse reads a value as its key's type wants it. The error says what is wanted, and what was given unless that is
// a secret.
func (l leaf) parse(text string) (any, error) {
	wrong := func(what string) error {
		if l.secret {
			return fmt.Errorf("%s: is not %s", l.key, what)
		}
		return fmt.Errorf("%s: %q is not %s", l.key, text, what)
	}
	t := l.value.Type()
	switch {
	case t == durationType:
		d, err := time.ParseDuration(text)
		if err != nil {
			return nil, wrong("a duration, as in 500ms, 30s, 15m or 720h")
		}
		return d, nil
	case t.Kind() == reflect.String:
		return text, nil
	case t.Kind() == reflect.Bool:
		if text != "true" && text != "false" {
			return nil, wrong("true or false")
		}
		return text == "true", nil
	case t.Kind() == reflect.Int, t.Kind() == reflect.Int64:
		n, err := strconv.ParseInt(text, 10, t.Bits())
		if err != nil {
			return nil, wrong("a whole number")
		}
		return n, nil
	case t.Kind() == reflect.Float64:
		f, err := strconv.ParseFloat(text, 64)
		if err != nil {
			return nil, wrong("a number")
		}
		return f, nil
	case t.Kind() == reflect.Slice && t.Elem().Kind() == reflect.String:
		list := []string{}
		for s := range strings.SplitSeq(text, ",") {
			if s = strings.TrimSpace(s); s != "" {
				list = append(list, s)
			}
		}
		return list, nil
	}
	return nil, fmt.Errorf("%s: is a list of groups of keys, which can be set in a file only", l.key)
}

// known are the keys that exist.
type known struct {
	leaves map[string]leaf
	keys   []string
}

func newKnown(list []leaf) known {
	k := known{leaves: map[string]leaf{}}
	for _, l := range list {
		k.leaves[l.key] = l
		k.keys = append(k.keys, l.key)
	}
	return k
}

// section says whether key has others below it.
func (k known) section(key string) bool {
	return key == "" || slices.ContainsFunc(k.keys, func(s string) bool { return strings.HasPrefix(s, key+".") })
}

// below are the names that follow a section, in order.
func (k known) below(section string) []string {
	prefix := ""
	if section != "" {
		prefix = section + "."
	}
	var names []string
	for _, key := range k.keys {
		if rest, found := strings.CutPrefix(key, prefix); found {
			name, _, _ := strings.Cut(rest, ".")
			if !slices.Contains(names, name) {
				names = append(names, name)
			}
		}
	}
	return names
}

// unknown is the error for a key that does not exist: with the one that is probably meant, and all that there are at its place.
func (k known) unknown(key string) error {
	at := key
	for at != "" && !k.section(at) {
		if i := strings.LastIndexByte(at, '.'); i >= 0 {
			at = at[:i]
		} else {
			at = ""
		}
	}
	where, rest := "the configuration", key
	if at != "" {
		where, rest = at, strings.TrimPrefix(key, at+".")
	}
	meant := ""
	if best := k.meant(at, rest); best != "" {
		meant = "did you mean " + best + "? "
	}
	return fmt.Errorf("%s: there is no such key; %s%s has %s", printable(key), meant, where, strings.Join(k.below(at), ", "))
}

// dotted is the error for a key that exists and is written with dots in a file: that would be a second way to write it.
func (k known) dotted(key string) error {
	parts := strings.Split(key, ".")
	slices.Reverse(parts)
	return fmt.Errorf("%s: write it as %s, not with dots", key, strings.Join(parts, " below "))
}

// meant is what somebody probably means by a name below a section: one that is there and written almost so, or the only one written just so
// that is elsewhere; "" if nothing is like it.
func (k known) meant(section, name string) string {
	first, _, _ := strings.Cut(name, ".")
	if best := nearest(first, k.below(section)); best != "" {
		if section != "" {
			best = section + "." + best
		}
		return best
	}
	elsewhere := ""
	for _, key := range k.keys {
		if strings.HasSuffix(key, "."+name) {
			if elsewhere != "" {
				return ""
			}
			elsewhere = key
		}
	}
	return elsewhere
}

// nearest is the candidate that differs in a slip or two; "" if none does.
func nearest(name string, candidates []string) string {
	best, least := "", min(2, 1+len(name)/4)+1
	for _, c := range candidates {
		if d := distance(name, c); d < least {
			best, least = c, d
		}
	}
	return best
}

// distance is how many letters have to change for a to become b; what is too long is not looked at.
func distance(a, b string) int {
	a = a[:min(len(a), 100)]
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := diagonal
			if a[i] != b[j] {
				change++
			}
			diagonal = row[j+1]
			row[j+1] = min(change, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

// printable is a key as an error can show it, whatever was in the file.
func printable(key string) string {
	if len(key) > 100 {
		key = key[:100] + "…"
	}
	quoted := strconv.Quote(key)
	if quoted[1:len(quoted)-1] == key {
		return key
	}
	return quoted
}
