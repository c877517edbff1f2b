package users_test

import (
	"bytes"
	"context"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/banyan-go/banyan/internal/identity"
	"github.com/banyan-go/banyan/internal/moduletest"
	"github.com/banyan-go/banyan/internal/unit"
	"github.com/banyan-go/banyan/modules/users"
)

func TestLogin(t *testing.T) {
	t.Parallel()
	moduletest.Each(t, func(t *testing.T, opener moduletest.Opener) {
		s := open(t, opener)
		u := s.register("Ann@Example.com")
		r := s.try(" aNN@example.COM ", password, home).Want(t, 200)
		if got, want := r.Header.Get("Cache-Control"), "no-store"; got != want {
			t.Errorf("Cache-Control: got %q, want %q", got, want)
		}
		var tokens users.Tokens
		r.Into(t, &tokens)
		id := s.must(tokens.AccessToken)
		if id.Subject != u.ID || id.Role != identity.Customer || id.Session == "" || tokens.ExpiresIn != 900 {
			t.Errorf("signed in as %+v with %+v", id, tokens)
		}
		var me users.User
		s.Do("GET", "/api/auth/me", id, nil).Into(t, &me)
		if me.Email != "Ann@example.com" {
			t.Errorf("me: %+v", me)
		}

		// A wrong password, an account that does not exist, one without a password and no address at all look the same.
		var created users.User
		s.Do("POST", "/api/users", moduletest.Staff, map[string]any{"name": "Bob", "email": "bob@example.com"}).Want(t, 201).Into(t, &created)
		var first []byte
		for _, email := range []string{"ann@example.com", "nobody@example.com", "bob@example.com", "no address"} {
			r := s.try(email, "wrong password", home).Want(t, 401)
			body := requestID.ReplaceAll(r.Body, nil)
			if first == nil {
				first = body
			}
			if !bytes.Equal(body, first) {
				t.Errorf("%s: %s differs from %s", email, r.Body, first)
			}
		}
		s.Clock.Advance(15 * time.Minute)
		if _, ok := s.as(tokens.AccessToken); ok {
			t.Error("the access token outlives its time")
		}
		// Nothing that could sign anybody in is kept in the clear.
		for _, column := range []string{"hash", "session_id"} {
			if n := s.count("refresh_tokens", column+" = ?", tokens.RefreshToken); n != 0 {
				t.Errorf("the refresh token is kept in %s", column)
			}
		}
		if n := s.count("idempotency", "route LIKE '%/api/auth/%'"); n != 0 {
			t.Errorf("%d answers with tokens are kept", n)
		}
	})
}

func TestRefresh(t *testing.T) {
	t.Parallel()
	moduletest.Each(t, func(t *testing.T, opener moduletest.Opener) {
		s := open(t, opener)
		s.register("ann@example.com")
		first := s.login("ann@example.com", password)
		s.Clock.Advance(20 * time.Minute)
		var second users.Tokens
		s.refresh(first.RefreshToken).Want(t, 200).Into(t, &second)
		if a, b := s.must(second.AccessToken).Session, sessionOf(t, s, first); a != b {
			t.Errorf("session: got %s, want %s", a, b)
		}

		// The answer was lost: the same token once more.
		s.Clock.Advance(5 * time.Second)
		var repeated users.Tokens
		s.refresh(first.RefreshToken).Want(t, 200).Into(t, &repeated)
		if repeated.RefreshToken == second.RefreshToken {
			t.Error("a repeat got the same token: it was kept in the clear")
		}
		var third users.Tokens
		s.refresh(repeated.RefreshToken).Want(t, 200).Into(t, &third)
		live := s.must(third.AccessToken)

		// What a thief holds, whichever it is, ends the session for both.
		s.refresh(second.RefreshToken).Want(t, 401)
		if _, ok := s.as(third.AccessToken); ok {
			t.Error("the session goes on after a token came back")
		}
		s.refresh(third.RefreshToken).Want(t, 401)
		if n := s.count("sessions", "id = ? AND revoked", live.Session); n != 1 {
			t.Errorf("%d sessions are revoked", n)
		}
	})
}

func sessionOf(t *testing.T, s *shop, tokens users.Tokens) string {
	t.Helper()
	c, err := s.keys.Verify(tokens.AccessToken, moduletest.Start)
	if err != nil {
		t.Fatal(err)
	}
	return c.Session
}

func TestRefreshRefuses(t *testing.T) {
	t.Parallel()
	moduletest.Each(t, func(t *testing.T, opener moduletest.Opener) {
		s := open(t, opener)
		s.register("ann@example.com")
		s.refresh("no token").Want(t, 401)

		late := s.login("ann@example.com", password)
		var next users.Tokens
		s.refresh(late.RefreshToken).Want(t, 200).Into(t, &next)
		s.Clock.Advance(11 * time.Second)
		s.refresh(late.RefreshToken).Want(t, 401)
		s.refresh(next.RefreshToken).Want(t, 401)

		old := s.login("ann@example.com", password)
		s.Clock.Advance(30 * 24 * time.Hour)
		s.refresh(old.RefreshToken).Want(t, 401)
	})
}

