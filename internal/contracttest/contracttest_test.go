package contracttest

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/banyan-go/banyan/internal/message"
)

// Versions of one message, as somebody might change it.
type (
	line struct {
		SKU   string `json:"sku"`
		Count int64  `json:"count"`
	}
	named struct{}

	thing struct {
		named
		ID    string    `json:"id"`
		Other string    `json:"other"`
		Note  string    `json:"note,omitempty"`
		Lines []line    `json:"lines"`
		At    time.Time `json:"at"`
	}
	thingWithout struct { // note is gone
		named
		ID    string    `json:"id"`
		Other string    `json:"other"`
		Lines []line    `json:"lines"`
		At    time.Time `json:"at"`
	}
	thingRenamed struct { // note -> remark
		named
		ID    string    `json:"id"`
		Other string    `json:"other"`
		Note  string    `json:"remark,omitempty"`
		Lines []line    `json:"lines"`
		At    time.Time `json:"at"`
	}
	thingRetyped struct { // at is a number
		named
		ID    string `json:"id"`
		Other string `json:"other"`
		Note  string `json:"note,omitempty"`
		Lines []line `json:"lines"`
		At    int64  `json:"at"`
	}
	thingMoreRequired struct {
		named
		ID    string    `json:"id"`
		Other string    `json:"other"`
		Note  string    `json:"note,omitempty"`
		Lines []line    `json:"lines"`
		At    time.Time `json:"at"`
		More  string    `json:"more"`
	}
	thingMoreOptional struct {
		named
		ID    string    `json:"id"`
		Other string    `json:"other"`
		Note  string    `json:"note,omitempty"`
		Lines []line    `json:"lines"`
		At    time.Time `json:"at"`
		More  string    `json:"more,omitempty"`
	}
	thingNoteRequired struct {
		named
		ID    string    `json:"id"`
		Other string    `json:"other"`
		Note  string    `json:"note"`
		Lines []line    `json:"lines"`
		At    time.Time `json:"at"`
	}
	thingOtherKey struct {
		ID    string    `json:"id"`
		Other string    `json:"other"`
		Note  string    `json:"note,omitempty"`
		Lines []line    `json:"lines"`
		At    time.Time `json:"at"`
	}
	lineDeep struct {
		SKU   string `json:"sku"`
		Count string `json:"count"`
	}
	thingDeep struct {
		named
		ID    string     `json:"id"`
		Other string     `json:"other"`
		Note  string     `json:"note,omitempty"`
		Lines []lineDeep `json:"lines"`
		At    time.Time  `json:"at"`
	}

	ask struct {
		ID string `json:"id"`
	}
	answer struct {
		Found bool `json:"found"`
	}
	other struct {
		Found string `json:"found"`
	}
)

func (named) MessageName() string              { return "shop.thing_done.v1" }
func (e thing) MessageKey() string             { return e.ID }
func (e thingWithout) MessageKey() string      { return e.ID }
func (e thingRenamed) MessageKey() string      { return e.ID }
func (e thingRetyped) MessageKey() string      { return e.ID }
func (e thingMoreRequired) MessageKey() string { return e.ID }
func (e thingMoreOptional) MessageKey() string { return e.ID }
func (e thingNoteRequired) MessageKey() string { return e.ID }
func (e thingDeep) MessageKey() string         { return e.ID }
func (thingOtherKey) MessageName() string      { return "shop.thing_done.v1" }
func (e thingOtherKey) MessageKey() string     { return e.Other }
func (ask) MessageName() string                { return "shop.ask.v1" }

func events(e ...message.Event) message.Contract {
	return message.Contract{Module: "shop", Events: e, Queries: []message.Exchange{{Query: ask{}, Reply: answer{}}}}
}

func mustPass(t *testing.T, dir string, c message.Contract, opts options) {
	t.Helper()
	if wrong := check(dir, c, opts); len(wrong) > 0 {
		t.Fatalf("got %q, want nothing wrong", wrong)
	}
}

