package operator_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/banyan-go/banyan/internal/bus"
	"github.com/banyan-go/banyan/internal/databasetest"
	"github.com/banyan-go/banyan/internal/module"
	"github.com/banyan-go/banyan/internal/operator"
	"github.com/banyan-go/banyan/internal/unit"
)

// What an operator has typed wrong is answered with what there is.
func TestAnswers(t *testing.T) {
	t.Parallel()
	e := databasetest.SQLite(t)
	b := bus.New(bus.DefaultConfig(), bus.Options{})
	for _, name := range []string{"alpha", "beta"} {
		if err := b.Add(module.New(module.Descriptor{Name: name}), unit.New(e.Store(t, name), unit.Options{Module: name})); err != nil {
			t.Fatal(err)
		}
	}
	in, err := b.Inbox("beta")
	if err == nil {
		err = in.Bury(t.Context(), []byte(`{"payload":"?"}`), "nobody can read it")
	}
	if err != nil {
		t.Fatal(err)
	}
	rebuild := func(_ context.Context, progress func(done, total int)) error { progress(7, 7); return nil }
	h := operator.Handler(operator.Options{Bus: b, Projections: map[string]operator.Rebuild{"beta": rebuild, "alpha": rebuild}})
	const modules = `there is no module \"x\", only alpha, beta`
	for _, c := range []struct {
		method, path, body string
		status             int
		says               string
	}{
		{"GET", "/admin/deadletters?module=alpha", "", 200, `"items": []`},
		{"GET", "/admin/deadletters?module=beta&limit=1000", "", 200, `"handler": "malformed"`},
		{"GET", "/admin/deadletters?module=x", "", 404, modules},
		{"GET", "/admin/deadletters?limit=1001", "", 422, "from 1 to 1000"},
		{"GET", "/admin/deadletters/x/1", "", 404, modules},
		{"GET", "/admin/deadletters/alpha/1", "", 404, "module alpha has no dead letter 1"},
		{"POST", "/admin/deadletters/x/1/replay", "", 404, modules},
		{"POST", "/admin/deadletters/x/replay", "", 404, modules},
		{"POST", "/admin/deadletters/alpha/replay", "", 200, `"replayed": 0`},
		{"POST", "/admin/deadletters/beta/replay", "", 200, `"left": 1`},
		{"POST", "/admin/deadletters/x/1/discard", `{"reason":"old"}`, 404, modules},
		{"POST", "/admin/deadletters/alpha/1/discard", `{}`, 422, "a reason is needed"},
		{"GET", "/admin/unsubscribed", "", 200, `"items": []`},
		{"GET", "/admin/unsubscribed?module=x", "", 404, modules},
		{"POST", "/admin/unsubscribed/x/alpha.counted.v1/replay", "", 404, modules},
		{"POST", "/admin/unsubscribed/alpha/alpha.counted.v1/replay", "", 404, "module alpha keeps no message alpha.counted.v1"},
		{"POST", "/admin/projections/x/rebuild", "", 404, `only alpha, beta`},
		{"POST", "/admin/projections/beta/rebuild", "", 200, `"rebuilt": 7`},
	} {
		rec := httptest.NewRecorder()
		h.ServeHTTP(rec, httptest.NewRequest(c.method, c.path, strings.NewReader(c.body)))
		if rec.Code != c.status || !strings.Contains(rec.Body.String(), c.says) || !strings.HasSuffix(rec.Body.String(), "}\n") {
			t.Errorf("%s %s: %d %q, want %d and %s, and the line ended", c.method, c.path, rec.Code, rec.Body, c.status, c.says)
		}
	}
}

