package relay

import (
	"context"
	"time"

	"gorm.io/gorm"

	"github.com/banyan-go/banyan/internal/database"
)

// Kept are the messages of one name to which nobody subscribed when they were sent.
type Kept struct {
	Module      string    `json:"module"`
	Message     string    `json:"message"`
	Number      int64     `json:"number"`
	Oldest      time.Time `json:"oldest"`
	Newest      time.Time `json:"newest"`
	Subscribers []string  `json:"subscribers"` // modules that do now
}

// Kept lists them by message, without subscribers.
func (r *Relay) Kept(ctx context.Context) ([]Kept, error) {
	var rows []struct {
		Name           string
		Number         int64
		Oldest, Newest time.Time
	}
	err := r.store.Read(ctx).Raw(`SELECT oldest.name, number, oldest.created_at AS oldest, newest.created_at AS newest
		FROM (SELECT count(*) AS number, min(id) AS first, max(id) AS last FROM outbox WHERE unsubscribed GROUP BY name) AS kept
		JOIN outbox AS oldest ON oldest.id = first JOIN outbox AS newest ON newest.id = last ORDER BY oldest.name`).Scan(&rows).Error
	kept := make([]Kept, len(rows))
	for i, k := range rows {
		kept[i] = Kept{Module: r.store.Module(), Message: k.Name, Number: k.Number, Oldest: k.Oldest.UTC(), Newest: k.Newest.UTC()}
	}
	return kept, err
}

// Replay gives the kept messages of a name to modules that subscribe to it now, in the order in which they were sent, and says how many
// they are. Those that were sent since the subscription began may come before them. What a crash left is given when it is asked again.
func (r *Relay) Replay(ctx context.Context, name string, subscribers []string) (replayed int64, err error) {
	most := markSizes[len(markSizes)-1]
	for after := int64(0); ; {
		var ids []int64
		if err := r.store.Read(ctx).Raw("SELECT id FROM outbox WHERE unsubscribed AND name = ? AND id > ? ORDER BY id LIMIT ?", name, after, most).Scan(&ids).Error; err != nil || len(ids) == 0 {
			return replayed, err
		}
		var n int64
		err := r.store.DB().Write(ctx, func(tx *gorm.DB) error {
			// Before the deliveries, as it takes the rows: one that is being removed is gone then, and gets none.
			var found []int64
			err := tx.Raw("UPDATE outbox SET unsubscribed = FALSE WHERE unsubscribed AND id IN ? RETURNING id", ids).Scan(&found).Error
			if n = int64(len(found)); err != nil || n == 0 {
				return err
			}
			db := database.Statements(tx)
			list, args := idList(db, found)
			for _, s := range subscribers {
				if _, err := db.Exec("INSERT INTO delivery (subscriber, outbox_id) SELECT CAST(? AS TEXT), id FROM outbox WHERE id "+list+" ON CONFLICT DO NOTHING",
					append([]any{s}, args...)...); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return replayed, err
		}
		replayed += n
		r.Wake(ids[0])
		after = ids[len(ids)-1]
	}
}
