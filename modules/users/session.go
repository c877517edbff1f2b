package users

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/banyan-go/banyan/internal/clock"
	"github.com/banyan-go/banyan/internal/module"
	"github.com/banyan-go/banyan/internal/token"
	"github.com/banyan-go/banyan/internal/unit"
)

// grant is what a login or a refresh gives: everything that tokens are made of.
type grant struct {
	claims  token.Claims
	refresh string
	expires time.Duration // of the refresh token
}

// tokens signs what a committed unit of work has granted.
func (s *service) tokens(g grant) (*tokensOutput, error) {
	access, err := s.keys.Issue(g.claims)
	if err != nil {
		return nil, err
	}
	return &tokensOutput{CacheControl: "no-store", Body: Tokens{
		AccessToken: access, TokenType: "Bearer", ExpiresIn: int(s.cfg.AccessToken.Seconds()),
		RefreshToken: g.refresh, RefreshExpiresIn: int(g.expires.Seconds()), UserID: g.claims.Subject, Role: string(g.claims.Role),
	}}, nil
}

// issuedAt is the time of a new access token of a locked account: never one that a revocation covers, which another
// replica may have written by a clock that is ahead of ours.
func issuedAt(w *unit.Work, u userRow) time.Time {
	now := w.Now()
	if u.SignedOutAt != nil && !now.After(*u.SignedOutAt) {
		return u.SignedOutAt.Add(time.Microsecond).UTC()
	}
	return now
}

// revokeSession ends one session and says how many that were.
func (s *service) revokeSession(w *unit.Work, userID, sessionID string) (int64, error) {
	ended := w.DB.Model(&sessionRow{}).Where("id = ? AND user_id = ? AND NOT revoked", sessionID, userID).Update("revoked", true)
	if ended.Error != nil {
		return 0, fmt.Errorf("revoke session %s: %w", sessionID, ended.Error)
	}
	return ended.RowsAffected, s.revoke(w, revocationRow{SessionID: sessionID, UserID: userID, IssuedUntil: w.Now()})
}

// revokeUser ends all sessions of a user but one ("" for none) and says how many that were. It locks the account: a
// login at the same moment comes before, and is revoked too, or after.
func (s *service) revokeUser(w *unit.Work, userID, except string) (int64, error) {
	if _, err := user(forUpdate(w.DB), userID); err != nil {
		return 0, err
	}
	// Access tokens carry the clock of the replica that issued them: what was issued last counts, if it is ahead of ours.
	until := w.Now()
	var newest sessionRow
	if _, err := take(w.DB.Where("user_id = ?", userID).Order("last_issued_at DESC"), &newest); err != nil {
		return 0, fmt.Errorf("newest session of %s: %w", userID, err)
	}
	if newest.LastIssuedAt.After(until) {
		until = newest.LastIssuedAt.UTC()
	}
	ended := w.DB.Model(&sessionRow{}).Where("user_id = ? AND id <> ? AND NOT revoked", userID, except).Update("revoked", true)
	if ended.Error != nil {
		return 0, fmt.Errorf("revoke sessions of %s: %w", userID, ended.Error)
	}
	if err := update(w, userID, map[string]any{"signed_out_at": until}); err != nil {
		return 0, err
	}
	return ended.RowsAffected, s.revoke(w, revocationRow{UserID: userID, IssuedUntil: until, ExceptSession: except})
}

func (s *service) revoke(w *unit.Work, r revocationRow) error {
	r.ID, r.CreatedAt, r.ExpiresAt = w.NewID(), w.Now(), r.IssuedUntil.Add(longestAccess)
	if err := w.DB.Create(&r).Error; err != nil {
		return fmt.Errorf("revoke: %w", err)
	}
	w.AfterCommit(func() { s.sessions.add(r) })
	return nil
}

const (
	// pollEvery leaves half of the second, in which others must see a revocation, for the query.
	pollEvery = 500 * time.Millisecond
	// pollOverlap is more than a unit of work takes to commit, and than clocks of replicas differ: a row may become
	// visible this long after the time that it carries.
	pollOverlap = 30 * time.Second
)

// Sessions knows which access tokens are revoked. It implements token.Revocations.
type Sessions struct {
	store *unit.Store
	clock clock.Clock
	log   *slog.Logger

	mu       sync.RWMutex
	sessions map[string]time.Time // revoked session -> when no token of it can be alive any more
	users    map[string]map[string]cutoff
	seen     time.Time // of the newest revocation that was read
}

var _ token.Revocations = (*Sessions)(nil)

// cutoff revokes tokens of a user that were issued until a time.
type cutoff struct {
	until   time.Time
	except  string // but not those of this session
	expires time.Time
}

func newSessions(d module.Deps) *Sessions {
	return &Sessions{store: d.Store, clock: d.Clock, log: d.Log, sessions: map[string]time.Time{}, users: map[string]map[string]cutoff{}}
}

// Revoked says whether an access token is revoked.
func (s *Sessions) Revoked(session, subject string, issuedAt time.Time) bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if _, ok := s.sessions[session]; ok {
		return true
	}
	for _, c := range s.users[subject] {
		if session != c.except && !issuedAt.After(c.until) {
			return true
		}
	}
	return false
}

// Run follows the revocations of other replicas until ctx ends. While the store cannot be read those known
// stay in force; new ones come to light once it can.
func (s *Sessions) Run(ctx context.Context) error {
	healthy := true
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-s.clock.At(s.clock.Now().Add(pollEvery)):
		}
		err := s.load(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil && healthy {
			s.log.WarnContext(ctx, "revocations cannot be read", "error", err)
		}
		healthy = err == nil
	}
}

// load reads what is new and forgets what has expired.
func (s *Sessions) load(ctx context.Context) error {
	s.mu.RLock()
	since := s.seen
	s.mu.RUnlock()
	now := s.clock.Now()
	q := s.store.Read(ctx).Where("expires_at > ?", now)
	if !since.IsZero() {
		q = q.Where("created_at > ?", since.Add(-pollOverlap))
	}
	var rows []revocationRow
	if err := q.Find(&rows).Error; err != nil {
		return fmt.Errorf("read revocations: %w", err)
	}
	for _, r := range rows {
		s.add(r)
		if r.CreatedAt.After(since) {
			since = r.CreatedAt
		}
	}
	if since.After(now) {
		since = now // a replica whose clock is ahead must not hide what others write after it
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seen = since
	s.forget(now)
	return nil
}

func (s *Sessions) add(r revocationRow) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r.SessionID != "" {
		s.sessions[r.SessionID] = r.ExpiresAt
		return
	}
	if s.users[r.UserID] == nil {
		s.users[r.UserID] = map[string]cutoff{}
	}
	s.users[r.UserID][r.ID] = cutoff{until: r.IssuedUntil, except: r.ExceptSession, expires: r.ExpiresAt}
}

func (s *Sessions) forget(now time.Time) {
	for id, expires := range s.sessions {
		if !expires.After(now) {
			delete(s.sessions, id)
		}
	}
	for id, cutoffs := range s.users {
		for r, c := range cutoffs {
			if !c.expires.After(now) {
				delete(cutoffs, r)
			}
		}
		if len(cutoffs) == 0 {
			delete(s.users, id)
		}
	}
}
