package token

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"sync/atomic"
	"time"

	"github.com/MicahParks/jwkset"

	"github.com/banyan-go/banyan/internal/clock"
	"github.com/banyan-go/banyan/internal/errs"
)

const (
	keySetEvery   = 15 * time.Minute
	keySetPause   = 10 * time.Second
	keySetTimeout = 5 * time.Second
	keySetBytes   = 512 << 10
	keySetKeys    = 100
	// keySetStale is how long keys are believed that cannot be read again: the issuer may have taken one back since.
	keySetStale = 24 * time.Hour
)

// KeySet is the public keys that an issuer publishes at a URL (RFC 7517). They are read when they are needed first, then
// every 15 minutes, and at once, but not more than once in 10 seconds, when a token names a key that is not known. While
// the issuer cannot be reached those known stay in use, for a day.
//
// A key has the one algorithm that its type allows, and no other token is checked with it: RS256 (2048 bits or more),
// ES256 (P-256) or EdDSA (Ed25519). All others are left out, symmetric ones above all.
type KeySet struct {
	url     string
	client  *http.Client
	clock   clock.Clock
	current atomic.Pointer[publicKeys]
	refresh *Refresher
}

type publicKeys struct {
	keys map[keyName]any
	read time.Time
}

type keyName struct{ id, algorithm string }

// NewKeySet reads nothing yet. address is https, or http on this machine.
func NewKeySet(address string, c clock.Clock, log *slog.Logger) (*KeySet, error) {
	u, err := url.Parse(address)
	if err != nil || !mayFetch(u) {
		return nil, fmt.Errorf("%q is not a URL as in https://id.example/keys, without a password", masked(address))
	}
	if c == nil {
		c = clock.System{}
	}
	s := &KeySet{url: address, clock: c, client: &http.Client{
		Timeout: keySetTimeout,
		Transport: &http.Transport{
			Proxy: http.ProxyFromEnvironment, TLSHandshakeTimeout: keySetTimeout, ResponseHeaderTimeout: keySetTimeout, ForceAttemptHTTP2: true,
			MaxIdleConns: 1, IdleConnTimeout: 30 * time.Second, MaxResponseHeaderBytes: 64 << 10, DisableCompression: true,
		},
		CheckRedirect: func(r *http.Request, via []*http.Request) error {
			if len(via) > 3 || !mayFetch(r.URL) {
				return errors.New("it redirects to where it may not")
			}
			return nil
		},
	}}
	s.refresh = NewRefresher(RefresherOptions{
		Read: s.read, Every: keySetEvery, Pause: keySetPause, Timeout: keySetTimeout, Clock: c, Log: log, What: "keys at " + u.Redacted(),
	})
	return s, nil
}

// mayFetch: what comes in clear text over a network may have been changed on the way.
func mayFetch(u *url.URL) bool {
	if u.Host == "" || u.User != nil {
		return false
	}
	if u.Scheme == "https" {
		return true
	}
	ip := net.ParseIP(u.Hostname())
	return u.Scheme == "http" && (u.Hostname() == "localhost" || ip != nil && ip.IsLoopback())
}

// masked is the address without what may be a password.
func masked(address string) string {
	if u, err := url.Parse(address); err == nil {
		return u.Redacted()
	}
	return "it"
}

// Run keeps the keys fresh until ctx ends.
func (s *KeySet) Run(ctx context.Context) error { return s.refresh.Run(ctx) }

// Public is the Ed25519 key of an id.
func (s *KeySet) Public(id string) (ed25519.PublicKey, bool) {
	key, err := s.find(id, "EdDSA")
	public, ok := key.(ed25519.PublicKey)
	return public, ok && err == nil
}

// find is the key of an id for an algorithm. Only an issuer that cannot be asked is errs.Unavailable.
func (s *KeySet) find(id, algorithm string) (any, error) {
	known := s.known()
	if known != nil {
		if key, ok := known.keys[keyName{id, algorithm}]; ok {
			return key, nil
		}
	}
	s.refresh.Ask()
	if known = s.known(); known == nil {
		return nil, errs.New(errs.Unavailable, "the keys of the token's issuer cannot be read now").After(keySetPause)
	}
	if key, ok := known.keys[keyName{id, algorithm}]; ok {
		return key, nil
	}
	return nil, errors.New("unknown key")
}

// known is what was read, nil if that is nothing or too long ago.
func (s *KeySet) known() *publicKeys {
	known := s.current.Load()
	if known == nil || s.clock.Now().Sub(known.read) > keySetStale {
		return nil
	}
	return known
}

func (s *KeySet) read(ctx context.Context) error {
	now := s.clock.Now()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.url, nil)
	if err != nil {
		return err
	}
	req.Header.Set("Accept", "application/jwk-set+json, application/json")
	res, err := s.client.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = res.Body.Close() }()
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("status %d", res.StatusCode)
	}
	body, err := io.ReadAll(io.LimitReader(res.Body, keySetBytes+1))
	if err != nil {
		return err
	}
	if len(body) > keySetBytes {
		return fmt.Errorf("it has more than %d bytes", keySetBytes)
	}
	keys, err := parseKeySet(body)
	if err != nil {
		return err
	}
	s.current.Store(&publicKeys{keys: keys, read: now})
	return nil
}

// parseKeySet leaves out the keys that are of no use here: one of them must not take the others along.
func parseKeySet(body []byte) (map[keyName]any, error) {
	var set struct{ Keys []json.RawMessage }
	if err := json.Unmarshal(body, &set); err != nil {
		return nil, errors.New("it is not a JSON Web Key Set")
	}
	if len(set.Keys) > keySetKeys {
		return nil, fmt.Errorf("it has more than %d keys", keySetKeys)
	}
	keys := map[keyName]any{}
	for _, raw := range set.Keys {
		// Without Private, symmetric keys are refused, and of others only the public half is read.
		k, err := jwkset.NewJWKFromRawJSON(raw, jwkset.JWKMarshalOptions{}, jwkset.JWKValidateOptions{})
		if err != nil {
			continue
		}
		m, algorithm := k.Marshal(), ""
		switch key := k.Key().(type) {
		case *rsa.PublicKey:
			if bits := key.N.BitLen(); bits >= 2048 && bits <= 8192 { // checking with a greater one takes too long
				algorithm = "RS256"
			}
		case *ecdsa.PublicKey:
			if key.Curve == elliptic.P256() {
				algorithm = "ES256"
			}
		case ed25519.PublicKey:
			algorithm = "EdDSA"
		}
		if algorithm == "" || m.KID == "" || m.ALG != "" && m.ALG.String() != algorithm || m.USE != "" && m.USE != jwkset.UseSig {
			continue
		}
		keys[keyName{m.KID, algorithm}] = k.Key()
	}
	if len(keys) == 0 {
		return nil, errors.New("it has no key for RS256, ES256 or EdDSA")
	}
	return keys, nil
}
