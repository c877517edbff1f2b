package users

import (
	"context"
	"fmt"

	"gorm.io/gorm/clause"

	"github.com/banyan-go/banyan/internal/errs"
	"github.com/banyan-go/banyan/internal/unit"
	"github.com/banyan-go/banyan/modules/users/internal/account"
	"github.com/banyan-go/banyan/modules/users/internal/password"
)

// AdminEmail is what the first admin signs in with. It is no mailbox, and nothing is sent there.
const AdminEmail = "admin@banyan.local"

// HasAdmin says whether there is an admin.
func HasAdmin(ctx context.Context, store *unit.Store) (bool, error) {
	var admin userRow
	return take(store.Read(ctx).Where("role = ?", string(account.Admin)).Order("id"), &admin)
}

// MadeUpPassword is a password for the first admin that nobody can guess.
func MadeUpPassword() string { return password.Random() }

// AdminSignsInWith says whether a password is that of the admin whom Bootstrap has made.
func AdminSignsInWith(ctx context.Context, store *unit.Store, secret string) (bool, error) {
	email, err := account.ParseEmail(AdminEmail)
	if err != nil {
		return false, err
	}
	var admin userRow
	found, err := take(store.Read(ctx).Where("email_key = ?", email.Key), &admin)
	if err != nil || !found || admin.Role != string(account.Admin) {
		return false, err
	}
	return password.NewHasher().Matches(ctx, secret, admin.PasswordHash)
}

// Bootstrap makes the first admin if there is no admin yet. An admin who exists is left alone, whatever the password. Replicas may call
// it at the same time: one of them creates the account.
func Bootstrap(ctx context.Context, store *unit.Store, secret string) (created bool, err error) {
	if found, err := HasAdmin(ctx, store); err != nil || found {
		return false, err
	}
	email, err := account.ParseEmail(AdminEmail)
	if err != nil {
		return false, err
	}
	if err := account.CheckPassword(secret, email.Key, "password"); err != nil {
		return false, fmt.Errorf("password of the first admin: %w", err)
	}
	hash, err := password.NewHasher().Hash(ctx, secret)
	if err != nil {
		return false, err
	}
	err = store.Do(ctx, func(_ context.Context, w *unit.Work) error {
		created = false
		row := newUser(w.NewID(), account.Admin, "Admin", email, w.Now())
		row.PasswordHash = hash
		added := w.DB.Clauses(clause.OnConflict{DoNothing: true}).Create(row)
		if added.Error != nil {
			return added.Error
		}
		if added.RowsAffected == 0 {
			var other userRow
			if _, err := take(w.DB.Where("email_key = ?", email.Key), &other); err != nil {
				return err
			}
			if other.Role != string(account.Admin) {
				return errs.New(errs.Conflict, "there is no admin, and %s belongs to an account that is none", AdminEmail)
			}
			return nil // another replica was faster
		}
		created = true
		w.Publish(registered(row))
		return nil
	})
	if err != nil {
		return false, fmt.Errorf("create the first admin: %w", err)
	}
	return created, nil
}