func TestChangesOfReleasedMessagesAreCaught(t *testing.T) {
	t.Parallel()
	cases := []struct {
		name    string
		changed message.Contract
		want    string
	}{
		{"unchanged", events(thing{}), ""},
		{"field removed", events(thingWithout{}), "field note is gone"},
		{"field renamed", events(thingRenamed{}), "field remark is new"},
		{"field retyped", events(thingRetyped{}), "field at was time and is integer"},
		{"field retyped deep down", events(thingDeep{}), "field lines[].count was integer and is string"},
		{"required field added", events(thingMoreRequired{}), "field more is new"},
		{"optional field added", events(thingMoreOptional{}), "field more is new"},
		{"optional field made required", events(thingNoteRequired{}), "field note was string? and is string"},
		{"key changed", events(thingOtherKey{}), `its key was "id" and is "other"`},
		{"message removed", events(), "gone from the contract"},
		{"event made a command", message.Contract{Module: "shop", Commands: []message.Command{thing{}}, Queries: events().Queries}, "its kind was event and is command"},
		{"reply changed", message.Contract{Module: "shop", Events: []message.Event{thing{}}, Queries: []message.Exchange{{Query: ask{}, Reply: other{}}}},
			"reply field found was boolean and is string"},
	}
	for _, c := range cases {
		for _, opts := range []options{{}, {update: true}, {update: true, release: []string{"all"}}} {
			dir := t.TempDir()
			mustPass(t, dir, events(thing{}), options{update: true, release: []string{"all"}})
			wrong := strings.Join(check(dir, c.changed, opts), "\n")
			if c.want == "" && wrong != "" || !strings.Contains(wrong, c.want) {
				t.Errorf("%s with %+v: got %q, want %q", c.name, opts, wrong, c.want)
			}
			mustPass(t, dir, events(thing{}), options{}) // and nothing on disk was touched
		}
	}
}

func TestUnreleasedMessagesMayChange(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if wrong := check(dir, events(thing{}), options{}); len(wrong) == 0 {
		t.Error("missing golden files pass")
	}
	mustPass(t, dir, events(thing{}), options{update: true})
	mustPass(t, dir, events(thing{}), options{})
	if wrong := check(dir, events(thingRenamed{}), options{}); len(wrong) != 1 || !strings.Contains(wrong[0], "-update") {
		t.Errorf("got %q for a change without -update, want one hint", wrong)
	}
	mustPass(t, dir, events(thingRenamed{}), options{update: true})
	mustPass(t, dir, events(thingRenamed{}), options{})

	// A message that is gone leaves a file behind until -update.
	if wrong := check(dir, events(), options{}); len(wrong) != 1 || !strings.Contains(wrong[0], "belongs to no message") {
		t.Errorf("got %q for a golden file without a message", wrong)
	}
	mustPass(t, dir, events(), options{update: true})
	if exists(filepath.Join(dir, "shop.thing_done.v1.json")) {
		t.Error("-update left the golden file of a message that is gone")
	}
}

func TestReleaseIsExplicit(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	mustPass(t, dir, events(thing{}), options{update: true})
	if known, err := readReleased(dir); err != nil || len(known) != 0 {
		t.Fatalf("got %v (%v) released by -update, want nothing", known, err)
	}
	if wrong := check(dir, events(thing{}), options{release: []string{"shop.nothing.v1"}}); len(wrong) != 1 {
		t.Errorf("got %q for the release of an unknown name", wrong)
	}
	mustPass(t, dir, events(thing{}), options{release: []string{"store.nothing.v1", "shop.thing_done.v1"}})
	known, err := readReleased(dir)
	if err != nil || len(known) != 1 || known["shop.thing_done.v1"].Key != "id" {
		t.Fatalf("got %v (%v), want the one name that was asked for, with its key", known, err)
	}
	mustPass(t, dir, events(thing{}), options{release: []string{"all"}})
	if known, _ = readReleased(dir); len(known) != 2 {
		t.Errorf("got %v, want all names", known)
	}
}

