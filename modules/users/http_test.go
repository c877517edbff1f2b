package users_test

import (
	"bytes"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/banyan-go/banyan/internal/identity"
	"github.com/banyan-go/banyan/internal/module"
	"github.com/banyan-go/banyan/internal/moduletest"
	"github.com/banyan-go/banyan/internal/rest"
	"github.com/banyan-go/banyan/modules/users"
	"github.com/banyan-go/banyan/modules/users/usersapi"
)

var requestID = regexp.MustCompile(`"request_id":"[^"]*"`)

func ip(i int) string { return fmt.Sprintf("203.0.113.%d", i) }

func TestDescriptorIsBound(t *testing.T) {
	t.Parallel()
	m, _ := users.New(module.Deps{}, users.DefaultConfig(), nil)
	if err := m.Check(); err != nil {
		t.Error(err)
	}
}

func TestConfig(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name   string
		change func(*users.Config)
		want   string
	}{
		{"default", func(*users.Config) {}, ""},
		{"access tokens too short", func(c *users.Config) { c.AccessToken = time.Second }, "modules.users.access_token"},
		{"access tokens longer than a revocation is kept", func(c *users.Config) { c.AccessToken = 2 * time.Hour }, "modules.users.access_token"},
		{"refresh tokens too short", func(c *users.Config) { c.RefreshToken = 0 }, "modules.users.refresh_token"},
		{"refresh not longer than access", func(c *users.Config) { c.AccessToken, c.RefreshToken = time.Hour, time.Hour }, "modules.users.refresh_token"},
		{"invitations too long", func(c *users.Config) { c.Invitation = 1e6 * time.Hour }, "modules.users.invitation"},
	}
	for _, tt := range tests {
		c := users.DefaultConfig()
		tt.change(&c)
		err := c.Validate()
		if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.HasPrefix(err.Error(), tt.want+":")) {
			t.Errorf("%s: got %v, want %s", tt.name, err, tt.want)
		}
	}
}

func TestRegister(t *testing.T) {
	t.Parallel()
	moduletest.Each(t, func(t *testing.T, opener moduletest.Opener) {
		s := open(t, opener)
		u := s.register("Ann@Example.com")
		want := users.User{
			ID: u.ID, Role: "customer", Name: "Ann Lee", Email: "Ann@example.com", Preferences: users.Preferences{Mail: true, Language: "en"},
			CreatedAt: moduletest.Start, UpdatedAt: moduletest.Start,
		}
		if diff := cmp.Diff(u, want); diff != "" {
			t.Errorf("user (-got +want):\n%s", diff)
		}
		msgs := s.Announced("users.user_registered.v1")
		if len(msgs) != 1 {
			t.Fatalf("%d registrations were announced, want 1", len(msgs))
		}
		if diff := cmp.Diff(moduletest.Decode[usersapi.UserRegistered](t, msgs[0]), usersapi.UserRegistered{
			UserID: u.ID, Name: "Ann Lee", Email: "Ann@example.com", Role: "customer", At: moduletest.Start,
		}); diff != "" {
			t.Errorf("event (-got +want):\n%s", diff)
		}

		type body = map[string]any
		bob := body{"name": "Bob", "email": "bob@example.com", "password": password}
		with := func(key string, value any) body {
			b := body{}
			for k, v := range bob {
				b[k] = v
			}
			if b[key] = value; value == nil {
				delete(b, key)
			}
			return b
		}
		tests := []struct {
			name string
			as   identity.Identity
			body body
			want int
		}{
			{"taken address", moduletest.Nobody, with("email", "aNN@example.com"), 409},
			{"no address", moduletest.Nobody, with("email", nil), 422},
			{"not an address", moduletest.Nobody, with("email", "bob"), 422},
			{"header injection", moduletest.Nobody, with("email", "bob@example.com\r\nBcc: x"), 422},
			{"no password", moduletest.Nobody, with("password", nil), 422},
			{"short password", moduletest.Nobody, with("password", "1234567"), 422},
			{"the address as password", moduletest.Nobody, with("password", "Bob@Example.com"), 422},
			{"no name", moduletest.Nobody, with("name", " "), 422},
			{"a name of two lines", moduletest.Nobody, with("name", "Bob\nBcc: x"), 422},
			{"a role", moduletest.Nobody, with("role", "admin"), 422},
			{"a reference", moduletest.Nobody, with("reference", "17850"), 422},
			{"a second account", moduletest.Customer(u.ID), bob, 403},
			{"staff with a password", moduletest.Staff, bob, 422},
		}
		for _, tt := range tests {
			r := s.Do("POST", "/api/users", tt.as, tt.body)
			if r.Status != tt.want {
				t.Errorf("%s: got %d, want %d: %s", tt.name, r.Status, tt.want, r.Body)
			}
			if bytes.Contains(r.Body, []byte(password)) || bytes.Contains(r.Body, []byte("1234567")) {
				t.Errorf("%s: the answer repeats the password: %s", tt.name, r.Body)
			}
		}
		if n := s.count("users", "1 = 1"); n != 1 {
			t.Errorf("%d accounts, want 1", n)
		}
	})
}

