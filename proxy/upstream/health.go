package upstream

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/url"
)

// check begins to ask an endpoint how it is, until it goes or the upstream ends. The lock is held.
func (u *Upstream) check(e *endpoint) {
	if u.cfg.Health.Active.Path == "" || u.checked {
		return
	}
	u.checking.Go(func() {
		ctx, cancel := context.WithCancel(u.checks)
		defer cancel()
		defer context.AfterFunc(e.gone, cancel)()
		for {
			err := u.probe(ctx, e)
			if ctx.Err() != nil {
				return
			}
			u.learn(e, err)
			// Spread, so that many gateways do not ask at the same moment.
			interval := u.cfg.Health.Active.Interval
			select {
			case <-ctx.Done():
				return
			case <-u.clock.At(u.clock.Now().Add(interval - interval/10 + rand.N(interval/5+1))):
			}
		}
	})
}

// probe asks once.
func (u *Upstream) probe(ctx context.Context, e *endpoint) error {
	ctx, cancel := context.WithTimeout(ctx, u.cfg.Health.Active.Timeout)
	defer cancel()
	where, err := url.ParseRequestURI(u.cfg.Health.Active.Path)
	if err != nil {
		return err
	}
	where.Scheme, where.Host = e.scheme, e.addr
	a := &attempt{}
	out := (&http.Request{Method: http.MethodGet, URL: where, Host: e.addr, Header: http.Header{"User-Agent": {"banyan-health"}}}).
		WithContext(e.long.prepare(ctx, a))
	resp, err := e.long.send(out, a)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	// Read to the end, so that the connection can be used again; more than this is no answer to a health check.
	_, _ = io.CopyN(io.Discard, resp.Body, 16<<10)
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		return fmt.Errorf("%s answers %d", u.cfg.Health.Active.Path, resp.StatusCode)
	}
	return nil
}

// learn takes in what a check has found.
func (u *Upstream) learn(e *endpoint, err error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	was, first := e.well, !e.checked
	e.checked = true
	if err != nil {
		e.fails, e.passes, e.fault = e.fails+1, 0, err.Error()
		if first || e.fails >= u.cfg.Health.Active.Fails {
			e.well = false
		}
	} else {
		e.fails, e.passes = 0, e.passes+1
		if first || e.passes >= u.cfg.Health.Active.Passes {
			e.well, e.fault = true, ""
		}
	}
	if e.well == was {
		return
	}
	u.refreshLocked()
	if e.well {
		u.log.Info("endpoint is well again", slog.String("endpoint", e.addr))
	} else {
		u.log.Warn("endpoint is not well", slog.String("endpoint", e.addr), slog.Any("error", err))
	}
}

// eject leaves an endpoint out for a while because requests to it failed one after another.
func (u *Upstream) eject(e *endpoint) {
	u.mu.Lock()
	defer u.mu.Unlock()
	now := u.clock.Now()
	if now.Before(e.out) || e.gone.Err() != nil {
		return
	}
	e.streak.Store(0)
	e.out = now.Add(u.cfg.Health.Passive.Eject)
	c := u.refreshLocked()
	u.metrics.ejections.Inc()
	u.log.Warn("endpoint is left out: requests to it fail", slog.String("endpoint", e.addr), slog.Time("until", e.out), slog.Bool("all_are_used", c.all))
}
