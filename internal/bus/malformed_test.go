package bus_test

import (
	"context"
	"strings"
	"testing"

	wm "github.com/ThreeDotsLabs/watermill/message"

	"github.com/banyan-go/banyan/internal/bus/rabbit"
	"github.com/banyan-go/banyan/internal/bustest"
	"github.com/banyan-go/banyan/internal/databasetest"
	"github.com/banyan-go/banyan/internal/errs"
	"github.com/banyan-go/banyan/internal/message"
	"github.com/banyan-go/banyan/internal/secret"
	"github.com/banyan-go/banyan/internal/testinfra"
)

// stranger is a connection of somebody else to RabbitMQ.
func stranger(t *testing.T, url string) *rabbit.Broker {
	t.Helper()
	cfg := rabbit.DefaultConfig()
	cfg.URL = secret.Text(url)
	b, err := rabbit.New(cfg, rabbit.Options{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, end := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- b.Run(ctx) }()
	t.Cleanup(func() {
		end()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return b
}

// What somebody else puts into a module's queue and nobody can read is kept for people, once, and what is behind it comes through: the
// messages, and the marker that a module's way home waits for.
func TestWhatCannotBeRead(t *testing.T) {
	t.Parallel()
	url := testinfra.Rabbit(t).URL()
	w := bustest.Open(t, databasetest.SQLite(t), bustest.Options{Apart: url})
	stranger, ctx := stranger(t, url), t.Context()
	odd := wm.NewMessage("1", []byte("\x00\xff"))
	odd.Metadata.Set("ce_source", "/alpha\x00")
	for _, m := range []*wm.Message{wm.NewMessage("0", []byte("hello")), odd, odd} {
		m = m.Copy()
		m.SetContext(ctx)
		if err := stranger.Publisher().Publish("beta", m); err != nil {
			t.Fatal(err)
		}
	}
	w.Publish("a", 1, 2, 3)
	w.Settle()
	if got := w.Seen(w.Beta, "count", "a"); len(got) != 3 {
		t.Errorf("behind it %v came through", got)
	}
	in, err := w.Far.Inbox("beta")
	if err != nil {
		t.Fatal(err)
	}
	ids := w.Letters()
	if len(ids) != 2 {
		t.Fatalf("%d dead letters, want one of each", len(ids))
	}
	texts := "" // they come in any order
	for _, id := range ids {
		letter, err := in.DeadLetter(ctx, id)
		if err != nil || letter.Handler != "malformed" || letter.Reason == "" {
			t.Errorf("letter %+v, error %v", letter, err)
		}
		texts += string(letter.Message)
	}
	if !strings.Contains(texts, `"hello"`) || !strings.Contains(texts, `"payload_base64":"AP8="`) {
		t.Errorf("the letters say %s", texts)
	}
	if err := in.Replay(ctx, ids[0]); !errs.Is(err, errs.Conflict) {
		t.Errorf("replay: %v", err)
	}
	if err := in.Check(ctx); err != nil {
		t.Errorf("the next start: %v", err)
	}
	if err := in.Discard(ctx, ids[0], "not ours"); err != nil || len(w.Letters()) != 1 {
		t.Errorf("discard: %v", err)
	}
}

// What looks right, and no store could keep, is kept for people all the same.
func TestWhatCannotBeKept(t *testing.T) {
	each(t, func(t *testing.T, e databasetest.Engine) {
		w := bustest.Open(t, e, bustest.Options{})
		for name, change := range map[string]func(*message.Message){
			"payload is no JSON": func(m *message.Message) { m.Payload = []byte("hello") },
			"payload empty":      func(m *message.Message) { m.Payload = nil },
			"NUL in the key":     func(m *message.Message) { m.Key = "a\x00b" },
			"key no UTF-8":       func(m *message.Message) { m.Key = "a\xff" },
			"key too long":       func(m *message.Message) { m.Key = strings.Repeat("a", 4096) },
			"NUL in the id":      func(m *message.Message) { m.ID = "a\x00b" },
			"NUL in the subject": func(m *message.Message) { m.Subject = "a\x00b" },
		} {
			before := len(w.Letters())
			m := message.Message{ID: message.NewID(), Name: "alpha.counted.v1", Source: "alpha", Key: "a", Sequence: 1, Time: w.Clock.Now(), Payload: []byte(`{"id":"a","n":1}`)}
			change(&m)
			if err := w.Far.Deliver(t.Context(), "beta", m); err != nil {
				t.Errorf("%s: it is refused, and would stay in its queue for ever: %v", name, err)
			}
			if n := len(w.Letters()) - before; n != 1 {
				t.Errorf("%s: %d dead letters", name, n)
			}
		}
		w.Publish("a", 1)
		w.Settle()
		want(t, "handled", w.Seen(w.Beta, "count", "a"), []int{1})
	})
}