// Two at once with one token: a client that retried too early. Neither is thrown out.
func TestRefreshTwiceAtOnce(t *testing.T) {
	t.Parallel()
	moduletest.Each(t, func(t *testing.T, opener moduletest.Opener) {
		s := open(t, opener)
		s.register("ann@example.com")
		tokens := s.login("ann@example.com", password)
		var group sync.WaitGroup
		answers := make([]moduletest.Response, 4)
		for i := range answers {
			group.Go(func() { answers[i] = s.refresh(tokens.RefreshToken) })
		}
		group.Wait()
		for _, r := range answers {
			var got users.Tokens
			r.Into(t, &got)
			s.must(got.AccessToken)
		}
		if n := s.count("refresh_tokens", "generation = 1"); n != len(answers) {
			t.Errorf("%d tokens of the next generation, want %d", n, len(answers))
		}
	})
}

func TestLogout(t *testing.T) {
	t.Parallel()
	moduletest.Each(t, func(t *testing.T, opener moduletest.Opener) {
		s := open(t, opener)
		s.register("ann@example.com")
		phone, laptop, tablet := s.login("ann@example.com", password), s.login("ann@example.com", password), s.login("ann@example.com", password)

		s.Do("POST", "/api/auth/logout", s.must(phone.AccessToken), nil, "Idempotency-Key", "k").Want(t, 200)
		if _, ok := s.as(phone.AccessToken); ok {
			t.Error("the session goes on after logout")
		}
		s.refresh(phone.RefreshToken).Want(t, 401)

		var out users.SignedOut
		s.Do("POST", "/api/auth/logout-all", s.must(laptop.AccessToken), nil).Into(t, &out)
		if out.Sessions != 2 {
			t.Errorf("%d sessions ended, want 2", out.Sessions)
		}
		for _, tokens := range []users.Tokens{laptop, tablet} {
			if _, ok := s.as(tokens.AccessToken); ok {
				t.Error("a session goes on after logout of all")
			}
			s.refresh(tokens.RefreshToken).Want(t, 401)
		}
		// The clock has not moved: a token issued in the same microsecond is not taken for an old one.
		again := s.login("ann@example.com", password)
		s.must(again.AccessToken)

		s.Restart()
		if _, ok := s.as(laptop.AccessToken); ok {
			t.Error("a restart forgot a revocation")
		}
		s.must(again.AccessToken)
	})
}

func TestChangePassword(t *testing.T) {
	t.Parallel()
	moduletest.Each(t, func(t *testing.T, opener moduletest.Opener) {
		s := open(t, opener)
		u := s.register("ann@example.com")
		here, there := s.login("ann@example.com", password), s.login("ann@example.com", password)
		id := s.must(here.AccessToken)
		path := "/api/users/" + u.ID + "/password"
		change := func(as identity.Identity, old, replacement string, header ...string) moduletest.Response {
			return s.Do("POST", path, as, map[string]any{"old_password": old, "new_password": replacement}, append(header, "Test-Client-IP", home)...)
		}
		change(moduletest.Customer("another"), password, "another password").Want(t, 404)
		change(moduletest.Admin, password, "another password").Want(t, 403)
		change(id, "not my password", "another password").Want(t, 403)
		change(id, password, "ann@example.com").Want(t, 422)
		change(id, password, "short").Want(t, 422)

		var out users.SignedOut
		change(id, password, "another password", "Idempotency-Key", "k").Into(t, &out)
		if out.Sessions != 1 {
			t.Errorf("%d sessions ended, want 1", out.Sessions)
		}
		if r := change(id, password, "another password", "Idempotency-Key", "k").Want(t, 200); r.Header.Get("Idempotency-Replayed") != "true" {
			t.Error("a repeat is not answered as the first request")
		}
		s.must(here.AccessToken)
		s.refresh(here.RefreshToken).Want(t, 200)
		if _, ok := s.as(there.AccessToken); ok {
			t.Error("another session goes on")
		}
		s.refresh(there.RefreshToken).Want(t, 401)
		s.try("ann@example.com", password, home).Want(t, 401)
		s.login("ann@example.com", "another password")

		// A stolen session is no way around the throttle.
		throttled := func() bool { return change(id, "a guess", "yet another").Status == 429 }
		if !slices.ContainsFunc(make([]struct{}, 6), func(struct{}) bool { return throttled() }) {
			t.Error("the old password can be guessed without end")
		}
	})
}

