package moduletest_test

import (
	"context"
	"testing"

	"github.com/banyan-go/banyan/internal/identity"
	"github.com/banyan-go/banyan/internal/module"
	"github.com/banyan-go/banyan/internal/moduletest"
	"github.com/banyan-go/banyan/internal/rest"
)

// TestRefusesAsTheGateway: a test with the wrong identity must not get further than a client with it.
func TestRefusesAsTheGateway(t *testing.T) {
	t.Parallel()
	ann := moduletest.Customer("ann")
	roles := map[string]identity.Role{"anybody": identity.Anonymous, "customers": identity.Customer, "staff": identity.Staff, "admins": identity.Admin}
	type body struct {
		Subject string `json:"subject"`
	}
	type input struct {
		N int64 `query:"n"`
	}
	calls := 0
	h := moduletest.NewSQLite(t, func(module.Deps) *module.Module {
		d := module.Descriptor{Name: "alpha"}
		for path, role := range roles {
			d.Routes = append(d.Routes, module.Route{ID: path, Method: "GET", Path: "/api/alpha/" + path, Class: module.Read, Auth: role})
		}
		m := module.New(d)
		for path := range roles {
			rest.Handle(m, path, func(ctx context.Context, _ *input) (*rest.Answer[body], error) {
				calls++
				return rest.Reply(body{identity.From(ctx).Subject}), nil
			})
		}
		return m
	})
	for _, c := range []struct {
		path string
		as   identity.Identity
		want int
	}{
		{"anybody", moduletest.Nobody, 200}, {"anybody", ann, 200},
		{"customers", moduletest.Nobody, 401}, {"customers", ann, 200}, {"customers", moduletest.Admin, 200},
		{"staff", moduletest.Nobody, 401}, {"staff", ann, 403}, {"staff", moduletest.Staff, 200}, {"staff", moduletest.Admin, 200},
		{"admins", ann, 403}, {"admins", moduletest.Staff, 403}, {"admins", moduletest.Admin, 200},
		{"admins?n=x", ann, 403}, {"admins?n=x", moduletest.Admin, 422}, // who may not ask is not told what is wrong with the question
		{"nothing", moduletest.Nobody, 404},
	} {
		before := calls
		r := h.Do("GET", "/api/alpha/"+c.path, c.as, nil)
		if r.Status != c.want {
			t.Errorf("%s as %q: %d %s, want %d", c.path, c.as.Role, r.Status, r.Body, c.want)
		}
		if refused := r.Status >= 300; refused != (calls == before) {
			t.Errorf("%s as %q: status %d, and the handler was called %d times", c.path, c.as.Role, r.Status, calls-before)
		}
	}
}
