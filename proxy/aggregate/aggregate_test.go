package aggregate

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/banyan-go/banyan/internal/errs"
)

// routes are what a fetch of a test answers, by path and query.
type routes map[string]func(ctx context.Context) (int, http.Header, []byte, error)

func (r routes) fetch(ctx context.Context, method, path string) (int, http.Header, []byte, error) {
	if method != "GET" {
		return 405, nil, nil, nil
	}
	f := r[path]
	if f == nil {
		return 404, http.Header{"Content-Type": {"application/problem+json"}}, []byte(`{"kind":"not_found"}`), nil
	}
	return f(ctx)
}

type answering = func(ctx context.Context) (int, http.Header, []byte, error)

func says(status int, body string) answering {
	return func(context.Context) (int, http.Header, []byte, error) {
		return status, http.Header{"Content-Type": {"application/json"}}, []byte(body), nil
	}
}

func after(d time.Duration, then answering) answering {
	return func(ctx context.Context) (int, http.Header, []byte, error) {
		select {
		case <-time.After(d): // simulated
			return then(ctx)
		case <-ctx.Done():
			return 0, nil, nil, ctx.Err()
		}
	}
}

func open(t testing.TB, parts ...Part) *Server {
	t.Helper()
	cfg := Config{Parallel: 8, MaxPart: 2048, MaxBytes: 4096, Aggregates: []Aggregate{{Path: "/api/all", Timeout: time.Second, Parts: parts}}}
	if err := cfg.Validate("gateway.aggregate", nil); err != nil {
		t.Fatal(err)
	}
	s, err := New(cfg, Options{})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func ask(s *Server, fetch Fetch) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	s.Serve(w, httptest.NewRequest("GET", "/api/all", nil), fetch)
	return w
}

