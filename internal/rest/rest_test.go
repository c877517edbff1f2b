package rest_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/google/go-cmp/cmp"
	"github.com/labstack/echo/v4"

	"github.com/banyan-go/banyan/internal/databasetest"
	"github.com/banyan-go/banyan/internal/errs"
	"github.com/banyan-go/banyan/internal/module"
	"github.com/banyan-go/banyan/internal/rest"
	"github.com/banyan-go/banyan/internal/unit"
)

const secret = "hunter2"

// sign is a body with every kind of rule.
type sign struct {
	Name     string    `json:"name" minLength:"1" maxLength:"10"`
	Password string    `json:"password" pattern:"^[a-z]+$" maxLength:"64"`
	Mail     string    `json:"mail,omitempty" format:"email" maxLength:"64"`
	Kind     string    `json:"kind,omitempty" enum:"a,b"`
	Pin      int64     `json:"pin,omitempty" minimum:"0" maximum:"9999"`
	Small    int8      `json:"small,omitempty"`
	At       time.Time `json:"at,omitempty"`
	Tags     []string  `json:"tags,omitempty" maxItems:"2" uniqueItems:"true"`
	Place    place     `json:"place,omitempty"`
	Places   []place   `json:"places,omitempty"`
}

type place struct {
	Street string `json:"street,omitempty" maxLength:"10"`
}

type made struct {
	ID string `json:"id"`
	N  int32  `json:"n"`
}

func (m made) Location() string { return "/api/things/" + m.ID }

// server is a module with two routes; fn is the use case of the writing one.
func server(t testing.TB, store *unit.Store, fn func(ctx context.Context, w *unit.Work) (made, error)) (http.Handler, *bytes.Buffer) {
	t.Helper()
	var logged bytes.Buffer
	log := slog.New(slog.NewTextHandler(&logged, nil))
	m := module.New(module.Descriptor{Name: "things", Routes: []module.Route{
		{ID: "make", Method: http.MethodPost, Path: "/api/things/{id}", Class: module.Write, Status: http.StatusCreated},
		{ID: "count", Method: http.MethodGet, Path: "/api/things/{id}", Class: module.Read},
	}})
	m.Store = store
	type making struct {
		ID   string `path:"id" maxLength:"20" pattern:"^[a-z0-9]+$"`
		Body sign
	}
	rest.Handle(m, "make", func(ctx context.Context, in *making) (*rest.Answer[made], error) {
		if store == nil {
			_, err := fn(ctx, nil)
			return nil, err
		}
		return rest.Commit(ctx, store, fn)
	})
	type counting struct {
		rest.Page
		ID string    `path:"id"`
		At time.Time `query:"at"`
		N  int64     `query:"n" maximum:"100"`
	}
	rest.Handle(m, "count", func(context.Context, *counting) (*rest.Answer[made], error) { return rest.Reply(made{}), nil })
	e := rest.NewEcho(log)
	e.GET("/broken", func(echo.Context) error { return errors.New("db password is " + secret) })
	m.Register(rest.NewAPI("t", "1", e, log), func(r module.Route) huma.Operation { return rest.Operation("things", r) })
	return e, &logged
}

func send(h http.Handler, method, path, body string, r rest.Request, header ...string) *httptest.ResponseRecorder {
	req := httptest.NewRequest(method, path, strings.NewReader(body))
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	r.Method, r.Route, r.Path, r.BodyHash = method, "/api/things/{id}", path, sha256.Sum256([]byte(body))
	rec := httptest.NewRecorder()
	h.ServeHTTP(rec, req.WithContext(rest.WithRequest(req.Context(), &r)))
	return rec
}

const good = `{"name":"x","password":"abc"}`

