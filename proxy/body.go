package proxy

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"mime"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/banyan-go/banyan/internal/errs"
	"github.com/banyan-go/banyan/internal/rest"
)

// noBody is the hash of a request without a body.
var noBody = sha256.Sum256(nil)

// readBody reads the whole body and puts a reader of it in its place, so that a module never waits for a slow
// client while it holds something. It returns the hash; a nil problem means that all is well.
func (x *exchange) readBody(ctx context.Context, r *http.Request) ([sha256.Size]byte, *rest.Problem) {
	fail := func(status int, kind errs.Kind, detail string) *rest.Problem {
		return newProblem(ctx, status, kind, detail)
	}
	if r.Body == nil || r.Body == http.NoBody || r.ContentLength == 0 {
		r.Body = http.NoBody
		return noBody, nil
	}
	if r.Method == http.MethodGet || r.Method == http.MethodHead {
		return noBody, fail(http.StatusBadRequest, errs.Malformed, "a "+r.Method+" takes no body")
	}
	if r.ContentLength > x.route.maxBody {
		return noBody, x.tooLarge(ctx)
	}
	if !isJSON(r.Header) {
		x.answer.Header()["Accept"] = []string{"application/json"}
		return noBody, fail(http.StatusUnsupportedMediaType, errs.Malformed, "the body must be application/json, not encoded otherwise")
	}
	body, err := read(http.MaxBytesReader(x.answer.ResponseWriter, r.Body, x.route.maxBody), r.ContentLength)
	if err != nil {
		var large *http.MaxBytesError
		switch {
		case errors.As(err, &large):
			return noBody, x.tooLarge(ctx)
		case errors.Is(err, os.ErrDeadlineExceeded):
			x.answer.Header()["Connection"] = closing
			return noBody, fail(http.StatusRequestTimeout, errs.Malformed, "the body did not arrive in time")
		}
		x.answer.Header()["Connection"] = closing
		return noBody, fail(http.StatusBadRequest, errs.Malformed, "the body broke off")
	}
	x.deadline(time.Time{})
	if containsNUL(body) {
		return noBody, fail(http.StatusBadRequest, errs.Malformed, "the body contains a NUL character")
	}
	if len(body) == 0 {
		r.Body, r.ContentLength = http.NoBody, 0
		return noBody, nil
	}
	replayable(r, body)
	r.TransferEncoding = nil
	return sha256.Sum256(body), nil
}

// tooLarge refuses a body. What is left of it is not read, so the connection cannot be used again.
func (x *exchange) tooLarge(ctx context.Context) *rest.Problem {
	x.answer.Header()["Connection"] = closing
	return newProblem(ctx, http.StatusRequestEntityTooLarge, errs.TooLarge, "the body is too large")
}

func read(body io.Reader, length int64) ([]byte, error) {
	if length > 0 {
		// The declared length is within the limit; one byte more lets the reader see the end.
		buffer := make([]byte, 0, length+1)
		return readInto(body, buffer)
	}
	return io.ReadAll(body)
}

func readInto(body io.Reader, buffer []byte) ([]byte, error) {
	for {
		n, err := body.Read(buffer[len(buffer):cap(buffer)])
		buffer = buffer[:len(buffer)+n]
		if err == io.EOF {
			return buffer, nil
		}
		if err != nil {
			return nil, err
		}
		if len(buffer) == cap(buffer) {
			return nil, io.ErrUnexpectedEOF // longer than it said: net/http does not let that happen
		}
	}
}

func isJSON(h http.Header) bool {
	if e := h["Content-Encoding"]; len(e) > 0 && (len(e) > 1 || !strings.EqualFold(e[0], "identity")) {
		return false
	}
	lines := h["Content-Type"]
	if len(lines) != 1 {
		return false
	}
	if lines[0] == "application/json" {
		return true
	}
	kind, params, err := mime.ParseMediaType(lines[0])
	if err != nil || kind != "application/json" {
		return false
	}
	charset, given := params["charset"]
	return !given || strings.EqualFold(charset, "utf-8")
}

var nulEscape = []byte(`\u0000`)

// containsNUL finds the character that PostgreSQL cannot store and SQLite cuts text at, plain or escaped. Within
// `\\u0000` it is not an escape.
func containsNUL(body []byte) bool {
	if bytes.IndexByte(body, 0) >= 0 {
		return true
	}
	for from := 0; ; {
		i := bytes.Index(body[from:], nulEscape)
		if i < 0 {
			return false
		}
		i += from
		before := i
		for before > 0 && body[before-1] == '\\' {
			before--
		}
		if (i-before)%2 == 0 {
			return true
		}
		from = i + len(nulEscape)
	}
}

// idempotencyKey is the key of the request, or "".
func idempotencyKey(h http.Header) (string, error) {
	lines := h["Idempotency-Key"]
	if len(lines) == 0 {
		return "", nil
	}
	if len(lines) > 1 {
		return "", errs.New(errs.Malformed, "there is more than one Idempotency-Key")
	}
	key := lines[0]
	if key == "" || len(key) > 255 {
		return "", errs.New(errs.Malformed, "Idempotency-Key must have 1 to 255 characters")
	}
	for _, c := range []byte(key) {
		if c < ' ' || c > '~' {
			return "", errs.New(errs.Malformed, "Idempotency-Key must be printable ASCII")
		}
	}
	return key, nil
}
