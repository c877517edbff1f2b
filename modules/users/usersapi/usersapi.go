// Package usersapi is what others may know of users: their events. Personal data is tagged, so that it can be
// erased wherever a message is kept.
package usersapi

import (
	"time"

	"github.com/banyan-go/banyan/internal/message"
)

// Contract lists what users offers.
func Contract() message.Contract {
	return message.Contract{
		Module: "users",
		Events: []message.Event{UserRegistered{}, UserInvited{}, ProfileChanged{}, PreferencesChanged{}, RoleChanged{}, UserErased{}},
	}
}

// UserRegistered: an account exists and can be used. Staff may create customers without a password.
type UserRegistered struct {
	UserID    string    `json:"user_id"`
	Name      string    `json:"name" personal:"true"`
	Email     string    `json:"email,omitempty" personal:"true"` // where mail goes; empty for customers whom staff created without one, and for the first admin
	Role      string    `json:"role"`
	Reference string    `json:"reference,omitempty" personal:"true"` // the customer's number in another system
	At        time.Time `json:"at"`
}

// UserInvited: staff asked somebody to join; the account can be used once the invitation is accepted.
type UserInvited struct {
	InvitationID string    `json:"invitation_id"`
	Email        string    `json:"email" personal:"true"`
	Role         string    `json:"role"`
	Token        string    `json:"token" personal:"true"` // one-time; only the mail to the invited carries it
	ExpiresAt    time.Time `json:"expires_at"`
}

// ProfileChanged: name or address for mail changed.
type ProfileChanged struct {
	UserID string    `json:"user_id"`
	Name   string    `json:"name" personal:"true"`
	Email  string    `json:"email,omitempty" personal:"true"` // as in UserRegistered
	At     time.Time `json:"at"`
}

// PreferencesChanged: what the user wants to be told about, and in which language.
type PreferencesChanged struct {
	UserID   string `json:"user_id"`
	Mail     bool   `json:"mail"` // receipts and tracking by mail
	Language string `json:"language"`
}

// RoleChanged: an admin gave the account another role.
type RoleChanged struct {
	UserID string `json:"user_id"`
	Role   string `json:"role"`
}

// UserErased: the user's personal data must be forgotten by everybody who keeps any.
type UserErased struct {
	UserID string    `json:"user_id"`
	At     time.Time `json:"at"`
}

func (UserRegistered) MessageName() string     { return "users.user_registered.v1" }
func (UserInvited) MessageName() string        { return "users.user_invited.v1" }
func (ProfileChanged) MessageName() string     { return "users.profile_changed.v1" }
func (PreferencesChanged) MessageName() string { return "users.preferences_changed.v1" }
func (RoleChanged) MessageName() string        { return "users.role_changed.v1" }
func (UserErased) MessageName() string         { return "users.user_erased.v1" }

func (e UserRegistered) MessageKey() string     { return e.UserID }
func (e UserInvited) MessageKey() string        { return e.InvitationID }
func (e ProfileChanged) MessageKey() string     { return e.UserID }
func (e PreferencesChanged) MessageKey() string { return e.UserID }
func (e RoleChanged) MessageKey() string        { return e.UserID }
func (e UserErased) MessageKey() string         { return e.UserID }

func (e UserRegistered) PersonalSubject() string { return e.UserID }
func (e UserInvited) PersonalSubject() string    { return e.InvitationID } // becomes the user's id on acceptance
func (e ProfileChanged) PersonalSubject() string { return e.UserID }