func TestServe(t *testing.T) {
	t.Parallel()
	a, b := Part{Name: "a", Get: "/a"}, Part{Name: "b", Get: "/b?x=1"}
	needed := Part{Name: "needed", Get: "/needed", Required: true}
	slow := func(p Part) Part { p.Timeout = 100 * time.Millisecond; return p }
	large := `"` + strings.Repeat("x", 1500) + `"`
	for _, c := range []struct {
		name   string
		parts  []Part
		routes routes
		status int
		want   string
		taken  time.Duration
	}{
		{"all", []Part{a, b, needed}, routes{"/a": says(200, "{\"x\": 1}\n"), "/b?x=1": says(200, `[1]`), "/needed": says(201, `"text"`)}, 200,
			`{"a":{"x": 1},"b":[1],"needed":"text","missing":[]}`, 0},
		{"at the same time", []Part{a, b, needed}, routes{"/a": after(300*time.Millisecond, says(200, "1")), "/b?x=1": after(400*time.Millisecond, says(200, "2")), "/needed": after(100*time.Millisecond, says(200, "3"))},
			200, `{"a":1,"b":2,"needed":3,"missing":[]}`, 400 * time.Millisecond},
		{"one is missing", []Part{a, b}, routes{"/b?x=1": says(200, "2")}, 200, `{"a":null,"b":2,"missing":[{"part":"a","status":404,"reason":"not_found"}]}`, 0},
		{"all are missing", []Part{a, b}, routes{"/a": says(500, "x"), "/b?x=1": says(418, "x")}, 200, `{"a":null,"b":null,"missing":[{"part":"a","status":500,"reason":"internal"},{"part":"b","status":418,"reason":"invalid"}]}`, 0},
		{"one has nothing to say", []Part{a, b}, routes{"/a": says(204, ""), "/b?x=1": says(200, "")}, 200, `{"a":null,"b":null,"missing":[]}`, 0},
		{"not for this caller", []Part{a}, routes{"/a": says(403, `{}`)}, 200, `{"a":null,"missing":[{"part":"a","status":403,"reason":"forbidden"}]}`, 0},
		{"a redirect is no answer", []Part{a}, routes{"/a": says(302, ``)}, 200, `{"a":null,"missing":[{"part":"a","status":302,"reason":"internal"}]}`, 0},
		{"a part is late", []Part{slow(a), b}, routes{"/a": after(time.Minute, nil), "/b?x=1": says(200, "2")}, 200, `{"a":null,"b":2,"missing":[{"part":"a","status":504,"reason":"timeout"}]}`, 100 * time.Millisecond},
		{"the whole is late", []Part{a, b}, routes{"/a": after(time.Minute, nil), "/b?x=1": after(900*time.Millisecond, says(200, "2"))}, 200, `{"a":null,"b":2,"missing":[{"part":"a","status":504,"reason":"timeout"}]}`, time.Second},
		{"late after all, while another one is waited for", []Part{slow(a), slow(b), {Name: "c", Get: "/c"}}, routes{
			"/a": func(context.Context) (int, http.Header, []byte, error) {
				time.Sleep(200 * time.Millisecond)
				return 200, nil, []byte("1"), nil
			},
			"/b?x=1": func(context.Context) (int, http.Header, []byte, error) {
				time.Sleep(200 * time.Millisecond)
				return 500, nil, nil, nil
			},
			"/c": after(400*time.Millisecond, says(200, "3")),
		}, 200, `{"a":1,"b":null,"c":3,"missing":[{"part":"b","status":504,"reason":"timeout"}]}`, 400 * time.Millisecond},
		{"not JSON", []Part{a, b}, routes{"/a": says(200, "<html>"), "/b?x=1": says(200, `{"x":1} {"y":2}`)}, 200, `{"a":null,"b":null,"missing":[{"part":"a","status":502,"reason":"unreadable"},{"part":"b","status":502,"reason":"unreadable"}]}`, 0},
		{"not UTF-8", []Part{a}, routes{"/a": says(200, "\"\xff\"")}, 200, `{"a":null,"missing":[{"part":"a","status":502,"reason":"unreadable"}]}`, 0},
		{"blank", []Part{a}, routes{"/a": says(200, " \n")}, 200, `{"a":null,"missing":[{"part":"a","status":502,"reason":"unreadable"}]}`, 0},
		{"too large", []Part{a, b}, routes{"/a": says(200, `"`+strings.Repeat("x", 2048)+`"`), "/b?x=1": says(200, "2")}, 200, `{"a":null,"b":2,"missing":[{"part":"a","status":502,"reason":"too_large"}]}`, 0},
		{"too large together", []Part{a, b, {Name: "c", Get: "/c"}, {Name: "d", Get: "/d"}}, routes{"/a": says(200, large), "/b?x=1": says(200, large), "/c": says(200, large), "/d": says(200, "4")}, 200,
			`{"a":` + large + `,"b":` + large + `,"c":null,"d":4,"missing":[{"part":"c","status":502,"reason":"too_large"}]}`, 0},
		{"a panic", []Part{a, b}, routes{"/a": func(context.Context) (int, http.Header, []byte, error) { panic("boom") }, "/b?x=1": says(200, "2")}, 200, `{"a":null,"b":2,"missing":[{"part":"a","status":500,"reason":"internal"}]}`, 0},
		{"an answer that broke off", []Part{a}, routes{"/a": func(context.Context) (int, http.Header, []byte, error) { panic(http.ErrAbortHandler) }}, 200, `{"a":null,"missing":[{"part":"a","status":502,"reason":"unavailable"}]}`, 0},
		{"an error", []Part{a}, routes{"/a": func(context.Context) (int, http.Header, []byte, error) {
			return 0, nil, nil, errors.New("connect to 10.0.0.1")
		}}, 200, `{"a":null,"missing":[{"part":"a","status":502,"reason":"unavailable"}]}`, 0},
		{"an error with a kind", []Part{a}, routes{"/a": func(context.Context) (int, http.Header, []byte, error) {
			return 0, nil, nil, fmt.Errorf("x: %w", errs.New(errs.Throttled, "slow down"))
		}}, 200, `{"a":null,"missing":[{"part":"a","status":429,"reason":"throttled"}]}`, 0},

		{"required: error", []Part{a, needed}, routes{"/a": after(time.Minute, nil), "/needed": says(500, "")}, 502, `needed cannot be had: internal`, 0},
		{"required: not there", []Part{needed}, routes{}, 502, `needed cannot be had: not_found`, 0},
		{"required: late", []Part{a, slow(needed)}, routes{"/a": after(900*time.Millisecond, says(200, "1")), "/needed": after(time.Minute, nil)}, 504, `needed cannot be had: timeout`, 100 * time.Millisecond},
		{"required: unreadable", []Part{needed}, routes{"/needed": says(200, "<")}, 502, `needed cannot be had: unreadable`, 0},
		{"required: panic", []Part{needed}, routes{"/needed": func(context.Context) (int, http.Header, []byte, error) { panic("boom") }}, 502, `needed cannot be had: internal`, 0},
		{"required: which one is told, not one that was called off", []Part{{Name: "first", Get: "/first", Required: true}, needed}, routes{"/first": after(time.Minute, nil), "/needed": says(403, `{"detail":"no"}`)}, 403, `{"detail":"no"}`, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				start := time.Now()
				w := ask(open(t, c.parts...), c.routes.fetch)
				taken := time.Since(start)
				got := strings.TrimSuffix(w.Body.String(), "\n")
				if w.Code != c.status || taken != c.taken {
					t.Errorf("%d after %s, want %d after %s", w.Code, taken, c.status, c.taken)
				}
				if c.status == 200 && (got != c.want || !json.Valid(w.Body.Bytes())) || !strings.Contains(got, c.want) {
					t.Errorf("got  %s\nwant %s", got, c.want)
				}
				if control := w.Header().Get("Cache-Control"); !strings.Contains(control, "no-store") {
					t.Errorf("Cache-Control %q", control)
				}
				if c.status >= 502 {
					var p struct {
						Status int
						Title  string
					}
					if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil || p.Status != c.status || p.Title != http.StatusText(c.status) || strings.Contains(got, "10.0") {
						t.Errorf("problem %+v %v", p, err)
					}
				}
			})
		})
	}
}

