// Package problem is the one form of error answers over HTTP: RFC 9457 problem+json that leaks nothing.
package problem

import (
	"context"
	"encoding/json"
	"errors"
	"math"
	"net/http"
	"strconv"
	"time"

	"github.com/banyan-go/banyan/internal/errs"
	"github.com/banyan-go/banyan/internal/telemetry"
)

// ContentType is what a problem says it is.
const ContentType = "application/problem+json"

// Details is a problem. Its type is always about:blank: the kind is what machines act on.
type Details struct {
	Title     string       `json:"title"`
	Status    int          `json:"status"`
	Detail    string       `json:"detail,omitempty"`
	Kind      errs.Kind    `json:"kind,omitempty"`
	Errors    []errs.Field `json:"errors,omitempty"`
	RequestID string       `json:"request_id,omitempty"`

	retryAfter time.Duration
}

// Of is the problem that err is to a client. The text of an error without a kind stays behind.
func Of(ctx context.Context, err error) Details {
	var e *errs.Error
	if !errors.As(err, &e) {
		e = errs.New(errs.Internal, "")
	}
	d := New(ctx, e.Kind.Status(), e.Kind, e.Message)
	d.Errors, d.retryAfter = e.Fields, e.RetryAfter
	if e.Kind.Status() == http.StatusInternalServerError {
		d.Detail, d.Errors = "", nil
	}
	return d
}

// New is a problem with a status of its own, for what HTTP says and kinds do not.
func New(ctx context.Context, status int, kind errs.Kind, detail string) Details {
	return Details{Title: http.StatusText(status), Status: status, Detail: detail, Kind: kind, RequestID: telemetry.Correlation(ctx)}
}

// Write answers with the problem.
func (d Details) Write(w http.ResponseWriter) {
	body, err := json.Marshal(d)
	if err != nil { // strings and integers only: it cannot fail
		body = []byte(`{"title":"Internal Server Error","status":500}`)
	}
	h := w.Header()
	h.Set("Content-Type", ContentType)
	h.Set("Content-Length", strconv.Itoa(len(body)))
	if d.retryAfter > 0 || d.Status == http.StatusServiceUnavailable || d.Status == http.StatusTooManyRequests {
		h.Set("Retry-After", RetryAfter(d.retryAfter))
	}
	w.WriteHeader(d.Status)
	_, _ = w.Write(body) // the client is gone: there is nobody to tell
}

// RetryAfter is whole seconds, at least one.
func RetryAfter(d time.Duration) string {
	return strconv.Itoa(max(1, int(math.Ceil(d.Seconds()))))
}

// Write answers with the problem that err is to a client.
func Write(ctx context.Context, w http.ResponseWriter, err error) { Of(ctx, err).Write(w) }

// Read is the error in an answer that came from another process of ours; other answers are kinds by their status.
func Read(status int, body []byte) error {
	var d Details
	if err := json.Unmarshal(body, &d); err != nil || d.Status == 0 {
		d = Details{Title: http.StatusText(status)}
	}
	if d.Kind == "" {
		d.Kind = kindOf(status)
	}
	message := d.Detail
	if message == "" {
		message = d.Title
	}
	if message == "" {
		message = "status " + strconv.Itoa(status)
	}
	return &errs.Error{Kind: d.Kind, Message: message, Fields: d.Errors}
}

func kindOf(status int) errs.Kind {
	for _, k := range []errs.Kind{
		errs.Invalid, errs.Malformed, errs.Unauthenticated, errs.Forbidden, errs.NotFound, errs.Conflict, errs.Gone,
		errs.TooLarge, errs.Throttled, errs.Unavailable, errs.Timeout,
	} {
		if k.Status() == status {
			return k
		}
	}
	if status >= 500 {
		return errs.Internal
	}
	return errs.Malformed
}
