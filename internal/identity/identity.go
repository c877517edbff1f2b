// Package identity carries who is asking through a request: verified once at the gateway, believed inside.
package identity

import (
	"context"
	"strings"

	"github.com/banyan-go/banyan/internal/errs"
)

// Role is what an account may do in general.
type Role string

// The roles, each including what the one before may do.
const (
	Anonymous Role = ""
	Customer  Role = "customer"
	Staff     Role = "staff"
	Admin     Role = "admin"
)

var ranks = map[Role]int{Anonymous: 0, Customer: 1, Staff: 2, Admin: 3}

// Includes says whether r may do what needs role.
func (r Role) Includes(role Role) bool { return ranks[r] >= ranks[role] }

// Identity is the verified caller of a request.
type Identity struct {
	Subject string // user id; "" for nobody
	Role    Role
	Session string // login session, revocable
	Scopes  Scopes // what its token is limited to
}

// Scopes is a list of scopes as RFC 6749 writes it, with a space between two. The empty list says nothing: the tokens
// of our own logins have none.
type Scopes string

// Has says whether the list names the scope.
func (s Scopes) Has(scope string) bool {
	for one := range strings.FieldsSeq(string(s)) {
		if one == scope {
			return true
		}
	}
	return false
}

type contextKey struct{}

// With puts the caller into the context.
func With(ctx context.Context, id Identity) context.Context {
	return context.WithValue(ctx, contextKey{}, id)
}

// From is the caller, or the zero Identity for an anonymous request.
func From(ctx context.Context) Identity {
	id, _ := ctx.Value(contextKey{}).(Identity)
	return id
}

// Need is errs.Unauthenticated without a caller and errs.Forbidden below the role.
func Need(ctx context.Context, role Role) error {
	id := From(ctx)
	if id.Subject == "" && role != Anonymous {
		return errs.New(errs.Unauthenticated, "sign in first")
	}
	if !id.Role.Includes(role) {
		return errs.New(errs.Forbidden, "this needs the role %s", role)
	}
	return nil
}

// NeedSelf lets the user itself and staff pass; for anybody else the thing is errs.NotFound, so that
// foreign ids cannot be told from ids that do not exist.
func NeedSelf(ctx context.Context, userID, thing string) error {
	id := From(ctx)
	if id.Subject == "" {
		return errs.New(errs.Unauthenticated, "sign in first")
	}
	if id.Subject == userID || id.Role.Includes(Staff) {
		return nil
	}
	return errs.New(errs.NotFound, "no such %s", thing)
}
