package account_test

import (
	"strings"
	"testing"
	"time"

	"github.com/banyan-go/banyan/internal/errs"
	"github.com/banyan-go/banyan/modules/users/internal/account"
)

var now = time.Date(2026, 11, 2, 10, 0, 0, 0, time.UTC)

func TestParseEmail(t *testing.T) {
	t.Parallel()
	tests := []struct{ name, in, address, key string }{
		{"plain", "ann@example.com", "ann@example.com", "ann@example.com"},
		{"spaces around", "  ann@example.com\t", "ann@example.com", "ann@example.com"},
		{"upper case", "Ann.Lee@EXAMPLE.Com", "Ann.Lee@example.com", "ann.lee@example.com"},
		{"tag", "ann+shop@example.com", "ann+shop@example.com", "ann+shop@example.com"},
		{"letters of the world", "åsa@bücher.example", "åsa@bücher.example", "åsa@bücher.example"},
		{"nothing", "", "", ""},
		{"no at", "ann.example.com", "", ""},
		{"nobody", "@example.com", "", ""},
		{"nowhere", "ann@", "", ""},
		{"two at", "ann@lee@example.com", "", ""},
		{"dots", "ann@example..com", "", ""},
		{"dash first", "ann@-example.com", "", ""},
		{"header injection", "ann\r\nBcc: all@example.com", "", ""},
		{"domain injection", "ann@example.com\r\nBcc:all", "", ""},
		{"a list", "ann@example.com,bob@example.com", "", ""},
		{"brackets", "Ann <ann@example.com>", "", ""},
		{"local too long", strings.Repeat("a", 65) + "@example.com", "", ""},
		{"too long", "ann@" + strings.Repeat("a.", 130) + "com", "", ""},
	}
	for _, tt := range tests {
		got, err := account.ParseEmail(tt.in)
		if got.Address != tt.address || got.Key != tt.key {
			t.Errorf("%s: got %+v, want %s, %s", tt.name, got, tt.address, tt.key)
		}
		if (err != nil) != (tt.address == "") || (err != nil && errs.KindOf(err) != errs.Invalid) {
			t.Errorf("%s: error %v", tt.name, err)
		}
	}
}

func TestParseName(t *testing.T) {
	t.Parallel()
	if got, err := account.ParseName("  Ann Lee "); err != nil || got != "Ann Lee" {
		t.Errorf("got %q, %v", got, err)
	}
	for _, bad := range []string{"", "   ", "Ann\r\nBcc: x", strings.Repeat("a", account.MaxName+1)} {
		if _, err := account.ParseName(bad); !errs.Is(err, errs.Invalid) {
			t.Errorf("%q: got %v, want an error", bad, err)
		}
	}
}

func TestCheckPassword(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, password string
		ok             bool
	}{
		{"shortest", "12345678", true},
		{"too short", "1234567", false},
		{"characters, not bytes", "äöüäöüäö", true},
		{"longest", strings.Repeat("ä", 128), true},
		{"too long", strings.Repeat("a", 129), false},
		{"the email", "ann@example.com", false},
		{"the email in capitals", " ANN@example.com ", false},
		{"nothing", "", false},
	}
	for _, tt := range tests {
		if err := account.CheckPassword(tt.password, "ann@example.com", "body.password"); (err == nil) != tt.ok {
			t.Errorf("%s: got %v", tt.name, err)
		}
	}
	if err := account.CheckPassword("12345678", "", "body.password"); err != nil {
		t.Errorf("without an email: %v", err)
	}
}

