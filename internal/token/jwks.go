package token

import (
	"net/http"
	"strconv"
	"time"
)

// JWKSMaxAge is how long others may keep our key set. A new key is in it for longer than that before it signs.
const JWKSMaxAge = time.Minute

// JWKSHandler serves a JSON Web Key Set; /.well-known/jwks.json is where it is looked for.
func JWKSHandler(set func() []byte) http.Handler {
	cache := "public, max-age=" + strconv.Itoa(int(JWKSMaxAge.Seconds()))
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		body := set()
		h := w.Header()
		h.Set("Content-Type", "application/jwk-set+json")
		h.Set("Cache-Control", cache)
		h.Set("Content-Length", strconv.Itoa(len(body)))
		_, _ = w.Write(body)
	})
}
