package proxy_test

import (
	"fmt"
	"net/http"
	"testing"

	"github.com/banyan-go/banyan/proxy"
)

// Visitors who are not signed in are sticky too, by a cookie that names nobody and that no module sees; over plain HTTP they stay here.
func TestGuestsAreSticky(t *testing.T) {
	t.Parallel()
	s, remote, _ := moving(t, proxy.Placement{State: proxy.Canary, Reads: 5000, Writes: 2000}, func(c *proxy.Config) {
		c.TrustedProxies = []string{"127.0.0.0/8", "::1"} // which says that the client came over TLS
	})
	cookies := func(w http.ResponseWriter, r *http.Request, side string) {
		w.Header().Set("X-Side", side)
		w.Header().Set("X-Cookies", fmt.Sprintf("%q", r.Header["Cookie"]))
	}
	s.local = func(w http.ResponseWriter, r *http.Request) { cookies(w, r, "local") }
	remote.set(func(w http.ResponseWriter, r *http.Request) { cookies(w, r, "remote") })
	sides := map[string]int{}
	var last *http.Cookie
	for range 200 {
		a, _ := ask(t, s, "GET", "/api/orders", "", "", "X-Forwarded-Proto", "https")
		if len(a.Cookies()) != 1 {
			t.Fatalf("got the cookies %v", a.Cookies())
		}
		last = a.Cookies()[0]
		if line := a.Header.Get("Set-Cookie"); last.Name != "__Host-banyan-bucket" || !last.Secure || !last.HttpOnly || last.Path != "/" || last.Domain != "" || last.SameSite != http.SameSiteLaxMode {
			t.Fatalf("the cookie is %s", line)
		}
		side := a.Header.Get("X-Side")
		sides[side]++
		for range 2 {
			again, _ := ask(t, s, "GET", "/api/orders", "", "", "X-Forwarded-Proto", "https", "Cookie", "a=1; "+last.Name+"="+last.Value+"; b=2")
			if got := again.Header.Get("X-Side"); got != side || len(again.Cookies()) > 0 || again.Header.Get("X-Cookies") != `["a=1; b=2"]` {
				t.Fatalf("the guest went to %s, then to %s with %v; the module saw the cookies %q", side, got, again.Cookies(), again.Header.Get("X-Cookies"))
			}
		}
		if w, _ := ask(t, s, "POST", "/api/small", "", "{}", "X-Forwarded-Proto", "https", "Cookie", last.Name+"="+last.Value); w.Header.Get("X-Side") == "remote" && side != "remote" || w.Header.Get("X-Cookies") != "[]" {
			t.Fatalf("the guest writes at the remote side and reads at the %s one; the module saw the cookies %q", side, w.Header.Get("X-Cookies"))
		}
	}
	if sides["local"] < 60 || sides["remote"] < 60 {
		t.Errorf("the guests went to %v", sides)
	}
	forged := "x" + last.Value[1:]
	for name, header := range map[string][]string{
		"a forged cookie": {"Cookie", last.Name + "=" + forged}, "two cookies": {"Cookie", last.Name + "=" + last.Value + "; " + last.Name + "=" + last.Value},
	} {
		if a, _ := ask(t, s, "GET", "/api/orders", "", "", append(header, "X-Forwarded-Proto", "https")...); len(a.Cookies()) != 1 || a.Cookies()[0].Value == last.Value {
			t.Errorf("%s is taken for a cookie: %v", name, a.Cookies())
		}
	}
	for name, header := range map[string][]string{"plain HTTP": {"Cookie", last.Name + "=" + last.Value}, "plain HTTP, no cookie": nil} {
		if a, _ := ask(t, s, "GET", "/api/orders", "", "", header...); a.Header.Get("X-Side") != "local" || len(a.Cookies()) > 0 || a.Header.Get("X-Cookies") != "[]" {
			t.Errorf("%s: %s with %v, the module saw %q", name, a.Header.Get("X-Side"), a.Cookies(), a.Header.Get("X-Cookies"))
		}
	}
	if a, _ := ask(t, s, "GET", "/api/orders", "customer:ada", "", "X-Forwarded-Proto", "https"); len(a.Cookies()) > 0 {
		t.Errorf("somebody who is signed in gets %v", a.Cookies())
	}
	place(t, s, proxy.Placement{State: proxy.Remote})
	if a, _ := ask(t, s, "GET", "/api/orders", "", "", "X-Forwarded-Proto", "https"); len(a.Cookies()) > 0 {
		t.Errorf("without a canary a visitor gets %v", a.Cookies())
	}
}
