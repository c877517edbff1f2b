package proxy

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.opentelemetry.io/otel/propagation"

	"github.com/banyan-go/banyan/internal/assertion"
	"github.com/banyan-go/banyan/internal/errs"
	"github.com/banyan-go/banyan/internal/identity"
	"github.com/banyan-go/banyan/internal/module"
	"github.com/banyan-go/banyan/internal/rest"
	"github.com/banyan-go/banyan/internal/telemetry"
	"github.com/banyan-go/banyan/proxy/aggregate"
	"github.com/banyan-go/banyan/proxy/cache"
	"github.com/banyan-go/banyan/proxy/gate"
	"github.com/banyan-go/banyan/proxy/shadow"
	"github.com/banyan-go/banyan/proxy/upstream"
)

// hop is how a request was answered, for logs, metrics and traces.
type hop struct {
	choice
	endpoint string
	attempts int
	failure  upstream.Failure
}

func (h *hop) side() string {
	if h.remote {
		return "remote"
	}
	return "local"
}

// forward hands the request to its target, in the one form that was matched.
func (x *exchange) forward(ctx context.Context, w http.ResponseWriter, r *http.Request, path string, q rest.Request) {
	g, rt := x.g, x.route
	stream := rt.Class == module.Stream
	if stream {
		// A stream ends when its client goes or when we drain, and at no other time.
		var cancel context.CancelFunc
		ctx, cancel = context.WithCancel(ctx)
		defer cancel()
		defer context.AfterFunc(g.drain, cancel)()
		control := http.NewResponseController(&x.answer)
		_ = control.SetWriteDeadline(time.Time{})
		_ = control.SetReadDeadline(time.Time{})
	} else if g.cfg.Limits.Request > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, g.cfg.Limits.Request)
		defer cancel()
	}
	request := r.WithContext(ctx)
	if u := r.URL; u.Path != path || u.RawPath != "" || u.Host != "" || u.Scheme != "" || u.User != nil {
		// Escapes that need not be, or the absolute form: what was matched is what is sent on.
		plain := *u
		plain.Path, plain.RawPath, plain.Scheme, plain.Host, plain.User = path, "", "", "", nil
		request.URL, request.RequestURI = &plain, plain.RequestURI()
	}
	if x.client.proxied {
		request.RemoteAddr = netip.AddrPortFrom(x.client.addr, 0).String()
	}
	if r.Method == http.MethodHead && !rt.target.foreign {
		// The module knows GET; the server itself keeps the body back.
		request.Method = http.MethodGet
	}
	next := func(w http.ResponseWriter, r *http.Request) { x.send(w, r, q) }
	if rt.merged {
		next = func(w http.ResponseWriter, r *http.Request) { g.aggregates.Serve(w, r, x.fetch(r)) }
	} else if g.cache != nil && rt.Class == module.Read && rt.module != "" {
		info := cache.Info{Subject: x.who.Subject, Route: rt.Path, Epoch: rt.target.placement.Epoch, Secure: x.client.secure}
		inner := next
		next = func(w http.ResponseWriter, r *http.Request) { g.cache.Serve(w, r, info, inner) }
	}
	if g.compressor != nil && !stream {
		g.compressor.Serve(w, request, next)
	} else {
		next(w, request)
	}
	if stream && g.draining.Load() && strings.HasPrefix(x.answer.Header().Get("Content-Type"), "text/event-stream") {
		// All the streams end at once; they shall not all come back at once.
		_, _ = x.answer.Write([]byte("retry: " + strconv.Itoa(500+rand.IntN(2500)) + "\n\n"))
		x.answer.Flush()
	}
}

