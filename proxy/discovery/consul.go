package discovery

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/banyan-go/banyan/internal/certs"
)

// instances are the passing instances of a service.
func instances(service string, tags []string, datacenter string, o Options) (*watcher, error) {
	client, err := o.Consul.client(o.Timeout, o.Log)
	if err != nil {
		return nil, err
	}
	target := "consul://" + service
	return &watcher{target: target, every: shortPause, retry: longPause, o: o, begin: func() question {
		index := uint64(0) // up to which changes are known
		return func(ctx context.Context, wait time.Duration) ([]Endpoint, error) {
			bound := o.Timeout
			if index > 0 {
				bound += wait + wait/16 // Consul may take a sixteenth longer than it is told to wait
			}
			ctx, cancel := context.WithTimeout(ctx, bound)
			defer cancel()
			q := &api.QueryOptions{Datacenter: datacenter, WaitIndex: index, WaitTime: wait}
			found, meta, err := client.Health().ServiceMultipleTags(service, tags, true, q.WithContext(ctx))
			if err != nil {
				// Whoever answers next may not know of this index, and would wait for it in vain.
				index = 0
				return nil, fmt.Errorf("%s: %w", target, err)
			}
			index = max(1, meta.LastIndex) // with 0 it would not wait
			list := []Endpoint{}
			for _, entry := range found {
				addr := entry.Service.Address
				if addr == "" {
					addr = entry.Node.Address
				}
				if addr == "" || entry.Service.Port == 0 {
					o.Log.Warn("an instance without address or port is left out", "target", target, "instance", entry.Service.ID)
					continue
				}
				list = append(list, Endpoint{Addr: net.JoinHostPort(addr, strconv.Itoa(entry.Service.Port)), Weight: max(1, entry.Service.Weights.Passing)})
			}
			return list, nil
		}
	}}, nil
}

// client speaks to the agent that is configured and to no other.
func (c Consul) client(timeout time.Duration, log *slog.Logger) (*api.Client, error) {
	u, err := url.Parse(c.Addr)
	if err != nil {
		return nil, errors.New("consul: the address is no URL") // not quoted: it might hold a password
	}
	if c.Token != "" && u.Scheme != "https" && !loopback(u.Hostname()) {
		log.Warn("the token for Consul goes to another machine in clear text; use https", "addr", u.Host)
	}
	transport := &http.Transport{
		DialContext: (&net.Dialer{Timeout: timeout}).DialContext, TLSHandshakeTimeout: timeout,
		IdleConnTimeout: time.Minute, MaxIdleConnsPerHost: 4, MaxResponseHeaderBytes: 64 << 10,
	}
	if c.Roots != "" {
		roots, err := certs.Trusted(c.Roots)
		if err != nil {
			return nil, fmt.Errorf("consul: roots: %w", err)
		}
		transport.TLSClientConfig = &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
	}
	return api.NewClient(&api.Config{
		// What is left out the library takes from CONSUL_* variables: another agent, or a token meant for another one.
		// Authorized sets or removes the token; this one only keeps the library from looking for one.
		Address: u.Host, Scheme: u.Scheme, Token: "-",
		HttpClient: &http.Client{
			Transport: authorized{transport, c.Token.Reveal()},
			// A redirect would carry the token to wherever it leads.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	})
}

// authorized sends each request with the token, or without any.
type authorized struct {
	next  http.RoundTripper
	token string
}

func (a authorized) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	if r.Header.Del("X-Consul-Token"); a.token != "" {
		r.Header.Set("X-Consul-Token", a.token)
	}
	return a.next.RoundTrip(r)
}

func loopback(host string) bool {
	ip, err := netip.ParseAddr(host)
	return strings.EqualFold(host, "localhost") || err == nil && ip.Unmap().IsLoopback()
}