// What the machine below says about itself is for the log.
func TestCausesStayBehind(t *testing.T) {
	t.Parallel()
	cause := errors.New("db password is " + secret)
	for _, c := range []struct {
		name   string
		err    error
		status int
		logged bool
	}{
		{"without a kind", cause, 500, true},
		{"wrapped twice", fmt.Errorf("a: %w", fmt.Errorf("b: %w", cause)), 500, true},
		{"internal", errs.New(errs.Internal, "broken: %w", cause), 500, true},
		{"unavailable", errs.Wrap(errs.Unavailable, cause, "the store is not available now"), 503, true},
		{"a conflict that wraps it", errs.Wrap(errs.Conflict, cause, "taken"), 409, false},
		{"wrapped around a kind", fmt.Errorf("%s: %w", cause, errs.New(errs.NotFound, "no such thing")), 404, false},
		{"a kind nobody knows", &errs.Error{Kind: "odd", Message: cause.Error()}, 500, true},
		{"a deadline", fmt.Errorf("%w: %w", cause, context.DeadlineExceeded), 504, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.name == "a kind nobody knows" {
			}
			h, logged := server(t, nil, func(context.Context, *unit.Work) (made, error) { return made{}, c.err })
			rec := send(h, "POST", "/api/things/a", good, rest.Request{})
			if rec.Code != c.status {
				t.Errorf("status %d, want %d", rec.Code, c.status)
			}
			if strings.Contains(rec.Body.String()+fmt.Sprint(rec.Header()), secret) {
				t.Errorf("the client sees %s", rec.Body)
			}
			if c.logged != strings.Contains(logged.String(), secret) {
				t.Errorf("in the log: %v, want %v: %s", !c.logged, c.logged, logged)
			}
			if got := rec.Header().Get("Content-Type"); got != "application/problem+json" {
				t.Errorf("content type %q", got)
			}
		})
	}
}

func TestErrorsOfTheRouterStayBehind(t *testing.T) {
	t.Parallel()
	h, logged := server(t, nil, nil)
	rec := send(h, "GET", "/broken", "", rest.Request{})
	if rec.Code != 500 || strings.Contains(rec.Body.String(), secret) || !strings.Contains(logged.String(), secret) {
		t.Errorf("status %d, body %s, log %s", rec.Code, rec.Body, logged)
	}
	if rec := send(h, "GET", "/api/nothing/"+secret, "", rest.Request{}); rec.Code != 404 || strings.Contains(rec.Body.String(), secret) {
		t.Errorf("status %d, body %s", rec.Code, rec.Body)
	}
}

func TestMethodNotAllowed(t *testing.T) {
	t.Parallel()
	h, _ := server(t, nil, nil)
	if rec := send(h, "PUT", "/api/things/a", good, rest.Request{}); rec.Code != 405 {
		t.Errorf("status %d, want 405", rec.Code)
	}
}

// What a client sent may be a password, typed into the wrong field: no answer repeats it.
// Whoever reads answers in a terminal sees each on lines of its own.
func TestAnswersEndTheirLine(t *testing.T) {
	t.Parallel()
	h, _ := server(t, nil, func(context.Context, *unit.Work) (made, error) { return made{}, errs.New(errs.Conflict, "no") })
	for _, c := range []struct{ method, path, body string }{
		{"GET", "/api/things/a", ""}, {"GET", "/api/things/a?limit=x", ""}, {"POST", "/api/things/a", good}, {"POST", "/api/things/a", "{"},
		{"GET", "/api/nothing", ""}, {"DELETE", "/api/things/a", ""}, {"GET", "/broken", ""},
	} {
		if rec := send(h, c.method, c.path, c.body, rest.Request{}); !strings.HasSuffix(rec.Body.String(), "}\n") {
			t.Errorf("%s %s: %d %q", c.method, c.path, rec.Code, rec.Body)
		}
	}
}

