package token_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/google/go-cmp/cmp"

	"github.com/banyan-go/banyan/internal/clock"
	"github.com/banyan-go/banyan/internal/errs"
	"github.com/banyan-go/banyan/internal/identity"
	"github.com/banyan-go/banyan/internal/secret"
	"github.com/banyan-go/banyan/internal/token"
)

const (
	foreignIssuer = "https://id.example/"
	sharedSecret  = "0123456789abcdef0123456789abcdef"
)

// foreignKeys are the keys of a foreign issuer, made once: RSA keys are slow to make.
type foreignKeys struct {
	rsa, otherRSA, weakRSA *rsa.PrivateKey
	ecdsa                  *ecdsa.PrivateKey
	ed25519                ed25519.PrivateKey
}

var makeKeys = sync.OnceValues(func() (k foreignKeys, err error) {
	for _, r := range []struct {
		into **rsa.PrivateKey
		bits int
	}{{&k.rsa, 2048}, {&k.otherRSA, 2048}, {&k.weakRSA, 1024}} {
		if *r.into, err = rsa.GenerateKey(rand.Reader, r.bits); err != nil {
			return k, err
		}
	}
	if k.ecdsa, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		return k, err
	}
	_, k.ed25519, err = ed25519.GenerateKey(rand.Reader)
	return k, err
})

// publisher is a foreign issuer's key set at a URL.
type publisher struct {
	*httptest.Server
	reads atomic.Int32
	set   atomic.Pointer[http.HandlerFunc]
}

func newPublisher(t testing.TB) *publisher {
	t.Helper()
	p := &publisher{}
	p.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.reads.Add(1)
		(*p.set.Load())(w, r)
	}))
	t.Cleanup(p.Close)
	return p
}

func (p *publisher) answer(h http.HandlerFunc) { p.set.Store(&h) }

func (p *publisher) publish(keys ...map[string]string) {
	p.answer(func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(map[string]any{"keys": keys})
	})
}