func TestRequiredPassesOn401(t *testing.T) {
	t.Parallel()
	s := open(t, Part{Name: "a", Get: "/a", Required: true})
	w := ask(s, routes{"/a": func(context.Context) (int, http.Header, []byte, error) {
		return 401, http.Header{"Content-Type": {"application/problem+json"}, "Www-Authenticate": {"Bearer"}, "Set-Cookie": {"a=b"}}, []byte(`{"kind":"unauthenticated"}`), nil
	}}.fetch)
	if w.Code != 401 || w.Body.String() != `{"kind":"unauthenticated"}` || w.Header().Get("Www-Authenticate") != "Bearer" || w.Header().Get("Set-Cookie") != "" || w.Header().Get("Content-Type") != "application/problem+json" {
		t.Errorf("%d %s %v", w.Code, w.Body, w.Header())
	}
	w = ask(s, routes{"/a": func(context.Context) (int, http.Header, []byte, error) {
		return 0, nil, nil, errs.New(errs.Forbidden, "no")
	}}.fetch)
	if w.Code != 403 || !strings.Contains(w.Body.String(), `"kind":"forbidden"`) {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

// Who goes calls all off, and nobody waits for a fetch that does not listen.
func TestClientGoes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := open(t, Part{Name: "a", Get: "/a"}, Part{Name: "b", Get: "/b"}, Part{Name: "deaf", Get: "/deaf"})
		ctx, cancel := context.WithCancel(t.Context())
		var calledOff atomic.Int32
		listening := func(ctx context.Context) (int, http.Header, []byte, error) {
			<-ctx.Done()
			calledOff.Add(1)
			return 0, nil, nil, ctx.Err()
		}
		end := make(chan struct{})
		fetch := routes{"/a": listening, "/b": listening, "/deaf": func(context.Context) (int, http.Header, []byte, error) {
			<-end
			return 200, nil, []byte("1"), nil
		}}.fetch
		w, start := httptest.NewRecorder(), time.Now()
		time.AfterFunc(100*time.Millisecond, cancel)
		s.Serve(w, httptest.NewRequest("GET", "/api/all", nil).WithContext(ctx), fetch)
		if w.Code != 499 || time.Since(start) != 100*time.Millisecond {
			t.Errorf("%d after %s", w.Code, time.Since(start))
		}
		synctest.Wait()
		if calledOff.Load() != 2 {
			t.Errorf("%d were called off", calledOff.Load())
		}
		// A deadline of the caller is no reason to throw away what has come.
		ctx, cancel = context.WithTimeout(t.Context(), 200*time.Millisecond)
		defer cancel()
		w, start = httptest.NewRecorder(), time.Now()
		s.Serve(w, httptest.NewRequest("GET", "/api/all", nil).WithContext(ctx), routes{"/a": says(200, "1"), "/b": says(200, "2"), "/deaf": func(context.Context) (int, http.Header, []byte, error) {
			<-end
			return 200, nil, []byte("1"), nil
		}}.fetch)
		if want := `{"a":1,"b":2,"deaf":null,"missing":[{"part":"deaf","status":504,"reason":"timeout"}]}` + "\n"; w.Code != 200 || w.Body.String() != want || time.Since(start) != 200*time.Millisecond {
			t.Errorf("%d %s after %s", w.Code, w.Body, time.Since(start))
		}
		close(end)
		synctest.Wait()
		if len(s.slots) != 0 {
			t.Errorf("%d slots are taken", len(s.slots))
		}
	})
}

