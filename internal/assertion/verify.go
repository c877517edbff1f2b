package assertion

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/banyan-go/banyan/internal/clock"
	"github.com/banyan-go/banyan/internal/identity"
	"github.com/banyan-go/banyan/internal/rest"
	"github.com/banyan-go/banyan/internal/telemetry"
)

// StatusStale answers an assertion of a route table that is older than what this process knows: the gateway takes the
// request back and routes it again. Nobody else gets to see it.
const StatusStale = http.StatusMisdirectedRequest

// EpochHeader says with StatusStale which epoch is the least that is believed. An answer of StatusStale without it is the module's own.
const EpochHeader = "X-Banyan-Epoch"

// PublicKeys are the keys that gateways may sign with; *control.Ring, *token.Keyring and *token.KeySet are some.
type PublicKeys interface {
	Public(id string) (ed25519.PublicKey, bool)
}

// Options are what a Verifier works with.
type Options struct {
	Module string // that this process serves
	Keys   PublicKeys
	// Route is what the module knows of a route: Method, Route and Money of its requests. false: there is none.
	Route func(method, path string) (rest.Request, bool)
	// Epoch is the least epoch that is believed: of the change that made this process what it is. nil believes any.
	Epoch    func() uint64
	Remember int // assertions that are remembered at most; 0 means a million
	Clock    clock.Clock
	Log      *slog.Logger
	Registry prometheus.Registerer // nil counts nothing
}

// Verifier believes assertions that are made for its module.
type Verifier struct {
	o       Options
	seen    seen
	refused *prometheus.CounterVec
}

// NewVerifier checks what it is given.
func NewVerifier(o Options) (*Verifier, error) {
	if o.Module == "" || o.Keys == nil || o.Route == nil {
		return nil, errors.New("assertion: a verifier needs a module, its keys and its routes")
	}
	if o.Clock == nil {
		o.Clock = clock.System{}
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Remember <= 0 {
		o.Remember = 1 << 20
	}
	v := &Verifier{o: o, seen: seen{max: o.Remember}, refused: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "banyan_assertions_refused_total", Help: "Requests refused because the gateway does not vouch for them, by reason.",
	}, []string{"reason"})}
	if o.Registry != nil {
		if err := o.Registry.Register(v.refused); err != nil {
			return nil, err
		}
	}
	return v, nil
}

// reason is why an assertion is not believed: for the log and for metrics, never for whoever sent it.
type reason string

// Error is the reason.
func (r reason) Error() string { return string(r) }

const (
	missing   reason = "missing"
	malformed reason = "malformed"
	foreign   reason = "signature"
	audience  reason = "audience"
	outdated  reason = "time"
	different reason = "request"
	body      reason = "body"
	stale     reason = "epoch"
	repeated  reason = "repeated"
	overrun   reason = "overrun"
)

// claims is the payload.
type claims struct {
	Issuer    string          `json:"iss"`
	Audience  string          `json:"aud"`
	IssuedAt  int64           `json:"iat"`
	ExpiresAt int64           `json:"exp"`
	ID        string          `json:"jti"`
	Target    string          `json:"req"`
	Epoch     uint64          `json:"epo"`
	Keyed     bool            `json:"ik"`
	Stream    bool            `json:"bs"`
	Length    int64           `json:"bl"`
	BodyHash  string          `json:"bh"`
	RequestID string          `json:"rid"`
	ClientIP  string          `json:"ip"`
	Subject   string          `json:"sub"`
	Role      identity.Role   `json:"role"`
	Session   string          `json:"sid"`
	Scopes    identity.Scopes `json:"scope"`
}

// Middleware lets through what the gateway sends, with the context that a module has in the gateway's own process: the
// caller, the request, its correlation and trace. Everybody else gets 401 and nothing else.
func (v *Verifier) Middleware(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		request, err := v.admit(r)
		switch err {
		case nil:
			next.ServeHTTP(w, request)
			return
		case stale:
			w.Header().Set(EpochHeader, strconv.FormatUint(v.o.Epoch(), 10))
			w.WriteHeader(StatusStale)
		case overrun:
			w.Header().Set("Retry-After", "1")
			w.WriteHeader(http.StatusServiceUnavailable)
		default:
			w.WriteHeader(http.StatusUnauthorized)
		}
		v.refused.WithLabelValues(err.Error()).Inc()
		v.o.Log.DebugContext(r.Context(), "not vouched for by the gateway", "reason", err.Error(), "remote", r.RemoteAddr)
	})
}

