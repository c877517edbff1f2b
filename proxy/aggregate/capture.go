package aggregate

import (
	"bytes"
	"errors"
	"net/http"
)

// ErrTooLarge: the route answered more than is taken.
var ErrTooLarge = errors.New("the answer is too large")

// Capture is a writer for an answer that is needed as a whole: for fetches that are served by a handler.
type Capture struct {
	header http.Header
	status int
	body   bytes.Buffer
	limit  int64
	large  bool
}

// NewCapture takes so many bytes of a body.
func NewCapture(limit int64) *Capture { return &Capture{header: http.Header{}, limit: limit} }

// Header is that of the answer.
func (c *Capture) Header() http.Header { return c.header }

// WriteHeader takes the status; those of 1xx come before the real one.
func (c *Capture) WriteHeader(status int) {
	if c.status == 0 && status >= 200 {
		c.status = status
	}
}

// Write takes a part of the body.
func (c *Capture) Write(b []byte) (int, error) {
	c.WriteHeader(http.StatusOK)
	if int64(c.body.Len()+len(b)) > c.limit {
		c.large = true
		return 0, ErrTooLarge
	}
	return c.body.Write(b)
}

// Result is the answer, as a fetch returns it.
func (c *Capture) Result() (status int, header http.Header, body []byte, err error) {
	c.WriteHeader(http.StatusOK)
	if c.large {
		return c.status, c.header, nil, ErrTooLarge
	}
	return c.status, c.header, c.body.Bytes(), nil
}