// A part is asked for on behalf of the caller: what the caller's context carries, and no longer than its time.
func TestContext(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		type carried struct{}
		short := Part{Name: "short", Get: "/short", Timeout: 300 * time.Millisecond}
		s := open(t, Part{Name: "a", Get: "/a"}, short)
		var left sync.Map
		ctx := context.WithValue(t.Context(), carried{}, "ann")
		s.Serve(httptest.NewRecorder(), httptest.NewRequest("GET", "/api/all", nil).WithContext(ctx), func(ctx context.Context, _, path string) (int, http.Header, []byte, error) {
			end, _ := ctx.Deadline()
			left.Store(path, time.Until(end))
			if ctx.Value(carried{}) != "ann" {
				t.Errorf("%s: the caller is lost", path)
			}
			return 200, nil, []byte("1"), nil
		})
		for path, want := range map[string]time.Duration{"/a": time.Second, "/short": 300 * time.Millisecond} {
			if got, _ := left.Load(path); got != want {
				t.Errorf("%s has %v, want %s", path, got, want)
			}
		}
	})
}

// When a required part fails, the others are called off at once.
func TestRequiredCallsOff(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := open(t, Part{Name: "a", Get: "/a"}, Part{Name: "b", Get: "/b", Required: true})
		called := make(chan time.Duration, 1)
		start := time.Now()
		w := ask(s, routes{"/a": func(ctx context.Context) (int, http.Header, []byte, error) {
			<-ctx.Done()
			called <- time.Since(start)
			return 0, nil, nil, ctx.Err()
		}, "/b": after(50*time.Millisecond, says(500, ""))}.fetch)
		if d := <-called; w.Code != 502 || d != 50*time.Millisecond {
			t.Errorf("%d, called off after %s", w.Code, d)
		}
	})
}

// Parts are bounded over all requests; who finds no room in time says so.
func TestParallel(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := open(t, Part{Name: "a", Get: "/a"}, Part{Name: "b", Get: "/b"}) // 8 at once
		var now, most atomic.Int32
		busy := func(ctx context.Context) (int, http.Header, []byte, error) {
			n := now.Add(1)
			for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
			}
			time.Sleep(600 * time.Millisecond)
			now.Add(-1)
			return 200, nil, []byte("1"), nil
		}
		var wg sync.WaitGroup
		var whole, late atomic.Int32
		for range 10 {
			wg.Go(func() {
				w := ask(s, routes{"/a": busy, "/b": busy}.fetch)
				whole.Add(int32(2 - strings.Count(w.Body.String(), "null")))
				late.Add(int32(strings.Count(w.Body.String(), `"reason":"timeout"`) + strings.Count(w.Body.String(), `"reason":"unavailable"`)))
			})
		}
		wg.Wait()
		time.Sleep(time.Second) // for those who were not waited for
		if most.Load() != 8 || whole.Load() != 8 || late.Load() != 12 {
			t.Errorf("%d at once, %d came, %d did not", most.Load(), whole.Load(), late.Load())
		}
	})
}

