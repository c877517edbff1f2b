package proxy_test

import (
	"fmt"
	"net/http"
	"sync/atomic"
	"testing"

	"github.com/banyan-go/banyan/proxy"
)

// keeping is a module whose sides say who they are, and which version, for everybody to keep for an hour.
func keeping(t *testing.T, p proxy.Placement) (s *shop, remote *second, version *atomic.Int64, get func(who string, header ...string) string) {
	t.Helper()
	s, remote, _ = moving(t, p, nil)
	version = &atomic.Int64{}
	answer := func(side string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Cache-Control", "public, s-maxage=3600")
			_, _ = fmt.Fprint(w, side, version.Load())
		}
	}
	s.local = answer("local")
	remote.set(answer("remote"))
	return s, remote, version, func(who string, header ...string) string {
		t.Helper()
		_, body := ask(t, s, "GET", "/api/orders", who, "", header...)
		return body
	}
}

// sides are a user whom a canary answers here, and one whom the second process answers.
func sides(t *testing.T, s *shop) (here, there string) {
	t.Helper()
	for n := 0; here == "" || there == ""; n++ {
		e, err := s.gate.Explain("GET", "/api/orders", fmt.Sprint("u", n), "customer", "")
		if err != nil {
			t.Fatal(err)
		}
		if e.Target == "local" {
			here = fmt.Sprint("customer:u", n)
		} else {
			there = fmt.Sprint("customer:u", n)
		}
	}
	return here, there
}

// What one side of a canary has answered is given to those whom that side answers.
func TestSidesKeepTheirOwnAnswers(t *testing.T) {
	t.Parallel()
	s, remote, version, get := keeping(t, proxy.Placement{State: proxy.Canary, Reads: 3000, Epoch: 1, Held: true})
	here, there := sides(t, s)
	for _, c := range []struct{ who, want string }{{there, "remote0"}, {here, "local0"}, {"", "local0"}, {there, "remote0"}} {
		if got := get(c.who); got != c.want {
			t.Errorf("%q gets %s, want %s", c.who, got, c.want)
		}
	}
	before := remote.asked.Load()
	version.Add(1)
	for _, c := range []struct{ who, want string }{{there, "remote0"}, {here, "local0"}, {"", "local0"}} {
		if got := get(c.who); got != c.want {
			t.Errorf("%q gets %s, which was not kept; want %s", c.who, got, c.want)
		}
	}
	if n := remote.asked.Load() - before; n > 0 {
		t.Errorf("the second process was asked %d times for what is kept", n)
	}
	// A change that one side has answered is a change for both.
	if a, body := ask(t, s, "POST", "/api/orders", here, "{}"); a.StatusCode != 200 {
		t.Fatalf("%d %s", a.StatusCode, body)
	}
	for _, c := range []struct{ who, want string }{{there, "remote1"}, {here, "local1"}} {
		if got := get(c.who); got != c.want {
			t.Errorf("after a change %q gets %s, want %s", c.who, got, c.want)
		}
	}
}

// An admin gets the side that he asks for, whatever is kept, and nobody else gets it for that.
func TestForcedSidesAreNotShared(t *testing.T) {
	t.Parallel()
	_, _, _, get := keeping(t, proxy.Placement{State: proxy.Canary, Reads: 0, Epoch: 1, Held: true})
	for range 2 {
		for _, c := range []struct{ who, wish, want string }{
			{"admin:root", "remote", "remote0"}, {"customer:ada", "", "local0"}, {"", "", "local0"}, {"admin:root", "", "local0"}, {"admin:root", "local", "local0"}, {"customer:ada", "remote", "local0"},
		} {
			if got := get(c.who, "X-Banyan-Route", c.wish); got != c.want {
				t.Errorf("%q asks for %q and gets %s, want %s", c.who, c.wish, got, c.want)
			}
		}
	}
}

// What a side has answered before requests went elsewhere is given to nobody after that, also not when they come back to it.
func TestAnswersGoWithTheSideThatGaveThem(t *testing.T) {
	t.Parallel()
	for name, to := range map[string]func(epoch uint64) proxy.Placement{
		"canary": func(uint64) proxy.Placement {
			return proxy.Placement{State: proxy.Canary, Reads: 10_000, Epoch: 1, Held: true}
		},
		"remote": func(epoch uint64) proxy.Placement { return proxy.Placement{State: proxy.Remote, Epoch: epoch} },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			const ada = "customer:ada"
			home := func(epoch uint64) proxy.Placement {
				if name == "canary" {
					epoch = 1
				}
				return proxy.Placement{State: proxy.Local, Epoch: epoch}
			}
			s, remote, version, get := keeping(t, to(1))
			want := func(when, side string) {
				t.Helper()
				if got, want := get(ada), fmt.Sprint(side, version.Load()); got != want {
					t.Errorf("%s: %s, want %s", when, got, want)
				}
			}
			want("out", "remote")
			version.Add(1)
			place(t, s, home(2))
			want("home", "local")
			version.Add(1)
			place(t, s, to(3))
			want("out again", "remote")

			// The same of what is on its way while the side changes.
			arrived, release := make(chan struct{}), make(chan struct{})
			remote.set(func(w http.ResponseWriter, _ *http.Request) {
				close(arrived)
				<-release
				w.Header().Set("Cache-Control", "public, s-maxage=3600")
				_, _ = fmt.Fprint(w, "late")
			})
			late := make(chan string)
			go func() {
				_, body := ask(t, s, "GET", "/api/orders?late=1", ada, "")
				late <- body
			}()
			<-arrived
			version.Add(1)
			place(t, s, home(4))
			again := func(when, want string) {
				t.Helper()
				if _, got := ask(t, s, "GET", "/api/orders?late=1", ada, ""); got != want {
					t.Errorf("%s, what was on its way: %s, want %s", when, got, want)
				}
			}
			again("home", "local3")
			close(release)
			if got := <-late; got != "late" {
				t.Errorf("who asked before gets %s", got)
			}
			again("home", "local3")
			remote.set(func(w http.ResponseWriter, _ *http.Request) { _, _ = fmt.Fprint(w, "remote3") })
			place(t, s, to(5))
			again("out again", "remote3")
		})
	}
}
