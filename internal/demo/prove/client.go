package prove

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"
)

// attempt is a request that was sent once.
type attempt struct {
	module   string // whose route it is
	what     string // method and route, for people
	from, to time.Time
	failure  string // why it has no answer, or an answer that says to come back; "" for an answer
}

// requestLog is what all clients have sent.
type requestLog struct {
	mu       sync.Mutex
	attempts []attempt
	given    []Violation // requests that had no answer for good
	requests int
}

func (l *requestLog) add(a attempt) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.attempts = append(l.attempts, a)
}

func (l *requestLog) snapshot() ([]attempt, []Violation, int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]attempt(nil), l.attempts...), append([]Violation(nil), l.given...), l.requests
}

// client speaks to the shop as somebody.
type client struct {
	base  string
	http  *http.Client
	log   *requestLog
	email string
	pass  string

	mu    sync.Mutex
	token string
}

const (
	attemptWithin = 40 * time.Second // the shop's own limit is shorter
	patience      = 90 * time.Second // until a request counts as failed for good
)

func newHTTP() *http.Client {
	return &http.Client{Timeout: attemptWithin, Transport: &http.Transport{
		Proxy: nil, DialContext: (&net.Dialer{Timeout: 5 * time.Second}).DialContext, MaxIdleConnsPerHost: 64, DisableCompression: true,
	}}
}

// answer is the answer to a request.
type answer struct {
	status   int
	body     []byte
	attempts int
}

// into reads an answer that has to be a good one.
func (a answer) into(v any) error {
	if a.status >= 300 {
		return fmt.Errorf("%d: %s", a.status, a.body)
	}
	return json.Unmarshal(a.body, v)
}

// send sends a request until somebody answers. A POST is the same one each time, by its key. An error means that nobody did.
func (c *client) send(ctx context.Context, module, method, path, key string, body any) (answer, error) {
	var encoded []byte
	if body != nil {
		var err error
		if encoded, err = json.Marshal(body); err != nil {
			return answer{}, err
		}
	}
	c.log.mu.Lock()
	c.log.requests++
	c.log.mu.Unlock()
	route, _, _ := strings.Cut(path, "?")
	began := time.Now()
	renewed := false
	for n := 1; ; n++ {
		a := attempt{module: module, what: method + " " + route, from: time.Now()}
		status, got, err := c.try(ctx, method, path, key, encoded)
		a.to = time.Now()
		switch {
		case ctx.Err() != nil:
			return answer{}, ctx.Err()
		case err != nil:
			a.failure = err.Error()
		case status == http.StatusTooManyRequests || status >= 500:
			a.failure = fmt.Sprintf("%d: %s", status, brief(got))
		case status == http.StatusUnauthorized && !renewed && path != loginPath:
			c.log.add(a)
			renewed = true // the token has run out
			if err := c.login(ctx); err != nil {
				return answer{}, err
			}
			continue
		default:
			c.log.add(a)
			return answer{status, got, n}, nil
		}
		c.log.add(a)
		if time.Since(began) > patience {
			c.log.mu.Lock()
			c.log.given = append(c.log.given, Violation{Kind: Failed, What: "request", Key: a.what, Detail: fmt.Sprintf("no answer after %d attempts in %s: %s", n, time.Since(began).Round(time.Second), a.failure)})
			c.log.mu.Unlock()
			return answer{}, fmt.Errorf("%s: %s", a.what, a.failure)
		}
		if err := wait(ctx, 10*time.Millisecond+rand.N(min(time.Duration(n)*20*time.Millisecond, 300*time.Millisecond))); err != nil {
			return answer{}, err
		}
	}
}

func (c *client) try(ctx context.Context, method, path, key string, body []byte) (int, []byte, error) {
	var content io.Reader
	if body != nil {
		content = bytes.NewReader(body)
	}
	r, err := http.NewRequestWithContext(ctx, method, c.base+path, content)
	if err != nil {
		return 0, nil, err
	}
	if body != nil {
		r.Header.Set("Content-Type", "application/json")
		r.GetBody = nil // or net/http would send it again by itself, and nobody would hear of the first failure
	}
	if key != "" {
		r.Header.Set("Idempotency-Key", key)
	}
	c.mu.Lock()
	token := c.token
	c.mu.Unlock()
	if token != "" && path != loginPath {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	a, err := c.http.Do(r)
	if err != nil {
		return 0, nil, err
	}
	defer func() { _ = a.Body.Close() }()
	got, err := io.ReadAll(io.LimitReader(a.Body, 16<<20))
	return a.StatusCode, got, err
}

const loginPath = "/api/auth/login"

func (c *client) login(ctx context.Context) error {
	a, err := c.send(ctx, "users", "POST", loginPath, "", map[string]string{"email": c.email, "password": c.pass})
	if err != nil {
		return err
	}
	var t struct {
		AccessToken string `json:"access_token"`
	}
	if err := a.into(&t); err != nil {
		return fmt.Errorf("sign in as %s: %w", c.email, err)
	}
	c.mu.Lock()
	c.token = t.AccessToken
	c.mu.Unlock()
	return nil
}

func brief(body []byte) string {
	var p struct{ Title, Detail string }
	if json.Unmarshal(body, &p) == nil && p.Title+p.Detail != "" {
		return p.Title + ": " + p.Detail
	}
	return string(body[:min(len(body), 200)])
}

func wait(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-t.C:
		return nil
	}
}

// pages reads a whole list.
func pages[T any](ctx context.Context, c *client, module, path string) ([]T, error) {
	var all []T
	for cursor := ""; ; {
		a, err := c.send(ctx, module, "GET", path+"?limit=500&cursor="+url.QueryEscape(cursor), "", nil)
		if err != nil {
			return nil, err
		}
		var page struct {
			Items []T    `json:"items"`
			Next  string `json:"next"`
		}
		if err := a.into(&page); err != nil {
			return nil, fmt.Errorf("GET %s: %w", path, err)
		}
		all = append(all, page.Items...)
		if cursor = page.Next; cursor == "" {
			return all, nil
		}
	}
}