// send has the request answered by the side that is chosen for it. It may run again, and after the exchange has ended: a cache
// refreshes what it keeps. So it writes to nothing of the exchange but the hop.
func (x *exchange) send(w http.ResponseWriter, r *http.Request, q rest.Request) {
	t := x.route.target
	if t.remote == nil {
		t.local.ServeHTTP(w, r)
		return
	}
	h := hop{choice: t.choose(x.route.Class, x.who, x.wish)}
	if t.foreign {
		h.choice = choice{remote: true, bucket: -1, reason: becausePlacement}
	}
	watched := t.remote.monitor != nil && t.placement.State != Local
	var start time.Time
	if watched {
		start = time.Now()
	}
	if h.remote {
		result := t.remote.up.Serve(w, r, x.call(r, q, false))
		h.endpoint, h.attempts, h.failure = result.Endpoint, result.Attempts, result.Failure
		if watched {
			x.observe(start, true, result.Status, judged(result))
		}
		switch {
		case !result.Started && (result.Failure == upstream.NotSent || result.Failure == upstream.Overload) && !result.BodyGone && t.mayFallBack() && rewind(r):
			h.choice = choice{bucket: h.bucket, reason: becauseFallback}
			x.note(h)
			again := time.Now()
			status := x.sendLocal(w, r, q, false)
			x.observe(again, false, status, "")
		case !result.Started:
			x.note(h)
			x.refuse(w, r, result)
		case result.Failure == upstream.Aborted || result.Failure == upstream.ClientAbort:
			x.note(h)
			panic(http.ErrAbortHandler) // what broke off must not look complete
		default:
			x.note(h)
		}
		return
	}
	x.note(h)
	if !watched {
		t.local.ServeHTTP(w, r)
		return
	}
	status := x.sendLocal(w, r, q, t.placement.State == Shadow)
	x.observe(start, false, status, "")
}

// judged is the failure as the gates count it: an open breaker hides no outage, and what we drain ourselves is not the module's fault.
func judged(result upstream.Result) string {
	switch {
	case errors.Is(result.Err, upstream.ErrOpen):
		return gate.NotSent
	case errors.Is(result.Err, upstream.ErrDraining):
		return gate.Overload
	}
	return string(result.Failure)
}

func (x *exchange) note(h hop) { x.hop.Store(&h) }

// rewind makes a body that was sent already readable again.
func rewind(r *http.Request) bool {
	if r.Body == nil || r.Body == http.NoBody {
		return true
	}
	if r.GetBody == nil {
		return false
	}
	body, err := r.GetBody()
	r.Body = body
	return err == nil
}

// sendLocal answers in this process, and in shadow offers the answer for a comparison.
func (x *exchange) sendLocal(w http.ResponseWriter, r *http.Request, q rest.Request, mirror bool) int {
	t := x.route.target
	m := t.remote.mirror
	if !mirror || x.route.Class != module.Read || r.Method != http.MethodGet || !m.Sample(x.route.Method+" "+x.route.Path) {
		seen := &answer{ResponseWriter: w}
		t.local.ServeHTTP(seen, r)
		return seen.status
	}
	copied := &tee{answer: answer{ResponseWriter: w}, limit: m.MaxBody() + 1}
	t.local.ServeHTTP(copied, r)
	again := x.again(r, q)
	m.Offer(x.route.Method+" "+x.route.Path, shadow.Answer{Status: copied.status, Header: w.Header(), Body: copied.body}, again)
	return copied.status
}

// tee keeps the beginning of an answer.
type tee struct {
	answer
	body  []byte
	limit int
}

func (t *tee) Write(b []byte) (int, error) {
	if room := t.limit - len(t.body); room > 0 {
		t.body = append(t.body, b[:min(room, len(b))]...)
	}
	return t.answer.Write(b)
}

// again asks a side the same once more, for nobody but the comparison. What it needs of the request is copied now: the server
// uses it for the next one.
func (x *exchange) again(r *http.Request, q rest.Request) shadow.Again {
	header := r.Header.Clone()
	delete(header, "Accept-Encoding")
	location := *r.URL
	host, values := r.Host, context.WithoutCancel(r.Context())
	limit := int64(x.route.target.remote.mirror.MaxBody()) + 1
	return func(ctx context.Context, side shadow.Side) (answer shadow.Answer, err error) {
		defer func() {
			if recover() != nil {
				err = errors.New("the answer broke off")
			}
		}()
		copied := (&http.Request{
			Method: http.MethodGet, URL: &location, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Header: header.Clone(), Host: host, Body: http.NoBody,
			RequestURI: location.RequestURI(),
		}).WithContext(valued{ctx, values})
		taken := &first{header: http.Header{}, limit: limit}
		if side == shadow.Local {
			x.route.target.local.ServeHTTP(taken, copied)
		} else if result := x.route.target.remote.copies.Serve(taken, copied, x.call(copied, q, true)); !result.Started || result.Failure == upstream.Aborted {
			return answer, result.Err
		}
		return shadow.Answer{Status: taken.status, Header: taken.header, Body: taken.body}, nil
	}
}

