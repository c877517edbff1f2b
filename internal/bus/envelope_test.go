package bus

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	wm "github.com/ThreeDotsLabs/watermill/message"
	"github.com/google/go-cmp/cmp"

	"github.com/banyan-go/banyan/internal/message"
)

func sample() message.Message {
	return message.Message{
		ID: "01900000-0000-7000-8000-000000000001", Name: "orders.order_placed.v1", Source: "orders", Key: "ключ/1 #%", Sequence: 1 << 62,
		CorrelationID: "c", CausationID: "d", Traceparent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
		Time: time.Date(2026, 3, 1, 9, 0, 0, 123456000, time.UTC), Subject: "u1", Payload: json.RawMessage(`{"a":9223372036854775807}`),
	}
}

func TestEnvelopeRoundTrip(t *testing.T) {
	t.Parallel()
	bare := sample()
	bare.CausationID, bare.Traceparent, bare.Subject, bare.CorrelationID = "", "", "", ""
	for _, m := range []message.Message{sample(), bare} {
		got, err := decode(encode(m))
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(m, got); d != "" {
			t.Errorf("(-sent +received):\n%s", d)
		}
	}
}

func TestEnvelopeNamesTheWrongHeader(t *testing.T) {
	t.Parallel()
	for header, values := range map[string][]string{
		headerID: {"", "another"}, headerType: {"", "orders", "orders.x.v0"}, headerSource: {"", "/", "orders"}, headerKey: {""},
		headerSequence: {"", "0", "-1", "x", "9223372036854775808"}, headerTime: {"", "yesterday"},
	} {
		for _, v := range values {
			w := encode(sample())
			w.Metadata[header] = v
			if _, err := decode(w); err == nil {
				t.Errorf("%s: %q is let through", header, v)
			}
		}
	}
	for _, header := range []string{headerSource, headerKey, headerCorrelation, headerCausation, headerPersonal, headerTraceparent} {
		for _, v := range []string{"/a\x00b", "/a\xff", "/" + strings.Repeat("a", 1025)} {
			w := encode(sample())
			w.Metadata[header] = v
			if _, err := decode(w); err == nil || !strings.Contains(err.Error(), header) {
				t.Errorf("%s: %.10q: %v", header, v, err)
			}
		}
	}
	for _, payload := range []string{"", "hello", "{", "{}{}"} {
		w := encode(sample())
		w.Payload = []byte(payload)
		if _, err := decode(w); err == nil || !strings.Contains(err.Error(), "JSON") {
			t.Errorf("payload %q: %v", payload, err)
		}
	}
	if _, err := decode(&wm.Message{}); err == nil {
		t.Error("an empty message is let through")
	}
}

func FuzzDecodeEnvelope(f *testing.F) {
	m := sample()
	f.Add(m.ID, m.Name, "/orders", m.Key, "1", "2026-03-01T09:00:00Z", "c", "d", "t", "u", []byte("{}"))
	f.Add("", "", "", "", "", "", "", "", "", "", []byte(nil))
	f.Add("x", "a.b.v1", "/", "k", "-1", "0000-01-01T00:00:00+23:59", "", "", "", "", []byte("\x00"))
	f.Fuzz(func(t *testing.T, id, name, source, key, sequence, at, correlation, causation, trace, subject string, payload []byte) {
		w := wm.NewMessage(id, payload)
		w.Metadata = wm.Metadata{headerID: id, headerType: name, headerSource: source, headerKey: key, headerSequence: sequence, headerTime: at,
			headerCorrelation: correlation, headerCausation: causation, headerTraceparent: trace, headerPersonal: subject}
		m, err := decode(w)
		if err != nil {
			return
		}
		if m.ID == "" || m.Key == "" || m.Source == "" || m.Sequence < 1 || message.CheckName(m.Name) != nil {
			t.Fatalf("%+v is let through", m)
		}
		again, err := decode(encode(m))
		if err != nil {
			t.Fatalf("%+v cannot be sent on: %v", m, err)
		}
		if d := cmp.Diff(m, again); d != "" {
			t.Errorf("sent on (-first +second):\n%s", d)
		}
	})
}
