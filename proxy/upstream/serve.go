package upstream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/banyan-go/banyan/internal/module"
)

// Call says how a request is to be treated.
type Call struct {
	Class module.Class
	// Repeatable: it may be sent again although the one before may have been received. GET, HEAD and OPTIONS always may.
	Repeatable bool
	// Prepare sets the headers of one attempt, the first is 1. It sets values and does not change those that are there. nil
	// sets nothing.
	Prepare func(out *http.Request, attempt int) error
	// Answer changes the header of an answer before anybody sees it; nil changes nothing.
	Answer  func(h http.Header)
	Upgrade bool // a WebSocket is asked for and allowed
	Flush   bool // each piece of the answer is passed on at once; streams and answers of unknown length always are
}

// Failure is what became of a request that was not simply answered.
type Failure string

// The failures. The package tells what each means.
const (
	None        Failure = "none"
	NotSent     Failure = "not_sent"
	MaybeSent   Failure = "maybe_sent"
	Answered5xx Failure = "answered_5xx"
	Aborted     Failure = "aborted"
	ClientAbort Failure = "client_abort"
	Overload    Failure = "overload"
)

// Result is what became of a request.
type Result struct {
	Endpoint string // the last one it was sent to; "" if none
	Attempts int
	Status   int // of the upstream's answer; 0 if there was none
	Failure  Failure
	// Started: something was written to the client. If nothing was, nothing will be: the caller answers. If something was
	// and the failure is Aborted or ClientAbort, the caller panics with http.ErrAbortHandler, so that the client does not
	// take for complete what is not.
	Started bool
	// BodyGone: the request's body was read and is not kept, so the request cannot be answered elsewhere. If it was not read to
	// its end Serve has set "Connection: close" for whoever answers over HTTP/1.
	BodyGone bool
	Err      error
	Duration time.Duration
}

// Serve sends the request to the upstream and its answer to w. It writes no answer of its own: if Result.Started is false
// the caller decides what the client gets. The request is as the gateway has cleaned it; its GetBody is used if it is set.
// Whoever ends the context of a stream with ErrDraining as the cause has it end in good order, where that can be.
func (u *Upstream) Serve(w http.ResponseWriter, r *http.Request, c Call) Result {
	start := u.clock.Now()
	x := &exchange{u: u, w: w, r: r, ctx: r.Context(), call: c, start: start, long: c.Class == module.Stream || c.Upgrade, result: Result{Failure: None}}
	x.serve()
	x.result.Duration = u.clock.Now().Sub(start)
	u.metrics.requests[x.result.Failure].Inc()
	return x.result
}

// exchange is one request on its way.
type exchange struct {
	u      *Upstream
	w      http.ResponseWriter
	r      *http.Request
	ctx    context.Context
	call   Call
	start  time.Time
	long   bool // a stream or a WebSocket
	body   *body
	permit permit
	tried  []*endpoint
	result Result
	told   atomic.Bool // the stream was told to end because its endpoint goes
}

// fail notes how it ended.
func (x *exchange) fail(f Failure, err error) { x.result.Failure, x.result.Err = f, err }

// refuse is for what ends before an endpoint is found.
func (x *exchange) refuse(err error) {
	switch {
	case errors.Is(x.ctx.Err(), context.Canceled):
		x.fail(ClientAbort, err)
	case errors.Is(err, ErrNoEndpoint):
		x.fail(NotSent, err)
	default:
		x.fail(Overload, err)
	}
}