func TestValidationEchoesNothing(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, method, path, body string }{
		{"pattern", "POST", "/api/things/a", `{"name":"x","password":"hunter2"}`},
		{"too long", "POST", "/api/things/a", `{"name":"hunter2hunter2","password":"abc"}`},
		{"format", "POST", "/api/things/a", `{"name":"x","password":"abc","mail":"hunter2"}`},
		{"enum", "POST", "/api/things/a", `{"name":"x","password":"abc","kind":"hunter2"}`},
		{"wrong type", "POST", "/api/things/a", `{"name":"x","password":"abc","pin":"hunter2"}`},
		{"another wrong type", "POST", "/api/things/a", `{"name":{"hunter2":1},"password":"abc"}`},
		{"time", "POST", "/api/things/a", `{"name":"x","password":"abc","at":"hunter2"}`},
		{"almost a time", "POST", "/api/things/a", `{"name":"x","password":"abc","at":"2026-13-77T00:00:00Z"}`},
		{"number too large", "POST", "/api/things/a", `{"name":"x","password":"abc","pin":472947294729}`},
		{"number that does not fit", "POST", "/api/things/a", `{"name":"x","password":"abc","small":47294}`},
		{"number beyond all", "POST", "/api/things/a", `{"name":"x","password":"abc","small":47294e999}`},
		{"duplicate items", "POST", "/api/things/a", `{"name":"x","password":"abc","tags":["hunter2","hunter2"]}`},
		{"not JSON", "POST", "/api/things/a", `hunter2`},
		{"JSON that breaks off", "POST", "/api/things/a", `{"name":"hunter2`},
		{"path", "POST", "/api/things/HUNTER-hunter2", good},
		{"query", "GET", "/api/things/a?limit=hunter2", ""},
		{"query number that is too large", "GET", "/api/things/a?n=47294", ""},
		{"query number beyond all", "GET", "/api/things/a?n=472947294729472947294729", ""},
		{"query time", "GET", "/api/things/a?at=hunter2", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.name == "number that does not fit" || c.name == "number beyond all" {
			}
			h, logged := server(t, nil, func(context.Context, *unit.Work) (made, error) { return made{}, nil })
			rec := send(h, c.method, c.path, c.body, rest.Request{})
			if rec.Code < 400 || rec.Code >= 500 {
				t.Errorf("status %d, want an error of the client: %s", rec.Code, rec.Body)
			}
			for _, s := range []string{secret, "4729", "2026-13"} {
				if strings.Contains(rec.Body.String(), s) {
					t.Errorf("the answer repeats %q: %s", s, rec.Body)
				}
				if strings.Contains(logged.String(), s) {
					t.Errorf("the log repeats %q: %s", s, logged)
				}
			}
			if !strings.Contains(rec.Body.String(), `"kind"`) {
				t.Errorf("not a problem: %s", rec.Body)
			}
		})
	}
}

func TestRetryAfter(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		err  error
		want string
	}{
		{errs.New(errs.Unavailable, "x").After(1500 * time.Millisecond), "2"},
		{errs.New(errs.Unavailable, "x"), "1"},
		{errs.New(errs.Throttled, "x").After(time.Minute), "60"},
		{errs.New(errs.Conflict, "x"), ""},
		{errs.New(errs.OutcomeUnknown, "x"), "1"},
	} {
		h, _ := server(t, nil, func(context.Context, *unit.Work) (made, error) { return made{}, c.err })
		if got := send(h, "POST", "/api/things/a", good, rest.Request{}).Header().Get("Retry-After"); got != c.want {
			t.Errorf("%v: Retry-After %q, want %q", c.err, got, c.want)
		}
	}
}

