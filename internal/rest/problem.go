package rest

import (
	"context"
	"errors"
	"log/slog"
	"math"
	"net/http"
	"strconv"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"github.com/banyan-go/banyan/internal/database"
	"github.com/banyan-go/banyan/internal/errs"
	"github.com/banyan-go/banyan/internal/telemetry"
)

// Problem is an error as a client sees it (RFC 9457). It holds no value that the client sent and, for errors of
// the server, nothing about their cause.
type Problem struct {
	Type      string       `json:"type" doc:"about:blank: the status says it all"`
	Title     string       `json:"title"`
	Status    int          `json:"status"`
	Detail    string       `json:"detail,omitempty"`
	Kind      errs.Kind    `json:"kind" doc:"What sort of failure it is, for programs"`
	Errors    []errs.Field `json:"errors,omitempty" doc:"Which input is wrong and why"`
	RequestID string       `json:"request_id,omitempty"`
}

// NewProblem is the problem of an error for the request in ctx, and how many seconds to wait before trying again (0
// if unsaid).
func NewProblem(ctx context.Context, err error) (p *Problem, retryAfter int) {
	p = &Problem{Type: "about:blank", Kind: errs.Internal, Status: http.StatusInternalServerError, RequestID: telemetry.Correlation(ctx)}
	var e *errs.Error
	switch {
	case errors.As(err, &e):
		p.Kind, p.Status, p.Detail, p.Errors = e.Kind, e.Kind.Status(), e.Message, e.Fields
		switch {
		case p.Status < 500, e.Kind == errs.Unavailable, e.Kind == errs.OutcomeUnknown, e.Kind == errs.Timeout:
		default: // a bug, or a kind of another version: nobody has said that its text may be shown
			p.Detail, p.Errors = "", nil
		}
		retryAfter = int(math.Ceil(e.RetryAfter.Seconds()))
		if retryAfter == 0 && p.Status == http.StatusServiceUnavailable {
			retryAfter = 1
		}
	case errors.Is(err, context.DeadlineExceeded):
		p.Kind, p.Status, p.Detail = errs.Timeout, errs.Timeout.Status(), "the deadline has passed"
	case errors.Is(err, context.Canceled):
		p.Kind, p.Status, p.Detail = errs.Unavailable, 499, "the client has gone"
	}
	p.Title = http.StatusText(p.Status)
	if p.Title == "" {
		p.Title = "Client Closed Request"
	}
	return p, retryAfter
}

// Error is what the log sees.
func (p *Problem) Error() string { return p.Title + ": " + p.Detail }

// GetStatus is the HTTP status.
func (p *Problem) GetStatus() int { return p.Status }

// ContentType is that of problem+json.
func (p *Problem) ContentType(string) string { return "application/problem+json" }

func problem(ctx context.Context, log *slog.Logger, err error) error {
	var done *Problem
	if errors.As(err, &done) {
		return err
	}
	p, retry := NewProblem(ctx, database.Refused(err))
	if p.Status >= 500 && log != nil {
		log.ErrorContext(ctx, "request failed", "status", p.Status, "error", err)
	}
	if retry > 0 {
		return huma.ErrorWithHeaders(p, http.Header{"Retry-After": {strconv.Itoa(retry)}})
	}
	return p
}

// fromHuma turns what huma finds wrong with a request into a problem. The values that it quotes are left out: they
// may be passwords.
func fromHuma(ctx context.Context, status int, text string, causes ...error) huma.StatusError {
	p := &Problem{Type: "about:blank", Title: http.StatusText(status), Status: status, Kind: kindOf(status), RequestID: telemetry.Correlation(ctx)}
	if status >= 500 {
		return p
	}
	p.Detail = text
	for _, c := range causes {
		var d *huma.ErrorDetail
		if errors.As(c, &d) {
			if path, ok := strings.CutSuffix(d.Message, givenTwice); ok {
				// huma takes it for JSON that cannot be read. It can, and says two things.
				p.Status, p.Kind = errs.Invalid.Status(), errs.Invalid
				p.Title = http.StatusText(p.Status)
				d = &huma.ErrorDetail{Location: path, Message: strings.TrimPrefix(givenTwice, ": ")}
			}
			p.Errors = append(p.Errors, errs.Field{Path: d.Location, Message: plain(d.Message)})
			continue
		}
		var e *errs.Error
		if errors.As(c, &e) {
			p.Errors = append(p.Errors, e.Fields...)
			continue
		}
		if status == http.StatusBadRequest {
			// The decoder's own text quotes the input and names our types.
			p.Errors = append(p.Errors, errs.Field{Path: "body", Message: unreadable})
		}
	}
	return p
}

const unreadable = "cannot be read as the JSON that is expected here"

// plain is what huma says of a field, unless it only passes on what the decoder said.
func plain(message string) string {
	if strings.HasPrefix(message, "json: ") {
		return unreadable
	}
	return message
}

func kindOf(status int) errs.Kind {
	for _, k := range []errs.Kind{errs.Malformed, errs.Unauthenticated, errs.Forbidden, errs.NotFound, errs.Conflict, errs.TooLarge, errs.Invalid, errs.Throttled, errs.Timeout, errs.Unavailable} {
		if k.Status() == status {
			return k
		}
	}
	if status < 500 {
		return errs.Invalid
	}
	return errs.Internal
}