// valued ends with one context and has the values of another.
type valued struct {
	context.Context
	values context.Context
}

func (c valued) Value(key any) any { return c.values.Value(key) }

// first takes the beginning of an answer and ends it there.
type first struct {
	header http.Header
	status int
	body   []byte
	limit  int64
}

func (f *first) Header() http.Header { return f.header }

func (f *first) WriteHeader(status int) {
	if f.status == 0 && status >= 200 {
		f.status = status
	}
}

func (f *first) Write(b []byte) (int, error) {
	if f.status == 0 {
		f.status = http.StatusOK
	}
	if room := f.limit - int64(len(f.body)); int64(len(b)) > room {
		f.body = append(f.body, b[:room]...)
		return int(room), io.ErrShortWrite
	}
	f.body = append(f.body, b...)
	return len(b), nil
}

// observe tells the gates what became of a request.
func (x *exchange) observe(start time.Time, remote bool, status int, failure string) {
	t := x.route.target
	s := gate.Sample{At: start, Remote: remote, Route: x.route.Path, Status: status, Failure: failure, Duration: time.Since(start)}
	if x.route.Class == module.Stream {
		s.Duration = 0
	}
	if x.who.Subject != "" {
		s.Subject = mix(t.placement.Module, x.who.Subject)
	}
	t.remote.monitor.Observe(s)
}

// call says how the upstream is to treat the request, and tells it who asks.
func (x *exchange) call(r *http.Request, q rest.Request, copied bool) upstream.Call {
	t := x.route.target
	return upstream.Call{
		Class: x.route.Class, Upgrade: x.socket && x.route.Class == module.Stream,
		// A route that changes something keeps its answer under the key: a repeat does no harm.
		Repeatable: !copied && !t.foreign && q.IdempotencyKey != "",
		Prepare: func(out *http.Request, _ int) error {
			return x.prepare(out, r, q, copied)
		},
	}
}

// prepare sets what another process is told about the request. All of it was dropped from what the client has sent.
func (x *exchange) prepare(out, r *http.Request, q rest.Request, copied bool) error {
	t, ctx := x.route.target, r.Context()
	body := assertion.Body{Hash: q.BodyHash, Length: r.ContentLength}
	switch {
	case t.foreign:
		body = assertion.Body{Stream: r.Body != nil && r.Body != http.NoBody}
	case r.ContentLength <= 0:
		body = assertion.Body{}
	}
	if x.g.signer != nil {
		signed, err := x.g.signer.Sign(&assertion.Request{
			Module: t.remote.name, Method: out.Method, Path: q.Path, Query: r.URL.RawQuery, IdempotencyKey: q.IdempotencyKey, Body: body,
			Epoch: t.placement.Epoch, RequestID: telemetry.Correlation(ctx), ClientIP: x.client.text, Caller: x.who,
		})
		if err != nil {
			return err
		}
		out.Header[assertion.Header] = []string{signed}
	}
	proto := "http"
	if x.client.secure {
		proto = "https"
	}
	h := out.Header
	h["X-Request-Id"] = []string{telemetry.Correlation(ctx)}
	h["X-Forwarded-For"], h["X-Forwarded-Proto"], h["X-Forwarded-Host"] = []string{x.client.text}, []string{proto}, []string{r.Host}
	if copied {
		h["X-Shadow"] = []string{"1"}
	}
	delete(h, "Traceparent")
	delete(h, "Tracestate")
	propagation.TraceContext{}.Inject(ctx, propagation.HeaderCarrier(h))
	return nil
}

