package contracttest

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/banyan-go/banyan/internal/message"
)

var (
	update  = flag.Bool("update", false, "rewrite the golden files of messages that are not released")
	release = flag.String("release", "", `release these messages for ever: their names with commas between, or "all"`)
)

// Check holds the contract against testdata/ in the folder of the test.
func Check(t *testing.T, c message.Contract) {
	t.Helper()
	var names []string
	if *release != "" {
		names = strings.Split(*release, ",")
	}
	for _, wrong := range check("testdata", c, options{update: *update, release: names}) {
		t.Error(wrong)
	}
}

type options struct {
	update  bool
	release []string // names of any contract; "all"
}

// released is an entry of released.json.
type released struct {
	Kind    string            `json:"kind"`
	Key     string            `json:"key,omitempty"`     // the field that is the message's key
	Subject string            `json:"subject,omitempty"` // the field that says whose personal data it holds
	Fields  map[string]string `json:"fields"`
	Reply   map[string]string `json:"reply,omitempty"`
}

const releasedFile = "released.json"

// entry is a message of the contract with what follows from its type.
type entry struct {
	name   string
	record released
	golden map[string][]byte // by file name
}

func check(dir string, c message.Contract, opts options) (wrong []string) {
	fault := func(format string, args ...any) { wrong = append(wrong, fmt.Sprintf(format, args...)) }

	entries, faults := describe(c)
	wrong = append(wrong, faults...)
	if len(wrong) > 0 {
		return wrong // nothing of a broken contract is worth keeping
	}

	known, err := readReleased(dir)
	if err != nil {
		return []string{err.Error()}
	}
	for _, name := range slices.Sorted(maps.Keys(known)) {
		e, ok := entries[name]
		if !ok {
			fault("%s was released and is gone from the contract: it has to stay as long as anybody may hold a message of it", name)
			continue
		}
		for _, difference := range compare(known[name], e.record) {
			fault("%s is released and never changes, but %s: leave it and add the next version", name, difference)
		}
	}
	if len(wrong) > 0 {
		return wrong
	}

	added := false
	for _, name := range opts.release {
		for candidate, e := range entries {
			if _, done := known[candidate]; !done && (name == "all" || name == candidate) {
				known[candidate] = e.record
				added = true
			}
		}
		if name != "all" && message.Module(name) == c.Module {
			if _, ok := entries[name]; !ok {
				fault("%s cannot be released: it is not in the contract", name)
			}
		}
	}
	if len(wrong) > 0 {
		return wrong
	}
	if added || !exists(filepath.Join(dir, releasedFile)) && opts.update {
		if err := write(dir, releasedFile, encode(known)); err != nil {
			return []string{err.Error()}
		}
	}
	if !exists(filepath.Join(dir, releasedFile)) {
		fault("%s is missing: run the test with -update", filepath.Join(dir, releasedFile))
	}
	return append(wrong, goldens(dir, entries, known, opts.update)...)
}

// goldens compares the golden files with the messages. Those of released messages are never written again: that
// their example changed means that they did.
func goldens(dir string, entries map[string]entry, known map[string]released, update bool) (wrong []string) {
	fault := func(format string, args ...any) { wrong = append(wrong, fmt.Sprintf(format, args...)) }
	expected := map[string]bool{releasedFile: true}
	for _, name := range slices.Sorted(maps.Keys(entries)) {
		e := entries[name]
		_, frozen := known[name]
		for _, file := range slices.Sorted(maps.Keys(e.golden)) {
			expected[file] = true
			want, err := os.ReadFile(filepath.Join(dir, file))
			missing := errors.Is(err, fs.ErrNotExist)
			switch {
			case err != nil && !missing:
				fault("%v", err)
			case bytes.Equal(want, e.golden[file]):
			case update && (!frozen || missing):
				if err := write(dir, file, e.golden[file]); err != nil {
					fault("%v", err)
				}
			case missing:
				fault("%s has no golden file %s: run the test with -update", name, filepath.Join(dir, file))
			case frozen:
				fault("%s is released and never changes, but its JSON is no longer that of %s:\n%s", name, filepath.Join(dir, file), e.golden[file])
			default:
				fault("%s is not as in %s (run the test with -update if that is meant):\n%s", name, filepath.Join(dir, file), e.golden[file])
			}
		}
	}
	found, err := filepath.Glob(filepath.Join(dir, "*.json"))
	if err != nil {
		fault("%v", err)
	}
	for _, file := range found {
		if expected[filepath.Base(file)] {
			continue
		}
		if !update {
			fault("%s belongs to no message: run the test with -update", file)
		} else if err := os.Remove(file); err != nil {
			fault("%v", err)
		}
	}
	return wrong
}

