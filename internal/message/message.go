// Package message is what contracts are made of: the envelope, the names with their versions, and the
// facade's way to ask. It is a leaf, so that contracts depend on nothing else of the platform.
package message

import (
	"context"
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"
)

// Payload is the body of a message: plain data with JSON tags and a wire name with a version.
type Payload interface {
	// MessageName is "<module>.<what>.v<n>"; a constant of the type.
	MessageName() string
}

// Event says what has happened. Its module announces it, anybody may subscribe.
type Event interface {
	Payload
	// MessageKey is the aggregate's id. Messages of one publisher and key keep their order.
	MessageKey() string
}

// Command asks a module to change its state; the module in its name handles it, and answers with an event.
type Command interface {
	Payload
	MessageKey() string
}

// Query asks a module something and gets a reply before a deadline.
type Query interface{ Payload }

// Personal is a payload with personal data: fields with the tag `personal:"true"`, of the user it names.
// When the user is erased, those fields are blanked wherever the message is kept.
type Personal interface {
	PersonalSubject() string // user id
}

// Message is the envelope: a payload on its way.
type Message struct {
	ID            string          `json:"id"`       // UUID; a follow-up's is derived from what caused it
	Name          string          `json:"name"`     // wire name
	Source        string          `json:"source"`   // publishing module
	Key           string          `json:"key"`      // aggregate
	Sequence      int64           `json:"sequence"` // 1, 2, 3 … per (source, key)
	CorrelationID string          `json:"correlation_id"`
	CausationID   string          `json:"causation_id,omitempty"` // id of the message that caused this one
	Traceparent   string          `json:"traceparent,omitempty"`  // W3C trace context
	Time          time.Time       `json:"time"`
	Subject       string          `json:"subject,omitempty"` // user id whose personal data the payload holds
	Payload       json.RawMessage `json:"payload"`
}

// Contract lists what a module offers to others.
type Contract struct {
	Module   string
	Events   []Event
	Commands []Command
	Queries  []Exchange
}

// Exchange is a query or a command with its reply, both as zero values.
type Exchange struct {
	Query Query
	Reply any
}

// Names are the wire names of all events.
func (c Contract) Names() []string {
	names := make([]string, len(c.Events))
	for i, e := range c.Events {
		names[i] = e.MessageName()
	}
	return names
}

var nameForm = regexp.MustCompile(`^[a-z][a-z0-9]*\.[a-z][a-z0-9_]*\.v[1-9][0-9]*$`)

// CheckName says what is wrong with a wire name.
func CheckName(name string) error {
	if !nameForm.MatchString(name) {
		return fmt.Errorf(`message name %q is not "<module>.<event>.v<n>"`, name)
	}
	return nil
}

// maxText is the longest text that every store can keep in an index.
const maxText = 1024

// CheckText says whether every store can keep a text of a message beside its payload: its key, say.
func CheckText(s string) error {
	if len(s) > maxText || !utf8.ValidString(s) || strings.Contains(s, "\x00") {
		return fmt.Errorf("is %.40q, which is no text of at most %d bytes without NUL", s, maxText)
	}
	return nil
}

// Module is the part of a wire name that says who owns the message.
func Module(name string) string {
	module, _, _ := strings.Cut(name, ".")
	return module
}

// NewID is a fresh UUIDv7: it sorts by time.
func NewID() string { return uuid.Must(uuid.NewV7()).String() }

// DeriveID is the id of the nth follow-up that a handler makes of a message: the same on every run, so that
// a handler that runs twice announces once.
func DeriveID(cause, handler string, n int) string {
	space, err := uuid.Parse(cause)
	if err != nil {
		space = uuid.NewSHA1(uuid.NameSpaceOID, []byte(cause))
	}
	return uuid.NewSHA1(space, fmt.Appendf(nil, "%s#%d", handler, n)).String()
}

// Caller asks another module over the bus; the context's deadline is the request's.
type Caller interface {
	// Call sends an encoded query, or a command with a command id, and waits for the encoded reply. The same
	// command id always gets the first reply. A query has no command id.
	Call(ctx context.Context, name, commandID string, body []byte) ([]byte, error)
}

// Ask sends a query and decodes its reply.
func Ask[R any](ctx context.Context, c Caller, q Query) (R, error) { return call[R](ctx, c, q, "") }

// Request sends a command that is answered at once; id makes it safe to send again.
func Request[R any](ctx context.Context, c Caller, q Query, id string) (R, error) {
	return call[R](ctx, c, q, id)
}

func call[R any](ctx context.Context, c Caller, q Query, id string) (R, error) {
	var reply R
	body, err := json.Marshal(q)
	if err != nil {
		return reply, fmt.Errorf("encode %s: %w", q.MessageName(), err)
	}
	answer, err := c.Call(ctx, q.MessageName(), id, body)
	if err != nil {
		return reply, err
	}
	if err := json.Unmarshal(answer, &reply); err != nil {
		return reply, fmt.Errorf("decode reply to %s: %w", q.MessageName(), err)
	}
	return reply, nil
}
