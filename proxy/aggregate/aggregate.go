package aggregate

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"runtime/debug"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/banyan-go/banyan/internal/errs"
	"github.com/banyan-go/banyan/internal/rest"
)

// Fetch asks a route of the gateway, with the identity of the caller and the deadline of ctx. It may still run when
// Serve has returned, so it keeps away from the writer and the body of the request.
type Fetch func(ctx context.Context, method, pathAndQuery string) (status int, header http.Header, body []byte, err error)

// Options are what a server may be given. All of it may be nil.
type Options struct {
	Registry prometheus.Registerer
	Log      *slog.Logger
}

// Server answers for the aggregates of a configuration.
type Server struct {
	cfg   Config
	log   *slog.Logger
	all   map[string]*aggregate
	slots chan struct{}
	parts *prometheus.CounterVec
}

type aggregate struct {
	Aggregate
	parts []part
}

type part struct {
	Part
	keep field
}

// New makes a server of a valid configuration.
func New(cfg Config, o Options) (*Server, error) {
	s := &Server{cfg: cfg, log: o.Log, all: map[string]*aggregate{}, slots: make(chan struct{}, max(1, cfg.Parallel))}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	for _, a := range cfg.Aggregates {
		c := &aggregate{Aggregate: a}
		for _, p := range a.Parts {
			keep, err := compile(p)
			if err != nil {
				return nil, err
			}
			if p.Timeout == 0 {
				p.Timeout = a.Timeout
			}
			c.parts = append(c.parts, part{p, keep})
		}
		s.all[a.Path] = c
	}
	s.parts = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "banyan_aggregate_parts_total", Help: "Parts of aggregates, by what became of them.",
	}, []string{"path", "part", "result"})
	if o.Registry != nil {
		if err := o.Registry.Register(s.parts); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// MaxPart is how many bytes a fetch need not go beyond; see NewCapture.
func (s *Server) MaxPart() int64 { return s.cfg.MaxPart }

// Missing is a part that is not there, in the answer.
type Missing struct {
	Part   string `json:"part"`
	Status int    `json:"status"` // what its route answered, or what the gateway would have
	Reason string `json:"reason"` // as kind in problems, or unreadable
}

const (
	missingName = "missing"
	unreadable  = "unreadable"
	calledOff   = "called off" // not known yet, or not wanted any more; in no answer
)

// result is what became of a part.
type result struct {
	part   int
	status int
	header http.Header
	body   []byte
	reason string // "" if the route has answered as it should
}

// Serve answers for the aggregate at the request's path.
func (s *Server) Serve(w http.ResponseWriter, r *http.Request, fetch Fetch) {
	a := s.all[r.URL.Path]
	if a == nil {
		p, _ := rest.NewProblem(r.Context(), errs.New(errs.NotFound, "there is nothing at this path"))
		rest.WriteProblem(w, p, 0)
		return
	}
	results, end := s.ask(r.Context(), a, fetch)
	if end == clientGone {
		p, _ := rest.NewProblem(r.Context(), context.Canceled)
		rest.WriteProblem(w, p, 0)
		return
	}
	var body *bytes.Buffer
	var missing []Missing
	if end == complete {
		body, missing = s.merge(a, results)
	}
	lost := -1 // the required part that fails the whole
	for i, p := range a.parts {
		outcome := results[i].reason
		switch {
		case outcome == calledOff:
			continue
		case outcome == "":
			outcome = "ok"
		case p.Required && lost < 0:
			lost = i
		}
		s.parts.WithLabelValues(a.Path, p.Name, outcome).Inc()
	}
	if lost >= 0 {
		fail(w, r, a.parts[lost], results[lost])
		return
	}
	body.WriteString(`"` + missingName + `":`)
	encoded, err := json.Marshal(missing)
	if err != nil {
		encoded = []byte("[]") // words and numbers: it cannot fail
	}
	body.Write(encoded)
	body.WriteString("}\n")
	h := w.Header()
	h["Content-Type"] = []string{"application/json"}
	h["Cache-Control"] = []string{"private, no-store"}
	h["Content-Length"] = []string{strconv.Itoa(body.Len())}
	w.WriteHeader(http.StatusOK)
	_, _ = w.Write(body.Bytes()) // the client is gone: there is nobody to tell
}

// ending is how asking ended.
type ending byte

const (
	complete     ending = iota // each part has come, or has failed
	requiredLost               // a required part has failed
	clientGone
)

// ask asks for all parts, until each has come or is late, or a required one has failed, or the client has gone. What
// then is still on its way is called off; it finds room for its result, and nobody looks at that.
func (s *Server) ask(caller context.Context, a *aggregate, fetch Fetch) ([]result, ending) {
	start := time.Now()
	ctx, cancel := context.WithTimeout(caller, a.Timeout)
	defer cancel()
	arrived := make(chan result, len(a.parts))
	results := make([]result, len(a.parts))
	for i, p := range a.parts {
		results[i] = result{part: i, reason: calledOff}
		go func() { arrived <- s.part(ctx, i, p, fetch) }()
	}
	timer := time.NewTimer(a.Timeout)
	defer timer.Stop()
	over := false
	for {
		// A fetch that does not heed its deadline is not waited for.
		now, next := time.Now(), time.Duration(-1)
		for i, p := range a.parts {
			if results[i].reason != calledOff {
				continue
			}
			if left := p.Timeout - now.Sub(start); left <= 0 || over {
				results[i] = result{part: i, status: http.StatusGatewayTimeout, reason: string(errs.Timeout)}
				if p.Required {
					return results, requiredLost
				}
			} else if next < 0 || left < next {
				next = left
			}
		}
		if next < 0 {
			return results, complete
		}
		timer.Reset(next)
		select {
		case <-timer.C:
		case <-caller.Done():
			if errors.Is(caller.Err(), context.Canceled) {
				return results, clientGone
			}
			over = true // the caller's deadline: what has come is shown
		case r := <-arrived:
			if results[r.part].reason != calledOff && r.reason != "" {
				continue // it is missing already; what comes late after all is shown, while others are waited for
			}
			results[r.part] = r
			if r.reason != "" && a.parts[r.part].Required {
				return results, requiredLost
			}
		}
	}
}

// part asks for one part.
func (s *Server) part(ctx context.Context, i int, p part, fetch Fetch) (r result) {
	failed := func(status int, reason errs.Kind) result {
		return result{part: i, status: status, reason: string(reason)}
	}
	ctx, cancel := context.WithTimeout(ctx, p.Timeout)
	defer cancel()
	select {
	case s.slots <- struct{}{}:
	case <-ctx.Done():
		return failed(http.StatusServiceUnavailable, errs.Unavailable)
	}
	defer func() { <-s.slots }()
	defer func() {
		switch v := recover(); v {
		case nil:
		case http.ErrAbortHandler: // the answer broke off
			r = failed(http.StatusBadGateway, errs.Unavailable)
		default:
			s.log.LogAttrs(ctx, slog.LevelError, "panic in a part of an aggregate",
				slog.String("part", p.Name), slog.Any("panic", v), slog.String("stack", string(debug.Stack())))
			r = failed(http.StatusInternalServerError, errs.Internal)
		}
	}()
	status, header, body, err := fetch(ctx, http.MethodGet, p.Get)
	var known *errs.Error
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return failed(http.StatusGatewayTimeout, errs.Timeout)
	case errors.Is(err, ErrTooLarge), err == nil && int64(len(body)) > s.cfg.MaxPart:
		return failed(http.StatusBadGateway, errs.TooLarge)
	case errors.As(err, &known):
		return failed(known.Kind.Status(), known.Kind)
	case err != nil:
		return failed(http.StatusBadGateway, errs.Unavailable)
	}
	r = result{part: i, status: status, header: header, body: body}
	if status < 200 || status > 299 {
		r.reason = string(kindOf(status))
	}
	return r
}

