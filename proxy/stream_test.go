package proxy_test

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/banyan-go/banyan/proxy"
)

// Nobody has all the room that there is for streams, wherever they are answered, and whatever they wait for.
func TestStreamsPerClient(t *testing.T) {
	t.Parallel()
	follow := func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		_, _ = io.WriteString(w, "data: 1\n\n")
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	}
	two := func(c *proxy.Config) {
		c.Limits.StreamsPerClient = 2
		c.Rate.Customer.PerSecond, c.Rate.Anonymous.PerSecond = 0, 0
	}
	for name, test := range map[string]struct {
		path  string
		begin func(t *testing.T) *shop
	}{
		"here": {"/api/follow", func(t *testing.T) *shop {
			s := open(t, func(c *proxy.Config, _ *proxy.Options) { two(c) })
			s.local = follow
			return s
		}},
		"in the second process": {"/api/follow", func(t *testing.T) *shop {
			s, remote, _ := moving(t, proxy.Placement{State: proxy.Remote}, two)
			remote.set(follow)
			return s
		}},
		"in an application": {"/old", func(t *testing.T) *shop {
			return replaced(t, follow, two, proxy.ForeignRoute{Match: "/{rest...}", Class: "stream"})
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := test.begin(t)
			begin := func(header ...string) (status int, body string, end func()) {
				r, err := http.NewRequestWithContext(t.Context(), "GET", s.server.URL+test.path, nil)
				if err != nil {
					t.Fatal(err)
				}
				if len(header) > 0 {
					r.Header.Set(header[0], header[1])
				}
				a, err := http.DefaultTransport.RoundTrip(r)
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { _ = a.Body.Close() })
				if a.StatusCode != http.StatusOK {
					raw, _ := io.ReadAll(a.Body)
					body = string(raw)
				}
				return a.StatusCode, body, func() { _ = a.Body.Close() }
			}
			for _, who := range [][]string{nil, {"Authorization", "Bearer customer:ada"}} {
				_, _, end := begin(who...)
				if status, _, _ := begin(who...); status != http.StatusOK {
					t.Errorf("the second stream of %v gets %d", who, status)
				}
				if status, body, _ := begin(who...); status != http.StatusTooManyRequests || !strings.Contains(body, "gateway.limits.streams_per_client") {
					t.Errorf("the third stream of %v gets %d %s, want 429", who, status, body)
				}
				end()
				eventually(t, func() bool {
					status, _, _ := begin(who...)
					return status == http.StatusOK
				})
			}
			if status, _, _ := begin("Authorization", "Bearer customer:eve"); status != http.StatusOK {
				t.Errorf("somebody else gets %d", status)
			}
		})
	}
}