func TestPick(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		pick, count []string
		in, want    string // "" is unreadable
	}{
		{nil, nil, ` {"b":1, "a":2} `, `{"b":1, "a":2}`},
		{nil, nil, `12345678901234567890.10`, `12345678901234567890.10`},
		{[]string{"b", "a"}, nil, `{"a":2,"b":1,"c":3}`, `{"b":1,"a":2}`},
		{[]string{"a"}, nil, `{"a":{"x":12345678901234567890}}`, `{"a":{"x":12345678901234567890}}`},
		{[]string{"z"}, nil, `{"a":1}`, `{}`},
		{[]string{"a"}, nil, `{"a":null}`, `{"a":null}`},
		{[]string{"a"}, nil, `null`, `null`},
		{[]string{"a"}, nil, `[{"a":1,"b":2},{"b":2},null]`, `[{"a":1},{},null]`},
		{[]string{"items.id", "items.total", "next"}, nil, `{"next":"x","items":[{"total":{"amount":5},"id":"1","z":1},{"id":"2"}]}`, `{"items":[{"id":"1","total":{"amount":5}},{"id":"2"}],"next":"x"}`},
		{[]string{"items.total.amount"}, nil, `{"items":[{"total":{"amount":5,"currency":"GBP"}}]}`, `{"items":[{"total":{"amount":5}}]}`},
		{[]string{"items.id"}, nil, `{"items":null}`, `{"items":null}`},
		{[]string{"items.id"}, nil, `{"items":[]}`, `{"items":[]}`},
		{[]string{"items.id"}, nil, `{"items":[[{"id":1}]]}`, ``},
		{[]string{"items.id"}, nil, `{"items":"text"}`, ``},
		{[]string{"a"}, nil, `"text"`, ``},
		{[]string{"a"}, nil, `7`, ``},
		{nil, []string{"lines"}, `{"lines":[1,2,3],"x":1}`, `{"lines":3}`},
		{[]string{"total"}, []string{"lines", "problems"}, `{"lines":[],"problems":null,"total":{"amount":1}}`, `{"total":{"amount":1},"lines":0,"problems":0}`},
		{nil, []string{"lines"}, `{}`, `{}`},
		{nil, []string{"lines"}, `{"lines":{}}`, ``},
		{nil, []string{"lines"}, `{"lines":5}`, ``},
		{[]string{"a"}, nil, `{"a":1,"a":2}`, `{"a":2}`},
		{[]string{"a"}, nil, `{"a":1`, ``},
	} {
		keep, err := compile(Part{Pick: c.pick, Count: c.count})
		if err != nil {
			t.Fatal(err)
		}
		var b bytes.Buffer
		if err = keep.write(&b, []byte(c.in)); err != nil {
			b.Reset()
		}
		if b.String() != c.want || (err != nil) != (c.want == "") {
			t.Errorf("%v %v of %s: %s %v, want %s", c.pick, c.count, c.in, &b, err, c.want)
		}
	}
}

func FuzzPick(f *testing.F) {
	f.Add(`{"items":[{"id":1,"total":{"amount":1}}],"lines":[1]}`)
	f.Add(`[[[{"items":[]}]]]`)
	f.Add("{\"items\":\"\xff\"}")
	f.Add(" { \"x\" : 1 , \"it\\u0065ms\" : [ { \"id\" : \"a\\\"]}\" , \"id\":-1.5e3 } , null ] }\n")
	f.Add(`{"x":true,"x":{"a":[1,2,{"b":"\\"}]},"lines":[ ],"items":{}}`)
	keep, err := compile(Part{Pick: []string{"items.id", "items.total.amount", "x"}, Count: []string{"lines"}})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, body string) {
		var got, want bytes.Buffer
		err := keep.write(&got, []byte(body))
		if err == nil && !json.Valid(got.Bytes()) {
			t.Errorf("%q became %q", body, &got)
		}
		// A decoder finds the same.
		wantErr := errUnreadable
		if trimmed := strings.TrimSpace(body); utf8.ValidString(body) && json.Valid([]byte(trimmed)) && (trimmed[0] == '{' || trimmed[0] == '[' || trimmed == "null") {
			wantErr = decoded(&want, keep, json.RawMessage(trimmed))
		}
		if (err != nil) != (wantErr != nil) || err == nil && got.String() != want.String() {
			t.Errorf("%q: %s %v, want %s %v", body, &got, err, &want, wantErr)
		}
	})
}

// decoded is field.project by way of encoding/json.
func decoded(to *bytes.Buffer, f field, value json.RawMessage) error {
	var items []json.RawMessage
	var members map[string]json.RawMessage
	switch {
	case len(f.fields) == 0 && !f.count:
		to.Write(value)
	case value[0] == '[':
		if err := json.Unmarshal(value, &items); err != nil {
			return err
		}
		if f.count {
			_, _ = fmt.Fprint(to, len(items))
			return nil
		}
		to.WriteString("[")
		for i, item := range items {
			if i > 0 {
				to.WriteString(",")
			}
			if item[0] == '[' {
				return errUnreadable
			}
			if err := decoded(to, f, item); err != nil {
				return err
			}
		}
		to.WriteString("]")
	case value[0] == '{' && !f.count:
		if err := json.Unmarshal(value, &members); err != nil {
			return err
		}
		comma := "{"
		for _, sub := range f.fields {
			if m, there := members[sub.name]; there {
				_, _ = fmt.Fprintf(to, "%s%q:", comma, sub.name)
				comma = ","
				if err := decoded(to, sub, m); err != nil {
					return err
				}
			}
		}
		to.WriteString(strings.Trim(comma, ",") + "}")
	case string(value) != "null":
		return errUnreadable
	case f.count:
		to.WriteString("0")
	default:
		to.WriteString("null")
	}
	return nil
}