func TestStaffCreateCustomers(t *testing.T) {
	t.Parallel()
	moduletest.Each(t, func(t *testing.T, opener moduletest.Opener) {
		s := open(t, opener)
		body := map[string]any{"name": "Customer 17850", "reference": "17850"}
		var u, again users.User
		r := s.Do("POST", "/api/users", moduletest.Staff, body, "Idempotency-Key", "customer-17850").Want(t, 201)
		r.Into(t, &u)
		if got, want := r.Header.Get("Location"), "/api/users/"+u.ID; got != want {
			t.Errorf("Location: got %s, want %s", got, want)
		}
		s.Do("POST", "/api/users", moduletest.Staff, body, "Idempotency-Key", "customer-17850").Want(t, 201).Into(t, &again)
		if diff := cmp.Diff(again, u); diff != "" {
			t.Errorf("repeated (-got +want):\n%s", diff)
		}
		s.Do("POST", "/api/users", moduletest.Staff, body).Want(t, 409)
		s.Do("POST", "/api/users", moduletest.Staff, map[string]any{"name": "Another without address"}).Want(t, 201)
		if n := len(s.Announced("users.user_registered.v1")); n != 2 {
			t.Errorf("%d registrations were announced, want 2", n)
		}

		var list rest.List[users.User]
		s.Do("GET", "/api/users?reference=17850", moduletest.Staff, nil).Into(t, &list)
		if diff := cmp.Diff(list, rest.List[users.User]{Items: []users.User{u}}); diff != "" {
			t.Errorf("by reference (-got +want):\n%s", diff)
		}
	})
}

// Of many who register one address, or create one reference, at once, one succeeds.
func TestRegisterAtOnce(t *testing.T) {
	t.Parallel()
	moduletest.Each(t, func(t *testing.T, opener moduletest.Opener) {
		s := open(t, opener)
		for name, request := range map[string]func() moduletest.Response{
			"address": func() moduletest.Response {
				return s.Do("POST", "/api/users", moduletest.Nobody, map[string]any{"name": "Ann", "email": "ann@example.com", "password": password})
			},
			"reference": func() moduletest.Response {
				return s.Do("POST", "/api/users", moduletest.Staff, map[string]any{"name": "Ann", "reference": "17850"})
			},
		} {
			var group sync.WaitGroup
			statuses := make([]int, 8)
			for i := range statuses {
				group.Go(func() { statuses[i] = request().Status })
			}
			group.Wait()
			made := 0
			for _, status := range statuses {
				switch status {
				case 201:
					made++
				case 409:
				default:
					t.Errorf("%s: status %d", name, status)
				}
			}
			if made != 1 {
				t.Errorf("%s: %d accounts were made, want 1", name, made)
			}
		}
	})
}