// describe makes the entries of a contract and says what is wrong with its messages.
func describe(c message.Contract) (map[string]entry, []string) {
	var wrong []string
	entries := map[string]entry{}
	add := func(p message.Payload, kind string, reply any) {
		e, faults := entryOf(c, p, kind, reply)
		if _, twice := entries[e.name]; twice {
			faults = append(faults, "the name is used twice")
		}
		for _, f := range faults {
			wrong = append(wrong, fmt.Sprintf("%s (%T): %s", e.name, p, f))
		}
		entries[e.name] = e
	}
	for _, e := range c.Events {
		add(e, "event", nil)
	}
	for _, e := range c.Commands {
		add(e, "command", nil)
	}
	for _, x := range c.Queries {
		add(x.Query, "query", x.Reply)
	}
	return entries, wrong
}

func entryOf(c message.Contract, p message.Payload, kind string, reply any) (entry, []string) {
	var wrong []string
	fault := func(format string, args ...any) { wrong = append(wrong, fmt.Sprintf(format, args...)) }
	e := entry{name: p.MessageName(), golden: map[string][]byte{}}
	if err := message.CheckName(e.name); err != nil {
		fault("%v", err)
	} else if owner := message.Module(e.name); owner != c.Module {
		fault("the name says that it belongs to %s, but it stands in the contract of %s", owner, c.Module)
	}
	t := reflect.TypeOf(p)
	if t.Kind() != reflect.Struct {
		fault("a message is a struct, not a %s", t.Kind())
		return e, wrong
	}
	s := shapeOf(t)
	wrong = append(wrong, s.wrong...)
	e.record = released{Kind: kind, Fields: s.fields}
	if len(wrong) > 0 {
		return e, wrong
	}

	example := filled(t)
	body, faults := roundTrip(example)
	wrong = append(wrong, faults...)
	e.golden[e.name+".json"] = body
	full := example.Interface()
	if keyed, ok := full.(interface{ MessageKey() string }); ok {
		if e.record.Key = keyed.MessageKey(); e.record.Key == "" {
			fault("the key is empty though every field is set")
		}
	}
	personal, isPersonal := full.(message.Personal)
	switch {
	case isPersonal && len(s.personal) == 0:
		fault("it says whose personal data it holds, but no field is tagged personal")
	case !isPersonal && len(s.personal) > 0:
		fault("%s is tagged personal, but %T does not say whose data it is (message.Personal)", strings.Join(s.personal, ", "), p)
	case isPersonal:
		if e.record.Subject = personal.PersonalSubject(); e.record.Subject == "" {
			fault("the personal subject is empty though every field is set")
		}
		wrong = append(wrong, redaction(c, e.name, body, s.personal)...)
	}
	if reply == nil {
		return e, wrong
	}
	replyType := reflect.TypeOf(reply)
	if replyType.Kind() != reflect.Struct {
		fault("a reply is a struct, not a %s: a list could never get a second property", replyType)
		return e, wrong
	}
	rs := shapeOf(replyType)
	for _, f := range rs.wrong {
		fault("reply: %s", f)
	}
	e.record.Reply = rs.fields
	if len(rs.wrong) == 0 {
		answer, faults := roundTrip(filled(replyType))
		for _, f := range faults {
			fault("reply: %s", f)
		}
		e.golden[e.name+".reply.json"] = answer
	}
	return e, wrong
}

