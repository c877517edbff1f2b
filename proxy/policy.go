package proxy

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/banyan-go/banyan/internal/errs"
	"github.com/banyan-go/banyan/internal/identity"
)

// Policy asks more of a caller than a route does by itself.
type Policy struct {
	Route string `mapstructure:"route"` // as `banyan routes` prints it, as in GET /api/orders/{id}
	Role  string `mapstructure:"role"`  // least role; empty leaves the route's own
	Scope string `mapstructure:"scope"` // that the token must have; those of our own logins have none
}

func (p Policy) check(key string) error {
	switch {
	case p.Route == "":
		return fmt.Errorf("%s.route: is empty; name one as `banyan routes` prints it, as in GET /api/orders/{id}", key)
	case p.Role == "" && p.Scope == "":
		return fmt.Errorf("%s: asks for nothing; give a role or a scope", key)
	case !slices.Contains([]identity.Role{identity.Anonymous, identity.Customer, identity.Staff, identity.Admin}, identity.Role(p.Role)):
		return fmt.Errorf("%s.role: %q is not customer, staff or admin", key, p.Role)
	case strings.ContainsAny(p.Scope, " \t"):
		return fmt.Errorf("%s.scope: %q is more than one", key, p.Scope)
	}
	return nil
}

// demand puts the policies on the routes of the table. A route that is not there is an error: what it is meant to guard would be open.
// So is one for less than the route's own role, which the module relies on.
func (t *table) demand(list []Policy) error {
	var wrong []error
	seen := map[string]bool{}
	for i, p := range list {
		key := fmt.Sprintf("gateway.policy[%d]", i)
		n := slices.IndexFunc(t.routes, func(r *route) bool { return r.Method+" "+r.Path == p.Route && !r.target.foreign })
		switch {
		case n < 0:
			wrong = append(wrong, fmt.Errorf("%s.route: there is no route %q; write it as `banyan routes` prints it, as in GET /api/orders/{id}", key, p.Route))
			continue
		case seen[p.Route]:
			wrong = append(wrong, fmt.Errorf("%s.route: %q is there twice", key, p.Route))
			continue
		}
		seen[p.Route] = true
		r := t.routes[n]
		if p.Role != "" {
			if !identity.Role(p.Role).Includes(r.Auth) {
				wrong = append(wrong, fmt.Errorf("%s.role: %s is less than %s, which the route asks for itself", key, p.Role, r.Auth))
				continue
			}
			r.Auth = identity.Role(p.Role)
		}
		r.scope = p.Scope
	}
	return errors.Join(wrong...)
}

// permit says whether a caller may use the route.
func (r *route) permit(who identity.Identity) error {
	switch {
	case r.Auth == identity.Anonymous && r.scope == "":
		return nil
	case who.Subject == "":
		return errSignIn
	case !who.Role.Includes(r.Auth):
		return errs.New(errs.Forbidden, "this needs the role %s", r.Auth)
	case r.scope != "" && !who.Scopes.Has(r.scope):
		return errs.New(errs.Forbidden, "this needs the scope %s", r.scope)
	}
	return nil
}
