package users

import (
	"context"
	"time"

	"github.com/banyan-go/banyan/internal/errs"
	"github.com/banyan-go/banyan/internal/identity"
	"github.com/banyan-go/banyan/internal/rest"
	"github.com/banyan-go/banyan/internal/unit"
	"github.com/banyan-go/banyan/modules/users/internal/account"
)

// User is an account.
type User struct {
	ID          string      `json:"id"`
	Role        string      `json:"role" enum:"customer,staff,admin"`
	Name        string      `json:"name"`
	Email       string      `json:"email,omitempty"`
	Reference   string      `json:"reference,omitempty" doc:"The customer's number in another system"`
	Preferences Preferences `json:"preferences"`
	CreatedAt   time.Time   `json:"created_at"`
	UpdatedAt   time.Time   `json:"updated_at"`
}

// Preferences are what the user wants to be told about, and in which language.
type Preferences struct {
	Mail     bool   `json:"mail" doc:"Receipts and tracking by mail"`
	Language string `json:"language" minLength:"2" maxLength:"5" pattern:"^[a-z]{2}(-[A-Z]{2})?$" example:"en"`
}

// PersonalSubject is whose data it is.
func (u User) PersonalSubject() string { return u.ID }

// Location is where the account is found.
func (u User) Location() string { return "/api/users/" + u.ID }

func shown(r userRow) User {
	return User{
		ID: r.ID, Role: r.Role, Name: r.Name, Email: r.Email, Reference: r.reference(),
		Preferences: Preferences{Mail: r.Mail, Language: r.Language}, CreatedAt: r.CreatedAt, UpdatedAt: r.UpdatedAt,
	}
}

// Tokens are what a login gives.
type Tokens struct {
	AccessToken      string `json:"access_token"`
	TokenType        string `json:"token_type" enum:"Bearer"`
	ExpiresIn        int    `json:"expires_in" doc:"Seconds until the access token has to be refreshed"`
	RefreshToken     string `json:"refresh_token" doc:"Good for one use"`
	RefreshExpiresIn int    `json:"refresh_expires_in" doc:"Seconds"`
	UserID           string `json:"user_id"`
	Role             string `json:"role" enum:"customer,staff,admin"`
}

// tokensOutput is the answer of login and refresh. It is not made by rest.Commit: that keeps answers to give them
// again, and tokens must not be kept in the clear. A repeated login is a new session; a repeated refresh gets on by
// the grace that account.Session gives the token before.
type tokensOutput struct {
	CacheControl string `header:"Cache-Control"`
	Body         Tokens
}

type loginInput struct {
	Body struct {
		Email    string `json:"email" minLength:"1" maxLength:"254"`
		Password string `json:"password" minLength:"1" maxLength:"128"`
	}
}

func (s *service) postLogin(ctx context.Context, in *loginInput) (*tokensOutput, error) {
	g, err := s.login(ctx, in.Body.Email, in.Body.Password)
	if err != nil {
		return nil, err
	}
	return s.tokens(g)
}

type refreshInput struct {
	Body struct {
		RefreshToken string `json:"refresh_token" minLength:"1" maxLength:"128"`
	}
}

func (s *service) postRefresh(ctx context.Context, in *refreshInput) (*tokensOutput, error) {
	g, err := s.refresh(ctx, in.Body.RefreshToken)
	if err != nil {
		return nil, err
	}
	return s.tokens(g)
}

// SignedOut says what a logout has ended.
type SignedOut struct {
	Sessions int64 `json:"sessions" doc:"How many sessions ended"`
}

func (s *service) postLogout(ctx context.Context, _ *struct{}) (*rest.Answer[SignedOut], error) {
	id := identity.From(ctx)
	return rest.Commit(ctx, s.store, func(_ context.Context, w *unit.Work) (SignedOut, error) {
		n, err := s.revokeSession(w, id.Subject, id.Session)
		return SignedOut{Sessions: n}, err
	})
}

func (s *service) postLogoutAll(ctx context.Context, _ *struct{}) (*rest.Answer[SignedOut], error) {
	id := identity.From(ctx)
	return rest.Commit(ctx, s.store, func(_ context.Context, w *unit.Work) (SignedOut, error) {
		n, err := s.revokeUser(w, id.Subject, "")
		return SignedOut{Sessions: n}, err
	})
}

