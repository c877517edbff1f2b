package users_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/banyan-go/banyan/internal/identity"
	"github.com/banyan-go/banyan/internal/module"
	"github.com/banyan-go/banyan/internal/moduletest"
	"github.com/banyan-go/banyan/internal/token"
	"github.com/banyan-go/banyan/modules/users"
	"github.com/banyan-go/banyan/modules/users/usersapi"
)

const (
	home     = "198.51.100.7" // where the owner of an account signs in from
	password = "correct horse battery"
)

// shop is the running module with what a gateway would have.
type shop struct {
	*moduletest.Harness
	t        *testing.T
	keys     *token.Keyring
	sessions *users.Sessions
}

func open(t *testing.T, opener moduletest.Opener) *shop {
	t.Helper()
	key, err := token.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	keys, err := token.NewKeyring(key)
	if err != nil {
		t.Fatal(err)
	}
	s := &shop{t: t, keys: keys}
	s.Harness = opener(t, func(d module.Deps) *module.Module {
		m, sessions := users.New(d, users.DefaultConfig(), keys)
		s.sessions = sessions
		return m
	})
	return s
}

// as is the caller that the gateway sees in an access token; ok is false if it would refuse it.
func (s *shop) as(access string) (identity.Identity, bool) {
	s.t.Helper()
	c, err := s.keys.Verify(access, s.Clock.Now())
	if err != nil || s.sessions.Revoked(c.Session, c.Subject, c.IssuedAt) {
		return identity.Identity{}, false
	}
	return c.Identity(), true
}

func (s *shop) must(access string) identity.Identity {
	s.t.Helper()
	id, ok := s.as(access)
	if !ok {
		s.t.Fatal("the access token is refused")
	}
	return id
}

func (s *shop) register(email string) users.User {
	s.t.Helper()
	var u users.User
	s.Do("POST", "/api/users", moduletest.Nobody, map[string]any{"name": "Ann Lee", "email": email, "password": password}).Want(s.t, 201).Into(s.t, &u)
	return u
}

func (s *shop) try(email, password, ip string) moduletest.Response {
	s.t.Helper()
	return s.Do("POST", "/api/auth/login", moduletest.Nobody, map[string]any{"email": email, "password": password}, "Test-Client-IP", ip)
}

func (s *shop) login(email, password string) users.Tokens {
	s.t.Helper()
	var tokens users.Tokens
	s.try(email, password, home).Want(s.t, 200).Into(s.t, &tokens)
	return tokens
}

func (s *shop) refresh(token string) moduletest.Response {
	s.t.Helper()
	return s.Do("POST", "/api/auth/refresh", moduletest.Nobody, map[string]any{"refresh_token": token})
}

// bootstrap makes the first admin and signs in.
func (s *shop) bootstrap() identity.Identity {
	s.t.Helper()
	if created, err := users.Bootstrap(s.t.Context(), s.Store, "first admin's"); err != nil || !created {
		s.t.Fatalf("bootstrap: created %v, %v", created, err)
	}
	return s.must(s.login(users.AdminEmail, "first admin's").AccessToken)
}

// invited is the token in the mail of the newest invitation.
func (s *shop) invited() usersapi.UserInvited {
	s.t.Helper()
	all := s.Announced("users.user_invited.v1")
	if len(all) == 0 {
		s.t.Fatal("no invitation was announced")
	}
	return moduletest.Decode[usersapi.UserInvited](s.t, all[len(all)-1])
}

func (s *shop) count(table, where string, args ...any) (n int) {
	s.t.Helper()
	if err := s.Store.Read(s.t.Context()).Raw(fmt.Sprintf("SELECT count(*) FROM %s WHERE %s", table, where), args...).Row().Scan(&n); err != nil {
		s.t.Fatal(err)
	}
	return n
}

func retryAfter(t *testing.T, r moduletest.Response) time.Duration {
	t.Helper()
	var seconds int
	if _, err := fmt.Sscan(r.Header.Get("Retry-After"), &seconds); err != nil {
		t.Fatalf("Retry-After %q: %v", r.Header.Get("Retry-After"), err)
	}
	return time.Duration(seconds) * time.Second
}
