package users

import (
	"context"

	"github.com/banyan-go/banyan/internal/errs"
	"github.com/banyan-go/banyan/internal/rest"
	"github.com/banyan-go/banyan/internal/unit"
	"github.com/banyan-go/banyan/modules/users/internal/account"
)

type registration struct {
	name      string
	email     *string
	password  *string
	reference *string
}

// register lets somebody become a customer.
func (s *service) register(ctx context.Context, r registration) (*rest.Answer[User], error) {
	wrong := errs.New(errs.Invalid, "the registration is incomplete")
	if r.email == nil {
		wrong = wrong.With("body.email", "is required")
	}
	if r.password == nil {
		wrong = wrong.With("body.password", "is required")
	}
	if r.reference != nil {
		wrong = wrong.With("body.reference", "is given by staff alone")
	}
	if len(wrong.Fields) > 0 {
		return nil, wrong
	}
	name, err := account.ParseName(r.name)
	if err != nil {
		return nil, err
	}
	email, err := account.ParseEmail(*r.email)
	if err != nil {
		return nil, err
	}
	if err := account.CheckPassword(*r.password, email.Key, "body.password"); err != nil {
		return nil, err
	}
	hash, err := s.hasher.Hash(ctx, *r.password)
	if err != nil {
		return nil, err
	}
	return rest.Commit(ctx, s.store, func(_ context.Context, w *unit.Work) (User, error) {
		row := newUser(w.NewID(), account.Customer, name, email, w.Now())
		row.PasswordHash = hash
		return s.announced(w, row)
	})
}

// create lets staff enter a customer, who cannot sign in.
func (s *service) create(ctx context.Context, r registration) (*rest.Answer[User], error) {
	if r.password != nil {
		return nil, errs.New(errs.Invalid, "staff create customers without a password").With("body.password", "must be absent; invite the customer instead")
	}
	name, err := account.ParseName(r.name)
	if err != nil {
		return nil, err
	}
	var email account.Email
	if r.email != nil {
		if email, err = account.ParseEmail(*r.email); err != nil {
			return nil, err
		}
	}
	return rest.Commit(ctx, s.store, func(_ context.Context, w *unit.Work) (User, error) {
		row := newUser(w.NewID(), account.Customer, name, email, w.Now())
		row.Reference = r.reference
		return s.announced(w, row)
	})
}

// announced adds an account and tells everybody.
func (s *service) announced(w *unit.Work, row *userRow) (User, error) {
	if err := add(w, row); err != nil {
		return User{}, err
	}
	w.Publish(registered(row))
	return shown(*row), nil
}
