package message_test

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/banyan-go/banyan/internal/message"
)

func TestNames(t *testing.T) {
	t.Parallel()
	for name, ok := range map[string]bool{
		"orders.order_placed.v1": true, "a.b.v10": true, "a1.b2_c.v2": true,
		"": false, "orders.order_placed": false, "orders.order_placed.v0": false, "orders.order_placed.v01": false, "Orders.x.v1": false,
		"orders..v1": false, "orders.x.v": false, "orders.x.v1 ": false, "orders.x.v1\n": false, "a.b.c.v1": false, "1a.b.v1": false, "a_b.c.v1": false,
	} {
		if err := message.CheckName(name); (err == nil) != ok {
			t.Errorf("CheckName(%q) = %v", name, err)
		}
	}
	if got := message.Module("orders.order_placed.v1"); got != "orders" {
		t.Errorf("module %q", got)
	}
}

func TestIDs(t *testing.T) {
	t.Parallel()
	before := ""
	for range 1000 {
		id := message.NewID()
		if _, err := uuid.Parse(id); err != nil || id <= before {
			t.Fatalf("%s after %s, error %v", id, before, err)
		}
		before = id
	}
	cause := message.NewID()
	seen := map[string]bool{}
	for _, c := range []string{cause, message.NewID(), "not a UUID", ""} {
		for _, h := range []string{"h", "h2"} {
			for n := range 3 {
				id := message.DeriveID(c, h, n)
				if id != message.DeriveID(c, h, n) {
					t.Error("two runs have two ids")
				}
				if seen[id] {
					t.Errorf("%q %q %d has the id of another one", c, h, n)
				}
				seen[id] = true
			}
		}
	}
}

type person struct {
	Name string `json:"name" personal:"true"`
	Zip  string `json:"zip,omitempty"`
}

type base struct {
	Mail string `json:"mail" personal:"true"`
}

type registered struct {
	base
	ID       string            `json:"id"`
	Amount   int64             `json:"amount"`
	Rate     float64           `json:"rate"`
	Person   person            `json:"person"`
	Other    *person           `json:"other,omitempty"`
	People   []person          `json:"people,omitempty"`
	ByName   map[string]person `json:"by_name,omitempty"`
	Born     *string           `json:"born,omitempty" personal:"true"`
	Untagged string            `personal:"true"`
}

func (registered) MessageName() string { return "users.registered.v1" }
func (registered) MessageKey() string  { return "k" }

func redactor() *message.Redactor {
	return message.NewRedactor(message.Contract{Module: "users", Events: []message.Event{registered{}}})
}

const full = `{"mail":"ann@x","id":"1","amount":9223372036854775807,"rate":0.1,"person":{"name":"Ann","zip":"W1"},"other":{"name":"Bob"},
	"people":[{"name":"Cid","zip":"W2"},{"name":"Dee"}],"by_name":{"e":{"name":"Eve"}},"born":"1990","Untagged":"Fay","unknown":12345678901234567890}`

func TestRedact(t *testing.T) {
	t.Parallel()
	clean, err := redactor().Payload("users.registered.v1", []byte(full))
	if err != nil {
		t.Fatal(err)
	}
	for _, kept := range []string{"9223372036854775807", "12345678901234567890", `"rate":0.1`, `"zip":"W1"`, `"zip":"W2"`} {
		if !strings.Contains(string(clean), kept) {
			t.Errorf("%s is gone from %s", kept, clean)
		}
	}
	for _, gone := range []string{"Ann", "Bob", "Cid", "Dee", "1990", "Fay"} {
		if strings.Contains(string(clean), gone) {
			t.Errorf("%s is still in %s", gone, clean)
		}
	}
	var r registered
	if err := json.Unmarshal(clean, &r); err != nil || r.Amount != 9223372036854775807 {
		t.Errorf("%+v cannot be read any more: %v", r, err)
	}
	again, err := redactor().Payload("users.registered.v1", clean)
	if err != nil || string(again) != string(clean) {
		t.Errorf("redacted twice: %s, error %v", again, err)
	}
}

func TestRedactEmbeddedAndMaps(t *testing.T) {
	t.Parallel()
	clean, err := redactor().Payload("users.registered.v1", []byte(full))
	if err != nil {
		t.Fatal(err)
	}
	for _, gone := range []string{"ann@x", "Eve"} {
		if strings.Contains(string(clean), gone) {
			t.Errorf("%s is still in %s", gone, clean)
		}
	}
}

func TestRedactEnvelope(t *testing.T) {
	t.Parallel()
	m := message.Message{ID: "1", Name: "users.registered.v1", Source: "users", Key: "k", Sequence: 1 << 62, Subject: "u1", Payload: json.RawMessage(`{"id":"1","person":{"name":"Ann"}}`)}
	body, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	clean, err := redactor().Envelope(m.Name, body)
	if err != nil {
		t.Fatal(err)
	}
	var got message.Message
	if err := json.Unmarshal(clean, &got); err != nil {
		t.Fatal(err)
	}
	m.Payload = json.RawMessage(`{"id":"1","person":{"name":""}}`)
	if d := cmp.Diff(m, got); d != "" {
		t.Error(d)
	}
	// Nobody can tell what an unknown message holds.
	for _, r := range []*message.Redactor{redactor(), nil} {
		if got, err := r.Payload("users.unknown.v1", []byte(full)); err != nil || string(got) != "{}" {
			t.Errorf("an unknown message became %s, error %v", got, err)
		}
	}
	if _, err := redactor().Payload(m.Name, []byte("{")); err == nil {
		t.Error("what cannot be read was redacted")
	}
}

type question struct {
	ID string `json:"id"`
}

func (question) MessageName() string { return "users.question.v1" }

type caller func(name, id string, body []byte) ([]byte, error)

func (c caller) Call(_ context.Context, name, id string, body []byte) ([]byte, error) {
	return c(name, id, body)
}

func TestAsk(t *testing.T) {
	t.Parallel()
	got, err := message.Request[int](t.Context(), caller(func(name, id string, body []byte) ([]byte, error) {
		if name != "users.question.v1" || id != "c1" || string(body) != `{"id":"a"}` {
			t.Errorf("%s %s %s", name, id, body)
		}
		return []byte("7"), nil
	}), question{"a"}, "c1")
	if got != 7 || err != nil {
		t.Errorf("%d, %v", got, err)
	}
	broken := errors.New("broken")
	if _, err := message.Ask[int](t.Context(), caller(func(string, string, []byte) ([]byte, error) { return nil, broken }), question{}); !errors.Is(err, broken) {
		t.Errorf("error %v", err)
	}
	if _, err := message.Ask[int](t.Context(), caller(func(string, string, []byte) ([]byte, error) { return []byte("x"), nil }), question{}); err == nil {
		t.Error("an answer that cannot be read is no error")
	}
}