// admit is the request as the module shall see it. Nothing is read of the body before the signature is checked, and
// nothing is remembered of an assertion before all of it fits.
func (v *Verifier) admit(r *http.Request) (*http.Request, error) {
	c, err := v.verify(r)
	if err != nil {
		return nil, err
	}
	method := r.Method
	if method == http.MethodHead {
		method = http.MethodGet // the module knows GET; the server itself keeps the body back
	}
	known, found := v.o.Route(method, r.URL.Path)
	if c.Stream && known.Money {
		return nil, body
	}
	content, hash, err := c.body(r)
	if err != nil {
		return nil, err
	}
	if v.o.Epoch != nil && c.Epoch < v.o.Epoch() {
		return nil, stale
	}
	if c.once(method) {
		if err := v.seen.add(c.ID, v.o.Clock.Now()); err != nil {
			return nil, err
		}
	}

	ctx := telemetry.WithCorrelation(r.Context(), c.RequestID)
	if len(r.Header["Traceparent"]) > 0 {
		ctx = telemetry.ExtractHeader(ctx, r.Header)
	}
	who := identity.Identity{Subject: c.Subject, Role: c.Role, Session: c.Session, Scopes: c.Scopes}
	if who.Subject != "" {
		ctx = identity.With(ctx, who)
	}
	request := rest.Request{
		Method: known.Method, Route: known.Route, Path: r.URL.Path, Query: r.URL.RawQuery, Subject: c.Subject,
		BodyHash: hash, ClientIP: c.ClientIP, Money: known.Money,
	}
	if c.Keyed {
		request.IdempotencyKey = r.Header["Idempotency-Key"][0]
	} else {
		delete(r.Header, "Idempotency-Key")
	}
	if found {
		ctx = rest.WithRequest(ctx, &request)
	}
	delete(r.Header, Header)
	delete(r.Header, "Authorization")
	out := r.WithContext(ctx)
	out.Method = method
	if content != nil {
		out.Body, out.ContentLength, out.TransferEncoding = content, c.Length, nil
	}
	if addr, err := netip.ParseAddr(c.ClientIP); err == nil {
		out.RemoteAddr = netip.AddrPortFrom(addr, 0).String()
	}
	return out, nil
}

// verify gives what a valid assertion of this very request says, the body left aside.
func (v *Verifier) verify(r *http.Request) (claims, error) {
	lines := r.Header[Header]
	switch {
	case len(lines) == 0:
		return claims{}, missing
	case len(lines) > 1 || len(lines[0]) > maxSize:
		return claims{}, malformed
	}
	c, err := v.parse(lines[0])
	if err != nil {
		return claims{}, err
	}
	now := v.o.Clock.Now()
	issued, expires := time.Unix(c.IssuedAt, 0), time.Unix(c.ExpiresAt, 0)
	switch {
	case c.Audience != v.o.Module:
		return claims{}, audience
	case now.After(expires.Add(Skew)) || issued.After(now.Add(Skew)) || expires.Sub(issued) > Life || !expires.After(issued):
		return claims{}, outdated
	}
	key := ""
	if c.Keyed {
		if sent := r.Header["Idempotency-Key"]; len(sent) == 1 {
			key = sent[0]
		}
	}
	// A path that was decoded may be read in two ways, and which one a router takes is not known here.
	target := targetHash(r.Method, r.URL.Path, r.URL.RawQuery, key)
	if r.URL.RawPath != "" || c.Keyed != (key != "") || !equal(c.Target, target[:]) {
		return claims{}, different
	}
	return c, nil
}