func TestListAndShow(t *testing.T) {
	t.Parallel()
	moduletest.Each(t, func(t *testing.T, opener moduletest.Opener) {
		s := open(t, opener)
		var want []string
		for i := range 5 {
			want = append(want, s.register(fmt.Sprintf("user%d@example.com", i)).ID)
		}
		s.WantCursors(t, "/api/users", moduletest.Staff)
		var got []string
		for cursor := ""; ; {
			var page rest.List[users.User]
			s.Do("GET", "/api/users?limit=2&cursor="+cursor, moduletest.Staff, nil).Into(t, &page)
			for _, u := range page.Items {
				got = append(got, u.ID)
			}
			if cursor = page.Next; cursor == "" {
				break
			}
		}
		if diff := cmp.Diff(got, want); diff != "" {
			t.Errorf("pages (-got +want):\n%s", diff)
		}
		for query, n := range map[string]int{"email=USER3@example.com": 1, "email=nobody@example.com": 0, "email=nonsense": 0, "reference=1": 0} {
			var page rest.List[users.User]
			s.Do("GET", "/api/users?"+query, moduletest.Staff, nil).Into(t, &page)
			if len(page.Items) != n || page.Items == nil {
				t.Errorf("%s: got %v, want %d", query, page.Items, n)
			}
		}
		path := "/api/users/" + want[0]
		s.Do("GET", path, moduletest.Customer(want[0]), nil).Want(t, 200)
		s.Do("GET", path, moduletest.Staff, nil).Want(t, 200)
		s.Do("GET", path, moduletest.Customer(want[1]), nil).Want(t, 404)
		s.Do("GET", "/api/users/none", moduletest.Staff, nil).Want(t, 404)
	})
}

func TestProfileAndPreferences(t *testing.T) {
	t.Parallel()
	moduletest.Each(t, func(t *testing.T, opener moduletest.Opener) {
		s := open(t, opener)
		admin := s.bootstrap()
		ann, bob := s.register("ann@example.com"), s.register("bob@example.com")
		self := moduletest.Customer(ann.ID)
		path := "/api/users/" + ann.ID

		var u users.User
		s.Do("PATCH", path, self, map[string]any{"name": "Ann Smith", "email": "Ann.Smith@example.com"}).Into(t, &u)
		if u.Name != "Ann Smith" || u.Email != "Ann.Smith@example.com" {
			t.Errorf("got %+v", u)
		}
		s.Do("PATCH", path, self, map[string]any{"name": "Ann Smith"}).Want(t, 200) // changes nothing
		s.Do("PATCH", path, self, map[string]any{"email": "BOB@example.com"}).Want(t, 409)
		s.Do("PATCH", path, self, map[string]any{"email": "bob"}).Want(t, 422)
		s.Do("PATCH", path, self, map[string]any{}).Want(t, 422)
		s.Do("PATCH", path, self, map[string]any{"role": "admin"}).Want(t, 422)
		s.Do("PATCH", path, moduletest.Customer(bob.ID), map[string]any{"name": "Eve"}).Want(t, 404)
		s.Do("PATCH", path, moduletest.Staff, map[string]any{"name": "Ann Brown"}).Want(t, 200)
		s.Do("PATCH", "/api/users/"+admin.Subject, moduletest.Staff, map[string]any{"email": "mine@example.com"}).Want(t, 403)
		msgs := s.Announced("users.profile_changed.v1")
		if len(msgs) != 2 {
			t.Fatalf("%d changes were announced, want 2", len(msgs))
		}
		if diff := cmp.Diff(moduletest.Decode[usersapi.ProfileChanged](t, msgs[1]), usersapi.ProfileChanged{
			UserID: ann.ID, Name: "Ann Brown", Email: "Ann.Smith@example.com", At: moduletest.Start,
		}); diff != "" {
			t.Errorf("event (-got +want):\n%s", diff)
		}
		s.try("ann@example.com", password, home).Want(t, 401)
		s.login("ann.smith@example.com", password)

		p := users.Preferences{Mail: false, Language: "de-CH"}
		s.Do("PUT", path+"/preferences", self, p).Want(t, 200)
		s.Do("PUT", path+"/preferences", self, p).Want(t, 200)
		s.Do("PUT", path+"/preferences", self, map[string]any{"mail": true, "language": "german"}).Want(t, 422)
		s.Do("PUT", path+"/preferences", moduletest.Customer(bob.ID), p).Want(t, 404)
		s.Do("GET", path, self, nil).Into(t, &u)
		if u.Preferences != p {
			t.Errorf("preferences: got %+v, want %+v", u.Preferences, p)
		}
		if n := len(s.Announced("users.preferences_changed.v1")); n != 1 {
			t.Errorf("%d changes of preferences were announced, want 1", n)
		}
	})
}