func (x *exchange) serve() {
	u := x.u
	// The body first: whoever sends slowly must not hold a place while doing so.
	var err error
	idle := time.Duration(0)
	if x.long {
		idle = u.cfg.StreamIdle
	}
	if x.body, err = newBody(x.w, x.r, u.cfg.ReplayBody, idle); err != nil {
		x.fail(ClientAbort, err)
		x.result.BodyGone = true
		return
	}
	defer func() {
		x.result.BodyGone = !x.body.again()
		if !x.body.end() && !x.result.Started {
			x.hangUp()
		}
	}()
	now := u.clock.Now()
	permit, ok := u.breaker.allow(now)
	if !ok {
		x.refuse(ErrOpen)
		return
	}
	x.permit = permit
	verdict := nothing
	defer func() { u.breaker.record(&x.permit, verdict, u.clock.Now()) }()
	if err := u.bulkhead.enter(x.ctx, x.long, now); err != nil {
		x.refuse(err)
		return
	}
	u.metrics.inFlight.Inc()
	defer func() {
		u.metrics.inFlight.Dec()
		u.bulkhead.leave(x.long)
	}()
	u.budget.earn()
	e, err := u.pick(now, x.long, nil)
	if err != nil {
		x.refuse(err)
		return
	}
	verdict = x.forward(e)
}

// hangUp has the client's connection closed after the answer, for a body that was not read to a good end: what follows a wrong
// chunk, or a body that we have stopped reading, must not be taken for the next request. It also keeps net/http from reading
// the rest of the body before it passes on an answer that begins while the client still sends.
func (x *exchange) hangUp() {
	if x.r.ProtoMajor == 1 {
		x.w.Header()["Connection"] = closing
	}
}

var closing = []string{"close"}

// forward sends the request to e, or to others if that is safe and of use, and passes on the answer. e was entered.
func (x *exchange) forward(e *endpoint) (v verdict) {
	for e != nil {
		v, e = x.visit(e)
	}
	return v
}

func (x *exchange) visit(e *endpoint) (verdict, *endpoint) {
	defer e.leave(x.long) // also after a panic
	return x.try(e)
}

// try sends the request to e. If it is to be sent again it says where to; else it has passed on the answer or has noted
// the failure.
func (x *exchange) try(e *endpoint) (verdict, *endpoint) {
	u := x.u
	x.result.Attempts++
	x.result.Endpoint, x.result.Status = e.addr, 0
	x.fail(None, nil)
	if x.call.Upgrade {
		v := x.upgrade(e)
		e.note(v)
		return v, x.next(e, v)
	}
	ctx := x.ctx
	if x.long {
		// A stream is told to come back when its endpoint goes.
		told, cancel := context.WithCancelCause(ctx)
		defer cancel(nil)
		defer x.tell(e, told, func() { cancel(ErrDraining) })()
		ctx = told
	}
	a := &attempt{}
	carrier := e.pooled
	if x.long {
		carrier = e.long
	}
	safe := x.safe()
	out := x.r.WithContext(carrier.prepare(ctx, a))
	if !x.prepare(out, e, safe) {
		return nothing, nil
	}
	if a.body = x.body.stream; a.body != nil {
		defer a.end()
		defer context.AfterFunc(ctx, func() { _ = a.body.Close() })()
	}
	resp, err := carrier.send(out, a)
	if err != nil {
		v := x.classify(e, a, ctx, err)
		e.note(v)
		return v, x.next(e, v)
	}
	x.result.Status = resp.StatusCode
	if resp.StatusCode == http.StatusSwitchingProtocols {
		// Whoever speaks another protocol now must not be heard by anybody.
		_ = resp.Body.Close()
		x.fail(MaybeSent, errors.New("upstream: answers 101 to a request that asks for no other protocol"))
		e.note(failed)
		return failed, nil
	}
	v := judge(resp)
	if v == answered && Impatient(x.ctx) {
		v = nothing // it has given up when the client did
	}
	e.note(v)
	if v == answered {
		x.fail(Answered5xx, nil)
		if next := x.next(e, v); next != nil {
			discard(resp)
			return v, next
		}
	}
	if resp.StatusCode >= 500 {
		x.fail(Answered5xx, nil)
	}
	if x.long && v == good {
		// A stream may last for hours. That it has begun is what a probe asks for.
		u.breaker.record(&x.permit, good, u.clock.Now())
		v = nothing
	}
	if broke := x.answer(resp); broke != nothing {
		v = broke
		e.note(broke)
	}
	return v, nil
}

