// Package control keeps what belongs to no module: the keys that sign tokens, and who subscribes to what.
package control

import (
	"context"
	"fmt"

	"github.com/banyan-go/banyan/internal/database"
	"github.com/banyan-go/banyan/internal/token"
	"github.com/banyan-go/banyan/internal/unit"
)

// keysLock makes replicas that start together on an empty store agree on one first key.
const keysLock = 0x6b657973 // "keys"

// Keys are the signing keys of the shop; the first process makes the first one. All replicas share them.
func Keys(ctx context.Context, db *database.DB) (*token.Keyring, error) {
	store := unit.New(db, unit.Options{Module: database.Control})
	var keys []token.Key
	err := store.Do(ctx, func(_ context.Context, w *unit.Work) error {
		keys = nil
		if w.Dialect() == database.Postgres {
			if err := w.DB.Exec("SELECT pg_advisory_xact_lock(?)", keysLock).Error; err != nil {
				return err
			}
		}
		var stored []struct{ PrivateKey []byte }
		if err := w.DB.Raw("SELECT private_key FROM signing_key ORDER BY created_at").Scan(&stored).Error; err != nil {
			return err
		}
		for _, row := range stored {
			k, err := token.ParseKey(row.PrivateKey)
			if err != nil {
				return err
			}
			keys = append(keys, k)
		}
		if len(keys) > 0 {
			return nil
		}
		k, err := token.NewKey()
		if err != nil {
			return err
		}
		b, err := k.Marshal()
		if err != nil {
			return err
		}
		keys = append(keys, k)
		return w.DB.Exec("INSERT INTO signing_key (id, private_key, created_at) VALUES (?, ?, ?)", k.ID, b, w.Now()).Error
	})
	if err != nil {
		return nil, fmt.Errorf("signing keys: %w", err)
	}
	return token.NewKeyring(keys...)
}
