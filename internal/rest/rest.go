// Package rest binds a module's use cases to its HTTP routes: decoding and validation, errors as problem+json
// (RFC 9457) that leak nothing, answers that are given once per Idempotency-Key, pages.
package rest

import (
	"context"
	"log/slog"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/banyan-go/banyan/internal/errs"
	"github.com/banyan-go/banyan/internal/module"
	"github.com/banyan-go/banyan/internal/unit"
)

// Handle binds a route of the descriptor to a function. I and O are huma structs: path, query and header
// parameters and Body as fields; unknown fields are refused, tags validate.
func Handle[I, O any](m *module.Module, id string, fn func(ctx context.Context, in *I) (*O, error)) {
	m.Mount(id, func(a huma.API, op huma.Operation) {
		var log *slog.Logger
		if l, ok := a.(api); ok {
			log = l.log
		}
		huma.Register(a, op, func(ctx context.Context, in *I) (*O, error) {
			out, err := answered[O](ctx, m)
			if out == nil && err == nil {
				out, err = fn(ctx, in)
			}
			if err != nil {
				return nil, problem(ctx, log, err)
			}
			return out, nil
		})
	})
}

// answered is the stored answer to a request that came before. It is looked up before the use case runs, which
// might refuse by now what it did then: a cart is empty after its order.
func answered[O any](ctx context.Context, m *module.Module) (*O, error) {
	k, ok := key(ctx)
	if !ok || m.Store == nil {
		return nil, nil
	}
	out := new(O)
	r, ok := any(out).(restorer)
	if !ok {
		return nil, nil
	}
	stored, err := m.Store.Answered(ctx, k)
	if stored == nil || err != nil {
		return nil, err
	}
	return out, r.restore(stored)
}

// Answer is a body with the status of the route and, for things that were made, their place.
type Answer[T any] struct {
	Location string `header:"Location"`
	Replayed string `header:"Idempotency-Replayed" doc:"true when this is the stored answer to an earlier request"`
	Body     T
}

// Located is a body that knows its own path; Commit and Reply set the Location header from it.
type Located interface{ Location() string }

// Reply answers with a body.
func Reply[T any](body T) *Answer[T] {
	a := &Answer[T]{Body: body}
	if l, ok := any(body).(Located); ok {
		a.Location = l.Location()
	}
	return a
}

// Commit runs fn as one unit of work and answers with what it returns. If the request has an Idempotency-Key
// the key's row is inserted first and the answer is stored in the same unit of work: a repeat gets the stored
// answer, and the same key with another body is refused. Every POST and PATCH ends in one Commit.
func Commit[T any](ctx context.Context, store *unit.Store, fn func(ctx context.Context, w *unit.Work) (T, error)) (*Answer[T], error) {
	return commit(ctx, store, fn)
}

// Page asks for a part of a list. Lists are in a stable order; Cursor continues after the last item seen.
type Page struct {
	Limit  int    `query:"limit" minimum:"1" maximum:"500" default:"50" doc:"Items to return"`
	Cursor string `query:"cursor" maxLength:"512" doc:"next of the page before"`
}

// BadCursor refuses a cursor that is not one of the list.
func BadCursor() error {
	return errs.New(errs.Invalid, "the cursor is not one of this list").With("query.cursor", "use next of the page before")
}

// idForm is what ids look like that the shop makes itself.
var idForm = regexp.MustCompile(`^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`)

// AfterID is the cursor of a list that is sorted by the ids of its items; "" for the first page.
func (p Page) AfterID() (string, error) {
	if p.Cursor != "" && !idForm.MatchString(p.Cursor) {
		return "", BadCursor()
	}
	return p.Cursor, nil
}

// maxMicros is the end of the year 9999, after which times have no fixed width.
const maxMicros = 253402300799999999

// TimeCursor is the cursor of a list that is sorted by time, and by id where that is the same.
func TimeCursor(at time.Time, id string) string {
	return strconv.FormatInt(at.UnixMicro(), 10) + "." + id
}

// AfterTime reads a TimeCursor that is there.
func (p Page) AfterTime() (time.Time, string, error) {
	micros, id, _ := strings.Cut(p.Cursor, ".")
	at, err := strconv.ParseInt(micros, 10, 64)
	if err != nil || at < 0 || at > maxMicros || !idForm.MatchString(id) {
		return time.Time{}, "", BadCursor()
	}
	return time.UnixMicro(at).UTC(), id, nil
}

// List is one page of a list.
type List[T any] struct {
	Items []T    `json:"items"`
	Next  string `json:"next,omitempty" doc:"cursor of the next page; absent on the last one"`
}

// Cut makes a page of up to limit items out of rows, which were read with limit+1; cursor names the last item kept.
func Cut[R, T any](rows []R, limit int, convert func(R) T, cursor func(R) string) List[T] {
	list := List[T]{Items: make([]T, 0, min(len(rows), limit))}
	for i, r := range rows {
		if i == limit {
			list.Next = cursor(rows[i-1])
			break
		}
		list.Items = append(list.Items, convert(r))
	}
	return list
}

func itoa(n int) string { return strconv.Itoa(n) }