// judge says what an answer tells of the upstream. 501 is about the request, and a 503 that names a time comes from
// somebody who is well enough to say so.
func judge(resp *http.Response) verdict {
	switch {
	case resp.StatusCode < 500, resp.StatusCode == http.StatusNotImplemented:
		return good
	case resp.StatusCode == http.StatusServiceUnavailable && len(resp.Header["Retry-After"]) > 0:
		return good
	}
	return answered
}

// safe says whether it may be sent although the one before may have been received.
func (x *exchange) safe() bool {
	if x.call.Repeatable {
		return true
	}
	switch x.r.Method {
	case http.MethodGet, http.MethodHead, http.MethodOptions:
		return true
	}
	return false
}

// prepare makes the request that goes out, or notes why it cannot.
func (x *exchange) prepare(out *http.Request, e *endpoint, safe bool) bool {
	cfg, in := &x.u.cfg, x.r.URL
	out.URL = &url.URL{Scheme: e.scheme, Host: e.addr, Path: in.Path, RawPath: in.RawPath, ForceQuery: in.ForceQuery, RawQuery: in.RawQuery}
	out.Header, out.RequestURI, out.Close = outgoing(x.r.Header), "", false
	if err := x.body.attach(out, cfg.Protocol); err != nil {
		x.fail(NotSent, err)
		return false
	}
	if cfg.Protocol != H1 {
		out.Header["Te"] = trailers
	}
	if x.call.Prepare != nil {
		if err := x.call.Prepare(out, x.result.Attempts); err != nil {
			x.fail(NotSent, err)
			return false
		}
	}
	if size(out) > cfg.HeaderBytes {
		x.fail(ClientAbort, ErrHeaderTooLarge)
		return false
	}
	if !safe {
		calm(out.Header)
	}
	return true
}

// size is that of a header as HTTP/2 counts it.
func size(r *http.Request) int {
	const field = 32
	n := len(":method:scheme:authority:path") + 4*field + len(r.Method) + len(r.URL.Scheme) + len(r.Host) + len(r.URL.Path) + len(r.URL.RawQuery)
	for name, values := range r.Header {
		for _, v := range values {
			n += len(name) + len(v) + field
		}
	}
	return n
}

// classify notes why there is no answer, and says whose fault that is.
func (x *exchange) classify(e *endpoint, a *attempt, ctx context.Context, err error) verdict {
	var dial *dialError
	maybe := a.maybeSent(ctx)
	failure := NotSent
	if maybe {
		failure = MaybeSent
	}
	switch {
	case x.body.failed() != nil:
		x.fail(ClientAbort, x.body.failed())
		return nothing
	case x.leaving():
		x.fail(failure, ErrDraining)
		return nothing
	case errors.Is(x.ctx.Err(), context.Canceled):
		x.fail(ClientAbort, context.Cause(x.ctx))
		return nothing
	case Impatient(x.ctx):
		x.fail(failure, fmt.Errorf("upstream %s: %w", e.addr, ErrImpatient))
		return nothing
	case x.ctx.Err() != nil:
		// The time of the request is up. If the client had not even sent it all, that says nothing of the upstream.
		x.fail(failure, fmt.Errorf("upstream %s: %w", e.addr, context.Cause(x.ctx)))
		if maybe && x.body.sent() {
			return failed
		}
		return nothing
	}
	x.fail(failure, fmt.Errorf("upstream %s: %w", e.addr, err))
	if maybe || errors.As(err, &dial) {
		return failed
	}
	// A connection from the pool was no good any more, or the request cannot be sent at all: both say nothing.
	return nothing
}

