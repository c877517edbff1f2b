package replay

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"time"
)

// adminEmail is the account that a shop has from its first start.
const adminEmail = "admin@banyan.local"

// session is what signing in gave.
type session struct {
	access, refresh string
	renewAt         time.Time
}

// token is an access token that is good for a while.
func (c *client) token(ctx context.Context) (string, error) {
	c.signIn.Lock()
	defer c.signIn.Unlock()
	if c.session.access != "" && time.Now().Before(c.session.renewAt) {
		return c.session.access, nil
	}
	if c.session.refresh != "" {
		err := c.open(ctx, "/api/auth/refresh", map[string]string{"refresh_token": c.session.refresh})
		if err == nil {
			return c.session.access, nil
		}
		if !refused(err, http.StatusUnauthorized) {
			return "", err
		}
		// The session has ended; the password opens another one.
		c.session = session{}
	}
	err := c.open(ctx, "/api/auth/login", map[string]string{"email": adminEmail, "password": c.password})
	if refused(err, http.StatusUnauthorized) {
		return "", fmt.Errorf("sign in as %s: the shop does not take the password; is BANYAN_ADMIN_PASSWORD that of this shop?", adminEmail)
	}
	return c.session.access, err
}

// open makes a session of what a request for tokens is answered.
func (c *client) open(ctx context.Context, path string, in any) error {
	body, err := json.Marshal(in)
	if err != nil {
		return err
	}
	var out struct {
		AccessToken  string `json:"access_token"`
		ExpiresIn    int    `json:"expires_in"` // seconds
		RefreshToken string `json:"refresh_token"`
	}
	asked := time.Now()
	if err := c.ask(ctx, http.MethodPost, path, "", "", body, &out); err != nil {
		return err
	}
	if out.AccessToken == "" {
		return fmt.Errorf("POST %s: the shop gave no token", path)
	}
	// A fifth of its life is kept back: a token must not expire under way.
	life := time.Duration(out.ExpiresIn) * time.Second
	c.session = session{access: out.AccessToken, refresh: out.RefreshToken, renewAt: asked.Add(life - life/5)}
	return nil
}

// discard forgets an access token that the shop does not take, unless there is a newer one already.
func (c *client) discard(token string) {
	c.signIn.Lock()
	defer c.signIn.Unlock()
	if c.session.access == token {
		c.session.access = ""
	}
}
