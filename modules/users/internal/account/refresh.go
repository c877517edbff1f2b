package account

import "time"

// RepeatWithin is how long after a rotation the replaced refresh token may come once more: its answer was lost.
const RepeatWithin = 10 * time.Second

// Session is what a refresh token is checked against. Each use of a token of the newest generation begins the next
// one.
type Session struct {
	Generation int64
	Parent     string // hash of the token that began this generation
	RotatedAt  time.Time
	ExpiresAt  time.Time
	Revoked    bool
}

// RefreshToken is a token that was presented.
type RefreshToken struct {
	Hash       string
	Generation int64
	ExpiresAt  time.Time
}

// Refresh says what to do with a refresh token.
type Refresh int

// What becomes of a refresh token.
const (
	Refused Refresh = iota // expired or revoked
	Rotate                 // begin the next generation
	Repeat                 // issue one more token of the newest generation
	Stolen                 // somebody else has used it: revoke the session
)

// Use decides on a token.
//
// A token that was replaced may come again within RepeatWithin, while nobody has used what replaced it: the client
// repeats a request whose answer it never saw. It gets another token of the same generation; as soon as one token of a
// generation is used the others of it are stolen goods, so two who hold the same token never both get on.
func (s Session) Use(t RefreshToken, now time.Time) Refresh {
	switch {
	case s.Revoked || !now.Before(s.ExpiresAt) || !now.Before(t.ExpiresAt):
		return Refused
	case t.Generation == s.Generation:
		return Rotate
	case t.Hash == s.Parent && now.Sub(s.RotatedAt) <= RepeatWithin:
		return Repeat
	}
	return Stolen
}
