package orders

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"gorm.io/gorm"
	"gorm.io/gorm/clause"

	"github.com/banyan-go/banyan/internal/errs"
	"github.com/banyan-go/banyan/internal/unit"
	"github.com/banyan-go/banyan/modules/orders/internal/checkout"
	"github.com/banyan-go/banyan/modules/orders/internal/order"
)

// snapshotFormat grows when order.Order changes its meaning: older snapshots are not read any more.
const snapshotFormat = 1

// stream is one order with its saga, locked in a unit of work until it ends.
type stream struct {
	id       string
	version  int64 // in the store
	snapshot int64 // version of the snapshot, 0 for none
	order    order.Order
	saga     checkout.Checkout
	sagaAt   int64 // version of the saga's row
	card     string
}

type headRow struct {
	Version         int64
	SnapshotVersion int64
	State           string
	Goal            string
	Reason          string
	SagaVersion     int64
	Card            string
}

type eventRow struct {
	Version  int64
	Type     string
	Body     string
	Personal string
	At       time.Time
}

type snapshotRow struct {
	Version  int64
	Format   int64
	Body     string
	Personal string
}

// lock finds an order and keeps everybody else from changing it until the unit of work ends; nil if there is
// none. What the order is must be told by fold.
func (o *orders) lock(w *unit.Work, id string) (*stream, error) {
	var head headRow
	found := w.DB.Table("stream").
		Select("stream.version, stream.snapshot_version, checkout.state, checkout.goal, checkout.reason, checkout.version AS saga_version, checkout.card").
		Joins("JOIN checkout ON checkout.order_id = stream.order_id").
		Where("stream.order_id = ?", id).Clauses(clause.Locking{Strength: "UPDATE"}).Scan(&head)
	if found.Error != nil {
		return nil, fmt.Errorf("lock order %s: %w", id, found.Error)
	}
	if found.RowsAffected == 0 {
		return nil, nil
	}
	return &stream{
		id: id, version: head.Version, snapshot: head.SnapshotVersion, sagaAt: head.SagaVersion, card: head.Card,
		saga: checkout.Checkout{State: checkout.State(head.State), Goal: checkout.Goal(head.Goal), Reason: head.Reason},
	}, nil
}

// fold tells what a locked order is: its snapshot, and the events since.
func (o *orders) fold(w *unit.Work, s *stream) error {
	if s.snapshot > 0 {
		var snap snapshotRow
		if err := w.DB.Raw("SELECT version, format, body, personal FROM snapshots WHERE order_id = ?", s.id).Scan(&snap).Error; err != nil {
			return fmt.Errorf("read snapshot of order %s: %w", s.id, err)
		}
		if snap.Format == snapshotFormat {
			if err := snap.into(&s.order); err != nil {
				return fmt.Errorf("read snapshot of order %s: %w", s.id, err)
			}
		}
	}
	rows, err := readEvents(w.DB, s.id, s.order.Version)
	if err != nil {
		return err
	}
	for _, r := range rows {
		if _, err := r.apply(s.id, &s.order); err != nil {
			return err
		}
	}
	return nil
}

// load is lock and fold; errs.NotFound if there is no such order.
func (o *orders) load(w *unit.Work, id string) (*stream, error) {
	s, err := o.lock(w, id)
	if err != nil {
		return nil, err
	}
	if s == nil {
		return nil, errNoOrder()
	}
	return s, o.fold(w, s)
}

func errChanged() error {
	return errs.New(errs.Unavailable, "the order changed at the same time").After(time.Second)
}

func errNoOrder() error { return errs.New(errs.NotFound, "no such order") }

func readEvents(db *gorm.DB, id string, after int64) ([]eventRow, error) {
	var rows []eventRow
	err := db.Raw("SELECT version, type, body, personal, at FROM event WHERE order_id = ? AND version > ? ORDER BY version", id, after).Scan(&rows).Error
	if err != nil {
		return nil, fmt.Errorf("read events of order %s: %w", id, err)
	}
	return rows, nil
}

func (r eventRow) apply(id string, o *order.Order) (order.Event, error) {
	e, err := order.Decode(r.Type, []byte(r.Body), []byte(r.Personal))
	if err != nil {
		return nil, fmt.Errorf("event %d of order %s: %w", r.Version, id, err)
	}
	if r.Version != o.Version+1 {
		return nil, errs.New(errs.Internal, "event %d of order %s follows event %d", r.Version, id, o.Version)
	}
	o.Apply(e, r.At)
	return e, nil
}

func (r snapshotRow) into(o *order.Order) error {
	if err := json.Unmarshal([]byte(r.Body), o); err != nil {
		return err
	}
	if r.Personal == "" {
		return nil
	}
	return json.Unmarshal([]byte(r.Personal), &o.Private)
}

