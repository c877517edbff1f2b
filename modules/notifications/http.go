package notifications

import (
	"context"
	"errors"
	"strings"
	"time"

	"gorm.io/gorm"

	"github.com/banyan-go/banyan/internal/errs"
	"github.com/banyan-go/banyan/internal/identity"
	"github.com/banyan-go/banyan/internal/rest"
	"github.com/banyan-go/banyan/internal/unit"
	"github.com/banyan-go/banyan/modules/notifications/internal/letter"
)

// Notification is something that a user is told in the app.
type Notification struct {
	ID      string    `json:"id"`
	Kind    string    `json:"kind" enum:"welcome,receipt,rejected,cancelled,refund,tracking,delivered,alert,refund_refused"`
	Subject string    `json:"subject"`
	Text    string    `json:"text"`
	OrderID string    `json:"order_id,omitempty"`
	SKU     string    `json:"sku,omitempty"`
	Read    bool      `json:"read"`
	At      time.Time `json:"at"`
}

type listInput struct {
	rest.Page
	Unread bool `query:"unread" doc:"Only those not read yet"`
}

// own are the notifications that the caller sees in the app.
func (s *service) own(ctx context.Context, db *gorm.DB) *gorm.DB {
	return db.Model(&notificationRow{}).Where("user_id = ? AND kind <> ?", identity.From(ctx).Subject, string(letter.Invitation))
}

func (s *service) list(ctx context.Context, in *listInput) (*rest.Answer[rest.List[Notification]], error) {
	q := s.own(ctx, s.store.Read(ctx))
	if in.Unread {
		q = q.Where("read_at IS NULL")
	}
	if in.Cursor != "" {
		at, id, err := in.AfterTime()
		if err != nil {
			return nil, err
		}
		q = q.Where("(created_at < ? OR (created_at = ? AND id < ?))", at, at, id)
	}
	var rows []notificationRow
	if err := q.Order("created_at DESC, id DESC").Limit(in.Limit + 1).Find(&rows).Error; err != nil {
		return nil, err
	}
	language, err := s.language(ctx, s.store.Read(ctx))
	if err != nil {
		return nil, err
	}
	shown := make([]Notification, len(rows))
	for i, r := range rows {
		if shown[i], err = s.shown(r, language); err != nil {
			return nil, err
		}
	}
	next := map[string]string{}
	for _, r := range rows {
		next[r.ID] = rest.TimeCursor(r.CreatedAt, r.ID)
	}
	return rest.Reply(rest.Cut(shown, in.Limit, func(n Notification) Notification { return n }, func(n Notification) string { return next[n.ID] })), nil
}

// language is the one that the caller reads.
func (s *service) language(ctx context.Context, db *gorm.DB) (string, error) {
	var chosen []string
	err := db.Model(&recipientRow{}).Where("id = ?", identity.From(ctx).Subject).Pluck("language", &chosen).Error
	if err != nil {
		return "", err
	}
	return letter.Language(strings.Join(chosen, ""), s.cfg.Language), nil
}

func (s *service) shown(r notificationRow, language string) (Notification, error) {
	d, err := r.data()
	if err != nil {
		return Notification{}, err
	}
	l, err := s.writer.Write(letter.Kind(r.Kind), language, "", d)
	if err != nil {
		return Notification{}, err
	}
	return Notification{ID: r.ID, Kind: r.Kind, Subject: l.Subject, Text: l.Summary, OrderID: d.Order, SKU: d.SKU, Read: r.ReadAt != nil, At: r.CreatedAt}, nil
}

// Unread is how many notifications are not read yet.
type Unread struct {
	Unread int64 `json:"unread"`
}

func (s *service) countUnread(ctx context.Context, _ *struct{}) (*rest.Answer[Unread], error) {
	var n int64
	if err := s.own(ctx, s.store.Read(ctx)).Where("read_at IS NULL").Count(&n).Error; err != nil {
		return nil, err
	}
	return rest.Reply(Unread{n}), nil
}

type readInput struct {
	ID string `path:"id" maxLength:"64"`
}

func (s *service) postRead(ctx context.Context, in *readInput) (*rest.Answer[Notification], error) {
	return rest.Commit(ctx, s.store, func(ctx context.Context, w *unit.Work) (Notification, error) {
		if err := s.own(ctx, w.DB).Where("id = ? AND read_at IS NULL", in.ID).Update("read_at", w.Now()).Error; err != nil {
			return Notification{}, err
		}
		var row notificationRow
		err := s.own(ctx, w.DB).Where("id = ?", in.ID).Take(&row).Error
		if errors.Is(err, gorm.ErrRecordNotFound) {
			return Notification{}, errs.New(errs.NotFound, "no such notification")
		}
		if err != nil {
			return Notification{}, err
		}
		language, err := s.language(ctx, w.DB)
		if err != nil {
			return Notification{}, err
		}
		return s.shown(row, language)
	})
}

// Marked is how many notifications a request has marked as read.
type Marked struct {
	Read int64 `json:"read"`
}

func (s *service) postReadAll(ctx context.Context, _ *struct{}) (*rest.Answer[Marked], error) {
	return rest.Commit(ctx, s.store, func(ctx context.Context, w *unit.Work) (Marked, error) {
		done := s.own(ctx, w.DB).Where("read_at IS NULL").Update("read_at", w.Now())
		return Marked{done.RowsAffected}, done.Error
	})
}

// Count is how many notifications of a kind are in a state.
type Count struct {
	Kind  string `json:"kind"`
	State string `json:"state" enum:"waiting,pending,sent,refused,in_app"`
	Count int64  `json:"count"`
}

// Report counts all notifications.
type Report struct {
	Counts []Count `json:"counts"`
}

func (s *service) report(ctx context.Context, _ *struct{}) (*rest.Answer[Report], error) {
	r := Report{Counts: []Count{}}
	err := s.store.Read(ctx).Raw("SELECT kind, state, COUNT(*) AS count FROM notifications GROUP BY kind, state ORDER BY kind, state").Scan(&r.Counts).Error
	if err != nil {
		return nil, err
	}
	return rest.Reply(r), nil
}
