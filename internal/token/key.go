package token

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"time"
)

// Key signs tokens, or only verifies them. Its id is the thumbprint of its public half, so that a key has the same id
// wherever it is read.
type Key struct {
	ID        string
	Private   ed25519.PrivateKey // nil if it only verifies
	Public    ed25519.PublicKey
	CreatedAt time.Time
}

// Verifying is the key without the half that signs.
func (k Key) Verifying() Key {
	k.Private = nil
	return k
}

// PublicKey is a key of which only the public half is known.
func PublicKey(public ed25519.PublicKey, createdAt time.Time) (Key, error) {
	if len(public) != ed25519.PublicKeySize {
		return Key{}, errors.New("public key: it is not an Ed25519 key")
	}
	return Key{ID: thumbprint(public), Public: public, CreatedAt: createdAt}, nil
}

const (
	pemType       = "PRIVATE KEY"
	createdHeader = "Created-At"
)

// NewKey makes a fresh key.
func NewKey() (Key, error) {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return Key{}, fmt.Errorf("make a signing key: %w", err)
	}
	return Key{ID: thumbprint(public), Private: private, Public: public, CreatedAt: time.Now().UTC().Truncate(time.Second)}, nil
}

// Marshal is the key for storage: PKCS #8 in PEM, which other tools read too, with its age as a header.
func (k Key) Marshal() ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(k.Private)
	if err != nil {
		return nil, fmt.Errorf("encode signing key: %w", err)
	}
	block := &pem.Block{Type: pemType, Bytes: der}
	if !k.CreatedAt.IsZero() {
		block.Headers = map[string]string{createdHeader: k.CreatedAt.UTC().Format(time.RFC3339)}
	}
	return pem.EncodeToMemory(block), nil
}

// ParseKey reads what Marshal wrote. A key made by another tool has no age and signs only if it is alone.
func ParseKey(b []byte) (Key, error) {
	block, rest := pem.Decode(b)
	if block == nil || block.Type != pemType {
		return Key{}, fmt.Errorf("signing key: no PEM block of the type %q", pemType)
	}
	if next, _ := pem.Decode(rest); next != nil {
		return Key{}, errors.New("signing key: more than one PEM block")
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return Key{}, fmt.Errorf("signing key: %w", err)
	}
	private, ok := parsed.(ed25519.PrivateKey)
	if !ok {
		return Key{}, fmt.Errorf("signing key: %T is not Ed25519", parsed)
	}
	public := private.Public().(ed25519.PublicKey)
	k := Key{ID: thumbprint(public), Private: private, Public: public}
	if at := block.Headers[createdHeader]; at != "" {
		if k.CreatedAt, err = time.Parse(time.RFC3339, at); err != nil {
			return Key{}, fmt.Errorf("signing key: %s: %w", createdHeader, err)
		}
	}
	return k, nil
}

// thumbprint is the RFC 7638 thumbprint of the public key.
func thumbprint(public ed25519.PublicKey) string {
	canonical := fmt.Sprintf(`{"crv":"Ed25519","kty":"OKP","x":"%s"}`, base64.RawURLEncoding.EncodeToString(public))
	sum := sha256.Sum256([]byte(canonical))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}