func TestCapture(t *testing.T) {
	t.Parallel()
	c := NewCapture(10)
	c.WriteHeader(103)
	c.Header().Set("X", "1")
	c.WriteHeader(404)
	c.WriteHeader(500)
	_, _ = io.WriteString(c, "12345")
	_, _ = io.WriteString(c, "67890")
	if status, h, body, err := c.Result(); status != 404 || h.Get("X") != "1" || string(body) != "1234567890" || err != nil {
		t.Errorf("%d %v %q %v", status, h, body, err)
	}
	if _, err := io.WriteString(c, "x"); !errors.Is(err, ErrTooLarge) {
		t.Errorf("%v", err)
	}
	if _, _, body, err := c.Result(); !errors.Is(err, ErrTooLarge) || body != nil {
		t.Errorf("%q %v", body, err)
	}
	if status, _, _, err := NewCapture(1).Result(); status != 200 || err != nil {
		t.Errorf("%d %v", status, err)
	}
}

func TestLogAndMetrics(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	registry := prometheus.NewRegistry()
	cfg := Config{Parallel: 8, MaxPart: 2048, MaxBytes: 4096, Aggregates: []Aggregate{{Path: "/api/all", Timeout: time.Second, Parts: []Part{{Name: "a", Get: "/a"}, {Name: "b", Get: "/b"}}}}}
	s, err := New(cfg, Options{Registry: registry, Log: slog.New(slog.NewTextHandler(&log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	ask(s, routes{"/a": says(200, "1"), "/b": func(context.Context) (int, http.Header, []byte, error) { panic("boom") }}.fetch)
	if !strings.Contains(log.String(), "boom") || !strings.Contains(log.String(), "part=b") {
		t.Errorf("log: %s", &log)
	}
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			var labels []string
			for _, l := range m.GetLabel() {
				labels = append(labels, l.GetValue())
			}
			got[strings.Join(labels, " ")] = m.GetCounter().GetValue()
		}
	}
	if d := cmp.Diff(map[string]float64{"a /api/all ok": 1, "b /api/all internal": 1}, got); d != "" {
		t.Error(d)
	}
	w := httptest.NewRecorder()
	s.Serve(w, httptest.NewRequest("GET", "/api/other", nil), nil)
	if w.Code != 404 {
		t.Errorf("%d", w.Code)
	}
}

func TestValidate(t *testing.T) {
	t.Parallel()
	var asked []string
	if err := DefaultConfig().Validate("gateway.aggregate", func(method, path string) bool {
		asked = append(asked, method+" "+path)
		return true
	}); err != nil || len(asked) != 10 || asked[1] != "GET /api/orders" {
		t.Errorf("%v %v", err, asked)
	}
	with := func(a Aggregate) Config {
		if a.Path == "" {
			a.Path = "/api/all"
		}
		if a.Timeout == 0 {
			a.Timeout = time.Second
		}
		if a.Parts == nil {
			a.Parts = []Part{{Name: "a", Get: "/api/a"}}
		}
		return Config{Parallel: 1, MaxPart: 1024, MaxBytes: 1024, Aggregates: []Aggregate{a}}
	}
	parts := func(p ...Part) Config { return with(Aggregate{Parts: p}) }
	ok := Part{Name: "a", Get: "/api/a"}
	for _, c := range []struct {
		want string
		cfg  Config
	}{
		{".parallel: 0", Config{MaxPart: 1024, MaxBytes: 1024}},
		{".max_part: 0", Config{Parallel: 1, MaxBytes: 1024}},
		{".max_bytes: 0", Config{Parallel: 1, MaxPart: 1024}},
		{`.aggregates[0].path: "/all"`, with(Aggregate{Path: "/all"})},
		{`.aggregates[0].path: "/api/{id}"`, with(Aggregate{Path: "/api/{id}"})},
		{`.aggregates[0].auth: "root"`, with(Aggregate{Auth: "root"})},
		{`.aggregates[0].timeout: 1h0m0s`, with(Aggregate{Timeout: time.Hour})},
		{`.aggregates[0].parts: there are 0`, with(Aggregate{Parts: []Part{}})},
		{`.aggregates[0].parts: there are 17`, parts(make([]Part, 17)...)},
		{`.aggregates[0].parts[0].name: ""`, parts(Part{Get: "/api/a"})},
		{`.aggregates[0].parts[0].name: "a-b"`, parts(Part{Name: "a-b", Get: "/api/a"})},
		{`.aggregates[0].parts[0].name: "missing"`, parts(Part{Name: "missing", Get: "/api/a"})},
		{`.aggregates[0].parts[1].name: "a" is that of parts[0]`, parts(ok, ok)},
		{`.aggregates[0].parts[0].get: "api/a" is not a path`, parts(Part{Name: "a", Get: "api/a"})},
		{`.aggregates[0].parts[0].get: "http://x/api/a" is not a path`, parts(Part{Name: "a", Get: "http://x/api/a"})},
		{`.aggregates[0].parts[0].get: "/api/a?x=%zz" is not a path`, parts(Part{Name: "a", Get: "/api/a?x=%zz"})},
		{`.aggregates[0].parts[0].get: "/api/{id}" is not a path`, parts(Part{Name: "a", Get: "/api/{id}"})},
		{`.aggregates[0].parts[0].get: "/api/all" is put together itself`, parts(Part{Name: "a", Get: "/api/all?x=1"})},
		{`.aggregates[0].parts[0].get: no route answers GET /api/unknown`, parts(Part{Name: "a", Get: "/api/unknown?x=1"})},
		{`.aggregates[0].parts[0].timeout: 2s`, parts(Part{Name: "a", Get: "/api/a", Timeout: 2 * time.Second})},
		{`.aggregates[0].parts[0].timeout: -1s`, parts(Part{Name: "a", Get: "/api/a", Timeout: -time.Second})},
		{`.aggregates[0].parts[0].pick[1]: "a..b"`, parts(Part{Name: "a", Get: "/api/a", Pick: []string{"a", "a..b"}})},
		{`.aggregates[0].parts[0].pick[1]: "a.b" is named twice, or`, parts(Part{Name: "a", Get: "/api/a", Pick: []string{"a", "a.b"}})},
		{`.aggregates[0].parts[0].pick[1]: "a" is named twice, or`, parts(Part{Name: "a", Get: "/api/a", Pick: []string{"a.b", "a"}})},
		{`.aggregates[0].parts[0].count[0]: "a.b" is named twice, or`, parts(Part{Name: "a", Get: "/api/a", Pick: []string{"a.b"}, Count: []string{"a.b"}})},
		{`.aggregates[1].path: "/api/all" is that of aggregates[0]`, Config{Parallel: 1, MaxPart: 1024, MaxBytes: 1024, Aggregates: []Aggregate{with(Aggregate{}).Aggregates[0], with(Aggregate{}).Aggregates[0]}}},
	} {
		err := c.cfg.Validate("gateway.aggregate", func(_, path string) bool { return path != "/api/unknown" })
		if err == nil || !strings.Contains(err.Error(), "gateway.aggregate"+c.want) {
			t.Errorf("%v, want %s", err, c.want)
		}
	}
	if err := parts(ok).Validate("p", nil); err != nil {
		t.Error(err)
	}
}

func BenchmarkServe(b *testing.B) {
	s, err := New(DefaultConfig(), Options{})
	if err != nil {
		b.Fatal(err)
	}
	order := `{"id":"0190","version":3,"customer_id":"0191","status":"confirmed","fulfilment":"shipped","return_state":"kept","settled":true,"total":{"amount":5000,"currency":"GBP"},"units":3,"placed_at":"2026-01-01T00:00:00Z"}`
	list := []byte(`{"items":[` + strings.Repeat(order+",", 4) + order + `]}`)
	fetch := func(context.Context, string, string) (int, http.Header, []byte, error) { return 200, nil, list, nil }
	for _, path := range []string{"/api/dashboard", "/api/mobile/dashboard"} {
		b.Run(path[5:], func(b *testing.B) {
			r := httptest.NewRequest("GET", path, nil)
			b.ReportAllocs()
			for b.Loop() {
				w := httptest.NewRecorder()
				if s.Serve(w, r, fetch); w.Code != 200 {
					b.Fatal(w.Body)
				}
			}
		})
	}
}