// next finds where to send the request again, if that is safe and of use. The endpoint is entered.
func (x *exchange) next(e *endpoint, v verdict) *endpoint {
	u := x.u
	switch x.result.Failure {
	case NotSent:
	case MaybeSent, Answered5xx:
		if x.long || !x.safe() {
			return nil
		}
	default:
		return nil
	}
	if x.result.Attempts >= u.cfg.Retry.Attempts || x.ctx.Err() != nil || x.told.Load() {
		return nil
	}
	x.tried = append(x.tried, e)
	now := u.clock.Now()
	next, err := u.pick(now, x.long, x.tried)
	if err != nil {
		// The same one again, but only on another connection: one that cannot be reached, or that has answered, would not do
		// better.
		var dial *dialError
		if errors.As(x.result.Err, &dial) || v == answered || e.enter(x.long) != nil {
			return nil
		}
		next = e
	}
	// What was not sent has cost nobody anything: its first repeat is not charged, as in gRPC's transparent retries. However many
	// requests a restart meets, none is lost to it.
	unsent := x.result.Failure == NotSent && x.result.Attempts == 1 && u.cfg.Retry.Budget > 0
	if !x.body.again() || !unsent && !u.budget.spend() {
		next.leave(x.long)
		return nil
	}
	if x.result.Failure == NotSent && x.result.Attempts > 1 {
		next.closeIdle() // two kept connections were dead already: one that is made for this request is not
	}
	u.metrics.again.Inc()
	return next
}

// discard ends an answer that nobody gets. A short one is read, so that the connection can be used again.
func discard(resp *http.Response) {
	_, _ = io.CopyN(io.Discard, resp.Body, 4<<10)
	_ = resp.Body.Close()
}

// tell calls end some time after the endpoint has gone, not for all streams at the same moment. The result takes it back.
func (x *exchange) tell(e *endpoint, ctx context.Context, end func()) func() bool {
	return context.AfterFunc(e.gone, func() {
		select {
		case <-ctx.Done():
		case <-x.u.clock.At(x.u.clock.Now().Add(x.u.jitter())):
			x.told.Store(true)
			end()
		}
	})
}

var buffers = sync.Pool{New: func() any { return new([32 << 10]byte) }}

// answer passes on the answer. It says what a break tells of the upstream, or nothing.
func (x *exchange) answer(resp *http.Response) verdict {
	w, h := x.w, x.w.Header()
	defer func() { _ = resp.Body.Close() }()
	x.header(resp)
	announced := 0
	for name := range resp.Trailer {
		if trailer(name) {
			h["Trailer"] = append(h["Trailer"], name)
			announced++
		}
	}
	if announced > 0 && x.r.ProtoMajor == 1 {
		delete(h, "Content-Length") // HTTP/1.1 has trailers only in chunks
	}
	events := strings.HasPrefix(resp.Header.Get("Content-Type"), "text/event-stream")
	flush := x.long || x.call.Flush || events || resp.ContentLength < 0
	x.result.Started = true
	if !x.body.sent() {
		x.hangUp() // how it ends is not known yet
	}
	w.WriteHeader(resp.StatusCode)
	if resp.Body == http.NoBody || resp.ContentLength == 0 || x.r.Method == http.MethodHead {
		// Not flushed: over h2 the header itself must end such an answer.
		resp.Body.Close()
		x.trailers(resp)
		return nothing
	}
	var flusher *http.ResponseController
	if flush {
		flusher = http.NewResponseController(w)
		if err := flusher.Flush(); err != nil && !errors.Is(err, http.ErrNotSupported) {
			x.fail(ClientAbort, err)
			return nothing
		}
	}
	buffer := buffers.Get().(*[32 << 10]byte)
	defer buffers.Put(buffer)
	end := eventEnd{between: true, blank: true}
	if x.long {
		defer func() { _ = flusher.SetWriteDeadline(time.Time{}) }()
	}
	for {
		n, err := resp.Body.Read(buffer[:])
		if n > 0 {
			if x.long {
				// A stream has no time to end, so each piece has: a client that takes nothing must not hold it for ever.
				_ = flusher.SetWriteDeadline(time.Now().Add(x.u.cfg.StreamIdle))
			}
			if _, failure := w.Write(buffer[:n]); failure != nil {
				x.fail(ClientAbort, failure)
				return nothing
			}
			if flusher != nil {
				if failure := flusher.Flush(); failure != nil && !errors.Is(failure, http.ErrNotSupported) {
					x.fail(ClientAbort, failure)
					return nothing
				}
			}
			if x.long {
				// Taken off again: HTTP/2 resets a stream whose time to write has passed, also while nobody writes.
				_ = flusher.SetWriteDeadline(time.Time{})
				x.body.stir()
			}
			if events {
				end.write(buffer[:n])
			}
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			return x.broke(err, events && end.between, flusher)
		}
	}
	_ = resp.Body.Close() // now, so that the trailers are there
	x.trailers(resp)
	return nothing
}

