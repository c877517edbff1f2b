package discovery

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"time"
)

// addresses are the A and AAAA records of a name.
func addresses(name, port string, o Options) *watcher {
	return asked("dns://"+net.JoinHostPort(name, port), o, func(ctx context.Context) ([]Endpoint, error) {
		found, err := resolve(ctx, o.Resolver, name)
		list := []Endpoint{}
		for _, addr := range found {
			list = append(list, Endpoint{Addr: net.JoinHostPort(addr, port), Weight: 1})
		}
		return list, err
	})
}

// services are the SRV records of a name with the addresses that they point to. These are asked for here and not when a
// connection is made, for they may exist in the same resolver only, as with Consul.
func services(name string, o Options) *watcher {
	return asked("srv://"+name, o, func(ctx context.Context) ([]Endpoint, error) {
		_, records, err := o.Resolver.LookupSRV(ctx, "", "", name)
		if notFound(err) {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		list := []Endpoint{}
		for _, r := range records {
			// They come sorted. Others than those of the lowest priority are for when these are down, which is not
			// decided here.
			if r.Priority != records[0].Priority {
				break
			}
			// A target may not exist, as the dot that stands for "there is no such service": then it has no addresses.
			found, err := resolve(ctx, o.Resolver, r.Target)
			if err != nil {
				return nil, err
			}
			for _, addr := range found {
				list = append(list, Endpoint{Addr: net.JoinHostPort(addr, strconv.Itoa(int(r.Port))), Weight: max(1, int(r.Weight))})
			}
		}
		return list, nil
	})
}

// asked is a watcher that asks DNS.
func asked(target string, o Options, ask func(context.Context) ([]Endpoint, error)) *watcher {
	bounded := func(ctx context.Context, _ time.Duration) ([]Endpoint, error) {
		ctx, cancel := context.WithTimeout(ctx, o.Timeout)
		defer cancel()
		list, err := ask(ctx)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", target, err)
		}
		return list, nil
	}
	return &watcher{target: target, begin: func() question { return bounded }, every: o.Refresh, retry: min(o.Refresh, longPause), o: o}
}

// resolve gives no addresses, and no error, for a name that is known not to have any.
func resolve(ctx context.Context, r *net.Resolver, name string) ([]string, error) {
	found, err := r.LookupNetIP(ctx, "ip", name)
	if notFound(err) {
		return nil, nil
	}
	list := []string{}
	for _, ip := range found {
		list = append(list, ip.Unmap().String())
	}
	return list, err
}

func notFound(err error) bool {
	var dns *net.DNSError
	return errors.As(err, &dns) && dns.IsNotFound
}
