package replay

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const (
	shortestPause = 20 * time.Millisecond // after the first failure of a request
	longestPause  = time.Second           // a killed shop is back in less; it shall not wait for us
	attemptLimit  = 60 * time.Second      // of one attempt; the shop's own limit is shorter
	answerLimit   = 16 << 20              // bytes
	// signInAttempts is how many tokens in a row may be refused: a shop that starts again may take back what it just gave.
	signInAttempts = 5
)

// client speaks to the shop as staff: it signs in, stays signed in, and asks again while that may help.
type client struct {
	target   *url.URL
	password string
	http     *http.Client
	patience time.Duration
	log      *slog.Logger

	lastSuccess atomic.Int64 // Unix nanoseconds
	troubled    atomic.Bool  // said in the log that something is wrong

	signIn  sync.Mutex // held while signing in: one does it, the others wait
	session session
}

func newClient(target *url.URL, password string, clients int, patience time.Duration, log *slog.Logger) *client {
	c := &client{target: target, password: password, patience: patience, log: log}
	c.http = &http.Client{
		Timeout: attemptLimit,
		Transport: &http.Transport{
			Proxy:       http.ProxyFromEnvironment,
			DialContext: (&net.Dialer{Timeout: 5 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
			// Every client keeps its connection; compressing costs the two sides more than it saves.
			MaxIdleConns: clients, MaxIdleConnsPerHost: clients, IdleConnTimeout: time.Minute, DisableCompression: true,
			TLSHandshakeTimeout: 5 * time.Second,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return c
}

func (c *client) close() { c.http.CloseIdleConnections() }

// refusal is an answer that trying again does not change.
type refusal struct {
	method, path string
	status       int
	detail       string
}

func (r *refusal) Error() string {
	return fmt.Sprintf("%s %s: the shop says %d %s%s", r.method, r.path, r.status, http.StatusText(r.status), r.detail)
}

// refused says whether err is the shop's answer with this status.
func refused(err error, status int) bool {
	var r *refusal
	return errors.As(err, &r) && r.status == status
}

func newRefusal(method, path string, status int, body []byte) *refusal {
	r := &refusal{method: method, path: path, status: status}
	var problem struct {
		Detail string
		Errors []struct{ Path, Message string }
	}
	if json.Unmarshal(body, &problem) == nil {
		if problem.Detail != "" {
			r.detail = ": " + problem.Detail
		}
		for i, e := range problem.Errors {
			if i == 5 {
				r.detail += "; …"
				break
			}
			r.detail += "; " + e.Path + " " + e.Message
		}
	}
	return r
}

// get reads path into out.
func (c *client) get(ctx context.Context, path string, out any) error {
	return c.signedIn(ctx, http.MethodGet, path, "", nil, out)
}

// post sends in once, however often it has to be sent: key names what is done.
func (c *client) post(ctx context.Context, path, key string, in, out any) error {
	body, err := json.Marshal(in)
	if err != nil {
		return fmt.Errorf("encode %s: %w", path, err)
	}
	return c.signedIn(ctx, http.MethodPost, path, key, body, out)
}

// signedIn asks with a token, and with a new one if the shop does not take it.
func (c *client) signedIn(ctx context.Context, method, path, key string, body []byte, out any) error {
	for attempt := 1; ; attempt++ {
		token, err := c.token(ctx)
		if err != nil {
			return err
		}
		err = c.ask(ctx, method, path, token, key, body, out)
		if !refused(err, http.StatusUnauthorized) || attempt == signInAttempts {
			return err
		}
		c.discard(token)
	}
}

// ask sends a request until it has a definite answer or the patience is over.
func (c *client) ask(ctx context.Context, method, path, token, key string, body []byte, out any) error {
	var failingSince time.Time
	for pause := shortestPause; ; pause = min(2*pause, longestPause) {
		after, err := c.attempt(ctx, method, path, token, key, body, out)
		var trouble *transient
		if !errors.As(err, &trouble) {
			return err
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		now := time.Now()
		if failingSince.IsZero() {
			failingSince = now
		}
		since := failingSince
		if last := time.Unix(0, c.lastSuccess.Load()); last.After(since) {
			since = last
		}
		left := c.patience - now.Sub(since)
		if left <= 0 {
			return fmt.Errorf("%s %s: nothing has succeeded for %s: %w; run the replay again to go on", method, path, c.patience, trouble.cause)
		}
		// Half of the pause is random: clients that failed together do not come back together.
		wait := min(max(after, pause/2+rand.N(pause/2)), left+time.Millisecond)
		if !c.troubled.Swap(true) {
			c.log.Warn("the shop cannot be asked, trying again", "request", method+" "+path, "error", trouble.cause)
		}
		if err := sleep(ctx, wait); err != nil {
			return err
		}
	}
}

// transient is a failure that asking again may heal.
type transient struct{ cause error }

func (t *transient) Error() string { return t.cause.Error() }
func (t *transient) Unwrap() error { return t.cause }

// attempt sends a request once. after is how long the shop wants to be left alone.
func (c *client) attempt(ctx context.Context, method, path, token, key string, body []byte, out any) (after time.Duration, err error) {
	var content io.Reader
	if body != nil {
		content = bytes.NewReader(body)
	}
	r, err := http.NewRequestWithContext(ctx, method, c.target.String()+path, content)
	if err != nil {
		return 0, err
	}
	r.Header["Accept"] = []string{"application/json"}
	r.Header["User-Agent"] = []string{"banyan-replay"}
	if body != nil {
		r.Header["Content-Type"] = []string{"application/json"}
	}
	if key != "" {
		r.Header["Idempotency-Key"] = []string{key}
	}
	if token != "" {
		r.Header["Authorization"] = []string{"Bearer " + token}
	}
	answer, err := c.http.Do(r)
	if err != nil {
		return 0, &transient{err}
	}
	defer func() { _ = answer.Body.Close() }()
	got, err := io.ReadAll(io.LimitReader(answer.Body, answerLimit+1))
	if err != nil {
		return 0, &transient{fmt.Errorf("the answer broke off: %w", err)}
	}
	if len(got) > answerLimit {
		return 0, fmt.Errorf("%s %s: the answer is larger than %d bytes", method, path, answerLimit)
	}
	switch answer.StatusCode {
	case http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return retryAfter(answer.Header), &transient{newRefusal(method, path, answer.StatusCode, got)}
	}
	c.lastSuccess.Store(time.Now().UnixNano())
	if answer.StatusCode < 200 || answer.StatusCode > 299 {
		return 0, newRefusal(method, path, answer.StatusCode, got)
	}
	if c.troubled.Load() && c.troubled.Swap(false) {
		c.log.Info("the shop answers again")
	}
	if out == nil {
		return 0, nil
	}
	if err := json.Unmarshal(got, out); err != nil {
		return 0, fmt.Errorf("%s %s: read the answer: %w", method, path, err)
	}
	return 0, nil
}

// retryAfter is how long the shop asks to wait, in seconds or until a time.
func retryAfter(h http.Header) time.Duration {
	text := h.Get("Retry-After")
	if seconds, err := strconv.Atoi(text); err == nil && seconds >= 0 {
		return time.Duration(min(seconds, 24*60*60)) * time.Second
	}
	if at, err := http.ParseTime(text); err == nil {
		return max(0, time.Until(at))
	}
	return 0
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-t.C:
		return nil
	}
}

// all reads a list, page by page. The path may have a query.
func all[T any](ctx context.Context, c *client, path string, each func(T)) error {
	cursor := ""
	mark := "?"
	if strings.Contains(path, "?") {
		mark = "&"
	}
	for {
		var page struct {
			Items []T    `json:"items"`
			Next  string `json:"next"`
		}
		q := url.Values{"limit": {"500"}}
		if cursor != "" {
			q.Set("cursor", cursor)
		}
		if err := c.get(ctx, path+mark+q.Encode(), &page); err != nil {
			return err
		}
		for _, item := range page.Items {
			each(item)
		}
		switch page.Next {
		case "":
			return nil
		case cursor:
			return fmt.Errorf("GET %s: the list does not go on after cursor %q", path, cursor)
		}
		cursor = page.Next
	}
}

// key is an Idempotency-Key: readable, if its parts are.
func key(parts ...string) string {
	text := "replay-" + strings.Join(parts, "-")
	plain := len(text) <= 200
	for i := range len(text) {
		plain = plain && text[i] > ' ' && text[i] < 0x7f
	}
	if plain {
		return text
	}
	sum := sha256.Sum256([]byte(strings.Join(parts, "\x00")))
	return "replay-" + hex.EncodeToString(sum[:])
}