// parse checks the signature, and believes nothing before.
func (v *Verifier) parse(text string) (claims, error) {
	signed, signature, ok := cutLast(text)
	if !ok {
		return claims{}, malformed
	}
	header, payload, ok := strings.Cut(signed, ".")
	if !ok || strings.IndexByte(payload, '.') >= 0 {
		return claims{}, malformed
	}
	var h struct {
		Algorithm string `json:"alg"`
		Type      string `json:"typ"`
		KeyID     string `json:"kid"`
		Critical  any    `json:"crit"`
	}
	raw, err := strict.DecodeString(header)
	if err != nil || json.Unmarshal(raw, &h) != nil || h.Algorithm != "EdDSA" || h.Type != tokenType || h.Critical != nil {
		return claims{}, malformed
	}
	mac, err := strict.DecodeString(signature)
	if err != nil || len(mac) != ed25519.SignatureSize {
		return claims{}, malformed
	}
	key, ok := v.o.Keys.Public(h.KeyID)
	if !ok || !ed25519.Verify(key, []byte(signed), mac) {
		return claims{}, foreign
	}
	var c claims
	raw, err = strict.DecodeString(payload)
	if err != nil || json.Unmarshal(raw, &c) != nil || c.Issuer != issuer || c.ID == "" || c.Length < 0 {
		return claims{}, malformed
	}
	return c, nil
}

var strict = base64.RawURLEncoding.Strict()

func cutLast(s string) (before, after string, found bool) {
	i := strings.LastIndexByte(s, '.')
	if i < 0 {
		return "", "", false
	}
	return s[:i], s[i+1:], true
}

// equal compares a hash as it is written with one as it is.
func equal(text string, hash []byte) bool {
	raw, err := strict.DecodeString(text)
	return err == nil && subtle.ConstantTimeCompare(raw, hash) == 1
}

// body reads the body that was signed, so that a module never waits for it and gets no other. The length is signed too:
// no more than that is read. A stream stays as it is.
func (c claims) body(r *http.Request) (io.ReadCloser, [sha256.Size]byte, error) {
	if c.Stream {
		return nil, noBody, nil
	}
	if c.Length == 0 && (r.Body == nil || r.Body == http.NoBody || r.ContentLength == 0) {
		return http.NoBody, noBody, nil
	}
	if r.ContentLength >= 0 && r.ContentLength != c.Length {
		return nil, noBody, body
	}
	content := make([]byte, 0, c.Length+1)
	content, err := readUpTo(r.Body, content)
	if err != nil || int64(len(content)) != c.Length {
		return nil, noBody, body
	}
	hash := sha256.Sum256(content)
	if c.Length == 0 {
		return http.NoBody, noBody, nil
	}
	if !equal(c.BodyHash, hash[:]) {
		return nil, noBody, body
	}
	return io.NopCloser(bytes.NewReader(content)), hash, nil
}

var noBody = sha256.Sum256(nil)

// readUpTo fills buffer to its capacity or to the end of the body.
func readUpTo(r io.Reader, buffer []byte) ([]byte, error) {
	for len(buffer) < cap(buffer) {
		n, err := r.Read(buffer[len(buffer):cap(buffer)])
		buffer = buffer[:len(buffer)+n]
		if err == io.EOF {
			return buffer, nil
		}
		if err != nil {
			return nil, err
		}
	}
	return buffer, nil
}

// once says whether the assertion may be used once only. What changes nothing may be repeated; so may what has an
// Idempotency-Key, which the gateway's transport sends again by itself: a repeat gets the first answer. The gateway signs
// a key for no route that keeps no answer.
func (c claims) once(method string) bool {
	switch method {
	case http.MethodGet, http.MethodOptions:
		return false
	case http.MethodPost, http.MethodPatch:
		return !c.Keyed
	}
	return true
}

// seen remembers the ids of assertions for as long as any could be used again: in two generations, of which the older is
// forgotten when the younger is as old as that.
type seen struct {
	max int

	mu         sync.Mutex
	young, old map[string]struct{}
	since      time.Time
}

// usable is the longest time between two uses of an assertion.
const usable = Life + 2*Skew

// add is repeated for an id that is known. When there is no room it is overrun: forgetting would let others in again.
func (s *seen) add(id string, now time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.young == nil || now.Sub(s.since) > usable {
		if now.Sub(s.since) > 2*usable {
			s.young = nil
		}
		s.old, s.young, s.since = s.young, map[string]struct{}{}, now
	}
	if _, ok := s.young[id]; ok {
		return repeated
	}
	if _, ok := s.old[id]; ok {
		return repeated
	}
	if len(s.young)+len(s.old) >= s.max {
		return overrun
	}
	s.young[id] = struct{}{}
	return nil
}
