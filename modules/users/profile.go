package users

import (
	"github.com/banyan-go/banyan/internal/errs"
	"github.com/banyan-go/banyan/internal/identity"
	"github.com/banyan-go/banyan/internal/unit"
	"github.com/banyan-go/banyan/modules/users/internal/account"
	"github.com/banyan-go/banyan/modules/users/usersapi"
)

// profile is what changes; nil leaves things as they are.
type profile struct {
	name  *string
	email *account.Email
}

func parseProfile(name, email *string) (profile, error) {
	var p profile
	if name != nil {
		parsed, err := account.ParseName(*name)
		if err != nil {
			return p, err
		}
		p.name = &parsed
	}
	if email != nil {
		parsed, err := account.ParseEmail(*email)
		if err != nil {
			return p, err
		}
		p.email = &parsed
	}
	if p == (profile{}) {
		return p, errs.New(errs.Invalid, "nothing to change").With("body", "needs name or email")
	}
	return p, nil
}

// changeProfile gives an account another name or email address.
func changeProfile(w *unit.Work, who identity.Identity, id string, p profile) (userRow, error) {
	row, err := editable(w, who, id)
	if err != nil {
		return row, err
	}
	before := row
	columns := map[string]any{}
	if p.name != nil {
		row.Name = *p.name
		columns["name"] = row.Name
	}
	if p.email != nil {
		if err := checkFree(w, "email_key", p.email.Key, id, "email address"); err != nil {
			return row, err
		}
		row.Email, row.EmailKey = p.email.Address, &p.email.Key
		columns["email"], columns["email_key"] = p.email.Address, p.email.Key
	}
	if row.Name == before.Name && row.Email == before.Email {
		return before, nil
	}
	if err := update(w, id, columns); err != nil {
		return row, err
	}
	row.UpdatedAt = w.Now()
	w.Publish(profileChanged(row))
	return row, nil
}

// setPreferences says what a user wants to be told about.
func setPreferences(w *unit.Work, who identity.Identity, id string, p Preferences) error {
	row, err := editable(w, who, id)
	if err != nil {
		return err
	}
	if row.Mail == p.Mail && row.Language == p.Language {
		return nil
	}
	if err := update(w, id, map[string]any{"mail": p.Mail, "language": p.Language}); err != nil {
		return err
	}
	w.Publish(usersapi.PreferencesChanged{UserID: id, Mail: p.Mail, Language: p.Language})
	return nil
}

// editable locks an account that the caller may change.
func editable(w *unit.Work, who identity.Identity, id string) (userRow, error) {
	row, err := user(forUpdate(w.DB), id)
	if err != nil {
		return row, err
	}
	return row, account.CheckEdit(account.Role(who.Role), who.Subject == id, account.Role(row.Role))
}