// A module that another process has is not looked at, and who has it is said.
func TestElsewhere(t *testing.T) {
	t.Parallel()
	e := databasetest.SQLite(t)
	b := bus.New(bus.DefaultConfig(), bus.Options{})
	if err := b.Add(module.New(module.Descriptor{Name: "alpha"}), unit.New(e.Store(t, "alpha"), unit.Options{Module: "alpha"})); err != nil {
		t.Fatal(err)
	}
	stood, err := e.Open(t, 1).StandBy(t.Context(), "alpha") // as a process sees it that may only read
	if err != nil {
		t.Fatal(err)
	}
	reading := bus.New(bus.DefaultConfig(), bus.Options{})
	if err := reading.Add(module.New(module.Descriptor{Name: "alpha"}), unit.New(stood, unit.Options{Module: "alpha"})); err != nil {
		t.Fatal(err)
	}
	rebuild := func(context.Context, func(done, total int)) error { panic("there is no store to rebuild it in") }
	where := func(module string) (string, string) {
		switch module {
		case "alpha", "beta":
			return module + " vm-1", "127.0.0.1:9191"
		case "gamma":
			return "gamma vm-2", ""
		}
		return "", ""
	}
	handler := func(b *bus.Bus) http.Handler {
		return operator.Handler(operator.Options{Bus: b, Modules: []string{"alpha", "beta", "gamma", "delta"}, Where: where,
			Projections: map[string]operator.Rebuild{"alpha": rebuild, "beta": rebuild}})
	}
	writes, reads := handler(b), handler(reading)
	const ask = "ask alpha vm-1 with --admin-addr 127.0.0.1:9191, and its --data"
	for _, c := range []struct {
		h            http.Handler
		method, path string
		status       int
		says         string
	}{
		{writes, "GET", "/admin/deadletters?module=alpha", 200, "\"items\": []\n}"},
		{writes, "GET", "/admin/deadletters", 200, `{
      "module": "beta",
      "process": "beta vm-1",
      "operators": "127.0.0.1:9191"
    }`},
		{writes, "GET", "/admin/unsubscribed", 200, `"module": "delta"`},
		{writes, "GET", "/admin/deadletters?module=beta", 409, "ask beta vm-1 with --admin-addr 127.0.0.1:9191"},
		{writes, "GET", "/admin/deadletters?module=gamma", 409, "ask gamma vm-2, with its --admin-addr and --data"},
		{writes, "GET", "/admin/deadletters?module=delta", 409, "no process that lives has delta; start one with `banyan serve --only delta`"},
		{writes, "GET", "/admin/deadletters?module=x", 404, "only alpha, beta, gamma, delta"},
		{writes, "GET", "/admin/deadletters/beta/1", 409, "ask beta vm-1"},
		{writes, "POST", "/admin/deadletters/beta/1/replay", 409, "ask beta vm-1"},
		{writes, "POST", "/admin/deadletters/beta/replay", 409, "ask beta vm-1"},
		{writes, "POST", "/admin/unsubscribed/beta/x/replay", 409, "ask beta vm-1"},
		{writes, "POST", "/admin/projections/beta/rebuild", 409, "ask beta vm-1"},
		{reads, "POST", "/admin/projections/alpha/rebuild", 409, ask},
		{reads, "POST", "/admin/projections/gamma/rebuild", 404, "module \\\"gamma\\\" has no read models"},
		{writes, "POST", "/admin/deadletters/alpha/replay", 200, `"replayed": 0`},
		{reads, "GET", "/admin/deadletters?module=alpha", 200, "\"items\": []\n}"},
		{reads, "GET", "/admin/deadletters/alpha/1", 404, "module alpha has no dead letter 1"},
		{reads, "POST", "/admin/deadletters/alpha/1/replay", 409, ask},
		{reads, "POST", "/admin/deadletters/alpha/1/discard", 409, ask},
		{reads, "POST", "/admin/deadletters/alpha/replay", 409, ask},
		{reads, "POST", "/admin/unsubscribed/alpha/x/replay", 409, ask},
	} {
		rec := httptest.NewRecorder()
		c.h.ServeHTTP(rec, httptest.NewRequest(c.method, c.path, strings.NewReader(`{"reason":"old"}`)))
		if rec.Code != c.status || !strings.Contains(rec.Body.String(), c.says) {
			t.Errorf("%s %s: %d %s, want %d and %s", c.method, c.path, rec.Code, rec.Body, c.status, c.says)
		}
	}
}
