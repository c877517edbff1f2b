package account

import (
	"net/netip"
	"time"
)

// Limits of failed attempts to sign in.
const (
	pairFree    = 5                // failures of one account from one address without a wait
	pairFirst   = time.Second      // wait after those, doubled with each further failure
	pairLongest = 15 * time.Minute // but no longer than this
	pairForget  = 24 * time.Hour   // after the last failure

	accountMost   = 20 // failures of one account from anywhere
	accountWindow = 15 * time.Minute

	addressMost   = 50 // failures from one address, whatever the account
	addressWindow = 15 * time.Minute
)

// Scope says what a counter counts.
type Scope int

// The scopes of counters.
const (
	Pair    Scope = iota // an account from an address
	Account              // an account from anywhere
	Address              // anything from an address
)

// Counter counts failures since a time.
type Counter struct {
	Failures int
	Since    time.Time // of the first one
	Last     time.Time
}

// Expires is when a counter of a scope is forgotten.
func (c Counter) Expires(s Scope) time.Time {
	switch s {
	case Pair:
		return c.Last.Add(pairForget)
	case Account:
		return c.Since.Add(accountWindow)
	default:
		return c.Since.Add(addressWindow)
	}
}

// Fail is the counter after one more failure.
func (c Counter) Fail(s Scope, now time.Time) Counter {
	if c.Failures == 0 || !now.Before(c.Expires(s)) {
		return Counter{Failures: 1, Since: now, Last: now}
	}
	return Counter{Failures: c.Failures + 1, Since: c.Since, Last: now}
}

// until is when the counter lets the next attempt through; the zero time for now.
func (c Counter) until(s Scope, now time.Time) time.Time {
	if c.Failures == 0 || !now.Before(c.Expires(s)) {
		return time.Time{}
	}
	switch {
	case s == Pair && c.Failures >= pairFree:
		wait := pairLongest
		if doubled := c.Failures - pairFree; doubled < 10 {
			wait = min(wait, pairFirst<<doubled)
		}
		return c.Last.Add(wait)
	case s == Account && c.Failures >= accountMost, s == Address && c.Failures >= addressMost:
		return c.Expires(s)
	}
	return time.Time{}
}

// Attempt is what is known when somebody tries to sign in.
type Attempt struct {
	Pair, Account, Address Counter
	Known                  bool // the account has signed in from this address before
}

// Wait is how long the attempt must wait; 0 lets it through.
//
// The counters that many can raise (of the account, of the address) do not concern an address from which the account
// has signed in before: so somebody who guesses from elsewhere, or who shares the owner's address and guesses at other
// accounts, cannot keep the owner out. Such an address has only its own failures with this account against it.
func (a Attempt) Wait(now time.Time) time.Duration {
	until := a.Pair.until(Pair, now)
	if !a.Known {
		until = later(until, later(a.Account.until(Account, now), a.Address.until(Address, now)))
	}
	return max(0, until.Sub(now))
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// Neighbourhood is the part of a client's address that failures are counted by: all of an IPv4 address, the network of
// an IPv6 one, because one client has 2^64 of those.
func Neighbourhood(address string) string {
	ip, err := netip.ParseAddr(address)
	if err != nil {
		return "unknown"
	}
	ip = ip.Unmap().WithZone("")
	if ip.Is4() {
		return ip.String()
	}
	network, err := ip.Prefix(64)
	if err != nil {
		return "unknown"
	}
	return network.String()
}