// roundTrip encodes an example, and checks that decoding gives the same again, also among unknown fields.
func roundTrip(example reflect.Value) (body []byte, wrong []string) {
	body = encode(example.Interface())
	decoded := reflect.New(example.Type())
	if err := json.Unmarshal(body, decoded.Interface()); err != nil {
		return body, []string{fmt.Sprintf("its JSON cannot be read back: %v", err)}
	}
	if !reflect.DeepEqual(decoded.Elem().Interface(), example.Interface()) {
		wrong = append(wrong, fmt.Sprintf("read back it is %+v and not %+v", decoded.Elem().Interface(), example.Interface()))
	}
	var loose any
	d := json.NewDecoder(bytes.NewReader(body))
	d.UseNumber()
	if err := d.Decode(&loose); err != nil {
		return body, append(wrong, err.Error())
	}
	extend(loose, example.Type())
	decoded = reflect.New(example.Type())
	if err := json.Unmarshal(encode(loose), decoded.Interface()); err != nil {
		wrong = append(wrong, fmt.Sprintf("unknown fields are not ignored: %v", err))
	} else if !reflect.DeepEqual(decoded.Elem().Interface(), example.Interface()) {
		wrong = append(wrong, "unknown fields change what is read")
	}
	return body, wrong
}

// redaction checks that blanking the message leaves nothing personal in it.
func redaction(c message.Contract, name string, body []byte, paths []string) (wrong []string) {
	blanked, err := message.NewRedactor(c).Payload(name, body)
	if err != nil {
		return []string{err.Error()}
	}
	for _, path := range paths {
		// The filler has set each string to its path, with an index or a name within the brackets.
		value := path + `"`
		if i := strings.IndexAny(path, "[{"); i >= 0 {
			value = path[:i+1]
		}
		if bytes.Contains(blanked, []byte(`:"`+value)) {
			wrong = append(wrong, fmt.Sprintf("%s survives when its user is erased", path))
		}
	}
	return wrong
}

// compare says how a message differs from what was released.
func compare(was, is released) (differences []string) {
	note := func(format string, args ...any) { differences = append(differences, fmt.Sprintf(format, args...)) }
	if was.Kind != is.Kind {
		note("its kind was %s and is %s", was.Kind, is.Kind)
	}
	if was.Key != is.Key {
		note("its key was %q and is %q", was.Key, is.Key)
	}
	if was.Subject != is.Subject {
		note("its personal subject was %q and is %q", was.Subject, is.Subject)
	}
	for _, part := range []struct {
		name    string
		was, is map[string]string
	}{{"field", was.Fields, is.Fields}, {"reply field", was.Reply, is.Reply}} {
		all := maps.Clone(part.was)
		if all == nil {
			all = map[string]string{}
		}
		maps.Copy(all, part.is)
		for _, path := range slices.Sorted(maps.Keys(all)) {
			before, had := part.was[path]
			now, has := part.is[path]
			switch {
			case !has:
				note("%s %s is gone", part.name, path)
			case !had:
				note("%s %s is new", part.name, path)
			case before != now:
				note("%s %s was %s and is %s", part.name, path, before, now)
			}
		}
	}
	return differences
}

func readReleased(dir string) (map[string]released, error) {
	known := map[string]released{}
	b, err := os.ReadFile(filepath.Join(dir, releasedFile))
	if errors.Is(err, fs.ErrNotExist) {
		return known, nil
	}
	if err != nil {
		return nil, err
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&known); err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Join(dir, releasedFile), err)
	}
	return known, nil
}

// encode makes indented JSON with a newline at its end. The values are plain data, of which shapeOf let only what
// JSON knows pass.
func encode(v any) []byte {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Appendf(nil, "%v\n", err)
	}
	return append(b, '\n')
}

func write(dir, file string, body []byte) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, file), body, 0o644)
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