// begin makes the stream of a new order with its saga. A reference or a cart that was ordered already is
// gorm.ErrDuplicatedKey.
func (o *orders) begin(w *unit.Work, id string, placed order.Placed, card string, deadline time.Time) (*stream, error) {
	s := &stream{id: id, saga: checkout.Checkout{State: checkout.Reserving}, sagaAt: 1, card: card}
	err := w.DB.Exec("INSERT INTO stream (order_id, version, snapshot_version, customer_id, cart_version, reference) VALUES (?, 0, 0, ?, ?, ?)",
		id, placed.CustomerID, placed.CartVersion, placed.Reference).Error
	if err != nil {
		return nil, fmt.Errorf("begin order: %w", err)
	}
	err = w.Later().Exec("INSERT INTO checkout (order_id, state, goal, reason, version, deadline, card) VALUES (?, ?, ?, ?, ?, ?, ?)",
		id, s.saga.State, s.saga.Goal, s.saga.Reason, s.sagaAt, deadline, card).Error
	if err != nil {
		return nil, fmt.Errorf("begin checkout: %w", err)
	}
	return s, nil
}

// append records events at the end of a locked stream, and all that follows from them: the read model, the
// announcements, the snapshot, the bell for those who follow the order.
func (o *orders) append(w *unit.Work, s *stream, events ...order.Event) error {
	if len(events) == 0 {
		return nil
	}
	at := w.Now()
	if at.Before(s.order.UpdatedAt) {
		at = s.order.UpdatedAt // clocks of replicas differ; the history of an order never runs backwards
	}
	args := make([]any, 0, 6*len(events))
	for _, e := range events {
		body, personal, err := order.Encode(e)
		if err != nil {
			return err
		}
		s.order.Apply(e, at)
		args = append(args, s.id, s.order.Version, e.Kind(), string(body), string(personal), at)
	}
	if err := insert(w.Later(), "event (order_id, version, type, body, personal, at)", 6, args); err != nil {
		return fmt.Errorf("append to order %s: %w", s.id, err)
	}
	was := s.version
	if s.order.Version-s.snapshot >= o.cfg.SnapshotEvery {
		if err := saveSnapshot(w, s); err != nil {
			return err
		}
	}
	err := w.Expect(1, errChanged()).Exec("UPDATE stream SET version = ?, snapshot_version = ? WHERE order_id = ? AND version = ?", s.order.Version, s.snapshot, s.id, was).Error
	if err != nil {
		return fmt.Errorf("append to order %s: %w", s.id, err)
	}
	s.version = s.order.Version
	if err := project(w, s, was, events); err != nil {
		return err
	}
	announce(w, s, events, at)
	id := s.id
	w.AfterCommit(func() { o.bell.ring(id) })
	return nil
}

func saveSnapshot(w *unit.Work, s *stream) error {
	body, err := json.Marshal(s.order)
	if err != nil {
		return fmt.Errorf("snapshot of order %s: %w", s.id, err)
	}
	personal, err := privateJSON(s.order.Private)
	if err != nil {
		return err
	}
	err = w.Later().Exec(`INSERT INTO snapshots (order_id, version, format, body, personal) VALUES (?, ?, ?, ?, ?)
		ON CONFLICT (order_id) DO UPDATE SET version = excluded.version, format = excluded.format, body = excluded.body, personal = excluded.personal`,
		s.id, s.order.Version, snapshotFormat, string(body), personal).Error
	if err != nil {
		return fmt.Errorf("snapshot of order %s: %w", s.id, err)
	}
	s.snapshot = s.order.Version
	return nil
}

func privateJSON(p order.Private) (string, error) {
	if p.Address == nil && len(p.Notes) == 0 {
		return "", nil
	}
	b, err := json.Marshal(p)
	if err != nil {
		return "", fmt.Errorf("encode personal data: %w", err)
	}
	return string(b), nil
}

// saveSaga keeps the saga's new state, if it is still in the one that was read.
func (o *orders) saveSaga(w *unit.Work, s *stream, next checkout.Checkout, card string) error {
	err := w.Expect(1, errChanged()).Exec("UPDATE checkout SET state = ?, goal = ?, reason = ?, card = ?, version = version + 1 WHERE order_id = ? AND version = ?",
		next.State, next.Goal, next.Reason, card, s.id, s.sagaAt).Error
	if err != nil {
		return fmt.Errorf("save checkout of order %s: %w", s.id, err)
	}
	s.saga, s.card, s.sagaAt = next, card, s.sagaAt+1
	return nil
}

// lockStreamsOf keeps everybody else from changing the orders of a customer until the unit of work ends. They are
// taken in order, so that two who do so never wait for each other in a circle.
func lockStreamsOf(w *unit.Work, customerID string) error {
	var ids []string
	err := w.DB.Table("stream").Select("order_id").Where("customer_id = ?", customerID).Order("order_id").
		Clauses(clause.Locking{Strength: "UPDATE"}).Scan(&ids).Error
	if err != nil {
		return fmt.Errorf("lock orders of a customer: %w", err)
	}
	return nil
}

// insertRows is how many rows go into one statement: enough to make the statements few, and few enough shapes of
// statements that the stores keep them prepared.
const insertRows = 50

// insert writes rows of width values each.
func insert(db *gorm.DB, into string, width int, args []any, suffix ...string) error {
	row := "(" + strings.TrimSuffix(strings.Repeat("?, ", width), ", ") + ")"
	for len(args) > 0 {
		n := min(len(args)/width, insertRows)
		sql := "INSERT INTO " + into + " VALUES " + row + strings.Repeat(", "+row, n-1) + strings.Join(suffix, "")
		if err := db.Exec(sql, args[:n*width]...).Error; err != nil {
			return err
		}
		args = args[n*width:]
	}
	return nil
}