func TestThrottle(t *testing.T) {
	t.Parallel()
	moduletest.Each(t, func(t *testing.T, opener moduletest.Opener) {
		s := open(t, opener)
		s.register("ann@example.com")
		for range 5 {
			s.try("ann@example.com", "a guess", home).Want(t, 401)
		}
		r := s.try("ann@example.com", password, home).Want(t, 429)
		if got, want := retryAfter(t, r), time.Second; got != want {
			t.Errorf("Retry-After: got %s, want %s", got, want)
		}
		s.Clock.Advance(time.Second)
		s.try("ann@example.com", "a guess", home).Want(t, 401)
		if got, want := retryAfter(t, s.try("ann@example.com", password, home).Want(t, 429)), 2*time.Second; got != want {
			t.Errorf("Retry-After: got %s, want %s", got, want)
		}
		s.Clock.Advance(2 * time.Second)
		s.try("ann@example.com", password, home).Want(t, 200)
		s.try("ann@example.com", "a guess", home).Want(t, 401) // counted from the beginning
		s.try("ann@example.com", password, home).Want(t, 200)
	})
}

// An account that does not exist is throttled like one that does.
func TestThrottleTellsNothing(t *testing.T) {
	t.Parallel()
	moduletest.Each(t, func(t *testing.T, opener moduletest.Opener) {
		s := open(t, opener)
		for range 5 {
			s.try("nobody@example.com", "a guess", home).Want(t, 401)
		}
		s.try("nobody@example.com", "a guess", home).Want(t, 429)
	})
}

func TestAttackerCannotLockTheOwnerOut(t *testing.T) {
	t.Parallel()
	moduletest.Each(t, func(t *testing.T, opener moduletest.Opener) {
		s := open(t, opener)
		s.register("ann@example.com")
		s.login("ann@example.com", password) // from home

		for i := range 20 {
			s.try("ann@example.com", "a guess", ip(i)).Want(t, 401)
		}
		// From now on strangers wait, and so does the attacker, even with the right password.
		s.try("ann@example.com", password, ip(99)).Want(t, 429)
		// The owner at home does not notice, again and again.
		for range 3 {
			s.login("ann@example.com", password)
		}
		// Nor does the owner's success let the attacker go on.
		s.try("ann@example.com", "a guess", ip(0)).Want(t, 429)
		s.Clock.Advance(15 * time.Minute)
		s.try("ann@example.com", password, ip(99)).Want(t, 200)
	})
}

func TestNoisyAddress(t *testing.T) {
	t.Parallel()
	moduletest.Each(t, func(t *testing.T, opener moduletest.Opener) {
		s := open(t, opener)
		s.register("ann@example.com")
		s.register("bob@example.com")
		s.login("ann@example.com", password)
		s.try("nobody@example.com", "a guess", home).Want(t, 401)
		// As if 48 other accounts had been tried: each guess costs a hash.
		if err := s.Store.Do(t.Context(), func(_ context.Context, w *unit.Work) error {
			return w.DB.Exec("UPDATE login_failures SET failures = failures + 48 WHERE account = ''").Error
		}); err != nil {
			t.Fatal(err)
		}
		s.try("somebody@example.com", "a guess", home).Want(t, 401)
		s.try("bob@example.com", password, home).Want(t, 429)
		s.try("bob@example.com", password, ip(1)).Want(t, 200)
		s.try("ann@example.com", password, home).Want(t, 200) // known here
	})
}

// Many guesses at once are answered as if they had come one after the other.
func TestGuessesAtOnce(t *testing.T) {
	t.Parallel()
	moduletest.Each(t, func(t *testing.T, opener moduletest.Opener) {
		s := open(t, opener)
		s.register("ann@example.com")
		var group sync.WaitGroup
		statuses := make([]int, 12)
		for i := range statuses {
			group.Go(func() { statuses[i] = s.try("ann@example.com", "a guess", home).Status })
		}
		group.Wait()
		told := 0
		for _, status := range statuses {
			switch status {
			case 401:
				told++
			case 429:
			default:
				t.Errorf("status %d", status)
			}
		}
		if told != 5 {
			t.Errorf("%d guesses were answered, want 5", told)
		}
	})
}

// Many logins at once with the right password all succeed: only failures count.
func TestLoginsAtOnce(t *testing.T) {
	t.Parallel()
	moduletest.Each(t, func(t *testing.T, opener moduletest.Opener) {
		s := open(t, opener)
		s.register("ann@example.com")
		var group sync.WaitGroup
		statuses := make([]int, 12)
		for i := range statuses {
			group.Go(func() { statuses[i] = s.try("ann@example.com", password, home).Status })
		}
		group.Wait()
		for _, status := range statuses {
			if status != 200 {
				t.Errorf("status %d", status)
			}
		}
	})
}