// refuse answers for an upstream that has not.
func (x *exchange) refuse(w http.ResponseWriter, r *http.Request, result upstream.Result) {
	ctx := r.Context()
	status, kind, detail, retry := http.StatusBadGateway, errs.Unavailable, "the service behind did not answer", 1
	switch {
	case errors.Is(result.Err, upstream.ErrHandshake):
		status, kind, detail, retry = http.StatusBadRequest, errs.Malformed, "this is no WebSocket handshake", 0
	case errors.Is(result.Err, upstream.ErrHeaderTooLarge):
		status, kind, detail, retry = http.StatusRequestHeaderFieldsTooLarge, errs.TooLarge, "the header is too large", 0
	case result.Failure == upstream.ClientAbort:
		var large *http.MaxBytesError
		if errors.As(result.Err, &large) {
			status, kind, detail, retry = http.StatusRequestEntityTooLarge, errs.TooLarge, "the body is too large", 0
		} else {
			status, kind, detail, retry = http.StatusBadRequest, errs.Malformed, "the body broke off", 0
		}
	case result.Failure == upstream.Overload || result.Failure == upstream.NotSent:
		status, detail = http.StatusServiceUnavailable, "the service behind cannot be reached now"
	case errors.Is(ctx.Err(), context.DeadlineExceeded) || errors.Is(result.Err, context.DeadlineExceeded):
		status, kind = http.StatusGatewayTimeout, errs.Timeout
	}
	if result.Failure == upstream.MaybeSent && x.route.Class == module.Write {
		kind, detail = errs.OutcomeUnknown, "the service behind broke off: whether it was done is unknown; ask again with the same Idempotency-Key"
	}
	rest.WriteProblem(w, newProblem(ctx, status, kind, detail), retry)
}

// asksForSocket says whether the client wants a WebSocket. Every other upgrade is none to us.
func asksForSocket(r *http.Request) bool {
	if r.ProtoMajor != 1 || r.Method != http.MethodGet {
		return false
	}
	upgrade := r.Header["Upgrade"]
	if len(upgrade) != 1 || !strings.EqualFold(upgrade[0], "websocket") {
		return false
	}
	return slices.ContainsFunc(r.Header["Connection"], func(line string) bool {
		for token := range strings.SplitSeq(line, ",") {
			if strings.EqualFold(strings.TrimSpace(token), "upgrade") {
				return true
			}
		}
		return false
	})
}

// limitBody bounds the body of a request to a foreign upstream, which is not read here.
func (g *Gateway) limitBody(x *exchange, r *http.Request) {
	if r.Body != nil && r.Body != http.NoBody && x.route.Class != module.Stream {
		r.Body = http.MaxBytesReader(x.answer.ResponseWriter, r.Body, x.route.maxBody)
	}
}

// fetch asks routes for the parts of an answer that is put together: through the same table, as the same caller.
func (x *exchange) fetch(parent *http.Request) aggregate.Fetch {
	language := parent.Header["Accept-Language"]
	values := context.WithoutCancel(parent.Context())
	return func(ctx context.Context, method, pathAndQuery string) (int, http.Header, []byte, error) {
		u, err := url.ParseRequestURI(pathAndQuery)
		if err != nil {
			return 0, nil, nil, err
		}
		place := x.table.root.find(u.Path)
		if place == nil || place.route(method) == nil {
			return http.StatusNotFound, http.Header{}, nil, nil
		}
		part := &exchange{g: x.g, client: x.client, start: time.Now(), path: u.Path, method: method, table: x.table, route: place.route(method), who: x.who, wish: x.wish}
		switch {
		case part.route.Auth != identity.Anonymous && x.who.Subject == "":
			return http.StatusUnauthorized, http.Header{}, nil, nil
		case !x.who.Role.Includes(part.route.Auth):
			return http.StatusForbidden, http.Header{}, nil, nil
		}
		q := rest.Request{Method: method, Route: part.route.Path, Path: u.Path, Query: u.RawQuery, Subject: x.who.Subject, ClientIP: x.client.text, BodyHash: noBody}
		header := http.Header{"Accept": {"application/json"}}
		if len(language) > 0 {
			header["Accept-Language"] = language
		}
		r := (&http.Request{Method: method, URL: u, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Header: header, Host: parent.Host, Body: http.NoBody, RequestURI: u.RequestURI()}).
			WithContext(rest.WithRequest(valued{ctx, values}, q))
		taken := aggregate.NewCapture(x.g.aggregates.MaxPart())
		part.send(taken, r, q)
		return taken.Result()
	}
}

// replayable gives a body that was read as a whole.
func replayable(r *http.Request, body []byte) {
	r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
	r.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(body)), nil }
}