func b64(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

func rsaJWK(id string, k *rsa.PrivateKey) map[string]string {
	return map[string]string{"kty": "RSA", "kid": id, "n": b64(k.N.Bytes()), "e": "AQAB"}
}

func ecJWK(t testing.TB, id string, k *ecdsa.PrivateKey) map[string]string {
	t.Helper()
	point, err := k.PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	return map[string]string{"kty": "EC", "crv": "P-256", "kid": id, "x": b64(point[1:33]), "y": b64(point[33:]), "alg": "ES256", "use": "sig"}
}

func edJWK(id string, k ed25519.PrivateKey) map[string]string {
	return map[string]string{"kty": "OKP", "crv": "Ed25519", "kid": id, "x": b64(k.Public().(ed25519.PublicKey))}
}

func with(m map[string]string, key, value string) map[string]string {
	m[key] = value
	return m
}

// abroad is a verifier that believes one foreign issuer, and that issuer.
type abroad struct {
	*token.Verifier
	*publisher
	keys  foreignKeys
	ring  *token.Keyring
	own   token.Key
	clock *clock.Simulated
}

func newAbroad(t testing.TB, change ...func(*token.IssuerConfig)) *abroad {
	t.Helper()
	keys, err := makeKeys()
	if err != nil {
		t.Fatal(err)
	}
	a := &abroad{publisher: newPublisher(t), keys: keys, own: newKey(t), clock: clock.NewSimulated(now)}
	a.ring = newRing(t, a.own)
	a.publish(rsaJWK("r1", keys.rsa), ecJWK(t, "e1", keys.ecdsa), edJWK("d1", keys.ed25519))
	cfg := token.IssuerConfig{
		Name: "corp", Issuer: foreignIssuer, JWKSURL: a.URL, Algorithms: []string{"RS256", "ES256", "EdDSA"}, Audiences: []string{"shop", "shop-mobile"},
		RoleClaim: "realm.roles", Roles: []token.RoleConfig{{Claim: "boss", Role: identity.Admin}, {Claim: "clerk", Role: identity.Staff}},
	}
	for _, c := range change {
		c(&cfg)
	}
	if a.Verifier, err = token.NewVerifier(a.ring, []token.IssuerConfig{cfg}, a.clock, nil); err != nil {
		t.Fatal(err)
	}
	return a
}

func withSecret(c *token.IssuerConfig) {
	c.JWKSURL, c.Secret, c.Algorithms = "", sharedSecret, []string{"HS256"}
}

// abroadToken is a token of the foreign issuer.
func abroadToken(t testing.TB, method jwt.SigningMethod, key any, kid string, change map[string]any) string {
	t.Helper()
	all := map[string]any{"iss": foreignIssuer, "aud": "shop", "sub": "u1", "jti": "j1", "sid": "x", "role": nil}
	for k, v := range change {
		all[k] = v
	}
	header := map[string]any{}
	if kid != "" {
		header["kid"] = kid
	}
	return forge(t, method, key, header, all)
}

func TestForeignTokens(t *testing.T) {
	t.Parallel()
	a := newAbroad(t)
	signers := []struct {
		method jwt.SigningMethod
		key    any
		kid    string
	}{
		{jwt.SigningMethodRS256, a.keys.rsa, "r1"}, {jwt.SigningMethodES256, a.keys.ecdsa, "e1"}, {jwt.SigningMethodEdDSA, a.keys.ed25519, "d1"},
	}
	for _, s := range signers {
		got, err := a.Verify(abroadToken(t, s.method, s.key, s.kid, nil), now)
		if err != nil {
			t.Errorf("%s: %v", s.method.Alg(), err)
			continue
		}
		want := token.Claims{
			ID: "j1", Subject: "corp|u1", Role: identity.Customer, Session: "corp|x", IssuedAt: now.Truncate(time.Second), ExpiresAt: now.Add(time.Hour).Truncate(time.Second),
		}
		if diff := cmp.Diff(got, want); diff != "" {
			t.Errorf("%s: claims (-got +want):\n%s", s.method.Alg(), diff)
		}
	}
	if n := a.reads.Load(); n != 1 {
		t.Errorf("the keys were read %d times", n)
	}
	// Ours go on as ever.
	own, err := a.ring.Issue(claims())
	if err != nil {
		t.Fatal(err)
	}
	if got, err := a.Verify(own, now); err != nil || got != claims() {
		t.Errorf("a token of ours: %+v, %v", got, err)
	}
	b := newAbroad(t, withSecret)
	if _, err := b.Verify(abroadToken(t, jwt.SigningMethodHS256, []byte(sharedSecret), "", nil), now); err != nil {
		t.Errorf("HS256: %v", err)
	}
}

func TestForeignClaims(t *testing.T) {
	t.Parallel()
	a := newAbroad(t)
	for _, tt := range []struct {
		name   string
		change map[string]any
		role   identity.Role
		scopes identity.Scopes
	}{
		{"nothing said", nil, identity.Customer, ""},
		{"a role", map[string]any{"realm": map[string]any{"roles": "clerk"}}, identity.Staff, ""},
		{"the greatest of several", map[string]any{"realm": map[string]any{"roles": []string{"clerk", "boss", "x"}}}, identity.Admin, ""},
		{"whatever the order", map[string]any{"realm": map[string]any{"roles": []string{"boss", "clerk"}}}, identity.Admin, ""},
		{"a name with a dot", map[string]any{"realm.roles": []string{"clerk"}}, identity.Staff, ""},
		{"a role of ours is none of theirs", map[string]any{"role": "admin", "realm": map[string]any{"roles": []any{"admin", 7}}}, identity.Customer, ""},
		{"roles of another form", map[string]any{"realm": "boss"}, identity.Customer, ""},
		{"scope", map[string]any{"scope": "orders:read  orders:write"}, identity.Customer, "orders:read orders:write"},
		{"scp", map[string]any{"scp": []string{"orders:read", "a b"}, "scope": "orders:read"}, identity.Customer, "orders:read a b"},
	} {
		got, err := a.Verify(abroadToken(t, jwt.SigningMethodRS256, a.keys.rsa, "r1", tt.change), now)
		if err != nil || got.Role != tt.role || got.Scopes != tt.scopes {
			t.Errorf("%s: got %q and %q, %v; want %q and %q", tt.name, got.Role, got.Scopes, err, tt.role, tt.scopes)
		}
	}
}

// TestForeignTokensRefused: nobody but the issuer, with the algorithm it has, for us and now.
func TestForeignTokensRefused(t *testing.T) {
	t.Parallel()
	a := newAbroad(t)
	rs := func(change map[string]any) string {
		return abroadToken(t, jwt.SigningMethodRS256, a.keys.rsa, "r1", change)
	}
	der, err := x509.MarshalPKIXPublicKey(&a.keys.rsa.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	public := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
	good := rs(nil)
	parts := strings.Split(good, ".")
	const expired, notValid = "the access token has expired", "the access token is not valid"
	tests := []struct{ name, token, want string }{
		{"alg none", abroadToken(t, jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, "r1", nil), notValid},
		{"HS256 with the RSA public key as secret", abroadToken(t, jwt.SigningMethodHS256, public, "r1", nil), notValid},
		{"HS256 with the key's modulus as secret", abroadToken(t, jwt.SigningMethodHS256, a.keys.rsa.N.Bytes(), "r1", nil), notValid},
		{"HS256 with the Ed25519 public key as secret", abroadToken(t, jwt.SigningMethodHS256, []byte(a.keys.ed25519.Public().(ed25519.PublicKey)), "d1", nil), notValid},
		{"another key", abroadToken(t, jwt.SigningMethodRS256, a.keys.otherRSA, "r1", nil), notValid},
		{"swapped kid", abroadToken(t, jwt.SigningMethodRS256, a.keys.rsa, "e1", nil), notValid},
		{"a key of another algorithm", abroadToken(t, jwt.SigningMethodES256, a.keys.ecdsa, "r1", nil), notValid},
		{"another form of RSA", abroadToken(t, jwt.SigningMethodPS256, a.keys.rsa, "r1", nil), notValid},
		{"another length", abroadToken(t, jwt.SigningMethodRS512, a.keys.rsa, "r1", nil), notValid},
		{"unknown kid", abroadToken(t, jwt.SigningMethodRS256, a.keys.rsa, "r9", nil), notValid},
		{"no kid", abroadToken(t, jwt.SigningMethodRS256, a.keys.rsa, "", nil), notValid},
		{"our key", abroadToken(t, jwt.SigningMethodEdDSA, a.own.Private, a.own.ID, nil), notValid},
		{"another audience", rs(map[string]any{"aud": "bank"}), notValid},
		{"no audience", rs(map[string]any{"aud": nil}), notValid},
		{"expired", rs(map[string]any{"exp": now.Add(-time.Minute).Unix()}), expired},
		{"no expiry", rs(map[string]any{"exp": nil}), notValid},
		{"not yet", rs(map[string]any{"nbf": now.Add(time.Minute).Unix()}), notValid},
		{"issued in the future", rs(map[string]any{"iat": now.Add(time.Minute).Unix()}), notValid},
		{"no subject", rs(map[string]any{"sub": nil}), notValid},
		{"a number as subject", rs(map[string]any{"sub": 7}), notValid},
		{"a subject with control characters", rs(map[string]any{"sub": "u\n1"}), notValid},
		{"a long subject", rs(map[string]any{"sub": strings.Repeat("u", 300)}), notValid},
		{"a critical header", forge(t, jwt.SigningMethodRS256, a.keys.rsa, map[string]any{"kid": "r1", "crit": []string{"b64"}}, map[string]any{"iss": foreignIssuer, "aud": "shop"}), notValid},
		{"another issuer", rs(map[string]any{"iss": "https://id.example"}), notValid},
		{"our name as issuer", rs(map[string]any{"iss": "banyan", "aud": "banyan"}), notValid},
		{"an issuer by another spelling of iss", rs(map[string]any{"iss": nil, "Iss": foreignIssuer}), notValid},
		{"issuers", rs(map[string]any{"iss": []string{foreignIssuer}}), notValid},
		{"no signature", parts[0] + "." + parts[1] + ".", notValid},
		{"no token", "x", notValid},
		{"too long", rs(map[string]any{"x": strings.Repeat("x", token.MaxSize)}), notValid},
	}
	if _, err := a.Verify(good, now); err != nil {
		t.Fatalf("the token that the others are made of: %v", err)
	}
	for _, tt := range tests {
		got, err := a.Verify(tt.token, now)
		if err == nil || err.Error() != tt.want || errs.KindOf(err) != errs.Unauthenticated {
			t.Errorf("%s: got %v (%s), want %q", tt.name, err, errs.KindOf(err), tt.want)
		}
		if got != (token.Claims{}) {
			t.Errorf("%s: claims of a refused token: %v", tt.name, got)
		}
	}
	b := newAbroad(t, withSecret)
	for name, signed := range map[string]string{
		"another secret":              abroadToken(t, jwt.SigningMethodHS256, []byte(sharedSecret+"x"), "", nil),
		"HS512":                       abroadToken(t, jwt.SigningMethodHS512, []byte(sharedSecret), "", nil),
		"RS256 where HS256 is due":    abroadToken(t, jwt.SigningMethodRS256, b.keys.rsa, "r1", nil),
		"alg none where HS256 is due": abroadToken(t, jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, "", nil),
	} {
		if _, err := b.Verify(signed, now); errs.KindOf(err) != errs.Unauthenticated {
			t.Errorf("%s: %v", name, err)
		}
	}
	only := newAbroad(t, func(c *token.IssuerConfig) { c.Algorithms = []string{"ES256"} })
	if _, err := only.Verify(abroadToken(t, jwt.SigningMethodRS256, only.keys.rsa, "r1", nil), now); err == nil {
		t.Error("an algorithm that is not configured is believed")
	}
}

// TestForeignUserIsNobodyOfOurs: whatever a foreign issuer says, it names users of its own.
func TestForeignUserIsNobodyOfOurs(t *testing.T) {
	t.Parallel()
	a := newAbroad(t)
	for _, subject := range []string{"u1", "corp|u1", "|u1", "0192f7c2-0000-7000-8000-000000000000"} {
		got, err := a.Verify(abroadToken(t, jwt.SigningMethodRS256, a.keys.rsa, "r1", map[string]any{"sub": subject, "sid": "s1"}), now)
		if err != nil || got.Subject != "corp|"+subject || got.Session != "corp|s1" {
			t.Errorf("%s: %q in session %q, %v", subject, got.Subject, got.Session, err)
		}
	}
}

func TestUnfitKeysAreLeftOut(t *testing.T) {
	t.Parallel()
	a := newAbroad(t)
	octet := map[string]string{"kty": "oct", "kid": "o1", "k": b64([]byte(sharedSecret))}
	a.publish(
		octet, map[string]string{"kty": "RSA", "kid": "broken", "n": "?", "e": "AQAB"}, map[string]string{"kid": "typeless"},
		rsaJWK("weak", a.keys.weakRSA), with(rsaJWK("encrypts", a.keys.rsa), "use", "enc"), with(rsaJWK("other", a.keys.rsa), "alg", "PS256"),
		rsaJWK("r1", a.keys.rsa),
	)
	for kid, key := range map[string]*rsa.PrivateKey{"weak": a.keys.weakRSA, "encrypts": a.keys.rsa, "other": a.keys.rsa} {
		if _, err := a.Verify(abroadToken(t, jwt.SigningMethodRS256, key, kid, nil), now); errs.KindOf(err) != errs.Unauthenticated {
			t.Errorf("%s: %v", kid, err)
		}
	}
	if _, err := a.Verify(abroadToken(t, jwt.SigningMethodHS256, []byte(sharedSecret), "o1", nil), now); errs.KindOf(err) != errs.Unauthenticated {
		t.Errorf("a published secret: %v", err)
	}
	if _, err := a.Verify(abroadToken(t, jwt.SigningMethodRS256, a.keys.rsa, "r1", nil), now); err != nil {
		t.Errorf("the good key beside them: %v", err)
	}
}

// TestStrangeKeysDoNotFlood: whoever makes up key ids makes us ask the issuer once, not each time.
func TestStrangeKeysDoNotFlood(t *testing.T) {
	t.Parallel()
	a := newAbroad(t)
	var wg sync.WaitGroup
	for i := range 200 {
		wg.Go(func() {
			_, err := a.Verify(abroadToken(t, jwt.SigningMethodEdDSA, a.keys.ed25519, "made-up-"+strconv.Itoa(i), nil), now)
			if errs.KindOf(err) != errs.Unauthenticated {
				t.Errorf("made-up %d: %v", i, err)
			}
		})
	}
	wg.Wait()
	if n := a.reads.Load(); n != 1 {
		t.Errorf("the keys were read %d times", n)
	}
	a.clock.Advance(time.Minute)
	if _, err := a.Verify(abroadToken(t, jwt.SigningMethodRS256, a.keys.rsa, "", nil), now); err == nil || a.reads.Load() != 1 {
		t.Errorf("a token without key id: %v, the keys were read %d times", err, a.reads.Load())
	}
	if _, err := a.Verify(abroadToken(t, jwt.SigningMethodRS256, a.keys.rsa, "x", nil), now); err == nil || a.reads.Load() != 2 {
		t.Errorf("a strange key after the pause: %v, the keys were read %d times", err, a.reads.Load())
	}
	// A key that the issuer has begun to use is found, once the pause is over.
	a.publish(rsaJWK("r2", a.keys.otherRSA))
	fresh := abroadToken(t, jwt.SigningMethodRS256, a.keys.otherRSA, "r2", nil)
	if _, err := a.Verify(fresh, now); errs.KindOf(err) != errs.Unauthenticated {
		t.Errorf("within the pause: %v", err)
	}
	a.clock.Advance(11 * time.Second)
	if _, err := a.Verify(fresh, now); err != nil {
		t.Errorf("after the pause: %v", err)
	}
	if _, err := a.Verify(abroadToken(t, jwt.SigningMethodRS256, a.keys.rsa, "r1", nil), now); errs.KindOf(err) != errs.Unauthenticated {
		t.Errorf("a key that the issuer took back: %v", err)
	}
	if n := a.reads.Load(); n != 3 {
		t.Errorf("the keys were read %d times", n)
	}
}

// TestIssuerIsDown: known keys are used for a day, and without any the answer is to come back later.
func TestIssuerIsDown(t *testing.T) {
	t.Parallel()
	a := newAbroad(t)
	good := abroadToken(t, jwt.SigningMethodRS256, a.keys.rsa, "r1", nil)
	key, err := json.Marshal(rsaJWK("r1", a.keys.rsa))
	if err != nil {
		t.Fatal(err)
	}
	// Each of them would do, but for the one thing that is wrong with it.
	set := func(more string) string { return `{"keys":[` + more + string(key) + `]}` }
	for name, h := range map[string]http.HandlerFunc{
		"an error": func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusInternalServerError)
			_, _ = io.WriteString(w, set(""))
		},
		"no keys": func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, `{"keys":[]}`) },
		"no JSON": func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, `<html>`) },
		"too large": func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, set(strings.Repeat(" ", 600<<10)))
		},
		"too many": func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, set(strings.Repeat("{},", 100)))
		},
		"a redirect to clear text": func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/moved" {
				_, _ = io.WriteString(w, set(""))
				return
			}
			_, port, _ := strings.Cut(r.Host, ":")
			http.Redirect(w, r, "http://0.0.0.0:"+port+"/moved", http.StatusFound)
		},
		"a broken connection": func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
	} {
		a.answer(h)
		a.clock.Advance(time.Minute)
		if _, err := a.Verify(good, now); errs.KindOf(err) != errs.Unavailable {
			t.Errorf("%s: %v", name, err)
		}
	}
	a.publish(rsaJWK("r1", a.keys.rsa))
	a.clock.Advance(time.Minute)
	if _, err := a.Verify(good, now); err != nil {
		t.Fatal(err)
	}
	a.answer(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) })
	a.clock.Advance(23 * time.Hour)
	if _, err := a.Verify(good, now); err != nil {
		t.Errorf("within a day: %v", err)
	}
	if _, err := a.Verify(abroadToken(t, jwt.SigningMethodRS256, a.keys.rsa, "r9", nil), now); errs.KindOf(err) != errs.Unauthenticated {
		t.Errorf("an unknown key: %v", err)
	}
	a.clock.Advance(2 * time.Hour)
	if _, err := a.Verify(good, now); errs.KindOf(err) != errs.Unavailable {
		t.Errorf("after a day: %v", err)
	}
}

