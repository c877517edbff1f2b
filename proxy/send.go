package proxy

import (
	"bytes"
	"cmp"
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
	target   *target
	epoch    uint64 // of the table that the target is from
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
func (x *exchange) forward(ctx context.Context, w http.ResponseWriter, r *http.Request, path string, q *rest.Request) {
	g, rt := x.g, x.route
	stream := rt.Class == module.Stream
	if stream {
		// A stream ends when its client goes or when we drain, and at no other time.
		var end func()
		ctx, end = lasting(ctx, g.drain)
		defer end()
		_ = http.NewResponseController(&x.answer).SetWriteDeadline(time.Time{})
	} else if limit, cause := x.time(); limit > 0 {
		var cancel context.CancelFunc
		ctx, cancel = bound(ctx, limit, cause)
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
	if rt.target.foreign {
		expose(x.answer.Header())
	}
	next := func(w http.ResponseWriter, r *http.Request) { x.send(w, r, q) }
	if rt.merged {
		next = func(w http.ResponseWriter, r *http.Request) { g.aggregates.Serve(w, r, x.fetch(r)) }
	} else if g.cache != nil && !stream && rt.module != "" {
		c := rt.target.choose(rt.Class, x.who, x.wish, x.guest)
		info := cache.Info{Subject: x.who.Subject, Route: rt.Path, Side: rt.target.side(c.remote), Epoch: rt.target.placement.Epoch, Secure: x.client.secure}
		if !rt.target.foreign {
			info.Module = rt.module
		}
		inner := next
		next = func(w http.ResponseWriter, r *http.Request) { g.cache.Serve(w, r, info, inner) }
	}
	if g.compressor != nil && !stream {
		g.compressor.Serve(w, request, next)
	} else {
		next(w, request)
	}
}

// send has the request answered by the side that is chosen for it. It may run again, and after the exchange has ended: a cache
// refreshes what it keeps. So it writes to nothing of the exchange but the hop.
func (x *exchange) send(w http.ResponseWriter, r *http.Request, q *rest.Request) {
	t := x.route.target
	switch {
	case t.foreign:
		h := hop{target: t, epoch: x.table.number(), choice: choice{remote: true, bucket: -1, reason: becausePlacement}}
		x.finishRemote(w, r, h, t.remote.up.Serve(w, r, x.call(t, r, q, false)))
	case t.door == nil:
		t.local.ServeHTTP(w, r)
	default:
		for v := (visit{x: x, w: w, r: r, q: q}); v.again(); {
		}
	}
}

// visit is what is known of a request to a module that may have to be sent again.
type visit struct {
	x *exchange
	w http.ResponseWriter
	r *http.Request
	q *rest.Request

	home  bool // it was not sent, and is to be answered here
	stale bool // the second process knew of a newer epoch
	last  hop  // the one before
}

// again answers the request, or says that it has to be tried again.
func (v *visit) again() bool {
	x, r := v.x, v.r
	t := x.route.target
	if err := t.door.enter(r.Context(), r.ContentLength, x.g.cfg.Pause); err != nil {
		p, retry := rest.NewProblem(r.Context(), err)
		rest.WriteProblem(v.w, p, retry)
		return false
	}
	inside := true
	defer func() {
		if inside {
			t.door.leave()
		}
	}()
	table := x.table
	if now := x.g.table.Load(); now != table {
		// A request keeps the table that it began with, but it goes to whoever owns the module now.
		if current := now.targets[t.placement.Module]; current.placement.Epoch != t.placement.Epoch {
			t, table = current, now
		}
	}
	if x.route.Class == module.Stream {
		ctx, end := lasting(r.Context(), t.door.staying())
		defer end()
		r = r.WithContext(ctx)
	}
	h := hop{target: t, epoch: table.number(), choice: t.choose(x.route.Class, x.who, x.wish, x.guest)}
	if v.home && t.isHome() {
		h = v.last
		h.target, h.epoch, h.choice = t, table.number(), choice{bucket: h.bucket, reason: becauseFallback}
	}
	if !h.remote {
		x.note(h)
		x.sendHere(v.w, r, v.q, t, h.reason != becauseFallback)
		return false
	}
	inside = false
	t.door.depart()
	defer t.door.away.Add(-1)
	return v.leave(r, h)
}

// leave has the request answered by the second process.
func (v *visit) leave(r *http.Request, h hop) bool {
	x, t, start := v.x, h.target, time.Now()
	kept := &retained{ResponseWriter: v.w}
	result := t.remote.up.Serve(kept, r, x.call(t, r, v.q, false))
	if kept.stale {
		x.g.metrics.stale.WithLabelValues(x.route.module).Inc()
		if !v.stale && rewind(v.r) && x.g.catchUp(r.Context(), t.placement.Module, kept.epoch) {
			v.stale = true
			return true
		}
		x.note(h)
		p, retry := rest.NewProblem(r.Context(), errPaused)
		rest.WriteProblem(v.w, p, retry)
		return false
	}
	h.endpoint, h.attempts, h.failure = result.Endpoint, result.Attempts, result.Failure
	x.observe(r.Context(), t, start, true, result.Status, judged(result))
	if !v.home && !result.Started && (result.Failure == upstream.NotSent || result.Failure == upstream.Overload) && !result.BodyGone &&
		t.mayFallBack() && rewind(v.r) {
		v.home, v.last = true, h
		return true
	}
	x.finishRemote(v.w, r, h, result)
	return false
}

// finishRemote ends a request that another process has answered, or has not.
func (x *exchange) finishRemote(w http.ResponseWriter, r *http.Request, h hop, result upstream.Result) {
	h.endpoint, h.attempts, h.failure = result.Endpoint, result.Attempts, result.Failure
	x.note(h)
	switch {
	case !result.Started:
		x.refuse(w, r, result)
	case result.Failure == upstream.Aborted || result.Failure == upstream.ClientAbort:
		panic(http.ErrAbortHandler) // what broke off must not look complete
	}
}

// sendHere answers in this process.
func (x *exchange) sendHere(w http.ResponseWriter, r *http.Request, q *rest.Request, t *target, mirror bool) {
	if x.g.hop != nil && !x.reach(w, r, q, t) {
		return
	}
	if t.remote == nil || t.placement.State == Local {
		t.local.ServeHTTP(w, r)
	} else {
		start := time.Now()
		status := x.sendLocal(w, r, q, t, mirror && t.placement.State == Shadow)
		x.observe(r.Context(), t, start, false, status, "")
	}
	if x.route.Class == module.Stream && errors.Is(context.Cause(r.Context()), upstream.ErrDraining) &&
		strings.HasPrefix(w.Header().Get("Content-Type"), "text/event-stream") {
		// All the streams end at once; they shall not all come back at once.
		_, _ = w.Write([]byte("retry: " + strconv.Itoa(500+rand.IntN(2500)) + "\n\n"))
		_ = http.NewResponseController(w).Flush()
	}
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
func (x *exchange) sendLocal(w http.ResponseWriter, r *http.Request, q *rest.Request, t *target, mirror bool) int {
	m := t.remote.mirror
	if !mirror || x.route.Class != module.Read || r.Method != http.MethodGet || !m.Sample(x.route.Method+" "+x.route.Path) {
		seen := &answer{ResponseWriter: w}
		t.local.ServeHTTP(seen, r)
		return seen.status
	}
	copied := &tee{answer: answer{ResponseWriter: w}, limit: m.MaxBody() + 1}
	t.local.ServeHTTP(copied, r)
	if upstream.Impatient(r.Context()) {
		return copied.status // the answer to somebody who waits longer is another one
	}
	again := x.again(t, r, q, len(copied.body))
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

// spareBody is how many bytes more than expected are taken of an answer that nobody but a comparison reads.
const spareBody = 16 << 10

// again asks a side the same once more, for nobody but the comparison. What it needs of the request is copied now: the server
// uses it for the next one. What is much longer than the answer of the given length differs from it, and is not read to its end.
func (x *exchange) again(t *target, r *http.Request, q *rest.Request, length int) shadow.Again {
	header := r.Header.Clone()
	delete(header, "Accept-Encoding")
	location := *r.URL
	host, values := r.Host, context.WithoutCancel(r.Context())
	limit := int64(min(t.remote.mirror.MaxBody(), 4*length+spareBody)) + 1
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
			if !t.door.try() {
				return answer, errPaused
			}
			defer t.door.leave()
			t.local.ServeHTTP(taken, copied)
		} else if result := t.remote.copies.Serve(taken, copied, x.call(t, copied, q, true)); !result.Started || result.Failure == upstream.Aborted {
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

// observe tells the gates what became of a request. One that its client has ended says nothing of either side.
func (x *exchange) observe(ctx context.Context, t *target, start time.Time, remote bool, status int, failure string) {
	if upstream.Impatient(ctx) {
		return
	}
	s := gate.Sample{At: start, Remote: remote, Route: x.route.Path, Status: status, Failure: failure, Duration: time.Since(start)}
	if x.route.Class == module.Stream {
		s.Duration = 0
	}
	if who := cmp.Or(x.who.Subject, x.guest); who != "" {
		s.Subject, s.Guest = mix(t.placement.Module, who), x.who.Subject == ""
	}
	t.remote.monitor.Observe(s)
}

// call says how the upstream is to treat the request, and tells it who asks.
func (x *exchange) call(t *target, r *http.Request, q *rest.Request, copied bool) upstream.Call {
	c := upstream.Call{
		Class: x.route.Class, Upgrade: x.socket && x.route.Class == module.Stream,
		Repeatable: !copied && x.repeatable(q),
		Prepare: func(out *http.Request, _ int) error {
			return x.prepare(t, out, r, q, copied)
		},
	}
	if len(x.g.cfg.CORS.Origins) > 0 {
		c.Answer = dropCORS
	}
	return c
}

// repeatable says whether a repeat does no harm because the module keeps its answer under the key.
func (x *exchange) repeatable(q *rest.Request) bool { return q.IdempotencyKey != "" && x.keepsAnswer() }

// keepsAnswer: an application that is not ours has promised nothing.
func (x *exchange) keepsAnswer() bool { return x.route.KeepsAnswer() && !x.route.target.foreign }

// prepare sets what another process is told about the request. All of it was dropped from what the client has sent.
func (x *exchange) prepare(t *target, out, r *http.Request, q *rest.Request, copied bool) error {
	ctx := r.Context()
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
	if until, limited := ctx.Deadline(); limited {
		// Rounded up: whoever answers must not give up before the client does, or it would be to blame.
		left := (time.Until(until) + time.Millisecond - 1) / time.Millisecond
		h[timeoutHeader] = []string{strconv.FormatInt(int64(max(1, left)), 10)}
	}
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
	case upstream.Impatient(ctx):
		status, kind = http.StatusGatewayTimeout, errs.Timeout // also if it has not even been sent by then
	case result.Failure == upstream.Overload || result.Failure == upstream.NotSent:
		status, detail = http.StatusServiceUnavailable, "the service behind cannot be reached now"
	case errors.Is(ctx.Err(), context.DeadlineExceeded) || errors.Is(result.Err, context.DeadlineExceeded):
		status, kind = http.StatusGatewayTimeout, errs.Timeout
	}
	if result.Failure == upstream.MaybeSent && x.route.Class == module.Write {
		kind, detail = errs.OutcomeUnknown, "the service behind broke off: whether it was done is unknown"
		if x.keepsAnswer() {
			detail += "; ask again with the same Idempotency-Key"
		}
	}
	protect(w.Header(), x.client.secure)
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
// One that says that it is too long is refused before anything of it is sent on.
func (x *exchange) limitBody(ctx context.Context, r *http.Request) *rest.Problem {
	if r.Body == nil || r.Body == http.NoBody || x.route.Class == module.Stream {
		return nil
	}
	if r.ContentLength > x.route.maxBody {
		return x.tooLarge(ctx)
	}
	r.Body = http.MaxBytesReader(x.answer.ResponseWriter, r.Body, x.route.maxBody)
	return nil
}

// fetch asks routes for the parts of an answer that is put together: through the same table, as the same caller.
func (x *exchange) fetch(parent *http.Request) aggregate.Fetch {
	language := parent.Header["Accept-Language"]
	return func(ctx context.Context, method, pathAndQuery string) (int, http.Header, []byte, error) {
		u, err := url.ParseRequestURI(pathAndQuery)
		if err != nil {
			return 0, nil, nil, err
		}
		place := x.table.root.find(u.Path)
		if place == nil || place.route(method) == nil {
			return http.StatusNotFound, http.Header{}, nil, nil
		}
		part := &exchange{g: x.g, client: x.client, start: time.Now(), path: u.Path, method: method, table: x.table, route: place.route(method), who: x.who, wish: x.wish, guest: x.guest}
		if err := part.route.permit(x.who); err != nil {
			return errs.KindOf(err).Status(), http.Header{}, nil, nil
		}
		q := &rest.Request{Method: method, Route: part.route.Path, Path: u.Path, Query: u.RawQuery, Subject: x.who.Subject, ClientIP: x.client.text, BodyHash: noBody}
		header := http.Header{"Accept": {"application/json"}}
		if len(language) > 0 {
			header["Accept-Language"] = language
		}
		r := (&http.Request{Method: method, URL: u, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Header: header, Host: parent.Host, Body: http.NoBody, RequestURI: u.RequestURI()}).
			WithContext(rest.WithRequest(ctx, q))
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
