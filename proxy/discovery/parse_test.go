package discovery_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/banyan-go/banyan/proxy/discovery"
)

func TestParseList(t *testing.T) {
	t.Parallel()
	targets := []string{"10.0.0.2:9101", "10.0.0.1:9101?weight=3", "[::1]:9101", "payments.internal:80"}
	s, err := discovery.Parse(targets, discovery.Options{Config: discovery.DefaultConfig()})
	if err != nil {
		t.Fatal(err)
	}
	want := []discovery.Endpoint{
		{Addr: "10.0.0.1:9101", Weight: 3}, {Addr: "10.0.0.2:9101", Weight: 1}, {Addr: "[::1]:9101", Weight: 1}, {Addr: "payments.internal:80", Weight: 1},
	}
	for range 2 { // a list can be watched more than once, and who watches may change what he gets
		ctx, cancel := context.WithCancel(context.Background())
		var got [][]discovery.Endpoint
		if err := s.Watch(ctx, func(list []discovery.Endpoint) {
			got = append(got, append([]discovery.Endpoint{}, list...))
			list[0].Addr = "changed"
			cancel()
		}); err != nil {
			t.Error(err)
		}
		if diff := cmp.Diff([][]discovery.Endpoint{want}, got); diff != "" {
			t.Errorf("updates (-want +got):\n%s", diff)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	t.Parallel()
	for target, want := range map[string]string{
		"":                          "there are no endpoints; give addresses as in",
		"127.0.0.1":                 "is not host:port; give addresses as in",
		":9101":                     "is not host:port",
		"127.0.0.1:http":            "http is not a port",
		"127.0.0.1:0":               "0 is not a port",
		"127.0.0.1:70000":           "70000 is not a port",
		"127.0.0.1:9101/x":          "9101/x is not a port",
		"a:1,a:1":                   "is there twice; give it a weight instead",
		"a:1?weight=0":              "there may be a weight from 1 to 1000",
		"a:1?wieght=2":              "there may be a weight from 1 to 1000",
		"http://127.0.0.1:9101":     "leave http:// out; the protocol is configured beside the endpoints",
		"a:1,dns://a:1":             "a URL says where all endpoints are, so it stands alone",
		"ftp://a":                   "ftp:// is not known; give",
		"dns://payments":            "has no port; DNS does not tell it",
		"dns://payments:http":       "is no URL",
		"dns://payments:0":          "0 is not a port",
		"dns://127.0.0.1:9101":      "is an address, not a name; write 127.0.0.1:9101",
		"dns://:9101":               "has more or less than a name",
		"dns://a:9101/path":         "has more or less than a name",
		"dns://a:9101?x=1":          `there is no "x"`,
		"srv://_http._tcp.a:80":     "SRV records tell the ports; leave 80 out",
		"srv://a?tag=b":             `there is no "tag"; consul:// has tag and dc, the others have nothing`,
		"consul://payments:80":      "consul:// takes the name of a service",
		"consul://payments?tags=a":  `there is no "tags"`,
		"consul://p?dc=a&dc=b":      "one dc",
		"consul://user:pw@payments": "has more or less than a name",
		"consul://":                 "has more or less than a name",
		"consul://p?tag=%zz":        "cannot be read",
	} {
		targets := strings.Split(target, ",")
		if target == "" {
			targets = nil
		}
		if _, err := discovery.Parse(targets, discovery.Options{Config: discovery.DefaultConfig()}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", target, err, want)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, target := range []string{"127.0.0.1:9101?weight=2", "dns://a:1", "srv://_http._tcp.a", "consul://payments?tag=a&dc=b", "[::1]:1", "://", "consul://%zz"} {
		f.Add(target)
	}
	f.Fuzz(func(t *testing.T, target string) {
		s, err := discovery.Parse([]string{target}, discovery.Options{Config: discovery.DefaultConfig()})
		if (s == nil) == (err == nil) {
			t.Errorf("%q: got %v, %v", target, s, err)
		}
	})
}

func TestConfigNamesTheKeyAndTheWayOut(t *testing.T) {
	t.Parallel()
	with := func(change func(*discovery.Config)) discovery.Config {
		c := discovery.DefaultConfig()
		change(&c)
		return c
	}
	for _, c := range []struct {
		config discovery.Config
		want   string
	}{
		{discovery.DefaultConfig(), ""},
		{with(func(c *discovery.Config) {
			c.EmptyAfter = 0
			c.Consul.Addr = "https://consul:8501/"
			c.Consul.Roots = "ca.pem"
		}), ""},
		{with(func(c *discovery.Config) { c.Refresh = time.Millisecond }), "gateway.discovery.refresh: 1ms is not between 100ms and 1h0m0s"},
		{with(func(c *discovery.Config) { c.Timeout = 0 }), "gateway.discovery.timeout: 0s is not between"},
		{with(func(c *discovery.Config) { c.First = 0 }), "gateway.discovery.first: 0s is not between"},
		{with(func(c *discovery.Config) { c.EmptyAfter = -1 }), "gateway.discovery.empty_after:"},
		{with(func(c *discovery.Config) { c.Consul.Addr = "127.0.0.1:8500" }), "gateway.discovery.consul.addr: is not a URL as in http://127.0.0.1:8500"},
		{with(func(c *discovery.Config) { c.Consul.Addr = "http://:hunter2@127.0.0.1:8500" }), "a token is for gateway.discovery.consul.token"},
		{with(func(c *discovery.Config) { c.Consul.Addr = "http://127.0.0.1:8500?token=hunter2" }), "gateway.discovery.consul.addr:"},
		{with(func(c *discovery.Config) { c.Consul.Roots = "ca.pem" }), "gateway.discovery.consul.roots: is for https"},
	} {
		err := c.config.Validate("gateway.discovery.")
		if (err == nil) != (c.want == "") || err != nil && (!strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "hunter2")) {
			t.Errorf("got %v, want %q", err, c.want)
		}
	}
}