// A golden file changed by hand is not made good by -update once the message is released.
func TestReleasedGoldenFilesAreNotRewritten(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	mustPass(t, dir, events(thing{}), options{update: true, release: []string{"all"}})
	golden := filepath.Join(dir, "shop.thing_done.v1.json")
	if err := os.WriteFile(golden, []byte("{}\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if wrong := check(dir, events(thing{}), options{update: true}); len(wrong) != 1 || !strings.Contains(wrong[0], "never changes") {
		t.Errorf("got %q, want it refused", wrong)
	}
}

func TestGoldenShowsEveryField(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	mustPass(t, dir, events(thing{}), options{update: true})
	got, err := os.ReadFile(filepath.Join(dir, "shop.thing_done.v1.json"))
	if err != nil {
		t.Fatal(err)
	}
	want := `{
  "id": "id",
  "other": "other",
  "note": "note",
  "lines": [
    {
      "sku": "lines[0].sku",
      "count": 1
    },
    {
      "sku": "lines[1].sku",
      "count": 2
    }
  ],
  "at": "2026-01-02T03:04:05.000003Z"
}
`
	if string(got) != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
}

// Messages that may not be in any contract.
type (
	keyless struct {
		ID string `json:"id"`
	}
	badName struct {
		ID string `json:"id"`
	}
	stranger struct {
		ID string `json:"id"`
	}
	untagged struct{ ID string }
	camel    struct {
		ID string `json:"orderID"`
	}
	hidden struct {
		ID   string `json:"id"`
		kept string
	}
	channel struct {
		ID string   `json:"id"`
		C  chan int `json:"c"`
	}
	strict struct {
		ID string `json:"id"`
	}
	deaf struct {
		ID deafID `json:"id"`
	}
	deafID  string
	nobodys struct {
		ID string `json:"id" personal:"true"`
	}
	pretend struct {
		ID string `json:"id"`
	}
	number struct {
		ID  string `json:"id"`
		Age int    `json:"age" personal:"true"`
	}
	private struct {
		ID   string `json:"id"`
		Name string `json:"name" personal:"true"`
	}
	inMap struct {
		ID    string             `json:"id"`
		Names map[string]private `json:"names"`
	}
	list []string
)

func (keyless) MessageName() string       { return "shop.bad.v1" }
func (badName) MessageName() string       { return "shop.Bad" }
func (stranger) MessageName() string      { return "store.bad.v1" }
func (untagged) MessageName() string      { return "shop.bad.v1" }
func (camel) MessageName() string         { return "shop.bad.v1" }
func (hidden) MessageName() string        { return "shop.bad.v1" }
func (channel) MessageName() string       { return "shop.bad.v1" }
func (strict) MessageName() string        { return "shop.bad.v1" }
func (deaf) MessageName() string          { return "shop.bad.v1" }
func (nobodys) MessageName() string       { return "shop.bad.v1" }
func (pretend) MessageName() string       { return "shop.bad.v1" }
func (number) MessageName() string        { return "shop.bad.v1" }
func (private) MessageName() string       { return "shop.good.v1" }
func (inMap) MessageName() string         { return "shop.bad.v1" }
func (list) MessageName() string          { return "shop.bad.v1" }
func (keyless) MessageKey() string        { return "" }
func (e badName) MessageKey() string      { return e.ID }
func (e stranger) MessageKey() string     { return e.ID }
func (e untagged) MessageKey() string     { return e.ID }
func (e camel) MessageKey() string        { return e.ID }
func (e hidden) MessageKey() string       { return e.ID + e.kept }
func (e channel) MessageKey() string      { return e.ID }
func (e strict) MessageKey() string       { return e.ID }
func (e deaf) MessageKey() string         { return string(e.ID) }
func (e nobodys) MessageKey() string      { return e.ID }
func (e pretend) MessageKey() string      { return e.ID }
func (e number) MessageKey() string       { return e.ID }
func (e private) MessageKey() string      { return e.ID }
func (e inMap) MessageKey() string        { return e.ID }
func (list) MessageKey() string           { return "x" }
func (e pretend) PersonalSubject() string { return e.ID }
func (e number) PersonalSubject() string  { return e.ID }
func (e private) PersonalSubject() string { return e.ID }
func (e inMap) PersonalSubject() string   { return e.ID }

func (deafID) MarshalText() ([]byte, error)  { return []byte("always the same"), nil }
func (*deafID) UnmarshalText([]byte) error   { return nil }
func (*strict) UnmarshalJSON(b []byte) error { return errors.New("not this way") }
func (strict) MarshalJSON() ([]byte, error)  { return json.Marshal("own") }

func TestBadMessagesAreRefused(t *testing.T) {
	t.Parallel()
	cases := []struct {
		name string
		e    message.Event
		want string
	}{
		{"good with personal data", private{}, ""},
		{"empty key", keyless{}, "key is empty"},
		{"name without a version", badName{}, "is not"},
		{"name of another module", stranger{}, "belongs to store"},
		{"field without a JSON name", untagged{}, "no name in JSON"},
		{"JSON name in camel case", camel{}, "lower_snake"},
		{"unexported field", hidden{}, "not exported"},
		{"field JSON does not know", channel{}, "has no form"},
		{"own JSON form", strict{}, "makes its own JSON"},
		{"does not survive a round trip", deaf{}, "read back"},
		{"personal tag without a subject", nobodys{}, "does not say whose data"},
		{"subject without a personal tag", pretend{}, "no field is tagged"},
		{"personal number", number{}, "is no string"},
		{"personal data that blanking misses", inMap{}, "survives"},
		{"not a struct", list{}, "a message is a struct"},
	}
	for _, c := range cases {
		wrong := strings.Join(check(t.TempDir(), message.Contract{Module: "shop", Events: []message.Event{c.e}}, options{update: true}), "\n")
		if c.want == "" && wrong != "" || !strings.Contains(wrong, c.want) {
			t.Errorf("%s: got %q, want %q", c.name, wrong, c.want)
		}
	}
	twice := check(t.TempDir(), events(thing{}, thingRenamed{}), options{update: true})
	if len(twice) != 1 || !strings.Contains(twice[0], "twice") {
		t.Errorf("got %q for a name used twice", twice)
	}
	noStruct := message.Contract{Module: "shop", Queries: []message.Exchange{{Query: ask{}, Reply: []string{}}}}
	if wrong := check(t.TempDir(), noStruct, options{update: true}); len(wrong) != 1 || !strings.Contains(wrong[0], "a reply is a struct") {
		t.Errorf("got %q for a reply that is a list", wrong)
	}
}
