package users

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"gorm.io/gorm"
	"gorm.io/gorm/clause"

	"github.com/banyan-go/banyan/internal/errs"
	"github.com/banyan-go/banyan/internal/unit"
	"github.com/banyan-go/banyan/modules/users/internal/account"
)

// attempt is somebody who gives a password for an account. Neither the account nor the address is kept readable.
type attempt struct {
	account string // also for one that does not exist: nothing may tell
	address string
	known   string // the address as the account knows it; "" without an account
	userID  string
}

func newAttempt(emailKey, clientIP, userID string) attempt {
	where := account.Neighbourhood(clientIP)
	a := attempt{account: pseudonym("account", emailKey), address: pseudonym("address", where), userID: userID}
	if userID != "" {
		a.known = pseudonym("known", userID, where)
	}
	return a
}

// counters are the rows of an attempt, by scope.
func (a attempt) counters() [3]failuresRow {
	return [3]failuresRow{
		account.Pair:    {Account: a.account, Address: a.address},
		account.Account: {Account: a.account},
		account.Address: {Address: a.address},
	}
}

func (r failuresRow) counter() account.Counter {
	return account.Counter{Failures: r.Failures, Since: r.Since, Last: r.Last}
}

// read fills the counters of an attempt; db decides whether they are locked, always in the same order.
func (a attempt) read(db *gorm.DB) (rows [3]failuresRow, known bool, err error) {
	rows = a.counters()
	var found []failuresRow
	err = db.Where("(account = ? AND address IN ?) OR (account = '' AND address = ?)", a.account, []string{a.address, ""}, a.address).
		Order("account, address").Find(&found).Error
	if err != nil {
		return rows, false, fmt.Errorf("login failures: %w", err)
	}
	for _, f := range found {
		for i := range rows {
			if rows[i].Account == f.Account && rows[i].Address == f.Address {
				rows[i] = f
			}
		}
	}
	var row knownAddressRow
	known, err = take(db.Where("user_id = ? AND address = ?", a.userID, a.known), &row)
	return rows, known, err
}

// wait is errs.Throttled if the attempt has to wait.
func wait(rows [3]failuresRow, known bool, now time.Time) error {
	d := account.Attempt{
		Pair: rows[account.Pair].counter(), Account: rows[account.Account].counter(), Address: rows[account.Address].counter(), Known: known,
	}.Wait(now)
	if d == 0 {
		return nil
	}
	return errs.New(errs.Throttled, "too many wrong passwords; try again later").After(d)
}

// fail counts a wrong password. If the attempt has to wait by now, because others have failed while its password
// was checked, it counts nothing and says so: whether the password was right or wrong must not come out.
func (a attempt) fail(w *unit.Work) (throttled error, err error) {
	empty := a.counters()
	slices.SortFunc(empty[:], func(x, y failuresRow) int {
		return strings.Compare(x.Account+" "+x.Address, y.Account+" "+y.Address)
	})
	for i := range empty {
		empty[i].Since, empty[i].Last, empty[i].ExpiresAt = w.Now(), w.Now(), w.Now()
	}
	if err := w.DB.Clauses(clause.OnConflict{DoNothing: true}).Create(empty[:]).Error; err != nil {
		return nil, fmt.Errorf("login failures: %w", err)
	}
	rows, known, err := a.read(forUpdate(w.DB))
	if err != nil {
		return nil, err
	}
	if throttled := wait(rows, known, w.Now()); throttled != nil {
		return throttled, nil
	}
	for scope, r := range rows {
		c := r.counter().Fail(account.Scope(scope), w.Now())
		err := w.DB.Model(&failuresRow{}).Where("account = ? AND address = ?", r.Account, r.Address).
			Updates(map[string]any{"failures": c.Failures, "since": c.Since, "last": c.Last, "expires_at": c.Expires(account.Scope(scope))}).Error
		if err != nil {
			return nil, fmt.Errorf("login failures: %w", err)
		}
	}
	return nil, nil
}

// succeed remembers the address and forgets the failures of this account from it. Those of the account from elsewhere,
// and of other accounts from here, stay: a success here says nothing about them.
func (a attempt) succeed(w *unit.Work) error {
	err := w.DB.Where("account = ? AND address = ?", a.account, a.address).Delete(&failuresRow{}).Error
	if err != nil {
		return fmt.Errorf("login failures: %w", err)
	}
	err = w.DB.Clauses(clause.OnConflict{
		Columns: []clause.Column{{Name: "user_id"}, {Name: "address"}}, DoUpdates: clause.AssignmentColumns([]string{"seen_at"}),
	}).Create(&knownAddressRow{UserID: a.userID, Address: a.known, SeenAt: w.Now()}).Error
	if err != nil {
		return fmt.Errorf("remember address: %w", err)
	}
	return nil
}
