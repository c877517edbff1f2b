package shipment

import (
	"crypto/sha256"
	"encoding/base32"
	"time"

	"github.com/banyan-go/banyan/internal/errs"
)

// State is where a shipment stands.
type State string

// The states; doc.go draws them.
const (
	Pending    State = "pending"
	Dispatched State = "dispatched"
	Delivered  State = "delivered"
	Intercept  State = "intercept" // on its way or there, and to be called back
	Cancelled  State = "cancelled"
	Void       State = "void"
)

// Shipment is the goods of an order on their way. Times that have not come are zero.
type Shipment struct {
	State        State
	Carrier      string
	Tracking     string
	CreatedAt    time.Time
	DispatchedAt time.Time
	DeliveredAt  time.Time
	CancelledAt  time.Time // of the order
}

// Dispatch hands the goods to a carrier. Without a tracking number the shipment gets one of ours.
func (s Shipment) Dispatch(id, carrier, tracking string, at time.Time) (Shipment, error) {
	switch s.State {
	case Pending:
	case Cancelled, Void:
		return s, errs.New(errs.Conflict, "the shipment was cancelled")
	default:
		return s, errs.New(errs.Conflict, "the shipment was dispatched already")
	}
	if tracking == "" {
		tracking = Tracking(id)
	}
	s.State, s.Carrier, s.Tracking, s.DispatchedAt = Dispatched, carrier, tracking, at
	return s, nil
}

// Deliver notes that the customer has the goods, wanted or not.
func (s Shipment) Deliver(at time.Time) (Shipment, error) {
	switch {
	case s.State == Pending:
		return s, errs.New(errs.Conflict, "the shipment was not dispatched yet")
	case s.State == Cancelled, s.State == Void:
		return s, errs.New(errs.Conflict, "the shipment was cancelled")
	case !s.DeliveredAt.IsZero():
		return s, errs.New(errs.Conflict, "the shipment was delivered already")
	}
	s.State, s.DeliveredAt = Delivered, at
	return s, nil
}

// Stop keeps the goods here for good, if they have not left: then nothing changes and stopped is false.
func (s Shipment) Stop(at time.Time) (after Shipment, stopped bool) {
	switch s.State {
	case Pending:
		s.State, s.CancelledAt = Cancelled, at
		return s, true
	case Cancelled, Void:
		return s, true
	}
	return s, false
}

// Cancel stops a shipment that has not left, and marks any other to be called back.
func (s Shipment) Cancel(at time.Time) Shipment {
	if after, stopped := s.Stop(at); stopped {
		return after
	}
	if s.CancelledAt.IsZero() {
		s.State, s.CancelledAt = Intercept, at
	}
	return s
}

// Shown is the state as the customer sees it, who has no part in calling goods back.
func (s Shipment) Shown() State {
	switch {
	case s.State != Intercept:
		return s.State
	case !s.DeliveredAt.IsZero():
		return Delivered
	}
	return Dispatched
}

// Step is an entry of the log.
type Step struct {
	What State
	At   time.Time
}

// Log is what has happened to the goods, in order.
func (s Shipment) Log() []Step {
	steps := []Step{{Pending, s.CreatedAt}}
	if !s.DispatchedAt.IsZero() {
		steps = append(steps, Step{Dispatched, s.DispatchedAt})
	}
	if !s.DeliveredAt.IsZero() {
		steps = append(steps, Step{Delivered, s.DeliveredAt})
	}
	if s.CancelledAt.IsZero() {
		return steps
	}
	what := Cancelled
	if !s.DispatchedAt.IsZero() {
		what = Intercept
	}
	i := len(steps)
	for i > 1 && steps[i-1].At.After(s.CancelledAt) {
		i--
	}
	return append(steps[:i:i], append([]Step{{what, s.CancelledAt}}, steps[i:]...)...)
}

// Tracking is a tracking number of ours: always the same for a shipment, and telling nothing about it.
func Tracking(id string) string {
	sum := sha256.Sum256([]byte("tracking " + id))
	return "BY" + base32.StdEncoding.EncodeToString(sum[:])[:12]
}