// TestRunReadsKeys: without a token the keys are read at the start, and again and again.
func TestRunReadsKeys(t *testing.T) {
	t.Parallel()
	a := newAbroad(t)
	read := make(chan struct{})
	a.answer(func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(map[string]any{"keys": []any{rsaJWK("r1", a.keys.rsa)}})
		read <- struct{}{}
	})
	done := make(chan error, 1)
	ctx, cancel := context.WithCancel(t.Context())
	go func() { done <- a.Run(ctx) }()
	<-read
	for again := false; !again; {
		// Until Run sleeps, the clock has nobody to wake.
		a.clock.Advance(15 * time.Minute)
		select {
		case <-read:
			again = true
		case <-time.After(10 * time.Millisecond):
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestValidateIssuers(t *testing.T) {
	t.Parallel()
	good := token.IssuerConfig{Name: "corp", Issuer: foreignIssuer, JWKSURL: "https://id.example/keys", Algorithms: []string{"RS256"}, Audiences: []string{"shop"}}
	secretly := token.IssuerConfig{Name: "old", Issuer: "old", Secret: sharedSecret, Algorithms: []string{"HS256"}, Audiences: []string{"shop"}}
	if err := token.ValidateIssuers("gateway.issuers", []token.IssuerConfig{good, secretly}); err != nil {
		t.Error(err)
	}
	for want, spoil := range map[string]func(*token.IssuerConfig){
		"gateway.issuers[0].name":                          func(c *token.IssuerConfig) { c.Name = "a|b" },
		"gateway.issuers[0].issuer: is e":                  func(c *token.IssuerConfig) { c.Issuer = "" },
		"gateway.issuers[0].issuer: \"ban":                 func(c *token.IssuerConfig) { c.Issuer = "banyan" },
		"gateway.issuers[0].jwks_url: is":                  func(c *token.IssuerConfig) { c.JWKSURL = "" },
		"gateway.issuers[0].jwks_url: \"http://id.example": func(c *token.IssuerConfig) { c.JWKSURL = "http://id.example/keys" },
		"gateway.issuers[0].jwks_url: \"https://u:xxxxx@":  func(c *token.IssuerConfig) { c.JWKSURL = "https://u:hunter2@id.example/keys" },
		"gateway.issuers[0].jwks_url: \"/keys":             func(c *token.IssuerConfig) { c.JWKSURL = "/keys" },
		"gateway.issuers[0].secret: cannot":                func(c *token.IssuerConfig) { c.Secret = sharedSecret },
		"gateway.issuers[0].secret: has less": func(c *token.IssuerConfig) {
			c.JWKSURL, c.Secret, c.Algorithms = "", secret.Text("short"), []string{"HS256"}
		},
		"gateway.issuers[0].algorithms: is":        func(c *token.IssuerConfig) { c.Algorithms = nil },
		"gateway.issuers[0].algorithms: \"HS256\"": func(c *token.IssuerConfig) { c.Algorithms = []string{"HS256"} },
		"gateway.issuers[0].algorithms: \"none\"":  func(c *token.IssuerConfig) { c.Algorithms = []string{"none"} },
		"gateway.issuers[0].algorithms: \"RS256\"": func(c *token.IssuerConfig) { c.JWKSURL, c.Secret = "", sharedSecret },
		"gateway.issuers[0].audiences":             func(c *token.IssuerConfig) { c.Audiences = nil },
		"gateway.issuers[0].role_claim":            func(c *token.IssuerConfig) { c.Roles = []token.RoleConfig{{Claim: "x", Role: identity.Staff}} },
		"gateway.issuers[0].roles[0].role: \"root\"": func(c *token.IssuerConfig) {
			c.RoleClaim, c.Roles = "r", []token.RoleConfig{{Claim: "x", Role: "root"}}
		},
	} {
		c := good
		spoil(&c)
		err := token.ValidateIssuers("gateway.issuers", []token.IssuerConfig{c})
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("got %v, want %s", err, want)
		}
		if _, err := token.NewVerifier(newRing(t, newKey(t)), []token.IssuerConfig{c}, nil, nil); err == nil {
			t.Errorf("%s: a verifier was made", want)
		}
	}
	if err := token.ValidateIssuers("gateway.issuers", []token.IssuerConfig{good, good}); err == nil || !strings.Contains(err.Error(), "gateway.issuers[1].issuer") {
		t.Errorf("twice: %v", err)
	}
}

// TestKeySetGivesPublicKeys: a process that has no store of ours gets our keys from our own key set.
func TestKeySetGivesPublicKeys(t *testing.T) {
	t.Parallel()
	ring := newRing(t, newKey(t), newKey(t))
	server := httptest.NewServer(token.JWKSHandler(ring.JWKS))
	t.Cleanup(server.Close)
	set, err := token.NewKeySet(server.URL, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ring.Signer()
	if err != nil {
		t.Fatal(err)
	}
	if got, ok := set.Public(signer.ID); !ok || !got.Equal(signer.Public) {
		t.Errorf("got %x, %v", got, ok)
	}
	if _, ok := set.Public("x"); ok {
		t.Error("there is a key x")
	}
}

func TestJWKSMayBeCached(t *testing.T) {
	t.Parallel()
	ring := newRing(t, newKey(t))
	w := httptest.NewRecorder()
	token.JWKSHandler(ring.JWKS).ServeHTTP(w, httptest.NewRequest("GET", "/.well-known/jwks.json", nil))
	want := http.Header{"Content-Type": {"application/jwk-set+json"}, "Cache-Control": {"public, max-age=60"}, "Content-Length": {strconv.Itoa(len(ring.JWKS()))}}
	if diff := cmp.Diff(w.Header(), want); diff != "" || w.Body.String() != string(ring.JWKS()) {
		t.Errorf("header (-got +want):\n%s\nbody %s", diff, w.Body)
	}
}

func TestVerifyingKeysDoNotSign(t *testing.T) {
	t.Parallel()
	older, newer := newKey(t), newKey(t)
	newer.CreatedAt = older.CreatedAt.Add(time.Hour)
	ring := newRing(t, older, newer.Verifying())
	signed, err := ring.Issue(claims())
	if err != nil {
		t.Fatal(err)
	}
	if got := token.UnverifiedKeyID(signed); got != older.ID {
		t.Errorf("signed with %s, want the only key that signs", got)
	}
	public, err := token.PublicKey(newer.Public, newer.CreatedAt)
	if err != nil || public.ID != newer.ID {
		t.Fatalf("id %s, %v", public.ID, err)
	}
	if _, err := newRing(t, public).Issue(claims()); err == nil {
		t.Error("a token was signed without a key")
	}
	theirs, err := newRing(t, newer).Issue(claims())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := newRing(t, public).Verify(theirs, now); err != nil {
		t.Error(err)
	}
}

func TestTokensAreShortLived(t *testing.T) {
	t.Parallel()
	c := claims()
	c.ExpiresAt = c.IssuedAt.Add(token.MaxLife + time.Second)
	if _, err := newRing(t, newKey(t)).Issue(c); err == nil {
		t.Error("a token outlives the key that checks it")
	}
}

func BenchmarkVerify(b *testing.B) {
	a := newAbroad(b)
	own, err := a.ring.Issue(claims())
	if err != nil {
		b.Fatal(err)
	}
	for name, signed := range map[string]string{
		"own":   own,
		"RS256": abroadToken(b, jwt.SigningMethodRS256, a.keys.rsa, "r1", nil),
		"ES256": abroadToken(b, jwt.SigningMethodES256, a.keys.ecdsa, "e1", nil),
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := a.Verify(signed, now); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
