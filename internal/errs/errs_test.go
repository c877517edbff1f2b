package errs_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/banyan-go/banyan/internal/errs"
)

var kinds = []errs.Kind{errs.Invalid, errs.Malformed, errs.Unauthenticated, errs.Forbidden, errs.NotFound, errs.Conflict, errs.Gone, errs.TooLarge,
	errs.Throttled, errs.Internal, errs.Unavailable, errs.OutcomeUnknown, errs.Timeout}

func TestWireRoundTrip(t *testing.T) {
	t.Parallel()
	for _, k := range kinds {
		sent := errs.New(k, "because of %s \"quoted\" \u2028", k).With("body.lines[2]", "must be at least %d", 1).After(1500 * time.Millisecond)
		got := errs.Decode(errs.Encode(fmt.Errorf("wrapped: %w", sent)))
		if d := cmp.Diff(error(sent), got, cmpopts.IgnoreUnexported(errs.Error{})); d != "" {
			t.Errorf("%s (-sent +received):\n%s", k, d)
		}
		if !errs.Is(got, k) || errs.Transient(got) != errs.Transient(sent) || errs.KindOf(got).Status() != k.Status() {
			t.Errorf("%s is not the same on the other side", k)
		}
	}
}

func TestCausesDoNotCross(t *testing.T) {
	t.Parallel()
	cause := errors.New("db password is hunter2")
	for name, err := range map[string]error{
		"without a kind":        cause,
		"wrapped":               errs.Wrap(errs.Conflict, cause, "taken"),
		"wrapped around a kind": fmt.Errorf("%w: %w", cause, errs.New(errs.NotFound, "no such thing")),
	} {
		if b := errs.Encode(err); strings.Contains(string(b), "hunter2") {
			t.Errorf("%s: %s", name, b)
		}
	}
	if !strings.Contains(errs.Wrap(errs.Conflict, cause, "taken").Error(), "hunter2") {
		t.Error("the log does not see the cause")
	}
}

func TestTransient(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		err  error
		want bool
	}{
		{nil, false},
		{errors.New("connection refused"), true},
		{context.DeadlineExceeded, true},
		{errs.New(errs.Unavailable, "x"), true},
		{errs.New(errs.OutcomeUnknown, "x"), true},
		{errs.New(errs.Timeout, "x"), true},
		{errs.New(errs.Throttled, "x"), true},
		{errs.New(errs.Internal, "x"), false},
		{errs.New(errs.Conflict, "x"), false},
		{fmt.Errorf("a: %w", errs.New(errs.Invalid, "x")), false},
	} {
		if got := errs.Transient(c.err); got != c.want {
			t.Errorf("Transient(%v) = %v, want %v", c.err, got, c.want)
		}
	}
	if errs.KindOf(nil) != "" || errs.KindOf(errors.New("x")) != errs.Internal {
		t.Error("KindOf of no error, or of one without a kind")
	}
}

func TestMessageSaysItsCauseOnce(t *testing.T) {
	t.Parallel()
	cause := errors.New("disk full")
	for err, want := range map[error]string{
		errs.New(errs.Internal, "write: %w", cause):     "write: disk full",
		errs.Wrap(errs.Internal, cause, "cannot write"): "cannot write: disk full",
		errs.Wrap(errs.Internal, cause, ""):             "",
		errs.New(errs.Internal, "no cause"):             "no cause",
		errs.Wrap(errs.Internal, cause, "cannot: "+"x"): "cannot: x: disk full",
	} {
		if got := err.Error(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	if !errors.Is(errs.New(errs.Internal, "write: %w", cause), cause) {
		t.Error("the cause cannot be found")
	}
}

func FuzzDecode(f *testing.F) {
	for _, k := range kinds {
		f.Add(errs.Encode(errs.New(k, "m").With("a", "b").After(time.Second)))
	}
	for _, s := range []string{"", "null", "{}", "[]", `{"kind":""}`, `{"kind":"odd","message":"x"}`, `{"kind":"unavailable","retry_after_ms":-5}`, `{"kind":1}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		err := errs.Decode(b)
		if err == nil || errs.KindOf(err) == "" {
			t.Fatalf("%q became %v", b, err)
		}
		// What was read once crosses again unchanged.
		again := errs.Decode(errs.Encode(err))
		if errs.KindOf(again) != errs.KindOf(err) || again.Error() != err.Error() {
			t.Errorf("%q: %v became %v", b, err, again)
		}
		if s := errs.KindOf(err).Status(); s < 400 || s > 599 {
			t.Errorf("%q has status %d", b, s)
		}
	})
}