func TestRoles(t *testing.T) {
	t.Parallel()
	moduletest.Each(t, func(t *testing.T, opener moduletest.Opener) {
		s := open(t, opener)
		admin := s.bootstrap()
		ann := s.register("ann@example.com")
		tokens := s.login("ann@example.com", password)
		role := func(id, role string) moduletest.Response {
			return s.Do("PATCH", "/api/users/"+id+"/role", admin, map[string]any{"role": role})
		}
		role(admin.Subject, "staff").Want(t, 409)
		role("none", "staff").Want(t, 404)
		role(ann.ID, "root").Want(t, 422)
		var created users.User
		s.Do("POST", "/api/users", moduletest.Staff, map[string]any{"name": "Bob"}).Into(t, &created)
		role(created.ID, "staff").Want(t, 409) // cannot sign in

		role(ann.ID, "admin").Want(t, 200)
		if _, ok := s.as(tokens.AccessToken); ok {
			t.Error("a token with the old role is believed")
		}
		s.refresh(tokens.RefreshToken).Want(t, 401)
		if got, want := s.must(s.login("ann@example.com", password).AccessToken).Role, identity.Admin; got != want {
			t.Errorf("role: got %s, want %s", got, want)
		}
		role(ann.ID, "admin").Want(t, 200) // changes nothing
		if n := len(s.Announced("users.role_changed.v1")); n != 1 {
			t.Errorf("%d changes were announced, want 1", n)
		}

		// Both admins step down at once: one of them stays.
		var group sync.WaitGroup
		statuses := make([]int, 2)
		for i, id := range []string{admin.Subject, ann.ID} {
			group.Go(func() { statuses[i] = role(id, "customer").Status })
		}
		group.Wait()
		if n := s.count("users", "role = 'admin'"); n != 1 {
			t.Errorf("%d admins are left, want 1 (%v)", n, statuses)
		}
	})
}

func TestInvitations(t *testing.T) {
	t.Parallel()
	moduletest.Each(t, func(t *testing.T, opener moduletest.Opener) {
		s := open(t, opener)
		admin := s.bootstrap()
		invite := func(as identity.Identity, email, role string) moduletest.Response {
			return s.Do("POST", "/api/users/invitations", as, map[string]any{"email": email, "role": role})
		}
		accept := func(token string, header ...string) moduletest.Response {
			return s.Do("POST", "/api/users/invitations/accept", moduletest.Nobody, map[string]any{"token": token, "name": "Sue", "password": password}, header...)
		}
		invite(moduletest.Staff, "sue@example.com", "staff").Want(t, 403)
		invite(moduletest.Staff, "sue", "customer").Want(t, 422)
		invite(moduletest.Staff, "admin@BANYAN.local", "customer").Want(t, 409)

		r := invite(admin, "Sue@example.com", "staff").Want(t, 201)
		var invitation users.Invitation
		r.Into(t, &invitation)
		event := s.invited()
		if event.Token == "" || bytes.Contains(r.Body, []byte(event.Token)) {
			t.Errorf("the token must be in the mail alone: %s", r.Body)
		}
		if event.InvitationID != invitation.ID || event.Email != "Sue@example.com" || event.Role != "staff" {
			t.Errorf("event: %+v", event)
		}
		accept("wrong").Want(t, 404)

		var u users.User
		accept(event.Token, "Idempotency-Key", "k").Want(t, 201).Into(t, &u)
		if u.ID != invitation.ID || u.Role != "staff" || u.Email != "Sue@example.com" {
			t.Errorf("user: %+v", u)
		}
		accept(event.Token, "Idempotency-Key", "k").Want(t, 201)
		accept(event.Token).Want(t, 409)
		if got, want := s.must(s.login("sue@example.com", password).AccessToken).Role, identity.Staff; got != want {
			t.Errorf("role: got %s, want %s", got, want)
		}

		// A newer invitation takes the place of an older one.
		invite(admin, "tom@example.com", "customer").Want(t, 201)
		older := s.invited()
		invite(admin, "TOM@example.com", "customer").Want(t, 201)
		newer := s.invited()
		accept(older.Token).Want(t, 410)
		s.register("tom@example.com")
		accept(newer.Token).Want(t, 409) // the address was taken meanwhile

		// An expired one is refused, and forgotten.
		invite(admin, "uma@example.com", "customer").Want(t, 201)
		expired := s.invited()
		s.Clock.Advance(7 * 24 * time.Hour)
		if r := accept(expired.Token); r.Status != 410 && r.Status != 404 {
			t.Errorf("expired: status %d", r.Status)
		}
		s.Advance(time.Hour)
		if n := s.count("invitations", "1 = 1"); n != 0 {
			t.Errorf("%d invitations are left", n)
		}
		if raw := s.Announced("users.user_invited.v1"); bytes.Contains(raw[len(raw)-1].Payload, []byte("uma")) {
			t.Errorf("the address is still kept: %s", raw[len(raw)-1].Payload)
		}
		erased := map[string]bool{}
		for _, m := range s.Announced("users.user_erased.v1") {
			erased[m.Key] = true
		}
		if !erased[expired.InvitationID] || erased[invitation.ID] {
			t.Errorf("erased: %v", erased)
		}
	})
}