func TestIdempotencyKey(t *testing.T) {
	t.Parallel()
	databasetest.Each(t, []string{"alpha"}, func(t *testing.T, e databasetest.Engine) {
		store := unit.New(e.Store(t, "alpha"), unit.Options{Module: "alpha"})
		var runs atomic.Int32
		var fail error
		h, _ := server(t, store, func(context.Context, *unit.Work) (made, error) {
			if fail != nil {
				return made{}, fail
			}
			return made{ID: "t1", N: runs.Add(1)}, nil
		})
		ann := rest.Request{Subject: "ann", IdempotencyKey: "k1"}
		first := send(h, "POST", "/api/things/a", good, ann)
		again := send(h, "POST", "/api/things/a", good, ann)
		if first.Code != 201 || again.Code != 201 || first.Body.String() != again.Body.String() || first.Header().Get("Location") != "/api/things/t1" || again.Header().Get("Location") != "/api/things/t1" {
			t.Errorf("first %d %s %v, again %d %s %v", first.Code, first.Body, first.Header(), again.Code, again.Body, again.Header())
		}
		if first.Header().Get("Idempotency-Replayed") != "" || again.Header().Get("Idempotency-Replayed") != "true" {
			t.Error("only the second answer is a stored one")
		}
		// The stored answer comes even when new requests are refused, or would be refused by now.
		store.Overload("too much waits")
		if rec := send(h, "POST", "/api/things/a", good, ann); rec.Code != 201 {
			t.Errorf("a stored answer in overload: %d %s", rec.Code, rec.Body)
		}
		if rec := send(h, "POST", "/api/things/a", good, rest.Request{Subject: "ann", IdempotencyKey: "k9"}); rec.Code != 503 || rec.Header().Get("Retry-After") == "" {
			t.Errorf("a new request in overload: %d %s", rec.Code, rec.Body)
		}
		store.Overload("")
		for name, c := range map[string]struct {
			path, body string
			r          rest.Request
			status     int
		}{
			"another body":                   {"/api/things/a", `{"name":"y","password":"abc"}`, ann, 422},
			"another path":                   {"/api/things/b", good, ann, 422},
			"another caller":                 {"/api/things/a", good, rest.Request{Subject: "bob", IdempotencyKey: "k1"}, 201},
			"a stranger":                     {"/api/things/a", good, rest.Request{ClientIP: "192.0.2.1", IdempotencyKey: "k1"}, 201},
			"a stranger from somewhere else": {"/api/things/a", good, rest.Request{ClientIP: "192.0.2.2", IdempotencyKey: "k1"}, 201},
			"no key":                         {"/api/things/a", good, rest.Request{Subject: "ann"}, 201},
		} {
			rec := send(h, "POST", c.path, c.body, c.r)
			if rec.Code != c.status || rec.Header().Get("Idempotency-Replayed") != "" {
				t.Errorf("%s: %d %s", name, rec.Code, rec.Body)
			}
		}
		if d := cmp.Diff(int32(5), runs.Load()); d != "" {
			t.Errorf("runs: %s", d)
		}
		fail = errs.New(errs.Conflict, "not now")
		later := rest.Request{Subject: "ann", IdempotencyKey: "later"}
		if rec := send(h, "POST", "/api/things/a", good, later); rec.Code != 409 {
			t.Errorf("%d, want 409", rec.Code)
		}
		fail = nil
		if rec := send(h, "POST", "/api/things/a", good, later); rec.Code != 201 || rec.Header().Get("Idempotency-Replayed") != "" {
			t.Errorf("the key of a failed request: %d %s", rec.Code, rec.Body)
		}
		// Neither the key nor the body can be read, or tried, from what is kept.
		var rows []string
		if err := store.Read(t.Context()).Raw("SELECT subject || route || key FROM idempotency").Scan(&rows).Error; err != nil {
			t.Fatal(err)
		}
		for _, r := range rows {
			if strings.Contains(r, "k1") || strings.Contains(r, "192.0.2") {
				t.Errorf("kept: %s", r)
			}
		}
	})
}

func TestCut(t *testing.T) {
	t.Parallel()
	same := func(n int) int { return n }
	cursor := func(n int) string { return fmt.Sprint(n) }
	for _, c := range []struct {
		rows []int
		want rest.List[int]
	}{
		{nil, rest.List[int]{Items: []int{}}},
		{[]int{1, 2}, rest.List[int]{Items: []int{1, 2}}},
		{[]int{1, 2, 3}, rest.List[int]{Items: []int{1, 2}, Next: "2"}},
	} {
		if d := cmp.Diff(c.want, rest.Cut(c.rows, 2, same, cursor)); d != "" {
			t.Error(d)
		}
	}
}

func TestCursors(t *testing.T) {
	t.Parallel()
	const id = "01a1fcba-b6c0-7329-9110-480727c5f6f2"
	at := time.Date(2026, 11, 21, 6, 10, 57, 344045000, time.UTC)
	gotAt, gotID, err := rest.Page{Cursor: rest.TimeCursor(at, id)}.AfterTime()
	if err != nil || !gotAt.Equal(at) || gotID != id {
		t.Errorf("got %v, %s, %v", gotAt, gotID, err)
	}
	for _, good := range []string{"", id} {
		if got, err := (rest.Page{Cursor: good}).AfterID(); got != good || err != nil {
			t.Errorf("%q: got %q, %v", good, got, err)
		}
	}
	for _, bad := range []string{"x", "1", "-1", id + "0", strings.ToUpper(id), "1." + id, id + "\n"} {
		if _, err := (rest.Page{Cursor: bad}).AfterID(); !errs.Is(err, errs.Invalid) {
			t.Errorf("%q: %v", bad, err)
		}
	}
	for _, bad := range []string{"x", "1", id, "x." + id, "-5." + id, "1.", "1.a", "999999999999999999." + id, "999999999999999999999." + id} {
		if _, _, err := (rest.Page{Cursor: bad}).AfterTime(); !errs.Is(err, errs.Invalid) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}