func (s *service) getMe(ctx context.Context, _ *struct{}) (*rest.Answer[User], error) {
	row, err := user(s.store.Read(ctx), identity.From(ctx).Subject)
	if err != nil {
		return nil, err
	}
	return rest.Reply(shown(row)), nil
}

type registerInput struct {
	Body struct {
		Name      string  `json:"name" minLength:"1" maxLength:"200"`
		Email     *string `json:"email,omitempty" maxLength:"254" doc:"Needed unless staff create the account"`
		Password  *string `json:"password,omitempty" maxLength:"128" doc:"8 to 128 characters; not for staff, who create accounts without one"`
		Reference *string `json:"reference,omitempty" minLength:"1" maxLength:"64" pattern:"^[A-Za-z0-9._/-]+$" doc:"Unique number in another system; only staff give one"`
	}
}

func (s *service) postUser(ctx context.Context, in *registerInput) (*rest.Answer[User], error) {
	r := registration{name: in.Body.Name, email: in.Body.Email, password: in.Body.Password, reference: in.Body.Reference}
	switch who := identity.From(ctx); {
	case who.Role.Includes(identity.Staff):
		return s.create(ctx, r)
	case who.Subject != "":
		return nil, errs.New(errs.Forbidden, "you have an account; sign out to register another one")
	}
	return s.register(ctx, r)
}

type listInput struct {
	rest.Page
	Reference string `query:"reference" maxLength:"64"`
	Email     string `query:"email" maxLength:"254"`
}

func (s *service) listUsers(ctx context.Context, in *listInput) (*rest.Answer[rest.List[User]], error) {
	q := s.store.Read(ctx).Where("state = ?", stateActive)
	if in.Reference != "" {
		q = q.Where("reference = ?", in.Reference)
	}
	if in.Email != "" {
		email, err := account.ParseEmail(in.Email)
		if err != nil {
			return rest.Reply(rest.List[User]{Items: []User{}}), nil // nobody has what is no address
		}
		q = q.Where("email_key = ?", email.Key)
	}
	after, err := in.AfterID()
	if err != nil {
		return nil, err
	}
	if after != "" {
		q = q.Where("id > ?", after)
	}
	var rows []userRow
	if err := q.Order("id").Limit(in.Limit + 1).Find(&rows).Error; err != nil {
		return nil, err
	}
	return rest.Reply(rest.Cut(rows, in.Limit, shown, func(r userRow) string { return r.ID })), nil
}

type idInput struct {
	ID string `path:"id" maxLength:"64"`
}

func (s *service) getUser(ctx context.Context, in *idInput) (*rest.Answer[User], error) {
	if err := identity.NeedSelf(ctx, in.ID, "user"); err != nil {
		return nil, err
	}
	row, err := user(s.store.Read(ctx), in.ID)
	if err != nil {
		return nil, err
	}
	return rest.Reply(shown(row)), nil
}

type profileInput struct {
	ID   string `path:"id" maxLength:"64"`
	Body struct {
		Name  *string `json:"name,omitempty" maxLength:"200"`
		Email *string `json:"email,omitempty" maxLength:"254"`
	}
}

func (s *service) patchUser(ctx context.Context, in *profileInput) (*rest.Answer[User], error) {
	if err := identity.NeedSelf(ctx, in.ID, "user"); err != nil {
		return nil, err
	}
	change, err := parseProfile(in.Body.Name, in.Body.Email)
	if err != nil {
		return nil, err
	}
	return rest.Commit(ctx, s.store, func(ctx context.Context, w *unit.Work) (User, error) {
		row, err := changeProfile(w, identity.From(ctx), in.ID, change)
		return shown(row), err
	})
}

type preferencesInput struct {
	ID   string `path:"id" maxLength:"64"`
	Body Preferences
}