// Of many invitations to one address at once, one is valid.
func TestInviteAtOnce(t *testing.T) {
	t.Parallel()
	moduletest.Each(t, func(t *testing.T, opener moduletest.Opener) {
		s := open(t, opener)
		admin := s.bootstrap()
		for round := range 2 { // the first finds none to replace, the second one
			var group sync.WaitGroup
			responses := make([]moduletest.Response, 8)
			for i := range responses {
				group.Go(func() {
					responses[i] = s.Do("POST", "/api/users/invitations", admin, map[string]any{"email": "sue@example.com", "role": "staff"})
				})
			}
			group.Wait()
			made := 0
			for _, r := range responses {
				switch {
				case r.Status == 201:
					made++
				case r.Status != 409 || !bytes.Contains(r.Body, []byte("at the same moment")):
					t.Errorf("round %d: status %d: %s", round, r.Status, r.Body)
				}
			}
			if valid := s.count("invitations", "state = 'pending'"); made == 0 || valid != 1 {
				t.Errorf("round %d: %d invitations were made, and %d are valid, want 1", round, made, valid)
			}
		}
	})
}

func TestErase(t *testing.T) {
	t.Parallel()
	moduletest.Each(t, func(t *testing.T, opener moduletest.Opener) {
		s := open(t, opener)
		admin := s.bootstrap()
		var u users.User
		s.Do("POST", "/api/users", moduletest.Nobody, map[string]any{"name": "Ann Unmistakable", "email": "unmistakable@example.com", "password": password}, "Idempotency-Key", "k").Into(t, &u)
		tokens := s.login("unmistakable@example.com", password)
		s.try("unmistakable@example.com", "a guess", ip(1)).Want(t, 401)
		self := s.must(tokens.AccessToken)
		path := "/api/users/" + u.ID
		s.Do("PATCH", path, self, map[string]any{"name": "Ann Unmistakable II"}, "Idempotency-Key", "k2").Want(t, 200)
		s.Do("PATCH", path, admin, map[string]any{"name": "Ann Unmistakable III"}, "Idempotency-Key", "k3").Want(t, 200)

		s.Do("DELETE", path, moduletest.Customer("another"), nil).Want(t, 404)
		s.Do("DELETE", path, moduletest.Staff, nil).Want(t, 403)
		s.Do("DELETE", "/api/users/"+admin.Subject, admin, nil).Want(t, 409)
		s.Do("DELETE", path, self, nil).Want(t, 200)

		if _, ok := s.as(tokens.AccessToken); ok {
			t.Error("the session goes on")
		}
		s.refresh(tokens.RefreshToken).Want(t, 401)
		s.try("unmistakable@example.com", password, home).Want(t, 401)
		s.Do("GET", path, admin, nil).Want(t, 410)
		s.Do("DELETE", path, admin, nil).Want(t, 410)
		s.Do("PATCH", path, admin, map[string]any{"name": "Back"}).Want(t, 410)
		s.Do("PATCH", path+"/role", admin, map[string]any{"role": "staff"}).Want(t, 410)
		msgs := s.Announced("users.user_erased.v1")
		if len(msgs) != 1 || msgs[0].Key != u.ID {
			t.Errorf("announced: %+v", msgs)
		}
		for _, m := range s.Announced("") {
			if bytes.Contains(bytes.ToLower(m.Payload), []byte("unmistakable")) {
				t.Errorf("%s still holds personal data: %s", m.Name, m.Payload)
			}
		}
		for table, columns := range map[string][]string{"users": {"name", "email", "email_key"}, "idempotency": {"body", "location"}} {
			for _, c := range columns {
				if n := s.count(table, "lower(CAST("+c+" AS TEXT)) LIKE '%unmistakable%'"); n != 0 && table == "users" {
					t.Errorf("%s.%s still holds personal data", table, c)
				}
			}
		}
		if n := s.count("idempotency", "personal = ? AND NOT erased", u.ID); n != 0 {
			t.Errorf("%d stored answers about the account are left", n)
		}
		for _, table := range []string{"sessions", "refresh_tokens", "known_addresses"} {
			if n := s.count(table, "user_id = ?", u.ID); n != 0 {
				t.Errorf("%d rows are left in %s", n, table)
			}
		}
		// The address is free again, for another account.
		if again := s.register("unmistakable@example.com"); again.ID == u.ID {
			t.Error("the erased account came back")
		}
	})
}

