package inbox_test

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"time"

	"github.com/banyan-go/banyan/internal/bustest"
	"github.com/banyan-go/banyan/internal/databasetest"
	"github.com/banyan-go/banyan/internal/errs"
	"github.com/banyan-go/banyan/internal/inbox"
	"github.com/banyan-go/banyan/internal/message"
	"github.com/banyan-go/banyan/internal/module"
	"github.com/banyan-go/banyan/internal/telemetry"
	"github.com/banyan-go/banyan/internal/unit"
)

// A message that comes again is a duplicate, and one behind a parked message waits, whatever the handler does with them: it may begin before
// the store has said that they are its to handle.
func TestHandlersOfWhatIsNotTheirs(t *testing.T) {
	read := func(w *unit.Work) error {
		var n int
		return w.DB.Raw("SELECT count(*) FROM seen").Row().Scan(&n)
	}
	write := func(w *unit.Work) error { return bustest.Keep(w, "count", "a", 1) }
	for name, fn := range map[string]func(w *unit.Work) error{
		"writes for later": func(w *unit.Work) error {
			return w.Later().Exec("INSERT INTO seen (handler, key, n, message_id) VALUES ('count', 'a', 1, '')").Error
		},
		"writes":                  write,
		"reads and writes":        func(w *unit.Work) error { return errors.Join(read(w), write(w)) },
		"reads and does not heed": func(w *unit.Work) error { _ = read(w); return write(w) },
		"refuses":                 func(*unit.Work) error { return errs.New(errs.Invalid, "no") },
		"fails":                   func(*unit.Work) error { return errors.New("down") },
		"reads and fails":         func(w *unit.Work) error { return errors.Join(read(w), errors.New("down")) },
		"reads and changes its mind": func(w *unit.Work) error {
			if err := read(w); err != nil {
				return errs.New(errs.Invalid, "no")
			}
			return write(w)
		},
		"does nothing": func(*unit.Work) error { return nil },
	} {
		t.Run(name, func(t *testing.T) {
			each(t, func(t *testing.T, e databasetest.Engine) {
				w := bustest.Open(t, e, bustest.Options{})
				first := true
				h := &inbox.Handler{Name: "count", For: func(string) module.MessageHandler {
					return func(_ context.Context, w *unit.Work, m message.Message) error {
						switch {
						case m.Key == "parked" && first:
							first = false
							return errors.New("down")
						case m.Key == "twice" && first:
							first = false
							return write(w)
						}
						return fn(w)
					}
				}}
				in := inbox.New(w.Beta, []*inbox.Handler{h}, inbox.Policy{Base: time.Minute, Cap: time.Minute, GiveUpAfter: time.Hour, Timeout: 5 * time.Second},
					telemetry.NewMessages(nil), slog.New(slog.DiscardHandler), func() {}, nil)
				handle := func(id, key string, want inbox.Outcome) {
					t.Helper()
					got, err := in.Handle(t.Context(), h, message.Message{ID: id, Name: "alpha.Counted.v1", Source: "alpha", Key: key, Payload: []byte("{}")})
					if err != nil || got != want {
						t.Errorf("message %s of %s: %q, %v; want %q", id, key, got, err, want)
					}
				}
				handle(message.NewID(), "parked", inbox.Parked)
				handle(message.NewID(), "parked", inbox.Parked)
				want(t, "parked", bustest.Count(t, w.Beta, "SELECT count(*) FROM parked"), 2)
				first = true
				id := message.NewID()
				handle(id, "twice", inbox.Handled)
				handle(id, "twice", inbox.Duplicate)
				want(t, "handled", bustest.Count(t, w.Beta, "SELECT count(*) FROM seen"), 1)
				want(t, "dead", bustest.Count(t, w.Beta, "SELECT count(*) FROM dead_letters"), 0)
			})
		})
	}
}
