package problem_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/banyan-go/banyan/internal/errs"
	"github.com/banyan-go/banyan/internal/problem"
	"github.com/banyan-go/banyan/internal/telemetry"
)

func TestWrite(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name   string
		err    error
		status int
		body   map[string]any
		retry  string
	}{
		{"kind", errs.New(errs.Conflict, "order 7 is already paid"), 409,
			map[string]any{"title": "Conflict", "status": 409.0, "detail": "order 7 is already paid", "kind": "conflict", "request_id": "r-1"}, ""},
		{"wrapped, with fields", fmt.Errorf("place: %w", errs.New(errs.Invalid, "the order is wrong").With("body.lines", "must not be empty")), 422,
			map[string]any{"title": "Unprocessable Entity", "status": 422.0, "detail": "the order is wrong", "kind": "invalid", "request_id": "r-1",
				"errors": []any{map[string]any{"path": "body.lines", "message": "must not be empty"}}}, ""},
		{"unknown errors stay behind", errors.New("password is hunter2"), 500,
			map[string]any{"title": "Internal Server Error", "status": 500.0, "kind": "internal", "request_id": "r-1"}, ""},
		{"internal errors too", errs.New(errs.Internal, "password is hunter2"), 500,
			map[string]any{"title": "Internal Server Error", "status": 500.0, "kind": "internal", "request_id": "r-1"}, ""},
		{"the cause stays behind", errs.Wrap(errs.Unavailable, errors.New("dial hunter2"), "try again"), 503,
			map[string]any{"title": "Service Unavailable", "status": 503.0, "detail": "try again", "kind": "unavailable", "request_id": "r-1"}, "1"},
		{"retry", errs.New(errs.Throttled, "slow down").After(1500 * time.Millisecond), 429,
			map[string]any{"title": "Too Many Requests", "status": 429.0, "detail": "slow down", "kind": "throttled", "request_id": "r-1"}, "2"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			w := httptest.NewRecorder()
			problem.Write(telemetry.WithCorrelation(t.Context(), "r-1"), w, test.err)
			var body map[string]any
			if err := json.Unmarshal(w.Body.Bytes(), &body); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(body, test.body); diff != "" || w.Code != test.status {
				t.Errorf("status %d, want %d; body (-got +want)\n%s", w.Code, test.status, diff)
			}
			if got := w.Header().Get("Content-Type"); got != problem.ContentType {
				t.Errorf("content type %q", got)
			}
			if got := w.Header().Get("Retry-After"); got != test.retry {
				t.Errorf("Retry-After %q, want %q", got, test.retry)
			}
			if strings.Contains(w.Body.String(), "hunter2") {
				t.Errorf("leaks: %s", w.Body.String())
			}
			if read := problem.Read(w.Code, w.Body.Bytes()); errs.KindOf(read) != errs.KindOf(test.err) {
				t.Errorf("read back as %s", errs.KindOf(read))
			}
		})
	}
}

func TestReadForeignAnswers(t *testing.T) {
	t.Parallel()
	tests := []struct {
		status int
		body   string
		want   errs.Kind
	}{
		{404, "not found", errs.NotFound}, {502, "<html>", errs.Internal}, {503, "", errs.Unavailable}, {418, `{"a":1}`, errs.Malformed},
	}
	for _, test := range tests {
		err := problem.Read(test.status, []byte(test.body))
		if errs.KindOf(err) != test.want || err.Error() == "" {
			t.Errorf("%d %q is %s %q, want %s", test.status, test.body, errs.KindOf(err), err, test.want)
		}
	}
}