// TestEraseInvited: whoever is erased is forgotten as the invited, too, whether or not an invitation became the account.
func TestEraseInvited(t *testing.T) {
	t.Parallel()
	moduletest.Each(t, func(t *testing.T, opener moduletest.Opener) {
		for _, accepts := range []bool{true, false} {
			t.Run(fmt.Sprintf("accepts %t", accepts), func(t *testing.T) {
				s := open(t, opener)
				admin := s.bootstrap()
				var older, newer, other users.Invitation
				for email, into := range map[string]*users.Invitation{"other@example.com": &other, "unmistakable@example.com": &older} {
					s.Do("POST", "/api/users/invitations", admin, map[string]any{"email": email, "role": "customer"}, "Idempotency-Key", email).Want(t, 201).Into(t, into)
				}
				s.Do("POST", "/api/users/invitations", admin, map[string]any{"email": "Unmistakable@example.com", "role": "customer"}, "Idempotency-Key", "k").Want(t, 201).Into(t, &newer)
				want := []string{older.ID, newer.ID}
				var u users.User
				if accepts {
					s.Do("POST", "/api/users/invitations/accept", moduletest.Nobody, map[string]any{"token": s.invited().Token, "name": "Ann", "password": password}).Want(t, 201).Into(t, &u)
				} else {
					u = s.register("unmistakable@example.com")
					want = append(want, u.ID)
				}
				s.Do("DELETE", "/api/users/"+u.ID, admin, nil).Want(t, 200)
				var erased []string
				for _, m := range s.Announced("users.user_erased.v1") {
					erased = append(erased, m.Key)
				}
				slices.Sort(erased)
				slices.Sort(want)
				if diff := cmp.Diff(erased, want); diff != "" {
					t.Errorf("announced as erased (-got +want):\n%s", diff)
				}
				for _, m := range s.Announced("") {
					if bytes.Contains(bytes.ToLower(m.Payload), []byte("unmistakable")) {
						t.Errorf("%s still holds the address: %s", m.Name, m.Payload)
					}
				}
				for _, id := range want {
					if n := s.count("idempotency", "personal = ? AND NOT erased", id); n != 0 {
						t.Errorf("%d stored answers about %s are left", n, id)
					}
				}
				if n := s.count("invitations", "id = ?", other.ID); n != 1 || s.count("invitations", "1 = 1") != 1 {
					t.Error("more or less than the invitations to the address are gone")
				}
			})
		}
	})
}

