// Package errs gives every error a Kind that machines act on and a message that is safe to show.
//
// The Kind decides the HTTP status, whether a message is retried or becomes a dead letter, and it survives
// the wire, so that a local and a remote module fail alike.
package errs

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"
)

// Kind says what sort of failure an error is.
type Kind string

// The kinds. Only Unavailable, Throttled and Timeout are transient: trying again later may succeed.
const (
	Invalid         Kind = "invalid"         // the input breaks a rule; 422
	Malformed       Kind = "malformed"       // the input cannot be read at all; 400
	Unauthenticated Kind = "unauthenticated" // no valid identity; 401
	Forbidden       Kind = "forbidden"       // the identity may not do this; 403
	NotFound        Kind = "not_found"       // 404
	Conflict        Kind = "conflict"        // the state does not allow it; 409
	Gone            Kind = "gone"            // it existed and was erased; 410
	TooLarge        Kind = "too_large"       // 413
	Throttled       Kind = "throttled"       // 429 with Retry-After
	Internal        Kind = "internal"        // a bug; 500
	Unavailable     Kind = "unavailable"     // 503 with Retry-After
	OutcomeUnknown  Kind = "outcome_unknown" // the commit may or may not have happened; 503
	Timeout         Kind = "timeout"         // the deadline passed; 504
)

var statuses = map[Kind]int{
	Invalid: http.StatusUnprocessableEntity, Malformed: http.StatusBadRequest, Unauthenticated: http.StatusUnauthorized,
	Forbidden: http.StatusForbidden, NotFound: http.StatusNotFound, Conflict: http.StatusConflict, Gone: http.StatusGone,
	TooLarge: http.StatusRequestEntityTooLarge, Throttled: http.StatusTooManyRequests, Internal: http.StatusInternalServerError,
	Unavailable: http.StatusServiceUnavailable, OutcomeUnknown: http.StatusServiceUnavailable, Timeout: http.StatusGatewayTimeout,
}

// Status is the HTTP status of the kind; an unknown kind is 500.
func (k Kind) Status() int {
	if s, ok := statuses[k]; ok {
		return s
	}
	return http.StatusInternalServerError
}

// Field names one wrong input and says what is wrong with it. It never repeats the value.
type Field struct {
	Path    string `json:"path"`    // as in "body.lines[2].quantity"
	Message string `json:"message"` // as in "must be at least 1"
}

// Error is an error with a kind.
type Error struct {
	Kind       Kind
	Message    string        // safe to show to a client
	Fields     []Field       // what is wrong with the input, if that is known
	RetryAfter time.Duration // when to come back; 0 means unsaid
	cause      error
}

// New makes an error of a kind with a message that is safe to show. A %w verb keeps the cause, which is
// logged but never shown on its own.
func New(kind Kind, format string, args ...any) *Error {
	err := fmt.Errorf(format, args...)
	return &Error{Kind: kind, Message: err.Error(), cause: errors.Unwrap(err)}
}

// Wrap gives err a kind and a message that is safe to show; the text of err is for the log only.
func Wrap(kind Kind, err error, message string) *Error {
	return &Error{Kind: kind, Message: message, cause: err}
}

// With adds a wrong field.
func (e *Error) With(path, format string, args ...any) *Error {
	e.Fields = append(e.Fields, Field{Path: path, Message: fmt.Sprintf(format, args...)})
	return e
}

// After says when to come back.
func (e *Error) After(d time.Duration) *Error {
	e.RetryAfter = d
	return e
}

// Error is the message, with the cause where it is not part of the message already.
func (e *Error) Error() string {
	if e.cause != nil && e.Message != "" {
		if cause := e.cause.Error(); len(e.Message) < len(cause) || e.Message[len(e.Message)-len(cause):] != cause {
			return e.Message + ": " + cause
		}
	}
	return e.Message
}

// Unwrap is the cause.
func (e *Error) Unwrap() error { return e.cause }

// KindOf is the kind of err: of the first *Error in its chain, else Internal; "" for nil.
func KindOf(err error) Kind {
	if err == nil {
		return ""
	}
	var e *Error
	if errors.As(err, &e) {
		return e.Kind
	}
	return Internal
}

// Is says whether err has the kind.
func Is(err error, kind Kind) bool { return KindOf(err) == kind }

// Transient says whether trying again later may succeed. An error without a kind comes from the machine
// below (a database, a network) and is transient; one with a kind says itself.
func Transient(err error) bool {
	var e *Error
	if !errors.As(err, &e) {
		return err != nil
	}
	switch e.Kind {
	case Unavailable, Throttled, Timeout, OutcomeUnknown:
		return true
	}
	return false
}

// wire is the form in which an error crosses a process boundary.
type wire struct {
	Kind       Kind    `json:"kind"`
	Message    string  `json:"message"`
	Fields     []Field `json:"fields,omitempty"`
	RetryAfter int64   `json:"retry_after_ms,omitempty"`
}

// Encode gives the wire form of err. The text of an error without a kind stays behind.
func Encode(err error) []byte {
	w := wire{Kind: Internal, Message: "internal error"}
	var e *Error
	switch {
	case errors.As(err, &e):
		w = wire{Kind: e.Kind, Message: e.Message, Fields: e.Fields, RetryAfter: e.RetryAfter.Milliseconds()}
	case Transient(err):
		w = wire{Kind: Unavailable, Message: "temporarily unavailable"}
	}
	b, _ := json.Marshal(w) // strings and integers only: it cannot fail
	return b
}

// Decode reads what Encode wrote.
func Decode(b []byte) error {
	var w wire
	if err := json.Unmarshal(b, &w); err != nil || w.Kind == "" {
		return New(Internal, "unreadable error from another module")
	}
	return &Error{Kind: w.Kind, Message: w.Message, Fields: w.Fields, RetryAfter: time.Duration(w.RetryAfter) * time.Millisecond}
}