func (s *service) putPreferences(ctx context.Context, in *preferencesInput) (*rest.Answer[Preferences], error) {
	if err := identity.NeedSelf(ctx, in.ID, "user"); err != nil {
		return nil, err
	}
	return rest.Commit(ctx, s.store, func(ctx context.Context, w *unit.Work) (Preferences, error) {
		return in.Body, setPreferences(w, identity.From(ctx), in.ID, in.Body)
	})
}

type passwordInput struct {
	ID   string `path:"id" maxLength:"64"`
	Body struct {
		OldPassword string `json:"old_password" minLength:"1" maxLength:"128"`
		NewPassword string `json:"new_password" minLength:"8" maxLength:"128"`
	}
}

func (s *service) postPassword(ctx context.Context, in *passwordInput) (*rest.Answer[SignedOut], error) {
	if err := identity.NeedSelf(ctx, in.ID, "user"); err != nil {
		return nil, err
	}
	if identity.From(ctx).Subject != in.ID {
		return nil, errs.New(errs.Forbidden, "everybody changes their own password alone")
	}
	return s.changePassword(ctx, in.ID, in.Body.OldPassword, in.Body.NewPassword)
}

type roleInput struct {
	ID   string `path:"id" maxLength:"64"`
	Body struct {
		Role string `json:"role" enum:"customer,staff,admin"`
	}
}

// RoleGiven is the role of an account after a change.
type RoleGiven struct {
	UserID string `json:"user_id"`
	Role   string `json:"role" enum:"customer,staff,admin"`
}

func (s *service) patchRole(ctx context.Context, in *roleInput) (*rest.Answer[RoleGiven], error) {
	return rest.Commit(ctx, s.store, func(_ context.Context, w *unit.Work) (RoleGiven, error) {
		return RoleGiven{UserID: in.ID, Role: in.Body.Role}, s.changeRole(w, in.ID, account.Role(in.Body.Role))
	})
}

// Erased is what is left of an account.
type Erased struct {
	UserID string `json:"user_id"`
	State  string `json:"state" enum:"erased"`
}

func (s *service) deleteUser(ctx context.Context, in *idInput) (*rest.Answer[Erased], error) {
	if err := identity.NeedSelf(ctx, in.ID, "user"); err != nil {
		return nil, err
	}
	if identity.From(ctx).Subject != in.ID {
		if err := identity.Need(ctx, identity.Admin); err != nil {
			return nil, err
		}
	}
	return rest.Commit(ctx, s.store, func(_ context.Context, w *unit.Work) (Erased, error) {
		return Erased{UserID: in.ID, State: stateErased}, s.erase(w, in.ID)
	})
}

type invitationInput struct {
	Body struct {
		Email string `json:"email" minLength:"3" maxLength:"254"`
		Role  string `json:"role" enum:"customer,staff,admin"`
	}
}

// Invitation is an invitation that went out. Its token is in the mail alone.
type Invitation struct {
	ID        string    `json:"id" doc:"Becomes the id of the account"`
	Email     string    `json:"email"`
	Role      string    `json:"role" enum:"customer,staff,admin"`
	ExpiresAt time.Time `json:"expires_at"`
}

// PersonalSubject is whose data it is.
func (i Invitation) PersonalSubject() string { return i.ID }

func (s *service) postInvitation(ctx context.Context, in *invitationInput) (*rest.Answer[Invitation], error) {
	who, role := identity.From(ctx), account.Role(in.Body.Role)
	if err := account.CheckInvite(account.Role(who.Role), role); err != nil {
		return nil, err
	}
	email, err := account.ParseEmail(in.Body.Email)
	if err != nil {
		return nil, err
	}
	return rest.Commit(ctx, s.store, func(_ context.Context, w *unit.Work) (Invitation, error) {
		return s.invite(w, who.Subject, email, role)
	})
}

type acceptanceInput struct {
	Body struct {
		Token    string `json:"token" minLength:"1" maxLength:"128"`
		Name     string `json:"name" minLength:"1" maxLength:"200"`
		Password string `json:"password" minLength:"8" maxLength:"128"`
	}
}

func (s *service) postAcceptance(ctx context.Context, in *acceptanceInput) (*rest.Answer[User], error) {
	return s.accept(ctx, in.Body.Token, in.Body.Name, in.Body.Password)
}
