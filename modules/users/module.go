package users

import (
	"time"

	"github.com/banyan-go/banyan/internal/clock"
	"github.com/banyan-go/banyan/internal/identity"
	"github.com/banyan-go/banyan/internal/module"
	"github.com/banyan-go/banyan/internal/rest"
	"github.com/banyan-go/banyan/internal/token"
	"github.com/banyan-go/banyan/internal/unit"
	"github.com/banyan-go/banyan/modules/users/internal/password"
	"github.com/banyan-go/banyan/modules/users/usersapi"
)

// Descriptor says what users is.
func Descriptor() module.Descriptor {
	return module.Descriptor{
		Name:     "users",
		Summary:  "registration, invitation, login, profile, preferences, roles, erasure of personal data",
		Contract: usersapi.Contract(),
		Routes: []module.Route{
			{ID: "login", Method: "POST", Path: "/api/auth/login", Class: module.Write, Limit: "login", Fresh: true, Summary: "Sign in with email and password"},
			{ID: "refresh", Method: "POST", Path: "/api/auth/refresh", Class: module.Write, Fresh: true, Summary: "Exchange a refresh token for new tokens"},
			{ID: "logout", Method: "POST", Path: "/api/auth/logout", Class: module.Write, Auth: identity.Customer, Summary: "End this session"},
			{ID: "logout-all", Method: "POST", Path: "/api/auth/logout-all", Class: module.Write, Auth: identity.Customer, Summary: "End all sessions of the caller"},
			{ID: "me", Method: "GET", Path: "/api/auth/me", Class: module.Read, Auth: identity.Customer, Summary: "Show the caller's account"},
			{ID: "register-user", Method: "POST", Path: "/api/users", Class: module.Write, Limit: "login", Status: 201, Summary: "Register as a customer; staff: create a customer without a password"},
			{ID: "list-users", Method: "GET", Path: "/api/users", Class: module.Read, Auth: identity.Staff, Summary: "List accounts, oldest first"},
			{ID: "get-user", Method: "GET", Path: "/api/users/{id}", Class: module.Read, Auth: identity.Customer, Summary: "Show an account"},
			{ID: "change-profile", Method: "PATCH", Path: "/api/users/{id}", Class: module.Write, Auth: identity.Customer, Summary: "Change name or email"},
			{ID: "set-preferences", Method: "PUT", Path: "/api/users/{id}/preferences", Class: module.Write, Auth: identity.Customer, Summary: "Say what to be told about, and in which language"},
			{ID: "change-password", Method: "POST", Path: "/api/users/{id}/password", Class: module.Write, Auth: identity.Customer, Limit: "login", Summary: "Change one's own password; ends one's other sessions"},
			{ID: "change-role", Method: "PATCH", Path: "/api/users/{id}/role", Class: module.Write, Auth: identity.Admin, Summary: "Give an account another role; ends its sessions"},
			{ID: "erase-user", Method: "DELETE", Path: "/api/users/{id}", Class: module.Write, Auth: identity.Customer, Summary: "Erase the personal data of an account"},
			{ID: "invite-user", Method: "POST", Path: "/api/users/invitations", Class: module.Write, Auth: identity.Staff, Status: 201, Summary: "Invite somebody by mail"},
			{ID: "accept-invitation", Method: "POST", Path: "/api/users/invitations/accept", Class: module.Write, Limit: "login", Status: 201, Summary: "Accept an invitation"},
		},
		Schedules: []module.Schedule{{Name: "purge", Every: 10 * time.Minute}},
	}
}

// Issuer signs the access tokens.
type Issuer interface {
	Issue(token.Claims) (string, error)
}

// New wires users. The Sessions know which access tokens are revoked; their Run keeps them up to date.
func New(d module.Deps, cfg Config, keys Issuer) (*module.Module, *Sessions) {
	s := &service{store: d.Store, clock: d.Clock, cfg: cfg, keys: keys, hasher: password.NewHasher(), sessions: newSessions(d)}
	m := module.New(Descriptor())
	m.OnStart(s.sessions.load)
	rest.Handle(m, "login", s.postLogin)
	rest.Handle(m, "refresh", s.postRefresh)
	rest.Handle(m, "logout", s.postLogout)
	rest.Handle(m, "logout-all", s.postLogoutAll)
	rest.Handle(m, "me", s.getMe)
	rest.Handle(m, "register-user", s.postUser)
	rest.Handle(m, "list-users", s.listUsers)
	rest.Handle(m, "get-user", s.getUser)
	rest.Handle(m, "change-profile", s.patchUser)
	rest.Handle(m, "set-preferences", s.putPreferences)
	rest.Handle(m, "change-password", s.postPassword)
	rest.Handle(m, "change-role", s.patchRole)
	rest.Handle(m, "erase-user", s.deleteUser)
	rest.Handle(m, "invite-user", s.postInvitation)
	rest.Handle(m, "accept-invitation", s.postAcceptance)
	module.OnSchedule(m, "purge", s.purge)
	return m, s.sessions
}

type service struct {
	store    *unit.Store
	clock    clock.Clock
	cfg      Config
	keys     Issuer
	hasher   *password.Hasher
	sessions *Sessions
}
