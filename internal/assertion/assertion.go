// Package assertion is how the gateway tells an upstream process who asks: a short statement, signed with Ed25519, about
// one request to one module. A process believes nothing else.
//
// An assertion is a JWT (RFC 7519), so that a process that is not ours can check it with the library of its language and
// our JWKS. Bound into it are the module, the method, the path, the query, the Idempotency-Key, the body and the epoch
// of the route table; what it says is the caller, the client's address and the request id. Requests of nobody carry one
// too: without it a module's port answers nothing.
//
// It is valid for some seconds, and once: a process takes it a second time only if the request changes nothing, or
// carries an Idempotency-Key that makes a repeat harmless. Every attempt of the gateway so needs an assertion of its
// own. "Once" is per process: of several replicas of a module each would take it, so it must not be readable on
// the way there, over loopback or mTLS alone.
//
// Signing costs what Ed25519 costs (about 30 us) and 2 us more, checking what Ed25519 costs (about 63 us) and 10 us more:
// a form of our own in place of JSON would save next to nothing.
package assertion

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/banyan-go/banyan/internal/clock"
	"github.com/banyan-go/banyan/internal/identity"
	"github.com/banyan-go/banyan/internal/token"
)

// Header carries the assertion. The gateway drops it from what clients send, as all that begin with X-Banyan-.
const Header = "X-Banyan-Assertion"

const (
	// Life is how long an assertion is valid: the time from signing until the header has arrived, not that of the request.
	Life = 10 * time.Second
	// Skew is how far the clocks of two machines may be apart.
	Skew = 5 * time.Second

	issuer    = "banyan-gateway"
	tokenType = "banyan-assertion+jwt" // so that no token of another kind is taken for an assertion
	maxSize   = 8 << 10
)

// Request is what an assertion is about.
type Request struct {
	Module string // that it is for
	Method string // as it is sent
	Path   string // as it is sent, decoded
	Query  string // as it is sent, undecoded
	// IdempotencyKey is the header as it is sent, of routes that keep their answers; else leave it and the header away.
	IdempotencyKey string
	Body           Body
	Epoch          uint64 // of the route table
	RequestID      string
	ClientIP       string
	Caller         identity.Identity // the zero Identity for nobody
}

// Body is what an assertion says about the body of its request; the zero Body is that there is none.
type Body struct {
	Hash   [sha256.Size]byte
	Length int64
	// Stream: it is not known in advance, so it is not bound. A route that moves money is never sent one.
	Stream bool
}

// Keys are where the gateway's key is; *control.Ring and *token.Keyring are some.
type Keys interface {
	PublicKeys
	Signer() (token.Key, error)
}

// Signer makes assertions.
type Signer struct {
	keys  Keys
	clock clock.Clock
	last  atomic.Pointer[signingKey]
}

// signingKey is a key with the header of its tokens.
type signingKey struct {
	id      string
	private ed25519.PrivateKey
	header  []byte
}

// NewSigner signs with whatever key is in force. A nil clock is the machine's.
func NewSigner(keys Keys, c clock.Clock) *Signer {
	if c == nil {
		c = clock.System{}
	}
	return &Signer{keys: keys, clock: c}
}

func (s *Signer) key() (*signingKey, error) {
	k, err := s.keys.Signer()
	if err != nil {
		return nil, err
	}
	if last := s.last.Load(); last != nil && last.id == k.ID {
		return last, nil
	}
	header, err := json.Marshal(map[string]string{"alg": "EdDSA", "kid": k.ID, "typ": tokenType})
	if err != nil {
		return nil, err
	}
	fresh := &signingKey{id: k.ID, private: k.Private, header: append(base64.RawURLEncoding.AppendEncode(nil, header), '.')}
	s.last.Store(fresh)
	return fresh, nil
}

// Sign makes the assertion of one attempt to send a request.
func (s *Signer) Sign(r *Request) (string, error) {
	key, err := s.key()
	if err != nil {
		return "", fmt.Errorf("sign assertion: %w", err)
	}
	if r.Module == "" || r.Method == "" || r.Path == "" {
		return "", errors.New("sign assertion: the request is incomplete")
	}
	var room [768]byte
	payload := s.claims(room[:0], r)
	signed := make([]byte, 0, len(key.header)+base64.RawURLEncoding.EncodedLen(len(payload))+1+base64.RawURLEncoding.EncodedLen(ed25519.SignatureSize))
	signed = append(signed, key.header...)
	signed = base64.RawURLEncoding.AppendEncode(signed, payload)
	signature := ed25519.Sign(key.private, signed)
	signed = append(signed, '.')
	signed = base64.RawURLEncoding.AppendEncode(signed, signature)
	if len(signed) > maxSize {
		return "", errors.New("sign assertion: it is too long")
	}
	return string(signed), nil
}

// claims writes the JSON by hand: encoding/json would cost a tenth of the signature.
func (s *Signer) claims(b []byte, r *Request) []byte {
	now := s.clock.Now().Unix()
	b = append(b, `{"iss":"`+issuer+`","aud":`...)
	b = appendText(b, r.Module)
	b = strconv.AppendInt(append(b, `,"iat":`...), now, 10)
	b = strconv.AppendInt(append(b, `,"exp":`...), now+int64(Life/time.Second), 10)
	var id [16]byte
	binary.NativeEndian.PutUint64(id[:8], rand.Uint64())
	binary.NativeEndian.PutUint64(id[8:], rand.Uint64())
	b = base64.RawURLEncoding.AppendEncode(append(b, `,"jti":"`...), id[:])
	target := targetHash(r.Method, r.Path, r.Query, r.IdempotencyKey)
	b = base64.RawURLEncoding.AppendEncode(append(b, `","req":"`...), target[:])
	b = strconv.AppendUint(append(b, `","epo":`...), r.Epoch, 10)
	if r.IdempotencyKey != "" {
		b = append(b, `,"ik":true`...)
	}
	switch {
	case r.Body.Stream:
		b = append(b, `,"bs":true`...)
	case r.Body.Length > 0:
		b = strconv.AppendInt(append(b, `,"bl":`...), r.Body.Length, 10)
		b = base64.RawURLEncoding.AppendEncode(append(b, `,"bh":"`...), r.Body.Hash[:])
		b = append(b, '"')
	}
	for _, f := range [...]struct{ name, value string }{
		{`,"rid":`, r.RequestID}, {`,"ip":`, r.ClientIP}, {`,"sub":`, r.Caller.Subject}, {`,"role":`, string(r.Caller.Role)},
		{`,"sid":`, r.Caller.Session}, {`,"scope":`, string(r.Caller.Scopes)},
	} {
		if f.value != "" {
			b = appendText(append(b, f.name...), f.value)
		}
	}
	return append(b, '}')
}

// appendText appends a JSON string.
func appendText(b []byte, s string) []byte {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' || c == '"' || c == '\\' {
			quoted, _ := json.Marshal(s) // a string: it cannot fail
			return append(b, quoted...)
		}
	}
	return append(append(append(b, '"'), s...), '"')
}

// targetHash is what the request asks for. Each part has its length before it: no two requests have the same hash.
func targetHash(parts ...string) [sha256.Size]byte {
	var room [512]byte
	b := room[:0]
	for _, p := range parts {
		b = binary.BigEndian.AppendUint32(b, uint32(len(p)))
		b = append(b, p...)
	}
	return sha256.Sum256(b)
}
