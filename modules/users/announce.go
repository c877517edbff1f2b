package users

import (
	"github.com/banyan-go/banyan/modules/users/usersapi"
)

func registered(r *userRow) usersapi.UserRegistered {
	return usersapi.UserRegistered{UserID: r.ID, Name: r.Name, Email: mailbox(*r), Role: r.Role, Reference: r.reference(), At: r.CreatedAt}
}

func profileChanged(r userRow) usersapi.ProfileChanged {
	return usersapi.ProfileChanged{UserID: r.ID, Name: r.Name, Email: mailbox(r), At: r.UpdatedAt}
}

// mailbox is where the user gets mail. The first admin signs in with an address behind which there is none: others hear of one
// when the admin has given it.
func mailbox(r userRow) string {
	if r.emailKey() == AdminEmail {
		return ""
	}
	return r.Email
}
