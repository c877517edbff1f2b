package account

import (
	"slices"

	"github.com/banyan-go/banyan/internal/errs"
)

// Role is what an account may do.
type Role string

// The roles, each including what the one before may do.
const (
	Customer Role = "customer"
	Staff    Role = "staff"
	Admin    Role = "admin"
)

// CheckInvite says whether somebody may invite a person to a role: staff invites customers, an admin anybody.
func CheckInvite(inviter, role Role) error {
	if inviter == Admin || (inviter == Staff && role == Customer) {
		return nil
	}
	return errs.New(errs.Forbidden, "only an admin invites staff and admins")
}

// CheckEdit says whether somebody may change the profile of an account: everybody their own, staff those of
// customers, an admin any. An address is what its owner signs in with, so staff must not change that of an admin.
func CheckEdit(editor Role, own bool, owner Role) error {
	if own || editor == Admin || (editor == Staff && owner == Customer) {
		return nil
	}
	return errs.New(errs.Forbidden, "only an admin changes the accounts of staff and admins")
}

// CheckRole says whether an account may get a role. admins are the accounts that are admins now.
func CheckRole(id string, role Role, canSignIn bool, admins []string) error {
	if role != Admin {
		if err := CheckLastAdmin(id, admins); err != nil {
			return err
		}
	}
	if role != Customer && !canSignIn {
		return errs.New(errs.Conflict, "the account has no password, so nobody can sign in with it")
	}
	return nil
}

// CheckLastAdmin refuses to take away the only admin: nobody could ever make another one.
func CheckLastAdmin(id string, admins []string) error {
	if len(admins) == 1 && slices.Contains(admins, id) {
		return errs.New(errs.Conflict, "this is the last admin; make somebody else admin first")
	}
	return nil
}
