package token_test

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/google/go-cmp/cmp"

	"github.com/banyan-go/banyan/internal/errs"
	"github.com/banyan-go/banyan/internal/identity"
	"github.com/banyan-go/banyan/internal/token"
)

var now = time.Date(2026, 11, 2, 10, 0, 0, 123456000, time.UTC)

func newKey(t testing.TB) token.Key {
	t.Helper()
	k, err := token.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func newRing(t testing.TB, keys ...token.Key) *token.Keyring {
	t.Helper()
	ring, err := token.NewKeyring(keys...)
	if err != nil {
		t.Fatal(err)
	}
	return ring
}

func claims() token.Claims {
	return token.Claims{ID: "t1", Subject: "u1", Role: identity.Staff, Session: "s1", IssuedAt: now, ExpiresAt: now.Add(15 * time.Minute)}
}

func TestIssueAndVerify(t *testing.T) {
	t.Parallel()
	ring := newRing(t, newKey(t))
	signed, err := ring.Issue(claims())
	if err != nil {
		t.Fatal(err)
	}
	got, err := ring.Verify(signed, now.Add(time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(got, claims()); diff != "" {
		t.Errorf("claims (-got +want):\n%s", diff)
	}
	if got, want := got.Identity(), (identity.Identity{Subject: "u1", Role: identity.Staff, Session: "s1"}); got != want {
		t.Errorf("identity: got %v, want %v", got, want)
	}
}

func TestIssueRefusesIncompleteClaims(t *testing.T) {
	t.Parallel()
	ring := newRing(t, newKey(t))
	for name, spoil := range map[string]func(*token.Claims){
		"no subject":          func(c *token.Claims) { c.Subject = "" },
		"no session":          func(c *token.Claims) { c.Session = "" },
		"no time":             func(c *token.Claims) { c.IssuedAt = time.Time{} },
		"expired when issued": func(c *token.Claims) { c.ExpiresAt = c.IssuedAt },
		"unknown role":        func(c *token.Claims) { c.Role = "root" },
		"too long":            func(c *token.Claims) { c.Subject = strings.Repeat("u", token.MaxSize) },
	} {
		c := claims()
		spoil(&c)
		if _, err := ring.Issue(c); err == nil {
			t.Errorf("%s: issued", name)
		}
	}
}

// forge signs whatever it is told to, as nobody but the owner of the key could.
func forge(t testing.TB, method jwt.SigningMethod, key any, header map[string]any, change map[string]any) string {
	t.Helper()
	c := jwt.MapClaims{
		"iss": "banyan", "aud": "banyan", "jti": "t1", "sub": "u1", "role": "admin", "sid": "s1",
		"iat": now.Unix(), "exp": now.Add(time.Hour).Unix(),
	}
	for k, v := range change {
		if v == nil {
			delete(c, k)
			continue
		}
		c[k] = v
	}
	tok := jwt.NewWithClaims(method, c)
	maps.Copy(tok.Header, header)
	s, err := tok.SignedString(key)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestVerifyRefuses(t *testing.T) {
	t.Parallel()
	key := newKey(t)
	other := newKey(t)
	ring := newRing(t, key)
	kid := map[string]any{"kid": key.ID}
	public := key.Private.Public().(ed25519.PublicKey)
	good := forge(t, jwt.SigningMethodEdDSA, key.Private, kid, nil)
	if _, err := ring.Verify(good, now); err != nil {
		t.Fatalf("the token that the others are made of is refused: %v", err)
	}
	signed := func(change map[string]any) string { return forge(t, jwt.SigningMethodEdDSA, key.Private, kid, change) }
	parts := strings.Split(good, ".")
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		t.Fatal(err)
	}
	changed := base64.RawURLEncoding.EncodeToString([]byte(strings.Replace(string(payload), "u1", "u2", 1)))

	const expired, notValid = "the access token has expired", "the access token is not valid"
	tests := []struct{ name, token, want string }{
		{"nothing", "", notValid},
		{"no token at all", "a.b.c", notValid},
		{"alg none", forge(t, jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, kid, nil), notValid},
		{"HS256 with the public key as secret", forge(t, jwt.SigningMethodHS256, []byte(public), kid, nil), notValid},
		{"another issuer", signed(map[string]any{"iss": "someone"}), notValid},
		{"no issuer", signed(map[string]any{"iss": nil}), notValid},
		{"another audience", signed(map[string]any{"aud": "someone"}), notValid},
		{"no audience", signed(map[string]any{"aud": nil}), notValid},
		{"expired", signed(map[string]any{"exp": now.Add(-time.Second).Unix()}), expired},
		{"expired and of another issuer", signed(map[string]any{"exp": now.Add(-time.Second).Unix(), "iss": "someone"}), notValid},
		{"no expiry", signed(map[string]any{"exp": nil}), notValid},
		{"expiry is text", signed(map[string]any{"exp": "tomorrow"}), notValid},
		{"expiry is absurd", signed(map[string]any{"exp": 1e300}), notValid},
		{"no time of issue", signed(map[string]any{"iat": nil}), notValid},
		{"no subject", signed(map[string]any{"sub": nil}), notValid},
		{"no session", signed(map[string]any{"sid": nil}), notValid},
		{"no id", signed(map[string]any{"jti": nil}), notValid},
		{"unknown role", signed(map[string]any{"role": "root"}), notValid},
		{"no role", signed(map[string]any{"role": nil}), notValid},
		{"no kid", forge(t, jwt.SigningMethodEdDSA, key.Private, nil, nil), notValid},
		{"kid is a number", forge(t, jwt.SigningMethodEdDSA, key.Private, map[string]any{"kid": 1}, nil), notValid},
		{"unknown kid", forge(t, jwt.SigningMethodEdDSA, other.Private, map[string]any{"kid": other.ID}, nil), notValid},
		{"known kid, unknown key", forge(t, jwt.SigningMethodEdDSA, other.Private, kid, nil), notValid},
		{"critical header", forge(t, jwt.SigningMethodEdDSA, key.Private, map[string]any{"kid": key.ID, "crit": []string{"exp"}}, nil), notValid},
		{"changed payload", parts[0] + "." + changed + "." + parts[2], notValid},
		{"no signature", parts[0] + "." + parts[1] + ".", notValid},
		{"padding", good + "=", notValid},
		{"too long", signed(map[string]any{"jti": strings.Repeat("x", token.MaxSize)}), notValid},
	}
	for _, tt := range tests {
		got, err := ring.Verify(tt.token, now)
		if err == nil || err.Error() != tt.want || errs.KindOf(err) != errs.Unauthenticated {
			t.Errorf("%s: got %v (%s), want %q", tt.name, err, errs.KindOf(err), tt.want)
		}
		if got != (token.Claims{}) {
			t.Errorf("%s: claims of a refused token: %v", tt.name, got)
		}
	}
}

func TestNewestKeySigns(t *testing.T) {
	t.Parallel()
	first, second := newKey(t), newKey(t)
	second.CreatedAt = first.CreatedAt.Add(time.Hour)
	before, both, after := newRing(t, first), newRing(t, first, second), newRing(t, second)

	old, err := before.Issue(claims())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := both.Verify(old, now); err != nil {
		t.Errorf("a token of the older key: %v", err)
	}
	fresh, err := both.Issue(claims())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := after.Verify(fresh, now); err != nil {
		t.Errorf("the ring did not sign with the newer key: %v", err)
	}
	if _, err := after.Verify(old, now); err == nil {
		t.Error("a token of a key that was taken away is believed")
	}
}

func TestKeyringRefuses(t *testing.T) {
	t.Parallel()
	k := newKey(t)
	for name, keys := range map[string][]token.Key{
		"nothing":   nil,
		"twice":     {k, k},
		"no id":     {{Private: k.Private}},
		"short key": {{ID: "x", Private: k.Private[:10]}},
	} {
		if _, err := token.NewKeyring(keys...); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestKeyIsStored(t *testing.T) {
	t.Parallel()
	k := newKey(t)
	b, err := k.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	got, err := token.ParseKey(b)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(got, k); diff != "" {
		t.Errorf("key (-got +want):\n%s", diff)
	}
	for name, bad := range map[string][]byte{
		"empty": nil, "text": []byte("hello"), "two keys": append(append([]byte{}, b...), b...),
		"broken": []byte("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"),
	} {
		if _, err := token.ParseKey(bad); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestJWKSHoldsPublicKeysOnly(t *testing.T) {
	t.Parallel()
	k := newKey(t)
	var set struct{ Keys []map[string]string }
	if err := json.Unmarshal(newRing(t, k).JWKS(), &set); err != nil {
		t.Fatal(err)
	}
	want := []map[string]string{{
		"kty": "OKP", "crv": "Ed25519", "use": "sig", "alg": "EdDSA", "kid": k.ID,
		"x": base64.RawURLEncoding.EncodeToString(k.Private.Public().(ed25519.PublicKey)),
	}}
	if diff := cmp.Diff(set.Keys, want); diff != "" {
		t.Errorf("keys (-got +want):\n%s", diff)
	}
}

// FuzzVerify: whatever is sent, only a token that the ring issued itself is believed, byte for byte.
func FuzzVerify(f *testing.F) {
	ring := newRing(f, newKey(f))
	issued := map[string]bool{}
	for _, subject := range []string{"u1", "u2"} {
		c := claims()
		c.Subject = subject
		signed, err := ring.Issue(c)
		if err != nil {
			f.Fatal(err)
		}
		issued[signed] = true
		f.Add(signed)
		f.Add(signed[:len(signed)-1])
		f.Add(strings.ToLower(signed))
	}
	_, foreign, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(forge(f, jwt.SigningMethodEdDSA, foreign, map[string]any{"kid": "x"}, nil))
	f.Add(forge(f, jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, nil, nil))
	f.Add("..")
	f.Add("e30.e30.")
	f.Fuzz(func(t *testing.T, s string) {
		_, err := ring.Verify(s, now)
		if err == nil && !issued[s] {
			t.Fatalf("believed: %q", s)
		}
		if err != nil && errs.KindOf(err) != errs.Unauthenticated {
			t.Fatalf("kind of %v", err)
		}
	})
}
