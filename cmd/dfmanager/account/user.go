package account

import (
	"context"
	"time"

	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/auth"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/field"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/store"
)

// NewUser is a user to be created.
type NewUser struct {
	Name     string `json:"name"`
	Password string `json:"password"`
	Role     string `json:"role"`
}

// CreateUser creates a user, who must change the password at the first sign-in.
func (a *Accounts) CreateUser(ctx context.Context, by store.By, n NewUser) (store.User, error) {
	wrong := field.Errors{}
	wrong.Check("name", auth.CheckName(n.Name))
	wrong.Check("password", auth.CheckPassword(n.Name, n.Password))
	wrong.Check("role", auth.CheckRole(store.Role(n.Role)))
	if err := wrong.Err(); err != nil {
		return store.User{}, err
	}
	hash, err := a.Hasher.Hash(ctx, n.Password)
	if err != nil {
		return store.User{}, err
	}
	return a.Store.CreateUser(ctx, by, store.User{Name: n.Name, Role: store.Role(n.Role), Password: hash, MustChange: true})
}

// UserPatch is what of a user is to become something else; nil: nothing.
type UserPatch struct {
	Password *string `json:"password"`
	Role     *string `json:"role"`
	Disabled *bool   `json:"disabled"`
}

// ChangeUser changes a user. A new password must be changed at the next sign-in.
func (a *Accounts) ChangeUser(ctx context.Context, by store.By, id int64, p UserPatch) (store.User, error) {
	u, err := a.Store.User(ctx, id)
	if err != nil {
		return u, err
	}
	change := store.UserChange{Disabled: p.Disabled}
	wrong := field.Errors{}
	if p.Role != nil {
		role := store.Role(*p.Role)
		change.Role = &role
		wrong.Check("role", auth.CheckRole(role))
		if u.Subject != "" {
			wrong["role"] = elsewhere
		}
	}
	if p.Password != nil {
		wrong.Check("password", auth.CheckPassword(u.Name, *p.Password))
		if u.Subject != "" {
			wrong["password"] = elsewhere
		}
	}
	if err := wrong.Err(); err != nil {
		return u, err
	}
	if p.Password != nil {
		hash, err := a.Hasher.Hash(ctx, *p.Password)
		if err != nil {
			return u, err
		}
		must := true
		change.Password, change.MustChange = &hash, &must
	}
	return a.Store.ChangeUser(ctx, by, id, change)
}

// NewToken is a token to be created.
type NewToken struct {
	Name   string   `json:"name"`
	Scopes []string `json:"scopes"`
	Days   int      `json:"expires_in_days"` // 0: never
}

// CreateToken creates a token of a user; its text is known only now.
func (a *Accounts) CreateToken(ctx context.Context, by store.By, user int64, n NewToken) (k store.Token, text string, err error) {
	wrong := field.Errors{}
	if len(n.Name) == 0 || len(n.Name) > 64 || !field.Printable(n.Name) {
		wrong["name"] = "must be 1 to 64 printable characters"
	}
	wrong.Check("scopes", auth.CheckScopes(n.Scopes))
	if n.Days < 0 || n.Days > 3650 {
		wrong["expires_in_days"] = "must be from 0, which means never, to 3650"
	}
	if err := wrong.Err(); err != nil {
		return k, "", err
	}
	k = store.Token{UserID: user, Name: n.Name, Scopes: n.Scopes}
	if n.Days > 0 {
		k.Expires = time.Now().AddDate(0, 0, n.Days)
	}
	text, k.Hash = auth.NewToken()
	k, err = a.Store.CreateToken(ctx, by, k)
	return k, text, err
}
