package proxy_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/banyan-go/banyan/proxy"
	"github.com/banyan-go/banyan/proxy/gate"
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

// What strangers ask for in vain sends no canary home: a cookie is to be had for nothing. What fails for them does, and so does what those who
// are signed in ask for in vain.
func TestGuestsAndClientErrors(t *testing.T) {
	t.Parallel()
	type world struct {
		get    func(path, who string, header ...string) *http.Response
		guests func(n int) []string // cookies of guests whom the remote side answers
	}
	answer := func(side string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("X-Side", side)
			switch of := r.URL.Query().Get("of"); {
			case of == "missing", of == side:
				w.WriteHeader(http.StatusNotFound)
			case of == "failing "+side:
				w.WriteHeader(http.StatusInternalServerError)
			}
		}
	}
	tls := []string{"X-Forwarded-Proto", "https"}
	for _, tt := range []struct {
		name string
		do   func(w world)
		home bool
	}{
		{"one guest asks for what is missing, again and again", func(w world) {
			cookie := w.guests(1)[0]
			for n := range 200 {
				w.get("/api/orders?of=missing", "", append(tls, "Cookie", cookie)...)
				w.get("/api/orders", fmt.Sprint("customer:v", n))
			}
		}, false},
		{"many guests do", func(w world) {
			for n, cookie := range w.guests(60) {
				w.get("/api/orders?of=missing", "", append(tls, "Cookie", cookie)...)
				w.get("/api/orders", fmt.Sprint("customer:v", n))
			}
		}, false},
		{"nobody asks so often here that those who are known look to be few", func(w world) {
			for range 1000 {
				w.get("/api/orders", "")
			}
			for n := range 60 {
				w.get("/api/orders?of=missing", fmt.Sprint("customer:u", n))
			}
		}, false},
		{"those who are known get what local does not give", func(w world) {
			for n := range 200 {
				w.get("/api/orders?of=remote", fmt.Sprint("customer:u", n))
			}
		}, true},
		{"guests get failures", func(w world) {
			for _, cookie := range w.guests(60) {
				w.get("/api/orders?of=failing%20remote", "", append(tls, "Cookie", cookie)...)
			}
		}, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s, remote, _ := moving(t, proxy.Placement{State: proxy.Canary, Reads: 5000}, func(c *proxy.Config) {
				c.TrustedProxies = []string{"127.0.0.0/8", "::1"}
				c.Gates.ClientErrors.Min, c.Gates.Latency.P95Ratio, c.Gates.Latency.P99Ratio = 20, 0, 0
			})
			s.local = answer("local")
			remote.set(answer("remote"))
			w := world{get: func(path, who string, header ...string) *http.Response {
				a, _ := ask(t, s, "GET", path, who, "", header...)
				return a
			}}
			w.guests = func(n int) (cookies []string) {
				for len(cookies) < n {
					if a := w.get("/api/orders", "", tls...); a.Header.Get("X-Side") == "remote" {
						cookies = append(cookies, a.Cookies()[0].Name+"="+a.Cookies()[0].Value)
					}
				}
				return cookies
			}
			for n := range 120 {
				w.get("/api/orders", fmt.Sprint("customer:u", n))
			}
			tt.do(w)
			if tt.home {
				eventually(t, func() bool { return s.gate.Placements()[0].State == proxy.Local })
				return
			}
			if s.gate.Placements()[0].State != proxy.Canary {
				t.Error("the module was taken home")
			}
		})
	}
}

// A guest is one witness of how long answers take, as somebody who is signed in is, and no subject that a step of the canary needs.
func TestAGuestIsOneWitness(t *testing.T) {
	t.Parallel()
	s, _, _ := moving(t, proxy.Placement{State: proxy.Canary, Reads: 9_999}, func(c *proxy.Config) {
		c.TrustedProxies = []string{"127.0.0.0/8", "::1"}
		c.Gates.Latency.Window = time.Hour
	})
	compared := func() string {
		for _, r := range s.gate.Gates()["orders"].Rules {
			if r.Name == gate.RuleLatency {
				return r.Reason
			}
		}
		return ""
	}
	guest := func() *http.Cookie {
		for {
			if a, _ := ask(t, s, "GET", "/api/orders", "", "", "X-Forwarded-Proto", "https"); a.Header.Get("X-Side") == "remote" {
				return a.Cookies()[0]
			}
		}
	}
	ask(t, s, "GET", "/api/orders", "", "") // nobody, who is answered here: only routes that both sides have answered are compared
	for n := range 3 {
		c := guest()
		for range 10 {
			ask(t, s, "GET", "/api/orders", "", "", "X-Forwarded-Proto", "https", "Cookie", c.Name+"="+c.Value)
		}
		ask(t, s, "GET", "/api/orders", fmt.Sprint("customer:u", n), "")
	}
	eventually(t, func() bool { return strings.Contains(compared(), " 6 remote and 1 local") })
	if got := s.gate.Gates()["orders"].Remote.Subjects; got != 3 {
		t.Errorf("%d subjects are counted, want the 3 who have signed in", got)
	}
}