func TestPurge(t *testing.T) {
	t.Parallel()
	moduletest.Each(t, func(t *testing.T, opener moduletest.Opener) {
		s := open(t, opener)
		s.register("ann@example.com")
		s.Do("POST", "/api/auth/logout", s.must(s.login("ann@example.com", password).AccessToken), nil).Want(t, 200)
		s.try("ann@example.com", "a guess", home).Want(t, 401)
		for _, table := range []string{"sessions", "refresh_tokens", "revocations", "login_failures", "known_addresses"} {
			if s.count(table, "1 = 1") == 0 {
				t.Errorf("%s is empty to begin with", table)
			}
		}
		s.Advance(2 * time.Hour)
		if n := s.count("revocations", "1 = 1"); n != 0 {
			t.Errorf("%d revocations are kept", n)
		}
		s.Advance(31 * 24 * time.Hour)
		for _, table := range []string{"sessions", "refresh_tokens", "login_failures"} {
			if n := s.count(table, "1 = 1"); n != 0 {
				t.Errorf("%d rows are kept in %s", n, table)
			}
		}
		if n := s.count("known_addresses", "1 = 1"); n != 1 {
			t.Errorf("%d known addresses, want 1", n)
		}
		s.Advance(180 * 24 * time.Hour)
		if n := s.count("known_addresses", "1 = 1"); n != 0 {
			t.Errorf("%d known addresses are kept", n)
		}
	})
}

func TestBootstrap(t *testing.T) {
	t.Parallel()
	moduletest.Each(t, func(t *testing.T, opener moduletest.Opener) {
		s := open(t, opener)
		if _, err := users.Bootstrap(t.Context(), s.Store, "short"); err == nil {
			t.Error("a short password is taken")
		}
		has := func(secret string) bool {
			t.Helper()
			yes, err := users.AdminSignsInWith(t.Context(), s.Store, secret)
			if err != nil {
				t.Fatal(err)
			}
			return yes
		}
		if yes, err := users.HasAdmin(t.Context(), s.Store); yes || err != nil || has("short") || has("") {
			t.Errorf("an admin before there is one: %v", err)
		}
		// Two replicas start at once.
		var group sync.WaitGroup
		secrets, created := []string{users.MadeUpPassword(), users.MadeUpPassword()}, make([]bool, 2)
		for i := range 2 {
			group.Go(func() {
				var err error
				if created[i], err = users.Bootstrap(t.Context(), s.Store, secrets[i]); err != nil {
					t.Error(err)
				}
			})
		}
		group.Wait()
		if created[0] == created[1] || secrets[0] == secrets[1] || len(secrets[0]) != 20 {
			t.Fatalf("created %v with %q", created, secrets)
		}
		if created[1] {
			slices.Reverse(secrets)
		}
		if got, want := s.must(s.login(users.AdminEmail, secrets[0]).AccessToken).Role, identity.Admin; got != want {
			t.Errorf("role: got %s, want %s", got, want)
		}
		if yes, err := users.HasAdmin(t.Context(), s.Store); !yes || err != nil || !has(secrets[0]) || has(secrets[1]) {
			t.Errorf("the admin is not known by the one password: %v", err)
		}
		if created, err := users.Bootstrap(t.Context(), s.Store, "another password"); created || err != nil {
			t.Errorf("again: %v, %v", created, err)
		}
		s.try(users.AdminEmail, "another password", home).Want(t, 401)
		if n := len(s.Announced("users.user_registered.v1")); n != 1 {
			t.Errorf("%d registrations were announced, want 1", n)
		}
	})
}

// TestFirstAdminHasNoMailbox: others hear of an address of the first admin only once there is one that mail reaches.
func TestFirstAdminHasNoMailbox(t *testing.T) {
	t.Parallel()
	moduletest.Each(t, func(t *testing.T, opener moduletest.Opener) {
		s := open(t, opener)
		admin := s.bootstrap()
		if e := moduletest.Decode[usersapi.UserRegistered](t, s.Announced("users.user_registered.v1")[0]); e.Email != "" || e.UserID != admin.Subject || e.Role != "admin" {
			t.Errorf("announced %+v", e)
		}
		for _, change := range []map[string]any{{"name": "Ann"}, {"email": "ADMIN@banyan.local"}, {"email": "ann@example.com"}} {
			s.Do("PATCH", "/api/users/"+admin.Subject, admin, change).Want(t, 200)
		}
		var got []string
		for _, m := range s.Announced("users.profile_changed.v1") {
			got = append(got, moduletest.Decode[usersapi.ProfileChanged](t, m).Email)
		}
		if diff := cmp.Diff(got, []string{"", "", "ann@example.com"}); diff != "" {
			t.Errorf("addresses announced (-got +want):\n%s", diff)
		}
	})
}