func TestRoles(t *testing.T) {
	t.Parallel()
	both, one := []string{"a", "b"}, []string{"a"}
	tests := []struct {
		name string
		got  error
		want errs.Kind
	}{
		{"staff invites customer", account.CheckInvite(account.Staff, account.Customer), ""},
		{"staff invites staff", account.CheckInvite(account.Staff, account.Staff), errs.Forbidden},
		{"staff invites admin", account.CheckInvite(account.Staff, account.Admin), errs.Forbidden},
		{"admin invites admin", account.CheckInvite(account.Admin, account.Admin), ""},
		{"customer invites customer", account.CheckInvite(account.Customer, account.Customer), errs.Forbidden},

		{"own profile", account.CheckEdit(account.Customer, true, account.Customer), ""},
		{"staff edits customer", account.CheckEdit(account.Staff, false, account.Customer), ""},
		{"staff edits staff", account.CheckEdit(account.Staff, false, account.Staff), errs.Forbidden},
		{"staff edits admin", account.CheckEdit(account.Staff, false, account.Admin), errs.Forbidden},
		{"admin edits admin", account.CheckEdit(account.Admin, false, account.Admin), ""},

		{"one of two admins steps down", account.CheckRole("a", account.Staff, true, both), ""},
		{"the last admin steps down", account.CheckRole("a", account.Staff, true, one), errs.Conflict},
		{"the last admin stays admin", account.CheckRole("a", account.Admin, true, one), ""},
		{"another account while there is one admin", account.CheckRole("c", account.Staff, true, one), ""},
		{"staff without a password", account.CheckRole("c", account.Staff, false, one), errs.Conflict},
		{"customer without a password", account.CheckRole("c", account.Customer, false, one), ""},
		{"the last admin leaves", account.CheckLastAdmin("a", one), errs.Conflict},
	}
	for _, tt := range tests {
		if got := errs.KindOf(tt.got); got != tt.want {
			t.Errorf("%s: got %q (%v), want %q", tt.name, got, tt.got, tt.want)
		}
	}
}

// fails is a counter after n failures, the last of them ago.
func fails(s account.Scope, n int, ago time.Duration) account.Counter {
	var c account.Counter
	for range n {
		c = c.Fail(s, now.Add(-ago))
	}
	return c
}

func TestThrottle(t *testing.T) {
	t.Parallel()
	pair := func(n int, ago time.Duration) account.Counter { return fails(account.Pair, n, ago) }
	flooded := fails(account.Account, 1000, time.Minute)
	noisy := fails(account.Address, 1000, time.Minute)
	tests := []struct {
		name    string
		attempt account.Attempt
		want    time.Duration
	}{
		{"first attempt", account.Attempt{}, 0},
		{"four failures", account.Attempt{Pair: pair(4, 0)}, 0},
		{"five failures", account.Attempt{Pair: pair(5, 0)}, time.Second},
		{"six failures", account.Attempt{Pair: pair(6, 0)}, 2 * time.Second},
		{"ten failures, half waited", account.Attempt{Pair: pair(10, 16*time.Second)}, 16 * time.Second},
		{"the longest wait", account.Attempt{Pair: pair(15, 0)}, 15 * time.Minute},
		{"no overflow", account.Attempt{Pair: pair(10_000, 0)}, 15 * time.Minute},
		{"waited", account.Attempt{Pair: pair(5, time.Second)}, 0},
		{"forgotten after a day", account.Attempt{Pair: pair(10_000, 24*time.Hour)}, 0},
		{"a known address has its own failures against it", account.Attempt{Pair: pair(5, 0), Known: true}, time.Second},

		{"account below the limit", account.Attempt{Account: fails(account.Account, 19, 0)}, 0},
		{"account at the limit", account.Attempt{Account: fails(account.Account, 20, 0)}, 15 * time.Minute},
		{"account under attack, stranger", account.Attempt{Account: flooded}, 14 * time.Minute},
		{"account under attack, owner at a known address", account.Attempt{Account: flooded, Known: true}, 0},
		{"account, window over", account.Attempt{Account: fails(account.Account, 1000, 15*time.Minute)}, 0},

		{"address below the limit", account.Attempt{Address: fails(account.Address, 49, 0)}, 0},
		{"address at the limit", account.Attempt{Address: fails(account.Address, 50, 5*time.Minute)}, 10 * time.Minute},
		{"noisy neighbour, owner at a known address", account.Attempt{Address: noisy, Known: true}, 0},
		{"the longest of all", account.Attempt{Pair: pair(5, 0), Account: flooded, Address: fails(account.Address, 50, 0)}, 15 * time.Minute},
	}
	for _, tt := range tests {
		if got := tt.attempt.Wait(now); got != tt.want {
			t.Errorf("%s: got %s, want %s", tt.name, got, tt.want)
		}
	}
}