// header sets what the upstream has answered.
func (x *exchange) header(resp *http.Response) {
	if x.call.Answer != nil {
		x.call.Answer(resp.Header)
	}
	copyHeader(x.w.Header(), resp.Header)
}

// broke is for an answer that has ended before its end.
func (x *exchange) broke(err error, between bool, flusher *http.ResponseController) verdict {
	switch {
	case x.leaving() && between:
		// Between two events a stream can end in good order, with a hint when to come back.
		x.fail(None, ErrDraining)
		if x.long {
			_ = flusher.SetWriteDeadline(time.Now().Add(x.u.cfg.StreamIdle))
		}
		if _, failure := x.w.Write([]byte("retry: " + strconv.Itoa(500+int(x.u.jitter().Milliseconds())/2) + "\n\n")); failure == nil {
			_ = flusher.Flush()
		}
		return nothing
	case x.leaving():
		x.fail(Aborted, ErrDraining)
		return nothing
	case errors.Is(x.ctx.Err(), context.Canceled):
		x.fail(ClientAbort, context.Cause(x.ctx))
		return nothing
	case x.ctx.Err() != nil, Impatient(x.ctx):
		// Whether the upstream or the client was slow cannot be told.
		x.fail(Aborted, context.Cause(x.ctx))
		return nothing
	case x.body.failed() != nil:
		x.fail(ClientAbort, x.body.failed())
		return nothing
	}
	x.fail(Aborted, fmt.Errorf("upstream %s: the answer broke off: %w", x.result.Endpoint, err))
	return failed
}

// leaving says whether it is we who end a stream: its endpoint goes, or the caller has ended the context for that reason.
func (x *exchange) leaving() bool {
	return x.told.Load() || errors.Is(context.Cause(x.ctx), ErrDraining)
}

// trailers sets what came after the body: those that were announced under their names, the others in the way net/http
// has for them.
func (x *exchange) trailers(resp *http.Response) {
	if len(resp.Trailer) == 0 {
		return
	}
	h := x.w.Header()
	for name, values := range resp.Trailer {
		if !trailer(name) || len(values) == 0 {
			continue
		}
		if slices.Contains(h["Trailer"], name) {
			h[name] = values
		} else {
			h[http.TrailerPrefix+name] = values
		}
	}
}

// eventEnd knows whether a stream of events stands between two of them: after an empty line.
type eventEnd struct {
	between bool
	blank   bool // at the begin of a line
	cr      bool // the last byte was CR: an LF belongs to it
}

func (e *eventEnd) write(b []byte) {
	for _, c := range b {
		switch {
		case c == '\n' && e.cr:
			e.cr = false
		case c == '\n' || c == '\r':
			e.between = e.blank || e.between
			e.blank, e.cr = true, c == '\r'
		default:
			e.between, e.blank, e.cr = false, false, false
		}
	}
}
