// Package notificationsapi is what others may know of notifications: that they went out.
package notificationsapi

import (
	"time"

	"github.com/banyan-go/banyan/internal/message"
)

// Contract lists what notifications offers.
func Contract() message.Contract {
	return message.Contract{
		Module: "notifications",
		Events: []message.Event{NotificationSent{}},
	}
}

// NotificationSent: the sender took the message.
type NotificationSent struct {
	NotificationID string    `json:"notification_id"`
	UserID         string    `json:"user_id"`
	Kind           string    `json:"kind"` // welcome, invitation, receipt, alert, tracking
	At             time.Time `json:"at"`
}

func (NotificationSent) MessageName() string { return "notifications.notification_sent.v1" }

func (e NotificationSent) MessageKey() string { return e.UserID }