// kindOf is the kind of failure that a status tells.
func kindOf(status int) errs.Kind {
	for _, k := range []errs.Kind{errs.Malformed, errs.Unauthenticated, errs.Forbidden, errs.NotFound, errs.Conflict, errs.Gone, errs.TooLarge, errs.Invalid,
		errs.Throttled, errs.Unavailable, errs.Timeout} {
		if k.Status() == status {
			return k
		}
	}
	if status >= 400 && status < 500 {
		return errs.Invalid
	}
	return errs.Internal
}

// merge puts the parts together and says what is missing. A part that cannot be read, or does not fit any more, becomes
// one that has failed.
func (s *Server) merge(a *aggregate, results []result) (*bytes.Buffer, []Missing) {
	var b bytes.Buffer
	missing := []Missing{}
	b.WriteByte('{')
	for i, p := range a.parts {
		r := &results[i]
		b.WriteString(`"` + p.Name + `":`)
		start := b.Len()
		if r.reason == "" && len(r.body) > 0 && r.status != http.StatusNoContent {
			switch err := p.keep.write(&b, r.body); {
			case err != nil:
				r.status, r.reason = http.StatusBadGateway, unreadable
			case int64(b.Len()) > s.cfg.MaxBytes:
				r.status, r.reason = http.StatusBadGateway, string(errs.TooLarge)
			}
		}
		if r.reason != "" {
			b.Truncate(start)
			missing = append(missing, Missing{p.Name, r.status, r.reason})
		}
		if b.Len() == start {
			b.WriteString("null")
		}
		b.WriteByte(',')
	}
	return &b, missing
}

// fail answers that a required part is missing.
func fail(w http.ResponseWriter, r *http.Request, p part, res result) {
	if len(res.body) > 0 && (res.status == http.StatusUnauthorized || res.status == http.StatusForbidden) {
		h := w.Header()
		for _, name := range []string{"Content-Type", "Www-Authenticate"} {
			if lines := res.header[name]; len(lines) > 0 {
				h[name] = lines
			}
		}
		h["Cache-Control"] = []string{"no-store"}
		w.WriteHeader(res.status)
		_, _ = w.Write(res.body)
		return
	}
	kind, status := errs.Unavailable, http.StatusBadGateway
	switch res.status {
	case http.StatusGatewayTimeout:
		kind, status = errs.Timeout, http.StatusGatewayTimeout
	case http.StatusUnauthorized:
		kind, status = errs.Unauthenticated, res.status
	case http.StatusForbidden:
		kind, status = errs.Forbidden, res.status
	}
	problem, _ := rest.NewProblem(r.Context(), errs.New(kind, "%s cannot be had: %s", p.Name, res.reason))
	problem.Status, problem.Title = status, http.StatusText(status)
	rest.WriteProblem(w, problem, 0)
}
