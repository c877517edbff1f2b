package operator_test

import (
	"context"
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
