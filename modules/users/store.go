package users

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"gorm.io/gorm"
	"gorm.io/gorm/clause"

	"github.com/banyan-go/banyan/internal/errs"
	"github.com/banyan-go/banyan/internal/unit"
	"github.com/banyan-go/banyan/modules/users/internal/account"
)

// States of an account and of an invitation.
const (
	stateActive = "active"
	stateErased = "erased"

	statePending  = "pending"
	stateAccepted = "accepted"
	stateReplaced = "replaced"
)

type userRow struct {
	ID           string `gorm:"primaryKey"`
	Role         string
	State        string
	Name         string
	Email        string
	EmailKey     *string // nil: none; unique
	Reference    *string // nil: none; unique
	PasswordHash string  // "": nobody can sign in
	Mail         bool
	Language     string
	SignedOutAt  *time.Time // access tokens issued until then are revoked
	CreatedAt    time.Time
	UpdatedAt    time.Time `gorm:"autoUpdateTime:false"`
}

func (userRow) TableName() string { return "users" }

func (r userRow) emailKey() string {
	if r.EmailKey == nil {
		return ""
	}
	return *r.EmailKey
}

func (r userRow) reference() string {
	if r.Reference == nil {
		return ""
	}
	return *r.Reference
}

type sessionRow struct {
	ID           string `gorm:"primaryKey"`
	UserID       string
	Generation   int64
	Parent       string
	RotatedAt    time.Time
	LastIssuedAt time.Time // of its newest access token
	CreatedAt    time.Time
	ExpiresAt    time.Time
	Revoked      bool
}

func (sessionRow) TableName() string { return "sessions" }

type refreshTokenRow struct {
	Hash       string `gorm:"primaryKey"`
	SessionID  string
	UserID     string
	Generation int64
	ExpiresAt  time.Time
}

func (refreshTokenRow) TableName() string { return "refresh_tokens" }

// revocationRow is of a session, or, without one, of all sessions of a user but ExceptSession.
type revocationRow struct {
	ID            string `gorm:"primaryKey"`
	SessionID     string
	UserID        string
	IssuedUntil   time.Time
	ExceptSession string
	CreatedAt     time.Time
	ExpiresAt     time.Time
}

func (revocationRow) TableName() string { return "revocations" }

type invitationRow struct {
	ID        string `gorm:"primaryKey"`
	TokenHash string
	Email     string
	EmailKey  string
	Role      string
	State     string
	InvitedBy string
	CreatedAt time.Time
	ExpiresAt time.Time
}

func (invitationRow) TableName() string { return "invitations" }

// failuresRow counts failed attempts: of an account from an address, of an account (Address is ""), or from an
// address (Account is "").
type failuresRow struct {
	Account   string `gorm:"primaryKey"`
	Address   string `gorm:"primaryKey"`
	Failures  int
	Since     time.Time
	Last      time.Time
	ExpiresAt time.Time
}

func (failuresRow) TableName() string { return "login_failures" }

type knownAddressRow struct {
	UserID  string `gorm:"primaryKey"`
	Address string `gorm:"primaryKey"`
	SeenAt  time.Time
}

func (knownAddressRow) TableName() string { return "known_addresses" }

// forUpdate keeps others from changing what is read until the unit of work ends. It serves several queries.
func forUpdate(db *gorm.DB) *gorm.DB {
	return db.Clauses(clause.Locking{Strength: "UPDATE"}).Session(&gorm.Session{})
}

// take reads one row into *row; false if there is none.
func take[R any](q *gorm.DB, row *R) (bool, error) {
	err := q.Take(row).Error
	if errors.Is(err, gorm.ErrRecordNotFound) {
		*row = *new(R) // a unit of work that runs again must not see what the run before read
		return false, nil
	}
	return err == nil, err
}

// user is an active account; db decides whether it is locked.
func user(db *gorm.DB, id string) (userRow, error) {
	var row userRow
	found, err := take(db.Where("id = ?", id), &row)
	switch {
	case err != nil:
		return row, fmt.Errorf("user %s: %w", id, err)
	case !found:
		return row, errs.New(errs.NotFound, "no such user")
	case row.State == stateErased:
		return row, errs.New(errs.Gone, "this account was erased")
	}
	return row, nil
}

// admins are the ids of all admins, locked: a second unit of work that takes one away waits, and then counts again.
func admins(w *unit.Work) ([]string, error) {
	var rows []userRow
	if err := forUpdate(w.DB).Select("id").Where("role = ?", string(account.Admin)).Order("id").Find(&rows).Error; err != nil {
		return nil, fmt.Errorf("admins: %w", err)
	}
	ids := make([]string, len(rows))
	for i, r := range rows {
		ids[i] = r.ID
	}
	return ids, nil
}

// checkFree says whether an email address or a reference belongs to another account. The unique indexes hold it
// against two at once.
func checkFree(w *unit.Work, column, value, self, what string) error {
	var row userRow
	taken, err := take(w.DB.Select("id").Where(clause.Eq{Column: column, Value: value}).Where("id <> ?", self), &row)
	if err != nil {
		return fmt.Errorf("look for %s: %w", what, err)
	}
	if taken {
		return errs.New(errs.Conflict, "an account with this %s exists", what)
	}
	return nil
}

// add inserts an account whose email address and reference are free.
func add(w *unit.Work, row *userRow) error {
	if row.EmailKey != nil {
		if err := checkFree(w, "email_key", *row.EmailKey, row.ID, "email address"); err != nil {
			return err
		}
	}
	if row.Reference != nil {
		if err := checkFree(w, "reference", *row.Reference, row.ID, "reference"); err != nil {
			return err
		}
	}
	return taken(w.DB.Create(row).Error)
}

// taken turns the error of a unique index into a conflict.
func taken(err error) error {
	if errors.Is(err, gorm.ErrDuplicatedKey) {
		return errs.Wrap(errs.Conflict, err, "an account with this email address or reference exists")
	}
	return err
}

// newUser is an account as it begins.
func newUser(id string, role account.Role, name string, email account.Email, now time.Time) *userRow {
	row := &userRow{
		ID: id, Role: string(role), State: stateActive, Name: name, Email: email.Address, Mail: true, Language: "en", CreatedAt: now, UpdatedAt: now,
	}
	if email.Key != "" {
		row.EmailKey = &email.Key
	}
	return row
}

// update writes some columns of an account.
func update(w *unit.Work, id string, columns map[string]any) error {
	columns["updated_at"] = w.Now()
	if err := taken(w.DB.Model(&userRow{}).Where("id = ?", id).Updates(columns).Error); err != nil {
		return fmt.Errorf("user %s: %w", id, err)
	}
	return nil
}

// newSecret is a random token of 32 bytes, and the hash that is kept of it. A fast hash does: there is nothing to guess.
func newSecret() (secret, hash string) {
	b := make([]byte, 32)
	_, _ = rand.Read(b) // never fails: the runtime ends the process instead
	secret = base64.RawURLEncoding.EncodeToString(b)
	return secret, hashSecret(secret)
}

func hashSecret(secret string) string {
	sum := sha256.Sum256([]byte(secret))
	return hex.EncodeToString(sum[:])
}

// pseudonym stands for something that need not be readable, as an address.
func pseudonym(parts ...string) string {
	h := sha256.New()
	for _, p := range parts {
		_, _ = fmt.Fprintf(h, "%d:%s", len(p), p)
	}
	return hex.EncodeToString(h.Sum(nil)[:16])
}
