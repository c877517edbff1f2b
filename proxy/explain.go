package proxy

import (
	"net/http"
	"net/url"

	"github.com/banyan-go/banyan/internal/errs"
	"github.com/banyan-go/banyan/internal/identity"
	"github.com/banyan-go/banyan/internal/module"
)

// Explanation says what becomes of a request, and why.
type Explanation struct {
	Path      string       `json:"path"`           // in its canonical form
	Rule      string       `json:"rule,omitempty"` // of gateway.transform, that has changed it
	Epoch     uint64       `json:"epoch"`
	Route     string       `json:"route"`
	Module    string       `json:"module"`
	Class     module.Class `json:"class"`
	Auth      string       `json:"auth"`            // least role
	Scope     string       `json:"scope,omitempty"` // that the token must have
	Placement Placement    `json:"placement"`
	Bucket    *int         `json:"bucket,omitempty"` // of the user, out of 10,000
	Target    string       `json:"target"`
	Reason    string       `json:"reason"`
	Copied    bool         `json:"copied,omitempty"` // a share of such requests is compared
}

// ownPage is for what the gateway answers itself.
func (e Explanation) ownPage(method, path, why string) (Explanation, error) {
	if method != http.MethodGet && method != http.MethodHead {
		return e, errs.New(errs.NotFound, "%s takes %s, not %s", e.Path, readOnly, method)
	}
	e.Route, e.Class, e.Target, e.Reason = http.MethodGet+" "+path, module.Read, "gateway", why
	return e, nil
}

// Explain says what becomes of a request of a user with a role; "" is nobody.
func (g *Gateway) Explain(method, target, user string, role identity.Role, wish string) (Explanation, error) {
	u, err := url.ParseRequestURI(target)
	if err != nil {
		return Explanation{}, errs.New(errs.Malformed, "%q is not a path, as in /api/orders/1", target)
	}
	path, err := canonicalPath(u)
	if err == nil {
		err = checkQuery(u.RawQuery)
	}
	if err != nil {
		return Explanation{}, err
	}
	if !headerName(method) {
		return Explanation{}, errs.New(errs.Malformed, "%q is not a method, as in GET", method)
	}
	t := g.table.Load()
	e := Explanation{Path: path, Epoch: t.epoch}
	if isProbe(path) {
		return e.ownPage(method, path, "probe")
	}
	if g.rules != nil {
		outcome, err := g.rules.Apply(&http.Request{Method: method, URL: u, Header: http.Header{}}, path)
		switch {
		case err != nil:
			return e, err
		case outcome.Redirect != 0:
			return Explanation{Path: path, Rule: "redirect", Target: outcome.Location, Reason: "transform"}, nil
		case outcome.Rewrote:
			e.Rule, path = path+" -> "+outcome.Path, outcome.Path
		}
	}
	e.Path = path
	place := t.root.find(path)
	if place == nil {
		if own := g.extraAt(path); own != nil {
			return e.ownPage(method, own.Path, "beside the modules")
		}
		place = t.rest
	}
	if place == nil {
		return e, errs.New(errs.NotFound, "nobody answers for %s; `banyan routes` prints who answers for what", path)
	}
	r := place.route(method)
	if r == nil && method == http.MethodOptions {
		e.Route, e.Target, e.Reason = method, "gateway", "the path takes "+place.allow
		return e, nil
	}
	if r == nil {
		return e, errs.New(errs.NotFound, "%s takes %s, not %s", path, place.allow, method)
	}
	if r.target.foreign && t.ambiguous(place, r, path) {
		return e, errAmbiguous
	}
	e.Route, e.Module, e.Class, e.Auth, e.Scope, e.Placement = r.Method+" "+r.Path, r.module, r.Class, string(r.Auth), r.scope, r.target.placement
	if r.merged {
		e.Target, e.Reason = "gateway", "put together from other routes"
		return e, nil
	}
	if r.target.foreign {
		e.Target, e.Reason = r.target.remote.name, "upstream"
		return e, nil
	}
	if user != "" && role == identity.Anonymous {
		role = identity.Customer
	}
	c := r.target.choose(r.Class, identity.Identity{Subject: user, Role: role}, wish, "")
	e.Target, e.Reason = "local", c.reason
	if c.remote {
		e.Target = "remote"
	}
	if c.bucket >= 0 {
		e.Bucket = &c.bucket
	}
	e.Copied = r.target.placement.State == Shadow && r.Class == module.Read
	return e, nil
}
