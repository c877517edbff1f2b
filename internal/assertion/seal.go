package assertion

import (
	"crypto/ed25519"
	"fmt"
	"strings"
)

// Seal signs a short text of letters, digits, - and _ for the gateway itself, who gives it to a client and wants to know it again.
// kind says what it is for: what was sealed for one thing is nothing for another, and is no token and no assertion.
func (s *Signer) Seal(kind, text string) (string, error) {
	key, err := s.key()
	if err != nil {
		return "", fmt.Errorf("seal: %w", err)
	}
	if strings.Trim(text, letters) != "" || strings.Contains(key.id, ".") {
		return "", fmt.Errorf("seal: what is sealed must be letters and digits")
	}
	signature := ed25519.Sign(key.private, sealed(kind, text, key.id))
	return text + "." + key.id + "." + strict.EncodeToString(signature), nil
}

// Unseal is the text that any replica has sealed. young is false if a newer key signs by now: whoever wants to know the text for
// longer seals it again.
func (s *Signer) Unseal(kind, given string) (text string, young, ok bool) {
	parts := strings.Split(given, ".")
	if len(parts) != 3 || len(given) > 512 {
		return "", false, false
	}
	signature, err := strict.DecodeString(parts[2])
	if err != nil || len(signature) != ed25519.SignatureSize {
		return "", false, false
	}
	public, known := s.keys.Public(parts[1])
	if !known || !ed25519.Verify(public, sealed(kind, parts[0], parts[1]), signature) {
		return "", false, false
	}
	key, err := s.key()
	return parts[0], err == nil && key.id == parts[1], true
}

const letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_"

// sealed is what is signed. No JWT holds a NUL, so none can be taken for it.
func sealed(kind, text, key string) []byte {
	return []byte("banyan seal\x00" + kind + "\x00" + text + "\x00" + key)
}