func TestCounterStartsAgain(t *testing.T) {
	t.Parallel()
	old := fails(account.Account, 1000, 15*time.Minute)
	if got, want := old.Fail(account.Account, now), (account.Counter{Failures: 1, Since: now, Last: now}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	// A window of an account does not move with its failures, or an attacker could hold it open for ever.
	c := fails(account.Account, 1, 14*time.Minute).Fail(account.Account, now)
	if got, want := c.Expires(account.Account), now.Add(time.Minute); !got.Equal(want) {
		t.Errorf("expires: got %s, want %s", got, want)
	}
}

func TestNeighbourhood(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"192.0.2.7":            "192.0.2.7",
		"::ffff:192.0.2.7":     "192.0.2.7",
		"2001:db8:1:2:3:4:5:6": "2001:db8:1:2::/64",
		"2001:db8:1:2::9":      "2001:db8:1:2::/64",
		"fe80::1%eth0":         "fe80::/64",
		"":                     "unknown",
		"pipe":                 "unknown",
	} {
		if got := account.Neighbourhood(in); got != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
}

func TestUseOfRefreshToken(t *testing.T) {
	t.Parallel()
	s := account.Session{Generation: 3, Parent: "p", RotatedAt: now.Add(-5 * time.Second), ExpiresAt: now.Add(time.Hour)}
	newest := account.RefreshToken{Hash: "n", Generation: 3, ExpiresAt: now.Add(time.Hour)}
	parent := account.RefreshToken{Hash: "p", Generation: 2, ExpiresAt: now.Add(time.Hour)}
	sibling := account.RefreshToken{Hash: "q", Generation: 2, ExpiresAt: now.Add(time.Hour)}
	tests := []struct {
		name   string
		change func(*account.Session, *account.RefreshToken)
		token  account.RefreshToken
		want   account.Refresh
	}{
		{"the newest", nil, newest, account.Rotate},
		{"the one before, answer lost", nil, parent, account.Repeat},
		{"the one before, at the last moment", func(s *account.Session, _ *account.RefreshToken) { s.RotatedAt = now.Add(-10 * time.Second) }, parent, account.Repeat},
		{"the one before, too late", func(s *account.Session, _ *account.RefreshToken) { s.RotatedAt = now.Add(-11 * time.Second) }, parent, account.Stolen},
		{"the one before, but its successor was used", func(s *account.Session, _ *account.RefreshToken) { s.Generation, s.Parent = 4, "n" }, parent, account.Stolen},
		{"a sibling of the one that was used", nil, sibling, account.Stolen},
		{"token expired", func(_ *account.Session, t *account.RefreshToken) { t.ExpiresAt = now }, newest, account.Refused},
		{"session expired", func(s *account.Session, _ *account.RefreshToken) { s.ExpiresAt = now }, newest, account.Refused},
		{"session revoked", func(s *account.Session, _ *account.RefreshToken) { s.Revoked = true }, newest, account.Refused},
		{"an old token of a revoked session", func(s *account.Session, _ *account.RefreshToken) { s.Revoked = true }, sibling, account.Refused},
	}
	for _, tt := range tests {
		session, token := s, tt.token
		if tt.change != nil {
			tt.change(&session, &token)
		}
		if got := session.Use(token, now); got != tt.want {
			t.Errorf("%s: got %d, want %d", tt.name, got, tt.want)
		}
	}
}
