package proxy

import (
	"crypto/rand"
	"crypto/sha256"
	"net/http"
	"strings"
	"time"

	"github.com/banyan-go/banyan/internal/token"
)

// guestCookie makes a visitor who is not signed in sticky in canaries. It names nobody: a random text that decides the bucket, signed
// so that nobody chooses it. Over plain HTTP there is none, and such visitors are answered here.
const guestCookie = "__Host-banyan-bucket"

const (
	guestLife  = 30 * 24 * time.Hour
	guestCheck = 5 * time.Minute // how long a cookie is believed without a look
)

// takeCookie takes our cookie out of the request: no module sees it, and with it alone a visitor is a stranger to caches. More than one
// are none.
func takeCookie(h http.Header) string {
	given, found := "", 0
	lines := h["Cookie"]
	for i, line := range lines {
		if !strings.Contains(line, guestCookie) {
			continue
		}
		var others []string
		for part := range strings.SplitSeq(line, ";") {
			if name, value, _ := strings.Cut(strings.TrimSpace(part), "="); name == guestCookie {
				given = value
				found++
			} else {
				others = append(others, strings.TrimSpace(part))
			}
		}
		lines[i] = strings.Join(others, "; ")
	}
	if found == 0 {
		return ""
	}
	var left []string
	for _, line := range lines {
		if line != "" {
			left = append(left, line)
		}
	}
	if delete(h, "Cookie"); len(left) > 0 {
		h["Cookie"] = left
	}
	if found > 1 {
		return ""
	}
	return given
}

// welcome finds out which guest asks, or makes a new one. Whoever makes us look at too many cookies is nobody's guest.
func (x *exchange) welcome(given string) {
	g, now := x.g, x.g.clock.Now()
	id := ""
	if given != "" {
		hash := sha256.Sum256([]byte(given))
		if known, ok := g.visitors.get(hash, now); ok {
			x.guest = known.Subject
			return
		}
		if g.verifications != nil {
			if _, wait := g.verifications.take(x.client.key, now); wait > 0 {
				return
			}
		}
		text, young, ok := g.signer.Unseal("bucket", given)
		if ok {
			x.guest = "guest:" + text
			g.visitors.put(hash, token.Claims{Subject: x.guest, ExpiresAt: now.Add(guestCheck)})
			if young {
				return
			}
			id = text // under the new key
		}
	}
	if id == "" {
		id = rand.Text()
	}
	sealed, err := g.signer.Seal("bucket", id)
	if err != nil {
		g.log.Error("a visitor gets no bucket", "error", err)
		return
	}
	x.guest = "guest:" + id
	http.SetCookie(&x.answer, &http.Cookie{
		Name: guestCookie, Value: sealed, Path: "/", MaxAge: int(guestLife / time.Second), Secure: true, HttpOnly: true, SameSite: http.SameSiteLaxMode,
	})
}
