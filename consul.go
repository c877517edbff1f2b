package main

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/banyan-go/banyan/config"
	"github.com/banyan-go/banyan/proxy/discovery"
)

// consulTTL is how long Consul believes a process that has died without a word.
const consulTTL = 15 * time.Second

// consul is this process's registration in Consul; nil for none.
type consul struct{ registrar *discovery.Registrar }

// openConsul prepares the registration, if it is configured; nobody is asked yet.
func openConsul(cfg config.Config, service string, listens net.Addr, ready func(context.Context) error, log *slog.Logger) (*consul, error) {
	c := cfg.Gateway.Discovery.Consul
	if !c.Register {
		return nil, nil
	}
	addr, err := cfg.Advertised(listens)
	if err != nil {
		return nil, err
	}
	r, err := discovery.NewRegistrar(cfg.Gateway.Discovery, discovery.Registration{
		Service: cmp.Or(c.Service, service), Addr: addr, Tags: c.Tags, TTL: consulTTL, Ready: ready,
	}, log)
	if err != nil {
		return nil, fmt.Errorf("gateway.discovery.consul.register: %w", err)
	}
	return &consul{r}, nil
}

// begin registers the process. leave takes it back, and is called before the process stops to take requests: others find it until then.
func (c *consul) begin(ctx context.Context) (leave func()) {
	if c == nil {
		return func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = c.registrar.Run(ctx) // it says itself what is wrong, and never gives up
	}()
	return func() {
		cancel()
		<-ended
	}
}
