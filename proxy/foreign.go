package proxy

import (
	"crypto/tls"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/banyan-go/banyan/internal/certs"
	"github.com/banyan-go/banyan/internal/identity"
	"github.com/banyan-go/banyan/internal/module"
	"github.com/banyan-go/banyan/proxy/discovery"
	"github.com/banyan-go/banyan/proxy/upstream"
)

// Foreign is an upstream that is no process of ours, as an application that is being replaced. It owns the routes that are
// listed; what no module has may go to it.
type Foreign struct {
	Name   string         `mapstructure:"name"`
	Routes []ForeignRoute `mapstructure:"routes"`
	Token  bool           `mapstructure:"token"` // it gets the client's Authorization header, beside the gateway's assertion
	// Exact: it takes no two paths for the same that differ by a slash at the end or by the case of letters.
	Exact           bool       `mapstructure:"exact"`
	TLS             ForeignTLS `mapstructure:"tls"`
	upstream.Config `mapstructure:",squash"`
}

// ForeignTLS is how the endpoints of a foreign upstream prove who they are.
type ForeignTLS struct {
	Name  string `mapstructure:"name"`  // in their certificates; empty for the host of each endpoint
	Roots string `mapstructure:"roots"` // PEM file of those who are believed; empty for those of the system
}

// config is nil if nothing is said. The file is read now, so that a wrong one ends the start.
func (t ForeignTLS) config() (*tls.Config, error) {
	if t == (ForeignTLS{}) {
		return nil, nil
	}
	c := &tls.Config{ServerName: t.Name, MinVersion: tls.VersionTLS12}
	if t.Roots == "" {
		return c, nil
	}
	var err error
	if c.RootCAs, err = certs.Trusted(t.Roots); err != nil {
		return nil, fmt.Errorf("tls.roots: %w", err)
	}
	return c, nil
}

// WithDefaults is what holds where nothing is said.
func (f Foreign) WithDefaults() any {
	f.Config = upstream.DefaultConfig()
	f.Protocol = upstream.H1
	f.Health.Active.Path = "" // we do not know where it says how it is
	return f
}

// ForeignRoute is a path of a foreign upstream.
type ForeignRoute struct {
	Match string `mapstructure:"match"` // as in "GET /old/{id}", "/old/{rest...}" for all methods, or "/{rest...}" for what nobody else has
	Class string `mapstructure:"class"` // read, write or stream; a stream has no limits of time and size
	Auth  string `mapstructure:"auth"`  // least role; empty lets everybody in
	Scope string `mapstructure:"scope"` // that a token must have
}

func (r ForeignRoute) split() (method, path string) {
	method, path, found := strings.Cut(r.Match, " ")
	if !found {
		return anyMethod, r.Match
	}
	return method, path
}

// check names the wrong key, which lies below prefix, and the way out.
func (f Foreign) check(prefix string) error {
	if f.Name == "" || strings.Trim(f.Name, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" {
		return fmt.Errorf("%s.name: %q is not a name of small letters, digits and hyphens", prefix, f.Name)
	}
	if len(f.Routes) == 0 {
		return fmt.Errorf(`%s.routes: is empty; give at least one, as in {match: "/old/{rest...}", class: stream}`, prefix)
	}
	for i, r := range f.Routes {
		key := fmt.Sprintf("%s.routes[%d]", prefix, i)
		method, path := r.split()
		switch {
		case method != anyMethod && (!slices.Contains(methods, method) || method == http.MethodHead || method == http.MethodOptions):
			return fmt.Errorf("%s.match: %q is not GET, POST, PUT, PATCH or DELETE; leave the method out for all of them", key, method)
		case isProbe(path):
			return fmt.Errorf("%s.match: %s is answered by the gateway itself; leave the route out", key, path)
		case r.Class != string(module.Read) && r.Class != string(module.Write) && r.Class != string(module.Stream):
			return fmt.Errorf("%s.class: %q is not read, write or stream", key, r.Class)
		case !slices.Contains([]identity.Role{identity.Anonymous, identity.Customer, identity.Staff, identity.Admin}, identity.Role(r.Auth)):
			return fmt.Errorf("%s.auth: %q is not customer, staff or admin; leave it empty to let everybody in", key, r.Auth)
		}
		if err := checkPattern(path); err != nil {
			return fmt.Errorf("%s.match: %w", key, err)
		}
	}
	if len(f.Endpoints) == 0 {
		return fmt.Errorf("%s.endpoints: is empty; give at least one, as in http://10.0.0.7:8000", prefix)
	}
	own := f.Config
	if discovered(f.Endpoints) {
		if _, err := discovery.Parse(f.Endpoints, discovery.Options{}); err != nil {
			return fmt.Errorf("%s.endpoints: %w", prefix, err)
		}
		switch {
		case f.TLS.Name == "" && f.Protocol == upstream.H2:
			return fmt.Errorf("%s.tls.name: is empty: h2 is over TLS, and %s finds addresses without a name to check a certificate against; give the name, or h1 or h2c as the protocol", prefix, f.Endpoints[0])
		case f.TLS.Name == "" && f.TLS.Roots != "":
			return fmt.Errorf("%s.tls.name: is empty: %s finds addresses without a name to check a certificate against; give the name", prefix, f.Endpoints[0])
		case f.TLS.Name != "" && f.Transport == upstream.Synchronous:
			return fmt.Errorf("%s.transport: synchronous speaks no TLS, which %s.tls asks for; give standard", prefix, prefix)
		}
		own.Endpoints = nil
	} else if f.TLS != (ForeignTLS{}) && !slices.ContainsFunc(f.Endpoints, func(e string) bool { return strings.HasPrefix(e, "https://") }) {
		return fmt.Errorf("%s.tls: is for endpoints as in https://10.0.0.7:8443, and there is none", prefix)
	}
	if f.TLS != (ForeignTLS{}) && f.Protocol == upstream.H2C {
		return fmt.Errorf("%s.protocol: h2c has no TLS, which %s.tls asks for; give h1 or h2", prefix, prefix)
	}
	return own.Validate(prefix)
}

// discovered says whether somebody is asked where the endpoints are.
func discovered(endpoints []string) bool {
	if len(endpoints) != 1 {
		return false
	}
	scheme, _, found := strings.Cut(endpoints[0], "://")
	return found && scheme != "http" && scheme != "https"
}

// checkPattern accepts paths of names, {names}, and a {name...} at the end.
func checkPattern(path string) error {
	bad := fmt.Errorf("%q is not a path of names and {names}, with a {name...} at the end if it goes on", path)
	if !strings.HasPrefix(path, "/") {
		return bad
	}
	parts := strings.Split(path[1:], "/")
	for i, s := range parts {
		rest := strings.HasSuffix(s, "...}") && len(s) > 5 && s[0] == '{'
		wild := strings.HasPrefix(s, "{") && strings.HasSuffix(s, "}") && len(s) > 2 && !strings.ContainsAny(s[1:len(s)-1], "{}.")
		switch {
		case rest && i == len(parts)-1, wild:
		case s == "" || s[len(s)-1] == '.' || strings.ContainsAny(s, `{}*\;%`):
			return bad
		}
	}
	return nil
}
