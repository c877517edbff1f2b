package users

import (
	"github.com/banyan-go/banyan/modules/users/usersapi"
)

func registered(r *userRow) usersapi.UserRegistered {
	return usersapi.UserRegistered{UserID: r.ID, Name: r.Name, Email: r.Email, Role: r.Role, Reference: r.reference(), At: r.CreatedAt}
}

func profileChanged(r userRow) usersapi.ProfileChanged {
	return usersapi.ProfileChanged{UserID: r.ID, Name: r.Name, Email: r.Email, At: r.UpdatedAt}
}
